"""Permutation p of pairs against brute force."""

import itertools

import numpy as np
import pandas as pd
import pytest
from made_cohort import make_frames, make_samples, matched_pairs, small_cohort
from scipy import stats

from lib.simulated import scorecard
from lib.statistics import false_discovery, max_statistic, pair_tests, permutations


@pytest.fixture(scope="module")
def small():
    return small_cohort()


@pytest.mark.parametrize("scheme", ["free", "within_tissue", "within_donor_block"])
def test_pair_p_is_the_count_of_r_reached(small, scheme):
    """b counted from scipy's own r on shuffled expression, positive and negative pairs."""
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw(scheme, 60, samples_df, 3)
    chosen = pairs_df.iloc[:: max(1, len(pairs_df) // 25)]
    p = pair_tests.pair_p(log_df, features_df, chosen, perms, alternative="same_sign", progress=False)
    for row, value in zip(chosen.itertuples(), p, strict=True):
        x, y = log_df.loc[row.gene].to_numpy(), features_df.loc[row.feature].to_numpy()
        null = np.array([stats.pearsonr(x[o], y)[0] for o in perms.order])
        reached = (null >= row.r - 1e-9) if row.r > 0 else (null <= row.r + 1e-9)
        assert value == (1 + reached.sum()) / (1 + len(null))


def test_two_sided_is_the_partial_correlation_given_tissue(small):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw("within_tissue", 80, samples_df, 3)
    chosen = pairs_df.iloc[::7]
    p = pair_tests.pair_p(log_df, features_df, chosen, perms, alternative="two_sided", progress=False)
    centre = lambda v: v - pd.Series(v).groupby(samples_df["tissue"].to_numpy()).transform("mean").to_numpy()  # noqa: E731
    for row, value in zip(chosen.itertuples(), p, strict=True):
        x, y = centre(log_df.loc[row.gene].to_numpy()), centre(features_df.loc[row.feature].to_numpy())
        null = np.abs([stats.pearsonr(x[o], y)[0] for o in perms.order])
        observed = abs(stats.pearsonr(x, y)[0])
        assert value == (1 + (null >= observed - 1e-9).sum()) / (1 + len(null))


def test_exhaustive_p_is_exact():
    """Five slides, 120 orders: p is the exact permutation p."""
    samples_df = make_samples(list("aaaaa"))
    x, y = np.array([1.0, 2, 3, 4, 6]), np.array([1.0, 3, 2, 5, 4])
    log_df, features_df = make_frames(x[None], y[None], samples_df)
    perms = permutations.draw("free", 1000, samples_df, 0)
    pairs_df = matched_pairs(log_df, features_df)
    p = pair_tests.pair_p(log_df, features_df, pairs_df, perms, alternative="same_sign", progress=False)
    r = stats.pearsonr(x, y)[0]
    everything = [stats.pearsonr(x[list(o)], y)[0] >= r - 1e-12 for o in itertools.permutations(range(5))]
    assert p[0] == pytest.approx(np.mean(everything), abs=1e-15)


def test_smallest_p_and_ties():
    samples_df = make_samples(["a"] * 50)
    x = np.linspace(0, 1, 50)[None]
    outlier, constant = np.r_[np.zeros(49), 1][None], np.ones((1, 50))
    log_df, features_df = make_frames(np.vstack([x, outlier]), np.vstack([x, constant]), samples_df)
    perms = permutations.draw("free", 99, samples_df, 0)
    pairs_df = pd.DataFrame({"gene": ["g0", "g0"], "feature": ["0_0", "0_1"], "r": [1.0, 0.5]})
    p = pair_tests.pair_p(log_df, features_df, pairs_df, perms, progress=False)
    assert p.tolist() == [0.01, 1.0]  # never 0; a constant feature ties with every shuffle


def test_pair_p_bad_input(small):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw("free", 10, samples_df, 0)
    with pytest.raises(ValueError, match="1 only in the permutations"):
        pair_tests.pair_p(log_df.drop(columns="s0"), features_df, pairs_df, perms, progress=False)
    nan_df = log_df.copy()
    nan_df.loc[pairs_df["gene"].iloc[0], "s3"] = np.nan
    with pytest.raises(ValueError, match="in sample 's3'"):
        pair_tests.pair_p(nan_df, features_df, pairs_df, perms, progress=False)
    with pytest.raises(ValueError, match="genes of the pairs are not in the gene table"):
        pair_tests.pair_p(
            log_df.drop(index=pairs_df["gene"].iloc[0]), features_df, pairs_df, perms, progress=False
        )
    covariates_df = pd.DataFrame({"rin": np.nan, "age": 1.0}, index=samples_df["sample_id"])
    with pytest.raises(ValueError, match=r"missing values: \{'rin': 72\}"):
        pair_tests.pair_p(log_df, features_df, pairs_df, perms, covariates_df=covariates_df, progress=False)
    tables = log_df, features_df
    with pytest.raises(
        ValueError, match=r"lack the columns \['r'\]: 'same_sign' needs \['gene', 'feature', 'r'\]"
    ):
        pair_tests.pair_p(*tables, pairs_df.drop(columns="r"), perms, alternative="same_sign", progress=False)
    with pytest.raises(ValueError, match=r"lack the columns \['feature'\]: 'two_sided' needs"):
        pair_tests.pair_p(*tables, pairs_df[["gene"]], perms, alternative="two_sided", progress=False)
    unknown_df = pairs_df.assign(r=pairs_df["r"].where(np.arange(len(pairs_df)) > 1))
    gene, feature = pairs_df[["gene", "feature"]].iloc[0]
    with pytest.raises(
        ValueError, match=f"2 of {len(pairs_df)} pairs have no r, first '{gene}' with '{feature}'"
    ):
        pair_tests.pair_p(*tables, unknown_df, perms, alternative="same_sign", progress=False)
    run = {"alternative": "two_sided", "progress": False}
    p = pair_tests.pair_p(*tables, unknown_df.drop(columns="r"), perms, **run)
    np.testing.assert_array_equal(p, pair_tests.pair_p(*tables, pairs_df, perms, **run))


def test_survival_table():
    df = pd.DataFrame(
        {"tissue": list("aab"), "layer": [1, 2, 2], "p_free": [0.01, 0.01, 0.05], "q": [0.5, 0.01, 1]}
    )
    table = pair_tests.survival_table(df, ["p_free", "q"])
    assert table.loc["a"].tolist() == [2, 2, 1]
    assert table.loc["all"].tolist() == [3, 3, 1]
    assert pair_tests.survival_table(df, ["q"], by="layer").loc["2"].tolist() == [2, 1]


def test_within_tissue_pattern():
    q = pd.Series([0.01, 0.05, 0.06, np.nan], index=list("abcd"))
    assert pair_tests.within_tissue_pattern(q).tolist() == [
        "direct",
        "direct",
        "through tissue",
        "not tested",
    ]
    given = pd.Series([0.2, 0.05, 0.9, np.nan], index=list("abcd"))
    pattern = pair_tests.within_tissue_pattern(q, given)
    assert pattern.to_dict() == {
        "a": "through covariates", "b": "direct", "c": "through tissue", "d": "not tested",
    }  # fmt: skip


def test_a_pair_is_direct_only_if_found_both_before_and_after_covariates():
    hidden_by_covariates = pair_tests.within_tissue_pattern(pd.Series([0.9]), pd.Series([0.01]))
    assert hidden_by_covariates.tolist() == ["through tissue"]
    untested_after = pair_tests.within_tissue_pattern(pd.Series([0.01]), pd.Series([np.nan]))
    assert untested_after.tolist() == ["not tested"]


def test_a_link_of_the_other_sign_within_tissues_is_marked(small):
    """Simpson: over all slides r > 0, within every tissue the other way round."""
    rng = np.random.default_rng(0)
    samples_df = make_samples(np.repeat(list("abcd"), 30).tolist())
    level = np.repeat([0.0, 10, 20, 30], 30)
    shared = rng.normal(size=120)
    log_df, features_df = make_frames((level + shared)[None], (level - shared)[None], samples_df)
    pairs_df = matched_pairs(log_df, features_df)
    assert pairs_df["r"].iloc[0] > 0.9
    perms = permutations.draw("within_tissue", 99, samples_df, 0)
    within = pair_tests.r_within(log_df, features_df, pairs_df, perms)
    centred = [v - v.reshape(4, 30).mean(axis=1).repeat(30) for v in (shared, -shared)]
    assert within[0] == pytest.approx(stats.pearsonr(*centred)[0])
    pattern = pair_tests.within_tissue_pattern(pd.Series([0.01]), None, 0.05, pd.Series(within < 0))
    assert pattern.tolist() == ["direct, other sign"]


def test_the_side_read_off_the_data_rejects_twice_as_often():
    """Independent noise: two-sided p keep their level, one-sided p by the sign of r do not."""
    rng = np.random.default_rng(4)
    samples_df = make_samples(["a"] * 40)
    log_df, features_df = make_frames(*rng.normal(size=(2, 2000, 40)), samples_df)
    pairs_df = matched_pairs(log_df, features_df)
    perms = permutations.draw("free", 199, samples_df, 0)
    run = {"progress": False}
    two = (pair_tests.pair_p(log_df, features_df, pairs_df, perms, **run) <= 0.05).mean()
    one = pair_tests.pair_p(log_df, features_df, pairs_df, perms, alternative="same_sign", **run) <= 0.05
    assert abs(two - 0.05) < 0.015
    assert one.mean() > 0.085


def test_whole_chain_calls_direct_pairs_and_not_markers():
    """From arrays to patterns: links within tissues, links through tissue, links through a covariate."""
    rng = np.random.default_rng(5)
    samples_df = make_samples(np.repeat(list("abcdefgh"), 18).tolist())
    n = len(samples_df)
    tissue = pd.factorize(samples_df["tissue"])[0]
    delay, hidden = rng.normal(size=(2, n))
    level = 5 * rng.normal(size=(240, 8))[:, tissue]
    x, y = (
        level + rng.normal(size=(240, n)),
        3 * rng.normal(size=(60, 8))[:, tissue] + rng.normal(size=(60, n)),
    )
    x[:40] += 1.8 * hidden  # direct genes, of what features 0 to 19 see
    x[40:80] += 1.8 * delay
    y += 0.9 * delay
    y[:20] += 1.8 * hidden
    log_df, features_df = make_frames(x, y, samples_df)
    truth_df = pd.DataFrame(
        {"kind": ["direct"] * 40 + ["covariate"] * 40 + ["marker"] * 160}, index=log_df.index
    )
    truth_df["quantity"] = ["hidden"] * 40 + [""] * 200
    hidden_df = pd.DataFrame([hidden], index=["hidden"], columns=log_df.columns)
    pairs_df = scorecard.every_pair(log_df.index, features_df.index)
    kinds = scorecard.pair_kinds(
        pairs_df,
        truth_df,
        scorecard.within_tissue_r(features_df, hidden_df, samples_df.set_index("sample_id")["tissue"]),
        scorecard.like_nothing(n, 8),
    )
    drawn = permutations.draw("within_tissue", 499, samples_df, 0)
    q = {}
    for name, given in (("plain", None), ("covariates", pd.DataFrame({"d": delay}, index=log_df.columns))):
        maxima = max_statistic.max_statistic(
            log_df, features_df, drawn, pairs_df=pairs_df, covariates_df=given, progress=False
        )
        q[name] = pd.Series(
            false_discovery.hierarchical_q(maxima.genes_df["p_gene"], maxima.tested_df["p_gene"])[1]
        )
    pattern = pair_tests.within_tissue_pattern(q["plain"], q["covariates"])
    called_df = pd.DataFrame({"plain": q["plain"] <= 0.05, "covariates": pattern == "direct"})
    found_df = scorecard.precision_recall(scorecard.score_pairs(kinds, called_df))
    assert (found_df.loc["covariates", ["precision", "recall"]] > [0.95, 0.9]).all()
    assert found_df.loc["plain", "precision"] < 0.7, "without the covariate its genes are called"
    of_covariate = pattern[kinds == "covariate"].value_counts(normalize=True)
    assert of_covariate["through covariates"] > 0.5, (
        "features with much else in them hardly show the covariate"
    )
    assert of_covariate.get("direct", 0) < 0.01
    assert (pattern[kinds == "marker"] == "through tissue").mean() > 0.99
