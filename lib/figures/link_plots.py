"""Figures of links: where they hold, whether they replicate, what can be seen of genes, and power."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from lib.figures.style import COLUMN_IN, PAGE_IN, QUIET, themed

FOUND = "#0072b2"


@themed
def where_links_hold(by_tissue_df: pd.DataFrame, leads_df: pd.DataFrame, most: int = 30) -> Figure:
    """r of the strongest links in each tissue, and how much tissues differ (I^2).

    by_tissue_df : gene, feature, tissue, n, r (`link_table.of_tissues`). leads_df : gene, symbol, feature,
        r_within, i2 of links, the strongest first; one link of a gene is shown.
    """
    shown_df = leads_df.drop_duplicates("gene").head(most).astype({"gene": str, "feature": str})
    key = by_tissue_df["gene"].astype(str) + " " + by_tissue_df["feature"].astype(str)
    r_df = by_tissue_df.assign(key=key).pivot_table(index="key", columns="tissue", values="r", observed=True)
    r_df = r_df.reindex(shown_df["gene"] + " " + shown_df["feature"])
    labels = [f"{row.symbol} × {row.feature}" for row in shown_df.itertuples()]
    size = (min(PAGE_IN, 2.6 + 0.3 * r_df.shape[1]), 1.6 + 0.17 * len(r_df))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=[r_df.shape[1] + 3, 3], sharey=True)
    image = left.imshow(r_df, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    left.set_xticks(np.arange(r_df.shape[1]), r_df.columns, rotation=90)
    left.set_yticks(np.arange(len(r_df)), labels, fontsize=6)
    figure.colorbar(image, ax=left, label="r in the tissue", location="left", shrink=0.6, pad=0.02)
    right.barh(np.arange(len(r_df)), 100 * shown_df["i2"].fillna(0), color=QUIET)
    right.set(xlim=(0, 100), xlabel="I² (%)")
    return figure


@themed
def clumps_by_layer(clumps_df: pd.DataFrame, most: int = 40) -> Figure:
    """Number of linked features of each clump in each layer, and of genes that follow it, above.

    clumps_df : `link_table.of_clumps`; those with most genes are shown, from first to last layer.
    """
    layers = clumps_df.columns[clumps_df.columns.str.startswith("layer_")]
    shown_df = clumps_df[clumps_df[layers].sum(axis=1) > 0].head(most)
    counts = shown_df[layers].to_numpy(float)
    depth = counts @ np.arange(len(layers)) / counts.sum(axis=1)
    order = np.argsort(depth, kind="stable")
    shown_df, counts = shown_df.iloc[order], counts[order].T
    size = (min(PAGE_IN, 1.6 + 0.16 * len(shown_df)), 2.4 + 0.15 * len(layers))
    rows = {"height_ratios": [1.2, 0.6 + 0.15 * len(layers)], "sharex": True}
    figure, (above, below) = plt.subplots(2, 1, figsize=size, **rows)
    places = np.arange(len(shown_df))
    above.bar(places, shown_df["n_genes"], color=FOUND, width=0.8)
    above.set(ylabel="genes")
    largest = max(2.0, counts.max())
    shown = np.where(counts > 0, counts, np.nan)
    image = below.imshow(shown, cmap="viridis_r", norm=LogNorm(1, largest), aspect="auto")
    names = [f"{row.symbol} × {row.Index}" for row in shown_df.itertuples()]
    below.set_xticks(places, names, rotation=90, fontsize=6)
    below.set_yticks(np.arange(len(layers)), layers.str.removeprefix("layer_"))
    below.set(ylabel="layer", xlabel="clump: the gene that follows it best × lead feature")
    whole = [k * 10**e for e in range(4) for k in (1, 2, 5) if k * 10**e <= largest]
    bar = figure.colorbar(image, ax=below, label="features", pad=0.02, ticks=whole)
    bar.ax.set_yticklabels([f"{k:,}" for k in whole])
    bar.ax.minorticks_off()
    return figure


@themed
def gene_sets(sets_df: pd.DataFrame, q_threshold: float, most: int = 30, beyond: int = 6) -> Figure:
    """The gene sets found with the clump that follows each best, and a few that were not found, hollow.

    sets_df : `gene_sets.table`, by p; q, statistic, mean_r, n_genes, n_linked, feature.
    """
    found = sets_df["q"] <= q_threshold
    shown_df = pd.concat([sets_df[found].head(most), sets_df[~found].head(beyond)]).iloc[::-1]
    places, called = np.arange(len(shown_df)), shown_df["q"].to_numpy() <= q_threshold
    figure, axes = plt.subplots(figsize=(PAGE_IN * 0.8, 1.1 + 0.2 * len(shown_df)))
    area = 15 + 100 * (shown_df["n_linked"] / shown_df["n_genes"]).to_numpy()
    x = shown_df["statistic"].to_numpy()
    points = axes.scatter(
        x[called], places[called], s=area[called], c=shown_df["mean_r"].to_numpy()[called], cmap="RdBu_r",
        vmin=-0.6, vmax=0.6, edgecolors="black", linewidths=0.4,
    )  # fmt: skip
    axes.scatter(x[~called], places[~called], s=area[~called], facecolors="none", edgecolors=QUIET)
    axes.axvline(0, color="black", linewidth=0.4)
    names = [f"{str(row.Index).replace('_', ' ')[:56]} × {row.feature}" for row in shown_df.itertuples()]
    axes.set_yticks(places, names, fontsize=6)
    axes.set_xlabel("T of the gene set (area: share of its genes linked)")
    figure.colorbar(points, ax=axes, label="mean r of its genes", pad=0.02)
    return figure


@themed
def replication(
    leads_df: pd.DataFrame, q_threshold: float, there: str = "validation", within: str = "tissues"
) -> Figure:
    """r within tissues of links on the test samples against other samples; links that replicate coloured.

    leads_df : r_within, r_validation, q_validation, same_sign.
    there : what the other samples are. within : what both were tested within.
    """
    df = leads_df.dropna(subset="r_validation")
    replicated = (df["q_validation"] <= q_threshold) & (df["same_sign"] == 1)
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 3.2))
    for these, colour, label in (
        (~replicated, QUIET, "does not replicate"),
        (replicated, FOUND, "replicates"),
    ):
        points = df.loc[these, ["r_within", "r_validation"]].to_numpy()
        name = f"{label}: {len(points):,}"
        axes.scatter(*points.T, s=3, alpha=0.4, linewidths=0, color=colour, label=name, rasterized=True)
    axes.plot([-1, 1], [-1, 1], color="black", linewidth=0.6, linestyle=":")
    axes.axhline(0, color="black", linewidth=0.4)
    axes.set(xlabel=f"r within {within}, test", ylabel=f"r within {within}, {there}", xlim=(-1, 1))
    axes.set(ylim=(-1, 1), aspect="equal")
    figure.legend(loc="outside lower center", ncols=2, markerscale=3)
    return figure


@themed
def forest(
    ledger_df: pd.DataFrame, combined_df: pd.DataFrame, symbols: Mapping[str, str], most: int = 12
) -> Figure:
    """r of the strongest links in each unit with 95 % intervals, and random effects of all units (diamonds).

    ledger_df, combined_df : `meta_analysis.ledger` and `combine`; one link of a gene is shown, those of
        smallest combined p.
    """
    shown_df = combined_df.sort_values("p_random", kind="stable").drop_duplicates("gene").head(most)
    names = ledger_df["unit"].unique()
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names)))
    step = 0.8 / (len(names) + 1)
    figure, axes = plt.subplots(figsize=(PAGE_IN * 0.8, 1.4 + 0.14 * len(shown_df) * (len(names) + 1)))
    keys = pd.MultiIndex.from_frame(shown_df[["gene", "feature"]])
    for k, (unit, colour) in enumerate(zip(names, colours, strict=True)):
        df = (
            ledger_df[ledger_df["unit"] == unit]
            .set_index(["gene", "feature"])[["r", "low", "high"]]
            .reindex(keys)
        )
        y = np.arange(len(shown_df)) - 0.4 + k * step
        errors = [(df["r"] - df["low"]).to_numpy(), (df["high"] - df["r"]).to_numpy()]
        axes.errorbar(
            df["r"], y, xerr=errors, fmt="o", markersize=3, linewidth=1, color=colour, label=str(unit)
        )
    y = np.arange(len(shown_df)) - 0.4 + len(names) * step
    low, high = shown_df["r_random"] - shown_df["low_random"], shown_df["high_random"] - shown_df["r_random"]
    look = {"fmt": "D", "markersize": 4, "linewidth": 1.2, "color": "black", "label": "all (random effects)"}
    axes.errorbar(shown_df["r_random"], y, xerr=[low.to_numpy(), high.to_numpy()], **look)
    pairs = shown_df[["gene", "feature"]].astype(str).to_numpy()
    labels = [f"{symbols.get(gene, gene)} × {feature}" for gene, feature in pairs]
    axes.set_yticks(np.arange(len(shown_df)), labels)
    axes.set_ylim(len(shown_df) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.6, linestyle=":")
    axes.set(xlabel="r within, 95 % interval at the effective size", xlim=(-1, 1))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@themed
def visible_genes(visible_df: pd.DataFrame) -> Figure:
    """Cross-validated r of genes with all features together: genes with a link, and the others.

    visible_df : r_cv, found.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.4))
    bins = np.linspace(min(-0.3, visible_df["r_cv"].min()), 1, 54).tolist()
    for found, colour, label in ((False, QUIET, "no link"), (True, FOUND, "with a link")):
        values = visible_df.loc[visible_df["found"] == found, "r_cv"]
        median = f", median {values.median():.2f}" if len(values) else ""
        name = f"{label}: {len(values):,} genes{median}"
        axes.hist(values, bins=bins, density=True, alpha=0.6, color=colour, label=name)
    axes.set(xlabel="r within tissues with the prediction for unseen donors", ylabel="density")
    figure.legend(loc="outside lower center", ncols=1)
    return figure


@themed
def power(curves: Mapping[str, np.ndarray], r: np.ndarray, r_found: np.ndarray) -> Figure:
    """Power to find a link against its r within tissues, for several study sizes; |r| of the links found.

    curves : label -> power at each r.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.6))
    shades = plt.get_cmap("viridis")(np.linspace(0.1, 0.85, len(curves)))
    for (label, values), colour in zip(curves.items(), shades, strict=True):
        axes.plot(r, values, color=colour, label=label)
    axes.axhline(0.8, color="black", linewidth=0.6, linestyle=":")
    if len(r_found):
        axes.plot(r_found, np.full(len(r_found), -0.04), "|", color=FOUND, alpha=0.3, markersize=5)
    axes.set(xlabel="|r| within tissues", ylabel="power", ylim=(-0.08, 1.02), xlim=(0, 1))
    figure.legend(loc="outside lower center", ncols=2)
    return figure
