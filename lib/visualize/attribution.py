"""What in a tile raises a feature: guided backpropagation, plain and integrated gradients.

A feature f_lz is the sum over x, y of channel z of layer l (paper, Methods, "features"); its gradient with
respect to the tile is what the maps show (paper, Methods, "visualization"; METHOD section 10). No map changes
the network: the rule of guided backpropagation is attached to the autograd graph of one call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from lib.network import models

# What a network may rectify with. Only ReLU proper is guarded; to meet another one is an error.
RECTIFIERS = frozenset(
    ["relu", "relu6", "clamp", "clamp_min", "threshold", "hardtanh", "leaky_relu", "elu", "gelu", "silu"]
)


class NotGuidable(RuntimeError):
    """The network rectifies with something else than torch ReLUs: guided backpropagation is not defined."""


class _FeaturesReached(Exception):
    """Ends a forward pass once every feature asked for is known."""


class _ReluRecord(TorchDispatchMode):
    """While a network runs: how many rectifiers it executes, and the graph nodes of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.n_executed = 0
        self.layer_nodes: list[torch.autograd.graph.Node | None] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n_executed += func.overloadpacket.__name__.rstrip("_") in RECTIFIERS
        return func(*args, **(kwargs or {}))

    def relus(self) -> list["torch.autograd.graph.Node"]:
        """The ReLU calls in the graph of the layers."""
        return [node for node in reachable(self.layer_nodes) if node.name() == "ReluBackward0"]


def guided_backpropagation(
    model: torch.nn.Module, architecture: str, feature: str, tile: np.ndarray, *, p: float = 1.0
) -> np.ndarray:
    """Gradient of a feature, passing back through every ReLU only positive gradients at positive inputs.

    Springenberg et al. 2015 (arXiv:1412.6806). The condition is attached to each ReLU call in the graph of
    this forward pass, so that functional, in-place and reused ReLUs are all guarded, and removed afterwards.

    Parameters
    ----------
    model : Module in evaluation mode, from `networks.build`
    architecture : str, as for `networks.build`
    feature : str, `<layer>_<channel>`
    tile : uint8, H x W x 3, RGB
    p : float
        Exponent of the feature, as in `feature_sums`.

    Returns
    -------
    float32, H x W x 3
        Per unit of the normalised input (ImageNet standard deviations).

    Raises
    ------
    ValueError
        For an unknown feature or a malformed tile.
    NotGuidable
        If the network executed more rectifiers than were guarded, or fewer.
    RuntimeError
        If the network is in training mode.
    """
    with network_input(model, architecture, tile) as input_t:
        record = _ReluRecord()
        value_t = feature_sums(model, architecture, [feature], input_t, record, p=p)
        relus = record.relus()
        if len(relus) != record.n_executed:
            raise NotGuidable(
                f"{len(relus)} ReLU calls were guarded but {architecture} executed {record.n_executed} "
                f"rectifiers up to {feature}, so the map would be wrong. It takes a network whose rectifiers "
                "are all torch ReLUs; use plain_gradient or integrated_gradients for another"
            )
        with _guarded(relus):
            return _as_map(torch.autograd.grad(value_t.sum(), input_t)[0])


def feature_sums(
    model: torch.nn.Module,
    architecture: str,
    features: Sequence[str],
    images_t: torch.Tensor,
    record: _ReluRecord | None = None,
    *,
    p: float = 1.0,
) -> torch.Tensor:
    """Spatial sums of chosen features, n_images x n_features, with their graph where gradients are recorded.

    The forward pass ends at the last layer needed.

    Parameters
    ----------
    model, architecture : as in `guided_backpropagation`.
    features : feature names, of any layers
    images_t : float, n_images x 3 x H x W, normalised
    record : optional
        Watches the pass; every feature layer that runs, chosen or not, is noted in it.
    p : float
        Exponent in f = sum over x, y of Y^p, > 0, with the sign rule of `features.tile_quantifier`.

    Raises
    ------
    ValueError
        For a name that is no feature of the architecture, or a p that is not above 0.
    RuntimeError
        If the model is in training mode or not of the architecture.
    """
    if not p > 0:
        raise ValueError(f"p is {p}; the power of the activations must be above 0 (the paper's is 1)")
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
                    sums[place] = _powered(channel_t, p).flatten(1).sum(1)
        if not waiting:
            raise _FeaturesReached

    layers = sorted(waiting) if record is None else None
    try:
        with models.layer_outputs(model, architecture, reduce, layers=layers), record or nullcontext():
            model(images_t)
    except _FeaturesReached:
        return torch.stack([sums[place] for place in places], dim=1)
    raise RuntimeError(
        f"the forward pass ended before the layers {sorted(waiting)}: is the model {architecture}?"
    )


