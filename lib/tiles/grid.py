"""The tile grid: how wide a tile is on a slide, and where the tiles of each sample lie.

A sample is a whole slide or a region of one (a spot). Coordinates `l0_` are level-0 pixels.
"""

import numpy as np
import pandas as pd

from lib.tiles.slides import SlideError

REGION = ["l0_x", "l0_y", "l0_width", "l0_height"]


def tile_size(tile_px: int, tile_mpp: float, mpp: float) -> int:
    """Edge of a tile in level-0 pixels: 512 px of 0.9884 µm at 0.4942 µm/px are exactly 1024.

    Rounded to whole pixels, an error of the physical size below 0.5 / result. Raises ValueError.
    """
    for name, value in (("tile_px", tile_px), ("tile_mpp", tile_mpp), ("mpp", mpp)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    return max(1, round(tile_px * tile_mpp / mpp))


def sample_regions(samples_df: pd.DataFrame, dimensions: tuple[int, int]) -> pd.DataFrame:
    """Region of each sample of one slide, int64 level-0 px, columns sample_id, REGION and whole (bool).

    A sample whose four region values are all missing is the whole slide (`dimensions` = width, height).

    Raises SlideError when only some are missing, or a width or height is not positive.
    """
    regions_df = _numbers(samples_df.reindex(columns=REGION).reset_index(drop=True))
    sample_ids = samples_df["sample_id"].astype(str).to_numpy()
    missing = regions_df.isna()
    partly = missing.any(axis=1) & ~missing.all(axis=1)
    if partly.any():
        raise SlideError(
            f"{partly.sum()} samples give only some of {', '.join(REGION)}, the first is "
            f"{sample_ids[partly.argmax()]!r}: give all four, or none for the whole slide"
        )
    whole = missing.all(axis=1).to_numpy()
    regions_df.loc[whole, REGION] = [0, 0, *dimensions]
    regions_df = regions_df.round().astype("int64")
    flat = (regions_df[["l0_width", "l0_height"]] <= 0).any(axis=1)
    if flat.any():
        raise SlideError(f"the region of sample {sample_ids[flat.argmax()]!r} has no width or no height")
    return regions_df.assign(sample_id=sample_ids, whole=whole)


def lay_grid(samples_df: pd.DataFrame, l0_size: int, dimensions: tuple[int, int]) -> pd.DataFrame:
    """All tiles of the samples' regions, each grid anchored at its region's top left corner.

    A region may lack one pixel of a whole number of tiles (a spot's position is rounded), a slide may not.

    Parameters
    ----------
    samples_df : samples of one slide (sample_id, optional REGION columns).
    l0_size : edge of a tile, level-0 px.
    dimensions : (l0_width, l0_height) of the slide.

    Returns
    -------
    DataFrame: sample_id, column, row, l0_x, l0_y, cut. `cut` is True for a tile that crosses the right or
    bottom edge of its region, or any edge of the slide; those are never kept.
    """
    regions_df = sample_regions(samples_df, dimensions)
    slack = np.where(regions_df["whole"], 0, 1)
    full, total = {}, {}
    for side in ("l0_width", "l0_height"):
        extent = regions_df[side].to_numpy()
        full[side] = (extent + slack) // l0_size
        total[side] = np.maximum(full[side], -(-(extent - slack) // l0_size))
    n_of_region = total["l0_width"] * total["l0_height"]
    region = np.repeat(np.arange(len(regions_df)), n_of_region)
    nth = np.arange(len(region)) - np.repeat(np.cumsum(n_of_region) - n_of_region, n_of_region)
    row, column = nth // total["l0_width"][region], nth % total["l0_width"][region]
    l0_x = regions_df["l0_x"].to_numpy()[region] + column * l0_size
    l0_y = regions_df["l0_y"].to_numpy()[region] + row * l0_size
    inside = (column < full["l0_width"][region]) & (row < full["l0_height"][region])
    inside &= (
        (l0_x >= 0) & (l0_y >= 0) & (l0_x + l0_size <= dimensions[0]) & (l0_y + l0_size <= dimensions[1])
    )
    sample_id = regions_df["sample_id"].to_numpy()[region]
    grid = {"sample_id": sample_id, "column": column, "row": row, "l0_x": l0_x, "l0_y": l0_y, "cut": ~inside}
    return pd.DataFrame(grid)


def one_mpp(samples_df: pd.DataFrame) -> float | None:
    """The samples table's µm/px for this slide (column mpp), None when it gives none. Raises SlideError."""
    if "mpp" not in samples_df:
        return None
    values = _numbers(samples_df[["mpp"]])["mpp"].dropna().unique()
    if len(values) > 1:
        listed = ", ".join(f"{v:g}" for v in values[:3])
        raise SlideError(f"the samples table gives this slide several mpp ({listed}): one is needed")
    return float(values[0]) if len(values) else None


def _numbers(given_df: pd.DataFrame) -> pd.DataFrame:
    """As float64, missing as NaN. Raises SlideError on text and infinities."""
    numbers_df = given_df.apply(pd.to_numeric, errors="coerce").astype("float64")
    bad = given_df.notna() & ~np.isfinite(numbers_df)
    for name in given_df.columns[bad.any()]:
        value = given_df.loc[bad[name], name].iloc[0]
        raise SlideError(f"column {name} of the samples table holds {value!r}, which is not a finite number")
    return numbers_df
