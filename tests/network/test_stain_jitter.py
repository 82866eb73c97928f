"""Stains of training tiles changed at random: against scikit-image, by distribution, and where it applies."""

import numpy as np
import pytest
import torch
from scipy import stats
from skimage import color
from training_factory import fit, same_weights, small_model, textured_tiles

from lib.network import stain_jitter
from lib.network.recipe import Recipe


@pytest.fixture(scope="module")
def tiles():
    """Twelve tiles of haematoxylin and eosin, 8 px wide, and the stains in them (scikit-image's amounts)."""
    rng = np.random.default_rng(0)
    amounts = rng.uniform((0.02, 0.02, 0.005), (0.10, 0.06, 0.01), (12, 8, 8, 3))
    rgb = np.stack([color.hed2rgb(tile) for tile in amounts])
    return (255 * rgb).round().astype(np.uint8), amounts


def jittered(rgb, drawn):
    return stain_jitter.jitter(torch.from_numpy(rgb), drawn).numpy()


def test_the_stains_are_those_of_scikit_image():
    np.testing.assert_allclose(stain_jitter.RGB_OF_STAINS, color.rgb_from_hed)


def test_a_tile_is_what_scikit_image_makes_of_its_changed_stains(tiles):
    rgb, amounts = tiles
    drawn = stain_jitter.draws(len(rgb), 0.1, seed=1, epoch=1)
    drawn[:, 1] = np.abs(drawn[:, 1]) / 5  # scikit-image clips negative amounts
    found = jittered(rgb, drawn)
    assert found.dtype == np.uint8
    for tile, changed, (factor, shift) in zip(found, amounts, drawn, strict=True):
        expected = 255 * color.hed2rgb(changed * factor + shift / 6)  # its unit is six decades of light
        assert np.abs(tile - expected).max() <= 1.6, "half a level of rounding, before and after"
    assert (found != rgb).any(axis=(1, 2, 3)).all()


def test_without_change_no_pixel_changes():
    rgb = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    drawn = np.stack([np.ones((5, 3)), np.zeros((5, 3))], axis=1).astype(np.float32)
    np.testing.assert_array_equal(jittered(rgb, drawn), rgb)


def test_draws_are_uniform_and_independent():
    sigma, n = 0.2, 4000
    drawn = stain_jitter.draws(n, sigma, seed=0, epoch=3)
    assert drawn.shape == (n, 2, 3)
    for part, centre in enumerate((1, 0)):
        for stain in range(3):
            uniform = stats.uniform(centre - sigma, 2 * sigma)
            assert stats.kstest(drawn[:, part, stain], uniform.cdf).pvalue > 1e-3
    r = np.corrcoef(drawn.reshape(n, 6).T) - np.eye(6)
    assert np.abs(r).max() < 0.06


def test_haematoxylin_and_eosin_of_the_tiles_follow_the_draws(tiles):
    rgb = np.repeat(tiles[0][:1], 300, axis=0)
    sigma = 0.15
    drawn = stain_jitter.draws(len(rgb), sigma, seed=2, epoch=1)
    drawn[:, 1] = 0
    before = color.rgb2hed(rgb[0]).mean(axis=(0, 1))
    after = np.stack([color.rgb2hed(tile).mean(axis=(0, 1)) for tile in jittered(rgb, drawn)])
    for stain in (0, 1):
        ratio = after[:, stain] / before[stain]
        np.testing.assert_allclose(ratio, drawn[:, 0, stain], atol=0.02)
        assert stats.kstest(ratio, stats.uniform(1 - sigma, 2 * sigma).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(after[:, 0], after[:, 1])[0, 1]) < 0.2


def test_draws_depend_on_row_seed_and_epoch_alone(tiles):
    drawn = stain_jitter.draws(12, 0.1, seed=4, epoch=2)
    np.testing.assert_array_equal(drawn, stain_jitter.draws(12, 0.1, seed=4, epoch=2))
    for seed, epoch in ((5, 2), (4, 3)):
        assert (drawn != stain_jitter.draws(12, 0.1, seed=seed, epoch=epoch)).mean() > 0.99
    assert len(np.unique(drawn[:, 0, 0])) == 12
    whole, rows = jittered(tiles[0], drawn), [7, 2, 9]
    np.testing.assert_array_equal(jittered(tiles[0][rows], drawn[rows]), whole[rows])


def test_only_training_tiles_are_changed(tmp_path):
    """At a learning rate of 0 the network stays as it is, so the losses tell which tiles it saw."""
    splits = textured_tiles(tmp_path)
    settings = {"learning_rate": 0, "epochs": 1, "weight_decay": 0}
    plain_df = fit(small_model(), splits, tmp_path / "plain", **settings)
    changed_df = fit(small_model(), splits, tmp_path / "changed", stain_jitter=0.2, **settings)
    assert changed_df["validation_loss"].tolist() == plain_df["validation_loss"].tolist()
    assert abs(changed_df["train_loss"][0] - plain_df["train_loss"][0]) > 1e-4


def test_a_run_without_it_is_the_run_from_before_there_was_one(tmp_path):
    """Its record does not name it, so that such a run continues, and no other draw of an epoch changes."""
    assert "stain_jitter" not in Recipe().recorded()
    assert Recipe(stain_jitter=0.05).recorded()["stain_jitter"] == 0.05
    splits = textured_tiles(tmp_path)
    nothing, little, much = (small_model(dropout=0.5) for _ in range(3))
    fit(nothing, splits, tmp_path / "nothing")
    fit(little, splits, tmp_path / "little", stain_jitter=1e-9)  # draws, but changes no pixel
    fit(much, splits, tmp_path / "much", stain_jitter=0.2)
    assert same_weights(nothing, little)
    assert not same_weights(nothing, much)
