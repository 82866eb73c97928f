"""Opening a slide, its µm/px, and reading parts of it at another resolution with bounded memory.

Coordinates: `l0_` is a position or length in level-0 pixels. OpenSlide gives 8-bit RGBA; transparent pixels
are composited onto white. Colour profiles (ICC) are ignored: pixel values are those stored in the file.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from math import ceil, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import pandas as pd
import scipy.sparse as sp
import tifffile
from PIL import Image

from lib.cohort.samples import REGION
from lib.errors import InputError, MissingInputError
from lib.tiles.plain_image import PlainImage, is_plain, ome_um

MAX_MPP = 10.0  # a coarser resolution is not a histology slide's: the number is wrong
MPP_TOLERANCE = 0.05  # relative, of x against y and of the samples table against the slide
STRIP_BYTES = 64 * 2**20  # read at once when a whole slide is reduced
SAMPLE_PX = 400  # longer edge of a picture of a sample


class SlideError(InputError):
    """This slide cannot be used, for the reason given; other slides may be fine."""


class Resolution(NamedTuple):
    """µm/px of level 0, and a remark on it (mostly empty)."""

    mpp: float
    note: str


Slide = openslide.OpenSlide | PlainImage


def open_slide(path: str | Path) -> Slide:
    """Open a slide, or a plain image, and read its first and last pixel, which finds most truncated files.

    Raises FileNotFoundError, or SlideError when it is a folder, not a slide, turned, truncated or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"slide {path} does not exist: check the slides folder and the slide's name")
    if path.is_dir():
        raise SlideError(f"slide {path} is a folder, not a file")
    if not path.is_file():
        raise SlideError(f"slide {path} is neither a file nor a folder (a pipe or a device)")
    if path.stat().st_size == 0:
        raise SlideError(f"slide {path} is an empty file: download it again")
    _refuse_turned(path)
    try:
        slide = openslide.OpenSlide(str(path))
    except openslide.OpenSlideUnsupportedFormatError as error:
        if not is_plain(path):
            raise SlideError(
                f"slide {path} is not in a format OpenSlide reads, or is truncated ({error}): download it "
                "again, or convert it to a tiled pyramidal TIFF"
            ) from error
        try:
            slide = PlainImage(path)
        except ValueError as problem:
            raise SlideError(f"slide {path}: {problem}") from problem
    except openslide.OpenSlideError as error:
        raise SlideError(f"slide {path} cannot be opened ({error}): download it again") from error
    try:
        l0_width, l0_height = slide.dimensions
        for l0_x, l0_y in ((0, 0), (l0_width - 1, l0_height - 1)):
            read_rgb(slide, l0_x, l0_y, 1, 1)
    except SlideError as error:
        slide.close()
        raise SlideError(f"slide {path}: {error}") from error
    slide.set_cache(openslide.OpenSlideCache(STRIP_BYTES))
    return slide


def _refuse_turned(path: Path) -> None:
    """SlideError for a TIFF with an orientation: OpenSlide would turn each of its tiles by itself."""
    if path.suffix.lower() not in (".tif", ".tiff", ".svs"):
        return
    try:
        with tifffile.TiffFile(path) as file:
            tag = file.pages.first.tags.get("Orientation")
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError, struct.error):
        return  # OpenSlide says what is wrong
    if tag is not None and tag.value != 1:
        raise SlideError(
            f"slide {path} is stored turned or mirrored (TIFF orientation {int(tag.value)}), which scrambles "
            "its tiles: save it upright, for example with vips autorot"
        )


def slide_mpp(slide: Slide, override: float | None = None) -> Resolution:
    """µm/px of level 0, from `override` (the samples table's mpp) or else from the slide's own properties.

    The nominal magnification ("20x") is never used. An override wins; a note says where it differs from the
    slide's own value by more than 5 %. Pixels that are not square within 5 %, and values outside
    0 < mpp <= 10 µm, are refused unless overridden.

    Raises SlideError.
    """
    try:
        stated, problem = _stated_mpp(slide), ""
    except SlideError as error:
        stated, problem = None, str(error)
    if override is None or np.isnan(override):
        if stated is None:
            raise SlideError(f"{problem}: fill in column mpp (µm/px) of the samples table for this slide")
        return Resolution(stated, "")
    override = float(override)
    if not (isfinite(override) and 0 < override <= MAX_MPP):
        raise SlideError(f"mpp = {override:g} in the samples table is outside 0 < mpp <= {MAX_MPP:g} µm/px")
    if stated is not None and abs(override / stated - 1) > MPP_TOLERANCE:
        note = f"the samples table's {override:g} µm/px is used; the slide itself says {stated:g}"
        return Resolution(override, note)
    return Resolution(override, "")


