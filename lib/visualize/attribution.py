"""What in a tile raises a feature: guided backpropagation, plain and integrated gradients.

The maps are gradients of a feature with respect to the tile (paper, Methods, "visualization";
notebooks/README.md, section 10), float32, H x W x 3, per unit of the normalised input (ImageNet standard
deviations). No map changes the network: the rule of guided backpropagation is attached to the autograd graph
of one call.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch

from lib.visualize.feature_values import Network, PassRecord, feature_sums, network_input, reachable

N_POINTS, POINTS_AT_ONCE = 32, 8  # of the line along which gradients are integrated; in one pass
WHITE = 255  # the grey level that stands for absence: an empty slide
FULL_RANGE_PERCENTILE = 99.5  # of |gradient| that a picture shows at full range


class NotGuidable(RuntimeError):
    """The network rectifies with something other than torch ReLUs: guided backpropagation is undefined."""


def guided_backpropagation(network: Network, feature: str, tile: np.ndarray) -> np.ndarray:
    """Gradient of a feature; each ReLU passes back only positive gradients, and only at positive inputs.

    Springenberg et al. 2015 (arXiv:1412.6806). The condition is attached to each ReLU call in the graph of
    this forward pass, so that functional, in-place and reused ReLUs are all guarded, and removed afterwards.

    Parameters
    ----------
    network : Network
    feature : `<layer>_<channel>`
    tile : uint8, H x W x 3, RGB

    Raises
    ------
    ValueError
        For an unknown feature or a malformed tile.
    NotGuidable
        If the network executed more rectifiers than were guarded, or fewer.
    RuntimeError
        If the network is in training mode.
    """
    with network_input(network, tile) as input_t:
        record = PassRecord()
        value_t = feature_sums(network, [feature], input_t, record)
        relus = [node for node in reachable(record.layer_nodes) if node.name() == "ReluBackward0"]
        if len(relus) != record.n_rectifiers:
            raise NotGuidable(
                f"{len(relus)} ReLU calls were guarded but {network.architecture} executed "
                f"{record.n_rectifiers} rectifiers up to {feature}, so the map would be wrong; guided "
                "backpropagation needs a network whose rectifiers are all torch ReLUs: use plain_gradient or "
                "integrated_gradients"
            )
        with _guarded(relus):
            return _as_map(torch.autograd.grad(value_t.sum(), input_t)[0])


@contextmanager
def _guarded(relus: Sequence["torch.autograd.graph.Node"]) -> Iterator[None]:
    """Let only positive gradients into the given ReLU nodes; the nodes stop them at negative inputs."""
    handles = [node.register_prehook(lambda gradients: (gradients[0].clamp(min=0),)) for node in relus]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def plain_gradient(network: Network, feature: str, tile: np.ndarray) -> np.ndarray:
    """Gradient of a feature; parameters as for `guided_backpropagation`."""
    with network_input(network, tile) as input_t:
        value_t = feature_sums(network, [feature], input_t)
        return _as_map(torch.autograd.grad(value_t.sum(), input_t)[0])


def guided_or_plain(network: Network, feature: str, tile: np.ndarray) -> tuple[np.ndarray, str]:
    """`guided_backpropagation` where the network allows it, else `plain_gradient`; and the method's name.

    Transformers, and other networks that rectify with something other than ReLU, have no guided map.
    """
    try:
        return guided_backpropagation(network, feature, tile), "guided backpropagation"
    except NotGuidable:
        return plain_gradient(network, feature, tile), "plain gradient"


def integrated_gradients(network: Network, feature: str, tile: np.ndarray) -> np.ndarray:
    """(tile - white) times the mean gradient on the straight line between them, midpoint rule.

    Sundararajan et al. 2017 (arXiv:1703.01365). Each value is its pixel's part of f(tile) - f(white), in the
    feature's unit; the map sums to that difference up to the error of the rule. Parameters as for
    `guided_backpropagation`.
    """
    with (
        network_input(network, tile) as input_t,
        network_input(network, np.full_like(tile, WHITE)) as absent_t,
    ):
        total_t = torch.zeros_like(input_t)
        for points in torch.arange(N_POINTS).split(POINTS_AT_ONCE):
            share_t = ((points + 0.5) / N_POINTS).to(input_t)[:, None, None, None]
            line_t = (absent_t + share_t * (input_t - absent_t)).detach().requires_grad_()
            value_t = feature_sums(network, [feature], line_t)
            total_t += torch.autograd.grad(value_t.sum(), line_t)[0].sum(0, keepdim=True)
        return _as_map((input_t - absent_t).detach() * total_t / N_POINTS)


METHODS = {
    "guided backpropagation": guided_backpropagation,
    "plain gradient": plain_gradient,
    "integrated gradients": integrated_gradients,
}


def all_maps(network: Network, feature: str, tile: np.ndarray) -> dict[str, np.ndarray]:
    """The map of each of METHODS; guided backpropagation is left out where the network does not allow it."""
    maps = {}
    for name, method in METHODS.items():
        with suppress(NotGuidable):
            maps[name] = method(network, feature, tile)
    return maps


def _as_map(gradient_t: torch.Tensor) -> np.ndarray:
    return gradient_t[0].permute(1, 2, 0).contiguous().cpu().numpy().astype(np.float32, copy=False)


# For captions: `to_picture` in a sentence.
COLOURS_IN_WORDS = (
    "Gradients: mid grey is zero; where red (green, blue) is brighter than grey, more red (green, blue) "
    "raises the feature, where it is darker, less does. Pictures do not share a scale."
)


def to_picture(gradient: np.ndarray) -> np.ndarray:
    """A gradient as a colour picture, uint8, H x W x 3.

    The convention of every figure here: mid grey (128) is zero; where red (green, blue) is brighter than
    grey, more red raises the feature, where it is darker, less red does. One scale for the three colours,
    symmetric about zero: the FULL_RANGE_PERCENTILE of the absolute values reaches full range, values beyond
    are clipped. Two pictures do not share a scale. A gradient that is zero everywhere is all grey.
    """
    size = np.abs(gradient)
    scale = np.percentile(size, FULL_RANGE_PERCENTILE) or size.max() or 1.0
    return np.round(127.5 + 127.5 * np.clip(gradient / scale, -1, 1)).astype(np.uint8)


def magnitude(gradient: np.ndarray) -> np.ndarray:
    """How much each pixel matters in either direction: sum of |gradient| over colours, float32, H x W."""
    return np.abs(gradient).sum(axis=2, dtype=np.float32)
