"""Colour and texture of tiles, without a network: what learned features should exceed."""

from itertools import chain

import numpy as np
import pandas as pd
from skimage.color import rgb2hed
from skimage.feature import graycomatrix, graycoprops
from tqdm.auto import tqdm

from lib.tiles.stored import StoredTiles

CHANNELS = ("red", "green", "blue", "haematoxylin", "eosin", "residual")
TEXTURES = ("contrast", "homogeneity", "energy", "correlation")
STAINS = (("haematoxylin", 3, 0.15), ("eosin", 4, 0.25))  # channel of rgb with HED, its value at full range
N_GREYS, DISTANCES_PX = 16, (1, 4)
ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
NAMES = (
    *(f"{channel}_{measure}" for measure in ("mean", "sd") for channel in CHANNELS),
    *(f"{stain}_{texture}" for stain, _, _ in STAINS for texture in TEXTURES),
)


def plain_features(tiles_df: pd.DataFrame, progress: bool = True) -> pd.DataFrame:
    """Twelve features of colour and eight of texture for each sample.

    Mean and standard deviation over a tile's pixels of red, green, blue (0 to 1) and of the haematoxylin,
    eosin and residual stains (Ruifrok and Johnston 2001); contrast, homogeneity, energy and correlation of
    the grey-level co-occurrence of haematoxylin and eosin (Haralick, Shanmugam and Dinstein 1973; 16 levels,
    1 and 4 px, four directions, averaged). Averaged over the sample's tiles.

    Parameters
    ----------
    tiles_df : columns file (path of a tile stack), stack_index, sample_id

    Returns
    -------
    DataFrame
        20 features (NAMES) x samples, float64.
    """
    rows = []
    bar = tqdm(total=len(tiles_df), unit="tile", desc="colour and texture", disable=not progress)
    for _, of_file_df in tiles_df.groupby("file", sort=False):
        stored = StoredTiles(of_file_df)
        tiles = chain.from_iterable(stored.batches(np.arange(len(stored)), 64))
        for sample_id, tile in zip(of_file_df["sample_id"], tiles, strict=True):
            rgb = tile / 255.0
            pixels = np.concatenate([rgb, rgb2hed(rgb)], axis=2)
            flat = pixels.reshape(-1, 6)
            texture = chain.from_iterable(_texture(pixels[..., k], top) for _, k, top in STAINS)
            rows.append((sample_id, *flat.mean(axis=0), *flat.std(axis=0), *texture))
            bar.update()
    bar.close()
    return pd.DataFrame(rows, columns=["sample_id", *NAMES]).groupby("sample_id").mean().T


def _texture(stain: np.ndarray, top: float) -> list[float]:
    greys = np.clip(stain / top * N_GREYS, 0, N_GREYS - 1).astype(np.uint8)
    counts = graycomatrix(greys, DISTANCES_PX, ANGLES, N_GREYS, symmetric=True, normed=True)
    return [float(graycoprops(counts, texture).mean()) for texture in TEXTURES]
