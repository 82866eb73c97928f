"""Aperio SVS pyramids, so that the slides of the demo cohort are read as those of a scanner are.

OpenSlide recognises an Aperio slide by its first page, tiled and described as `Aperio Image Library ...`; the
second page is a stripped thumbnail, every further tiled page a lower level of the pyramid.
"""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from lib.errors import InputError
from lib.simulated.drawing import MPP
from lib.whole_files import whole_file

MAGNIFICATION, JPEG_QUALITY = 20, 80
TILE_PX = 240  # what Aperio scanners write; a multiple of 16, as JPEG in TIFF requires
THUMBNAIL_PX = 256
LEVEL_STEP = 4  # a 20x scan has 20x, 5x, 1.25x and no 10x level
SMALLEST_LEVEL_PX = 128


def _page(writer: tifffile.TiffWriter, image: np.ndarray, description: str, tiled: bool) -> None:
    """Append one JPEG page, YCbCr 2 x 2. (`photometric` describes the input, not what is stored.)"""
    writer.write(
        image,
        photometric="rgb",
        subsampling=(2, 2),
        compression="jpeg",
        compressionargs={"level": JPEG_QUALITY, "outcolorspace": "ycbcr"},
        description=description,
        metadata=None,
        software=False,
        subfiletype=0,
        tile=(TILE_PX, TILE_PX) if tiled else None,
        rowsperstrip=None if tiled else 16,
    )


def write_svs(path: Path, image: np.ndarray, stamp: str = "") -> None:
    """
    Write an image as an Aperio SVS file that OpenSlide opens with vendor `aperio`; complete or not at all.

    Parameters
    ----------
    image : ndarray, shape (height, width, 3), uint8, RGB
        Level 0, at `MPP` micrometres per pixel.
    stamp : str
        Free text kept in the description as `Stamp = ...`; `read_stamp` returns it.

    Raises
    ------
    ValueError
        If the image is not RGB uint8, or the stamp holds the separator `|`.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"{path}: a slide needs a uint8 array (height, width, 3), got {image.dtype} {image.shape}"
        )
    if "|" in stamp:
        raise InputError(f"{path}: stamp {stamp!r} contains '|', which separates Aperio's properties")
    height, width = image.shape[:2]
    fields = f"AppMag = {MAGNIFICATION}|MPP = {MPP:.4f}" + (f"|Stamp = {stamp}" if stamp else "")
    head = f"Aperio Image Library v12.0.15 \r\n{width}x{height} [0,0 {width}x{height}] "
    tiles, jpeg = f"({TILE_PX}x{TILE_PX})", f"JPEG/YCbCr Q={JPEG_QUALITY}|{fields}"
    level = Image.fromarray(image)
    with whole_file(path) as temporary, tifffile.TiffWriter(temporary) as writer:
        _page(writer, image, f"{head}{tiles} {jpeg}", tiled=True)
        thumbnail = level.copy()
        thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
        description = f"{head}-> {thumbnail.width}x{thumbnail.height} - |{fields}"
        _page(writer, np.asarray(thumbnail), description, tiled=False)
        while min(level.size) // LEVEL_STEP >= SMALLEST_LEVEL_PX:
            level = level.reduce(LEVEL_STEP)
            size = f"{level.width}x{level.height}"
            _page(writer, np.asarray(level), f"{head}{tiles} -> {size} {jpeg}", tiled=True)


def read_stamp(path: Path) -> str | None:
    """
    The stamp of a slide written by `write_svs`; None when the file is missing or is not such a slide.

    Reads the header only, so that asking a few hundred slides takes well under a second.
    """
    if not path.is_file():
        return None
    try:
        with tifffile.TiffFile(path) as slide:
            description = slide.pages.first.description
            last = slide.pages[len(slide.pages) - 1]
            end = max(np.add(last.dataoffsets, last.databytecounts))
        if end > path.stat().st_size:
            return None
    except (tifffile.TiffFileError, ValueError, IndexError):
        return None  # truncated or not a TIFF: the slide is drawn again
    fields = dict(field.split(" = ", 1) for field in description.split("|") if " = " in field)
    return fields.get("Stamp")