def _stated_mpp(slide: Slide) -> float:
    names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    texts = [slide.properties[name] for name in names if name in slide.properties]
    if len(texts) < 2:
        sizes = [ome_um(slide.properties.get("tiff.ImageDescription", ""), axis) for axis in "XY"]
        texts = [f"{size:.9g}" for size in sizes] if all(sizes) else texts
    if len(texts) < 2:
        raise SlideError("the slide does not state its µm/px")
    try:
        x, y = (float(text) for text in texts)
    except ValueError:
        raise SlideError(f"the slide states its µm/px as {texts}, which are not numbers") from None
    if not all(isfinite(v) and 0 < v <= MAX_MPP for v in (x, y)):
        raise SlideError(f"the slide states {x:g} x {y:g} µm/px, outside 0 < mpp <= {MAX_MPP:g}")
    if abs(x / y - 1) > MPP_TOLERANCE:
        raise SlideError(f"the slide states pixels of {x:g} x {y:g} µm, which are not square")
    return (x * y) ** 0.5 if x != y else x


def best_level(slide: Slide, l0_per_px: float) -> int:
    """The smallest level that is at most 5 % coarser than l0_per_px level-0 pixels per pixel; else 0."""
    fine = [i for i, d in enumerate(slide.level_downsamples) if d <= l0_per_px * (1 + MPP_TOLERANCE)]
    return max(fine, key=lambda i: slide.level_downsamples[i], default=0)


def read_rgb(slide: Slide, l0_x: int, l0_y: int, width: int, height: int, level: int = 0) -> np.ndarray:
    """Pixels of `level` on white, uint8 (height, width, 3). Raises SlideError."""
    try:
        rgba = slide.read_region((l0_x, l0_y), level, (width, height))
    except (openslide.OpenSlideError, OSError, SyntaxError) as error:  # the latter two are Pillow's
        raise SlideError(
            f"reading {width} x {height} px of level {level} at ({l0_x}, {l0_y}) failed ({error}); "
            "the file is truncated or damaged: download it again"
        ) from error
    if rgba.getchannel("A").getextrema() != (255, 255):
        rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(rgba.convert("RGB"))


@lru_cache(maxsize=64)
def area_weights(n_in: int, start: float, stop: float, n_out: int) -> sp.csr_array:
    """Sparse (n_out, n_in) float32: row i averages the pixels under the i-th of n_out cells of [start, stop).

    Pixel j covers [j, j + 1); pixels count by the share that is covered, and nothing outside [0, n_in)
    counts. When the cells are smaller than pixels (enlarging) a row interpolates linearly between two pixel
    centres instead.

    Raises ValueError when a cell lies outside altogether.
    """
    edges = np.linspace(start, stop, n_out + 1)
    if stop - start < n_out:
        at = np.clip((edges[1:] + edges[:-1]) / 2 - 0.5, 0, n_in - 1)
        left = np.minimum(at.astype(int), max(n_in - 2, 0))
        right = np.minimum(left + 1, n_in - 1)
        share = at - left
        rows = np.repeat(np.arange(n_out), 2)
        columns = np.stack([left, right], 1).ravel()
        weights = sp.csr_array(
            (np.stack([1 - share, share], 1).ravel(), (rows, columns)), shape=(n_out, n_in)
        )
        return sp.csr_array(weights, dtype=np.float32)
    cuts = np.unique(np.concatenate([edges, np.arange(ceil(start), stop)]).clip(0, n_in))
    middles = (cuts[1:] + cuts[:-1]) / 2
    rows = (np.searchsorted(edges, middles) - 1).clip(0, n_out - 1)
    weights = sp.csr_array((np.diff(cuts), (rows, middles.astype(int))), shape=(n_out, n_in))
    covered = weights.sum(axis=1)
    if not covered.all():
        raise InputError(f"[{start}, {stop}) in {n_out} cells has cells outside the picture's {n_in} pixels")
    return sp.csr_array(sp.diags_array(1 / covered) @ weights, dtype=np.float32)


