"""GTEx's tables: found in a folder or the mirror, else downloaded, and checked for being those tables.

The portal's histology table has no download address of its own; its page is filled from the portal's API
(`/api/v2/histology/image`), which is read here page by page. Everything else lies in public buckets.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from lib.cohort.gzip_files import open_bytes
from lib.errors import InputError
from lib.sources import download
from lib.sources.http_session import NETWORK_ERRORS, DownloadError, Session, Settings
from lib.whole_files import whole_file

BUCKET = "https://storage.googleapis.com/"
PORTAL_API = "https://gtexportal.org/api/v2/histology/image"
SETTINGS = Settings(n_parallel=1)
PORTAL_PAGE = 1000  # rows per request
PORTAL_HEADER = (
    *("Tissue Sample ID", "Tissue", "Subject ID", "Sex", "Age Bracket", "Hardy Scale"),
    *("Pathology Categories", "Pathology Notes"),
)
PORTAL_KEYS = ("tissueSiteDetail", "subjectId", "sex", "ageBracket", "hardyScale")  # of the API


class Release(NamedTuple):
    """Addresses of one release's tables. `genes`: the GENCODE models it was quantified with."""

    tpm: str
    attributes: str
    phenotypes: str
    genes: str


_V7, _V8, _V10 = BUCKET + "gtex_analysis_v7/", BUCKET + "adult-gtex/", BUCKET + "adult-gtex/"
RELEASES = {
    "v7": Release(
        _V7 + "rna_seq_data/GTEx_Analysis_2016-01-15_v7_RNASeQCv1.1.8_gene_tpm.gct.gz",
        _V7 + "annotations/GTEx_v7_Annotations_SampleAttributesDS.txt",
        _V7 + "annotations/GTEx_v7_Annotations_SubjectPhenotypesDS.txt",
        _V7 + "reference/gencode.v19.genes.v7.patched_contigs.gtf",
    ),
    "v8": Release(
        _V8 + "bulk-gex/v8/rna-seq/GTEx_Analysis_2017-06-05_v8_RNASeQCv1.1.9_gene_tpm.gct.gz",
        _V8 + "annotations/v8/metadata-files/GTEx_Analysis_v8_Annotations_SampleAttributesDS.txt",
        _V8 + "annotations/v8/metadata-files/GTEx_Analysis_v8_Annotations_SubjectPhenotypesDS.txt",
        _V8 + "references/v8/reference-tables/gencode.v26.GRCh38.genes.gtf",
    ),
    "v10": Release(
        _V10 + "bulk-gex/v10/rna-seq/GTEx_Analysis_v10_RNASeQCv2.4.2_gene_tpm.gct.gz",
        _V10 + "annotations/v10/metadata-files/GTEx_Analysis_v10_Annotations_SampleAttributesDS.txt",
        _V10 + "annotations/v10/metadata-files/GTEx_Analysis_v10_Annotations_SubjectPhenotypesDS.txt",
        _V10 + "references/v10/reference-tables/gencode.v39.GRCh38.genes.gtf",
    ),
}
GO = (
    "http://release.geneontology.org/2022-07-01/ontology/go-basic.obo",
    "http://release.geneontology.org/2022-07-01/annotations/goa_human.gaf.gz",
)
# Beside a GTEx release's own name, a table is known under these.
OTHER_NAMES = {"GTExPortal.csv": ("GTEx Portal.csv", "GTEx_Portal.csv")}


def file_name(url: str) -> str:
    """Last part of an address."""
    return url.rpartition("/")[2]


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """The first of `folders` that has `name`, with or without its .gz."""
    plain = name.removesuffix(".gz")
    for folder in folders:
        for candidate in (name, plain, plain + ".gz", *OTHER_NAMES.get(name, ())):
            if (folder / candidate).is_file():
                return folder / candidate
    return None


def table(url: str, folders: Sequence[Path]) -> Path:
    """The file of an address: from `folders`, else downloaded into the first of them, resumably.

    Raises
    ------
    RuntimeError
        It is in none of the folders and cannot be downloaded; the message says where it was looked for, the
        address, and what to do.
    ValueError
        The file of that name in a folder is something else, for example an error page.
    """
    name = file_name(url)
    if here := find(name, folders):
        try:
            check_table(here)
        except ValueError as error:
            raise InputError(
                f"{here}: {error}; delete it, and it will be downloaded again, or put {name} of {url} there"
            ) from error
        return here
    target = Path(folders[0]) / name
    try:
        (row,) = download.fetch_all([download.File(target, (url,))], check_table, SETTINGS).to_dict("records")
    except RuntimeError as error:
        raise RuntimeError(_not_found(name, url, folders, error)) from error
    if row["state"] == "failed":
        raise RuntimeError(_not_found(name, url, folders, row["reason"]))
    return target


