"""Colour statistics of tiles: a baseline for learned features."""

from itertools import chain

import numpy as np
import pandas as pd
from skimage.color import rgb2hed

from lib.tiles.stored import StoredTiles


def colour_features(tiles_df: pd.DataFrame) -> pd.DataFrame:
    """Twelve colour features of each sample, a baseline that learned features should exceed.

    Mean and standard deviation over a tile's pixels of red, green, blue (0 to 1) and of the haematoxylin,
    eosin and residual stains (Ruifrok and Johnston 2001), averaged over the sample's tiles.

    Parameters
    ----------
    tiles_df : columns file (path of a tile stack), stack_index, sample_id

    Returns
    -------
    DataFrame
        12 features x samples, float64.
    """
    rows = []
    for _, of_file_df in tiles_df.groupby("file", sort=False):
        stored = StoredTiles(of_file_df)
        tiles = chain.from_iterable(stored.batches(np.arange(len(stored)), 64))
        for sample_id, tile in zip(of_file_df["sample_id"], tiles, strict=True):
            rgb = tile / 255.0
            pixels = np.concatenate([rgb, rgb2hed(rgb)], axis=2).reshape(-1, 6)
            rows.append((sample_id, *pixels.mean(axis=0), *pixels.std(axis=0)))
    channels = ("red", "green", "blue", "haematoxylin", "eosin", "residual")
    names = [f"{channel}_{measure}" for measure in ("mean", "sd") for channel in channels]
    return pd.DataFrame(rows, columns=["sample_id", *names]).groupby("sample_id").mean().T
