"""Family-wise p of genes and pairs from the largest statistic under shuffles (Westfall and Young 1993).

Products run in float32 (`lib.statistics.null_maxima`); what they leave too close to call is settled here in
float64, so that p depends on neither device, blocks nor threads. Variables are rows, slides are columns.
"""

import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lib.statistics import null_maxima
from lib.statistics.permutations import Permutations
from lib.statistics.residuals import (
    covariate_basis,
    covariate_scales,
    covariate_scales_of,
    project_out,
    unit_length,
    within_groups,
)

TIE = 1e-9  # statistics this close are equal: the same sum in another order
FLOAT32_ERROR = 1e-6  # bound on the error of a float32 product of two unit rows of some thousand slides


class MaxStatistic(NamedTuple):
    """Family-wise error of each gene over all features, and of all pairs.

    genes_df : index gene; feature (of the largest statistic), statistic, p_gene (family: all features of
        this gene), p_overall (family: all pairs).
    tested_df : for the pairs given, in their order: statistic, p_gene, p_overall. Empty without pairs.
    null_gene : float32 [N, n_genes], maxima over features under each rearrangement.

    Genes and features without variation within the groups (or beyond the covariates) are left out.
    """

    genes_df: pd.DataFrame
    tested_df: pd.DataFrame
    null_gene: np.ndarray


class _Null(NamedTuple):
    """Maxima under the rearrangements, and what settles those that are too close to an observed value.

    doubt : float64 [n_genes], bound on the error of the gene's float32 maxima.
    exact : (rearrangements, genes) -> their maxima in float64.
    """

    gene: np.ndarray
    overall: np.ndarray
    doubt: np.ndarray
    exact: Callable[[np.ndarray, np.ndarray], np.ndarray]


def max_statistic(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    permutations: Permutations,
    *,
    pairs_df: pd.DataFrame | None = None,
    covariates_df: pd.DataFrame | None = None,
    statistic: Literal["z", "r"] = "z",
    device: str = "cpu",
    progress: bool = True,
) -> MaxStatistic:
    """Family-wise p of each gene over all features, and over all pairs; two-sided.

    Parameters
    ----------
    pairs_df : pairs (gene, feature) for which p in both families are wanted as well.
    covariates_df : samples x columns, numeric (`residuals.covariate_table`), projected out of both sides
        within the groups, and again of the rearranged side (`residuals.covariate_scales`). p is exact only
        without them.
    statistic : `r` or `z` on residuals within the groups of the scheme (`lib.statistics.null_maxima`); raw r
        would be dominated by its part between tissues, which no shuffle within tissues changes. Under `free`
        the two give the same p.
    device : torch device of the products. p does not depend on it.

    Raises
    ------
    ValueError : samples differ, missing values, no gene or feature varies within the groups (or beyond the
        covariates).
    """
    if statistic not in ("z", "r"):
        raise ValueError(f"statistic is 'z' or 'r', got {statistic!r}")
    basis = covariate_basis(covariates_df, permutations)
    x, x_varies = _varying(log_expression_df, permutations, basis, "gene")
    y, y_varies = _varying(features_df, permutations, basis, "feature")
    genes, features = log_expression_df.index[x_varies], features_df.index[y_varies]
    values = null_maxima.prepare(x, y, permutations.groups, statistic, device)
    observed, best, weight = null_maxima.observed_maxima(values)
    null = _null(values, x, permutations, basis, weight, device, progress)
    columns = {
        "feature": features.to_numpy()[best],
        "statistic": observed,
        "p_gene": _p_of_genes(null, observed),
        "p_overall": _p_overall(null, observed),
    }
    genes_df = pd.DataFrame(columns, index=genes.rename("gene"))
    return MaxStatistic(genes_df, _pairs_in_families(pairs_df, genes, features, values, null), null.gene)


