"""GTEx: ids, portal and annotation tables, the samples table of a cohort, and which slides to download.

A tissue sample `GTEX-11NSD-0526` has one slide and none, one or several RNA samples
`GTEX-11NSD-0526-SM-5A5LT`. Slide files and some published lists end in 5 where the portal and the RNA ids end
in 6 (METHOD section 1).

    python -m lib.gtex download --tissue Liver --max-slides 5
"""

import argparse
import difflib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib import download
from lib.gtex_tables import (
    TISSUE_SAMPLE,
    read_portal,
    read_rna_ids,
    read_sample_attributes,  # noqa: F401 (all readers can be had from here)
    read_subject_phenotypes,  # noqa: F401
    require_unique,
)

SLIDE_URL = "https://brd.nci.nih.gov/brd/imagedownload/"
SLIDE_BYTES = 300e6  # where the image service does not tell: a 20x slide of one or two pieces of tissue
BUCKET = "https://storage.googleapis.com/"
TABLE_URLS = {
    "v7": (
        BUCKET + "gtex_analysis_v7/rna_seq_data/GTEx_Analysis_2016-01-15_v7_RNASeQCv1.1.8_gene_tpm.gct.gz",
        BUCKET + "gtex_analysis_v7/annotations/GTEx_v7_Annotations_SampleAttributesDS.txt",
        BUCKET + "gtex_analysis_v7/annotations/GTEx_v7_Annotations_SubjectPhenotypesDS.txt",
    ),
    "v8": (
        BUCKET + "adult-gtex/bulk-gex/v8/rna-seq/GTEx_Analysis_2017-06-05_v8_RNASeQCv1.1.9_gene_tpm.gct.gz",
        BUCKET
        + "adult-gtex/annotations/v8/metadata-files/GTEx_Analysis_v8_Annotations_SampleAttributesDS.txt",
        BUCKET
        + "adult-gtex/annotations/v8/metadata-files/GTEx_Analysis_v8_Annotations_SubjectPhenotypesDS.txt",
    ),
    "v10": (
        BUCKET + "adult-gtex/bulk-gex/v10/rna-seq/GTEx_Analysis_v10_RNASeQCv2.4.2_gene_tpm.gct.gz",
        BUCKET
        + "adult-gtex/annotations/v10/metadata-files/GTEx_Analysis_v10_Annotations_SampleAttributesDS.txt",
        BUCKET
        + "adult-gtex/annotations/v10/metadata-files/GTEx_Analysis_v10_Annotations_SubjectPhenotypesDS.txt",
    ),
}


class SamplesTable(NamedTuple):
    """`samples_df`: a row per slide with RNA. `rna_df`: a row per RNA sample (rna_id, sample_id, ends_mapped,
    outcome). `steps_df`: what each step kept and dropped (step, n_left, n_dropped, note).
    """

    samples_df: pd.DataFrame
    rna_df: pd.DataFrame
    steps_df: pd.DataFrame


def tissue_sample_id(text: str) -> str:
    """First three dash-separated fields of a slide, RNA or tile name: `GTEX-11NSD-0526`."""
    return "-".join(str(text).split("-")[:3])


def match_tissue(name: str, vocabulary: Iterable[str]) -> str:
    """The tissue of `vocabulary` (SMTSD names) that `name` means.

    The paper's `Brain—Cerebellum`, the portal's `Brain_Cerebellum` and names without their bracket (`Skin—Sun
    Exposed`) are understood. Raises ValueError naming the nearest tissues otherwise.
    """
    vocabulary = list(dict.fromkeys(vocabulary))
    by_key: dict[str, set[str]] = {}
    for tissue in vocabulary:
        for key in {_tissue_key(tissue), _tissue_key(re.sub(r"\(.*?\)", "", tissue))}:
            by_key.setdefault(key, set()).add(tissue)
    found = {name} if name in vocabulary else by_key.get(_tissue_key(name), set())
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise ValueError(f"tissue {name!r} can mean {sorted(found)}; give the full name.")
    near = difflib.get_close_matches(name, vocabulary, n=3, cutoff=0.3)
    raise ValueError(
        f"no tissue {name!r} among {len(vocabulary)}; nearest: {near or sorted(vocabulary)[:3]}."
    )


