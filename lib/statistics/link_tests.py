"""Tests of links: every gene against every feature within tissues, with one p of each gene and of each pair.

The statistic of a pair is z / sqrt(lambda): z of its residuals within tissues (`null_maxima`), corrected for
samples that depend on each other (`effective_size`). A gene's p holds its largest statistic over all features
against the largest under plain shuffles within tissues (Westfall and Young 1993), with sequential stopping
(`sequential`); a pair's p holds its own statistic against the same maxima. Products run in float32 or less;
what they leave too close to call is settled in float64, so that p depends on neither device, blocks nor
threads. Variables are rows, samples are columns.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.statistics import effective_size, null_maxima, sample_dependence, sequential
from lib.statistics.beta_fit import beta_p
from lib.statistics.false_discovery import bh
from lib.statistics.permutations import Permutations
from lib.statistics.residuals import (
    covariate_basis,
    covariate_scales,
    covariate_scales_of,
    project_out,
    unit_length,
    within_groups,
)

BLOCK_VALUES = 8_000_000  # pairs of one block of the observed statistic
INTERVAL_Z = 1.959963985  # of a 95 % interval


@dataclass(frozen=True)
class Plan:
    """How links are tested.

    exceedances : shuffles that reach a gene's statistic before it stops (Besag and Clifford's h).
    overall : shuffles of the p over all genes and features together; every gene goes through them.
    slopes : of the covariates (`residuals.covariate_basis`).
    device, elsewhere : where the products are computed (`lib.gene_shards`); p does not depend on it.
    """

    exceedances: int = 10
    overall: int = 128
    slopes: str = "per group"
    device: str = "cpu"
    progress: bool = True
    elsewhere: null_maxima.Elsewhere | None = None

    def __post_init__(self) -> None:
        if self.exceedances < 1 or self.overall < 1:
            raise InputError(
                f"exceedances = {self.exceedances}, overall = {self.overall}: both must be at least 1"
            )


class Sides(NamedTuple):
    """Residuals of both sides within the groups and beyond the covariates, ready to be tested.

    x, y : float64 unit rows [n_genes, n_samples] and [n_features, n_samples], of what varies.
    genes, features : their names.
    groups : int32 [n_samples].
    basis : orthonormal columns [n_samples, k] of the covariates.
    values : the statistic z without the correction.
    inflation : lambda of every pair.
    """

    x: np.ndarray
    y: np.ndarray
    genes: pd.Index
    features: pd.Index
    groups: np.ndarray
    basis: np.ndarray
    values: null_maxima.Statistic
    inflation: effective_size.Inflation

    @property
    def n_lost(self) -> int:
        """Degrees of freedom that tissues and covariates take."""
        return len(self.inflation.sizes) + self.basis.shape[1]

    def places(self, pairs_df: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the gene and the feature of each pair, int64; -1 for what is not among them."""
        genes, features = pd.Index(pairs_df["gene"]), pd.Index(pairs_df["feature"])
        return self.genes.get_indexer(genes), self.features.get_indexer(features)


class LinkTests(NamedTuple):
    """What was tested, and the p of genes.

    genes_df : index gene; feature (of the largest statistic), statistic, inflation (lambda of that pair), p,
        p_overall (family: all pairs of all genes), q (Benjamini-Hochberg over genes), p_beta (`beta_fit`, an
        extrapolation), n_permutations (that p rests on).
    null : p with the null maxima of every gene.
    doubt : float64 [n_genes], bound on the error of the gene's null maxima.
    exact : (shuffles, genes) -> their maxima in float64.
    """

    sides: Sides
    genes_df: pd.DataFrame
    null: sequential.SequentialP
    doubt: np.ndarray
    exact: sequential.Exact


def notes(permutations: Permutations, samples_df: pd.DataFrame) -> str:
    """What these samples allow to be tested, in words; a line each."""
    return "\n".join([*permutations.notes, *sample_dependence.notes(samples_df)])


