"""Quantification, against slow explicit forwards that share no code with the hooks or torchvision."""

import resource
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from small_network import SMALL, quantified, random_tiles, small_network

from lib.errors import InputError
from lib.features import quantify
from lib.features.precision_check import largest_difference, require_precise
from lib.features.quantification import Quantification
from lib.features.quantify import tile_quantifier
from lib.network import models

MEAN, SD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def network(architecture, seed=0, input_px=96):
    """Random weights; batch norm statistics from a batch, then perturbed, so that layers are not centred."""
    torch.manual_seed(seed)
    model = models.build(architecture, 3)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        if norms:
            for norm in norms:
                norm.momentum = 1.0
            model(torch.randn(8, 3, input_px, input_px))
        for norm in norms:
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.rand_like(norm.running_var) + 0.5
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def small():
    return small_network()


# Explicit forwards, float64: dict of layer label -> [B, C, H, W]


def as_input(tiles):
    return torch.from_numpy(((tiles / 255 - MEAN) / SD).transpose(0, 3, 1, 2).copy())


def vgg16_forward(w, x):
    layers, index = {}, 0
    for block, n_convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for conv in range(1, n_convolutions + 1):
            x = F.conv2d(x, w[f"features.{index}.weight"], w[f"features.{index}.bias"], padding=1)
            layers[f"conv{block}_{conv}"] = x
            x = x.clamp(min=0)
            layers[f"relu{block}_{conv}"] = x
            index += 2
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        layers[f"pool{block}"] = x
        index += 1
    return layers


