"""Small made-up cohorts for the tests of the statistics."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from lib import correlation

N = 72


def make_samples(tissues, donors=None):
    n = len(tissues)
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "tissue": tissues,
            "donor": donors if donors is not None else [f"d{i}" for i in range(n)],
        }
    )


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
    table = correlation.highest_median(log_df, samples_df.set_index("sample_id")["tissue"])
    pairs_df = correlation.correlate(
        log_df, features_df, genes_table=table, r_threshold=0.25, progress=False
    ).pairs_df
    return samples_df, log_df, features_df, pairs_df


def simulated(seed, n_pairs, donor_effect=0.0, n_tissues=39, n=334):
    """Gene and feature specific to tissues, of unequal variances, independent given the tissue (METHOD
    section 7).
    """
    rng = np.random.default_rng(seed)
    tissue = np.sort(np.r_[np.arange(n_tissues).repeat(2), rng.integers(0, n_tissues, n - 2 * n_tissues)])
    donor = np.empty(n, int)
    n_donors = 60
    for t in range(n_tissues):
        m = np.flatnonzero(tissue == t)
        donor[m] = rng.permutation(n_donors)[: len(m)]
    rows = []
    for _ in range(2):
        marks = rng.uniform(size=(n_pairs, n_tissues)) < 0.1
        marks[:, 0] = True  # gene and feature both mark tissue 0
        spread = np.exp(rng.normal(0, 0.8, (n_pairs, n_tissues))) * np.where(marks, 2.0, 0.5)
        effect = donor_effect * rng.normal(size=(n_pairs, n_donors))[:, donor]
        noise = rng.normal(size=(n_pairs, n))
        rows.append(8 * marks[:, tissue] + spread[:, tissue] * (noise + effect) / math.hypot(1, donor_effect))
    samples_df = make_samples([f"t{t:02d}" for t in tissue], [f"d{d}" for d in donor])
    return samples_df, *make_frames(*rows, samples_df)


def rejected(p, alpha):
    return int((p <= alpha).sum())


def inside(k, n, alpha):
    """Does the 99.9 % binomial interval of the rate hold alpha?"""
    low, high = stats.binomtest(k, n).proportion_ci(0.999)
    return low <= alpha <= high
