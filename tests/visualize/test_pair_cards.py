"""Cards: every picture is what its row says, and no pair gives no card rather than an error."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib.network import models
from lib.visualize import attribution, card_figures, feature_values, pair_cards
from lib.visualize.feature_values import Network
from lib.visualize.synthetic_images import Ascent

PX = 64
ASCENT = Ascent(2, (4, 5))


def network(p=1.0):
    torch.manual_seed(0)
    return Network(models.build("alexnet", 2, input_px=PX).eval(), "alexnet", p)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Six donors, two tissues, three tiles each, in stacks; an untrained AlexNet; values of two features."""
    folder = tmp_path_factory.mktemp("stacks")
    rng = np.random.default_rng(0)
    tiles = []
    for i in range(6):
        file = folder / f"S{i}.npy"
        np.save(file, rng.integers(0, 256, (3, PX, PX, 3), dtype=np.uint8))
        sample = {
            "sample_id": f"S{i}",
            "slide_id": f"S{i}",
            "donor": f"D{i}",
            "tissue": ["liver", "lung"][i % 2],
        }
        tiles += [
            sample | {"tile_id": f"S{i}_{k}_0", "file": file, "stack_index": k, "column": k, "row": 0}
            for k in range(3)
        ]
    tiles_df = pd.DataFrame(tiles)
    net = network()
    return net, tiles_df, feature_values.tile_values(net, ["3_5", "6_7"], tiles_df, progress=False)


def chosen(**changes):
    """Two pairs of genes A and B; every column the cards need."""
    chosen_df = pd.DataFrame({"gene": ["g1", "g2"], "symbol": ["A", "B"], "feature": ["3_5", "6_7"]})
    chosen_df = chosen_df.assign(tissue="liver", tile_tissue="liver", r=0.8, r_within=0.4, low=0.2, high=0.6)
    chosen_df = chosen_df.assign(p=0.001, q=[0.01, 0.9])
    chosen_df = chosen_df.assign(finding=["found within tissues", "not found within tissues"])
    return chosen_df.assign(**changes)


def made(cohort, chosen_df=None, covers=(0, 6), ascent=ASCENT, **parts):
    """Cards of the chosen pairs, each on the tile at its position in the tiles table."""
    net, tiles_df, values_df = cohort
    chosen_df = chosen() if chosen_df is None else chosen_df
    cover_df = tiles_df.iloc[list(covers)[: len(chosen_df)]]
    cover_df = cover_df.assign(feature=chosen_df["feature"].to_numpy(), value=1.0, quantile=1.0)
    values_df = parts.get("values_df", values_df)
    return pair_cards.make_cards(
        parts.get("network", net), chosen_df, cover_df, values_df, tiles_df, ascent, progress=False
    )


def test_every_picture_is_what_its_row_says(cohort):
    net, tiles_df, values_df = cohort
    cards_df, shown_df, _, pictures = made(cohort)
    assert len(shown_df) == len(pictures) == 2 * (1 + 1 + 1 + 3 + 2)
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
    gradient = attribution.guided_backpropagation(net, "6_7", np.load(tiles_df["file"][6])[0])
    (shown,) = pair_cards.pictures_of(shown_df, pictures, 1, "gradient")
    np.testing.assert_array_equal(shown, attribution.to_picture(gradient))


def test_synthetic_images_stand_with_their_feature_and_seed(cohort):
    net, tiles_df, _ = cohort
    _, shown_df, curves_df, pictures = made(cohort)
    synthetic_df = shown_df[shown_df["kind"] == "synthetic"]
    assert synthetic_df[["feature", "seed", "order"]].to_numpy().tolist() == [
        *(["3_5", 4, 1], ["3_5", 5, 2], ["6_7", 4, 1], ["6_7", 5, 2])
    ]
    alone, _ = pair_cards.images_of_features(net, ["6_7"], tiles_df, Ascent(2, (5,)), progress=False)
    together = pictures[synthetic_df.index[3]].astype(int)
    assert np.abs(alone[0].astype(int) - together).max() <= 2, (
        "a feature's image does not depend on the others in its batch"
    )
    assert set(curves_df["image"]) == {0, 1, 2, 3}


def test_many_features_are_optimised_a_few_at_a_time(cohort, monkeypatch):
    net, tiles_df, _ = cohort
    monkeypatch.setattr(pair_cards, "IMAGES_AT_ONCE", 2)
    features = ["0_1", "3_5", "6_7"]
    images, curves_df = pair_cards.images_of_features(net, features, tiles_df, Ascent(1), progress=False)
    assert len(images) == 3
    assert curves_df.groupby("image")["feature"].first().tolist() == features