def match_sample_ids(ids: Sequence[str], known: Iterable[str]) -> pd.DataFrame:
    """Pair RNA, slide-file or list ids with tissue samples on their first three fields.

    Returns
    -------
    DataFrame, a row per id in the given order: id, sample_id (`""` when there is none), ends_mapped (True
    where the final 5 of the id had to be read as 6; never done when the id exists as it is).
    """
    known = set(known)
    keys = [tissue_sample_id(text) for text in ids]
    sixes = [key[:-1] + "6" if key.endswith("5") else key for key in keys]
    mapped = [key not in known and six in known for key, six in zip(keys, sixes, strict=True)]
    chosen = [six if m else key for key, six, m in zip(keys, sixes, mapped, strict=True)]
    return pd.DataFrame(
        {"id": list(ids), "sample_id": [c if c in known else "" for c in chosen], "ends_mapped": mapped}
    )


def samples_table(
    portal_df: pd.DataFrame,
    rna_ids: Sequence[str],
    attributes_df: pd.DataFrame | None = None,
    subjects_df: pd.DataFrame | None = None,
    tissues: Sequence[str] | None = None,
    max_slides_per_tissue: int | Mapping[str, int] | None = None,
    min_slides_per_tissue: int = 1,
    seed: int = 0,
) -> SamplesTable:
    """Tissue samples that have a slide and RNA, with covariates and a count at every step (METHOD section 1).

    Parameters
    ----------
    portal_df : of `read_portal`. rna_ids : column names of the expression table (`read_rna_ids`).
    attributes_df, subjects_df : of `read_sample_attributes`, `read_subject_phenotypes`; covariates are added
        where given (the mean over a slide's RNA samples).
    tissues : names to keep, in any style `match_tissue` knows; None keeps all.
    max_slides_per_tissue : cap, one for all or by tissue. The choice is by a hash of seed and id, so a
        smaller cap gives a subset of a larger one, and new samples do not reshuffle the old.
    min_slides_per_tissue : tissues with fewer slides (before the cap) are left out.

    Returns
    -------
    SamplesTable. samples_df, sorted by tissue and id: sample_id, slide_id (the same), donor, tissue, sex,
    age_bracket, hardy_scale, pathology_categories, pathology_notes, rin, ischaemic_time_min,
    fixative_time_min, autolysis_score (those the attributes have), n_rna, rna_ids (joined by `|`).

    Raises
    ------
    ValueError when nothing is left (three ids of each side are shown), ids repeat, or a tissue is unknown.
    """
    require_unique(pd.Series(list(rna_ids), dtype="str"), "RNA sample ids")
    rna_df = match_sample_ids(rna_ids, portal_df["sample_id"]).rename(columns={"id": "rna_id"})
    rna_df["outcome"] = np.where(rna_df["sample_id"].ne(""), "paired", rna_df["rna_id"].map(_why_unpaired))
    paired_df = rna_df[rna_df["sample_id"].ne("")]
    if paired_df.empty:
        raise ValueError(
            f"no RNA sample belongs to a tissue sample of the portal table."
            f" RNA: {list(rna_ids)[:3]} ({len(rna_ids)});"
            f" portal: {portal_df['sample_id'].head(3).tolist()} ({len(portal_df)}). Are both GTEx tables?"
        )
    steps = [
        ("tissue samples in the portal table", len(portal_df), 0, f"{portal_df['donor'].nunique()} donors"),
        ("RNA samples in the expression table", len(rna_df), 0, ""),
        ("RNA samples whose tissue sample has a slide", len(paired_df), len(rna_df) - len(paired_df),
         _counts_text(rna_df.loc[rna_df["sample_id"].eq(""), "outcome"])),
        ("of these, ids read with 6 for their final 5", int(paired_df["ends_mapped"].sum()), 0, ""),
    ]  # fmt: skip
    by_sample = paired_df.groupby("sample_id")["rna_id"]
    samples_df = portal_df[portal_df["sample_id"].isin(paired_df["sample_id"])].copy()
    samples_df.insert(1, "slide_id", samples_df["sample_id"])
    samples_df["n_rna"] = samples_df["sample_id"].map(by_sample.size())
    samples_df["rna_ids"] = samples_df["sample_id"].map(by_sample.agg("|".join))
    n_several = int((samples_df["n_rna"] > 1).sum())
    steps.append(("slides with RNA", len(samples_df), len(portal_df) - len(samples_df),
                  f"{n_several} with several RNA samples; the others have a slide but no RNA"))  # fmt: skip
    if tissues is not None:
        wanted = {match_tissue(tissue, portal_df["tissue"]) for tissue in tissues}
        samples_df = _keep(samples_df, samples_df["tissue"].isin(wanted), f"in {len(wanted)} tissues", steps)
    size = samples_df.groupby("tissue")["sample_id"].transform("size")
    if min_slides_per_tissue > 1:
        step = f"in tissues of at least {min_slides_per_tissue} slides"
        samples_df = _keep(samples_df, size >= min_slides_per_tissue, step, steps)
    if max_slides_per_tissue is not None:
        kept = _within_cap(samples_df, max_slides_per_tissue, seed)
        samples_df = _keep(samples_df, kept, "after the cap per tissue", steps)
    if samples_df.empty:
        raise ValueError("no slide is left: " + "; ".join(f"{step} {n}" for step, n, *_ in steps))
    samples_df = _add_covariates(samples_df, attributes_df, subjects_df)
    samples_df = samples_df.sort_values(["tissue", "sample_id"]).reset_index(drop=True)
    steps_df = pd.DataFrame(steps, columns=["step", "n_left", "n_dropped", "note"])
    return SamplesTable(samples_df, rna_df, steps_df)


