"""The tile grid: where the tiles of each sample lie on its slide.

A sample is a whole slide or a region of one (a spot). Coordinates `l0_` are level-0 pixels. The samples table
is one that `cohort.samples` has checked.
"""

import numpy as np
import pandas as pd

from lib.cohort.samples import REGION
from lib.tiles.slides import SlideError


def lay_grid(samples_df: pd.DataFrame, l0_size: int, dimensions: tuple[int, int]) -> pd.DataFrame:
    """All tiles of the samples' regions, each grid anchored at its region's top left corner.

    A region may lack one pixel of a whole number of tiles (a spot's position is rounded), a slide may not.

    Parameters
    ----------
    samples_df : samples of one slide: sample_id, optional region columns l0_x, l0_y, l0_width, l0_height
        (level-0 px; missing = the whole slide)
    l0_size : edge of a tile, level-0 px
    dimensions : (l0_width, l0_height) of the slide

    Returns
    -------
    DataFrame
        sample_id, column, row, l0_x, l0_y, cut. `cut` is True for a tile that crosses the right or bottom
        edge of its region, or any edge of the slide; such tiles are never kept.
    """
    regions_df = samples_df.reindex(columns=list(REGION)).reset_index(drop=True).astype("float64")
    whole = regions_df["l0_x"].isna().to_numpy()
    regions_df.loc[whole, list(REGION)] = [0, 0, *dimensions]
    l0 = {name: regions_df[name].round().astype("int64").to_numpy() for name in REGION}
    slack = np.where(whole, 0, 1)
    full, total = {}, {}
    for side in ("l0_width", "l0_height"):
        full[side] = (l0[side] + slack) // l0_size
        total[side] = np.maximum(full[side], -(-(l0[side] - slack) // l0_size))
    n_of_region = total["l0_width"] * total["l0_height"]
    region = np.repeat(np.arange(len(regions_df)), n_of_region)
    nth = np.arange(len(region)) - np.repeat(np.cumsum(n_of_region) - n_of_region, n_of_region)
    row, column = nth // total["l0_width"][region], nth % total["l0_width"][region]
    l0_x, l0_y = l0["l0_x"][region] + column * l0_size, l0["l0_y"][region] + row * l0_size
    inside = (column < full["l0_width"][region]) & (row < full["l0_height"][region])
    inside &= (
        (l0_x >= 0) & (l0_y >= 0) & (l0_x + l0_size <= dimensions[0]) & (l0_y + l0_size <= dimensions[1])
    )
    sample_id = samples_df["sample_id"].astype(str).to_numpy()[region]
    grid = {"sample_id": sample_id, "column": column, "row": row, "l0_x": l0_x, "l0_y": l0_y, "cut": ~inside}
    return pd.DataFrame(grid)


def one_mpp(samples_df: pd.DataFrame) -> float | None:
    """The samples table's µm/px for this slide (column mpp), None when it gives none. Raises SlideError."""
    if "mpp" not in samples_df:
        return None
    values = samples_df["mpp"].dropna().unique()
    if len(values) > 1:
        listed = ", ".join(f"{value:g}" for value in values[:3])
        raise SlideError(f"the samples table gives several mpp for this slide ({listed}): give one")
    return float(values[0]) if len(values) else None
