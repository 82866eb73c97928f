"""One function per figure; each returns a Figure and never saves. One theme, one colour per tissue."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

COLUMN_IN = 3.5  # width of one journal column, inches
PAGE_IN = 7.2  # width of a page

THEME = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}
SPLIT_COLOURS = {"train": "#bbbbbb", "validation": "#56b4e9", "test": "#0072b2"}  # Okabe and Ito
ACCENT = "#d55e00"
QUIET = "#7f7f7f"


def themed(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw under THEME, and leave no figure open behind (a notebook would show it twice)."""

    @wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Figure:
        with plt.rc_context(THEME):
            figure = function(*args, **kwargs)
            figure.draw_without_rendering()
        plt.close(figure)
        return figure

    return draw


def tissue_colours(tissues: Sequence[str], known_df: pd.DataFrame | None = None) -> dict[str, Any]:
    """One fixed colour per tissue, the same in every figure of a cohort.

    `tissues` are those of all samples, whatever set they are in: from those shown alone, one that is missing
    would move the colours of the others. `known_df` (columns tissue, color) gives GTEx's published colours;
    tissues without one take, in alphabetical order, a palette that colour-blind readers can tell apart, up to
    ten of them. More take hues evenly spaced, which nobody can tell apart without a name beside them; nor are
    GTEx's colours made for colour-blind readers. So the inspector names them in place.
    """
    known = {} if known_df is None else dict(zip(known_df["tissue"], known_df["color"], strict=True))
    names = sorted(set(tissues))
    others = [name for name in names if name not in known]
    palette = (
        sns.color_palette("colorblind", len(others)) if len(others) <= 10 else sns.husl_palette(len(others))
    )
    return {name: known[name] for name in names if name in known} | dict(zip(others, palette, strict=True))


@themed
def slides_per_set(samples_df: pd.DataFrame) -> Figure:
    """Samples of each tissue in each set (S1 Table as a picture)."""
    counts_df = samples_df.groupby(["tissue", "split"]).size().unstack(fill_value=0)
    counts_df = counts_df[[s for s in SPLIT_COLOURS if s in counts_df]].iloc[::-1]
    figure, axes = plt.subplots(figsize=(PAGE_IN * 0.75, 0.8 + 0.2 * len(counts_df)))
    left = np.zeros(len(counts_df))
    for split in counts_df:
        axes.barh(counts_df.index, counts_df[split], left=left, color=SPLIT_COLOURS[split], label=split)
        left += counts_df[split].to_numpy()
    axes.margins(y=0.01)
    axes.set_xlabel(f"samples (n = {len(samples_df):,})")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


@themed
def tissues_per_donor(samples_df: pd.DataFrame) -> Figure:
    """Which tissues each donor gave, coloured by the set they are in; above how many each donor gave, at the
    right how many donors each tissue has. A colour of their own for those with samples in several sets.
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
    shades = plt.matplotlib.colors.ListedColormap(colours)
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
def training_curves(history_df: pd.DataFrame, chance: float) -> Figure:
    """Loss and tile accuracy by epoch; the kept epoch marked; the share of the commonest tissue as floor."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_IN, 2.4))
    for name, colour in (("train", SPLIT_COLOURS["train"]), ("validation", SPLIT_COLOURS["test"])):
        left.plot(history_df["epoch"], history_df[f"{name}_loss"], color=colour, label=name)
        right.plot(history_df["epoch"], history_df[f"{name}_accuracy"], color=colour, label=name)
    best = history_df.loc[history_df["validation_accuracy"].idxmax(), "epoch"]
    for ax in (left, right):
        ax.axvline(best, color=ACCENT, linewidth=0.8, linestyle=":")
        ax.set_xlabel("epoch")
    right.axhline(chance, color=QUIET, linewidth=0.8, linestyle="--", label="commonest tissue")
    left.set_ylabel("cross-entropy")
    right.set(ylabel="tile accuracy", ylim=(0, 1.02), title=f"epoch {best} kept")
    left.legend()
    right.legend(loc="lower right")
    return figure


