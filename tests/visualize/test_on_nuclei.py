"""Stain and gradient on nuclei: planted stain is found there, and what cannot be measured says why."""

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.color import hed2rgb

from lib.network import models
from lib.visualize import on_nuclei

PX = 256


def stained(on_nuclei_too: bool, seed: int = 0) -> np.ndarray:
    """An image with haematoxylin discs; DAB on the discs' rims or anywhere else."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:PX, :PX]
    nuclei = np.zeros((PX, PX), bool)
    for cy, cx in rng.integers(10, PX - 10, (60, 2)):
        nuclei |= (y - cy) ** 2 + (x - cx) ** 2 < 36
    hed = np.zeros((PX, PX, 3))
    hed[..., 0] = 0.02 + 0.12 * nuclei
    brown = nuclei if on_nuclei_too else ~nuclei & (rng.random((PX, PX)) < 0.5)
    hed[..., 2] = 0.03 * brown
    return np.round(hed2rgb(hed) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return models.build("alexnet", 2, input_px=64).eval()


def tiles(seed=0):
    image = stained(True, seed)
    return [image[i : i + 64, j : j + 64] for i in range(0, PX, 64) for j in range(0, PX, 64)]


def test_compare_measures_stain_and_gradient(model):
    pairs_df = pd.DataFrame({"gene": ["g1", "g2"], "symbol": ["A", "B"], "feature": ["3_5", "3_6"]})
    images = {"g1": stained(True), "g2": stained(False)}
    top = {"3_5": tiles(), "3_6": tiles()}
    found_df = on_nuclei.compare(model, "alexnet", pairs_df, images, top, mpp=0.5)
    assert list(found_df.columns) == on_nuclei.COLUMNS
    assert found_df[["gene", "map"]].to_numpy().tolist() == [
        *(["g1", "DAB stain"], ["g1", "gradient"], ["g2", "DAB stain"], ["g2", "gradient"])
    ]
    stain_df = found_df[found_df["map"] == "DAB stain"].set_index("gene")
    assert stain_df.loc["g1", "share"] > 2 * stain_df.loc["g1", "null_mean"]
    assert stain_df.loc["g1", "p_more"] < 0.01
    assert stain_df.loc["g2", "share"] < stain_df.loc["g2", "null_mean"]
    assert stain_df.loc["g2", "p_less"] < 0.01
    assert found_df.loc[found_df["map"] == "gradient", "n_tiles"].tolist() == [16, 16]
    assert (found_df["remark"] == "").all()


def test_a_blank_image_keeps_its_row_and_the_reason(model):
    pairs_df = pd.DataFrame({"gene": ["g1"], "symbol": ["A"], "feature": ["3_5"]})
    blank = {"g1": np.full((PX, PX, 3), 255, np.uint8)}
    found_df = on_nuclei.compare(model, "alexnet", pairs_df, blank, {"3_5": tiles()}, mpp=0.5)
    assert "no haematoxylin contrast" in found_df.loc[0, "remark"]
    assert np.isnan(found_df.loc[0, "share"])
    assert found_df.loc[1, "share"] > 0
    (row,) = on_nuclei.stain_rows(blank)
    assert not row["nuclei"].any()


def test_a_gradient_is_looked_at_on_tissue_only(model, monkeypatch):
    cut = [tile.copy() for tile in tiles()[:3]]
    cut[1][:, 32:] = 255
    asked = []
    monkeypatch.setattr(on_nuclei.immunostain, "overlap", lambda *args, **kwargs: asked.append(args))
    on_nuclei.gradient_on_nuclei(model, "alexnet", "3_5", cut, mpp=0.5)
    (_, _, tissue) = asked[0]
    assert tissue[[0, 2]].all()
    assert not tissue[1][:, 32:].any()
    assert tissue[1][:, :26].all()


def test_without_images_there_is_nothing_to_compare(model):
    pairs_df = pd.DataFrame({"gene": ["g1"], "symbol": ["A"], "feature": ["3_5"]})
    found_df = on_nuclei.compare(model, "alexnet", pairs_df, {}, {}, mpp=0.5)
    assert found_df.empty
    assert list(found_df.columns) == on_nuclei.COLUMNS


def test_stain_rows_are_thinned_for_the_figure():
    (row,) = on_nuclei.stain_rows({"A": np.tile(stained(True), (4, 5, 1))}, longest_px=600)
    assert max(row["image"].shape[:2]) <= 600
    assert row["image"].shape[:2] == row["dab"].shape == row["nuclei"].shape
    assert row["title"] == "A"
    assert row["nuclei"].any()
