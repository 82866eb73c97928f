"""Batches of stored tiles in the order of an epoch, and flips and quarter turns of a batch on the device.

A *labelled tiles* frame names one stored tile per row (`lib.tiles.stored`): `file` (path of the tile stack),
`stack_index` (position in it), `label` (int class, -1 for a tissue that is not a class).
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from lib.errors import InputError
from lib.tiles.stored import StoredTiles, in_threads


class TileBatch(NamedTuple):
    """One batch as it leaves the loader, on the CPU (pinned for a GPU)."""

    tiles_t: torch.Tensor  # uint8, (n, input_px, input_px, 3), RGB
    labels_t: torch.Tensor  # int64, (n,)
    rows_t: torch.Tensor  # int64, (n,): row of the labelled tiles frame


class LabelledTiles(StoredTiles):
    """Stored tiles with their labels, -1 without a column `label`."""

    def __init__(self, tiles_df: pd.DataFrame) -> None:
        super().__init__(tiles_df)
        self.require_slides(np.arange(len(tiles_df)))
        labels = tiles_df["label"].to_numpy(np.int64) if "label" in tiles_df else np.full(len(tiles_df), -1)
        self.labels = labels.astype(np.int64)

    def batch(self, rows: np.ndarray, pinned: bool = False) -> TileBatch:
        """Some rows as a batch, in pinned memory or not."""
        rows = np.array(rows, np.int64)
        tiles_t = read_tensor(self, rows, pinned)
        labels_t = torch.from_numpy(self.labels[rows])
        return TileBatch(tiles_t, labels_t.pin_memory() if pinned else labels_t, torch.from_numpy(rows))


def read_tensor(tiles: StoredTiles, rows: np.ndarray, pinned: bool = False) -> torch.Tensor:
    """Tiles of some rows, uint8 (n, input_px, input_px, 3), in pinned memory or not."""
    shape = (len(rows), tiles.input_px, tiles.input_px, 3)
    tiles_t = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    tiles.read(rows, tiles_t.numpy())
    return tiles_t


class EpochOrder:
    """Rows of each batch of an epoch, for this rank; the order depends on nothing but (seed, epoch).

    The n rows go into ceil(n / batch_size) batches whose sizes differ by at most one, so that none is left
    with a single tile (batch norm over 1 x 1 maps fails on it). Every batch is divided over the ranks. Set
    `epoch` before iterating.
    """

    def __init__(
        self, n_rows: int, batch_size: int, *, shuffle: bool, seed: int = 0, ranks: tuple[int, int] = (0, 1)
    ) -> None:
        self.n_rows, self.batch_size, self.shuffle, self.seed = n_rows, batch_size, shuffle, seed
        (self.rank, self.n_ranks), self.epoch = ranks, 0
        if min(self.sizes()) < self.n_ranks:
            raise InputError(
                f"{n_rows} tiles in batches of up to {batch_size} leave some of the {self.n_ranks} processes "
                "without a tile: raise batch_size or start fewer processes"
            )

    def __len__(self) -> int:
        return -(-self.n_rows // self.batch_size)

    def sizes(self) -> list[int]:
        """Tiles of each batch over all ranks."""
        return [len(rows) for rows in np.array_split(np.empty(self.n_rows, np.bool_), len(self))]

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.arange(self.n_rows)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_rows)
        for batch in np.array_split(order, len(self)):
            yield batch[self.rank :: self.n_ranks]


class TileLoader:
    """Iterates over `TileBatch`es of labelled tiles; `loader.sampler.epoch = e` chooses the order of epoch e.

    Threads read batches ahead, for a GPU straight into pinned memory, which torch's host allocator hands out
    again once the copy to the GPU is done: no processes, no shared memory.

    Parameters
    ----------
    tiles_df : columns file, stack_index and, unless only predicting, label
    batch_size : tiles per batch over all ranks, at most
    device : where the batches go
    n_workers : threads that read; 0 reads in this one, -1 chooses: none beside a CPU, whose step takes far
        longer than reading a batch, else up to 2. The batches are the same for any number.
    ranks : this process's number and the number of those that share every batch

    Raises
    ------
    FileNotFoundError, ValueError
        As `StoredTiles`; a batch size below 1.
    """

    def __init__(
        self,
        tiles_df: pd.DataFrame,
        batch_size: int,
        device: torch.device,
        *,
        shuffle: bool = False,
        seed: int = 0,
        n_workers: int = -1,
        ranks: tuple[int, int] = (0, 1),
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be 1 or more, not {batch_size}")
        if n_workers < 0:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            n_workers = 0 if device.type == "cpu" else min(2, max(1, cores - 1))
        self.n_workers, self.pinned = n_workers, device.type == "cuda"
        self.dataset = LabelledTiles(tiles_df)
        self.sampler = EpochOrder(len(tiles_df), batch_size, shuffle=shuffle, seed=seed, ranks=ranks)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[TileBatch]:
        if not self.n_workers:
            yield from map(self._batch, self.sampler)
            return
        yield from in_threads(self._batch, self.sampler, self.n_workers, 2 * self.n_workers)

    def _batch(self, rows: np.ndarray) -> TileBatch:
        return self.dataset.batch(rows, pinned=self.pinned)


def orientations(n_rows: int, augment: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """Orientation of every row in this epoch, int64 (n_rows,): quarter turns (0 to 3), plus 4 if mirrored.

    "flip" draws from {unchanged, left-right, up-down, both}, "rotate90" from the four quarter turns, the two
    together from all eight orientations.
    """
    choices = {(): [0], ("flip",): [0, 2, 4, 6], ("rotate90",): [0, 1, 2, 3]}.get(
        tuple(sorted(set(augment))), range(8)
    )
    return np.random.default_rng([seed, epoch, 1]).choice(np.array(choices, np.int64), n_rows)


def orient(tiles_t: torch.Tensor, codes: np.ndarray) -> torch.Tensor:
    """Turn and mirror each tile by its orientation code; uint8 (n, px, px, 3) in and out, on any device."""
    if not codes.any():
        return tiles_t
    oriented_t = tiles_t.clone()
    for code in np.unique(codes[codes > 0]):
        chosen_t = torch.from_numpy(np.flatnonzero(codes == code)).to(tiles_t.device)
        turned_t = torch.rot90(tiles_t.index_select(0, chosen_t), int(code) % 4, dims=(1, 2))
        oriented_t.index_copy_(0, chosen_t, turned_t.flip(2) if code >= 4 else turned_t)
    return oriented_t
