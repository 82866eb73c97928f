"""Plain colour features of tiles: what learned features should beat."""

import numpy as np
import pandas as pd
from skimage.color import rgb2hed


def colour_features(tiles_df: pd.DataFrame) -> pd.DataFrame:
    """Twelve plain colour features of each sample, a floor that learned features should beat.

    Mean and standard deviation over a tile's pixels of red, green, blue (0 to 1) and of the haematoxylin,
    eosin and residual stain (Ruifrok and Johnston 2001), averaged over the sample's tiles.

    Parameters
    ----------
    tiles_df : columns file (path of a tile stack), stack_index, sample_id.

    Returns
    -------
    DataFrame
        12 features x samples, float64.
    """
    rows = []
    for file, of_file_df in tiles_df.groupby("file", sort=False):
        stack = np.load(file, mmap_mode="r")
        for tile in of_file_df.itertuples():
            rgb = stack[tile.stack_index] / 255.0
            pixels = np.concatenate([rgb, rgb2hed(rgb)], axis=2).reshape(-1, 6)
            rows.append((tile.sample_id, *pixels.mean(axis=0), *pixels.std(axis=0)))
    channels = ("red", "green", "blue", "haematoxylin", "eosin", "residual")
    names = [f"{channel}_{measure}" for measure in ("mean", "sd") for channel in channels]
    return pd.DataFrame(rows, columns=["sample_id", *names]).groupby("sample_id").mean().T
