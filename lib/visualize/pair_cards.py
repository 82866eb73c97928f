"""Cards: chosen gene-feature pairs made visible, each with its tiles, gradient picture and synthetic images.

All pictures of a pair together (paper, Figs 4 to 6; notebooks/README.md, section 10). Notebook 10 makes them,
the report reads them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from lib.tiles.stored import read_tiles
from lib.visualize import activation_maps, attribution, tile_choice
from lib.visualize.feature_values import Network
from lib.visualize.synthetic_images import Ascent, colour_decorrelation, synthesise

# Images optimised at once: a batch of 8 VGG16 passes with gradients at 224 px holds about 2 GB.
IMAGES_AT_ONCE = 8
N_STRIP = 5  # tiles of a card from low to high
KINDS = ("tile", "activation", "gradient", "synthetic", "low to high")
SHOWN_COLUMNS = [
    *("card", "kind", "order", "feature", "seed", "tile_id", "sample_id", "slide_id", "donor", "tissue"),
    *("column", "row", "value", "quantile"),
]


class Cards(NamedTuple):
    """What `make_cards` returns; notebook 10 keeps each as an artefact of the same name."""

    cards: pd.DataFrame  # a row per pair, index card
    card_shown: pd.DataFrame  # a row per picture: which card, what it is, which tile or seed
    card_curves: pd.DataFrame  # objective of each synthetic image by step
    card_pictures: np.ndarray  # uint8 [n_pictures, px, px, 3], in the row order of card_shown


def make_cards(
    network: Network,
    chosen_df: pd.DataFrame,
    cover_df: pd.DataFrame,
    values_df: pd.DataFrame,
    tiles_df: pd.DataFrame,
    ascent: Ascent,
    *,
    progress: bool = True,
) -> Cards:
    """Pictures of each chosen pair, with the tables that say what they are.

    The cards get the columns method (of the gradient), has_map (it is not zero everywhere), synthetic_note
    and strip_note: why there is no synthetic image (the feature did not rise from noise) or no strip (its
    tiles would all have the same value); "" where there is one.

    Parameters
    ----------
    network : Network
    chosen_df : the pairs, a row each; columns feature, tile_tissue, and others, kept
    cover_df : from `pair_choice.cover_tiles`
    values_df, tiles_df : as for `pair_choice.cover_tiles`; tiles_df also with file and stack_index
    ascent : settings of the synthetic images
    """
    cards_df = chosen_df.reset_index(drop=True).rename_axis("card")
    cards_df = cards_df.assign(method="", has_map=False, synthetic_note="", strip_note="")
    pictures, shown = [], []
    for card, pair in enumerate(cards_df.itertuples()):
        tile_df = cover_df.iloc[[card]].assign(card=card, order=1)
        (tile,) = read_tiles(tile_df)
        gradient, method = attribution.guided_or_plain(network, str(pair.feature), tile)
        strip_df, note = graded_strip(pair, values_df, tiles_df, N_STRIP)
        for column, fact in (("method", method), ("has_map", bool(gradient.any())), ("strip_note", note)):
            cards_df.loc[card, column] = fact
        active = activation_maps.overlays(network, str(pair.feature), tile[None])
        pictures += [tile, attribution.to_picture(gradient), *active]
        shown += [tile_df.assign(kind="tile"), tile_df.assign(kind="gradient")]
        shown += [tile_df.assign(kind="activation")] * len(active)
        if len(strip_df):
            pictures += [*read_tiles(strip_df)]
            shown.append(strip_df.assign(card=card))
    features = list(dict.fromkeys(cards_df["feature"]))  # two genes may share one
    images, curves_df = images_of_features(network, features, tiles_df, ascent, progress=progress)
    last_df = curves_df[curves_df["step"] == ascent.n_steps].rename(columns={"objective": "value"})
    noise = curves_df[curves_df["step"] == 0].set_index("image")["objective"]
    last_df["risen"] = last_df["value"] > last_df["image"].map(noise)  # the others are still noise
    for card, feature in enumerate(cards_df["feature"]):
        of_feature_df = last_df[last_df["feature"] == feature]
        risen_df = of_feature_df[of_feature_df["risen"]]
        if risen_df.empty:
            stayed = of_feature_df["value"].max()
            note = f"no image: from noise the feature stayed at {stayed:.3g} in {ascent.n_steps} steps"
            cards_df.loc[card, "synthetic_note"] = note
            continue
        pictures += [images[image] for image in risen_df["image"]]
        order = np.arange(1, len(risen_df) + 1)
        shown.append(risen_df.assign(card=card, kind="synthetic", order=order))
    shown_df = pd.concat([*shown, last_df.head(0)], ignore_index=True).reindex(columns=SHOWN_COLUMNS)
    stacked = np.stack(pictures) if pictures else np.zeros((0, 1, 1, 3), np.uint8)
    return Cards(cards_df, shown_df, curves_df, stacked)


def images_of_features(
    network: Network,
    features: Sequence[str],
    tiles_df: pd.DataFrame,
    ascent: Ascent,
    *,
    progress: bool = True,
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Synthetic images of many features, a few at a time, in the colours of the cohort's tiles.

    Returns the images, all seeds of the first feature first, and the curves; both empty without features.
    """
    if not len(features):
        return [], pd.DataFrame(columns=["image", "feature", "seed", "step", "objective"])
    sample = read_tiles(tiles_df.sample(min(64, len(tiles_df)), random_state=0))
    basis = colour_decorrelation(sample)
    n_at_once = max(1, IMAGES_AT_ONCE // len(ascent.seeds))
    images, curves = [], []
    for first in range(0, len(features), n_at_once):
        some = features[first : first + n_at_once]
        made, curve_df = synthesise(network, some, ascent, basis, input_px=sample.shape[1], progress=progress)
        curves.append(curve_df.assign(image=curve_df["image"] + len(images)))
        images += list(made)
    return images, pd.concat(curves, ignore_index=True)


def graded_strip(
    pair: Any, values_df: pd.DataFrame, tiles_df: pd.DataFrame, n: int
) -> tuple[pd.DataFrame, str]:
    """n tiles of a pair's tile tissue from the lowest to the highest value of its feature, and "".

    Tiles of one value have no order: then no tile, and the reason.
    """
    here_df = tiles_df[tiles_df["tissue"] == pair.tile_tissue]
    values_df = values_df.loc[here_df["tile_id"], [pair.feature]]
    strip_df = tile_choice.quantile_strip(values_df, here_df, here_df.drop_duplicates("sample_id"), n=n)
    note = tied_note(strip_df, values_df[pair.feature], pair.tile_tissue)
    return strip_df.head(0 if note else n).assign(kind="low to high"), note


def tied_note(strip_df: pd.DataFrame, values: pd.Series, where: str) -> str:
    """Why a strip (column value) is not shown: its tiles have one value; "" if they differ.

    values are those of all tiles that were looked at, of the tissue `where`.
    """
    tied = strip_df["value"].unique()
    if len(tied) > 1 or len(values) == 1:
        return ""
    n_tied = int((values == tied[0]).sum())
    return f"no strip: the feature is {tied[0]:.3g} on {n_tied:,} of {len(values):,} tiles of {where}"


def pictures_of(shown_df: pd.DataFrame, pictures: np.ndarray, card: int, kind: str) -> list[np.ndarray]:
    """Pictures of one kind (of KINDS) of one card, in order."""
    rows = np.flatnonzero((shown_df["card"] == card) & (shown_df["kind"] == kind))
    return [np.array(pictures[row]) for row in rows]


def panel_rows(
    cards: Cards,
    ihc_images: Mapping[str, np.ndarray],
    ihc_credits: Mapping[str, tuple[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """Rows for `pictures.attribution_panel`, one per card, with each pair's method and has_map.

    The table of cards has the columns of `pair_choice.tested_pairs`. ihc_images are uint8 [h, w, 3] by gene,
    where there are any; their central square is shown. ihc_credits are, by gene, the words below an image and
    the address of its page.
    """
    cards_df, shown_df, _, pictures = cards
    rows = []
    for card, pair in enumerate(cards_df.itertuples()):
        shown = {kind: pictures_of(shown_df, pictures, card, kind) for kind in KINDS}
        tile = shown_df[(shown_df["card"] == card) & (shown_df["kind"] == "tile")].iloc[0]
        label, page = (ihc_credits or {}).get(str(pair.gene), ("", ""))
        guided = pair.method == "guided backpropagation"
        row = {
            "symbol": pair.symbol if isinstance(pair.symbol, str) else pair.gene,
            "feature": pair.feature,
            "tissue": pair.tissue,
            "r": pair.r,
            **{name: getattr(pair, name) for name in ("r_within", "low", "high", "q", "finding")},
            "tile": shown["tile"][0],
            # The tissue of this tile's own sample: a tile may come from another than the gene's.
            "tile_label": f"{tile['tile_id']}\n{tile['tissue']}",
            "activation": next(iter(shown["activation"]), None),
            "guided": shown["gradient"][0],
            "guided_label": "" if guided else pair.method,
            "method": pair.method,
            "has_map": bool(pair.has_map),
            "synthetic": next(iter(shown["synthetic"]), None),
            "synthetic_label": pair.synthetic_note,
            "ihc": _central_square(ihc_images.get(str(pair.gene))),
            "ihc_label": label,
            "ihc_page": page,
        }
        rows.append(row)
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
