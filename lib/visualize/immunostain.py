"""Stain separation of an immunohistochemistry image, and how much of its DAB stain lies on nuclei.

An immunohistochemistry image and a tile of the cohort are different pieces of tissue, so their maps cannot be
laid over each other. What can be compared is a number each has: the share of its map (brown DAB stain in one,
guided-backpropagation magnitude in the other) that falls on nuclei, beside what chance would put there.
Colour deconvolution after Ruifrok & Johnston 2001 (Anal. Quant. Cytol. Histol. 23:291).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.filters import gaussian, threshold_otsu

GLASS_DENSITY = 0.04  # mean optical density (natural log) below which a place holds no stain: 4 % absorbed
GLASS_PX = 8  # pale places narrower than twice this are part of the tissue: gaps, cytoplasm, thin stroma
LEAST_TISSUE = 0.25  # of a tile, for it to be counted


class Stains(NamedTuple):
    """Non-negative stain densities, float32, each H x W, in the units of `skimage.color.rgb2hed`."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    dab: np.ndarray


class Overlap(NamedTuple):
    """The share of a map lying on a mask, beside tiles paired at random.

    share and null_mean are in [0, 1]; p_more and p_less are one-sided, (1 + count) / (n_null + 1).
    """

    share: float
    null_mean: float
    null_sd: float
    z: float
    p_more: float
    p_less: float
    n_tiles: int
    n_null: int