def _varying(
    df: pd.DataFrame, permutations: Permutations, basis: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Unit residual rows (float64) of what varies within the groups beyond the basis, and which rows do."""
    rows = project_out(within_groups(df, df.index, permutations, what), basis)
    varies = np.any(rows, axis=1)
    if not varies.any():
        beyond = " beyond the covariates" if basis.shape[1] else ""
        raise ValueError(
            f"no {what} of {len(df):,} varies within the groups of scheme {permutations.scheme!r}{beyond}"
        )
    return unit_length(rows[varies]), varies


def _null(
    values: null_maxima.Statistic, x: np.ndarray, permutations: Permutations, basis: np.ndarray,
    weight: np.ndarray, device: str, progress: bool,
) -> _Null:  # fmt: skip
    """Null maxima; where there are covariates, scaled by what these take out of the rearranged rows."""
    gene = null_maxima.null_maxima(values, permutations, device, progress)
    doubt = FLOAT32_ERROR * weight
    if basis.shape[1]:
        for start in range(0, len(x), 1024):
            genes = slice(start, start + 1024)
            scales = covariate_scales(x[genes], permutations, basis)
            gene[:, genes] *= scales.astype(np.float32)
            doubt[genes] *= scales.max(axis=0)

    def exact(which: np.ndarray, genes: np.ndarray) -> np.ndarray:
        maxima = null_maxima.exact_maxima(values, permutations, which, genes)
        return (
            maxima * covariate_scales_of(x, permutations, basis, which, genes) if basis.shape[1] else maxima
        )

    overall, near = np.full(len(gene), -np.inf), []
    for start in range(0, len(gene), 64):
        rows = gene[start : start + 64].astype(np.float64)
        best = (rows - doubt).max(axis=1)
        near.append(np.argwhere(rows + doubt >= best[:, None]) + [start, 0])
    which, genes = np.concatenate(near).T
    np.maximum.at(overall, which, exact(which, genes))
    return _Null(gene, overall, doubt, exact)


def _is_reached(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    return values >= observed - TIE * (1 + np.abs(observed))


def _p_of_genes(null: _Null, observed: np.ndarray) -> np.ndarray:
    """(1 + b) / (1 + N) of each gene's own statistic."""
    reached, near = np.zeros(len(observed), np.int64), []
    for start in range(0, len(null.gene), 64):
        rows = null.gene[start : start + 64].astype(np.float64)
        above = rows >= observed + null.doubt
        reached += above.sum(axis=0)
        near.append(np.argwhere(~above & (rows >= observed - null.doubt)) + [start, 0])
    which, genes = np.concatenate(near).T
    np.add.at(reached, genes, _is_reached(null.exact(which, genes), observed[genes]))
    return (1 + reached) / (1 + len(null.gene))


def _p_overall(null: _Null, observed: np.ndarray) -> np.ndarray:
    least = observed - TIE * (1 + np.abs(observed))
    smaller = np.searchsorted(np.sort(null.overall), least, side="left")
    return (1 + len(null.overall) - smaller) / (1 + len(null.overall))


def _p_in_gene(null: _Null, observed: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """(1 + b) / (1 + N) for statistics observed[k] of gene genes[k] among that gene's maxima."""
    reached = np.empty(len(observed), np.int64)
    pair, which = [], []
    by_gene = np.argsort(genes, kind="stable")
    starts = np.flatnonzero(np.diff(genes[by_gene], prepend=-1))
    for start, end in itertools.pairwise([*starts, len(genes)]):
        these = by_gene[start:end]
        g = genes[these[0]]
        column = null.gene[:, g].astype(np.float64)
        rising = np.argsort(column)
        first = np.searchsorted(column[rising], observed[these] - null.doubt[g], side="left")
        above = np.searchsorted(column[rising], observed[these] + null.doubt[g], side="left")
        reached[these] = len(column) - above
        for k in np.flatnonzero(above > first):  # too close to call in float32
            which.append(rising[first[k] : above[k]])
            pair.append(np.full(above[k] - first[k], these[k]))
    if which:
        which, pair = np.concatenate(which), np.concatenate(pair)
        cases, inverse = np.unique(np.stack([which, genes[pair]]), axis=1, return_inverse=True)
        values = null.exact(cases[0], cases[1])[inverse.ravel()]
        np.add.at(reached, pair, _is_reached(values, observed[pair]))
    return (1 + reached) / (1 + len(null.gene))


def _pairs_in_families(
    pairs_df: pd.DataFrame | None, genes: pd.Index, features: pd.Index, values: null_maxima.Statistic,
    null: _Null,
) -> pd.DataFrame:  # fmt: skip
    """statistic, p_gene and p_overall of given pairs; 0, 1 and 1 where a row does not vary within groups."""
    columns = ["statistic", "p_gene", "p_overall"]
    if pairs_df is None:
        return pd.DataFrame(columns=columns, dtype=float)
    tested_df = pd.DataFrame({"statistic": 0.0, "p_gene": 1.0, "p_overall": 1.0}, index=pairs_df.index)
    g = genes.get_indexer(pd.Index(pairs_df["gene"]))
    f = features.get_indexer(pd.Index(pairs_df["feature"]))
    known = (g >= 0) & (f >= 0)
    statistic = null_maxima.of_pairs(values, g[known], f[known])
    p = _p_in_gene(null, statistic, g[known]), _p_overall(null, statistic)
    tested_df.loc[known, columns] = np.stack([statistic, *p], axis=1)
    return tested_df
