"""A small drawn cohort, run once for all tests that look at a finished run."""

import os
import subprocess
import sys

import pytest

from lib.config import ROOT

SMALL = [
    *("synthetic_slides_per_tissue=5", "synthetic_genes=500", "synthetic_slide_um=320", "input_px=64"),
    *("epochs=2", "n_permutations=200", "split_fractions=[0.4,0.2,0.4]", "n_cards=3", "synthesis_steps=4"),
    *("least_precision=0", "least_recall=0"),  # not of so few slides
]


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