def batch_norm(w, name, x, eps):
    scale = w[f"{name}.weight"] / (w[f"{name}.running_var"] + eps).sqrt()
    shift = w[f"{name}.bias"] - w[f"{name}.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def resnet34_forward(w, x):
    layers = {}

    def keep(label, value):
        layers[label] = value
        return value

    def conv_bn(prefix, k, x, stride=1, padding=1):
        y = keep(f"{prefix}conv{k}", F.conv2d(x, w[f"{prefix}conv{k}.weight"], None, stride, padding))
        return keep(f"{prefix}bn{k}", batch_norm(w, f"{prefix}bn{k}", y, 1e-5))

    x = keep("relu", conv_bn("", 1, x, 2, 3).clamp(min=0))
    x = keep("maxpool", F.max_pool2d(x, 3, 2, 1))
    for stage, n_blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(n_blocks):
            name = f"layer{stage}.{block}."
            stride = 2 if stage > 1 and block == 0 else 1
            y = keep(f"{name}relu", conv_bn(name, 1, x, stride).clamp(min=0))
            y = conv_bn(name, 2, y)
            if stride == 2:
                x = keep(f"{name}downsample.0", F.conv2d(x, w[f"{name}downsample.0.weight"], None, 2))
                x = keep(f"{name}downsample.1", batch_norm(w, f"{name}downsample.1", x, 1e-5))
            x = keep(f"{name}relu (call 2)", (x + y).clamp(min=0))
            keep(name[:-1], x)
    keep("avgpool", x.mean((2, 3), keepdim=True))
    return layers


def inception_v3_forward(w, x):
    """Kernels from the weights' shapes; the paddings and strides of Szegedy et al. 2016."""
    layers = {}
    unpadded = {"Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3"}
    halving = {"Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3"}
    halving |= {"Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"}

    def keep(label, value):
        layers[label] = value
        return value

    def conv(name, x):
        weight = w[f"{name}.conv.weight"]
        padding = (0, 0) if name in unpadded | halving else (weight.shape[2] // 2, weight.shape[3] // 2)
        y = F.conv2d(x, weight, None, 2 if name in halving else 1, padding)
        return keep(f"{name}.relu", batch_norm(w, f"{name}.bn", y, 1e-3).clamp(min=0))

    def chain(block, x, *names):
        for name in names:
            x = conv(f"{block}.{name}", x)
        return x

    def averaged(block, x):
        return chain(block, keep(f"{block}.pool", F.avg_pool2d(x, 3, 1, 1)), "branch_pool")

    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
        x = conv(name, x)
    x = keep("maxpool1", F.max_pool2d(x, 3, 2))
    x = conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x))
    x = keep("maxpool2", F.max_pool2d(x, 3, 2))
    for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = chain(b, x, "branch5x5_1", "branch5x5_2")
        three = chain(b, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        x = torch.cat([chain(b, x, "branch1x1"), five, three, averaged(b, x)], 1)
    b = "Mixed_6a"
    three = chain(b, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    x = torch.cat([chain(b, x, "branch3x3"), three, keep(f"{b}.pool", F.max_pool2d(x, 3, 2))], 1)
    for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = chain(b, x, "branch7x7_1", "branch7x7_2", "branch7x7_3")
        double = chain(b, x, *(f"branch7x7dbl_{k}" for k in range(1, 6)))
        x = torch.cat([chain(b, x, "branch1x1"), seven, double, averaged(b, x)], 1)
    b = "Mixed_7a"
    three = chain(b, x, "branch3x3_1", "branch3x3_2")
    seven = chain(b, x, *(f"branch7x7x3_{k}" for k in range(1, 5)))
    x = torch.cat([three, seven, keep(f"{b}.pool", F.max_pool2d(x, 3, 2))], 1)
    for b in ("Mixed_7b", "Mixed_7c"):
        y, z = chain(b, x, "branch3x3_1"), chain(b, x, "branch3x3dbl_1", "branch3x3dbl_2")
        single = [chain(b, y, "branch3x3_2a"), chain(b, y, "branch3x3_2b")]
        double = [chain(b, z, "branch3x3dbl_3a"), chain(b, z, "branch3x3dbl_3b")]
        x = torch.cat([chain(b, x, "branch1x1"), *single, *double, averaged(b, x)], 1)
    keep("avgpool", x.mean((2, 3), keepdim=True))
    return layers


FORWARDS = {"vgg16": vgg16_forward, "resnet34": resnet34_forward, "inception_v3": inception_v3_forward}


def oracle(architecture, model, tiles):
    """Sums float64 [n_features] of Y over positions and tiles; and of |Y|, plus its mean over the layer.

    The second is what float32 can be held to: a channel whose ReLU is all but always off sums to the rounding
    error of its neighbours.
    """
    w = {name: value.double() for name, value in model.state_dict().items()}
    with torch.no_grad():
        layers = FORWARDS[architecture](w, as_input(tiles))
    labels = models.feature_table(architecture).drop_duplicates("layer")["layer_label"]
    assert set(labels) == set(layers)
    values = [layers[label] for label in labels]
    signed = torch.cat([y.sum((0, 2, 3)) for y in values]).numpy()
    sizes = [y.abs().sum((0, 2, 3)) for y in values]
    return signed, torch.cat([size + size.mean() for size in sizes]).numpy()


@pytest.mark.parametrize(
    ("architecture", "input_px"), [("vgg16", 64), ("resnet34", 96), ("inception_v3", 96)]
)
def test_against_an_explicit_forward(architecture, input_px):
    """To 1e-5 relative in float32; the layers themselves, in float64, to 1e-9 of every value."""
    model = network(architecture, seed=5)
    tiles = random_tiles(3, input_px, seed=1)
    expected, size = oracle(architecture, model, tiles)
    got = quantified(model, architecture, [tiles[:2], tiles[2:]])
    assert (expected != 0).mean() > 0.7, "the network is dead: the comparison would say nothing"
    difference = np.abs(got - expected)
    assert (difference <= 1e-5 * size).all(), (difference / size).max()
    assert np.median(difference / np.abs(expected).clip(1e-9)) < 1e-6
    sums = {}
    model.classifier = torch.nn.Identity()  # VGG16's would take a gigabyte in float64
    watch = models.layer_outputs(
        model.double().eval(), architecture, lambda layer, y: sums.__setitem__(layer, y.sum((0, 2, 3)))
    )
    with watch, torch.inference_mode():
        model(as_input(tiles))
    np.testing.assert_allclose(torch.cat(list(sums.values())), expected, rtol=1e-9, atol=1e-9 * size.max())


def test_in_place_relus_do_not_overwrite_a_layer(small):
    """Outputs kept by a plain hook are overwritten by the following ReLU."""
    tiles = random_tiles(2, 64)
    got = quantified(small, SMALL, [tiles])
    kept = {}
    hooks = [
        module.register_forward_hook(lambda m, x, y, k=k: kept.__setitem__(k, y))
        for k, module in enumerate(small.features)
    ]
    with torch.inference_mode():
        small(models.normalise(torch.from_numpy(tiles)))
    for hook in hooks:
        hook.remove()
    late = np.concatenate([kept[k].double().sum((0, 2, 3)).numpy() for k in sorted(kept)])
    table_df = models.feature_table(SMALL)
    is_conv = (table_df["layer_kind"] == "Conv2d").to_numpy()
    is_relu = (table_df["layer_kind"] == "ReLU").to_numpy()
    np.testing.assert_allclose(late[~is_conv], got[~is_conv], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(late[is_conv], got[is_relu], rtol=1e-5, atol=1e-3)
    assert np.mean(np.abs(late - got)[is_conv] > 1e-2 * np.abs(got[is_conv])) > 0.8


def test_relu_called_twice_gives_two_layers_and_unskipped_features_the_same_numbers():
    model, tiles = network("resnet34", input_px=64), random_tiles(2, 64)
    every = pd.Series(quantified(model, "resnet34", [tiles]), models.feature_names("resnet34"))
    by_label = every.groupby(models.feature_table("resnet34")["layer_label"].to_numpy()).apply(np.array)
    np.testing.assert_array_equal(by_label["layer2.0.relu (call 2)"], by_label["layer2.0"])
    assert not np.allclose(by_label["layer2.0.relu"], by_label["layer2.0.relu (call 2)"], rtol=1e-2)
    unskipped = quantified(model, "resnet34", [tiles], features="unskipped")
    np.testing.assert_array_equal(every[models.feature_names("resnet34", "unskipped")], unskipped)


@pytest.mark.parametrize("p", [0.5, 2.0, 3.0])
def test_powers(small, p):
    """Y^p for whole p; other powers keep the sign."""
    tiles = random_tiles(2, 32)
    kept = {}
    layers = models.layer_outputs(small, SMALL, lambda layer, y: kept.__setitem__(layer, y.double().clone()))
    with layers, torch.inference_mode():
        small(models.normalise(torch.from_numpy(tiles)))
    sign = {k: 1 if p == 2 else kept[k].sign() for k in sorted(kept)}
    expected = np.concatenate([(sign[k] * kept[k].abs() ** p).sum((0, 2, 3)) for k in sign])
    got = quantified(small, SMALL, [tiles], p=p)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    assert (got < 0).any() == (p != 2)


def test_zero_and_constant_tiles(small):
    """A constant image is finite, n copies of it are n times one, the non-negative flag holds."""
    table_df = models.feature_table(SMALL)
    for value in (0, 255):
        tile = np.full((1, 64, 64, 3), value, np.uint8)
        one = quantified(small, SMALL, [tile])
        assert np.isfinite(one).all()
        many = quantified(small, SMALL, [tile.repeat(3, 0)] * 2)
        np.testing.assert_allclose(many, 6 * one, rtol=1e-5, atol=1e-4)
        assert (one[table_df["non_negative"]] >= 0).all()
    assert (one[~table_df["non_negative"]] < 0).any()


def test_precision_too_coarse_for_a_network_is_refused(small):
    tiles = random_tiles(8, 96)
    rough = Quantification(architecture=SMALL, precision="bfloat16")
    require_precise(small, tiles, rough)
    torch.manual_seed(0)
    deep = models.build("inception_v3", 5, input_px=96).eval()
    of_deep = replace(rough, architecture="inception_v3")
    with pytest.raises(InputError, match=r"layer \d+ .* by up to 0\.\d+ .* set feature_precision to 'tf32'"):
        require_precise(deep, tiles, of_deep)
    require_precise(deep, tiles, replace(of_deep, precision="float32"))
    how = of_deep, replace(of_deep, precision="tf32")
    assert largest_difference(deep, tiles, *how)[0] > 0.1, "the tf32 of a CPU is float32"


def test_values_that_are_not_finite_are_no_agreement(small, monkeypatch):
    tiles, how = random_tiles(2, 64), Quantification(architecture=SMALL)
    assert largest_difference(small, tiles, how, how)[0] == 0
    right, calls = quantify._spatial_sum, []

    def wrong_the_second_time(output_t, axis, p):
        calls.append(1)
        values_t = right(output_t, axis, p)
        return values_t * float("nan") if len(calls) == 40 else values_t

    monkeypatch.setattr(quantify, "_spatial_sum", wrong_the_second_time)
    assert largest_difference(small, tiles, how, how)[0] == np.inf


def test_bfloat16_is_near(small):
    tiles = random_tiles(4, 64)
    exact = quantified(small, SMALL, [tiles])
    rough = quantified(small, SMALL, [tiles], precision="bfloat16")
    assert np.corrcoef(exact, rough)[0, 1] > 0.9999
    assert 1e-5 < np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.02


def test_memory_does_not_grow_with_tiles(small):
    """Batches come from a generator and are let go; 20 more of them add no memory."""

    def batches(n):
        for k in range(n):
            yield random_tiles(8, 32, seed=k)

    quantified(small, SMALL, batches(3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    quantified(small, SMALL, batches(20))
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 30, f"{grown_mb:.0f} MB; the layers of one batch take 18 MB, of 20 batches 360 MB"


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "torchvision:swin_t"])
def test_tokens_and_channels_last_maps(name):
    """A transformer's sums are over tokens, Swin's over maps [B, H, W, C]."""
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model, tiles, kept = models.build(name, 3, input_px=64).eval(), random_tiles(2, 64), {}
    mean, sd = models.normalisation(name)
    watch = models.layer_outputs(model, name, lambda k, y: kept.__setitem__(k, y.clone()))
    with watch, torch.no_grad():
        model(models.normalise(torch.from_numpy(tiles), mean, sd))
    table_df = models.feature_table(name)
    got = quantified(model, name, [tiles])
    blocks = table_df.query("layer_kind in ('Block', 'SwinTransformerBlock')")
    for layer in (0, blocks["layer"].max(), max(kept)):
        y = kept[layer].double()
        axes = (0, 2, 3) if layer == 0 or y.shape[-1] == 1 else tuple(range(y.ndim - 1))
        np.testing.assert_allclose(got[table_df["layer"] == layer], y.sum(axes), rtol=1e-4, atol=1e-3)


# Bad input


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("p", 0, "p must be positive"), ("p", -1, "not -1"), ("batch_size", 0, "at least 1")),
        ("precision", "float16", "float32, tf32, bfloat16"),
    ],
)
def test_bad_options(name, value, message):
    with pytest.raises(ValueError, match=message):
        Quantification(architecture=SMALL, **{name: value})


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        (np.zeros((2, 64, 64, 3), np.float32), "uint8"),
        (np.zeros((64, 64, 3), np.uint8), r"\[64, 64, 3\]"),
        (np.zeros((0, 64, 64, 3), np.uint8), r"\[0, 64, 64, 3\]"),
        (np.zeros((2, 31, 31, 3), np.uint8), "31 px is too small for vgg16_avg1fc: its minimum is 32 px"),
    ],
)
def test_bad_tiles(small, tiles, message):
    with pytest.raises(ValueError, match=message):
        quantified(small, SMALL, [tiles])


