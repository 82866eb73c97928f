"""Pearson or Spearman r of every gene with every feature, in blocks (paper, Tables 4 to 6).

The dense gene x feature matrix is never held (`lib.statistics.block_products`). The product runs in float32;
every pair kept is computed again in float64, so `r >= R_T` and the histogram beyond R_T are exact. Variables
are rows, slides are columns.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lib.statistics import block_products, variation

MIN_SLIDES = 4  # with three slides a correlation has one degree of freedom


class Correlation(NamedTuple):
    """All pairs of a cohort, reduced.

    pairs_df : one row per pair with |r| >= r_threshold, in gene then feature order: gene, symbol, feature,
        layer, channel, r (float64), tissue, max_median_log2. `pairs_df.attrs["r_threshold"]` holds the
        threshold, `attrs["negative"]` whether pairs with r <= -r_threshold were kept.
    histogram_df : one row per bin of r: r_low, r_high, count (int64, all layers), then `layer_<l>` for
        each layer. A bin is [r_low, r_high), the last one closed.
    n_pairs : pairs tested = n_genes * n_features = sum of count.
    constant_genes, constant_features : names left out, because r is undefined for them.
    missing_genes, missing_features : names left out, because a value is missing or infinite.
    n_genes_below_expression : genes dropped by e_threshold.
    """

    pairs_df: pd.DataFrame
    histogram_df: pd.DataFrame
    n_pairs: int
    n_slides: int
    n_genes: int
    n_features: int
    constant_genes: list[str]
    constant_features: list[str]
    missing_genes: list[str]
    missing_features: list[str]
    n_genes_below_expression: int


def log2_expression(expression_df: pd.DataFrame) -> pd.DataFrame:
    """log2(1 + TPM), genes x samples, float32.

    ValueError on a negative, missing or infinite value, naming gene and sample.
    """
    values = expression_df.to_numpy(dtype=np.float32)
    bad = ~(values >= 0) | np.isinf(values)
    if bad.any():
        g, s = np.argwhere(bad)[0]
        raise ValueError(
            f"expression of gene {expression_df.index[g]!r} in sample {expression_df.columns[s]!r} is "
            f"{values[g, s]}, and "
            f"{int(bad.sum()):,} values in all are negative, missing or infinite: expression must be TPM "
            "or CPM, not logged"
        )
    return pd.DataFrame(np.log2(1 + values), index=expression_df.index, columns=expression_df.columns)


def highest_median(
    log_expression_df: pd.DataFrame, tissues: pd.Series, genes_df: pd.DataFrame | None = None
) -> pd.DataFrame:
    """For each gene the tissue of highest median log2 expression over that tissue's slides (METHOD section
    6).

    Parameters
    ----------
    log_expression_df : genes x samples.
    tissues : sample_id -> tissue, for at least these samples.
    genes_df : optional, index gene, column symbol; a gene not in it is called by its id.

    Returns
    -------
    Index gene; tissue (of equal medians the first in alphabetical order), max_median_log2 (float32), symbol.
    """
    missing = log_expression_df.columns.difference(tissues.index)
    if len(missing):
        raise ValueError(f"{len(missing)} samples have no tissue, first {list(missing[:3])}")
    of_sample = tissues.loc[log_expression_df.columns]
    if of_sample.isna().any():
        raise ValueError(
            f"{int(of_sample.isna().sum())} samples have a missing tissue, first "
            f"{list(of_sample.index[of_sample.isna()][:3])}"
        )
    values = log_expression_df.to_numpy(dtype=np.float32)
    names = np.array(sorted(of_sample.unique()))
    medians = np.stack([np.median(values[:, (of_sample == t).to_numpy()], axis=1) for t in names], axis=1)
    symbol = pd.Series(log_expression_df.index, index=log_expression_df.index)
    if genes_df is not None:
        symbol = genes_df["symbol"].reindex(log_expression_df.index).fillna(symbol)
    return pd.DataFrame(
        {
            "tissue": names[medians.argmax(axis=1)],
            "max_median_log2": medians.max(axis=1),
            "symbol": symbol.to_numpy(),
        },
        index=log_expression_df.index.rename("gene"),
    )


def expressed_genes(genes_table: pd.DataFrame, e_threshold: float) -> pd.Index:
    """Genes with max_median_log2 >= e_threshold; ValueError with the highest median if there is none."""
    expressed = genes_table["max_median_log2"] >= e_threshold
    if not expressed.any():
        raise ValueError(
            f"no gene has a highest median log2 expression of {e_threshold} or more: of "
            f"{len(genes_table):,} genes the highest seen is {genes_table['max_median_log2'].max():.2f}; "
            "lower e_threshold"
        )
    return genes_table.index[expressed]


def on_scale(values_df: pd.DataFrame, method: Literal["pearson", "spearman"]) -> pd.DataFrame:
    """The values themselves, or each row's ranks over the samples: Spearman's r is Pearson's r of ranks."""
    if method not in ("pearson", "spearman"):
        raise ValueError(f"method is 'pearson' or 'spearman', got {method!r}")
    if method == "pearson":
        return values_df
    finite, varying = _finite_and_varying(values_df, "expression or feature")
    ranks_df = values_df.rank(axis=1)
    # ranks of what rounding left of a constant row would look like variation
    ranks_df.iloc[np.flatnonzero(finite & ~varying)] = (ranks_df.shape[1] + 1) / 2
    return ranks_df


