"""The figures and tables of the report, in sections by question."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from lib import saved_figures
from lib.explore import report_pairs
from lib.saved_figures import Saved
from lib.store import Store

ROWS_SHOWN = 200  # of a table on the page; the csv has them all
LIMIT_BYTES = 20_000_000  # of the figures embedded in the page
OF_TISSUES, OF_ONE_TISSUE = "How do tissues differ? (the paper's tables)", "What do the paper's tables say?"
# Question -> what answers it: stems, or their beginnings ("fig2_*"), in the order of the page.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "What was measured?": (
        *("cohort_steps", "left_out", "donor_overlap", "tissues_per_donor", "s1_table*", "s1b_*"),
        *("fig2_*", "tile_quality", "flagged_tiles", "slides_failed", "samples_in_part", "s1a_*"),
        "feature_map*",
    ),
    "What was found?": ("links", "clumps", "gene_significance", "gene_sets", "visible_genes"),
    "Where does it hold?": (
        *("link_tissues", "links_replicated", "replication", "forest", "replicated_in_*"),
        *("links_combined", "replication_ledger", "sections_left_out"),
    ),
    "Can it be trusted?": (
        *("scorecard*", "calibration", "spatial_null", "moran", "within_tissue_genes", "power"),
        *("representations", "plain_correlates", "links_with_dropped_tiles", "tile_count_effect"),
        "randomisation",
    ),
    "What does it look like?": (
        *("fig4_6_*", "activation_*", "tiles_highest_*", "tiles_graded_*", "slide_heatmap_*", "inspect_*"),
        *("synthetic_images", "synthesis_curves", "gradient_methods", "ihc_*"),
    ),
    OF_TISSUES: (
        *("s1c_*", "tab*", "fig3_*", "s2_*", "survival_*", "pair_scatter", "patterns_compared"),
        *("s3_*", "replication_by_r", "networks_learned", "accuracy_against_pairs"),
    ),
    "How was it made?": (
        *("training", "tab2_tab3_accuracy", "recall", "merged_accuracy", "s4_table_confusion"),
        *("most_wrong*", "networks", "benchmark", "growth"),
    ),
}
FURTHER = "Further files"
# These compare networks, and say nothing of one.
OF_SEVERAL_NETWORKS = ("accuracy_against_pairs", "most_wrong_of_all")


def sections(store: Store, networks: Sequence[str]) -> list[dict[str, Any]]:
    """Figures and tables by question, and within it by network: the cohort's, then those of `networks`.

    A section is {question, id, groups}, a group {network, items}, an item {kind, id, caption, file, page,
    ...} with the executed notebook that made it as its page. Questions without an answer are left out.
    """
    found: dict[str, dict[str, list[tuple[int, Saved]]]] = {name: {} for name in (*QUESTIONS, FURTHER)}
    for one in saved_figures.saved(store.figures):
        stem = one.path.stem.partition("__")[0]
        if len(networks) < 2 and stem in OF_SEVERAL_NETWORKS:
            continue
        question, place = _place(stem)
        found[question].setdefault(one.network, []).append((place, one))
    budget = [LIMIT_BYTES]
    order = ["", *networks]
    made = []
    for question, by_network in found.items():
        groups = []
        for network in sorted(
            by_network, key=lambda name: order.index(name) if name in order else len(order)
        ):
            of_network = sorted(by_network[network], key=lambda placed: placed[0])  # stable: as saved
            groups.append({"network": network, "items": [_item(store, one, budget) for _, one in of_network]})
        if question == OF_TISSUES and store.n_tissues == 1:
            question = OF_ONE_TISSUE
        if groups:
            made.append({"question": question, "id": _anchor(question), "groups": groups})
    return made


def _place(stem: str) -> tuple[str, int]:
    """The question that a figure or table answers, and its place there: the longest match counts."""
    best = (-1, FURTHER, 0)
    for question, patterns in QUESTIONS.items():
        for place, pattern in enumerate(patterns):
            start = pattern.removesuffix("*")
            if stem == start or (pattern.endswith("*") and stem.startswith(start)):
                best = max(best, (len(start), question, place))
    return best[1], best[2]


def _anchor(question: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in question.lower()).split()
    return "-".join(words[:4])


def _item(store: Store, one: Saved, budget: list[int]) -> dict[str, Any]:
    path = one.path
    page = f"notebooks/{one.notebook}{'__' + one.network if one.network else ''}.html"
    item = {
        "id": path.stem,
        "file": path.name,
        "caption": one.caption,
        "notebook": one.notebook[:2],
        "page": page if (store.figures / page).is_file() else "",
    }
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
