"""Train, validation and test: by donor, by slide, or as a published list says. METHOD section 1."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.cohort.gtex_ids import five_as_six, tissue_samples
from lib.cohort.samples import SPLIT_ALIASES, SPLITS, check_split_column, first, read_text, split_names


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
    """Train, validation or test for every sample: 60/20/20 within each tissue (METHOD section 1).

    A filled `split` column wins, then `split_file`, then chance: whole donors (`split_by="donor"`, none on
    two sides), whole slides (`"slide"`, the paper's) or single samples (`"sample"`) are dealt out, the rarest
    tissue first, each to the set that brings the counts per tissue nearest to `fractions`. What a single unit
    alone has (a tissue with one slide) goes to train. Depends on ids and `seed`, not on the order of rows.

    Parameters
    ----------
    fractions : of train, validation, test; sum 1. Zero leaves a set empty.
    split_file : see `read_split_file`; `rule` as in `pair_rna`.
    unknown : ids of `split_file` that the table lacks: `"error"` or `"ignore"`.

    Returns
    -------
    Series
        "train" | "validation" | "test", name `split`, index of `samples_df`; `split_report` shows the
        outcome.

    Raises
    ------
    ValueError
        Bad parameter, fewer units than sets, a `split_file` that does not fit the table.
    """
    if "split" in samples_df and (samples_df["split"].fillna("") != "").any():
        return check_split_column(samples_df, "samples table").rename("split")
    if split_file is not None:
        return _from_split_file(samples_df, split_file, rule, unknown)
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"Split fractions {shares.tolist()}: give three numbers >= 0 that sum to 1.")
    columns = {"donor": "donor", "slide": "slide_id", "sample": "sample_id"}
    if split_by not in columns:
        raise ValueError(f"split_by {split_by!r}: choose one of {', '.join(columns)}.")
    units = samples_df[columns[split_by]]
    counts_df = pd.crosstab(units, samples_df["tissue"]).sort_index()
    if len(counts_df) < (shares > 0).sum():
        raise ValueError(
            f"{len(counts_df)} {split_by}(s) cannot fill {(shares > 0).sum()} sets. Set split_by = "
            "'slide' or 'sample', use fewer sets, or put a `split` column into the samples table."
        )
    sets = _deal(counts_df.to_numpy(float), shares, seed)
    names = pd.Series(np.array(SPLITS, dtype=object)[sets], index=counts_df.index)
    return units.map(names).astype(object).rename("split")


def _deal(counts: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Set (0, 1, 2) of each unit. counts: units x tissues, number of samples; shares: (3,), sum 1.

    Greedy on a chi-square like cost, sum over tissues and sets of (have - want)^2 / want, minus one for each
    tissue that a unit brings to a set which has none of it yet, so that small tissues reach every set.
    """
    n_units = len(counts)
    units_per_tissue = (counts > 0).sum(axis=0)
    sets = np.full(n_units, -1)
    allowed = np.flatnonzero(shares > 0)
    want = np.outer(counts.sum(axis=0), shares[allowed])  # tissues x allowed sets
    have = np.zeros_like(want)
    can_be_everywhere = (units_per_tissue >= len(allowed))[:, None]
    rarest = np.where(counts > 0, units_per_tissue, n_units + 1).min(axis=1)
    chance = np.random.default_rng(seed).permutation(n_units)
    for unit in np.lexsort((chance, -counts.sum(axis=1), rarest)):
        c = counts[unit][:, None]
        cost = (c * (2 * (have - want) + c) / want).sum(axis=0)
        cost -= ((have == 0) & (c > 0) & can_be_everywhere).sum(axis=0)
        choice = 0 if rarest[unit] == 1 else int(cost.argmin())
        sets[unit] = choice
        have[:, choice] += counts[unit]
    for empty in set(range(len(allowed))) - set(sets):  # few units, each with a tissue of its own
        of_full_sets = np.flatnonzero(np.bincount(sets)[sets] > 1)
        sets[of_full_sets[counts[of_full_sets].sum(axis=1).argmin()]] = empty
    return allowed[sets]


def read_split_file(path: str | Path) -> pd.Series:
    """A published split: a .csv, .tsv or .txt, sample id first, and a dataset column; headed or not.

    Returns
    -------
    Series
        "train" | "validation" | "test" by sample id as written in the file, name `split`.

    Raises
    ------
    FileNotFoundError, ValueError
        No file, no dataset column, unknown dataset names, an id in two sets.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No split file at {path}. Check split_file in the cohort's TOML.")
    table_df = read_text(path, header=None)
    if table_df.shape[1] < 2:
        raise ValueError(f"{path}: needs a sample id and a dataset column; found {table_df.shape[1]} column.")
    is_name = table_df.iloc[:, 1:].apply(lambda column: column.str.lower().isin(SPLIT_ALIASES).mean())
    if not is_name.any():
        raise ValueError(f"{path}: no column holds set names ({', '.join(SPLIT_ALIASES)}).")
    names = table_df[is_name.idxmax()]
    if names.iloc[0].lower() not in SPLIT_ALIASES:  # a header line
        table_df, names = table_df.iloc[1:], names.iloc[1:]
    split_df = pd.DataFrame({"id": table_df[0], "split": split_names(names, str(path))}).drop_duplicates()
    if split_df["id"].duplicated().any():
        raise ValueError(f"{path}: id(s) in two sets: {first(split_df['id'][split_df['id'].duplicated()])}.")
    return split_df.set_index("id")["split"]


def _from_split_file(samples_df: pd.DataFrame, path: str | Path, rule: str, unknown: str) -> pd.Series:
    split = read_split_file(path)
    keys, listed = samples_df["sample_id"].reset_index(drop=True), pd.Series(split.index, dtype=object)
    if rule == "gtex":
        keys = tissue_samples(keys)
        listed, _ = five_as_six(tissue_samples(listed), keys)
    extra, absent = listed[~listed.isin(keys)], keys[~keys.isin(listed)]
    if len(extra) == len(listed):
        raise ValueError(
            f"{path} shares no id with the samples: it has {first(extra)}; samples {first(keys)}."
        )
    if len(extra) and unknown != "ignore":
        raise ValueError(
            f"{path}: {len(extra)} of {len(listed)} ids are not in the samples table: {first(extra)}. "
            "Add those samples, remove the lines, or set unknown = 'ignore'."
        )
    if len(absent):
        raise ValueError(
            f"{path} has no set for {len(absent)} of {len(keys)} samples, for example {first(absent)}. "
            "Add them to the file or drop them from the samples table."
        )
    by_key = _one_set_each(listed, split, keys, path)
    return pd.Series(keys.map(by_key).to_numpy(), index=samples_df.index, dtype=object, name="split")


def _one_set_each(listed: pd.Series, split: pd.Series, keys: pd.Series, path: str | Path) -> dict[str, str]:
    """Set of each sample; ValueError where lines of the list that mean one sample name several sets."""
    lines_df = pd.DataFrame({"key": listed.to_numpy(), "id": split.index, "split": split.to_numpy()})
    lines_df = lines_df[lines_df["key"].isin(keys)]
    torn_df = lines_df[lines_df.groupby("key")["split"].transform("nunique") > 1]
    if not torn_df.empty:
        shown = ", ".join(f"{row.id} {row.split}" for row in torn_df.head(4).itertuples())
        raise ValueError(
            f"{path}: {torn_df['key'].nunique()} sample(s) in two sets, first {torn_df['key'].iloc[0]}:"
            f" {shown}. Ids that share their first three fields are one slide; give it one set."
        )
    return dict(zip(lines_df["key"], lines_df["split"], strict=True))
