"""The statistic z of a pair under shuffles within groups, and each gene's largest under every rearrangement.

z is the covariance of the residuals of gene and feature, each centred within its groups, over its standard
deviation under shuffles within the groups, sqrt(sum over groups of Sxx Syy / (n - 1)), so that a feature
whose variation lies in one small tissue does not raise the bar for all others. With one group it is
r sqrt(n - 1).

A block of genes under a block of rearrangements is one float32 product, reduced to its row maxima while it
is still in the cache (a fused numba pass on the CPU, torch elsewhere). Single values are float64.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from lib.statistics import triton_maxima
from lib.statistics.block_products import each_block, full_precision
from lib.statistics.permutations import Permutations

BLOCK_BYTES = 64_000_000  # of one block of float64 values
CPU_BLOCK = (64, 8)  # genes and rearrangements of one product: it fits the cache of a core
GPU_BLOCK = (1024, 16)  # it fills a GPU
HALF_BLOCK = 128  # rearrangements of one launch of the half-precision kernel
FLOAT32_ERROR = 1e-6  # bound on the error of a float32 product of two unit rows of some thousand slides

# (statistic of some genes, permutations, start, stop) -> `null_maxima` of that part, and its `error_bound`.
Elsewhere = Callable[["Statistic", Permutations, int, int], tuple[np.ndarray, float]]


class Statistic(NamedTuple):
    """Unit residual rows and the weights of their products; the statistic is |x . y| times the weight.

    x_t, y_t : float64 [n_genes, n_slides] and [n_features, n_slides].
    a_t, b_t : float64 [n_genes, n_groups] and [n_features, n_groups]; the weight is
        max(a . b, floor) ** -0.5. None: every weight is 1.
    """

    x_t: torch.Tensor
    y_t: torch.Tensor
    a_t: torch.Tensor | None = None
    b_t: torch.Tensor | None = None
    floor: float = 0.0

    def weights(self, genes: slice | torch.Tensor) -> torch.Tensor | None:
        """float64 [genes, n_features], or None where all are 1."""
        if self.a_t is None or self.b_t is None:
            return None
        return (self.a_t[genes] @ self.b_t.T).clamp_min_(self.floor).rsqrt_()

    def weights_of_pairs(self, genes: np.ndarray, features: np.ndarray) -> np.ndarray:
        """float64 [n_pairs]: weight of row genes[k] with row features[k]."""
        if self.a_t is None or self.b_t is None:
            return np.ones(len(genes))
        g, f = (torch.from_numpy(rows).to(self.a_t.device) for rows in (genes, features))
        return (self.a_t[g] * self.b_t[f]).sum(dim=1).clamp_min_(self.floor).rsqrt_().cpu().numpy()


def prepare(x: np.ndarray, y: np.ndarray, groups: np.ndarray, device: str) -> Statistic:
    """Rows of length 1 (float64, centred within the groups) as a `Statistic` on the device."""
    device = "cpu" if device.startswith("mps") else device  # Apple's GPUs have no float64
    x_t, y_t = (torch.from_numpy(np.ascontiguousarray(rows)).to(device) for rows in (x, y))
    sizes = np.bincount(groups)
    root = torch.from_numpy(np.sqrt(np.maximum(sizes - 1, 1))).to(device)
    membership = torch.from_numpy(np.eye(len(sizes))[groups]).to(device)
    a_t, b_t = ((rows * rows) @ membership / root for rows in (x_t, y_t))
    # a gene and a feature that vary in different tissues have a variance near 0; a tenth of the usual
    # deviation is the least
    return Statistic(x_t, y_t, a_t, b_t, 0.01 / max(len(groups) - (sizes > 0).sum(), 1))


def of_pairs(s: Statistic, genes: np.ndarray, features: np.ndarray) -> np.ndarray:
    """float64 [n_pairs]: the statistic of row genes[k] with row features[k]."""
    result = np.empty(len(genes))
    for at in blocks(len(genes), s.x_t.shape[1]):
        g, f = (torch.from_numpy(rows[at]).to(s.x_t.device) for rows in (genes, features))
        values_t = (s.x_t[g] * s.y_t[f]).sum(dim=1)
        if s.a_t is not None and s.b_t is not None:
            values_t *= (s.a_t[g] * s.b_t[f]).sum(dim=1).clamp_min_(s.floor).rsqrt_()
        result[at] = values_t.abs_().cpu().numpy()
    return result


def exact_maxima(
    s: Statistic, permutations: Permutations, which: np.ndarray, genes: np.ndarray
) -> np.ndarray:
    """float64 [n_cases]: the maximum over features of gene genes[k] under rearrangement which[k]."""
    result = np.empty(len(genes))
    for at in blocks(len(genes), len(s.y_t), s.x_t.device.type):
        g = torch.from_numpy(genes[at]).to(s.x_t.device)
        order_t = torch.from_numpy(permutations.order[which[at]].astype(np.int64)).to(s.x_t.device)
        rows_t = s.x_t[g].gather(1, order_t)
        values_t, w_t = rows_t @ s.y_t.T, s.weights(g)
        if w_t is not None:
            values_t *= w_t
        result[at] = values_t.abs_().amax(dim=1).cpu().numpy()
    return result


def error_bound(device: str) -> float:
    """How far `null_maxima` can be from the exact maximum, as a multiple of the gene's largest weight."""
    return triton_maxima.HALF_ERROR if triton_maxima.available(device) else FLOAT32_ERROR


