"""Calibration of every scheme on simulated null pairs (notebooks/README.md, section 7)."""

import numpy as np
import pandas as pd
import pytest
from made_cohort import inside, make_frames, make_samples, matched_pairs, rejected, simulated
from scipy import stats

from lib.statistics import calibration, link_tests, pair_tests, permutations

EFFECTIVE = "effective size (links)"
PLAN = link_tests.Plan(exceedances=10**9, progress=False)


@pytest.fixture(scope="module")
def rates():
    """Rejection rates of every test by design, fixed seeds: (design, test, alpha) -> row."""
    designs = {
        "own donors": (calibration.design(), 0.0),
        "shared donors, no effect": (calibration.design(n_donors=60), 0.0),
        "shared donors": (calibration.design(n_donors=60), 1.5),
    }
    table_df = calibration.calibration(designs, n_pairs=2000, n_permutations=399)
    assert table_df["n"].eq(2000).all()
    return table_df.set_index(["design", "scheme", "level"])


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_rates_where_slides_are_independent(rates, alpha):
    """Within-tissue schemes are calibrated; free shuffling and the parametric tests are anti-conservative."""
    for name in ("within-tissue permutation", "whole-donor permutation", EFFECTIVE):
        row = rates.loc[("own donors", name, alpha)]
        assert row["low"] <= alpha <= row["high"], (name, row.to_dict())
    for name in ("within-tissue permutation", EFFECTIVE):
        row = rates.loc[("shared donors, no effect", name, alpha)]
        assert row["low"] <= alpha <= row["high"], (name, row.to_dict())
    assert rates.loc[("own donors", "free permutation (paper)", alpha), "low"] > 0.5
    assert 0.14 < rates.loc[("own donors", "Fisher z, one indicator (paper)", alpha), "rejected"] < 0.35
    assert rates.loc[("own donors", "Fisher z, all tissues", alpha), "low"] > alpha
    failing = rates.xs(("own donors", alpha), level=("design", "level"))["holds"]
    assert failing.index[~failing].tolist() == list(calibration.TESTS)[:3]


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_rates_where_donors_give_several_tissues(rates, alpha):
    """With donor effects only the effective size is calibrated."""
    row = rates.loc[("shared donors", EFFECTIVE, alpha)]
    assert 0.4 * alpha <= row["rejected"] <= {0.05: 0.075, 0.01: 0.02}[alpha], row.to_dict()
    for name in ("free permutation (paper)", "Fisher z, all tissues", "within-tissue permutation"):
        assert rates.loc[("shared donors", name, alpha), "low"] > 1.5 * alpha, name
    # no two of the 60 donors gave the same tissues, so whole donors are not exchangeable
    assert "whole-donor permutation" not in rates.loc["shared donors"].index.get_level_values("scheme")


def test_tests_that_samples_do_not_allow_are_omitted():
    """Ten slides of eight tissues: no degree of freedom given all tissues, few shuffles within them."""
    samples_df = make_samples(list("aabbcdefgh"))
    table_df = calibration.calibration({"few": (samples_df, 0.3)}, n_pairs=20, n_permutations=99)
    assert table_df["scheme"].unique().tolist() == [
        "free permutation (paper)", "Fisher z, one indicator (paper)",
    ]  # fmt: skip
    four = make_samples(list("abcd"))
    made = calibration.null_pairs(four, 5)
    assert not any("Fisher" in name for name in calibration.p_values(four, made, 99, 0))


def test_rejection_table_counts():
    p_df = pd.DataFrame({"good": np.arange(1, 101) / 100, "bad": np.full(100, 0.04)})
    table_df = calibration.rejection_table(p_df).query("level == 0.05").set_index("scheme")
    assert table_df["rejected"].tolist() == [0.05, 1]
    assert table_df["holds"].tolist() == [True, False]
    low, high = stats.binomtest(5, 100).proportion_ci(0.95)
    assert table_df.loc["good", ["low", "high"]].tolist() == pytest.approx([low, high])


def test_designs():
    samples_df = calibration.design(n_slides=50, n_tissues=8, n_donors=20, seed=3)
    assert samples_df.groupby("tissue").size().min() >= 2
    assert not samples_df.duplicated(["tissue", "donor"]).any(), "a donor gives a tissue once"
    assert samples_df["donor"].value_counts().max() > 1
    assert calibration.design()["donor"].is_unique
    with pytest.raises(ValueError, match="10 slides are too few for two of each of 8 tissues"):
        calibration.design(10, 8)
    with pytest.raises(ValueError, match="3 donors cannot give"):
        calibration.design(50, 8, 3)
    log_df, features_df, pairs_df = calibration.null_pairs(samples_df, 30, 1.0, seed=1)
    row = pairs_df.iloc[7]
    assert row["r"] == pytest.approx(
        stats.pearsonr(log_df.loc[row["gene"]], features_df.loc[row["feature"]])[0]
    )
    first = (samples_df["tissue"] == "t00").to_numpy()
    assert log_df.loc[:, first].mean().mean() > 6 + log_df.loc[:, ~first].mean().mean()