def prepare(
    log_expression_df: pd.DataFrame, features_df: pd.DataFrame, permutations: Permutations,
    basis: np.ndarray, classes: effective_size.Classes, device: str = "cpu",
) -> Sides:  # fmt: skip
    """Residuals of what varies within the groups beyond the covariates.

    Parameters
    ----------
    permutations : plain shuffles within tissues; its groups and samples are used.
    basis : `residuals.covariate_basis`; no columns without covariates.
    classes : sample pairs that may depend on each other (`sample_dependence.classes_of`).

    Raises
    ------
    ValueError : samples differ, missing values, no gene or feature varies.
    """
    x, genes = _varying(log_expression_df, permutations, basis, "gene")
    y, features = _varying(features_df, permutations, basis, "feature")
    groups = permutations.groups
    leverage = np.minimum(1 / np.bincount(groups)[groups] + (basis * basis).sum(axis=1), 1)
    values = null_maxima.prepare(x, y, groups, device)
    inflation = effective_size.inflation(x, y, groups, classes, leverage)
    return Sides(x, y, genes, features, groups, basis, values, inflation)


def _varying(
    df: pd.DataFrame, permutations: Permutations, basis: np.ndarray, what: str
) -> tuple[np.ndarray, pd.Index]:
    """Unit residual rows of what varies within the groups beyond the basis, and their names."""
    if df.empty:
        hint = ": none reaches e_threshold, the least expression; lower it" if what == "gene" else ""
        raise InputError(f"no {what} to test within tissues{hint}")
    residuals = project_out(within_groups(df, df.index, permutations, what), basis)
    varies = np.any(residuals, axis=1)
    if not varies.any():
        beyond = " beyond the covariates" if basis.shape[1] else ""
        raise InputError(f"no {what} of {len(df):,} varies within tissues{beyond}")
    return unit_length(residuals[varies]), df.index[varies]


def run(
    log_expression_df: pd.DataFrame, features_df: pd.DataFrame, samples_df: pd.DataFrame,
    permutations: Permutations, covariates_df: pd.DataFrame | None = None, plan: Plan = Plan(),
) -> LinkTests:  # fmt: skip
    """Test all genes and features given; samples of one donor count at their effective size.

    Parameters
    ----------
    samples_df : sample_id, tissue and, where known, donor, in the order of the permutations.
    permutations : plain shuffles within tissues, as many as a gene may need.
    covariates_df : samples x columns, numeric (`residuals.covariate_table`), projected out of both sides and
        again of the shuffled side (`residuals.covariate_scales`). p is exact only without them.
    """
    basis = covariate_basis(covariates_df, permutations, plan.slopes)
    classes = sample_dependence.classes_of(samples_df, permutations.groups)
    sides = prepare(log_expression_df, features_df, permutations, basis, classes, plan.device)
    return of_sides(sides, permutations, plan)


def of_sides(sides: Sides, permutations: Permutations, plan: Plan) -> LinkTests:
    """Test every gene over all features; permutations are plain shuffles, as many as a gene may need."""
    observed, best, weight = _observed_maxima(sides)
    null, doubt, exact = _null(sides, permutations, observed, weight, plan)
    columns = {
        "feature": sides.features.to_numpy()[best],
        "statistic": observed,
        "inflation": sides.inflation.of_pairs(np.arange(len(best)), best),
        "p": null.p,
        "p_overall": _p_overall(_largest(null.of_all_genes()[: plan.overall], doubt, exact), observed),
        "q": bh(null.p),
        "p_beta": beta_p(null.of_all_genes(), observed),
        "n_permutations": null.n_permutations,
    }
    genes_df = pd.DataFrame(columns, index=sides.genes.rename("gene"))
    return LinkTests(sides, genes_df, null, doubt, exact)