def same_slides(expression_df: pd.DataFrame, features_df: pd.DataFrame) -> pd.DataFrame:
    """Bring the features into the expression's order of samples; ValueError unless both have exactly the
    same ones.
    """
    for what, df in (("expression", expression_df), ("feature", features_df)):
        if not df.columns.is_unique:
            twice = df.columns[df.columns.duplicated()]
            raise ValueError(
                f"{len(twice)} sample ids occur twice in the {what} table, first {list(twice[:3])}"
            )
        if not df.index.is_unique:
            twice = df.index[df.index.duplicated()]
            raise ValueError(
                f"{len(twice)} rows of the {what} table share their name with another, first "
                f"{list(twice[:3])}"
            )
    only_expression = expression_df.columns.difference(features_df.columns)
    only_features = features_df.columns.difference(expression_df.columns)
    if len(only_expression) or len(only_features):
        raise ValueError(
            f"expression and features must have the same samples: {len(only_expression)} of "
            f"{expression_df.shape[1]} only in the "
            f"expression table (first {list(only_expression[:3])}), {len(only_features)} of "
            f"{features_df.shape[1]} only in the "
            f"feature table (first {list(only_features[:3])})"
        )
    if expression_df.shape[1] < MIN_SLIDES:
        raise ValueError(f"{expression_df.shape[1]} slides: a correlation needs at least {MIN_SLIDES}")
    return features_df[expression_df.columns]


