"""Cutting slides into tiles: a grid in µm, the tissue each tile holds, and one stack of pixels per slide.

Badea & Stanescu 2020, Methods: tiles of 512 px at 10x (0.9884 µm/px), at least half tissue, rescaled to the
network's input. Resolution is decided by µm/px alone. Coordinates `l0_` are level-0 pixels. Nothing is
colour-normalised, and colour profiles are ignored.
"""

import os
import time
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
import pandas as pd
from PIL import Image

from lib.tiles import grid, scaled_jpeg, slides, tissue_mask
from lib.tiles.slides import SlideError

TILE_COLUMNS = {
    "tile_id": "str",
    "sample_id": "str",
    "slide_id": "str",
    "column": "int64",
    "row": "int64",
    "l0_x": "int64",
    "l0_y": "int64",
    "l0_size": "int64",
    "tissue_fraction": "float64",
    "stack_index": "int64",
}
READERS = ("auto", "openslide", "jpeg")

ReadTile = Callable[[int, int], np.ndarray]


class SlideTiles(NamedTuple):
    """What `cut_slide` found on one slide."""

    tiles_df: pd.DataFrame  # kept tiles, in the order of the stack
    dropped: dict[str, int]  # reason ("edge", "tissue") -> number of tiles
    n_grid: int
    mpp: float
    note: str  # remark on the resolution, empty when there is none
    l0_width: int
    l0_height: int
    tissue_area_mm2: float  # of the whole slide, whatever regions the samples name
    reader: str  # "openslide", or "jpeg 1/2" and so on
    seconds: float


def cut_slide(
    path: str | Path,
    samples_df: pd.DataFrame,
    stack_path: str | Path,
    *,
    tile_px: int = 512,
    tile_mpp: float = 0.9884,
    input_px: int = 224,
    min_tissue: float = 0.5,
    mask_mpp: float = 8.0,
    reader: str = "auto",
) -> SlideTiles:
    """Cut one slide and write its stack of tiles; no stack is written when no tile is kept.

    Parameters
    ----------
    path : the slide.
    samples_df : the samples on this slide: sample_id, slide_id, optional region columns (level-0 px; missing
        = whole slide) and mpp (µm/px of level 0, wins over the slide's own).
    stack_path : the .npy to write, uint8 (n_tiles, input_px, input_px, 3); appears complete or not at all.
    tile_px, tile_mpp : a tile is tile_px pixels of tile_mpp µm wide.
    min_tissue : tiles with a smaller share of tissue are dropped.
    mask_mpp : µm/px of the tissue mask.
    reader : "openslide" reads level 0, or a lower level that is no coarser than tile_mpp; "jpeg" reduces
        while decoding (module jpeg_scaled); "auto" takes "jpeg" where the slide allows it and both agree.

    Raises
    ------
    FileNotFoundError, SlideError (a ValueError) : the slide cannot be used.
    ValueError : a parameter is out of range.
    """
    check_parameters(tile_px, tile_mpp, input_px, min_tissue, mask_mpp, reader)
    started = time.perf_counter()
    with slides.open_slide(path) as slide:
        try:
            mpp, note = slides.slide_mpp(slide, grid.one_mpp(samples_df))
            l0_size = grid.tile_size(tile_px, tile_mpp, mpp)
            mask = tissue_mask.tissue_mask(slides.reduced(slide, mask_mpp / mpp), mask_mpp)
            grid_df = judge_tiles(samples_df, l0_size, slide.dimensions, mask, mask_mpp / mpp, min_tissue)
            # In the order of the file, so that neighbours share decoded pixels; `stack_index` follows it.
            kept_df = grid_df[grid_df["dropped"] == ""].sort_values(["l0_y", "l0_x"], kind="stable")
            tiles_df = _tiles_table(kept_df, samples_df)
            read, reader_name = _tile_reader(path, slide, tiles_df, l0_size, tile_px, input_px, reader)
            _write_stack(Path(stack_path), tiles_df, read, input_px)
        except SlideError as error:
            raise SlideError(f"slide {path}: {error}") from error
        l0_width, l0_height = slide.dimensions
    return SlideTiles(
        tiles_df=tiles_df,
        dropped={reason: int((grid_df["dropped"] == reason).sum()) for reason in ("edge", "tissue")},
        n_grid=len(grid_df),
        mpp=mpp,
        note=note,
        l0_width=l0_width,
        l0_height=l0_height,
        tissue_area_mm2=float(mask.sum()) * mask_mpp**2 / 1e6,
        reader=reader_name,
        seconds=time.perf_counter() - started,
    )


def judge_tiles(
    samples_df: pd.DataFrame,
    l0_size: int,
    dimensions: tuple[int, int],
    mask: np.ndarray,
    l0_per_px: float,
    min_tissue: float,
) -> pd.DataFrame:
    """Every tile of the grid with its tissue and what becomes of it; also for overlays in figures.

    Parameters
    ----------
    l0_size, dimensions : edge of a tile and (width, height) of the slide, level-0 px.
    mask : bool (height, width) from `tissue.tissue_mask`, `l0_per_px` level-0 pixels to one of its pixels.

    Returns
    -------
    DataFrame: sample_id, column, row, l0_x, l0_y, l0_size, tissue_fraction, dropped ("", "edge" or "tissue").
    """
    grid_df = grid.lay_grid(samples_df, l0_size, dimensions).assign(l0_size=l0_size)
    fraction = tissue_mask.tissue_fraction(
        mask, l0_per_px, grid_df["l0_x"], grid_df["l0_y"], l0_size, l0_size
    )
    poor = np.where(fraction < min_tissue - 1e-9, "tissue", "")
    dropped = np.where(grid_df.pop("cut"), "edge", poor)
    return grid_df.assign(tissue_fraction=fraction, dropped=dropped)