@pytest.fixture(scope="module")
def null_pairs():
    samples_df, log_df, features_df = simulated(0, 1000)
    return samples_df, log_df, features_df, matched_pairs(log_df, features_df)


def test_within_tissue_p_are_uniform(null_pairs):
    samples_df, log_df, features_df, pairs_df = null_pairs
    perms = permutations.draw("within_tissue", 399, samples_df, 1)
    p = pair_tests.pair_p(log_df, features_df, pairs_df, perms)
    for alpha in (0.05, 0.01):
        assert inside(rejected(p, alpha), 1000, alpha), (alpha, rejected(p, alpha))
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_free_shuffling_is_anticonservative(null_pairs):
    """The paper's test calls markers of one tissue significant although nothing links them within tissues."""
    samples_df, log_df, features_df, pairs_df = null_pairs
    perms = permutations.draw("free", 399, samples_df, 1)
    strong_df = pairs_df[pairs_df["r"] >= 0.3]
    assert len(strong_df) > 100
    p = pair_tests.pair_p(log_df, features_df, strong_df, perms)
    assert (p == 1 / 400).mean() > 0.99


def test_whole_donor_exchange_is_exact():
    """Donors with one of three sets of tissues: exchanging whole donors is calibrated, single slides not."""
    rng = np.random.default_rng(8)
    sets = [["a", "b", "c", "d"], ["a", "c", "e", "f"], ["b", "d", "e", "f"]]
    rows = [(f"d{s}_{d}", t) for s, tissues in enumerate(sets) for d in range(20) for t in tissues]
    samples_df = make_samples([t for _, t in rows], [d for d, _ in rows])
    donor = pd.factorize(samples_df["donor"])[0]
    tissue = pd.factorize(samples_df["tissue"])[0]
    x, y = (4 * rng.normal(size=(800, 6))[:, tissue] + rng.normal(size=(800, 240)) for _ in range(2))
    x, y = (rows + rng.normal(size=(800, 60))[:, donor] for rows in (x, y))
    log_df, features_df = make_frames(x, y, samples_df)
    pairs_df = matched_pairs(log_df, features_df)
    n_rejected = {}
    for scheme in ("within_tissue", "within_donor_block"):
        perms = permutations.draw(scheme, 399, samples_df, 1)
        p = pair_tests.pair_p(log_df, features_df, pairs_df, perms)
        n_rejected[scheme] = rejected(p, 0.05)
    assert n_rejected["within_tissue"] / 800 > 0.1
    assert inside(n_rejected["within_donor_block"], 800, 0.05), n_rejected


def test_family_wise_error_holds(null_pairs):
    """No pair is linked: each gene's p over 30 features is uniform, and no gene is found."""
    samples_df, log_df, features_df, _ = null_pairs
    features_df = features_df.iloc[:30]
    perms = permutations.draw("within_tissue", 199, samples_df, 1)
    alone_df = samples_df.drop(columns="donor")
    tests = link_tests.run(log_df.iloc[:400], features_df, alone_df, perms, None, PLAN)
    k = rejected(tests.genes_df["p"], 0.05)
    assert k / 400 < 0.12  # genes share the features, so the count varies more than a binomial one
    assert (tests.genes_df["q"] <= 0.05).sum() == 0


def test_a_link_through_a_covariate_vanishes():
    rng = np.random.default_rng(6)
    samples_df = make_samples(rng.choice(list("abcdef"), 200).tolist())
    age = rng.normal(size=200)
    x = rng.normal(size=(300, 200)) + 0.6 * age
    y = rng.normal(size=(300, 200)) + 0.6 * age
    log_df, features_df = make_frames(x, y, samples_df)
    pairs_df = matched_pairs(log_df, features_df)
    perms = permutations.draw("within_tissue", 399, samples_df, 1)
    assert rejected(pair_tests.pair_p(log_df, features_df, pairs_df, perms), 0.05) > 200
    covariates_df = pd.DataFrame({"age": age}, index=samples_df["sample_id"])
    p = pair_tests.pair_p(log_df, features_df, pairs_df, perms, covariates_df=covariates_df)
    assert inside(rejected(p, 0.05), 300, 0.05)
