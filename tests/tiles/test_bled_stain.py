"""Stain that bled onto glass, on drawn truth and on real slides."""

import io

import numpy as np
import pytest
from PIL import Image
from real_data import MIRROR
from scipy import ndimage
from tiles.test_tile_quality import MASK_MPP, flat_share, judged_section, reduced, shares, spec

from lib.simulated import slides as drawn
from lib.simulated.drawing import enlarge, noise
from lib.simulated.tissues import TISSUES
from lib.tiles import bled_stain, tissue_mask
from lib.tiles.tile_quality import Limits

real = pytest.mark.skipif(not (MIRROR / "her2st").is_dir(), reason="needs the real slides (DATA_MIRROR)")
STAINS = {"eosin": drawn.EOSIN, "haematoxylin": drawn.HAEMATOXYLIN}
STAINS["both"] = (drawn.EOSIN + drawn.HAEMATOXYLIN) / 2
FACTOR = round(MASK_MPP / drawn.MPP)
TILE = 16  # px of the mask, 128 µm


def bled_over(image, stain, rng):
    """The slide with a haze of a stain that fades out, as a scanner sees it; and how coloured it is."""
    n = image.shape[0] // 8
    amount = np.clip(0.5 * noise(rng, n, n / 2) + 0.3, 0, None) * rng.uniform(0.25, 0.7)
    density = enlarge(amount.astype(np.float32), image.shape[0])[..., None] * STAINS[stain]
    scanned = image * np.exp(-density) + 2 * rng.standard_normal(image.shape, np.float32)
    file = io.BytesIO()
    Image.fromarray(scanned.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
    every = slice(FACTOR // 2, None, FACTOR)
    spread = np.ptp(density[every, every], axis=2) / np.log(10)
    return np.asarray(Image.open(file)), spread


@pytest.fixture(scope="module")
def clean_slides():
    """A slide of each tissue, wide enough to have glass around it, and its tissue."""
    found = []
    for k, tissue in enumerate(TISSUES):
        image = drawn.draw(spec(tissue, k, size_um=1600.0, coverage=0.4), np.random.default_rng(k))
        found.append((image, tissue_mask.tissue_mask(reduced(image, FACTOR), MASK_MPP)))
    return found


@pytest.mark.parametrize("stain", STAINS)
def test_bled_stain_is_found_and_tissue_is_not(stain, clean_slides):
    """Targets: precision and recall of tiles of at least 0.95, also of those that are kept as tissue."""
    found, strong, faint, kept = [], [], [], []
    for k, (clean, tissue) in enumerate(clean_slides):
        image, spread = bled_over(clean, stain, np.random.default_rng(100 + k))
        picture = reduced(image, FACTOR)
        mask = tissue_mask.tissue_mask(picture, MASK_MPP)
        bled = bled_stain.bled_mask(picture, MASK_MPP, mask)
        height, width = picture.shape[:2]
        found.append(shares(bled, TILE) > Limits().max_bleed)
        on_glass = np.where(tissue, 0, spread[:height, :width])
        strong.append(shares(on_glass > 0.03, TILE))
        faint.append(shares(on_glass > 0.015, TILE))
        kept.append(shares(mask, TILE) >= 0.5)
    found, strong, faint, kept = map(np.concatenate, (found, strong, faint, kept))
    spoilt, good = strong > 0.5, faint < 0.05
    for among in (np.ones_like(kept), kept):
        assert (spoilt & among).sum() > 100
        assert (found & spoilt & among).sum() / (spoilt & among).sum() >= 0.95
        assert (found & spoilt & among).sum() / (found & (spoilt | good) & among).sum() >= 0.95


@pytest.mark.parametrize("blur", [False, True])
def test_no_tissue_is_taken_for_bled_stain(blur):
    for k, tissue in enumerate(TISSUES):
        picture = reduced(drawn.draw(spec(tissue, k, blur=blur), np.random.default_rng(k)), FACTOR)
        mask = tissue_mask.tissue_mask(picture, MASK_MPP)
        assert bled_stain.bled_mask(picture, MASK_MPP, mask).sum() == 0, tissue


def test_a_smooth_place_inside_tissue_is_not_bled():
    """As colloid in a thyroid or serum in a vessel: as smooth and as coloured as the haze outside."""
    rng = np.random.default_rng(0)
    picture = np.full((160, 160, 3), 244, np.uint8)
    picture[30:130, 30:130] = (ndimage.gaussian_filter(rng.normal(size=(100, 100)), 1) * 80 + 170)[..., None]
    picture[30:130, 30:130, 0] += 30
    colour = np.array([238, 205, 225], np.uint8)
    inside, outside = picture.copy(), picture.copy()
    inside[55:105, 55:105] = colour
    outside[30:130, 130:158] = colour
    bled = []
    for image in (inside, outside):
        mask = tissue_mask.tissue_mask(image, MASK_MPP)
        assert mask[60:100, 40:50].mean() > 0.9
        bled.append(bled_stain.bled_mask(image, MASK_MPP, mask))
    assert not bled[0].any()
    assert bled[1][40:120, 138:150].mean() > 0.95
    assert not bled[1][:, :126].any()


def test_a_slope_has_no_roughness_and_texture_has():
    slope = np.linspace(0, 1, 64)[:, None] * np.ones((64, 64))
    assert bled_stain.roughness(slope, 8.0)[8:-8].max() < 1e-9
    checks = np.indices((64, 64)).sum(axis=0) // 2 % 2 * 0.1
    assert bled_stain.roughness(checks, 8.0).min() > 0.05


@real
@pytest.mark.parametrize("section", ["C/C3/5714_HE_BT_D1.jpg", "C/C4/5714_HE_BT_D2.jpg"])
def test_eosin_that_bled_beside_a_real_section_is_found(section, tmp_path):
    """Truth is the pixels of the kept tiles themselves: squares without a nucleus or a fibre."""
    judged_df, tiles = judged_section(section, tmp_path)
    found, flat = judged_df["flag"].to_numpy() == "bleed", flat_share(tiles)
    assert (flat > 0.6).sum() >= 10
    assert found[flat > 0.6].mean() >= 0.95
    assert found[flat < 0.1].mean() <= 0.01
