"""Figures of one gene and one feature: the pair, tiles from low to high, the feature itself, a slide."""

import io
from functools import lru_cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from lib.explore.feature_view import FeatureView
from lib.explore.inspection import Inspection
from lib.figures import pictures, style
from lib.tiles.stored import read_tiles
from lib.visualize import activation_maps
from lib.visualize.slide_view import slide_view

WIDTH_IN = 9.4
small_view = lru_cache(maxsize=8)(slide_view)


def pair_figure(inspection: Inspection, gene: str, feature: str, facts: pd.Series) -> Figure:
    """A pair: scatter with a line within each tissue, and both distributions by tissue.

    gene is an id; facts (r, r_tissues) is the row of the feature in `correlates.features_of`.
    """
    lookup, colours = inspection.lookup, inspection.colours
    expression, feature_values = lookup.log_df.loc[gene], lookup.features_df.loc[feature]
    symbol = str(lookup.genes_df.loc[gene, "symbol"])
    of_sample = inspection.samples_df["tissue"].loc[expression.index]
    x, y = feature_values.loc[expression.index].to_numpy(float), expression.to_numpy(float)
    # Lowest median of the gene at the bottom; its name there is also the legend of the colours.
    order = expression.groupby(of_sample.to_numpy()).median().sort_values(kind="stable").index.tolist()
    height = max(2.9, 1.0 + 0.135 * len(order))
    place = of_sample.map({name: i for i, name in enumerate(order)}).to_numpy()
    shade = [colours[name] for name in of_sample]
    with plt.rc_context(style.THEME):
        # Made and closed by pyplot, whose first figure tells a notebook how to show figures.
        figure = plt.figure(figsize=(WIDTH_IN, height), layout="none")
        plt.close(figure)
        bottom, tall = 0.48 / height, 1 - 0.95 / height
        scatter_tall = min(tall, 3.4 / height)
        scatter = figure.add_axes((0.06, 1 - 0.47 / height - scatter_tall, 0.33, scatter_tall))
        of_gene = figure.add_axes((0.575, bottom, 0.195, tall))
        of_feature = figure.add_axes((0.795, bottom, 0.195, tall), sharey=of_gene)
        scatter.scatter(x, y, s=13, c=shade, linewidths=0)
        scatter.add_collection(_lines_within(x, y, place, [colours[name] for name in order]))
        jitter = place + np.random.default_rng(0).uniform(-0.28, 0.28, len(place))
        for ax, values in ((of_gene, y), (of_feature, x)):
            ax.scatter(values, jitter, s=6, c=shade, linewidths=0)
            medians = [np.median(values[place == i]) for i in range(len(order))]
            ax.vlines(medians, np.arange(len(order)) - 0.4, np.arange(len(order)) + 0.4, color="black", lw=1)
            # Lines and words, not ticks: 39 tissues' ticks on two axes took half the time of the picture.
            across = ax.get_yaxis_transform()
            ax.hlines(np.arange(len(order)), 0, 1, transform=across, color="#eeeeee", lw=0.5, zorder=0)
            ax.yaxis.set_major_locator(NullLocator())
            ax.xaxis.set_major_locator(MaxNLocator(4))
        for i, (name, n) in enumerate(zip(order, np.bincount(place), strict=True)):
            words = {"ha": "right", "va": "center", "fontsize": "small", "color": _dark(colours[name])}
            of_gene.text(-0.03, i, f"{plain(name)} ({n})", transform=of_gene.get_yaxis_transform(), **words)
        of_gene.set_ylim(-0.7, len(order) - 0.3)
        gene_label = f"{plain(_short(symbol))}, log₂(1 + {inspection.unit})"
        scatter.set(xlabel=f"feature {plain(feature)}", ylabel=gene_label)
        of_gene.set(xlabel=gene_label)
        of_feature.set(xlabel=f"feature {plain(feature)}")
        figure.text(0.06, 1 - 0.1 / height, _heading(symbol, feature, facts, len(x)), va="top", fontsize=9)
    return figure


def _lines_within(x: np.ndarray, y: np.ndarray, place: np.ndarray, colours: list) -> LineCollection:
    """A least-squares line through the samples of each tissue with three or more that vary in x."""
    segments, shades = [], []
    for i, colour in enumerate(colours):
        x_t, y_t = x[place == i], y[place == i]
        if len(x_t) > 2 and np.ptp(x_t) > 0:
            slope = np.cov(x_t, y_t)[0, 1] / np.var(x_t, ddof=1)
            ends = np.array([x_t.min(), x_t.max()])
            segments.append(np.stack([ends, y_t.mean() + slope * (ends - x_t.mean())], axis=1))
            shades.append(colour)
    return LineCollection(segments, colors=shades, linewidths=1)


