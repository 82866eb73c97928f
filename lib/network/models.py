"""A network by its architecture's name: input, weights, and the layers whose channels are features.

Layers are numbered as in the paper for AlexNet and VGG (index in `features`; VGG16 0 to 30) and by
execution order for the others; a feature is `<layer>_<channel>`, e.g. `29_499`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from os import PathLike

import pandas as pd
import torch
import torchvision
from torch import nn

from lib.errors import InputError
from lib.network import encoder_files
from lib.network.architectures import ARCHITECTURES, MINIMUM_PX, check_name, check_px
from lib.network.construction import construct, default_px, import_timm, skeleton, timm_settings
from lib.network.layers import Layer, chain_layers, numbered_layers, trace, watch
from lib.network.token_layers import confirmed, count_first_tokens, encoder_layers, find_embedding
from lib.network.weights import load_weights, of_timm, read_weights, require_timm_weights

FEATURE_SETS = ("table1", "unskipped")
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Input edges, in px, at which other encoders are tried.
TRIED_PX = (8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 240, 256, 299, 320, 384, 448, 512)
# torchvision's weights of these expect pixels scaled to [-1, 1]; its switch `transform_input` rescales
# ImageNet-normalised input for them. Networks built here never have that switch and are given such input.
RESCALED = ("googlenet", "inception_v3")


def check_architecture(architecture: str) -> None:
    """ValueError naming the nearest known names, unless `architecture` can be built."""
    if encoder_files.is_file(architecture):
        architecture = encoder_files.read(architecture).architecture
    known: Sequence[str] = ARCHITECTURES
    source, _, name = architecture.partition(":")
    if source == "torchvision" and name:
        known = [f"torchvision:{n}" for n in torchvision.models.list_models(module=torchvision.models)]
    elif source == "timm" and name:
        timm = import_timm()
        known = [f"timm:{n}" for n in timm.list_models()]
        if timm.is_model(name):
            return
    check_name(architecture, known)


@lru_cache(maxsize=64)
def minimum_input_px(architecture: str) -> int:
    """Smallest square input, in px, that the architecture accepts; for encoders the first of `TRIED_PX`."""
    check_architecture(architecture)
    if architecture in MINIMUM_PX:
        return MINIMUM_PX[architecture]
    for input_px in TRIED_PX:
        if _runs(architecture, input_px):
            return input_px
    raise InputError(f"{architecture} accepts no square RGB input from 8 to 512 px: choose another encoder")


def check_input_px(architecture: str, input_px: int, training: bool = False) -> None:
    """ValueError, naming sizes that fit, unless the network accepts square inputs of `input_px`.

    With `training` it must accept them in training mode too (an auxiliary head may need larger ones).
    """
    check_px(architecture, input_px, minimum_input_px(architecture))
    if architecture in MINIMUM_PX or _runs(architecture, input_px, training):
        return
    nearest = sorted(TRIED_PX, key=lambda px: abs(px - input_px))
    fit = [str(px) for px in nearest if _runs(architecture, px, training)]
    raise InputError(
        f"{architecture} accepts no input of {input_px} px{' in training' if training else ''}; of the sizes "
        f"tried it accepts, nearest first: {', '.join(fit[:3]) or 'none'}; cut tiles with another input_px, "
        "or choose another architecture"
    )


@lru_cache(maxsize=256)
def _runs(architecture: str, input_px: int, training: bool = False) -> bool:
    """Whether a pass of this size gives all layers and, with `training`, one in training mode succeeds."""
    try:
        here = {_identity(layer) for layer in _layers(architecture, "table1", input_px)}
        if training:
            model = skeleton(architecture, 2, input_px)
            with torch.device("meta"):
                model.train()(torch.zeros((2, 3, input_px, input_px)))
    except InputError:
        raise
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError):
        return False
    return bool(here) and here >= {_identity(layer) for layer in feature_layers(architecture)}


def _identity(layer: Layer) -> tuple[object, ...]:
    call = layer.call
    return call.module, call.call, call.n_channels, call.channel_axis, layer.part


def build(
    architecture: str,
    n_classes: int,
    *,
    weights: str | PathLike | None = None,
    keep_head: bool = True,
    input_px: int = 224,
) -> nn.Module:
    """A network with a last layer of `n_classes` outputs, on the CPU, in training mode.

    At 224 px the thirteen are those of Table 1 to the parameter. At other sizes AlexNet and VGG pool their
    last map to 6 x 6 or 7 x 7 (adaptive pooling, the identity at 224 px), so that every Linear keeps its
    shape; vgg16_avg1fc averages over the map, of any size. Random weights come from torch's generator: seed
    it before the call.

    Parameters
    ----------
    architecture : one of `ARCHITECTURES`, "timm:<model>", "torchvision:<model>" or "encoder:<file>"
    n_classes : outputs of the last layer
    weights : None (random); "imagenet" (torchvision's or timm's, for all but the last layer; torch downloads
        them once); or the path of a checkpoint of `lib.network.training` or of a plain state dict
    keep_head : False takes all but the last layer from a checkpoint, for other classes
    input_px : edge of the input; the thirteen do not depend on it, transformers with a position embedding do

    Raises
    ------
    ValueError
        Unknown architecture, input too small, checkpoint of another architecture or number of classes.
    FileNotFoundError, RuntimeError
        No checkpoint at that path; ImageNet weights unavailable.
    """
    check_architecture(architecture)
    if n_classes < 1:
        raise InputError(f"n_classes is {n_classes}: a network needs at least 1 output")
    check_input_px(architecture, input_px)
    own = weights == "imagenet" and of_timm(architecture)
    if own:
        require_timm_weights(architecture)
    model = construct(architecture, n_classes, input_px, pretrained=own)
    if weights is not None and not own:
        stated = load_weights(model, architecture, weights, keep_head)
        if stated:
            set_normalisation(model, *stated)
    return model


def load(path: str | PathLike, architecture: str) -> tuple[nn.Module, list[str]]:
    """A trained network in eval mode, and its class names, from a checkpoint of `lib.network.training`."""
    facts = read_weights(path)[1]
    missing = [name for name in ("class_names", "input_px") if name not in facts]
    if missing:
        raise InputError(f"{path} is not a checkpoint of lib.network.training: it lacks {missing}")
    class_names = list(facts["class_names"])
    model = build(architecture, len(class_names), weights=path, input_px=int(facts["input_px"]))
    return model.eval(), class_names


def normalisation(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and sd by which pixels in 0 to 1 are normalised: those of torchvision's or timm's weights, and
    ImageNet's for the thirteen and for "", a network of one's own.
    """
    if architecture:
        check_architecture(architecture)
    if encoder_files.is_file(architecture):
        stated = encoder_files.read(architecture)
        return stated.mean, stated.sd
    source, _, name = architecture.rpartition(":")
    if source == "torchvision":
        if name in RESCALED:
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        stated = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
        return tuple(stated.mean), tuple(stated.std)
    stated = timm_settings(name) if source == "timm" else None
    return (tuple(stated.mean), tuple(stated.std)) if stated else (IMAGENET_MEAN, IMAGENET_SD)