@themed
def accuracy_against_pairs(table_df: pd.DataFrame, r_threshold: float, e_threshold: float) -> Figure:
    """Each network's slide accuracy against its pairs, and against its genes found within tissues.

    table_df has columns architecture, network (trained, as it is, untrained, shuffled), slide_test_percent,
    n_pairs, genes_within_tissue. Null networks are hollow; lines lead to the one trained from that start.
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_IN, 3.0))
    names = list(dict.fromkeys(table_df["architecture"]))
    palette = (
        sns.color_palette("colorblind", len(names)) if len(names) <= 10 else sns.husl_palette(len(names))
    )
    colours = dict(zip(names, palette, strict=True))
    markers = {"trained": "o", "as it is": "D", "untrained": "^", "shuffled": "s"}
    filled = ("trained", "as it is")
    labels = (f"pairs, r \u2265 {r_threshold:g}, $E_T$ = {e_threshold:g}", "genes followed within tissues")
    for ax, column, label in zip(axes, ("n_pairs", "genes_within_tissue"), labels, strict=True):
        trained_df = table_df[table_df["network"] == "trained"].set_index("architecture")
        for row in table_df[table_df["architecture"].isin(trained_df.index)].itertuples():
            own = trained_df.loc[row.architecture]
            x, y = (
                (own["slide_test_percent"], row.slide_test_percent),
                (own[column], getattr(row, column)),
            )
            ax.plot(x, y, color=colours[row.architecture], linewidth=0.5, alpha=0.6)
        for row in table_df.itertuples():
            face = colours[row.architecture] if row.network in filled else "white"
            ax.scatter(
                row.slide_test_percent,
                getattr(row, column),
                marker=markers[row.network],
                facecolor=face,
                edgecolor=colours[row.architecture],
                s=26,
                zorder=3,
            )
        top = max(10.0, 2 * float(table_df[column].max()))
        ax.set_yscale("symlog", linthresh=10)  # a null network may well have no pair at all
        ticks = [0, *(10**k for k in range(1, int(np.log10(top)) + 1))]
        ax.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.set(xlim=(0, 102), ylim=(-0.7, top), xlabel="test slides named rightly, %", ylabel=label)
    for name in names:
        figure.axes[0].scatter([], [], marker="o", color=colours[name], label=name)
    for kind in [kind for kind in markers if (table_df["network"] == kind).any()]:
        face = QUIET if kind in filled else "white"
        figure.axes[0].scatter([], [], marker=markers[kind], facecolor=face, edgecolor=QUIET, label=kind)
    figure.legend(loc="outside right center", fontsize=7)
    return figure


@themed
def confusion(confusion_df: pd.DataFrame, unit: str = "slides") -> Figure:
    """S4 Table: rows are the true tissue, columns the predicted one; shade is the share of the row."""
    share = confusion_df.div(confusion_df.sum(axis=1).clip(lower=1), axis=0)
    n = len(confusion_df)
    size = min(1.8 + 0.42 * n, 10)
    figure, axes = plt.subplots(figsize=(size, size * 0.85))
    sns.heatmap(
        share,
        annot=confusion_df.where(confusion_df > 0).map(lambda v: "" if pd.isna(v) else f"{v:.0f}"),
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=1,
        square=True,
        linewidths=0.3,
        linecolor="#eeeeee",
        cbar_kws={"label": "share of the true tissue", "shrink": 0.6},
        annot_kws={"fontsize": 6},
        ax=axes,
    )
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel=f"predicted ({unit})", ylabel=f"true ({unit}, n = {int(confusion_df.to_numpy().sum())})")
    return figure


@themed
def feature_histogram(features_df: pd.DataFrame, table_df: pd.DataFrame) -> Figure:
    """S1 Fig A: feature values, layers that cannot be negative apart from those that can.

    features_df features x samples; table_df has columns feature and non_negative.
    """
    positive = set(table_df.loc[table_df["non_negative"], "feature"])
    is_positive = features_df.index.isin(positive)
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
    """How strongly features follow a slide's tile count when tiles are averaged and when they are summed."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 2.4))
    bins = np.linspace(-1, 1, 81)
    axes.hist(r_sum.dropna(), bins=bins, color=ACCENT, alpha=0.7, label="sum over tiles (paper)")
    axes.hist(r_mean.dropna(), bins=bins, color=SPLIT_COLOURS["test"], alpha=0.7, label="mean over tiles")
    axes.set(xlabel="r(feature, tile count)", ylabel=f"features (n = {len(r_mean):,})")
    if len(r_mean):
        axes.legend()
    else:
        words = "every sample has the same number of tiles"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", fontsize=7)
    return figure


