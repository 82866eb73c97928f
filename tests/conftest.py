"""Fixtures for all rooms: stores of a tiny cohort, and a small simulated cohort run once to its end."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from lib.config import ROOT, Config
from lib.store import Store

FRAME = pd.DataFrame({"sample_id": ["a", "b"], "n": [1, 2]})

SMALL = [
    *("synthetic_slides_per_tissue=5", "synthetic_genes=500", "synthetic_slide_um=320", "input_px=64"),
    *("epochs=2", "n_permutations=200", "split_fractions=[0.4,0.2,0.4]", "n_cards=3", "synthesis_steps=4"),
    *("least_precision=0", "least_recall=0"),  # so few slides cannot reach the demo's targets
]


@pytest.fixture
def make_store(tmp_path):
    """Makes stores of the cohort "mine", which has one slide, with the given parameters."""
    raw = tmp_path / "data/raw/mine"
    (raw / "slides").mkdir(parents=True)
    (raw / "samples.csv").write_text("sample_id\na\n")
    (raw / "expression.gct.gz").write_bytes(b"x")
    (raw / "slides/a.svs").write_bytes(b"slide")
    return lambda notebook="", **fields: Store(Config(cohort="mine", **fields), notebook, tmp_path)


def keep_network(store, names=("accuracy",)):
    """Save the artefacts of one network, as its notebooks would leave them."""
    weights = store.root / "weights.pt"
    weights.write_bytes(store.config.run_name.encode())
    for name in ("samples", "tiles"):
        if not store.is_current(name):
            store.save(name, FRAME)
    store.save("network", weights)
    for name in ("tile_predictions", "predictions", *names):
        store.save(name, FRAME)


def run_small(root, *arguments, settings=()):
    """run_all.py with its data and figures below `root`; returns the finished process."""
    command = [sys.executable, str(ROOT / "run_all.py"), "--cohort", "demo", *arguments]
    command += ["--set", *SMALL, *settings]
    environment = os.environ | {"HISTOCORR_ROOT": str(root)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A root where the small cohort has been run once, and what that run printed."""
    root = tmp_path_factory.mktemp("run")
    done = run_small(root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done
