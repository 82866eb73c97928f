"""The samples table: reading and checking it, pairing it with RNA, splitting it by donor or slide.

One row is one sample (a GTEx tissue sample, a spot of a section). Required columns: `sample_id`, `slide_id`,
`donor`, `tissue`. Optional: `split`, `mpp` (µm/px) and the region `l0_x, l0_y, l0_width, l0_height` (level-0
px). Every other column is a covariate and kept. METHOD section 1.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
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


def check_id(text: str, what: str = "sample_id") -> str:
    r"""Return `text` if it can name a file and a table row; otherwise say what is wrong with it.

    Raises
    ------
    ValueError
        Empty, surrounding blanks, `/`, `\`, `:`, `..`, control characters, or longer than 150 characters.
    """
    problem = _id_problem(text)
    if problem:
        raise ValueError(f"{what} {text!r} {problem}. Ids become file names; rename it in the samples table.")
    return text


def _id_problem(text: str) -> str:
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
        samples_df = _read_text(path, header=0)
    else:
        raise ValueError(f"{path}: a samples table is .csv, .tsv, .txt (each also .gz) or .parquet.")
    samples_df.columns = [str(column).strip() for column in samples_df.columns]
    return check_samples(samples_df, source=str(path))


def _read_text(path: Path, header: int | None) -> pd.DataFrame:
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
        samples_df["split"] = _check_split_column(samples_df, source)
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
        problems = samples_df[column].drop_duplicates().map(_id_problem)
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


def _check_split_column(samples_df: pd.DataFrame, source: str) -> pd.Series:
    given = samples_df["split"].map(lambda v: "" if pd.isna(v) else str(v).strip()).astype(object)
    if (given == "").all():
        return given
    _refuse(samples_df, given == "", "split given for some rows only; give it for all or none", source)
    return _split_names(given, source)


def _split_names(given: pd.Series, source: str) -> pd.Series:
    names = given.str.lower().map(SPLIT_ALIASES)
    if names.isna().any():
        raise ValueError(
            f"{source}: unknown set name {first(given[names.isna()].unique())} on {int(names.isna().sum())} "
            f"row(s). Accepted: {', '.join(SPLIT_ALIASES)}."
        )
    return names.astype(object)


# ---------------------------------------------------------------------------------- slides and RNA


def gtex_tissue_sample(ids: Iterable[str]) -> pd.Series:
    """First three dash-separated fields: `GTEX-11NSD-0526-SM-5A5LT` -> `GTEX-11NSD-0526`."""
    return pd.Series(["-".join(i.split("-")[:3]) for i in ids], dtype=object)


def _five_as_six(keys: pd.Series, known: pd.Series) -> tuple[pd.Series, int]:
    """Keys ending in 5 that `known` lacks, as 6 where it has that and no key claims it; and how many."""
    as_six = keys.str.replace(r"5$", "6", regex=True)
    mapped = keys.str.endswith("5") & ~keys.isin(known) & as_six.isin(known) & ~as_six.isin(keys)
    return keys.where(~mapped, as_six), int(mapped.sum())


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
        is_brain = rna.str.match(r"[^-]+-[^-]+-[^-]+-R\d")
        rna_keys = gtex_tissue_sample(rna).where(~is_brain, "brain " + rna)
        sample_keys, n_mapped = _five_as_six(gtex_tissue_sample(sample_ids), rna_keys)
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


# ------------------------------------------------------------------------------------------- splits


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
        return _check_split_column(samples_df, "samples table").rename("split")
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
    table_df = _read_text(path, header=None)
    if table_df.shape[1] < 2:
        raise ValueError(f"{path}: needs a sample id and a dataset column; found {table_df.shape[1]} column.")
    is_name = table_df.iloc[:, 1:].apply(lambda column: column.str.lower().isin(SPLIT_ALIASES).mean())
    if not is_name.any():
        raise ValueError(f"{path}: no column holds set names ({', '.join(SPLIT_ALIASES)}).")
    names = table_df[is_name.idxmax()]
    if names.iloc[0].lower() not in SPLIT_ALIASES:  # a header line
        table_df, names = table_df.iloc[1:], names.iloc[1:]
    split_df = pd.DataFrame({"id": table_df[0], "split": _split_names(names, str(path))}).drop_duplicates()
    if split_df["id"].duplicated().any():
        raise ValueError(f"{path}: id(s) in two sets: {first(split_df['id'][split_df['id'].duplicated()])}.")
    return split_df.set_index("id")["split"]


def _from_split_file(samples_df: pd.DataFrame, path: str | Path, rule: str, unknown: str) -> pd.Series:
    split = read_split_file(path)
    keys, listed = samples_df["sample_id"].reset_index(drop=True), pd.Series(split.index, dtype=object)
    if rule == "gtex":
        keys = gtex_tissue_sample(keys)
        listed, _ = _five_as_six(gtex_tissue_sample(listed), keys)
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
    by_key = dict(zip(listed, split, strict=True))
    return pd.Series(keys.map(by_key).to_numpy(), index=samples_df.index, dtype=object, name="split")


# ----------------------------------------------------------------------------------------- overviews


def slides_per_tissue(samples_df: pd.DataFrame, tiles_df: pd.DataFrame | None = None) -> pd.DataFrame:
    """S1 Table: samples and, with `tiles_df`, tiles per tissue and set.

    Returns
    -------
    DataFrame
        Index `tissue` (sorted, then "total"); columns n_samples, n_slides, n_donors, n_train, n_validation,
        n_test (samples), and n_tiles, n_tiles_train, n_tiles_validation, n_tiles_test. A slide or donor with
        several tissues counts in each of their rows and once in the total.
    """
    per_tissue = samples_df.groupby("tissue")
    table_df = per_tissue.agg(
        n_samples=("sample_id", "size"), n_slides=("slide_id", "nunique"), n_donors=("donor", "nunique")
    )
    per_set = pd.crosstab(samples_df["tissue"], samples_df["split"]).reindex(
        columns=list(SPLITS), fill_value=0
    )
    table_df = table_df.join(per_set.add_prefix("n_"))
    if tiles_df is not None:
        n_tiles = samples_df["sample_id"].map(tiles_df["sample_id"].value_counts()).fillna(0)
        tiles = n_tiles.groupby([samples_df["tissue"], samples_df["split"]]).sum().unstack(fill_value=0)
        tiles = tiles.reindex(columns=list(SPLITS), fill_value=0).add_prefix("n_tiles_")
        table_df = table_df.join(tiles.assign(n_tiles=tiles.sum(axis=1))[["n_tiles", *tiles.columns]])
    total = table_df.sum()
    total[["n_slides", "n_donors"]] = samples_df["slide_id"].nunique(), samples_df["donor"].nunique()
    table_df.loc["total"] = total
    return table_df.astype(int)


def split_report(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Fractions achieved per tissue, and a remark where a tissue is not in every set.

    Returns
    -------
    DataFrame
        Index `tissue` and last "total"; the columns of `slides_per_tissue`, then fraction_train,
        fraction_validation, fraction_test and remark (text, empty when all is well).
    """
    report_df = slides_per_tissue(samples_df)
    for name in SPLITS:
        report_df[f"fraction_{name}"] = report_df[f"n_{name}"] / report_df["n_samples"]
    lacks = report_df.apply(lambda row: ", ".join(s for s in SPLITS if row[f"n_{s}"] == 0), axis=1)
    one_slide = np.where(report_df["n_slides"] == 1, "one slide: ", "")
    return report_df.assign(remark=np.where(lacks == "", "", one_slide + "none in " + lacks))


def donor_overlap(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Donors shared between sets: 3 x 3 counts, diagonal = donors of the set; elsewhere zero = no leak."""
    donors = {name: set(samples_df.loc[samples_df["split"] == name, "donor"]) for name in SPLITS}
    counts = [[len(donors[a] & donors[b]) for b in SPLITS] for a in SPLITS]
    return pd.DataFrame(counts, index=pd.Index(SPLITS, name="split"), columns=list(SPLITS))


def tissues_per_donor(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Donors x tissues, number of samples (int), the fullest row and column first."""
    table_df = pd.crosstab(samples_df["donor"], samples_df["tissue"])
    columns = table_df.gt(0).sum().sort_values(ascending=False, kind="stable").index
    rows = table_df.gt(0).sum(axis=1).sort_values(ascending=False, kind="stable").index
    return table_df.loc[rows, columns]
