"""Figures that show pictures: tiles, slides, maps over them. Each returns a Figure and saves nothing."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from lib.errors import InputError
from lib.figures.style import PAGE_IN, QUIET, themed

CAPTION_PT = 6.5
SIGNED_MAP = "RdBu_r"  # for values about zero; viridis for the others: both safe for colour-blind readers


class SlideView(NamedTuple):
    """A picture of a slide and where its tissue is."""

    image: np.ndarray  # uint8, h x w x 3, RGB
    mpp: float  # µm per px of the image
    tissue: np.ndarray  # bool, at any resolution of the same field
    l0_mpp: float  # µm per px of level 0

    @property
    def l0_shape(self) -> tuple[float, float]:
        """Height and width, level-0 px."""
        height, width = self.image.shape[:2]
        return height * self.mpp / self.l0_mpp, width * self.mpp / self.l0_mpp


@themed
def tile_grid(views: Sequence[SlideView], grids: Sequence[pd.DataFrame], titles: Sequence[str]) -> Figure:
    """Slides with the outline of their tissue and the tiles kept (of each slide l0_x, l0_y, l0_size)."""
    columns = min(len(views), 4)
    rows = -(-len(views) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(PAGE_IN, PAGE_IN / columns * rows * 1.08), squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, view, grid_df, title in zip(axes.flat, views, grids, titles, strict=False):
        ax.imshow(view.image)
        outline(ax, view.tissue, view.image.shape)
        squares = PatchCollection(_squares(grid_df, view), facecolor="none", edgecolor="#0072b2")
        squares.set_linewidth(0.6)
        ax.add_collection(squares)
        scale_bar(ax, view.mpp, view.image.shape[1])
        ax.set_title(f"{title}\n{len(grid_df)} tiles", fontsize=7)
    return figure


@themed
def tile_montage(tiles_by_row: dict[str, np.ndarray]) -> Figure:
    """Rows of tiles (uint8 [n, h, w, 3]), a row per tissue."""
    n_columns = max(len(tiles) for tiles in tiles_by_row.values())
    edge = PAGE_IN * 0.85 / n_columns
    figure, axes = plt.subplots(
        len(tiles_by_row), n_columns, figsize=(PAGE_IN, edge * len(tiles_by_row) * 1.02), squeeze=False
    )
    for row, (name, tiles) in zip(axes, tiles_by_row.items(), strict=True):
        for ax in row:
            ax.axis("off")
        for ax, tile in zip(row, tiles, strict=False):
            ax.imshow(tile)
        row[0].text(-0.06, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=7)
    return figure


@themed
def slide_heatmap(
    view: SlideView, tiles_df: pd.DataFrame, values: pd.Series, *, title: str, label: str
) -> Figure:
    """A slide, and the value of each of its tiles laid over it.

    Parameters
    ----------
    view : SlideView
    tiles_df : the slide's tiles: tile_id, l0_x, l0_y, l0_size, level-0 px
    values : index tile_id; a tile that is missing or without a finite value is drawn as an empty square
    title : what is shown, and where; the number of tiles is added
    label : of the colour bar, with the unit
    """
    shown = values.reindex(tiles_df["tile_id"]).to_numpy(float)
    height, width = view.image.shape[:2]
    aspect = height / width
    panel_in = min(PAGE_IN * 0.42, 4.5 / aspect)
    size = (panel_in * 2 + 0.9, panel_in * aspect + 0.55)
    figure, (plain, heat) = plt.subplots(1, 2, figsize=size)
    # Grey and pale, so that colours under the values do not mix with theirs.
    pale = 255 - 0.6 * (255 - view.image.mean(axis=2, keepdims=True))
    for ax, image in ((plain, view.image), (heat, np.repeat(pale, 3, axis=2).astype(np.uint8))):
        ax.imshow(image)
        outline(ax, view.tissue, view.image.shape)
        ax.axis("off")
    coloured = _draw_values(heat, _squares(tiles_df, view), shown)
    scale_bar(plain, view.mpp, width)
    bar = figure.colorbar(coloured, ax=heat, label=label, shrink=0.85, pad=0.02)
    bar.ax.tick_params(labelsize=CAPTION_PT)
    figure.suptitle(f"{title} (n = {int(np.isfinite(shown).sum())} tiles)", fontsize=8)
    return figure


@themed
def activation_over_slide(
    view: SlideView, stitched: np.ndarray, *, title: str, label: str, percentile: float = 99.5
) -> Figure:
    """A slide beside the activation of a feature at every position of its layer.

    stitched : float [H, W] over the same field as the view, NaN where there is no tile.
    label : of the colour bar. percentile : of |activation|, at full range.
    """
    height, width = view.image.shape[:2]
    aspect = height / width
    panel_in = min(PAGE_IN * 0.42, 4.5 / aspect)
    size = (panel_in * 2 + 0.9, panel_in * aspect + 0.55)
    figure, (plain, active) = plt.subplots(1, 2, figsize=size)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    known = np.abs(stitched[np.isfinite(stitched)])
    limit = float(np.percentile(known, percentile) or known.max()) if len(known) else 1.0
    signed = bool(np.nanmin(stitched) < 0) if len(known) else False
    plain.imshow(view.image)
    shown = active.imshow(
        stitched, extent=extent, interpolation="antialiased", cmap=SIGNED_MAP if signed else "magma",
        vmin=-limit if signed else 0, vmax=limit or 1.0,
    )  # fmt: skip
    for ax in (plain, active):
        outline(ax, view.tissue, view.image.shape)
        ax.set(xlim=extent[:2], ylim=extent[2:])
        ax.axis("off")
    scale_bar(plain, view.mpp, width)
    bar = figure.colorbar(shown, ax=active, label=label, shrink=0.85, pad=0.02)
    bar.ax.tick_params(labelsize=CAPTION_PT)
    figure.suptitle(title, fontsize=8)
    return figure


def _draw_values(ax: Axes, squares: list[Rectangle], values: np.ndarray) -> PatchCollection:
    """Squares in the colour of their value, symmetric about 0 where signs differ; empty where not finite."""
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0)
    signed = low < 0 < high
    if signed:
        low, high = -max(-low, high), max(-low, high)
    coloured = PatchCollection(
        [square for square, known in zip(squares, finite, strict=True) if known],
        cmap=SIGNED_MAP if signed else "viridis",
        alpha=0.72,
        linewidth=0,
    )
    coloured.set_array(values[finite])
    coloured.set_clim(low, high if high > low else low + 1)
    ax.add_collection(coloured)
    unknown = [square for square, known in zip(squares, finite, strict=True) if not known]
    ax.add_collection(PatchCollection(unknown, facecolor="none", edgecolor=QUIET, linewidth=0.4))
    return coloured


@themed
def tile_strip(
    pictures: Sequence[np.ndarray], titles: Sequence[str], *, heading: str = "", columns: int = 8
) -> Figure:
    """A row of tiles (or slides), each with its caption (slide, position, value) below it.

    pictures are uint8 [h, w, 3]; titles may run over several lines. A long strip breaks into rows of
    `columns`.
    """
    if not len(pictures):
        raise InputError("a strip needs at least one tile")
    columns = min(len(pictures), columns)
    rows = -(-len(pictures) // columns)
    edge = min(PAGE_IN / columns, 1.6)
    below = 0.12 * max(title.count("\n") + 1 for title in titles) + 0.1
    above = 0.25 if heading else 0.05
    size = (edge * columns, (edge + below) * rows + above)
    # The automatic layout would shrink the tiles to fit their captions.
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="none")
    figure.subplots_adjust(
        left=0, right=1, top=1 - above / size[1], bottom=below / size[1], wspace=0.06, hspace=below / edge
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, title in zip(axes.flat, pictures, titles, strict=False):
        ax.imshow(picture)
        # As wide as eight to a page allow; what is longer is cut in the middle, where ids differ least.
        text = "\n".join(_shortened(line, int(edge * 17)) for line in title.split("\n"))
        ax.text(0.5, -0.04, text, transform=ax.transAxes, ha="center", va="top", fontsize=CAPTION_PT)
    if heading:
        figure.suptitle(heading, fontsize=8)
    return figure


@themed
def attribution_panel(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Figs 4 to 6: a row for each gene-feature pair.

    Parameters
    ----------
    rows : sequence of mappings
        tile, guided, synthetic : uint8, h x w x 3 (synthetic may be None: a blank with synthetic_label in it)
        ihc : uint8, h x w x 3, or None; ihc_label : optional words below it (antibody, tissue, source)
        symbol, feature, tissue (where the gene is highest), r
        r_within, low, high, q : r within tissues with its interval, and q, NaN where unknown
        finding : what q says, in words
        tile_label : slide and position of the tile, and its tissue, on a line each
        guided_label : optional heading of the second column where it is not guided backpropagation
    """
    if not len(rows):
        raise InputError("the panel needs at least one gene-feature pair")
    headings = ["tile", "guided backpropagation", "synthetic image", "immunohistochemistry"]
    edge = (PAGE_IN - 1.35) / 4
    figure, axes = plt.subplots(
        len(rows),
        5,
        figsize=(PAGE_IN, (edge + 0.24) * len(rows) + 0.25),
        width_ratios=[1.35 / edge, 1, 1, 1, 1],
        squeeze=False,
    )
    for row, axes_row in zip(rows, axes, strict=True):
        words, *panels = axes_row
        words.axis("off")
        words.text(0, 1, _facts(row), transform=words.transAxes, va="top", fontsize=7, linespacing=1.35)
        _picture(panels[0], row["tile"], below=row.get("tile_label", ""))
        _picture(panels[1], row["guided"], below=row.get("guided_label", ""))
        _picture(panels[2], row.get("synthetic"), row.get("synthetic_label") or "not computed")
        label = row.get("ihc_label", "")
        _picture(panels[3], row.get("ihc"), f"no image\nof {row['symbol']}", below=label)
    for ax, heading in zip(axes[0, 1:], headings, strict=True):
        ax.set_title(heading, fontsize=7)
    return figure


