"""Figures of the cohort: samples in each set, tissues of each donor, expression, samples by features."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from lib.figures.style import ACCENT, COLUMN_IN, PAGE_IN, QUIET, SPLIT_COLOURS, distinct_colours, themed


@themed
def slides_per_set(samples_df: pd.DataFrame) -> Figure:
    """Samples of each tissue in each set (S1 Table as a figure)."""
    counts_df = samples_df.groupby(["tissue", "split"]).size().unstack(fill_value=0)
    counts_df = counts_df[[s for s in SPLIT_COLOURS if s in counts_df]].iloc[::-1]
    figure, axes = plt.subplots(figsize=(PAGE_IN * 0.75, 0.8 + 0.2 * len(counts_df)))
    left = np.zeros(len(counts_df))
    for split, counts in counts_df.items():
        axes.barh(counts_df.index, counts, left=left, color=SPLIT_COLOURS[str(split)], label=split)
        left += counts.to_numpy()
    axes.margins(y=0.01)
    axes.set_xlabel(f"samples (n = {len(samples_df):,})")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


@themed
def tissues_per_donor(samples_df: pd.DataFrame) -> Figure:
    """Tissues (rows) of each donor (columns), coloured by set.

    Above: the number of tissues of each donor; right: the number of donors of each tissue. Donors with
    samples in several sets have a colour of their own.
    """
    colour_of = SPLIT_COLOURS | {"several sets": ACCENT}
    codes = {split: i + 1 for i, split in enumerate(colour_of)}
    coded_df = samples_df.assign(code=samples_df["split"].map(codes))

    def one_or_several(found: pd.Series) -> float:
        return found.min() if found.nunique() == 1 else codes["several sets"]

    grid_df = coded_df.pivot_table(index="tissue", columns="donor", values="code", aggfunc=one_or_several)
    sets = coded_df.groupby("donor")["code"].agg(one_or_several)[grid_df.columns]
    grid_df, n_tissues = grid_df.fillna(0), grid_df.notna().sum()
    grid_df = grid_df.iloc[:, np.lexsort((-n_tissues, sets))]
    sets, n_tissues = sets[grid_df.columns], n_tissues[grid_df.columns]
    colours = ["#ffffff", *colour_of.values()]
    height = 0.18 * max(4, len(grid_df))
    figure, ((above, corner), (axes, right)) = plt.subplots(
        *(2, 2), figsize=(PAGE_IN, 1.5 + height), height_ratios=(0.7, height), width_ratios=(6, 1)
    )
    corner.axis("off")
    x, y = np.arange(grid_df.shape[1]) + 0.5, np.arange(len(grid_df)) + 0.5
    shades = ListedColormap(colours)
    axes.pcolormesh(grid_df.to_numpy(), cmap=shades, vmin=-0.5, vmax=len(codes) + 0.5, rasterized=True)
    axes.set_yticks(y, grid_df.index)
    axes.set(ylim=(len(grid_df), 0), xticks=[])
    axes.set_xlabel(f"donors (n = {grid_df.shape[1]:,}), grouped by set")
    above.bar(x, n_tissues, width=1, color=[colours[int(code)] for code in sets], rasterized=True)
    above.set(xlim=(0, len(x)), xticks=[], ylabel="tissues\nof a donor")
    above.yaxis.get_major_locator().set_params(integer=True)
    right.barh(y, (grid_df > 0).sum(axis=1), color=QUIET)
    right.set(ylim=(len(grid_df), 0), yticks=[], xlabel="donors")
    for split, colour in colour_of.items():
        if split in SPLIT_COLOURS or (sets == codes[split]).any():
            above.scatter([], [], marker="s", color=colour, label=split)
    above.legend(ncols=len(codes), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


@themed
def expression_histogram(log_values: np.ndarray, e_threshold: float, unit: str = "TPM") -> Figure:
    """S1 Fig B: histogram of log2(1 + expression), logarithmic count axis."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.4))
    axes.hist(log_values.ravel(), bins=80, color=QUIET, log=True)
    axes.axvline(e_threshold, color=ACCENT, label=f"$E_T$ = {e_threshold:g}")
    axes.set(xlabel=f"log$_2$(1 + {unit})", ylabel=f"gene-sample values (n = {log_values.size:,})")
    axes.legend()
    return figure


@themed
def feature_map(
    scores_df: pd.DataFrame, share: np.ndarray, shown_df: pd.DataFrame, colours: Mapping[str, Any]
) -> Figure:
    """Samples on the first two principal components of their features, once for each column of shown_df.

    scores_df : samples x PC1, PC2, ... share : of the variance. shown_df : index sample_id, in any order.
    colours : of tissues; other texts have colours of their own, numbers a scale.
    """
    n_columns = min(3, shown_df.shape[1])
    n_rows = -(-shown_df.shape[1] // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(PAGE_IN, 0.4 + 2.5 * n_rows), squeeze=False, sharex=True, sharey=True
    )
    x, y = (scores_df.iloc[:, k].to_numpy() for k in (0, 1))
    for panel, (name, values) in zip(axes.flat, shown_df.loc[scores_df.index].items(), strict=False):
        panel.set_title(str(name).replace("_", " "))
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            points = panel.scatter(x, y, s=7, c=values.to_numpy(float), cmap="viridis", linewidths=0)
            figure.colorbar(points, ax=panel, shrink=0.8)
            continue
        texts = values.astype(str)
        names = sorted(texts.unique())
        known = {one: colours[one] for one in names if one in colours} | SPLIT_COLOURS
        if not set(names) <= set(known):
            known = distinct_colours(names)
        for one in names:
            at = (texts == one).to_numpy()
            panel.scatter(x[at], y[at], s=7, color=known[one], linewidths=0, label=fill(one, 18))
        if len(names) <= 10:
            place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}  # where others have their scale
            panel.legend(**place, fontsize=5, markerscale=1.2, handletextpad=0.1, borderpad=0.1)
    for panel in axes.flat[shown_df.shape[1] :]:
        panel.axis("off")
    figure.supxlabel(f"PC1 ({share[0]:.0%} of the variance)", fontsize=8)
    figure.supylabel(f"PC2 ({share[1]:.0%})", fontsize=8)
    return figure
