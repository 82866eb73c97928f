"""The samples table: reading and checking it.

A row is a sample (a GTEx tissue sample, a spot of a section). Required columns: `sample_id`, `slide_id` (of
several slides: `sample_slides`), `donor`; `tissue` where there are several. Optional: `split`, `mpp` (µm/px)
and the region `l0_x, l0_y, l0_width, l0_height` (level-0 px). Every other column is a covariate and kept
(notebooks/README.md, section 1).
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from lib.cohort import sample_slides, table_files
from lib.errors import InputError, MissingInputError

REQUIRED = ("sample_id", "slide_id", "donor", "tissue")
ONE_TISSUE = "all samples"  # the tissue of a table that has no such column
REGION = ("l0_x", "l0_y", "l0_width", "l0_height")
SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("validation", "valid", "val"), "validation"
)

# what stands for a missing value in any table, compared without case
MISSING_WORDS = frozenset(("", "na", "n/a", "nan", "null", "none", "-nan", "#n/a", "."))
MAX_ID_BYTES = 200  # file systems allow names of 255, and suffixes follow
# of a number with a decimal comma, or with separators of thousands
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+|[+-]?\d{1,3}([,' ]\d{3})+(\.\d+)?")
MOSTLY = 0.2  # of a column's cells: fewer that are no numbers are errors in a column of numbers


def says_missing(column: pd.Series) -> pd.Series:
    """bool: whether a cell has no value, or a word that says so."""
    return column.isna() | column.astype(str).str.strip().str.lower().isin(MISSING_WORDS)


def id_problem(text: object) -> str:
    """Why an id can name neither a file nor a table row, to follow it in a sentence; "" if it can."""
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
    n_bytes = len(text.encode("utf-8", errors="replace"))
    return f"is {n_bytes} bytes long, more than {MAX_ID_BYTES}" if n_bytes > MAX_ID_BYTES else ""


def first(ids: Iterable[object], n: int = 3) -> str:
    """The first `n` ids and how many there are, for messages: `'a', 'b', 'c' (7 in all)`."""
    ids = [str(i) for i in ids]
    shown = ", ".join(repr(i) for i in ids[:n])
    return f"{shown} ({len(ids)} in all)" if len(ids) > n else shown


def read_samples(path: str | Path, categories: Sequence[str] = ()) -> pd.DataFrame:
    """Read and check a samples table (.csv, .tsv, .txt, each also .gz, or .parquet).

    Ids stay text (`007`, `1e5`, also `NA`); a covariate becomes numbers if all its values are numbers, those
    that say "missing" (MISSING_WORDS) apart.

    Parameters
    ----------
    categories : covariates whose values are names, though they may look like numbers (codes of batches).

    Returns
    -------
    DataFrame
        One row per sample, in the order of the file, index 0..n-1, values without surrounding blanks.

    Raises
    ------
    FileNotFoundError
    ValueError
        Unknown file type; the errors of `check_samples`.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such samples table; check samples_file of the cohort")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        samples_df = table_files.read_parquet(path)
    elif name.endswith((".csv", ".tsv", ".txt")):
        samples_df = table_files.read_text(path)
    else:
        raise InputError(f"{path}: not a samples table; give .csv, .tsv, .txt (each also .gz) or .parquet")
    samples_df.columns = [str(column).strip() for column in samples_df.columns]
    return check_samples(samples_df, source=str(path), categories=categories)


