"""Stain that bled onto glass: a smooth haze of eosin or haematoxylin beside tissue, without structure.

Faint haze is no tissue (`tissue_mask`); where it is as strong as stained stroma, the mask takes it for some.
"""

import numpy as np
from scipy import ndimage

from lib.tiles.mask_shapes import close, drop_small, groups_with, grow
from lib.tiles.slide_artefacts import optical_density
from lib.tiles.tissue_mask import SPREAD_LOW, stain_spread

STRONGEST = 0.3  # spread of optical density; denser smooth places are colloid or blood
ROUGHNESS = 0.012  # of optical density; haze has up to 0.005, the smoothest tissue (blurred muscle) 0.030
STEP_UM = 16.0  # over which roughness is measured, about a cell and a half
AROUND_UM = 40.0  # roughness is a mean over squares of this edge
GAP_UM = 24.0  # specks on the haze, and the rim that roughness leaves around tissue
LEAST_UM2 = 20_000.0  # smaller smooth places are vacuoles of fat, and lumens


def bled_mask(rgb: np.ndarray, mask_mpp: float, tissue: np.ndarray) -> np.ndarray:
    """True where stain lies on glass; bool (height, width).

    Smooth, coloured, no denser than weakly stained tissue, and reaching out of the tissue: colloid, serum and
    lumens are enclosed by it. Stain that bled over tissue cannot be told from the tissue's own.

    Parameters
    ----------
    rgb : uint8 (height, width, 3), the slide reduced to about 8 µm/px
    mask_mpp : µm/px of `rgb`
    tissue : bool (height, width), the slide's tissue mask
    """
    spread = stain_spread(rgb)
    coloured = (spread > SPREAD_LOW) & (spread < STRONGEST)
    smooth = coloured & (roughness(optical_density(rgb[..., 1]), mask_mpp) < ROUGHNESS)
    smooth = drop_small(smooth, LEAST_UM2 / mask_mpp**2)
    if not smooth.any():
        return smooth
    outside = smooth & grow(_open_glass(tissue, mask_mpp), 2 * GAP_UM / mask_mpp)
    outside[[0, -1]], outside[:, [0, -1]] = smooth[[0, -1]], smooth[:, [0, -1]]
    haze = groups_with(outside, smooth, 0, LEAST_UM2 / mask_mpp**2)
    return close(haze, GAP_UM / mask_mpp) & coloured


def roughness(values: np.ndarray, mask_mpp: float) -> np.ndarray:
    """Mean absolute second difference around each pixel, at STEP_UM: a slope has none; (height, width)."""
    lag = max(1, round(STEP_UM / mask_mpp))
    padded = np.pad(values, lag, mode="reflect")
    middle = 2 * values
    down = np.abs(middle - padded[2 * lag :, lag:-lag] - padded[: -2 * lag, lag:-lag])
    across = np.abs(middle - padded[lag:-lag, 2 * lag :] - padded[lag:-lag, : -2 * lag])
    edge = max(3, 2 * round(AROUND_UM / mask_mpp / 2) + 1)
    return ndimage.uniform_filter((down + across) / 2, edge)


def _open_glass(tissue: np.ndarray, mask_mpp: float) -> np.ndarray:
    """The glass around the tissue, without holes in it."""
    return drop_small(~tissue, 25 * LEAST_UM2 / mask_mpp**2)
