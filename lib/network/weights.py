"""Weights from files and from torchvision: read safely, checked against the network, then copied into it."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from lib.errors import InputError, MissingInputError
from lib.network import encoder_files, tensor_names
from lib.network.architectures import ARCHITECTURES
from lib.network.construction import import_timm, last_layer, tensor_shapes
from lib.network.inception import fold_input_transform

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and sd of the three colours
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def load_weights(
    model: nn.Module, architecture: str, weights: str | os.PathLike, keep_head: bool = True
) -> Normalisation | None:
    """Copy weights into a network; returns mean and sd of its pixels, where the file states them.

    Parameters
    ----------
    weights : "imagenet" (all but the last layer) or the path of a checkpoint
    keep_head : False leaves the last layer as it was, for other classes

    Raises
    ------
    ValueError
        The checkpoint is of another architecture or, with `keep_head`, of another number of classes.
    FileNotFoundError, RuntimeError
        No checkpoint at that path; ImageNet weights unavailable.
    """
    facts: dict[str, Any] = {}
    if weights == "imagenet":
        state, keep_head = imagenet_state(architecture), False
    else:
        state, facts = read_weights(weights)
        theirs = facts.get("architecture", architecture)
        if theirs != architecture:
            raise InputError(
                f"{weights} holds weights of {theirs}, not of {architecture}: correct the path or the "
                "architecture"
            )
        if "class_names" not in facts:  # not of this library's: as its authors named the tensors
            state = tensor_names.renamed(state, model, architecture, str(weights))
    problem = _fill(model, state, last_layer(architecture), keep_head)
    if problem:
        raise InputError(
            f"{weights} does not fit {architecture}{_resemblance(state, architecture)}: {problem}"
        )
    return normalisation_in(facts)


def normalisation_in(facts: Mapping[str, Any]) -> Normalisation | None:
    """Mean and sd of the pixels that a checkpoint states beside its tensors; None where it does not."""
    stated = [facts.get(name) for name in ("mean", "sd")]
    if not all(isinstance(values, list | tuple) and len(values) == 3 for values in stated):
        return None
    mean, sd = (tuple(float(value) for value in values or ()) for values in stated)
    return mean, sd


def require_normalisation(path: str | os.PathLike) -> None:
    """InputError for a checkpoint, not of this library's, that does not say how its pixels are normalised."""
    facts = read_weights(path)[1]
    if normalisation_in(facts) is None and "class_names" not in facts:
        raise InputError(
            f"{path} does not say how the pixels of its network are normalised, and the wrong mean and sd "
            "give wrong features without an error: set encoder_normalisation to the mean and sd (of pixels "
            "in 0 to 1) that its authors publish; ImageNet's are [[0.485, 0.456, 0.406], [0.229, 0.224, "
            "0.225]]"
        )


def _fill(model: nn.Module, state: Mapping[str, torch.Tensor], head: set[str], keep_head: bool) -> str:
    """Copy a state dict into a network; why it does not fit, in words, else "".

    `head` names the tensors of the last layer. With `keep_head` False they are skipped, and so are tensors
    that the network lacks but that belong to a last layer of another kind, or to an auxiliary head.
    """
    own = model.state_dict()
    if not keep_head:
        layers = tuple(name.rpartition(".")[0] + "." for name in head)
        unused = [k for k, x in state.items() if x.ndim <= 2 and k.startswith(layers)]
        unused += [k for k in state if k.startswith("AuxLogits.")]
        state = {k: x for k, x in state.items() if k not in head and (k in own or k not in unused)}
        state |= {k: own[k] for k in head}
    try:
        missing, surplus = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # tensors of another shape, which torch lists
        hint = "; keep_head=False takes all but the last layer" if keep_head else ""
        return " ".join(str(error).split()) + hint
    if missing or surplus:
        first = (missing + surplus)[0]
        return f"{len(missing)} tensors are missing, {len(surplus)} surplus (first: {first})"
    return ""


def read_weights(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict and the other entries of a checkpoint, on the CPU, read with `weights_only=True`.

    Accepts a plain state dict, a dict holding one under "state_dict" or "model", and safetensors; prefixes
    left by DistributedDataParallel and torch.compile are removed.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"no checkpoint at {path}: run notebook 02 first, or correct the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # late, like timm: only encoders from elsewhere need it

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds: unpickling, zip, EOF, key errors
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{path} cannot be read as a checkpoint with weights_only=True ({first}): "
            "save a state dict of tensors, not a whole model"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict of tensors")
    key = next((k for k in ("state_dict", "model") if isinstance(content.get(k), dict)), None)
    state = content if key is None else content[key]
    facts = {} if key is None else {k: v for k, v in content.items() if k != key}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            f"{path} holds no state dict of tensors (keys: {', '.join(map(str, list(state)[:5]))})"
        )
    return {_plain_name(name): value for name, value in state.items()}, facts


def _plain_name(name: str) -> str:
    """A tensor's name without the prefixes of wrappers, in any order."""
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def fingerprint(model: nn.Module) -> str:
    """Hash (blake2b, 32 hex digits) of every name, type, shape and value of the state dict, on any device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def of_timm(architecture: str) -> bool:
    """Whether timm builds it."""
    if encoder_files.is_file(architecture):
        architecture = encoder_files.read(architecture).architecture
    return architecture.startswith("timm:")


def require_timm_weights(architecture: str) -> None:
    """RuntimeError, within seconds, where timm's own weights are neither cached nor in reach."""
    from lib.network import weight_sources  # late, like timm

    if encoder_files.is_file(architecture):
        architecture = encoder_files.read(architecture).architecture
    settings = import_timm().get_pretrained_cfg(architecture.removeprefix("timm:"))
    repository = settings and settings.hf_hub_id
    if repository and not weight_sources.is_cached(repository, ("model.safetensors", "pytorch_model.bin")):
        weight_sources.require_reachable(f"the weights of {architecture} ({repository})")


def imagenet_state(architecture: str) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights; for vgg16_1fc and vgg16_avg1fc, VGG16's convolutional part."""
    if encoder_files.is_file(architecture):
        architecture = encoder_files.read(architecture).architecture
    source, _, name = architecture.rpartition(":")
    known = torchvision.models.get_model_weights("vgg16" if name.endswith("1fc") else name)
    entry = known["DEFAULT" if source else "IMAGENET1K_V1"]
    try:
        state = entry.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        raise RuntimeError(
            f"ImageNet weights of {architecture} are unavailable from {entry.url} ({error}): download that "
            f"file elsewhere into {torch.hub.get_dir()}/checkpoints, or start from random weights"
        ) from error
    if name.endswith("1fc"):
        return {key: value for key, value in state.items() if key.startswith("features.")}
    return fold_input_transform(state) if name == "inception_v3" and not source else state


def _resemblance(state: Mapping[str, torch.Tensor], architecture: str) -> str:
    """ " (it fits <name>)" when the tensors are those of another of the thirteen, with any classes."""
    for other in ARCHITECTURES:
        shapes, head = tensor_shapes(other, 2), last_layer(other)
        same = set(state) == set(shapes) and all(
            state[key].shape[key in head :] == shape[key in head :] for key, shape in shapes.items()
        )
        if same:
            return f" (it fits {other})" if other != architecture else ""
    return ""
