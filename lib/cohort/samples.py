"""The samples table: reading and checking it.

One row is one sample (a GTEx tissue sample, a spot of a section). Required columns: `sample_id`, `slide_id`,
`donor`, `tissue`. Optional: `split`, `mpp` (µm/px) and the region `l0_x, l0_y, l0_width, l0_height` (level-0
px). Every other column is a covariate and kept. METHOD section 1.
"""

import difflib
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

REQUIRED = ("sample_id", "slide_id", "donor", "tissue")
REGION = ("l0_x", "l0_y", "l0_width", "l0_height")
SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("validation", "valid", "val"), "validation"
)

# ---------------------------------------------------------------------------------------------- ids


def id_problem(text: object) -> str:
    """What keeps an id from naming a file and a table row, to follow it in a sentence; "" if nothing does."""
    if not isinstance(text, str) or not text:
        return "is empty"
    if text != text.strip():
        return "starts or ends with a blank"
    if any(mark in text for mark in "/\\:"):
        return "has a path separator (/, \\ or :)"
    if text == "." or ".." in text:
        return "has '..', which would leave the folder"
    if any(unicodedata.category(c)[0] == "C" for c in text):
        return "has a control character"
    return "is longer than 150 characters" if len(text) > 150 else ""


def first(ids: Iterable[object], n: int = 3) -> str:
    """The first `n` ids and how many there are, for messages: `'a', 'b', 'c' (7 in all)`."""
    ids = [str(i) for i in ids]
    shown = ", ".join(repr(i) for i in ids[:n])
    return f"{shown} ({len(ids)} in all)" if len(ids) > n else shown


# --------------------------------------------------------------------------------- reading the table


