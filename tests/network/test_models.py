"""The thirteen networks of Table 1, their layers, weights and input; golden numbers from the paper."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from lib.errors import InputError
from lib.features.quantification import Quantification
from lib.features.quantify import tile_quantifier
from lib.network import construction, models, training, weights
from lib.network.architectures import PAPER_NAMES
from lib.network.inception import fold_input_transform
from lib.network.layers import Call, Layer, trace, watch
from lib.network.recipe import Recipe
from lib.network.weights import fingerprint, imagenet_state, read_weights, require_normalisation

# Paper, Table 1: features, trainable parameters with 39 classes.
TABLE_1 = {
    "AlexNet": (2_816, 57_163_623),
    "VGG11": (6_976, 128_926_119),
    "VGG13": (7_360, 129_110_631),
    "VGG16": (9_920, 134_420_327),
    "VGG19": (12_480, 139_730_023),
    "VGG11_bn": (9_728, 128_931_623),
    "VGG13_bn": (10_304, 129_116_519),
    "VGG16_bn": (14_144, 134_428_775),
    "VGG19_bn": (17_984, 139_741_031),
    "ResNet34": (28_992, 21_304_679),
    "Inception_v3": (27_712, 24_453_166),
    "VGG16_1FC": (9_920, 15_693_159),
    "VGG16_avg1FC": (10_432, 14_734_695),
}
SMALL = "vgg16_avg1fc"


def on_meta(architecture, n_classes=39, **options):
    with torch.device("meta"):
        return models.build(architecture, n_classes, **options)


def numbered(features_df, kind):
    return features_df.loc[features_df["layer_kind"] == kind, "layer"].nunique()


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return models.build(SMALL, 4)


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_table_1(architecture):
    n_features, n_parameters = TABLE_1[PAPER_NAMES[architecture]]
    parameters = on_meta(architecture).parameters()
    assert sum(p.numel() for p in parameters if p.requires_grad) == n_parameters
    table_df = models.feature_table(architecture)
    assert len(table_df) == n_features
    assert table_df["feature"].is_unique
    assert table_df.notna().all(axis=None)


def test_thirteen_with_the_papers_spelling():
    assert [PAPER_NAMES[name] for name in models.ARCHITECTURES] == list(TABLE_1)


@pytest.mark.parametrize("features", models.FEATURE_SETS)
@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_channels_count_from_zero_in_every_layer(architecture, features):
    table_df = models.feature_table(architecture, features)
    sizes = table_df.groupby("layer")["channel"].agg(["min", "max", "size", "nunique"])
    assert (sizes["min"] == 0).all()
    assert (sizes["max"] + 1 == sizes["size"]).all()
    assert (sizes["nunique"] == sizes["size"]).all()
    assert table_df["layer"].is_monotonic_increasing
    assert table_df.groupby("layer")["layer_label"].nunique().eq(1).all()
    assert table_df["layer_label"].nunique() == len(sizes)


def test_vgg16_layers_are_the_papers():
    """Table 1 prints VGG16's layers: (0)Conv2d(3,64) ... (29)ReLU (30)MaxPool2d."""
    layers_df = models.feature_table("vgg16").drop_duplicates("layer").set_index("layer")
    assert list(layers_df.index) == list(range(31))
    pools = [4, 9, 16, 23, 30]
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert layers_df.index[layers_df["layer_kind"] == "MaxPool2d"].tolist() == pools
    assert layers_df.index[layers_df["layer_kind"] == "Conv2d"].tolist() == convolutions
    assert layers_df["layer_label"][[0, 29, 30]].tolist() == ["conv1_1", "relu5_3", "pool5"]
    assert "29_499" in models.feature_names("vgg16")
    assert models.feature_names("vgg16")[-1] == "30_511"
    assert not layers_df.loc[convolutions, "non_negative"].any()
    assert layers_df["non_negative"].drop(convolutions).all()


def test_average_pool_of_avg1fc_is_layer_31():
    last = models.feature_table("vgg16_avg1fc").iloc[-1]
    assert (last["feature"], last["layer_kind"], last["non_negative"]) == (
        "31_511",
        "AdaptiveAvgPool2d",
        True,
    )


