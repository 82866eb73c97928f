"""Figures of the networks: training, accuracy, feature values, synthetic images."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.figures.style import ACCENT, COLUMN_IN, PAGE_IN, QUIET, SPLIT_COLOURS, distinct_colours, themed


@themed
def training_curves(history_df: pd.DataFrame, chance: float) -> Figure:
    """Loss and tile accuracy by epoch, with the epoch kept; chance: the share of the most common tissue."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_IN, 2.4))
    for name, colour in (("train", SPLIT_COLOURS["train"]), ("validation", SPLIT_COLOURS["test"])):
        left.plot(history_df["epoch"], history_df[f"{name}_loss"], color=colour, label=name)
        right.plot(history_df["epoch"], history_df[f"{name}_accuracy"], color=colour, label=name)
    best = history_df["epoch"].iloc[int(history_df["validation_accuracy"].argmax())]
    for ax in (left, right):
        ax.axvline(best, color=ACCENT, linewidth=0.8, linestyle=":")
        ax.set_xlabel("epoch")
    right.axhline(chance, color=QUIET, linewidth=0.8, linestyle="--", label="most common tissue")
    left.set_ylabel("cross-entropy")
    right.set(ylabel="tile accuracy", ylim=(0, 1.02), title=f"epoch {best} kept")
    left.legend()
    right.legend(loc="lower right")
    return figure


@themed
def confusion(confusion_df: pd.DataFrame) -> Figure:
    """S4 Table: true tissues in rows, predicted ones in columns, shaded by the share of the row."""
    size = min(1.8 + 0.42 * len(confusion_df), 10)
    figure, axes = plt.subplots(figsize=(size, size * 0.85))
    sns.heatmap(
        confusion_df.div(confusion_df.sum(axis=1).clip(lower=1), axis=0),
        annot=confusion_df.map(lambda n: f"{n:.0f}" if n > 0 else ""), fmt="", annot_kws={"fontsize": 6},
        cmap="Blues", vmin=0, vmax=1, square=True, linewidths=0.3, linecolor="#eeeeee",
        cbar_kws={"label": "share of the true tissue", "shrink": 0.6}, ax=axes,
    )  # fmt: skip
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="predicted (slides)", ylabel=f"true (slides, n = {int(confusion_df.to_numpy().sum())})")
    return figure


@themed
def accuracy_against_pairs(table_df: pd.DataFrame, r_threshold: float, e_threshold: float) -> Figure:
    """Test slide accuracy of each network against its pairs, and against its genes with a link.

    Null networks have hollow markers; lines join them to the trained network of the same architecture.

    table_df : architecture, network (a key of `markers` below), slide_test_percent, n_pairs,
        genes_with_a_link.
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_IN, 3.0))
    rows = table_df.to_dict("records")
    trained = {row["architecture"]: row for row in rows if row["network"] == "trained"}
    colours = distinct_colours(list(dict.fromkeys(table_df["architecture"])))
    markers = {"trained": "o", "as it is": "D", "untrained": "^", "shuffled": "s"}
    filled = ("trained", "as it is")
    labels = (f"pairs, r \u2265 {r_threshold:g}, $E_T$ = {e_threshold:g}", "genes with a link within tissues")
    for ax, column, label in zip(axes, ("n_pairs", "genes_with_a_link"), labels, strict=True):
        for row in rows:
            colour, ends = colours[row["architecture"]], (trained.get(row["architecture"], row), row)
            x, y = [end["slide_test_percent"] for end in ends], [end[column] for end in ends]
            ax.plot(x, y, color=colour, linewidth=0.5, alpha=0.6)
            look = {"facecolor": colour if row["network"] in filled else "white", "edgecolor": colour}
            ax.scatter(x[1], y[1], marker=markers[row["network"]], s=26, zorder=3, **look)
        ax.set(xlim=(0, 102), xlabel="test slide accuracy (%)", ylabel=label)
    top = max(10.0, 2 * float(table_df["n_pairs"].max()))
    axes[0].set_yscale("symlog", linthresh=10)  # a null network may have no pair at all
    ticks = [0, *(10**k for k in range(1, int(np.log10(top)) + 1))]
    axes[0].set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes[0].set_ylim(-0.7, top)
    axes[1].set_ylim(0, max(1.0, 1.15 * float(table_df["genes_with_a_link"].max())))
    for name, colour in colours.items():
        axes[0].scatter([], [], marker="o", color=colour, label=name)
    for kind in [kind for kind in markers if (table_df["network"] == kind).any()]:
        face = QUIET if kind in filled else "white"
        axes[0].scatter([], [], marker=markers[kind], facecolor=face, edgecolor=QUIET, label=kind)
    figure.legend(loc="outside right center", fontsize=7)
    return figure


@themed
def feature_histogram(features_df: pd.DataFrame, table_df: pd.DataFrame) -> Figure:
    """S1 Fig A: feature values, of layers with non-negative output and of the others.

    features_df : features x samples. table_df : feature, non_negative.
    """
    is_positive = features_df.index.isin(table_df.loc[table_df["non_negative"], "feature"].tolist())
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_IN, 2.4))
    for ax, rows, name in ((axes[0], is_positive, "non-negative"), (axes[1], ~is_positive, "signed")):
        values = features_df.to_numpy()[rows].ravel()
        if values.size:
            low, high = np.quantile(values, [0.001, 0.999])
            ax.hist(np.clip(values, low, high), bins=80, color=QUIET, log=True)
        ax.set(title=f"{name} layers ({int(rows.sum()):,} features)", ylabel="values")
        ax.set_xlabel("feature value (end bars: the outer 0.1 %)")
    return figure


@themed
def tile_count_effect(r_mean: pd.Series, r_sum: pd.Series) -> Figure:
    """Correlation of features with the number of tiles, for features averaged and summed over tiles."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.4))
    bins = np.linspace(-1, 1, 81).tolist()
    axes.hist(r_sum.dropna(), bins=bins, color=ACCENT, alpha=0.7, label="sum over tiles (paper)")
    axes.hist(r_mean.dropna(), bins=bins, color=SPLIT_COLOURS["test"], alpha=0.7, label="mean over tiles")
    axes.set(xlabel="r(feature, tile count)", ylabel=f"features (n = {len(r_mean):,})")
    axes.legend()
    return figure


@themed
def synthesis_curves(curves_df: pd.DataFrame, values_df: pd.DataFrame) -> Figure:
    """The feature's value during the optimisation of each image; 0 is the weakest real tile, 1 the strongest.

    curves_df : image, feature, seed, step, objective. values_df : real tiles x features.
    """
    low, high = values_df.min(), values_df.max()
    span = (high - low).where(high > low, 1.0)
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.6))
    for _, curve_df in curves_df.groupby("image"):
        feature = curve_df["feature"].iloc[0]
        height = (curve_df["objective"] - low[feature]) / span[feature]
        axes.plot(curve_df["step"], height, color=SPLIT_COLOURS["test"], linewidth=0.8, alpha=0.6)
    axes.axhline(1, color=ACCENT, linewidth=0.8, linestyle="--")
    axes.annotate("strongest real tile", (0, 1), (2, 2), textcoords="offset points", fontsize=6.5)
    axes.set_yscale("symlog", linthresh=1)
    bottom, top = axes.get_ylim()
    marks = [mark for mark in (-10, -1, 0, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if bottom <= mark <= top]
    axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set_title("{} images of {} features".format(*curves_df[["image", "feature"]].nunique()))
    axes.set(xlabel="gradient ascent step", ylabel="feature value\n(0 to 1: range of real tiles)")
    return figure
