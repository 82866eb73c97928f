"""Figures of the benchmark: our time over that of a limit or alternative, and its growth with the slides."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import ACCENT, PAGE_IN, QUIET, themed


@themed
def timings(table_df: pd.DataFrame) -> Figure:
    """Ratio of our time to the limit or alternative, a row for each comparison, with the target if a ratio.

    table_df : `benchmarks.run` (work, limit_or_peer, ratio, target, met).
    """
    colours = {"yes": "#009e73", "no": ACCENT, "": QUIET}
    rows = table_df[~table_df["work"].str.contains("GB")].iloc[::-1].to_dict("records")
    figure, axes = plt.subplots(figsize=(PAGE_IN, 0.7 + 0.33 * len(rows)))
    axes.axvline(1, color="black", linewidth=0.6)
    for y, row in enumerate(rows):
        axes.plot([1, row["ratio"]], [y, y], color=colours[row["met"]], linewidth=1)
        axes.plot(row["ratio"], y, "o", color=colours[row["met"]], markersize=4)
        axes.text(row["ratio"], y + 0.2, f"{row['ratio']:.2g}", ha="center", fontsize=6)
        if str(row["target"]).startswith("<"):
            axes.plot(float(row["target"].split()[1]), y, "|", color="black", markersize=9)
    names = [f"{row['work']}\nagainst {row['limit_or_peer']}" for row in rows]
    axes.set_yticks(np.arange(len(names)), names, fontsize=5.5)
    axes.set(xscale="log", ylim=(-0.6, None))
    axes.set_xlabel("ours / limit or alternative (below 1: ours is faster); vertical stroke: target")
    for word, colour in (("target met", colours["yes"]), ("missed", ACCENT), ("no target", QUIET)):
        axes.plot([], [], "o-", color=colour, markersize=4, linewidth=1, label=word)
    figure.legend(loc="outside lower right", ncols=3)
    return figure


@themed
def growth(table_df: pd.DataFrame) -> Figure:
    """Seconds and peak memory of each stage by the number of slides; dotted: in proportion to the slides.

    table_df : `benchmarks.growth` (stage, n_slides, seconds, gb).
    """
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_IN, 3.0))
    for axes, column, label in zip(panels, ("seconds", "gb"), ("seconds", "GB, peak"), strict=True):
        for number, (stage, of_stage_df) in enumerate(table_df.groupby("stage", sort=False)):
            n_slides, values = (of_stage_df[name].to_numpy(float) for name in ("n_slides", column))
            axes.plot(n_slides, values, "o-", color=f"C{number}", markersize=4, linewidth=1, label=stage)
            slope = values[-1] / n_slides[-1]
            axes.plot(n_slides, slope * n_slides, ":", color=f"C{number}", linewidth=0.8)
        low = table_df[column].min() / 2
        axes.set(xscale="log", yscale="log", xlabel="slides", ylabel=label, ylim=(low, None))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