def read_image(path: Path | str) -> np.ndarray:
    """An image file as uint8 H x W x 3 RGB; transparent pixels become white. FileNotFoundError if missing."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no immunohistochemistry image at {path}; put one there or leave the column blank"
        )
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
        raise ValueError(f"an image is uint8 H x W x 3 RGB; got {image.dtype} of shape {image.shape}")
    hed = rgb2hed(image)  # H x W x 3, negative values already clipped
    return Stains(*(np.ascontiguousarray(hed[..., c], dtype=np.float32) for c in range(3)))


def nuclei_mask(image: np.ndarray, *, mpp: float | None = None, min_area_um2: float = 12.0) -> np.ndarray:
    """Pixels on nuclei: haematoxylin, smoothed, above Otsu's threshold, specks removed. Bool, H x W.

    For H&E tiles and for DAB with a haematoxylin counterstain. In the latter a nucleus may be blue or brown,
    so the darker of the haematoxylin and the DAB channel would count cytoplasm: only blue is used, and a
    nuclear DAB stain is therefore underestimated.

    Parameters
    ----------
    image : uint8, H x W x 3, RGB
    mpp : float, optional
        µm per pixel. Without it, smoothing is 1 px and specks are under 16 px.
    min_area_um2 : float
        Smallest nucleus kept, µm²; 12 is a disc of 4 µm across.

    Raises
    ------
    ValueError
        For a malformed image, an mpp that is not positive, or an image without contrast in haematoxylin.
    """
    if mpp is not None and not mpp > 0:
        raise ValueError(f"mpp is {mpp}; it is µm per pixel and positive")
    haematoxylin = separate_stains(image).haematoxylin
    if np.ptp(haematoxylin) == 0:
        raise ValueError(
            f"the image of shape {image.shape} has no haematoxylin contrast, so no nuclei; is it blank?"
        )
    smooth = gaussian(haematoxylin, sigma=1.0 if mpp is None else max(0.5, 0.5 / mpp))
    labels, _ = ndimage.label(smooth > threshold_otsu(smooth))
    area_px = np.bincount(labels.ravel())
    area_px[0] = 0  # the background is no nucleus
    smallest_px = 16 if mpp is None else min_area_um2 / mpp**2
    return ndimage.binary_fill_holes((area_px >= smallest_px)[labels])


def tissue_pixels(image: np.ndarray) -> np.ndarray:
    """Where there is tissue and not bare glass: bool, H x W.

    Glass is what absorbs next to nothing over at least 2 x GLASS_PX both ways, beside this image's own white.
    Small pale places stay tissue: leaving out every unstained pixel would itself tie stains to each other.

    Parameters
    ----------
    image : uint8, H x W x 3, RGB
    """
    lit = np.maximum(gaussian(image.astype(np.float32), sigma=1.5, channel_axis=2), 1)
    # The brightest there is, but no darker than any scanner's glass: a full image has no white of its own.
    white = np.maximum(np.quantile(lit.reshape(-1, 3), 0.99, axis=0), 230)
    pale = np.log(white / lit).clip(min=0).mean(axis=2) < GLASS_DENSITY
    if pale.all():
        return np.zeros(image.shape[:2], dtype=bool)
    # Opened by a disc, as if the image's outermost pixels went on beyond its edge; then grown over the blur.
    pad = 2 * GLASS_PX
    wide = ndimage.distance_transform_edt(np.pad(pale, pad, mode="edge")) > GLASS_PX
    if not wide.any():
        return np.ones(image.shape[:2], dtype=bool)
    return (ndimage.distance_transform_edt(~wide) > GLASS_PX + 3)[pad:-pad, pad:-pad]


def cut_tiles(image: np.ndarray, tile_px: int) -> np.ndarray:
    """The whole tiles of an image from its top left corner, n_tiles x tile_px x tile_px (x C)."""
    n_rows, n_columns = image.shape[0] // tile_px, image.shape[1] // tile_px
    if n_rows * n_columns == 0:
        raise ValueError(
            f"an image of shape {image.shape} holds no tile of {tile_px} px; take a smaller tile_px"
        )
    image = image[: n_rows * tile_px, : n_columns * tile_px]
    tiles = image.reshape(n_rows, tile_px, n_columns, tile_px, *image.shape[2:]).swapaxes(1, 2)
    return tiles.reshape(n_rows * n_columns, tile_px, tile_px, *image.shape[2:])


def overlap(
    maps: np.ndarray,
    masks: np.ndarray,
    tissue: np.ndarray | None = None,
    *,
    n_null: int = 999,
    max_tiles: int = 1000,
    seed: int = 0,
) -> Overlap:
    """Share of a map that lies on a mask, against each map laid on the mask of another, random tile.

    share = sum(map on the mask) / sum(map), over the tissue of all tiles. In each null draw every tile's map
    meets the mask of another tile (no tile its own), turned and mirrored at random, over what is tissue in
    both: glass has neither stain nor nuclei, and tissue laid on glass would make any stain look bound to
    nuclei. The null keeps how much map and how much mask each tile has, and breaks where they are; with it
    breaks that tiles rich in one may be rich in the other.

    Parameters
    ----------
    maps : float, n_tiles x H x H, non-negative
        DAB of the tiles of one image, or the magnitude of a feature's gradient on its tiles.
    masks : bool, n_tiles x H x H
        Nuclei of the same tiles.
    tissue : bool, n_tiles x H x H, optional
        Pixels of tissue (`tissue_pixels`); the others, and tiles without any, are left out. Without it all
        pixels count.
    n_null : int
        Random pairings.
    max_tiles : int
        Of more tiles than this, so many are drawn at random.

    Raises
    ------
    ValueError
        For fewer than two tiles with tissue, shapes that differ or are not square, negative or empty maps, a
        full or empty mask, tiles whose tissue never falls on another's.
    """
    if maps.shape != masks.shape or maps.ndim != 3 or maps.shape[1] != maps.shape[2]:
        raise ValueError(f"maps and masks are n_tiles x H x H alike; got {maps.shape} and {masks.shape}")
    tissue = np.ones(masks.shape, dtype=bool) if tissue is None else tissue.astype(bool)
    if tissue.shape != masks.shape:
        raise ValueError(
            f"tissue is of shape {tissue.shape}, the masks are of {masks.shape}; give one for each"
        )
    n_all, kept = len(maps), tissue.any(axis=(1, 2))
    maps, masks, tissue = maps[kept], masks[kept].astype(bool), tissue[kept]
    if len(maps) < 2:
        of_all = "" if len(maps) == n_all else f" with tissue, of {n_all},"
        raise ValueError(
            f"{len(maps)} tile{of_all} leaves no other tile to compare with; take a smaller tile_px"
        )
    if n_null < 1:
        raise ValueError(f"n_null is {n_null}; at least one random pairing is needed")
    if not np.isfinite(maps).all() or (maps < 0).any() or not maps.any():
        raise ValueError(
            "maps must be finite, non-negative and not all zero; take the magnitude of a gradient"
        )
    maps, masks = np.where(tissue, maps, 0), masks & tissue
    if not maps.any() or not masks.any() or masks.sum() == tissue.sum():
        raise ValueError(
            f"the masks cover {masks.sum() / tissue.sum():.0%} of all pixels of tissue, and the maps "
            f"{(maps > 0).sum() / tissue.sum():.0%}; an overlap needs some of both and not all in the masks"
        )
    rng = np.random.default_rng(seed)
    if len(maps) > max_tiles:
        drawn = rng.choice(len(maps), max_tiles, replace=False)
        maps, masks, tissue = maps[drawn], masks[drawn], tissue[drawn]
    met = _met_by_each_mask(maps, masks)  # orientation x map x mask; [0, i, i] is as it lies
    # How much of map i falls on the tissue of tile j; all of it where there is no glass.
    total = _met_by_each_mask(maps, tissue)
    everyone = np.arange(len(maps))
    share = _pooled(met, total, (0, everyone, everyone))
    null = np.empty(n_null)
    for i in range(n_null):
        turn = rng.integers(8, size=len(maps))
        null[i] = _pooled(met, total, (turn, everyone, _partners(len(maps), rng)))
    if not np.isfinite(null).all():
        raise ValueError("tissue of one tile never falls on that of another; take larger or fuller tiles")
    sd = float(null.std(ddof=1)) if n_null > 1 else 0.0
    slack = 1e-6  # sums in float32 that agree to this are ties
    return Overlap(
        share=share,
        null_mean=float(null.mean()),
        null_sd=sd,
        z=(share - float(null.mean())) / sd if sd > 0 else float("nan"),
        p_more=float((1 + (null >= share - slack).sum()) / (n_null + 1)),
        p_less=float((1 + (null <= share + slack).sum()) / (n_null + 1)),
        n_tiles=len(maps),
        n_null=n_null,
    )


def dab_on_nuclei(
    image: np.ndarray, *, tile_px: int = 64, mpp: float | None = None, n_null: int = 999, seed: int = 0
) -> Overlap:
    """`overlap` of the DAB density with the nuclei of one immunohistochemistry image cut into tiles.

    Only tissue counts: bare glass round a core, and tiles of less than LEAST_TISSUE tissue, are left out.

    Parameters
    ----------
    image : uint8, H x W x 3, RGB
    tile_px : int
        Edge of the square tiles, px. At 64 px a tile of a Human Protein Atlas image is a few cells wide.
    mpp, n_null, seed : as in `nuclei_mask` and `overlap`.
    """
    dab = cut_tiles(separate_stains(image).dab, tile_px)
    nuclei = cut_tiles(nuclei_mask(image, mpp=mpp), tile_px)
    tissue = cut_tiles(tissue_pixels(image), tile_px)
    tissue = tissue & (tissue.mean(axis=(1, 2)) >= LEAST_TISSUE)[:, None, None]
    return overlap(dab, nuclei, tissue, n_null=n_null, seed=seed)


def _pooled(met: np.ndarray, total: np.ndarray, at: tuple) -> float:
    """Share over all tiles at the given orientations, maps and masks; NaN where nothing meets tissue."""
    whole = total[at].sum(dtype=np.float64)
    return float(met[at].sum(dtype=np.float64) / whole) if whole > 0 else float("nan")


def _met_by_each_mask(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Sum of map i on mask j in each of its eight orientations, float32, 8 x n_tiles x n_tiles."""
    flat = maps.reshape(len(maps), -1).astype(np.float32)  # n_tiles x pixels
    met = np.empty((8, len(maps), len(maps)), dtype=np.float32)
    for orientation in range(8):
        turned = np.rot90(masks, orientation % 4, axes=(1, 2))
        turned = turned[:, :, ::-1] if orientation >= 4 else turned
        met[orientation] = flat @ turned.reshape(len(masks), -1).astype(np.float32).T
    return met


def _partners(n_tiles: int, rng: np.random.Generator) -> np.ndarray:
    """For each tile another one: along a random cycle through all, so that nobody meets themselves."""
    order = rng.permutation(n_tiles)
    partner = np.empty(n_tiles, dtype=int)
    partner[order] = np.roll(order, 1)
    return partner