def check_parameters(
    tile_px: int, tile_mpp: float, input_px: int, min_tissue: float, mask_mpp: float, reader: str
) -> None:
    """Raise ValueError naming the parameter of `cut_slide`, its value and what is allowed."""
    for name, value in (("tile_px", tile_px), ("input_px", input_px)):
        if value < 1 or value != int(value):
            raise ValueError(f"{name} must be a positive whole number, got {value}")
    for name, value in (("tile_mpp", tile_mpp), ("mask_mpp", mask_mpp)):
        if not value > 0:
            raise ValueError(f"{name} must be positive (µm/px), got {value}")
    if not 0 <= min_tissue <= 1:
        raise ValueError(f"min_tissue is a share between 0 and 1, got {min_tissue}")
    if reader not in READERS:
        raise ValueError(f"reader must be one of {', '.join(READERS)}, got {reader!r}")


def _tiles_table(kept_df: pd.DataFrame, samples_df: pd.DataFrame) -> pd.DataFrame:
    names = kept_df["sample_id"] + "_" + kept_df["column"].astype(str) + "_" + kept_df["row"].astype(str)
    tiles_df = kept_df.assign(
        tile_id=names.astype(str),
        slide_id=str(samples_df["slide_id"].iloc[0]),
        stack_index=np.arange(len(kept_df)),
    )
    return tiles_df.reset_index(drop=True)[list(TILE_COLUMNS)].astype(TILE_COLUMNS)


def _tile_reader(
    path: str | Path,
    slide: openslide.OpenSlide,
    tiles_df: pd.DataFrame,
    l0_size: int,
    tile_px: int,
    input_px: int,
    reader: str,
) -> tuple[ReadTile, str]:
    """A function (l0_x, l0_y) -> uint8 (input_px, input_px, 3), and the name of the way it reads.

    As in the paper pixels are reduced twice: by a whole factor to about tile_px (here or in libjpeg, so both
    ways agree), then to the network's input.
    """
    enough_px = max(tile_px / (1 + slides.MPP_TOLERANCE), input_px)
    level = slides.best_level(slide, l0_size / max(tile_px, input_px))
    width, height = slide.level_dimensions[level]
    x_scale, y_scale = slide.dimensions[0] / width, slide.dimensions[1] / height
    factor = max((f for f in (2, 4, 8) if l0_size / x_scale / f >= enough_px), default=1)

    def read_plain(l0_x: int, l0_y: int) -> np.ndarray:
        left, top = l0_x / x_scale / factor, l0_y / y_scale / factor
        right, bottom = left + l0_size / x_scale / factor, top + l0_size / y_scale / factor
        x, y = int(left), int(top)
        wide = min(ceil(right - 1e-6) * factor, width) - x * factor
        high = min(ceil(bottom - 1e-6) * factor, height) - y * factor
        l0_corner = round(x * factor * x_scale), round(y * factor * y_scale)
        rgb = slides.read_rgb(slide, *l0_corner, wide, high, level)
        rgb = np.asarray(Image.fromarray(rgb).reduce(factor)) if factor > 1 else rgb
        return slides.resample(rgb, (left - x, top - y, right - x, bottom - y), input_px, input_px)

    if reader == "openslide" or tiles_df.empty:
        return read_plain, "openslide"
    factor_l0 = max((f for f in (2, 4, 8) if l0_size / f >= enough_px), default=1)
    read_scaled, reason = scaled_jpeg.open_scaled(path, factor_l0, slide.dimensions)

    def read_jpeg(l0_x: int, l0_y: int) -> np.ndarray:
        try:
            rgb, box = read_scaled(l0_x, l0_y, l0_size)
        except ValueError as error:
            if reader == "auto":  # OpenSlide decides whether a damaged tile can be read
                return read_plain(l0_x, l0_y)
            raise SlideError(f"tile at ({l0_x}, {l0_y}): {error}; try reader = 'openslide'") from error
        return slides.resample(rgb, box, input_px, input_px)

    if not reason:
        first = tiles_df.iloc[len(tiles_df) // 2][["l0_x", "l0_y"]].astype(int)
        difference = np.abs(read_jpeg(*first).astype(int) - read_plain(*first)).mean()
        if difference <= 2:
            return read_jpeg, f"jpeg 1/{factor_l0}"
        reason = f"it differs from OpenSlide by {difference:.1f} grey levels"
    if reader == "jpeg":
        raise SlideError(f"cannot be read with reader = 'jpeg': {reason}; use reader = 'auto'")
    return read_plain, "openslide"


def _write_stack(stack_path: Path, tiles_df: pd.DataFrame, read: ReadTile, input_px: int) -> None:
    """Write tile after tile to a temporary name, then rename. No memory map: on a full disk that crashes."""
    if tiles_df.empty:
        stack_path.unlink(missing_ok=True)
        return
    part = stack_path.with_name(stack_path.name + ".part")
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(tiles_df), input_px, input_px, 3)}
    with open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for l0_x, l0_y in zip(tiles_df["l0_x"].tolist(), tiles_df["l0_y"].tolist(), strict=True):
            file.write(np.ascontiguousarray(read(l0_x, l0_y)).tobytes())
    os.replace(part, stack_path)
