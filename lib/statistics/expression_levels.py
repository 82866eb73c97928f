"""Expression on the log scale, and the tissue in which each gene is expressed most."""

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.statistics.table_rows import check_none


def log2_expression(expression_df: pd.DataFrame) -> pd.DataFrame:
    """log2(1 + TPM), genes x samples, float32.

    ValueError on a negative, missing or infinite value, naming gene and sample.
    """
    values = expression_df.to_numpy(dtype=np.float32)
    bad = ~(values >= 0) | np.isinf(values)
    if bad.any():
        g, s = np.argwhere(bad)[0]
        raise InputError(
            f"expression of gene {expression_df.index[g]!r} in sample {expression_df.columns[s]!r} is "
            f"{values[g, s]}; {int(bad.sum()):,} values in all are negative, missing or infinite: give TPM "
            "or CPM, without logarithm"
        )
    return pd.DataFrame(np.log2(1 + values), index=expression_df.index, columns=expression_df.columns)


def highest_median(
    log_expression_df: pd.DataFrame, tissues: pd.Series, genes_df: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Each gene's tissue of highest median log2 expression, and that median.

    Parameters
    ----------
    log_expression_df : genes x samples.
    tissues : sample_id -> tissue, for at least these samples.
    genes_df : optional, index gene, column symbol; genes it lacks are named by their id.

    Returns
    -------
    Index gene; tissue (of equal medians the first in alphabetical order), max_median_log2 (float32), symbol.
    """
    check_none(log_expression_df.columns.difference(tissues.dropna().index), "samples have no tissue")
    of_sample = tissues.loc[log_expression_df.columns]
    values = log_expression_df.to_numpy(dtype=np.float32)
    names = np.array(sorted(of_sample.unique()))
    medians = np.stack([np.median(values[:, (of_sample == t).to_numpy()], axis=1) for t in names], axis=1)
    symbol = pd.Series(log_expression_df.index, index=log_expression_df.index)
    if genes_df is not None:
        symbol = genes_df["symbol"].reindex(log_expression_df.index).fillna(symbol)
    columns = {
        "tissue": names[medians.argmax(axis=1)],
        "max_median_log2": medians.max(axis=1),
        "symbol": symbol.to_numpy(),
    }
    return pd.DataFrame(columns, index=log_expression_df.index.rename("gene"))


def expressed_genes(medians_df: pd.DataFrame, e_threshold: float) -> pd.Index:
    """Genes with max_median_log2 >= e_threshold; ValueError with the highest median if there is none."""
    expressed = medians_df["max_median_log2"] >= e_threshold
    if not expressed.any():
        raise InputError(
            f"none of {len(medians_df):,} genes has a highest median log2 expression of {e_threshold} or "
            f"more; the highest is {medians_df['max_median_log2'].max():.2f}: lower e_threshold"
        )
    return medians_df.index[expressed]
