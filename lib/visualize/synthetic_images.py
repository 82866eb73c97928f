"""Images made to maximise a feature, by gradient ascent from noise.

argmax_x f(x) as in the paper (Methods, "visualization"; Erhan et al. 2009), regularised as in feature
visualisation (Olah et al. 2017, distill.pub/2017/feature-visualization): the image is a sum of spatial
frequencies, its colours vary along the directions in which the cohort's own tiles vary, and it is shifted,
turned and scaled a little before each step, so that only patterns that survive this are built up
(notebooks/README.md, section 10).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.network import models
from lib.visualize.feature_values import Network, feature_sums, reachable

# Before each step the image is moved at random by up to these.
SHIFT_PX, ROTATION_DEGREES, SCALE_RANGE = 8, 10.0, (0.9, 1.1)
LEARNING_RATE = 0.05  # of Adam, in standard deviations of the cohort's colours


class ColourBasis(NamedTuple):
    """Colours of a cohort: in logit(rgb) = mean + matrix @ w, the three w are uncorrelated with unit sd."""

    mean: np.ndarray  # float32, (3,)
    matrix: np.ndarray  # float32, (3, 3): columns are directions of colour, widest first


@dataclass(frozen=True)
class Ascent:
    """Settings of the gradient ascent.

    Parameters
    ----------
    n_steps : steps of Adam; 96 at 224 px take about a minute on two CPU cores for a middle layer of VGG16
    seeds : of noise and moves; one image per feature and seed
    n_recorded : points of the objective's curve, the first and the last step included
    """

    n_steps: int = 96
    seeds: Sequence[int] = (0,)
    n_recorded: int = 9

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.n_recorded < 2 or not len(self.seeds):
            raise InputError(
                f"n_steps is {self.n_steps}, n_recorded {self.n_recorded} and the number of seeds "
                f"{len(self.seeds)}: they must be at least 1, 2 and 1"
            )


def colour_decorrelation(tiles: np.ndarray, *, n_pixels: int = 200_000) -> ColourBasis:
    """Mean and principal directions of the colours of the cohort's tiles.

    Parameters
    ----------
    tiles : uint8, n_tiles x H x W x 3, RGB
    n_pixels : pixels drawn at random, the same number from every tile (at least one)

    Raises
    ------
    ValueError
        For tiles of another form, or of fewer than two colours.
    """
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3 or not len(tiles):
        raise InputError(
            f"tiles are uint8 n x H x W x 3 RGB, n > 0; got {tiles.dtype} of shape {tiles.shape}"
        )
    rng = np.random.default_rng(0)
    n_each = min(max(1, n_pixels // len(tiles)), tiles.shape[1] * tiles.shape[2])
    drawn = [rng.choice(tile.reshape(-1, 3), n_each, replace=False) for tile in tiles]
    pixels = np.concatenate(drawn).astype(np.float64)
    share = (pixels + 0.5) / 256  # strictly inside (0, 1)
    logit = np.log(share / (1 - share))
    if not np.ptp(logit, axis=0).any():
        raise InputError(f"all {len(pixels)} pixels drawn have the same colour: are the tiles blank?")
    variance, directions = np.linalg.eigh(np.cov(logit.T))
    sd = np.sqrt(np.clip(variance[::-1], 1e-6, None))
    # Eigenvectors have no sign; the largest entry positive makes the basis the same everywhere.
    directions = directions[:, ::-1]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(3)])
    return ColourBasis(logit.mean(axis=0).astype(np.float32), (directions * sd).astype(np.float32))


@torch.inference_mode(False)
@torch.enable_grad()
def synthesise(
    network: Network,
    features: Sequence[str],
    ascent: Ascent,
    colours: ColourBasis,
    *,
    input_px: int,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """One image per feature and seed that makes the feature large; one batch, each with its own objective.

    The same call gives the same image on the same machine (on a GPU up to rounding). Noise and moves depend
    on the seed alone, so apart from rounding a feature's image does not depend on the others in the batch.

    Parameters
    ----------
    features : feature names
    colours : from `colour_decorrelation`
    input_px : edge of the images, px; more than twice SHIFT_PX
    on_step : called after each step with the number of steps done; an error it raises ends the work

    Returns
    -------
    images : uint8, (len(features) * n_seeds) x input_px x input_px x 3, RGB
        All seeds of the first feature, then those of the second.
    curve_df : columns image (its number), feature, seed, step, objective
        f (spatial sum) of the unmoved image after that many steps; step 0 is the noise.

    Raises
    ------
    ValueError, RuntimeError : unknown features, small images; a gradient not finite, a model in training
    """
    if input_px <= 2 * SHIFT_PX:
        raise InputError(f"input_px is {input_px}: it must be more than {2 * SHIFT_PX} px")
    rows = [(feature, int(seed)) for feature in features for seed in ascent.seeds]
    objectives = _objectives(network, features, len(ascent.seeds))
    paint = _painter(colours, input_px, network.device)
    parameter_t = torch.stack([_noise(input_px, seed) for _, seed in rows])
    parameter_t = parameter_t.to(network.device).requires_grad_()
    moves = [_moves(ascent.n_steps, input_px, seed) for _, seed in rows]
    moves_t = torch.stack(moves, dim=1).to(network.device)  # step x image x 2 x 3
    optimiser = torch.optim.Adam([parameter_t], lr=LEARNING_RATE)
    recorded = set(np.linspace(0, ascent.n_steps, ascent.n_recorded).round().astype(int))
    curve = []
    for step in tqdm(range(ascent.n_steps + 1), unit="step", disable=not progress):
        if step in recorded:
            with torch.no_grad():
                values = objectives(paint(parameter_t)).tolist()
            curve += [(i, *row, step, value) for i, (row, value) in enumerate(zip(rows, values, strict=True))]
        if step < ascent.n_steps:
            images_t = _moved(paint(parameter_t), moves_t[step])
            # The objectives get no name here: it would keep their graph through the next forward pass.
            parameter_t.grad = _ascent(objectives(images_t), parameter_t, rows)
            optimiser.step()
            if on_step is not None:
                on_step(step + 1)
    with torch.no_grad():
        images = (paint(parameter_t) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return images, pd.DataFrame(curve, columns=["image", "feature", "seed", "step", "objective"])


def _objectives(
    network: Network, features: Sequence[str], n_seeds: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from images in 0..1 to the value of each image's own feature."""
    mean, sd = models.normalisation_of(network.model, network.architecture)
    mean_t, sd_t = (torch.tensor(v, device=network.device)[:, None, None] for v in (mean, sd))
    column_t = torch.arange(len(features), device=network.device).repeat_interleave(n_seeds)

    def objectives(images_t: torch.Tensor) -> torch.Tensor:
        input_t = ((images_t - mean_t) / sd_t).contiguous(memory_format=torch.channels_last)
        return feature_sums(network, features, input_t).gather(1, column_t[:, None])[:, 0]

    return objectives


