"""What lies on a slide besides flat tissue: pen ink, glue and unscanned black; tissue folded over itself.

Both are judged at a few µm/px, where they are larger than cells, and become a share of every tile.
"""

import numpy as np
from scipy import ndimage
from skimage.color import rgb2hed, rgb2hsv

from lib.tiles.mask_shapes import close, drop_small

PEN_UM2 = 20_000.0  # smaller coloured spots are pigment or blue nuclei, not ink
PEN_GAP_UM = 16.0  # nuclei under a stroke break it up
FOLD_UM2 = 10_000.0
FOLD_FACTOR = 1.8  # a fold absorbs as two layers do; the slide's median is one


def optical_density(rgb: np.ndarray) -> np.ndarray:
    """-log10 of the light that passes, against white; float32, shape of `rgb` (uint8)."""
    return -np.log10(np.maximum(rgb, 1) / np.float32(255))


def local_sd(values: np.ndarray, edge_um: float, mpp: float) -> np.ndarray:
    """Standard deviation over squares of this edge around each pixel; float32 (height, width)."""
    edge = max(3, 2 * round(edge_um / mpp / 2) + 1)
    mean = ndimage.uniform_filter(values, edge)
    return np.sqrt((ndimage.uniform_filter(values**2, edge) - mean**2).clip(min=0))


def ink_mask(rgb: np.ndarray, mask_mpp: float) -> np.ndarray:
    """True where there is pen ink, yellow glue or unscanned black; bool (height, width).

    Ink on glass has hues that haematoxylin (250° to 280°) and eosin (310° to 350°) do not have, or is more
    saturated. On tissue its optical density adds to theirs: blue ink then absorbs red as much as green,
    yellow glue blue more than green, and purple is dense with less red than nuclei have.

    Parameters
    ----------
    rgb : uint8 (height, width, 3), the slide reduced to about 8 µm/px
    mask_mpp : µm/px of `rgb`
    """
    hue, saturation, value = np.moveaxis(rgb2hsv(rgb), 2, 0)
    hue = hue * 360
    red_od, green_od, blue_od = np.moveaxis(optical_density(rgb), 2, 0)
    green = (hue >= 70) & (hue < 165) & (saturation > 0.25)
    cyan = (hue >= 165) & (hue < 225) & (saturation > 0.25)
    blue = (saturation > 0.55) & ((hue >= 225) & (hue < 248) | (red_od > 0.4) & (red_od > 0.95 * green_od))
    red = ((hue >= 345) | (hue < 20)) & (saturation > 0.7) & (value > 0.55)  # above: blood is duller
    yellow = (blue_od > 1.1 * green_od) & (blue_od > 0.25) & (value > 0.45)  # bile and pigment are duller
    purple = (hue >= 262) & (hue < 312) & (saturation > 0.55) & (green_od > 0.55)
    purple &= (red_od > 0.3 * green_od) & (red_od < 0.75 * green_od)
    black = (value < 0.35) & (rgb.max(axis=2).astype(int) - rgb.min(axis=2) < 30)
    ink = green | cyan | blue | red | yellow | purple | black
    solid = ndimage.uniform_filter(ink.astype(np.float32), 3) > 0.35  # not the odd pixel of a noisy scan
    return drop_small(close(solid, PEN_GAP_UM / mask_mpp), PEN_UM2 / mask_mpp**2) & (ink | solid)


def fold_mask(rgb: np.ndarray, mask_mpp: float, tissue: np.ndarray) -> np.ndarray:
    """True where tissue lies double: both stains far above what is usual on this slide.

    Crowded nuclei have more haematoxylin, but not more eosin.

    Parameters
    ----------
    tissue : bool (height, width), the slide's tissue mask
    """
    if not tissue.any():
        return np.zeros_like(tissue)
    edge = 20 / mask_mpp  # over cells
    stains = ndimage.gaussian_filter(rgb2hed(rgb)[..., :2], (edge, edge, 0))
    usual = np.median(stains[tissue], axis=0)
    double = (stains > FOLD_FACTOR * np.maximum(usual, 0.01)).all(axis=2) & tissue
    return drop_small(double, FOLD_UM2 / mask_mpp**2)
