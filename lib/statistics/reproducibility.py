"""Do gene-feature correlations of the validation slides replicate on the test slides (S3 Fig)?

All pairs are compared block by block: two products, and one pass over both for the sums and the density.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.statistics.block_products import each_block
from lib.statistics.residuals import centre, unit_length
from lib.statistics.table_rows import MIN_SLIDES, check_none, check_same_samples, rows_of

N_BINS = 200  # on each side of the density: 0.01 wide, so that R_T is an edge
GENE_BLOCK = 512  # genes of one product
LARGEST_R = 1 - 1e-6  # atanh of 1 is infinite: r is limited to this before the Fisher transformation
THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.75, 0.8)  # of |r|; edges of the density

Tables = tuple[pd.DataFrame, pd.DataFrame]


class Reproducibility(NamedTuple):
    """Correlations of all pairs on two sets of slides, compared.

    r_raw, r_fisher : Pearson correlation over all pairs of r, and of atanh r (0.9205 and 0.9233 in the
        paper).
    density : int64 [N_BINS, N_BINS], number of pairs; rows: r of the first set (validation), columns: r of
        the second (test); edges as in `edges`.
    by_threshold_df : for each of THRESHOLDS: r_threshold, n_test (pairs with |r| >= it on the second set),
        n_first (on the first), and of those on the second the shares same_sign (on the first), replicated
        (same sign and |r| >= it there too) and expected (the share that would replicate by chance: the share
        of all pairs that pass on the first set, weighted by sign as on the second).
    n_pairs : pairs compared; genes and features constant on either set are left out.
    """

    r_raw: float
    r_fisher: float
    density: np.ndarray
    edges: np.ndarray
    by_threshold_df: pd.DataFrame
    n_pairs: int

    @property
    def z_edges(self) -> np.ndarray:
        """Edges of the density after the Fisher transformation; finite replacements for the outermost."""
        z = np.arctanh(self.edges[1:-1])
        end = np.arctanh((self.edges[-2] + 1) / 2)
        return np.r_[-end, z, end]


def compare(
    first: Tables, second: Tables, *, tissues: pd.Series | None = None, progress: bool = True
) -> Reproducibility:
    """Compare r of all pairs on two sets of slides.

    Parameters
    ----------
    first, second : (log expression, features) of the validation and of the test slides; the same genes and
        features.
    tissues : sample_id -> tissue. If given, r are within tissues: each row is centred within tissues first,
        in each set.

    Raises
    ------
    ValueError : genes, features or samples that do not match, missing values, fewer than four slides.
    """
    for what, k in (("genes", 0), ("features", 1)):
        differing = first[k].index.symmetric_difference(second[k].index)
        check_none(differing, f"{what} are in one set only")
    genes, features = first[0].index, first[1].index
    x1, y1 = _unit_rows(first, genes, features, tissues)
    x2, y2 = _unit_rows(second, genes, features, tissues)
    keep_x, keep_y = x1.any(axis=1) & x2.any(axis=1), y1.any(axis=1) & y2.any(axis=1)
    n_pairs = int(keep_x.sum()) * int(keep_y.sum())
    if not n_pairs:
        raise InputError("no gene or no feature varies on both sets of slides")
    sums, density = _sums_and_density(x1[keep_x], y1[keep_y], x2[keep_x], y2[keep_y], progress)
    return Reproducibility(
        r_raw=_pearson(n_pairs, *sums[:5]),
        r_fisher=_pearson(n_pairs, *sums[5:]),
        density=density,
        edges=(np.arange(N_BINS + 1) - N_BINS // 2) / (N_BINS // 2),
        by_threshold_df=_by_threshold(density),
        n_pairs=n_pairs,
    )


def _unit_rows(
    tables: Tables, genes: pd.Index, features: pd.Index, tissues: pd.Series | None
) -> list[np.ndarray]:
    """Both tables as float32 rows of mean 0 (within tissues, if given) and length 1; constant rows are 0."""
    ids = tables[0].columns
    check_same_samples(ids, "the expression table", tables[1].columns, "the feature table")
    if len(ids) < MIN_SLIDES:
        raise InputError(f"{len(ids)} slides: a correlation needs at least {MIN_SLIDES}")
    groups = np.zeros(len(ids), int)
    if tissues is not None:
        check_none(ids.difference(tissues.dropna().index), "samples have no tissue")
        groups = pd.factorize(tissues.loc[ids])[0]
    result = []
    for what, df, names in (("gene", tables[0], genes), ("feature", tables[1], features)):
        rows = centre(rows_of(df, names, ids, what), groups)
        result.append(unit_length(rows).astype(np.float32))
    return result


def _sums_and_density(
    x1: np.ndarray, y1: np.ndarray, x2: np.ndarray, y2: np.ndarray, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ten float64 sums (a, b, aa, bb, ab of r, then of atanh r) and the density, over all pairs."""
    y1_t, y2_t = torch.from_numpy(y1).T, torch.from_numpy(y2).T
    densities = []
    scan = _kernel() or _numpy_scan
    bar = tqdm(total=len(x1), unit="gene", disable=not progress, desc="validation against test")

    def make_worker():
        outs = [torch.empty(GENE_BLOCK, len(y1)) for _ in range(2)]
        density = np.zeros(N_BINS * N_BINS, np.int64)
        densities.append(density)

        def work(start: int) -> np.ndarray:
            x1_t, x2_t = (torch.from_numpy(x[start : start + GENE_BLOCK]) for x in (x1, x2))
            a = torch.mm(x1_t, y1_t, out=outs[0][: len(x1_t)]).numpy()
            b = torch.mm(x2_t, y2_t, out=outs[1][: len(x1_t)]).numpy()
            bar.update(len(a))
            return scan(a, b, density)

        return work

    sums = np.sum(each_block(range(0, len(x1), GENE_BLOCK), make_worker), axis=0)
    bar.close()
    return sums, np.sum(densities, axis=0).reshape(N_BINS, N_BINS)


