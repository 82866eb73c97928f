"""Cards: every picture is what its row says, and no pair gives no card rather than an error."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib.network import models
from lib.visualize import attribution, pair_cards

PX = 64


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Six donors, two tissues, three tiles each, in stacks; an untrained AlexNet; values of two features."""
    folder = tmp_path_factory.mktemp("stacks")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        stack = rng.integers(0, 256, (3, PX, PX, 3), dtype=np.uint8)
        np.save(folder / f"S{i}.npy", stack)
        for k in range(3):
            rows.append(
                (
                    f"S{i}_{k}_0",
                    f"S{i}",
                    f"S{i}",
                    f"D{i}",
                    ["liver", "lung"][i % 2],
                    folder / f"S{i}.npy",
                    k,
                    k,
                    0,
                )
            )
    names = ["tile_id", "sample_id", "slide_id", "donor", "tissue", "file", "stack_index", "column", "row"]
    tiles_df = pd.DataFrame(rows, columns=names)
    torch.manual_seed(0)
    model = models.build("alexnet", 2, input_px=PX).eval()
    files = {f"S{i}": folder / f"S{i}.npy" for i in range(6)}
    values_df = attribution.tile_values(model, "alexnet", ["3_5", "6_7"], tiles_df, files, progress=False)
    return model, tiles_df, values_df, files


def made(cohort, n=2):
    model, tiles_df, values_df, _ = cohort
    chosen_df = pd.DataFrame({"gene": ["g1", "g2"], "symbol": ["A", "B"], "feature": ["3_5", "6_7"]})
    chosen_df = chosen_df.assign(tissue="liver", tile_tissue="liver", r=0.8, r_partial=0.4, p_free=0.001)
    chosen_df = chosen_df.assign(p_within_tissue=np.nan, q_within_tissue=[0.01, 0.9])
    chosen_df = chosen_df.assign(finding=["found within tissues", "not found within tissues"]).head(n)
    cover_df = tiles_df.iloc[[0, 6]].assign(feature=["3_5", "6_7"], value=1.0, quantile=1.0).head(n)
    how = {"n_strip": 3, "n_steps": 2, "seeds": (4, 5), "progress": False}
    return pair_cards.make_cards(model, "alexnet", chosen_df, cover_df, values_df, tiles_df, **how)


def test_every_picture_is_what_its_row_says(cohort):
    model, tiles_df, values_df, files = cohort
    cards_df, shown_df, _, pictures = made(cohort)
    assert len(shown_df) == len(pictures) == 2 * (1 + 1 + 3 + 2)
    assert pictures.dtype == np.uint8
    assert list(cards_df["method"]) == ["guided backpropagation"] * 2
    for row in shown_df.itertuples():
        if row.kind in ("tile", "low to high"):
            place = tiles_df.set_index("tile_id").loc[row.tile_id]
            np.testing.assert_array_equal(pictures[row.Index], np.load(place["file"])[place["stack_index"]])
            assert place["tissue"] == "liver"
        if row.kind == "low to high":
            assert row.value == pytest.approx(values_df.loc[row.tile_id, row.feature])
    strip_df = shown_df[(shown_df["kind"] == "low to high") & (shown_df["card"] == 0)]
    assert strip_df["value"].is_monotonic_increasing
    assert strip_df["donor"].is_unique
    gradient = attribution.guided_backpropagation(model, "alexnet", "6_7", np.load(files["S2"])[0])
    (shown,) = pair_cards.pictures_of(shown_df, pictures, 1, "gradient")
    np.testing.assert_array_equal(shown, attribution.to_picture(gradient))


