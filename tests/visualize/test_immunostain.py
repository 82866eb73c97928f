"""Stains composed from known densities, planted and random overlaps, files of every mode."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.color import hed2rgb

from lib.visualize import immunostain


def painted(size: int = 512, *, dab_on: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A counterstained image with discs as nuclei, DAB on a ring around each, and the true nuclei.

    dab_on "nuclei" adds DAB on the discs, "around" on rings, "anywhere" on discs of their own.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]

    def discs(centres, inner, outer):
        mask = np.zeros((size, size), dtype=bool)
        for cy, cx in centres:
            distance = np.hypot(y - cy, x - cx)
            mask |= (distance >= inner) & (distance < outer)
        return mask

    # A jittered grid keeps the nuclei apart.
    grid = np.stack(np.meshgrid(*[np.arange(20, size - 10, 28)] * 2), axis=-1).reshape(-1, 2)
    centres = grid + rng.integers(-5, 6, size=grid.shape)
    centres = centres[rng.random(len(centres)) < 0.7]
    nuclei = discs(centres, 0, 6)
    dab = {
        "nuclei": lambda: nuclei,
        "around": lambda: discs(centres, 7, 10),
        "anywhere": lambda: discs(rng.integers(0, size, size=(len(centres), 2)), 0, 6),
    }[dab_on]()
    hed = np.zeros((size, size, 3))
    hed[..., 0] = 0.02 + 0.12 * nuclei
    hed[..., 2] = 0.10 * dab
    hed += rng.normal(0, 0.002, hed.shape).clip(-0.004, 0.004)
    return np.round(hed2rgb(np.clip(hed, 0, None)) * 255).astype(np.uint8), nuclei


def test_separation_recovers_composed_densities():
    rng = np.random.default_rng(1)
    hed = np.zeros((20, 30, 3))
    hed[..., 0], hed[..., 2] = rng.uniform(0, 0.12, (20, 30)), rng.uniform(0, 0.12, (20, 30))
    stains = immunostain.separate_stains(np.round(hed2rgb(hed) * 255).astype(np.uint8))
    assert stains.dab.dtype == np.float32
    assert stains.dab.shape == (20, 30)
    assert np.corrcoef(stains.dab.ravel(), hed[..., 2].ravel())[0, 1] > 0.99
    assert np.corrcoef(stains.haematoxylin.ravel(), hed[..., 0].ravel())[0, 1] > 0.99
    assert abs(np.corrcoef(stains.dab.ravel(), hed[..., 0].ravel())[0, 1]) < 0.2


def test_nuclei_are_found_and_specks_are_not():
    image, nuclei = painted(256, dab_on="around")
    found = immunostain.nuclei_mask(image, mpp=0.5)
    assert 2 * (found & nuclei).sum() / (found.sum() + nuclei.sum()) > 0.85
    assert not immunostain.nuclei_mask(image, mpp=0.5, min_area_um2=1000).any()


@pytest.mark.parametrize(("dab_on", "more"), [("nuclei", True), ("around", False)])
def test_planted_overlap_is_told_from_chance(dab_on, more):
    image, _ = painted(dab_on=dab_on)
    found = immunostain.dab_on_nuclei(image, tile_px=64, n_null=499)
    assert found.n_tiles == 64
    small, large = (found.p_more, found.p_less) if more else (found.p_less, found.p_more)
    assert small == pytest.approx(1 / 500)
    assert large > 0.9
    assert (found.share > found.null_mean) is more
    assert (found.z > 5) if more else (found.z < -5)


def test_p_is_calibrated_when_map_and_mask_are_unrelated():
    rng = np.random.default_rng(7)
    p = []
    for seed in range(200):
        maps, masks = rng.gamma(1.0, size=(9, 8, 8)), rng.random((9, 8, 8)) < 0.3
        p.append(immunostain.overlap(maps, masks, n_null=99, seed=seed).p_more)
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.1
    assert 0.42 <= np.mean(p) <= 0.58


def core(seed: int, *, glass: float = 1.0, bound: bool = False, size: int = 512) -> np.ndarray:
    """A core of nuclei at random on glass of this brightness; DAB in it is smooth noise, or on nuclei."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    inside = np.hypot(y - size / 2, x - size / 2) < 0.48 * size
    nuclei = np.zeros((size, size))
    for cy, cx in rng.integers(0, size, (900, 2)):
        nuclei[max(0, cy - 4) : cy + 4, max(0, cx - 4) : cx + 4] = 1
    nuclei = ndimage.gaussian_filter(nuclei, 1) * inside
    noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), 4)
    dab = np.clip(noise / noise.std() * 0.03 + 0.06, 0, None) * inside + 0.01 * bound * nuclei
    hed = np.stack([0.12 * nuclei + 0.005 * inside, 0 * dab, dab], axis=-1)
    light = glass * np.clip(hed2rgb(hed), 0, 1) * 255 + rng.normal(0, 1, (size, size, 3))
    return np.clip(light, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("glass", [1.0, 0.92])
def test_glass_round_a_core_is_no_evidence(glass):
    """Stain and nuclei are both on tissue and both not on glass: that alone says nothing of nuclei."""
    p = [immunostain.dab_on_nuclei(core(seed, glass=glass), n_null=199).p_more for seed in range(12)]
    assert np.mean(np.array(p) <= 0.05) <= 0.17
    assert 0.3 <= np.mean(p) <= 0.8


def test_stain_on_nuclei_of_a_core_is_still_found():
    found = [immunostain.dab_on_nuclei(core(seed, bound=True), n_null=199) for seed in range(4)]
    assert max(overlap.p_more for overlap in found) == pytest.approx(1 / 200)
    assert found[0].n_tiles < 64, "corners of glass are no tiles"


def test_glass_is_told_from_tissue_and_from_gaps_in_it():
    image = core(0)
    size = len(image)
    y, x = np.mgrid[:size, :size]
    inside = np.hypot(y - size / 2, x - size / 2) < 0.48 * size
    image[250:260, 250:260] = 255  # a gap of 10 px
    found = immunostain.tissue_pixels(image)
    assert (found != inside).mean() < 0.03
    assert not found[~inside].any(), "glass under the edge's blur is glass"
    assert found[250:260, 250:260].all()
    assert immunostain.tissue_pixels(painted(128, dab_on="nuclei")[0]).all()
    assert not immunostain.tissue_pixels(np.full((40, 40, 3), 240, np.uint8)).any()


def test_only_tissue_counts():
    rng = np.random.default_rng(5)
    maps, masks = rng.gamma(1.0, size=(4, 6, 6)), rng.random((4, 6, 6)) < 0.4
    tissue = np.ones(maps.shape, bool)
    tissue[0, :, 4:] = tissue[3] = False
    found = immunostain.overlap(maps, masks, tissue, n_null=4000)
    kept = tissue[:3]
    assert found.n_tiles == 3
    assert found.share == pytest.approx((maps * masks * tissue).sum() / (maps * tissue).sum(), rel=1e-5)
    # What a map holds on glass, and a mask off tissue, does not matter.
    other = immunostain.overlap(np.where(tissue, maps, 9), masks | ~tissue, tissue, n_null=4000)
    assert other == found
    null = []
    for _ in range(4000):
        above = below = 0.0
        shift = rng.integers(1, 3)  # the two cycles of three
        for i in range(3):
            j = (i + shift) % 3
            k, flip = rng.integers(4), rng.integers(2)
            mask, there = (np.rot90(a[j], k).T if flip else np.rot90(a[j], k) for a in (masks, kept))
            above += (maps[i] * mask * there * kept[i]).sum()
            below += (maps[i] * there * kept[i]).sum()
        null.append(above / below)
    assert found.null_mean == pytest.approx(np.mean(null), abs=5 * found.null_sd / 63)
    with pytest.raises(ValueError, match="1 tile with tissue, of 4, leaves no other"):
        immunostain.overlap(maps, masks, tissue & (np.arange(4) == 0)[:, None, None])
    with pytest.raises(ValueError, match="tissue is of shape"):
        immunostain.overlap(maps, masks, tissue[:2])
    apart = np.zeros((2, 6, 6), bool)
    apart[0, 0, 0] = apart[1, 2:4, 2:4] = True
    with pytest.raises(ValueError, match="never falls on that of another"):
        immunostain.overlap(maps[:2], np.where(np.arange(6) == 2, apart, False), apart)


def test_share_and_null_against_a_plain_loop():
    rng = np.random.default_rng(3)
    maps, masks = rng.gamma(1.0, size=(4, 6, 6)), rng.random((4, 6, 6)) < 0.4
    found = immunostain.overlap(maps, masks, n_null=4000)
    assert found.share == pytest.approx((maps * masks).sum() / maps.sum(), rel=1e-5)
    expected = []
    for i in range(4):
        for j in range(4):
            if i != j:
                turned = [np.rot90(m, k) for m in (masks[j], masks[j].T) for k in range(4)]
                expected.append(np.mean([(maps[i] * m).sum() for m in turned]))
    assert found.null_mean == pytest.approx(np.sum(expected) / 3 / maps.sum(), abs=4 * found.null_sd / 63)
    assert immunostain.overlap(maps, masks, n_null=50, seed=1) == immunostain.overlap(
        maps, masks, n_null=50, seed=1
    )
    assert immunostain.overlap(maps, masks, max_tiles=3).n_tiles == 3


def test_everyone_meets_another():
    rng = np.random.default_rng(0)
    for n_tiles in (2, 3, 10):
        partner = immunostain._partners(n_tiles, rng)
        assert sorted(partner) == list(range(n_tiles))
        assert (partner != np.arange(n_tiles)).all()


def test_tiles_are_cut_in_reading_order():
    image = np.arange(5 * 7 * 3).reshape(5, 7, 3)
    tiles = immunostain.cut_tiles(image, 2)
    assert tiles.shape == (6, 2, 2, 3)
    np.testing.assert_array_equal(tiles[4], image[2:4, 2:4])


def test_images_of_every_mode_are_read_as_rgb(tmp_path):
    rgba = np.zeros((4, 5, 4), dtype=np.uint8)
    rgba[:2] = (10, 20, 30, 255)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "GENE.png")
    image = immunostain.read_image(tmp_path / "GENE.png")
    assert image.shape == (4, 5, 3)
    assert image[0, 0].tolist() == [10, 20, 30]
    assert image[3, 0].tolist() == [255, 255, 255]
    Image.fromarray(np.full((4, 5), 7, dtype=np.uint8)).save(tmp_path / "grey.tif")
    assert immunostain.read_image(tmp_path / "grey.tif")[0, 0].tolist() == [7, 7, 7]
    with pytest.raises(FileNotFoundError, match="no immunohistochemistry image at"):
        immunostain.read_image(tmp_path / "missing.jpg")


