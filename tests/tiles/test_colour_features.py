"""Colour features against the pixels of small stacks."""

import numpy as np
import pandas as pd
import pytest

from lib.tiles import colour_features


def test_colour_features_against_pixels(tmp_path):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "s.npy", stack)
    tiles_df = pd.DataFrame(
        {"file": str(tmp_path / "s.npy"), "stack_index": [0, 1, 2], "sample_id": ["a", "a", "b"]}
    )
    colour_df = colour_features.colour_features(tiles_df)
    assert colour_df.shape == (12, 2)
    assert colour_df.loc["green_mean", "b"] == pytest.approx(stack[2, ..., 1].mean() / 255)
    assert colour_df.loc["red_sd", "a"] == pytest.approx(
        np.mean([stack[i, ..., 0].std() / 255 for i in (0, 1)])
    )
