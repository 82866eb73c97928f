"""Does a gene's stain lie on nuclei, and does its feature look at nuclei? Two numbers side by side.

An immunohistochemistry image and a tile of the cohort show different pieces of tissue, so their maps cannot
be overlaid. What can be compared is the share of each map (brown DAB stain in one, guided-backpropagation
magnitude in the other) that falls on nuclei, and the share expected by chance.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.visualize import attribution
from lib.visualize.feature_values import Network
from lib.visualize.immunostain import cut_tiles, nuclei_mask, separate_stains, tissue_pixels

TILE_PX = 64  # of a stained image: in one of the Human Protein Atlas a few cells
LEAST_TISSUE = 0.25  # of such a tile, for it to be counted
MAX_TILES = 1000  # of more tiles, so many are drawn at random
N_NULL = 999  # random pairings


class Overlap(NamedTuple):
    """The share of a map that lies on a mask, compared with tiles paired at random.

    share and null_mean are in [0, 1]; p_more and p_less are one-sided, (1 + count) / (n_null + 1).
    """

    share: float
    null_mean: float
    null_sd: float
    z: float
    p_more: float
    p_less: float
    n_tiles: int
    n_null: int


COLUMNS = ["gene", "symbol", "feature", "map", *Overlap._fields, "remark"]


def overlap(
    maps: np.ndarray, masks: np.ndarray, tissue: np.ndarray, *, n_null: int = N_NULL, seed: int = 0
) -> Overlap:
    """Share of a map that lies on a mask, compared with maps overlaid on the masks of other, random tiles.

    share = sum(map on the mask) / sum(map), over the tissue of all tiles. In each null draw every tile's map
    is paired with the mask of another tile (never its own), rotated and mirrored at random, over what is
    tissue in both: glass has neither stain nor nuclei, so counting it would make any stain look bound to
    nuclei. The null keeps the amounts of map and mask in each tile; it destroys their positions, and with
    that any tendency of tiles rich in one to be rich in the other.

    Parameters
    ----------
    maps : float, n_tiles x H x H, non-negative
        DAB of the tiles of one image, or the magnitude of a feature's gradient on its tiles.
    masks : bool, n_tiles x H x H
        Nuclei of the same tiles.
    tissue : bool, n_tiles x H x H
        Pixels of tissue (`tissue_pixels`); the others, and tiles without any, are left out.
    n_null : random pairings

    Raises
    ------
    ValueError
        For fewer than two tiles with tissue, shapes that differ or are not square, negative or empty maps, a
        full or empty mask, tiles whose tissue never falls on another's.
    """
    maps, masks, tissue = _checked(maps, masks, tissue)
    rng = np.random.default_rng(seed)
    if len(maps) > MAX_TILES:
        drawn = rng.choice(len(maps), MAX_TILES, replace=False)
        maps, masks, tissue = maps[drawn], masks[drawn], tissue[drawn]
    met = _met_by_each_mask(maps, masks)  # orientation x map x mask; [0, i, i] is the observed one
    # How much of map i falls on the tissue of tile j; all of it where there is no glass.
    total = _met_by_each_mask(maps, tissue)
    everyone = np.arange(len(maps))
    share = _pooled(met, total, (0, everyone, everyone))
    null = np.empty(n_null)
    for i in range(n_null):
        turn = rng.integers(8, size=len(maps))
        null[i] = _pooled(met, total, (turn, everyone, _partners(len(maps), rng)))
    if not np.isfinite(null).all():
        raise InputError("tissue of one tile never falls on that of another: use larger or fuller tiles")
    mean, sd = float(null.mean()), float(null.std(ddof=1)) if n_null > 1 else 0.0
    slack = 1e-6  # sums in float32 that agree to this are ties
    return Overlap(
        share=share,
        null_mean=mean,
        null_sd=sd,
        z=(share - mean) / sd if sd > 0 else float("nan"),
        p_more=float((1 + (null >= share - slack).sum()) / (n_null + 1)),
        p_less=float((1 + (null <= share + slack).sum()) / (n_null + 1)),
        n_tiles=len(maps),
        n_null=n_null,
    )


def _checked(
    maps: np.ndarray, masks: np.ndarray, tissue: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps, masks and tissue of the tiles with tissue; map and mask are empty elsewhere."""
    if maps.ndim != 3 or maps.shape[1] != maps.shape[2] or not maps.shape == masks.shape == tissue.shape:
        shapes = f"{maps.shape}, {masks.shape} and {tissue.shape}"
        raise InputError(f"maps, masks and tissue must all be n_tiles x H x H; got {shapes}")
    n_all, kept = len(maps), tissue.any(axis=(1, 2))
    maps, masks, tissue = maps[kept], masks[kept], tissue[kept]
    if len(maps) < 2:
        raise InputError(f"{len(maps)} of {n_all} tiles have tissue: an overlap needs at least 2")
    if not np.isfinite(maps).all() or (maps < 0).any() or not maps.any():
        raise InputError(
            "maps must be finite, non-negative and not all zero: use the magnitude of a gradient"
        )
    maps, masks = np.where(tissue, maps, 0), masks & tissue
    if not maps.any() or not masks.any() or masks.sum() == tissue.sum():
        raise InputError(
            f"the masks cover {masks.sum() / tissue.sum():.0%} of the tissue and the maps "
            f"{(maps > 0).sum() / tissue.sum():.0%}: an overlap needs some of both, and tissue off the masks"
        )
    return maps, masks, tissue