def resample(
    rgb: np.ndarray, box: tuple[float, float, float, float], n_rows: int, n_columns: int
) -> np.ndarray:
    """Area-average `box` = (left, top, right, bottom), in px of `rgb`, to n_rows x n_columns.

    Parameters
    ----------
    rgb : uint8 (height, width, 3)

    Returns
    -------
    uint8 (n_rows, n_columns, 3)
    """
    height, width, _ = rgb.shape
    left, top, right, bottom = box
    if box == (0, 0, n_columns, n_rows) == (0, 0, width, height):
        return rgb.copy()
    down = area_weights(height, top, bottom, n_rows)
    across = area_weights(width, left, right, n_columns)
    part = (down @ rgb.reshape(height, width * 3)).reshape(n_rows, width, 3)
    part = np.ascontiguousarray(part.transpose(1, 0, 2)).reshape(width, n_rows * 3)
    part = (across @ part).reshape(n_columns, n_rows, 3).transpose(1, 0, 2)
    return np.rint(part).astype(np.uint8)


def reduced(slide: Slide, l0_per_px: float) -> np.ndarray:
    """The whole slide, one pixel for l0_per_px x l0_per_px level-0 pixels; the last ones may cover less.

    Reads the best level in strips of at most 64 MB, so a slide without lower levels is merely slow.

    Returns
    -------
    uint8 (ceil(l0_height / l0_per_px), ceil(l0_width / l0_per_px), 3)
    """
    l0_width, l0_height = slide.dimensions
    n_rows, n_columns = ceil(l0_height / l0_per_px - 1e-9), ceil(l0_width / l0_per_px - 1e-9)
    level = best_level(slide, l0_per_px)
    width, height = slide.level_dimensions[level]
    x_step, y_step = l0_per_px * width / l0_width, l0_per_px * height / l0_height  # level px per output px
    rows_at_once = max(1, int(STRIP_BYTES / (4 * width * max(y_step, 1))))
    out = np.empty((n_rows, n_columns, 3), np.uint8)
    for first in range(0, n_rows, rows_at_once):
        last = min(first + rows_at_once, n_rows)
        top, bottom = int(first * y_step), min(ceil(last * y_step), height)
        l0_y = round(top * l0_height / height)
        strip = read_rgb(slide, 0, l0_y, width, max(bottom - top, 1), level)
        box = (0, first * y_step - top, n_columns * x_step, last * y_step - top)
        out[first:last] = resample(strip, box, last - first, n_columns)
    return out


def overview(slide: Slide, mpp: float, max_px: int) -> tuple[np.ndarray, float]:
    """A picture of the whole slide for figures.

    Parameters
    ----------
    mpp : µm/px of level 0 (from `slide_mpp`)
    max_px : length of the picture's longer edge, at most the slide's own

    Returns
    -------
    picture : uint8 (height, width, 3)
    overview_mpp : µm/px of the picture; divide by `mpp` for level-0 pixels per picture pixel
    """
    l0_per_px = max(1.0, max(slide.dimensions) / max_px)
    return reduced(slide, l0_per_px), l0_per_px * mpp


def sample_picture(path: str | Path, sample: Mapping[str, Any]) -> np.ndarray:
    """A small picture of a sample: its region of the slide where it has one (a spot), else the whole slide.

    Parameters
    ----------
    sample : a row of the samples table; its region, if any, is l0_x, l0_y, l0_width, l0_height (level-0 px)

    Returns
    -------
    uint8 (height, width, 3), SAMPLE_PX along the longer edge, or fewer where the slide has fewer

    Raises SlideError.
    """
    region = [sample.get(name, np.nan) for name in REGION]
    with open_slide(path) as slide:
        if any(pd.isna(value) for value in region):
            return overview(slide, 1.0, SAMPLE_PX)[0]
        l0_x, l0_y, l0_width, l0_height = (round(value) for value in region)
        l0_per_px = max(1.0, max(l0_width, l0_height) / SAMPLE_PX)
        level = best_level(slide, l0_per_px)
        scale = slide.level_downsamples[level]
        width, height = (max(1, round(edge / scale)) for edge in (l0_width, l0_height))
        rgb = read_rgb(slide, l0_x, l0_y, width, height, level)
    n_rows, n_columns = (max(1, round(edge / l0_per_px)) for edge in (l0_height, l0_width))
    return resample(rgb, (0, 0, width, height), n_rows, n_columns)