@themed
def stain_panel(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Immunohistochemistry images separated: both stains (darker is more), nuclei outlined on the image.

    Each row has title, image (uint8 [h, w, 3]), haematoxylin and dab (float [h, w]), nuclei (bool [h, w]).
    """
    edge = (PAGE_IN - 0.3) / 4
    size = (PAGE_IN, (edge + 0.1) * len(rows) + 0.2)
    figure, axes = plt.subplots(len(rows), 4, figsize=size, squeeze=False)
    for axes_row, row in zip(axes, rows, strict=True):
        for ax, name in zip(axes_row, ("image", "haematoxylin", "dab", "image"), strict=True):
            most = {"vmin": 0, "vmax": np.quantile(row[name], 0.999)} if row[name].ndim == 2 else {}
            ax.imshow(row[name], cmap="gray_r", **most)
            ax.axis("off")
        outline(axes_row[3], row["nuclei"], row["image"].shape)
        axes_row[0].text(
            *(-0.04, 0.5, row["title"]),
            transform=axes_row[0].transAxes,
            rotation=90,
            va="center",
            ha="right",
            fontsize=7,
        )
    for ax, heading in zip(axes[0], ("image", "haematoxylin", "DAB", "nuclei"), strict=True):
        ax.set_title(heading, fontsize=7)
    return figure


def scale_bar(ax: Axes, mpp: float, width_px: int) -> None:
    """A bar of a round number of µm, about a fifth of the picture wide, in the lower left corner."""
    target = mpp * width_px / 5
    power = 10 ** np.floor(np.log10(target))
    length_um = max(step * power for step in (1, 2, 5) if step * power <= target)
    bottom = ax.get_ylim()[0]
    y = bottom * 0.96
    ax.plot([width_px * 0.04, width_px * 0.04 + length_um / mpp], [y, y], color="black", linewidth=2)
    words = ax.text(width_px * 0.04, y - bottom * 0.015, f"{length_um:g} µm", fontsize=6, va="bottom")
    words.set_path_effects([withStroke(linewidth=1.5, foreground="white")])  # readable on dark tissue


def outline(ax: Axes, mask: np.ndarray, shape: tuple[int, ...]) -> None:
    """The edge of the tissue (bool mask of any resolution) over a picture of height, width `shape`."""
    if mask.any() and not mask.all():
        x = np.linspace(0, shape[1] - 1, mask.shape[1])
        y = np.linspace(0, shape[0] - 1, mask.shape[0])
        ax.contour(x, y, mask, levels=[0.5], colors="black", linewidths=0.6)


def _squares(tiles_df: pd.DataFrame, view: SlideView) -> list[Rectangle]:
    """The tiles as squares in px of the picture."""
    places = tiles_df[["l0_x", "l0_y", "l0_size"]].to_numpy(float) * (view.l0_mpp / view.mpp)
    return [Rectangle((x, y), size, size) for x, y, size in places]


def _picture(ax: Axes, image: np.ndarray | None, blank: str = "", below: str = "") -> None:
    """A picture, or a frame with words in it, and a small caption below."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(image is None)
        spine.set(color=QUIET, linewidth=0.6, linestyle=(0, (3, 3)))
    if image is None:
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        words = "\n".join(line for part in blank.split("\n") for line in textwrap.wrap(part, 22))
        ax.text(0.5, 0.5, words, ha="center", va="center", fontsize=CAPTION_PT, color=QUIET)
    else:
        ax.imshow(image)
    if below:
        lines = [_shortened(line, 34) for line in below.split("\n")]
        ax.set_xlabel("\n".join(lines), fontsize=5.5, labelpad=2)


def _facts(row: Mapping[str, Any]) -> str:
    """Names and numbers of a pair, a line each; what is unknown is left out."""
    lines = [_shortened(f"{row['symbol']}", 20), f"feature {row['feature']}"]
    lines += ["gene highest in", _shortened(row["tissue"], 24), f"r = {row['r']:.2f}"]
    if np.isfinite(row.get("r_within", np.nan)):
        lines.append(f"within tissues {row['r_within']:.2f}")
        lines.append(f"({row['low']:.2f} to {row['high']:.2f})")
    if np.isfinite(row.get("q", np.nan)):
        lines.append(f"q = {row['q']:.2g}")
    return "\n".join([*lines, *textwrap.wrap(row.get("finding", ""), 24)])


def _shortened(text: str, most: int) -> str:
    """At most so many characters, the middle replaced by an ellipsis."""
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"
