"""Training a tissue classifier: the paper's schedule, best epoch, resume, several processes.

    torchrun --nproc-per-node 4 -m lib.train --cohort gtex --architecture vgg16

The command is in `lib.train`.

Everything random in an epoch (tile order, orientations, dropout) is drawn from (seed, epoch, rank) alone,
and the learning rate follows from the epoch, so a run continued after its last finished epoch needs only
weights and momentum to end where an uninterrupted one ends.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lib.network import batches, checkpoints, models, training_step


def fit(
    model: nn.Module,
    train_df: pd.DataFrame,
    validation_df: pd.DataFrame,
    *,
    class_names: Sequence[str],
    run_dir: str | Path,
    architecture: str = "",
    weights: str | Path | None = None,
    epochs: int = 90,
    batch_size: int = 40,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    lr_step_epochs: int = 30,
    lr_gamma: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    mixed_precision: str | None = None,
    channels_last: bool = True,
    compile: bool = False,
    augment: Sequence[str] = (),
    class_weighting: bool = False,
    n_workers: int | None = None,
    restart: bool = False,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train by SGD and keep the epoch of best validation tile accuracy (ties: the earlier) in `run_dir`.

    A run found in `run_dir` is continued after its last finished epoch (`lib.network.checkpoints` lists the
    files). On the CPU the weights at the end equal those of an uninterrupted run bit for bit.

    Parameters
    ----------
    model : takes normalised float32 images (n, 3, px, px) and returns logits (n, n_classes), or a tuple
    that
        begins with them (Inception v3 while training)
    train_df, validation_df : labelled tiles with columns file, stack_index, label (see `lib.network.batches`)
    class_names : tissues in label order
    architecture, weights : names kept in checkpoint and recipe; the architecture also says how pixels are
        normalised ("" is ImageNet's mean and sd)
    batch_size : tiles per step over all processes; the paper: 256 for AlexNet, 40 for the others
    lr, momentum, weight_decay, lr_step_epochs, lr_gamma : SGD; lr times lr_gamma every lr_step_epochs
    seed : of tile order, orientations and dropout; the initial weights are the caller's
    device : "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1"
    mixed_precision : None (float32) or "bf16"
    augment : any of "flip", "rotate90"; () is the paper
    class_weighting : weigh a class by n / (n_classes n_class), so that the mean weight of a tile is 1
    n_workers : loader processes; None: none beside a CPU, up to 8 for a GPU
    restart : throw away what `run_dir` holds instead of continuing it
    on_epoch : called with the history so far after each epoch, once its checkpoint is written

    Returns
    -------
    DataFrame, one row per epoch: epoch (from 1), lr, train_loss (as optimised), train_accuracy,
    validation_loss (unweighted), validation_accuracy, tiles_per_s (training part), seconds (training and
    validation).

    Raises
    ------
    ValueError
        A class without training tiles; labels outside the classes; another number of outputs than classes;
        a run of another recipe, or with more epochs, in `run_dir`.
    RuntimeError
        A loss that is not finite (epoch and batch are named; the checkpoints keep the last finished epoch);
        memory exhausted.

    References
    ----------
    Paper, "Training and validation of deep learning tissue classifiers".
    """
    if epochs < 1:
        raise ValueError(f"epochs must be 1 or more, not {epochs}")
    n_of_class = _count_classes(train_df, validation_df, class_names)
    run_dir = Path(run_dir)
    loaders = _loaders(
        train_df, validation_df, batch_size, seed, training_step.choose_device(device), n_workers
    )
    about = {"architecture": architecture, "weights": str(weights or "none")}
    about["class_names"] = [str(name) for name in class_names]
    about["input_px"] = loaders[0].dataset.input_px
    sgd = {"lr": float(lr), "momentum": float(momentum), "weight_decay": float(weight_decay)}
    recipe = about | sgd | {"lr_step_epochs": int(lr_step_epochs), "lr_gamma": float(lr_gamma)}
    recipe |= {"batch_size": int(batch_size), "seed": int(seed), "augment": sorted(set(augment))}
    recipe |= {"class_weighting": class_weighting, "mixed_precision": mixed_precision}
    recipe |= {"parameters": {name: list(value.shape) for name, value in model.state_dict().items()}}
    recipe |= {"train_tiles": checkpoints.fingerprint(train_df)}
    recipe |= {"validation_tiles": checkpoints.fingerprint(validation_df)}
    rank, n_ranks = training_step.rank_and_ranks()
    if rank == 0:
        checkpoints.claim(run_dir, recipe, restart=restart)
    if n_ranks > 1:
        dist.barrier()  # before any process looks for something to continue
    class_weights = n_of_class.sum() / (len(class_names) * n_of_class) if class_weighting else None
    how = {"mixed_precision": mixed_precision, "channels_last": channels_last, "compile": compile}
    how |= {"n_classes": len(class_names), "device": device, "class_weights": class_weights}
    how["normalisation"] = models.normalisation(architecture)
    trainer = training_step.prepare(model, **sgd, **how)
    history = checkpoints.resume(run_dir, trainer.model, trainer.optimiser)
    if len(history) > epochs:
        raise ValueError(
            f"{run_dir} holds {len(history)} finished epochs and {epochs} are asked for: raise epochs, "
            "choose another run_dir, or train anew with restart=True (--restart)"
        )
    n_tiles = len(train_df) + len(validation_df)
    hidden = not progress or rank > 0
    bar = tqdm(total=epochs * n_tiles, initial=len(history) * n_tiles, unit="tile", disable=hidden)
    remedy = (
        f"Try batch_size {max(1, batch_size // 2)}, mixed_precision 'bf16', more GPUs (torchrun), or fewer "
    )
    remedy += "loader processes. Finished epochs are kept"
    with bar, training_step.out_of_memory_explained(batch_size, about["input_px"], trainer.device, remedy):
        for epoch in range(len(history) + 1, epochs + 1):
            epoch_lr = learning_rate(epoch, lr, lr_step_epochs, lr_gamma)
            history.append(_run_epoch(trainer, loaders, epoch, epoch_lr, augment, seed, bar))
            if rank == 0:
                checkpoints.keep(run_dir, trainer.model, trainer.optimiser, history, about)
            if on_epoch is not None:
                on_epoch(pd.DataFrame(history))
    return pd.DataFrame(history)


