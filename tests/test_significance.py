"""Permutation p of pairs against brute force."""

import itertools

import numpy as np
import pandas as pd
import pytest
from made_cohort import make_frames, make_samples, matched_pairs, small_cohort
from scipy import stats

from lib import permutations, significance


@pytest.fixture(scope="module")
def small():
    return small_cohort()


@pytest.mark.parametrize("scheme", ["free", "within_tissue", "within_donor_block"])
def test_pair_p_is_the_count_of_r_reached(small, scheme):
    """b counted from scipy's own r on shuffled expression, positive and negative pairs."""
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw(scheme, 60, samples_df, 3)
    chosen = pairs_df.iloc[:: max(1, len(pairs_df) // 25)]
    p = significance.pair_p(log_df, features_df, chosen, perms, progress=False)
    for row, value in zip(chosen.itertuples(), p, strict=True):
        x, y = log_df.loc[row.gene].to_numpy(), features_df.loc[row.feature].to_numpy()
        null = np.array([stats.pearsonr(x[o], y)[0] for o in perms.order])
        reached = (null >= row.r - 1e-9) if row.r > 0 else (null <= row.r + 1e-9)
        assert value == (1 + reached.sum()) / (1 + len(null))


def test_two_sided_is_the_partial_correlation_given_tissue(small):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw("within_tissue", 80, samples_df, 3)
    chosen = pairs_df.iloc[::7]
    p = significance.pair_p(log_df, features_df, chosen, perms, alternative="two_sided", progress=False)
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
    p = significance.pair_p(log_df, features_df, matched_pairs(log_df, features_df), perms, progress=False)
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
    p = significance.pair_p(log_df, features_df, pairs_df, perms, progress=False)
    assert p.tolist() == [0.01, 1.0]  # never 0; a constant feature ties with every shuffle


def test_pair_p_bad_input(small):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw("free", 10, samples_df, 0)
    with pytest.raises(ValueError, match="1 only in the permutations"):
        significance.pair_p(log_df.drop(columns="s0"), features_df, pairs_df, perms, progress=False)
    nan_df = log_df.copy()
    nan_df.loc[pairs_df["gene"].iloc[0], "s3"] = np.nan
    with pytest.raises(ValueError, match="in sample 's3'"):
        significance.pair_p(nan_df, features_df, pairs_df, perms, progress=False)
    with pytest.raises(ValueError, match="genes of the pairs are not in the gene table"):
        significance.pair_p(
            log_df.drop(index=pairs_df["gene"].iloc[0]), features_df, pairs_df, perms, progress=False
        )
    covariates_df = pd.DataFrame({"rin": np.nan, "age": 1.0}, index=samples_df["sample_id"])
    with pytest.raises(ValueError, match=r"missing values: \{'rin': 72\}"):
        significance.pair_p(log_df, features_df, pairs_df, perms, covariates_df=covariates_df, progress=False)


def test_survival_table():
    df = pd.DataFrame(
        {"tissue": list("aab"), "layer": [1, 2, 2], "p_free": [0.01, 0.01, 0.05], "q": [0.5, 0.01, 1]}
    )
    table = significance.survival_table(df, ["p_free", "q"])
    assert table.loc["a"].tolist() == [2, 2, 1]
    assert table.loc["all"].tolist() == [3, 3, 1]
    assert significance.survival_table(df, ["q"], by="layer").loc["2"].tolist() == [2, 1]
