"""Figures of the tests: surviving pairs, largest statistics, rejection rates."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lib.figures.style import ACCENT, COLUMN_IN, PAGE_IN, QUIET, SPLIT_COLOURS, themed


@themed
def survival(table_df: pd.DataFrame, labels: dict[str, str], by: str) -> Figure:
    """Marker pairs and how many of them survive each test, by tissue or layer.

    table_df : `pair_tests.survival_table`. labels : column -> label. by : axis label.
    """
    shown_df = table_df.drop(index="all", errors="ignore")
    shades = ["#dddddd", "#56b4e9", "#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7"]
    # many long names go beside horizontal bars; below vertical ones they would fill the figure's height
    in_rows = len(shown_df) > 12 and shown_df.index.str.len().max() > 12
    figure, axes = plt.subplots(figsize=(PAGE_IN, 0.8 + 0.2 * len(shown_df) if in_rows else 2.8))
    width = 0.85 / table_df.shape[1]
    for i, (column, counts) in enumerate(shown_df.items()):
        label = f"{labels[str(column)]}: {table_df[column]['all']:,}"
        place = np.arange(len(shown_df)) + (i - (table_df.shape[1] - 1) / 2) * width
        bars = axes.barh if in_rows else axes.bar
        bars(place, counts, width, color=shades[i % len(shades)], label=label)
    if in_rows:
        axes.set_yticks(np.arange(len(shown_df)), shown_df.index)
        axes.set_ylim(len(shown_df) - 0.5, -0.5)
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlabel("pairs")
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return figure
    axes.set_xticks(np.arange(len(shown_df)), shown_df.index, rotation=90 if len(shown_df) > 6 else 20)
    if len(shown_df) <= 6:
        plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    axes.set_yscale("symlog", linthresh=10)
    axes.set(xlabel=by, ylabel="pairs")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@themed
def null_maxima(observed: pd.Series, null_gene: np.ndarray, p_gene: pd.Series) -> Figure:
    """Largest statistic of each gene over all features, observed and shuffled, and the p of the genes.

    null_gene : float [n_permutations, n_genes].
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_IN, 2.4))
    bins = np.linspace(0, max(float(observed.max()), float(null_gene.max())) * 1.02, 60)
    left.hist(null_gene.ravel(), bins=bins, density=True, color=QUIET, alpha=0.6, label="shuffled")
    left.hist(observed, bins=bins, density=True, histtype="step", color=ACCENT, label="observed")
    left.set(xlabel="largest statistic of a gene", ylabel="density")
    left.legend()
    right.hist(p_gene, bins=np.linspace(0, 1, 41), color=SPLIT_COLOURS["test"])
    null = {"color": QUIET, "linestyle": "--", "linewidth": 0.8, "label": "expected under the null"}
    right.axhline(len(p_gene) / 40, **null)
    right.set(xlabel="p of a gene", ylabel=f"genes (n = {len(p_gene):,})")
    right.legend()
    return figure


@themed
def moran(values: dict[str, pd.Series]) -> Figure:
    """Histogram of Moran's I, a line for each kind of rows ("genes", "features")."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.2))
    low = min(float(i.min()) for i in values.values())
    bins = np.linspace(min(low, -0.2), 1, 49).tolist()
    for (name, i), colour in zip(values.items(), ("#0072b2", "#d55e00"), strict=False):
        label = f"{len(i):,} {name}, median {i.median():.2f}"
        axes.hist(i, bins=bins, density=True, histtype="step", color=colour, label=label)
    axes.axvline(0, color="black", linewidth=0.6, linestyle=":")
    axes.set(xlabel="Moran's I over neighbours at one pitch", ylabel="density")
    figure.legend(loc="outside lower center", ncols=1)
    return figure


@themed
def rejection_rates(table_df: pd.DataFrame) -> Figure:
    """Share of null pairs that each test rejects, with intervals; a panel for each design.

    table_df : `calibration.calibration`: design, scheme, level, rejected, low, high.
    """
    designs, tests = table_df["design"].unique(), table_df["scheme"].unique()[::-1]
    alphas = dict(zip(table_df["level"].unique(), ("#0072b2", "#d55e00", "#009e73"), strict=False))
    size = (PAGE_IN, 0.9 + 0.26 * len(tests))
    ticks = {0.001: "0.1 %"} if min(alphas) < 0.01 else {}
    ticks |= {0.01: "1 %", 0.05: "5 %", 0.2: "20 %", 1: "100 %"}
    figure, axes = plt.subplots(1, len(designs), figsize=size, sharey=True, squeeze=False)
    place = pd.Series(np.arange(len(tests)), index=tests)
    for ax, design in zip(axes[0], designs, strict=True):
        for k, (alpha, colour) in enumerate(alphas.items()):
            df = table_df[(table_df["design"] == design) & (table_df["level"] == alpha)]
            y = place[df["scheme"]].to_numpy() + 0.14 * (1 - 2 * k)
            rate = df["rejected"].clip(lower=1e-4)
            errors = [rate - df["low"].clip(lower=1e-4), df["high"].clip(lower=1e-4) - rate]
            ax.errorbar(rate, y, xerr=errors, fmt="o", markersize=3, color=colour, linewidth=1)
            ax.axvline(alpha, color=colour, linewidth=0.8, linestyle="--")
        ax.set(
            xscale="log",
            xlim=(0.4 * min(0.005, *alphas), 1.2),
            title=textwrap.fill(design, 24),
            xlabel="share of null pairs rejected",
        )
        ax.set_xticks(list(ticks), list(ticks.values()))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_yticks(place, place.index)
    look = {"marker": "o", "markersize": 3}
    handles = [Line2D([], [], color=c, label=f"level {a:g}", **look) for a, c in alphas.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
