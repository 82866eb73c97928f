"""Permutation p with sequential stopping: a gene stops once enough shuffles have reached its statistic.

Besag and Clifford (1991, Biometrika 78:301): with the h-th exceedance at the m-th shuffle p = h / m; with
fewer than h among all N, p = (1 + b) / (1 + N). Both are valid p, so that genes without a link cost some tens
of shuffles and those with one reach as far as N.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

TIE = 1e-9  # statistics this close are equal: the same sum in another order
FIRST_BATCH = 32
LARGEST_BATCH = 512

Maxima = Callable[[int, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]


class SequentialP(NamedTuple):
    """p of each gene, and the null maxima that were drawn on the way.

    p : float64 [n_genes].
    n_permutations : int64 [n_genes], shuffles that p rests on.
    n_reached : int64 [n_genes], how many of them reached the gene's statistic.
    batches : (genes, float32 [shuffles, genes]) of each batch, in the order of the shuffles.
    """

    p: np.ndarray
    n_permutations: np.ndarray
    n_reached: np.ndarray
    batches: list[tuple[np.ndarray, np.ndarray]]

    def null_of(self, gene: int) -> np.ndarray:
        """float32: the null maxima that the gene's p rests on, in the order of the shuffles."""
        columns = []
        for genes, maxima in self.batches:
            at = np.searchsorted(genes, gene)
            if at == len(genes) or genes[at] != gene:
                break
            columns.append(maxima[:, at])
        return np.concatenate(columns)[: self.n_permutations[gene]] if columns else np.empty(0, np.float32)

    def of_all_genes(self) -> np.ndarray:
        """float32 [shuffles, n_genes]: the first shuffles, which every gene has been through."""
        return np.concatenate([maxima for genes, maxima in self.batches if len(genes) == len(self.p)])


def batches(n_permutations: int) -> Iterator[tuple[int, int]]:
    """Bounds of successive batches of shuffles: each as long as all before it, up to LARGEST_BATCH."""
    start = 0
    while start < n_permutations:
        stop = min(start + min(max(start, FIRST_BATCH), LARGEST_BATCH), n_permutations)
        yield start, stop
        start = stop


def reaches(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Whether null values reach the observed statistic; ties count."""
    return values >= observed - TIE * (1 + np.abs(observed))


def sequential_p(
    observed: np.ndarray, n_permutations: int, maxima: Maxima, exact: Exact, h: int, of_all: int = 0
) -> SequentialP:
    """p of each gene's observed statistic, shuffles drawn in batches until h of them have reached it.

    Parameters
    ----------
    observed : float64 [n_genes].
    n_permutations : cap, shuffles that a gene without h exceedances is held against.
    maxima : of shuffles start to stop of the genes given, float32 [stop - start, n], and how far these can be
        from the exact values, float64 [n].
    exact : float64 [n_cases], the null value of gene genes[k] under shuffle which[k].
    h : exceedances after which a gene stops.
    of_all : maxima of at least this many shuffles (the first) are drawn for every gene; p does not change.
    """
    n = len(observed)
    p, used, reached = np.ones(n), np.zeros(n, np.int64), np.zeros(n, np.int64)
    open_, kept = np.ones(n, bool), []
    for start, stop in batches(n_permutations):
        drawn = np.arange(n) if start < of_all else np.flatnonzero(open_)
        if not len(drawn) or (start >= of_all and not open_.any()):
            break
        values, doubt = maxima(start, stop, drawn)
        kept.append((drawn, values))
        at = np.flatnonzero(open_[drawn])
        genes = drawn[at]
        hits = _hits(values[:, at], observed[genes], doubt[at], start, genes, exact)
        counts = reached[genes] + np.cumsum(hits, axis=0)
        done = counts[-1] >= h if len(genes) else np.zeros(0, bool)
        last = np.argmax(counts[:, done] >= h, axis=0)  # the first shuffle with h exceedances
        used[genes[done]], reached[genes[done]] = start + last + 1, h
        p[genes[done]] = h / used[genes[done]]
        open_[genes[done]] = False
        reached[genes[~done]] = counts[-1, ~done]
    used[open_] = n_permutations
    p[open_] = (1 + reached[open_]) / (1 + n_permutations)
    return SequentialP(p, used, reached, kept)


def _hits(
    values: np.ndarray, observed: np.ndarray, doubt: np.ndarray, start: int, genes: np.ndarray, exact: Exact
) -> np.ndarray:
    """Which null values reach the observed statistic, those too near to call settled in float64."""
    hits = values >= observed + doubt
    which, column = np.nonzero(~hits & (values >= observed - doubt))
    if len(which):
        settled = exact(which + start, genes[column])
        hits[which, column] = reaches(settled, observed[column])
    return hits


def genes_needed(n_genes: int, n_permutations: int, q_threshold: float) -> int:
    """How many genes have to reach the smallest possible p for Benjamini-Hochberg to call any of them."""
    return max(1, int(np.ceil(n_genes / (q_threshold * (n_permutations + 1)) - 1e-9)))