def test_resnet34_counts_arise_as_stated():
    table_df = models.feature_table("resnet34")
    expected = {"Conv2d": 8512, "BatchNorm2d": 8512, "ReLU": 7616, "MaxPool2d": 64, "AdaptiveAvgPool2d": 512}
    assert table_df["layer_kind"].value_counts().to_dict() == expected | {"BasicBlock": 3776}
    assert numbered(table_df, "ReLU") == 33
    assert numbered(table_df, "BasicBlock") == 16


def test_resnet34_unskipped_is_a_subset_with_the_same_names():
    unskipped_df = models.feature_table("resnet34", "unskipped")
    assert len(unskipped_df) == 4 * 64 + 3776 + 512
    assert set(unskipped_df["feature"]) < set(models.feature_names("resnet34"))
    inside = unskipped_df.loc[unskipped_df["layer_label"].str.startswith("layer"), "layer_kind"]
    assert set(inside) == {"BasicBlock"}


def test_inception_counts_arise_as_stated():
    table_df = models.feature_table("inception_v3")
    expected = {"ReLU": 17_216, "MaxPool2d": 1_312, "AvgPool2d": 7_136, "AdaptiveAvgPool2d": 2_048}
    assert table_df["layer_kind"].value_counts().to_dict() == expected
    assert table_df["non_negative"].all()
    assert not table_df["layer_label"].str.contains("Aux").any()


def test_inception_is_torchvisions_to_the_bit():
    torch.manual_seed(1)
    ours = models.build("inception_v3", 5)
    torch.manual_seed(1)
    theirs = torchvision.models.inception_v3(num_classes=5, init_weights=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)
    images_t = torch.randn(2, 3, 299, 299)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        assert torch.equal(ours(images_t), theirs(images_t))
        aux_t = torch.randn(2, 768, 17, 17)
        assert torch.equal(ours.AuxLogits(aux_t), theirs.AuxLogits(aux_t))


def test_inception_imagenet_input_folded_into_the_weights():
    """ImageNet's Inception rescales its input at run time; ours takes the same weights without a switch."""
    torch.manual_seed(2)
    theirs = torchvision.models.inception_v3(num_classes=5, init_weights=True, transform_input=True).eval()
    with torch.no_grad():
        theirs.Conv2d_1a_3x3.bn.running_mean.normal_()
    ours = models.build("inception_v3", 5).eval()
    ours.load_state_dict(fold_input_transform(theirs.state_dict()))
    images_t = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        first, expected = (
            ours.Conv2d_1a_3x3(images_t),
            theirs.Conv2d_1a_3x3(theirs._transform_input(images_t)),
        )
        plain = theirs.Conv2d_1a_3x3(images_t)
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first, plain, atol=1e-2)


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_minimum_input(architecture):
    """The minimum runs and, where it is the network's own, one px less does not."""
    minimum = models.minimum_input_px(architecture)
    model = on_meta(architecture, 3).eval()
    for input_px in (minimum, 100, 224, 256):
        assert model(torch.zeros((2, 3, input_px, input_px), device="meta")).shape == (2, 3)
    if architecture != "resnet34":
        with pytest.raises(RuntimeError):
            model(torch.zeros((2, 3, minimum - 1, minimum - 1), device="meta"))
    with pytest.raises(ValueError, match=f"minimum is {minimum} px"):
        models.build(architecture, 3, input_px=minimum - 1)


@pytest.mark.parametrize("input_px", [75, 128, 224, 299])
def test_inception_trains_at_any_input(input_px):
    """torchvision's auxiliary head fails in training under 291 px."""
    model = on_meta("inception_v3", 7).train()
    output = model(torch.zeros((4, 3, input_px, input_px), device="meta"))
    assert output.logits.shape == output.aux_logits.shape == (4, 7)


def test_vgg_one_linear_heads():
    one, average = on_meta("vgg16_1fc"), on_meta("vgg16_avg1fc")
    assert (one.classifier[1].in_features, one.classifier[1].out_features) == (25_088, 39)
    assert (average.classifier[1].in_features, average.classifier[1].out_features) == (512, 39)
    assert one.classifier[0].p == average.classifier[0].p == 0.5


def test_average_pool_is_avgpool7_at_224(small):
    maps_t = torch.randn(2, 512, 7, 7)
    torch.testing.assert_close(small.features[31](maps_t), nn.functional.avg_pool2d(maps_t, 7))


