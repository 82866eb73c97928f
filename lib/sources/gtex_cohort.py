"""GTEx as the source of a cohort: its tables found or downloaded, and turned into the inputs of a cohort.

`GtexCohort.make_inputs` leaves in data/raw/<cohort>: `samples.csv`, the expression table (a link to the
release's GCT), `genes.csv.gz`, and `slides_wanted.csv`, the list for `python -m lib.gtex download`.
"""

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lib.cohort.expression import rna_ids
from lib.cohort.splits import read_split_file
from lib.errors import MissingInputError
from lib.sources import gtex_fetch
from lib.sources.gtex_samples import (
    ATTRIBUTES,
    SampleChoice,
    SamplesTable,
    pathology_indicators,
    samples_table,
)
from lib.sources.gtex_tables import (
    read_gene_models,
    read_portal,
    read_sample_attributes,
    read_subject_phenotypes,
)
from lib.sources.mirror import Places
from lib.whole_files import whole_file

GO_COMMAND = "python -m lib.gtex go"
WANTED = "slides_wanted.csv"  # the list of slides to download
MADE_EXPRESSION, MADE_GENES = "expression.gct.gz", "genes.csv.gz"  # names of the files made here
MIN_PATHOLOGY = 20  # samples that a pathology category needs to become a column
# Gene table of GENCODE 26, v8's; used for other releases where their own gene models cannot be had.
SPARE_GENES, SPARE_MODELS = "genes_gencode_v26.csv.gz", "gencode.v26."


@dataclass(frozen=True)
class GtexCohort(SampleChoice):
    """A cohort of GTEx: the choice of samples, the release, and the names of the input files.

    Parameters
    ----------
    release : v7 (the paper's), v8 or v10: expression, sample attributes, subject phenotypes, gene models.
    portal_file, expression_file, genes_file : names in the cohort's folder or where GTEx's tables are looked
        for. An expression file of that name is used if present; else the name, if it is a GCT's, becomes a
        link to the release's TPM. Without genes_file no gene table is made.
    split_file : published list of samples and their sets; when given, it decides which samples there are.
    """

    release: str = "v7"
    portal_file: str = "GTExPortal.csv"
    expression_file: str = MADE_EXPRESSION
    genes_file: str = ""
    split_file: str | Path = ""

    def make_inputs(self, raw: Path, places: Places) -> dict[str, Any]:
        """Write the inputs of the cohort to its folder `raw`.

        Returns
        -------
        dict, to be kept as json: `files` (those used, and their sizes), `steps` and `dropped` (tissue samples
        by tissue and reason), each of the last two a list of records.

        Raises
        ------
        RuntimeError for a table that is nowhere and cannot be downloaded; FileNotFoundError for an
        expression_file that is not a GCT and missing; ValueError as `samples_table`.
        """
        raw.mkdir(parents=True, exist_ok=True)
        urls, folders = gtex_fetch.RELEASES[self.release], places.gtex
        portal_path = gtex_fetch.find(self.portal_file, [raw]) or gtex_fetch.portal(self.portal_file, folders)
        portal_df = read_portal(portal_path)
        expression_path = _expression(raw, self.expression_file, urls.tpm, folders)
        attributes_path = _optional(urls.attributes, folders, self.covariates)
        subjects_path = _optional(urls.phenotypes, folders)  # the portal's table mostly has the same
        table = samples_table(
            portal_df,
            rna_ids(expression_path),
            read_sample_attributes(attributes_path) if attributes_path else None,
            read_subject_phenotypes(subjects_path) if subjects_path else None,
            choice=self,
            listed=list(read_split_file(self.split_file).index) if self.split_file else None,
        )
        samples_df, remarks = table.samples_df, []
        if attributes_path is None:
            missing = gtex_fetch.file_name(urls.attributes)
            remarks.append(f"{missing} is missing, and so are {', '.join(ATTRIBUTES)}")
        samples_df = samples_df.join(pathology_indicators(samples_df, MIN_PATHOLOGY))
        _write_csv(samples_df, raw / "samples.csv")
        _write_csv(samples_df[["sample_id", "slide_id", "tissue"]], raw / WANTED)
        genes_path = _genes(raw, self.genes_file, urls.genes, folders, remarks) if self.genes_file else None
        go_paths = _gene_ontology(places.go, remarks) if places.go else []
        used = (portal_path, expression_path, attributes_path, subjects_path, genes_path, *go_paths)
        return _record(table, remarks, [path for path in used if path])


