"""The test of links on other machines: genes spread over the workers of a dask scheduler, or of Slurm.

Only the maxima under shuffles are computed there, nearly all of the work. A worker reads features and
shuffles from files in the cohort's folder, and gets the rows of its genes with each task. What its precision
leaves open is settled here in float64, so that p does not depend on who computed what.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib import cluster
from lib.config import Config
from lib.statistics import null_maxima
from lib.statistics.null_maxima import Elsewhere, Statistic
from lib.statistics.permutations import Permutations
from lib.store import Store
from lib.whole_files import whole_file

PARTS = 4  # tasks for each worker, so that a slow one does not hold up the others
FEWEST = 64  # genes of a task


@contextmanager
def elsewhere(store: Store) -> Iterator[Elsewhere | None]:
    """What `link_tests.Plan.elsewhere` takes, on the workers of `cluster` while the context lasts; None where
    it is local.

    Raises InputError where scheduler or workers cannot do the work.
    """
    config = store.config
    if config.cluster == "local":
        yield None
        return
    with cluster.workers(store, config.slurm, 1) as client, cluster.announced(store) as share:
        cluster.require_fit(client, share, [])
        spread = _Spread(client, share, config)
        try:
            yield spread
        finally:
            spread.forget()


class _Spread:
    """An `Elsewhere`: maxima of blocks of genes, each a task."""

    def __init__(self, client: Any, share: cluster.Share, config: Config) -> None:
        self.client, self.share, self.config = client, share, config
        self.written: dict[int, tuple[Any, Path]] = {}  # id -> the array, kept so that its id stays its own

    def __call__(
        self, values: Statistic, permutations: Permutations, start: int, stop: int
    ) -> tuple[np.ndarray, float]:
        features, order = self._file(values.y_t), self._file(permutations.order)
        weights = None if values.b_t is None else self._file(values.b_t)
        few = permutations._replace(order=permutations.order[:0])
        n_genes, n_workers = len(values.x_t), max(1, len(self.client.nthreads()))
        step = max(FEWEST, -(-n_genes // (PARTS * n_workers)))
        tasks = []
        for first in range(0, n_genes, step):
            at = slice(first, min(first + step, n_genes))
            rows = values.x_t[at].cpu().numpy(), None if values.a_t is None else values.a_t[at].cpu().numpy()
            arguments = first, rows, (features, weights), values.floor, few, (order, start, stop), self.config
            files = [file for file in (features, weights, order) if file]
            tasks.append(cluster.Task(_maxima, arguments, [str(g) for g in range(at.start, at.stop)], files))
        null, bound = np.empty((stop - start, n_genes), np.float32), 0.0
        how = "shuffling", self.config.cluster, "gene", False
        for first, maxima, error in cluster.gather(self.client, self.share, tasks, *how):
            null[:, first : first + maxima.shape[1]] = maxima
            bound = max(bound, error)
        return null, bound

    def _file(self, array: torch.Tensor | np.ndarray) -> Path:
        """The file of an array that all tasks need, written when it is first met."""
        if id(array) not in self.written:
            path = self.share.token.with_name(f"{self.share.token.name}-{secrets.token_hex(4)}.npy")
            with whole_file(path) as temporary:
                np.save(temporary, array.cpu().numpy() if isinstance(array, torch.Tensor) else array)
            self.written[id(array)] = array, path
        return self.written[id(array)][1]

    def forget(self) -> None:
        """Remove the files."""
        for _, path in self.written.values():
            path.unlink(missing_ok=True)


def _maxima(
    first: int, rows: tuple[np.ndarray, np.ndarray | None], of_features: tuple[Path, Path | None],
    floor: float, permutations: Permutations, part: tuple[Path, int, int], config: Config,
) -> tuple[int, np.ndarray, float]:  # fmt: skip
    """On a worker: the first gene's place, maxima of the genes under a part of the shuffles, their error."""
    with cluster.ONE_AT_A_TIME:
        weights = None if rows[1] is None else torch.from_numpy(rows[1])
        of_weights = None if of_features[1] is None else torch.from_numpy(_held(of_features[1]))
        features = torch.from_numpy(_held(of_features[0]))
        values = Statistic(torch.from_numpy(rows[0]), features, weights, of_weights, floor)
        path, start, stop = part
        these = permutations._replace(order=np.load(path, mmap_mode="r")[start:stop])
        device = config.torch_device
        return first, null_maxima.null_maxima(values, these, device, False), null_maxima.error_bound(device)


@lru_cache(maxsize=4)
def _held(path: Path) -> np.ndarray:
    """What every task needs, read once by each process."""
    return np.load(path)
