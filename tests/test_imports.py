"""The direction of imports (method modules import nothing of ours) and light imports, held by a test."""

import ast
import subprocess
import sys

import pytest

from lib.config import ROOT

# Modules of method take arrays, frames, paths and scalars; what they may import of ours is listed here.
ALLOWED = {
    "cohort": set(),
    "expression": set(),
    "ontology": set(),
    "drawing": set(),
    "svs": set(),
    "synthetic": {"drawing", "svs"},
    "slides": set(),
    "tissue": set(),
    "jpeg_scaled": set(),
    "tiles": {"slides", "tissue", "jpeg_scaled"},
    "inception": set(),
    "layers": {"inception"},
    "networks": {"inception", "layers"},
    "correlation": set(),
    "significance": {"correlation"},
    "conditional": {"correlation"},
    "reproducibility": {"correlation"},
    "representatives": set(),
    "classify": {"batches", "networks"},
    "scorecard": set(),
    "ihc": set(),
    "plots": set(),
    "config": set(),
    "store": {"config"},
    "report": {"store"},
}
LIGHT = (
    "networks",
    "batches",
    "training",
    "classify",
    "features",
    "correlation",
    "significance",
    "conditional",
)
MODULES = sorted(path.stem for path in (ROOT / "lib").glob("*.py") if path.stem != "__init__")


def imported_of_ours(module):
    tree = ast.parse((ROOT / "lib" / f"{module}.py").read_text(encoding="utf-8"))
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
    extra = imported_of_ours(module) - ALLOWED.get(module, set(MODULES) - {"config", "store", "report"})
    if module == "inspector":
        extra -= {"config", "store"}
    assert not extra, f"lib/{module}.py may not import {sorted(extra)}"


@pytest.mark.parametrize("module", [name for name in LIGHT if name in MODULES])
def test_light_import(module):
    """Imports with OpenSlide, Jupyter, tifffile, pydantic, matplotlib and numba made unavailable."""
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
    code = f"import sys\nfor name in {absent!r}: sys.modules[name] = None\nimport lib.{module}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_pickled():
    for path in [*(ROOT / "lib").glob("*.py"), ROOT / "run_all.py"]:
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
        assert "weights_only=False" not in text, path
