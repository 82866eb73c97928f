"""Where in a tile a feature is active: the output of its channel, position by position.

A feature is the sum of this map (paper, Methods, "features"), so that the map says where its value comes
from; what in the tile raises it there is the gradient's to say (`attribution`).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from PIL import Image

from lib.errors import InputError
from lib.network import models
from lib.tiles.stored import StoredTiles
from lib.visualize.feature_values import FeaturesReached, Network, feature_places, powered

FULL_RANGE_PERCENTILE = 99.5  # of |activation| that a picture shows at full range
MOST_PX = 3000  # of the longer edge of a stitched map
SHARE = 0.65  # of the colour in an overlay, at full range


class NoPositions(InputError):
    """The feature is one number per tile (a class token, an embedding): it has no place in the tile."""


def activation_maps(network: Network, feature: str, tiles: np.ndarray) -> np.ndarray:
    """Activation of a feature at every position of its layer, float32 [n, h, w]; each sums to the feature.

    Parameters
    ----------
    tiles : uint8, n x H x W x 3, RGB

    Raises
    ------
    NoPositions
    ValueError : an unknown feature.
    """
    ((layer, channel),) = feature_places(network.architecture, [feature])
    axis = {found.layer: found.call.channel_axis for found in models.feature_layers(network.architecture)}
    found: list[torch.Tensor] = []

    def keep(_: int, output_t: torch.Tensor) -> None:
        channel_t = output_t.select(axis[layer], channel)
        found.append(powered(channel_t, network.p).to("cpu", torch.float32, copy=True))
        raise FeaturesReached

    with torch.no_grad():
        input_t = network.normalised(torch.from_numpy(np.ascontiguousarray(tiles)))
        try:
            with models.layer_outputs(network.model, network.architecture, keep, layers=[layer]):
                network.model(input_t)
        except FeaturesReached:
            return _in_two_dimensions(found[0].numpy(), feature)
    raise RuntimeError(f"the forward pass ended before layer {layer}: is the model {network.architecture}?")


def _in_two_dimensions(maps: np.ndarray, feature: str) -> np.ndarray:
    if maps.ndim == 2 and maps.shape[1] > 1:  # patches of a transformer, row by row
        edge = round(maps.shape[1] ** 0.5)
        if edge * edge == maps.shape[1]:
            return maps.reshape(-1, edge, edge)
    if maps.ndim != 3:
        raise NoPositions(f"feature {feature} is one number per tile: it has no map")
    return maps


def maps_of_tiles(
    network: Network,
    feature: str,
    tiles_df: pd.DataFrame,
    *,
    batch: int = 32,
    on_step: Callable[[int], None] | None = None,
) -> np.ndarray:
    """`activation_maps` of stored tiles, in their order.

    tiles_df : tile_id, file (of the tile stack), stack_index. on_step : called after each batch with the
        number of tiles done; an error it raises ends the work.
    """
    tiles, parts = StoredTiles(tiles_df), []
    for first in range(0, len(tiles_df), batch):
        rows = np.arange(first, min(first + batch, len(tiles_df)))
        parts.append(activation_maps(network, feature, tiles.read(rows)))
        if on_step is not None:
            on_step(len(rows) + first)
    return np.concatenate(parts)


def overlay(tile: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """A map over its tile in pale grey, uint8 H x W x 3.

    The stronger the activation, the more colour: yellow to red where it is positive, blue where it is
    negative. Two pictures do not share a scale.
    """
    height, width = tile.shape[:2]
    size = np.abs(activation)
    limit = np.percentile(size, FULL_RANGE_PERCENTILE) or size.max() or 1.0
    value = np.clip(activation / limit, -1, 1).astype(np.float32)
    smooth = np.asarray(Image.fromarray(value).resize((width, height), Image.Resampling.BILINEAR))
    colour = colormaps["autumn_r"](np.clip(smooth, 0, 1))[..., :3]
    colour = np.where(smooth[..., None] < 0, colormaps["Blues"](np.clip(-smooth, 0, 1))[..., :3], colour)
    grey = 1 - 0.7 * (1 - tile.mean(axis=2, keepdims=True) / 255)
    share = SHARE * np.abs(smooth)[..., None]
    return np.round(255 * ((1 - share) * grey + share * colour)).astype(np.uint8)


def overlays(network: Network, feature: str, tiles: np.ndarray) -> np.ndarray:
    """`overlay` of each tile, uint8 [n, H, W, 3]; none of a feature without positions."""
    try:
        maps = activation_maps(network, feature, tiles)
    except NoPositions:
        return tiles[:0]
    return np.stack([overlay(tile, found) for tile, found in zip(tiles, maps, strict=True)])


def stitched(tiles_df: pd.DataFrame, maps: np.ndarray, l0_shape: tuple[float, float]) -> np.ndarray:
    """Maps of the tiles of a slide laid where the tiles are, float32 [H, W], NaN where there is none.

    A position of a map has at least a pixel, as long as the longer edge stays below MOST_PX.

    Parameters
    ----------
    tiles_df : l0_x, l0_y, l0_size, level-0 px, in the order of the maps.
    l0_shape : height and width of what is shown, level-0 px from its top left corner.
    """
    scale = min(maps.shape[1] / tiles_df["l0_size"].min(), MOST_PX / max(l0_shape))
    height, width = (max(1, round(edge * scale)) for edge in l0_shape)
    canvas = np.full((height, width), np.nan, np.float32)
    places = tiles_df[["l0_x", "l0_y", "l0_size"]].to_numpy(float)
    for (x, y, size), activation in zip(places, maps, strict=True):
        i = _nearest(y, size, scale, height, activation.shape[0])
        j = _nearest(x, size, scale, width, activation.shape[1])
        canvas[np.ix_(i[0], j[0])] = activation[np.ix_(i[1], j[1])]
    return canvas


def _nearest(start: float, size: float, scale: float, n: int, n_map: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a line of n that a tile covers, and the position of its map under each."""
    first, last = max(0, round(start * scale)), min(n, round((start + size) * scale))
    pixels = np.arange(first, max(last, first))
    places = ((pixels + 0.5) / scale - start) / size * n_map
    return pixels, np.clip(places.astype(int), 0, n_map - 1)