def read_samples(path: str | Path) -> pd.DataFrame:
    """Read and check a samples table (.csv, .tsv, .txt, each also .gz, or .parquet).

    Ids stay text (`007`, `1e5`, `NA` too); a covariate becomes a number only when all of its values are
    numbers.

    Returns
    -------
    DataFrame
        One row per sample, in the file's order, index 0..n-1, values without surrounding blanks.

    Raises
    ------
    FileNotFoundError, ValueError
        No file; unknown file type; and all that `check_samples` raises.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No samples table at {path}. Check samples_file in the cohort's TOML.")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        samples_df = pd.read_parquet(path)
    elif name.endswith((".csv", ".tsv", ".txt")):
        samples_df = read_text(path, header=0)
    else:
        raise ValueError(f"{path}: a samples table is .csv, .tsv, .txt (each also .gz) or .parquet.")
    samples_df.columns = [str(column).strip() for column in samples_df.columns]
    return check_samples(samples_df, source=str(path))


def read_text(path: Path, header: int | None) -> pd.DataFrame:
    """Every cell as text; comma for .csv, tab otherwise; a byte-order mark is ignored."""
    separator = "," if path.name.lower().removesuffix(".gz").endswith(".csv") else "\t"
    try:
        table_df = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, header=header, encoding="utf-8-sig"
        )
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path}: the file is empty.") from error
    return table_df.fillna("").apply(lambda column: column.str.strip())


def check_samples(samples_df: pd.DataFrame, source: str = "samples table") -> pd.DataFrame:
    """Checked copy of a samples table: ids as text, region and mpp as float64, split names normalised.

    Parameters
    ----------
    samples_df : columns as the module says; text or numbers.
    source : named in every message.

    Raises
    ------
    ValueError
        Missing columns (the nearest present are named), duplicated `sample_id`, unusable ids, empty tissue or
        donor, half-given region, region or mpp not positive, unknown split name, split given for some rows
        only.
    """
    _check_columns(samples_df, source)
    samples_df = samples_df.reset_index(drop=True).copy()
    for column in REQUIRED:
        samples_df[column] = _as_text(samples_df[column], column, source)
    _check_values(samples_df, source)
    for column in samples_df.columns.difference([*REQUIRED, *REGION, "split", "mpp"], sort=False):
        samples_df[column] = _number_if_all(samples_df[column])
    if "mpp" in samples_df:
        samples_df["mpp"] = _numbers(samples_df, "mpp", source)
        _refuse(samples_df, samples_df["mpp"] <= 0, "mpp must be positive (µm per level-0 pixel)", source)
    samples_df = _check_region(samples_df, source)
    if "split" in samples_df:
        samples_df["split"] = check_split_column(samples_df, source)
    return samples_df


def _check_columns(samples_df: pd.DataFrame, source: str) -> None:
    columns = [str(c) for c in samples_df.columns]
    repeated = sorted({c for c in columns if columns.count(c) > 1})
    if repeated:
        raise ValueError(f"{source}: column(s) {first(repeated)} appear twice. Keep one of each.")
    hints = []
    for name in (c for c in REQUIRED if c not in columns):
        lower = {c.lower(): c for c in columns}
        near = difflib.get_close_matches(name, lower, n=1, cutoff=0.5)
        hints.append(repr(name) + (f" (nearest present: {lower[near[0]]!r})" if near else ""))
    if hints:
        raise ValueError(
            f"{source}: missing column(s) {', '.join(hints)}. Present: {', '.join(columns)}. "
            f"Rename or add them; required are {', '.join(REQUIRED)}."
        )
    if samples_df.empty:
        raise ValueError(f"{source}: the table has no rows.")


def _as_text(column: pd.Series, name: str, source: str) -> pd.Series:
    """Ids as Python strings. Floats are refused: 7.0 may have been `007` before some program read it."""
    if pd.api.types.is_float_dtype(column) and column.notna().any():
        raise ValueError(f"{source}: column {name!r} holds decimals ({column.dropna().iloc[0]}); write text.")
    return column.map(lambda v: "" if pd.isna(v) else str(v).strip()).astype(object)


def _check_values(samples_df: pd.DataFrame, source: str) -> None:
    for column in ("sample_id", "slide_id"):
        problems = samples_df[column].drop_duplicates().map(id_problem)
        bad = problems[problems != ""]
        if len(bad):
            raise ValueError(
                f"{source}: {column} {samples_df[column][bad.index[0]]!r} (data row {bad.index[0] + 1}) "
                f"{bad.iloc[0]}; {len(bad)} such id(s). Ids become file names; rename them."
            )
    twice = samples_df["sample_id"][samples_df["sample_id"].duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{source}: duplicated sample_id {first(twice)}. One row is one sample; drop the rest."
        )
    _refuse(samples_df, samples_df["tissue"] == "", "empty tissue; name it or drop the row", source)
    _refuse(samples_df, samples_df["donor"] == "", "empty donor; repeat the sample_id where unknown", source)


def _refuse(samples_df: pd.DataFrame, bad: pd.Series, problem: str, source: str) -> None:
    if bad.any():
        raise ValueError(f"{source}: {problem}. Sample(s) {first(samples_df['sample_id'][bad])}.")


def _number_if_all(column: pd.Series) -> pd.Series:
    """A text column as numbers when every non-empty value is one; otherwise text, empty where empty."""
    if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
        return column
    filled = column.replace("", np.nan)
    numbers = pd.to_numeric(filled, errors="coerce")
    if filled.notna().any() and numbers.notna().equals(filled.notna()):
        return numbers
    return column.astype(object)


def _numbers(samples_df: pd.DataFrame, column: str, source: str) -> pd.Series:
    given = samples_df[column].replace("", np.nan)
    numbers = pd.to_numeric(given, errors="coerce").astype("float64")
    _refuse(samples_df, given.notna() & ~np.isfinite(numbers), f"{column} is not a number", source)
    return numbers


def _check_region(samples_df: pd.DataFrame, source: str) -> pd.DataFrame:
    """Region columns as float64 level-0 px: all four or none, per table and per row."""
    present = [c for c in REGION if c in samples_df]
    if not present:
        return samples_df
    if len(present) < 4:
        absent = ", ".join(c for c in REGION if c not in present)
        raise ValueError(
            f"{source}: region column(s) {absent} missing beside {', '.join(present)}; give all four."
        )
    for column in REGION:
        samples_df[column] = _numbers(samples_df, column, source)
    region = samples_df[list(REGION)]
    half = region.notna().any(axis=1) & region.isna().any(axis=1)
    _refuse(samples_df, half, f"half-given region: give all of {', '.join(REGION)} or none", source)
    bad = (region[["l0_x", "l0_y"]] < 0).any(axis=1) | (region[["l0_width", "l0_height"]] <= 0).any(axis=1)
    _refuse(samples_df, bad, "region with a negative corner or no area (level-0 px)", source)
    return samples_df


def check_split_column(samples_df: pd.DataFrame, source: str) -> pd.Series:
    given = samples_df["split"].map(lambda v: "" if pd.isna(v) else str(v).strip()).astype(object)
    if (given == "").all():
        return given
    _refuse(samples_df, given == "", "split given for some rows only; give it for all or none", source)
    return split_names(given, source)


def split_names(given: pd.Series, source: str) -> pd.Series:
    names = given.str.lower().map(SPLIT_ALIASES)
    if names.isna().any():
        raise ValueError(
            f"{source}: unknown set name {first(given[names.isna()].unique())} on {int(names.isna().sum())} "
            f"row(s). Accepted: {', '.join(SPLIT_ALIASES)}."
        )
    return names.astype(object)
