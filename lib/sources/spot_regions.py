"""Spots as samples: how an array lies on its picture, and a square region of a slide around each spot."""

import numpy as np
import pandas as pd

from lib.errors import InputError


def grid_steps(array_df: pd.DataFrame, pixel_df: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Affine fit of pixel on array positions: pixel = x * steps[0] + y * steps[1] + steps[2].

    Spots further from their fitted place than 4 robust standard deviations are left out and the fit repeated,
    so a few wrong positions do not bias it.

    Parameters
    ----------
    array_df : two columns, position on the array. pixel_df : two columns, x and y on the picture.

    Returns
    -------
    steps [3, 2]; distance [n], px, of each spot from its fitted place; used [n], bool.

    Raises
    ------
    InputError : fewer than 4 spots, or all on one line.
    """
    array, pixel = array_df.to_numpy(float), pixel_df.to_numpy(float)
    design = np.column_stack([array, np.ones(len(array))])
    if len(array) < 4 or np.linalg.matrix_rank(design - design.mean(axis=0) * [1, 1, 0]) < 3:
        raise InputError(f"{len(array)} spots, too few or on one line: µm/px needs 4 in two directions")
    used = np.ones(len(array), dtype=bool)
    for _ in range(20):
        steps, *_ = np.linalg.lstsq(design[used], pixel[used], rcond=None)
        distance = np.hypot(*(pixel - design @ steps).T)
        limit = max(4 * 1.4826 * float(np.median(distance)), 1e-6)
        if np.array_equal(distance <= limit, used):
            break
        used = distance <= limit
    return steps, distance, used


def spot_samples(
    spots_df: pd.DataFrame, slide_id: str, mpp: float, region_um: float, l0_width: int, l0_height: int
) -> pd.DataFrame:
    """Rows of a samples table for the spots of one slide: a square region centred on each.

    Parameters
    ----------
    spots_df : columns sample_id, pixel_x, pixel_y (centre, level-0 px), donor, tissue; others are kept.
    mpp : µm per level-0 px. region_um : edge of the square; at least a tile, so that each spot holds one.
    l0_width, l0_height : size of the slide in px.

    Returns
    -------
    DataFrame
        sample_id, slide_id, donor, tissue, mpp, l0_x, l0_y, l0_width, l0_height (int px), then the further
        columns. Spots whose square leaves the slide are left out: compare the lengths.

    Raises
    ------
    ValueError
        A region under one pixel.
    """
    edge = round(region_um / mpp)
    if edge < 1:
        raise InputError(f"region_um = {region_um} is under one pixel ({mpp:.3f} µm) of slide {slide_id}")
    rows_df = spots_df[["sample_id"]].assign(
        slide_id=slide_id,
        donor=spots_df["donor"],
        tissue=spots_df["tissue"],
        mpp=round(mpp, 5),
        l0_x=np.rint(spots_df["pixel_x"] - edge / 2).astype(int),
        l0_y=np.rint(spots_df["pixel_y"] - edge / 2).astype(int),
        l0_width=edge,
        l0_height=edge,
    )
    further = spots_df.columns.difference([*rows_df.columns, "pixel_x", "pixel_y"], sort=False)
    rows_df = rows_df.join(spots_df[further])
    inside = (rows_df["l0_x"] >= 0) & (rows_df["l0_y"] >= 0)
    inside &= (rows_df["l0_x"] + edge <= l0_width) & (rows_df["l0_y"] + edge <= l0_height)
    return rows_df[inside].reset_index(drop=True)
