"""A cohort of the Genomic Data Commons (TCGA and others): slides and RNA as its download tool leaves them.

A folder holds one folder per file, named by its UUID, and the sample sheet that the portal gives with a
manifest. Slides name themselves by their barcode; RNA files are UUIDs, which the sheet translates. A case is
a donor. RNA and slide are joined on case and kind of sample: a diagnostic slide (DX) is of paraffin-embedded
tissue (vial Z), so its vial never equals that of the RNA; a frozen one (TS, BS) is joined on the vial too.
A sample's slides of the preferred kind are pooled.

References
----------
GDC documentation: TCGA barcode; mRNA analysis pipeline; data transfer tool.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib.cohort import table_files
from lib.cohort.sample_slides import SEPARATOR, slides_of
from lib.errors import InputError, MissingInputError
from lib.sources.linked_slides import link
from lib.sources.mirror import Places
from lib.whole_files import whole_file

RNA_SUFFIX = ".rna_seq.augmented_star_gene_counts.tsv"
SLIDE_SUFFIXES = (".svs", ".tif", ".tiff")
SHEET_COLUMNS = ["File Name", "Project ID", "Case ID", "Sample ID", "Sample Type"]
VALUE = "tpm_unstranded"
# project-TSS-participant-sample and vial-portion-kind and number.UUID, as in TCGA-AA-3488-01Z-00-DX1.F2B0...
SLIDE_NAME = re.compile(r"(?P<sample>[^.]+-\d{2}[A-Z])-\d{2}-(?P<kind>DX|TS|BS|MS)[A-Z0-9]*\.")
BARCODE = re.compile(r"(?P<case>[A-Z0-9]+-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4})-(?P<type>\d{2})(?P<vial>[A-Z])")
TYPES = {"01": "Primary Tumor", "02": "Recurrent Tumor", "05": "Additional - New Primary", "06": "Metastatic"}
TYPES |= {"03": "Primary Blood Derived Cancer - Peripheral Blood", "11": "Solid Tissue Normal"}


class GdcCohort(NamedTuple):
    """What of a folder becomes the cohort.

    folder : from data/raw/<cohort>, or absolute
    slides : kinds of slide, the preferred first: DX (diagnostic, paraffin), TS and BS (frozen: top, bottom)
    sample_types : as in the sample sheet ("Primary Tumor", "Solid Tissue Normal"); none named: all
    """

    folder: str
    slides: Sequence[str] = ("DX",)
    sample_types: Sequence[str] = ("Primary Tumor",)

    def make_inputs(self, raw: Path, places: Places) -> dict[str, Any]:
        """Write samples.csv, expression.parquet, genes.csv and slides/ (links) to `raw`.

        Returns
        -------
        dict: "steps", the count after each step from files to samples, with the rule.

        Raises
        ------
        MissingInputError, InputError
            No folder, RNA file, slide or sample sheet there; RNA files of two gene models; nothing joined.
        """
        folder = raw / self.folder
        if not folder.is_dir():
            raise MissingInputError(
                f"{folder} is no folder: give gdc_folder, into which gdc-client downloaded the manifest"
            )
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sheet_df = read_sheets([path for path in files if _is_sheet(path)], folder)
        rna_df, rna_steps = _choose_rna(files, sheet_df, self.sample_types)
        slides_df, slide_steps = _choose_slides(files, sheet_df, self.slides)
        samples_df, join_steps = join(rna_df, slides_df)
        expression_df, genes_df = read_expression(
            dict(zip(samples_df["sample_id"], samples_df["rna"], strict=True))
        )
        _write(raw, samples_df, expression_df, genes_df)
        return {"steps": [x for steps in (rna_steps, slide_steps, join_steps) for x in _records(steps)]}


def _is_sheet(path: Path) -> bool:
    return path.name.startswith("gdc_sample_sheet") and path.suffix == ".tsv"


def read_sheets(paths: Sequence[Path], folder: Path) -> pd.DataFrame:
    """The rows of the sample sheets, text, index "File Name"; of a file named twice the first."""
    if not paths:
        raise MissingInputError(
            f"{folder} has no gdc_sample_sheet*.tsv: in the portal's cart choose Sample Sheet and put it "
            "there; without it RNA files cannot be told apart"
        )
    tables = []
    for path in paths:
        table_df = table_files.read_text(path)
        if lacking := [name for name in SHEET_COLUMNS if name not in table_df]:
            raise InputError(f"{path} lacks columns {lacking}: download the sample sheet of the cart again")
        tables.append(table_df[SHEET_COLUMNS])
    return pd.concat(tables).drop_duplicates("File Name").set_index("File Name")


def _listed(sheet_df: pd.DataFrame, name: str) -> list[str]:
    """Project, case, sample and type of sample of a file of the sheet."""
    return [str(sheet_df.at[name, column]) for column in SHEET_COLUMNS[1:]]


def _facts(sample_id: str, case_id: str, project: str, sample_type: str) -> dict[str, str]:
    """What a sample's id says, beside what the sheet says of it."""
    barcode = BARCODE.fullmatch(sample_id)
    kind = TYPES.get(barcode["type"], sample_type) if barcode else sample_type
    return {
        "case": case_id,
        "project": project,
        "sample_type": kind,
        "sample": sample_id,
        "site": barcode["site"] if barcode else "",
        "key": f"{case_id}-{barcode['type']}" if barcode else sample_id,
    }


