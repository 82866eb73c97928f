"""Attribution maps against a network worked by hand, captum, and networks whose ReLUs are rewritten."""

import copy
import warnings

import numpy as np
import pytest
import torch
from network_factory import built, most_active, n_hooks, random_tile
from torch import nn
from torch.nn import functional as F

from lib.network import layers, models
from lib.visualize import attribution, feature_values
from lib.visualize.feature_values import Network

HAND_TILE = np.array([[[5, 3, 1], [1, 4, 2]], [[9, 1, 3], [5, 2, 0]]], dtype=np.uint8)


class SmallNetwork(nn.Module):
    """Three 1 x 1 convolutions with a module ReLU and a functional, in-place one between them."""

    def __init__(self, second=lambda x: F.relu(x, inplace=True)):
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(inplace=True)
        self.second, self.third = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)
        self.rectify = second
        for module, weight in (
            (self.first, [[1, -1, 0], [0, 1, -1]]),
            (self.second, [[1, -2], [-1, 3]]),
            (self.third, [[-1, 2]]),
        ):
            module.weight.data = torch.tensor(weight, dtype=torch.float32)[:, :, None, None]

    def forward(self, x):
        return self.third(self.rectify(self.second(self.relu(self.first(x))))).mean((2, 3))


@pytest.fixture
def small(monkeypatch):
    """Let the small network stand for an architecture, its input being the grey levels themselves."""

    def use(model: nn.Module, p: float = 1.0) -> Network:
        calls = layers.trace(model, 2)
        numbered = tuple(layers.Layer(k, call.module, call) for k, call in enumerate(calls))
        monkeypatch.setattr(models, "feature_layers", lambda architecture, features="table1": numbered)
        monkeypatch.setattr(models, "normalisation", lambda architecture: ((0, 0, 0), (1 / 255,) * 3))
        return Network(model.eval(), "small", p)

    return use


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (gradient > 0) * (ctx.saved_tensors[0] > 0)


class _GuidedModule(nn.Module):
    def forward(self, x):
        return _GuidedReLU.apply(x)


def rewritten(network: Network) -> Network:
    """A copy whose ReLU modules are replaced by ones that have the guided rule as their derivative."""
    model = copy.deepcopy(network.model)  # its new modules come in training mode, hence eval()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, _GuidedModule())
    return network._replace(model=model.eval())


def gradient_of_feature(network: Network, feature: str, tile: np.ndarray) -> np.ndarray:
    """The gradient by way of a full forward pass and `layer_outputs`."""
    layer, channel = map(int, feature.split("_"))
    kept = []
    input_t = models.normalise(torch.from_numpy(tile[None])).requires_grad_()
    with models.layer_outputs(
        network.model, network.architecture, lambda _, y: kept.append(y[:, channel].sum()), layers=[layer]
    ):
        network.model(input_t)
    return torch.autograd.grad(kept[0], input_t)[0][0].permute(1, 2, 0).numpy()


def test_small_network_by_hand(small):
    network = small(SmallNetwork())
    guided = attribution.guided_backpropagation(network, "3_0", HAND_TILE)
    # Pixel (5, 3, 1): (2, 2) after the first ReLU, (-2, 4) before the second. What arrives there is (-1, 2);
    # guided passes (0, 2), which is (-2, 6) at the first ReLU and (0, 6) behind it; the plain one keeps -2.
    np.testing.assert_allclose(guided, [[[0, 6, -6], [0, 6, -6]], [[0, 0, 0], [0, 6, -6]]])
    plain = attribution.plain_gradient(network, "3_0", HAND_TILE)
    np.testing.assert_allclose(plain, [[[-2, 8, -6], [0, 6, -6]], [[-1, 1, 0], [-2, 8, -6]]])
    assert guided.dtype == plain.dtype == np.float32


def test_a_feature_before_any_relu_is_linear(small):
    network = small(SmallNetwork())
    expected = np.broadcast_to([0.0, 1.0, -1.0], (2, 2, 3))
    np.testing.assert_allclose(attribution.guided_backpropagation(network, "0_1", HAND_TILE), expected)
    found = attribution.integrated_gradients(network, "0_1", HAND_TILE)
    np.testing.assert_allclose(found, (HAND_TILE.astype(float) - 255) * [0, 1, -1], atol=1e-3)


@pytest.mark.parametrize(
    "rectify", [F.gelu, lambda x: x.clamp(min=0), F.relu6, lambda x: F.leaky_relu(x, 0.1)]
)
def test_a_rectifier_that_is_not_relu_is_refused_by_guided_backpropagation_only(small, rectify):
    network = small(SmallNetwork(rectify))
    with pytest.raises(
        RuntimeError, match="1 ReLU calls were guarded but small executed 2 rectifiers up to 3_0"
    ):
        attribution.guided_backpropagation(network, "3_0", HAND_TILE)
    assert n_hooks(network.model) == 0
    assert np.isfinite(attribution.plain_gradient(network, "3_0", HAND_TILE)).all()


