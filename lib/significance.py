"""Permutation tests of gene-feature pairs, their multiplicity, and false discovery rates (METHOD section 7).

The paper shuffles the slides freely. A gene and a feature that both mark a tissue then always reach the
smallest p, even when they have nothing to do with each other within any tissue. Shuffling only among
slides that are exchangeable (of one tissue, or of donors that gave the same tissues) tests what is left
once the tissue is known.

Under such shuffles the part of r between the groups is fixed, so r is a growing function of the covariance
of the residuals, each row centred within its groups. That covariance is the statistic everywhere here: the
p of one pair is the p of r itself, and it costs one product. Variables are rows, slides are columns.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm.auto import tqdm

from lib.correlation import each_block, full_precision

SCHEMES = ("free", "within_tissue", "within_donor_block", "donor_signs")
FEW_DONORS = 20
TIE = 1e-9  # statistics this near are equal: the same sum in another order
FLOAT32_ERROR = 1e-6  # bound on the error of a float32 product of two unit rows of some thousand slides


class Permutations(NamedTuple):
    """N rearrangements of the expression side, the same for every pair.

    order : int32 [N, n_slides]; slide s receives the expression of slide order[i, s].
    signs : float32 [N, n_slides] or None; the residual is multiplied by it (scheme `donor_signs` only): the
        donor's sign times sqrt(n / (n - 1)), n the slides of the tissue.
    groups : int32 [n_slides]; slides of one group can take each other's place, and rows are centred within
        groups.
    sample_ids : the slides, in order.
    n_possible : number of distinct rearrangements, the identity among them.
    exhaustive : order holds every rearrangement but the identity once, because fewer are possible than
        were asked for.
    n_fixed_slides : slides that never move and so contribute nothing.
    notes : sentences for the reader.
    """

    order: np.ndarray
    signs: np.ndarray | None
    groups: np.ndarray
    sample_ids: list[str]
    scheme: str
    seed: int
    n_possible: int
    exhaustive: bool
    n_fixed_slides: int
    notes: tuple[str, ...]


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


# -- which rearrangements ---------------------------------------------------------------------------------


def permutations(
    scheme: Literal["free", "within_tissue", "within_donor_block", "donor_signs"],
    n_permutations: int,
    samples_df: pd.DataFrame,
    seed: int,
) -> Permutations:
    """Draw the rearrangements of a scheme.

    Parameters
    ----------
    scheme :
        `free`: any slide with any other (the paper's).
        `within_tissue`: slides of one tissue. Exact if slides are independent given their tissue.
        `within_donor_block`: all slides of a donor change place with those of another donor that gave the
        same tissues (whole-block exchange; Winkler et al. 2015). Exact with donor effects, but donors of a
        unique set stay where they are. `donor_signs`: the tissue residuals of a donor change sign together
        (wild cluster bootstrap; Cameron, Gelbach and Miller 2008). Holds with donor effects and any sets
        of tissues, approximately: it needs some twenty donors.
    samples_df : sample_id, tissue, and donor for the last two; one row per slide, in the order of the
        analysis.

    Raises
    ------
    ValueError : unknown scheme, missing column or value, no slide that can move.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}: one of {', '.join(SCHEMES)}")
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1, got {n_permutations}")
    _check_columns(
        samples_df, ["sample_id", "tissue", "donor"] if "donor" in scheme else ["sample_id", "tissue"]
    )
    n = len(samples_df)
    if n < 4:
        raise ValueError(f"{n} slides: a permutation test needs at least 4")
    units, groups = _exchangeable(
        scheme, samples_df
    )  # units[k] = [n_units, size]: rows of one k change place
    signed = scheme == "donor_signs"
    n_possible = 2 ** len(units[0]) if signed else math.prod(math.factorial(len(u)) for u in units)
    sizes = np.bincount(groups)
    n_fixed = 0 if scheme == "free" else int((sizes[groups] == 1).sum())
    notes = _notes(scheme, samples_df, n_fixed, n_possible, n_permutations)
    if n_possible < 2 or n_fixed == n:
        raise ValueError(
            f"scheme {scheme!r} can move none of the {n} slides: no two can take each other's place. "
            "Use another scheme or more slides per tissue"
        )
    exhaustive = n_possible - 1 <= n_permutations
    rng = np.random.default_rng(seed)
    if signed:
        donors = units[0]
        flips = _all_signs(len(donors)) if exhaustive else rng.choice([-1, 1], (n_permutations, len(donors)))
        # centring takes one degree of freedom of each tissue; without the factor the null would be too narrow
        factor = np.sqrt(sizes / np.maximum(sizes - 1, 1))[groups]
        signs = (flips[:, pd.factorize(samples_df["donor"])[0]] * factor).astype(np.float32)
        order = np.broadcast_to(np.arange(n, dtype=np.int32), signs.shape).copy()
    else:
        signs = None
        order = _enumerate(units, n) if exhaustive else _draw(units, n, n_permutations, rng)
    return Permutations(
        order,
        signs,
        groups,
        samples_df["sample_id"].tolist(),
        scheme,
        seed,
        n_possible,
        exhaustive,
        n_fixed,
        notes,
    )


