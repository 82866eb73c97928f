"""The folder of a training run: its best epoch, its last one, and what the last one was made for.

`best.pt` holds state_dict, architecture, weights, class_names, input_px, mean, sd, epoch and
validation_accuracy; `last.pt` state_dict, optimiser and history, from which training continues;
`last.pt.json` (see `lib.work_records`) all that the weights depend on. Both checkpoints hold tensors and
builtins only, so `torch.load(path, weights_only=True)` reads them.
"""

import hashlib
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas.util import hash_pandas_object
from torch import nn

from lib import work_records
from lib.errors import InputError
from lib.tiles.stored import slide_name
from lib.whole_files import checksum, whole_file

EVERY_S = 60.0
History = list[dict[str, Any]]  # one per epoch: epoch (from 1), validation_accuracy and more


def fingerprint(tiles_df: pd.DataFrame) -> str:
    """sha256 of which tiles carry which label, in order; where the tiles lie does not matter."""
    names = {file: slide_name(str(file)) for file in tiles_df["file"].unique()}
    rows_df = tiles_df[["stack_index", "label"]].assign(file=tiles_df["file"].map(names))
    return hashlib.sha256(hash_pandas_object(rows_df, index=False).to_numpy().tobytes()).hexdigest()


def require_same_run(run_dir: Path, made_for: dict[str, Any]) -> None:
    """Refuse to continue a run under another recipe, or with other tiles; discard one that is damaged.

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
    if damage := _damage(run_dir, record):
        discard(run_dir, damage)
        return
    differs = work_records.difference(record["made_for"], made_for)
    if differs:
        raise InputError(
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
        try:
            history = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["history"]
        except Exception as error:  # torch raises several kinds: unpickling, zip, EOF, key errors
            discard(run_dir, f"last.pt cannot be read: {type(error).__name__}")
            return
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


class Keeper:
    """Writes the checkpoints of a run, at most every EVERY_S seconds and for at most a twentieth of the time.

    `last.pt` is of the newest epoch, and `best.pt` of the best up to it: the two are always written together,
    so a run killed between two checkpoints repeats the epochs since and arrives at the same weights. The
    record comes first and knows the checksums of both files before and after, so at any moment it tells
    damage from an interruption.

    Parameters
    ----------
    made_for : as in `require_same_run`; architecture, weights, class_names, input_px, mean and sd go into
        `best.pt`
    """

    def __init__(self, run_dir: Path, made_for: dict[str, Any]) -> None:
        self.run_dir, self.made_for = run_dir, made_for
        self._contents: dict[str, dict[str, Any]] = {}  # the best epoch, while it is not written
        self._written_s = -math.inf  # when
        self._wait_s = 0.0

    def keep(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, history: History, final: bool = True
    ) -> bool:
        """Take note of the newest epoch of `history`, and write if it is `final` or time; whether it did."""
        now, before = history[-1], [row["validation_accuracy"] for row in history[:-1]]
        if now["validation_accuracy"] > max(before, default=-math.inf):
            state = {name: value.clone() for name, value in _state(model).items()}
            self._contents = {"best.pt": _best(state, self.made_for, now)}
        started = time.monotonic()
        if not final and started - self._written_s < self._wait_s:
            return False
        last = {"state_dict": _state(model), "optimiser": optimiser.state_dict(), "history": history}
        self._write(self._contents | {"last.pt": last}, len(history))
        self._contents, self._written_s = {}, time.monotonic()
        self._wait_s = min(EVERY_S, 20 * (self._written_s - started))
        return True

    def _write(self, contents: dict[str, dict[str, Any]], n_epochs: int) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        last = self.run_dir / "last.pt"
        known = work_records.read(last).get("outcome", {}).get("checksums", {})
        with ExitStack() as stack:
            for name, content in reversed(contents.items()):  # left in reverse: best.pt is in place first
                temporary = stack.enter_context(whole_file(self.run_dir / name))
                _save(content, temporary)
                known[name] = [checksum(temporary), *known.get(name, [])[:1]]
            work_records.announce(last, self.made_for, epochs=n_epochs, checksums=known)


def keep_best(run_dir: Path, model: nn.Module, made_for: dict[str, Any], row: dict[str, Any]) -> None:
    """Write `best.pt` alone, of a network that is not trained; row: epoch and validation_accuracy."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with whole_file(run_dir / "best.pt") as temporary:
        _save(_best(_state(model), made_for, row), temporary)


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _best(state: dict[str, torch.Tensor], made_for: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The content of `best.pt`."""
    names = ("architecture", "weights", "class_names", "input_px", "mean", "sd")
    facts = {name: made_for[name] for name in names}
    return {"state_dict": state, **facts} | {name: row[name] for name in ("epoch", "validation_accuracy")}


def _save(content: dict[str, Any], path: Path) -> None:
    # Written to an open file: given a path, torch would put the temporary name into the checkpoint.
    with path.open("wb") as file:
        torch.save(content, file)


def _damage(run_dir: Path, record: dict[str, Any]) -> str:
    """How the checkpoints of a run differ from what its record says; "" where they do not."""
    if not record:
        return "it has no readable record"
    for name, known in record["outcome"].get("checksums", {}).items():
        if not (run_dir / name).is_file():
            return f"{name} is missing"
        if checksum(run_dir / name) not in known:
            return f"{name} is damaged"
    return ""