def portal(name: str, folders: Sequence[Path]) -> Path:
    """The portal's histology table as csv: from `folders`, else read from the portal's API.

    The csv has the columns of the portal's own export; it appears under its name only when complete.

    Raises
    ------
    RuntimeError
        As in `table`; also when the API answers with fewer rows than it promised.
    """
    if here := find(name, folders):
        return here
    target = Path(folders[0]) / name
    try:
        rows = _portal_rows(Session(SETTINGS._replace(n_retries=2)))
    except (DownloadError, *NETWORK_ERRORS, KeyError, ValueError) as error:
        why = f"its answer lacks {error}" if isinstance(error, KeyError) else error
        raise RuntimeError(_not_found(name, PORTAL_API, folders, why)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(PORTAL_HEADER)
        writer.writerows(rows)
    return target


def _not_found(name: str, url: str, folders: Sequence[Path], error: object) -> str:
    looked = ", ".join(str(folder) for folder in folders)
    dataset = "go" if url in GO else "gtex"
    return (
        f"{name} is in none of {looked}, and downloading it failed: {error}; download {url} on a machine with"
        f" a network and copy it into {folders[0]}, or set DATA_MIRROR to a folder with {dataset}/{name}"
    )


def _portal_rows(session: Session) -> list[list[str]]:
    """All rows of the portal's table."""
    rows: list[list[str]] = []
    n_pages = promised = 1
    page = 0
    with tqdm(desc="GTEx portal, histology table", unit="rows") as bar:
        while page < n_pages:
            with session.get(f"{PORTAL_API}?page={page}&itemsPerPage={PORTAL_PAGE}") as response:
                response.raise_for_status()
                answer = response.json()
            n_pages = int(answer["paging_info"]["numberOfPages"])
            promised = int(answer["paging_info"]["totalNumberOfItems"])
            rows += [_portal_row(record) for record in answer["data"]]
            bar.total = promised
            bar.update(len(answer["data"]))
            page += 1
    if len(rows) != promised:
        raise InputError(f"the portal promised {promised} rows and sent {len(rows)}")
    return rows


def _portal_row(record: dict) -> list[str]:
    """One record of the API as a row of PORTAL_HEADER."""
    sample = record.get("tissueSampleId") or record["histologyImageId"]
    categories = record.get("pathologyNotesCategories") or {}
    named = ", ".join(name for name, present in categories.items() if present)
    texts = [record.get(key) or "" for key in PORTAL_KEYS]
    return [sample, *texts, named, record.get("pathologyNotes") or ""]


# ------------------------------------------------------- whether a downloaded table is what its name says


# Part of a file's name, without .gz -> what its text begins with, in words and as a pattern.
KINDS = {
    ".gct": ("the line #1.2", r"#1\.2"),
    "attributes": ("a header with the column SAMPID", r"(.*\t)?SAMPID\s"),
    "phenotypes": ("a header with the column SUBJID", r"(.*\t)?SUBJID\s"),
    ".gtf": ("lines of nine tab-separated columns", r"(#.*\n|\n)*[^#\t\n][^\t\n]*(\t[^\t\n]*){8}\n"),
    ".obo": ("format-version", "format-version"),
    ".gaf": ("!gaf", "!gaf"),
}


def check_table(path: Path) -> None:
    """Raise ValueError unless a table of `RELEASES` or `GO` is that table, not an error page.

    A file that is still `<name>.part` is read to its end, which detects a truncated gzip; of one under its
    own name only the beginning is read, for it may be gigabytes.
    """
    name = path.name.removesuffix(".part").lower()
    with open(path, "rb") as file:
        start = file.read(40)
    if not start:
        raise InputError("it is empty")
    if name.endswith(".gz") and not start.startswith(b"\x1f\x8b"):
        raise InputError(f"it is not gzip; it begins with {start.decode('utf-8', 'replace')!r}")
    with open_bytes(path) as file:
        text = file.read(1 << 16).decode("utf-8", "replace").removeprefix("\ufeff")
        while path.name.endswith(".part") and file.read(1 << 20):
            pass
    for part, (expected, pattern) in KINDS.items():
        if part in name.removesuffix(".gz") and not re.match(pattern, text):
            raise InputError(f"it should begin with {expected}; it begins with {text[:40]!r}")
