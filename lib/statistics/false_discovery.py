"""False discovery rates: of all pairs from the histogram of r, of genes, and of the pairs of genes."""

import math
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from lib.errors import InputError


def q_from_histogram(
    histogram_df: pd.DataFrame, n_slides: int, method: Literal["bh", "by"] = "bh"
) -> pd.DataFrame:
    """q-values over all tested pairs, two-sided, with the parametric null (t with n - 2 degrees of freedom).

    p falls as |r| grows, so Benjamini-Hochberg needs only the number of pairs that reach each |r|, not a list
    of 557 million p. q is exact at the edges of bins; between them `q_of` takes the lower edge's, which is
    never too small.

    Parameters
    ----------
    histogram_df : r_low, r_high, count, symmetric bins over [-1, 1] (`correlation.correlate`).
    method : Benjamini-Hochberg, or Benjamini-Yekutieli, which is valid under any dependence.

    Returns
    -------
    r_abs (lower edge, rising), n_pairs (with |r| >= it), p, q.
    """
    if method not in ("bh", "by"):
        raise InputError(f"method is 'bh' or 'by', got {method!r}")
    df = n_slides - 2
    if df < 1:
        raise InputError(f"{n_slides} slides leave {df} degrees of freedom; 1 is needed")
    low, high = histogram_df["r_low"].to_numpy(), histogram_df["r_high"].to_numpy()
    counts = histogram_df["count"].to_numpy()
    if not np.allclose(low, -high[::-1]):
        raise InputError("the bins of the histogram are not symmetric about 0")
    half = low >= 0
    r_abs = low[half]
    reached = np.cumsum((counts[half] + counts[~half][::-1])[::-1])[::-1]
    n_pairs = int(counts.sum())
    p = p_of_r(r_abs, df)
    harmonic = 1.0
    if method == "by":  # 1 + 1/2 + ... + 1/n_pairs, by its asymptotic series
        harmonic = np.log(n_pairs) + np.euler_gamma + 1 / (2 * n_pairs) - 1 / (12 * n_pairs**2)
    raw = np.where(reached > 0, harmonic * n_pairs * p / np.maximum(reached, 1), 1.0)
    q = np.minimum.accumulate(np.minimum(raw, 1.0))
    return pd.DataFrame({"r_abs": r_abs, "n_pairs": reached, "p": p, "q": q})


def p_of_r(r: np.ndarray, degrees_of_freedom: int) -> np.ndarray:
    """Two-sided p of a correlation under independence: |r| sqrt(df / (1 - r^2)) follows t."""
    r = np.clip(np.abs(r), 0, 1)
    with np.errstate(divide="ignore"):
        return 2 * stats.t.sf(r * np.sqrt(degrees_of_freedom / (1 - r * r)), degrees_of_freedom)


def q_of(r: np.ndarray, q_df: pd.DataFrame) -> np.ndarray:
    """q of given r, from `q_from_histogram`."""
    place = np.searchsorted(q_df["r_abs"].to_numpy(), np.abs(r), side="right") - 1
    return q_df["q"].to_numpy()[place]


def r_at_q(q_df: pd.DataFrame, q_threshold: float = 0.05) -> float:
    """Smallest |r| (an edge) with q at or below q_threshold; infinity if there is none."""
    passing = q_df["r_abs"][(q_df["q"] <= q_threshold) & (q_df["n_pairs"] > 0)]
    return float(passing.min()) if len(passing) else math.inf


def bh(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values, in the order of p; ValueError on a p that is missing or outside [0, 1]."""
    from statsmodels.stats.multitest import multipletests  # slow to import, and only needed here

    p = np.asarray(p, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p-values must lie in [0, 1], got {p[~((p >= 0) & (p <= 1))][0]}")
    return np.asarray(multipletests(p, method="fdr_bh")[1]) if len(p) else p


def hierarchical_q(gene_p: np.ndarray, pair_p_gene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q of genes (gene_p: all G tested), and of pairs (p within their gene's family), as in eQTL mapping.

    Level 1: Benjamini-Hochberg over the genes' max-statistic p. Level 2: with R of G genes found at level q,
    a pair is found if its p in the family of its gene is at most q R / G (Benjamini and Bogomolov 2014). A
    pair's q is the lowest level at which it is found, and never below its gene's. No p is below 1 / (N + 1),
    so k genes with that smallest p are found only if N + 1 >= G / (q k): many genes of which few are strong
    need more permutations.

    Returns q of the genes, q of the pairs, in the given orders.
    """
    q_gene = bh(gene_p)
    n_genes = len(q_gene)
    q_sorted = np.sort(q_gene)
    k = np.arange(1, n_genes + 1)
    # q >= q_(k) finds k genes or more; a pair then needs q >= p G / k. The first rises and the second
    # falls with k.
    a = np.asarray(pair_p_gene, float)
    first = np.minimum(np.searchsorted(k * q_sorted / n_genes, a, side="left"), n_genes - 1)
    before = np.maximum(first - 1, 0)
    at = [np.maximum(q_sorted[j], a * n_genes / k[j]) for j in (first, before)]
    return q_gene, np.minimum(np.minimum(*at), 1.0)
