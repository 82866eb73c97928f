"""Stain jitter: more or less haematoxylin and eosin in each training tile, drawn at random.

A tile's optical density is divided among haematoxylin, eosin and a residual (Ruifrok & Johnston 2001); the
amount s of each becomes a s + b, with a and b drawn once per tile, epoch and stain (HED jitter: Tellez et al.
2018, 2019). The network then depends less on how a laboratory stains.
"""

import numpy as np
import torch

# Optical density of haematoxylin, eosin and the residual (DAB) in red, green and blue.
RGB_OF_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
STREAM = 2  # of the generators of an epoch, beside order and orientations


def draws(n_rows: int, sigma: float, seed: int, epoch: int) -> np.ndarray:
    """Factor and shift of each stain for every row in this epoch, float32 (n_rows, 2, 3).

    Factors are uniform in 1 - sigma to 1 + sigma, shifts (optical density, log10) in -sigma to sigma.
    Depends on seed and epoch alone.
    """
    rng = np.random.default_rng([seed, epoch, STREAM])
    drawn = rng.uniform(-sigma, sigma, (n_rows, 2, 3))
    drawn[:, 0] += 1
    return drawn.astype(np.float32)


def jitter(tiles_t: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
    """The tiles with their stains changed; uint8 (n, px, px, 3) in and out, on any device.

    Parameters
    ----------
    drawn : float32 (n, 2, 3), rows of `draws`
    """
    device = tiles_t.device
    factors, shifts = drawn[:, 0].astype(np.float64), drawn[:, 1].astype(np.float64)
    # Density to density in one step: to stains, times the factors, and back.
    mixing = np.einsum("rs,ns,sc->nrc", np.linalg.inv(RGB_OF_STAINS), factors, RGB_OF_STAINS)
    mixing_t = torch.from_numpy(mixing.astype(np.float32)).to(device)
    shift_t = torch.from_numpy((shifts @ RGB_OF_STAINS).astype(np.float32)).to(device)
    levels_t = torch.arange(256, dtype=torch.float32, device=device).clamp(min=0.4)  # rounds to 0
    density_t = -torch.log10(levels_t / 255)[tiles_t.long().flatten(1, 2)]  # (n, px * px, 3)
    # Sums written out: a matrix product may be rounded to TF32 on a GPU.
    changed_t = shift_t[:, None, :] + sum(density_t[:, :, c, None] * mixing_t[:, None, c] for c in range(3))
    light_t = 255 * torch.pow(10, -changed_t)
    return light_t.round().clamp(0, 255).to(torch.uint8).view_as(tiles_t)