def _heading(gene: str, feature: str, facts: pd.Series, n: int) -> str:
    r, given = facts["r"], facts["r_tissues"]
    text = f"{plain(gene)} and feature {plain(feature)}: r = {r:.2f}, given the tissues "
    text += "undefined" if np.isnan(given) else f"{given:.2f}"
    return f"{text} (n = {n} test samples; lines within tissues, bars at medians)"


def _dark(colour: Any) -> tuple[float, ...]:
    """The colour, darkened until text in it is readable on white."""
    red, green, blue = to_rgb(colour)
    light = 0.3 * red + 0.59 * green + 0.11 * blue
    return tuple(part * min(1.0, 0.5 / max(light, 1e-6)) for part in (red, green, blue))


def plain(text: str) -> str:
    """A name with its dollars escaped: in a figure they would start a formula."""
    return str(text).replace("$", r"\$")


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def strip_heading(strip_df: pd.DataFrame, feature: str) -> str:
    """What `inspection.strip_tiles` shows, in words."""
    if strip_df["value"].nunique() == 1:
        return f"Feature {feature} has the same value in all these samples: their order means nothing"
    return f"Feature {feature}, from its lowest sample to its highest: a tile and the sample's value"


def strip_captions(strip_df: pd.DataFrame) -> list[str]:
    """Sample, tissue and value below each tile of `inspection.strip_tiles`, a line each."""
    return [f"{row.sample_id}\n{row.tissue}\n{row.value:.4g}" for row in strip_df.itertuples()]


def strip_figure(strip_df: pd.DataFrame, feature: str) -> Figure:
    """The tiles of `inspection.strip_tiles` from low to high, captioned."""
    captions = [plain(caption) for caption in strip_captions(strip_df)]
    heading = plain(strip_heading(strip_df, feature))
    return pictures.tile_strip(list(read_tiles(strip_df)), captions, heading=heading)


@style.themed
def feature_figure(view: FeatureView, feature: str) -> Figure:
    """Top tiles, below them where they are active and their gradients, to the right the synthetic image."""
    k = len(view.tiles)
    edge = 1.45
    rows = {"tile, value": view.tiles, "active where": view.activations, str(view.method): view.gradients}
    rows = {words: images for words, images in rows.items() if len(images)}
    figure = plt.figure(figsize=(edge * k + 2 * edge + 0.5, len(rows) * edge + 0.75))
    grid = figure.add_gridspec(len(rows), k + 2)
    for row, (words, images) in enumerate(rows.items()):
        for i, image in enumerate(images):
            ax = figure.add_subplot(grid[row, i])
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row == 0:
                title = f"{plain(_short(str(view.tile_ids[i]), 22))}\n{view.values[i]:.4g}"
                ax.set_title(title, fontsize=6.5)
            if i == 0:
                ax.set_ylabel(words, fontsize=7)
    ax = figure.add_subplot(grid[:2, k:])
    ax.axis("off")
    start, end = view.objective
    if end > start:
        ax.imshow(view.synthetic)
    else:  # it is still noise
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.text(0.5, 0.5, "no image: from noise\nthe feature did not rise", ha="center", va="center")
    ax.set_title(f"synthetic image\n{start:.4g} on noise, {end:.4g} on the image", fontsize=7)
    figure.suptitle(f"What raises feature {plain(feature)}", fontsize=9)
    return figure


def slide_figure(
    inspection: Inspection, feature: str, slide_id: str, values: pd.Series, maps: np.ndarray | None = None
) -> Figure:
    """The value of each tile over its slide; with the maps of its tiles the activation at each position."""
    mpp = float(inspection.slide_mpp[slide_id])
    view = small_view(inspection.slide_files[slide_id], mpp, inspection.mask_mpp, max_px=800)
    of_slide_df = inspection.tiles_df[inspection.tiles_df["slide_id"] == slide_id]
    tissues = inspection.samples_df["tissue"].loc[of_slide_df["sample_id"].unique()]
    title = f"Feature {feature} on slide {slide_id}" + (f", {tissues.iloc[0]}" if len(tissues) == 1 else "")
    if maps is not None:
        canvas = activation_maps.stitched(of_slide_df, maps, view.l0_shape)
        title += f" ({len(maps)} tiles, {maps.shape[1]} x {maps.shape[2]} positions each)"
        return pictures.activation_over_slide(view, canvas, title=plain(title), label="activation")
    label = "sum over the tile's positions"
    return pictures.slide_heatmap(view, of_slide_df, values, title=plain(title), label=label)


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as a PNG file, drawn once and compressed quickly."""
    buffer = io.BytesIO()
    with plt.rc_context({"text.hinting": "none"}):  # saves a quarter of the time with 39 tissues' names
        figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()
