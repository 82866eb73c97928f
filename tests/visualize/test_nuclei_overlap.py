"""Stain and gradient on nuclei: planted overlaps are found, unrelated ones are not, failures give reasons."""

import numpy as np
import pandas as pd
import pytest
import torch
from stain_factory import core, painted

from lib.network import models
from lib.visualize import nuclei_overlap
from lib.visualize.card_figures import stains
from lib.visualize.feature_values import Network

PAIRS = pd.DataFrame({"gene": ["g1", "g2"], "symbol": ["A", "B"], "feature": ["3_5", "3_6"]})


@pytest.mark.parametrize(("dab_on", "more"), [("nuclei", True), ("around", False)])
def test_planted_overlap_is_distinguished_from_chance(dab_on, more):
    image, _ = painted(dab_on=dab_on)
    found = nuclei_overlap.dab_on_nuclei(image, n_null=499)
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
        tissue = np.ones(masks.shape, bool)
        p.append(nuclei_overlap.overlap(maps, masks, tissue, n_null=99, seed=seed).p_more)
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.1
    assert 0.42 <= np.mean(p) <= 0.58


@pytest.mark.parametrize("glass", [1.0, 0.92])
def test_glass_round_a_core_is_no_evidence(glass):
    """Stain and nuclei are both on tissue and both not on glass: that alone says nothing about nuclei."""
    p = [nuclei_overlap.dab_on_nuclei(core(seed, glass=glass), n_null=199).p_more for seed in range(12)]
    assert np.mean(np.array(p) <= 0.05) <= 0.17
    assert 0.3 <= np.mean(p) <= 0.8


def test_stain_on_nuclei_of_a_core_is_still_found():
    found = [nuclei_overlap.dab_on_nuclei(core(seed, bound=True), n_null=199) for seed in range(4)]
    assert max(overlap.p_more for overlap in found) == pytest.approx(1 / 200)
    assert found[0].n_tiles < 64, "corners of glass are no tiles"


def test_only_tissue_counts():
    rng = np.random.default_rng(5)
    maps, masks = rng.gamma(1.0, size=(4, 6, 6)), rng.random((4, 6, 6)) < 0.4
    tissue = np.ones(maps.shape, bool)
    tissue[0, :, 4:] = tissue[3] = False
    found = nuclei_overlap.overlap(maps, masks, tissue, n_null=4000)
    kept = tissue[:3]
    assert found.n_tiles == 3
    assert found.share == pytest.approx((maps * masks * tissue).sum() / (maps * tissue).sum(), rel=1e-5)
    # What a map holds on glass, and a mask off tissue, does not matter.
    other = nuclei_overlap.overlap(np.where(tissue, maps, 9), masks | ~tissue, tissue, n_null=4000)
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
    apart = np.zeros((2, 6, 6), bool)
    apart[0, 0, 0] = apart[1, 2:4, 2:4] = True
    with pytest.raises(ValueError, match="never falls on that of another"):
        nuclei_overlap.overlap(maps[:2], np.where(np.arange(6) == 2, apart, False), apart)


def test_share_and_null_against_a_plain_loop(monkeypatch):
    rng = np.random.default_rng(3)
    maps, masks = rng.gamma(1.0, size=(4, 6, 6)), rng.random((4, 6, 6)) < 0.4
    inputs = (maps, masks, np.ones(masks.shape, bool))
    found = nuclei_overlap.overlap(*inputs, n_null=4000)
    assert found.share == pytest.approx((maps * masks).sum() / maps.sum(), rel=1e-5)
    expected = []
    for i in range(4):
        for j in range(4):
            if i != j:
                turned = [np.rot90(m, k) for m in (masks[j], masks[j].T) for k in range(4)]
                expected.append(np.mean([(maps[i] * m).sum() for m in turned]))
    assert found.null_mean == pytest.approx(np.sum(expected) / 3 / maps.sum(), abs=4 * found.null_sd / 63)
    once, again = (nuclei_overlap.overlap(*inputs, n_null=50, seed=1) for _ in range(2))
    assert once == again
    monkeypatch.setattr(nuclei_overlap, "MAX_TILES", 3)
    assert nuclei_overlap.overlap(*inputs).n_tiles == 3


