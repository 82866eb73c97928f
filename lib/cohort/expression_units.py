"""The unit of expression values: whether they can be what they are said to be, and counts scaled."""

import numpy as np
import pandas as pd

from lib.cohort.samples import first
from lib.errors import InputError

FEW_GENES = 100
# log2(1 + x) of TPM ends at 20, of counts hardly above; of counts per ten thousand at 13.3
LARGEST_LOG = {"TPM": 25.0, "CPM": 25.0, "CP10K": 13.5}
TOTALS = {"CPM": 1e6, "CP10K": 1e4}  # of a sample; of spots and cells with some thousand counts the second
SUMS = (0.5, 1.05)  # of these, in a table that may lack some genes


def scale_counts(counts_df: pd.DataFrame, unit: str = "CPM") -> pd.DataFrame:
    """Counts (genes x samples) scaled so that every sample sums to that of the unit (TOTALS); float32.

    log2(1 + CPM) of a spot with some thousand counts tells little but whether a gene was seen at all (one
    count is 100 CPM or more); CP10K keep one count near 1, as single-cell tools do.

    Raises
    ------
    ValueError
        A sample without any counts.
    """
    totals = counts_df.sum(axis=0).astype(np.float64)
    empty = totals.index[totals <= 0]
    if len(empty):
        raise InputError(f"samples without any counts: {first(empty)}; drop them first")
    values = counts_df.to_numpy(np.float64) * (TOTALS[unit] / totals.to_numpy())
    return pd.DataFrame(values.astype(np.float32), index=counts_df.index, columns=counts_df.columns)


def in_unit(expression_df: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The table in TPM, CPM or CP10K, after a look whether its values can be what `unit` says they are.

    A table of fewer than FEW_GENES genes is taken at its word, since its sums and its maximum say little.

    Parameters
    ----------
    unit : "TPM", "CPM", "CP10K" (counts per ten thousand), or "counts", which are scaled to CPM.

    Raises
    ------
    InputError
        Logarithms; whole numbers under TPM, CPM or CP10K; fractions under counts; CPM or CP10K whose columns
        do not sum to what these do.
    """
    values = expression_df.to_numpy()
    if len(values) < FEW_GENES:
        return scale_counts(expression_df) if unit == "counts" else expression_df
    whole, largest = not np.mod(values, 1).any(), float(values.max())
    if unit == "counts":
        if not whole:
            gene, sample = np.argwhere(np.mod(values, 1) != 0)[0]
            raise InputError(
                "expression_unit = 'counts', but values are not whole numbers, first "
                f"{values[gene, sample]:g} of gene {expression_df.index[gene]} in sample "
                f"{expression_df.columns[sample]}: set 'TPM' or 'CPM'"
            )
        return scale_counts(expression_df)
    if largest < LARGEST_LOG[unit] and not whole:
        raise InputError(
            f"the largest of {values.size:,} expression values is {largest:.1f}: these look like logarithms. "
            "Give TPM, CPM or counts; log2(1 + x) is undone by 2**y - 1"
        )
    if whole and largest > 0:
        raise InputError(
            f"all {values.size:,} expression values are whole numbers: these are counts, not {unit}. Set "
            "expression_unit = 'counts', which scales every sample to a million"
        )
    sums = values.sum(axis=0, dtype=np.float64)
    total = TOTALS.get(unit, np.nan)
    odd = (sums < SUMS[0] * total) | (sums > SUMS[1] * total)
    if odd.any():
        sample = int(odd.argmax())
        raise InputError(
            f"{int(odd.sum())} of {len(sums)} samples do not sum to {total:,.0f}, as {unit} do: "
            f"{sums[sample]:,.0f} in {expression_df.columns[sample]}. Set expression_unit = 'counts' or "
            "'TPM', or give all genes"
        )
    return expression_df