def test_seeded_by_the_caller():
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(models.build(SMALL, 4).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["features.0.weight"], states[2]["features.0.weight"])


def test_fingerprint_sees_one_value(small):
    before = fingerprint(small)
    assert before == fingerprint(small)
    with torch.no_grad():
        small.classifier[1].bias[0] += 1e-3
        changed = fingerprint(small)
        small.classifier[1].bias[0] -= 1e-3
    assert changed != before


# Unknown names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("vgg17", "vgg16"),
        ("ResNet-34", "resnet34"),
        ("torchvision:convnxt_tiny", "torchvision:convnext_tiny"),
        ("timm:vit_tiny_patch16_244", "timm:vit_tiny_patch16_224"),
    ],
)
def test_unknown_architecture_names_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="unknown; nearest: .*" + nearest):
        models.build(name, 3)


def test_unknown_feature_set():
    with pytest.raises(ValueError, match="table1, unskipped"):
        models.feature_table("vgg16", "table2")
    with pytest.raises(ValueError, match="paper's networks only"):
        models.feature_table("torchvision:resnet18", "unskipped")


# Checkpoints


def saved(path, model, **facts):
    torch.save({"state_dict": model.state_dict(), **facts}, path)
    return path


def test_checkpoint_round_trip(small, tmp_path):
    names = ["a", "b", "c", "d"]
    path = saved(tmp_path / "best.pt", small, architecture=SMALL, class_names=names, input_px=64)
    again, class_names = models.load(path, SMALL)
    assert class_names == names
    assert not again.training
    assert fingerprint(again) == fingerprint(small)
    plain = tmp_path / "plain.pt"
    torch.save({f"module.{name}": value for name, value in small.state_dict().items()}, plain)
    again = models.build(SMALL, 4, weights=str(plain))
    assert fingerprint(again) == fingerprint(small)


def test_checkpoint_of_another_architecture(small, tmp_path):
    path = saved(tmp_path / "a.pt", small, architecture=SMALL)
    with pytest.raises(ValueError, match="holds weights of vgg16_avg1fc, not of resnet34"):
        models.build("resnet34", 4, weights=path)
    torch.save(small.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=r"not fit resnet34 \(it fits vgg16_avg1fc\): 182 tensors"):
        models.build("resnet34", 4, weights=tmp_path / "plain.pt")


def test_checkpoint_of_other_classes(small, tmp_path):
    path = saved(tmp_path / "a.pt", small, architecture=SMALL)
    with pytest.raises(ValueError, match=r"size mismatch .*4, 512.*6, 512.*; keep_head=False takes all"):
        models.build(SMALL, 6, weights=path)
    model = models.build(SMALL, 6, weights=path, keep_head=False)
    assert torch.equal(model.features[0].weight, small.features[0].weight)
    assert model.classifier[1].out_features == 6


def test_checkpoint_of_another_architecture_is_refused_for_a_new_task_too(small, tmp_path):
    """Without the last layer a deeper network holds all a shallower one needs, and more."""
    path = tmp_path / "deep.pt"
    torch.save(torchvision.models.resnet34(num_classes=5).state_dict(), path)
    with pytest.raises(ValueError, match=r"\(it fits resnet34\): 0 tensors are missing, 96 surplus"):
        models.build("torchvision:resnet18", 4, weights=path, keep_head=False)
    state = {k: v for k, v in small.state_dict().items() if k.startswith("features.")}
    three = {f"classifier.{k}.{part}": torch.zeros(2) for k in (0, 3, 6) for part in ("weight", "bias")}
    torch.save(state | three, path)
    with pytest.raises(ValueError, match="surplus"):
        models.build(SMALL, 4, weights=path, keep_head=False)


