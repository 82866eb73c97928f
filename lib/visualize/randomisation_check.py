"""Does an attribution map depend on what the network has learned? The model-randomisation check.

Guided backpropagation is partly an edge detector: its maps can look the same for random weights (METHOD
section 10).
"""

import copy
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import ndimage, stats

from lib.visualize.attribution import (
    feature_sums,
    guided_backpropagation,
    magnitude,
    network_input,
    reachable,
)

N_DRAWS = 20  # of random weights, until one leaves the feature alive

Method = Callable[[torch.nn.Module, str, str, np.ndarray], np.ndarray]


def randomisation_check(
    model: torch.nn.Module,
    architecture: str,
    feature: str,
    tile: np.ndarray,
    *,
    method: Method = guided_backpropagation,
    mode: str = "cascading",
    n_steps: int = 6,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """How far a map survives when the weights it should depend on are replaced by random ones.

    Adebayo et al. 2018 (arXiv:1810.03292): a map that hardly changes shows the image, not the network.
    Modules are re-initialised on a copy (He normal weights, zero biases, fresh norms), from the
    feature's own down to the input ("cascading", at `n_steps` evenly spaced depths, the last with every
    module random), or all at once ("full"). A draw that leaves the feature dead or not finite is drawn again,
    up to 20 times; if none is alive, the map of that step is zero and its similarities are NaN.

    Parameters
    ----------
    model, architecture, feature, tile : as in `guided_backpropagation`.
    method : function of those four returning H x W x 3
    mode : "cascading" or "full"

    Returns
    -------
    DataFrame
        Index step: 0 is the network as given, then deeper randomisation. Columns: module (the deepest random
        one), n_random, n_modules, rank_correlation (Spearman of the signed maps), rank_correlation_magnitude
        (Spearman of `attribution.magnitude`), ssim (of magnitudes, each scaled to 0..1).
    list of float32, H x W x 3
        The map of each step.

    Raises
    ------
    ValueError
        If the map of the network as given is zero everywhere (a dead feature), or mode is unknown.
    """
    if mode not in ("cascading", "full"):
        raise ValueError(f'mode is {mode!r}; choose "cascading" or "full"')
    original = method(model, architecture, feature, tile)
    if not original.any():
        raise ValueError(f"{feature} has no gradient on this tile: choose a tile where it is active")
    names = modules_below(model, architecture, feature, tile)
    counts = (
        [len(names)] if mode == "full" else np.unique(np.linspace(1, len(names), n_steps).round().astype(int))
    )
    maps, rows = [original], [("", 0, len(names), 1.0, 1.0, 1.0)]
    for n_random in counts:
        random_map = _map_of_random_copy(model, names[:n_random], seed, (method, architecture, feature, tile))
        alive = random_map is not None
        maps.append(random_map if alive else np.zeros_like(original))
        alike = similarity(original, random_map) if alive else (np.nan,) * 3
        rows.append((names[n_random - 1], int(n_random), len(names), *alike))
    columns = ["module", "n_random", "n_modules", "rank_correlation", "rank_correlation_magnitude", "ssim"]
    return pd.DataFrame(rows, columns=columns).rename_axis("step"), maps


def step_titles(check_df: pd.DataFrame) -> list[str]:
    """What stands below the map of each step of `randomisation_check`."""
    return [
        (f"{row.n_random} of {row.n_modules} random" if row.n_random else "as trained")
        + (
            f"\ndead in {N_DRAWS} draws"
            if np.isnan(row.rank_correlation_magnitude)
            else f"\nrank corr. {row.rank_correlation_magnitude:.2f}"
        )
        for row in check_df.itertuples()
    ]


def similarity(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Spearman of two maps, Spearman of their magnitudes, SSIM of their magnitudes each scaled to 0..1."""
    size_one, size_other = magnitude(one), magnitude(other)
    return (
        float(stats.spearmanr(one.ravel(), other.ravel()).statistic),
        float(stats.spearmanr(size_one.ravel(), size_other.ravel()).statistic),
        structural_similarity(size_one / size_one.max(), size_other / size_other.max()),
    )


def structural_similarity(one: np.ndarray, other: np.ndarray, *, sigma: float = 1.5) -> float:
    """Mean SSIM of two images in 0..1, both H x W, Gaussian windows (Wang et al. 2004, IEEE TIP 13:600)."""

    def blur(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, sigma, truncate=3.5)

    one, other = one.astype(np.float64), other.astype(np.float64)
    mean_one, mean_other = blur(one), blur(other)
    variances = blur(one**2) - mean_one**2 + blur(other**2) - mean_other**2
    covariance = blur(one * other) - mean_one * mean_other
    ssim = (2 * mean_one * mean_other + 0.01**2) * (2 * covariance + 0.03**2)
    ssim = ssim / ((mean_one**2 + mean_other**2 + 0.01**2) * (variances + 0.03**2))
    border = int(3.5 * sigma + 0.5)  # windows that reach over the edge do not count
    if min(one.shape) <= 2 * border:
        raise ValueError(f"SSIM needs images of more than {2 * border} px; these are {one.shape}")
    return float(ssim[border:-border, border:-border].mean())


def modules_below(model: torch.nn.Module, architecture: str, feature: str, tile: np.ndarray) -> list[str]:
    """Names of the modules with parameters that a feature depends on, the last to run first."""
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
        with network_input(model, architecture, tile) as input_t:
            value_t = feature_sums(model, architecture, [feature], input_t)
            depth: dict[str, int] = {}
            for node in reachable([value_t.grad_fn]):
                for leaf, _ in node.next_functions:
                    if leaf is not None and id(getattr(leaf, "variable", None)) in owner:
                        name = owner[id(leaf.variable)]
                        depth[name] = max(depth.get(name, -1), node._sequence_nr())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    # A call made later has a higher sequence number.
    return sorted(depth, key=depth.__getitem__, reverse=True)


def _map_of_random_copy(
    model: torch.nn.Module, names: Sequence[str], seed: int, what: tuple
) -> np.ndarray | None:
    """The map of the first draw that leaves the feature alive; None if there is none."""
    method, architecture, feature, tile = what
    for draw in range(N_DRAWS):
        random_map = method(_randomised(model, names, seed + 1000 * draw), architecture, feature, tile)
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
                sd = (
                    2 / parameter[0].numel()
                ) ** 0.5  # He et al. 2015: keeps activations in scale through ReLUs
                drawn_t = torch.randn(parameter.shape, generator=generator) * sd
                parameter.data.copy_(drawn_t)
    return copied