def _noise(input_px: int, seed: int) -> torch.Tensor:
    """Start of one image: a spectrum (real, imaginary), 3 x H x (W // 2 + 1) x 2."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((3, input_px, input_px // 2 + 1, 2), generator=generator) * 0.1


def _painter(
    colours: ColourBasis, input_px: int, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from the spectra that are optimised to images in 0..1, n x 3 x H x W."""
    mean_t, matrix_t = (torch.as_tensor(part, dtype=torch.float32, device=device) for part in colours)
    mean_t, spread_t = mean_t[:, None, None], _equal_power(input_px).to(device)

    def paint(parameter_t: torch.Tensor) -> torch.Tensor:
        spectrum_t = torch.view_as_complex(parameter_t) * spread_t
        plane_t = torch.fft.irfft2(spectrum_t, s=(input_px, input_px), norm="ortho")
        return torch.sigmoid(mean_t + torch.einsum("cd,ndhw->nchw", matrix_t, plane_t))

    return paint


def _equal_power(input_px: int) -> torch.Tensor:
    """Weight of each spatial frequency, 1 / |frequency| as in natural images, H x (W // 2 + 1).

    Scaled so that unit noise gives an image with unit variance.
    """
    fy = torch.fft.fftfreq(input_px)[:, None]
    fx = torch.fft.rfftfreq(input_px)[None, :]
    weight_t = 1 / torch.sqrt(fy**2 + fx**2).clamp(min=1 / input_px)
    # Columns strictly between zero and the highest frequency stand for two (conjugate) ones.
    twice = torch.full((input_px // 2 + 1,), 2.0)
    twice[0] = 1
    if input_px % 2 == 0:
        twice[-1] = 1
    variance = (2 * weight_t**2 * twice).sum() / input_px**2
    return weight_t / variance.sqrt()


def _moves(n_steps: int, input_px: int, seed: int) -> torch.Tensor:
    """One random shift, turn and magnification per step as affine matrices, n_steps x 2 x 3."""
    rng = np.random.default_rng([seed, 1])
    angle = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, n_steps))
    smallest, largest = np.log(SCALE_RANGE)
    zoom = np.exp(rng.uniform(smallest, largest, n_steps))
    shift = rng.uniform(-SHIFT_PX, SHIFT_PX, (n_steps, 2)) * 2 / input_px  # the image spans -1..1
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    matrices = np.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], axis=1).reshape(-1, 2, 3)
    return torch.from_numpy(matrices.astype(np.float32))


def _moved(images_t: torch.Tensor, moves_t: torch.Tensor) -> torch.Tensor:
    """Each image under its affine matrix, mirrored beyond its edges."""
    grid_t = F.affine_grid(moves_t, list(images_t.shape), align_corners=False)
    return F.grid_sample(images_t, grid_t, padding_mode="reflection", align_corners=False)


def _ascent(
    value_t: torch.Tensor, parameter_t: torch.Tensor, rows: Sequence[tuple[str, int]]
) -> torch.Tensor:
    """Gradient of minus the objectives, for Adam to descend, scaled to unit root mean square in each image.

    Where an image passes nothing back (its feature is dead, or constant behind dead ones), ReLUs that are
    closed throughout pass every gradient, so that the feature can become active. If none helps, it stays 0.
    """
    gradient_t = torch.autograd.grad(value_t.sum(), parameter_t, retain_graph=True)[0]
    dead_t = gradient_t.flatten(1).abs().amax(1) == 0

    def open_if_dead(passed: tuple, arriving: tuple) -> tuple:
        closed_t = dead_t & (passed[0].flatten(1).abs().sum(1) == 0)
        return (torch.where(closed_t.reshape(-1, *[1] * (passed[0].dim() - 1)), arriving[0], passed[0]),)

    if dead_t.any():
        relus = [node for node in reachable([value_t.grad_fn]) if node.name() == "ReluBackward0"]
        handles = [node.register_hook(open_if_dead) for node in relus]
        try:
            gradient_t = torch.autograd.grad(value_t.sum(), parameter_t)[0]
        finally:
            for handle in handles:
                handle.remove()
    rms_t = gradient_t.flatten(1).square().mean(1).sqrt()
    wrong = ~torch.isfinite(rms_t)
    if wrong.any():
        feature, seed = rows[int(wrong.nonzero()[0])]
        raise RuntimeError(f"the gradient of {feature} (seed {seed}) is not finite: try another seed")
    rms_t = torch.where(rms_t > 0, rms_t, 1)
    return -gradient_t / rms_t.reshape(-1, *[1] * (gradient_t.dim() - 1))