def test_no_pair_gives_no_card(cohort):
    cards = made(cohort, chosen().head(0))
    assert cards.cards.empty
    assert list(cards.card_shown.columns) == pair_cards.SHOWN_COLUMNS
    assert len(cards.card_pictures) == len(cards.card_curves) == 0
    assert pair_cards.panel_rows(cards, {}) == []


def test_panel_rows_carry_numbers_and_the_image_given(cohort):
    cards = made(cohort)
    image = np.zeros((900, 1200, 3), np.uint8)
    image[:, 300:900] = 200
    rows = pair_cards.panel_rows(cards, {"g2": image})
    assert [row["symbol"] for row in rows] == ["A", "B"]
    assert rows[0]["ihc"] is None
    assert rows[1]["ihc"].shape == (448, 448, 3)
    assert rows[1]["ihc"][:, 100:300].min() == 200, "the middle of the image"
    assert rows[0]["tile_label"] == "S0_0_0\nliver"
    assert [row["q"] for row in rows] == [0.01, 0.9]
    assert rows[1]["finding"] == "not found within tissues"
    assert all(row["has_map"] for row in rows)
    assert (rows[0]["r_within"], rows[0]["low"], rows[0]["high"]) == (0.4, 0.2, 0.6)
    assert rows[0]["guided_label"] == ""
    shown_df = cards.card_shown
    (tile,) = pair_cards.pictures_of(shown_df, cards.card_pictures, 1, "tile")
    np.testing.assert_array_equal(rows[1]["tile"], tile)
    titles = card_figures.tile_titles(shown_df[shown_df["kind"] == "tile"])
    assert titles[1] == "S2\nliver\ncolumn 0, row 0\nvalue 1"


def test_two_genes_may_share_a_feature(cohort):
    chosen_df = chosen(feature="3_5", tile_tissue=["liver", "lung"], r=[0.8, -0.8])
    _, shown_df, curves_df, pictures = made(cohort, chosen_df, (0, 3), Ascent(1))
    assert curves_df["image"].nunique() == 1, "made once"
    one, other = (pair_cards.pictures_of(shown_df, pictures, card, "synthetic")[0] for card in (0, 1))
    np.testing.assert_array_equal(one, other)
    strip_df = shown_df[(shown_df["card"] == 1) & (shown_df["kind"] == "low to high")]
    assert set(strip_df["tissue"]) == {"lung"}


def test_a_tile_is_labelled_with_its_own_tissue(cohort):
    """A feature flat in the gene's tissue takes its tile from anywhere: the label says from where."""
    cards = made(cohort, chosen(tissue="skin").head(1), (3,), Ascent(1))
    (row,) = pair_cards.panel_rows(cards, {})
    assert row["tile_label"] == "S1_0_0\nlung"
    assert row["tissue"] == "skin"


def test_a_dead_feature_has_reasons_in_place_of_a_strip_and_noise(cohort):
    """No synthetic image where nothing rose, no strip of tied tiles, and the map is known to be zero."""
    net = network()
    with torch.no_grad():  # channel 5 of layer 3 feeds ReLU 4: never above 0, so 4_5 is dead
        net.model.features[3].weight[5] = 0
        net.model.features[3].bias[5] = -1
    values_df = cohort[2].set_axis(["4_5", "4_6"], axis=1).assign(**{"4_5": 0.0})
    chosen_df = chosen(feature=["4_5", "4_6"])
    cards = made(cohort, chosen_df, ascent=Ascent(4, (0, 1)), values_df=values_df, network=net)
    cards_df, shown_df, curves_df, pictures = cards
    assert len(shown_df) == len(pictures) == 3 + (3 + 3 + 2)
    assert set(shown_df.loc[shown_df["card"] == 0, "kind"]) == {"tile", "activation", "gradient"}
    assert cards_df["has_map"].tolist() == [False, True]
    assert cards_df["has_map"].dtype == bool
    assert cards_df["strip_note"].tolist() == ["no strip: the feature is 0 on 9 of 9 tiles of liver", ""]
    assert cards_df["synthetic_note"].tolist() == [
        *("no image: from noise the feature stayed at 0 in 4 steps", "")
    ]
    assert curves_df["feature"].nunique() == 2, "the flat curve is still shown"
    dead, alive = pair_cards.panel_rows(cards, {})
    assert dead["synthetic"] is None
    assert dead["synthetic_label"] == cards_df.loc[0, "synthetic_note"]
    assert not dead["has_map"]
    assert alive["synthetic"].shape == (PX, PX, 3)


def test_the_exponent_reaches_the_objective(cohort):
    net, tiles_df, _ = cohort
    one, two = (
        pair_cards.images_of_features(net._replace(p=p), ["6_7"], tiles_df, Ascent(1), progress=False)[1]
        for p in (1, 2)
    )
    assert one.loc[0, "objective"] != pytest.approx(two.loc[0, "objective"])
