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

from lib.visualize import attribution, tile_choice
from lib.visualize import synthetic_images as synthesis

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
    p: float = 1.0,
    progress: bool = True,
) -> Cards:
    """Pictures of each chosen pair, with the tables that say what they are.

    The cards get the columns method (of the gradient), has_map (it is not zero everywhere), synthetic_note
    and strip_note: why there is no synthetic image (the feature did not rise from noise) or no strip (all its
    tiles would have one value); "" where there is.

    Parameters
    ----------
    model, architecture : as for `attribution.guided_backpropagation`
    chosen_df : the pairs, a row each; columns feature, tile_tissue, and others, kept
    cover_df : from `cover_tiles`
    values_df, tiles_df : as for `cover_tiles`; tiles_df also with file and stack_index
    n_strip : tiles from low to high
    n_steps, seeds : of the synthetic images
    p : exponent of the features, as in `attribution.feature_sums`
    """
    cards_df = chosen_df.reset_index(drop=True).rename_axis("card")
    cards_df = cards_df.assign(method="", has_map=False, synthetic_note="", strip_note="")
    pictures, shown = [], []
    for card, pair in enumerate(cards_df.itertuples()):
        tile_df = cover_df.iloc[[card]].assign(card=card, order=1)
        tile = tile_choice.read_tile(tile_df.iloc[0])
        gradient, method = attribution.guided_or_plain(model, architecture, pair.feature, tile, p=p)
        strip_df, note = _strip(pair, values_df, tiles_df, n_strip)
        for column, fact in (("method", method), ("has_map", bool(gradient.any())), ("strip_note", note)):
            cards_df.loc[card, column] = fact
        strip = [tile_choice.read_tile(row) for row in strip_df.itertuples()]
        pictures += [tile, attribution.to_picture(gradient), *strip]
        shown += [tile_df.assign(kind="tile"), tile_df.assign(kind="gradient")]
        shown += [strip_df.assign(card=card)] if len(strip_df) else []
    features = list(dict.fromkeys(cards_df["feature"]))  # two genes may share one
    images, curves_df = synthetic_images(
        model, architecture, features, tiles_df, n_steps, seeds, progress=progress, p=p
    )
    last_df = curves_df[curves_df["step"] == n_steps].rename(columns={"objective": "value"})
    noise = curves_df[curves_df["step"] == 0].set_index("image")["objective"]
    # What did not rise is still the noise it began with, and is not to be looked at.
    risen_df = last_df[last_df["value"] > last_df["image"].map(noise)]
    for card, feature in enumerate(cards_df["feature"]):
        of_feature_df = risen_df[risen_df["feature"] == feature]
        if of_feature_df.empty:
            stayed = last_df.loc[last_df["feature"] == feature, "value"].max()
            note = f"no image: from noise the feature stayed at {stayed:.3g} in {n_steps} steps"
            cards_df.loc[card, "synthetic_note"] = note
            continue
        pictures += [images[image] for image in of_feature_df["image"]]
        order = np.arange(1, len(of_feature_df) + 1)
        shown.append(of_feature_df.assign(card=card, kind="synthetic", order=order))
    shown_df = pd.concat([*shown, last_df.head(0)], ignore_index=True).reindex(columns=SHOWN_COLUMNS)
    stacked = np.stack(pictures) if pictures else np.zeros((0, 1, 1, 3), np.uint8)
    return Cards(cards_df, shown_df, curves_df, stacked)


def _strip(pair: Any, values_df: pd.DataFrame, tiles_df: pd.DataFrame, n: int) -> tuple[pd.DataFrame, str]:
    """n tiles of a pair's tile tissue from the lowest to the highest value of its feature, and "".

    Tiles of one value have no order: then no tile, and the reason.
    """
    here_df = tiles_df[tiles_df["tissue"] == pair.tile_tissue]
    values_df = values_df.loc[here_df["tile_id"], [pair.feature]]
    strip_df = tile_choice.quantile_strip(values_df, here_df, here_df.drop_duplicates("sample_id"), n=n)
    note = tied_note(strip_df, values_df[pair.feature], pair.tile_tissue)
    files_df = here_df[["tile_id", "file", "tissue"]]
    strip_df = strip_df.head(0 if note else n).merge(files_df, on="tile_id", how="left")
    return strip_df.assign(kind="low to high"), note


