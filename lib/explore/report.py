"""The report of a run, figures/<cohort>/index.html: for people without Python.

One file that opens from disk and fetches nothing: key numbers, a searchable table of gene-feature pairs with
a card for each, every figure and table with its caption by question, methods, parameters and versions.
Figures are embedded until the page grows large; the others stay beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from lib.artefacts import NOTEBOOKS
from lib.cohort import sample_slides
from lib.explore import methods_text, report_pairs, report_sections, report_tables
from lib.explore.notebook_runs import question
from lib.explore.reading_notes import reading_notes
from lib.statistics import replication, spots
from lib.store import Store
from lib.tiles.tile_quality import kept
from lib.whole_files import write_text

NULL_KINDS = {"untrained": "random weights", "shuffled": "permuted labels"}  # of null networks, in words


def build(store: Store) -> Path:
    """Write figures/<cohort>/index.html from the artefacts and that folder's files; returns its path."""
    folder = store.figures
    folder.mkdir(parents=True, exist_ok=True)
    stores = {store.config.run_name: store}
    stores |= {name: found for name, (found, _) in store.networks(()).items() if name not in stores}
    template = Path(__file__).with_name("report_page.html.j2")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    payloads = [found for found in map(report_pairs.payload, stores.values()) if found]
    light = [report_tables.in_chunks(found, number) for number, found in enumerate(payloads)]
    page = environment.from_string(template.read_text(encoding="utf-8")).render(
        cohort=store.config.cohort,
        title=store.config.title or store.config.cohort,
        synthetic=store.config.synthetic_data,
        classifies=store.config.classifies,
        slides_only=store.config.slides_only,
        features_given=bool(store.config.features_file),
        one_tissue=store.n_tissues == 1,
        **_strata(store),
        reading_notes=reading_notes(store),
        cohort_numbers=cohort_numbers(store),
        networks=[
            (name, links_in_numbers(found, stores), network_numbers(found)) for name, found in stores.items()
        ],
        pairs=[payload for payload, _ in light],
        chunks=[chunk for _, of_network in light for chunk in of_network],
        per_chunk=report_tables.CHUNK,
        sections=report_sections.sections(store, list(stores)),
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
            _sized(len(samples_df), "sample"),
            in_sets,
            _sized(len(sample_slides.slide_ids(samples_df)), "slide"),
            _sized(samples_df["donor"].nunique(), "donor"),
            _sized(samples_df["tissue"].nunique(), "tissue"),
        ]
    if store.is_current("tiles"):
        tiles_df = store.load("tiles")
        n_dropped = len(kept(tiles_df, dropped=True))
        also = f" ({n_dropped:,} more left out)" if n_dropped else ""
        numbers.append((f"tiles{also}", f"{len(tiles_df) - n_dropped:,}"))
    if store.is_current("expression"):
        numbers.append(("genes", f"{len(store.load('expression')):,}"))
    return numbers


def _sized(n: int, what: str) -> tuple[str, str]:
    """As (label, number): ("tissue", "1"), ("tissues", "8")."""
    number, label = methods_text.counted(n, what).split()
    return label, number


def network_numbers(store: Store) -> list[tuple[str, str]]:
    """Accuracy and pairs of one network, as (label, number); what is missing or stale is omitted."""
    config, numbers = store.config, []
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


class LinkCounts(NamedTuple):
    """What a network's run found: links, in clumps, genes with one, how many of their strongest replicate."""

    links: int
    clumps: int
    genes: int
    genes_tested: int
    strongest: float
    replicated: float

    @classmethod
    def of(cls, store: Store) -> "LinkCounts":
        """Those of a store whose links are current."""
        links_df = store.load("links")
        shares_df = replication.summarise(links_df, store.config.q_threshold)
        n, share = shares_df.loc["strongest link of each gene", ["links", "replicated"]].to_numpy(float)
        counted = len(links_df), int(links_df["clump_lead"].sum()), links_df["gene"].nunique()
        return cls(*counted, len(store.load("gene_significance")), float(n), float(share))


