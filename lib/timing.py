"""Timing calls beside their limit or what a user would pick instead, and the table that comes of it."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

COLUMNS = ["work", "ours_s", "limit_or_peer", "peer_s", "ratio", "target", "n_repeats", "device", "versions"]


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
    ], strict=True))  # fmt: skip


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


def save(rows: list[dict[str, object]], path: Path) -> pd.DataFrame:
    """Write the table as csv (under a temporary name, then renamed) and return it."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    table.to_csv(temporary, index=False, float_format="%.4g")
    os.replace(temporary, path)
    return table
