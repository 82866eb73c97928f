"""Encoders as files: what is shipped builds, takes published tensors, and sees normalised pixels."""

import re

import numpy as np
import pytest
import requests
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from lib.config import Config
from lib.errors import InputError, MissingInputError
from lib.features.quantification import Quantification
from lib.features.quantify import tile_quantifier
from lib.network import construction, encoder_files, models, tensor_names, weight_sources
from lib.network.token_layers import count_first_tokens

SMALL = """
architecture = "timm:vit_tiny_patch16_224"
arguments = { img_size = 32, patch_size = 8, depth = 2, embed_dim = 24, num_heads = 2, init_values = 1e-5 }
mean = [0.7, 0.6, 0.7]
sd = [0.2, 0.2, 0.2]
input_px = 32
"""


@pytest.fixture
def encoder(tmp_path):
    """Write an encoder file; its architecture."""

    def write(text=SMALL, name="own"):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        models.feature_layers.cache_clear()
        models._runs.cache_clear()
        return f"encoder:{path}"

    return write


def random_model(architecture, input_px=32, seed=1):
    torch.manual_seed(seed)
    return construction.construct(architecture, 3, input_px).eval()


@pytest.mark.parametrize("name", encoder_files.known())
def test_shipped_encoders_have_layers_and_take_their_input(name):
    architecture, stated = f"encoder:{name}", encoder_files.read(f"encoder:{name}")
    assert all((stated.url, stated.licence, stated.title, stated.weights))
    models.check_input_px(architecture, stated.input_px)
    table_df = models.feature_table(architecture)
    assert table_df["feature"].is_unique
    assert models.normalisation(architecture) == (stated.mean, stated.sd)
    config = Config(cohort="x", encoder=name)
    assert config.architecture == architecture
    assert (config.input_px, config.test_on) == (stated.input_px, "all")
    assert config.network_kind == "as it is"
    if stated.mpp:
        assert config.tile_um / config.input_px == pytest.approx(stated.mpp)


# Published on the models' pages: width, blocks, class token and registers, parameters in millions.
@pytest.mark.parametrize(
    ("name", "width", "n_blocks", "first", "millions"),
    [
        ("uni", 1024, 24, (1, 0), 303),
        ("phikon-v2", 1024, 24, (1, 0), 303),
        ("uni2-h", 1536, 24, (1, 8), 681),
        ("virchow2", 1280, 32, (1, 4), 632),
        ("h-optimus-0", 1536, 40, (1, 4), 1134),
        ("gigapath", 1536, 40, (1, 0), 1134),
        ("dinov2-small", 384, 12, (1, 0), 21.6),
    ],
)
def test_shipped_transformers_are_the_published_ones(name, width, n_blocks, first, millions):
    model = construction.skeleton(f"encoder:{name}", 2)
    assert (model.embed_dim, len(model.blocks), count_first_tokens(model)) == (width, n_blocks, first)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    "arguments",
    ["", "reg_tokens = 3, ", 'class_token = false, global_pool = "avg", ', "dynamic_img_size = true, "],
)
def test_parts_of_the_tokens_equal_independent_hooks(encoder, arguments):
    text = SMALL.replace("arguments = { ", "arguments = { " + arguments)
    architecture = encoder(text + 'layers = ["blocks\\\\.\\\\d+", "norm"]\n')
    model = random_model(architecture)
    caught = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, y, name=name: caught.__setitem__(name, y))
    model.get_classifier().register_forward_pre_hook(lambda _, x: caught.__setitem__("embedding", x[0]))
    tiles = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with tile_quantifier(model, Quantification(architecture=architecture)) as quantify:
        values = quantify(tiles).numpy()
    n_class = int("class_token" not in arguments)
    n_first = n_class + (3 if "reg_tokens" in arguments else 0)
    wanted = []
    for name in ("blocks.0", "blocks.1", "norm"):
        tokens = caught[name].numpy()
        assert tokens.shape[1] == 16 + n_first
        pieces = [tokens[:, :n_class], tokens[:, n_class:n_first], tokens[:, n_first:]]
        wanted += [piece.sum(1) for piece in pieces if piece.shape[1]]
    if not n_class:  # its norm comes after the mean over patches
        wanted.pop()
    wanted.append(caught["embedding"].numpy())
    labels = models.feature_table(architecture)["layer_label"].drop_duplicates().tolist()
    assert labels[-1] == "embedding"
    if n_class:
        assert labels[0] == "blocks.0, class token"
    np.testing.assert_allclose(values, np.concatenate(wanted, axis=1), rtol=1e-4, atol=1e-5)


