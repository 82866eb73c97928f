"""Attribution maps against a network worked by hand, captum, and networks whose ReLUs are rewritten."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from small_network import quantified
from torch import nn
from torch.nn import functional as F

from lib.network import layers, models
from lib.visualize import attribution

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

    def use(model: nn.Module) -> nn.Module:
        calls = layers.trace(model, 2)
        numbered = tuple(layers.Layer(k, call.module, call) for k, call in enumerate(calls))
        monkeypatch.setattr(models, "feature_layers", lambda architecture, features="table1": numbered)
        monkeypatch.setattr(models, "normalisation", lambda architecture: ((0, 0, 0), (1 / 255,) * 3))
        return model.eval()

    return use


def random_tile(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def built(architecture: str, seed: int = 0) -> nn.Module:
    """A network with random weights, biases and batch-norm statistics, without its large classifier."""
    with torch.device("meta"):
        model = models.build(architecture, 4)
    for head in ("classifier", "fc"):
        if hasattr(model, head):
            setattr(model, head, nn.Identity())
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    for name, value_t in model.state_dict().items():
        if value_t.dim() > 1:
            value_t.normal_(0, (2 / value_t[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "weight")):
            value_t.uniform_(0.7, 1.4, generator=generator)
        elif value_t.is_floating_point():
            value_t.normal_(0, 0.1, generator=generator)
    return model


def n_hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def most_active(model: nn.Module, architecture: str, layer: int, tile: np.ndarray) -> str:
    """The feature of a layer with the highest value on a tile, so that it is not dead."""
    channels = models.feature_table(architecture).query("layer == @layer")["feature"].tolist()
    with torch.no_grad():
        sums_t = attribution.feature_sums(
            model, architecture, channels, models.normalise(torch.from_numpy(tile[None]))
        )
    return channels[int(sums_t.argmax())]


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


def rewritten(model: nn.Module) -> nn.Module:
    """A copy whose ReLU modules are replaced by ones that have the guided rule as their derivative."""
    model = copy.deepcopy(model)  # its new modules come in training mode, hence eval()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, _GuidedModule())
    return model.eval()


def gradient_of_feature(model: nn.Module, architecture: str, feature: str, tile: np.ndarray) -> np.ndarray:
    """The gradient by way of a full forward pass and `layer_outputs`."""
    layer, channel = map(int, feature.split("_"))
    kept = []
    input_t = models.normalise(torch.from_numpy(tile[None])).requires_grad_()
    with models.layer_outputs(
        model, architecture, lambda _, y: kept.append(y[:, channel].sum()), layers=[layer]
    ):
        model(input_t)
    return torch.autograd.grad(kept[0], input_t)[0][0].permute(1, 2, 0).numpy()


def test_small_network_by_hand(small):
    model = small(SmallNetwork())
    guided = attribution.guided_backpropagation(model, "small", "3_0", HAND_TILE)
    # Pixel (5, 3, 1): (2, 2) after the first ReLU, (-2, 4) before the second. What arrives there is (-1, 2);
    # guided passes (0, 2), which is (-2, 6) at the first ReLU and (0, 6) behind it; the plain one keeps -2.
    np.testing.assert_allclose(guided, [[[0, 6, -6], [0, 6, -6]], [[0, 0, 0], [0, 6, -6]]])
    plain = attribution.plain_gradient(model, "small", "3_0", HAND_TILE)
    np.testing.assert_allclose(plain, [[[-2, 8, -6], [0, 6, -6]], [[-1, 1, 0], [-2, 8, -6]]])
    assert guided.dtype == plain.dtype == np.float32


def test_a_feature_before_any_relu_is_linear(small):
    model = small(SmallNetwork())
    expected = np.broadcast_to([0.0, 1.0, -1.0], (2, 2, 3))
    np.testing.assert_allclose(attribution.guided_backpropagation(model, "small", "0_1", HAND_TILE), expected)


@pytest.mark.parametrize(
    "rectify", [F.gelu, lambda x: x.clamp(min=0), F.relu6, lambda x: F.leaky_relu(x, 0.1)]
)
def test_a_rectifier_that_is_not_relu_is_refused_by_guided_backpropagation_only(small, rectify):
    model = small(SmallNetwork(rectify))
    with pytest.raises(
        RuntimeError, match="1 ReLU calls were guarded but small executed 2 rectifiers up to 3_0"
    ):
        attribution.guided_backpropagation(model, "small", "3_0", HAND_TILE)
    assert n_hooks(model) == 0
    assert np.isfinite(attribution.plain_gradient(model, "small", "3_0", HAND_TILE)).all()


def test_a_relu_outside_the_graph_is_noticed(small):
    def cut(x):
        with torch.no_grad():
            gate = F.relu(x)
        return F.relu(x) * gate

    with pytest.raises(RuntimeError, match="2 ReLU calls were guarded but small executed 3"):
        attribution.guided_backpropagation(small(SmallNetwork(cut)), "small", "3_0", HAND_TILE)


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_every_architecture_equals_one_with_rewritten_relus(architecture):
    model = built(architecture)
    tile = random_tile(models.minimum_input_px(architecture))
    numbers = [found.layer for found in models.feature_layers(architecture)]
    middle, last = (
        most_active(model, architecture, k, tile) for k in (numbers[len(numbers) // 2], numbers[-1])
    )
    for feature in (middle, last):
        guided = attribution.guided_backpropagation(model, architecture, feature, tile)
        expected = gradient_of_feature(rewritten(model), architecture, feature, tile)
        assert guided.shape == tile.shape
        np.testing.assert_allclose(
            guided, expected, rtol=1e-3, atol=1e-5 * max(1e-12, np.abs(expected).max())
        )
    plain = attribution.plain_gradient(model, architecture, middle, tile)
    guided = attribution.guided_backpropagation(model, architecture, middle, tile)
    assert guided.any()
    assert not np.allclose(plain, guided, atol=1e-3 * np.abs(plain).max()), "guided equals the plain gradient"
    assert n_hooks(model) == 0


@pytest.mark.parametrize(("architecture", "layer"), [("vgg11", 20), ("vgg11", 6), ("resnet34", 50)])
def test_guided_backpropagation_equals_captum(architecture, layer):
    captum = pytest.importorskip("captum.attr")
    model, tile = built(architecture), random_tile(64)

    class FeatureOnly(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(model)

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
    guided = attribution.guided_backpropagation(model, architecture, f"{layer}_3", tile)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(guided, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_integrated_gradients_equal_captum_and_sum_to_the_difference():
    captum = pytest.importorskip("captum.attr")
    model, tile = built("vgg11"), random_tile(32)

    def value(x):
        return model.features[:7](x)[:, 5].sum((1, 2))

    input_t = models.normalise(torch.from_numpy(tile[None]))
    white_t = models.normalise(torch.full((1, 32, 32, 3), 255, dtype=torch.uint8))
    expected = captum.IntegratedGradients(value).attribute(
        input_t, white_t, n_steps=60, method="riemann_middle"
    )
    found = attribution.integrated_gradients(model, "vgg11", "6_5", tile, n_steps=60)
    expected = expected[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    with torch.no_grad():
        difference = float(value(input_t) - value(white_t))
    assert found.sum() == pytest.approx(difference, rel=0.02)


def test_integrated_gradients_of_a_linear_feature_are_exact(small):
    model = small(SmallNetwork())
    found = attribution.integrated_gradients(model, "small", "0_1", HAND_TILE, baseline=7, n_steps=3)
    np.testing.assert_allclose(found, (HAND_TILE.astype(float) - 7) * [0, 1, -1], atol=1e-4)
    with pytest.raises(ValueError, match="n_steps is 0"):
        attribution.integrated_gradients(model, "small", "0_1", HAND_TILE, n_steps=0)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_maps_do_not_depend_on_the_callers_gradient_mode_nor_on_frozen_weights(context):
    model, tile = built("vgg11"), random_tile(32)
    expected = attribution.guided_backpropagation(model, "vgg11", "10_2", tile)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with context():
        found = attribution.guided_backpropagation(model, "vgg11", "10_2", tile)
    np.testing.assert_array_equal(found, expected)


def test_nothing_outlives_the_call_also_after_an_error(monkeypatch):
    model, tile = built("vgg11"), random_tile(32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = attribution.plain_gradient(model, "vgg11", "10_2", tile)
    attribution.guided_backpropagation(model, "vgg11", "10_2", tile)
    removed = []
    real = torch.autograd.grad

    def fail(*args, **kwargs):
        raise KeyError("lost in the backward pass")

    monkeypatch.setattr(torch.autograd, "grad", fail)
    remove = torch.utils.hooks.RemovableHandle.remove
    monkeypatch.setattr(torch.utils.hooks.RemovableHandle, "remove", lambda h: (removed.append(h), remove(h)))
    with pytest.raises(KeyError):
        attribution.guided_backpropagation(model, "vgg11", "10_2", tile)
    monkeypatch.setattr(torch.autograd, "grad", real)
    assert n_hooks(model) == 0
    assert len(removed) >= 4, "the hooks of the four ReLUs were not removed"
    with pytest.raises(RuntimeError):
        attribution.guided_backpropagation(model, "vgg11", "20_2", tile[:8, :8])  # pooled to nothing
    assert n_hooks(model) == 0
    np.testing.assert_array_equal(attribution.plain_gradient(model, "vgg11", "10_2", tile), plain)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_feature_sums_of_several_layers_equal_the_layers_themselves():
    model = built("vgg11")
    images_t = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        found = attribution.feature_sums(model, "vgg11", ["6_2", "0_5", "6_2", "7_9"], images_t)
        # Layer 0's convolution before its in-place ReLU, which is the trap.
        expected = [F.conv2d(images_t, model.features[0].weight, model.features[0].bias, padding=1)[:, 5]]
        expected += [model.features[:7](images_t)[:, 2], F.relu(model.features[:8](images_t))[:, 9]]
    sums = [e.sum((1, 2)) for e in expected]
    torch.testing.assert_close(
        found, torch.stack([sums[1], sums[0], sums[1], sums[2]], 1), rtol=1e-4, atol=1e-3
    )
    assert float(sums[0].min()) != float(F.relu(expected[0]).sum((1, 2)).min())


def test_tile_values_read_the_right_tiles(tmp_path):
    model = built("vgg11")
    stacks = {"A": random_tile(32 * 5, 1), "B": random_tile(32 * 4, 2)}
    files = {}
    for slide, image in stacks.items():
        stacks[slide] = image[:, :32].reshape(-1, 32, 32, 3)
        files[slide] = tmp_path / f"{slide}.npy"
        np.save(files[slide], stacks[slide])
    tiles_df = pd.DataFrame(
        {
            "tile_id": ["b2", "a4", "a0", "b0", "a1"],
            "slide_id": ["B", "A", "A", "B", "A"],
            "stack_index": [2, 4, 0, 0, 1],
        },
        index=[9, 9, 3, 1, 0],
    )
    found_df = attribution.tile_values(
        model, "vgg11", ["7_3", "2_1"], tiles_df, files, batch=2, progress=False
    )
    assert found_df.index.tolist() == ["b2", "a4", "a0", "b0", "a1"]
    assert found_df.index.name == "tile_id"
    assert found_df.columns.tolist() == ["7_3", "2_1"]
    for row in tiles_df.itertuples():
        input_t = models.normalise(torch.from_numpy(stacks[row.slide_id][[row.stack_index]]))
        with torch.no_grad():
            expected = float(F.relu(model.features[:7](input_t))[:, 3].sum())
        assert found_df.loc[row.tile_id, "7_3"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    with pytest.raises(ValueError, match="first 5"):
        attribution.tile_values(
            model, "vgg11", ["7_3"], tiles_df.assign(stack_index=5), files, progress=False
        )
    with pytest.raises(ValueError, match="slide A has tiles but no stack file"):
        attribution.tile_values(model, "vgg11", ["7_3"], tiles_df, {"B": files["B"]}, progress=False)
    files["B"] = tmp_path / "gone.npy"
    with pytest.raises(FileNotFoundError, match=r"gone\.npy for slide B"):
        attribution.tile_values(model, "vgg11", ["7_3"], tiles_df, files, progress=False)


def test_picture_is_grey_at_zero_symmetric_and_monotone():
    gradient = np.zeros((10, 10, 3), dtype=np.float32)
    assert (attribution.to_picture(gradient) == 128).all()
    gradient[0, 0], gradient[0, 1], gradient[0, 2] = (2, 0, 0), (-2, 1, 0), (100, 0, 0)
    picture = attribution.to_picture(gradient, percentile=99.2)
    scale = np.percentile(np.abs(gradient), 99.2)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [round(127.5 + 127.5 * min(1, 2 / scale)), 128, 128]
    assert int(picture[0, 0, 0]) + int(picture[0, 1, 0]) in (254, 255, 256)
    assert picture[0, 2, 0] == 255
    sparse = np.zeros((100, 100, 3), dtype=np.float32)
    sparse[0, 0, 0] = -3  # the percentile is zero, the picture still shows it
    assert attribution.to_picture(sparse)[0, 0, 0] == 0
    np.testing.assert_array_equal(attribution.magnitude(gradient)[0, :3], [2, 3, 100])


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
    with pytest.raises(ValueError, match=f"is no feature of vgg11.*{message}"):
        attribution.guided_backpropagation(built("vgg11"), "vgg11", feature, random_tile(32))


def test_bad_input_is_refused():
    model = built("vgg11")
    with pytest.raises(ValueError, match="uint8 H x W x 3 RGB; got float64"):
        attribution.guided_backpropagation(model, "vgg11", "0_0", np.zeros((32, 32, 3)))
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\)"):
        attribution.plain_gradient(model, "vgg11", "0_0", np.zeros((3, 32, 32), dtype=np.uint8))
    with pytest.raises(RuntimeError, match="training mode"):
        attribution.guided_backpropagation(model.train(), "vgg11", "0_0", random_tile(32))
    with pytest.raises(ValueError, match="no module"):
        attribution.plain_gradient(model.eval(), "resnet34", "5_0", random_tile(32))
    with pytest.raises(ValueError, match="no feature was named"):
        attribution.feature_sums(model, "vgg11", [], torch.zeros(1, 3, 32, 32))


def test_networks_without_relus_fall_back_to_the_plain_gradient():
    """A small transformer: no guided map, and the fall-back says what it is."""
    architecture = "timm:test_vit"
    model = models.build(architecture, 2, input_px=160).eval()
    feature = models.feature_names(architecture)[-1]
    tile = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    with pytest.raises(attribution.NotGuidable, match="use plain_gradient"):
        attribution.guided_backpropagation(model, architecture, feature, tile)
    gradient, method = attribution.guided_or_plain(model, architecture, feature, tile)
    assert method == "plain gradient"
    assert np.abs(gradient).max() > 0
    np.testing.assert_array_equal(gradient, attribution.plain_gradient(model, architecture, feature, tile))
    assert list(attribution.all_maps(model, architecture, feature, tile)) == [
        *("plain gradient", "integrated gradients")
    ]


def test_a_tile_of_a_memory_map_can_be_read_only(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8))
    tile = np.load(tmp_path / "a.npy", mmap_mode="r")[0]
    model = models.build("alexnet", 2, input_px=64).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient, method = attribution.guided_or_plain(model, "alexnet", "3_5", tile)
    assert method == "guided backpropagation"
    assert gradient.any()


def test_no_feature_gives_a_table_without_columns():
    tiles_df = pd.DataFrame({"tile_id": ["a"], "slide_id": ["S"], "stack_index": [0]})
    values_df = attribution.tile_values(None, "alexnet", [], tiles_df, {})
    assert values_df.shape == (1, 0)
    assert list(values_df.index) == ["a"]


@pytest.mark.parametrize("p", [2.0, 0.5, 3.0])
def test_the_exponent_is_that_of_the_quantified_features(p):
    """Values of `small_network.quantified`, before and after in-place ReLUs; slopes against differences."""
    model, tile = built("vgg11"), random_tile(32)
    names = ["0_5", "1_5", "6_2", "7_9"]
    table_df = models.feature_table("vgg11")
    sums = quantified(model, "vgg11", [tile[None]], p=p)
    expected = pd.Series(sums, index=table_df["feature"])[names]
    with attribution.network_input(model, "vgg11", tile) as input_t:
        found_t = attribution.feature_sums(model, "vgg11", names, input_t, p=p)
        np.testing.assert_allclose(found_t.detach().numpy()[0], expected, rtol=1e-4)
        for name in names:
            gradient = attribution.plain_gradient(model, "vgg11", name, tile, p=p)
            assert np.isfinite(gradient).all()
    assert not np.allclose(gradient, attribution.plain_gradient(model, "vgg11", name, tile))
    model = model.double()
    input_t = models.normalise(torch.from_numpy(tile[None])).double().requires_grad_()
    value_t = attribution.feature_sums(model, "vgg11", ["0_5"], input_t, p=p)
    slope_t = torch.autograd.grad(value_t.sum(), input_t)[0]
    direction_t = slope_t / slope_t.norm()
    with torch.no_grad():
        low, high = (
            attribution.feature_sums(model, "vgg11", ["0_5"], input_t + step * direction_t, p=p).item()
            for step in (-1e-6, 1e-6)
        )
    assert slope_t.norm().item() == pytest.approx((high - low) / 2e-6, rel=1e-3)
    with pytest.raises(ValueError, match="p is 0"):
        attribution.feature_sums(model, "vgg11", names, torch.zeros(1, 3, 32, 32), p=0)


def test_guided_backpropagation_of_a_square_by_hand(small):
    """2 Y enters the backward pass in place of 1; the layer is overwritten by an in-place ReLU afterwards."""
    model = small(SmallNetwork())
    with attribution.network_input(model, "small", HAND_TILE) as input_t:
        sums_t = attribution.feature_sums(model, "small", ["2_1", "3_0"], input_t, p=2)
    image = HAND_TILE.astype(float)
    first = np.maximum(image @ np.array([[1, 0], [-1, 1], [0, -1]]), 0)
    second = first @ np.array([-1, 3])
    assert sums_t[0, 0].item() == pytest.approx((second**2).sum())
    passed = np.maximum(2 * second[..., None] * np.array([-1, 3]), 0) * (first > 0)
    expected = passed @ np.array([[1, -1, 0], [0, 1, -1]])
    found = attribution.guided_backpropagation(model, "small", "2_1", HAND_TILE, p=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_every_method_and_tile_values_pass_the_exponent_on(tmp_path):
    model, tile = built("vgg11"), random_tile(32)
    stack = tmp_path / "A.npy"
    np.save(stack, tile[None])
    tiles_df = pd.DataFrame({"tile_id": ["a"], "slide_id": ["A"], "stack_index": [0]})
    feature = most_active(model, "vgg11", 7, tile)
    values = [
        attribution.tile_values(model, "vgg11", [feature], tiles_df, {"A": stack}, p=p, progress=False)
        for p in (1, 2)
    ]
    sums = quantified(model, "vgg11", [tile[None]], p=2)
    place = models.feature_table("vgg11")["feature"].tolist().index(feature)
    assert values[1].loc["a", feature] == pytest.approx(sums[place], rel=1e-4)
    assert values[0].loc["a", feature] != pytest.approx(sums[place], rel=1e-2)
    maps = [attribution.all_maps(model, "vgg11", feature, tile, p=p) for p in (1, 2)]
    for name in attribution.METHODS:
        assert not np.allclose(maps[0][name], maps[1][name]), name
    guided, _ = attribution.guided_or_plain(model, "vgg11", feature, tile, p=2)
    np.testing.assert_array_equal(guided, maps[1]["guided backpropagation"])