def test_a_last_layer_of_another_kind_may_be_left_over(small, tmp_path):
    state = {k: v for k, v in small.state_dict().items() if k.startswith("features.")}
    head = {"classifier.1.0.weight": torch.zeros(9, 512), "classifier.1.0.bias": torch.zeros(9)}
    torch.save(state | head | {"AuxLogits.conv0.conv.weight": torch.zeros(2, 3, 1, 1)}, tmp_path / "a.pt")
    model = models.build(SMALL, 4, weights=tmp_path / "a.pt", keep_head=False)
    assert torch.equal(model.features[0].weight, small.features[0].weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed(prefix, tmp_path):
    torch.save({f"{prefix}conv.weight": torch.zeros(2)}, tmp_path / "a.pt")
    assert list(read_weights(tmp_path / "a.pt")[0]) == ["conv.weight"]


def test_checkpoint_missing_or_unsafe(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        models.build(SMALL, 4, weights=tmp_path / "nowhere.pt")
    torch.save(small, tmp_path / "whole.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    torch.save({"input_px": 8, "state_dict": small.state_dict()}, tmp_path / "other.pt")
    unsafe = "with weights_only=True"
    for name, message in (
        ("whole", unsafe),
        ("text", unsafe),
        ("none", "no state dict"),
        ("tensor", "holds a Tensor"),
        ("other", r"it lacks \['class_names'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            models.load(tmp_path / f"{name}.pt", SMALL)


def test_imagenet_weights_fill_all_but_the_last_layer(small, monkeypatch):
    """The download is replaced: VGG16's convolutional part."""
    states = {SMALL: {k: v for k, v in small.state_dict().items() if k.startswith("features.")}}
    monkeypatch.setattr(weights, "imagenet_state", states.__getitem__)
    model = models.build(SMALL, 9, weights="imagenet")
    assert torch.equal(model.features[28].weight, small.features[28].weight)
    assert not torch.equal(model.classifier[1].weight[:4], small.classifier[1].weight)


def test_imagenet_weights_of_inception_come_folded(monkeypatch):
    with torch.random.fork_rng():
        state = torchvision.models.inception_v3(num_classes=3, init_weights=False).state_dict()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *args, **kwargs: state)
    name = "Conv2d_1a_3x3.conv.weight"
    given = imagenet_state("inception_v3")[name]
    torch.testing.assert_close(given, fold_input_transform(state)[name], rtol=0, atol=0)
    assert not torch.equal(given, state[name])
    # torchvision's own network is given input in [-1, 1] (`normalisation`) and its weights unchanged.
    assert torch.equal(imagenet_state("torchvision:inception_v3")[name], state[name])


def test_unavailable_imagenet_weights(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(RuntimeError, match=r"alexnet are unavailable from .*random weights"):
        models.build("alexnet", 3, weights="imagenet")


# Input


def test_normalise_is_torchvisions():
    tiles = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    ours = models.normalise(torch.from_numpy(tiles))
    scaled = torch.from_numpy(tiles).permute(0, 3, 1, 2).double() / 255
    expected = torchvision.transforms.functional.normalize(
        scaled, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-6)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="uint8"):
        models.normalise(torch.zeros(1, 3, 8, 8))


def test_normalisation_follows_timm():
    pytest.importorskip("timm")
    assert models.normalisation("vgg16") == (models.IMAGENET_MEAN, models.IMAGENET_SD)
    mean, sd = models.normalisation("timm:vit_tiny_patch16_224")
    assert mean == sd == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "efficientnet_v2_l", "resnet18"])
def test_pretrained_torchvision_encoders_get_the_input_their_weights_expect(name):
    """Ours against torchvision's own preprocessing and, where it has one, its `transform_input`."""
    tiles = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3), dtype=np.uint8)
    ours = models.normalise(torch.from_numpy(tiles), *models.normalisation(f"torchvision:{name}"))
    stated = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    scaled = torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255
    theirs = torchvision.transforms.functional.normalize(scaled, stated.mean, stated.std)
    if name in ("googlenet", "inception_v3"):
        model = torchvision.models.get_model(name, weights=None, transform_input=True, init_weights=False)
        theirs = model._transform_input(theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_torchvision_encoder_has_a_normalisation():
    for name in torchvision.models.list_models(module=torchvision.models):
        mean, sd = models.normalisation(f"torchvision:{name}")
        assert len(mean) == len(sd) == 3


# Layer outputs


def test_layer_outputs_in_order_and_hooks_removed(small):
    small.eval()
    got = []
    watching = models.layer_outputs(small, SMALL, lambda layer, y: got.append((layer, tuple(y.shape))))
    with watching, torch.no_grad():
        for _ in range(2):
            small(torch.zeros(2, 3, 64, 64))
    assert [layer for layer, _ in got] == 2 * list(range(32))
    assert got[0][1] == (2, 64, 64, 64)
    assert got[31][1] == (2, 512, 1, 1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())


def test_hooks_removed_after_an_error(small):
    small.eval()
    with pytest.raises(KeyError), models.layer_outputs(small, SMALL, lambda layer, output_t: {}[layer]):
        small(torch.zeros(1, 3, 64, 64))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())


