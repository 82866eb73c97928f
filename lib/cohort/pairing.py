"""Which RNA samples belong to which sample, with a count at each step. METHOD section 1."""

from collections.abc import Sequence

import pandas as pd

from lib.cohort.gtex_ids import five_as_six, rna_tissue_samples, tissue_samples
from lib.cohort.samples import first


def pair_rna(
    samples_df: pd.DataFrame, rna_ids: Sequence[str], rule: str = "exact"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which RNA samples belong to which sample.

    Parameters
    ----------
    rna_ids : ids of the RNA samples, the columns of the expression table.
    rule : `"exact"`: equal ids. `"gtex"`: the first three dash fields agree; a sample id ending in 5 that
        finds nothing is read as ending in 6; brain RNA (`…-R11a-SM-…`) has no slide (METHOD section 1).

    Returns
    -------
    pairing_df : columns sample_id, rna_id; samples in their order, RNA in theirs; a sample may have several.
    counts_df : columns step, n: what was found at each step, to be printed as it is.

    Raises
    ------
    ValueError
        Unknown rule, duplicated RNA ids, two samples claiming one RNA sample, nothing shared (three ids of
        each).
    """
    sample_ids = samples_df["sample_id"].reset_index(drop=True)
    rna = pd.Series(list(rna_ids), dtype=object)
    if rna.duplicated().any():
        raise ValueError(
            f"Duplicated RNA id {first(rna[rna.duplicated()].unique())} in the expression table."
        )
    if rule == "exact":
        sample_keys, rna_keys, n_mapped = sample_ids, rna, 0
    elif rule == "gtex":
        rna_keys = rna_tissue_samples(rna)
        sample_keys, mapped = five_as_six(tissue_samples(sample_ids), rna_keys)
        n_mapped = int(mapped.sum())
    else:
        raise ValueError(f"Pairing rule {rule!r}: choose 'exact' or 'gtex'.")
    shared = sample_keys.duplicated(keep=False) & sample_keys.isin(rna_keys)
    if shared.any():
        raise ValueError(
            f"{int(shared.sum())} samples claim the same RNA sample: {first(sample_ids[shared], 4)}. "
            "One tissue sample is listed under two ids (ending 5 and 6, or with a suffix); keep one."
        )
    left = pd.DataFrame({"key": sample_keys.to_numpy(), "sample_id": sample_ids.to_numpy()})
    right = pd.DataFrame({"key": rna_keys.to_numpy(), "rna_id": rna.to_numpy()})
    pairing_df = left.merge(right, on="key", how="inner")[["sample_id", "rna_id"]]
    if pairing_df.empty:
        raise ValueError(
            f"Slides and expression share no id under rule {rule!r}. Samples look like {first(sample_ids)}; "
            f"RNA ids look like {first(rna)}. Check that both belong to one cohort, or set the other rule."
        )
    return pairing_df, _pairing_counts(pairing_df, len(sample_ids), len(rna), n_mapped)


def _pairing_counts(pairing_df: pd.DataFrame, n_samples: int, n_rna: int, n_mapped: int) -> pd.DataFrame:
    per_sample = pairing_df["sample_id"].value_counts()
    steps = {
        "samples": n_samples,
        "RNA samples": n_rna,
        "sample ids read with ending 6 instead of 5": n_mapped,
        "samples with RNA": len(per_sample),
        "samples with more than one RNA sample": int((per_sample > 1).sum()),
        "RNA samples paired": len(pairing_df),
        "samples without RNA (dropped)": n_samples - len(per_sample),
        "RNA samples without a sample (unused)": n_rna - len(pairing_df),
    }
    return pd.DataFrame({"step": list(steps), "n": list(steps.values())})