def statistic_of_block(sides: Sides, genes: slice | np.ndarray) -> np.ndarray:
    """|z| / sqrt(lambda) of the genes (rows) with all features, float64 [genes, n_features]."""
    values = sides.values
    at = genes if isinstance(genes, slice) else torch.from_numpy(genes).to(values.x_t.device)
    products_t, weights_t = values.x_t[at] @ values.y_t.T, values.weights(at)
    r_t = None if sides.inflation.x.rows is None else products_t.to("cpu", torch.float32)
    if weights_t is not None:
        products_t *= weights_t
    statistic = products_t.abs_().cpu().numpy()
    if sides.inflation.weights:
        statistic /= np.sqrt(sides.inflation.of_block(genes, r_t))
    return statistic


def statistic_of_pairs(sides: Sides, genes: np.ndarray, features: np.ndarray) -> np.ndarray:
    """|z| / sqrt(lambda) of row genes[k] with row features[k], float64 [n_pairs]."""
    return null_maxima.of_pairs(sides.values, genes, features) / np.sqrt(
        sides.inflation.of_pairs(genes, features)
    )


def p_in_gene(tests: LinkTests, genes: np.ndarray, statistic: np.ndarray) -> np.ndarray:
    """p of pairs with the genes (rows) in the family of all features of their gene, float64 [n_pairs].

    (1 + b) / (1 + N), or b / m where the gene stopped at the m-th shuffle; never below the gene's own p.
    """
    null, reached = tests.null, np.empty(len(statistic), np.int64)
    pair, which = [], []
    by_gene = np.argsort(genes, kind="stable")
    starts = np.flatnonzero(np.diff(genes[by_gene], prepend=-1))
    for start, end in itertools.pairwise([*starts, len(genes)]):
        these = by_gene[start:end]
        gene = int(genes[these[0]])
        maxima = null.null_of(gene).astype(np.float64)
        rising = np.argsort(maxima)
        doubt = tests.doubt[gene]
        first = np.searchsorted(maxima[rising], statistic[these] - doubt, side="left")
        above = np.searchsorted(maxima[rising], statistic[these] + doubt, side="left")
        reached[these] = len(maxima) - above
        for k in np.flatnonzero(above > first):  # too close to call
            which.append(rising[first[k] : above[k]])
            pair.append(np.full(above[k] - first[k], these[k]))
    if which:
        which, pair = np.concatenate(which), np.concatenate(pair)
        cases, inverse = np.unique(np.stack([which, genes[pair]]), axis=1, return_inverse=True)
        values = tests.exact(cases[0], cases[1])[inverse.ravel()]
        np.add.at(reached, pair, sequential.reaches(values, statistic[pair]))
    used = null.n_permutations[genes]
    one = np.where(null.p[genes] * used == null.n_reached[genes], 0, 1)  # 0: the gene stopped
    return np.maximum((one + reached) / (one + used), null.p[genes])


def intervals(sides: Sides, genes: np.ndarray, features: np.ndarray) -> pd.DataFrame:
    """r within tissues of pairs (rows of either side) with its 95 % interval at the effective size.

    Returns
    -------
    DataFrame: r_within, low, high, n_effective, inflation.
    """
    r = np.concatenate(
        [
            np.einsum("ij,ij->i", sides.x[genes[at]], sides.y[features[at]])
            for at in null_maxima.blocks(len(genes), sides.x.shape[1])
        ]
        or [np.empty(0)]
    )
    inflation = sides.inflation.of_pairs(genes, features)
    free = sides.x.shape[1] - len(sides.inflation.sizes)
    n_effective = (free - sides.basis.shape[1]) / inflation
    if sides.values.a_t is not None:  # less where variances differ between tissues
        n_effective *= sides.values.weights_of_pairs(genes, features) ** 2 / free
    half = INTERVAL_Z / np.sqrt(effective_size.precision(n_effective))
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    columns = {"r_within": r, "low": np.tanh(z - half), "high": np.tanh(z + half)}
    return pd.DataFrame(columns | {"n_effective": n_effective, "inflation": inflation})