def test_the_file_chooses_parts_and_layers(encoder):
    architecture = encoder(SMALL + 'parts = ["class"]\nlayers = ["blocks\\\\.1"]\n')
    assert models.feature_table(architecture)["layer_label"].unique().tolist() == ["blocks.1, class token"]


@pytest.mark.parametrize("name", ["timm:swin_tiny_patch4_window7_224", "timm:maxvit_nano_rw_256"])
def test_layers_of_windowed_transformers_do_not_depend_on_the_input(name):
    """At 256 px maps of MaxViT are as wide as they have channels; at 224 px Swin's last map is one window."""
    pytest.importorskip("timm")
    found = {}
    for input_px in (192, 224, 256, 448):
        models.check_input_px(name, input_px)
        found[input_px] = [models._identity(layer) for layer in models._layers(name, "table1", input_px)]
    assert found[192] == found[224] == found[256] == found[448]
    last_axis = {key[0]: key[3] for key in found[256]}
    if "maxvit" in name:  # channels are last inside the blocks of attention, first outside
        assert last_axis["stages.0.blocks.0.attn_block"] == -1
        assert last_axis["stages.0.blocks.0.conv"] == 1


def checkpoint_of(model, path, rename=lambda key: key):
    state = {rename(key): value.clone() for key, value in model.state_dict().items()}
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefixed_tensors_fill_the_network(encoder, tmp_path, suffix):
    architecture = encoder(SMALL + 'key_prefix = "teacher.backbone."\n')
    published = random_model(architecture, seed=5)
    path = checkpoint_of(published, tmp_path / f"w{suffix}", lambda key: f"teacher.backbone.{key}")
    model = models.build(architecture, 2, weights=path, keep_head=False, input_px=32).eval()
    images_t = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(images_t), published.forward_features(images_t))
    checkpoint_of(published, path)
    with pytest.raises(InputError, match=r"no tensor of .* begins with key_prefix"):
        models.build(architecture, 2, weights=path, keep_head=False, input_px=32)