def pathology_indicators(samples_df: pd.DataFrame, min_samples: int = 20) -> pd.DataFrame:
    """One bool column `pathology_<category>` per category that at least `min_samples` rows have; the index is
    kept.
    """
    listed = samples_df["pathology_categories"].str.split(r"\s*,\s*", regex=True).explode().str.strip()
    wide_df = pd.crosstab(listed.index, listed).astype(bool).drop(columns="", errors="ignore")
    wide_df = wide_df.loc[:, wide_df.sum() >= min_samples].reindex(samples_df.index, fill_value=False)
    wide_df.columns = [f"pathology_{name}" for name in wide_df.columns]
    return wide_df


def slide_files(
    sample_ids: Sequence[str], folder: str | Path, base_url: str = SLIDE_URL
) -> list[download.File]:
    """What to download: `<folder>/<sample id>.svs`, asked for under its own id and, where that is unknown to
    the image service, under the one with a final 5.
    """
    base = base_url if base_url.endswith("/") else base_url + "/"
    files = []
    for sample_id in sample_ids:
        if not TISSUE_SAMPLE.fullmatch(sample_id):
            raise ValueError(f"{sample_id!r} is not a GTEx tissue sample id such as 'GTEX-117YW-0126'.")
        other = sample_id[:-1] + "5" if sample_id.endswith("6") else None
        urls = tuple(base + name for name in (sample_id, other) if name)
        files.append(download.File(Path(folder) / f"{sample_id}.svs", urls))
    return files


def find_slides(folder: str | Path, sample_ids: Iterable[str]) -> pd.DataFrame:
    """The `.svs` files of a folder and their tissue samples: path, sample_id (`""` for a file that belongs to
    none of `sample_ids`), ends_mapped (the file's final 5 was read as 6).

    Raises ValueError when two files belong to one sample.
    """
    paths = sorted(Path(folder).glob("*.svs"))
    found_df = match_sample_ids([path.stem for path in paths], sample_ids)
    found_df.insert(0, "path", [str(path) for path in paths])
    twice = found_df[found_df["sample_id"].ne("") & found_df["sample_id"].duplicated(keep=False)]
    if not twice.empty:
        raise ValueError(
            f"{folder}: {len(twice)} files share samples, first {twice['path'].tolist()[:2]}; keep one."
        )
    return found_df.drop(columns="id")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `download` slides, `tables` of a release. Exit code 1 when a file could not be had."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "tables":
            files = [
                download.File(Path(options.folder) / Path(u).name, (u,)) for u in TABLE_URLS[options.release]
            ]
            check, assumed = None, 0.0
        else:
            files = slide_files(_chosen_slides(options), options.folder, options.base_url)
            check, assumed = download.check_slide, SLIDE_BYTES
        settings = download.Settings(n_parallel=options.parallel, interval_s=options.interval)
        if options.dry_run:
            print(download.estimate(files, settings, assumed))
            return 0
        report_df = download.fetch_all(files, check, settings, assumed)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; partial files are kept, the same command goes on from them", file=sys.stderr)
        return 130
    failed_df = report_df[report_df["state"].eq("failed")]
    for row in failed_df.itertuples():
        print(f"failed: {row.path}: {row.reason}", file=sys.stderr)
    print(_counts_text(report_df["state"]), f"in {options.folder}")
    return 1 if len(failed_df) else 0


def _chosen_slides(options: argparse.Namespace) -> list[str]:
    portal_df = read_portal(options.portal)
    if options.rna:
        tissues = options.tissue or None
        table = samples_table(portal_df, read_rna_ids(options.rna), None, None, tissues, options.max_slides)
        return table.samples_df["sample_id"].tolist()
    wanted = {match_tissue(tissue, portal_df["tissue"]) for tissue in options.tissue}
    chosen_df = portal_df[portal_df["tissue"].isin(wanted)] if wanted else portal_df
    if options.max_slides is not None:
        chosen_df = chosen_df[_within_cap(chosen_df, options.max_slides, seed=0)]
    return sorted(chosen_df["sample_id"])


