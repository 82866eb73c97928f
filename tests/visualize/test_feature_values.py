"""Values of chosen features: against the layers themselves, the quantified features, and stacks on disk."""

import numpy as np
import pandas as pd
import pytest
import torch
from network_factory import built, most_active, random_tile
from small_network import quantified
from torch.nn import functional as F

from lib.network import models
from lib.visualize import attribution, feature_values


def test_feature_sums_of_several_layers_equal_the_layers_themselves():
    network = built("vgg11")
    layers = network.model.features
    images_t = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        found = feature_values.feature_sums(network, ["6_2", "0_5", "6_2", "7_9"], images_t)
        # Layer 0's convolution before its in-place ReLU, which is the trap.
        expected = [F.conv2d(images_t, layers[0].weight, layers[0].bias, padding=1)[:, 5]]
        expected += [layers[:7](images_t)[:, 2], F.relu(layers[:8](images_t))[:, 9]]
    sums = [e.sum((1, 2)) for e in expected]
    torch.testing.assert_close(
        found, torch.stack([sums[1], sums[0], sums[1], sums[2]], 1), rtol=1e-4, atol=1e-3
    )
    assert float(sums[0].min()) != float(F.relu(expected[0]).sum((1, 2)).min())


def stacks_on_disk(folder):
    """Two stacks, and a tiles frame that names some of their tiles in no order."""
    stacks, files = {"A": random_tile(32 * 5, 1), "B": random_tile(32 * 4, 2)}, {}
    for slide, image in stacks.items():
        stacks[slide] = image[:, :32].reshape(-1, 32, 32, 3)
        files[slide] = folder / f"{slide}.npy"
        np.save(files[slide], stacks[slide])
    tiles_df = pd.DataFrame(
        {
            "tile_id": ["b2", "a4", "a0", "b0", "a1"],
            "slide_id": ["B", "A", "A", "B", "A"],
            "stack_index": [2, 4, 0, 0, 1],
        },
        index=[9, 9, 3, 1, 0],
    )
    return stacks, tiles_df.assign(file=tiles_df["slide_id"].map(files))


def test_tile_values_read_the_right_tiles(tmp_path):
    network = built("vgg11")
    stacks, tiles_df = stacks_on_disk(tmp_path)
    found_df = feature_values.tile_values(network, ["7_3", "2_1"], tiles_df, batch=2, progress=False)
    assert found_df.index.tolist() == ["b2", "a4", "a0", "b0", "a1"]
    assert found_df.index.name == "tile_id"
    assert found_df.columns.tolist() == ["7_3", "2_1"]
    for row in tiles_df.itertuples():
        input_t = models.normalise(torch.from_numpy(stacks[row.slide_id][[row.stack_index]]))
        with torch.no_grad():
            expected = float(F.relu(network.model.features[:7](input_t))[:, 3].sum())
        assert found_df.loc[row.tile_id, "7_3"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    with pytest.raises(ValueError, match="stack_index 5"):
        feature_values.tile_values(network, ["7_3"], tiles_df.assign(stack_index=5), progress=False)
    with pytest.raises(FileNotFoundError, match=r"gone\.npy"):
        feature_values.tile_values(network, ["7_3"], tiles_df.assign(file="gone.npy"), progress=False)


def test_no_feature_gives_a_table_without_columns():
    values_df = feature_values.tile_values(None, [], pd.DataFrame({"tile_id": ["a"]}))
    assert values_df.shape == (1, 0)
    assert list(values_df.index) == ["a"]


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("99_0", "layers 0 to 20"),
        ("0_64", "channels 0 to 63 in layer 0"),
        ("29-3", "layers 0 to 20"),
        ("0_-1", "channels 0 to 63"),
    ],
)
def test_unknown_features_are_refused(feature, message):
    with pytest.raises(ValueError, match=f"is not a feature of vgg11.*{message}"):
        feature_values.feature_places("vgg11", [feature])


def test_bad_input_is_refused():
    network = built("vgg11")
    images_t = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="no feature was named"):
        feature_values.feature_sums(network, [], images_t)
    with pytest.raises(ValueError, match="p is 0"):
        feature_values.feature_sums(network._replace(p=0), ["0_5"], images_t)
    with (
        pytest.raises(ValueError, match="uint8 H x W x 3 RGB; got float64"),
        feature_values.network_input(network, np.zeros((32, 32, 3))),
    ):
        pass


@pytest.mark.parametrize("p", [2.0, 0.5, 3.0])
def test_the_exponent_is_that_of_the_quantified_features(p):
    """Values as quantified, before and after in-place ReLUs; slopes against differences."""
    network, tile = built("vgg11", p=p), random_tile(32)
    names = ["0_5", "1_5", "6_2", "7_9"]
    sums = quantified(network.model, "vgg11", [tile[None]], p=p)
    expected = pd.Series(sums, index=models.feature_table("vgg11")["feature"])[names]
    with feature_values.network_input(network, tile) as input_t:
        found_t = feature_values.feature_sums(network, names, input_t)
        np.testing.assert_allclose(found_t.detach().numpy()[0], expected, rtol=1e-4)
        for name in names:
            gradient = attribution.plain_gradient(network, name, tile)
            assert np.isfinite(gradient).all()
    assert not np.allclose(gradient, attribution.plain_gradient(network._replace(p=1), name, tile))
    network = network._replace(model=network.model.double())
    input_t = models.normalise(torch.from_numpy(tile[None])).double().requires_grad_()
    value_t = feature_values.feature_sums(network, ["0_5"], input_t)
    slope_t = torch.autograd.grad(value_t.sum(), input_t)[0]
    direction_t = slope_t / slope_t.norm()
    with torch.no_grad():
        low, high = (
            feature_values.feature_sums(network, ["0_5"], input_t + step * direction_t).item()
            for step in (-1e-6, 1e-6)
        )
    assert slope_t.norm().item() == pytest.approx((high - low) / 2e-6, rel=1e-3)


def test_every_map_and_tile_values_use_the_exponent(tmp_path):
    once, tile = built("vgg11"), random_tile(32)
    twice = once._replace(p=2)
    np.save(tmp_path / "A.npy", tile[None])
    tiles_df = pd.DataFrame({"tile_id": ["a"], "file": [tmp_path / "A.npy"], "stack_index": [0]})
    feature = most_active(once, 7, tile)
    values = [
        feature_values.tile_values(net, [feature], tiles_df, progress=False).loc["a", feature]
        for net in (once, twice)
    ]
    sums = quantified(once.model, "vgg11", [tile[None]], p=2)
    place = models.feature_table("vgg11")["feature"].tolist().index(feature)
    assert values[1] == pytest.approx(sums[place], rel=1e-4)
    assert values[0] != pytest.approx(sums[place], rel=1e-2)
    maps = [attribution.all_maps(net, feature, tile) for net in (once, twice)]
    for name in attribution.METHODS:
        assert not np.allclose(maps[0][name], maps[1][name]), name
    guided, _ = attribution.guided_or_plain(twice, feature, tile)
    np.testing.assert_array_equal(guided, maps[1]["guided backpropagation"])
