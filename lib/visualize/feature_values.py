"""Values of chosen features on chosen tiles, with their gradients where asked.

A feature f_lz is the sum over x, y of Y_lzxy^p, Y the output of channel z of layer l (paper, Methods,
"features"). The forward pass ends at the last layer needed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.network import models
from lib.tiles.stored import StoredTiles

# Pointwise nonlinearities of torch, but for the sigmoids of gates. Only ReLU can be guided; with any other
# the map of guided backpropagation would be something else.
RECTIFIERS = frozenset(
    [
        "relu",
        "relu6",
        "clamp",
        "clamp_min",
        "threshold",
        "hardtanh",
        "leaky_relu",
        "elu",
        "gelu",
        "silu",
        "celu",
    ]
    + ["hardswish", "mish", "softplus", "_prelu_kernel", "prelu", "rrelu", "rrelu_with_noise", "tanh"]
    + ["log_sigmoid_forward", "log_sigmoid", "softshrink", "hardshrink"]
)


class Network(NamedTuple):
    """A network whose features are looked at."""

    model: torch.nn.Module  # in evaluation mode, from `models.build` or `models.load`
    architecture: str  # as for `models.build`
    p: float = 1.0  # exponent of the features, above 0, with the sign rule of `quantify.tile_quantifier`

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def normalised(self, tiles_t: torch.Tensor) -> torch.Tensor:
        """uint8 n x H x W x 3 to the network's input, float32 n x 3 x H x W on its device."""
        return models.normalise(
            tiles_t.to(self.device), *models.normalisation_of(self.model, self.architecture)
        )