@themed
def r_histogram(
    histogram_df: pd.DataFrame, r_threshold: float, non_negative: dict[int, bool] | None = None
) -> Figure:
    """S1 Fig C: r of every gene-feature pair; S1 Fig D: apart by whether layers can be negative.

    histogram_df : r_low, r_high, count, `layer_<l>`; non_negative : layer -> can its output not be negative.
    """
    n_panels = 1 if non_negative is None else 2
    size = (COLUMN_IN if n_panels == 1 else PAGE_IN, 2.4)
    figure, axes = plt.subplots(1, n_panels, figsize=size, sharey=True, squeeze=False)
    edges = np.append(histogram_df["r_low"], histogram_df["r_high"].iloc[-1])
    axes[0, 0].stairs(histogram_df["count"], edges, fill=True, color=QUIET)
    axes[0, 0].set_title(f"n = {int(histogram_df['count'].sum()):,} pairs")
    for kind, colour in (("non-negative", "#0072b2"), ("signed", ACCENT)) if non_negative else ():
        layers = [f"layer_{l}" for l, is_so in non_negative.items() if is_so == (kind == "non-negative")]
        counts = histogram_df[[l for l in layers if l in histogram_df]].sum(axis=1)
        axes[0, 1].stairs(counts, edges, color=colour, label=f"{kind} layers, {int(counts.sum()):,}")
    for ax in axes[0]:
        for sign in (-1, 1):
            ax.axvline(sign * r_threshold, color="black", linewidth=0.8, linestyle=":")
        ax.set(yscale="log", xlabel="r(gene, feature)", xlim=(-1, 1))
        place = {"transform": ax.get_xaxis_transform(), "fontsize": 6.5}
        ax.text(r_threshold + 0.02, 0.94, f"|r| = {r_threshold:g}", **place)
    axes[0, 0].set_ylabel("pairs")
    if non_negative:
        figure.legend(loc="outside lower right", ncols=2)
    return figure


@themed
def genes_per_layer(counts_df: pd.DataFrame, layer_labels: dict[int, str], colours: dict[str, Any]) -> Figure:
    """Fig 3: genes with a significant feature in each layer, by tissue of highest expression.

    counts_df layers x tissues, unique genes.
    """
    layers = list(layer_labels)
    counts_df = counts_df.reindex(layers, fill_value=0)
    figure, axes = plt.subplots(figsize=(PAGE_IN, 3.2))
    bottom = np.zeros(len(layers))
    for tissue in counts_df:
        axes.bar(
            np.arange(len(layers)),
            counts_df[tissue],
            bottom=bottom,
            color=colours[tissue],
            label=tissue,
            width=0.85,
        )
        bottom += counts_df[tissue].to_numpy()
    step = max(1, len(layers) // 40)
    labels = [f"{layer} {layer_labels[layer]}" for layer in layers]
    axes.set_xticks(np.arange(len(layers))[::step], labels[::step], rotation=90, fontsize=6)
    axes.set(xlabel="layer", ylabel="genes with a pair over threshold")
    if counts_df.shape[1]:
        columns = 1 if counts_df.shape[1] <= 14 else 2
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns, fontsize=6)
    return figure


