"""Images made to maximise a feature, by gradient ascent from noise.

argmax_x f(x) as in the paper (Methods, "visualization"; Erhan et al. 2009), regularised as in feature
visualisation (Olah et al. 2017, distill.pub/2017/feature-visualization): the image is a sum of spatial
frequencies, its colours vary along the directions in which the cohort's own tiles vary, and it is shifted,
turned and scaled a little before each step, so that only patterns that survive this are built up (METHOD
section 10).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from lib.network import models
from lib.visualize.attribution import feature_sums, reachable


class ColourBasis(NamedTuple):
    """Colours of a cohort: in logit(rgb) = mean + matrix @ w, the three w are uncorrelated with unit sd."""

    mean: np.ndarray  # float32, (3,)
    matrix: np.ndarray  # float32, (3, 3): columns are directions of colour, widest first


def colour_decorrelation(tiles: np.ndarray, *, n_pixels: int = 200_000, seed: int = 0) -> ColourBasis:
    """Mean and principal directions of the colours of the cohort's tiles.

    Parameters
    ----------
    tiles : uint8, n_tiles x H x W x 3, RGB (any array or memory map)
    n_pixels : int
        Pixels drawn at random, the same number of every tile (at least one).

    Raises
    ------
    ValueError
        For tiles of another form, or of fewer than two colours.
    """
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3 or not len(tiles):
        raise ValueError(
            f"tiles are uint8 n x H x W x 3 RGB, n > 0; got {tiles.dtype} of shape {tiles.shape}"
        )
    rng = np.random.default_rng(seed)
    n_each = min(max(1, n_pixels // len(tiles)), tiles.shape[1] * tiles.shape[2])
    # Tile by tile, so that a memory-mapped stack is never read whole into memory.
    drawn = [rng.choice(np.asarray(tile).reshape(-1, 3), n_each, replace=False) for tile in tiles]
    pixels = np.concatenate(drawn).astype(np.float64)
    share = (pixels + 0.5) / 256  # strictly inside (0, 1)
    logit = np.log(share / (1 - share))
    if not np.ptp(logit, axis=0).any():
        raise ValueError(f"all {len(pixels)} pixels drawn have one colour; are the tiles blank?")
    variance, directions = np.linalg.eigh(np.cov(logit.T))
    sd = np.sqrt(np.clip(variance[::-1], 1e-6, None))
    # Eigenvectors have no sign; the largest entry positive makes the basis the same everywhere.
    directions = directions[:, ::-1]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(3)])
    return ColourBasis(logit.mean(axis=0).astype(np.float32), (directions * sd).astype(np.float32))


@torch.inference_mode(False)
@torch.enable_grad()
def synthesise(
    model: torch.nn.Module,
    architecture: str,
    features: Sequence[str],
    *,
    input_px: int = 224,
    n_steps: int = 96,
    seed: int | Sequence[int] = 0,
    colour_basis: ColourBasis | None = None,
    fourier: bool = True,
    jitter_px: int = 8,
    rotation_degrees: float = 10.0,
    scale_range: tuple[float, float] = (0.9, 1.1),
    learning_rate: float = 0.05,
    n_recorded: int = 9,
    p: float = 1.0,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """One image per feature and seed that makes the feature large; one batch, each with its own objective.

    The same call gives the same image on the same machine (on a GPU up to rounding). Noise and
    transformations depend on the seed alone, so a feature's image does not depend on what else is in the
    batch, but for rounding. The forward pass ends at the last layer needed.

    Parameters
    ----------
    model : Module in evaluation mode, from `networks.build`
    architecture : str
    features : feature names
    input_px : int
        Edge of the images, px.
    n_steps : int
        Steps of Adam; 96 at 224 px take about a minute on two CPU cores for a middle layer of VGG16.
    seed : int or several
    colour_basis : from `colour_decorrelation`; without it, the colours of ImageNet's mean and sd
    fourier : bool
        Optimise spatial frequencies (True) or pixels.
    jitter_px, rotation_degrees, scale_range
        Largest shift and turn, and limits of the magnification, before each step; 0, 0, (1, 1) for none.
    learning_rate : float
        In standard deviations of the cohort's colours.
    n_recorded : int
        Points of the curve, the first and the last step included.
    p : float
        Exponent of the features, as in `attribution.feature_sums`.
    on_step : called after each step with the number of steps done; what it raises ends the work

    Returns
    -------
    images : uint8, (len(features) * n_seeds) x input_px x input_px x 3, RGB
        All seeds of the first feature, then those of the second.
    curve_df : DataFrame
        Columns image (its number), feature, seed, step, objective: f (spatial sum) of the untransformed
        image after that many steps; step 0 is the noise.

    Raises
    ------
    ValueError
        For unknown features, no feature or seed, or settings out of range.
    RuntimeError
        If a feature's gradient is not finite; if the model is in training mode.
    """
    seeds = [seed] if isinstance(seed, int | np.integer) else list(seed)
    _check_settings(features, seeds, n_steps, n_recorded, jitter_px, input_px, scale_range)
    device = next(model.parameters()).device
    rows = [(feature, s) for feature in features for s in seeds]
    column_t = torch.arange(len(features), device=device).repeat_interleave(len(seeds))
    colour = _colour_tensors(colour_basis, device)
    noise_t = torch.stack([_noise(input_px, fourier, s) for s in seeds])
    parameter_t = (
        noise_t.repeat(len(features), 1, 1, 1, *[1] * (noise_t.dim() - 4)).to(device).requires_grad_()
    )
    spread_t = _equal_power(input_px).to(device) if fourier else None
    optimiser = torch.optim.Adam([parameter_t], lr=learning_rate)
    moves = [_moves(n_steps, jitter_px, rotation_degrees, scale_range, input_px, s) for s in seeds]
    moves_t = torch.stack(moves, dim=1).repeat(1, len(features), 1, 1).to(device)  # step x image x 2 x 3
    recorded = set(np.linspace(0, n_steps, n_recorded).round().astype(int))
    curve = []

    mean_t, sd_t = (torch.tensor(v, device=device)[:, None, None] for v in models.normalisation(architecture))

    def objectives(images_t: torch.Tensor) -> torch.Tensor:
        sums_t = feature_sums(
            model,
            architecture,
            features,
            ((images_t - mean_t) / sd_t).contiguous(memory_format=torch.channels_last),
            p=p,
        )
        return sums_t.gather(1, column_t[:, None])[:, 0]  # each image's own feature

    for step in tqdm(range(n_steps + 1), unit="step", disable=not progress):
        if step in recorded:
            with torch.no_grad():
                values = objectives(_image(parameter_t, spread_t, colour, input_px)).tolist()
            curve += [(i, *row, step, value) for i, (row, value) in enumerate(zip(rows, values, strict=True))]
        if step < n_steps:
            images_t = _moved(_image(parameter_t, spread_t, colour, input_px), moves_t[step])
            # The objectives get no name here: it would keep their graph through the next forward pass.
            parameter_t.grad = _ascent(objectives(images_t), parameter_t, rows)
            optimiser.step()
            if on_step is not None:
                on_step(step + 1)
    with torch.no_grad():
        images_t = _image(parameter_t, spread_t, colour, input_px)
    images = (images_t * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return images, pd.DataFrame(curve, columns=["image", "feature", "seed", "step", "objective"])


def _check_settings(features, seeds, n_steps, n_recorded, jitter_px, input_px, scale_range) -> None:
    if not features or not seeds:
        raise ValueError(
            f"{len(features)} features and {len(seeds)} seeds were given; at least one of each is needed"
        )
    if n_steps < 1 or n_recorded < 2:
        raise ValueError(f"n_steps is {n_steps} and n_recorded {n_recorded}; at least 1 and 2 are needed")
    if not 0 <= jitter_px < input_px / 2:
        raise ValueError(f"jitter_px is {jitter_px}; it must be at least 0 and under half of {input_px} px")
    if not 0 < scale_range[0] <= scale_range[1]:
        raise ValueError(f"scale_range is {scale_range}; give the lowest and the highest magnification")


def _colour_tensors(basis: ColourBasis | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (3, 1, 1) and matrix (3, 3) of the colours on the logit scale."""
    if basis is None:
        mean, sd = np.array(models.IMAGENET_MEAN), np.array(models.IMAGENET_SD)
        # The sd of a logit is, to first order, that of the colour over m (1 - m).
        basis = ColourBasis(np.log(mean / (1 - mean)), np.diag(sd / (mean * (1 - mean))))
    mean_t = torch.as_tensor(np.asarray(basis.mean), dtype=torch.float32, device=device)
    return mean_t[:, None, None], torch.as_tensor(
        np.asarray(basis.matrix), dtype=torch.float32, device=device
    )


