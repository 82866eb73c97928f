"""All gene x feature products in blocks: the histogram of r by layer, and the pairs beyond a threshold.

Each block of the product is scanned once, while it is still in the cache; the dense matrix is never held.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from lib.errors import InputError

N_BINS = 4000  # of the histogram of r over [-1, 1]: bins 0.0005 wide, so that every R_T used is an edge
GENE_BLOCK = 512  # genes of one product
MAX_PAIRS = 50_000_000  # more pairs over the threshold are an error instead of a full memory

Result = TypeVar("Result")


class Scan(NamedTuple):
    """What a pass over all products found.

    counts : int64 [n_runs, N_BINS], histogram of r by run of features of one layer.
    genes, features : int64 [n_pairs], rows of the pairs that may reach the threshold.
    r : [n_pairs], in the precision of the product.
    """

    counts: np.ndarray
    genes: np.ndarray
    features: np.ndarray
    r: np.ndarray


def all_pairs(
    x: np.ndarray, y: np.ndarray, starts: np.ndarray, r_threshold: float, progress: bool = True
) -> Scan:
    """Histogram of r = x . y of all pairs of rows, and the pairs with |r| at or just below r_threshold.

    Parameters
    ----------
    x, y : float32 [n_genes, n_slides] and [n_features, n_slides], rows of mean 0 and length 1.
    starts : `layer_runs` of the features.

    Raises
    ------
    ValueError : more than MAX_PAIRS pairs.
    """
    y_t = torch.from_numpy(y)
    # a float32 product of unit vectors errs by some 1e-7; what lies just below is for the caller to decide
    threshold = np.float32(r_threshold - 1e-5)
    kernel = _kernel()
    scan = functools.partial(_numba_scan, kernel) if kernel else _numpy_scan
    all_counts, n_found = [], []
    bar = tqdm(total=len(x), unit="gene", disable=not progress, desc="gene x feature")

    def make_worker():
        out_t = torch.empty(min(GENE_BLOCK, len(x)), len(y))
        # one bin more, for r = 1 and rounding above it
        counts = np.zeros((len(starts) - 1, N_BINS + 1), np.int64)
        all_counts.append(counts)

        def work(start: int):
            x_t = torch.from_numpy(x[start : start + GENE_BLOCK])
            block = torch.mm(x_t, y_t.T, out=out_t[: len(x_t)]).numpy()
            rows, columns = scan(block, starts, threshold, counts)
            n_found.append(len(rows))
            if sum(n_found) > MAX_PAIRS:
                raise InputError(
                    f"more than {MAX_PAIRS:,} pairs reach |r| >= {r_threshold} with {start:,} of {len(x):,} "
                    "genes done: raise r_threshold"
                )
            bar.update(len(x_t))
            return rows + start, columns, block[rows, columns]

        return work

    found = each_block(range(0, len(x), GENE_BLOCK), make_worker)
    bar.close()
    counts = np.sum(all_counts, axis=0)
    counts[:, N_BINS - 1] += counts[:, N_BINS]
    genes, features, r = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Scan(counts[:, :N_BINS], genes, features, r)


def layer_runs(layers: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Columns at which runs of one layer start, with the end appended, and the layer of each run."""
    starts = np.flatnonzero(np.r_[True, layers[1:] != layers[:-1]])
    return np.r_[starts, len(layers)].astype(np.int64), layers[starts].tolist()


def edges() -> np.ndarray:
    """float64 [N_BINS + 1], exact decimals: 0.7 is an edge."""
    return (np.arange(N_BINS + 1) - N_BINS // 2) / (N_BINS // 2)


def bin_of(r: np.ndarray) -> np.ndarray:
    """Bin of r in r's own precision; the same arithmetic in both scans."""
    one = r.dtype.type
    return np.minimum(((r + one(1)) * one(N_BINS // 2)).astype(np.int32), N_BINS - 1)


def histogram_frame(counts: np.ndarray, layers: list[int]) -> pd.DataFrame:
    """r_low, r_high, count, and `layer_<l>` for each layer, from the counts of runs of layers."""
    at = edges()
    columns = {"r_low": at[:-1], "r_high": at[1:], "count": counts.sum(axis=0)}
    of_run = np.asarray(layers)
    by_layer = {f"layer_{layer}": counts[of_run == layer].sum(axis=0) for layer in np.unique(of_run)}
    return pd.DataFrame(columns | by_layer)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in float32, even where a network has asked for TF32 or bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def each_block(starts: Sequence[int], make_worker: Callable[[], Callable[[int], Result]]) -> list[Result]:
    """Results of work(start) in the order of starts, on as many threads as torch may use.

    Each thread makes its own worker (with its own buffers), then takes block after block, product and scan
    alike on one core: no thread waits for another, and the block is still in that core's cache when it is
    scanned. (Two thread pools, torch's and numba's, taking turns took 1.4 to 2 times the bare product.)
    """
    mine, n_threads = threading.local(), torch.get_num_threads()

    def work(start: int) -> Result:
        if not hasattr(mine, "work"):
            mine.work = make_worker()
        return mine.work(start)

    torch.set_num_threads(1)
    try:
        with full_precision(), ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(work, starts))  # an error in one block cancels those not yet begun
    finally:
        torch.set_num_threads(n_threads)


def _numpy_scan(block, starts, threshold, counts):
    """One pass over a block of r without numba: adds to counts, returns rows and columns of candidates."""
    for k in range(len(starts) - 1):
        part = block[:, starts[k] : starts[k + 1]]
        counts[k, :N_BINS] += np.bincount(bin_of(part).ravel(), minlength=N_BINS)
    return np.nonzero(np.abs(block) >= threshold)


def _numba_scan(kernel, block, starts, threshold, counts):
    """The same in one fused pass; rows with a candidate are read a second time."""
    reaches = np.zeros(len(block), np.bool_)
    one = block.dtype.type(1)  # constants in the block's own precision: the bins are those of the numpy scan
    kernel(block, starts, threshold, one, one * block.dtype.type(N_BINS // 2), counts, reaches)
    rows = np.flatnonzero(reaches)
    inner, columns = np.nonzero(np.abs(block[rows]) >= threshold)
    return rows[inner], columns


@functools.cache
def _kernel() -> Callable | None:
    """The scan, compiled at first use; None without numba (the numpy scan gives the same numbers)."""
    try:
        import numba
    except ImportError:
        return None

    def scan(block, starts, threshold, one, scale, counts, reaches):
        for k in range(starts.shape[0] - 1):
            bins, last = counts[k], starts[k + 1]
            for i in range(block.shape[0]):
                row, highest, j = block[i], one - one, starts[k]
                while j + 4 <= last:  # four at a time: no bounds, no sign, no dependence between them
                    r0, r1, r2, r3 = row[j], row[j + 1], row[j + 2], row[j + 3]
                    b0, b1 = np.uint32((r0 + one) * scale), np.uint32((r1 + one) * scale)
                    b2, b3 = np.uint32((r2 + one) * scale), np.uint32((r3 + one) * scale)
                    highest = max(highest, max(max(abs(r0), abs(r1)), max(abs(r2), abs(r3))))
                    bins[b0] += 1
                    bins[b1] += 1
                    bins[b2] += 1
                    bins[b3] += 1
                    j += 4
                while j < last:
                    highest = max(highest, abs(row[j]))
                    bins[np.uint32((row[j] + one) * scale)] += 1
                    j += 1
                if highest >= threshold:
                    reaches[i] = True

    return numba.njit(nogil=True, fastmath={"nnan", "nsz"})(scan)