@themed
def genes_per_feature(per_feature_df: pd.DataFrame, per_gene_df: pd.DataFrame) -> Figure:
    """S2 Fig: how many genes a feature follows, and how many features a gene has, at each threshold.

    Tables of pair_tables.genes_per_feature and features_per_gene: a column `r_<threshold>` for each.
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_IN, 2.6))
    shades = sns.color_palette("viridis_r", per_feature_df.shape[1])
    sides = ((axes[0], per_feature_df, "feature", "genes"), (axes[1], per_gene_df, "gene", "features"))
    for ax, table_df, one, many in sides:
        for column, shade in zip(table_df, shades, strict=True):
            ranked = table_df.loc[table_df[column] > 0, column].sort_values(ascending=False).to_numpy()
            ax.plot(
                np.arange(1, len(ranked) + 1),
                ranked,
                color=shade,
                label=f"r >= {column[2:]}: {len(ranked):,}",
            )
        ax.set(xlabel=f"{one}s, ranked", ylabel=f"correlated {many} of a {one}")
        if len(table_df):
            ax.set(xscale="log", yscale="log")
        ax.legend(title=f"{one}s with a pair", title_fontsize=7, fontsize=6)
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
    """Scatter of chosen pairs over samples, coloured by tissue, a line through each tissue's own points.

    `pairs` are mappings with gene, symbol, feature, r and optionally r_partial (NaN: not known).
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
    """S3 Fig: a two-dimensional histogram with a logarithmic colour scale; the diagonal dotted."""
    figure, axes = plt.subplots(figsize=(COLUMN_IN, 3.0))
    image = axes.pcolormesh(
        edges, edges, np.where(counts > 0, counts, np.nan).T, norm=LogNorm(), cmap="viridis"
    )
    axes.plot([edges[0], edges[-1]], [edges[0], edges[-1]], color="black", linewidth=0.6, linestyle=":")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, aspect="equal")
    figure.colorbar(image, ax=axes, label="pairs", shrink=0.8)
    return figure


@themed
def survival(table_df: pd.DataFrame, labels: dict[str, str], by: str) -> Figure:
    """Pairs over the threshold and how many of them survive each test, by tissue or layer.

    table_df is significance.survival_table; `labels` names its columns in drawing order.
    """
    shown_df = table_df.drop(index="all", errors="ignore")
    shades = ["#dddddd", "#56b4e9", "#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7"]
    # Many long names stand beside rows of bars: below columns they would take the figure's height.
    in_rows = len(shown_df) > 12 and shown_df.index.str.len().max() > 12
    figure, axes = plt.subplots(figsize=(PAGE_IN, 0.8 + 0.2 * len(shown_df) if in_rows else 2.8))
    width = 0.85 / len(labels)
    for i, (column, label) in enumerate(labels.items()):
        total = int(table_df.loc["all", column])
        place = np.arange(len(shown_df)) + (i - (len(labels) - 1) / 2) * width
        bars = axes.barh if in_rows else axes.bar
        bars(place, shown_df[column], width, color=shades[i % len(shades)], label=f"{label}: {total:,}")
    if in_rows:
        axes.set_yticks(np.arange(len(shown_df)), shown_df.index)
        axes.set_ylim(len(shown_df) - 0.5, -0.5)
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlabel("pairs")
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return figure
    turn = (
        {"rotation": 90} if len(shown_df) > 6 else {"rotation": 20, "ha": "right", "rotation_mode": "anchor"}
    )
    axes.set_xticks(np.arange(len(shown_df)), shown_df.index, **turn)
    axes.set_yscale("symlog", linthresh=10)
    axes.set(xlabel=by, ylabel="pairs")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@themed