def test_layer_outputs_of_some_layers_and_gradients(small):
    small.eval()
    values = {}
    torch.manual_seed(0)
    images_t = torch.randn(1, 3, 64, 64, requires_grad=True)
    with models.layer_outputs(small, SMALL, values.__setitem__, layers=[29, 0]):
        small(images_t)
    assert list(values) == [0, 29]
    values[29].sum().backward()
    assert images_t.grad.abs().sum() > 0


def test_what_cannot_be_watched_is_refused(small):
    small.eval()
    for architecture, layers, message in (
        (SMALL, [32], r"has no layers \[32\]"),
        ("resnet34", None, "'conv1'"),
    ):
        with pytest.raises(ValueError, match=message):
            models.layer_outputs(small, architecture, print, layers=layers).__enter__()
    small.classifier.train()
    with pytest.raises(RuntimeError, match=r"training mode .*eval\(\)"):
        models.layer_outputs(small, SMALL, print).__enter__()
    small.eval()
    silent = [Layer(0, "unused", Call("classifier", 5, "Sequential", 4, 1, False, False, True))]
    with pytest.raises(RuntimeError, match="1 of 1 layers were not reached"), watch(small, silent, print):
        small(torch.zeros(1, 3, 64, 64))


# Any other encoder


@pytest.mark.parametrize(
    ("architecture", "kinds", "n_channels_last"),
    [
        ("torchvision:convnext_tiny", {"Conv2d", "CNBlock", "GELU", "Linear"}, 768),
        ("torchvision:swin_t", {"Conv2d", "SwinTransformerBlock", "Linear"}, 768),
        ("torchvision:googlenet", {"Conv2d", "BasicConv2d", "Inception", "MaxPool2d"}, 1024),
        ("timm:vit_tiny_patch16_224", {"Conv2d", "Block", "Linear", "LayerNorm"}, 192),
        ("timm:resnet18", {"Conv2d", "ReLU"}, 512),
    ],
)
def test_other_encoders_have_maps_and_tokens(architecture, kinds, n_channels_last):
    if architecture.startswith("timm"):
        pytest.importorskip("timm")
    table_df = models.feature_table(architecture)
    assert kinds <= set(table_df["layer_kind"])
    assert (table_df["layer"] == table_df["layer"].max()).sum() == n_channels_last
    assert models.minimum_input_px(architecture) <= 64


def test_networks_that_compute_widths_with_tensors_work():
    """RegNet cannot be built on the meta device."""
    name = "torchvision:regnet_y_400mf"
    for cached in (models.feature_layers, models._runs, models.minimum_input_px):
        cached.cache_clear()
    torch.manual_seed(4)
    model = models.build(name, 3, input_px=64).eval()
    torch.manual_seed(4)
    assert fingerprint(models.build(name, 3, input_px=64)) == fingerprint(model), "seeded by the caller"
    n_channels = []
    caught = lambda _, y: n_channels.append(y.shape[1 if y.ndim == 4 else -1])  # noqa: E731
    with models.layer_outputs(model, name, caught), torch.no_grad():
        model(torch.zeros(2, 3, 64, 64))
    assert sum(n_channels) == len(models.feature_names(name))


def test_the_input_itself_is_tried_in_training_too():
    with pytest.raises(ValueError, match=r"vit_b_16 accepts no input of 100 px; .* 96, 112"):
        models.check_input_px("torchvision:vit_b_16", 100)
    with pytest.raises(ValueError, match="accepts no input of 100 px"):
        models.build("torchvision:vit_b_16", 3, input_px=100)
    models.check_input_px("torchvision:inception_v3", 128)
    with pytest.raises(ValueError, match=r"accepts no input of 128 px in training; .* 299"):
        models.check_input_px("torchvision:inception_v3", 128, training=True)


