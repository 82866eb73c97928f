"""The tissue mask on drawn slides at 8 µm/px, and tissue fractions against counting."""

import numpy as np
import pytest
from scipy import ndimage

from lib.tiles import tissue_mask

MPP = 8.0
GLASS, PINK, PALE, PURPLE = (243, 243, 244), (220, 140, 185), (236, 218, 231), (130, 85, 160)


def flat(colour, height=200, width=200, noise=1.5, seed=0):
    rng = np.random.default_rng(seed)
    return (np.array(colour) + rng.normal(scale=noise, size=(height, width, 3))).clip(0, 255).astype(np.uint8)


def with_tissue(where, colour=PINK, ground=GLASS, noise=12.0):
    """Glass with noisy tissue where the bool array says."""
    rgb = flat(ground, *where.shape)
    rgb[where] = flat(colour, *where.shape, noise=noise, seed=1)[where]
    return rgb


def disc(radius, centre=(100, 100), shape=(200, 200)):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    "colour", [GLASS, (255, 255, 255), (225, 222, 224), (240, 232, 238), (200, 200, 200)]
)
@pytest.mark.parametrize("noise", [0, 3])
def test_an_empty_slide_has_no_tissue(colour, noise):
    assert not tissue_mask.tissue_mask(flat(colour, noise=noise), MPP).any()


def test_vignetting_is_not_tissue():
    shade = np.linspace(1, 0.75, 200)[None, :, None]
    assert not tissue_mask.tissue_mask((flat(GLASS) * shade).astype(np.uint8), MPP).any()


@pytest.mark.parametrize("colour", [PINK, PURPLE, (235, 200, 220)])
@pytest.mark.parametrize("noise", [0, 15])
def test_a_full_slide_is_not_split(colour, noise):
    assert tissue_mask.tissue_mask(flat(colour, noise=noise), MPP).mean() > 0.99


def test_two_stains_side_by_side_are_both_tissue():
    rgb = flat(PURPLE, noise=10)
    rgb[:, 100:] = flat(PALE, 200, 100, noise=8, seed=2)
    assert tissue_mask.tissue_mask(rgb, MPP).mean() > 0.98


@pytest.mark.parametrize("colour", [PINK, PURPLE, PALE])
def test_the_outline_of_a_piece_of_tissue(colour):
    where = disc(60)
    assert overlap(tissue_mask.tissue_mask(with_tissue(where, colour, noise=8), MPP), where) > 0.95


def test_the_edge_of_the_picture_does_not_attract_tissue():
    where = np.zeros((200, 200), bool)
    where[4:196, 4:196] = True  # 32 µm from the edge
    assert overlap(tissue_mask.tissue_mask(with_tissue(where), MPP), where) > 0.98


def test_dirty_glass_is_measured_not_assumed():
    where = disc(60)
    assert overlap(tissue_mask.tissue_mask(with_tissue(where, ground=(226, 215, 223)), MPP), where) > 0.95


@pytest.mark.parametrize(
    "ink", [(40, 60, 170), (15, 20, 120), (30, 130, 70), (20, 20, 25), (215, 30, 40), (40, 150, 190)]
)
def test_ink_is_not_tissue(ink):
    where = disc(50)
    ring = disc(85) & ~disc(78)
    stroke = np.zeros_like(where)
    stroke[90:100, 60:140] = True  # over the tissue itself
    rgb = with_tissue(where)
    rgb[ring | stroke] = flat(ink, noise=5)[ring | stroke]
    rgb = ndimage.uniform_filter(rgb, (2, 2, 1))  # strokes have soft edges
    mask = tissue_mask.tissue_mask(rgb, MPP)
    assert not mask[ring].any()
    assert not mask[disc(76) & ~disc(60)].any()
    assert not mask[stroke & disc(45)].any()
    far = disc(44) & ~ndimage.binary_dilation(stroke, iterations=8)
    assert mask[far].mean() > 0.98


