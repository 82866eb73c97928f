"""Nuclei counted in drawn tiles whose nuclei are known."""

import numpy as np
import pytest
from PIL import Image

from lib.simulated import drawing
from lib.simulated.slides import EOSIN, HAEMATOXYLIN
from lib.tiles.nuclei import _DENSITY, nuclear_density

SIZE_PX = 512


def drawn(n, seed, dark=1.0, eosin=0.5, radius=3.4):
    """A field of up to n nuclei that do not touch, on an even ground; and how many per mm²."""
    rng = np.random.default_rng(seed)
    edge = SIZE_PX * drawing.MPP
    points = drawing.thin(rng.uniform(6, edge - 6, (3 * n, 2)), 9)[:n]
    n = len(points)
    sides = radius * np.exp(rng.normal(0, 0.1, (n, 2)))
    table = np.column_stack([points, sides, rng.uniform(0, np.pi, n), np.full(n, dark)])
    h = drawing.stamp(table, SIZE_PX, rng)
    e = eosin * np.maximum(1 + 0.1 * drawing.grain(rng, SIZE_PX), 0)
    density = h[..., None] * HAEMATOXYLIN + e[..., None] * EOSIN
    return (244 * np.exp(-density)).astype(np.uint8), n / (edge / 1000) ** 2


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_nuclei_are_counted_at_every_magnification(scale):
    for n, seed in ((30, 1), (100, 2), (180, 3)):
        image, truth = drawn(n, seed)
        edge = SIZE_PX // scale
        small = np.asarray(Image.fromarray(image).resize((edge, edge), Image.Resampling.BOX))
        assert nuclear_density(small, drawing.MPP * scale) == pytest.approx(truth, rel=0.08)


def test_the_count_does_not_follow_the_stain():
    counts = [nuclear_density(*(drawn(120, 4, dark, eosin)[0], drawing.MPP)) for dark, eosin in STAINS]
    assert max(counts) <= 1.1 * min(counts)


STAINS = [(1.0, 0.5), (0.6, 0.5), (1.4, 0.5), (1.0, 0.2), (1.0, 1.0)]


def test_even_and_empty_tiles_have_none():
    for colour in ((255, 255, 255), (0, 0, 0), (200, 120, 180)):
        assert nuclear_density(np.full((64, 64, 3), colour, np.uint8), 1.0) == 0


def test_where_nuclei_cannot_be_told_apart_nothing_is_said():
    assert np.isnan(nuclear_density(np.zeros((64, 64, 3), np.uint8), 4.0))


def test_haematoxylin_is_that_of_scikit_image():
    from skimage.color import rgb2hed

    tile = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    ours = sum(_DENSITY[tile[..., k], k] for k in range(3))
    np.testing.assert_allclose(np.maximum(ours, 0), rgb2hed(tile)[..., 0], atol=1e-6)