def _check_columns(samples_df: pd.DataFrame, columns: list[str]) -> None:
    lacking = [c for c in columns if c not in samples_df]
    if lacking:
        raise ValueError(f"the samples table lacks the columns {lacking}")
    for c in columns:
        if samples_df[c].isna().any():
            first = samples_df.loc[samples_df[c].isna(), "sample_id"].tolist()[:3]
            raise ValueError(f"{int(samples_df[c].isna().sum())} samples have no {c}, first {first}")


def _exchangeable(scheme: str, samples_df: pd.DataFrame) -> tuple[list[np.ndarray], np.ndarray]:
    """Sets of units that change place (each an array [n_units, slides per unit]) and the group of every
    slide.
    """
    n = len(samples_df)
    tissue = pd.factorize(samples_df["tissue"], sort=True)[0]
    if scheme == "free":
        return [np.arange(n)[:, None]], np.zeros(n, np.int32)
    if scheme == "within_tissue":
        return [np.flatnonzero(tissue == t)[:, None] for t in range(tissue.max() + 1)], tissue.astype(
            np.int32
        )
    donor = pd.factorize(samples_df["donor"])[0]
    if scheme == "donor_signs":
        return [np.arange(donor.max() + 1)[:, None]], tissue.astype(np.int32)
    by_set: dict[tuple[int, ...], list[np.ndarray]] = {}
    for d in range(donor.max() + 1):
        slides = np.flatnonzero(donor == d)
        slides = slides[
            np.argsort(tissue[slides], kind="stable")
        ]  # slot k of one donor matches slot k of another
        by_set.setdefault(tuple(tissue[slides]), []).append(slides)
    units = [np.stack(donors) for donors in by_set.values()]
    groups, next_group = np.empty(n, np.int32), 0
    for unit in units:
        groups[unit] = next_group + np.arange(unit.shape[1])
        next_group += unit.shape[1]
    return units, groups


def _notes(
    scheme: str, samples_df: pd.DataFrame, n_fixed: int, n_possible: int, asked: int
) -> tuple[str, ...]:
    notes = []
    if n_fixed and scheme == "within_donor_block":
        notes.append(
            f"{n_fixed} of {len(samples_df)} slides are of donors whose set of tissues no other donor "
            "shares: they stay where "
            "they are and contribute nothing"
        )
    elif n_fixed:
        counts = samples_df["tissue"].value_counts()
        alone = sorted(counts.index[counts == 1])
        notes.append(
            f"{len(alone)} tissues have one slide and contribute nothing: {', '.join(map(str, alone[:5]))}"
        )
    if scheme == "donor_signs" and samples_df["donor"].nunique() < FEW_DONORS:
        notes.append(f"{samples_df['donor'].nunique()} donors are few for donor_signs: its p are rough")
    if n_possible - 1 <= asked:
        notes.append(
            f"{asked:,} rearrangements were asked for, {n_possible:,} are possible: all of them are used "
            "once, and no p is below "
            f"{1 / n_possible:.3g}"
        )
    return tuple(notes)


