"""The thirteen networks of Table 1, any timm or torchvision encoder, their weights, layers and feature names.

Layers are numbered as in the paper for AlexNet and VGG (index in `features`; VGG16 0 to 30) and by
execution order for the others; a feature is `<layer>_<channel>`, e.g. `29_499`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from os import PathLike

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import nn
from torchvision.models.vgg import cfgs as vgg_plans
from torchvision.models.vgg import make_layers

from lib.network.architectures import ARCHITECTURES, MINIMUM_PX, check_name, check_px
from lib.network.inception import inception_v3
from lib.network.layers import Layer, chain_layers, numbered_layers, trace, watch
from lib.network.weights import check_facts, fill, imagenet_state, misfit, read_weights

FEATURE_SETS = ("table1", "unskipped")
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Sides of input, in px, at which other encoders are tried.
TRIED_PX = (8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 240, 256, 299, 320, 384, 448, 512)
# torchvision's weights of these expect pixels scaled to [-1, 1]: with them it turns `transform_input` on,
# which undoes ImageNet's normalisation. A network built here never has that switch and is given such input.
RESCALED = ("googlenet", "inception_v3")


def check_architecture(architecture: str) -> None:
    """ValueError naming the nearest known names, unless `architecture` can be built."""
    known: Sequence[str] = ARCHITECTURES
    source, _, name = architecture.partition(":")
    if source == "torchvision" and name:
        known = [f"torchvision:{n}" for n in torchvision.models.list_models(module=torchvision.models)]
    elif source == "timm" and name:
        timm = _import_timm()
        known = [f"timm:{n}" for n in timm.list_models()]
        if timm.is_model(name):
            return
    check_name(architecture, known)


@lru_cache(maxsize=64)
def minimum_input_px(architecture: str) -> int:
    """Smallest side of a square input, in px, that the architecture takes.

    Known for the thirteen (Table 1); for a timm or torchvision encoder the first of `TRIED_PX` that runs.
    """
    check_architecture(architecture)
    if architecture in MINIMUM_PX:
        return MINIMUM_PX[architecture]
    for input_px in TRIED_PX:
        if _runs(architecture, input_px):
            return input_px
    raise ValueError(f"{architecture} takes no square RGB input from 8 to 512 px: it cannot be used here.")


def check_input_px(architecture: str, input_px: int, training: bool = False) -> None:
    """ValueError unless the network takes square inputs of `input_px`, naming the minimum or sizes that fit.

    With `training` it must take them in training mode too (auxiliary heads may need more than the network).
    """
    check_px(architecture, input_px, minimum_input_px(architecture))
    if architecture in MINIMUM_PX or _runs(architecture, input_px, training):
        return
    fit = [
        px for px in sorted(TRIED_PX, key=lambda px: abs(px - input_px)) if _runs(architecture, px, training)
    ]
    how = " in training" if training else ""
    raise ValueError(
        f"{architecture} takes no input of {input_px} px{how}; of the sizes tried it takes, nearest first, "
        f"{', '.join(map(str, fit[:3])) or 'none'}. Make tiles with another input_px or choose another "
        "architecture."
    )


def build(
    architecture: str,
    n_classes: int,
    *,
    weights: str | PathLike | None = None,
    class_names: Sequence[str] | None = None,
    keep_head: bool = True,
    input_px: int = 224,
) -> nn.Module:
    """A network with a last layer of `n_classes` outputs, on the CPU, in training mode.

    At 224 px the thirteen are those of Table 1 to the parameter. At other sizes AlexNet and VGG pool their
    last map to 6 x 6 or 7 x 7 (adaptive pooling, the identity at 224 px), so that every Linear keeps its
    shape; vgg16_avg1fc averages whatever map there is. Random weights come from torch's generator: seed it
    before the call.

    Parameters
    ----------
    architecture : str
        One of `ARCHITECTURES`, or "timm:<model>", "torchvision:<model>".
    n_classes : int
        Outputs of the last layer.
    weights : None, "imagenet" or path
        None: random. "imagenet": torchvision's (or timm's) weights for all but the last layer, downloaded
        once by torch. A path: a checkpoint of `lib.network.training`, or a plain state dict, read with
        `weights_only=True`.
    class_names : sequence of str, optional
        Class names in order; compared with those the checkpoint carries.
    keep_head : bool
        False: take all but the last layer from the checkpoint, whatever its classes (a new task).
    input_px : int
        Side of the input. The thirteen do not depend on it; transformers with a position embedding do.

    Raises
    ------
    ValueError
        Unknown architecture, input too small, checkpoint of another architecture or class list.
    FileNotFoundError, RuntimeError
        No checkpoint at that path; ImageNet weights not to be had.
    """
    check_architecture(architecture)
    if n_classes < 1:
        raise ValueError(f"n_classes is {n_classes}; a network needs at least 1 output.")
    check_input_px(architecture, input_px)
    imagenet = isinstance(weights, str) and weights == "imagenet"
    model = _untrained(architecture, n_classes, input_px, pretrained=imagenet)
    if weights is None or (imagenet and architecture.startswith("timm:")):
        return model
    if imagenet:
        state, keep_head = imagenet_state(architecture), False
    else:
        state, facts = read_weights(weights)
        check_facts(facts, weights, architecture, class_names if keep_head else None)
    own, head = model.state_dict(), _head_keys(architecture)
    problem = misfit({key: value.shape for key, value in own.items()}, state, head, keep_head)
    if problem:
        raise ValueError(
            f"{weights} does not fit {architecture}{_resemblance(state, architecture)}: {problem}"
        )
    fill(model, state, head, keep_head)
    return model


def _untrained(architecture: str, n_classes: int, input_px: int, pretrained: bool = False) -> nn.Module:
    source, _, name = architecture.rpartition(":")
    if source == "timm":
        timm = _import_timm()
        fixed = timm.get_pretrained_cfg(name).fixed_input_size if timm.is_model_pretrained(name) else False
        size = {"img_size": input_px} if fixed else {}
        return timm.create_model(name, pretrained=pretrained, num_classes=n_classes, **size)
    if source == "torchvision":
        size = {"image_size": input_px} if name.startswith("vit_") else {}
        return torchvision.models.get_model(name, weights=None, num_classes=n_classes, **size)
    if name == "inception_v3":
        return inception_v3(n_classes)
    if name in ("vgg16_1fc", "vgg16_avg1fc"):
        return _vgg16_one_linear(n_classes, average=name == "vgg16_avg1fc")
    return torchvision.models.get_model(name, weights=None, num_classes=n_classes)


def _vgg16_one_linear(n_classes: int, average: bool) -> nn.Module:
    """VGG16's convolutional part, then Dropout(0.5) and one Linear (Table 1, last two rows).

    With `average`, the mean over the last map is layer 31: AvgPool2d(7) at 224 px, written adaptively so
    that other input sizes work.
    """
    features = make_layers(vgg_plans["D"])
    if average:
        features.append(nn.AdaptiveAvgPool2d(1))
    pool = nn.Identity() if average else nn.AdaptiveAvgPool2d(7)
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(512 if average else 512 * 7 * 7, n_classes))
    for module in features:
        if isinstance(module, nn.Conv2d):  # as torchvision initialises its VGGs
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    nn.init.normal_(head[1].weight, 0, 0.01)
    nn.init.zeros_(head[1].bias)
    model = nn.Sequential()
    for name, part in {
        "features": features,
        "avgpool": pool,
        "flatten": nn.Flatten(),
        "classifier": head,
    }.items():
        model.add_module(name, part)
    return model


def _import_timm():
    try:
        import timm
    except ImportError as error:
        raise RuntimeError("architectures named timm:<model> need timm: pip install timm") from error
    return timm


@lru_cache(maxsize=64)
def _shapes(architecture: str, n_classes: int) -> dict[str, torch.Size]:
    state = _skeleton(architecture, n_classes, _default_px(architecture)).state_dict()
    return {key: value.shape for key, value in state.items()}


def _head_keys(architecture: str) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    two, three = _shapes(architecture, 2), _shapes(architecture, 3)
    return {key for key in two if two[key] != three[key]}


def _resemblance(state: dict[str, torch.Tensor], architecture: str) -> str:
    """ ", it is of <name>" when the tensors are those of another of the thirteen, whatever its classes."""
    for other in ARCHITECTURES:
        shapes, head = _shapes(other, 2), _head_keys(other)
        same = set(state) == set(shapes) and all(
            state[key].shape[key in head :] == shape[key in head :] for key, shape in shapes.items()
        )
        if same:
            return f", it is of {other}" if other != architecture else ""
    return ""


def normalisation(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and sd the input is normalised with, of pixels in 0 to 1: what torchvision or timm state for
    their weights; ImageNet's for the thirteen and for "", a network of one's own.
    """
    if not architecture:
        return IMAGENET_MEAN, IMAGENET_SD
    check_architecture(architecture)
    source, _, name = architecture.rpartition(":")
    if source == "torchvision":
        if name in RESCALED:
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        stated = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        return tuple(stated.mean), tuple(stated.std)
    if source != "timm":
        return IMAGENET_MEAN, IMAGENET_SD
    timm = _import_timm()
    settings = timm.get_pretrained_cfg(name) if timm.is_model_pretrained(name) else None
    return (tuple(settings.mean), tuple(settings.std)) if settings else (IMAGENET_MEAN, IMAGENET_SD)


