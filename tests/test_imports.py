"""The direction of imports (method modules import nothing of ours) and light imports, held by a test."""

import ast
import subprocess
import sys

import pytest

from lib.config import ROOT

# Modules of method take arrays, frames, paths and scalars; what they may import of ours is listed here.
ALLOWED = {
    "config": set(),
    "store": {"config"},
    "notebook_pages": set(),
    "report": {"config", "store", "report_pairs"},
    "report_pairs": {"store", "plots", "cards", "choosing", "correlation", "ihc"},
    "plots": set(),
    "pictures": {"plots"},
    "paper": set(),
    "scorecard": {"variation"},
    # cohort and expression
    "cohort": set(),
    "gct_header": set(),
    "gct_cells": set(),
    "gct": {"gct_header", "gct_cells"},
    "gct_parquet": {"gct", "gct_header"},
    "expression": {"gct", "gct_header"},
    "pairing": {"cohort", "gtex_ids"},
    "splits": {"cohort", "gtex_ids"},
    "overview": {"cohort"},
    "registry": set(),
    "spatial": {"expression"},
    "gtex_tables": set(),
    "resume": set(),
    "download": {"resume"},
    "gtex_ids": set(),
    "gtex_samples": {"gtex_ids", "gtex_tables"},
    "gtex_check": set(),
    "gtex_fetch": {"download", "gtex_check"},
    "gtex_source": {"gtex_fetch", "gtex_ids", "gtex_samples", "gtex_tables", "expression", "splits"},
    "gtex": {"gtex_check", "gtex_fetch", "gtex_ids", "gtex_samples", "gtex_tables", "download"},
    "ontology": set(),
    # the demo cohort
    "drawing": set(),
    "histology": {"drawing"},
    "staining": {"histology", "drawing"},
    "planted": set(),
    "svs": set(),
    "synthetic": {"staining", "histology", "planted", "svs"},
    "rehearsal_samples": {"planted", "staining"},
    "rehearsal_values": {"planted", "staining"},
    "rehearsal": {
        *("gtex_fetch", "gtex_ids", "gtex_tables", "networks", "planted", "staining"),
        *("rehearsal_samples", "rehearsal_values"),
    },
    "feature_tables": {"networks"},
    # slides and tiles
    "slides": set(),
    "tissue": set(),
    "grid": {"slides"},
    "jpeg_scaled": set(),
    "tiles": {"slides", "tissue", "grid", "jpeg_scaled"},
    "stacks": {"slides", "grid", "tiles"},
    "ihc": set(),
    # networks, training, features
    "architectures": set(),
    "inception": set(),
    "layers": {"inception"},
    "weights": {"inception"},
    "networks": {"architectures", "inception", "layers", "weights"},
    "batches": set(),
    "steps": {"batches", "networks"},
    "checkpoints": set(),
    "training": {"batches", "checkpoints", "networks", "steps"},
    # the command of training joins the two halves, as notebooks do
    "training_run": {"batches", "checkpoints", "config", "networks", "steps", "store", "training"},
    "classify": {"batches", "networks", "steps"},
    "comparison": {"architectures", "networks", "pair_tables"},
    "slide_sums": set(),
    "features": {"networks", "slide_sums", "steps", "weights"},
    # statistics
    "blocks": set(),
    "variation": set(),
    "pair_scan": {"blocks"},
    "correlation": {"pair_scan", "variation"},
    "pair_tables": set(),
    "permutations": set(),
    "residuals": {"permutations", "variation"},
    "significance": {"permutations", "residuals"},
    "pair_statistic": {"permutations"},
    "maxima": {"blocks", "pair_statistic", "permutations"},
    "family_wise": {"maxima", "pair_statistic", "permutations", "residuals"},
    "false_discovery": set(),
    "calibration": {"conditional", "correlation", "permutations", "significance"},
    "conditional": {"residuals"},
    "reproducibility": {"blocks", "variation"},
    # seeing
    "attribution": {"networks"},
    "randomisation": {"attribution", "networks"},
    "synthesis": {"attribution", "networks"},
    "representatives": set(),
    "lookup": {"conditional", "correlation", "permutations", "significance"},
    "choosing": {"conditional", "correlation", "permutations", "representatives", "significance"},
    "cards": {"attribution", "representatives", "synthesis"},
    "on_nuclei": {"attribution", "ihc"},
    "closeup": {"attribution", "representatives", "synthesis"},
    # the inspector joins the two halves, as notebooks do
    "inspector": {"closeup", "correlation", "lookup", "networks", "pictures", "plots", "representatives"}
    | {"slides", "store", "tissue"},
    "table": set(),
    "search_box": set(),
    "panel": {"closeup", "inspector", "lookup", "search_box", "table"},
    # timings: of whatever can be timed
    "timing": set(),
    "benchmark_networks": {"batches", "features", "networks", "steps", "timing"},
    "benchmark": {
        *("benchmark_gct", "benchmark_inspector", "benchmark_networks", "benchmark_statistics"),
        *("benchmark_tiles", "timing"),
    },
    "benchmark_inspector": {"benchmark_statistics", "inspector", "lookup", "panel", "plots", "timing"},
    "benchmark_tiles": {"staining", "svs", "tiles", "timing"},
    "benchmark_gct": {"gct", "gct_parquet", "timing"},
    "benchmark_statistics": {
        *("conditional", "correlation", "family_wise", "pair_scan", "permutations", "reproducibility"),
        *("significance", "timing"),
    },
}
LIGHT = (
    "networks",
    "batches",
    "training",
    "training_run",
    "classify",
    "features",
    "correlation",
    "significance",
    "family_wise",
    "false_discovery",
    "conditional",
    "benchmark",
)
MODULES = sorted(path.stem for path in (ROOT / "lib").glob("*.py") if path.stem != "__init__")


def imported_of_ours(module):
    """What importing the module imports of ours; its `if __name__ == "__main__"` is a command, no import."""
    tree = ast.parse((ROOT / "lib" / f"{module}.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if __name__ ==")]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "lib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lib.")}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_direction(module):
    assert module in ALLOWED, (
        f"lib/{module}.py is new: say here what it may import, and add it to README's map"
    )
    extra = imported_of_ours(module) - ALLOWED[module]
    assert not extra, f"lib/{module}.py may not import {sorted(extra)}"


def test_light_imports():
    """They import with OpenSlide, Jupyter, pydantic, matplotlib, numba and more made unavailable."""
    absent = (
        "openslide",
        "IPython",
        "ipywidgets",
        "papermill",
        "tifffile",
        "imagecodecs",
        "pydantic",
        "pooch",
    )
    absent += ("simplejpeg", "matplotlib", "seaborn", "statsmodels", "skimage", "numba", "pyarrow", "timm")
    code = f"""
import importlib, sys
for name in {absent!r}: sys.modules[name] = None
for name in {LIGHT!r}: importlib.import_module("lib." + name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_pickled():
    for path in [*(ROOT / "lib").glob("*.py"), ROOT / "run_all.py"]:
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
        assert "weights_only=False" not in text, path
