"""The paper's tables of pairs: thresholds (Table 5), best features (Table 6), layers (Fig 3), S2 Fig."""

from collections.abc import Sequence

import pandas as pd

from lib.errors import InputError

PAPER_GRID = ((0.8, 10.0), (0.75, 10.0), (0.7, 10.0), (0.75, 8.0), (0.8, 7.0), (0.75, 7.0), (0.7, 7.0))


def threshold_table(pairs_df: pd.DataFrame, grid: Sequence[tuple[float, float]] = PAPER_GRID) -> pd.DataFrame:
    """Table 5: for each (R_T, E_T) the pairs with r >= R_T of genes at E_T, and their unique genes, features
    and tissues.

    Pairs with r <= -R_T are counted in columns of their own (`negative_...`). ValueError if an R_T lies below
    the threshold at which the pairs were kept.
    """
    rows = []
    for r_threshold, e_threshold in grid:
        check_kept(pairs_df, r_threshold)
        expressed = pairs_df["max_median_log2"] >= e_threshold
        row = {"r_threshold": float(r_threshold), "e_threshold": float(e_threshold)}
        for prefix, sign in (("", 1), ("negative_", -1)):
            df = pairs_df[(sign * pairs_df["r"] >= r_threshold) & expressed]
            row |= {f"{prefix}pairs": len(df)}
            row |= {f"{prefix}{c}s": int(df[c].nunique()) for c in ("gene", "feature", "tissue")}
        rows.append(row)
    return pd.DataFrame(rows)


def best_feature_per_gene(
    pairs_df: pd.DataFrame, r_threshold: float = 0.75, e_threshold: float | None = None
) -> pd.DataFrame:
    """Table 6 and S2 Table: each gene's feature of highest r, by tissue, then by falling r.

    Of equal r the lowest layer and channel is taken. The columns are those of pairs_df and n_features, the
    gene's features at r_threshold.
    """
    check_kept(pairs_df, r_threshold)
    df = pairs_df[pairs_df["r"] >= r_threshold]
    if e_threshold is not None:
        df = df[df["max_median_log2"] >= e_threshold]
    df = df.sort_values(["gene", "r", "layer", "channel"], ascending=[True, False, True, True])
    best_df = df.drop_duplicates("gene").copy()
    best_df["n_features"] = best_df["gene"].map(df["gene"].value_counts()).astype(int)
    return best_df.sort_values(["tissue", "r", "gene"], ascending=[True, False, True]).reset_index(drop=True)


def genes_per_layer(pairs_df: pd.DataFrame) -> pd.DataFrame:
    """Fig 3: unique genes with a pair of positive r in each layer (rows) by the gene's tissue (columns)."""
    df = pairs_df[pairs_df["r"] > 0].drop_duplicates(["gene", "layer"])
    return pd.crosstab(df["layer"], df["tissue"]).rename_axis(index="layer", columns=None)


def genes_per_feature(pairs_df: pd.DataFrame, thresholds: Sequence[float]) -> pd.DataFrame:
    """S2A Fig: unique genes of each feature (rows, most first) at each R_T (columns `r_0.7` ...)."""
    return _partners(pairs_df, "feature", "gene", thresholds)


def features_per_gene(pairs_df: pd.DataFrame, thresholds: Sequence[float]) -> pd.DataFrame:
    """S2B Fig: unique features of each gene (rows, most first) at each R_T (columns `r_0.7` ...)."""
    return _partners(pairs_df, "gene", "feature", thresholds)


def _partners(pairs_df: pd.DataFrame, of: str, counted: str, thresholds: Sequence[float]) -> pd.DataFrame:
    counts = {}
    for t in thresholds:
        check_kept(pairs_df, t)
        counts[f"r_{t:g}"] = pairs_df[pairs_df["r"] >= t].groupby(of)[counted].nunique()
    table = pd.DataFrame(counts).fillna(0).astype(int).rename_axis(of)
    return table.sort_values(list(table.columns), ascending=False, kind="stable")


def check_kept(pairs_df: pd.DataFrame, r_threshold: float) -> None:
    """ValueError if the pairs were kept from a higher threshold on."""
    kept = pairs_df.attrs.get("r_threshold", 0.0)
    if r_threshold < kept:
        raise InputError(
            f"asked for r >= {r_threshold}, but pairs were kept from {kept} on: correlate again with a "
            "lower r_threshold"
        )
