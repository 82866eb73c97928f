"""The one reader of tiles: rows of a tiles frame as pixels, at once or batch by batch, stored or not.

The tiles of a slide lie in its stack (`stack_files`). Those of a slide without one (`store_tiles`) are read
from the slide again (`cut_again`), the same bytes. A row of a tiles frame names one tile by `file`, where the
tiles of its slide are (`place`), and `stack_index`, its number among them. `with_files` adds the column
`file`, `labelled_tiles` also tissue, donor, split and label; nobody else looks into `file`.

    tiles = StoredTiles(tiles_df)           # checks every stack and index; ValueError, FileNotFoundError
    tiles.read(rows)                        # rows in any order -> uint8 (n, input_px, input_px, 3)
    for pixels in tiles.batches(rows, 64):  # the same in batches, read ahead by threads
    read_tiles(tiles_df)                    # all rows of a small frame

Reading stacks needs NumPy and pandas only; `network.batches` turns it into a torch data set.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.tiles.stack_files import Stack
from lib.tiles.tile_quality import kept

if TYPE_CHECKING:
    from lib.tiles import cut_again

Read = TypeVar("Read")
MOST_READERS = 8  # threads that read a slide whose tiles are not stored
_TABLE = ".parquet" + os.pathsep  # between a slide's table and the slide, where there is no stack


def place(stack: str | Path, slide: str | Path) -> str:
    """Where the tiles of a slide are, as `file` says it: its stack, else its table and the slide itself."""
    return str(stack) if os.path.isfile(stack) else f"{Path(stack).with_suffix('')}{_TABLE}{slide}"


def files_read(file: str) -> list[Path]:
    """The files that are read for tiles that are there (`place`)."""
    table, cut, slide = file.partition(_TABLE)
    return [Path(f"{table}.parquet"), Path(slide)] if cut else [Path(file)]


def require_stored(tiles_df: pd.DataFrame) -> None:
    """InputError where tiles that are read again and again would be read from slides."""
    without = [i for i in tiles_df["file"].astype(str).unique() if len(files_read(i)) > 1]
    if without:
        raise InputError(
            f"the tiles of {len(without):,} slides to train on are not stored (first "
            f"{slide_name(without[0])}): each epoch would read the slides. This stores them: python "
            "-m lib.shard tiles --shard 1/1 --cohort NAME"
        )


def slide_name(file: str) -> str:
    """The slide of tiles that are there (`place`), wherever that is."""
    return files_read(file)[0].stem


def with_files(
    tiles_df: pd.DataFrame, tile_files: Mapping[str, str | Path], dropped: bool | None = False
) -> pd.DataFrame:
    """The tiles that count, with the column `file`, where those of each row's slide_id are, in front.

    With `dropped` those that do not (None: both; `tile_quality.judged`). No pixel is read without `file`, so
    none of a tile that does not count. Raises ValueError for slides that have no tile file.
    """
    tiles_df = kept(tiles_df, dropped)
    _require_known(tiles_df["slide_id"], pd.Index(list(tile_files)), "slides", "the tile files")
    located_df = tiles_df.drop(columns="file", errors="ignore")
    located_df.insert(0, "file", [str(tile_files[slide_id]) for slide_id in tiles_df["slide_id"]])
    return located_df


def labelled_tiles(
    tiles_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    tile_files: Mapping[str, str | Path],
    class_names: Sequence[str],
    dropped: bool = False,
) -> pd.DataFrame:
    """Join tiles with where they are and their sample's tissue, donor and split, and number the tissues.

    Parameters
    ----------
    tiles_df : columns tile_id, sample_id, slide_id, stack_index
    samples_df : columns sample_id, donor, tissue, split
    tile_files : of each slide_id where its tiles are (`place`)
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
        Tiles of a sample that `samples_df` lacks, or of a slide without a tile file; a sample listed twice.
    """
    samples_df = samples_df.set_index("sample_id")[["donor", "tissue", "split"]]
    _require_known(tiles_df["sample_id"], samples_df.index, "samples", "the samples table")
    tiles_df = kept(tiles_df, dropped)[["tile_id", "sample_id", "slide_id", "stack_index"]]
    located_df = with_files(tiles_df, tile_files)
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
    """Tiles by row of a tiles frame; every stack, or table, and index is checked when it is made.

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
        self.sources = [_source(file) for file in self.files]
        input_px = np.array([source.input_px for source in self.sources])
        self.input_px = int(input_px[0])
        if (input_px != self.input_px).any():
            other = int((input_px != self.input_px).argmax())
            raise InputError(
                f"{self.files[other]} holds tiles of {input_px[other]} px and {self.files[0]} of "
                f"{self.input_px} px: cut all slides with one input_px"
            )
        n_stored = np.array([source.n_tiles for source in self.sources])[self.file_of_row]
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

        Threads may read at the same time. Raises what `Stack.read` and `CutTiles.read` raise.
        """
        tiles = np.empty((len(rows), self.input_px, self.input_px, 3), np.uint8) if out is None else out
        order = np.lexsort((self.stack_index[rows], self.file_of_row[rows]))
        codes = self.file_of_row[rows[order]]
        for places in np.split(order, np.flatnonzero(np.diff(codes)) + 1) if len(rows) else []:
            source = self.sources[self.file_of_row[rows[places[0]]]]
            source.read(self.stack_index[rows[places]], places, tiles)
        return tiles

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Tiles of `rows` in their order, up to `batch_size` at a time, as `read` gives them.

        As `read_ahead`.
        """
        return self.read_ahead(in_batches(rows, batch_size), self.read)

    def read_ahead(
        self, batches: Sequence[np.ndarray], read: Callable[[np.ndarray], Read]
    ) -> Generator[Read, None, None]:
        """What `read` gives for each batch of rows, which is to read them.

        Threads read the next batches while the caller works on this one: one of stacks, and of slides, which
        have to be decoded, one for each core.
        """
        used = np.unique(np.concatenate([self.file_of_row[rows] for rows in batches])) if batches else []
        stored = all(isinstance(self.sources[code], Stack) for code in used)
        n_readers = 1 if stored else min(MOST_READERS, os.cpu_count() or 1, len(batches))
        return in_threads(read, batches, n_readers, n_readers)

    def contents(self, rows: np.ndarray) -> list[int] | list[str]:
        """What tells each of `rows` from a tile with other pixels: its CRC-32, wherever the tile comes from.

        Of a stack without checksums its name, size and date.
        """
        found = []
        for code, index in zip(self.file_of_row[rows].tolist(), self.stack_index[rows].tolist(), strict=True):
            checksums = self.sources[code].checksums
            found.append(self._status(code) if checksums is None else int(checksums[index]))
        return found

    def _status(self, code: int) -> str:
        status = os.stat(self.files[code])
        return f"{os.path.basename(self.files[code])} {status.st_size} {status.st_mtime_ns}"

    def require_slides(self, rows: np.ndarray) -> None:
        """MissingInputError naming the slides that are needed for `rows` and gone; of stacks none is."""
        files = [self.files[code] for code in np.unique(self.file_of_row[rows])]
        missing = [str(path) for file in files for path in files_read(file)[1:] if not path.is_file()]
        if missing:
            from lib.tiles import cut_again

            raise cut_again.gone(missing)


def in_threads(
    read: Callable[[np.ndarray], Read], batches: Iterable[np.ndarray], n_readers: int, n_ahead: int
) -> Generator[Read, None, None]:
    """What `read` gives for each batch, in their order, from threads up to `n_ahead` batches ahead."""
    ahead: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(n_readers) as readers:
        try:
            for rows in batches:
                ahead.append(readers.submit(read, rows))
                if len(ahead) > n_ahead:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # whoever stops early waits for no batch that nobody will take
            for future in ahead:
                future.cancel()


def in_batches(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The rows in their order, up to `batch_size` at a time."""
    return np.split(rows, np.arange(batch_size, len(rows), batch_size))


def read_tiles(tiles_df: pd.DataFrame) -> np.ndarray:
    """All tiles of a frame (columns file, stack_index) in its order, uint8 (n, input_px, input_px, 3)."""
    return StoredTiles(tiles_df).read(np.arange(len(tiles_df)))


def _source(file: str) -> "Stack | cut_again.CutTiles":
    if len(found := files_read(file)) == 1:
        return Stack(file)
    from lib.tiles import cut_again  # late: whoever reads stacks needs no OpenSlide

    return cut_again.CutTiles(*map(str, found))