def keep_untrained(
    model: nn.Module,
    train_df: pd.DataFrame,
    validation_df: pd.DataFrame,
    *,
    class_names: Sequence[str],
    run_dir: str | Path,
    architecture: str = "",
    weights: str | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 40,
    **unused: object,
) -> pd.DataFrame:
    """Checkpoint a network as it is, in the place of `fit`: the untrained null network (METHOD section 11).

    Returns a history of one row, epoch 0, with the validation loss and accuracy; what belongs to training is
    missing there. Arguments and errors as in `fit`, of which those about training have no effect.
    """
    _count_classes(train_df, validation_df, class_names)
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    _, loader = _loaders(train_df, validation_df, batch_size, seed, training_step.choose_device(device), None)
    how = {"n_classes": len(class_names), "device": device}
    trainer = training_step.prepare(model, **how, normalisation=models.normalisation(architecture))
    started = time.perf_counter()
    with tqdm(total=len(validation_df), unit="tile", disable=True) as bar:
        loss, accuracy = training_step.evaluate(trainer, loader, 0, bar=bar)
    row = {"epoch": 0, "lr": 0.0, "train_loss": math.nan, "train_accuracy": math.nan}
    row |= {"validation_loss": loss, "validation_accuracy": accuracy, "tiles_per_s": math.nan}
    row["seconds"] = time.perf_counter() - started
    about = {"architecture": architecture, "weights": str(weights), "class_names": list(class_names)}
    about["input_px"] = loader.dataset.input_px
    checkpoints.keep(run_dir, trainer.model, trainer.optimiser, [row], about)
    return pd.DataFrame([row])


