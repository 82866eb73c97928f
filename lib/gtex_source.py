"""GTEx as the source of a cohort: its tables found or fetched, and made the inputs every cohort has.

`prepare` leaves in data/raw/<cohort>: `samples.csv`, the expression table (a link to the release's GCT),
`genes.csv.gz`, and `slides_wanted.csv`, the list that `python -m lib.gtex download` works off.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lib import gtex_fetch
from lib.expression import rna_ids
from lib.gtex_samples import (
    ATTRIBUTES,
    SamplesTable,
    find_slides,
    pathology_indicators,
    samples_table,
)
from lib.gtex_tables import (
    read_gene_models,
    read_portal,
    read_sample_attributes,
    read_subject_phenotypes,
)
from lib.splits import read_split_file

WANTED = "slides_wanted.csv"  # the list of slides to download
MADE_EXPRESSION, MADE_GENES = "expression.gct.gz", "genes.csv.gz"  # names of what is made here
MIN_PATHOLOGY = 20  # samples that a pathology category needs to become a column
SPARE_GENES = "genes_gencode_v26.csv.gz"  # gene table taken where a release's own models are not at hand


def prepare(
    raw: Path,
    folders: Sequence[Path],
    *,
    release: str = "v7",
    portal_file: str = "GTExPortal.csv",
    expression_file: str = MADE_EXPRESSION,
    genes_file: str = "",
    slides_dir: str = "slides",
    tissues: Sequence[str] = (),
    max_slides: int | Mapping[str, int] = 0,
    min_slides: int = 1,
    covariates: Sequence[str] = (),
    split_file: str | Path = "",
) -> dict[str, Any]:
    """Write the inputs of a GTEx cohort to `raw`.

    Parameters
    ----------
    raw : the cohort's folder.
    folders : where GTEx's tables are looked for, in order; what none has is downloaded into the first.
    release : v7 (the paper's), v8 or v10: expression, sample attributes, subject phenotypes.
    portal_file, expression_file, genes_file : names in `raw` or `folders`. An expression file of that name
        is taken as it is; else the name becomes a link to the release's TPM. Without genes_file no gene table
        is made.
    tissues, max_slides, min_slides : see `samples_table`; `()` and 0 mean all.
    covariates : columns every sample must have.
    split_file : published list of samples and their sets; when given, it decides which samples there are.

    Returns
    -------
    dict, to be kept as json: `files` (what was used, and its size), `steps`, `rna` (RNA samples by outcome),
    `dropped` (tissue samples by tissue and reason), each of the last three a list of records.

    Raises
    ------
    RuntimeError for a table that is nowhere and cannot be fetched; ValueError as `samples_table`.
    """
    raw.mkdir(parents=True, exist_ok=True)
    urls, folders = gtex_fetch.RELEASES[release], [Path(folder) for folder in folders]
    portal_path = gtex_fetch.find(portal_file, [raw]) or gtex_fetch.portal(portal_file, folders)
    portal_df = read_portal(portal_path)
    expression_path = _expression(raw, expression_file, urls.tpm, folders)
    attributes_path = _attributes(urls.attributes, folders, covariates)
    subjects_path = _optional(urls.phenotypes, folders)  # the portal's table mostly says the same
    listed = list(read_split_file(split_file).index) if split_file else None
    table = samples_table(
        portal_df,
        rna_ids(expression_path),
        read_sample_attributes(attributes_path) if attributes_path else None,
        read_subject_phenotypes(subjects_path) if subjects_path else None,
        tissues=list(tissues) or None,
        max_slides_per_tissue=max_slides or None,
        min_slides_per_tissue=min_slides,
        listed=listed,
        required=covariates,
    )
    samples_df, remarks = _named_slides(table.samples_df, raw / slides_dir, portal_df["sample_id"])
    if attributes_path is None:
        remarks.append(f"no {gtex_fetch.file_name(urls.attributes)}: {', '.join(ATTRIBUTES)} are not known")
    samples_df = samples_df.join(pathology_indicators(samples_df, MIN_PATHOLOGY))
    _write_csv(samples_df, raw / "samples.csv")
    _write_csv(samples_df[["sample_id", "slide_id", "tissue"]], raw / WANTED)
    genes_path = _genes(raw, genes_file, urls.genes, folders) if genes_file else None
    used = (portal_path, expression_path, attributes_path, subjects_path, genes_path)
    return _record(table, remarks, [path for path in used if path])


def _expression(raw: Path, name: str, url: str, folders: list[Path]) -> Path:
    """The expression table under `raw/<name>`: the user's own file, or a link to what is found or fetched."""
    target = raw / name
    if target.is_file() and not target.is_symlink():
        return target
    is_own = gtex_fetch.find(name, folders) if name != MADE_EXPRESSION else None
    _link(is_own or gtex_fetch.table(url, folders), target)
    return target


def _link(source: Path, target: Path) -> None:
    """Make `target` a link to `source` (a copy where links are not allowed), replacing an older link."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.symlink(source.resolve(), temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _optional(url: str, folders: list[Path]) -> Path | None:
    """A table that the cohort can do without; None where it cannot be had."""
    try:
        return gtex_fetch.table(url, folders)
    except RuntimeError:
        return None


def _attributes(url: str, folders: list[Path], covariates: Sequence[str]) -> Path | None:
    """The sample attributes; None where they cannot be had and no covariate needs them."""
    try:
        return gtex_fetch.table(url, folders)
    except RuntimeError as error:
        needed = [name for name in covariates if name in ATTRIBUTES]
        if not needed:
            return None
        raise RuntimeError(
            f"The covariates {needed} come from GTEx's sample attributes. {error} Or leave them out:"
            f" --set 'covariates={[name for name in covariates if name not in needed]}'"
        ) from error


def _named_slides(samples_df: pd.DataFrame, folder: Path, known: pd.Series) -> tuple[pd.DataFrame, list[str]]:
    """Samples with the name of their slide file where it ends in 5 instead of 6; and remarks on the files."""
    if not folder.is_dir():
        return samples_df, []
    found_df = find_slides(folder, known)
    ends_df = found_df[found_df["ends_mapped"]]
    stems = dict(zip(ends_df["sample_id"], ends_df["path"].map(lambda path: Path(path).stem), strict=True))
    n_used = int(samples_df["sample_id"].isin(list(stems)).sum())
    remarks = [f"{n_used} slide files end in 5 where the sample ends in 6"] if n_used else []
    named = samples_df["sample_id"].map(stems).fillna(samples_df["slide_id"])
    return samples_df.assign(slide_id=named), remarks


def _genes(raw: Path, name: str, url: str, folders: list[Path]) -> Path:
    """The gene table under `raw/<name>`, made from the release's gene models or from GENCODE 26."""
    target = raw / name
    if name != MADE_GENES and target.is_file():
        return target
    own = gtex_fetch.find(gtex_fetch.file_name(url), folders)
    spare = gtex_fetch.find(SPARE_GENES, folders)
    if spare and not own:
        _link(spare, target)
    else:
        _write_csv(read_gene_models(own or gtex_fetch.table(url, folders)), target)
    return target


def _write_csv(df: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the suffix decides about compression
    df.to_csv(temporary, index=False)
    os.replace(temporary, path)


def _record(table: SamplesTable, remarks: list[str], used: list[Path]) -> dict[str, Any]:
    steps = table.steps_df.to_dict("records")
    steps += [{"step": "remark", "n_left": len(table.samples_df), "n_dropped": 0, "note": r} for r in remarks]
    rna_df = table.rna_df["outcome"].value_counts().rename_axis("outcome").reset_index(name="n")
    dropped_df = table.dropped_df.groupby(["tissue", "reason"]).size().reset_index(name="n")
    return {
        "files": [{"file": str(path.resolve()), "bytes": path.stat().st_size} for path in used],
        "steps": steps,
        "rna": rna_df.to_dict("records"),
        "dropped": dropped_df.to_dict("records"),
    }
