"""Training a tissue classifier: the paper's schedule, the best epoch, continuation, several processes.

All randomness of an epoch (tile order, orientations, stains, dropout) is drawn from (seed, epoch, rank)
alone, and the learning rate follows from the epoch, so a run continued after its last finished epoch needs
only weights and momentum to end where an uninterrupted one ends. `lib.train` is the command.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.network import checkpoints, construction, devices, models, training_step
from lib.network.batches import TileLoader
from lib.network.recipe import Recipe
from lib.network.weights import Normalisation, require_normalisation
from lib.tiles.stored import require_stored


def initial_network(recipe: Recipe, n_classes: int, input_px: int, weights: str | None) -> nn.Module:
    """The network before its first step: random weights from the seed, or given ones but for the last layer.

    Parameters
    ----------
    input_px : edge of the tiles
    weights : None (random), "imagenet", or the path of a checkpoint (that of `recipe.weights`)

    Raises
    ------
    ValueError, FileNotFoundError, RuntimeError
        As `models.build`.
    """
    torch.manual_seed(recipe.seed)
    model = models.build(recipe.architecture, n_classes, weights=weights, keep_head=False, input_px=input_px)
    if recipe.initialisation == "vgg" and not weights:
        construction.initialise_like_vgg(model)
    return model


def fit(
    model: nn.Module,
    train_df: pd.DataFrame,
    validation_df: pd.DataFrame,
    *,
    class_names: Sequence[str],
    run_dir: str | Path,
    recipe: Recipe,
) -> pd.DataFrame:
    """Train by SGD; keep the epoch of best validation tile accuracy (ties: the earlier) in `run_dir`.

    A run found in `run_dir` is continued after its last checkpoint (`lib.network.checkpoints` lists the
    files). On the CPU the final weights equal those of an uninterrupted run bit for bit. With no epochs in
    the recipe the network is only evaluated and kept, as epoch 0: the untrained null network.

    Parameters
    ----------
    model : takes normalised float32 images (n, 3, px, px) and returns logits (n, n_classes), or a tuple that
        begins with them (Inception v3 while training); its weights are those training starts from
    train_df, validation_df : labelled tiles with columns file, stack_index, label (see `lib.network.batches`)
    class_names : tissues in label order

    Returns
    -------
    DataFrame, one row per epoch: epoch (from 1), lr, train_loss (as optimised), train_accuracy,
    validation_loss (unweighted), validation_accuracy, tiles_per_s (training part), seconds (training and
    validation). Of epoch 0 what belongs to training is missing.

    Raises
    ------
    ValueError
        A class without training tiles; labels outside the classes; another number of outputs than classes;
        a run of another recipe, or with more epochs, in `run_dir`.
    RuntimeError
        A loss that is not finite (epoch and batch are named; the checkpoint is at most a minute old);
        memory exhausted.
    """
    run_dir = Path(run_dir)
    n_of_class = _count_classes(train_df, validation_df, class_names, recipe.epochs)
    class_weights = n_of_class.sum() / (len(class_names) * n_of_class) if recipe.class_weighting else None
    if recipe.epochs:
        require_stored(pd.concat([train_df, validation_df]))
    loaders = _loaders(train_df, validation_df, recipe)
    tiles = {"train_tiles": train_df, "validation_tiles": validation_df}
    made_for = _made_for(model, recipe, class_names, loaders[0].dataset.input_px, tiles)
    rank, n_ranks = devices.rank_and_ranks()
    if rank == 0:
        checkpoints.require_same_run(run_dir, made_for)
    if n_ranks > 1:
        dist.barrier()  # before any process looks for something to continue
    trainer = training_step.prepare(model, recipe, len(class_names), class_weights)
    history = checkpoints.resume(run_dir, trainer.model, trainer.optimiser)
    keeper = checkpoints.Keeper(run_dir, made_for)
    for row in _epochs(trainer, loaders, history[-1]["epoch"] if history else None):
        history.append(row)
        if rank == 0:
            final = row["epoch"] == recipe.epochs
            keeper.keep(trainer.model, trainer.optimiser, history, final)
    return pd.DataFrame(history)


def _made_for(
    model: nn.Module,
    recipe: Recipe,
    class_names: Sequence[str],
    input_px: int,
    tiles: dict[str, pd.DataFrame],
) -> dict[str, Any]:
    """All that the weights depend on, for `checkpoints`."""
    return {
        **recipe.recorded(),
        **_normalisation(model, recipe),
        "class_names": [str(name) for name in class_names],
        "input_px": input_px,
        "network": _shapes(model),
        **{name: checkpoints.fingerprint(tiles_df) for name, tiles_df in tiles.items()},
    }


def _epochs(
    trainer: training_step.Trainer, loaders: tuple[TileLoader, TileLoader], finished: int | None
) -> Iterator[dict[str, Any]]:
    """Rows of the history for the epochs after `finished`, each as it ends."""
    recipe = trainer.recipe
    first = min(1, recipe.epochs) if finished is None else finished + 1
    if first > recipe.epochs + 1:
        raise InputError(
            f"the run has {finished} finished epochs, more than the {recipe.epochs} of its recipe: raise "
            "epochs, choose another run_dir, or discard the run (--restart)"
        )
    n_tiles = sum(len(loader.dataset) for loader in loaders)
    done, total = max(0, first - 1) * n_tiles, recipe.epochs * n_tiles
    remedy = f"try batch_size {max(1, recipe.batch_size // 2)}, mixed_precision 'bf16' or more GPUs "
    remedy += "(torchrun); finished epochs are kept"
    sizes = (recipe.batch_size, loaders[0].dataset.input_px)
    explained = devices.out_of_memory_explained(*sizes, trainer.device, remedy)
    with tqdm(total=total, initial=done, unit="tile", disable=trainer.rank > 0) as bar, explained:
        for epoch in range(first, recipe.epochs + 1):
            yield _run_epoch(trainer, loaders, epoch, bar)


def keep_as_it_is(
    model: nn.Module, class_names: Sequence[str], input_px: int, run_dir: str | Path, recipe: Recipe,
    weights: str | None = None, normalisation: Normalisation | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Write a network that is not trained as `best.pt` of a run; its history, without rows.

    Parameters
    ----------
    class_names : of its last layer, which no feature depends on.
    weights : where its weights are from, as for `initial_network`.
    normalisation : mean and sd of its pixels; None: as the checkpoint says (InputError where it does not).
    """
    if normalisation:
        models.set_normalisation(model, *normalisation)
    elif weights not in (None, "imagenet"):
        require_normalisation(weights)
    made_for = {"architecture": recipe.architecture, "weights": recipe.recorded()["weights"]}
    made_for |= {"class_names": [str(name) for name in class_names], "input_px": input_px}
    made_for |= _normalisation(model, recipe)
    checkpoints.keep_best(Path(run_dir), model, made_for, {"epoch": 0, "validation_accuracy": math.nan})
    columns = ["epoch", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    return pd.DataFrame(columns=columns, dtype=np.float64)


def training_sets(
    labelled_df: pd.DataFrame, null_network: str = "", seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training tiles, and validation tiles of known tissue, by which the epoch is chosen.

    For the null network "shuffled" labels are permuted among the samples of each set: choosing the epoch by
    true validation labels would let the tissues in again.

    Parameters
    ----------
    labelled_df : `stored.labelled_tiles`, with columns split and label
    """
    train_df = labelled_df.loc[labelled_df["split"] == "train"]
    validation_df = labelled_df.loc[(labelled_df["split"] == "validation") & (labelled_df["label"] >= 0)]
    if null_network == "shuffled":
        return permute_labels(train_df, seed), permute_labels(validation_df, seed)
    return train_df, validation_df


def permute_labels(tiles_df: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Labelled tiles with the labels of whole samples permuted, for a null network.

    All tiles of a sample share one label and each class keeps its number of samples, so a network can still
    learn to recognise slides, but not tissues. (notebooks/README.md, section 11)

    Parameters
    ----------
    tiles_df : columns sample_id, label and, if present, tissue (permuted along)

    Raises
    ------
    ValueError
        A sample with tiles of two labels.
    """
    columns = [name for name in ("label", "tissue") if name in tiles_df]
    of_sample = tiles_df[["sample_id", *columns]].drop_duplicates().set_index("sample_id")
    if of_sample.index.has_duplicates:
        twice = of_sample.index[of_sample.index.duplicated()].unique()
        raise InputError(f"{len(twice)} samples have tiles of two labels, first {list(twice[:3])}")
    order = np.random.default_rng(seed).permutation(len(of_sample))
    permuted = of_sample.iloc[order].set_axis(of_sample.index)
    return tiles_df.assign(**{name: tiles_df["sample_id"].map(permuted[name]) for name in columns})


def _loaders(
    train_df: pd.DataFrame, validation_df: pd.DataFrame, recipe: Recipe
) -> tuple[TileLoader, TileLoader]:
    device, ranks = devices.choose_device(recipe.device), devices.rank_and_ranks()
    how: dict[str, Any] = {"seed": recipe.seed, "n_workers": recipe.loader_workers, "ranks": ranks}
    loader = partial(TileLoader, batch_size=recipe.batch_size, device=device, **how)
    return loader(train_df, shuffle=True), loader(validation_df)


def _normalisation(model: nn.Module, recipe: Recipe) -> dict[str, list[float]]:
    """Mean and sd of the network's pixels, for its checkpoint."""
    mean, sd = models.normalisation_of(model, recipe.architecture)
    return {"mean": list(mean), "sd": list(sd)}


def _shapes(model: nn.Module) -> str:
    """sha256 of the names and shapes of a network's tensors."""
    shapes = [(name, *value.shape) for name, value in model.state_dict().items()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()


def _run_epoch(
    trainer: training_step.Trainer, loaders: tuple[TileLoader, TileLoader], epoch: int, bar: tqdm
) -> dict[str, Any]:
    """Train (but for epoch 0) and validate once; returns the history's row."""
    row: dict[str, Any] = {"epoch": epoch, "lr": trainer.recipe.rate_in(epoch) if epoch else 0.0}
    for group in trainer.optimiser.param_groups:
        group["lr"] = row["lr"]
    started = time.perf_counter()
    loss = accuracy = tiles_per_s = math.nan
    if epoch:
        loss, accuracy = training_step.train_epoch(trainer, loaders[0], epoch, bar)
        tiles_per_s = len(loaders[0].dataset) / (time.perf_counter() - started)
    row |= {"train_loss": loss, "train_accuracy": accuracy}
    loss, accuracy = training_step.evaluate(trainer, loaders[1], epoch, bar)
    row |= {"validation_loss": loss, "validation_accuracy": accuracy}
    return row | {"tiles_per_s": tiles_per_s, "seconds": time.perf_counter() - started}


def _count_classes(
    train_df: pd.DataFrame, validation_df: pd.DataFrame, class_names: Sequence[str], epochs: int
) -> np.ndarray:
    """Training tiles per class, int64 (n_classes,); InputError for empty splits or classes, stray labels, and
    for one class, if anything is to be trained.
    """
    if epochs and len(class_names) < 2:
        raise InputError(
            "a classifier of one class learns nothing: set encoder = 'imagenet', or a checkpoint, to take "
            "features from a network as it is, or name two or more tissues"
        )
    for split, tiles_df in (("training", train_df), ("validation", validation_df)):
        if not len(tiles_df):
            raise InputError(f"the {split} split has no tiles: check the samples' split and the tile filter")
        stray_df = tiles_df.loc[~tiles_df["label"].between(0, len(class_names) - 1)]
        if len(stray_df):
            shown = list(stray_df["tissue" if "tissue" in stray_df else "label"].unique()[:5])
            raise InputError(
                f"{len(stray_df)} {split} tiles belong to no class, of {shown}: give that tissue training "
                "samples, or drop its rows"
            )
    n_of_class = np.bincount(train_df["label"], minlength=len(class_names))
    missing = [name for name, n_tiles in zip(class_names, n_of_class, strict=True) if not n_tiles]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(class_names)} classes have no training tiles, {missing[:5]}: give each "
            "a training sample, or leave it out of class_names"
        )
    return n_of_class
