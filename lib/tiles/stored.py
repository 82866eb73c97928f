"""The one reader of stored tiles: rows of a tiles frame as pixels, at once or batch by batch.

A tile stack is the file `<slide_id>.npy`: uint8, shape (n_tiles, input_px, input_px, 3), RGB. Behind the
pixels lie the CRC-32 of each tile, uint32, and the mark CHECKED: NumPy reads the file without them,
`StoredTiles` holds each tile it reads against them. A row of a tiles frame names one stored tile by `file`
(path of the stack) and `stack_index` (position in it);
`with_files` adds the column `file`, `labelled_tiles` also tissue, donor, split and label.

    tiles = StoredTiles(tiles_df)           # checks every stack and index; ValueError, FileNotFoundError
    tiles.read(rows)                        # rows in any order -> uint8 (n, input_px, input_px, 3)
    for pixels in tiles.batches(rows, 64):  # the same in batches, one read ahead by a thread
    read_tiles(tiles_df)                    # all rows of a small frame

Reading needs NumPy and pandas only; `network.batches` turns it into a torch data set.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from isal import isal_zlib

from lib.errors import DamagedFileError, InputError, MissingInputError

CHECKED = b"crc32\n"  # the last bytes of a stack with checksums


def checksum_block(checksums: Sequence[int]) -> bytes:
    """What follows the pixels of a stack: the CRC-32 of each tile, and the mark."""
    return np.array(checksums, "<u4").tobytes() + CHECKED


def kept(tiles_df: pd.DataFrame, dropped: bool | None = False) -> pd.DataFrame:
    """The tiles that count; with `dropped` the others (None: all). Without `dropped_for` all count."""
    if dropped is None:
        return tiles_df
    if "dropped_for" not in tiles_df:
        return tiles_df.iloc[:0] if dropped else tiles_df
    return tiles_df.loc[(tiles_df["dropped_for"] != "") == dropped]


def with_files(
    tiles_df: pd.DataFrame, stack_files: Mapping[str, str | Path], dropped: bool | None = False
) -> pd.DataFrame:
    """The tiles that count, with the column `file`, the path of the stack of each row's slide_id, in front.

    With `dropped` those that do not (None: both; `tile_quality.judged`). No pixel is read without `file`, so
    none of a tile that does not count. Raises ValueError for slides that have no stack file.
    """
    tiles_df = kept(tiles_df, dropped)
    _require_known(tiles_df["slide_id"], pd.Index(list(stack_files)), "slides", "the tile stacks")
    located_df = tiles_df.drop(columns="file", errors="ignore")
    located_df.insert(0, "file", [str(stack_files[slide_id]) for slide_id in tiles_df["slide_id"]])
    return located_df


def labelled_tiles(
    tiles_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    stack_files: Mapping[str, str | Path],
    class_names: Sequence[str],
    dropped: bool = False,
) -> pd.DataFrame:
    """Join tiles with their stack file and their sample's tissue, donor and split, and number the tissues.

    Parameters
    ----------
    tiles_df : columns tile_id, sample_id, slide_id, stack_index
    samples_df : columns sample_id, donor, tissue, split
    stack_files : path of the tile stack of each slide_id
    class_names : tissues in label order
    dropped : the tiles that do not count, instead of those that do

    Returns
    -------
    DataFrame
        Columns file, stack_index, label, tile_id, sample_id, slide_id, donor, tissue, split, in the order of
        `tiles_df`; label is -1 where the tissue is not among `class_names`.

    Raises
    ------
    ValueError
        Tiles of a sample that `samples_df` lacks, or of a slide without a stack file; a sample listed twice.
    """
    samples_df = samples_df.set_index("sample_id")[["donor", "tissue", "split"]]
    _require_known(tiles_df["sample_id"], samples_df.index, "samples", "the samples table")
    tiles_df = kept(tiles_df, dropped)[["tile_id", "sample_id", "slide_id", "stack_index"]]
    located_df = with_files(tiles_df, stack_files)
    joined_df = located_df.join(samples_df, on="sample_id", validate="m:1")
    label_of = {name: label for label, name in enumerate(class_names)}
    joined_df["label"] = [label_of.get(tissue, -1) for tissue in joined_df["tissue"]]
    order = ["file", "stack_index", "label", "tile_id", "sample_id", "slide_id", "donor", "tissue", "split"]
    return joined_df[order].reset_index(drop=True)


def _require_known(ids: pd.Series, known: pd.Index, what: str, where: str) -> None:
    missing = pd.Index(ids.unique()).difference(known)
    if len(missing):
        raise InputError(
            f"{len(missing)} {what} with tiles are missing from {where}, first {list(missing[:3])}"
        )


class StoredTiles:
    """Stored tiles by row of a tiles frame; every stack and index is checked when it is made.

    Parameters
    ----------
    tiles_df : columns file, stack_index

    Attributes
    ----------
    input_px : edge of every tile, pixels

    Raises
    ------
    FileNotFoundError
        A stack that does not exist.
    ValueError
        No tiles; a file that is not a uint8 (n, px, px, 3) stack, or holds tiles of another size than the
        first; an index outside its stack.
    """

    def __init__(self, tiles_df: pd.DataFrame) -> None:
        if not len(tiles_df):
            raise InputError("there are no tiles: the tiles frame has no rows")
        codes, files = pd.factorize(tiles_df["file"].astype(str))
        self.files = [str(file) for file in files]
        self.file_of_row = codes.astype(np.int32)
        self.stack_index = tiles_df["stack_index"].to_numpy(np.int64)
        n_tiles, input_px, self.offsets = np.array([_read_header(file) for file in self.files]).T
        self.input_px = int(input_px[0])
        self.checksums = [_checksums(file, n) for file, n in zip(self.files, n_tiles.tolist(), strict=True)]
        if (input_px != self.input_px).any():
            other = int((input_px != self.input_px).argmax())
            raise InputError(
                f"{self.files[other]} holds tiles of {input_px[other]} px and {self.files[0]} of "
                f"{self.input_px} px: cut all slides with one input_px"
            )
        n_stored = n_tiles[self.file_of_row]
        outside = np.flatnonzero((self.stack_index < 0) | (self.stack_index >= n_stored))
        if len(outside):
            row, file = outside[0], self.files[self.file_of_row[outside[0]]]
            raise InputError(
                f"stack_index {self.stack_index[row]} in row {row} is outside {file}, which holds "
                f"{n_stored[row]} tiles ({len(outside)} such rows): run notebook 01 again, so that the tiles "
                "table fits the stacks"
            )

    def __len__(self) -> int:
        return len(self.stack_index)

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Tiles of `rows`, uint8 (n, input_px, input_px, 3), each file opened once; in `out` if it is given.

        Plain reads, straight into the result, of as many tiles as follow each other in the file and in
        `rows`: about as fast as a memory map kept open, ten times faster than a new map, and no descriptor
        stays open per slide (1,024 are the usual limit). Threads may read at the same time.

        Raises DamagedFileError for a tile that is not the one that was written; its stack is removed, so that
        notebook 01 cuts that slide again.
        """
        tiles = np.empty((len(rows), self.input_px, self.input_px, 3), np.uint8) if out is None else out
        tile_bytes = self.input_px * self.input_px * 3
        order = np.lexsort((self.stack_index[rows], self.file_of_row[rows]))
        codes = self.file_of_row[rows[order]]
        for places in np.split(order, np.flatnonzero(np.diff(codes)) + 1) if len(rows) else []:
            code, indices = self.file_of_row[rows[places[0]]], self.stack_index[rows[places]]
            breaks = np.flatnonzero((np.diff(indices) != 1) | (np.diff(places) != 1)) + 1
            try:
                stack = os.open(self.files[code], os.O_RDONLY)
            except FileNotFoundError as error:  # another thread found it damaged, or somebody removed it
                raise _damaged(self.files[code], "is gone") from error
            try:
                for start, stop in zip([0, *breaks], [*breaks, len(places)], strict=True):
                    at = int(self.offsets[code] + indices[start] * tile_bytes)
                    part = tiles[places[start] : places[stop - 1] + 1]
                    n_read = os.preadv(stack, [part.data], at)
                    if n_read != (stop - start) * tile_bytes:
                        first = indices[start] + n_read // tile_bytes
                        raise _damaged(self.files[code], f"ends inside tile {first}")
                    known = self.checksums[code]
                    for tile, index in zip(part, indices[start:stop].tolist(), strict=True):
                        if known is not None and isal_zlib.crc32(tile.data) != known[index]:
                            raise _damaged(self.files[code], f"holds another tile {index} than was cut")
            finally:
                os.close(stack)
        return tiles

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Tiles of `rows` in their order, up to `batch_size` at a time, as `read` gives them.

        A thread reads the next batch while the caller works on this one.
        """
        parts = np.split(rows, np.arange(batch_size, len(rows), batch_size))
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self.read, parts[0])
            for part in parts[1:]:
                tiles, ahead = ahead.result(), reader.submit(self.read, part)
                yield tiles
            yield ahead.result()


def read_tiles(tiles_df: pd.DataFrame) -> np.ndarray:
    """All tiles of a frame (columns file, stack_index) in its order, uint8 (n, input_px, input_px, 3)."""
    return StoredTiles(tiles_df).read(np.arange(len(tiles_df)))


def _read_header(file: str) -> tuple[int, int, int]:
    """Number of tiles, their edge (px) and the bytes before the first one."""
    if not os.path.exists(file):
        raise MissingInputError(
            f"the tile stack {file} does not exist: cut the tiles of this slide first (notebook 01)"
        )
    try:
        stack = np.load(file, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise _damaged(file, f"is not a readable tile stack ({error})") from error
    if stack.dtype != np.uint8 or stack.ndim != 4 or stack.shape[3] != 3 or stack.shape[1] != stack.shape[2]:
        raise InputError(
            f"{file} holds {stack.dtype} of shape {stack.shape}; a tile stack is uint8 (n_tiles, px, px, 3)"
        )
    if not stack.flags.c_contiguous:
        raise InputError(f"{file} is stored in Fortran order: save it with np.ascontiguousarray")
    return stack.shape[0], stack.shape[1], stack.offset


def _checksums(file: str, n_tiles: int) -> np.ndarray | None:
    """The CRC-32 of each tile of a stack, None of a stack that was written without."""
    n_bytes = 4 * n_tiles + len(CHECKED)
    with open(file, "rb") as stack:
        stack.seek(-min(n_bytes, os.path.getsize(file)), os.SEEK_END)
        block = stack.read()
    if len(block) < n_bytes or not block.endswith(CHECKED):
        return None
    return np.frombuffer(block[: 4 * n_tiles], "<u4")


def _damaged(file: str, what: str) -> DamagedFileError:
    """The error for a stack that is not what was written; the stack is removed."""
    Path(file).unlink(missing_ok=True)
    return DamagedFileError(f"{file} {what}: it was removed; run notebook 01, which cuts this slide again")