def test_bad_input_is_refused():
    maps, masks = np.ones((3, 4, 4)), np.zeros((3, 4, 4), dtype=bool)
    masks[:, 0] = True
    with pytest.raises(ValueError, match="uint8 H x W x 3"):
        immunostain.separate_stains(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="no haematoxylin contrast"):
        immunostain.nuclei_mask(np.full((30, 30, 3), 255, dtype=np.uint8))
    with pytest.raises(ValueError, match="mpp is 0"):
        immunostain.nuclei_mask(np.full((30, 30, 3), 255, dtype=np.uint8), mpp=0)
    with pytest.raises(ValueError, match="holds no tile of 64 px"):
        immunostain.cut_tiles(np.zeros((50, 80, 3)), 64)
    with pytest.raises(ValueError, match="1 tile leaves no other"):
        immunostain.overlap(maps[:1], masks[:1])
    with pytest.raises(ValueError, match="not all zero"):
        immunostain.overlap(maps * 0, masks)
    with pytest.raises(ValueError, match="non-negative"):
        immunostain.overlap(-maps, masks)
    with pytest.raises(ValueError, match="cover 0% of all pixels"):
        immunostain.overlap(maps, masks & False)
    with pytest.raises(ValueError, match="alike"):
        immunostain.overlap(maps, masks[:2])
    with pytest.raises(ValueError, match="n_null is 0"):
        immunostain.overlap(maps, masks, n_null=0)