def normalise(
    tiles_t: torch.Tensor, mean: Sequence[float] = IMAGENET_MEAN, sd: Sequence[float] = IMAGENET_SD
) -> torch.Tensor:
    """(x / 255 - mean) / sd: uint8 [B, H, W, 3] on any device to float32 [B, 3, H, W], channels last."""
    if tiles_t.dtype != torch.uint8 or tiles_t.ndim != 4 or tiles_t.shape[3] != 3:
        raise ValueError(
            f"tiles must be uint8 [B, H, W, 3]; these are {tiles_t.dtype} {list(tiles_t.shape)}."
        )
    centre = torch.tensor(mean, device=tiles_t.device).view(3, 1, 1) * 255
    scale = torch.tensor(sd, device=tiles_t.device).view(3, 1, 1) * 255
    images_t = tiles_t.permute(0, 3, 1, 2).to(torch.float32)
    return images_t.sub_(centre).div_(scale)


@lru_cache(maxsize=64)
def feature_layers(architecture: str, features: str = "table1") -> tuple[Layer, ...]:
    """The layers whose channels are features, in execution order, found on the meta device (nothing is
    computed).

    "table1" gives the counts of Table 1: for AlexNet and VGG every module of `features`; for ResNet34 every
    call of every leaf module but `fc`, and the 16 block outputs (each equal to its block's second ReLU);
    for Inception v3 every ReLU and pool outside the auxiliary head; for another encoder every module call
    that gives a new map or token list. "unskipped" is what the paper's text says of ResNet34: only layers
    no skip connection passes by, i.e. stem, block outputs, last pool, with the numbers they have in
    "table1"; the other twelve have no skip connections and the two sets are one.
    """
    check_architecture(architecture)
    if features not in FEATURE_SETS:
        raise ValueError(f"features is {features!r}; it must be one of {', '.join(FEATURE_SETS)}.")
    if features == "unskipped" and architecture not in ARCHITECTURES:
        raise ValueError(
            f"features='unskipped' is defined for the paper's networks only, not {architecture}."
        )
    model = _skeleton(architecture, 2, _default_px(architecture))
    with torch.device("meta"):
        calls = trace(model, _default_px(architecture))
    if architecture == "resnet34":
        layers = numbered_layers([call for call in calls if call.is_leaf or call.kind == "BasicBlock"])
        if features == "unskipped":
            inside = ("layer1", "layer2", "layer3", "layer4")
            layers = [
                x for x in layers if x.call.kind == "BasicBlock" or not x.call.module.startswith(inside)
            ]
    elif architecture == "inception_v3":
        kinds = ("ReLU", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d")
        layers = numbered_layers([call for call in calls if call.kind in kinds])
    elif architecture in ARCHITECTURES:
        layers = chain_layers([call for call in calls if call.module.startswith("features.")], architecture)
    else:
        layers = numbered_layers([call for call in calls if call.is_new])
    return tuple(layers)


def _default_px(architecture: str) -> int:
    """Side at which an encoder's layers are looked up: 224 px, or what timm states for it."""
    if not architecture.startswith("timm:"):
        return 224
    timm = _import_timm()
    name = architecture.removeprefix("timm:")
    return timm.get_pretrained_cfg(name).input_size[-1] if timm.is_model_pretrained(name) else 224


def _skeleton(architecture: str, n_classes: int, input_px: int) -> nn.Module:
    """The network on the meta device: shapes without values."""
    try:
        with torch.device("meta"):
            return _untrained(architecture, n_classes, input_px)
    except NotImplementedError:  # it computes its widths with tensors, which have no values there (RegNet)
        with torch.random.fork_rng(devices=[]):  # the caller's seed is for its own network
            return _untrained(architecture, n_classes, input_px).to("meta")


@lru_cache(maxsize=256)
def _runs(architecture: str, input_px: int, training: bool = False) -> bool:
    """Whether a forward pass of this size gives layers and, with `training`, one in training mode passes."""
    try:
        model = _skeleton(architecture, 2, input_px)
        with torch.device("meta"):
            calls = trace(model, input_px)
            if training:
                model.train()(torch.zeros((2, 3, input_px, input_px)))
        return bool(calls)
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError):
        return False


