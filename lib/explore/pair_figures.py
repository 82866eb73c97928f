"""What the inspector shows of one gene and one feature. Figures only: the widgets are those of `panel`.

`render` and its companions take plain tables and arrays and return a Figure. `load` gathers what they need
from a finished run.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from lib.explore import correlates, feature_view
from lib.figures import pictures, style
from lib.network import models
from lib.statistics import correlation
from lib.store import Store
from lib.tiles import slides, tissue_mask
from lib.visualize import tile_choice

WIDTH_IN = 9.4
STRIP_TILES = 7


class Inspection(NamedTuple):
    """A finished run, ready to be asked."""

    lookup: correlates.Lookup
    genes_df: pd.DataFrame  # index gene; feature, statistic, p_gene, q of the max statistic within tissues
    start: tuple[str, str]  # gene and feature to begin with
    samples_df: pd.DataFrame  # test samples with features; index sample_id
    tiles_df: pd.DataFrame  # their tiles
    sample_tiles_df: pd.DataFrame  # of `one_tile_each`
    stack_files: dict[str, Path]
    slide_files: dict[str, Path]
    slide_mpp: pd.Series  # slide_id -> µm/px of level 0
    colours: dict[str, Any]
    unit: str
    architecture: str
    network_file: Path
    device: str
    folder: Path  # where closeups are kept
    n_steps: int  # of synthetic images
    p: float = 1.0  # exponent of the features


def load(store: Store) -> Inspection:
    """Read what notebooks 00 to 07 left for this configuration; StaleArtefactError names what is missing."""
    config = store.config
    features_df, genes_df = store.load("features_test"), store.load("gene_significance")
    log_df = correlation.log2_expression(store.load("expression")[features_df.columns])
    all_df = store.load("samples").set_index("sample_id", drop=False)
    samples_df = all_df.loc[features_df.columns]
    table = correlates.build(
        log_df,
        features_df,
        samples_df["tissue"],
        store.load("gene_medians"),
        significance_df=by_name(store.load("pairs_significance")),
        method=config.correlation,
        alpha=max(config.alphas),
        n_permutations=config.n_permutations,
        seed=config.seed,
    )
    tiles_df = store.load("tiles")
    tiles_df = tiles_df[tiles_df["sample_id"].isin(samples_df.index)]
    return Inspection(
        table,
        genes_df,
        correlates.default_pair(table, config.inspect_gene, genes_df),
        samples_df.rename_axis(None),
        tiles_df,
        one_tile_each(tiles_df),
        store.stack_files(tiles_df),
        store.slide_paths(samples_df),
        store.load("slides").set_index("slide_id")["mpp"],
        style.tissue_colours(all_df["tissue"], store.reference("gtex_tissues")),
        config.expression_unit,
        config.architecture,
        store.load("network"),
        config.torch_device,
        store.work_folder("inspected", "features_test"),
        config.synthesis_steps,
        config.p,
    )


def by_name(pairs_df: pd.DataFrame) -> pd.DataFrame:
    """Pairs with gene and feature as categories: those of one name are then found at once among millions."""
    return pairs_df.astype({"gene": "category", "feature": "category"})


def one_tile_each(tiles_df: pd.DataFrame) -> pd.DataFrame:
    """Of each sample that has tiles the one with most tissue; rows of tiles_df."""
    by_tissue_df = tiles_df.sort_values("tissue_fraction", ascending=False, kind="stable")
    return by_tissue_df.drop_duplicates("sample_id")


@lru_cache(maxsize=2)
def model_of(network_file: Path, architecture: str, device: str) -> torch.nn.Module:
    """The trained network, in evaluation mode, read once."""
    model, _ = models.load(network_file, architecture)
    return model.to(device).eval()


def look_closely(inspection: Inspection, feature: str, on_step=None) -> feature_view.Closeup:
    """The closeup of a feature: read if made before, else made and kept. `on_step` as in `closeup.look`."""
    made = feature_view.kept(inspection.folder, feature, inspection.n_steps)
    if made is None:
        made = feature_view.look(
            model_of(inspection.network_file, inspection.architecture, inspection.device),
            inspection.architecture,
            feature,
            inspection.lookup.features_df.loc[feature],
            inspection.tiles_df,
            inspection.samples_df,
            inspection.stack_files,
            n_steps=inspection.n_steps,
            p=inspection.p,
            on_step=on_step,
        )
        feature_view.keep(inspection.folder, feature, inspection.n_steps, made)
    return made


def slide_values(
    inspection: Inspection, feature: str, slide_id: str, compute: bool = True, on_step=None
) -> pd.Series | None:
    """The feature on each tile of a slide: at once where it is known, else through the network and kept.

    Known are slides mapped before, and spots: a sample of one tile has its value in the feature table.
    None for what would have to be computed, if that is not wanted.
    """
    of_slide_df = inspection.tiles_df[inspection.tiles_df["slide_id"] == slide_id].set_index("tile_id")
    if of_slide_df.empty:
        raise ValueError(f"slide {slide_id!r} has no tiles among the test samples")
    if not of_slide_df["sample_id"].duplicated().any() and len(of_slide_df) > 1:
        of_sample = inspection.lookup.features_df.loc[feature, of_slide_df["sample_id"]]
        return pd.Series(of_sample.to_numpy(float), index=of_slide_df.index)
    values = feature_view.kept_map(inspection.folder, feature, slide_id, of_slide_df.index)
    if values is None and compute:
        model = model_of(inspection.network_file, inspection.architecture, inspection.device)
        values = feature_view.attribution.tile_values(
            model,
            inspection.architecture,
            [feature],
            of_slide_df.reset_index(),
            inspection.stack_files,
            p=inspection.p,
            progress=False,
            on_step=None if on_step is None else lambda done: on_step(done, len(of_slide_df)),
        )[feature]
        feature_view.keep_map(inspection.folder, feature, slide_id, values)
    return values


# -- figures ----------------------------------------------------------------------------------------------


def render(
    expression: pd.Series,
    feature_values: pd.Series,
    tissues: pd.Series,
    colours: Mapping[str, Any],
    *,
    gene: str,
    feature: str,
    facts: Mapping[str, float] | None = None,
    unit: str = "TPM",
) -> Figure:
    """A pair: scatter with a line within each tissue, and both distributions by tissue.

    Parameters
    ----------
    expression, feature_values : log2(1 + expression) of the gene, and the feature; index sample_id, the same
    tissues : sample_id -> tissue
    colours : tissue -> colour
    gene, feature : what they are called in the figure; any characters
    facts : r, r_tissues, where known, for the heading
    """
    of_sample = tissues.loc[expression.index]
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
        gene_label = f"{plain(_short(gene))}, log₂(1 + {unit})"
        scatter.set(xlabel=f"feature {plain(feature)}", ylabel=gene_label)
        of_gene.set(xlabel=gene_label)
        of_feature.set(xlabel=f"feature {plain(feature)}")
        figure.text(0.06, 1 - 0.1 / height, _heading(gene, feature, facts, len(x)), va="top", fontsize=9)
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


def _heading(gene: str, feature: str, facts: Mapping[str, float] | None, n: int) -> str:
    text = f"{plain(gene)} and feature {plain(feature)}"
    if facts is not None:
        r, given = facts["r"], facts["r_tissues"]
        text += f": r = {r:.2f}, given the tissues {'not defined' if np.isnan(given) else f'{given:.2f}'}"
    return f"{text} (n = {n} test samples; lines within tissues, bars at medians)"


def _dark(colour: Any) -> tuple[float, ...]:
    """The colour, dark enough to be read as a word on white."""
    red, green, blue = plt.matplotlib.colors.to_rgb(colour)
    light = 0.3 * red + 0.59 * green + 0.11 * blue
    return tuple(part * min(1.0, 0.5 / max(light, 1e-6)) for part in (red, green, blue))


def plain(text: str) -> str:
    """A name as it stands: dollars would start a formula in a figure."""
    return str(text).replace("$", r"\$")


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def strip_tiles(inspection: Inspection, feature: str, n: int = STRIP_TILES) -> pd.DataFrame:
    """One tile of each of n samples from the lowest value of the feature to the highest, no network needed.

    The tile with most tissue stands for its sample. Columns tile_id, sample_id, slide_id, stack_index, value
    (of the sample, not of the tile), tissue.
    """
    one_df = inspection.sample_tiles_df
    values = inspection.lookup.features_df.loc[feature, one_df["sample_id"]].to_numpy(float)
    values_df = pd.DataFrame({feature: values}, index=pd.Index(one_df["tile_id"], name="tile_id"))
    samples_df = inspection.samples_df.assign(donor=inspection.samples_df["donor"].fillna("unknown"))
    strip_df = tile_choice.quantile_strip(values_df, one_df, samples_df, n=n)
    return strip_df.assign(tissue=inspection.samples_df["tissue"].loc[strip_df["sample_id"]].to_numpy())


def render_strip(strip_df: pd.DataFrame, tiles: np.ndarray, feature: str) -> Figure:
    """The tiles of `strip_tiles` from low to high, captioned with slide, tissue and the sample's value."""
    captions = [
        f"{plain(row.sample_id)}\n{plain(row.tissue)}\n{row.value:.4g}" for row in strip_df.itertuples()
    ]
    heading = f"Feature {plain(feature)} from its lowest sample to its highest: a tile and the sample's value"
    if strip_df["value"].nunique() == 1:
        heading = f"Feature {plain(feature)} has one value in these samples: they stand in no order"
    return pictures.tile_strip(list(tiles), captions, heading=heading)