def _expression(raw: Path, name: str, url: str, folders: Sequence[Path]) -> Path:
    """The expression table `raw/<name>`: the user's own file, or a link to one found or downloaded."""
    target = raw / name
    if target.is_file() and not (name == MADE_EXPRESSION and target.is_symlink()):
        return target
    found = gtex_fetch.find(name, folders) if name != MADE_EXPRESSION else None
    if not found and not name.lower().endswith((".gct", ".gct.gz")):
        raise MissingInputError(
            f"expression_file = {name!r}: {target} is missing; without expression_file"
            f" {gtex_fetch.file_name(url)} is found or downloaded"
        )
    _link(found or gtex_fetch.table(url, folders), target)
    return target


def _link(source: Path, target: Path) -> None:
    """Make `target` a link to `source` (a copy where links are not allowed), replacing an older link."""
    with whole_file(target) as temporary:
        try:
            os.symlink(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _optional(url: str, folders: Sequence[Path], covariates: Sequence[str] = ()) -> Path | None:
    """A table that only `covariates` need; None where it cannot be had and none of them is in it."""
    try:
        return gtex_fetch.table(url, folders)
    except RuntimeError as error:
        needed = [name for name in covariates if name in ATTRIBUTES]
        if not needed:
            return None
        raise RuntimeError(
            f"covariates {needed} come from GTEx's sample attributes: {error}; or leave them out:"
            f" --set {shlex.quote('covariates=' + json.dumps([n for n in covariates if n not in needed]))}"
        ) from error


def _genes(raw: Path, name: str, url: str, folders: Sequence[Path], remarks: list[str]) -> Path:
    """The gene table `raw/<name>`, made from the release's gene models or from GENCODE 26."""
    target, models = raw / name, gtex_fetch.file_name(url)
    if name != MADE_GENES and target.is_file():
        return target
    spare = gtex_fetch.find(SPARE_GENES, folders)
    same_models = models.startswith(SPARE_MODELS) and not gtex_fetch.find(models, folders)
    if not (spare and same_models):
        try:
            _write_csv(read_gene_models(gtex_fetch.table(url, folders)), target)
            return target
        except RuntimeError:
            if not spare:
                raise
        remarks.append(f"{models} is missing: names and biotypes of genes are those of {spare.name}")
    _link(spare, target)
    return target


def _gene_ontology(folder: Path, remarks: list[str]) -> list[Path]:
    """The Gene Ontology's files, downloaded where missing; notebook 05 leaves Table 6 out without them."""
    try:
        return [gtex_fetch.table(url, [folder]) for url in gtex_fetch.GO]
    except RuntimeError:
        remarks.append(f"the Gene Ontology could not be downloaded: Table 6 needs it ({GO_COMMAND})")
        return []


def _write_csv(df: pd.DataFrame, path: Path) -> None:
    with whole_file(path) as temporary:  # its suffix decides about compression
        df.to_csv(temporary, index=False)


def _record(table: SamplesTable, remarks: list[str], used: list[Path]) -> dict[str, Any]:
    steps = table.steps_df.to_dict("records")
    steps += [{"step": "remark", "n_left": len(table.samples_df), "n_dropped": 0, "note": r} for r in remarks]
    dropped_df = table.dropped_df.groupby(["tissue", "reason"]).size().reset_index(name="n")
    return {
        "files": [{"file": str(path.resolve()), "bytes": path.stat().st_size} for path in used],
        "steps": steps,
        "dropped": dropped_df.to_dict("records"),
    }
