"""Quantification: f_lz of every channel of every layer, summed over the positions of a tile.

For an image X, f_lz(X) is the sum over x, y of Y_lzxy(X)^p (Badea & Stanescu 2020, Methods). Each layer is
reduced inside the forward pass, so in-place ReLUs cannot overwrite a layer before it is read, and memory does
not depend on the number of tiles.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from lib.errors import InputError
from lib.features import positive_sums
from lib.features.quantification import Quantification
from lib.network import devices, models
from lib.network.architectures import ARCHITECTURES

QuantifyBatch = Callable[[np.ndarray | torch.Tensor], torch.Tensor]


@contextmanager
def tile_quantifier(model: nn.Module, how: Quantification) -> Iterator[QuantifyBatch]:
    """Within the context, a function from tiles to features, float32 [B, n_features].

    The tiles are uint8 [B, H, W, 3], on the CPU. The columns have the order of `models.feature_table`. The
    model must be in eval mode; it is moved to the device, channels last, and its values are not changed.

    Raises
    ------
    ValueError
        Bad tiles, tiles smaller than the network takes, a model of another architecture.
    RuntimeError
        Training mode; out of memory with a single tile (with several, fewer are taken at a time).
    """
    layers = models.feature_layers(how.architecture, how.features)
    ends = np.cumsum([layer.call.n_channels for layer in layers])
    columns = {
        layer.layer: slice(end - layer.call.n_channels, end) for layer, end in zip(layers, ends, strict=True)
    }
    axes = {layer.layer: layer.call.channel_axis for layer in layers}
    rectified = _rectified(model, how)
    mean, sd = models.normalisation_of(model, how.architecture)
    device = torch.device(how.device)
    devices.move(model, device)
    sums_t = torch.empty(0)  # float32 [B, n_features] of the current batch

    def reduce(layer: int, output_t: torch.Tensor) -> None:
        if layer in rectified.values():
            return  # done, and summed, with the layer before it
        expected = columns[layer].stop - columns[layer].start
        _check_channels(layer, output_t.shape[axes[layer]], expected, how.architecture)
        if layer in rectified:
            values_t, sums_t[:, columns[rectified[layer]]] = positive_sums.rectify(output_t)
        else:
            values_t = _spatial_sum(output_t, axes[layer], how.p)
        sums_t[:, columns[layer]] = values_t

    def forward(tiles_t: torch.Tensor) -> torch.Tensor:
        nonlocal sums_t
        sums_t = torch.empty((len(tiles_t), int(ends[-1])), device=how.device)
        model(models.normalise(devices.uploaded(tiles_t, device), mean, sd))
        return sums_t

    passes = devices.FittingPasses(forward, device)

    def quantify_batch(tiles: np.ndarray | torch.Tensor) -> torch.Tensor:
        _check_tiles(tiles, how.architecture)
        if not isinstance(tiles, torch.Tensor):
            tiles = torch.from_numpy(np.ascontiguousarray(tiles))
        remedy = "a single tile is too much: try feature_precision = 'bfloat16', or another device"
        explained = devices.out_of_memory_explained(1, tiles.shape[1], how.device, remedy)
        with explained, torch.inference_mode(), at_precision(how.device, how.precision):
            return passes(tiles)

    with models.layer_outputs(model, how.architecture, reduce, features=how.features):
        done = {layer.call.module for layer in layers if layer.layer in rectified.values()}
        with _passed_through([model.get_submodule(name) for name in done]):
            yield quantify_batch


def _rectified(model: nn.Module, how: Quantification) -> dict[int, int]:
    """Layers summed with the ReLU after them, their only reader; of chains, AlexNet and VGG."""
    if how.p != 1 or not positive_sums.available(how.device):
        return {}
    if how.architecture not in ARCHITECTURES or how.architecture in ("resnet34", "inception_v3"):
        return {}
    layers = models.feature_layers(how.architecture, how.features)
    modules = dict(model.named_modules())
    return {
        a.layer: b.layer
        for a, b in itertools.pairwise(layers)
        if isinstance(modules.get(b.call.module), nn.ReLU) and b.layer == a.layer + 1
    }


@contextmanager
def _passed_through(modules: list[nn.Module]) -> Iterator[None]:
    """Within the context these modules return what they are given."""
    for module in modules:
        module.forward = lambda given: given
    try:
        yield
    finally:
        for module in modules:
            del module.forward


@contextmanager
def at_precision(device: str, precision: str) -> Iterator[None]:
    """Autocast for "bfloat16"; TF32, which CUDA convolutions use by default, only for "tf32"."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    # pyright takes cudnn for a module; torch puts an object with this attribute in its place.
    cuda.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before  # pyright: ignore[reportAttributeAccessIssue]


def _spatial_sum(output_t: torch.Tensor, channel_axis: int, p: float) -> torch.Tensor:
    """Sum over positions of Y^p, float32 [B, C]; maps in any layout, or tokens."""
    positions = (2, 3) if channel_axis == 1 else tuple(range(1, output_t.ndim - 1))
    if p == 1:
        return output_t.sum(positions, dtype=torch.float32)
    values_t = output_t.float()
    powered_t = values_t**p if p == int(p) else values_t.sign() * values_t.abs() ** p
    return powered_t.sum(positions)


def _check_channels(layer: int, found: int, expected: int, architecture: str) -> None:
    if found != expected:
        raise InputError(
            f"layer {layer} has {found} channels where {architecture} has {expected}: "
            "the model is not of that architecture"
        )


def _check_tiles(tiles: np.ndarray | torch.Tensor, architecture: str) -> None:
    """ValueError unless `tiles` is uint8 [B, H, W, 3], not empty and large enough for the network."""
    dtype = str(tiles.dtype).removeprefix("torch.")
    if dtype != "uint8" or tiles.ndim != 4 or tiles.shape[3] != 3 or not len(tiles):
        raise InputError(
            f"tiles must be uint8 [n, height, width, 3] with n >= 1; these are {dtype} {list(tiles.shape)}"
        )
    models.check_input_px(architecture, min(tiles.shape[1:3]))