def test_synthetic_images_stand_with_their_feature_and_seed(cohort):
    model, tiles_df, *_ = cohort
    _, shown_df, curves_df, pictures = made(cohort)
    synthetic_df = shown_df[shown_df["kind"] == "synthetic"]
    assert synthetic_df[["feature", "seed", "order"]].to_numpy().tolist() == [
        *(["3_5", 4, 1], ["3_5", 5, 2], ["6_7", 4, 1], ["6_7", 5, 2])
    ]
    alone, _ = pair_cards.synthetic_images(model, "alexnet", ["6_7"], tiles_df, 2, (5,), progress=False)
    together = pictures[synthetic_df.index[3]].astype(int)
    assert np.abs(alone[0].astype(int) - together).max() <= 2, (
        "a feature's image does not depend on its company"
    )
    assert set(curves_df["image"]) == {0, 1, 2, 3}


def test_many_features_are_made_a_few_at_a_time(cohort, monkeypatch):
    model, tiles_df, *_ = cohort
    monkeypatch.setattr(pair_cards, "SYNTHESIS_BATCH", 2)
    images, curves_df = pair_cards.synthetic_images(
        model, "alexnet", ["0_1", "3_5", "6_7"], tiles_df, 1, (0,), False
    )
    assert len(images) == 3
    assert curves_df.groupby("image")["feature"].first().tolist() == ["0_1", "3_5", "6_7"]


def test_no_pair_gives_no_card(cohort):
    cards_df, shown_df, curves_df, pictures = made(cohort, n=0)
    assert cards_df.empty
    assert list(shown_df.columns) == pair_cards.SHOWN_COLUMNS
    assert len(pictures) == len(curves_df) == 0
    assert pair_cards.panel_rows(cards_df, shown_df, pictures, {}) == []


def test_panel_rows_carry_numbers_and_the_image_given(cohort):
    cards_df, shown_df, _, pictures = made(cohort)
    image = np.zeros((900, 1200, 3), np.uint8)
    image[:, 300:900] = 200
    rows = pair_cards.panel_rows(cards_df, shown_df, pictures, {"g2": image})
    assert [row["symbol"] for row in rows] == ["A", "B"]
    assert rows[0]["ihc"] is None
    assert rows[1]["ihc"].shape == (448, 448, 3)
    assert rows[1]["ihc"][:, 100:300].min() == 200, "the middle of the image"
    assert rows[0]["tile_label"] == "S0_0_0\nliver"
    assert [row["q_within"] for row in rows] == [0.01, 0.9]
    assert rows[1]["finding"] == "not found within tissues"
    assert all(row["has_map"] for row in rows)
    assert rows[0]["r_partial"] == 0.4
    assert rows[0]["guided_label"] == ""
    np.testing.assert_array_equal(rows[1]["tile"], pair_cards.pictures_of(shown_df, pictures, 1, "tile")[0])
    titles = pair_cards.tile_titles(shown_df[shown_df["kind"] == "tile"])
    assert titles[1] == "S2\nliver\ncolumn 0, row 0\nvalue 1"


def test_two_genes_may_share_a_feature(cohort):
    model, tiles_df, values_df, _ = cohort
    chosen_df = pd.DataFrame(
        {"gene": ["g1", "g2"], "symbol": ["A", "B"], "feature": "3_5", "tissue": "liver"}
    )
    chosen_df = chosen_df.assign(tile_tissue=["liver", "lung"], r=[0.8, -0.8])
    cover_df = tiles_df.iloc[[0, 3]].assign(feature="3_5", value=1.0, quantile=1.0)
    how = {"n_strip": 2, "n_steps": 1, "seeds": (0,), "progress": False}
    _, shown_df, curves_df, pictures = pair_cards.make_cards(
        model, "alexnet", chosen_df, cover_df, values_df, tiles_df, **how
    )
    assert curves_df["image"].nunique() == 1, "made once"
    one, other = (pair_cards.pictures_of(shown_df, pictures, card, "synthetic")[0] for card in (0, 1))
    np.testing.assert_array_equal(one, other)
    assert (
        shown_df[shown_df["card"] == 1].loc[lambda df: df["kind"] == "low to high", "tissue"].eq("lung").all()
    )