class PassRecord(TorchDispatchMode):
    """Watches one forward pass: how many rectifiers it executes, and the graph nodes of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.n_rectifiers = 0
        self.layer_nodes: list[torch.autograd.graph.Node | None] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n_rectifiers += func.overloadpacket.__name__.rstrip("_") in RECTIFIERS
        return func(*args, **(kwargs or {}))


class FeaturesReached(Exception):
    """Raised in a callback of `models.layer_outputs` to end a pass once every feature has its value."""


def feature_sums(
    network: Network, features: Sequence[str], images_t: torch.Tensor, record: PassRecord | None = None
) -> torch.Tensor:
    """Values of chosen features, n_images x n_features, with their graph where gradients are recorded.

    Parameters
    ----------
    network : Network
    features : feature names, of any layers
    images_t : float, n_images x 3 x H x W, normalised
    record : optional
        Watches the pass; every feature layer that runs, chosen or not, is noted in it.

    Raises
    ------
    ValueError
        For a name that is no feature of the architecture, or a p that is not above 0.
    RuntimeError
        If the model is in training mode or not of the architecture.
    """
    model, architecture, p = network
    if not p > 0:
        raise InputError(f"p is {p}: the exponent of the features must be above 0 (1 in the paper)")
    places = feature_places(architecture, features)
    axis = {found.layer: found.call.channel_axis for found in models.feature_layers(architecture)}
    waiting = {layer for layer, _ in places}
    sums: dict[tuple[int, int], torch.Tensor] = {}

    def reduce(layer: int, output_t: torch.Tensor) -> None:
        if record is not None:
            record.layer_nodes.append(output_t.grad_fn)
        if layer in waiting:
            waiting.discard(layer)
            for place in places:
                if place[0] == layer:
                    # Summed at once: an in-place ReLU may overwrite the layer as soon as this returns.
                    channel_t = output_t.select(axis[layer], place[1])
                    sums[place] = powered(channel_t, p).flatten(1).sum(1)
        if not waiting:
            raise FeaturesReached

    layers = sorted(waiting) if record is None else None
    try:
        with models.layer_outputs(model, architecture, reduce, layers=layers), record or nullcontext():
            model(images_t)
    except FeaturesReached:
        return torch.stack([sums[place] for place in places], dim=1)
    raise RuntimeError(
        f"the forward pass ended before the layers {sorted(waiting)}: is the model {architecture}?"
    )


def powered(values_t: torch.Tensor, p: float) -> torch.Tensor:
    """Y^p for whole p, else sign(Y) |Y|^p, as features are quantified; the gradient at Y = 0 is finite."""
    if p == 1:
        return values_t
    values_t = values_t.clone()  # the power keeps its input, which an in-place ReLU would overwrite
    if p == int(p):
        return values_t**p
    # For p < 1 the slope at 0 is infinite, and a channel is mostly 0 after a ReLU: zeros pass nothing back.
    size_t = torch.where(values_t == 0, 1.0, values_t.abs())
    return values_t.sign() * size_t**p


def feature_places(architecture: str, features: Sequence[str]) -> list[tuple[int, int]]:
    """(layer, channel) of each feature name; ValueError for the first that the architecture lacks."""
    n_channels = {found.layer: found.call.n_channels for found in models.feature_layers(architecture)}
    places = []
    for feature in features:
        layer, _, channel = feature.partition("_")
        if not (layer.isdigit() and channel.isdigit() and int(channel) < n_channels.get(int(layer), 0)):
            extent = f"layers {min(n_channels)} to {max(n_channels)}"
            if layer.isdigit() and int(layer) in n_channels:
                extent = f"channels 0 to {n_channels[int(layer)] - 1} in layer {layer}"
            raise InputError(
                f"{feature!r} is not a feature of {architecture}: features are <layer>_<channel>, {extent}"
            )
        places.append((int(layer), int(channel)))
    if not places:
        raise InputError("no feature was named: give at least one <layer>_<channel>")
    return places


@contextmanager
def network_input(network: Network, tile: np.ndarray) -> Iterator[torch.Tensor]:
    """The normalised tile, 1 x 3 x H x W; gradients are recorded within the context."""
    if tile.dtype != np.uint8 or tile.ndim != 3 or tile.shape[2] != 3:
        raise InputError(f"a tile is uint8 H x W x 3 RGB; got {tile.dtype} of shape {tile.shape}")
    with torch.inference_mode(False), torch.enable_grad():
        # A copy: tiles of a memory-mapped stack cannot be written to.
        tile_t = torch.tensor(np.ascontiguousarray(tile), device=network.device)
        yield network.normalised(tile_t[None]).requires_grad_()


def tile_values(
    network: Network,
    features: Sequence[str],
    tiles_df: pd.DataFrame,
    *,
    batch: int = 32,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Values of chosen features on stored tiles.

    Parameters
    ----------
    network : Network
    features : feature names; none gives a table without columns
    tiles_df : columns tile_id, file (of the tile stack), stack_index
    batch : tiles in one pass
    on_step : called after each batch with the number of tiles done; an error it raises ends the work

    Returns
    -------
    DataFrame, tiles x features, float64; index tile_id in the order of tiles_df

    Raises
    ------
    FileNotFoundError, ValueError
        For a stack that is missing, or shorter than the tiles say (`stored.StoredTiles`).
    """
    index = pd.Index(tiles_df["tile_id"], name="tile_id")
    if not len(features):
        return pd.DataFrame(index=index)
    tiles = StoredTiles(tiles_df)
    tiles.require_slides(np.arange(len(tiles)))
    values = np.empty((len(tiles_df), len(features)))
    n_done = 0
    with tqdm(total=len(tiles_df), unit="tile", disable=not progress) as bar:
        for of_file in tiles_df.groupby("file", sort=False).indices.values():
            for first in range(0, len(of_file), batch):
                rows = np.asarray(of_file[first : first + batch])
                with torch.no_grad():
                    input_t = network.normalised(torch.from_numpy(tiles.read(rows)))
                    values[rows] = feature_sums(network, features, input_t).cpu().numpy()
                bar.update(len(rows))
                n_done += len(rows)
                if on_step is not None:
                    on_step(n_done)
    return pd.DataFrame(values, index=index, columns=list(features))


def reachable(nodes: Sequence["torch.autograd.graph.Node | None"]) -> list["torch.autograd.graph.Node"]:
    """Every node of the autograd graph that the given ones depend on, themselves included."""
    found: dict[torch.autograd.graph.Node, None] = {}
    waiting = [node for node in nodes if node is not None]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting += [following for following, _ in node.next_functions if following is not None]
    return list(found)