def null_maxima(observed: pd.Series, null_gene: np.ndarray, p_gene: pd.Series) -> Figure:
    """Largest statistic of each gene over all features, beside what shuffling gives; and the p of the genes.

    null_gene float [permutations, genes].
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_IN, 2.4))
    bins = np.linspace(0, max(float(observed.max()), float(null_gene.max())) * 1.02, 60)
    left.hist(null_gene.ravel(), bins=bins, density=True, color=QUIET, alpha=0.6, label="shuffled")
    left.hist(observed, bins=bins, density=True, histtype="step", color=ACCENT, label="observed")
    left.set(xlabel="largest statistic of a gene", ylabel="density")
    left.legend()
    right.hist(p_gene, bins=np.linspace(0, 1, 41), color=SPLIT_COLOURS["test"])
    right.axhline(len(p_gene) / 40, color=QUIET, linestyle="--", linewidth=0.8, label="if nothing were there")
    right.set(xlabel="p of a gene", ylabel=f"genes (n = {len(p_gene):,})")
    right.legend()
    return figure


@themed
def rejection_rates(table_df: pd.DataFrame) -> Figure:
    """How often each test rejects where nothing is linked, with intervals; a panel per design.

    table_df is calibration.calibration: design, test, alpha, rate, low, high.
    """
    designs, tests = table_df["design"].unique(), table_df["test"].unique()[::-1]
    alphas = dict(zip(table_df["alpha"].unique(), ("#0072b2", "#d55e00", "#009e73"), strict=False))
    size = (PAGE_IN, 0.9 + 0.26 * len(tests))
    figure, axes = plt.subplots(1, len(designs), figsize=size, sharey=True, squeeze=False)
    place = pd.Series(np.arange(len(tests)), index=tests)
    for ax, design in zip(axes[0], designs, strict=True):
        for k, (alpha, colour) in enumerate(alphas.items()):
            df = table_df[(table_df["design"] == design) & (table_df["alpha"] == alpha)]
            y = place[df["test"]].to_numpy() + 0.14 * (1 - 2 * k)
            rate = df["rate"].clip(lower=1e-4)
            errors = [rate - df["low"].clip(lower=1e-4), df["high"] - rate]
            ax.errorbar(rate, y, xerr=errors, fmt="o", markersize=3, color=colour, linewidth=1)
            ax.axvline(alpha, color=colour, linewidth=0.8, linestyle="--")
        ax.set(xscale="log", xlim=(0.002, 1.2), title=design, xlabel="share of null pairs rejected")
        ax.set_xticks([0.01, 0.05, 0.2, 1], ["1 %", "5 %", "20 %", "100 %"])
        ax.xaxis.set_minor_locator(plt.NullLocator())
        ax.set_yticks(place, place.index)
    handles = [
        plt.Line2D([], [], color=c, marker="o", markersize=3, label=f"level {a:g}") for a, c in alphas.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


@themed
def synthesis_curves(curves_df: pd.DataFrame, values_df: pd.DataFrame) -> Figure:
    """How each synthetic image's feature grew: 0 is the lowest real tile, 1 the highest.

    curves_df has columns image, feature, seed, step, objective; values_df is tiles x features.
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
    n_features = curves_df["feature"].nunique()
    axes.set_title(f"{curves_df['image'].nunique()} images of {n_features} features")
    axes.set(xlabel="step of gradient ascent", ylabel="feature value,\nrange of real tiles = 0 to 1")
    return figure


@themed
def timings(table_df: pd.DataFrame) -> Figure:
    """Ours over the limit or the peer, a row per comparison, logarithmic; the target, where it is a ratio.

    table_df : benchmark.run (work, limit_or_peer, ratio, target, met).
    """
    colours = {"yes": "#009e73", "no": ACCENT, "": QUIET}
    shown_df = table_df[~table_df["work"].str.contains("GB")].iloc[::-1].reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(PAGE_IN, 0.7 + 0.33 * len(shown_df)))
    axes.axvline(1, color="black", linewidth=0.6)
    for y, row in shown_df.iterrows():
        axes.plot([1, row["ratio"]], [y, y], color=colours[row["met"]], linewidth=1)
        axes.plot(row["ratio"], y, "o", color=colours[row["met"]], markersize=4)
        axes.text(row["ratio"], y + 0.2, f"{row['ratio']:.2g}", ha="center", fontsize=6)
        if str(row["target"]).startswith("<"):
            axes.plot(float(row["target"].split()[1]), y, "|", color="black", markersize=9)
    names = [f"{row.work}\nagainst {row.limit_or_peer}" for row in shown_df.itertuples()]
    axes.set_yticks(np.arange(len(names)), names, fontsize=5.5)
    axes.set(xscale="log", ylim=(-0.6, None))
    axes.set_xlabel("ours / limit or peer (below 1: ours is faster); upright stroke: target")
    for word, colour in (("target met", colours["yes"]), ("missed", ACCENT), ("no target", QUIET)):
        axes.plot([], [], "o-", color=colour, markersize=4, linewidth=1, label=word)
    figure.legend(loc="outside lower right", ncols=3)
    return figure
