"""activation_maps: against plain hooks, sums to the feature, laid where the tiles are."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib.figures import pictures
from lib.network import models
from lib.visualize import activation_maps, card_figures
from lib.visualize.feature_values import Network, tile_values


@pytest.fixture(scope="module")
def tiles():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def tiles_df(tiles, tmp_path):
    np.save(tmp_path / "s.npy", tiles)
    ids = [f"s_{i}_0" for i in range(len(tiles))]
    return pd.DataFrame({
        "tile_id": ids, "slide_id": "s", "file": tmp_path / "s.npy", "stack_index": range(len(tiles)),
        "l0_x": [0.0, 100.0, 300.0], "l0_y": [0.0, 0.0, 100.0], "l0_size": 100.0,
    })  # fmt: skip


def network(architecture="alexnet", p=1.0):
    torch.manual_seed(0)
    return Network(models.build(architecture, 2, input_px=64).eval(), architecture, p)


def test_map_is_the_output_of_the_channel(tiles):
    net, kept = network(), []
    handle = net.model.features[3].register_forward_hook(lambda *args: kept.append(args[-1].clone()))
    maps = activation_maps.activation_maps(net, "3_7", tiles)
    with torch.no_grad():
        net.model(net.normalised(torch.from_numpy(tiles)))
    handle.remove()
    table_df = models.feature_table("alexnet").query("layer == 3")
    assert table_df["layer_label"].iloc[0] == "conv2"
    np.testing.assert_allclose(maps, kept[-1][:, 7].numpy(), atol=1e-6)


@pytest.mark.parametrize(("architecture", "p"), [("alexnet", 1.0), ("alexnet", 2.0), ("timm:test_vit", 1.0)])
def test_maps_sum_to_the_feature(tiles_df, tiles, architecture, p):
    net = network(architecture, p)
    table_df = models.feature_table(architecture)
    seen = 0
    for layer, of_df in list(table_df.groupby("layer"))[:: max(1, table_df["layer"].nunique() // 8)]:
        feature = of_df["feature"].iloc[0]
        try:
            maps = activation_maps.maps_of_tiles(net, feature, tiles_df, batch=2)
        except activation_maps.NoPositions:
            assert (
                "class token" in of_df["layer_label"].iloc[0] or "embedding" in of_df["layer_label"].iloc[0]
            )
            continue
        values = tile_values(net, [feature], tiles_df, progress=False)[feature]
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), values, rtol=1e-3, atol=1e-4, err_msg=str(layer))
        seen += maps.shape[1] > 1
    assert seen > 2


def test_one_number_per_tile_has_no_map(tiles):
    table_df = models.feature_table("timm:test_vit")
    feature = table_df.loc[table_df["layer_label"].str.contains("class token"), "feature"].iloc[0]
    with pytest.raises(activation_maps.NoPositions, match=feature):
        activation_maps.activation_maps(network("timm:test_vit"), feature, tiles)
    with pytest.raises(ValueError, match="not a feature"):
        activation_maps.activation_maps(network(), "99_0", tiles)


def test_maps_lie_where_their_tiles_are(tiles_df):
    maps = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    canvas = activation_maps.stitched(tiles_df, maps, (200, 400))
    assert canvas.shape == (4, 8), "a pixel for each position"
    nan = np.nan
    expected = [
        [0, 1, 4, 5, nan, nan, nan, nan], [2, 3, 6, 7, nan, nan, nan, nan],
        [nan] * 6 + [8, 9], [nan] * 6 + [10, 11],
    ]  # fmt: skip
    np.testing.assert_array_equal(canvas, expected)
    # beyond what is shown, and at a scale that halves the positions
    assert np.isnan(activation_maps.stitched(tiles_df, maps, (100, 100))).sum() == 0
    assert activation_maps.stitched(tiles_df.assign(l0_size=1.0), maps, (3000, 3000)).shape == (3000, 3000)


def test_overlay_colours_what_is_active_and_leaves_the_rest_grey():
    tile = np.full((32, 32, 3), (200, 100, 150), np.uint8)
    active = np.zeros((4, 4), np.float32)
    active[0, 0] = 5
    shown = activation_maps.overlay(tile, active).astype(int)
    assert np.ptp(shown[-1, -1]) == 0
    assert shown[0, 0, 0] - shown[0, 0, 2] > 60, "red"
    negative = activation_maps.overlay(tile, -active).astype(int)
    assert negative[0, 0, 2] - negative[0, 0, 0] > 60, "blue"
    flat = activation_maps.overlay(tile, np.zeros((4, 4), np.float32))
    assert np.ptp(flat) == 0


def test_the_figure_of_a_slide(tiles_df):
    view = pictures.SlideView(np.full((40, 80, 3), 230, np.uint8), 2.5, np.ones((4, 8), bool), 0.5)
    maps = np.abs(np.random.default_rng(0).normal(size=(3, 5, 5))).astype(np.float32)
    shown = card_figures.slide_activation(maps, tiles_df, view, "G", "3_7")
    assert shown.caption.startswith("G, feature 3_7 on s: activation at 5 x 5 positions of each of 3 tiles")
    image = shown.figure.axes[1].images[0]
    assert list(image.get_extent()) == [-0.5, 79.5, 39.5, -0.5]
    assert np.isfinite(image.get_array().filled(np.nan)).sum() == 3 * 25
    assert image.norm.vmin == 0
    both = card_figures.slide_activation(maps - 1, tiles_df, view, "G", "3_7").figure.axes[1].images[0]
    assert both.norm.vmin == -both.norm.vmax
