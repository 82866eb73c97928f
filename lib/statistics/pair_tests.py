"""Permutation p of given gene-feature pairs, and how many of them survive each test (METHOD section 7)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib.statistics.permutations import Permutations
from lib.statistics.residuals import (
    covariate_basis,
    covariate_scales,
    project_out,
    unit_length,
    within_groups,
)

# Column of `pairs_significance` -> the test in a figure's words, in the order of drawing.
TESTS = {
    "p_free": "free", "p_within_tissue": "within tissue, p", "p_donor_signs": "donor signs, p",
    "p_within_donor_block": "whole donors, p", "q_within_tissue": "within tissue, q",
    "q_covariates": "... and covariates, q",
}  # fmt: skip
TIE = 1e-9  # statistics this near are equal: the same sum in another order


def pair_p(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    permutations: Permutations,
    *,
    alternative: Literal["same_sign", "two_sided"] = "two_sided",
    covariates_df: pd.DataFrame | None = None,
    progress: bool = True,
) -> np.ndarray:
    """p = (1 + b) / (1 + N) of each pair, in the order of pairs_df; never 0.

    Parameters
    ----------
    pairs_df : gene, feature and, for `same_sign`, r, whose sign decides the tail.
    alternative : `two_sided` counts |c*| >= |c| on the covariance c of the residuals, whose mean under the
        shuffles is 0. With the groups of `within_tissue` that is the test of the partial correlation given
        all tissues. `same_sign` counts r* >= r for r > 0 and r* <= r for r < 0: the paper's, with its
        negative twin. Its side is read off the data, so it rejects twice as often as it says; it serves to
        repeat the paper.
    covariates_df : samples x columns, numeric (`residuals.covariate_table`), projected out of both sides
        within the groups, and again of the shuffled side (`residuals.covariate_scales`). Exact only without.

    Returns
    -------
    float64 [n_pairs]. Sums run in float64 and ties count as reached, so block size and threads do not matter.

    Raises
    ------
    ValueError : a column that is not there, an r that is missing, genes, features or samples that do not
        match, missing values.
    """
    if alternative not in ("same_sign", "two_sided"):
        raise ValueError(f"alternative is 'same_sign' or 'two_sided', got {alternative!r}")
    _check_pairs(pairs_df, alternative)
    gene_names, g = np.unique(pairs_df["gene"].to_numpy(dtype=object), return_inverse=True)
    feature_names, f = np.unique(pairs_df["feature"].to_numpy(dtype=object), return_inverse=True)
    x = within_groups(log_expression_df, gene_names, permutations, "gene")
    y = within_groups(features_df, feature_names, permutations, "feature")
    basis = covariate_basis(covariates_df, permutations)
    x, y = (unit_length(project_out(rows, basis)) for rows in (x, y))
    scales = covariate_scales(x, permutations, basis) if basis.shape[1] else None
    upper = np.ones(len(pairs_df), bool) if alternative == "two_sided" else pairs_df["r"].to_numpy() > 0
    reached = np.zeros(len(pairs_df), np.int64)
    by_gene = np.argsort(g, kind="stable")
    bounds = np.searchsorted(g[by_gene], np.arange(len(gene_names) + 1))
    for k in tqdm(range(len(gene_names)), unit="gene", disable=not progress, desc=f"{permutations.scheme} p"):
        pairs = by_gene[bounds[k] : bounds[k + 1]]
        partners = y[f[pairs]]
        moved = x[k][permutations.order]
        if permutations.signs is not None:
            moved = moved * permutations.signs
        null = moved @ partners.T  # [N, pairs of this gene]
        if scales is not None:
            null *= scales[:, k, None]
        observed = partners @ x[k]
        if alternative == "two_sided":
            reached[pairs] = (np.abs(null) >= np.abs(observed) - TIE).sum(axis=0)
        else:
            above, below = (null >= observed - TIE).sum(axis=0), (null <= observed + TIE).sum(axis=0)
            reached[pairs] = np.where(upper[pairs], above, below)
    return (1 + reached) / (1 + len(permutations.order))


def _check_pairs(pairs_df: pd.DataFrame, alternative: str) -> None:
    needed = ["gene", "feature"] + (["r"] if alternative == "same_sign" else [])
    lacking = [c for c in needed if c not in pairs_df]
    if lacking:
        raise ValueError(f"the pairs lack the columns {lacking}: {alternative!r} needs {needed}")
    if alternative == "same_sign" and pairs_df["r"].isna().any():
        unknown_df = pairs_df[pairs_df["r"].isna()]
        gene, feature = unknown_df[["gene", "feature"]].iloc[0]
        raise ValueError(
            f"{len(unknown_df)} of {len(pairs_df)} pairs have no r, first {gene!r} with {feature!r}: its "
            "sign decides the tail; drop them or ask for 'two_sided'"
        )


def survival_table(
    pairs_df: pd.DataFrame, columns: Sequence[str], threshold: float = 0.05, by: str = "tissue"
) -> pd.DataFrame:
    """Of the pairs of each tissue (or layer) how many have a p or q at or below threshold in each of the
    columns.

    Index `by` and a last row "all"; columns pairs, then those asked for.
    """
    survives = pairs_df[list(columns)] <= threshold
    table = survives.groupby(pairs_df[by]).sum().astype(int)
    table.insert(0, "pairs", pairs_df[by].value_counts().reindex(table.index))
    table.index = table.index.astype(str)
    table.loc["all"] = [len(pairs_df), *survives.sum()]
    return table


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
    gene_names, g = np.unique(pairs_df["gene"].to_numpy(dtype=object), return_inverse=True)
    feature_names, f = np.unique(pairs_df["feature"].to_numpy(dtype=object), return_inverse=True)
    x = unit_length(within_groups(log_expression_df, gene_names, permutations, "gene"))
    y = unit_length(within_groups(features_df, feature_names, permutations, "feature"))
    blocks = range(0, len(pairs_df), 10_000)
    parts = [(x[g[i : i + 10_000]] * y[f[i : i + 10_000]]).sum(axis=1) for i in blocks]
    return np.concatenate([np.empty(0), *parts])


def within_tissue_pattern(
    q: pd.Series,
    q_given_covariates: pd.Series | None = None,
    threshold: float = 0.05,
    other_sign: pd.Series | None = None,
) -> pd.Series:
    """What the calibrated test says of each pair, in a word.

    `direct`: gene and feature go together within tissues (q at or below the threshold; with covariates given,
    also once these are taken out). `direct, other sign`: so they do, but the other way round than over all
    slides. `through covariates`: only until they are taken out. `through tissue`: not beyond what the tissue
    explains. `not tested`: no q. "Direct" is a pattern of conditional dependence, not a cause.

    Parameters
    ----------
    q, q_given_covariates : q of each pair within tissues, and of the same with covariates taken out.
    other_sign : whether the correlation within tissues has another sign than r.
    """
    found = q <= threshold
    left = found if q_given_covariates is None else q_given_covariates <= threshold
    untested = q.isna() if q_given_covariates is None else q.isna() | q_given_covariates.isna()
    turned = pd.Series(False, q.index) if other_sign is None else other_sign
    names = np.select(
        [untested, found & left & turned, found & left, found],
        ["not tested", "direct, other sign", "direct", "through covariates"],
        "through tissue",
    )
    return pd.Series(names, index=q.index)
