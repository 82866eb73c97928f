"""The report a run leaves behind: figures/<cohort>/index.html, for people without Python.

One file that opens from disk and fetches nothing: numbers, a searchable table of gene-feature pairs with
a card for each, every figure and table with its caption, in the order of the notebooks, parameters and
versions. Figures are inside the page until it grows large; from there on they are taken from beside it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
from PIL import Image

from lib.artefacts import NOTEBOOKS
from lib.config import ROOT
from lib.explore import report_pairs
from lib.store import Store

ROWS_SHOWN = 200  # of a table on the page; the csv beside it has them all
LIMIT_BYTES = 20_000_000  # of figures inside the page
OTHER = "other"  # group of files that no notebook is seen to save


def build(store: Store) -> Path:
    """Write figures/<cohort>/index.html from what lies in that folder; returns its path."""
    folder = store.figures
    folder.mkdir(parents=True, exist_ok=True)
    stores = {store.config.run_name: store}
    stores |= {name: found for name, (found, _) in store.networks(()).items() if name not in stores}
    template = Path(__file__).with_name("report_page.html.j2")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template.read_text(encoding="utf-8")).render(
        cohort=store.config.cohort,
        title=store.config.title or store.config.cohort,
        synthetic=store.config.synthetic_data,
        cohort_numbers=cohort_numbers(store),
        networks=[(name, network_numbers(found)) for name, found in stores.items()],
        pairs=[found for found in map(report_pairs.payload, stores.values()) if found],
        sections=sections(store, list(stores)),
        notebooks=_notebook_pages(store),
        parameters=store.config.model_dump(mode="json"),
        versions=store.facts("samples").get("versions", {}),
        made_at=store.facts("samples").get("made_at", ""),
    )
    index = folder / "index.html"
    temporary = folder / ".index.html.tmp"
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(index)
    return index


def cohort_numbers(store: Store) -> list[tuple[str, str]]:
    """What the cohort is, as (words, number); what has not been made yet is left out."""
    numbers = []
    if store.is_current("samples"):
        samples_df = store.load("samples")
        sets = samples_df["split"].value_counts()
        split = " / ".join(f"{sets.get(name, 0):,}" for name in ("train", "validation", "test"))
        numbers += [
            ("samples", f"{len(samples_df):,}"),
            ("to train / validate / test", split),
            ("slides", f"{samples_df['slide_id'].nunique():,}"),
            ("donors", f"{samples_df['donor'].nunique():,}"),
            ("tissues", f"{samples_df['tissue'].nunique():,}"),
        ]
    if store.is_current("tiles"):
        numbers.append(("tiles", f"{len(store.load('tiles')):,}"))
    if store.is_current("expression"):
        numbers.append(("genes", f"{len(store.load('expression')):,}"))
    return numbers


def network_numbers(store: Store) -> list[tuple[str, str]]:
    """Accuracy and pairs of one network, as (words, number); what is not made or not current is left out."""
    config, numbers = store.config, []
    if store.is_current("accuracy"):
        accuracy_df = store.load("accuracy")
        shared_slides = store.load("samples")["slide_id"].duplicated().any()  # spots are samples, not slides
        for row in accuracy_df[accuracy_df["split"] == "test"].itertuples():
            level = "sample" if row.level == "slide" and shared_slides else row.level
            words, number = f"of {row.n:,} test {level}s named rightly", f"{row.accuracy:.1%}"
            if pd.notna(row.low):
                words += " (95 % interval over donors)"
                number += f" ({row.low:.0%} to {row.high:.0%})"
            numbers.append((words, number))
    if store.is_current("pairs"):
        expressed = store.load("pairs")["max_median_log2"] >= config.e_threshold
        words = (
            f"gene-feature pairs with |r| ≥ {config.r_threshold:g}, genes of median ≥ {config.e_threshold:g}"
        )
        numbers.append((words, f"{int(expressed.sum()):,}"))
    if store.is_current("gene_significance"):
        genes_df = store.load("gene_significance")
        words = f"of {len(genes_df):,} genes follow a feature within tissues (q ≤ {config.q_threshold:g})"
        numbers.append((words, f"{int((genes_df['q'] <= config.q_threshold).sum()):,}"))
    if store.is_current("reproducibility"):
        found_df = store.load("reproducibility")
        words = "r between validation and test correlations, over all pairs"
        numbers.append((words, f"{found_df.loc['reproducibility_r', 'raw']:.2f}"))
    return numbers


def sections(store: Store, networks: Sequence[str]) -> list[dict[str, Any]]:
    """Figures and tables by network and notebook, in running order.

    The first section is the cohort's; then each network's, those of `networks` first. A section is
    {name, groups}, a group {notebook, question, page, items}, an item {kind, id, caption, file, ...}.
    """
    order = saving_order(ROOT / "notebooks")
    found: dict[str, dict[str, list[tuple]]] = {"": {}} | {name: {} for name in networks}
    for path in sorted([*store.figures.glob("*.png"), *store.figures.glob("*.csv")]):
        stem, _, network = path.stem.partition("__")
        at, notebook = _place(stem, order)
        found.setdefault(network, {}).setdefault(notebook, []).append((at, stem, path))
    budget = [LIMIT_BYTES]
    made = []
    for network, by_notebook in found.items():
        groups = []
        for notebook in sorted(by_notebook, key=lambda name: (name == OTHER, name)):
            ordered = sorted(by_notebook[notebook], key=lambda entry: (entry[0], _natural(entry[1])))
            declared = NOTEBOOKS.get(notebook)
            page = store.figures / "notebooks" / (f"{notebook}__{network}" if network else notebook)
            page = page.with_name(page.name + ".html")
            groups.append(
                {
                    "notebook": notebook,
                    "question": declared.question if declared else "Further files",
                    "page": f"notebooks/{page.name}" if page.is_file() else "",
                    "items": [_item(path, budget) for _, _, path in ordered],
                }
            )
        if groups:
            made.append({"name": network, "groups": groups})
    return made


def saving_order(folder: Path) -> list[tuple[str, re.Pattern]]:
    """(notebook, pattern of the file stem) of every save_figure and save_table, in running order."""
    order = []
    for path in sorted(folder.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for stem in re.findall(r'save_(?:figure|table)\(\s*f?"([^"]+)"', cell.source):
                pattern = ".+".join(re.escape(part) for part in re.split(r"\{[^}]*\}", stem))
                order.append((path.stem, re.compile(pattern)))
    return order


def forget_unwritten(store: Store, notebook: str, since: float) -> list[str]:
    """Remove the figures and tables that a notebook saved before `since` and not after: no longer its result.

    Of a notebook that ran to its end, for this network and the cohort. Only what `Store` saved with a caption
    is removed.

    Parameters
    ----------
    since : when the run began, in seconds since the epoch, by the clock of the disk that holds the figures

    Returns
    -------
    Names of the files removed, PDFs and captions apart.
    """
    order, removed = saving_order(ROOT / "notebooks"), []
    for sidecar in sorted([*store.figures.glob("*.png.json"), *store.figures.glob("*.csv.json")]):
        path = sidecar.with_suffix("")
        stem, _, network = path.stem.partition("__")
        if network not in ("", store.config.run_name) or _place(stem, order)[1] != notebook:
            continue
        if sidecar.stat().st_mtime < since:
            also = [path.with_suffix(".pdf")] if path.suffix == ".png" else []
            for file in (path, *also, sidecar):
                file.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def _place(stem: str, order: Sequence[tuple[str, re.Pattern]]) -> tuple[int, str]:
    """Where in the running order a file was saved, and by which notebook."""
    for at, (notebook, pattern) in enumerate(order):
        if pattern.fullmatch(stem):
            return at, notebook
    return len(order), OTHER


def _natural(name: str) -> list[Any]:
    """Sort key by which pairs_10 comes after pairs_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _item(path: Path, budget: list[int]) -> dict[str, Any]:
    sidecar = path.with_name(path.name + ".json")
    caption = json.loads(sidecar.read_text(encoding="utf-8"))["caption"] if sidecar.is_file() else path.stem
    item = {"id": path.stem, "file": path.name, "caption": caption}
    if path.suffix == ".png":
        pdf = path.with_suffix(".pdf")
        return item | {"kind": "figure", "pdf": pdf.name if pdf.is_file() else ""} | _embedded(path, budget)
    table_df = pd.read_csv(path, nrows=ROWS_SHOWN + 1)
    shown = table_df.head(ROWS_SHOWN).to_html(
        index=False, escape=True, border=0, na_rep="", float_format="%.4g"
    )
    note = f"The first {ROWS_SHOWN} rows." if len(table_df) > ROWS_SHOWN else ""
    return item | {"kind": "table", "html": shown, "note": note}


def _embedded(path: Path, budget: list[int]) -> dict[str, Any]:
    """Source and size of a figure: inside the page while the budget (bytes left, counted down) lasts."""
    with Image.open(path) as image:
        width, height = image.size
        scale = 110 / (image.info.get("dpi", (200, 200))[0] or 200)
        source = report_pairs.webp(image.convert("RGB"))
    size = {"width": round(width * scale), "height": round(height * scale)}
    if len(source) > budget[0]:
        return size | {"source": path.name}
    budget[0] -= len(source)
    return size | {"source": source}


def _notebook_pages(store: Store) -> list[dict[str, str]]:
    pages = sorted((store.figures / "notebooks").glob("*.html"))
    return [
        {
            "file": f"notebooks/{page.name}",
            "name": page.stem,
            "question": NOTEBOOKS[page.stem.split("__")[0]].question,
        }
        for page in pages
        if page.stem.split("__")[0] in NOTEBOOKS
    ]
