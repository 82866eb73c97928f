"""The folder of a training run: its best epoch, its last one, and what the last one was made for.

`best.pt` holds state_dict, architecture, weights, class_names, input_px, epoch and validation_accuracy;
`last.pt` state_dict, optimiser and history, from which training continues; `last.pt.json` (see
`lib.work_records`) all that the weights depend on. Both checkpoints hold tensors and builtins only, so
`torch.load(path, weights_only=True)` reads them.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas.util import hash_pandas_object
from torch import nn

from lib import work_records
from lib.whole_files import whole_file

History = list[dict[str, Any]]  # one per epoch: epoch (from 1), validation_accuracy and more


def fingerprint(tiles_df: pd.DataFrame) -> str:
    """sha256 of which tiles carry which label, in order; the folder of the tile stacks does not matter."""
    names = [Path(str(file)).name for file in tiles_df["file"]]
    rows_df = tiles_df[["stack_index", "label"]].assign(file=names)
    return hashlib.sha256(hash_pandas_object(rows_df, index=False).to_numpy().tobytes()).hexdigest()


def require_same_run(run_dir: Path, made_for: dict[str, Any]) -> None:
    """Refuse to continue a run under another recipe, or with other tiles.

    Parameters
    ----------
    made_for : all that the weights depend on, as JSON values

    Raises
    ------
    ValueError
        The folder holds a finished epoch made for something else; the first difference is named.
    """
    last = run_dir / "last.pt"
    if not last.exists():
        return
    record = work_records.read(last)
    differs = work_records.difference(record["made_for"], made_for) if record else "has no readable record"
    if differs:
        raise ValueError(
            f"{last} {differs}: choose another run_dir, return to the former recipe, or discard that run "
            "(--restart)"
        )


def discard(run_dir: Path, reason: str) -> None:
    """Delete the run in a folder, if there is one, so that training starts again; prints what and why."""
    names = ("last.pt", "last.pt.json", "best.pt")
    found = [run_dir / name for name in names if (run_dir / name).exists()]
    if found:
        megabytes = sum(path.stat().st_size for path in found) / 1e6
        print(f"Restarting {run_dir.name} ({reason}): deleting {len(found)} files ({megabytes:,.0f} MB)")
    for path in found:
        path.unlink()


def discard_longer(run_dir: Path, epochs: int) -> None:
    """Delete a run of more than `epochs` finished epochs.

    A shorter run can be continued; of a longer one the weights after `epochs` epochs are not kept.
    """
    last = run_dir / "last.pt"
    if last.exists():
        history = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["history"]
        if history[-1]["epoch"] > epochs:
            discard(run_dir, f"it has {history[-1]['epoch']} finished epochs, more than {epochs}")


def resume(run_dir: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> History:
    """Load weights and momentum of the last finished epoch, if any; returns the history so far."""
    last = run_dir / "last.pt"
    if not last.exists():
        return []
    checkpoint = torch.load(last, map_location="cpu", weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    optimiser.load_state_dict(checkpoint["optimiser"])
    return checkpoint["history"]


def keep(
    run_dir: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: History,
    made_for: dict[str, Any],
) -> None:
    """Write `best.pt` if the newest epoch beats all before it, then `last.pt` and its record.

    In this order, a run killed between the two repeats that epoch and arrives at the same best one.

    Parameters
    ----------
    history : with epoch and validation_accuracy
    made_for : as in `require_same_run`; architecture, weights, class_names and input_px go into `best.pt`
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    now, before = history[-1], [row["validation_accuracy"] for row in history[:-1]]
    if now["validation_accuracy"] > max(before, default=-math.inf):
        facts = {name: made_for[name] for name in ("architecture", "weights", "class_names", "input_px")}
        facts |= {name: now[name] for name in ("epoch", "validation_accuracy")}
        _save({"state_dict": state, **facts}, run_dir / "best.pt")
    last = run_dir / "last.pt"
    _save({"state_dict": state, "optimiser": optimiser.state_dict(), "history": history}, last)
    work_records.write(last, made_for, epochs=len(history))


def _save(content: dict[str, Any], path: Path) -> None:
    # Written to an open file: given a path, torch would put the temporary name into the checkpoint.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
