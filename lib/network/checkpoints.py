"""The folder of a training run: its recipe, its best epoch, and what continuing it needs.

`best.pt` holds state_dict, architecture, weights, class_names, input_px, epoch and validation_accuracy;
`last.pt` state_dict, optimiser and history; `recipe.json` all that the weights depend on. The first two
hold tensors and builtins only, so `torch.load(path, weights_only=True)` reads them. Each is written under a
temporary name first.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn


def fingerprint(tiles_df: pd.DataFrame) -> str:
    """Hash of which tiles carry which label, in order; the folder the stacks lie in does not matter."""
    names = tiles_df["file"].astype(str).map(lambda file: Path(file).name)
    rows = pd.DataFrame({"file": names, "index": tiles_df["stack_index"], "label": tiles_df["label"]})
    return hashlib.sha256(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes()).hexdigest()[:16]


def claim(run_dir: Path, recipe: dict[str, Any], *, restart: bool = False) -> None:
    """Write the recipe into the folder, or refuse to mix two recipes there.

    Parameters
    ----------
    recipe : numbers, strings, lists and dicts, as json has them
    restart : throw away the checkpoints found there

    Raises
    ------
    ValueError
        The folder holds a finished epoch of another recipe; the fields that differ are named.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    sidecar, last = run_dir / "recipe.json", run_dir / "last.pt"
    if restart:
        for name in ("last.pt", "best.pt", "recipe.json"):
            (run_dir / name).unlink(missing_ok=True)
    if last.exists():
        found = json.loads(sidecar.read_text()) if sidecar.exists() else {}
        differs = [
            f"{name}: {str(found.get(name, 'nothing'))[:60]} there, {str(value)[:60]} here"
            for name, value in recipe.items()
            if found.get(name, "nothing") != value
        ]
        if differs:
            raise ValueError(
                f"{run_dir} holds a run of another recipe ({'; '.join(differs)}). Choose another run_dir, go "
                "back to that recipe, or throw that run away with restart=True (--restart)"
            )
    temporary = sidecar.with_name("recipe.json.tmp")
    temporary.write_text(json.dumps(recipe, indent=1))
    os.replace(temporary, sidecar)


def drop_longer(run_dir: Path, epochs: int) -> None:
    """Throw away the checkpoints of a run that has more than `epochs` finished epochs, and say so.

    A shorter run can be continued; of a longer one the weights after `epochs` epochs are not kept.
    """
    last = run_dir / "last.pt"
    if not last.exists():
        return
    n_finished = len(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["history"])
    if n_finished > epochs:
        print(f"{run_dir} holds {n_finished} finished epochs, more than {epochs}: they are thrown away")
        for name in ("last.pt", "best.pt", "recipe.json"):
            (run_dir / name).unlink(missing_ok=True)


def resume(run_dir: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Load weights and momentum of the last finished epoch, if any; returns one dict per epoch so far."""
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
    history: list[dict[str, float]],
    about: dict[str, Any],
) -> None:
    """Write `best.pt` if the newest epoch beats all before it, then `last.pt`.

    In this order, a run killed between the two does that epoch again and comes to the same best.

    Parameters
    ----------
    history : one dict per epoch, with epoch and validation_accuracy
    about : architecture, weights, class_names, input_px; kept in `best.pt`
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    now, before = history[-1], [row["validation_accuracy"] for row in history[:-1]]
    if now["validation_accuracy"] > max(before, default=-math.inf):
        best = {"epoch": now["epoch"], "validation_accuracy": now["validation_accuracy"]}
        _save({"state_dict": state, **about, **best}, run_dir / "best.pt")
    last = {"state_dict": state, "optimiser": optimiser.state_dict(), "history": history}
    _save(last, run_dir / "last.pt")


def _save(content: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)
