"""Nuclei counted in a tile: bright spots of haematoxylin, of the size of nuclei.

Not a segmentation: touching nuclei may count as one, and small dark ones weigh as much as large pale ones. It
is a plain measure, to say of a feature that it may be no more than nuclear density.
"""

import numpy as np
from scipy import ndimage
from skimage.color import hed_from_rgb

SIGMA_UM = 2.2  # of the Laplacian of Gaussian: spots of about 3 µm radius
APART_UM = 3.0
LEAST = 0.01  # contrast of a spot against its surroundings, in units of haematoxylin as `stains` has them
COARSE_MPP = 2.5  # beyond it a nucleus is less than 3 px wide
# What each value of a byte adds to haematoxylin, by channel (as skimage.color.rgb2hed).
_LOG = np.log(np.maximum(np.arange(256) / 255, 1e-6)) / np.log(1e-6)
_DENSITY = (_LOG[:, None] * hed_from_rgb[None, :, 0]).astype(np.float32)


def nuclear_density(tile: np.ndarray, mpp: float) -> float:
    """Nuclei per mm² of a tile; NaN above COARSE_MPP, where they cannot be told apart.

    Parameters
    ----------
    tile : uint8 (height, width, 3)
    mpp : µm per pixel
    """
    if mpp > COARSE_MPP:
        return float("nan")
    haematoxylin = np.sum([_DENSITY[tile[..., k], k] for k in range(3)], axis=0)
    haematoxylin -= haematoxylin.mean()  # the kernel, cut off, does not quite sum to 0
    spots = -((SIGMA_UM / mpp) ** 2) * ndimage.gaussian_laplace(haematoxylin, SIGMA_UM / mpp)
    size = 2 * max(1, round(APART_UM / mpp)) + 1
    peaks = (spots == ndimage.maximum_filter(spots, size)) & (spots > LEAST)
    return int(peaks.sum()) / (tile.shape[0] * tile.shape[1] * (mpp / 1000) ** 2)
