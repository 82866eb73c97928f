"""Cutting one slide into tiles: a grid in µm, the tissue each tile holds, and one stack of pixels.

Resolution is decided by µm/px alone. Coordinates `l0_` are level-0 pixels. Nothing is colour-normalised, and
colour profiles are ignored.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from isal import isal_zlib
from PIL import Image

from lib.cohort.sample_slides import TILES_NAMED
from lib.tiles import (
    bled_stain,
    grid,
    nuclei,
    scaled_jpeg,
    slide_artefacts,
    slides,
    stack_files,
    tile_quality,
    tissue_mask,
)
from lib.tiles.slides import SlideError
from lib.tiles.tiling import Tiling
from lib.whole_files import whole_file

TILE_COLUMNS = dict.fromkeys(["tile_id", "sample_id", "slide_id"], "str")
TILE_COLUMNS |= dict.fromkeys(["column", "row", "l0_x", "l0_y", "l0_size"], "int64")
TILE_COLUMNS |= {"tissue_fraction": "float64", "stack_index": "int64"}
TILE_COLUMNS |= dict.fromkeys(tile_quality.MEASURES, "float64")
OF_PIXELS = ("focus", "haematoxylin", "eosin", "nuclear_density")  # measured when a tile is read
MAX_DIFFERENCE = 2.0  # mean difference in grey levels up to which scaled JPEG decoding passes for OpenSlide's

ReadTile = Callable[[int, int], np.ndarray]


class SlideTiles(NamedTuple):
    """What `cut_slide` found on one slide."""

    tiles_df: pd.DataFrame  # kept tiles, in the order of the stack
    n_grid: int
    n_dropped_edge: int
    n_dropped_tissue: int
    mpp: float
    note: str  # remark on the resolution, empty when there is none
    l0_width: int
    l0_height: int
    tissue_area_mm2: float  # of the whole slide, also where samples are regions of it
    reader: str  # "openslide", or "jpeg 1/2" and so on
    checksums: list[int]  # CRC-32 of the pixels of each kept tile


def cut_slide(
    path: str | Path, samples_df: pd.DataFrame, stack_path: Path | None, tiling: Tiling
) -> SlideTiles:
    """Cut one slide and write its stack of tiles; no stack is written when no tile is kept.

    Parameters
    ----------
    path : the slide
    samples_df : the samples on this slide, checked by `cohort.samples`: sample_id, slide_id, optional region
        columns (level-0 px; missing = whole slide), mpp (µm/px of level 0, wins over the slide's own) and
        what their tiles are called (`sample_slides.by_slide`)
    stack_path : the .npy to write (`stack_files`), which appears complete or not at all; None: all but that

    Raises
    ------
    FileNotFoundError, SlideError (a ValueError)
        The slide cannot be used.
    """
    with slides.open_slide(path) as slide:
        try:
            mpp, note = slides.slide_mpp(slide, grid.one_mpp(samples_df))
            l0_per_mask_px = tiling.mask_mpp / mpp
            picture = slides.reduced(slide, l0_per_mask_px)
            ink = slide_artefacts.ink_mask(picture, tiling.mask_mpp)
            mask = tissue_mask.tissue_mask(picture, tiling.mask_mpp, ink)
            grid_df = grid.lay_grid(samples_df, tiling.l0_size(mpp), slide.dimensions)
            grid_df = _judged(grid_df.assign(l0_size=tiling.l0_size(mpp)), mask, l0_per_mask_px, tiling)
            folded = slide_artefacts.fold_mask(picture, tiling.mask_mpp, mask)
            bled = bled_stain.bled_mask(picture, tiling.mask_mpp, mask)
            for name, found in {"pen": ink, "fold": folded, "bleed": bled}.items():
                grid_df[name] = _share(found, grid_df, l0_per_mask_px)
            tiles_df = _tiles_table(grid_df, samples_df)
            if len(tiles_df):
                read, reader = _tile_reader(path, slide, tiles_df, tiling)
                measured, checksums = _read_tiles(stack_path, tiles_df, read, tiling)
                tiles_df = tiles_df.assign(**measured)
            else:
                reader, checksums = "openslide", []
                if stack_path is not None:
                    stack_path.unlink(missing_ok=True)
        except SlideError as error:
            raise SlideError(f"slide {path}: {error}") from error
        l0_width, l0_height = slide.dimensions
    return SlideTiles(
        tiles_df=tiles_df,
        n_grid=len(grid_df),
        n_dropped_edge=int((grid_df["dropped"] == "edge").sum()),
        n_dropped_tissue=int((grid_df["dropped"] == "tissue").sum()),
        mpp=mpp,
        note=note,
        l0_width=l0_width,
        l0_height=l0_height,
        tissue_area_mm2=float(mask.sum()) * tiling.mask_mpp**2 / 1e6,
        reader=reader,
        checksums=checksums,
    )


@contextmanager
def tile_reader(path: str | Path, tiles_df: pd.DataFrame, tiling: Tiling) -> Iterator[tuple[ReadTile, str]]:
    """How the tiles of a slide that was cut are read: a function (l0_x, l0_y) -> tile, and its name.

    tiles_df : all tiles of the slide, as `cut_slide` gave them (l0_x, l0_y, l0_size): the way of reading is
        chosen by one of them, and so is that of before
    """
    with slides.open_slide(path) as slide:
        yield _tile_reader(path, slide, tiles_df, tiling)


def _judged(grid_df: pd.DataFrame, mask: np.ndarray, l0_per_px: float, tiling: Tiling) -> pd.DataFrame:
    """The grid with tissue_fraction and, in place of `cut`, dropped ("", "edge" or "tissue")."""
    fraction = _share(mask, grid_df, l0_per_px)
    poor = np.where(fraction < tiling.min_tissue - 1e-9, "tissue", "")
    dropped = np.where(grid_df["cut"], "edge", poor)
    return grid_df.drop(columns="cut").assign(tissue_fraction=fraction, dropped=dropped)


def _share(mask: np.ndarray, grid_df: pd.DataFrame, l0_per_px: float) -> np.ndarray:
    """Share of each tile's area in a mask of the slide; float64 (n,)."""
    corner, edge = (grid_df["l0_x"].to_numpy(), grid_df["l0_y"].to_numpy()), grid_df["l0_size"].to_numpy()
    return tissue_mask.tissue_fraction(mask, l0_per_px, *corner, edge, edge)


def _tiles_table(grid_df: pd.DataFrame, samples_df: pd.DataFrame) -> pd.DataFrame:
    """The kept tiles, in the order of the file, so that neighbours share decoded pixels."""
    kept_df = grid_df.loc[grid_df["dropped"] == ""].sort_values(by=["l0_y", "l0_x"], kind="stable")
    named = samples_df.get(TILES_NAMED, samples_df["sample_id"]).to_numpy()
    called = kept_df["sample_id"].map(dict(zip(samples_df["sample_id"], named, strict=True)))
    names = called + "_" + kept_df["column"].astype(str) + "_" + kept_df["row"].astype(str)
    tiles_df = kept_df.assign(
        tile_id=names.astype(str),
        slide_id=str(samples_df["slide_id"].iloc[0]),
        stack_index=np.arange(len(kept_df)),
        **dict.fromkeys(OF_PIXELS, np.nan),
    )
    return tiles_df.reset_index(drop=True).loc[:, list(TILE_COLUMNS)].astype(TILE_COLUMNS)


def _tile_reader(
    path: str | Path, slide: slides.Slide, tiles_df: pd.DataFrame, tiling: Tiling
) -> tuple[ReadTile, str]:
    """A function (l0_x, l0_y) -> uint8 (input_px, input_px, 3), and the name of the way it reads.

    As in the paper pixels are reduced twice: by a whole factor to about tile_px (by Pillow or by libjpeg, so
    both ways agree), then to the network's input.
    """
    l0_size, input_px = int(tiles_df["l0_size"].iloc[0]), tiling.input_px
    read_plain = _openslide_reader(slide, l0_size, tiling)
    if tiling.reader == "openslide":
        return read_plain, "openslide"
    factor = _whole_factor(l0_size, tiling)
    read_scaled, reason = scaled_jpeg.open_scaled(path, factor, slide.dimensions)
    if read_scaled is not None:

        def read_jpeg(l0_x: int, l0_y: int) -> np.ndarray:
            try:
                rgb, box = read_scaled(l0_x, l0_y, l0_size)
            except ValueError as error:
                if tiling.reader == "auto":  # OpenSlide decides whether a damaged tile can be read
                    return read_plain(l0_x, l0_y)
                raise SlideError(f"tile at ({l0_x}, {l0_y}): {error}; try reader = 'openslide'") from error
            return slides.resample(rgb, box, input_px, input_px)

        x, y = tiles_df[["l0_x", "l0_y"]].to_numpy()[len(tiles_df) // 2].tolist()
        difference = np.abs(read_jpeg(x, y).astype(int) - read_plain(x, y)).mean()
        if difference <= MAX_DIFFERENCE:
            return read_jpeg, f"jpeg 1/{factor}"
        reason = f"it differs from OpenSlide by {difference:.1f} grey levels"
    if tiling.reader == "jpeg":
        raise SlideError(f"cannot be read with reader = 'jpeg': {reason}; use reader = 'auto'")
    return read_plain, "openslide"


def _whole_factor(edge_px: float, tiling: Tiling) -> int:
    """The largest factor by which a tile that is edge_px wide may be reduced: 1, 2, 4 or 8."""
    enough_px = max(tiling.tile_px / (1 + slides.MPP_TOLERANCE), tiling.input_px)
    return max((factor for factor in (2, 4, 8) if edge_px / factor >= enough_px), default=1)


def _openslide_reader(slide: slides.Slide, l0_size: int, tiling: Tiling) -> ReadTile:
    input_px = tiling.input_px
    level = slides.best_level(slide, l0_size / max(tiling.tile_px, input_px))
    width, height = slide.level_dimensions[level]
    x_scale, y_scale = slide.dimensions[0] / width, slide.dimensions[1] / height
    factor = _whole_factor(l0_size / x_scale, tiling)

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

    return read_plain


def _read_tiles(
    stack_path: Path | None, tiles_df: pd.DataFrame, read: ReadTile, tiling: Tiling
) -> tuple[dict[str, list[float]], list[int]]:
    """Read tile after tile, into a stack if there is to be one; what is measured on each, and its CRC-32.

    No memory map: on a full disk that crashes.
    """
    measured: dict[str, list[float]] = {name: [] for name in OF_PIXELS}
    edge_px, mpp = tiling.input_px, tiling.tile_px * tiling.tile_mpp / tiling.input_px
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(tiles_df), edge_px, edge_px, 3)}
    checksums: list[int] = []
    with whole_file(stack_path) if stack_path else nullcontext(os.devnull) as path, open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for l0_x, l0_y in tiles_df[["l0_x", "l0_y"]].to_numpy().tolist():
            pixels = read(l0_x, l0_y)
            sharpness, density = tile_quality.focus(pixels), nuclei.nuclear_density(pixels, mpp)
            measures = sharpness, *tile_quality.stains(pixels), density
            for values, value in zip(measured.values(), measures, strict=True):
                values.append(value)
            tile = pixels.tobytes()
            checksums.append(isal_zlib.crc32(tile))
            file.write(tile)
        file.write(stack_files.checksum_block(checksums))
    return measured, checksums
