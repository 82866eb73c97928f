"""Class probabilities of stored tiles under a trained network."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.network import devices, models
from lib.network.batches import TileLoader

_TILE_COLUMNS = ("sample_id", "tile_id", "stack_index")


def predict_tiles(
    model: nn.Module,
    tiles_df: pd.DataFrame,
    *,
    architecture: str,
    class_names: Sequence[str],
    batch_size: int = 256,
    device: str = "auto",
    n_workers: int = -1,
) -> pd.DataFrame:
    """Softmax of stored tiles, the model in eval mode (and returned to its former mode afterwards).

    Parameters
    ----------
    tiles_df : columns file, stack_index, sample_id and, if present, tile_id
    architecture : of the model ("": one of your own)
    class_names : tissues in the order of the model's outputs
    n_workers : threads that read tiles; -1: as `TileLoader` chooses

    Returns
    -------
    DataFrame in the order and with the index of `tiles_df`: its columns sample_id, tile_id, stack_index,
    and one float32 column of probabilities per class.

    Raises
    ------
    ValueError
        Another number of outputs than classes; a class named like one of the tile columns.
    RuntimeError
        A probability that is not finite (the tile is named); memory exhausted by a single tile (with several,
        fewer are taken at a time).
    """
    reserved = sorted(set(class_names) & set(_TILE_COLUMNS))
    if reserved or len(set(class_names)) != len(class_names):
        raise InputError(f"class names must differ from each other and from {_TILE_COLUMNS}: {reserved}")
    torch_device = devices.choose_device(device)
    loader = TileLoader(tiles_df, batch_size, torch_device, n_workers=n_workers)
    remedy, was_training = "a single tile is too much: try another device", model.training
    explained = devices.out_of_memory_explained(1, loader.dataset.input_px, torch_device, remedy)
    devices.move(model, torch_device).eval()
    try:
        with explained, torch.inference_mode():
            probabilities = _softmax(model, loader, architecture, torch_device)
    finally:
        model.train(was_training)
    if probabilities.shape[1] != len(class_names):
        raise InputError(
            f"the model has {probabilities.shape[1]} outputs, but {len(class_names)} classes are named: give "
            "the class_names of its checkpoint"
        )
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        tile = tiles_df.iloc[bad[0]]
        raise RuntimeError(
            f"{len(bad)} tiles have probabilities that are not finite, first tile {tile['stack_index']} of "
            f"{tile['file']}: the weights may have diverged; train with a lower learning rate"
        )
    columns = [name for name in _TILE_COLUMNS if name in tiles_df]
    scores_df = pd.DataFrame(probabilities, index=tiles_df.index, columns=list(class_names))
    return pd.concat([tiles_df[columns], scores_df], axis=1)


def _softmax(
    model: nn.Module,
    loader: TileLoader,
    architecture: str,
    device: torch.device,
) -> np.ndarray:
    parts, normalisation = [], models.normalisation_of(model, architecture)

    def forward(tiles_t: torch.Tensor) -> torch.Tensor:
        images_t = models.normalise(devices.uploaded(tiles_t, device), *normalisation)
        return F.softmax(model(images_t).float(), dim=1)

    passes = devices.FittingPasses(forward, device)
    with tqdm(total=len(loader.dataset), unit="tile") as bar:
        for batch in loader:
            parts.append(passes(batch.tiles_t))
            bar.update(len(batch.tiles_t))
    return torch.cat(parts).cpu().numpy()