def test_a_relu_outside_the_graph_is_noticed(small):
    def cut(x):
        with torch.no_grad():
            gate = F.relu(x)
        return F.relu(x) * gate

    with pytest.raises(RuntimeError, match="2 ReLU calls were guarded but small executed 3"):
        attribution.guided_backpropagation(small(SmallNetwork(cut)), "3_0", HAND_TILE)


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_every_architecture_equals_one_with_rewritten_relus(architecture):
    network = built(architecture)
    tile = random_tile(models.minimum_input_px(architecture))
    numbers = [found.layer for found in models.feature_layers(architecture)]
    middle, last = (most_active(network, k, tile) for k in (numbers[len(numbers) // 2], numbers[-1]))
    for feature in (middle, last):
        guided = attribution.guided_backpropagation(network, feature, tile)
        expected = gradient_of_feature(rewritten(network), feature, tile)
        assert guided.shape == tile.shape
        np.testing.assert_allclose(
            guided, expected, rtol=1e-3, atol=1e-5 * max(1e-12, np.abs(expected).max())
        )
    plain = attribution.plain_gradient(network, middle, tile)
    guided = attribution.guided_backpropagation(network, middle, tile)
    assert guided.any()
    assert not np.allclose(plain, guided, atol=1e-3 * np.abs(plain).max()), "guided equals the plain gradient"
    assert n_hooks(network.model) == 0


@pytest.mark.parametrize(("architecture", "layer"), [("vgg11", 20), ("vgg11", 6), ("resnet34", 50)])
def test_guided_backpropagation_equals_captum(architecture, layer):
    captum = pytest.importorskip("captum.attr")
    network, tile = built(architecture), random_tile(64)

    class FeatureOnly(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(network.model)

        def forward(self, x):
            kept = []
            with models.layer_outputs(
                self.model, architecture, lambda _, y: kept.append(y[:, 3].sum((1, 2))), layers=[layer]
            ):
                self.model(x)
            return kept[0]

    input_t = models.normalise(torch.from_numpy(tile[None])).requires_grad_()
    expected = (
        captum.GuidedBackprop(FeatureOnly().eval()).attribute(input_t)[0].permute(1, 2, 0).detach().numpy()
    )
    guided = attribution.guided_backpropagation(network, f"{layer}_3", tile)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(guided, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_integrated_gradients_equal_captum_and_sum_to_the_difference():
    captum = pytest.importorskip("captum.attr")
    network, tile = built("vgg11"), random_tile(32)

    def value(x):
        return network.model.features[:7](x)[:, 5].sum((1, 2))

    input_t = models.normalise(torch.from_numpy(tile[None]))
    white_t = models.normalise(torch.full((1, 32, 32, 3), 255, dtype=torch.uint8))
    expected = captum.IntegratedGradients(value).attribute(
        input_t, white_t, n_steps=attribution.N_POINTS, method="riemann_middle"
    )
    found = attribution.integrated_gradients(network, "6_5", tile)
    expected = expected[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    with torch.no_grad():
        difference = float(value(input_t) - value(white_t))
    assert found.sum() == pytest.approx(difference, rel=0.03)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_maps_do_not_depend_on_the_callers_gradient_mode_nor_on_frozen_weights(context):
    network, tile = built("vgg11"), random_tile(32)
    expected = attribution.guided_backpropagation(network, "10_2", tile)
    for parameter in network.model.parameters():
        parameter.requires_grad_(False)
    with context():
        found = attribution.guided_backpropagation(network, "10_2", tile)
    np.testing.assert_array_equal(found, expected)


def test_nothing_outlives_the_call_even_after_an_error(monkeypatch):
    network, tile = built("vgg11"), random_tile(32)
    model = network.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = attribution.plain_gradient(network, "10_2", tile)
    attribution.guided_backpropagation(network, "10_2", tile)
    removed = []

    def fail(*args, **kwargs):
        raise KeyError("lost in the backward pass")

    remove = torch.utils.hooks.RemovableHandle.remove
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", fail)
        patch.setattr(torch.utils.hooks.RemovableHandle, "remove", lambda h: (removed.append(h), remove(h)))
        with pytest.raises(KeyError):
            attribution.guided_backpropagation(network, "10_2", tile)
    assert n_hooks(model) == 0
    assert len(removed) >= 4, "the hooks of the four ReLUs were not removed"
    with pytest.raises(RuntimeError):
        attribution.guided_backpropagation(network, "20_2", tile[:8, :8])  # pooled to nothing
    assert n_hooks(model) == 0
    np.testing.assert_array_equal(attribution.plain_gradient(network, "10_2", tile), plain)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_picture_is_grey_at_zero_symmetric_and_monotone():
    gradient = np.zeros((10, 10, 3), dtype=np.float32)
    assert (attribution.to_picture(gradient) == 128).all()
    gradient[0, 0], gradient[0, 1], gradient[0, 2] = (2, 0, 0), (-2, 1, 0), (100, 0, 0)
    picture = attribution.to_picture(gradient)
    scale = np.percentile(np.abs(gradient), attribution.FULL_RANGE_PERCENTILE)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [round(127.5 + 127.5 * min(1, 2 / scale)), 128, 128]
    assert int(picture[0, 0, 0]) + int(picture[0, 1, 0]) in (254, 255, 256)
    assert picture[0, 2, 0] == 255
    sparse = np.zeros((100, 100, 3), dtype=np.float32)
    sparse[0, 0, 0] = -3  # the percentile is zero, the picture still shows it
    assert attribution.to_picture(sparse)[0, 0, 0] == 0
    np.testing.assert_array_equal(attribution.magnitude(gradient)[0, :3], [2, 3, 100])


def test_bad_input_is_refused():
    network = built("vgg11")
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\)"):
        attribution.plain_gradient(network, "0_0", np.zeros((3, 32, 32), dtype=np.uint8))
    with pytest.raises(ValueError, match="no module"):
        attribution.plain_gradient(network._replace(architecture="resnet34"), "5_0", random_tile(32))
    network.model.train()
    with pytest.raises(RuntimeError, match="training mode"):
        attribution.guided_backpropagation(network, "0_0", random_tile(32))


def test_networks_without_relus_fall_back_to_the_plain_gradient():
    """A small transformer: no guided map, and the method used is named."""
    architecture = "timm:test_vit"
    network = Network(models.build(architecture, 2, input_px=160).eval(), architecture)
    feature, tile = models.feature_names(architecture)[-1], random_tile(160)
    with pytest.raises(attribution.NotGuidable, match="use plain_gradient"):
        attribution.guided_backpropagation(network, feature, tile)
    gradient, method = attribution.guided_or_plain(network, feature, tile)
    assert method == "plain gradient"
    assert np.abs(gradient).max() > 0
    np.testing.assert_array_equal(gradient, attribution.plain_gradient(network, feature, tile))
    assert list(attribution.all_maps(network, feature, tile)) == ["plain gradient", "integrated gradients"]


def test_a_tile_may_be_read_only():
    network, tile = Network(models.build("alexnet", 2, input_px=64).eval(), "alexnet"), random_tile(64)
    tile.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient, method = attribution.guided_or_plain(network, "3_5", tile)
    assert method == "guided backpropagation"
    assert gradient.any()


def test_guided_backpropagation_of_a_square_by_hand(small):
    """2 Y enters the backward pass in place of 1; the layer is overwritten by an in-place ReLU afterwards."""
    network = small(SmallNetwork(), p=2)
    with feature_values.network_input(network, HAND_TILE) as input_t:
        sums_t = feature_values.feature_sums(network, ["2_1", "3_0"], input_t)
    image = HAND_TILE.astype(float)
    first = np.maximum(image @ np.array([[1, 0], [-1, 1], [0, -1]]), 0)
    second = first @ np.array([-1, 3])
    assert sums_t[0, 0].item() == pytest.approx((second**2).sum())
    passed = np.maximum(2 * second[..., None] * np.array([-1, 3]), 0) * (first > 0)
    expected = passed @ np.array([[1, -1, 0], [0, 1, -1]])
    found = attribution.guided_backpropagation(network, "2_1", HAND_TILE)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish]
    + [nn.Softplus, nn.PReLU, nn.RReLU, nn.Tanh, nn.LogSigmoid, nn.Softshrink, nn.Hardshrink],
)
def test_every_nonlinearity_counts_that_is_no_relu(activation):
    """One that did not would leave a plain gradient under the name of the guided one."""
    x_t = torch.randn(2, 3, 4, 4, requires_grad=True)
    with feature_values.PassRecord() as record:
        nn.Sequential(nn.ReLU(), activation().eval(), nn.Sigmoid())(x_t)
    assert record.n_rectifiers == 2


def test_a_network_of_hardswish_has_no_guided_map():
    """timm's lcnet_050: its 66_3 was a plain gradient under the guided label."""
    name = "timm:lcnet_050"
    network = Network(models.build(name, 2, input_px=64).eval(), name)
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(attribution.NotGuidable):
        attribution.guided_backpropagation(network, "66_3", tile)
    assert attribution.guided_or_plain(network, "66_3", tile)[1] == "plain gradient"