def test_everyone_meets_another():
    rng = np.random.default_rng(0)
    for n_tiles in (2, 3, 10):
        partner = nuclei_overlap._partners(n_tiles, rng)
        assert sorted(partner) == list(range(n_tiles))
        assert (partner != np.arange(n_tiles)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps, masks: (maps[:1], masks[:1]), "1 of 1 tiles have tissue"),
        (lambda maps, masks: (maps * 0, masks), "not all zero"),
        (lambda maps, masks: (-maps, masks), "non-negative"),
        (lambda maps, masks: (maps, masks & False), "cover 0% of the tissue"),
        (lambda maps, masks: (maps, masks[:2]), "must all be n_tiles x H x H"),
    ],
)
def test_bad_input_is_refused(change, message):
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[:, 0] = True
    maps, masks = change(np.ones((3, 4, 4)), masks)
    with pytest.raises(ValueError, match=message):
        nuclei_overlap.overlap(maps, masks, np.ones(maps.shape, bool))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network(models.build("alexnet", 2, input_px=64).eval(), "alexnet")


def tiles():
    image, _ = painted(256, dab_on="nuclei")
    return [image[i : i + 64, j : j + 64] for i in range(0, 256, 64) for j in range(0, 256, 64)]


def test_compare_measures_stain_and_gradient(network):
    images = {"g1": painted(256, dab_on="nuclei")[0], "g2": painted(256, dab_on="around")[0]}
    found_df = nuclei_overlap.compare(network, PAIRS, images, {"3_5": tiles(), "3_6": tiles()}, mpp=0.5)
    assert list(found_df.columns) == nuclei_overlap.COLUMNS
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


def test_a_blank_image_keeps_its_row_and_the_reason(network, tmp_path):
    blank = {"g1": np.full((256, 256, 3), 255, np.uint8)}
    found_df = nuclei_overlap.compare(network, PAIRS, blank, {"3_5": tiles()}, mpp=0.5)
    assert "no haematoxylin contrast" in found_df.loc[0, "remark"]
    assert np.isnan(found_df.loc[0, "share"])
    assert found_df.loc[1, "share"] > 0
    shown = stains(blank, {"g1": tmp_path / "A.png"})
    assert not shown.figure.axes[3].collections, "no nuclei are outlined"


def test_a_gradient_is_compared_on_tissue_only(network, monkeypatch):
    cut = [tile.copy() for tile in tiles()[:3]]
    cut[1][:, 32:] = 255
    asked = []
    monkeypatch.setattr(nuclei_overlap, "overlap", lambda *args, **kwargs: asked.append(args))
    nuclei_overlap.gradient_on_nuclei(network, "3_5", cut, mpp=0.5)
    (_, _, tissue) = asked[0]
    assert tissue[[0, 2]].all()
    assert not tissue[1][:, 32:].any()
    assert tissue[1][:, :26].all()


def test_without_images_there_is_nothing_to_compare(network):
    found_df = nuclei_overlap.compare(network, PAIRS, {}, {}, mpp=0.5)
    assert found_df.empty
    assert list(found_df.columns) == nuclei_overlap.COLUMNS


def test_stained_images_are_thinned_for_the_figure(tmp_path):
    image = np.tile(painted(256, dab_on="nuclei")[0], (4, 5, 1))
    shown = stains({"g1": image}, {"g1": tmp_path / "A.png"})
    (drawn,) = shown.figure.axes[0].images
    assert max(drawn.get_array().shape[:2]) <= 600
    assert shown.figure.axes[0].texts[0].get_text() == "A.png"
    assert shown.figure.axes[3].collections, "nuclei are outlined"