def _numpy_scan(a: np.ndarray, b: np.ndarray, density: np.ndarray) -> np.ndarray:
    bins = [np.clip((v * np.float32(100) + np.float32(100)).astype(np.int64), 0, N_BINS - 1) for v in (a, b)]
    density += np.bincount((bins[0] * N_BINS + bins[1]).ravel(), minlength=N_BINS * N_BINS)
    a, b = (np.clip(v.astype(np.float64), -LARGEST_R, LARGEST_R) for v in (a, b))
    z = np.arctanh(a), np.arctanh(b)
    return np.array(
        [s for u, v in ((a, b), z) for s in (u.sum(), v.sum(), (u * u).sum(), (v * v).sum(), (u * v).sum())]
    )


@functools.cache
def _kernel() -> Callable | None:
    """The pass, compiled at first use; None without numba."""
    try:
        import numba
    except ImportError:
        return None

    def scan(a, b, density):
        scale = np.float32(N_BINS // 2)
        sums = np.zeros(10)
        for i in range(a.shape[0]):
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = 0.0
            for j in range(a.shape[1]):
                u, v = a[i, j], b[i, j]
                row = min(max(np.int32(u * scale + scale), 0), N_BINS - 1)
                column = min(max(np.int32(v * scale + scale), 0), N_BINS - 1)
                density[np.uint32(row * N_BINS + column)] += 1
                r = min(max(np.float64(u), -LARGEST_R), LARGEST_R)
                t = min(max(np.float64(v), -LARGEST_R), LARGEST_R)
                z, w = 0.5 * np.log((1 + r) / (1 - r)), 0.5 * np.log((1 + t) / (1 - t))
                s0, s1, s2, s3, s4 = s0 + r, s1 + t, s2 + r * r, s3 + t * t, s4 + r * t
                s5, s6, s7, s8, s9 = s5 + z, s6 + w, s7 + z * z, s8 + w * w, s9 + z * w
            sums += np.array([s0, s1, s2, s3, s4, s5, s6, s7, s8, s9])
        return sums

    return numba.njit(nogil=True)(scan)


def _pearson(n: int, a: float, b: float, aa: float, bb: float, ab: float) -> float:
    spread = (aa - a * a / n) * (bb - b * b / n)
    if n < 2 or spread <= 0:
        raise InputError(f"r of {n} pairs does not vary on one of the sets: their correlation is undefined")
    return float((ab - a * b / n) / np.sqrt(spread))


def _by_threshold(density: np.ndarray) -> pd.DataFrame:
    middle, n_pairs, rows = N_BINS // 2, int(density.sum()), []
    for threshold in THRESHOLDS:
        k = round(threshold * middle)
        up, down = slice(middle + k, None), slice(0, middle - k)
        n_up, n_down = int(density[:, up].sum()), int(density[:, down].sum())
        same = int(density[middle:, up].sum() + density[:middle, down].sum())
        both = int(density[up, up].sum() + density[down, down].sum())
        first_up, first_down = int(density[up].sum()), int(density[down].sum())
        n_test = n_up + n_down
        rows.append({
            "r_threshold": threshold, "n_test": n_test, "n_first": first_up + first_down,
            "same_sign": same / n_test if n_test else 0.0, "replicated": both / n_test if n_test else 0.0,
            "expected": (n_up * first_up + n_down * first_down) / n_test / n_pairs if n_test else 0.0,
        })  # fmt: skip
    return pd.DataFrame(rows)