def set_normalisation(model: nn.Module, mean: Sequence[float], sd: Sequence[float]) -> None:
    """Say how the pixels of this network are normalised, where it is not as of its architecture."""
    if len(mean) != 3 or len(sd) != 3 or min(sd) <= 0:
        raise InputError(
            f"normalisation by mean {list(mean)} and sd {list(sd)}: give three of each, sd above 0"
        )
    model.normalisation = (tuple(map(float, mean)), tuple(map(float, sd)))  # pyright: ignore[reportArgumentType]


def normalisation_of(model: nn.Module, architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and sd of this network: as its checkpoint says, else as of its architecture."""
    stated = getattr(model, "normalisation", None)
    return stated if isinstance(stated, tuple) else normalisation(architecture)


def normalise(
    tiles_t: torch.Tensor, mean: Sequence[float] = IMAGENET_MEAN, sd: Sequence[float] = IMAGENET_SD
) -> torch.Tensor:
    """(x / 255 - mean) / sd: uint8 [B, H, W, 3] on any device to float32 [B, 3, H, W], channels last."""
    if tiles_t.dtype != torch.uint8 or tiles_t.ndim != 4 or tiles_t.shape[3] != 3:
        raise InputError(f"tiles must be uint8 [B, H, W, 3], not {tiles_t.dtype} {list(tiles_t.shape)}")
    centre, scale = (_per_channel(tuple(values), tiles_t.device) for values in (mean, sd))
    images_t = tiles_t.permute(0, 3, 1, 2).to(torch.float32)
    return images_t.sub_(centre).div_(scale)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """255 times the values, (3, 1, 1); kept, since bringing them to a GPU waits for all that it has to do."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1) * 255


@lru_cache(maxsize=64)
def feature_layers(architecture: str, features: str = "table1") -> tuple[Layer, ...]:
    """The layers whose channels are features, in execution order, found on the meta device.

    "table1" gives the counts of Table 1: for AlexNet and VGG every module of `features`; for ResNet34 every
    call of every leaf module but `fc`, and the 16 block outputs (each equal to its block's second ReLU);
    for Inception v3 every ReLU and pool outside the auxiliary head; for another encoder every module call
    with a new map or token list as output, its tokens divided, and the embedding (`lib.network.token_layers`;
    an encoder file may choose among them). "unskipped" follows the paper's text on ResNet34: only layers that
    no skip connection bypasses, i.e. stem, block outputs, last pool, with their numbers in "table1"; the
    other twelve have no skip connections, and the two sets are equal.
    """
    check_architecture(architecture)
    if features not in FEATURE_SETS:
        raise InputError(f"features must be one of {', '.join(FEATURE_SETS)}, not {features!r}")
    if features == "unskipped" and architecture not in ARCHITECTURES:
        raise InputError(f"features='unskipped' is defined for the paper's networks only, not {architecture}")
    return tuple(_layers(architecture, features, default_px(architecture)))


def _layers(architecture: str, features: str, input_px: int) -> list[Layer]:
    """The layers that a pass over inputs of this size finds."""
    model = skeleton(architecture, 2, input_px)
    with torch.device("meta"):
        calls = trace(model, input_px)
    if architecture == "resnet34":
        layers = numbered_layers([call for call in calls if call.is_leaf or call.kind == "BasicBlock"])
        if features == "unskipped":
            layers = [x for x in layers if x.call.kind == "BasicBlock" or "layer" not in x.call.module]
    elif architecture == "inception_v3":
        kinds = ("ReLU", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d")
        layers = numbered_layers([call for call in calls if call.kind in kinds])
    elif architecture in ARCHITECTURES:
        layers = chain_layers([call for call in calls if call.module.startswith("features.")], architecture)
    else:
        larger = skeleton(architecture, 2, 2 * input_px)
        with torch.device("meta"):
            embedding = find_embedding(model, input_px)
            twice = trace(larger, 2 * input_px)
        stated = encoder_files.read(architecture) if encoder_files.is_file(architecture) else None
        chosen = (stated.parts, stated.layers) if stated else ()
        found = confirmed(calls, twice)
        layers = encoder_layers(found, embedding, count_first_tokens(model), *chosen)
    return layers


def feature_table(architecture: str, features: str = "table1") -> pd.DataFrame:
    """One row per feature, in the order of every feature matrix.

    Columns: feature (str, "29_499"), layer (int), channel (int), layer_label (str, "relu5_3"), layer_kind
    (str, class of the module), non_negative (bool: no weights or input can make it negative; S1 Fig D).
    """
    rows = [
        (f"{k}_{channel}", k, channel, label, call.kind, call.non_negative)
        for k, label, call, *_ in feature_layers(architecture, features)
        for channel in range(call.n_channels)
    ]
    columns = ["feature", "layer", "channel", "layer_label", "layer_kind", "non_negative"]
    return pd.DataFrame(rows, columns=columns)


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
    """Within the context, each forward pass calls `callback(layer, output)` for every layer, or for `layers`.

    Outputs come in execution order, [B, C, H, W] maps, or [B, H, W, C] and [B, T, C] where
    `feature_layers(...).call.channel_axis` is -1; `lib.network.layers.watch` says how to handle them.
    """
    chosen = feature_layers(architecture, features)
    if layers is not None:
        unknown = sorted(set(layers) - {layer.layer for layer in chosen})
        if unknown:
            raise InputError(
                f"{architecture} has no layers {unknown[:5]}: choose from {chosen[0].layer} to "
                f"{chosen[-1].layer}"
            )
        chosen = tuple(layer for layer in chosen if layer.layer in set(layers))
    with watch(model, chosen, callback):
        yield