@style.themed
def render_closeup(made: feature_view.Closeup, feature: str) -> Figure:
    """Top tiles above, their gradients below, the synthetic image beside them."""
    k = len(made.tiles)
    edge = 1.45
    figure = plt.figure(figsize=(edge * k + 2 * edge + 0.5, 2 * edge + 0.75))
    grid = figure.add_gridspec(2, k + 2)
    for row, images in enumerate((made.tiles, made.gradients)):
        for i, image in enumerate(images):
            ax = figure.add_subplot(grid[row, i])
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row == 0:
                ax.set_title(
                    f"{plain(_short(str(made.tile_ids[i]), 22))}\n{made.values[i]:.4g}", fontsize=6.5
                )
            if i == 0:
                ax.set_ylabel("tile, value" if row == 0 else str(made.method), fontsize=7)
    ax = figure.add_subplot(grid[:, k:])
    ax.axis("off")
    start, end = made.objective
    if end > start:
        ax.imshow(made.synthetic)
    else:  # it is still noise
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.text(0.5, 0.5, "no image: from noise\nthe feature did not rise", ha="center", va="center")
    ax.set_title(f"synthetic image\n{start:.4g} on noise, {end:.4g} on the image", fontsize=7)
    figure.suptitle(f"What raises feature {plain(feature)}", fontsize=9)
    return figure


