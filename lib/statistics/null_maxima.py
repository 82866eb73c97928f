"""The largest statistic of every gene over all features under every rearrangement, in blocks, on CPU or GPU.

A block of genes under a block of rearrangements is one float32 product, reduced to its row maxima while it
is still in the cache (a fused numba pass on the CPU, aminmax elsewhere).
"""

import functools
from types import SimpleNamespace

import numpy as np
import torch
from tqdm.auto import tqdm

from lib.statistics.blocks import each_block, full_precision
from lib.statistics.pair_statistic import Statistic
from lib.statistics.permutations import Permutations


def null_maxima(
    statistic: Statistic, permutations: Permutations, device: str, gene_block: int, permutation_block: int,
    use_numba: bool, progress: bool,
) -> np.ndarray:  # fmt: skip
    """float32 [N, n_genes]: a block of genes under a block of rearrangements is one product, then reduced."""
    n, n_genes = len(permutations.order), len(statistic.x_t)
    y_t = statistic.y_t.to(device, torch.float32)
    order_t = torch.from_numpy(np.ascontiguousarray(permutations.order.T, dtype=np.int64)).to(device)
    signs_t = None
    if permutations.signs is not None:
        signs_t = torch.from_numpy(np.ascontiguousarray(permutations.signs.T)).to(device)
    on_cpu = device == "cpu"
    reduce = _numba_maxima if on_cpu and use_numba and _kernels() is not None else _torch_maxima
    null_t = torch.empty(n, n_genes, dtype=torch.float32, device=device)
    name = f"{permutations.scheme} maxima"
    bar = tqdm(total=n * n_genes, unit="gene", unit_scale=True, disable=not progress, desc=name)

    def make_worker():
        out_t = torch.empty(gene_block * permutation_block * len(y_t), dtype=torch.float32, device=device)

        def work(start):
            genes = slice(start, min(start + gene_block, n_genes))
            block_t = statistic.x_t[genes].T.to(device, torch.float32).contiguous()
            w_t = statistic.weights(genes)
            w_t = None if w_t is None else w_t.to(device, torch.float32)
            for i in range(0, n, permutation_block):
                these = slice(i, min(i + permutation_block, n))
                moved_t = block_t[order_t[:, these]]  # [n_slides, rearrangements, genes]: runs of genes move
                if signs_t is not None:
                    moved_t = moved_t * signs_t[:, these, None]
                rows_t = moved_t.view(len(moved_t), -1).T
                values_t = out_t[: len(rows_t) * len(y_t)].view(len(rows_t), len(y_t))
                torch.mm(rows_t, y_t.T, out=values_t)
                null_t[these, genes] = reduce(values_t, w_t, statistic.signed).view(-1, block_t.shape[1])
                bar.update(len(rows_t))

        return work

    blocks = range(0, n_genes, gene_block)
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
    if signed:
        return values_t.amax(dim=1)
    return torch.linalg.vector_norm(values_t, torch.inf, dim=1)  # the largest absolute value, read once


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