def strips(
    pair: Any, values_df: pd.DataFrame, tiles_df: pd.DataFrame, *, n: int = 7
) -> dict[str, tuple[pd.DataFrame, str, str]]:
    """The tiles with the n highest values of a pair's feature, and n from low to high in its tile tissue.

    Parameters
    ----------
    pair : with feature and tile_tissue, a row of the cards
    values_df, tiles_df : as for `make_cards`

    Returns
    -------
    dict: highest, graded -> tiles, with file and tissue; where they are of; why not to show them, or ""
    """
    one_df = values_df[[pair.feature]]
    top_df = tile_choice.top_k(one_df, tiles_df, tiles_df.drop_duplicates("sample_id"), k=n)
    top_df = top_df.merge(tiles_df[["tile_id", "file", "tissue"]], on="tile_id", how="left")
    note = tied_note(top_df, one_df[pair.feature], "all tissues")
    low_df, low_note = _strip(pair, values_df, tiles_df, n)
    return {
        "highest": (top_df, "all tissues", note),
        "graded": (low_df, pair.tile_tissue, low_note),
    }


def tied_note(strip_df: pd.DataFrame, values: pd.Series, where: str) -> str:
    """Why a strip (column value) from low to high is not shown: its tiles have one value; "" if they differ.

    values are those of all tiles that were looked at, of the tissue `where`.
    """
    tied = strip_df["value"].unique()
    if len(tied) > 1 or len(values) == 1:
        return ""
    n_tied = int((values == tied[0]).sum())
    return f"no strip: the feature is {tied[0]:.3g} on {n_tied:,} of {len(values):,} tiles of {where}"


def synthetic_images(
    model: torch.nn.Module,
    architecture: str,
    features: Sequence[str],
    tiles_df: pd.DataFrame,
    n_steps: int,
    seeds: Sequence[int],
    progress: bool = True,
    p: float = 1.0,
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """`synthesis.synthesise` of many features, a few at a time, in the colours of the cohort's tiles.

    Returns the images, all seeds of the first feature first, and the curves; both empty without features.
    """
    if not len(features):
        return [], pd.DataFrame(columns=["image", "feature", "seed", "step", "objective"])
    some_df = tiles_df.sample(min(64, len(tiles_df)), random_state=0)
    sample = np.stack([tile_choice.read_tile(tile) for tile in some_df.itertuples()])
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
            p=p,
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
    """What stands below each tile of a strip: its sample and tissue, its place in the grid, its value."""
    return [
        f"{tile.sample_id}\n{tile.tissue}\ncolumn {tile.column:.0f}, row {tile.row:.0f}\n"
        f"value {tile.value:.3g}"
        for tile in tiles_df.itertuples()
    ]


def synthetic_titles(shown_df: pd.DataFrame) -> list[str]:
    """What stands below each synthetic image: its feature and seed, and the value reached."""
    return [
        f"{image.feature}, seed {image.seed:.0f}\nvalue {image.value:.3g}" for image in shown_df.itertuples()
    ]


def panel_rows(
    cards_df: pd.DataFrame,
    shown_df: pd.DataFrame,
    pictures: np.ndarray,
    ihc_images: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Rows for `pictures.attribution_panel`, one per card, with each pair's method and has_map.

    cards_df also has finding (`choosing.finding`). ihc_images are uint8 [h, w, 3] by gene, where there are
    any; their central square is shown.
    """
    rows = []
    for pair in cards_df.itertuples():
        shown = {kind: pictures_of(shown_df, pictures, pair.Index, kind) for kind in KINDS}
        tile = shown_df[(shown_df["card"] == pair.Index) & (shown_df["kind"] == "tile")].iloc[0]
        row = {
            "symbol": pair.symbol if isinstance(pair.symbol, str) else pair.gene,
            "feature": pair.feature,
            "tissue": pair.tissue,
            "r": pair.r,
        }
        row |= {"r_partial": pair.r_partial, "p_free": pair.p_free, "p_within": pair.p_within_tissue}
        row |= {"q_within": pair.q_within_tissue, "finding": pair.finding}
        row |= {"tile": shown["tile"][0], "guided": shown["gradient"][0]}
        row |= {"synthetic": next(iter(shown["synthetic"]), None), "synthetic_label": pair.synthetic_note}
        # The tissue of this tile's own sample: a tile may come from another than the gene's.
        row |= {"tile_label": f"{tile['tile_id']}\n{tile['tissue']}"}
        row |= {"ihc": _central_square(ihc_images.get(pair.gene))}
        guided = pair.method == "guided backpropagation"
        row |= {"method": pair.method, "guided_label": "" if guided else pair.method}
        rows.append(row | {"has_map": bool(pair.has_map)})
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
