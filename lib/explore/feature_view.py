"""What one feature detects: its top tiles, what in them raises it, and an image that maximises it.

The slides where the feature is highest are known from the feature table; only their tiles go through the
network.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.tiles.stored import read_tiles
from lib.visualize import activation_maps, attribution
from lib.visualize.feature_values import Network, tile_values
from lib.visualize.synthetic_images import Ascent, ColourBasis, colour_decorrelation, synthesise
from lib.visualize.tile_choice import top_k

N_TILES = 4  # shown
N_SAMPLES, TILES_PER_SAMPLE = 8, 48  # through the network: of the highest samples, evenly spaced tiles


class FeatureView(NamedTuple):
    """One feature made visible."""

    tile_ids: np.ndarray  # str [k], highest value first, no two of one donor unless there is one donor
    values: np.ndarray  # float64 [k], the feature on these tiles (spatial sum)
    tiles: np.ndarray  # uint8 [k, h, w, 3]
    activations: np.ndarray  # uint8 [k, h, w, 3], where each is active; none of features without positions
    gradients: np.ndarray  # uint8 [k, h, w, 3], mid grey is zero (`attribution.to_picture`)
    method: np.ndarray  # str [], how the gradients were taken
    synthetic: np.ndarray  # uint8 [h, w, 3]
    objective: np.ndarray  # float64 [2], the feature on the initial noise, and on the image


def view_feature(
    network: Network,
    feature: str,
    feature_values: pd.Series,
    tiles_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    *,
    n_steps: int = 64,
    on_step: Callable[[int, int], None] | None = None,
) -> FeatureView:
    """The tiles with the highest value of a feature, their gradients, and an image that maximises it.

    Parameters
    ----------
    network, feature : as for `attribution.guided_backpropagation`
    feature_values : sample_id -> value of the feature; only tiles of the highest samples are tried
    tiles_df : tile_id, sample_id, slide_id, file (of the tile stack), stack_index
    samples_df : sample_id, donor
    n_steps : of the synthetic image (`synthetic_images.Ascent`)
    on_step : called with steps done and steps in all; an error it raises ends the work

    Raises
    ------
    ValueError, FileNotFoundError : no tiles, an unknown feature, a stack that is missing
    """
    tried_df = candidates(feature_values, tiles_df, samples_df)
    k = min(N_TILES, len(tried_df))
    n_all = len(tried_df) + k + n_steps

    def report(done: int) -> None:
        if on_step is not None:
            on_step(done, n_all)

    values_df = tile_values(network, [feature], tried_df, progress=False, on_step=report)
    top_df = top_k(values_df, tried_df, samples_df, k=k)
    tiles = read_tiles(top_df)
    gradients = []
    for i, tile in enumerate(tiles, 1):
        gradient, method = attribution.guided_or_plain(network, feature, tile)
        gradients.append(attribution.to_picture(gradient))
        report(len(tried_df) + i)
    images, curve_df = synthesise(
        network,
        [feature],
        Ascent(n_steps, n_recorded=2),
        _colours(tried_df),
        input_px=tiles.shape[1],
        progress=False,
        on_step=lambda done: report(len(tried_df) + k + done),
    )
    return FeatureView(
        top_df["tile_id"].to_numpy(dtype="U"),
        top_df["value"].to_numpy(float),
        tiles,
        activation_maps.overlays(network, feature, tiles),
        np.stack(gradients),
        np.array(method),
        images[0],
        curve_df["objective"].to_numpy(float),
    )


def _colours(tiles_df: pd.DataFrame) -> ColourBasis:
    """Of up to 48 tiles, evenly spaced, for a synthetic image."""
    spread_df = tiles_df.iloc[np.linspace(0, len(tiles_df) - 1, min(len(tiles_df), 48)).astype(int)]
    return colour_decorrelation(read_tiles(spread_df), n_pixels=50_000)


def candidates(feature_values: pd.Series, tiles_df: pd.DataFrame, samples_df: pd.DataFrame) -> pd.DataFrame:
    """Tiles worth trying: of the samples with the highest values, one per donor unless there is only one."""
    with_tiles = feature_values[feature_values.index.isin(tiles_df["sample_id"])]
    if with_tiles.empty:
        raise InputError(f"none of the {len(feature_values)} samples with this feature has a tile")
    donors = samples_df.set_index("sample_id")["donor"].reindex(with_tiles.index)
    ranked = with_tiles.sort_values(ascending=False, kind="stable").index
    if donors.nunique() > 1:
        ranked = ranked[~donors.loc[ranked].duplicated().to_numpy()]
    parts = []
    for sample_id in ranked[:N_SAMPLES]:
        of_sample_df = tiles_df[tiles_df["sample_id"] == sample_id]
        n = min(len(of_sample_df), TILES_PER_SAMPLE)
        parts.append(of_sample_df.iloc[np.linspace(0, len(of_sample_df) - 1, n).astype(int)])
    return pd.concat(parts, ignore_index=True)