def _powered(values_t: torch.Tensor, p: float) -> torch.Tensor:
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
    """(layer, channel) of each feature name; ValueError for the first the architecture does not have."""
    n_channels = {found.layer: found.call.n_channels for found in models.feature_layers(architecture)}
    places = []
    for feature in features:
        layer, _, channel = feature.partition("_")
        if not (layer.isdigit() and channel.isdigit() and int(channel) < n_channels.get(int(layer), 0)):
            extent = f"layers {min(n_channels)} to {max(n_channels)}"
            if layer.isdigit() and int(layer) in n_channels:
                extent = f"channels 0 to {n_channels[int(layer)] - 1} in layer {layer}"
            raise ValueError(
                f"{feature!r} is no feature of {architecture}: it is <layer>_<channel>, with {extent}"
            )
        places.append((int(layer), int(channel)))
    if not places:
        raise ValueError("no feature was named; give at least one <layer>_<channel>")
    return places


def plain_gradient(
    model: torch.nn.Module, architecture: str, feature: str, tile: np.ndarray, *, p: float = 1.0
) -> np.ndarray:
    """Gradient of a feature with respect to the normalised tile; as `guided_backpropagation` otherwise."""
    with network_input(model, architecture, tile) as input_t:
        value_t = feature_sums(model, architecture, [feature], input_t, p=p)
        return _as_map(torch.autograd.grad(value_t.sum(), input_t)[0])


def guided_or_plain(
    model: torch.nn.Module, architecture: str, feature: str, tile: np.ndarray, *, p: float = 1.0
) -> tuple[np.ndarray, str]:
    """`guided_backpropagation` where the network allows it, else `plain_gradient`; and which of them it is.

    Transformers, and other networks that rectify with something else than ReLU, have no guided one.
    """
    try:
        return guided_backpropagation(model, architecture, feature, tile, p=p), "guided backpropagation"
    except NotGuidable:
        return plain_gradient(model, architecture, feature, tile, p=p), "plain gradient"


def integrated_gradients(
    model: torch.nn.Module,
    architecture: str,
    feature: str,
    tile: np.ndarray,
    *,
    p: float = 1.0,
    baseline: int = 255,
    n_steps: int = 32,
    batch: int = 8,
) -> np.ndarray:
    """(tile - baseline) times the mean gradient on the straight line between them, midpoint rule.

    Sundararajan et al. 2017 (arXiv:1703.01365). Each value is its pixel's part of f(tile) - f(baseline), in
    the feature's unit; the map sums to that but for the error of the rule.

    Parameters
    ----------
    model, architecture, feature, tile, p : as in `guided_backpropagation`.
    baseline : int in 0..255
        Grey level that stands for absence; 255 is the white of an empty slide.
    n_steps : int
        Points on the line.
    batch : int
        Points in one pass.
    """
    if n_steps < 1 or not 0 <= baseline <= 255:
        raise ValueError(
            f"n_steps is {n_steps} and baseline {baseline}; they must be at least 1, and in 0..255"
        )
    with (
        network_input(model, architecture, tile) as input_t,
        network_input(model, architecture, np.full_like(tile, baseline)) as absent_t,
    ):
        total_t = torch.zeros_like(input_t)
        for points in torch.arange(n_steps).split(batch):
            share_t = ((points + 0.5) / n_steps).to(input_t)[:, None, None, None]
            line_t = (absent_t + share_t * (input_t - absent_t)).detach().requires_grad_()
            value_t = feature_sums(model, architecture, [feature], line_t, p=p)
            total_t += torch.autograd.grad(value_t.sum(), line_t)[0].sum(0, keepdim=True)
        return _as_map((input_t - absent_t).detach() * total_t / n_steps)


METHODS = {
    "guided backpropagation": guided_backpropagation,
    "plain gradient": plain_gradient,
    "integrated gradients": integrated_gradients,
}


def all_maps(
    model: torch.nn.Module, architecture: str, feature: str, tile: np.ndarray, *, p: float = 1.0
) -> dict[str, np.ndarray]:
    """The map of each of METHODS; guided backpropagation is left out where the network does not allow it."""
    maps = {}
    for name, method in METHODS.items():
        with suppress(NotGuidable):
            maps[name] = method(model, architecture, feature, tile, p=p)
    return maps


# For captions: `to_picture` in a sentence.
COLOURS_IN_WORDS = (
    "Gradients: mid grey is zero; brighter red (green, blue) than grey means that more red (green, blue) "
    "there raises the feature, darker that less does; no two pictures share a scale."
)


def to_picture(gradient: np.ndarray, *, percentile: float = 99.5) -> np.ndarray:
    """A gradient as a colour picture, uint8, H x W x 3.

    The convention of every figure here: mid grey (128) is zero; where red (green, blue) is brighter than
    grey, more red raises the feature, where it is darker, less red does. One scale for the three colours,
    symmetric about zero: the `percentile` of the absolute values reaches full range, what lies beyond is
    clipped. Two pictures do not share a scale. A gradient that is zero everywhere is all grey.
    """
    scale = np.percentile(np.abs(gradient), percentile) or np.abs(gradient).max() or 1.0
    return np.round(127.5 + 127.5 * np.clip(gradient / scale, -1, 1)).astype(np.uint8)


