"""The figures of notebook 10 with their captions: each function yields what to save, one figure at a time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import network_plots, pictures
from lib.tiles.stored import read_tiles
from lib.visualize import activation_maps, attribution, pair_cards, tile_choice
from lib.visualize.feature_values import Network
from lib.visualize.immunostain import nuclei_mask, separate_stains
from lib.visualize.pair_cards import Cards
from lib.visualize.randomisation_check import randomisation_check, step_titles

PAIRS_PER_FIGURE = 6
IMAGES_SHOWN, TILES_SHOWN = 8, 7  # in one strip: synthetic images, tiles
MAPS_SHOWN = 6  # pairs in the figure of activation maps
STAIN_PX = 600  # longest side of a stained image in its figure


class Captioned(NamedTuple):
    """A figure, the stem of its file, and its caption; without a figure the caption says why."""

    stem: str
    figure: Figure | None
    caption: str


def synthetic_images(cards: Cards, values_df: pd.DataFrame, tile_um: float) -> Iterator[Captioned]:
    """The curves of the objectives, and the first IMAGES_SHOWN images."""
    curves_df, shown_df = cards.card_curves, cards.card_shown
    if len(curves_df):
        n_images, n_steps = curves_df["image"].nunique(), curves_df["step"].max()
        caption = f"Increase of the feature in {n_images} synthetic images over {n_steps} steps."
        yield Captioned("synthesis_curves", network_plots.synthesis_curves(curves_df, values_df), caption)
    synthetic_df = shown_df[shown_df["kind"] == "synthetic"].head(IMAGES_SHOWN)
    if len(synthetic_df):
        images = [np.array(cards.card_pictures[row]) for row in synthetic_df.index]
        titles = [
            f"{image.feature}, seed {image.seed:.0f}\nvalue {image.value:.3g}"
            for image in synthetic_df.itertuples()
        ]
        figure = pictures.tile_strip(images, titles)
        caption = f"{len(images)} synthetic images, several seeds per feature; each as wide as a tile, "
        yield Captioned("synthetic_images", figure, f"{caption}{tile_um:.0f} µm.")


def pair_panels(rows: Sequence[Mapping[str, Any]], n_samples: int, tile_um: float) -> Iterator[Captioned]:
    """Figs 4 to 6: `pair_cards.panel_rows`, PAIRS_PER_FIGURE to a figure."""
    for number, first in enumerate(range(0, len(rows), PAIRS_PER_FIGURE), 1):
        some = rows[first : first + PAIRS_PER_FIGURE]
        caption = (
            f"Gene-feature pairs {first + 1} to {first + len(some)} of {len(rows)} (Figs 4 to 6), from "
            f"{n_samples} samples; tiles {tile_um:.0f} µm wide. {attribution.COLOURS_IN_WORDS}"
        )
        if credits := [f"{row['symbol']}: {row['ihc_page']}" for row in some if row.get("ihc_page")]:
            caption += f" Stained images of the Human Protein Atlas: {'; '.join(credits)}."
        yield Captioned(f"fig4_6_pairs_{number}", pictures.attribution_panel(some), caption)


def gradient_methods(network: Network, row: Mapping[str, Any], tile_um: float) -> Captioned:
    """The tile of a pair, and what raises its feature there by each method."""
    maps = attribution.all_maps(network, row["feature"], row["tile"])
    strip = [row["tile"], *(attribution.to_picture(gradient) for gradient in maps.values())]
    caption = (
        f"Feature {row['feature']} ({row['symbol']}) on one tile, {tile_um:.0f} µm wide, by {len(maps)} "
        f"methods. {attribution.COLOURS_IN_WORDS}"
    )
    return Captioned("gradient_methods", pictures.tile_strip(strip, ["tile", *maps]), caption)


def randomisation(
    network: Network, row: Mapping[str, Any], tile_um: float
) -> tuple[Captioned, pd.DataFrame, str]:
    """The maps of the randomisation check on the tile of a pair; its table, and the caption of that."""
    method = attribution.METHODS[row["method"]]
    check_df, maps = randomisation_check(network, row["feature"], row["tile"], method=method)
    figure = pictures.tile_strip([attribution.to_picture(found) for found in maps], step_titles(check_df))
    caption = (
        f"Feature {row['feature']} ({row['symbol']}): its map on one tile ({tile_um:.0f} µm wide) as the "
        f"network's layers are randomised from the top down, in {len(maps) - 1} steps."
    )
    captioned = Captioned("randomisation", figure, f"{caption} {attribution.COLOURS_IN_WORDS}")
    return captioned, check_df, caption


def tile_strips(
    cards_df: pd.DataFrame, values_df: pd.DataFrame, tiles_df: pd.DataFrame, tile_um: float
) -> Iterator[Captioned]:
    """For each pair the tiles with the highest values, and tiles from low to high in its tile tissue."""
    samples_df = tiles_df.drop_duplicates("sample_id")
    for number, pair in enumerate(cards_df.itertuples(), 1):
        feature = str(pair.feature)
        top_df = tile_choice.top_k(values_df[[feature]], tiles_df, samples_df, k=TILES_SHOWN)
        note = pair_cards.tied_note(top_df, values_df[feature], "all tissues")
        strips = {
            "highest": ("all tissues", top_df, note),
            "graded": (pair.tile_tissue, *pair_cards.graded_strip(pair, values_df, tiles_df, TILES_SHOWN)),
        }
        for kind, (where, strip_df, note) in strips.items():
            figure, caption = None, f"{pair.symbol}, feature {feature}: {kind} tiles of {where}"
            if note:
                caption += f": {note}"
            else:
                caption += f" (n = {len(strip_df)}, each {tile_um:.0f} µm wide)."
                tiles = list(read_tiles(strip_df))
                figure = pictures.tile_strip(tiles, tile_titles(strip_df), heading=caption)
            yield Captioned(f"tiles_{kind}_{number}", figure, caption)


def tile_titles(tiles_df: pd.DataFrame) -> list[str]:
    """Caption of each tile of a strip: its sample and tissue, its position in the grid, its value."""
    return [
        f"{tile.sample_id}\n{tile.tissue}\ncolumn {tile.column:.0f}, row {tile.row:.0f}\n"
        f"value {tile.value:.3g}"
        for tile in tiles_df.itertuples()
    ]


def slide_maps(
    slide_df: pd.DataFrame, tiles_df: pd.DataFrame, view: pictures.SlideView, symbol: str, tile_um: float
) -> Iterator[Captioned]:
    """Features of a gene over a slide: slide_df has tiles x features (index tile_id), tiles_df the tiles."""
    slide_id = tiles_df["slide_id"].iloc[0]
    for number, (feature, values) in enumerate(slide_df.items(), 1):
        title = f"{symbol}, feature {feature} on {slide_id}"
        figure = pictures.slide_heatmap(view, tiles_df, values, title=title, label="sum over positions")
        caption = f"{title}, {len(values)} tiles, each {tile_um:.0f} µm wide."
        yield Captioned(f"slide_heatmap_{number}", figure, caption)


def activations(rows: Sequence[Mapping[str, Any]], tile_um: float) -> Captioned | None:
    """Where the features of the first pairs are active in their tiles, beside what raises them there."""
    shown = [row for row in rows if row["activation"] is not None][:MAPS_SHOWN]
    if not shown:
        return None
    strip, titles = [], []
    for row in shown:
        strip += [row["tile"], row["activation"], row["guided"]]
        titles += [f"{row['symbol']}\n{row['feature']}", "active where", row["method"].replace(" ", "\n")]
    caption = (
        f"{len(shown)} features on a tile each, {tile_um:.0f} µm wide: where its layer is active (yellow to "
        "red; blue: below zero), and the gradient. Pictures do not share a scale."
    )
    return Captioned("activation_maps", pictures.tile_strip(strip, titles, columns=6), caption)


def slide_activation(
    maps: np.ndarray, tiles_df: pd.DataFrame, view: pictures.SlideView, symbol: str, feature: str
) -> Captioned:
    """Activation of a feature over a slide, at the resolution of its layer; maps are those of tiles_df."""
    canvas = activation_maps.stitched(tiles_df, maps, view.l0_shape)
    title = f"{symbol}, feature {feature} on {tiles_df['slide_id'].iloc[0]}"
    caption = (
        f"{title}: activation at {maps.shape[1]} x {maps.shape[2]} positions of each of {len(maps)} tiles "
        "(a rim around each tile is the padding of the layers)."
    )
    figure = pictures.activation_over_slide(view, canvas, title=title, label="activation")
    return Captioned("activation_slide", figure, caption)


def stains(images: Mapping[str, np.ndarray], paths: Mapping[str, Path]) -> Captioned:
    """Immunohistochemistry images (by gene, as their paths) separated into stains; thinned to STAIN_PX.

    An image in which no nuclei can be found has none outlined.
    """
    rows = []
    for gene, image in images.items():
        every = slice(None, None, -(-max(image.shape[:2]) // STAIN_PX))
        parts = separate_stains(image)
        try:
            nuclei = nuclei_mask(image)
        except ValueError:
            nuclei = np.zeros(image.shape[:2], bool)
        row = {"image": image, "haematoxylin": parts.haematoxylin, "dab": parts.dab, "nuclei": nuclei}
        rows.append({name: part[every, every] for name, part in row.items()} | {"title": paths[gene].name})
    caption = f"{len(rows)} immunohistochemistry images, by stain."
    return Captioned("ihc_stains", pictures.stain_panel(rows), caption)