def blocks(sides: Sides, n_genes: int) -> list[slice]:
    """Slices of n_genes genes whose statistics with all features fit a block."""
    step = max(1, BLOCK_VALUES // len(sides.y))
    return [slice(start, min(start + step, n_genes)) for start in range(0, n_genes, step)]


def _observed_maxima(sides: Sides) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each gene the largest statistic, the feature's row, and the largest weight of z."""
    observed, best, weight = [], [], []
    for genes in blocks(sides, len(sides.x)):
        statistic, weights_t = statistic_of_block(sides, genes), sides.values.weights(genes)
        at = statistic.argmax(axis=1)
        observed.append(np.take_along_axis(statistic, at[:, None], axis=1)[:, 0])
        best.append(at)
        weight.append(np.ones(len(at)) if weights_t is None else weights_t.amax(dim=1).cpu().numpy())
    return np.concatenate(observed), np.concatenate(best), np.concatenate(weight)


def _null(
    sides: Sides, permutations: Permutations, observed: np.ndarray, weight: np.ndarray, plan: Plan
) -> tuple[sequential.SequentialP, np.ndarray, sequential.Exact]:
    n_shuffles, basis = len(permutations.order), sides.basis
    doubts = null_maxima.error_bound(plan.device) * weight
    bar = tqdm(
        total=len(observed), unit="gene", disable=not plan.progress, desc="genes tested within tissues"
    )

    def maxima(start: int, stop: int, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bar.update(max(len(observed) - len(genes) - bar.n, 0))
        bar.set_postfix(shuffles=stop)
        these = permutations._replace(order=permutations.order[start:stop])
        rows, bound = _rows(sides.values, genes), null_maxima.error_bound(plan.device)
        if plan.elsewhere:
            null, bound = plan.elsewhere(rows, permutations, start, stop)
        else:
            null = null_maxima.null_maxima(rows, these, plan.device, False)
        if basis.shape[1]:
            scales = covariate_scales(sides.x[genes], these, basis)
            null *= scales.astype(np.float32)
            bound = bound * scales.max(axis=0)
        doubts[genes] = np.maximum(doubts[genes], bound * weight[genes])
        return null, doubts[genes]

    def exact(which: np.ndarray, genes: np.ndarray) -> np.ndarray:
        values = null_maxima.exact_maxima(sides.values, permutations, which, genes)
        if basis.shape[1]:
            values = values * covariate_scales_of(sides.x, permutations, basis, which, genes)
        return values

    of_all = min(plan.overall, n_shuffles)
    result = sequential.sequential_p(observed, n_shuffles, maxima, exact, plan.exceedances, of_all)
    bar.update(len(observed) - bar.n)
    bar.close()
    return result, doubts, exact


def _rows(values: null_maxima.Statistic, genes: np.ndarray) -> null_maxima.Statistic:
    if len(genes) == len(values.x_t):
        return values
    at = torch.from_numpy(genes).to(values.x_t.device)
    return values._replace(x_t=values.x_t[at], a_t=None if values.a_t is None else values.a_t[at])


def _largest(maxima: np.ndarray, doubt: np.ndarray, exact: sequential.Exact) -> np.ndarray:
    """Largest statistic of all genes under each shuffle, float64 [N].

    maxima are float32 [N, n_genes], wrong by at most doubt; the genes that may be the largest are computed
    again.
    """
    least = (maxima - doubt).max(axis=1)
    which, genes = np.nonzero(maxima + doubt >= least[:, None])
    largest = np.full(len(maxima), -np.inf)
    np.maximum.at(largest, which, exact(which, genes))
    return largest


def _p_overall(largest: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """p against the largest statistic of all genes."""
    largest = np.sort(largest)
    smaller = np.searchsorted(largest, observed - sequential.TIE * (1 + observed), side="left")
    return (1 + len(largest) - smaller) / (1 + len(largest))