def _parser() -> argparse.ArgumentParser:
    raw = Path(__file__).resolve().parents[1] / "data" / "raw" / "gtex"
    mirror = Path(os.environ["DATA_MIRROR"]) / "gtex" if "DATA_MIRROR" in os.environ else raw
    parser = argparse.ArgumentParser(
        prog="python -m lib.gtex", description="Download GTEx slides and tables."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    slides = commands.add_parser("download", help="slides, from the portal's histology table")
    slides.add_argument("--tissue", action="append", default=[], help="tissue, may be repeated; default: all")
    slides.add_argument("--max-slides", type=_positive, help="at most so many slides per tissue")
    slides.add_argument("--portal", default=mirror / "GTExPortal.csv", help="default: %(default)s")
    slides.add_argument("--rna", help="GCT; only slides with RNA in it are fetched")
    slides.add_argument("--base-url", default=SLIDE_URL, help="default: %(default)s")
    slides.add_argument("--folder", default=raw / "slides", help="default: %(default)s")
    tables = commands.add_parser("tables", help="gene TPM, sample attributes, subject phenotypes")
    tables.add_argument("--release", choices=sorted(TABLE_URLS), default="v7", help="the paper used v7")
    tables.add_argument("--folder", default=raw, help="default: %(default)s")
    for command in (slides, tables):
        command.add_argument("--parallel", type=_positive, default=4, help="connections at a time, up to 16")
        command.add_argument("--interval", type=float, default=0.5, help="seconds between two requests")
        command.add_argument("--dry-run", action="store_true", help="only estimate size and time")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _why_unpaired(rna_id: str) -> str:
    """GTEx numbers its aliquots: 0011 is the brain bank's (regions R1a to R11b), below that blood and cell
    lines.
    """
    aliquot = tissue_sample_id(rna_id).rpartition("-")[2]
    if aliquot == "0011":
        return "brain region, no slide of its own"
    return (
        "blood or cell line, no slide"
        if aliquot.isdigit() and int(aliquot) < 11
        else "tissue sample not in table"
    )


def _within_cap(samples_df: pd.DataFrame, cap: int | Mapping[str, int], seed: int) -> pd.Series:
    digest = samples_df["sample_id"].map(lambda s: hashlib.sha256(f"{seed}:{s}".encode()).hexdigest())
    rank = digest.groupby(samples_df["tissue"]).rank(method="first")
    if not isinstance(cap, Mapping):
        return rank <= cap
    caps = {match_tissue(tissue, samples_df["tissue"]): n for tissue, n in cap.items()}
    return rank <= samples_df["tissue"].map(caps).fillna(np.inf)


def _keep(samples_df: pd.DataFrame, keep: pd.Series, step: str, steps: list[tuple]) -> pd.DataFrame:
    gone = samples_df.loc[~keep, "tissue"]
    steps.append((f"slides {step}", int(keep.sum()), len(gone), f"{gone.nunique()} tissues touched"))
    return samples_df[keep]


def _add_covariates(
    samples_df: pd.DataFrame, attributes_df: pd.DataFrame | None, subjects_df: pd.DataFrame | None
) -> pd.DataFrame:
    if attributes_df is not None:
        long_df = (
            samples_df.set_index("sample_id")["rna_ids"]
            .str.split("|")
            .explode()
            .rename("rna_id")
            .reset_index()
        )
        numbers = attributes_df.columns.difference(["rna_id", "rna_tissue"], sort=False)
        long_df = long_df.merge(
            attributes_df, on="rna_id", how="left", validate="many_to_one", indicator=True
        )
        if long_df["_merge"].eq("left_only").all():
            raise ValueError(
                f"no RNA sample occurs in the sample attributes: {long_df['rna_id'].head(3).tolist()} against"
                f" {attributes_df['rna_id'].head(3).tolist()}."
            )
        means_df = long_df.groupby("sample_id")[list(numbers)].mean()
        samples_df = samples_df.join(means_df, on="sample_id")
    if subjects_df is not None:
        by_donor = subjects_df.set_index("donor")
        for column in ("sex", "age_bracket", "hardy_scale"):
            theirs = samples_df["donor"].map(by_donor[column]).fillna("")
            samples_df[column] = samples_df[column].where(samples_df[column].ne(""), theirs)
    ends = ["n_rna", "rna_ids"]
    return samples_df[[c for c in samples_df.columns if c not in ends] + ends]


def _tissue_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _counts_text(values: pd.Series) -> str:
    return ", ".join(f"{n} {value}" for value, n in values.value_counts().items())


if __name__ == "__main__":
    sys.exit(main())
