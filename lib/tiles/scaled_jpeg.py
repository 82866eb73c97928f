"""Reading JPEG-tiled slides at 1/2, 1/4 or 1/8 of level 0, letting libjpeg reduce while it decodes.

libjpeg can omit the high frequencies of each 8 x 8 block instead of decoding and averaging them. Except for
rounding (under one grey level on average) the picture is the same, and it is several times faster.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from lib.errors import InputError

RGB, YCBCR = 2, 6  # TIFF photometric interpretation
TILES_KEPT = 1024  # decoded tiles kept in memory, about 50 MB for 256 px tiles at 1/2
# An Adobe APP14 segment; its last byte tells decoders whether the data are RGB (0) or YCbCr (1). Slides with
# photometric RGB hold RGB data without such a marker, which decoders would take for YCbCr.
APP14 = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"

ReadScaled = Callable[[int, int, int], tuple[np.ndarray, tuple[float, float, float, float]]]


def open_scaled(path: str | Path, factor: int, dimensions: tuple[int, int]) -> tuple[ReadScaled | None, str]:
    """A function that reads squares of level 0 at 1/factor, or None and why this slide does not allow it.

    Parameters
    ----------
    factor : 2, 4 or 8
    dimensions : (l0_width, l0_height) as OpenSlide sees them; the TIFF's first page must have this size

    Returns
    -------
    read : read(l0_x, l0_y, l0_size) gives uint8 (height, width, 3) that contains the square, and the square
        within it as (left, top, right, bottom) in its pixels, ready for `slides.resample`; ValueError when a
        tile is damaged
    reason : empty when there is a function
    """
    if factor not in (2, 4, 8):
        return None, f"libjpeg reduces by 2, 4 or 8, not {factor}"
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            reason = _refusal(page, dimensions)
            if reason:
                return None, reason
            offsets, counts = page.dataoffsets, page.databytecounts
            header = _header(page.jpegtables, int(page.photometric))
            tile_px = (page.tilelength, page.tilewidth)
            across = -(-page.imagewidth // page.tilewidth)
    except (tifffile.TiffFileError, OSError, IndexError, AttributeError) as error:
        return None, f"it is not a TIFF that tifffile reads ({error})"
    small_px = (tile_px[0] // factor, tile_px[1] // factor)

    @lru_cache(maxsize=TILES_KEPT)
    def tile(row: int, column: int) -> np.ndarray:
        index = row * across + column
        with open(path, "rb") as file:
            file.seek(offsets[index])
            data = file.read(counts[index])
        return _decode(header, data, small_px)

    def read(l0_x: int, l0_y: int, l0_size: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        rows = range(l0_y // tile_px[0], (l0_y + l0_size - 1) // tile_px[0] + 1)
        columns = range(l0_x // tile_px[1], (l0_x + l0_size - 1) // tile_px[1] + 1)
        picture = np.empty((len(rows) * small_px[0], len(columns) * small_px[1], 3), np.uint8)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                top, left = i * small_px[0], j * small_px[1]
                picture[top : top + small_px[0], left : left + small_px[1]] = tile(row, column)
        left, top = l0_x / factor - columns[0] * small_px[1], l0_y / factor - rows[0] * small_px[0]
        return picture, (left, top, left + l0_size / factor, top + l0_size / factor)

    return read, ""


def _refusal(page: tifffile.TiffPage, dimensions: tuple[int, int]) -> str:
    """Why this page cannot be read at a reduced size; empty when it can."""
    if not page.is_tiled or page.compression != tifffile.COMPRESSION.JPEG:
        return "level 0 is not in JPEG tiles"
    if page.shape != (dimensions[1], dimensions[0], 3) or page.dtype != np.uint8 or page.planarconfig != 1:
        return f"level 0 is {page.shape} {page.dtype}, not 8-bit RGB of the slide's size"
    if page.photometric not in (RGB, YCBCR):
        return f"photometric interpretation {page.photometric} is neither RGB nor YCbCr"
    if page.tilewidth % 8 or page.tilelength % 8:  # each 8 x 8 block becomes 8/factor x 8/factor pixels
        return f"tiles of {page.tilewidth} x {page.tilelength} px are not whole JPEG blocks"
    if min(page.databytecounts) == 0:
        return "some tiles of level 0 are missing"
    return ""


def _header(tables: bytes | None, photometric: int) -> bytes:
    """The bytes before a tile's own data: start of image, colour marker, the tables that all tiles share."""
    shared = tables[2:-2] if tables else b""  # without their own start and end of image
    return b"\xff\xd8" + APP14 + (b"\x00" if photometric == RGB else b"\x01") + shared


def _decode(header: bytes, data: bytes, small_px: tuple[int, int]) -> np.ndarray:
    """uint8 (*small_px, 3). Raises ValueError."""
    stream = header + data[2:]
    height, width = small_px
    picture = simplejpeg.decode_jpeg(stream, min_height=height, min_width=width, min_factor=1)
    if picture.shape != (height, width, 3):
        raise InputError(f"a JPEG tile decodes to {picture.shape}, not {(height, width, 3)}")
    return picture
