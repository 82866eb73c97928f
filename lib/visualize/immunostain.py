"""Stains of an immunohistochemistry or H&E image, its nuclei and its tissue.

Colour deconvolution after Ruifrok & Johnston 2001 (Anal. Quant. Cytol. Histol. 23:291).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label

from lib.errors import InputError, MissingInputError

GLASS_DENSITY = 0.04  # mean optical density (natural log) below which a place holds no stain: 4 % absorbed
GLASS_PX = 8  # pale places narrower than twice this are part of the tissue: gaps, cytoplasm, thin stroma
LEAST_NUCLEUS_UM2 = 12.0  # a disc 4 µm across


class Stains(NamedTuple):
    """Non-negative stain densities, float32, each H x W, in the units of `skimage.color.rgb2hed`."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    dab: np.ndarray


def read_image(path: Path | str) -> np.ndarray:
    """An image file as uint8 H x W x 3 RGB; transparent pixels become white. FileNotFoundError if missing."""
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"there is no immunohistochemistry image at {path}")
    with Image.open(path) as image:
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))


def separate_stains(image: np.ndarray) -> Stains:
    """Haematoxylin, eosin and DAB of an image by colour deconvolution.

    The vectors are the published ones, not fitted to the image, and the three channels leak into each other
    where stains lie on top of each other: a dark brown nucleus shows little haematoxylin.

    Parameters
    ----------
    image : uint8, H x W x 3, RGB

    Raises
    ------
    ValueError
        If it is not such an image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"an image is uint8 H x W x 3 RGB; got {image.dtype} of shape {image.shape}")
    hed = rgb2hed(image)  # H x W x 3, negative values already clipped
    return Stains(*(np.ascontiguousarray(hed[..., c], dtype=np.float32) for c in range(3)))


def nuclei_mask(image: np.ndarray, *, mpp: float | None = None) -> np.ndarray:
    """Pixels on nuclei: haematoxylin, smoothed, above Otsu's threshold, specks removed. Bool, H x W.

    For H&E tiles and for DAB with a haematoxylin counterstain. In the latter a nucleus may be blue or brown,
    but taking the darker of the two channels would count cytoplasm: only blue is used, and nuclear DAB
    staining is therefore underestimated.

    Parameters
    ----------
    image : uint8, H x W x 3, RGB
    mpp : float, optional
        µm per pixel. Without it, smoothing is 1 px and specks are under 16 px.

    Raises
    ------
    ValueError
        For a malformed image, an mpp that is not positive, or an image without contrast in haematoxylin.
    """
    if mpp is not None and not mpp > 0:
        raise InputError(f"mpp is {mpp}: it must be positive, in µm per pixel")
    haematoxylin = separate_stains(image).haematoxylin
    if np.ptp(haematoxylin) == 0:
        raise InputError(
            f"the image of shape {image.shape} has no haematoxylin contrast, so no nuclei: is it blank?"
        )
    smooth = gaussian(haematoxylin, sigma=1.0 if mpp is None else max(0.5, 0.5 / mpp))
    labels = np.asarray(label(smooth > threshold_otsu(smooth), connectivity=1))
    area_px = np.bincount(labels.ravel())
    area_px[0] = 0  # the background
    smallest_px = 16 if mpp is None else LEAST_NUCLEUS_UM2 / mpp**2
    return np.asarray(ndimage.binary_fill_holes((area_px >= smallest_px)[labels]))


def tissue_pixels(image: np.ndarray) -> np.ndarray:
    """Where there is tissue rather than bare glass: bool, H x W.

    Glass is what absorbs next to nothing, relative to this image's own white, over at least 2 x GLASS_PX both
    ways. Small pale places count as tissue: leaving out every unstained pixel would itself make stains
    overlap.

    Parameters
    ----------
    image : uint8, H x W x 3, RGB
    """
    lit = np.maximum(gaussian(image.astype(np.float32), sigma=1.5, channel_axis=2), 1)
    # The brightest pixels, but no darker than any scanner's glass: an image full of tissue has no white.
    white = np.maximum(np.quantile(lit.reshape(-1, 3), 0.99, axis=0), 230)
    pale = np.log(white / lit).clip(min=0).mean(axis=2) < GLASS_DENSITY
    if pale.all():
        return np.zeros(image.shape[:2], dtype=bool)
    # Opened by a disc, the image's outermost pixels repeated beyond its edge; then grown over the blur.
    pad = 2 * GLASS_PX
    wide = _distance_to_false(np.pad(pale, pad, mode="edge")) > GLASS_PX
    if not wide.any():
        return np.ones(image.shape[:2], dtype=bool)
    return (_distance_to_false(~wide) > GLASS_PX + 3)[pad:-pad, pad:-pad]


def _distance_to_false(mask: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.distance_transform_edt(mask))


def cut_tiles(image: np.ndarray, tile_px: int) -> np.ndarray:
    """The whole tiles of an image from its top left corner, n_tiles x tile_px x tile_px (x C)."""
    n_rows, n_columns = image.shape[0] // tile_px, image.shape[1] // tile_px
    if n_rows * n_columns == 0:
        raise InputError(f"an image of shape {image.shape} holds no tile of {tile_px} px")
    image = image[: n_rows * tile_px, : n_columns * tile_px]
    tiles = image.reshape(n_rows, tile_px, n_columns, tile_px, *image.shape[2:]).swapaxes(1, 2)
    return tiles.reshape(n_rows * n_columns, tile_px, tile_px, *image.shape[2:])
