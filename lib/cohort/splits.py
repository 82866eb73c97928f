"""Training, validation and test sets: split by donor, slide or sample, or read from a published list."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.cohort import table_files
from lib.cohort.gtex_ids import five_as_six, tissue_samples
from lib.cohort.samples import (
    SPLIT_ALIASES,
    SPLITS,
    check_split_column,
    first,
    says_missing,
    split_names,
)
from lib.errors import InputError, MissingInputError

UNITS = {"donor": "donor", "slide": "slide_id", "sample": "sample_id"}


def assign_splits(
    samples_df: pd.DataFrame,
    *,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    split_by: str = "donor",
    seed: int = 0,
    split_file: str | Path | None = None,
    rule: str = "exact",
    unknown: str = "error",
) -> pd.Series:
    """Set of every sample: 60/20/20 within each tissue (notebooks/README.md, section 1).

    A filled `split` column wins, then `split_file`, then a random split of whole donors (`split_by="donor"`,
    so that no donor is in two sets), whole slides (`"slide"`, as in the paper), single samples (`"sample"`),
    or the values of a column, each of whole donors (centres: the test is on centres never seen). Units are
    assigned rarest tissue first, each to the set that brings the counts per tissue closest to `fractions`; a
    tissue with a single unit goes to train. The result depends on ids and `seed`,
    not on the order of rows.

    Parameters
    ----------
    fractions : of train, validation, test; sum 1. Zero leaves a set empty.
    split_file : see `read_split_file`.
    rule : how ids of `split_file` match samples, as in `pairing.pair_rna`.
    unknown : what to do about ids of `split_file` that are not samples: `"error"` or `"ignore"`.

    Returns
    -------
    Series
        "train" | "validation" | "test", name `split`, index of `samples_df`.

    Raises
    ------
    ValueError
        Bad parameter; fewer units than sets; a `split_file` that does not fit the table.
    """
    if "split" in samples_df and samples_df["split"].fillna("").ne("").any():
        return check_split_column(samples_df, "samples table").rename("split")
    if split_file is not None:
        return _from_split_file(samples_df, split_file, rule, unknown)
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"split_fractions = {shares.tolist()}; give three numbers >= 0 that sum to 1")
    units = _units(samples_df, split_by)
    counts_df = pd.crosstab(units, samples_df["tissue"]).sort_index()
    n_sets = int((shares > 0).sum())
    if len(counts_df) < n_sets:
        raise InputError(
            f"{len(counts_df)} {split_by}(s) are too few for {n_sets} sets; set split_by = 'slide' or "
            "'sample', use fewer sets, or add a `split` column to the samples table"
        )
    sets = np.array(SPLITS, dtype=object)[_assign_sets(counts_df.to_numpy(float), shares, seed)]
    return units.map(dict(zip(counts_df.index, sets, strict=True))).astype(object).rename("split")


def _units(samples_df: pd.DataFrame, split_by: str) -> pd.Series:
    """What stays together in a random split: a value for each sample."""
    column = UNITS.get(split_by, split_by)
    if column not in samples_df:
        raise InputError(
            f"split_by = {split_by!r}; choose one of {', '.join(UNITS)}, or a column of the samples table: "
            f"{', '.join(samples_df.columns)}"
        )
    units = samples_df[column]
    if split_by in UNITS:
        return units
    if lacking := int(says_missing(units).sum()):
        raise InputError(f"split_by = {split_by!r}: {lacking} samples have no value there")
    several = samples_df["donor"][units.groupby(samples_df["donor"]).transform("nunique") > 1].unique()
    if len(several):
        raise InputError(
            f"split_by = {split_by!r}: donors with several of its values would be in two sets: "
            f"{first(several)}"
        )
    return units.astype(str)


def _assign_sets(counts: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Set (0, 1, 2) of each unit. counts: units x tissues, number of samples; shares: (3,), sum 1.

    Greedy on a chi-square-like cost, the sum over tissues and sets of (have - want)^2 / want, minus one for
    each tissue of the unit that a set still lacks, so that small tissues reach every set.
    """
    n_units = len(counts)
    units_per_tissue = (counts > 0).sum(axis=0)
    sets = np.full(n_units, -1)
    allowed = np.flatnonzero(shares > 0)
    want = np.outer(counts.sum(axis=0), shares[allowed])  # tissues x allowed sets
    have = np.zeros_like(want)
    can_be_everywhere = (units_per_tissue >= len(allowed))[:, None]
    rarest = np.where(counts > 0, units_per_tissue, n_units + 1).min(axis=1)
    tie_break = np.random.default_rng(seed).permutation(n_units)
    for unit in np.lexsort((tie_break, -counts.sum(axis=1), rarest)):
        c = counts[unit][:, None]
        cost = (c * (2 * (have - want) + c) / want).sum(axis=0)
        cost -= ((have == 0) & (c > 0) & can_be_everywhere).sum(axis=0)
        choice = 0 if rarest[unit] == 1 else int(cost.argmin())
        sets[unit] = choice
        have[:, choice] += counts[unit]
    for empty in set(range(len(allowed))) - set(sets):  # few units, each with its own tissue
        of_full_sets = np.flatnonzero(np.bincount(sets)[sets] > 1)
        sets[of_full_sets[counts[of_full_sets].sum(axis=1).argmin()]] = empty
    return allowed[sets]


