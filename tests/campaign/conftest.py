"""A small cohort of files, run to notebook 04 once for all workers; CAMPAIGN=long multiplies the tries."""

import os
import shutil
from pathlib import Path

import pytest
import small_cohort
from conftest import run_command
from filelock import FileLock

LONG = os.environ.get("CAMPAIGN") == "long"


def tries(short: int, long: int) -> int:
    """How often a campaign tries, in its short form and by `make campaign`."""
    return long if LONG else short


def tally(kind: str, outcome: str) -> None:
    """Count a try: a line in the file that CAMPAIGN_FIGURES names (tests/README.md has the sums)."""
    if path := os.environ.get("CAMPAIGN_FIGURES"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{kind},{outcome}\n")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """Root of the small cohort "mine" after an undisturbed run; not to be changed."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    with FileLock(root.with_suffix(".lock")):
        if not (root / "finished").is_file():
            path = small_cohort.make(root)
            done = run_command(root, "--cohort", path, "--to", "04")
            assert done.returncode == 0, done.stdout + done.stderr
            (root / "finished").touch()
    return root


@pytest.fixture
def disturbed(undisturbed, tmp_path) -> Path:
    """A copy of the undisturbed root, dates of files included, to be disturbed."""
    root = tmp_path / "root"
    shutil.copytree(undisturbed, root)  # copy2 keeps the dates
    return root


@pytest.fixture
def raw_only(undisturbed, tmp_path) -> Path:
    """A copy of the inputs alone."""
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    shutil.copytree(undisturbed / "data/raw", root / "data/raw")
    shutil.copy2(undisturbed / "mine.toml", root / "mine.toml")
    return root