def test_position_embeddings_are_interpolated_for_another_input(encoder, tmp_path):
    architecture = encoder()
    published = random_model(architecture, seed=5)
    path = checkpoint_of(published, tmp_path / "w.pth")
    model = models.build(architecture, 2, weights=path, keep_head=False, input_px=48)
    wanted = timm.layers.resample_abs_pos_embed(published.pos_embed, [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(model.pos_embed, wanted)


def test_tensors_by_their_order(encoder, tmp_path):
    architecture = encoder(SMALL + 'keys = "by order"\n')
    published = random_model(architecture, seed=5)
    numbers = iter(range(1000))
    path = checkpoint_of(published, tmp_path / "w.pth", lambda key: f"layer{next(numbers)}")
    model = models.build(architecture, 2, weights=path, keep_head=False, input_px=32)
    assert torch.equal(model.blocks[1].mlp.fc2.weight, published.blocks[1].mlp.fc2.weight)
    state = torch.load(path, weights_only=True)
    shifted = dict(zip(state, [*list(state.values())[1:], next(iter(state.values()))], strict=True))
    torch.save(shifted, path)
    with pytest.raises(InputError, match="does not fit"):
        models.build(architecture, 2, weights=path, keep_head=False, input_px=32)
    torch.save(dict(list(state.items())[1:]), path)
    with pytest.raises(InputError, match="do not fit by order"):
        models.build(architecture, 2, weights=path, keep_head=False, input_px=32)


def test_names_of_transformers_dinov2(encoder):
    """Renamed as the documentation of transformers names a Dinov2, and back."""
    model = random_model(encoder())
    published = {"embeddings.mask_token": torch.zeros(1, 24)}
    own = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    words = {"attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1"}
    words |= {
        "ls2.gamma": "layer_scale2.lambda1",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
    }
    for key, value in model.state_dict().items():
        if key.startswith("head."):
            continue
        block = re.match(r"blocks\.(\d+)\.(.*)", key)
        if block and block[2].startswith("attn.qkv"):
            end = key.rsplit(".", 1)[1]
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                published[f"encoder.layer.{block[1]}.attention.attention.{part}.{end}"] = piece
            continue
        name = f"encoder.layer.{block[1]}.{block[2]}" if block else key.replace("norm.", "layernorm.")
        name = own.get(name, name)
        for mine, theirs in words.items():
            name = name.replace(mine, theirs)
        published[name] = value
    found = tensor_names.of_transformers_dinov2(published)
    wanted = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("sd = [0.2, 0.2, 0.2]", ""), "sd is missing"),
        (("0.2, 0.2, 0.2]", "0.2, 0.2, 0]"), "every sd is above 0"),
        (("mean = [0.7, 0.6, 0.7]", "mean = [179, 153, 179]"), "less than or equal to 1"),
        (("timm:vit", "vit"), "write timm:<model>"),
        (("timm:vit_tiny_patch16_224", "timm:vit_tinny"), "vit_tinny.*nearest"),
        (("num_heads", "n_heads"), "does not take arguments"),
        (("init_values = 1e-5", 'mlp_layer = "Swiggle"'), "no class of timm.layers"),
        (("input_px = 32", 'input_px = 32\nlayers = ["("]'), "not a regular expression"),
        (("input_px = 32", "input_pix = 32"), "did you mean 'input_px'"),
        (
            ("input_px = 32", 'input_px = 32\nparts = ["cls"]'),
            "'class', 'registers', 'patches' or 'embedding'",
        ),
    ],
)
def test_a_wrong_file_says_what_is_wrong(encoder, change, message):
    architecture = encoder(SMALL.replace(*change))
    with pytest.raises(InputError, match=message):
        models.feature_table(architecture)


def test_unknown_encoders_name_those_there_are():
    with pytest.raises(MissingInputError, match=r"no encoder 'unii'.*uni, uni2-h, virchow2"):
        models.check_architecture("encoder:unii")


def test_weights_stay_where_they_are(tmp_path, monkeypatch):
    assert weight_sources.local_file("data/w.pth", tmp_path) == tmp_path / "data/w.pth"
    assert weight_sources.local_file("hub:a/b/c.bin", tmp_path) is None
    (tmp_path / "some_model").mkdir()
    (tmp_path / "some_model" / "w.pth").write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    found = weight_sources.local_file("package:some_model/w.pth", tmp_path)
    assert found == tmp_path / "some_model/w.pth"
    with pytest.raises(MissingInputError, match=r"has no file v\.pth"):
        weight_sources.local_file("package:some_model/v.pth", tmp_path)
    with pytest.raises(MissingInputError, match="not installed: pip install other-model"):
        weight_sources.local_file("package:other_model/w.pth", tmp_path)


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch):
    asked = []

    def refused(url, timeout):
        asked.append(timeout)
        raise requests.ConnectTimeout

    monkeypatch.setattr(weight_sources.requests, "head", refused)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(RuntimeError, match=r"reach \(https://huggingface.co: ConnectTimeout\).*encoder_w"):
        weight_sources.fetched("hub:MahmoodLab/UNI/pytorch_model.bin")
    with pytest.raises(RuntimeError, match="out of reach"):
        models.build("timm:vit_tiny_patch16_224", 2, weights="imagenet")
    assert asked == [5.0, 5.0]
    with pytest.raises(InputError, match="write hub:<owner>/<repository>/<file>"):
        weight_sources.fetched("hub:UNI")


