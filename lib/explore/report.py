"""The report of a run, figures/<cohort>/index.html: for people without Python.

One file that opens from disk and fetches nothing: key numbers, a searchable table of gene-feature pairs with
a card for each, every figure and table with its caption in the order of the notebooks, parameters and
versions. Figures are embedded until the page grows large; the others stay beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from lib import saved_figures
from lib.artefacts import NOTEBOOKS
from lib.explore import methods_text, report_pairs
from lib.explore.notebook_runs import question
from lib.explore.reading_notes import reading_notes
from lib.saved_figures import Saved
from lib.statistics import replication, spots
from lib.store import Store
from lib.tiles.stored import kept
from lib.whole_files import write_text

ROWS_SHOWN = 200  # of a table on the page; the csv has them all
LIMIT_BYTES = 20_000_000  # of the figures embedded in the page


def build(store: Store) -> Path:
    """Write figures/<cohort>/index.html from the artefacts and that folder's files; returns its path."""
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
        classifies=store.config.classifies,
        one_tissue=store.n_tissues == 1,
        **_strata(store),
        reading_notes=reading_notes(store),
        cohort_numbers=cohort_numbers(store),
        networks=[(name, network_numbers(found)) for name, found in stores.items()],
        pairs=[found for found in map(report_pairs.payload, stores.values()) if found],
        sections=sections(store, list(stores)),
        notebooks=_notebook_pages(store),
        methods=[(name, methods_text.paragraphs(found)) for name, found in stores.items()],
        parameters=store.config.model_dump(mode="json"),
        versions=store.facts("samples").get("versions", {}),
        made_at=store.facts("samples").get("made_at", ""),
    )
    write_text(folder / "index.html", page)
    return folder / "index.html"


def _strata(store: Store) -> dict[str, Any]:
    """What links are tested within ("tissue", of spots "section"), and whether there is one alone."""
    if not store.is_current("samples"):
        return {"stratum": "tissue", "alone": False}
    samples_df = store.load("samples")
    return {"stratum": spots.stratum_name(samples_df), "alone": spots.strata(samples_df).nunique() == 1}


def cohort_numbers(store: Store) -> list[tuple[str, str]]:
    """Size of the cohort, as (label, number); what has not been made yet is omitted."""
    numbers = []
    if store.is_current("samples"):
        samples_df = store.load("samples")
        sets = samples_df["split"].value_counts()
        split = " / ".join(f"{sets.get(name, 0):,}" for name in ("train", "validation", "test"))
        in_sets = ("training / validation / test samples", split)
        if store.config.test_on == "all":
            n_tested = int(samples_df["split"].isin(store.config.test_sets).sum())
            in_sets = (
                "samples tested / kept for replication",
                f"{n_tested:,} / {sets.get('validation', 0):,}",
            )
        numbers += [
            ("samples", f"{len(samples_df):,}"),
            in_sets,
            ("slides", f"{samples_df['slide_id'].nunique():,}"),
            ("donors", f"{samples_df['donor'].nunique():,}"),
            ("tissues", f"{samples_df['tissue'].nunique():,}"),
        ]
    if store.is_current("tiles"):
        tiles_df = store.load("tiles")
        n_dropped = len(kept(tiles_df, dropped=True))
        also = f" ({n_dropped:,} more left out)" if n_dropped else ""
        numbers.append((f"tiles{also}", f"{len(tiles_df) - n_dropped:,}"))
    if store.is_current("expression"):
        numbers.append(("genes", f"{len(store.load('expression')):,}"))
    return numbers


def network_numbers(store: Store) -> list[tuple[str, str]]:
    """Links, accuracy and pairs of one network, as (label, number); what is missing or stale is omitted."""
    config = store.config
    numbers = links_in_numbers(store) if store.is_current("links") else []
    if store.is_current("accuracy"):
        for row in methods_text.accuracy_on_test(store):
            label, number = f"test {row.level} accuracy (n = {row.n:,}", f"{row.accuracy:.1%}"
            if pd.notna(row.low):
                label += "; 95 % interval over donors"
                number += f" ({row.low:.0%} to {row.high:.0%})"
            numbers.append((f"{label})", number))
    if store.is_current("pairs"):
        expressed = store.load("pairs")["max_median_log2"] >= config.e_threshold
        label = (
            f"marker pairs: |r| ≥ {config.r_threshold:g}, highest median expression ≥ {config.e_threshold:g}"
        )
        numbers.append((label, f"{int(expressed.sum()):,}"))
    if store.is_current("reproducibility"):
        found_df = store.load("reproducibility")
        label = "correlation over all pairs of r on validation and r on test samples"
        numbers.append((label, f"{found_df.loc['reproducibility_r', 'raw']:.2f}"))
    return numbers