def null_maxima(statistic: Statistic, permutations: Permutations, device: str, progress: bool) -> np.ndarray:
    """float32 [N, n_genes]: the maximum over features of every gene under every rearrangement."""
    if statistic.a_t is not None and statistic.b_t is not None and triton_maxima.available(device):
        weights = statistic.a_t.to(device), statistic.b_t.to(device)
        return _half_maxima(statistic, weights, permutations, device, progress)
    n, n_genes = len(permutations.order), len(statistic.x_t)
    y_t = statistic.y_t.to(device, torch.float32)
    order_t = torch.from_numpy(np.ascontiguousarray(permutations.order.T, dtype=np.int64)).to(device)
    on_cpu = device == "cpu"
    gene_block, permutation_block = CPU_BLOCK if on_cpu else GPU_BLOCK
    kernels = _kernels() if on_cpu else None
    reduce = functools.partial(_numba_maxima, *kernels) if kernels else _torch_maxima
    null_t = torch.empty(n, n_genes, dtype=torch.float32, device=device)
    name = f"{permutations.scheme} maxima"
    bar = tqdm(total=n * n_genes, unit="gene", unit_scale=True, disable=not progress, desc=name)

    def make_worker():
        out_t = torch.empty(gene_block * permutation_block * len(y_t), dtype=torch.float32, device=device)

        def work(start: int) -> None:
            genes = slice(start, min(start + gene_block, n_genes))
            block_t = statistic.x_t[genes].T.to(device, torch.float32).contiguous()
            w_t = statistic.weights(genes)
            w_t = None if w_t is None else w_t.to(device, torch.float32)
            for i in range(0, n, permutation_block):
                these = slice(i, min(i + permutation_block, n))
                moved_t = block_t[order_t[:, these]]  # [n_slides, rearrangements, genes]: runs of genes move
                rows_t = moved_t.view(len(moved_t), -1).T
                values_t = out_t[: len(rows_t) * len(y_t)].view(len(rows_t), len(y_t))
                torch.mm(rows_t, y_t.T, out=values_t)
                null_t[these, genes] = reduce(values_t, w_t).view(-1, block_t.shape[1])
                bar.update(len(rows_t))

        return work

    starts = range(0, n_genes, gene_block)
    if on_cpu:
        each_block(starts, make_worker)
    else:
        with full_precision():
            work = make_worker()
            for g in starts:
                work(g)
    bar.close()
    return null_t.cpu().numpy()


def _half_maxima(
    statistic: Statistic, weights: tuple[torch.Tensor, torch.Tensor], permutations: Permutations,
    device: str, progress: bool,
) -> np.ndarray:  # fmt: skip
    """The same on tensor cores (`triton_maxima`); weights are a_t, b_t of the statistic on the device."""
    n, n_genes = len(permutations.order), len(statistic.x_t)
    x_t, y_t = (triton_maxima.transposed_half(rows_t.to(device)) for rows_t in (statistic.x_t, statistic.y_t))
    a_t = triton_maxima.padded_groups(weights[0], x_t.shape[1])
    b_t = triton_maxima.padded_groups(weights[1], y_t.shape[1])
    order_t = triton_maxima.padded_order(permutations.order, len(x_t), device)
    null_t = torch.empty(n, n_genes, dtype=torch.float32, device=device)
    for i in tqdm(range(0, n, HALF_BLOCK), disable=not progress, desc=f"{permutations.scheme} maxima"):
        these = slice(i, i + HALF_BLOCK)
        null_t[these] = triton_maxima.maxima(x_t, y_t, order_t[these], a_t, b_t, statistic.floor, n_genes)
    return null_t.cpu().numpy()


def blocks(n_rows: int, n_columns: int, device: str = "cpu") -> Sequence[slice]:
    """Slices of rows whose float64 values fit a block of BLOCK_BYTES (on a GPU, ten times that)."""
    step = max(1, BLOCK_BYTES * (1 if device == "cpu" else 10) // (8 * max(n_columns, 1)))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def _torch_maxima(values_t: torch.Tensor, w_t: torch.Tensor | None) -> torch.Tensor:
    """Largest weighted |value| of each row; rows are rearrangements x genes, w_t has a row for each gene."""
    if w_t is not None:
        values_t.view(-1, *w_t.shape).mul_(w_t)
    return torch.linalg.vector_norm(values_t, torch.inf, dim=1)  # each value is read once


def _numba_maxima(
    plain: Callable, weighted: Callable, values_t: torch.Tensor, w_t: torch.Tensor | None
) -> torch.Tensor:
    result = np.empty(len(values_t), np.float32)
    if w_t is None:
        plain(values_t.numpy(), result)
    else:
        weighted(values_t.numpy(), w_t.numpy(), result)
    return torch.from_numpy(result)


@functools.cache
def _kernels() -> tuple[Callable, Callable] | None:
    """The reductions (plain, weighted), compiled at first use; None without numba (torch does the same)."""
    try:
        import numba
    except ImportError:
        return None

    def plain(values, result):
        for i in range(values.shape[0]):
            row, highest, lowest = values[i], values[i, 0], values[i, 0]
            for j in range(values.shape[1]):
                highest, lowest = max(highest, row[j]), min(lowest, row[j])
            result[i] = max(highest, -lowest)

    def weighted(values, weights, result):
        for i in range(values.shape[0]):
            row, w = values[i], weights[i % weights.shape[0]]
            highest = lowest = row[0] * w[0]
            for j in range(values.shape[1]):
                v = row[j] * w[j]
                highest, lowest = max(highest, v), min(lowest, v)
            result[i] = max(highest, -lowest)

    fast = numba.njit(nogil=True, fastmath={"nnan", "nsz", "reassoc"})
    return fast(plain), fast(weighted)
