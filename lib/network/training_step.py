"""The inner loop of training: a model on its device, one SGD step, one pass over the tiles.

`prepare` and `training_step` are all a benchmark needs; `training.fit` adds epochs and checkpoints.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.network import batches, devices, models, stain_jitter
from lib.network.recipe import Recipe

AUXILIARY_WEIGHT = 0.4  # of Inception's auxiliary head in the loss, as torchvision's own recipe has it


class Trainer(NamedTuple):
    """What a training step needs; made by `prepare`."""

    model: nn.Module  # the plain module, whose weights are saved
    stepped: nn.Module  # the same weights, compiled or wrapped for several processes
    optimiser: torch.optim.Optimizer
    device: torch.device
    recipe: Recipe
    n_classes: int
    class_weights_t: torch.Tensor | None  # float32 (n_classes,), on the device
    normalisation: tuple[Sequence[float], Sequence[float]]  # mean and sd per colour channel, pixels in 0 to 1
    rank: int
    n_ranks: int


def prepare(
    model: nn.Module, recipe: Recipe, n_classes: int, class_weights: np.ndarray | None = None
) -> Trainer:
    """Move a model to the device, wrap it for several processes or the compiler, and give it its optimiser.

    Raises
    ------
    ValueError
        An unknown architecture; batch norm in several CPU processes (PyTorch synchronises it on GPUs only).
    """
    device = devices.choose_device(recipe.device)
    rank, n_ranks = devices.rank_and_ranks()
    devices.move(model, device)
    stepped: Any = model
    if n_ranks > 1:
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            if device.type != "cuda":
                raise InputError(
                    "batch norm is not synchronised across CPU processes: use GPUs or one process"
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        ids = [device.index] if device.type == "cuda" else None
        stepped = nn.parallel.DistributedDataParallel(model, device_ids=ids)
    if recipe.compile_network:
        stepped = torch.compile(stepped)
    optimiser = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    weights_t = None
    if class_weights is not None:
        weights_t = torch.tensor(np.asarray(class_weights), dtype=torch.float32, device=device)
    normalisation = models.normalisation_of(model, recipe.architecture)
    return Trainer(
        model, stepped, optimiser, device, recipe, n_classes, weights_t, normalisation, rank, n_ranks
    )


def training_step(
    trainer: Trainer, tiles_t: torch.Tensor, labels_t: torch.Tensor, n_tiles: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One SGD step on tiles that are on the device, in the model's present mode (train or eval).

    Parameters
    ----------
    tiles_t : uint8 (n, px, px, 3)
    labels_t : int64 (n,)
    n_tiles : tiles of the batch over all processes; default: those given

    Returns
    -------
    Summed loss, and number of correctly classified tiles; zero-dimensional, on the device (reading them
    waits for it).
    """
    trainer.optimiser.zero_grad(set_to_none=True)
    loss_t, n_correct_t = _loss(trainer, tiles_t, labels_t, trainer.class_weights_t)
    # Gradients are averaged over processes; this factor makes them the mean over the tiles of all.
    (loss_t * (trainer.n_ranks / (n_tiles or len(labels_t)))).backward()
    trainer.optimiser.step()
    return loss_t.detach(), n_correct_t


