"""Which part of an H&E slide is tissue: a mask at a few µm/px, and the tissue fraction of any rectangle.

Stain absorbs some colours more than others; glass, dust and shadow absorb all alike. The measure is therefore
the *spread* of optical density over the three channels, relative to this slide's own glass. Its threshold is
Otsu's, clipped to two absolute limits so that neither an empty nor a full slide is split in two. Fainter
places count when they are textured and touch tissue: walls of fat cells do, stain that bled onto glass does
not.
"""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from lib.tiles.mask_shapes import close, drop_small, fill_holes, groups_with, grow
from lib.tiles.slide_artefacts import ink_mask, local_sd, optical_density

# Spread of optical density (log10): 0.02, a difference of 5 % in absorption, is the faintest stroma.
SPREAD_LOW, SPREAD_HIGH = 0.02, 0.06
TEXTURE = 0.006  # sd of optical density over TEXTURE_UM; stain that bled onto the glass has 0.001 to 0.003
TEXTURE_UM = 40.0
PEN_MARGIN_UM = 30.0  # the soft edge of a stroke of ink
GAP_UM = 50.0  # gaps up to twice this are closed: fat cells with torn walls are up to 100 µm wide
BRIDGE_UM = 16.0  # stained places up to twice this apart belong together: the remains of a wall
SPECK_UM2 = 1_000.0  # smaller groups are dropped before closing, so that dust is not joined up
HOLE_UM2 = 50_000.0  # filled: fat vacuoles, ducts, small vessels; not the lumen of an artery
PIECE_UM2 = 20_000.0  # smallest piece of tissue that is kept


def tissue_mask(rgb: np.ndarray, mask_mpp: float, ink: np.ndarray | None = None) -> np.ndarray:
    """True where there is tissue.

    Parameters
    ----------
    rgb : uint8 (height, width, 3), the slide reduced to about 8 µm/px
    mask_mpp : µm/px of `rgb`
    ink : `slide_artefacts.ink_mask` of `rgb`, where it is known already

    Returns
    -------
    bool (height, width). Pen ink (blue, green, black, red) and unscanned black are False.
    """
    px_um2 = mask_mpp**2
    pen = grow(ink_mask(rgb, mask_mpp) if ink is None else ink, PEN_MARGIN_UM / mask_mpp)
    spread = stain_spread(rgb)
    texture = local_sd(optical_density(rgb[..., 1]), TEXTURE_UM, mask_mpp)
    clean = spread[~pen]
    if clean.size == 0:
        return np.zeros(rgb.shape[:2], bool)
    # A picture of one colour does not have two classes: the lower limit alone decides.
    otsu = threshold_otsu(clean) if clean.min() < clean.max() else SPREAD_LOW
    threshold = float(np.clip(otsu, SPREAD_LOW, SPREAD_HIGH))
    # Between the lower limit and the threshold only textured places count, as bled stain is smooth.
    strong = (spread > threshold) & ~pen
    faint = (spread > SPREAD_LOW) & (texture > TEXTURE) & ~pen
    mask = groups_with(strong, strong | faint, BRIDGE_UM / mask_mpp, SPECK_UM2 / px_um2)
    mask = close(mask, GAP_UM / mask_mpp)
    mask = fill_holes(mask, HOLE_UM2 / px_um2) & ~pen
    return drop_small(mask, PIECE_UM2 / px_um2)


def stain_spread(rgb: np.ndarray) -> np.ndarray:
    """Largest minus smallest optical density of the channels, relative to glass; float32 (height, width)."""
    lit = np.maximum(rgb.astype(np.float32), 1)
    density = np.log10(_glass_colour(rgb) / lit).clip(min=0)
    return density.max(axis=2) - density.min(axis=2)


def _glass_colour(rgb: np.ndarray) -> np.ndarray:
    """Median colour of the brightest quarter of the bright, nearly grey pixels; nearly white if too few."""
    flat = rgb.reshape(-1, 3)
    low, high = flat.min(axis=1), flat.max(axis=1)
    glass = flat[(low >= 200) & (high - low <= 12)]
    if len(glass) < max(0.005 * len(flat), 1):
        return np.full(3, 245, np.float32)
    brightness = glass.sum(axis=1, dtype=np.int32)
    return np.median(glass[brightness >= np.quantile(brightness, 0.75)], axis=0).astype(np.float32)


def tissue_fraction(
    mask: np.ndarray,
    l0_per_px: float,
    l0_x: np.ndarray,
    l0_y: np.ndarray,
    l0_width: np.ndarray,
    l0_height: np.ndarray,
) -> np.ndarray:
    """Share of each rectangle that is tissue, exact also where its edge divides mask pixels (integral image).

    Parameters
    ----------
    mask : bool (height, width)
    l0_per_px : level-0 pixels per pixel of the mask
    l0_x, l0_y, l0_width, l0_height : (n,) rectangles, level-0 px; there is no tissue outside the mask

    Returns
    -------
    float64 (n,), between 0 and 1.
    """
    integral = np.pad(mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    left, top = l0_x / l0_per_px, l0_y / l0_per_px
    right, bottom = (l0_x + l0_width) / l0_per_px, (l0_y + l0_height) / l0_per_px

    def tissue_above_left(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        # Linear between the integral's nodes is exact, because the mask is constant within a pixel.
        return ndimage.map_coordinates(integral.astype(float), [y, x], order=1, mode="nearest")

    tissue = tissue_above_left(bottom, right) - tissue_above_left(top, right)
    tissue += tissue_above_left(top, left) - tissue_above_left(bottom, left)
    return (tissue / ((right - left) * (bottom - top))).clip(0, 1)