def test_a_tile_is_labelled_with_its_own_tissue(cohort):
    """A feature flat in the gene's tissue takes its tile from anywhere: the label says from where."""
    model, tiles_df, values_df, _ = cohort
    chosen_df = pd.DataFrame({"gene": ["g"], "symbol": ["A"], "feature": ["3_5"], "tissue": ["skin"]})
    chosen_df = chosen_df.assign(tile_tissue="liver", r=0.8, r_partial=0.4, p_free=0.1, p_within_tissue=0.1)
    chosen_df = chosen_df.assign(q_within_tissue=0.2, finding="")
    cover_df = tiles_df.iloc[[3]].assign(feature="3_5", value=1.0, quantile=1.0)
    how = {"n_strip": 2, "n_steps": 1, "seeds": (0,), "progress": False}
    made_cards = pair_cards.make_cards(model, "alexnet", chosen_df, cover_df, values_df, tiles_df, **how)
    cards_df, shown_df, _, pictures = made_cards
    (row,) = pair_cards.panel_rows(cards_df, shown_df, pictures, {})
    assert row["tile_label"] == "S1_0_0\nlung"
    assert row["tissue"] == "skin"


def test_a_dead_feature_has_reasons_in_place_of_a_strip_and_noise(cohort):
    """No synthetic image where nothing rose, no strip of tied tiles, and the map is known to be zero."""
    _, tiles_df, values_df, _ = cohort
    torch.manual_seed(0)
    model = models.build("alexnet", 2, input_px=PX).eval()
    with torch.no_grad():  # channel 5 of layer 3 feeds ReLU 4: never above 0, so 4_5 is dead
        model.features[3].weight[5] = 0
        model.features[3].bias[5] = -1
    chosen_df = pd.DataFrame({"gene": ["g1", "g2"], "symbol": ["A", "B"], "feature": ["4_5", "4_6"]})
    chosen_df = chosen_df.assign(tissue="liver", tile_tissue="liver", r=0.8, r_partial=0.4, p_free=0.001)
    chosen_df = chosen_df.assign(p_within_tissue=0.1, q_within_tissue=0.2, finding="")
    values_df = values_df.set_axis(["4_5", "4_6"], axis=1).assign(**{"4_5": 0.0})
    cover_df = tiles_df.iloc[[0, 6]].assign(feature=["4_5", "4_6"], value=1.0, quantile=1.0)
    how = {"n_strip": 3, "n_steps": 4, "seeds": (0, 1), "progress": False}
    made_cards = pair_cards.make_cards(model, "alexnet", chosen_df, cover_df, values_df, tiles_df, **how)
    cards_df, shown_df, curves_df, pictures = made_cards
    assert len(shown_df) == len(pictures) == 2 + (2 + 3 + 2)
    assert set(shown_df.loc[shown_df["card"] == 0, "kind"]) == {"tile", "gradient"}
    assert cards_df["has_map"].tolist() == [False, True]
    assert cards_df["has_map"].dtype == bool
    assert cards_df["strip_note"].tolist() == ["no strip: the feature is 0 on 9 of 9 tiles of liver", ""]
    assert cards_df["synthetic_note"].tolist() == [
        *("no image: from noise the feature stayed at 0 in 4 steps", "")
    ]
    assert curves_df["feature"].nunique() == 2, "the flat curve is still shown"
    dead, alive = pair_cards.panel_rows(cards_df, shown_df, pictures, {})
    assert dead["synthetic"] is None
    assert dead["synthetic_label"] == cards_df.loc[0, "synthetic_note"]
    assert not dead["has_map"]
    assert alive["synthetic"].shape == (PX, PX, 3)


def test_the_exponent_reaches_the_objective_and_the_gradient(cohort):
    model, tiles_df, *_ = cohort
    one, two = (
        pair_cards.synthetic_images(model, "alexnet", ["6_7"], tiles_df, 1, (0,), progress=False, p=p)[1]
        for p in (1, 2)
    )
    assert one.loc[0, "objective"] != pytest.approx(two.loc[0, "objective"])