def _choose_rna(
    files: Sequence[Path], sheet_df: pd.DataFrame, sample_types: Sequence[str]
) -> tuple[pd.DataFrame, list[tuple[str, int]]]:
    """One RNA file of each case and kind of sample, the first by sample and file name; and the steps."""
    paths = [path for path in files if path.name.removesuffix(".gz").endswith(RNA_SUFFIX)]
    if not paths:
        raise MissingInputError(f"no file named *{RNA_SUFFIX} there: add Gene Expression Quantification")
    known = [path for path in paths if path.name in sheet_df.index]
    steps = [("RNA files", len(paths)), ("RNA files that the sample sheet names", len(known))]
    rows = []
    for path in known:
        project, case, sample, kind = _listed(sheet_df, path.name)
        # Pooled from several samples of one case: "A, A".
        rows.append(_facts(sample.split(",")[0].strip(), case.split(",")[0].strip(), project, kind))
    rna_df = pd.DataFrame(rows, columns=["case", "project", "sample_type", "sample", "site", "key"])
    rna_df["rna"] = [str(path) for path in known]
    if sample_types:
        wanted = rna_df["sample_type"].isin(list(sample_types))
        if not wanted.any():
            there = ", ".join(sorted(rna_df["sample_type"].unique())) or "none"
            raise InputError(f"no RNA file is of gdc_sample_types {list(sample_types)}; there are: {there}")
        rna_df = rna_df[wanted]
        steps.append((f"of sample type {', '.join(sample_types)}", len(rna_df)))
    rna_df = rna_df.sort_values(["key", "sample", "rna"]).drop_duplicates("key")
    steps.append(("cases and sample types with RNA (of several aliquots the first)", len(rna_df)))
    return rna_df, steps


def _choose_slides(
    files: Sequence[Path], sheet_df: pd.DataFrame, kinds: Sequence[str]
) -> tuple[pd.DataFrame, list[tuple[str, int]]]:
    """Slides of these kinds, the preferred first; and the steps."""
    paths = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES]
    if not paths:
        raise MissingInputError("no slide (.svs) there: add Slide Image to the cart")
    rows = []
    for path in paths:
        named = SLIDE_NAME.match(path.name)
        listed = path.name in sheet_df.index
        if not named and not listed:
            continue
        project, case, sample, kind = _listed(sheet_df, path.name) if listed else ("", "", "", "")
        if named:
            sample = named["sample"]
            barcode = BARCODE.fullmatch(sample)
            case = barcode["case"] if barcode else case
        facts = _facts(sample, case, project, kind)
        rows.append(facts | {"kind": named["kind"] if named else "", "path": str(path)})
    slides_df = pd.DataFrame(rows, columns=["sample", "key", "kind", "path"])
    steps = [("slides", len(paths)), ("slides with a barcode or in the sheet", len(slides_df))]
    order = {kind: rank for rank, kind in enumerate([*kinds, ""])}
    slides_df = slides_df[slides_df["kind"].isin(list(order))]
    steps.append((f"of kind {', '.join(kinds)}", len(slides_df)))
    if slides_df.empty:
        raise InputError(f"no slide is of gdc_slides {list(kinds)}: DX is diagnostic, TS and BS are frozen")
    rank = slides_df["kind"].map(order)
    return slides_df.assign(rank=rank).sort_values(["rank", "path"]), steps


