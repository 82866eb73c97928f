"""Pearson or Spearman r of every gene with every feature, in blocks (paper, Tables 4 to 6).

The dense gene x feature matrix is never held (`lib.statistics.block_products`). The product runs in float32;
every pair kept is recomputed in float64, so `r >= R_T` and the histogram beyond R_T are exact. Variables are
rows, slides are columns.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lib.errors import InputError
from lib.statistics import block_products
from lib.statistics.expression_levels import expressed_genes
from lib.statistics.residuals import largest, varies
from lib.statistics.table_rows import (
    check_columns,
    check_finite,
    check_names,
    check_none,
    numbers,
    pair_dots,
    rows_of_pairs,
    same_slides,
)

Method = Literal["pearson", "spearman"]
ROW_BLOCK = 4096  # rows standardised at a time


class Correlation(NamedTuple):
    """All pairs of a cohort, reduced.

    pairs_df : one row for each pair with |r| >= r_threshold, in gene then feature order: gene, symbol,
        feature, layer, channel, r (float64), tissue, max_median_log2. `pairs_df.attrs["r_threshold"]` holds
        the threshold.
    histogram_df : one row for each bin of r: r_low, r_high, count (int64, all layers), then `layer_<l>` for
        each layer. A bin is [r_low, r_high), the last one closed. The counts sum to the pairs tested.
    """

    pairs_df: pd.DataFrame
    histogram_df: pd.DataFrame


def correlate(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    *,
    genes_table: pd.DataFrame,
    r_threshold: float = 0.7,
    pairs_e_threshold: float | None = None,
    method: Method = "pearson",
    progress: bool = True,
) -> Correlation:
    """All genes x all features (paper, "Correlating gene expression with features").

    Genes and features that are constant (but for rounding) or have a missing or infinite value are left out;
    `left_out` names them.

    Parameters
    ----------
    log_expression_df, features_df : genes x samples and features x samples, the same samples in any order.
    genes_table : index gene; symbol, tissue, max_median_log2 (from `expression_levels.highest_median`).
    r_threshold : pairs with |r| >= it are kept: the lowest R_T ever asked of them.
    pairs_e_threshold : genes below it count in the histogram, but their pairs are not kept.

    Raises
    ------
    ValueError : samples differ, fewer than four, no gene or no feature left, feature names not
        `<layer>_<channel>`, more pairs than `block_products.MAX_PAIRS`.
    """
    features_df = same_slides(log_expression_df, features_df)
    if not 0 < r_threshold <= 1:
        raise InputError(f"r_threshold must be in (0, 1], got {r_threshold}")
    check_columns(genes_table, ["symbol", "tissue", "max_median_log2"], "table of genes (highest_median)")
    check_none(log_expression_df.index.difference(genes_table.index), "genes are not in genes_table")
    genes_table = genes_table.loc[log_expression_df.index]
    if pairs_e_threshold is not None:
        expressed_genes(genes_table, pairs_e_threshold)
    log_expression_df, x = _defined(log_expression_df, "gene", method)
    features_df, y = _defined(features_df, "feature", method)
    layers, channels = feature_layers(features_df.index)
    starts, run_layers = block_products.layer_runs(layers)
    scan = block_products.all_pairs(x, y, starts, r_threshold, progress)
    scan = _exact(scan, log_expression_df, features_df, method, starts, r_threshold)
    table = genes_table.loc[log_expression_df.index]
    pairs_df = pd.DataFrame({
        "gene": table.index.to_numpy()[scan.genes],
        "symbol": table["symbol"].to_numpy()[scan.genes],
        "feature": features_df.index.to_numpy()[scan.features],
        "layer": layers[scan.features],
        "channel": channels[scan.features],
        "r": scan.r,
        "tissue": table["tissue"].to_numpy()[scan.genes],
        "max_median_log2": table["max_median_log2"].to_numpy(dtype=np.float32)[scan.genes],
    })  # fmt: skip
    if pairs_e_threshold is not None:
        pairs_df = pairs_df[pairs_df["max_median_log2"] >= pairs_e_threshold].reset_index(drop=True)
    pairs_df.attrs = {"r_threshold": float(r_threshold)}
    return Correlation(pairs_df, block_products.histogram_frame(scan.counts, run_layers))


def r_of_pairs(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    method: str = "pearson",
) -> np.ndarray:
    """r in float64 of given pairs (columns gene, feature), for example on other slides.

    ValueError on names or samples that do not match, a missing value or a constant row.
    """
    features_df = same_slides(log_expression_df, features_df)
    pairs = rows_of_pairs(pairs_df)

    def unit(df: pd.DataFrame, names: np.ndarray, what: str) -> np.ndarray:
        check_names(df, names, what)
        rows, varying = standardise(df.loc[names], what, method, "float64")
        check_none(names[~varying], f"{what}s are constant over these {df.shape[1]} slides: r is undefined")
        return rows

    x, y = unit(log_expression_df, pairs.genes, "gene"), unit(features_df, pairs.features, "feature")
    return pair_dots(x, y, pairs.g, pairs.f)


def standardise(
    values_df: pd.DataFrame, what: str, method: str = "pearson", dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with mean 0 and length 1, so that r is a plain product; computed in float64, returned as dtype.

    Returns
    -------
    rows [n_varying, n_slides], without rows that are constant but for rounding (`residuals.varies`), and
    varying, bool [n_rows]. ValueError on a missing or infinite value, naming the row and the sample.
    """
    _check_method(method)
    values = numbers(values_df, what)
    varying = np.zeros(len(values), bool)
    rows = np.empty(values.shape, dtype)
    n = 0
    for start in range(0, len(values), ROW_BLOCK):
        at = slice(start, start + ROW_BLOCK)
        block = values[at].astype(np.float64)
        check_finite(block, values_df.index[at], values_df.columns, what)
        centred = block - block.mean(axis=1, keepdims=True)
        varying[at] = varies(centred, largest(block))
        if method == "spearman":
            block = stats.rankdata(block[varying[at]], axis=1)
            block -= block.mean(axis=1, keepdims=True)
        else:
            block = centred[varying[at]]
        block /= np.abs(block).max(axis=1, keepdims=True)  # 1e200 or 1e-200 squared would be out of range
        block /= np.sqrt((block * block).sum(axis=1, keepdims=True))
        rows[n : n + len(block)] = block
        n += len(block)
    return rows[:n], varying