def check_samples(
    samples_df: pd.DataFrame, source: str = "samples table", categories: Sequence[str] = ()
) -> pd.DataFrame:
    """Checked copy of a samples table: ids as text, region and mpp as float64, set names normalised.

    Parameters
    ----------
    samples_df : columns as described for the module; text or numbers.
    source : where the table is from, for messages.
    categories : as `read_samples`.

    Raises
    ------
    ValueError
        Missing columns (with the nearest present ones), rows of one `sample_id` that contradict each other,
        slides that cannot be pooled, unusable ids, empty tissue or donor, a covariate of numbers with a few
        other words, incomplete region, region or mpp not positive, unknown set name, set names in some rows
        only.
    """
    if "tissue" not in samples_df and not _nearest("tissue", samples_df.columns):
        samples_df = samples_df.assign(tissue=ONE_TISSUE)
    _check_columns(samples_df, source)
    samples_df = samples_df.reset_index(drop=True).copy()
    samples_df.columns = [table_files.composed(str(column)) for column in samples_df.columns]
    for column in REQUIRED:
        if pd.api.types.is_float_dtype(samples_df[column]) and samples_df[column].notna().any():
            example = samples_df[column].dropna().iloc[0]  # 7.0 may have been 007
            raise InputError(f"{source}: column {column!r} holds decimals ({example}); write its ids as text")
        samples_df[column] = _text(samples_df[column])
    _check_ids(samples_df, source)
    samples_df = sample_slides.one_row_each(samples_df, source)
    for column in ("tissue", "donor"):
        _refuse_twins(samples_df, column, source)
    for column in samples_df.columns.difference([*REQUIRED, *REGION, "split", "mpp"], sort=False):
        if column in categories:
            samples_df[column] = _text(samples_df[column].mask(says_missing(samples_df[column])))
        else:
            samples_df[column] = _numbers_if_all(samples_df, column, source)
    if "mpp" in samples_df:
        samples_df["mpp"] = _numbers(samples_df, "mpp", source)
        _refuse(samples_df, samples_df["mpp"] <= 0, "mpp must be positive (µm per level-0 pixel)", source)
    samples_df = sample_slides.check(_check_region(samples_df, source), REGION, source)
    if "split" in samples_df:
        samples_df["split"] = check_split_column(samples_df, source)
    return samples_df


def _check_columns(samples_df: pd.DataFrame, source: str) -> None:
    columns = [str(c) for c in samples_df.columns]
    repeated = sorted({c for c in columns if columns.count(c) > 1})
    if repeated:
        raise InputError(f"{source}: column(s) {first(repeated)} appear twice; keep one of each")
    hints = []
    for name in (c for c in REQUIRED if c not in columns):
        near = _nearest(name, columns)
        hints.append(repr(name) + (f" (nearest present: {near!r})" if near else ""))
    if hints:
        raise InputError(
            f"{source}: missing column(s) {', '.join(hints)} among {', '.join(columns)}; rename or add them"
        )
    if samples_df.empty:
        raise InputError(f"{source}: the table has no rows")


def _nearest(name: str, columns: Iterable[object]) -> str:
    """The column whose name resembles this one most; "" where none does."""
    by_lower = {str(c).lower(): str(c) for c in columns}
    near = difflib.get_close_matches(name, by_lower, n=1, cutoff=0.5)
    return by_lower[near[0]] if near else ""


def _text(column: pd.Series) -> pd.Series:
    return column.map(lambda v: "" if pd.isna(v) else table_files.composed(str(v))).astype(object)


def _check_ids(samples_df: pd.DataFrame, source: str) -> None:
    for column in ("sample_id", "slide_id"):
        ids = samples_df[column]
        ids = ids.map(sample_slides.slides_of).explode() if column == "slide_id" else ids
        problems = ids.drop_duplicates().map(id_problem)
        bad = problems[problems != ""]
        if len(bad):
            raise InputError(
                f"{source}: {column} {samples_df[column][bad.index[0]]!r} (data row {bad.index[0] + 1}) "
                f"{bad.iloc[0]}; {len(bad)} such id(s); ids become file names: rename them"
            )
    for column, remedy in (("tissue", "name it or drop the row"), ("donor", "repeat the sample_id there")):
        missing = says_missing(samples_df[column])
        _refuse(samples_df, missing, f"no {column} (empty, NA, ...); {remedy}", source)


def _refuse_twins(samples_df: pd.DataFrame, column: str, source: str) -> None:
    """InputError for names that differ in case or blanks alone: almost surely one name, but two classes."""
    counts = samples_df[column].value_counts(sort=False)
    of_key: dict[str, list[str]] = {}
    for name in counts.index:
        of_key.setdefault(" ".join(str(name).casefold().split()), []).append(name)
    twins = [names for names in of_key.values() if len(names) > 1]
    if twins:
        shown = "; ".join(" and ".join(f"{n!r} ({counts[n]} samples)" for n in names) for names in twins[:3])
        raise InputError(
            f"{source}: {len(twins)} {column}(s) are written in several ways: {shown}; write each in one way"
        )


def _refuse(samples_df: pd.DataFrame, bad: pd.Series, problem: str, source: str) -> None:
    if bad.any():
        raise InputError(f"{source}: {problem}: sample(s) {first(samples_df['sample_id'][bad])}")


