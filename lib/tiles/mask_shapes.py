"""Shapes in a mask: pieces dropped, filled, grown and closed, in pixels."""

import numpy as np
from scipy import ndimage
from skimage.measure import label


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each True pixel to the nearest False one, px; float64."""
    return np.asarray(ndimage.distance_transform_edt(mask))


def grow(mask: np.ndarray, radius_px: float) -> np.ndarray:
    """Dilate by a disc."""
    return _distance(~mask) <= radius_px if mask.any() else mask


def close(mask: np.ndarray, radius_px: float) -> np.ndarray:
    """Close by a disc, as if the picture's outermost pixels continued beyond its edge."""
    pad = 2 * int(np.ceil(radius_px)) + 1
    grown = grow(np.pad(mask, pad, mode="edge"), radius_px)
    if grown.all():
        return np.ones_like(mask)
    return mask | (_distance(grown) > radius_px)[pad:-pad, pad:-pad]


def _pieces(mask: np.ndarray, diagonal: bool = False) -> np.ndarray:
    """The number of each pixel's connected piece, from 1; 0 outside the mask."""
    return np.asarray(label(mask, connectivity=2 if diagonal else 1))


def groups_with(strong: np.ndarray, mask: np.ndarray, bridge_px: float, min_px: float) -> np.ndarray:
    """The parts of `mask` in groups that contain a strong pixel and at least min_px pixels in all.

    Pixels at most 2 x bridge_px apart belong to one group (hysteresis over small gaps).
    """
    labels = _pieces(grow(mask, bridge_px))
    good = np.bincount(labels[mask], minlength=labels.max() + 1) >= min_px
    good &= np.bincount(labels[strong], minlength=labels.max() + 1) > 0
    return mask & good[labels]


def drop_small(mask: np.ndarray, min_px: float) -> np.ndarray:
    """Without 8-connected pieces of fewer than min_px pixels."""
    labels = _pieces(mask, diagonal=True)
    large = np.bincount(labels.ravel()) >= min_px
    large[0] = False
    return large[labels]


def fill_holes(mask: np.ndarray, max_px: float) -> np.ndarray:
    """With background pieces of at most max_px pixels filled, unless they touch the picture's edge."""
    labels = _pieces(~mask)
    fill = np.bincount(labels.ravel()) <= max_px
    fill[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
    fill[0] = False
    return mask | fill[labels]