def render_heatmap(inspection: Inspection, feature: str, slide_id: str, values: pd.Series) -> Figure:
    """The value of each tile over its slide."""
    mpp = float(inspection.slide_mpp[slide_id])
    thumbnail, thumbnail_mpp, mask = slide_picture(inspection.slide_files[slide_id], mpp)
    of_slide_df = inspection.tiles_df[inspection.tiles_df["slide_id"] == slide_id]
    where = inspection.samples_df.loc[of_slide_df["sample_id"].iloc[0], "tissue"]
    several = of_slide_df["sample_id"].nunique() > 1
    title = f"Feature {feature} on slide {plain(slide_id)}" + ("" if several else f", {plain(where)}")
    return pictures.slide_heatmap(
        thumbnail,
        thumbnail_mpp,
        mask,
        of_slide_df,
        values,
        mpp,
        title=title,
        label="sum over the tile's positions",
    )


@lru_cache(maxsize=8)
def slide_picture(path: Path, mpp: float) -> tuple[np.ndarray, float, np.ndarray]:
    """A small picture of the slide, its µm/px, and where tissue is."""
    thumbnail, thumbnail_mpp = slides.overview(slides.open_slide(path), mpp, max_px=800)
    return thumbnail, thumbnail_mpp, tissue_mask.tissue_mask(thumbnail, thumbnail_mpp)


def slides_by_value(inspection: Inspection, feature: str) -> pd.Series:
    """Slide id -> mean value of its test samples, highest first; slides without tiles left out."""
    one_df = inspection.sample_tiles_df
    values = inspection.lookup.features_df.loc[feature, one_df["sample_id"]]
    return values.groupby(one_df["slide_id"].to_numpy()).mean().sort_values(ascending=False, kind="stable")


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as a PNG file, drawn once and packed quickly."""
    buffer = io.BytesIO()
    with plt.rc_context({"text.hinting": "none"}):  # a quarter of the time of a figure with 39 tissues' names
        figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()