def feature_table(architecture: str, features: str = "table1") -> pd.DataFrame:
    """One row per feature, in the order of every feature matrix.

    Columns: feature (str, "29_499"), layer (int), channel (int), layer_label (str, "relu5_3"), layer_kind
    (str, class of the module), non_negative (bool: no weights or input can make it negative; S1 Fig D).
    """
    layers = feature_layers(architecture, features)
    n_channels = [layer.call.n_channels for layer in layers]
    channel = np.concatenate([np.arange(n) for n in n_channels])
    number = np.repeat([layer.layer for layer in layers], n_channels)
    return pd.DataFrame(
        {
            "feature": [f"{k}_{z}" for k, z in zip(number, channel, strict=True)],
            "layer": number,
            "channel": channel,
            "layer_label": np.repeat([layer.label for layer in layers], n_channels),
            "layer_kind": np.repeat([layer.call.kind for layer in layers], n_channels),
            "non_negative": np.repeat([layer.call.non_negative for layer in layers], n_channels),
        }
    )


def feature_names(architecture: str, features: str = "table1") -> list[str]:
    """Names `<layer>_<channel>` of every feature, in order."""
    return feature_table(architecture, features)["feature"].tolist()


@contextmanager
def layer_outputs(
    model: nn.Module,
    architecture: str,
    callback: Callable[[int, torch.Tensor], None],
    *,
    features: str = "table1",
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """Within the context, each forward pass calls `callback(layer, output)` for every layer (or those in
    `layers`).

    Outputs come in execution order, [B, C, H, W] maps, or [B, H, W, C] and [B, T, C] where
    `feature_layers(...).call.channel_axis` is -1. They are live: reduce or clone them inside the callback,
    because the network's in-place operations overwrite them right after (see `lib.network.layers.watch` for
    the errors).
    """
    chosen = feature_layers(architecture, features)
    if layers is not None:
        unknown = sorted(set(layers) - {layer.layer for layer in chosen})
        if unknown:
            raise ValueError(
                f"{architecture} has no layers {unknown[:5]}; known: {chosen[0].layer} to {chosen[-1].layer}."
            )
        chosen = tuple(layer for layer in chosen if layer.layer in set(layers))
    with watch(model, chosen, callback):
        yield


def initialise_like_vgg(model: nn.Module) -> None:
    """Draw all weights as torchvision draws VGG's: convolutions by He's rule, Linear from N(0, 0.01).

    torchvision leaves AlexNet at PyTorch's default, with which a small cohort spends most of its training on
    a plateau (demo cohort: nothing learned in 120 steps, against 43 % of validation tiles right).

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


def load(path: str | PathLike, architecture: str) -> tuple[nn.Module, list[str]]:
    """A trained network in eval mode, and its class names, from the checkpoint that training left."""
    facts = read_weights(path)[1]
    missing = [name for name in ("class_names", "input_px") if name not in facts]
    if missing:
        raise ValueError(f"{path} is no checkpoint of lib.network.training: it lacks {missing}")
    class_names = list(facts["class_names"])
    model = build(
        architecture, len(class_names), weights=path, class_names=class_names, input_px=int(facts["input_px"])
    )
    return model.eval(), class_names