def _noise(input_px: int, fourier: bool, seed: int) -> torch.Tensor:
    """Start of one image: 3 x H x (W // 2 + 1) x 2 spectrum (real, imaginary) or 3 x H x W pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, input_px, input_px // 2 + 1, 2) if fourier else (3, input_px, input_px)
    return torch.randn(shape, generator=generator) * 0.1


def _equal_power(input_px: int) -> torch.Tensor:
    """Weight of each spatial frequency, 1 / |frequency|, H x (W // 2 + 1): natural images' fall of amplitude.

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


def _image(
    parameter_t: torch.Tensor,
    spread_t: torch.Tensor | None,
    colour: tuple[torch.Tensor, torch.Tensor],
    input_px: int,
) -> torch.Tensor:
    """Images in 0..1, n x 3 x H x W, from the parameters that are optimised."""
    mean_t, matrix_t = colour
    if spread_t is None:
        plane_t = parameter_t
    else:
        spectrum_t = torch.view_as_complex(parameter_t) * spread_t
        plane_t = torch.fft.irfft2(spectrum_t, s=(input_px, input_px), norm="ortho")
    return torch.sigmoid(mean_t + torch.einsum("cd,ndhw->nchw", matrix_t, plane_t))


def _moves(
    n_steps: int, jitter_px: int, degrees: float, scale_range: tuple[float, float], input_px: int, seed: int
) -> torch.Tensor:
    """One random shift, turn and magnification per step as affine matrices, n_steps x 2 x 3."""
    rng = np.random.default_rng([seed, 1])
    angle = np.deg2rad(rng.uniform(-degrees, degrees, n_steps))
    zoom = np.exp(rng.uniform(*np.log(scale_range), n_steps))
    shift = rng.uniform(-jitter_px, jitter_px, (n_steps, 2)) * 2 / input_px  # the image spans -1..1
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
    """Gradient of minus the objectives, for Adam to descend; each image's own has unit root mean square.

    For an image that passes nothing back (its feature is dead, or constant behind dead ones), a ReLU that is
    closed throughout lets everything through, so that the feature can be woken. What nothing wakes stays 0.
    """
    gradient_t = torch.autograd.grad(value_t.sum(), parameter_t, retain_graph=True)[0]
    asleep_t = gradient_t.flatten(1).abs().amax(1) == 0

    def open_if_asleep(passed: tuple, arriving: tuple) -> tuple:
        closed_t = asleep_t & (passed[0].flatten(1).abs().sum(1) == 0)
        return (torch.where(closed_t.reshape(-1, *[1] * (passed[0].dim() - 1)), arriving[0], passed[0]),)

    if asleep_t.any():
        relus = [node for node in reachable([value_t.grad_fn]) if node.name() == "ReluBackward0"]
        handles = [node.register_hook(open_if_asleep) for node in relus]
        try:
            gradient_t = torch.autograd.grad(value_t.sum(), parameter_t)[0]
        finally:
            for handle in handles:
                handle.remove()
    rms_t = gradient_t.flatten(1).square().mean(1).sqrt()
    wrong = ~torch.isfinite(rms_t)
    if wrong.any():
        feature, seed = rows[int(wrong.nonzero()[0])]
        raise RuntimeError(f"the gradient of {feature} (seed {seed}) is not finite; try another seed")
    rms_t = torch.where(rms_t > 0, rms_t, 1)
    return -gradient_t / rms_t.reshape(-1, *[1] * (gradient_t.dim() - 1))
