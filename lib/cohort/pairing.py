"""Which RNA samples belong to which sample, with a count at each step (notebooks/README.md, section 1)."""

import re
import unicodedata
from collections.abc import Sequence

import pandas as pd

from lib.cohort.gtex_ids import five_as_six, rna_tissue_samples, tissue_samples
from lib.cohort.samples import first
from lib.cohort.table_checks import refuse_duplicates
from lib.errors import InputError


def pair_rna(
    samples_df: pd.DataFrame, rna_ids: Sequence[str], rule: str = "exact"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair samples with RNA samples.

    Parameters
    ----------
    rna_ids : ids of the RNA samples, the columns of the expression table.
    rule : `"exact"`: equal ids. `"gtex"`: equal first three dash-separated fields; a sample id ending in 5
        without RNA is read as ending in 6; brain RNA (`…-R11a-SM-…`) has no slide.

    Returns
    -------
    pairing_df : columns sample_id, rna_id, in the orders given; a sample may have several RNA samples.
    counts_df : columns step, n: what was found at each step.

    Raises
    ------
    ValueError
        Unknown rule; duplicated RNA ids; two samples that claim one RNA sample; no pair at all; ids that
        would pair but for case, leading zeros or a Unicode form.
    """
    sample_ids = samples_df["sample_id"].reset_index(drop=True)
    rna = pd.Series(list(rna_ids), dtype=object)
    refuse_duplicates(rna, "RNA id", "expression table")
    if rule == "exact":
        sample_keys, rna_keys, n_mapped = sample_ids, rna, 0
    elif rule == "gtex":
        rna_keys = rna_tissue_samples(rna.tolist())
        sample_keys, mapped = five_as_six(tissue_samples(sample_ids), rna_keys)
        n_mapped = int(mapped.sum())
    else:
        raise InputError(f"id_rule = {rule!r}; choose 'exact' or 'gtex'")
    shared = sample_keys.duplicated(keep=False) & sample_keys.isin(rna_keys)
    if shared.any():
        raise InputError(
            f"{int(shared.sum())} samples claim the same RNA sample: {first(sample_ids[shared], 4)}; "
            "one tissue sample is listed under two ids (ending in 5 and 6, or with a suffix): keep one"
        )
    left = pd.DataFrame({"key": sample_keys.to_numpy(), "sample_id": sample_ids.to_numpy()})
    right = pd.DataFrame({"key": rna_keys.to_numpy(), "rna_id": rna.to_numpy()})
    pairing_df = left.merge(right, on="key", how="inner")[["sample_id", "rna_id"]]
    if pairing_df.empty:
        raise InputError(
            f"samples and expression share no id under id_rule = {rule!r}: samples {first(sample_ids)}; "
            f"RNA {first(rna)}; check that both belong to one cohort, or set the other rule"
        )
    _refuse_near_misses(sample_keys[~sample_keys.isin(rna_keys)], rna_keys[~rna_keys.isin(sample_keys)])
    per_sample = pairing_df["sample_id"].value_counts()
    steps = {
        "samples": len(sample_ids),
        "RNA samples": len(rna),
        "sample ids read with ending 6 instead of 5": n_mapped,
        "samples with RNA": len(per_sample),
        "samples with more than one RNA sample": int((per_sample > 1).sum()),
        "RNA samples paired": len(pairing_df),
        "samples without RNA (dropped)": len(sample_ids) - len(per_sample),
        "RNA samples without a sample (unused)": len(rna) - len(pairing_df),
    }
    return pairing_df, pd.DataFrame({"step": list(steps), "n": list(steps.values())})


def without_rna(samples_df: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `pair_rna` returns, for a cohort of slides alone: every sample is kept, with rna_id ""."""
    pairing_df = samples_df[["sample_id"]].assign(rna_id="")
    return pairing_df, pd.DataFrame({"step": ["samples", "RNA samples"], "n": [len(samples_df), 0]})


def _refuse_near_misses(samples: pd.Series, rna: pd.Series) -> None:
    """InputError for unpaired ids that are equal but for case, blanks, leading zeros or Unicode form."""
    of_key = {_loose(str(rna_id)): rna_id for rna_id in rna}
    near = [(i, of_key[_loose(str(i))]) for i in samples if _loose(str(i)) in of_key]
    if near:
        shown = ", ".join(f"{sample!r} and {rna_id!r}" for sample, rna_id in near[:3])
        raise InputError(
            f"{len(near)} samples have no RNA sample of exactly their id, but one that differs in case, "
            f"blanks, leading zeros or Unicode form alone: {shown}; write both in one way"
        )


def _loose(text: str) -> str:
    """An id without what spreadsheets and file systems change."""
    plain = unicodedata.normalize("NFKC", text).casefold().strip()
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)
