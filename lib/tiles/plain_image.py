"""Plain images (JPEG, PNG, stripped TIFF) with the interface of a slide: one level, read as a whole."""

import re
import struct
from collections.abc import Mapping
from pathlib import Path

import openslide
import tifffile
from PIL import Image

MAX_PIXELS = 400_000_000  # 1.2 GB as RGB; larger images belong into a tiled pyramid
MODES = ("RGB", "RGBA", "L", "P", "CMYK", "1")  # 8 bits a channel
ORIENTATION, DESCRIPTION, X_RESOLUTION, Y_RESOLUTION, UNIT, CENTIMETRE = 274, 270, 282, 283, 296, 3


def is_plain(path: Path) -> bool:
    """Whether a file that OpenSlide refuses may be a plain image, and not a slide that is damaged."""
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".png"):
        return True
    if suffix not in (".tif", ".tiff"):
        return False
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            ends = [a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True)]
            return not page.is_tiled and max(ends) <= path.stat().st_size
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, AttributeError, struct.error):
        return False


class PlainImage(openslide.ImageSlide):
    """An image opened by Pillow.

    Raises ValueError, saying why, for what Pillow cannot read, more than MAX_PIXELS, other than 8 bits a
    channel, and an image that is to be shown turned.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            with Image.open(path) as opened:
                problem = _problem(opened)
                self._stated = {} if problem else _stated(opened)
        except (OSError, Image.DecompressionBombError, SyntaxError) as error:
            raise ValueError(f"it is no image that Pillow reads ({error})") from error
        if problem:
            raise ValueError(problem)
        super().__init__(str(path))

    @property
    def properties(self) -> Mapping[str, str]:
        """µm/px, where the file states them."""
        return self._stated


def _problem(image: Image.Image) -> str:
    """Why an image cannot be a slide; "" if it can."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        return (
            f"a plain image of {width:,} x {height:,} px is too large to be read at once: convert it to a "
            "tiled pyramid (vips tiffsave in.jpg out.tiff --tile --pyramid --compression jpeg)"
        )
    if image.mode not in MODES:
        return f"its pixels are of Pillow's mode {image.mode}, not 8 bits a channel: convert it to 8-bit RGB"
    turned = image.getexif().get(ORIENTATION, 1)
    return f"it is stored turned or mirrored (orientation {turned}): save it upright" if turned != 1 else ""


def _stated(image: Image.Image) -> dict[str, str]:
    """OpenSlide's properties of the resolution, from OME-XML or a TIFF's pixels per centimetre."""
    tags = getattr(image, "tag_v2", {})
    description = str(tags.get(DESCRIPTION, ""))
    sizes = [ome_um(description, axis) for axis in "XY"]
    if not all(sizes) and tags.get(UNIT) == CENTIMETRE:
        per_cm = [float(tags.get(tag, 0)) for tag in (X_RESOLUTION, Y_RESOLUTION)]
        sizes = [1e4 / value if value > 0 else 0.0 for value in per_cm]
    names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    return {name: f"{size:.9g}" for name, size in zip(names, sizes, strict=True)} if all(sizes) else {}


def ome_um(description: str, axis: str) -> float:
    """µm/px along an axis as OME-XML states it (µm is the unit by default); 0.0 where it does not."""
    pixels = re.search(r"<Pixels\b[^>]*>", description)
    if not pixels:
        return 0.0
    size = re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', pixels[0])
    unit = re.search(rf'PhysicalSize{axis}Unit="([^"]*)"', pixels[0])
    factor = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}.get(
        unit[1] if unit else "µm", 0.0
    )
    try:
        return float(size[1]) * factor if size else 0.0
    except ValueError:
        return 0.0
