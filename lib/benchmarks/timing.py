"""Timing calls beside their limit or what a user would pick instead, and the table that comes of it."""

import os
import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

COLUMNS = ["work", "ours_s", "limit_or_peer", "peer_s", "ratio", "target", "n_repeats", "device", "versions"]
COLUMNS += ["measured_on"]


def timed(*calls: Callable[[], object], n_repeats: int = 3) -> list[float]:
    """Median seconds of each call, run in turns after one warm-up of each."""
    for call in calls:
        call()
    seconds = np.empty((n_repeats, len(calls)))
    for i in range(n_repeats):
        for k, call in enumerate(calls):
            start = time.perf_counter()
            call()
            seconds[i, k] = time.perf_counter() - start
    return np.median(seconds, axis=0).tolist()


def row(
    work: str,
    ours_s: float,
    limit_or_peer: str,
    peer_s: float,
    target: str,
    n_repeats: int,
    device: str = "cpu",
) -> dict[str, object]:
    """One measured row; ratio is ours over the limit or the peer (below 1: ours is faster)."""
    return dict(zip(COLUMNS, [
        work, ours_s, limit_or_peer, peer_s, ours_s / peer_s, target, n_repeats, _device(device), _versions(),
        time.strftime("%Y-%m-%d"),
    ], strict=True))  # fmt: skip


def met(table_df: pd.DataFrame) -> pd.Series:
    """Whether each row meets its target: "yes", "no", or "" where none is set.

    A target is a bound on the ratio ("<= 1.3", "< 1"), or on ours in its unit ("20 s", "1.5 GB").
    ValueError on any other.
    """
    words = []
    for row in table_df.itertuples():
        target = "" if pd.isna(row.target) else str(row.target).strip()
        on_ratio = re.fullmatch(r"(<=?) ([0-9.]+)", target)
        on_ours = re.fullmatch(r"([0-9.]+) (?:s|GB)", target)
        if not target:
            words.append("")
        elif on_ratio:
            bound = float(on_ratio[2])
            within = row.ratio <= bound if on_ratio[1] == "<=" else row.ratio < bound
            words.append("yes" if within else "no")
        elif on_ours:
            words.append("yes" if row.ours_s <= float(on_ours[1]) else "no")
        else:
            raise ValueError(
                f"target {target!r} of {row.work!r} is neither '<= 1.3', '< 1', '20 s' nor '1.5 GB'"
            )
    return pd.Series(words, index=table_df.index, name="met")


def _device(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _versions() -> str:
    found = []
    for name in ("torch", "numpy", "scipy", "numba", "pandas", "pyarrow", "isal"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows made by `row` as a table: COLUMNS, and whether each met its target."""
    table_df = pd.DataFrame(rows, columns=COLUMNS)
    return table_df.assign(met=met(table_df))


def save(table_df: pd.DataFrame, path: Path) -> None:
    """Write the table as csv, under a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    table_df.to_csv(temporary, index=False, float_format="%.4g")
    os.replace(temporary, path)
