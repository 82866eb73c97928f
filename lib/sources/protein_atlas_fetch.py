"""Stained images fetched from the Human Protein Atlas: sparingly, resumably, each with a record beside it."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import requests

from lib.errors import InputError
from lib.sources import download, protein_atlas
from lib.sources.http_session import NETWORK_ERRORS, DownloadError, Session, Settings
from lib.whole_files import write_text

PAGES = ".protein_atlas"  # folder of the pages, in that of the images
POLITE = Settings(n_parallel=1, interval_s=1.0, n_retries=3, most_bytes=protein_atlas.MOST_BYTES)
MOST_FAILURES = 3  # in a row: then the site is not asked any more
LICENCE_BYTES = 1 << 20


@dataclass(frozen=True)
class Atlas:
    """Where images are kept, whom to ask for them, and the licences that were asked for, by release."""

    folder: Path
    session: Session = field(default_factory=lambda: Session(POLITE))
    site: str = protein_atlas.SITE
    licences: dict[str, str] = field(default_factory=dict)


class _NoImageError(Exception):
    """The Atlas has no such image; says why."""


def fetch_images(wanted_df: pd.DataFrame, atlas: Atlas, say: Callable[[str], object] = print) -> pd.DataFrame:
    """Fetch the images that are not there yet, one request at a time; returns all records.

    What fails is said and can be tried again; what the Atlas does not have is recorded with the reason. The
    records are written after each image. When the network fails, or three genes in a row do, the others are
    not tried.

    Parameters
    ----------
    wanted_df : gene, symbol, tissue (of the cohort), ensembl ("": the gene has no id), atlas_tissue ("":
        there is none), reason (why there is none)
    """
    records_df = protein_atlas.read_records(atlas.folder)
    n_failures = 0
    pairs = [{str(k): str(v) for k, v in pair.items()} for pair in wanted_df.to_dict("records")]
    for n_done, pair in enumerate(pairs):
        known = protein_atlas.record_of(records_df, pair["gene"], pair["tissue"])
        if known.get("image") and (atlas.folder / known["image"]).is_file():
            continue
        try:
            made = _fetched(pair, atlas)
        except _NoImageError as error:
            made = {"missing": str(error)}
        except (DownloadError, InputError) as error:
            say(f"{pair['symbol']} ({pair['gene']}), {pair['tissue']}: {error}")
            n_failures += 1
            offline = isinstance(error.__cause__, requests.ConnectionError | requests.Timeout)
            if offline or n_failures == MOST_FAILURES:
                say(f"{len(wanted_df) - n_done - 1} more images were not asked for: try again later")
                break
            continue
        n_failures = 0
        row = dict.fromkeys(protein_atlas.COLUMNS, "")
        row |= {name: pair[name] for name in ("gene", "symbol", "tissue", "atlas_tissue")} | made
        same = (records_df["gene"] == row["gene"]) & (records_df["tissue"] == row["tissue"])
        records_df = pd.concat([records_df[~same], pd.DataFrame([row])], ignore_index=True)
        protein_atlas.write_records(atlas.folder, records_df)
    return protein_atlas.read_records(atlas.folder)


def _fetched(pair: dict[str, str], atlas: Atlas) -> dict[str, str]:
    """Fetch the image of one gene and tissue; the part of its record that the Atlas tells."""
    if pair["reason"]:
        raise _NoImageError(pair["reason"])
    if not pair["ensembl"]:
        raise _NoImageError(f"{pair['gene']} has no Ensembl id, by which the Atlas lists genes")
    page = _page(pair["ensembl"], atlas)
    image = protein_atlas.choose(page, pair["atlas_tissue"])
    if image is None:
        raise _NoImageError(f"the Atlas shows no {pair['atlas_tissue']} stained for this gene")
    url = _of_the_atlas(image.url, atlas.site)
    name = protein_atlas.file_name(page.gene, image.tissue, url)
    _fetch(download.File(atlas.folder / name, (url,)), protein_atlas.check_image, atlas)
    licence_url = f"{atlas.site}/about/licence"
    return {
        "atlas_tissue": image.tissue,
        "antibody": image.antibody,
        "validation": image.validation,
        "image": name,
        "image_url": url,
        "page_url": page.url if _is_of_the_atlas(page.url, atlas.site) else f"{atlas.site}/{page.gene}",
        "version": page.version,
        "licence": _licence(licence_url, page.version, atlas),
        "licence_url": licence_url,
        "fetched_on": time.strftime("%Y-%m-%d"),
    }


def _page(gene: str, atlas: Atlas) -> protein_atlas.Page:
    """The page of a gene, fetched once."""
    path = atlas.folder / PAGES / f"{gene}.xml"

    def check(path: Path) -> None:
        if (found := protein_atlas.read_page(path).gene) != gene:
            raise InputError(f"it is the page of {found}, not of {gene}")

    _fetch(download.File(path, (f"{atlas.site}/{gene}.xml",)), check, atlas)
    return protein_atlas.read_page(path)


def _fetch(file: download.File, check: download.Check, atlas: Atlas) -> None:
    """Fetch a file unless it is there and whole."""
    try:
        download.fetch(file, check, atlas.session)
    except download.NowhereError as error:
        raise _NoImageError(f"the Atlas does not have {file.urls[0]}") from error


def _licence(url: str, version: str, atlas: Atlas) -> str:
    """The licence that the site names: it differs between releases, so it is read once for each."""
    path = atlas.folder / PAGES / f"licence_{re.sub(r'[^0-9.]', '', version)}.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if version not in atlas.licences:
        try:
            with atlas.session.get(url) as response:
                body = response.raw.read(LICENCE_BYTES) if response.ok else b""
        except (DownloadError, *NETWORK_ERRORS):
            body = b""
        if named := protein_atlas.licence_named(body.decode("utf-8", "replace")):
            write_text(path, named)
        atlas.licences[version] = named or f"see {url}"
    return atlas.licences[version]


def _of_the_atlas(url: str, site: str) -> str:
    """The address of an image, by https where it is the Atlas's own; InputError where it is elsewhere."""
    if not _is_of_the_atlas(url, site):
        raise InputError(f"the Atlas's page names an image that lies elsewhere: {url}")
    return re.sub(r"^http://(?=[\w.-]*proteinatlas\.org/)", "https://", url)


def _is_of_the_atlas(url: str, site: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that enclose no address
        return False
    host = parts.hostname or ""
    known = host == "proteinatlas.org" or host.endswith(".proteinatlas.org")
    return parts.scheme in ("http", "https") and (known or parts.netloc == urlsplit(site).netloc)
