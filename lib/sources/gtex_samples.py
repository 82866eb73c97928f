"""From GTEx's tables to the samples of a cohort, with covariates and a count after every step."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.cohort.gtex_ids import (
    five_as_six,
    match_sample_ids,
    match_tissue,
    rna_tissue_samples,
    tissue_sample_id,
)
from lib.errors import InputError
from lib.sources.gtex_tables import ATTRIBUTE_COLUMNS, require_unique

OTHERS = "others"  # key of a cap for the tissues that have none of their own
ATTRIBUTES = [name for name in ATTRIBUTE_COLUMNS.values() if name not in ("rna_id", "rna_tissue")]


@dataclass(frozen=True)
class SampleChoice:
    """Which of the slides with RNA are kept.

    Parameters
    ----------
    tissues : names to keep, in any style `match_tissue` understands; () keeps all.
    max_slides : cap per tissue, one for all or by tissue ("others": for those not named); 0 for none.
    min_slides : tissues with fewer slides (before the cap) are left out.
    covariates : columns in which every sample must have a value.
    """

    tissues: Sequence[str] = ()
    max_slides: int | Mapping[str, int] = 0
    min_slides: int = 1
    covariates: Sequence[str] = ()


class SamplesTable(NamedTuple):
    """`samples_df`: a row per slide with RNA. `rna_df`: a row per RNA sample (rna_id, sample_id, ends_mapped,
    outcome). `steps_df`: what each step kept and dropped (step, n_left, n_dropped, note). `dropped_df`: a row
    per tissue sample of the portal that is not in samples_df (sample_id, tissue, reason).
    """

    samples_df: pd.DataFrame
    rna_df: pd.DataFrame
    steps_df: pd.DataFrame
    dropped_df: pd.DataFrame


def samples_table(
    portal_df: pd.DataFrame,
    rna_ids: Sequence[str],
    attributes_df: pd.DataFrame | None = None,
    subjects_df: pd.DataFrame | None = None,
    choice: SampleChoice = SampleChoice(),
    listed: Sequence[str] | None = None,
) -> SamplesTable:
    """Tissue samples that have a slide and RNA, with covariates (notebooks/README.md, section 1).

    Parameters
    ----------
    portal_df : from `read_portal`. rna_ids : column names of the expression table (`expression.rna_ids`).
    attributes_df, subjects_df : from `read_sample_attributes`, `read_subject_phenotypes`; covariates are
        added where given (the mean over a slide's RNA samples).
    listed : ids of a published list; when given, only these are kept, and caps and minimum do not apply.

    Returns
    -------
    SamplesTable. samples_df, sorted by tissue and id: sample_id, slide_id (the same), donor, tissue, sex,
    age_bracket, age_years (middle of the bracket), hardy_scale, pathology_categories, pathology_notes, rin,
    ischaemic_time_min, fixative_time_min, autolysis_score (those the attributes have), n_rna, rna_ids (joined
    by `|`).

    Raises
    ------
    ValueError when nothing is left (three ids of each side are shown), ids repeat, a tissue is unknown, or a
    required column is missing.
    """
    rna_df = _pair(portal_df, rna_ids)
    samples_df, steps = _with_rna(portal_df, rna_df)
    filters = _Filters(_add_covariates(samples_df, attributes_df, subjects_df), steps)
    if listed is not None:
        _keep_listed(filters, listed)
    if choice.tissues:
        wanted = {match_tissue(tissue, portal_df["tissue"]) for tissue in choice.tissues}
        filters.keep(filters.df["tissue"].isin(wanted), f"in {len(wanted)} chosen tissues")
    if choice.covariates:
        _keep_complete(filters, list(choice.covariates))
    if choice.min_slides > 1 and listed is None:
        size = filters.df.groupby("tissue")["sample_id"].transform("size")
        filters.keep(size >= choice.min_slides, f"in tissues of at least {choice.min_slides} slides")
    if choice.max_slides and listed is None:
        filters.keep(within_cap(filters.df, choice.max_slides), "within the cap per tissue")
    if filters.df.empty:
        raise InputError("no slide is left: " + "; ".join(f"{step} {n}" for step, n, *_ in steps))
    kept_df = filters.df.sort_values(["tissue", "sample_id"]).reset_index(drop=True)
    dropped_df = portal_df.loc[~portal_df["sample_id"].isin(kept_df["sample_id"]), ["sample_id", "tissue"]]
    reasons = dropped_df["sample_id"].map(filters.reasons).fillna("no RNA in the expression table")
    steps_df = pd.DataFrame(steps, columns=["step", "n_left", "n_dropped", "note"])
    return SamplesTable(kept_df, rna_df, steps_df, dropped_df.assign(reason=reasons).reset_index(drop=True))


class _Filters:
    """What is left after each filter, the count of each step, and why a sample was left out."""

    def __init__(self, samples_df: pd.DataFrame, steps: list[tuple]) -> None:
        self.df, self.steps = samples_df, steps
        self.reasons: dict[str, str] = {}

    def keep(self, keep: pd.Series, step: str, note: str = "") -> None:
        gone_df = self.df[~keep]
        self.reasons |= dict.fromkeys(gone_df["sample_id"], f"not {step}")
        self.df = self.df[keep]
        note = note or f"from {gone_df['tissue'].nunique()} tissues"
        self.steps.append((f"slides {step}", len(self.df), len(gone_df), note))


def _keep_listed(filters: _Filters, listed: Sequence[str]) -> None:
    """Only the samples of a published list; ValueError when it has none of them."""
    found_df = match_sample_ids(listed, filters.df["sample_id"])
    lost = found_df.loc[found_df["sample_id"].eq(""), "id"]
    if len(lost) == len(found_df):
        raise InputError(
            f"none of the {len(found_df)} ids of the published list is a slide with RNA: listed are"
            f" {found_df['id'].head(3).tolist()}, slides with RNA {filters.df['sample_id'].head(3).tolist()}"
            f" ({len(filters.df)}); check split_file and the release"
        )
    note = f"{len(lost)} of {len(found_df)} listed ids have no slide with RNA"
    note += f" (first {', '.join(lost.head(3))})" if len(lost) else ""
    if found_df["ends_mapped"].any():
        note += f"; {found_df['ends_mapped'].sum()} ids matched by reading their final 5 as 6"
    filters.keep(filters.df["sample_id"].isin(found_df["sample_id"]), "in the published list", note)


def _keep_complete(filters: _Filters, required: list[str]) -> None:
    """Only the samples with a value in each of these columns."""
    if absent := [name for name in required if name not in filters.df]:
        raise InputError(
            f"covariates {absent} are missing from the samples, which have {list(filters.df.columns)}"
        )
    lacks_df = filters.df[required].isna() | (filters.df[required] == "")
    if len(lacks_df) and (empty := [name for name in required if lacks_df[name].all()]):
        raise InputError(
            f"none of {len(lacks_df)} samples has a value of the covariates {empty}: is the column in GTEx's "
            "tables? Or name the others in the cohort's TOML (covariates)"
        )
    note = ", ".join(f"{n} without {name}" for name, n in lacks_df.sum().items() if n)
    filters.keep(~lacks_df.any(axis=1), "with all covariates", note)


def pathology_indicators(samples_df: pd.DataFrame, min_samples: int = 20) -> pd.DataFrame:
    """One column `pathology_<category>` of 0 and 1 per category that at least `min_samples` rows have; the
    index is kept.
    """
    listed = samples_df["pathology_categories"].str.split(r"\s*,\s*", regex=True).explode().str.strip()
    wide_df = pd.crosstab(listed.index, listed).gt(0).astype("int8").drop(columns="", errors="ignore")
    wide_df = wide_df.loc[:, wide_df.sum() >= min_samples].reindex(samples_df.index, fill_value=0)
    wide_df.columns = [f"pathology_{name}" for name in wide_df.columns]
    return wide_df


def within_cap(samples_df: pd.DataFrame, cap: int | Mapping[str, int]) -> pd.Series:
    """Whether each row is among the first `cap` of its tissue, ordered by a hash of the ids: a smaller cap
    gives a subset of a larger one, and added samples do not reshuffle the others.
    """
    digest = samples_df["sample_id"].map(lambda s: hashlib.sha256(f"0:{s}".encode()).hexdigest())
    rank = digest.groupby(samples_df["tissue"]).rank(method="first").astype(float)
    if not isinstance(cap, Mapping):
        return rank <= cap
    caps = {match_tissue(tissue, samples_df["tissue"]): n for tissue, n in cap.items() if tissue != OTHERS}
    return rank <= samples_df["tissue"].map(caps).fillna(cap.get(OTHERS, np.inf))


def _pair(portal_df: pd.DataFrame, rna_ids: Sequence[str]) -> pd.DataFrame:
    require_unique(pd.Series(list(rna_ids), dtype="str"), "RNA sample ids")
    keys = rna_tissue_samples(rna_ids)
    sample_keys, mapped = five_as_six(portal_df["sample_id"], keys)
    of_key = pd.Series(portal_df["sample_id"].to_numpy(), index=sample_keys)
    ends_mapped = keys.isin(sample_keys[mapped])
    rna_df = pd.DataFrame(
        {"rna_id": list(rna_ids), "sample_id": keys.map(of_key).fillna(""), "ends_mapped": ends_mapped}
    )
    rna_df["outcome"] = np.where(rna_df["sample_id"].ne(""), "paired", rna_df["rna_id"].map(_why_unpaired))
    if rna_df["sample_id"].eq("").all():
        raise InputError(
            f"no RNA sample belongs to a tissue sample of the portal table: RNA samples are"
            f" {list(rna_ids)[:3]} ({len(rna_ids)}), tissue samples"
            f" {portal_df['sample_id'].head(3).tolist()} ({len(portal_df)}); check that both are GTEx tables"
        )
    return rna_df


def _why_unpaired(rna_id: str) -> str:
    """GTEx numbers its aliquots: 0011 is the brain bank's (regions R1a to R11b), below that blood and cell
    lines.
    """
    aliquot = tissue_sample_id(rna_id).rpartition("-")[2]
    if aliquot == "0011":
        return "brain region, no slide of its own"
    if aliquot.isdigit() and int(aliquot) < 11:
        return "blood or cell line, no slide"
    return "tissue sample not in table"


def _with_rna(portal_df: pd.DataFrame, rna_df: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple]]:
    """Rows of the portal that have RNA, with its ids; and the steps so far."""
    paired_df = rna_df[rna_df["sample_id"].ne("")]
    by_sample = paired_df.groupby("sample_id")["rna_id"]
    samples_df = portal_df[portal_df["sample_id"].isin(paired_df["sample_id"])].copy()
    samples_df.insert(1, "slide_id", samples_df["sample_id"])
    samples_df["n_rna"] = samples_df["sample_id"].map(by_sample.size())
    samples_df["rna_ids"] = samples_df["sample_id"].map(by_sample.agg("|".join))
    n_several = int((samples_df["n_rna"] > 1).sum())
    steps = [
        ("tissue samples in the portal table", len(portal_df), 0, f"{portal_df['donor'].nunique()} donors"),
        ("RNA samples in the expression table", len(rna_df), 0, ""),
        ("RNA samples whose tissue sample has a slide", len(paired_df), len(rna_df) - len(paired_df),
         counts_text(rna_df.loc[rna_df["sample_id"].eq(""), "outcome"])),
        ("of these, matched by reading a final 5 as 6",
         paired_df.loc[paired_df["ends_mapped"], "sample_id"].nunique(), 0, ""),
        ("slides with RNA", len(samples_df), len(portal_df) - len(samples_df),
         f"{n_several} with several RNA samples; the others have a slide but no RNA"),
    ]  # fmt: skip
    return samples_df, steps


def _add_covariates(
    samples_df: pd.DataFrame, attributes_df: pd.DataFrame | None, subjects_df: pd.DataFrame | None
) -> pd.DataFrame:
    if attributes_df is not None:
        by_sample = samples_df.set_index("sample_id")["rna_ids"]
        long_df = by_sample.str.split("|").explode().rename("rna_id").reset_index()
        numbers = attributes_df.columns.difference(["rna_id", "rna_tissue"], sort=False)
        long_df = long_df.merge(
            attributes_df, on="rna_id", how="left", validate="many_to_one", indicator=True
        )
        if long_df["_merge"].eq("left_only").all():
            raise InputError(
                f"no RNA sample occurs in the sample attributes: {long_df['rna_id'].head(3).tolist()} against"
                f" {attributes_df['rna_id'].head(3).tolist()}; check that both are of one GTEx release"
            )
        samples_df = samples_df.join(long_df.groupby("sample_id")[list(numbers)].mean(), on="sample_id")
    if subjects_df is not None:
        by_donor = subjects_df.set_index("donor")
        for column in ("sex", "age_bracket", "hardy_scale"):
            theirs = samples_df["donor"].map(by_donor[column]).fillna("")
            samples_df[column] = samples_df[column].where(samples_df[column].ne(""), theirs)
    bounds = samples_df["age_bracket"].str.extract(r"^(\d+)\D+(\d+)$").astype(float)
    place = list(samples_df.columns).index("age_bracket") + 1
    samples_df.insert(place, "age_years", bounds.sum(axis=1, skipna=False) / 2 + 0.5)
    ends = ["n_rna", "rna_ids"]
    return samples_df[[c for c in samples_df.columns if c not in ends] + ends]


def counts_text(values: pd.Series) -> str:
    """Each value with its number, the most frequent first: `12 paired, 3 not in table`."""
    return ", ".join(f"{n} {value}" for value, n in values.value_counts().items())
