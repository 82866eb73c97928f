"""The randomisation check against planted methods, and its similarities against their definitions."""

import numpy as np
import pytest
import torch
from network_factory import built, most_active, values_of
from scipy import ndimage
from torch import nn

from lib.network import models
from lib.visualize import attribution, randomisation_check
from lib.visualize.feature_values import Network


@pytest.fixture(scope="module")
def network() -> Network:
    return built("vgg11")


@pytest.fixture(scope="module")
def tile() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(64, 64, 3))
    smooth = ndimage.gaussian_filter(noise, (3, 3, 0))
    return np.uint8(127 + 110 * smooth / np.abs(smooth).max())


@pytest.fixture(scope="module")
def feature(network, tile) -> str:
    """A feature of the fourth ReLU that is active on the tile."""
    return most_active(network, 9, tile)


def check(*args, **how):
    return randomisation_check.randomisation_check(*args, **how)


@pytest.mark.parametrize("method", [attribution.plain_gradient, attribution.guided_backpropagation])
def test_a_map_of_the_network_changes_with_its_weights(network, tile, feature, method):
    before = {name: value_t.clone() for name, value_t in network.model.state_dict().items()}
    found_df, maps = check(network, feature, tile, method=method)
    assert found_df.index.name == "step"
    assert found_df["n_random"].tolist() == [0, 1, 2, 3, 4]
    assert found_df["module"].tolist() == ["", "features.8", "features.6", "features.3", "features.0"]
    assert found_df.loc[0, ["rank_correlation", "rank_correlation_magnitude", "ssim"]].tolist() == [1, 1, 1]
    assert (found_df["ssim"].iloc[1:] < 0.95).all()
    assert len(maps) == len(found_df)
    np.testing.assert_array_equal(maps[0], method(network, feature, tile))
    assert all(torch.equal(before[name], value_t) for name, value_t in network.model.state_dict().items())


def test_guided_backpropagation_survives_random_weights_better_than_the_gradient(network, tile, feature):
    # The finding of Adebayo et al. 2018 that the check is there to show.
    survival = {}
    for method in (attribution.plain_gradient, attribution.guided_backpropagation):
        found_df, _ = check(network, feature, tile, method=method)
        survival[method] = found_df["rank_correlation"].iloc[-1]
    assert abs(survival[attribution.plain_gradient]) < 0.25
    assert survival[attribution.guided_backpropagation] > 0.35


def test_a_map_of_the_image_alone_is_exposed(network, tile, feature):
    def edges(network, feature, tile):
        return np.stack([ndimage.sobel(tile[..., c].astype(np.float32)) for c in range(3)], axis=2)

    found_df, _ = check(network, feature, tile, method=edges)
    assert found_df["n_random"].tolist() == [0, 1, 2, 3, 4]
    assert found_df["rank_correlation"].tolist() == pytest.approx([1] * 5)
    assert found_df["ssim"].tolist() == pytest.approx([1] * 5)


def test_the_same_call_gives_the_same_numbers(network, tile, feature):
    one_df, two_df = (check(network, feature, tile)[0] for _ in range(2))
    assert one_df.equals(two_df)


def test_only_the_named_modules_are_random_each_in_its_own_scale(network):
    model = network.model
    copied = randomisation_check._randomised(model, ["features.8", "features.6"], seed=1)
    for name, module in model.features.named_children():
        if isinstance(module, nn.Conv2d):
            same = torch.equal(module.weight, copied.features.get_submodule(name).weight)
            assert same is (name not in ("6", "8"))
    weight_t = copied.features[8].weight
    assert float(weight_t.detach().std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert not copied.features[8].bias.any()


@pytest.mark.parametrize("architecture", ["resnet34", "inception_v3", "vgg13_bn"])
def test_modules_below_are_those_the_feature_depends_on_in_reverse_order(architecture):
    torch.manual_seed(0)
    model = models.build(architecture, 3).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tile = np.random.default_rng(1).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    layer = models.feature_layers(architecture)[20].layer
    network = Network(model, architecture)
    names = randomisation_check.modules_below(network, f"{layer}_0", tile)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    own = dict(model.named_modules())
    assert names[-1] == next(n for n, m in own.items() if isinstance(m, nn.Conv2d))

    # The feature changes when, and only when, a module below it does.
    def value() -> float:
        return values_of(network, [f"{layer}_0"], tile[None]).item()

    base = value()
    convolutions = [n for n, m in own.items() if isinstance(m, nn.Conv2d)]
    for name in convolutions[:: max(1, len(convolutions) // 8)]:
        kept_t = own[name].weight.clone()
        own[name].weight.data.mul_(1.5)
        assert (value() != base) is (name in names), name
        own[name].weight.data.copy_(kept_t)


def test_batch_norm_is_reset_and_the_check_runs_through_it():
    torch.manual_seed(0)
    network = Network(models.build("resnet34", 3).eval(), "resnet34")
    tile = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found_df, maps = check(network, most_active(network, 40, tile), tile)
    assert len(found_df) == 7
    assert np.isfinite(found_df.drop(columns="module").to_numpy(float)).all()
    assert all(found.any() for found in maps)


def test_ssim_is_that_of_wang_2004():
    """Means, variances and covariance under a Gaussian window of 11 px, written out for every window."""
    rng = np.random.default_rng(5)
    one = ndimage.gaussian_filter(rng.random((18, 14, 3)), (1, 1, 0)).astype(np.float32)
    other = (0.6 * one + 0.4 * rng.random((18, 14, 3))).astype(np.float32)
    x, y = (a / a.max() for a in (attribution.magnitude(one), attribution.magnitude(other)))
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    ssim = []
    for i in range(18 - 10):
        for j in range(14 - 10):
            a, b = (image[i : i + 11, j : j + 11].astype(float) for image in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            above = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
            ssim.append(above / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)))
    assert randomisation_check.similarity(one, other)[2] == pytest.approx(np.mean(ssim), rel=1e-6)
    assert randomisation_check.similarity(one, one) == pytest.approx((1, 1, 1))


def test_a_dead_feature_is_refused(network, tile):
    def nothing(network, feature, tile):
        return np.zeros((64, 64, 3), dtype=np.float32)

    with pytest.raises(ValueError, match="9_0 has no gradient on this tile"):
        check(network, "9_0", tile, method=nothing)


def test_a_step_whose_draws_are_all_dead_has_no_similarity(network, tile, monkeypatch):
    def dies(given, feature, tile):
        return np.ones((64, 64, 3), dtype=np.float32) * (given.model is network.model)

    monkeypatch.setattr(randomisation_check, "N_DRAWS", 2)
    found_df, maps = check(network, "9_0", tile, method=dies)
    assert found_df.loc[4, ["rank_correlation", "rank_correlation_magnitude", "ssim"]].isna().all()
    assert not maps[4].any()
    assert randomisation_check.step_titles(found_df)[4] == "4 of 4 random\ndead in 2 draws"


def test_a_random_transformer_is_active(tile):
    """Layer norms keep their scale: at zero they would silence every block."""
    pytest.importorskip("timm")
    name = "timm:test_vit"
    torch.manual_seed(0)
    network = Network(models.build(name, 4).eval(), name)
    layer = models.feature_names(name)[-1].split("_")[0]
    found_df, maps = check(network, f"{layer}_3", tile, method=attribution.plain_gradient)
    assert any("norm" in module for module in found_df["module"])
    assert all(gradient.any() for gradient in maps)
