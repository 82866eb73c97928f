"""Figures of correlations: all r, pairs by layer, feature and gene, single pairs, two sets of slides."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from lib.figures.style import ACCENT, COLUMN_IN, PAGE_IN, QUIET, themed


@themed
def r_histogram(histogram_df: pd.DataFrame, r_threshold: float, non_negative: dict[int, bool]) -> Figure:
    """S1 Fig C: r of all gene-feature pairs; S1 Fig D: the same for layers with and without negative output.

    histogram_df : r_low, r_high, count, `layer_<l>`. non_negative : layer -> its output is never negative.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_IN, 2.4), sharey=True)
    edges = np.append(histogram_df["r_low"], histogram_df["r_high"].iloc[-1])
    left.stairs(histogram_df["count"], edges, fill=True, color=QUIET)
    left.set(title=f"n = {int(histogram_df['count'].sum()):,} pairs", ylabel="pairs")
    for kind, is_so, colour in (("non-negative", True, "#0072b2"), ("signed", False, ACCENT)):
        layers = [
            f"layer_{layer}" for layer, never_negative in non_negative.items() if never_negative == is_so
        ]
        counts = histogram_df[[layer for layer in layers if layer in histogram_df]].sum(axis=1)
        right.stairs(counts, edges, color=colour, label=f"{kind} layers, {int(counts.sum()):,}")
    for ax in (left, right):
        for sign in (-1, 1):
            ax.axvline(sign * r_threshold, color="black", linewidth=0.8, linestyle=":")
        ax.set(yscale="log", xlabel="r(gene, feature)", xlim=(-1, 1))
        place = {"transform": ax.get_xaxis_transform(), "fontsize": 6.5}
        ax.text(r_threshold + 0.02, 0.94, f"|r| = {r_threshold:g}", **place)
    figure.legend(loc="outside lower right", ncols=2)
    return figure


@themed
def genes_per_layer(counts_df: pd.DataFrame, layer_labels: dict[int, str], colours: dict[str, Any]) -> Figure:
    """Fig 3: genes with a marker pair in each layer, by tissue of highest expression.

    counts_df : unique genes, layers x tissues.
    """
    layers = list(layer_labels)
    counts_df = counts_df.reindex(layers, fill_value=0)
    figure, axes = plt.subplots(figsize=(PAGE_IN, 3.2))
    bottom = np.zeros(len(layers))
    for tissue, counts in counts_df.items():
        look = {"color": colours[str(tissue)], "label": tissue, "width": 0.85}
        axes.bar(np.arange(len(layers)), counts, bottom=bottom, **look)
        bottom += counts.to_numpy()
    step = max(1, len(layers) // 40)
    labels = [f"{layer} {layer_labels[layer]}" for layer in layers]
    axes.set_xticks(np.arange(len(layers))[::step], labels[::step], rotation=90, fontsize=6)
    axes.set(xlabel="layer", ylabel="genes with a marker pair")
    if counts_df.shape[1]:
        columns = 1 if counts_df.shape[1] <= 14 else 2
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns, fontsize=6)
    return figure


@themed
def genes_per_feature(per_feature_df: pd.DataFrame, per_gene_df: pd.DataFrame) -> Figure:
    """S2 Fig: correlated genes of each feature and correlated features of each gene, at rising thresholds.

    Tables of `pair_tables.genes_per_feature` and `features_per_gene`: a column `r_<threshold>` for each.
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_IN, 3.2))
    shades = sns.color_palette("viridis_r", per_feature_df.shape[1])
    sides = ((axes[0], per_feature_df, "feature", "genes"), (axes[1], per_gene_df, "gene", "features"))
    for ax, table_df, one, many in sides:
        for (column, counts), shade in zip(table_df.items(), shades, strict=True):
            ranked = counts[counts > 0].sort_values(ascending=False).to_numpy()
            label = f"r ≥ {str(column).removeprefix('r_')}: {len(ranked):,}"
            ax.plot(np.arange(1, len(ranked) + 1), ranked, color=shade, label=label)
        ax.set(xlabel=f"{one}s, ranked", ylabel=f"correlated {many} of a {one}")
        if len(table_df):
            ax.set(xscale="log", yscale="log")
        title = f"{one}s with a pair"
        ax.legend(
            title=title, title_fontsize=7, fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2)
        )
    return figure


@themed
def pair_scatter(
    log_expression: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs: Sequence[dict[str, Any]],
    tissues: pd.Series,
    colours: dict[str, Any],
    unit: str = "TPM",
) -> Figure:
    """Expression against feature value of chosen pairs, with a line fitted within each tissue.

    pairs : mappings of gene, symbol, feature, r and, where known, r_partial.
    """
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(PAGE_IN, 2.5 * rows), squeeze=False)
    for ax in axes.flat[len(pairs) :]:
        ax.axis("off")
    for ax, pair in zip(axes.flat, pairs, strict=False):
        x = features_df.loc[pair["feature"]]
        y = log_expression.loc[pair["gene"]]
        for tissue, members in tissues.groupby(tissues):
            at = members.index
            # A thin edge: some published tissue colours are near white.
            look = {"s": 7, "color": colours[tissue], "edgecolors": "#333333", "linewidths": 0.2}
            ax.scatter(x[at], y[at], label=tissue, **look)
            if len(at) > 2 and x[at].std() > 0:
                slope, intercept = np.polyfit(x[at].astype(float), y[at].astype(float), 1)
                ends = np.array([x[at].min(), x[at].max()])
                ax.plot(ends, slope * ends + intercept, color=colours[tissue], linewidth=0.8)
        known = pd.notna(pair.get("r_partial"))
        partial = f", given tissue {pair['r_partial']:z.2f}" if known else ""
        ax.set_title(f"{pair['symbol']}\nr = {pair['r']:.2f}{partial}", fontsize=7)
        ax.set(xlabel=f"feature {pair['feature']}", ylabel=f"log$_2$(1 + {unit})")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=6, markerscale=2)
    return figure


@themed
def density(counts: np.ndarray, edges: np.ndarray, xlabel: str, ylabel: str, title: str) -> Figure:
    """S3 Fig: two-dimensional histogram with a logarithmic colour scale and the diagonal dotted."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 3.0))
    shown = np.where(counts > 0, counts, np.nan).T
    image = axes.pcolormesh(edges, edges, shown, norm=LogNorm(), cmap="viridis")
    axes.plot([edges[0], edges[-1]], [edges[0], edges[-1]], color="black", linewidth=0.6, linestyle=":")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, aspect="equal")
    figure.colorbar(image, ax=axes, label="pairs", shrink=0.8)
    return figure
