"""Readers of the GTEx portal's and releases' tables; the frames have this project's column names."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pandas as pd

from lib.cohort.gzip_files import open_bytes
from lib.cohort.samples import says_missing
from lib.errors import InputError, MissingInputError

TISSUE_SAMPLE = re.compile(r"[A-Za-z0-9]+-[A-Za-z0-9]+-\d{4}")
GTF_ATTRIBUTE = re.compile(r'(\w+) "([^"]*)"')
HARDY = {
    "0": "Ventilator case",
    "1": "Fast death - violent",
    "2": "Fast death - natural causes",
    "3": "Intermediate death",
    "4": "Slow death",
}
# our column -> spellings in the portal's CSV export and API, compared without case, blanks and punctuation
PORTAL_COLUMNS = {
    "sample_id": ("tissuesampleid", "sampleid"),
    "tissue": ("tissuesitedetail", "smtsd", "tissue"),  # the finer of two
    "donor": ("subjectid", "subjid", "donor"),
    "sex": ("sex",),
    "age_bracket": ("agebracket", "age"),
    "hardy_scale": ("hardyscale", "dthhrdy"),
    "pathology_categories": ("pathologycategories",),
    "pathology_notes": ("pathologynotes",),
}
# the columns kept of SampleAttributesDS; numbers unless marked
ATTRIBUTE_COLUMNS = {
    "SAMPID": "rna_id",  # text
    "SMTSD": "rna_tissue",  # text
    "SMRIN": "rin",
    "SMTSISCH": "ischaemic_time_min",
    "SMTSPAX": "fixative_time_min",
    "SMATSSCR": "autolysis_score",
}


def read_portal(path: str | Path) -> pd.DataFrame:
    """The portal's histology table (its CSV export, or tab-separated), its columns in any order.

    Returns
    -------
    DataFrame, a row per tissue sample: sample_id, tissue, donor, sex, age_bracket, hardy_scale,
    pathology_categories, pathology_notes (text, `""` where the table has no value or no such column).

    Raises
    ------
    FileNotFoundError; ValueError when the file is not text, the sample or tissue column cannot be found, an
    id is not GTEx's or occurs twice, or a tissue is empty.
    """
    raw_df = read_text_table(
        path, "the GTEx portal's histology table (gtexportal.org/home/histologyPage, CSV)"
    )
    spelt = {re.sub(r"[^a-z]", "", str(column).lower()): column for column in reversed(raw_df.columns)}
    found = {
        ours: next((spelt[s] for s in names if s in spelt), None) for ours, names in PORTAL_COLUMNS.items()
    }
    if absent := [ours for ours in ("sample_id", "tissue") if found[ours] is None]:
        raise InputError(
            f"{path}: no column for {absent}; it has {list(raw_df.columns)}, expected are names like"
            " 'Tissue Sample ID', 'Tissue', 'Subject ID', 'Sex', 'Age Bracket', 'Pathology Notes'"
        )
    columns = {ours: raw_df[name] if name else "" for ours, name in found.items()}
    portal_df = pd.DataFrame(columns, index=raw_df.index)
    portal_df = portal_df.apply(lambda column: column.str.strip())
    _require_ids(portal_df["sample_id"], f"{path}: tissue sample ids")
    if nameless := portal_df.loc[portal_df["tissue"].eq(""), "sample_id"].tolist():
        raise InputError(
            f"{path}: column {found['tissue']!r} is empty for {len(nameless)} samples, first {nameless[:3]};"
            " fill in their tissue or remove the rows"
        )
    if found["donor"] is None:
        portal_df["donor"] = portal_df["sample_id"].str.rsplit("-", n=1).str[0]
    return portal_df.reset_index(drop=True)


def read_sample_attributes(path: str | Path) -> pd.DataFrame:
    """GTEx SampleAttributesDS: a row per RNA (or other) sample, columns of `ATTRIBUTE_COLUMNS`; minutes and
    scores as float64, NaN where GTEx has none.
    """
    raw_df = read_text_table(path, "GTEx's SampleAttributesDS.txt")
    _require_columns(raw_df, path, ["SAMPID"])
    columns = {theirs: ours for theirs, ours in ATTRIBUTE_COLUMNS.items() if theirs in raw_df}
    attributes_df = raw_df[list(columns)].rename(columns=columns)
    raw_name = {ours: theirs for theirs, ours in columns.items()}
    for column in attributes_df.columns.difference(["rna_id", "rna_tissue"]):
        attributes_df[column] = _numbers(attributes_df[column], f"{path}: column {raw_name[column]}")
    require_unique(attributes_df["rna_id"], f"{path}: SAMPID")
    return attributes_df


def read_subject_phenotypes(path: str | Path) -> pd.DataFrame:
    """GTEx SubjectPhenotypesDS, by donor: donor, sex, age_bracket, hardy_scale in the portal's words."""
    raw_df = read_text_table(path, "GTEx's SubjectPhenotypesDS.txt")
    _require_columns(raw_df, path, ["SUBJID", "SEX", "AGE"])
    require_unique(raw_df["SUBJID"], f"{path}: SUBJID")
    if not raw_df["SEX"].isin(["1", "2"]).all():
        raise InputError(f"{path}: SEX must be 1 (male) or 2 (female), found {sorted(set(raw_df['SEX']))}")
    subjects_df = raw_df[["SUBJID", "SEX", "AGE"]].set_axis(["donor", "sex", "age_bracket"], axis=1)
    subjects_df["sex"] = subjects_df["sex"].map({"1": "male", "2": "female"})
    subjects_df["hardy_scale"] = raw_df["DTHHRDY"].map(HARDY) if "DTHHRDY" in raw_df else ""
    return subjects_df.fillna("")