def learning_rate(epoch: int, lr: float, lr_step_epochs: int, lr_gamma: float) -> float:
    """Learning rate of an epoch counted from 1: times lr_gamma after every lr_step_epochs epochs."""
    return float(lr * lr_gamma ** ((epoch - 1) // lr_step_epochs))


def training_sets(
    labelled_df: pd.DataFrame, null_network: str = "", seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tiles to train on, and those of known tissue to choose the epoch by.

    For the null network "shuffled" the labels of both are permuted over samples, each set by itself: a choice
    of the epoch by true labels would let the tissues in again.

    Parameters
    ----------
    labelled_df : `stored.labelled_tiles`, with columns split and label
    """
    train_df = labelled_df[labelled_df["split"] == "train"]
    validation_df = labelled_df[(labelled_df["split"] == "validation") & (labelled_df["label"] >= 0)]
    if null_network == "shuffled":
        return shuffle_labels(train_df, seed), shuffle_labels(validation_df, seed)
    return train_df, validation_df


def shuffle_labels(tiles_df: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Labelled tiles with the labels of whole samples permuted, for a null network (METHOD section 11).

    All tiles of a sample share one label and each class keeps its number of samples, so that a network can
    still learn to recognise slides, but not tissues.

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
        raise ValueError(f"{len(twice)} samples have tiles of two labels, first {list(twice[:3])}")
    order = np.random.default_rng(seed).permutation(len(of_sample))
    permuted = of_sample.iloc[order].set_axis(of_sample.index)
    return tiles_df.assign(**{name: tiles_df["sample_id"].map(permuted[name]) for name in columns})


def _loaders(
    train_df: pd.DataFrame,
    validation_df: pd.DataFrame,
    batch_size: int,
    seed: int,
    device: torch.device,
    n_workers: int | None,
) -> tuple[DataLoader, DataLoader]:
    rank, n_ranks = training_step.rank_and_ranks()
    how = {"seed": seed, "pin_memory": device.type == "cuda", "rank": rank, "n_ranks": n_ranks}
    how["n_workers"] = batches.default_workers(device) if n_workers is None else n_workers
    train_loader = batches.tile_loader(train_df, batch_size, shuffle=True, **how)
    return train_loader, batches.tile_loader(validation_df, batch_size, **how)


def _run_epoch(
    trainer: training_step.Trainer,
    loaders: tuple[DataLoader, DataLoader],
    epoch: int,
    lr: float,
    augment: Sequence[str],
    seed: int,
    bar: tqdm,
) -> dict[str, float]:
    """Train and validate once; returns the history's row."""
    for group in trainer.optimiser.param_groups:
        group["lr"] = lr
    started = time.perf_counter()
    loss, accuracy = training_step.train_epoch(
        trainer, loaders[0], epoch, augment=augment, seed=seed, bar=bar
    )
    tiles_per_s = len(loaders[0].dataset) / (time.perf_counter() - started)
    row = {"epoch": epoch, "lr": lr, "train_loss": loss, "train_accuracy": accuracy}
    loss, accuracy = training_step.evaluate(trainer, loaders[1], epoch, bar=bar)
    row |= {"validation_loss": loss, "validation_accuracy": accuracy}
    return row | {"tiles_per_s": tiles_per_s, "seconds": time.perf_counter() - started}


def _count_classes(
    train_df: pd.DataFrame, validation_df: pd.DataFrame, class_names: Sequence[str]
) -> np.ndarray:
    """Training tiles per class, int64 (n_classes,); refuses empty splits, stray labels and empty classes."""
    for split, tiles_df in (("training", train_df), ("validation", validation_df)):
        if not len(tiles_df):
            raise ValueError(f"the {split} split has no tiles: check the samples' split and the tile filter")
        stray = tiles_df[~tiles_df["label"].between(0, len(class_names) - 1)]
        if len(stray):
            shown = list(stray["tissue" if "tissue" in stray else "label"].unique()[:5])
            raise ValueError(
                f"{len(stray)} {split} tiles belong to no class, of {shown}: give that tissue training "
                "samples, or drop its rows"
            )
    n_of_class = np.bincount(train_df["label"], minlength=len(class_names))
    missing = [class_names[label] for label in np.flatnonzero(n_of_class == 0)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(class_names)} classes have no training tiles, {missing[:5]}: give each "
            "a training sample, or leave it out of class_names"
        )
    return n_of_class
