"""Timing calls beside their limit or the usual alternative, and the resulting table."""

import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lib.whole_files import whole_file

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
    Raises ValueError for any other.
    """
    columns = (table_df[name] for name in ("work", "target", "ours_s", "ratio"))
    words = [
        _met(work, target, float(ours), float(ratio))
        for work, target, ours, ratio in zip(*columns, strict=True)
    ]
    return pd.Series(words, index=table_df.index, name="met")


def _met(work: str, target: str | float, ours: float, ratio: float) -> str:
    if pd.isna(target) or not str(target).strip():
        return ""
    target = str(target).strip()
    on_ratio = re.fullmatch(r"(<=?) ([0-9.]+)", target)
    on_ours = re.fullmatch(r"([0-9.]+) (?:s|GB)", target)
    if on_ratio:
        bound = float(on_ratio[2])
        return "yes" if ratio < bound or (on_ratio[1] == "<=" and ratio == bound) else "no"
    if on_ours:
        return "yes" if ours <= float(on_ours[1]) else "no"
    raise ValueError(f"target {target!r} of {work!r} is none of '<= 1.3', '< 1', '20 s', '1.5 GB'")


def here() -> dict[str, str]:
    """Where, with what and when something is measured: device, versions, measured_on."""
    return {"device": _device("cpu"), "versions": _versions(), "measured_on": time.strftime("%Y-%m-%d")}


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
    """Write the table as csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        table_df.to_csv(temporary, index=False, float_format="%.4g")