def standardise(
    values_df: pd.DataFrame, what: str, method: str = "pearson", dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with mean 0 and length 1, so that r is a plain product.

    Returns (rows [n_varying, n_slides], varying [n_rows] bool): rows that are constant but for rounding
    (`lib.statistics.variation`) are left out. Computed in float64 whatever dtype is asked. ValueError on NaN
    or infinity, naming the row and the sample.
    """
    if method not in ("pearson", "spearman"):
        raise ValueError(f"method is 'pearson' or 'spearman', got {method!r}")
    values = _numbers(values_df, what)
    varying = np.zeros(len(values), bool)
    rows = np.empty(values.shape, dtype)
    n = 0
    for start in range(0, len(values), 4096):
        block = values[start : start + 4096].astype(np.float64)
        if not np.isfinite(block).all():
            i, s = np.argwhere(~np.isfinite(block))[0]
            raise ValueError(
                f"{what} {values_df.index[start + i]!r} is {block[i, s]} in sample {values_df.columns[s]!r}: "
                "correlations need every value; drop the row or the sample"
            )
        centred = block - block.mean(axis=1, keepdims=True)
        keep = variation.varies(centred, variation.largest(block))
        varying[start : start + 4096] = keep
        if method == "spearman":
            block = stats.rankdata(block[keep], axis=1)
            block -= block.mean(axis=1, keepdims=True)
        else:
            block = centred[keep]
        block /= np.abs(block).max(
            axis=1, keepdims=True
        )  # values of 1e200 or 1e-200 have squares out of range
        block /= np.sqrt((block * block).sum(axis=1, keepdims=True))
        rows[n : n + len(block)] = block
        n += len(block)
    return rows[:n], varying


def left_out(log_expression_df: pd.DataFrame, features_df: pd.DataFrame) -> pd.DataFrame:
    """Rows of two tables (genes, features x samples) that `correlate` leaves out, r being undefined for them.

    Returns
    -------
    DataFrame, four rows: left_out ("constant genes", "genes with missing values", and of features), n, of
        (all rows of the table), first (the names of up to three).
    """
    rows = []
    for what, df in (("gene", log_expression_df), ("feature", features_df)):
        finite, varying = _finite_and_varying(df, what)
        reasons = {f"constant {what}s": finite & ~varying, f"{what}s with missing values": ~finite}
        for reason, are in reasons.items():
            first = ", ".join(map(str, df.index[are][:3]))
            rows.append({"left_out": reason, "n": int(are.sum()), "of": len(df), "first": first})
    return pd.DataFrame(rows)


def correlate(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    *,
    genes_table: pd.DataFrame,
    r_threshold: float = 0.7,
    e_threshold: float | None = None,
    pairs_e_threshold: float | None = None,
    method: Literal["pearson", "spearman"] = "pearson",
    dtype: Literal["float32", "float64"] = "float32",
    negative: bool = True,
    gene_block: int = 512,
    max_pairs: int = 50_000_000,
    use_numba: bool = True,
    progress: bool = True,
) -> Correlation:
    """All genes x all features (paper, "Correlating gene expression with features"; METHOD section 6).

    Parameters
    ----------
    log_expression_df, features_df : genes x samples and features x samples, the same samples in any order.
    genes_table : index gene; symbol, tissue, max_median_log2 (from `highest_median`).
    r_threshold : pairs with r >= it, and with r <= -it if `negative`, are kept. The lowest R_T ever asked
        of the pairs.
    e_threshold : only genes with max_median_log2 >= it take part; None takes all.
    pairs_e_threshold : genes below it count in the histogram, but their pairs are not kept.
    dtype : of the product. The pairs kept are float64 either way.
    max_pairs : more pairs than this raise a ValueError instead of filling the memory.

    Genes and features that are constant but for rounding, or with a missing or infinite value, are left out
    and named in what is returned.

    Raises
    ------
    ValueError : samples differ, fewer than four, no gene or no feature left, feature names not
        `<layer>_<channel>`.
    """
    features_df = same_slides(log_expression_df, features_df)
    if not 0 < r_threshold <= 1:
        raise ValueError(f"r_threshold must be in (0, 1], got {r_threshold}")
    log_expression_df, missing_genes = _without_missing(log_expression_df, "gene")
    features_df, missing_features = _without_missing(features_df, "feature")
    genes_table = _gene_rows(genes_table, log_expression_df.index)
    n_all = len(log_expression_df)
    if pairs_e_threshold is not None:
        expressed_genes(genes_table, pairs_e_threshold)
    if e_threshold is not None:
        expressed = genes_table.index.isin(expressed_genes(genes_table, e_threshold))
        log_expression_df, genes_table = log_expression_df[expressed], genes_table[expressed]
    x, x_varying = standardise(log_expression_df, "gene", method, dtype)
    y, y_varying = standardise(features_df, "feature", method, dtype)
    for what, rows, df, missing in (
        ("gene", x, log_expression_df, missing_genes),
        ("feature", y, features_df, missing_features),
    ):
        if not len(rows):
            besides = f", and {len(missing):,} more have missing values" if missing else ""
            raise ValueError(
                f"all {len(df):,} {what}s are constant over the {df.shape[1]} slides{besides}: nothing to "
                "correlate"
            )
    names = features_df.index[y_varying]
    layers, channels = feature_layers(names)
    starts, layer_names = block_products.runs(layers)
    counts, g, f, r = block_products.all_pairs(
        x,
        y,
        starts,
        r_threshold,
        negative,
        gene_block,
        max_pairs,
        use_numba,
        progress,
    )
    counts, g, f, r = _settle(
        log_expression_df[x_varying],
        features_df[y_varying],
        method,
        counts,
        starts,
        g,
        f,
        r,
        r_threshold,
        negative,
    )
    table = genes_table[x_varying]
    pairs_df = pd.DataFrame(
        {
            "gene": table.index.to_numpy()[g],
            "symbol": table["symbol"].to_numpy()[g],
            "feature": names.to_numpy()[f],
            "layer": layers[f],
            "channel": channels[f],
            "r": r,
            "tissue": table["tissue"].to_numpy()[g],
            "max_median_log2": table["max_median_log2"].to_numpy(dtype=np.float32)[g],
        }
    )
    if pairs_e_threshold is not None:
        pairs_df = pairs_df[pairs_df["max_median_log2"] >= pairs_e_threshold].reset_index(drop=True)
    pairs_df.attrs = {"r_threshold": float(r_threshold), "negative": bool(negative)}
    return Correlation(
        pairs_df=pairs_df,
        histogram_df=block_products.histogram_frame(counts, layer_names),
        n_pairs=len(x) * len(y),
        n_slides=x.shape[1],
        n_genes=len(x),
        n_features=len(y),
        constant_genes=log_expression_df.index[~x_varying].tolist(),
        constant_features=features_df.index[~y_varying].tolist(),
        missing_genes=missing_genes,
        missing_features=missing_features,
        n_genes_below_expression=n_all - len(log_expression_df),
    )


def feature_layers(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Layer and channel numbers (int32) of features called `<layer>_<channel>`; ValueError naming one that
    is not.
    """
    parts = pd.Series(names, dtype="str").str.extract(r"^(\d+)_(\d+)$")
    bad = parts[0].isna().to_numpy()
    if bad.any():
        first = list(np.asarray(names)[bad][:3])
        raise ValueError(
            f"{int(bad.sum())} features are not called <layer>_<channel>, as in 29_499: first {first}"
        )
    return parts[0].to_numpy(dtype=np.int32), parts[1].to_numpy(dtype=np.int32)


def r_of_pairs(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    method: str = "pearson",
) -> np.ndarray:
    """r in float64 of given pairs (columns gene, feature), as on other slides; a constant row raises
    ValueError.
    """
    features_df = same_slides(log_expression_df, features_df)
    genes, g = np.unique(pairs_df["gene"].to_numpy(dtype=object), return_inverse=True)
    features, f = np.unique(pairs_df["feature"].to_numpy(dtype=object), return_inverse=True)
    rows = []
    for what, df, names in (("gene", log_expression_df, genes), ("feature", features_df, features)):
        missing = pd.Index(names).difference(df.index)
        if len(missing):
            raise ValueError(
                f"{len(missing)} {what}s of the pairs are not in the {what} table, first {list(missing[:3])}"
            )
        values, varying = standardise(df.loc[names], what, method, "float64")
        if not varying.all():
            raise ValueError(
                f"{what} {names[~varying][0]!r} is constant over these {df.shape[1]} slides: its r is "
                "undefined"
            )
        rows.append(values)
    return _dots(rows[0], rows[1], g, f)


def _numbers(values_df: pd.DataFrame, what: str) -> np.ndarray:
    values = values_df.to_numpy()
    if values.dtype.kind not in "fiu":
        raise ValueError(f"the {what} table holds {values.dtype}, not numbers")
    return values


def _finite_and_varying(values_df: pd.DataFrame, what: str) -> tuple[np.ndarray, np.ndarray]:
    """bool [n_rows] each: every value is a number; and, of these rows, more than rounding differs."""
    values = _numbers(values_df, what)
    finite, varying = np.zeros((2, len(values)), bool)
    for start in range(0, len(values), 4096):
        rows = slice(start, start + 4096)
        finite[rows] = np.isfinite(values[rows]).all(axis=1)
        block = values[rows][finite[rows]].astype(np.float64)
        centred = block - block.mean(axis=1, keepdims=True)
        varying[start + np.flatnonzero(finite[rows])] = variation.varies(centred, variation.largest(block))
    return finite, varying


def _without_missing(values_df: pd.DataFrame, what: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows whose values are all there, and the names of the others; ValueError if none is left."""
    missing = ~np.isfinite(_numbers(values_df, what)).all(axis=1)
    if not missing.any():
        return values_df, []
    if missing.all():
        i, s = np.argwhere(~np.isfinite(values_df.to_numpy()))[0]
        raise ValueError(
            f"all {len(values_df):,} {what}s have missing or infinite values, first {what} "
            f"{values_df.index[i]!r} in sample {values_df.columns[s]!r}: leave out the samples without values"
        )
    return values_df[~missing], values_df.index[missing].tolist()


def _gene_rows(genes_table: pd.DataFrame, genes: pd.Index) -> pd.DataFrame:
    wanted = ["symbol", "tissue", "max_median_log2"]
    lacking = [c for c in wanted if c not in genes_table]
    if lacking:
        raise ValueError(f"genes_table lacks the columns {lacking}: make it with highest_median")
    missing = genes.difference(genes_table.index)
    if len(missing):
        raise ValueError(f"{len(missing)} genes are not in genes_table, first {list(missing[:3])}")
    return genes_table.loc[genes, wanted]


def _settle(
    x_df: pd.DataFrame, y_df: pd.DataFrame, method: str, counts: np.ndarray, starts: np.ndarray,
    g: np.ndarray, f: np.ndarray, r: np.ndarray, r_threshold: float, negative: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Recompute the candidates in float64, move them to their exact bin and keep those really beyond the
    threshold.
    """
    if not len(g):
        return counts, g, f, r.astype(np.float64)
    genes, gi = np.unique(g, return_inverse=True)
    features, fi = np.unique(f, return_inverse=True)
    x, _ = standardise(x_df.iloc[genes], "gene", method, "float64")
    y, _ = standardise(y_df.iloc[features], "feature", method, "float64")
    exact = np.clip(_dots(x, y, gi, fi), -1, 1)
    run = np.searchsorted(starts, f, side="right") - 1
    np.subtract.at(counts, (run, block_products.bin_of(r)), 1)
    place = np.searchsorted(block_products.edges(), exact, side="right") - 1
    np.add.at(counts, (run, np.clip(place, 0, block_products.N_BINS - 1)), 1)
    keep = (exact >= r_threshold) | (negative & (exact <= -r_threshold))
    return counts, g[keep], f[keep], exact[keep]


def _dots(x: np.ndarray, y: np.ndarray, g: np.ndarray, f: np.ndarray) -> np.ndarray:
    r = np.empty(len(g))
    for start in range(0, len(g), 65536):
        s = slice(start, start + 65536)
        r[s] = np.einsum("ps,ps->p", x[g[s]], y[f[s]])
    return r
