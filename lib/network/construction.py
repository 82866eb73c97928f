"""Networks by name with random weights: the thirteen of Table 1, timm's, torchvision's, encoder files."""

from functools import lru_cache
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.vgg import cfgs as vgg_plans
from torchvision.models.vgg import make_layers

from lib.errors import InputError
from lib.network import encoder_files
from lib.network.inception import inception_v3


def construct(architecture: str, n_classes: int, input_px: int, pretrained: bool = False) -> nn.Module:
    """A network with random weights from torch's generator; with `pretrained`, a timm model has its own.

    timm's models of fixed input size and torchvision's ViTs are made for `input_px`; others do not depend
    on it. InputError where an encoder file's arguments are not those of its constructor.
    """
    arguments: dict[str, Any] = {}
    if encoder_files.is_file(architecture):
        stated = encoder_files.read(architecture)
        architecture, arguments = stated.architecture, _with_classes(stated.arguments)
        try:
            return _construct(architecture, n_classes, input_px, pretrained, arguments)
        except (TypeError, AttributeError) as error:
            raise InputError(f"{architecture} does not take arguments {stated.arguments}: {error}") from error
    return _construct(architecture, n_classes, input_px, pretrained, arguments)


def _with_classes(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments named `..._layer` given by the name of a class of timm's or torch's: that class."""
    layers = import_timm().layers
    found = dict(arguments)
    for key, value in arguments.items():
        if key.endswith("_layer") and isinstance(value, str):
            found[key] = getattr(layers, value, None) or getattr(nn, value, None)
            if found[key] is None:
                raise InputError(f"{key} = {value!r} is no class of timm.layers or torch.nn")
    return found


def _construct(
    architecture: str, n_classes: int, input_px: int, pretrained: bool, arguments: dict[str, Any]
) -> nn.Module:
    source, _, name = architecture.rpartition(":")
    size: dict[str, Any] = {}
    if source == "timm":
        settings = timm_settings(name)
        fixed = bool(settings and settings.fixed_input_size) or "img_size" in arguments
        if fixed and not arguments.get("dynamic_img_size"):
            size = {"img_size": input_px}
        arguments = {k: v for k, v in arguments.items() if k != "num_classes"} | size
        return import_timm().create_model(name, pretrained=pretrained, num_classes=n_classes, **arguments)
    if name == "inception_v3" and not source:
        return inception_v3(n_classes)
    if name in ("vgg16_1fc", "vgg16_avg1fc"):
        return _vgg16_one_linear(n_classes, average=name == "vgg16_avg1fc")
    if name.startswith("vit_"):
        size = {"image_size": input_px}
    return torchvision.models.get_model(name, weights=None, num_classes=n_classes, **arguments, **size)


def _vgg16_one_linear(n_classes: int, average: bool) -> nn.Module:
    """VGG16's convolutional part, then Dropout(0.5) and one Linear (Table 1, last two rows).

    With `average`, the mean over the last map is layer 31: AvgPool2d(7) at 224 px, here adaptive so that
    other input sizes work.
    """
    features = make_layers(vgg_plans["D"])
    if average:
        features.append(nn.AdaptiveAvgPool2d(1))
    pool = nn.Identity() if average else nn.AdaptiveAvgPool2d(7)
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(512 if average else 512 * 7 * 7, n_classes))
    initialise_like_vgg(features)
    initialise_like_vgg(head)
    model = nn.Sequential()
    parts = {"features": features, "avgpool": pool, "flatten": nn.Flatten(), "classifier": head}
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def initialise_like_vgg(model: nn.Module) -> None:
    """Draw all weights as torchvision draws VGG's: convolutions by He's rule, Linear from N(0, 0.01).

    torchvision leaves AlexNet at PyTorch's default, with which a small cohort spends most of its training on
    a plateau (demo cohort after 120 steps: at chance, against 43 % validation tile accuracy).

    References
    ----------
    He et al. 2015, "Delving deep into rectifiers".
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def skeleton(architecture: str, n_classes: int, input_px: int | None = None) -> nn.Module:
    """The network on the meta device: shapes without values."""
    input_px = input_px or default_px(architecture)
    try:
        with torch.device("meta"):
            return construct(architecture, n_classes, input_px)
    except NotImplementedError:  # RegNet computes its widths with tensors, which have no values there
        with torch.random.fork_rng(devices=[]):  # keeps the caller's seed for the caller's network
            return construct(architecture, n_classes, input_px).to("meta")


@lru_cache(maxsize=64)
def tensor_shapes(architecture: str, n_classes: int) -> dict[str, torch.Size]:
    """Shape of every tensor of the state dict, by name."""
    return {key: value.shape for key, value in skeleton(architecture, n_classes).state_dict().items()}


def last_layer(architecture: str) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    two, three = tensor_shapes(architecture, 2), tensor_shapes(architecture, 3)
    return {key for key in two if two[key] != three[key]}


def default_px(architecture: str) -> int:
    """Input edge at which an encoder's layers are looked up: 224 px, or what its file or timm states."""
    if encoder_files.is_file(architecture):
        return encoder_files.read(architecture).input_px
    source, _, name = architecture.rpartition(":")
    settings = timm_settings(name) if source == "timm" else None
    return settings.input_size[-1] if settings else 224


def timm_settings(name: str) -> Any:
    """What timm states of a model's weights (input_size, mean, std and more); None where it has none."""
    timm = import_timm()
    return timm.get_pretrained_cfg(name) if timm.is_model_pretrained(name) else None


def import_timm() -> Any:
    """The module timm; RuntimeError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise RuntimeError("architectures named timm:<model> need timm: pip install timm") from error
    return timm
