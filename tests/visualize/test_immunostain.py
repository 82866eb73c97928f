"""Stains composed from known densities, nuclei and glass, files of every mode."""

import numpy as np
import pytest
from PIL import Image
from skimage.color import hed2rgb
from stain_factory import core, painted

from lib.visualize import immunostain


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
    assert not immunostain.nuclei_mask(image, mpp=0.1).any(), "discs of 1.2 µm are specks"


def test_glass_is_distinguished_from_tissue_and_from_gaps_in_it():
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
    blank = np.full((30, 30, 3), 255, dtype=np.uint8)
    with pytest.raises(ValueError, match="uint8 H x W x 3"):
        immunostain.separate_stains(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="no haematoxylin contrast"):
        immunostain.nuclei_mask(blank)
    with pytest.raises(ValueError, match="mpp is 0"):
        immunostain.nuclei_mask(blank, mpp=0)
    with pytest.raises(ValueError, match="holds no tile of 64 px"):
        immunostain.cut_tiles(np.zeros((50, 80, 3)), 64)
