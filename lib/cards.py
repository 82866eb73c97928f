"""Cards: chosen gene-feature pairs made visible, each with its tiles, gradient picture and synthetic images.

All pictures of a pair together (paper, Figs 4 to 6; METHOD section 10). Notebook 10 draws them, the inspector
and the report read them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from lib import attribution, representatives, synthesis

# Images optimised at once: a batch of 8 VGG16 passes with gradients at 224 px holds about 2 GB.
SYNTHESIS_BATCH = 8
KINDS = ("tile", "gradient", "synthetic", "low to high")
SHOWN_COLUMNS = [
    "card",
    "kind",
    "order",
    "feature",
    "seed",
    "tile_id",
    "sample_id",
    "slide_id",
    "donor",
    "tissue",
]
SHOWN_COLUMNS += ["column", "row", "value", "quantile"]


class Cards(NamedTuple):
    """What `make_cards` returns; notebook 10 keeps each as an artefact of the same name."""

    cards: pd.DataFrame  # a row per pair, index card
    card_shown: pd.DataFrame  # a row per picture: which card, what it is, which tile or seed
    card_curves: pd.DataFrame  # objective of each synthetic image by step
    card_pictures: np.ndarray  # uint8 [n_pictures, px, px, 3], in the rows' order of card_shown


def make_cards(
    model: torch.nn.Module,
    architecture: str,
    chosen_df: pd.DataFrame,
    cover_df: pd.DataFrame,
    values_df: pd.DataFrame,
    tiles_df: pd.DataFrame,
    *,
    n_strip: int = 5,
    n_steps: int = 96,
    seeds: Sequence[int] = (0, 1),
    progress: bool = True,
) -> Cards:
    """Pictures of each chosen pair, with the tables that say what they are.

    Parameters
    ----------
    model, architecture : as for `attribution.guided_backpropagation`
    chosen_df : the pairs, a row each; columns feature, tile_tissue, and others, kept
    cover_df : from `cover_tiles`
    values_df, tiles_df : as for `cover_tiles`; tiles_df also with file and stack_index
    n_strip : tiles from low to high
    n_steps, seeds : of the synthetic images
    """
    cards_df = chosen_df.reset_index(drop=True).rename_axis("card").assign(method="")
    pictures, shown = [], []
    for card, pair in enumerate(cards_df.itertuples()):
        tile_df = cover_df.iloc[[card]].assign(card=card, order=1)
        tile = representatives.read_tile(tile_df.iloc[0])
        gradient, method = attribution.guided_or_plain(model, architecture, pair.feature, tile)
        cards_df.loc[card, "method"] = method
        strip_df = _strip(pair, values_df, tiles_df, n_strip)
        strip = [representatives.read_tile(row) for row in strip_df.itertuples()]
        pictures += [tile, attribution.to_picture(gradient), *strip]
        shown += [tile_df.assign(kind="tile"), tile_df.assign(kind="gradient"), strip_df.assign(card=card)]
    images, curves_df = synthetic_images(
        model, architecture, list(cards_df["feature"]), tiles_df, n_steps, seeds, progress
    )
    last_df = curves_df[curves_df["step"] == n_steps].rename(columns={"objective": "value"})
    card = last_df["image"] // len(seeds)
    shown.append(last_df.assign(card=card, kind="synthetic", order=last_df["image"] % len(seeds) + 1))
    shown_df = pd.concat(shown, ignore_index=True).reindex(columns=SHOWN_COLUMNS)
    pictures += images
    stacked = np.stack(pictures) if pictures else np.zeros((0, 1, 1, 3), np.uint8)
    return Cards(cards_df, shown_df, curves_df, stacked)


def _strip(pair: Any, values_df: pd.DataFrame, tiles_df: pd.DataFrame, n: int) -> pd.DataFrame:
    """n tiles of a pair's tile tissue from the lowest to the highest value of its feature."""
    here_df = tiles_df[tiles_df["tissue"] == pair.tile_tissue]
    values_df = values_df.loc[here_df["tile_id"], [pair.feature]]
    strip_df = representatives.quantile_strip(values_df, here_df, here_df.drop_duplicates("sample_id"), n=n)
    files_df = here_df[["tile_id", "file", "tissue"]]
    return strip_df.merge(files_df, on="tile_id", how="left").assign(kind="low to high")