def links_in_numbers(store: Store) -> list[tuple[str, str]]:
    """Links, genes that have one, and how many replicate; with covariates out where there are any."""
    config, links_df, genes_df = store.config, store.load("links"), store.load("gene_significance")
    out = f", {', '.join(config.covariates)} taken out" if config.covariates else ""
    clumps = f"{int(links_df['clump_lead'].sum()):,} counting near-copies of a feature once"
    strata = _strata(store)
    where = "" if strata["alone"] else f" within {strata['stratum']}s"
    label = f"links: gene and feature correlate{where} (q ≤ {config.q_threshold:g}{out}); {clumps}"
    numbers = [(label, f"{len(links_df):,}")]
    beside = ""
    if "q_without_covariates" in genes_df:
        without = int((genes_df["q_without_covariates"] <= config.q_threshold).sum())
        beside = f" ({without:,} with the covariates left in)"
    label = f"of {len(genes_df):,} expressed genes have a link{beside}"
    numbers.append((label, f"{links_df['gene'].nunique():,}"))
    shares_df = replication.summarise(links_df, config.q_threshold)
    n, share = shares_df.loc["strongest link of each gene", ["links", "replicated"]].to_numpy(float)
    if n:
        label = f"of the genes' {n:,.0f} strongest links replicate on the validation samples"
        numbers.append((label, f"{share:.0%}"))
    return numbers


def sections(store: Store, networks: Sequence[str]) -> list[dict[str, Any]]:
    """Figures and tables by network and notebook, in running order.

    The first section is the cohort's; then each network's, those of `networks` first. A section is
    {name, groups}, a group {notebook, question, page, items}, an item {kind, id, caption, file, ...}.
    """
    found: dict[str, dict[str, list[Saved]]] = {"": {}} | {name: {} for name in networks}
    for one in saved_figures.saved(store.figures):
        found.setdefault(one.network, {}).setdefault(one.notebook, []).append(one)
    budget = [LIMIT_BYTES]
    made = []
    for network, by_notebook in found.items():
        groups = []
        for notebook, items in by_notebook.items():
            page = f"notebooks/{notebook}__{network}.html" if network else f"notebooks/{notebook}.html"
            groups.append(
                {
                    "notebook": notebook,
                    "question": question(notebook) if notebook in NOTEBOOKS else "Further files",
                    "page": page if (store.figures / page).is_file() else "",
                    "items": [_item(one, budget) for one in items],
                }
            )
        if groups:
            made.append({"name": network, "groups": groups})
    return made


def _item(one: Saved, budget: list[int]) -> dict[str, Any]:
    path = one.path
    item = {"id": path.stem, "file": path.name, "caption": one.caption}
    if path.suffix == ".png":
        pdf = path.with_suffix(".pdf")
        return item | {"kind": "figure", "pdf": pdf.name if pdf.is_file() else ""} | _embedded(path, budget)
    table_df = pd.read_csv(path, nrows=ROWS_SHOWN + 1)
    table_df = table_df.rename(columns=lambda name: "" if name.startswith("Unnamed: ") else name)
    shown = table_df.head(ROWS_SHOWN).to_html(
        index=False, escape=True, border=0, na_rep="", float_format="{:.4g}".format
    )
    note = f"The first {ROWS_SHOWN} rows." if len(table_df) > ROWS_SHOWN else ""
    return item | {"kind": "table", "html": shown, "note": note}


def _embedded(path: Path, budget: list[int]) -> dict[str, Any]:
    """Source and size of a figure: embedded while the budget (bytes left, counted down) lasts."""
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
    found = []
    for page in sorted((store.figures / "notebooks").glob("*.html")):
        notebook = page.stem.split("__")[0]
        if notebook in NOTEBOOKS:
            found.append(
                {"file": f"notebooks/{page.name}", "name": page.stem, "question": question(notebook)}
            )
    return found