def _numbers_if_all(samples_df: pd.DataFrame, column: str, source: str) -> pd.Series:
    """A text column as numbers if every value that is not missing is one; otherwise unchanged.

    ValueError on a column of numbers in which a few cells are something else: as text each of its numbers
    would be a category.
    """
    values = samples_df[column]
    if not (pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values)):
        return values
    filled = values.mask(says_missing(values))
    numbers = pd.to_numeric(filled, errors="coerce")
    odd = filled.notna() & numbers.isna()
    if not odd.any():
        return numbers if filled.notna().any() else _text(filled)
    with_commas = filled[odd].map(lambda cell: bool(_COMMA_NUMBER.fullmatch(str(cell)))).all()
    if with_commas or odd.sum() <= MOSTLY * filled.notna().sum():
        cells = ", ".join(repr(cell) for cell in filled[odd].unique()[:3])
        _refuse(
            samples_df, odd,
            f"column {column!r} holds numbers, but {odd.sum()} cells are not ({cells}); write numbers with a "
            "decimal point and no separator of thousands",
            source,
        )  # fmt: skip
    return _text(filled)


def _numbers(samples_df: pd.DataFrame, column: str, source: str) -> pd.Series:
    given = samples_df[column].mask(says_missing(samples_df[column]))
    numbers = pd.to_numeric(given, errors="coerce").astype("float64")
    _refuse(samples_df, given.notna() & ~np.isfinite(numbers), f"{column} is not a number", source)
    return numbers


def _check_region(samples_df: pd.DataFrame, source: str) -> pd.DataFrame:
    """Region columns as float64 level-0 px: all four or none, per table and per row."""
    missing = [c for c in REGION if c not in samples_df]
    if len(missing) == len(REGION):
        return samples_df
    if missing:
        raise InputError(
            f"{source}: region column(s) {', '.join(missing)} are missing; give all four or none"
        )
    for column in REGION:
        samples_df[column] = _numbers(samples_df, column, source)
    region = samples_df[list(REGION)]
    partial = region.notna().any(axis=1) & region.isna().any(axis=1)
    _refuse(samples_df, partial, f"incomplete region; give all of {', '.join(REGION)} or none", source)
    bad = (region[["l0_x", "l0_y"]] < 0).any(axis=1) | (region[["l0_width", "l0_height"]] <= 0).any(axis=1)
    _refuse(samples_df, bad, "region with a negative corner or no area (level-0 px)", source)
    for slide_id, slide_df in samples_df.dropna(subset=list(REGION)).groupby("slide_id", sort=False):
        share = _overlapping(slide_df)
        if share > MOSTLY:
            raise InputError(
                f"{source}: {share:.0%} of the {len(slide_df)} regions of slide {slide_id} overlap another "
                "one by more than half; are their coordinates those of a smaller image? They must be level-0 "
                "px of the slide"
            )
    return samples_df


def _overlapping(slide_df: pd.DataFrame) -> float:
    """Share of the regions of one slide that cover more than half of another region, or are covered so."""
    if len(slide_df) < 2:
        return 0.0
    low = slide_df[["l0_x", "l0_y"]].to_numpy(float)
    size = slide_df[["l0_width", "l0_height"]].to_numpy(float)
    tree = KDTree(low + size / 2)
    pairs = tree.query_pairs(float(size.max()) / 2, p=np.inf, output_type="ndarray")
    one, other = pairs.T
    edges = np.minimum(low[one] + size[one], low[other] + size[other]) - np.maximum(low[one], low[other])
    smaller = np.minimum(size[one].prod(axis=1), size[other].prod(axis=1))
    found = edges.clip(0).prod(axis=1) > smaller / 2
    return len(np.unique(pairs[found])) / len(slide_df)


def check_split_column(samples_df: pd.DataFrame, source: str) -> pd.Series:
    """The `split` column with standard set names; all "" where the table gives none."""
    given = _text(samples_df["split"])
    if (given == "").all():
        return given
    _refuse(samples_df, given == "", "set names in some rows only; give them for all or none", source)
    return split_names(given, source)


def split_names(given: pd.Series, source: str) -> pd.Series:
    """Standard set names for those in use, such as `Training` or `valid`; ValueError for any other."""
    names = given.str.lower().map(SPLIT_ALIASES)
    unknown = given[names.isna()]
    if len(unknown):
        raise InputError(
            f"{source}: unknown set name {first(unknown.unique())} in {len(unknown)} row(s); "
            f"accepted are {', '.join(SPLIT_ALIASES)}"
        )
    return names.astype(object)