def test_a_cached_file_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repo, name: str(tmp_path / repo / name)
    )
    monkeypatch.setattr(weight_sources.requests, "head", lambda *args, **kwargs: pytest.fail("asked the hub"))
    assert weight_sources.fetched("hub:a/b/folder/c.bin") == tmp_path / "a/b/folder/c.bin"


# In a configuration


def test_a_cohort_names_an_encoder_and_its_weights(encoder, tmp_path):
    path = encoder().removeprefix("encoder:")
    with pytest.raises(InputError, match="states no weights: set encoder_weights"):
        Config.checked({"cohort": "x", "encoder": path})
    values = {"cohort": "x", "encoder": path, "encoder_weights": "w.pth"}
    config = Config.checked(values)
    assert (config.weights, config.input_px, config.weights_file) == ("w.pth", 32, True)
    assert config.encoder_normalisation == ((0.7, 0.6, 0.7), (0.2, 0.2, 0.2))
    assert config.run_name.endswith("__as_it_is")
    assert not config.classifies
    null = Config.checked(
        {"cohort": "x", "encoder": path, "encoder_weights": "w.pth", "null_network": "untrained"}
    )
    assert (null.weights, null.network_kind) == ("", "untrained")
    own_tiles = {"cohort": "x", "encoder": "uni", "tile_px": 512, "tile_mpp": 0.25}
    assert Config.checked(own_tiles).tile_um == 128
    with pytest.raises(InputError, match="leave architecture out"):
        Config.checked({"cohort": "x", "encoder": "uni", "architecture": "vgg16"})
    with pytest.raises(InputError, match="encoder_weights are of an encoder file"):
        Config.checked({"cohort": "x", "encoder_weights": "w.pth"})


def test_a_changed_file_makes_a_new_configuration(encoder):
    path = encoder().removeprefix("encoder:")
    values = {"cohort": "x", "encoder": path, "encoder_weights": "w.pth"}
    before = Config.checked(values).encoder_digest
    encoder(SMALL + 'parts = ["class"]\n')
    assert len(before) == 12
    assert Config.checked(values).encoder_digest != before
    assert Config.checked({"cohort": "x"}).encoder_digest == ""


def test_what_another_scale_means_is_said():
    assert encoder_files.scale_note("encoder:uni", 0.5) == encoder_files.scale_note("vgg16", 2.0) == ""
    assert "trained at 0.5 µm/px; it sees these tiles at 2.26" in encoder_files.scale_note(
        "encoder:uni", 2.26
    )


def test_a_head_that_is_a_convolution_has_no_embedding():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1))
    assert models.find_embedding(model, 8) is None


def test_real_weights_give_the_numbers_of_their_own_implementation():
    """EfficientNet-Lite0 under timm; expected: the package efficientnet-lite-pytorch 0.1.0, on this input."""
    weights = encoder_files.read("encoder:efficientnet-lite0").weights
    path = weight_sources.local_file(weights, encoder_files.ROOT)
    model = models.build("encoder:efficientnet-lite0", 1000, weights=path).eval()
    line = torch.linspace(-1, 1, 224)
    ones = torch.ones(224, 224)
    channels = [line[:, None] * line, (3 * line[:, None]).sin() * ones, (5 * line).cos() * ones]
    with torch.no_grad():
        logits = model(torch.stack(channels)[None])[0]
    top = logits.topk(3)
    assert top.indices.tolist() == [885, 722, 818]
    torch.testing.assert_close(top.values, torch.tensor([4.9927, 4.9456, 4.7495]), rtol=1e-3, atol=1e-3)


def test_the_readme_lists_the_shipped_encoders():
    page = (encoder_files.ROOT / "data/README.md").read_text()
    section = page.split("### A foundation model", 1)[1].split("\n### ", 1)[0]
    lines = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    named = [name for cells in lines[1:] for name in re.findall(r"`([\w-]+)`", cells[1])]
    assert sorted(named) == encoder_files.known()
    for cells in lines[1:]:
        counts = [int(number.replace(",", "")) for number in re.findall(r"\d+,\d+", cells[3])]
        names = re.findall(r"`([\w-]+)`", cells[1])
        assert counts == [len(models.feature_names(f"encoder:{name}")) for name in names]
