"""Permutation p of pairs against brute force."""

import itertools

import numpy as np
import pandas as pd
import pytest
from made_cohort import make_frames, make_samples, matched_pairs, small_cohort
from scipy import stats

from lib.statistics import pair_tests, permutations


@pytest.fixture(scope="module")
def small():
    return small_cohort()


@pytest.mark.parametrize("scheme", ["free", "within_tissue", "within_donor_block"])
def test_p_counts_partial_correlations_reached(small, scheme):
    """b counted from scipy's own r of the centred rows on shuffled expression."""
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw(scheme, 60, samples_df, 3)
    chosen = pairs_df.iloc[:: max(1, len(pairs_df) // 25)]
    p = pair_tests.pair_p(log_df, features_df, chosen, perms)
    centred = [(df.T - df.T.groupby(perms.groups).transform("mean")).T for df in (log_df, features_df)]
    for row, value in zip(chosen.itertuples(), p, strict=True):
        x, y = centred[0].loc[row.gene].to_numpy(), centred[1].loc[row.feature].to_numpy()
        null = np.abs([stats.pearsonr(x[o], y)[0] for o in perms.order])
        reached = null >= abs(stats.pearsonr(x, y)[0]) - 1e-9
        assert value == (1 + reached.sum()) / (1 + len(null))


def test_exhaustive_p_is_exact():
    """Five slides, 120 orders: p is the exact permutation p."""
    samples_df = make_samples(list("aaaaa"))
    x, y = np.array([1.0, 2, 3, 4, 6]), np.array([1.0, 3, 2, 5, 4])
    log_df, features_df = make_frames(x[None], y[None], samples_df)
    perms = permutations.draw("free", 1000, samples_df, 0)
    p = pair_tests.pair_p(log_df, features_df, matched_pairs(log_df, features_df), perms)
    r = abs(stats.pearsonr(x, y)[0])
    orders = itertools.permutations(range(5))
    assert p[0] == pytest.approx(
        np.mean([abs(stats.pearsonr(x[list(o)], y)[0]) >= r - 1e-12 for o in orders])
    )


def test_smallest_p_and_ties():
    samples_df = make_samples(["a"] * 50)
    x = np.linspace(0, 1, 50)
    log_df, features_df = make_frames(np.vstack([x, x]), np.vstack([x, np.ones(50)]), samples_df)
    perms = permutations.draw("free", 99, samples_df, 0)
    pairs_df = pd.DataFrame({"gene": ["g0", "g0"], "feature": ["0_0", "0_1"]})
    p = pair_tests.pair_p(log_df, features_df, pairs_df, perms)
    assert p.tolist() == [0.01, 1.0]  # never 0; a constant feature ties with every shuffle


def test_bad_input(small):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw("free", 10, samples_df, 0)
    first = pairs_df["gene"].iloc[0]
    with pytest.raises(ValueError, match="1 of 72 only in the permutations"):
        pair_tests.pair_p(log_df.drop(columns="s0"), features_df, pairs_df, perms)
    nan_df = log_df.copy()
    nan_df.loc[first, "s3"] = np.nan
    with pytest.raises(ValueError, match="in sample 's3'"):
        pair_tests.pair_p(nan_df, features_df, pairs_df, perms)
    with pytest.raises(ValueError, match="genes of the pairs are not in the gene table"):
        pair_tests.pair_p(log_df.drop(index=first), features_df, pairs_df, perms)
    with pytest.raises(ValueError, match=r"lacks the columns \['feature'\]"):
        pair_tests.pair_p(log_df, features_df, pairs_df[["gene"]], perms)
    covariates_df = pd.DataFrame({"rin": np.nan, "age": 1.0}, index=samples_df["sample_id"])
    with pytest.raises(ValueError, match=r"samples without a value: \{'rin': 72\} of 72"):
        pair_tests.pair_p(log_df, features_df, pairs_df, perms, covariates_df=covariates_df)


def test_survival_table():
    df = pd.DataFrame({
        "tissue": list("aab"), "layer": [1, 2, 2], "q_within_tissue": [0.5, 0.01, 1],
        "p_free": [0.01, 0.01, 0.05],
    })  # fmt: skip
    table = pair_tests.survival_table(df, 0.05, by="tissue")
    assert table.columns.tolist() == ["pairs", "p_free", "q_within_tissue"]
    assert table.loc["a"].tolist() == [2, 2, 1]
    assert table.loc["all"].tolist() == [3, 3, 1]
    assert pair_tests.survival_table(df, 0.05, by="layer").loc["2"].tolist() == [2, 2, 1]


def test_r_within_tissues_can_have_the_other_sign():
    """Simpson's paradox: r > 0 over all slides, r < 0 within every tissue."""
    samples_df = make_samples(np.repeat(list("abcd"), 30).tolist())
    level, shared = np.repeat([0.0, 10, 20, 30], 30), np.random.default_rng(0).normal(size=120)
    log_df, features_df = make_frames((level + shared)[None], (level - shared)[None], samples_df)
    pairs_df = matched_pairs(log_df, features_df)
    assert pairs_df["r"].iloc[0] > 0.9
    perms = permutations.draw("within_tissue", 99, samples_df, 0)
    centred = [v - v.reshape(4, 30).mean(axis=1).repeat(30) for v in (shared, -shared)]
    within = pair_tests.r_within(log_df, features_df, pairs_df, perms)
    assert within[0] == pytest.approx(stats.pearsonr(*centred)[0])
