"""Family-wise p of genes and pairs from the largest statistic under shuffles (Westfall and Young 1993).

Products run in float32 (`lib.statistics.null_maxima`); whatever they leave too near to call is settled here
in float64, so that p depends on neither device, blocks nor threads. Variables are rows, slides are columns.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lib.statistics import pair_statistic
from lib.statistics.null_maxima import null_maxima
from lib.statistics.permutations import Permutations
from lib.statistics.residuals import (
    covariate_basis,
    covariate_scales,
    covariate_scales_of,
    project_out,
    unit_length,
    within_groups,
)

TIE = 1e-9  # statistics this near are equal: the same sum in another order
FLOAT32_ERROR = 1e-6  # bound on the error of a float32 product of two unit rows of some thousand slides


class MaxStatistic(NamedTuple):
    """Family-wise error of each gene over all features, and of everything over everything (Westfall and
    Young).

    genes_df : index gene; feature (the one of the largest statistic), statistic, p_gene (family: the
        features of this gene), p_overall (family: all pairs).
    tested_df : for the pairs given, in their order: statistic, p_gene, p_overall. None without pairs.
    null_gene : float32 [N, n_genes], maxima over features under each rearrangement.
    null_overall : float64 [N], maxima over everything.
    """

    genes_df: pd.DataFrame
    tested_df: pd.DataFrame | None
    null_gene: np.ndarray
    null_overall: np.ndarray
    statistic: str
    signed: bool
    constant_genes: list[str]
    constant_features: list[str]


def max_statistic(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    permutations: Permutations,
    *,
    pairs_df: pd.DataFrame | None = None,
    covariates_df: pd.DataFrame | None = None,
    statistic: Literal["z", "r"] = "z",
    signed: bool = False,
    device: str = "cpu",
    gene_block: int | None = None,
    permutation_block: int | None = None,
    use_numba: bool = True,
    progress: bool = True,
) -> MaxStatistic:
    """Family-wise p of each gene over all features, and over all pairs (Westfall and Young 1993).

    Parameters
    ----------
    pairs_df : pairs (gene, feature) whose own p in both families are wanted as well.
    covariates_df : samples x columns, numeric (`residuals.covariate_table`), projected out of both sides
        within the groups, and again of the shuffled side (`residuals.covariate_scales`). Exact only without.
    statistic : of a pair, on residuals within the groups of the scheme (raw r would be ruled by the part
        of r between tissues, which no shuffle within tissues changes).
        `r`: their correlation. `z`: their covariance over its standard deviation under shuffles within the
        groups, sqrt(sum over groups of Sxx Syy / (n - 1)), so that a feature whose variation sits in one
        small tissue does not set the bar for all others. Under `free` the two give the same p.
    signed : take the largest value, not the largest absolute value.
    device : torch device of the products. Values too near to call in float32 are settled in float64 on the
        same device (on the CPU for Apple's), so that p does not depend on device, blocks or threads.
    gene_block, permutation_block : sizes of one product; None fits the cache of a CPU, or fills a GPU.

    Raises
    ------
    ValueError : samples differ, missing values, no gene or feature varies within the groups (or beyond the
        covariates).
    """
    gene_block = gene_block or (64 if device == "cpu" else 1024)
    permutation_block = permutation_block or (8 if device == "cpu" else 16)
    if statistic not in ("z", "r"):
        raise ValueError(f"statistic is 'z' or 'r', got {statistic!r}")
    basis = covariate_basis(covariates_df, permutations)
    x, x_varies = _varying(log_expression_df, permutations, basis, "gene")
    y, y_varies = _varying(features_df, permutations, basis, "feature")
    genes, features = log_expression_df.index[x_varies], features_df.index[y_varies]
    values = pair_statistic.prepare(x, y, permutations.groups, statistic, signed, device)
    observed, best, weight = pair_statistic.observed_maxima(values)
    null = null_maxima(values, permutations, device, gene_block, permutation_block, use_numba, progress)
    doubt = FLOAT32_ERROR * weight
    if basis.shape[1]:
        _scale(null, doubt, x, permutations, basis)
    exact = functools.partial(_exact, values, x, permutations, basis)
    overall = _overall(null, doubt, exact)
    genes_df = pd.DataFrame(
        {
            "feature": features.to_numpy()[best],
            "statistic": observed,
            "p_gene": _p_of_genes(null, observed, doubt, exact),
            "p_overall": _p_overall(overall, observed),
        },
        index=genes.rename("gene"),
    )
    tested_df = None
    if pairs_df is not None:
        tested_df = _pairs_in_families(pairs_df, genes, features, values, null, overall, doubt, exact)
    return MaxStatistic(
        genes_df, tested_df, null, overall, statistic, signed,
        log_expression_df.index[~x_varies].tolist(), features_df.index[~y_varies].tolist(),
    )  # fmt: skip


def larger_p(results: Sequence[MaxStatistic]) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """genes_df and tested_df of the first result with the largest p of all: to pass is to pass each.

    The p holds wherever one of the schemes does (an intersection-union test; Berger 1982).

    Parameters
    ----------
    results : of the same genes, features and pairs under schemes with the same groups.
    """
    first, *others = results
    genes_df, tested_df = first.genes_df.copy(), None if first.tested_df is None else first.tested_df.copy()
    for other in others:
        if not other.genes_df.index.equals(genes_df.index):
            raise ValueError("the results are not of the same genes: were the schemes of other groups?")
        for mine_df, their_df in ((genes_df, other.genes_df), (tested_df, other.tested_df)):
            if mine_df is not None:
                for column in ("p_gene", "p_overall"):
                    mine_df[column] = np.maximum(mine_df[column], their_df[column])
    return genes_df, tested_df


def _varying(
    df: pd.DataFrame, permutations: Permutations, basis: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Unit residual rows (float64) of what varies within the groups beyond the basis, and which rows do."""
    rows = project_out(within_groups(df, df.index, permutations, what), basis)
    varies = rows.any(axis=1)
    if not varies.any():
        beyond = " beyond the covariates" if basis.shape[1] else ""
        raise ValueError(
            f"no {what} of {len(df):,} varies within the groups of scheme {permutations.scheme!r}{beyond}"
        )
    return unit_length(rows[varies]), varies


def _scale(
    null: np.ndarray, doubt: np.ndarray, x: np.ndarray, permutations: Permutations, basis: np.ndarray
) -> None:
    """Scale maxima and their doubt by what the covariates take out, in place, a block of genes at a time."""
    for start in range(0, len(x), 1024):
        genes = slice(start, start + 1024)
        scales = covariate_scales(x[genes], permutations, basis)
        null[:, genes] *= scales.astype(np.float32)
        doubt[genes] *= scales.max(axis=0)


def _exact(
    values: pair_statistic.Statistic, x: np.ndarray, permutations: Permutations, basis: np.ndarray,
    which: np.ndarray, genes: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """float64 [n_cases]: the maximum of gene genes[k] under rearrangement which[k], covariates taken out."""
    maxima = pair_statistic.exact_maxima(values, permutations, which, genes)
    return maxima * covariate_scales_of(x, permutations, basis, which, genes) if basis.shape[1] else maxima


def _p_of_genes(null: np.ndarray, observed: np.ndarray, doubt: np.ndarray, exact) -> np.ndarray:
    """(1 + b) / (1 + N) of each gene's own statistic."""
    reached, near = np.zeros(len(observed), np.int64), []
    for start in range(0, len(null), 64):
        rows = null[start : start + 64].astype(np.float64)
        above = rows >= observed + doubt
        reached += above.sum(axis=0)
        near.append(np.argwhere(~above & (rows >= observed - doubt)) + [start, 0])
    which, genes = np.concatenate(near).T
    np.add.at(reached, genes, _is_reached(exact(which, genes), observed[genes]))
    return (1 + reached) / (1 + len(null))


def _is_reached(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    return values >= observed - TIE * (1 + np.abs(observed))


def _p_in_gene(
    null: np.ndarray, observed: np.ndarray, genes: np.ndarray, doubt: np.ndarray, exact
) -> np.ndarray:
    """(1 + b) / (1 + N) for statistics observed[k] of gene genes[k] among that gene's maxima."""
    reached = np.empty(len(observed), np.int64)
    pair, which = [], []
    by_gene = np.argsort(genes, kind="stable")
    bounds = (
        np.r_[np.flatnonzero(np.r_[True, np.diff(genes[by_gene]) > 0]), len(genes)] if len(genes) else [0]
    )
    for start, end in itertools.pairwise(bounds):
        these = by_gene[start:end]
        g = genes[these[0]]
        column = null[:, g].astype(np.float64)
        rising = np.argsort(column)
        first = np.searchsorted(column[rising], observed[these] - doubt[g], side="left")
        above = np.searchsorted(column[rising], observed[these] + doubt[g], side="left")
        reached[these] = len(column) - above
        for k in np.flatnonzero(above > first):  # too near to call in float32
            which.append(rising[first[k] : above[k]])
            pair.append(np.full(above[k] - first[k], these[k]))
    if which:
        which, pair = np.concatenate(which), np.concatenate(pair)
        cases, inverse = np.unique(np.stack([which, genes[pair]]), axis=1, return_inverse=True)
        values = exact(cases[0], cases[1])[inverse.ravel()]
        np.add.at(reached, pair, _is_reached(values, observed[pair]))
    return (1 + reached) / (1 + len(null))


def _overall(null: np.ndarray, doubt: np.ndarray, exact) -> np.ndarray:
    """float64 [N] maxima over all genes, exact."""
    result, near = np.full(len(null), -np.inf), []
    for start in range(0, len(null), 64):
        rows = null[start : start + 64].astype(np.float64)
        best = (rows - doubt).max(axis=1)
        near.append(np.argwhere(rows + doubt >= best[:, None]) + [start, 0])
    which, genes = np.concatenate(near).T
    np.maximum.at(result, which, exact(which, genes))
    return result


def _p_overall(overall: np.ndarray, observed: np.ndarray) -> np.ndarray:
    smaller = np.searchsorted(np.sort(overall), observed - TIE * (1 + np.abs(observed)), side="left")
    return (1 + len(overall) - smaller) / (1 + len(overall))


def _pairs_in_families(
    pairs_df: pd.DataFrame, genes: pd.Index, features: pd.Index, values: pair_statistic.Statistic,
    null: np.ndarray, overall: np.ndarray, doubt: np.ndarray, exact,
) -> pd.DataFrame:  # fmt: skip
    g, f = genes.get_indexer(pairs_df["gene"]), features.get_indexer(pairs_df["feature"])
    known = (g >= 0) & (f >= 0)  # the others do not vary within the groups: statistic 0, p 1
    statistic, p_gene, p_overall = np.zeros(len(g)), np.ones(len(g)), np.ones(len(g))
    statistic[known] = pair_statistic.of_pairs(values, g[known], f[known])
    p_gene[known] = _p_in_gene(null, statistic[known], g[known], doubt, exact)
    p_overall[known] = _p_overall(overall, statistic[known])
    columns = {"statistic": statistic, "p_gene": p_gene, "p_overall": p_overall}
    return pd.DataFrame(columns, index=pairs_df.index)
