"""Family-wise p of genes and pairs from the largest statistic under shuffles (Westfall and Young 1993).

Products run in float32 (`lib.maxima`); whatever they leave too near to call is settled here in float64, so
that p depends on neither device, blocks nor threads. Variables are rows, slides are columns.
"""

import functools
import itertools
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lib.maxima import null_maxima
from lib.permutations import Permutations
from lib.residuals import covariate_basis, covariate_scales, project_out, unit_length, within_groups

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
    gene_block: int = 64,
    permutation_block: int = 8,
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
        CPU, so that p does not depend on device, blocks or threads.

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
    weights = _weights(x, y, permutations.groups, statistic)
    observed, best = _observed(x, y, weights, signed)
    null = null_maxima(
        x, y, weights, permutations, signed, device, gene_block, permutation_block, use_numba, progress
    )
    doubt = _doubt(weights, len(x))
    scales = None
    if basis.shape[1]:
        scales = covariate_scales(x, permutations, basis)
        null *= scales.astype(np.float32)
        doubt *= scales.max(axis=0)
    exact = functools.partial(_exact_maxima, x, y, weights, permutations, signed, scales)
    overall = _overall(null, doubt, exact)
    everyone = np.arange(len(x))
    genes_df = pd.DataFrame(
        {
            "feature": features.to_numpy()[best],
            "statistic": observed,
            "p_gene": _p_in_gene(null, observed, everyone, doubt, exact),
            "p_overall": _p_overall(overall, observed),
        },
        index=genes.rename("gene"),
    )
    tested_df = None
    if pairs_df is not None:
        tested_df = _pairs_in_families(
            pairs_df, genes, features, x, y, weights, signed, null, overall, doubt, exact
        )
    return MaxStatistic(
        genes_df, tested_df, null, overall, statistic, signed,
        log_expression_df.index[~x_varies].tolist(), features_df.index[~y_varies].tolist(),
    )  # fmt: skip


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


class Weights(NamedTuple):
    """1 / standard deviation of the covariance of row g and row f under shuffles = (a[g] .

    b[f] floored) ** -0.5.
    """

    a: np.ndarray  # [n_genes, n_groups]
    b: np.ndarray  # [n_features, n_groups]
    floor: float

    def rows(self, genes: np.ndarray | slice) -> np.ndarray:
        return 1 / np.sqrt(np.maximum(self.a[genes] @ self.b.T, self.floor))

    def pairs(self, genes: np.ndarray, features: np.ndarray) -> np.ndarray:
        return 1 / np.sqrt(np.maximum((self.a[genes] * self.b[features]).sum(axis=1), self.floor))


def _weights(x: np.ndarray, y: np.ndarray, groups: np.ndarray, statistic: str) -> Weights | None:
    sizes = np.bincount(groups)
    if statistic == "r" or (sizes > 0).sum() == 1:
        return None
    membership = np.eye(len(sizes))[groups]
    root = np.sqrt(np.maximum(sizes - 1, 1))
    a, b = (x * x) @ membership / root, (y * y) @ membership / root
    # a gene and a feature that vary in different tissues have a variance near 0; a tenth of the usual
    # deviation is the least
    return Weights(a, b, 0.01 / max(len(groups) - (sizes > 0).sum(), 1))


def _largest(values: np.ndarray, weights: np.ndarray | None, signed: bool) -> np.ndarray:
    values = values if weights is None else values * weights
    return values if signed else np.abs(values)


def _observed(
    x: np.ndarray, y: np.ndarray, weights: Weights | None, signed: bool
) -> tuple[np.ndarray, np.ndarray]:
    observed, best = np.empty(len(x)), np.empty(len(x), np.int64)
    for start in range(0, len(x), 512):
        s = slice(start, start + 512)
        values = _largest(x[s] @ y.T, None if weights is None else weights.rows(s), signed)
        best[s] = values.argmax(axis=1)
        observed[s] = values.max(axis=1)
    return observed, best


def _exact_maxima(
    x: np.ndarray, y: np.ndarray, weights: Weights | None, permutations: Permutations, signed: bool,
    scales: np.ndarray | None, which: np.ndarray, genes: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Maxima in float64 of gene genes[k] under rearrangement which[k]."""
    result = np.empty(len(genes))
    for start in range(0, len(genes), 256):
        i, g = which[start : start + 256], genes[start : start + 256]
        rows = np.take_along_axis(x[g], permutations.order[i].astype(np.int64), axis=1)
        if permutations.signs is not None:
            rows = rows * permutations.signs[i]
        w = None if weights is None else weights.rows(g)
        result[start : start + 256] = _largest(rows @ y.T, w, signed).max(axis=1)
    if scales is not None:
        result *= scales[which, genes]
    return result


def _doubt(weights: Weights | None, n_genes: int) -> np.ndarray:
    """For each gene how far a float32 maximum may be from the true one."""
    if weights is None:
        return np.full(n_genes, FLOAT32_ERROR)
    doubt = np.empty(n_genes)
    for start in range(0, n_genes, 512):
        doubt[start : start + 512] = FLOAT32_ERROR * weights.rows(slice(start, start + 512)).max(axis=1)
    return doubt


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
        np.add.at(reached, pair, values >= observed[pair] - TIE * (1 + np.abs(observed[pair])))
    return (1 + reached) / (1 + len(null))


def _overall(null: np.ndarray, doubt: np.ndarray, exact) -> np.ndarray:
    """float64 [N] maxima over all genes, exact."""
    best = (null - doubt).max(axis=1)
    which, genes = np.nonzero(null + doubt >= best[:, None])
    result = np.full(len(null), -np.inf)
    np.maximum.at(result, which, exact(which, genes))
    return result


def _p_overall(overall: np.ndarray, observed: np.ndarray) -> np.ndarray:
    smaller = np.searchsorted(np.sort(overall), observed - TIE * (1 + np.abs(observed)), side="left")
    return (1 + len(overall) - smaller) / (1 + len(overall))


def _pairs_in_families(
    pairs_df, genes, features, x, y, weights, signed, null, overall, doubt, exact
) -> pd.DataFrame:
    g, f = genes.get_indexer(pairs_df["gene"]), features.get_indexer(pairs_df["feature"])
    known = (g >= 0) & (f >= 0)  # the others do not vary within the groups: statistic 0, p 1
    gk, fk = g[known], f[known]
    values = np.concatenate(
        [
            np.einsum("ps,ps->p", x[gk[s : s + 8192]], y[fk[s : s + 8192]])
            for s in range(0, max(len(gk), 1), 8192)
        ]
    )
    values = _largest(values, None if weights is None else weights.pairs(gk, fk), signed)
    result = pd.DataFrame({"statistic": 0.0, "p_gene": 1.0, "p_overall": 1.0}, index=pairs_df.index)
    result.loc[known, "statistic"] = values
    result.loc[known, "p_gene"] = _p_in_gene(null, values, gk, doubt, exact)
    result.loc[known, "p_overall"] = _p_overall(overall, values)
    return result