def _pooled(met: np.ndarray, total: np.ndarray, at: tuple) -> float:
    """Share over all tiles at the given orientations, maps and masks; NaN where nothing meets tissue."""
    whole = total[at].sum(dtype=np.float64)
    return float(met[at].sum(dtype=np.float64) / whole) if whole > 0 else float("nan")


def _met_by_each_mask(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Sum of map i on mask j in each of its eight orientations, float32, 8 x n_tiles x n_tiles."""
    flat = maps.reshape(len(maps), -1).astype(np.float32)  # n_tiles x pixels
    met = np.empty((8, len(maps), len(maps)), dtype=np.float32)
    for orientation in range(8):
        turned = np.rot90(masks, orientation % 4, axes=(1, 2))
        turned = turned[:, :, ::-1] if orientation >= 4 else turned
        met[orientation] = flat @ turned.reshape(len(masks), -1).astype(np.float32).T
    return met


def _partners(n_tiles: int, rng: np.random.Generator) -> np.ndarray:
    """For each tile another one, along a random cycle through all, so that none is paired with itself."""
    order = rng.permutation(n_tiles)
    partner = np.empty(n_tiles, dtype=int)
    partner[order] = np.roll(order, 1)
    return partner


def dab_on_nuclei(image: np.ndarray, *, n_null: int = N_NULL, seed: int = 0) -> Overlap:
    """`overlap` of the DAB density with the nuclei of one immunohistochemistry image, cut into tiles.

    Only tissue counts: bare glass round a core, and tiles of less than LEAST_TISSUE tissue, are left out.

    Parameters
    ----------
    image : uint8, H x W x 3, RGB
    """
    dab = cut_tiles(separate_stains(image).dab, TILE_PX)
    nuclei = cut_tiles(nuclei_mask(image), TILE_PX)
    tissue = cut_tiles(tissue_pixels(image), TILE_PX)
    tissue = tissue & (tissue.mean(axis=(1, 2)) >= LEAST_TISSUE)[:, None, None]
    return overlap(dab, nuclei, tissue, n_null=n_null, seed=seed)


def gradient_on_nuclei(
    network: Network, feature: str, tiles: Sequence[np.ndarray], *, mpp: float, seed: int = 0
) -> Overlap:
    """`overlap` of the magnitude of a feature's gradient with the nuclei of the same tiles.

    Parameters
    ----------
    tiles : uint8 [px, px, 3] each, two or more; the feature's top tiles, of several donors
    mpp : µm/px of the tiles as given
    """
    gradients = [attribution.guided_or_plain(network, feature, tile)[0] for tile in tiles]
    maps = np.stack([attribution.magnitude(gradient) for gradient in gradients])
    masks = np.stack([nuclei_mask(tile, mpp=mpp) for tile in tiles])
    tissue = np.stack([tissue_pixels(tile) for tile in tiles])
    return overlap(maps, masks, tissue, seed=seed)


def compare(
    network: Network,
    pairs_df: pd.DataFrame,
    images: Mapping[str, np.ndarray],
    tiles: Mapping[str, Sequence[np.ndarray]],
    *,
    mpp: float,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of DAB and of gradient on nuclei, for the pairs whose gene has an image.

    What cannot be measured (no nuclei in the image, no gradient on the tiles) keeps its row, with the reason
    as remark.

    Parameters
    ----------
    pairs_df : columns gene, symbol, feature
    images : gene -> uint8 [h, w, 3]
    tiles : feature -> its top tiles, uint8 [px, px, 3] each
    mpp : µm/px of the tiles

    Returns
    -------
    DataFrame with columns COLUMNS, two rows a pair (map: DAB stain, gradient); empty without images.
    """
    rows = []
    with_image_df = pairs_df.loc[pairs_df["gene"].isin(list(images)), ["gene", "symbol", "feature"]]
    for pair in with_image_df.to_dict("records"):
        feature = pair["feature"]
        on_tiles = partial(gradient_on_nuclei, network, feature, tiles[feature], mpp=mpp)
        measure = {"DAB stain": partial(dab_on_nuclei, images[pair["gene"]]), "gradient": on_tiles}
        for what, of_pair in measure.items():
            try:
                found = {**of_pair(seed=seed)._asdict(), "remark": ""}
            except ValueError as error:
                found = {"remark": str(error)}
            rows.append(pair | {"map": what} | found)
    return pd.DataFrame(rows).reindex(columns=COLUMNS)
