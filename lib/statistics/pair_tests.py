"""Permutation p of given gene-feature pairs, and how many of them survive each test."""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib.statistics import effective_size, sample_dependence
from lib.statistics.false_discovery import q_from_histogram, q_of
from lib.statistics.permutations import Permutations, draw_schemes
from lib.statistics.residuals import (
    covariate_basis,
    covariate_scales,
    project_out,
    unit_length,
    within_groups,
)
from lib.statistics.sequential import TIE
from lib.statistics.table_rows import PairRows, rows_of_pairs

# column of `survival_table` -> its label, in drawing order
SURVIVAL = {
    "pairs": "marker pairs", "p_free": "free, p", "p_within_tissue": "within tissue, p",
    "p_within_donor_block": "whole donors, p",
    "q_within_tissue": "within tissue, q", "q_covariates": "... and covariates, q",
}  # fmt: skip


def pair_p(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    permutations: Permutations,
    *,
    covariates_df: pd.DataFrame | None = None,
    classes: effective_size.Classes | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Two-sided p = (1 + b) / (1 + N) of each pair, in the order of pairs_df; never 0.

    b counts rearrangements with |c*| >= |c|, c being the covariance of the residuals, whose mean under the
    shuffles is 0. With the groups of `within_tissue` this tests the partial correlation given all tissues.
    Sums are float64 and ties count as reached, so p does not depend on blocks or threads.

    Parameters
    ----------
    pairs_df : gene, feature.
    covariates_df : samples x columns, numeric (`residuals.covariate_table`), projected out of both sides
        within the groups, and again of the rearranged side (`residuals.covariate_scales`). p is exact only
        without them.
    classes : sample pairs that may depend on each other (`sample_dependence.classes_of`); |c| is then divided
        by sqrt(lambda), which plain shuffles need where samples depend on each other.

    Raises
    ------
    ValueError : genes, features or samples that do not match, missing values.
    """
    pairs, x, y = _residuals(log_expression_df, features_df, pairs_df, permutations)
    basis = covariate_basis(covariates_df, permutations)
    x, y = (unit_length(project_out(rows, basis)) for rows in (x, y))
    scales = covariate_scales(x, permutations, basis) if basis.shape[1] else None
    shrink = np.ones(len(pairs_df))
    if classes is not None:
        groups = permutations.groups
        leverage = np.minimum(1 / np.bincount(groups)[groups] + (basis * basis).sum(axis=1), 1)
        inflation = effective_size.inflation(x, y, groups, classes, leverage)
        shrink = 1 / np.sqrt(inflation.of_pairs(pairs.g, pairs.f))
    reached = np.zeros(len(pairs_df), np.int64)
    by_gene = np.argsort(pairs.g, kind="stable")
    bounds = np.searchsorted(pairs.g[by_gene], np.arange(len(x) + 1))
    for k in tqdm(range(len(x)), unit="gene", disable=not progress, desc=f"{permutations.scheme} p"):
        of_gene = by_gene[bounds[k] : bounds[k + 1]]
        partners = y[pairs.f[of_gene]]
        null = x[k][permutations.order] @ partners.T  # [N, pairs of this gene]
        if scales is not None:
            null *= scales[:, k, None]
        reached[of_gene] = (np.abs(null) >= np.abs(partners @ x[k]) * shrink[of_gene] - TIE).sum(axis=0)
    return (1 + reached) / (1 + len(permutations.order))


def r_within(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    permutations: Permutations,
) -> np.ndarray:
    """Correlation of each pair (gene, feature) within the groups of a scheme: of the rows centred there.

    Returns
    -------
    float64 [n_pairs], in the order of pairs_df; 0 where gene or feature does not vary within the groups.
    """
    pairs, x, y = _residuals(log_expression_df, features_df, pairs_df, permutations)
    x, y = unit_length(x), unit_length(y)
    r = np.empty(len(pairs_df))
    for start in range(0, len(r), 10_000):
        at = slice(start, start + 10_000)
        r[at] = (x[pairs.g[at]] * y[pairs.f[at]]).sum(axis=1)
    return r


def survival_table(pairs_df: pd.DataFrame, threshold: float, by: str) -> pd.DataFrame:
    """Pairs of each tissue (or layer), and how many of them have a p or q of at most threshold in each test.

    Index `by` and a last row "all"; columns pairs, then those of SURVIVAL that pairs_df has.
    """
    survives = pairs_df[[column for column in SURVIVAL if column in pairs_df]] <= threshold
    table = survives.groupby(pairs_df[by]).sum().astype(int)
    table.insert(0, "pairs", pairs_df[by].value_counts().reindex(table.index))
    table.index = table.index.astype(str)
    table.loc["all"] = [len(pairs_df), *survives.sum()]
    return table


def survival_caption(n_pairs: int, r_threshold: float, threshold: float, by: str) -> str:
    """Caption of a `survival_table`."""
    pairs = f"{n_pairs:,} marker pairs (|r| >= {r_threshold}), those that survive each test at {threshold}"
    return f"{pairs}, by {by} (within tissues {threshold:.0%} do by chance at p)."


def p_table(
    sides: tuple[pd.DataFrame, pd.DataFrame], pairs_df: pd.DataFrame, samples_df: pd.DataFrame,
    r_histogram_df: pd.DataFrame, n_permutations: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """p of each pair (gene, feature, r) under every scheme these samples allow, and q over all pairs.

    Parameters
    ----------
    sides : log expression and features. r_histogram_df : of all pairs (`correlation.correlate`).

    Returns
    -------
    DataFrame, rows of pairs_df: p_<scheme> (within tissues at the effective size), q_bh and q_by (from the
    histogram of r and the parametric null: like `free`, these ignore tissues).
    """
    drawn = draw_schemes(n_permutations, samples_df, seed)
    p_df = pd.DataFrame(index=pairs_df.index)
    for scheme, orders in drawn.items():
        at_size = scheme == "within_tissue"
        classes = sample_dependence.classes_of(samples_df, orders.groups) if at_size else None
        p_df[f"p_{scheme}"] = pair_p(*sides, pairs_df, orders, classes=classes)
    for method in ("bh", "by"):
        q_df = q_from_histogram(r_histogram_df, len(samples_df), method)
        p_df[f"q_{method}"] = q_of(pairs_df["r"].to_numpy(), q_df)
    return p_df


def _residuals(
    log_df: pd.DataFrame, features_df: pd.DataFrame, pairs_df: pd.DataFrame, permutations: Permutations
) -> tuple[PairRows, np.ndarray, np.ndarray]:
    """Genes and features of the pairs, centred within the groups of the scheme."""
    pairs = rows_of_pairs(pairs_df)
    x = within_groups(log_df, pairs.genes, permutations, "gene")
    y = within_groups(features_df, pairs.features, permutations, "feature")
    return pairs, x, y