def _draw(units: list[np.ndarray], n: int, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    order = np.tile(np.arange(n, dtype=np.int32), (n_permutations, 1))
    for unit in units:
        if len(unit) > 1:
            chosen = rng.permuted(np.tile(np.arange(len(unit)), (n_permutations, 1)), axis=1)
            order[:, unit.ravel()] = unit[chosen].reshape(n_permutations, -1)
    return order


def _enumerate(units: list[np.ndarray], n: int) -> np.ndarray:
    """Every rearrangement but the first, which is the identity."""
    rows = []
    for chosen in itertools.product(*(itertools.permutations(range(len(u))) for u in units)):
        order = np.arange(n, dtype=np.int32)
        for unit, c in zip(units, chosen, strict=True):
            order[unit.ravel()] = unit[list(c)].ravel()
        rows.append(order)
    return np.stack(rows[1:])


def _all_signs(n_donors: int) -> np.ndarray:
    return np.array(list(itertools.product([1, -1], repeat=n_donors)))[1:]


# -- p of given pairs -------------------------------------------------------------------------------------


def pair_p(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    permutations: Permutations,
    *,
    alternative: Literal["same_sign", "two_sided"] = "same_sign",
    covariates_df: pd.DataFrame | None = None,
    progress: bool = True,
) -> np.ndarray:
    """p = (1 + b) / (1 + N) of each pair, in the order of pairs_df; never 0.

    Parameters
    ----------
    pairs_df : gene, feature and, for `same_sign`, r.
    alternative : `same_sign` counts r* >= r for r > 0 and r* <= r for r < 0 (the paper's, with its
        negative twin); `two_sided` counts |c*| >= |c| on the covariance c of the residuals, whose mean
        under the shuffles is 0. With the groups of `within_tissue` that is the test of the partial
        correlation given all tissues.
    covariates_df : samples x columns, numeric, projected out of both sides within the groups (Freedman and
        Lane 1983; the shuffled residual is projected again). Exact only without covariates.

    Returns
    -------
    float64 [n_pairs]. Sums run in float64 and ties count as reached, so block size and threads do not matter.
    """
    if alternative not in ("same_sign", "two_sided"):
        raise ValueError(f"alternative is 'same_sign' or 'two_sided', got {alternative!r}")
    gene_names, g = np.unique(pairs_df["gene"].to_numpy(dtype=object), return_inverse=True)
    feature_names, f = np.unique(pairs_df["feature"].to_numpy(dtype=object), return_inverse=True)
    x = _residuals(log_expression_df, gene_names, permutations, "gene")
    y = _residuals(features_df, feature_names, permutations, "feature")
    basis = _covariate_basis(covariates_df, permutations)
    x, y = x - (x @ basis) @ basis.T, y - (y @ basis) @ basis.T
    x, y = _unit_length(x), _unit_length(y)
    upper = np.ones(len(pairs_df), bool) if alternative == "two_sided" else pairs_df["r"].to_numpy() > 0
    reached = np.zeros(len(pairs_df), np.int64)
    by_gene = np.argsort(g, kind="stable")
    bounds = np.searchsorted(g[by_gene], np.arange(len(gene_names) + 1))
    for k in tqdm(range(len(gene_names)), unit="gene", disable=not progress, desc=f"{permutations.scheme} p"):
        pairs = by_gene[bounds[k] : bounds[k + 1]]
        partners = y[f[pairs]]
        null = _shuffled(x[k], permutations, basis) @ partners.T  # [N, pairs of this gene]
        observed = partners @ x[k]
        if alternative == "two_sided":
            reached[pairs] = (np.abs(null) >= np.abs(observed) - TIE).sum(axis=0)
        else:
            above, below = (null >= observed - TIE).sum(axis=0), (null <= observed + TIE).sum(axis=0)
            reached[pairs] = np.where(upper[pairs], above, below)
    return (1 + reached) / (1 + len(permutations.order))


def _residuals(df: pd.DataFrame, names: Sequence, permutations: Permutations, what: str) -> np.ndarray:
    """Rows of the names, in the order of the slides, centred within the groups, float64."""
    missing = pd.Index(names).difference(df.index)
    if len(missing):
        raise ValueError(
            f"{len(missing)} {what}s of the pairs are not in the {what} table, first {list(missing[:3])}"
        )
    ids = pd.Index(permutations.sample_ids)
    if len(ids.symmetric_difference(df.columns)):
        only, lacking = df.columns.difference(ids), ids.difference(df.columns)
        raise ValueError(
            f"the {what} table and the permutations are of different samples: {len(only)} only in the "
            "table (first "
            f"{list(only[:3])}), {len(lacking)} only in the permutations (first {list(lacking[:3])})"
        )
    rows = df.loc[list(names), permutations.sample_ids].to_numpy(np.float64, copy=True)
    if not np.isfinite(rows).all():
        i, s = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(f"{what} {names[i]!r} is {rows[i, s]} in sample {ids[s]!r}: every value is needed")
    scale = np.abs(rows).max(axis=1)
    for group in np.unique(permutations.groups):
        members = permutations.groups == group
        rows[:, members] -= rows[:, members].mean(axis=1, keepdims=True)
    # what rounding leaves of a row that is constant in every group is not variation
    rows[np.abs(rows).max(axis=1) <= 1e-12 * scale] = 0
    return rows


def _unit_length(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row without variation within the groups stays 0, every shuffle ties with it and
    p is 1.
    """
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def _covariate_basis(covariates_df: pd.DataFrame | None, permutations: Permutations) -> np.ndarray:
    """Orthonormal columns [n_slides, k] of the covariates' part within the groups; k = 0 without any."""
    if covariates_df is None or covariates_df.shape[1] == 0:
        return np.zeros((len(permutations.sample_ids), 0))
    missing = covariates_df.isna().sum()
    if missing.any():
        raise ValueError(
            f"covariates with missing values: {missing[missing > 0].to_dict()}; fill them or drop the samples"
        )
    rows = _residuals(covariates_df.T, covariates_df.columns, permutations, "covariate")
    u, s, _ = np.linalg.svd(_unit_length(rows).T, full_matrices=False)
    return u[:, s > 1e-8]


def _shuffled(row: np.ndarray, permutations: Permutations, basis: np.ndarray) -> np.ndarray:
    """One gene's residuals [n_slides] under every rearrangement, [N, n_slides], again of length 1 given
    the covariates.
    """
    rows = row[permutations.order]
    if permutations.signs is not None:
        rows = rows * permutations.signs
    if basis.shape[1] and row.any():
        rows = rows / np.sqrt(
            np.maximum((row @ row) - ((rows @ basis) ** 2).sum(axis=1, keepdims=True), 1e-30)
        )
    return rows


# -- the largest statistic of a family ----------------------------------------------------------------------


def max_statistic(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    permutations: Permutations,
    *,
    pairs_df: pd.DataFrame | None = None,
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
    ValueError : samples differ, missing values, no gene or feature varies within the groups.
    """
    if statistic not in ("z", "r"):
        raise ValueError(f"statistic is 'z' or 'r', got {statistic!r}")
    x, x_varies = _varying(log_expression_df, permutations, "gene")
    y, y_varies = _varying(features_df, permutations, "feature")
    genes, features = log_expression_df.index[x_varies], features_df.index[y_varies]
    weights = _weights(x, y, permutations.groups, statistic)
    observed, best = _observed(x, y, weights, signed)
    null = _null_maxima(
        x, y, weights, permutations, signed, device, gene_block, permutation_block, use_numba, progress
    )
    exact = functools.partial(_exact_maxima, x, y, weights, permutations, signed)
    doubt = _doubt(len(y), weights, len(x))
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


def _varying(df: pd.DataFrame, permutations: Permutations, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Unit residual rows (float64) of what varies within the groups, and which rows do."""
    rows = _residuals(df, df.index, permutations, what)
    varies = rows.any(axis=1)
    if not varies.any():
        raise ValueError(
            f"no {what} of {len(df):,} varies within the groups of scheme {permutations.scheme!r}"
        )
    return _unit_length(rows[varies]), varies


class _Weights(NamedTuple):
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


def _weights(x: np.ndarray, y: np.ndarray, groups: np.ndarray, statistic: str) -> _Weights | None:
    sizes = np.bincount(groups)
    if statistic == "r" or (sizes > 0).sum() == 1:
        return None
    membership = np.eye(len(sizes))[groups]
    root = np.sqrt(np.maximum(sizes - 1, 1))
    a, b = (x * x) @ membership / root, (y * y) @ membership / root
    # a gene and a feature that vary in different tissues have a variance near 0; a tenth of the usual
    # deviation is the least
    return _Weights(a, b, 0.01 / max(len(groups) - (sizes > 0).sum(), 1))


def _largest(values: np.ndarray, weights: np.ndarray | None, signed: bool) -> np.ndarray:
    values = values if weights is None else values * weights
    return values if signed else np.abs(values)


def _observed(
    x: np.ndarray, y: np.ndarray, weights: _Weights | None, signed: bool
) -> tuple[np.ndarray, np.ndarray]:
    observed, best = np.empty(len(x)), np.empty(len(x), np.int64)
    for start in range(0, len(x), 512):
        s = slice(start, start + 512)
        values = _largest(x[s] @ y.T, None if weights is None else weights.rows(s), signed)
        best[s] = values.argmax(axis=1)
        observed[s] = values.max(axis=1)
    return observed, best


def _null_maxima(
    x: np.ndarray, y: np.ndarray, weights: _Weights | None, permutations: Permutations, signed: bool,
    device: str, gene_block: int, permutation_block: int, use_numba: bool, progress: bool,
) -> np.ndarray:  # fmt: skip
    """float32 [N, n_genes]: a block of genes under a block of rearrangements is one product, then reduced."""
    n = len(permutations.order)
    y_t = torch.from_numpy(y.astype(np.float32)).to(device)
    order_t = torch.from_numpy(np.ascontiguousarray(permutations.order.T, dtype=np.int64)).to(device)
    signs_t = None
    if permutations.signs is not None:
        signs_t = torch.from_numpy(np.ascontiguousarray(permutations.signs.T)).to(device)
    on_cpu = device == "cpu"
    reduce = _numba_maxima if on_cpu and use_numba and _kernels() is not None else _torch_maxima
    null_t = torch.empty(n, len(x), dtype=torch.float32, device=device)
    name = f"{permutations.scheme} maxima"
    bar = tqdm(total=n * len(x), unit="gene", unit_scale=True, disable=not progress, desc=name)

    def make_worker():
        out_t = torch.empty(gene_block * permutation_block * len(y), dtype=torch.float32, device=device)

        def work(g):
            genes = slice(g, min(g + gene_block, len(x)))
            block_t = torch.from_numpy(np.ascontiguousarray(x[genes].T, dtype=np.float32)).to(device)
            n_genes = block_t.shape[1]
            w_t = None
            if weights is not None:
                w_t = torch.from_numpy(weights.rows(genes).astype(np.float32)).to(device)
            for i in range(0, n, permutation_block):
                these = slice(i, min(i + permutation_block, n))
                moved_t = block_t[order_t[:, these]]  # [n_slides, rearrangements, genes]: runs of genes move
                if signs_t is not None:
                    moved_t = moved_t * signs_t[:, these, None]
                rows_t = moved_t.view(len(moved_t), -1).T
                values_t = out_t[: len(rows_t) * len(y_t)].view(len(rows_t), len(y_t))
                torch.mm(rows_t, y_t.T, out=values_t)
                null_t[these, genes] = reduce(values_t, w_t, signed).view(-1, n_genes)
                bar.update(len(rows_t))

        return work

    blocks = range(0, len(x), gene_block)
    if on_cpu:
        each_block(blocks, make_worker)
    else:
        with full_precision():
            work = make_worker()
            for g in blocks:
                work(g)
    bar.close()
    return null_t.cpu().numpy()


def _torch_maxima(values_t: torch.Tensor, w_t: torch.Tensor | None, signed: bool) -> torch.Tensor:
    """Largest weighted value of each row; rows are rearrangements x genes, w_t has one row for each gene."""
    if w_t is not None:
        values_t.view(-1, *w_t.shape).mul_(w_t)
    lowest, highest = torch.aminmax(values_t, dim=1)
    return highest if signed else torch.maximum(highest, -lowest)


def _numba_maxima(values_t: torch.Tensor, w_t: torch.Tensor | None, signed: bool) -> torch.Tensor:
    kernels, result = _kernels(), np.empty(len(values_t), np.float32)
    if w_t is None:
        kernels.plain(values_t.numpy(), signed, result)
    else:
        kernels.weighted(values_t.numpy(), w_t.numpy(), signed, result)
    return torch.from_numpy(result)


@functools.cache
def _kernels() -> SimpleNamespace | None:
    """Compile the reductions at first use; None without numba (torch does the same)."""
    try:
        import numba
    except ImportError:
        return None

    def plain(values, signed, result):
        for i in range(values.shape[0]):
            row, highest, lowest = values[i], values[i, 0], values[i, 0]
            for j in range(values.shape[1]):
                highest, lowest = max(highest, row[j]), min(lowest, row[j])
            result[i] = highest if signed else max(highest, -lowest)

    def weighted(values, weights, signed, result):
        for i in range(values.shape[0]):
            row, w = values[i], weights[i % weights.shape[0]]
            highest = lowest = row[0] * w[0]
            for j in range(values.shape[1]):
                v = row[j] * w[j]
                highest, lowest = max(highest, v), min(lowest, v)
            result[i] = highest if signed else max(highest, -lowest)

    fast = numba.njit(nogil=True, fastmath={"nnan", "nsz", "reassoc"})
    return SimpleNamespace(plain=fast(plain), weighted=fast(weighted))


def _exact_maxima(
    x: np.ndarray, y: np.ndarray, weights: _Weights | None, permutations: Permutations, signed: bool,
    which: np.ndarray, genes: np.ndarray,
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
    return result


def _doubt(n_features: int, weights: _Weights | None, n_genes: int) -> np.ndarray:
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
    for k, g in enumerate(genes):
        column = null[:, g]
        above = column >= observed[k] + doubt[g]
        near = np.flatnonzero(~above & (column >= observed[k] - doubt[g]))
        reached[k] = above.sum()
        if len(near):
            which.append(near)
            pair.append(np.full(len(near), k))
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


# -- false discovery rates ----------------------------------------------------------------------------------


def q_from_histogram(
    histogram_df: pd.DataFrame, n_slides: int, method: Literal["bh", "by"] = "bh", n_conditions: int = 0
) -> pd.DataFrame:
    """q-values over all tested pairs from the histogram of r, two-sided, parametric null (t with n - 2
    degrees of freedom).

    p falls as |r| grows, so Benjamini-Hochberg needs only how many pairs reach each |r|. At a bin's edge q
    is exact; between edges the lower edge's is used (`q_of`), which is never too small. `by` holds under
    any dependence (Benjamini and Yekutieli).

    Parameters
    ----------
    histogram_df : r_low, r_high, count, symmetric bins over [-1, 1] (`correlation.correlate`).
    n_conditions : columns conditioned on, when r are partial correlations.

    Returns
    -------
    r_abs (lower edge, rising), n_pairs (with |r| >= it), p, q.
    """
    if method not in ("bh", "by"):
        raise ValueError(f"method is 'bh' or 'by', got {method!r}")
    df = n_slides - 2 - n_conditions
    if df < 1:
        raise ValueError(f"{n_slides} slides and {n_conditions} conditions leave {df} degrees of freedom")
    low, high = histogram_df["r_low"].to_numpy(), histogram_df["r_high"].to_numpy()
    counts = histogram_df["count"].to_numpy()
    if not np.allclose(low, -high[::-1]):
        raise ValueError("the bins of the histogram are not symmetric about 0")
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
    """Smallest |r| (an edge) with q at or below q_threshold; infinity if none has."""
    passing = q_df["r_abs"][(q_df["q"] <= q_threshold) & (q_df["n_pairs"] > 0)]
    return float(passing.min()) if len(passing) else math.inf


def bh(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values, in the order of p."""
    p = np.asarray(p, float)
    if len(p) == 0:
        return p
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must lie in [0, 1]")
    by_p = np.argsort(p)
    q = np.minimum.accumulate((p[by_p] * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    result = np.empty(len(p))
    result[by_p] = np.minimum(q, 1)
    return result


def hierarchical_q(gene_p: np.ndarray, pair_p_gene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q of genes, and of pairs within the genes found, as eQTL mapping does it.

    Level 1: BH over the genes' max-statistic p. Level 2: at level q with R of G genes found, a pair is
    found if its own p in the family of its gene is at or below q R / G (Benjamini and Bogomolov 2014). A
    pair's q is the least q at which it is found; it is never below its gene's. No p is below 1 / (N + 1),
    so k genes at that least p are found only if N + 1 >= G / (q k): many genes and few strong ones need
    more permutations.

    Parameters
    ----------
    gene_p : p_gene of all G genes tested. pair_p_gene : p of pairs in their gene's family
        (`MaxStatistic.tested_df`).

    Returns
    -------
    q of the genes, q of the pairs, in the given orders.
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
