"""Does an attribution map depend on what the network has learned? The model-randomisation check.

Guided backpropagation is partly an edge detector: its maps can look the same for random weights
(notebooks/README.md, section 10).
"""

import copy
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from skimage.metrics import structural_similarity

from lib.errors import InputError
from lib.visualize.attribution import guided_backpropagation, magnitude
from lib.visualize.feature_values import Network, feature_sums, network_input, reachable

N_DRAWS = 20  # of random weights, until one leaves the feature active
N_STEPS = 6  # depths of randomisation
# The SSIM of Wang et al. 2004 (IEEE TIP 13:600): Gaussian windows of sd 1.5 px, population covariances.
WANG_2004 = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}

Method = Callable[[Network, str, np.ndarray], np.ndarray]


def randomisation_check(
    network: Network, feature: str, tile: np.ndarray, *, method: Method = guided_backpropagation
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """How far a map survives when the weights it should depend on are replaced by random ones.

    Adebayo et al. 2018 (arXiv:1810.03292): a map that hardly changes shows the image, not the network.
    Modules are re-initialised on a copy (He normal weights, zero biases, fresh norms), cascading from the
    feature's own down to the input at N_STEPS evenly spaced depths; in the last every module is random. A
    draw that leaves the feature dead or not finite is replaced by another, up to N_DRAWS times; if none is
    active, the map of that step is zero and its similarities are NaN.

    Parameters
    ----------
    network, feature, tile : as for `guided_backpropagation`
    method : function of these three returning H x W x 3

    Returns
    -------
    DataFrame
        Index step: 0 is the network as given, then deeper randomisation. Columns: module (the deepest random
        one), n_random, n_modules, rank_correlation (Spearman of the signed maps), rank_correlation_magnitude
        (Spearman of `attribution.magnitude`), ssim (of magnitudes, each scaled to 0..1; WANG_2004).
    list of float32, H x W x 3
        The map of each step.

    Raises
    ------
    ValueError
        If the map of the network as given is zero everywhere (a dead feature).
    """
    original = method(network, feature, tile)
    if not original.any():
        raise InputError(f"{feature} has no gradient on this tile: choose a tile where it is active")
    names = modules_below(network, feature, tile)
    maps = [original]
    rows: list[tuple[str, int, int, float, float, float]] = [("", 0, len(names), 1.0, 1.0, 1.0)]
    for n_random in np.unique(np.linspace(1, len(names), N_STEPS).round().astype(int)):
        random_map = _map_of_random_copy(network, names[:n_random], lambda net: method(net, feature, tile))
        maps.append(np.zeros_like(original) if random_map is None else random_map)
        alike = (np.nan, np.nan, np.nan) if random_map is None else similarity(original, random_map)
        rows.append((names[n_random - 1], int(n_random), len(names), *alike))
    columns = ["module", "n_random", "n_modules", "rank_correlation", "rank_correlation_magnitude", "ssim"]
    return pd.DataFrame(rows, columns=columns).rename_axis("step"), maps


def step_titles(check_df: pd.DataFrame) -> list[str]:
    """Titles of the maps of `randomisation_check`."""
    titles = []
    facts_df = check_df[["n_random", "n_modules", "rank_correlation_magnitude"]]
    for n_random, n_modules, likeness in facts_df.itertuples(index=False, name=None):
        title = f"{n_random} of {n_modules} random" if n_random else "as trained"
        title += f"\ndead in {N_DRAWS} draws" if np.isnan(likeness) else f"\nrank corr. {likeness:.2f}"
        titles.append(title)
    return titles


def similarity(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Spearman of two maps, Spearman of their magnitudes, SSIM of their magnitudes each scaled to 0..1."""
    x, y = magnitude(one), magnitude(other)
    scaled = ((size / size.max()).astype(np.float64) for size in (x, y))
    ssim: Any = structural_similarity(*scaled, **WANG_2004)
    return _rank_correlation(one, other), _rank_correlation(x, y), float(ssim)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    result: Any = stats.spearmanr(one.ravel(), other.ravel())
    return float(result.statistic)


def modules_below(network: Network, feature: str, tile: np.ndarray) -> list[str]:
    """Names of the modules with parameters that a feature depends on, the last to run first."""
    model = network.model
    owner = {
        id(parameter): name
        for name, module in model.named_modules()
        for parameter in module.parameters(recurse=False)
    }
    # Parameters need their own leaves in the graph, even in a frozen model.
    frozen = [p for p in model.parameters() if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with network_input(network, tile) as input_t:
            value_t = feature_sums(network, [feature], input_t)
            depth: dict[str, int] = {}
            for node in reachable([value_t.grad_fn]):
                for leaf, _ in node.next_functions:
                    name = owner.get(id(getattr(leaf, "variable", None)))
                    if name is not None:
                        depth[name] = max(depth.get(name, -1), node._sequence_nr())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    # A call made later has a higher sequence number.
    return sorted(depth, key=depth.__getitem__, reverse=True)


def _map_of_random_copy(
    network: Network, names: Sequence[str], map_of: Callable[[Network], np.ndarray]
) -> np.ndarray | None:
    """The map of the first draw that leaves the feature active; None if there is none."""
    for draw in range(N_DRAWS):
        copied = network._replace(model=_randomised(network.model, names, 1000 * draw))
        random_map = map_of(copied)
        if np.isfinite(random_map).all() and random_map.any():
            return random_map
    return None


def _randomised(model: torch.nn.Module, names: Sequence[str], seed: int) -> torch.nn.Module:
    """A copy with the named modules re-initialised; a module's draw depends on the seed and its name only."""
    copied = copy.deepcopy(model)
    for name in names:
        module = copied.get_submodule(name)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
            continue
        for own_name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() < 2 and own_name in ("weight", "gamma"):  # the scale of a layer norm
                torch.nn.init.ones_(parameter)
            elif parameter.dim() < 2:
                torch.nn.init.zeros_(parameter)
            else:
                sd = (2 / parameter[0].numel()) ** 0.5  # He et al. 2015: activations keep their scale
                drawn_t = torch.randn(parameter.shape, generator=generator) * sd
                parameter.data.copy_(drawn_t)
    return copied
