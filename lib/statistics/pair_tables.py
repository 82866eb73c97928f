"""The paper's tables of pairs: thresholds (Table 5), best features (Table 6), layers (Fig 3), S2 Fig."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

PAPER_GRID = ((0.8, 10.0), (0.75, 10.0), (0.7, 10.0), (0.75, 8.0), (0.8, 7.0), (0.75, 7.0), (0.7, 7.0))


def threshold_table(pairs_df: pd.DataFrame, grid: Sequence[tuple[float, float]] = PAPER_GRID) -> pd.DataFrame:
    """Table 5: for each (R_T, E_T) the pairs with r >= R_T of genes at E_T, and their unique genes,
    features, tissues.

    Pairs with r <= -R_T are counted in columns of their own (`negative_...`), which are not there if only
    positive pairs were kept (`correlate(negative=False)`). ValueError if an R_T lies below the threshold at
    which the pairs were kept.
    """
    signs = {"": 1, "negative_": -1} if pairs_df.attrs.get("negative", True) else {"": 1}
    rows = []
    for r_threshold, e_threshold in grid:
        _kept_from(pairs_df, r_threshold)
        expressed = pairs_df["max_median_log2"] >= e_threshold
        row = {"r_threshold": float(r_threshold), "e_threshold": float(e_threshold)}
        for prefix, sign in signs.items():
            df = pairs_df[(sign * pairs_df["r"] >= r_threshold) & expressed]
            row |= {f"{prefix}pairs": len(df)}
            row |= {f"{prefix}{c}s": int(df[c].nunique()) for c in ("gene", "feature", "tissue")}
        rows.append(row)
    return pd.DataFrame(rows)


def best_feature_per_gene(
    pairs_df: pd.DataFrame, r_threshold: float = 0.75, e_threshold: float | None = None
) -> pd.DataFrame:
    """Table 6 and S2 Table: of each gene the feature of highest r, by tissue, then by falling r.

    Of equal r the lowest layer and channel is taken. The columns are those of pairs_df and n_features (of
    this gene at r_threshold).
    """
    _kept_from(pairs_df, r_threshold)
    df = pairs_df[pairs_df["r"] >= r_threshold]
    if e_threshold is not None:
        df = df[df["max_median_log2"] >= e_threshold]
    df = df.sort_values(["gene", "r", "layer", "channel"], ascending=[True, False, True, True])
    best_df = df.drop_duplicates("gene").copy()
    best_df["n_features"] = best_df["gene"].map(df["gene"].value_counts()).astype(int)
    return best_df.sort_values(["tissue", "r", "gene"], ascending=[True, False, True]).reset_index(drop=True)


def genes_per_layer(
    pairs_df: pd.DataFrame, layers: Sequence[int] | None = None, r_threshold: float | None = None
) -> pd.DataFrame:
    """Fig 3: unique genes with a pair (r >= r_threshold > 0) in each layer (rows) by the gene's tissue
    (columns).

    `layers` adds the layers without any pair as rows of zeros. A gene counts once in each layer.
    """
    df = pairs_df[pairs_df["r"] >= _positive(pairs_df, r_threshold)].drop_duplicates(["gene", "layer"])
    table = pd.crosstab(df["layer"], df["tissue"])
    rows = sorted(set(table.index) | set(layers if layers is not None else ()))
    return table.reindex(rows, fill_value=0).rename_axis(index="layer", columns=None)


def genes_per_feature(
    pairs_df: pd.DataFrame, thresholds: Sequence[float] = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
) -> pd.DataFrame:
    """S2A Fig: unique genes of each feature (rows, most first) at each R_T (columns `r_0.7` ...)."""
    return _partners(pairs_df, "feature", "gene", thresholds)


def features_per_gene(
    pairs_df: pd.DataFrame, thresholds: Sequence[float] = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
) -> pd.DataFrame:
    """S2B Fig: unique features of each gene (rows, most first) at each R_T (columns `r_0.7` ...)."""
    return _partners(pairs_df, "gene", "feature", thresholds)


def _partners(pairs_df: pd.DataFrame, of: str, counted: str, thresholds: Sequence[float]) -> pd.DataFrame:
    counts = {}
    for t in thresholds:
        _kept_from(pairs_df, t)
        counts[f"r_{t:g}"] = pairs_df[pairs_df["r"] >= t].groupby(of)[counted].nunique()
    table = pd.DataFrame(counts).fillna(0).astype(int).rename_axis(of)
    return table.sort_values(list(table.columns), ascending=False, kind="stable")


def _kept_from(pairs_df: pd.DataFrame, r_threshold: float) -> None:
    kept = pairs_df.attrs.get("r_threshold", 0.0)
    if r_threshold < kept:
        raise ValueError(
            f"asked for r >= {r_threshold}, but pairs were kept from {kept} on: correlate again with a "
            "lower r_threshold"
        )


def _positive(pairs_df: pd.DataFrame, r_threshold: float | None) -> float:
    if r_threshold is None:
        return pairs_df.attrs.get("r_threshold", np.finfo(float).tiny)
    _kept_from(pairs_df, r_threshold)
    return r_threshold
