"""Where GTEx's tables come from: a folder, a mirror, or the network.

The portal's histology table has no download address of its own; its page is filled from the portal's API
(`/api/v2/histology/image`), which is asked here page by page. Everything else lies in public buckets.
"""

import csv
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from lib.sources import download
from lib.sources.gtex_check import check_table

BUCKET = "https://storage.googleapis.com/"
PORTAL_API = "https://gtexportal.org/api/v2/histology/image"
PORTAL_PAGE = 1000  # rows asked for at a time
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


def table(url: str, folders: Sequence[Path], settings: download.Settings | None = None) -> Path:
    """The file of an address: from `folders`, else downloaded into the first of them, resumably.

    Raises
    ------
    RuntimeError
        It is in none of the folders and cannot be fetched; the message says where it was looked for, the
        address, and what to do.
    ValueError
        The file of that name in a folder is something else, for example an error page.
    """
    name = file_name(url)
    if here := find(name, folders):
        try:
            check_table(here)
        except ValueError as error:
            raise ValueError(
                f"{here}: {error}. Delete it and it will be fetched again, or put {name} of {url} there."
            ) from error
        return here
    target = Path(folders[0]) / name
    try:
        (row,) = download.fetch_all(
            [download.File(target, (url,))], check_table, settings or download.Settings(n_parallel=1)
        ).to_dict("records")
    except RuntimeError as error:
        raise RuntimeError(_not_found(name, url, folders, error)) from error
    if row["state"] == "failed":
        raise RuntimeError(_not_found(name, url, folders, row["reason"]))
    return target


def _not_found(name: str, url: str, folders: Sequence[Path], error: object) -> str:
    looked = ", ".join(str(folder) for folder in folders)
    kind = "go" if url in GO else "gtex"
    return (
        f"{name} is in none of {looked}, and fetching it failed: {error} Fetch {url} on a machine with a"
        f" network and copy it into {folders[0]}, or name a folder that has {kind}/{name} in DATA_MIRROR."
    )


def portal(name: str, folders: Sequence[Path], api: str | None = None, timeout_s: float = 60.0) -> Path:
    """The portal's histology table as csv: from `folders`, else asked of the portal's API.

    The csv has the columns of the portal's own export; it appears under its name only when whole.

    Raises
    ------
    RuntimeError
        As in `table`; also when the API answers with fewer rows than it promised.
    """
    if here := find(name, folders):
        return here
    target, api = Path(folders[0]) / name, api or PORTAL_API
    try:
        rows = _portal_rows(api, timeout_s)
    except (*download.NETWORK_ERRORS, KeyError, ValueError) as error:
        raise RuntimeError(_not_found(name, api, folders, f"{error!r}.")) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(PORTAL_HEADER)
        writer.writerows(rows)
    os.replace(partial, target)
    return target


def _portal_rows(api: str, timeout_s: float) -> list[list[str]]:
    """All rows of the table; a page that fails is asked for again, three times in all."""
    rows: list[list[str]] = []
    n_pages = promised = 1
    page = 0
    with tqdm(desc="GTEx portal, histology table", unit="rows") as bar:
        while page < n_pages:
            answer = _page(f"{api}?page={page}&itemsPerPage={PORTAL_PAGE}", timeout_s)
            n_pages = int(answer["paging_info"]["numberOfPages"])
            promised = int(answer["paging_info"]["totalNumberOfItems"])
            rows += [_portal_row(record) for record in answer["data"]]
            bar.total = promised
            bar.update(len(answer["data"]))
            page += 1
    if len(rows) != promised:
        raise ValueError(f"the portal promised {promised} rows and gave {len(rows)}")
    return rows


def _page(url: str, timeout_s: float, n_tries: int = 3) -> dict:
    headers = {"User-Agent": download.USER_AGENT, "Accept": "application/json"}
    for attempt in range(n_tries):
        try:
            with urllib.request.urlopen(download.http_request(url, headers), timeout=timeout_s) as response:
                return json.load(response)
        except (*download.NETWORK_ERRORS, json.JSONDecodeError):
            if attempt == n_tries - 1:
                raise
            time.sleep(2.0**attempt)
    raise AssertionError("unreachable")


def _portal_row(record: dict) -> list[str]:
    """One record of the API as a row of PORTAL_HEADER."""
    sample = record.get("tissueSampleId") or record["histologyImageId"]
    categories = record.get("pathologyNotesCategories") or {}
    named = ", ".join(name for name, is_so in categories.items() if is_so)
    texts = [record.get(key) or "" for key in PORTAL_KEYS]
    return [sample, *texts, named, record.get("pathologyNotes") or ""]
