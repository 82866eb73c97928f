"""Does a gene's stain lie on nuclei, and does its feature look at nuclei? Two numbers side by side.

An immunohistochemistry image and a tile of the cohort are different pieces of tissue; what they have in
common is how much of a map (DAB stain, gradient of the feature) falls on nuclei, beside what chance puts
there (`lib.visualize.immunostain`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from lib.visualize import attribution, immunostain

COLUMNS = ["gene", "symbol", "feature", "map", *immunostain.Overlap._fields, "remark"]


def gradient_on_nuclei(
    model: torch.nn.Module,
    architecture: str,
    feature: str,
    tiles: Sequence[np.ndarray],
    *,
    mpp: float,
    p: float = 1.0,
    seed: int = 0,
) -> immunostain.Overlap:
    """`ihc.overlap` of the magnitude of a feature's gradient with the nuclei of the same tiles, over tissue.

    Parameters
    ----------
    tiles : uint8 [px, px, 3] each, two or more; the feature's top tiles, of several donors
    mpp : µm/px of the tiles as given
    p : exponent of the feature
    """
    gradients = [attribution.guided_or_plain(model, architecture, feature, tile, p=p)[0] for tile in tiles]
    maps = np.stack([attribution.magnitude(gradient) for gradient in gradients])
    masks = np.stack([immunostain.nuclei_mask(tile, mpp=mpp) for tile in tiles])
    tissue = np.stack([immunostain.tissue_pixels(tile) for tile in tiles])
    return immunostain.overlap(maps, masks, tissue, seed=seed)


def compare(
    model: torch.nn.Module,
    architecture: str,
    pairs_df: pd.DataFrame,
    images: Mapping[str, np.ndarray],
    tiles: Mapping[str, Sequence[np.ndarray]],
    *,
    mpp: float,
    p: float = 1.0,
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
    p : exponent of the features

    Returns
    -------
    DataFrame with columns COLUMNS, two rows a pair (map: DAB stain, gradient); empty without images.
    """
    rows = []
    for pair in pairs_df[pairs_df["gene"].isin(list(images))].itertuples():
        name = {"gene": pair.gene, "symbol": pair.symbol, "feature": pair.feature}
        measure = {
            "DAB stain": lambda pair=pair: immunostain.dab_on_nuclei(images[pair.gene], seed=seed),
            "gradient": lambda pair=pair: gradient_on_nuclei(
                model, architecture, pair.feature, tiles[pair.feature], mpp=mpp, p=p, seed=seed
            ),
        }
        for what, of_pair in measure.items():
            try:
                found = {**of_pair()._asdict(), "remark": ""}
            except ValueError as error:
                found = {"remark": str(error)}
            rows.append(name | {"map": what} | found)
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def stain_rows(images: Mapping[str, np.ndarray], *, longest_px: int = 600) -> list[dict]:
    """Rows for `pictures.stain_panel`: each image, by its title, taken apart; thinned to longest_px.

    An image in which no nuclei can be found has none outlined.
    """
    rows = []
    for title, image in images.items():
        every = slice(None, None, -(-max(image.shape[:2]) // longest_px))
        stains = immunostain.separate_stains(image)
        try:
            nuclei = immunostain.nuclei_mask(image)
        except ValueError:
            nuclei = np.zeros(image.shape[:2], bool)
        parts = {"image": image, "haematoxylin": stains.haematoxylin, "dab": stains.dab, "nuclei": nuclei}
        rows.append({name: part[every, every] for name, part in parts.items()} | {"title": title})
    return rows