def fat(torn: float):
    """Vacuoles 80 to 100 µm wide, walls of one faint pixel, a share `torn` of the wall missing."""
    rng = np.random.default_rng(3)
    centres = np.stack(np.meshgrid(np.arange(0, 210, 11), np.arange(0, 210, 11)), -1).reshape(-1, 2)
    centres = centres + rng.uniform(-2, 2, centres.shape)
    y, x = np.mgrid[:200, :200]
    distance = np.hypot(y[..., None] - centres[:, 0], x[..., None] - centres[:, 1])
    nearest = np.sort(distance, axis=-1)
    wall = (nearest[..., 1] - nearest[..., 0] < 1.2) & (rng.uniform(size=(200, 200)) > torn)
    return with_tissue(disc(80) & wall, (232, 205, 224), noise=4)


@pytest.mark.parametrize("torn", [0, 0.2])
def test_fat_counts_as_tissue(torn):
    rgb = fat(torn)
    mask = tissue_mask.tissue_mask(rgb, MPP)
    assert mask[disc(70)].mean() > 0.98  # cells that are cut by the outline are open to the glass
    assert mask[~disc(86)].mean() < 0.01


def test_holes_are_filled_up_to_a_size_only(monkeypatch):
    vessel, lumen = disc(15), disc(50)  # 45,000 µm² and 500,000 µm²
    assert tissue_mask.tissue_mask(with_tissue(disc(80) & ~vessel), MPP)[vessel].all()
    assert tissue_mask.tissue_mask(with_tissue(disc(80) & ~lumen), MPP)[disc(44)].mean() < 0.01
    monkeypatch.setattr(tissue_mask, "HOLE_UM2", 1e6)
    assert tissue_mask.tissue_mask(with_tissue(disc(80) & ~lumen), MPP)[lumen].all()


def test_specks_are_dropped_and_a_small_piece_is_kept(monkeypatch):
    specks = np.zeros((200, 200), bool)
    specks[10:190:20, 10:190:20] = True
    specks[11:190:20, 10:190:20] = True
    assert not tissue_mask.tissue_mask(with_tissue(specks), MPP).any()
    piece = disc(12)  # 29,000 µm²
    assert overlap(tissue_mask.tissue_mask(with_tissue(piece), MPP), piece) > 0.8
    monkeypatch.setattr(tissue_mask, "PIECE_UM2", 50_000)
    assert not tissue_mask.tissue_mask(with_tissue(piece), MPP).any()


def test_stain_that_bled_onto_the_glass_is_not_tissue():
    distance = ndimage.distance_transform_edt(~disc(50))
    halo = np.exp(-distance / 25)[..., None] * (np.array(GLASS) - (236, 208, 228))
    rgb = (flat(GLASS, noise=1) - halo).clip(0, 255).astype(np.uint8)
    rgb[disc(50)] = flat(PINK, noise=15, seed=1)[disc(50)]
    mask = tissue_mask.tissue_mask(rgb, MPP)
    assert mask[disc(50)].mean() > 0.98
    assert mask[~disc(60)].mean() < 0.01


def test_one_pixel_and_black():
    assert tissue_mask.tissue_mask(flat(GLASS, 1, 1), MPP).shape == (1, 1)
    assert tissue_mask.tissue_mask(flat((0, 0, 0), 50, 50, noise=0), MPP).sum() == 0


def test_fraction_against_counting_subpixels():
    rng = np.random.default_rng(0)
    mask = rng.uniform(size=(30, 40)) < 0.4
    # One mask pixel is 2.5 level-0 px, so on a grid of half a level-0 px everything is whole.
    fine = mask.repeat(5, axis=0).repeat(5, axis=1)
    x, y = rng.integers(0, 70, 50), rng.integers(0, 50, 50)
    width, height = rng.integers(1, 25, 50), rng.integers(1, 20, 50)
    got = tissue_mask.tissue_fraction(mask, 2.5, x, y, width, height)
    for i in range(50):
        box = fine[2 * y[i] : 2 * (y[i] + height[i]), 2 * x[i] : 2 * (x[i] + width[i])]
        assert got[i] == pytest.approx(box.mean(), abs=1e-9)


def test_fraction_outside_the_mask_is_no_tissue():
    full, x, y, edge = np.ones((10, 10), bool), *np.array([[0, -20, 30, 100], [0, 0, 30, 0], [20] * 4])
    got = tissue_mask.tissue_fraction(full, 4.0, x, y, edge, edge)
    np.testing.assert_allclose(got, [1, 0, 0.25, 0])