def test_vit_takes_its_layers_at_another_input_size():
    pytest.importorskip("timm")
    name = "timm:vit_tiny_patch16_224"
    model = models.build(name, 3, input_px=64).eval()
    shapes = []
    with models.layer_outputs(model, name, lambda layer, y: shapes.append(tuple(y.shape))), torch.no_grad():
        model(torch.zeros(2, 3, 64, 64))
    assert len(shapes) == models.feature_table(name)["layer"].nunique()
    assert shapes[-3:] == [(2, 1, 192), (2, 16, 192), (2, 1, 192)]  # class token, 4 x 4 patches, embedding


class Mixed(nn.Module):
    """In-place functional ReLU and sum, a ReLU used twice, a pass-through: what `trace` must see through."""

    def __init__(self):
        super().__init__()
        self.block = Block()
        self.keep = nn.Identity()
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.keep(self.block(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.conv_2 = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        first = self.relu(self.conv(x))
        second = self.conv_2(self.relu(first))
        second += first
        return nn.functional.relu(second, inplace=True)


def test_trace_tells_calls_signs_and_new_outputs():
    calls = {(c.module, c.call): c for c in trace(Mixed(), 8)}
    assert list(calls) == [
        ("block.conv", 0),
        ("block.relu", 0),
        ("block.relu", 1),
        ("block.conv_2", 0),
        ("block", 0),
        ("keep", 0),
    ]
    assert [c.non_negative for c in calls.values()] == [False, True, True, False, True, True]
    assert [c.is_new for c in calls.values()] == [True, True, True, True, True, False]


def test_initialise_like_vgg_keeps_the_scale_of_activations():
    """After He's rule a deep stack passes variance on; PyTorch's default shrinks it layer by layer."""
    tiles_t = models.normalise(torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8))
    spread = {}
    for how in ("torchvision", "vgg"):
        torch.manual_seed(0)
        model = models.build("alexnet", 8, input_px=96).eval()
        if how == "vgg":
            construction.initialise_like_vgg(model)
        with torch.inference_mode():
            spread[how] = model.features(tiles_t).std().item()
    assert spread["vgg"] > 5 * spread["torchvision"]
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, torch.nn.Linear))


def test_normalisation_of_a_checkpoint(tmp_path):
    """Stated in the file, given by hand, of this library, or refused: never ImageNet's in silence."""
    state = models.build("alexnet", 3).state_dict()
    mean, sd = [0.707223, 0.578729, 0.703617], [0.211883, 0.230117, 0.177517]
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "mean": mean, "sd": sd}, tmp_path / "stated.pt")
    stated = models.build("alexnet", 3, weights=tmp_path / "stated.pt")
    assert models.normalisation_of(stated, "alexnet") == (tuple(mean), tuple(sd))
    plain = models.build("alexnet", 3, weights=tmp_path / "plain.pt")
    assert models.normalisation_of(plain, "alexnet") == (models.IMAGENET_MEAN, models.IMAGENET_SD)
    with pytest.raises(InputError, match="does not say how the pixels"):
        require_normalisation(tmp_path / "plain.pt")
    how = {"class_names": ["a", "b", "c"], "input_px": 64, "recipe": Recipe(architecture="alexnet", epochs=0)}
    with pytest.raises(InputError, match="set encoder_normalisation"):
        training.keep_as_it_is(plain, run_dir=tmp_path / "run", weights=str(tmp_path / "plain.pt"), **how)
    how |= {"run_dir": tmp_path / "run", "weights": str(tmp_path / "plain.pt"), "normalisation": (mean, sd)}
    training.keep_as_it_is(plain, **how)
    kept, _ = models.load(tmp_path / "run/best.pt", "alexnet")
    assert models.normalisation_of(kept, "alexnet") == (tuple(mean), tuple(sd))
    require_normalisation(tmp_path / "run/best.pt")
    quantified = []
    for network in (kept, models.build("alexnet", 3, weights=tmp_path / "stated.pt").eval()):
        tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        with tile_quantifier(network, Quantification(architecture="alexnet", device="cpu")) as quantify_batch:
            quantified.append(quantify_batch(tiles))
    assert torch.equal(*quantified)