def join(rna_df: pd.DataFrame, slides_df: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, int]]]:
    """A row for each case and kind of sample that has RNA and slides; the steps.

    All slides of the most preferred kind that a sample has are its slides; of one scanned twice (the same
    barcode, another UUID) the first counts. Frozen slides must be of the vial that the RNA is from.

    Parameters
    ----------
    rna_df : case, project, sample_type, sample, site, key, rna (path); a row per key
    slides_df : sample, key, kind, path; in order of preference
    """
    pairs_df = rna_df.merge(slides_df, on="key", suffixes=("", "_slide"))
    frozen = pairs_df["kind"].isin(["TS", "BS", "MS"])
    fits_df = pairs_df[~frozen | (pairs_df["sample"] == pairs_df["sample_slide"])]
    steps = [("slides of these cases and sample types", len(pairs_df))]
    if len(fits_df) < len(pairs_df):
        steps.append(("... frozen ones of the same vial only", len(fits_df)))
    preferred = fits_df.groupby("key")["kind"].transform("first")
    fits_df = fits_df[fits_df["kind"] == preferred]
    steps.append(("... of each sample's preferred kind", len(fits_df)))
    fits_df = fits_df.assign(slide=[Path(path).stem for path in fits_df["path"]])
    named = fits_df["slide"].where(fits_df["kind"] == "", fits_df["slide"].str.partition(".")[0])
    fits_df = fits_df[~fits_df.assign(slide=named).duplicated(["key", "slide"])]
    steps.append(("... of a slide scanned twice the first", len(fits_df)))
    if fits_df.empty:
        raise InputError(
            "no slide and no RNA file are of the same case and kind of sample, such as "
            f"{rna_df['key'].iloc[0]!r} (RNA) and {slides_df['key'].iloc[0]!r} (slide): download both of "
            "the same cases"
        )
    of_sample = fits_df.groupby("key")
    slides, paths = of_sample["slide"].agg(SEPARATOR.join), of_sample["path"].agg(list)
    fits_df = fits_df.drop_duplicates("key")
    steps.append(("samples; the slides of one are pooled", len(fits_df)))
    tissue = fits_df["project"]
    if fits_df["sample_type"].nunique() > 1:  # tumour and normal told apart
        tissue = tissue + ", " + fits_df["sample_type"]
    samples_df = pd.DataFrame(
        {
            "sample_id": fits_df["key"],
            "slide_id": fits_df["key"].map(slides),
            "donor": fits_df["case"],
            "tissue": tissue,
            "sample_type": fits_df["sample_type"],
            "slide_kind": fits_df["kind"],
            "tissue_source_site": fits_df["site"],
            "rna": fits_df["rna"],
            "paths": fits_df["key"].map(paths),
        }
    )
    return samples_df.sort_values("sample_id", ignore_index=True), steps


def read_expression(paths: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """TPM of each sample's RNA file: genes x samples, float32, and the genes' symbols and biotypes.

    Raises InputError for a file that is damaged, of another gene model, or without the column.
    """
    columns, genes_df, first_path = {}, pd.DataFrame(), ""
    for sample, path in tqdm(paths.items(), unit="file", desc="RNA"):
        try:
            table_df = pd.read_csv(path, sep="\t", comment="#", dtype=str, keep_default_na=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{path} cannot be read ({error}): download it again") from error
        if lacking := {"gene_id", "gene_name", "gene_type", VALUE} - set(table_df):
            raise InputError(f"{path} lacks columns {sorted(lacking)}: is it a file of STAR counts?")
        table_df = table_df[~table_df["gene_id"].str.startswith("N_")]  # counts of unmapped reads
        values = pd.to_numeric(table_df[VALUE], errors="coerce").to_numpy(np.float32)
        if np.isnan(values).any():
            row = table_df.iloc[int(np.isnan(values).argmax())]
            raise InputError(f"{path}: {VALUE} of {row['gene_id']} is {row[VALUE]!r}: download it again")
        if genes_df.empty:
            genes_df, first_path = table_df[["gene_id", "gene_name", "gene_type"]], path
        elif table_df["gene_id"].tolist() != genes_df["gene_id"].tolist():
            raise InputError(
                f"{path} has other genes than {first_path}: files of two gene models; download all of one "
                "release again"
            )
        columns[sample] = values
    index = pd.Index(genes_df["gene_id"], name="gene")
    names = {"gene_id": "gene", "gene_name": "symbol", "gene_type": "biotype"}
    return pd.DataFrame(columns, index=index), genes_df.rename(columns=names)


def _write(raw: Path, samples_df: pd.DataFrame, expression_df: pd.DataFrame, genes_df: pd.DataFrame) -> None:
    slides = raw / "slides"
    slides.mkdir(parents=True, exist_ok=True)
    for cell, paths in zip(samples_df["slide_id"], samples_df["paths"], strict=True):
        for slide_id, path in zip(slides_of(cell), map(Path, paths), strict=True):
            link(path, slides / f"{slide_id}{path.suffix}")
    with whole_file(raw / "samples.csv") as temporary:
        samples_df.drop(columns=["rna", "paths"]).to_csv(temporary, index=False)
    with whole_file(raw / "genes.csv") as temporary:
        genes_df.to_csv(temporary, index=False)
    with whole_file(raw / "expression.parquet") as temporary:
        expression_df.to_parquet(temporary, compression="zstd")


def _records(steps: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Steps with what each dropped of the one before."""
    before = [steps[0][1], *(count for _, count in steps[:-1])]
    return [
        {"step": step, "n_left": count, "n_dropped": max(0, was - count), "note": ""}
        for (step, count), was in zip(steps, before, strict=True)
    ]
