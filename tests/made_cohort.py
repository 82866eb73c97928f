"""Small simulated cohorts for the tests of the statistics."""

import numpy as np
import pandas as pd
from scipy import stats

from lib.statistics import calibration, correlation, expression_levels

N = 72


def make_samples(tissues, donors=None):
    ids = [f"s{i}" for i in range(len(tissues))]
    donors = [f"d{i}" for i in range(len(tissues))] if donors is None else donors
    return pd.DataFrame({"sample_id": ids, "tissue": tissues, "donor": donors})


def make_frames(x, y, samples_df):
    ids = samples_df["sample_id"].tolist()
    log_df = pd.DataFrame(x, index=[f"g{i}" for i in range(len(x))], columns=ids)
    features_df = pd.DataFrame(y, index=[f"{i // 50}_{i % 50}" for i in range(len(y))], columns=ids)
    return log_df, features_df


def matched_pairs(log_df, features_df):
    """Gene k with feature k."""
    pairs_df = pd.DataFrame({"gene": log_df.index, "feature": features_df.index})
    return pairs_df.assign(r=correlation.r_of_pairs(log_df, features_df, pairs_df))


def small_cohort():
    """72 slides of five tissues, 30 donors, 40 genes of which ten follow a feature; pairs from |r| = 0.25."""
    rng = np.random.default_rng(2)
    samples_df = make_samples(
        np.sort(rng.choice(list("abcde"), N)).tolist(), [f"d{i}" for i in rng.integers(0, 30, N)]
    )
    x, y = rng.normal(size=(40, N)), rng.normal(size=(55, N))
    x[:8] += 1.2 * y[:8]
    x[8:10] -= 1.2 * y[8:10]
    log_df, features_df = make_frames(x, y, samples_df)
    table = expression_levels.highest_median(log_df, samples_df.set_index("sample_id")["tissue"])
    pairs_df = correlation.correlate(log_df, features_df, genes_table=table, r_threshold=0.25).pairs_df
    return samples_df, log_df, features_df, pairs_df


def simulated(seed, n_pairs):
    """Null pairs of `lib.statistics.calibration`: 334 slides of 39 tissues, 60 donors."""
    samples_df = calibration.design(n_donors=60, seed=seed)
    return samples_df, *calibration.null_pairs(samples_df, n_pairs, seed=seed)[:2]


def rejected(p, alpha):
    return int((p <= alpha).sum())


def inside(k, n, alpha):
    """Whether the 99.9 % binomial interval of the rate holds alpha."""
    low, high = stats.binomtest(k, n).proportion_ci(0.999)
    return low <= alpha <= high
