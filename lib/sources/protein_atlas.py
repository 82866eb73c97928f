"""The Human Protein Atlas: a gene's page (XML), which of its stained images to show, and records of these.

The page `<site>/<Ensembl id>.xml` names, for each antibody of the gene, the tissues stained with it and an
image of each patient: entry / antibody / tissueExpression / data / patient / sample / assayImage / image
(schema: <https://www.proteinatlas.org/download/proteinatlas.xsd>, versions 2 and 3).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import pandas as pd
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse
from PIL import Image as Pillow

from lib.cohort.samples import id_problem
from lib.errors import InputError
from lib.whole_files import write_text

SITE = "https://www.proteinatlas.org"
RECORDS = "protein_atlas.csv"  # beside the images
COLUMNS = [
    *("gene", "symbol", "tissue", "atlas_tissue", "antibody", "validation", "image", "image_url"),
    *("page_url", "version", "licence", "licence_url", "fetched_on", "missing"),
]
VALIDATION = {"enhanced": 0, "supported": 1, "supportive": 1, "approved": 2}  # the others last
MOST_BYTES = 1 << 26  # of a page or an image: pages have some MB, images less than one
MOST_PIXELS = 64_000_000  # an image of the Atlas has 9 million
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}
_LARGE = {"rnaExpression", "cellExpression", "cellTypeExpression", "cancerExpression", "proteinstructure"}
_LICENCE = re.compile(r"Creative Commons (Attribution[\w-]* \d\.\d(?: International| Unported)?)")
_SHORT = {"Attribution": "BY", "NonCommercial": "NC", "NoDerivatives": "ND", "NoDerivs": "ND"}
_SHORT["ShareAlike"] = "SA"


class Stained(NamedTuple):
    """One image of normal tissue: its antibody and how well that is validated, tissue, patient, address."""

    antibody: str
    validation: str
    tissue: str
    patient: str
    url: str


class Page(NamedTuple):
    """What a gene's page says: its Ensembl id, the release of the Atlas, its own address, and images."""

    gene: str
    version: str
    url: str
    images: list[Stained]


def ensembl_id(*names: object) -> str:
    """The first Ensembl id of a human gene among the names, without its version; "" where there is none."""
    found = (re.fullmatch(r"(ENSG\d{11})(\.\d+\w*)?", str(name)) for name in names)
    return next((match[1] for match in found if match), "")


def atlas_tissue(tissue: str, counterparts_df: pd.DataFrame) -> tuple[str, str]:
    """The Atlas's name of a tissue, and "", or "" and why there is none.

    counterparts_df: columns tissue, atlas_tissue (missing: none), reason. A tissue that it does not list is
    looked for under its own name.
    """
    row_df = counterparts_df[counterparts_df["tissue"] == tissue]
    if row_df.empty:
        return tissue, ""
    name, reason = row_df.iloc[0][["atlas_tissue", "reason"]]
    return (
        (name, "") if isinstance(name, str) else ("", f"the Atlas has no counterpart of {tissue}: {reason}")
    )


def read_page(path: Path) -> Page:
    """A gene's page. InputError where it is no XML of the Atlas; entities and DTDs are refused."""
    gene, version, url, images = "", "", "", []
    try:
        for _, element in iterparse(str(path), events=("end",), forbid_dtd=True):
            tag = _tag(element)
            if tag == "identifier" and element.get("db") == "Ensembl":
                gene = gene or ensembl_id(element.get("id"))
            elif tag == "antibody" and element.get("id"):
                images += _stained(element)
            elif tag == "entry":
                version, url = element.get("version", ""), element.get("url", "")
            if tag in _LARGE or (tag == "antibody" and element.get("id")):
                element.clear()  # most of a page is expression values, which nobody reads here
    except DefusedXmlException as error:
        raise InputError(f"{path} declares a document type or entities, which no page does") from error
    except (ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path} is damaged, or not XML ({error})") from error
    if not gene:
        raise InputError(f"{path} is XML, but not a gene's page of the Human Protein Atlas")
    return Page(gene, version, url, images)


def _stained(antibody: Element) -> Iterator[Stained]:
    """The images of normal tissue of an antibody."""
    for expression in _children(antibody, "tissueExpression"):
        technology = expression.get("technology", "IHC")
        if expression.get("assayType") != "tissue" or technology not in ("IH", "IHC"):
            continue
        validation = next((_text(e) for e in _children(expression, "verification")), "").lower()
        for data in _children(expression, "data"):
            tissue = next((_text(e) for e in _children(data, "tissue")), "")
            for patient in _children(data, "patient"):
                who = next((_text(e) for e in _children(patient, "patientId")), "")
                for address in patient.iter():
                    if _tag(address) == "imageUrl" and _text(address):
                        yield Stained(antibody.get("id", ""), validation, tissue, who, _text(address))