def on_scale(values_df: pd.DataFrame, method: Method) -> pd.DataFrame:
    """The values themselves for Pearson, each row's ranks for Spearman, whose r is Pearson's r of ranks."""
    _check_method(method)
    if method == "pearson":
        return values_df
    finite, varying = _finite_and_varying(values_df, "expression or feature")
    ranks_df = values_df.rank(axis=1)
    # ranks of the rounding errors of a constant row would look like variation
    ranks_df.iloc[np.flatnonzero(finite & ~varying)] = (ranks_df.shape[1] + 1) / 2
    return ranks_df


def left_out(log_expression_df: pd.DataFrame, features_df: pd.DataFrame) -> pd.DataFrame:
    """Genes and features that `correlate` leaves out because r is undefined.

    Returns four rows: left_out ("constant genes", "genes with missing values", and of features), n, of (all
    rows of the table), first (the names of up to three).
    """
    rows = []
    for what, df in (("gene", log_expression_df), ("feature", features_df)):
        finite, varying = _finite_and_varying(df, what)
        reasons = {f"constant {what}s": finite & ~varying, f"{what}s with missing values": ~finite}
        for reason, are in reasons.items():
            first = ", ".join(map(str, df.index[are][:3]))
            rows.append({"left_out": reason, "n": int(are.sum()), "of": len(df), "first": first})
    return pd.DataFrame(rows)


def feature_layers(names: Sequence[str] | pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Layer and channel (int32) of features named `<layer>_<channel>`; ValueError naming one that is not."""
    parts = pd.Series(names, dtype="str").str.extract(r"^(\d+)_(\d+)$")
    check_none(np.asarray(names)[parts[0].isna()], "features are not named <layer>_<channel>, as in 29_499")
    return parts[0].to_numpy(dtype=np.int32), parts[1].to_numpy(dtype=np.int32)


# -- parts ------------------------------------------------------------------------------------------------


def _check_method(method: str) -> None:
    if method not in ("pearson", "spearman"):
        raise InputError(f"method is 'pearson' or 'spearman', got {method!r}")


def _finite_and_varying(values_df: pd.DataFrame, what: str) -> tuple[np.ndarray, np.ndarray]:
    """bool [n_rows] each: all values are finite; and, of these rows, which vary by more than rounding."""
    values = numbers(values_df, what)
    finite, varying = np.zeros((2, len(values)), bool)
    for start in range(0, len(values), ROW_BLOCK):
        rows = slice(start, start + ROW_BLOCK)
        finite[rows] = np.isfinite(values[rows]).all(axis=1)
        block = values[rows][finite[rows]].astype(np.float64)
        centred = block - block.mean(axis=1, keepdims=True)
        varying[start + np.flatnonzero(finite[rows])] = varies(centred, largest(block))
    return finite, varying


def _defined(values_df: pd.DataFrame, what: str, method: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows for which r is defined, and the same standardised; ValueError if there is none."""
    finite = np.all(np.isfinite(numbers(values_df, what)), axis=1)
    kept_df = values_df if finite.all() else values_df.loc[finite]
    rows, varying = standardise(kept_df, what, method)
    if not len(rows):
        missing = int((~finite).sum())
        raise InputError(
            f"none of {len(values_df):,} {what}s can be correlated: {missing:,} have missing or infinite "
            f"values, the others are constant over the {values_df.shape[1]} slides"
        )
    return (kept_df if varying.all() else kept_df.loc[varying]), rows


def _exact(
    scan: block_products.Scan, x_df: pd.DataFrame, y_df: pd.DataFrame, method: str, starts: np.ndarray,
    r_threshold: float,
) -> block_products.Scan:  # fmt: skip
    """Recompute the candidates in float64, count them in their exact bin, keep those beyond the threshold."""
    if not len(scan.r):
        return scan._replace(r=scan.r.astype(np.float64))
    genes, g = np.unique(scan.genes, return_inverse=True)
    features, f = np.unique(scan.features, return_inverse=True)
    x, _ = standardise(x_df.iloc[genes], "gene", method, "float64")
    y, _ = standardise(y_df.iloc[features], "feature", method, "float64")
    r = np.clip(pair_dots(x, y, g, f), -1, 1)
    run = np.searchsorted(starts, scan.features, side="right") - 1
    np.subtract.at(scan.counts, (run, block_products.bin_of(scan.r)), 1)
    place = np.searchsorted(block_products.edges(), r, side="right") - 1
    np.add.at(scan.counts, (run, np.clip(place, 0, block_products.N_BINS - 1)), 1)
    keep = (r >= r_threshold) | (r <= -r_threshold)
    return block_products.Scan(scan.counts, scan.genes[keep], scan.features[keep], r[keep])
