"""The randomisation check against planted methods, and its numbers against scikit-image."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch import nn

from lib.network import models
from lib.visualize import attribution, randomisation_check


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """VGG11 without its classifier, with weights that are not those of a fresh start."""
    with torch.device("meta"):
        built = models.build("vgg11", 4)
    built.classifier = nn.Identity()
    built = built.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for value_t in built.state_dict().values():
        sd = (2 / value_t[0].numel()) ** 0.5 if value_t.dim() > 1 else 0.05
        value_t.normal_(0, sd, generator=generator)
    return built


@pytest.fixture(scope="module")
def tile() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(64, 64, 3))
    smooth = ndimage.gaussian_filter(noise, (3, 3, 0))
    return np.uint8(127 + 110 * smooth / np.abs(smooth).max())


@pytest.fixture(scope="module")
def feature(model, tile) -> str:
    """A feature of the fourth ReLU that is alive on the tile."""
    names = [f"9_{z}" for z in range(256)]
    with torch.no_grad():
        sums_t = attribution.feature_sums(
            model, "vgg11", names, models.normalise(torch.from_numpy(tile[None]))
        )
    return names[int(sums_t.argmax())]


@pytest.mark.parametrize("method", [attribution.plain_gradient, attribution.guided_backpropagation])
def test_a_map_of_the_network_changes_with_its_weights(model, tile, feature, method):
    before = {name: value_t.clone() for name, value_t in model.state_dict().items()}
    found_df, maps = randomisation_check.randomisation_check(
        model, "vgg11", feature, tile, method=method, n_steps=4
    )
    assert found_df.index.name == "step"
    assert found_df["n_random"].tolist() == [0, 1, 2, 3, 4]
    assert found_df["module"].tolist() == ["", "features.8", "features.6", "features.3", "features.0"]
    assert found_df.loc[0, ["rank_correlation", "rank_correlation_magnitude", "ssim"]].tolist() == [1, 1, 1]
    assert (found_df["ssim"].iloc[1:] < 0.95).all()
    assert len(maps) == len(found_df)
    np.testing.assert_array_equal(maps[0], method(model, "vgg11", feature, tile))
    assert all(torch.equal(before[name], value_t) for name, value_t in model.state_dict().items())


def test_guided_backpropagation_survives_random_weights_better_than_the_gradient(model, tile, feature):
    # The finding of Adebayo et al. 2018 that the check is there to show.
    survival = {}
    for method in (attribution.plain_gradient, attribution.guided_backpropagation):
        found_df, _ = randomisation_check.randomisation_check(
            model, "vgg11", feature, tile, method=method, mode="full"
        )
        survival[method] = found_df["rank_correlation"].iloc[-1]
    assert abs(survival[attribution.plain_gradient]) < 0.25
    assert survival[attribution.guided_backpropagation] > 0.35


def test_a_map_of_the_image_alone_is_exposed(model, tile, feature):
    def edges(model, architecture, feature, tile):
        return np.stack([ndimage.sobel(tile[..., c].astype(np.float32)) for c in range(3)], axis=2)

    found_df, _ = randomisation_check.randomisation_check(
        model, "vgg11", feature, tile, method=edges, mode="full"
    )
    assert found_df["n_random"].tolist() == [0, 4]
    assert found_df["rank_correlation"].tolist() == pytest.approx([1, 1])
    assert found_df["ssim"].tolist() == pytest.approx([1, 1])


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(model, tile, feature):
    one_df, _ = randomisation_check.randomisation_check(model, "vgg11", feature, tile, mode="full", seed=3)
    two_df, _ = randomisation_check.randomisation_check(model, "vgg11", feature, tile, mode="full", seed=3)
    other_df, _ = randomisation_check.randomisation_check(model, "vgg11", feature, tile, mode="full", seed=4)
    assert one_df.equals(two_df)
    assert not one_df.equals(other_df)


def test_only_the_named_modules_are_random_each_in_its_own_scale(model):
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
    names = randomisation_check.modules_below(model, architecture, f"{layer}_0", tile)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    own = dict(model.named_modules())
    assert names[-1] == next(n for n, m in own.items() if isinstance(m, nn.Conv2d))

    # The feature changes when, and only when, a module below it does.
    def value() -> float:
        with torch.no_grad():
            input_t = models.normalise(torch.from_numpy(tile[None]))
            return float(attribution.feature_sums(model, architecture, [f"{layer}_0"], input_t))

    base = value()
    convolutions = [n for n, m in own.items() if isinstance(m, nn.Conv2d)]
    for name in convolutions[:: max(1, len(convolutions) // 8)]:
        kept_t = own[name].weight.clone()
        own[name].weight.mul_(1.5)
        assert (value() != base) is (name in names), name
        own[name].weight.copy_(kept_t)


def test_batch_norm_is_reset_and_the_check_runs_through_it():
    torch.manual_seed(0)
    model = models.build("resnet34", 3).eval()
    tile = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    names = [f"40_{z}" for z in range(64)]
    with torch.no_grad():
        input_t = models.normalise(torch.from_numpy(tile[None]))
        alive = names[int(attribution.feature_sums(model, "resnet34", names, input_t).argmax())]
    found_df, maps = randomisation_check.randomisation_check(model, "resnet34", alive, tile, n_steps=3)
    assert len(found_df) == 4
    assert np.isfinite(found_df.drop(columns="module").to_numpy(float)).all()
    assert all(found.any() for found in maps)


def test_structural_similarity_equals_scikit_image():
    rng = np.random.default_rng(5)
    one = ndimage.gaussian_filter(rng.random((50, 40)), 1)
    other = 0.6 * one + 0.4 * rng.random((50, 40))
    expected = structural_similarity(
        one, other, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert randomisation_check.structural_similarity(one, other) == pytest.approx(expected, rel=1e-6)
    assert randomisation_check.structural_similarity(one, one) == pytest.approx(1)


def test_bad_input_is_refused(model, tile):
    with pytest.raises(ValueError, match="mode is 'random'"):
        randomisation_check.randomisation_check(model, "vgg11", "9_0", tile, mode="random")

    def nothing(model, architecture, feature, tile):
        return np.zeros((64, 64, 3), dtype=np.float32)

    with pytest.raises(ValueError, match="9_0 has no gradient on this tile"):
        randomisation_check.randomisation_check(model, "vgg11", "9_0", tile, method=nothing)
    with pytest.raises(ValueError, match="more than 10 px"):
        randomisation_check.structural_similarity(np.zeros((8, 32)), np.zeros((8, 32)))


def test_a_step_whose_draws_are_all_dead_has_no_likeness(model, tile):
    def dies(given, architecture, feature, tile):
        return np.ones((64, 64, 3), dtype=np.float32) * (given is model)

    found_df, maps = randomisation_check.randomisation_check(
        model, "vgg11", "9_0", tile, method=dies, mode="full"
    )
    assert found_df.loc[1, ["rank_correlation", "rank_correlation_magnitude", "ssim"]].isna().all()
    assert not maps[1].any()
    assert randomisation_check.step_titles(found_df)[1] == "4 of 4 random\ndead in 20 draws"


def test_a_random_transformer_is_alive(tile):
    """Layer norms keep their scale: at zero they would silence every block."""
    pytest.importorskip("timm")
    name = "timm:test_vit"
    torch.manual_seed(0)
    network = models.build(name, 4).eval()
    layer = models.feature_names(name)[-1].split("_")[0]
    method = attribution.METHODS["plain gradient"]
    found_df, maps = randomisation_check.randomisation_check(network, name, f"{layer}_3", tile, method=method)
    assert any("norm" in module for module in found_df["module"])
    assert all(gradient.any() for gradient in maps)
