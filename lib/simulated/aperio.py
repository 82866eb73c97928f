"""Write and stamp-check Aperio SVS pyramids: the files of the demo cohort are real ones, not a special case.

OpenSlide takes a TIFF for an Aperio slide when its first page is tiled and described as `Aperio Image
Library ...`; the second page is a stripped thumbnail, every further tiled page a lower level of the pyramid.
"""

import os
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

TILE_PX = 240  # what Aperio scanners write; a multiple of 16, as JPEG in TIFF requires
THUMBNAIL_PX = 256
LEVEL_STEP = 4  # a 20x scan has 20x, 5x, 1.25x and no 10x level
SMALLEST_LEVEL_PX = 128


def _page(
    writer: tifffile.TiffWriter, image: np.ndarray, quality: int, description: str, tiled: bool
) -> None:
    """Append one JPEG page, YCbCr 2 x 2. (`photometric` names what is handed in, not what is stored.)"""
    layout = {"tile": (TILE_PX, TILE_PX)} if tiled else {"rowsperstrip": 16}
    writer.write(
        image,
        photometric="rgb",
        subsampling=(2, 2),
        compression="jpeg",
        compressionargs={"level": quality, "outcolorspace": "ycbcr"},
        description=description,
        metadata=None,
        software=False,
        subfiletype=0,
        **layout,
    )


def write_svs(
    path: Path,
    image: np.ndarray,
    *,
    mpp: float = 0.4942,
    magnification: int = 20,
    quality: int = 80,
    stamp: str = "",
) -> None:
    """
    Write an image as an Aperio SVS file that OpenSlide opens with vendor `aperio`.

    Parameters
    ----------
    path : Path
        Destination. It appears complete or not at all (temporary name in the same folder, then rename).
    image : ndarray, shape (height, width, 3), uint8, RGB
        Level 0, at `mpp` micrometres per pixel.
    mpp, magnification : float, int
        Recorded as `MPP` and `AppMag`.
    quality : int
        JPEG quality of every page, 1 to 100.
    stamp : str
        Free text kept in the description as `Stamp = ...`; `read_stamp` gives it back.

    Raises
    ------
    ValueError
        If the image is not RGB uint8, or the stamp holds the separator `|`.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"{path}: a slide needs a uint8 array (height, width, 3), got {image.dtype} {image.shape}"
        )
    if "|" in stamp:
        raise ValueError(f"{path}: stamp {stamp!r} contains '|', which separates Aperio's properties")
    height, width = image.shape[:2]
    fields = f"AppMag = {magnification}|MPP = {mpp:.4f}" + (f"|Stamp = {stamp}" if stamp else "")
    head = f"Aperio Image Library v12.0.15 \r\n{width}x{height} [0,0 {width}x{height}] "
    pillow_image = Image.fromarray(image)
    temporary = path.with_name(f".{path.name}.tmp")  # the next attempt overwrites what a kill left
    try:
        with tifffile.TiffWriter(temporary) as writer:
            description = f"{head}({TILE_PX}x{TILE_PX}) JPEG/YCbCr Q={quality}|{fields}"
            _page(writer, image, quality, description, tiled=True)
            thumbnail = pillow_image.copy()
            thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
            description = f"{head}-> {thumbnail.width}x{thumbnail.height} - |{fields}"
            _page(writer, np.asarray(thumbnail), quality, description, tiled=False)
            level = pillow_image
            while min(level.size) // LEVEL_STEP >= SMALLEST_LEVEL_PX:
                level = level.reduce(LEVEL_STEP)
                size = f"({TILE_PX}x{TILE_PX}) -> {level.width}x{level.height}"
                description = f"{head}{size} JPEG/YCbCr Q={quality}|{fields}"
                _page(writer, np.asarray(level), quality, description, tiled=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        return None  # truncated or not a TIFF: the caller draws it again
    fields = dict(field.split(" = ", 1) for field in description.split("|") if " = " in field)
    return fields.get("Stamp")
