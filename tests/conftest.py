"""Fixtures for all rooms: stores of a tiny cohort, and a small simulated cohort run once to its end."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before numpy and torch read it; subprocesses inherit it
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from lib.config import ROOT, Config
from lib.store import Store

FRAME = pd.DataFrame({"sample_id": ["a", "b"], "n": [1, 2]})

SMALL = [
    *("synthetic_slides_per_tissue=5", "synthetic_genes=500", "synthetic_slide_um=320", "input_px=64"),
    *(
        "epochs=2",
        "n_permutations=200",
        "link_permutations=2000",
        "split_fractions=[0.4,0.2,0.4]",
        "n_cards=3",
        "synthesis_steps=4",
    ),
    *("least_precision=0", "least_recall=0"),  # so few slides cannot reach the demo's targets
]

# Workers take them in this order (`--dist loadfile`); the first needs `finished`, the second does not.
SLOWEST_FILES = ["test_pipeline.py", "test_gtex_run.py"]


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


def run_command(root, *arguments):
    """run_all.py with its data and figures below `root`; returns the finished process."""
    command = [sys.executable, str(ROOT / "run_all.py"), *map(str, arguments)]
    environment = os.environ | {"HISTOCORR_ROOT": str(root)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)


def run_small(root, *arguments, settings=()):
    """run_all.py for the small cohort."""
    return run_command(root, "--cohort", "demo", *arguments, "--set", *SMALL, *settings)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A root where the small cohort has been run once for all workers, and what that run printed."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(root.with_suffix(".lock")):
        printed = root / "printed.json"
        if not printed.is_file():
            root.mkdir(exist_ok=True)
            done = run_small(root)
            assert done.returncode == 0, done.stdout + done.stderr
            printed.write_text(json.dumps([done.stdout, done.stderr]))
    return root, subprocess.CompletedProcess([], 0, *json.loads(printed.read_text()))


def _files_by_cost(item):
    """Sort key: files with the slowest tests first, so that no worker starts them last."""
    name = Path(item.fspath).name
    return SLOWEST_FILES.index(name) if name in SLOWEST_FILES else len(SLOWEST_FILES)


def pytest_collection_modifyitems(items):
    items.sort(key=_files_by_cost)


class FailuresAtOnce:
    """The end of each new failure as soon as it is known: a log cut short then says what went wrong."""

    def __init__(self, terminal):
        self.terminal, self.said = terminal, set()

    def pytest_runtest_logreport(self, report):
        if not report.failed:
            return
        lines = [line for line in report.longreprtext.split("\n") if line.startswith("E")]
        said = "\n".join(line.rpartition("\r")[2][:300] for line in lines[-12:])
        if said not in self.said and len(self.said) < 20:
            self.said.add(said)
            self.terminal.write_line(f"\n{report.nodeid} ({report.when}):\n{said}")


@pytest.hookimpl(trylast=True)  # once there is a terminal to write to
def pytest_configure(config):
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(FailuresAtOnce(terminal))