def choose(page: Page, tissue: str) -> Stained | None:
    """The image to show of a gene in a tissue; None where there is none.

    Whatever it shows: of the antibodies that stained the tissue the best validated (enhanced, supported,
    approved, then the others), then the first by id; of its images the first by tissue ("Skin 1" before "Skin
    2"), number of the patient and address.
    """
    wanted = _plain(tissue)
    found = [image for image in page.images if _plain(image.tissue) == wanted]

    def order(image: Stained) -> tuple[Any, ...]:
        patient = (0, int(image.patient), "") if image.patient.isdecimal() else (1, 0, image.patient)
        rank = VALIDATION.get(image.validation, len(VALIDATION))
        return rank, image.antibody, image.tissue.lower(), patient, image.url

    return min(found, key=order, default=None)


def _plain(tissue: str) -> str:
    """A tissue's name in lower case, without the number of its group of patients."""
    return re.sub(r" \d$", "", " ".join(tissue.lower().split()))


def file_name(gene: str, tissue: str, url: str) -> str:
    """Name of the file of an image: `ENSG00000110245_skeletal_muscle.jpg`."""
    suffix = Path(url.partition("?")[0]).suffix.lower()
    words = re.sub(r"[^a-z0-9]+", "_", _plain(tissue)).strip("_")
    name = f"{ensembl_id(gene)}_{words}" + (suffix if suffix in SUFFIXES.values() else ".jpg")
    if not ensembl_id(gene) or not words or id_problem(name):
        raise InputError(f"gene {gene!r} and tissue {tissue!r} make no file name")
    return name


def check_image(path: Path) -> None:
    """Raise ValueError unless `path` is an image, whole and of a size that can be shown."""
    try:
        with Pillow.open(path, formats=tuple(SUFFIXES)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(f"an image of {image.width} x {image.height} px is larger than any here")
            image.load()
    except (OSError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise InputError(f"it is no image, or damaged ({error})") from error


# ------------------------------------------------------------------------------------------------- records


def read_records(folder: Path) -> pd.DataFrame:
    """What is recorded of the images in a folder: text, COLUMNS; no rows where nothing is."""
    path = folder / RECORDS
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    try:
        records_df = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it, and fetch again") from error
    if lacking := [name for name in COLUMNS if name not in records_df]:
        raise InputError(f"{path} lacks the columns {lacking}: delete it, and fetch again")
    return records_df[COLUMNS]


def write_records(folder: Path, records_df: pd.DataFrame) -> None:
    """Write the records, sorted, unless they are what is there."""
    records_df = records_df.sort_values(["gene", "tissue"], kind="stable", ignore_index=True)[COLUMNS]
    if not records_df.equals(read_records(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORDS, records_df.to_csv(index=False))


def record_of(records_df: pd.DataFrame, gene: str, tissue: str) -> dict[str, str]:
    """The record of a gene's image in a tissue, by any version of its id; {} where there is none."""
    same = (records_df["gene"].map(ensembl_id) == ensembl_id(gene)) & bool(ensembl_id(gene))
    found_df = records_df[((records_df["gene"] == gene) | same) & (records_df["tissue"] == tissue)]
    return {} if found_df.empty else {str(k): str(v) for k, v in found_df.iloc[0].items()}


def licence_named(html: str) -> str:
    """The Creative Commons licence that a page names first, as it words it; "" where it names none."""
    words = " ".join(re.sub(r"<[^>]*>", " ", html).replace("&nbsp;", " ").split())
    found = _LICENCE.search(words)
    return f"Creative Commons {found[1]}" if found else ""


def credit(record: Mapping[str, str]) -> str:
    """Antibody, tissue, source and licence of an image, on two lines."""
    licence = _LICENCE.fullmatch(record["licence"])
    short = record["licence"]
    if licence:
        parts, number = licence[1].split()[:2]
        short = f"CC {'-'.join(_SHORT.get(part, part) for part in parts.split('-'))} {number}"
    return f"{record['antibody']}, {record['atlas_tissue']}\nHuman Protein Atlas, {short}"


def _tag(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(element: Element) -> str:
    return (element.text or "").strip()


def _children(element: Element, tag: str) -> Iterator[Element]:
    return (child for child in element if _tag(child) == tag)
