"""Colour and texture against the pixels of small stacks."""

import numpy as np
import pandas as pd
import pytest

from lib.tiles import plain_features


def test_colours_are_those_of_the_pixels(tmp_path):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "s.npy", stack)
    tiles_df = pd.DataFrame(
        {"file": str(tmp_path / "s.npy"), "stack_index": [0, 1, 2], "sample_id": ["a", "a", "b"]}
    )
    colour_df = plain_features.plain_features(tiles_df, progress=False)
    assert colour_df.shape == (20, 2)
    assert colour_df.loc["green_mean", "b"] == pytest.approx(stack[2, ..., 1].mean() / 255)
    assert colour_df.loc["red_sd", "a"] == pytest.approx(
        np.mean([stack[i, ..., 0].std() / 255 for i in (0, 1)])
    )


def test_texture_tells_stripes_from_noise_and_flat(tmp_path):
    rng = np.random.default_rng(1)
    flat = np.full((32, 32, 3), (150, 90, 160), np.uint8)
    stripes, noise = flat.copy(), flat.copy()
    stripes[:, ::2] = (230, 200, 225)
    noise[rng.uniform(size=(32, 32)) < 0.5] = (230, 200, 225)
    np.save(tmp_path / "s.npy", np.stack([flat, stripes, noise]))
    file = str(tmp_path / "s.npy")
    tiles_df = pd.DataFrame(
        {"file": file, "stack_index": [0, 1, 2], "sample_id": ["flat", "stripes", "noise"]}
    )
    df = plain_features.plain_features(tiles_df, progress=False)
    assert df.loc["haematoxylin_contrast", "flat"] == 0
    assert df.loc["haematoxylin_energy", "flat"] == pytest.approx(1)
    assert df.loc["haematoxylin_contrast", "noise"] > 1
    assert df.loc["haematoxylin_energy", "stripes"] > df.loc["haematoxylin_energy", "noise"]
    means = df.loc["haematoxylin_mean"]
    assert means["stripes"] == pytest.approx(means["noise"], rel=0.1)
