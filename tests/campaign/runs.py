"""What the campaign compares: the artefacts of a disturbed run with those of the undisturbed one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from lib.config import ROOT, Config
from lib.errors import HistocorrError
from lib.store import Store

TABLES = ("samples", "expression", "genes", "tiles", "slides", "history", "tile_predictions", "predictions")
TABLES += ("accuracy", "tile_counts", "features_validation", "features_test", "features_dropped")
TABLES += ("plain_correlates",)
TIMES = ["seconds", "tiles_per_s"]  # of the history, which no two runs share


def store_of(root: Path) -> Store:
    """The store of the small cohort below a root."""
    return Store(Config.load(str(root / "mine.toml")), root=root)


def start(root: Path, *arguments: str) -> subprocess.Popen:
    """run_all.py for the small cohort, in a session of its own."""
    command = [sys.executable, str(ROOT / "run_all.py"), "--cohort", str(root / "mine.toml"), *arguments]
    return subprocess.Popen(
        command, env=os.environ | {"HISTOCORR_ROOT": str(root)}, cwd=root, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wrong(root: Path, undisturbed: Path) -> list[str]:
    """Artefacts below `root` that load although they are not what the undisturbed run made."""
    store, true, found = store_of(root), store_of(undisturbed), []
    for name in TABLES:
        try:
            value = store.load(name)
        except HistocorrError:
            continue
        if not same(value, pd.read_parquet(true.path(name))):
            found.append(name)
    return found


def same(one_df: pd.DataFrame, other_df: pd.DataFrame) -> bool:
    """Whether two tables hold equal values, measured times apart."""
    one_df, other_df = (df.drop(columns=TIMES, errors="ignore") for df in (one_df, other_df))
    return one_df.equals(other_df)


def same_stacks(root: Path, undisturbed: Path) -> bool:
    """Whether all stacks of tiles hold equal pixels."""
    ours, theirs = (sorted(store_of(r).path("stacks").glob("*.npy")) for r in (root, undisturbed))
    return [p.name for p in ours] == [p.name for p in theirs] and all(
        np.array_equal(np.load(a), np.load(b)) for a, b in zip(ours, theirs, strict=True)
    )