def test_training_mode_and_other_architecture(small):
    with pytest.raises(ValueError, match=r"not of (that|the) architecture"):
        quantified(small, "vgg11", [random_tiles(1, 64)])
    small.train()
    with pytest.raises(RuntimeError, match="training mode"):
        quantified(small, SMALL, [random_tiles(1, 64)])
    small.eval()


def test_out_of_memory_says_what_to_try(small, monkeypatch):
    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(small.classifier[1], "forward", full)
    said = r"with 1 tiles of 64 px at a time .*: .* try feature_precision = 'bfloat16'"
    with pytest.raises(RuntimeError, match=said):
        quantified(small, SMALL, [random_tiles(2, 64)])
    monkeypatch.setattr(small.classifier[1], "forward", lambda *args: torch.empty(1 << 50))
    with pytest.raises(RuntimeError, match=f"out of memory on cpu {said}"):
        quantified(small, SMALL, [random_tiles(2, 64)])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_batches_are_halved_until_they_fit_and_this_is_said(small, monkeypatch, capsys, error):
    """A network whose tenth layer takes four tiles at most; the values are those of batches of four."""
    tiles, layer, sizes = random_tiles(21, 64), small.features[10], []
    how = Quantification(architecture=SMALL, batch_size=16)
    with tile_quantifier(small, how) as quantify_batch:
        expected_t = torch.cat([quantify_batch(tiles[i : i + 4]) for i in range(0, 21, 4)])
    forward = layer.forward

    def limited(images_t):
        sizes.append(len(images_t))
        if len(images_t) > 4:
            raise error
        return forward(images_t)

    monkeypatch.setattr(layer, "forward", limited)
    with tile_quantifier(small, how) as quantify_batch:
        values_t = torch.cat([quantify_batch(tiles[:16]), quantify_batch(tiles[16:])])
    assert sizes == [16, 8, 4, 4, 4, 4, 4, 1], "halved twice, and never tried larger again"
    assert torch.equal(values_t, expected_t)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in said] == [
        "out of memory on cpu with 16 tiles at a time: going on with 8",
        "out of memory on cpu with 8 tiles at a time: going on with 4",
    ]


def test_other_errors_do_not_make_batches_smaller(small, monkeypatch):
    sizes = []

    def broken(images_t):
        sizes.append(len(images_t))
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(small.features[10], "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        quantified(small, SMALL, [random_tiles(6, 64)])
    assert sizes == [6]