def magnitude(gradient: np.ndarray) -> np.ndarray:
    """How much each pixel matters, whatever the direction: sum of |gradient| over colours, float32, H x W."""
    return np.abs(gradient).sum(axis=2, dtype=np.float32)


def tile_values(
    model: torch.nn.Module,
    architecture: str,
    features: Sequence[str],
    tiles_df: pd.DataFrame,
    stack_files: Mapping[str, str | Path],
    *,
    p: float = 1.0,
    batch: int = 32,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Values of chosen features on chosen tiles (spatial sums), for `representatives` and heatmaps.

    Parameters
    ----------
    model, architecture : as in `guided_backpropagation`.
    features : feature names; none gives a table without columns
    tiles_df : columns tile_id, slide_id, stack_index
    stack_files : path of the tile stack of each slide_id; uint8, n_tiles x input_px x input_px x 3
    p : exponent of the features, as in `feature_sums`
    on_step : called after each batch with the tiles done; what it raises ends the work

    Returns
    -------
    DataFrame, tiles x features, float64; index tile_id in the order of tiles_df

    Raises
    ------
    FileNotFoundError, ValueError
        For a stack that is missing, or shorter than the tiles say.
    """
    tiles_df = tiles_df.reset_index(drop=True)
    if not len(features):
        return pd.DataFrame(index=pd.Index(tiles_df["tile_id"], name="tile_id"))
    values = np.empty((len(tiles_df), len(features)))
    n_done = 0
    with tqdm(total=len(tiles_df), unit="tile", disable=not progress) as bar:
        for slide_id, slide_tiles_df in tiles_df.groupby("slide_id", sort=False):
            stack = _open_stack(stack_files, slide_id, slide_tiles_df["stack_index"])
            for first in range(0, len(slide_tiles_df), batch):
                rows_df = slide_tiles_df.iloc[first : first + batch]
                tiles_t = torch.from_numpy(stack[rows_df["stack_index"].to_numpy()])
                with torch.no_grad():
                    input_t = _normalised(architecture, tiles_t.to(_device(model)))
                    values_t = feature_sums(model, architecture, features, input_t, p=p)
                    values[rows_df.index] = values_t.cpu().numpy()
                bar.update(len(rows_df))
                n_done += len(rows_df)
                if on_step is not None:
                    on_step(n_done)
    return pd.DataFrame(values, index=pd.Index(tiles_df["tile_id"], name="tile_id"), columns=list(features))


@contextmanager
def network_input(model: torch.nn.Module, architecture: str, tile: np.ndarray) -> Iterator[torch.Tensor]:
    """The normalised tile, 1 x 3 x H x W on the model's device; gradients are recorded while it is in use."""
    if tile.dtype != np.uint8 or tile.ndim != 3 or tile.shape[2] != 3:
        raise ValueError(f"a tile is uint8 H x W x 3 RGB; got {tile.dtype} of shape {tile.shape}")
    with torch.inference_mode(False), torch.enable_grad():
        # A copy: tiles of a memory-mapped stack cannot be written to.
        tile_t = torch.tensor(np.ascontiguousarray(tile), device=_device(model))
        yield _normalised(architecture, tile_t[None]).requires_grad_()


def _normalised(architecture: str, tiles_t: torch.Tensor) -> torch.Tensor:
    """uint8 n x H x W x 3 on any device to what the network takes, float32 n x 3 x H x W."""
    return models.normalise(tiles_t, *models.normalisation(architecture))


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _as_map(gradient_t: torch.Tensor) -> np.ndarray:
    return gradient_t[0].permute(1, 2, 0).contiguous().cpu().numpy().astype(np.float32, copy=False)


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


@contextmanager
def _guarded(relus: Sequence["torch.autograd.graph.Node"]) -> Iterator[None]:
    """Let only positive gradients into the given ReLU nodes; passing them on at positive inputs is theirs."""
    handles = [node.register_prehook(lambda gradients: (gradients[0].clamp(min=0),)) for node in relus]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _open_stack(stack_files: Mapping[str, str | Path], slide_id: str, indices: pd.Series) -> np.ndarray:
    if slide_id not in stack_files:
        raise ValueError(f"slide {slide_id} has tiles but no stack file; make the tile stacks first")
    path = Path(stack_files[slide_id])
    if not path.is_file():
        raise FileNotFoundError(f"no tile stack at {path} for slide {slide_id}; make the tile stacks first")
    stack = np.load(path, mmap_mode="r")
    if stack.dtype != np.uint8 or stack.ndim != 4 or stack.shape[3] != 3:
        raise ValueError(f"{path} is {stack.dtype} of shape {stack.shape}; a stack is uint8 n x H x W x 3")
    outside = indices[(indices < 0) | (indices >= len(stack))]
    if len(outside):
        raise ValueError(
            f"{len(outside)} tiles of slide {slide_id} have a stack_index outside {path} "
            f"({len(stack)} tiles), first {outside.iloc[0]}; make tiles table and stacks anew together"
        )
    return stack
