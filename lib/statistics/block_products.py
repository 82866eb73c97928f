"""One pass over all gene x feature products: the histogram of r by layer, and the pairs beyond a threshold.

Each block of the product is scanned once, while it is still in the cache; the dense matrix is never held.
"""

import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from lib.statistics.blocks import each_block

N_BINS = 4000  # of the histogram of r over [-1, 1]: bins 0.0005 wide, so that every R_T used is an edge


def runs(layers: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Columns at which runs of one layer start, with the end appended, and the layer of each run."""
    starts = np.flatnonzero(np.r_[True, layers[1:] != layers[:-1]])
    return np.r_[starts, len(layers)].astype(np.int64), layers[starts].tolist()


def all_pairs(
    x: np.ndarray, y: np.ndarray, starts: np.ndarray, r_threshold: float, negative: bool, gene_block: int,
    max_pairs: int, use_numba: bool = True, progress: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Histogram [n_runs, N_BINS] of r and the candidates (gene row, feature row, r as the product gave
    it).
    """
    y_t = torch.from_numpy(y)
    # float32 sums of products of unit vectors err by some 1e-7; what lies this near below R_T is looked at
    # again
    margin = 1e-5 if x.dtype == np.float32 else 1e-12
    threshold = x.dtype.type(r_threshold - margin)
    scan = _numba_scan if use_numba and _kernels() is not None else _numpy_scan
    all_counts, n_found = [], []
    bar = tqdm(total=len(x), unit="gene", disable=not progress, desc="gene x feature")

    def make_worker():
        out_t = torch.empty(min(gene_block, len(x)), len(y), dtype=y_t.dtype)
        # one bin more, for r = 1 and rounding above it
        counts = np.zeros((len(starts) - 1, N_BINS + 1), np.int64)
        all_counts.append(counts)

        def work(start):
            x_t = torch.from_numpy(x[start : start + gene_block])
            block = torch.mm(x_t, y_t.T, out=out_t[: len(x_t)]).numpy()
            rows, columns = scan(block, starts, threshold, negative, counts)
            n_found.append(len(rows))
            if sum(n_found) > max_pairs:
                raise ValueError(
                    f"more than {max_pairs:,} pairs reach |r| >= {r_threshold} with {start:,} of {len(x):,} "
                    "genes done: raise r_threshold or max_pairs"
                )
            bar.update(len(x_t))
            return rows + start, columns, block[rows, columns]

        return work

    found = each_block(range(0, len(x), gene_block), make_worker)
    bar.close()
    counts = np.sum(all_counts, axis=0)
    counts[:, N_BINS - 1] += counts[:, N_BINS]
    return counts[:, :N_BINS], *(np.concatenate(parts) for parts in zip(*found, strict=True))


def edges() -> np.ndarray:
    return (np.arange(N_BINS + 1) - N_BINS // 2) / (N_BINS // 2)  # exact decimals: 0.7 is an edge


def bin_of(r: np.ndarray) -> np.ndarray:
    """Bin of r in r's own precision; the same arithmetic in both scans."""
    one = r.dtype.type
    return np.minimum(((r + one(1)) * one(N_BINS // 2)).astype(np.int32), N_BINS - 1)


def histogram_frame(counts: np.ndarray, layers: list[int]) -> pd.DataFrame:
    at = edges()
    df = pd.DataFrame({"r_low": at[:-1], "r_high": at[1:], "count": counts.sum(axis=0)})
    by_layer = pd.DataFrame(counts.T).T.groupby(np.asarray(layers)).sum()
    return pd.concat([df, by_layer.T.rename(columns=lambda l: f"layer_{l}")], axis=1)


def _numpy_scan(block, starts, threshold, negative, counts):
    """One pass over a block of r without numba: adds to counts, returns rows and columns of the
    candidates.
    """
    for k in range(len(starts) - 1):
        part = block[:, starts[k] : starts[k + 1]]
        counts[k, :N_BINS] += np.bincount(bin_of(part).ravel(), minlength=N_BINS)
    return np.nonzero((np.abs(block) if negative else block) >= threshold)


def _numba_scan(block, starts, threshold, negative, counts):
    """The same in one fused pass; rows with a candidate are looked at a second time."""
    reaches = np.zeros(len(block), np.bool_)
    one = block.dtype.type(1)  # constants in the block's own precision: the bins are those of the numpy scan
    _kernels().scan(block, starts, threshold, one, one * block.dtype.type(N_BINS // 2), counts, reaches)
    rows = np.flatnonzero(reaches)
    inner, columns = np.nonzero((np.abs(block[rows]) if negative else block[rows]) >= threshold)
    return rows[inner], columns


@functools.cache
def _kernels() -> SimpleNamespace | None:
    """Compile the scan at first use; None where numba is missing (the numpy scan gives the same numbers)."""
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

    return SimpleNamespace(scan=numba.njit(nogil=True, fastmath={"nnan", "nsz"})(scan))