def read_gene_models(path: str | Path) -> pd.DataFrame:
    """Genes of a GTF (plain or gzipped), for example the collapsed GENCODE models of a GTEx release: gene_id,
    gene_name, gene_biotype, in the file's order.

    Raises FileNotFoundError; ValueError when no line describes a gene.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file; it should be the GENCODE models of a GTEx release")
    with _opened(path) as lines:
        attributes = [line.rsplit("\t", 1)[1] for line in lines if line.split("\t", 3)[2:3] == ["gene"]]
    genes = [dict(GTF_ATTRIBUTE.findall(text)) for text in attributes]
    nameless = sum(not gene.get("gene_id") for gene in genes)
    if not genes or nameless:
        raise InputError(
            f"{path}: not a GTF of genes: {len(genes)} lines describe a gene, {nameless} of them without "
            "gene_id; fetch it again"
        )
    rows = (
        (gene["gene_id"], gene.get("gene_name", ""), gene.get("gene_type") or gene.get("gene_biotype", ""))
        for gene in genes
    )
    genes_df = pd.DataFrame(rows, columns=["gene_id", "gene_name", "gene_biotype"])
    require_unique(genes_df["gene_id"], f"{path}: gene ids")
    return genes_df


def read_text_table(path: str | Path, what: str) -> pd.DataFrame:
    """All cells as text. The header line decides between comma and tab, the content between plain and gzip.

    Raises FileNotFoundError, saying that it should be `what`; ValueError for a file that is empty, not UTF-8
    text, or not a table.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file; it should be {what}")
    with _opened(path) as file:
        separator = "\t" if "\t" in file.readline() else ","
    with _opened(path) as file:
        try:
            return pd.read_csv(file, sep=separator, dtype="str", keep_default_na=False)
        except pd.errors.EmptyDataError as error:
            raise InputError(f"{path}: the file is empty; it should be {what}") from error
        except pd.errors.ParserError as error:
            raise InputError(f"{path}: not a table ({error}); it should be {what}") from error


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The text of a file, plain or gzipped; ValueError naming it where it is truncated or not UTF-8."""
    try:
        with open_bytes(path) as file:
            # the stub of TextIOWrapper asks for a narrower class than it needs
            yield io.TextIOWrapper(file, encoding="utf-8-sig")  # pyright: ignore[reportArgumentType]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}), perhaps saved by a spreadsheet:"
            " use the file as downloaded, or save it as CSV UTF-8"
        ) from error


def _numbers(column: pd.Series, what: str) -> pd.Series:
    """Text as float64, NaN for `MISSING_WORDS`; ValueError naming the first cells that are neither."""
    given = column.str.strip()
    given = given.mask(says_missing(given))
    numbers = pd.to_numeric(given, errors="coerce").astype("float64")
    if strange := given[given.notna() & numbers.isna()].tolist():
        raise InputError(f"{what}: {len(strange)} cells are not numbers, first {strange[:3]}")
    return numbers


def _require_columns(raw_df: pd.DataFrame, path: str | Path, names: Sequence[str]) -> None:
    if absent := [name for name in names if name not in raw_df]:
        raise InputError(f"{path}: columns {absent} are missing; it has {list(raw_df.columns)[:8]}")


def require_unique(ids: pd.Series, what: str) -> None:
    """Raise ValueError naming `what` and the first ids that occur more than once."""
    if twice := ids[ids.duplicated()].unique().tolist():
        raise InputError(f"{what}: {len(twice)} occur more than once, first {twice[:3]}")


def _require_ids(ids: pd.Series, what: str) -> None:
    strange = ids[~ids.str.fullmatch(TISSUE_SAMPLE)].tolist()
    if strange:
        raise InputError(f"{what}: {len(strange)} are not like 'GTEX-117YW-0126', first {strange[:3]}")
    require_unique(ids, what)
