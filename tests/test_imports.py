"""Light imports, and nothing pickled. The direction of imports is held by import-linter (pyproject.toml)."""

import subprocess
import sys

from lib.config import ROOT

LIGHT = (
    "lib.network.models",
    "lib.network.training",
    "lib.network.predict",
    "lib.network.accuracy",
    "lib.features.quantify",
    "lib.statistics.correlation",
    "lib.statistics.pair_tests",
    "lib.statistics.link_tests",
    "lib.statistics.false_discovery",
    "lib.statistics.conditional_independence",
    "lib.statistics.links",
    "lib.visualize.attribution",
    "lib.benchmarks.run",
)


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
    )
    absent += ("simplejpeg", "matplotlib", "seaborn", "statsmodels", "skimage", "numba", "pyarrow", "timm")
    code = f"""
import importlib, sys
for name in {absent!r}: sys.modules[name] = None
for name in {LIGHT!r}: importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_pickled():
    for path in [*(ROOT / "lib").rglob("*.py"), ROOT / "run_all.py"]:
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
        assert "weights_only=False" not in text, path