def links_in_numbers(store: Store, stores: Mapping[str, Store]) -> list[tuple[str, str, str]]:
    """Links, genes that have one, and how many replicate; with covariates out where there are any.

    Each as (label, number, null): what chance gives, and what the null networks of the same architecture gave
    where these have run.
    """
    if not store.is_current("links"):
        return []
    config, genes_df, found = store.config, store.load("gene_significance"), LinkCounts.of(store)
    nulls = {} if config.network_kind in NULL_KINDS else _null_networks(store, stores)
    out = f", {', '.join(config.covariates)} taken out" if config.covariates else ""
    strata = _strata(store)
    where = "" if strata["alone"] else f" within {strata['stratum']}s"
    q = config.q_threshold
    label = f"links: gene and feature correlate{where} (q ≤ {q:g}{out})"
    label += f"; {found.clumps:,} counting near-copies of a feature once"
    by_chance = f"by chance: at most {q:.0%} of a gene's, on average"
    beside = [by_chance, *(f"{words}: {of.links:,}" for words, of in nulls.items())]
    numbers = [(label, f"{found.links:,}", "; ".join(beside))]
    without = ""
    if "q_without_covariates" in genes_df:
        n_without = int((genes_df["q_without_covariates"] <= q).sum())
        without = f" ({n_without:,} with the covariates left in)"
    false = q * found.genes
    by_chance = f"by chance: at most {false:.{1 if 0 < false < 9.95 else 0}f}, on average"
    beside = [by_chance, *(f"{words}: {of.genes:,}" for words, of in nulls.items())]
    label = f"of {found.genes_tested:,} expressed genes have a link{without}"
    numbers.append((label, f"{found.genes:,}", "; ".join(beside)))
    if found.strongest:
        label = f"of the genes' {found.strongest:,.0f} strongest links replicate on the validation samples"
        beside = [f"by chance: at most {q:.0%}"]
        beside += [f"{words}: {of.replicated:.0%}" for words, of in nulls.items() if of.strongest]
        numbers.append((label, f"{found.replicated:.0%}", "; ".join(beside)))
    return numbers + elsewhere_in_numbers(store)


def elsewhere_in_numbers(store: Store) -> list[tuple[str, str, str]]:
    """How many of the genes' strongest links replicate in other cohorts and on sections left out, beside what
    chance gives; as (label, number, null).
    """
    q, numbers = store.config.q_threshold, []

    def beside(same_sign: str, nominal: str) -> str:
        return (
            f"by chance: at most {q:.0%}; of the same sign: {same_sign} (by chance 50%); p ≤ {q:g} in the "
            f"link's direction: {nominal} (by chance {q:.0%})"
        )

    for unit, row in methods_text.elsewhere(store).iterrows():
        label = f"of the genes' {row['links']:,.0f} strongest links replicate in cohort {unit}"
        null = beside(f"{row['same_sign']:.0%}", f"{row['nominal']:.0%}")
        numbers.append((label, f"{row['replicated']:.0%}", null))
    left_df = store.load("sections_left_out") if store.is_current("sections_left_out") else pd.DataFrame()
    left_df = left_df.dropna(subset="replicated") if len(left_df) else left_df
    if len(left_df):
        same_sign, nominal, number = (_range(left_df[k]) for k in ("same_sign", "nominal", "replicated"))
        sections = ", ".join(left_df["section"].astype(str))
        label = "of the genes' strongest links found without a section replicate on it"
        numbers.append((f"{label} (left out in turn: {sections})", number, beside(same_sign, nominal)))
    return numbers


def _range(shares: pd.Series) -> str:
    low, high = f"{shares.min():.0%}", f"{shares.max():.0%}"
    return low if low == high else f"{low} to {high}"


def _null_networks(store: Store, stores: Mapping[str, Store]) -> dict[str, LinkCounts]:
    """What null networks of the same architecture found, by their kind in words."""
    others = [other for other in stores.values() if other.config.architecture == store.config.architecture]
    return {
        NULL_KINDS[other.config.network_kind]: LinkCounts.of(other)
        for other in others
        if other.config.network_kind in NULL_KINDS and other.is_current("links")
    }


def _notebook_pages(store: Store) -> list[dict[str, str]]:
    found = []
    for page in sorted((store.figures / "notebooks").glob("*.html")):
        notebook = page.stem.split("__")[0]
        if notebook in NOTEBOOKS:
            found.append(
                {"file": f"notebooks/{page.name}", "name": page.stem, "question": question(notebook)}
            )
    return found
