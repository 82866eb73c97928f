"""Stored uint8 tile stacks to shuffled batches, and flips and quarter turns of a batch on the device.

A *labelled tiles* frame names one stored tile per row (`lib.tiles.stored`): `file` (path of the stack),
`stack_index` (row in it), `label` (int class, -1 for a tissue that is no class).
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lib.tiles.stored import StoredTiles

AUGMENTATIONS = ("flip", "rotate90")


class TileBatch(NamedTuple):
    """One batch as it leaves the loader, on the CPU (pinned when asked for)."""

    tiles_t: torch.Tensor  # uint8, (n, input_px, input_px, 3), RGB
    labels_t: torch.Tensor  # int64, (n,)
    rows_t: torch.Tensor  # int64, (n,): row of the labelled tiles frame


class LabelledTiles(StoredTiles, Dataset):
    """Stored tiles with their labels, -1 without a column `label`; an array of rows gives a `TileBatch`."""

    def __init__(self, tiles_df: pd.DataFrame) -> None:
        super().__init__(tiles_df)
        labels = tiles_df["label"].to_numpy(np.int64) if "label" in tiles_df else np.full(len(tiles_df), -1)
        self.labels = labels.astype(np.int64)

    def __getitem__(self, rows: np.ndarray) -> TileBatch:
        rows = np.asarray(rows, np.int64)
        pixels, labels = self.read(rows), self.labels[rows]
        return TileBatch(torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(rows.copy()))


class EpochOrder(Sampler):
    """Rows of each batch of an epoch, for this rank; the order depends on nothing but (seed, epoch).

    The n rows go into ceil(n / batch_size) batches whose sizes differ by at most one, so that none is left
    with a single tile (batch norm over 1 x 1 maps fails on it). Every batch is divided over the ranks. Set
    `epoch` before iterating.
    """

    def __init__(
        self, n_rows: int, batch_size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> None:
        self.n_rows, self.batch_size, self.shuffle, self.seed = n_rows, batch_size, shuffle, seed
        self.rank, self.n_ranks, self.epoch = rank, n_ranks, 0
        if min(self.sizes()) < n_ranks:
            raise ValueError(
                f"{n_rows} tiles in batches of up to {batch_size} leave some of the {n_ranks} processes "
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


def tile_loader(
    tiles_df: pd.DataFrame,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    n_workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    n_ranks: int = 1,
) -> DataLoader:
    """Loader of `TileBatch`es over labelled tiles; `loader.sampler.epoch = e` chooses the order of epoch e.

    Parameters
    ----------
    tiles_df : columns file, stack_index and, unless only predicting, label
    batch_size : tiles per batch over all ranks, at most
    n_workers : loader processes; 0 reads in this one. The batches are the same for any number.
    rank, n_ranks : this process among those that share every batch

    Raises
    ------
    FileNotFoundError, ValueError
        As `StoredTiles`; a batch size or worker number out of range.
    """
    if batch_size < 1 or n_workers < 0:
        raise ValueError(
            f"batch_size must be 1 or more and n_workers 0 or more, not {batch_size} and {n_workers}"
        )
    dataset = LabelledTiles(tiles_df)
    order = EpochOrder(len(dataset), batch_size, shuffle=shuffle, seed=seed, rank=rank, n_ranks=n_ranks)
    return DataLoader(
        dataset,
        sampler=order,
        batch_size=None,  # the sampler already gives whole batches
        num_workers=n_workers,
        pin_memory=pin_memory,
        persistent_workers=n_workers > 0,
        prefetch_factor=4 if n_workers else None,
        generator=torch.Generator().manual_seed(0),  # else each epoch would draw from the global generator
    )


def default_workers(device: torch.device) -> int:
    """Loader processes by default: none beside a CPU step (far slower than a read), up to 8 for a GPU."""
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores - 1))


def orientations(n_rows: int, augment: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """Orientation of every row in this epoch, int64 (n_rows,): quarter turns (0 to 3), plus 4 if mirrored.

    "flip" draws from {as is, left-right, up-down, both}, "rotate90" from the four quarter turns, both
    together from all eight.

    Raises
    ------
    ValueError
        A name that is not among `AUGMENTATIONS`.
    """
    unknown = sorted(set(augment) - set(AUGMENTATIONS))
    if unknown:
        raise ValueError(
            f"unknown augmentation {unknown}: choose among {list(AUGMENTATIONS)}, or () for none"
        )
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