def synthetic_images(
    model: torch.nn.Module,
    architecture: str,
    features: Sequence[str],
    tiles_df: pd.DataFrame,
    n_steps: int,
    seeds: Sequence[int],
    progress: bool = True,
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """`synthesis.synthesise` of many features, a few at a time, in the colours of the cohort's tiles.

    Returns the images, all seeds of the first feature first, and the curves; both empty without features.
    """
    if not len(features):
        return [], pd.DataFrame(columns=["image", "feature", "seed", "step", "objective"])
    some_df = tiles_df.sample(min(64, len(tiles_df)), random_state=0)
    sample = np.stack([representatives.read_tile(tile) for tile in some_df.itertuples()])
    basis = synthesis.colour_decorrelation(sample)
    n_at_once = max(1, SYNTHESIS_BATCH // len(seeds))
    images, curves = [], []
    for first in range(0, len(features), n_at_once):
        made, curve_df = synthesis.synthesise(
            model,
            architecture,
            features[first : first + n_at_once],
            input_px=sample.shape[1],
            n_steps=n_steps,
            seed=seeds,
            colour_basis=basis,
            progress=progress,
        )
        curves.append(curve_df.assign(image=curve_df["image"] + len(images)))
        images += list(made)
    return images, pd.concat(curves, ignore_index=True)


def pictures_of(shown_df: pd.DataFrame, pictures: np.ndarray, card: int, kind: str) -> list[np.ndarray]:
    """Pictures of one kind (tile, gradient, synthetic, low to high) of one card, in order."""
    rows = np.flatnonzero((shown_df["card"] == card) & (shown_df["kind"] == kind))
    return [np.array(pictures[row]) for row in rows]


def tile_titles(tiles_df: pd.DataFrame) -> list[str]:
    """What stands below each tile of a strip: its sample, its place in the grid, its value."""
    return [
        f"{tile.sample_id}\ncolumn {tile.column:.0f}, row {tile.row:.0f}\nvalue {tile.value:.3g}"
        for tile in tiles_df.itertuples()
    ]


def panel_rows(
    cards_df: pd.DataFrame,
    shown_df: pd.DataFrame,
    pictures: np.ndarray,
    ihc_images: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Rows for `pictures.attribution_panel`, one per card, and each pair's method.

    ihc_images are uint8 [h, w, 3] by gene, where there are any; their central square is shown.
    """
    rows = []
    for pair in cards_df.itertuples():
        shown = {kind: pictures_of(shown_df, pictures, pair.Index, kind) for kind in KINDS}
        tile = shown_df[(shown_df["card"] == pair.Index) & (shown_df["kind"] == "tile")].iloc[0]
        row = {"symbol": pair.symbol, "feature": pair.feature, "tissue": pair.tissue, "r": pair.r}
        row |= {"r_partial": pair.r_partial, "p_free": pair.p_free, "p_within": pair.p_within_tissue}
        row |= {"tile": shown["tile"][0], "guided": shown["gradient"][0], "synthetic": shown["synthetic"][0]}
        row |= {"ihc": _central_square(ihc_images.get(pair.gene)), "tile_label": tile["tile_id"]}
        guided = pair.method == "guided backpropagation"
        rows.append(row | {"method": pair.method, "guided_label": "" if guided else pair.method})
    return rows


def _central_square(image: np.ndarray | None, edge_px: int = 448) -> np.ndarray | None:
    """The middle of an image, reduced to at most edge_px."""
    if image is None:
        return None
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = Image.fromarray(image[top : top + edge, left : left + edge])
    square.thumbnail((edge_px, edge_px))
    return np.asarray(square)
