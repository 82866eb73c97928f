"""Tiles that were cut and not stored: read from the slide again, and held against what was cut.

What notebook 01 leaves of every slide is enough to read a tile again: its table says where the tile lies, its
record how tiles are cut. The bytes are those of a stack: the same code reads them from the same file, and the
CRC-32 of each tile is in the table.
"""

import os
import threading
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isal import isal_zlib

from lib import work_records
from lib.errors import InputError, MissingInputError
from lib.tiles import cut
from lib.tiles.tiling import Tiling

_open = threading.local()  # of each thread the slide it read from last, which stays open until the next one


class CutTiles:
    """The tiles of a slide without a stack, with the attributes of `Stack` and its `read`.

    The slide itself is needed when tiles are read, not before.

    Parameters
    ----------
    table : `<slide_id>.parquet`, which notebook 01 left, with its record
    slide : the slide's file

    Raises
    ------
    FileNotFoundError
        The slide was not cut, or by a version that stored all tiles.
    """

    def __init__(self, table: str, slide: str) -> None:
        self.slide, record = slide, work_records.read(table)
        try:
            columns = pq.read_table(table, columns=["l0_x", "l0_y", "l0_size", "crc32"], use_threads=False)
            self.tiling = Tiling(**{field.name: record["made_for"][field.name] for field in fields(Tiling)})
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise MissingInputError(
                f"neither a tile stack nor {table} with its record is there and whole: cut the tiles of this "
                "slide first (notebook 01)"
            ) from error
        self.tiles_df = columns.to_pandas()
        self.n_tiles, self.input_px = len(self.tiles_df), self.tiling.input_px
        self.checksums = self.tiles_df["crc32"].to_numpy(np.uint32)

    def read(self, indices: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Read tile `indices[k]` into `out[places[k]]`, for all k. Threads may read at the same time.

        Raises
        ------
        FileNotFoundError, SlideError
            The slide is gone, or damaged.
        InputError
            It holds other pixels than when it was cut.
        """
        read = self._reader()
        corners = self.tiles_df[["l0_x", "l0_y"]].to_numpy()
        for index, place in zip(indices.tolist(), places.tolist(), strict=True):
            try:
                pixels = read(*corners[index].tolist())
            except cut.SlideError as error:
                raise cut.SlideError(f"slide {self.slide}: {error}") from error
            if isal_zlib.crc32(np.ascontiguousarray(pixels).data) != self.checksums[index]:
                raise InputError(
                    f"slide {self.slide} holds another tile {index} than was cut: the file was replaced, or "
                    "another version of OpenSlide or libjpeg reads it. Put the former file back, or cut the "
                    "tiles again (python run_all.py --only 01 --force)"
                )
            out[place] = pixels

    def _reader(self) -> cut.ReadTile:
        """How this thread reads tiles of the slide, which is opened unless it was the last one."""
        if not os.path.isfile(self.slide):
            raise gone([self.slide])
        key = (self, os.stat(self.slide).st_mtime_ns)
        if getattr(_open, "key", None) != key:
            if hasattr(_open, "slide"):
                _open.slide.close()
            _open.key, _open.slide = None, ExitStack()
            _open.read, _ = _open.slide.enter_context(cut.tile_reader(self.slide, self.tiles_df, self.tiling))
            _open.key = key
        return _open.read


def gone(slides: list[str]) -> MissingInputError:
    """The error for slides that are needed because their tiles are not stored."""
    names = ", ".join(Path(slide).name for slide in slides[:3]) + (", ..." if len(slides) > 3 else "")
    return MissingInputError(
        f"the tiles of {len(slides):,} slides are not stored (store_tiles = false), and the files are gone: "
        f"{names} in {Path(slides[0]).parent}. Put them back"
    )