def _loss(
    trainer: Trainer, tiles_t: torch.Tensor, labels_t: torch.Tensor, class_weights_t: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    images_t = models.normalise(tiles_t, *trainer.normalisation)
    half = trainer.recipe.mixed_precision == "bf16"
    with torch.autocast(trainer.device.type, torch.bfloat16, enabled=half):
        outputs = trainer.stepped(images_t)
    logits_t, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    if logits_t.shape[1] != trainer.n_classes:
        raise InputError(
            f"the model has {logits_t.shape[1]} outputs, but there are {trainer.n_classes} classes: build it "
            f"with n_classes={trainer.n_classes}"
        )
    loss_t = F.cross_entropy(logits_t.float(), labels_t, class_weights_t, reduction="sum")
    for head_t in auxiliary:
        head_loss_t = F.cross_entropy(head_t.float(), labels_t, class_weights_t, reduction="sum")
        loss_t = loss_t + AUXILIARY_WEIGHT * head_loss_t
    return loss_t, (logits_t.detach().argmax(1) == labels_t).sum()


def train_epoch(trainer: Trainer, loader: batches.TileLoader, epoch: int, bar: tqdm) -> tuple[float, float]:
    """Mean loss and accuracy of one pass over the training tiles, in the order of this epoch."""
    augment, sigma, seed = trainer.recipe.augment, trainer.recipe.stain_jitter, trainer.recipe.seed
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, trainer.rank]).generate_state(1)[0]))
    loader.sampler.epoch = epoch
    sizes = loader.sampler.sizes()
    codes = batches.orientations(len(loader.dataset), augment, seed, epoch)
    stains = stain_jitter.draws(len(loader.dataset), sigma, seed, epoch) if sigma else None
    trainer.stepped.train()
    losses, n_correct_t = [], torch.zeros((), dtype=torch.int64, device=trainer.device)
    check_every = 1 if trainer.device.type == "cpu" else 50  # reading a loss from a GPU waits for it
    n_checked = 0
    for number, (batch, n_tiles) in enumerate(zip(loader, sizes, strict=True), start=1):
        tiles_t, labels_t = _to_device(trainer, batch)
        tiles_t = batches.orient(tiles_t, codes[batch.rows_t.numpy()])
        if stains is not None:
            tiles_t = stain_jitter.jitter(tiles_t, stains[batch.rows_t.numpy()])
        loss_t, batch_correct_t = training_step(trainer, tiles_t, labels_t, n_tiles)
        losses.append(loss_t)
        n_correct_t += batch_correct_t
        bar.update(n_tiles)
        if number % check_every == 0 or number == len(sizes):
            _require_finite(losses, n_checked, len(sizes), f"epoch {epoch}, training")
            n_checked = number
            bar.set_postfix(epoch=epoch, loss=f"{float(loss_t) / len(labels_t):.3f}", refresh=False)
    return _means(trainer, losses, n_correct_t, len(loader.dataset))


@torch.no_grad()
def evaluate(trainer: Trainer, loader: batches.TileLoader, epoch: int, bar: tqdm) -> tuple[float, float]:
    """Mean unweighted loss and accuracy over the validation tiles, in the precision of training."""
    trainer.stepped.eval()
    losses, n_correct_t = [], torch.zeros((), dtype=torch.int64, device=trainer.device)
    sizes = loader.sampler.sizes()
    for batch, n_tiles in zip(loader, sizes, strict=True):
        loss_t, batch_correct_t = _loss(trainer, *_to_device(trainer, batch), None)
        losses.append(loss_t)
        n_correct_t += batch_correct_t
        bar.update(n_tiles)
    _require_finite(losses, 0, len(sizes), f"epoch {epoch}, validation")
    return _means(trainer, losses, n_correct_t, len(loader.dataset))


def _to_device(trainer: Trainer, batch: batches.TileBatch) -> tuple[torch.Tensor, torch.Tensor]:
    device = trainer.device
    return devices.uploaded(batch.tiles_t, device), devices.uploaded(batch.labels_t, device)


def _means(
    trainer: Trainer, losses: list[torch.Tensor], n_correct_t: torch.Tensor, n_tiles: int
) -> tuple[float, float]:
    sums_t = torch.stack([torch.stack(losses).cpu().double().sum(), n_correct_t.cpu().double()])
    if trainer.n_ranks > 1:
        sums_t = sums_t.to(trainer.device)
        dist.all_reduce(sums_t)
    loss, n_correct = sums_t.tolist()
    return loss / n_tiles, n_correct / n_tiles


def _require_finite(losses: list[torch.Tensor], n_checked: int, n_batches: int, where: str) -> None:
    """RuntimeError where a loss after the first `n_checked` is not finite."""
    bad = (~torch.isfinite(torch.stack(losses[n_checked:]))).nonzero()
    if len(bad):
        place = n_checked + int(bad[0])
        raise RuntimeError(
            f"the loss is {float(losses[place])} in {where} batch {place + 1} of {n_batches}; the "
            "checkpoint is at most a minute older; lower the learning rate (0.001, say), or drop "
            "mixed_precision"
        )