def read_split_file(path: str | Path) -> pd.Series:
    """Read a published split: a .csv, .tsv or .txt with sample ids first and a column of set names.

    Returns
    -------
    Series
        "train" | "validation" | "test" by sample id as written in the file, name `split`.

    Raises
    ------
    FileNotFoundError
    ValueError
        No column of set names; unknown set names; an id in two sets.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such list of sets; check split_file of the cohort")
    table_df = table_files.read_text(path, header=None)
    share_of_names = {
        column: table_df[column].str.lower().isin(list(SPLIT_ALIASES)).mean()
        for column in table_df.columns[1:]
    }
    if not any(share_of_names.values()):
        raise InputError(f"{path}: no column beside the ids holds set names ({', '.join(SPLIT_ALIASES)})")
    names = table_df[max(share_of_names, key=share_of_names.__getitem__)]
    split_df = pd.DataFrame({"id": table_df[0], "split": names})
    if split_df["split"].iloc[0].lower() not in SPLIT_ALIASES:  # a header line
        split_df = split_df.iloc[1:]
    split_df = split_df.assign(split=split_names(split_df["split"], str(path))).drop_duplicates()
    repeated = split_df["id"][split_df["id"].duplicated()]
    if len(repeated):
        raise InputError(f"{path}: id(s) in two sets: {first(repeated)}; keep one line of each")
    return split_df.set_index("id")["split"]


def _from_split_file(samples_df: pd.DataFrame, path: str | Path, rule: str, unknown: str) -> pd.Series:
    split = read_split_file(path)
    keys, listed = samples_df["sample_id"].reset_index(drop=True), pd.Series(split.index, dtype=object)
    if rule == "gtex":
        keys = tissue_samples(keys)
        listed, _ = five_as_six(tissue_samples(listed), keys)
    extra, missing = listed[~listed.isin(keys)], keys[~keys.isin(listed)]
    if len(extra) == len(listed):
        raise InputError(f"{path} shares no id with the samples: {first(extra)}; samples {first(keys)}")
    if len(extra) and unknown != "ignore":
        raise InputError(
            f"{path}: {len(extra)} of {len(listed)} ids are not in the samples table: {first(extra)}; "
            "add those samples, or remove the lines"
        )
    if len(missing):
        raise InputError(
            f"{path}: no set for {len(missing)} of {len(keys)} samples: {first(missing)}; "
            "add them to the file or drop them from the samples table"
        )
    lines_df = pd.DataFrame({"key": listed.to_numpy(), "id": split.index, "split": split.to_numpy()})
    lines_df = lines_df[lines_df["key"].isin(keys)]
    torn_df = lines_df[lines_df.groupby("key")["split"].transform("nunique") > 1]
    if not torn_df.empty:
        shown = ", ".join((torn_df["id"] + " " + torn_df["split"]).head(4))
        raise InputError(
            f"{path}: {torn_df['key'].nunique()} sample(s) in two sets, first {torn_df['key'].iloc[0]}: "
            f"{shown}; ids that share their first three fields are one slide: give it one set"
        )
    set_of = dict(zip(lines_df["key"], lines_df["split"], strict=True))
    return pd.Series(keys.map(set_of).to_numpy(), index=samples_df.index, dtype=object, name="split")
