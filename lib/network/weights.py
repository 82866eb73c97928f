"""Weights from files and from torchvision: read safely, compared with the network, then copied."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from lib.network.inception import fold_input_transform

_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def read_weights(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """State dict and the other facts of a checkpoint, on the CPU, read with `weights_only=True`.

    Accepts a plain state dict, or a dict holding one under "state_dict" or "model"; prefixes left by
    DistributedDataParallel and torch.compile are taken off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}: run the training notebook first, or correct the path."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds: unpickling, zip, EOF, key errors
        raise ValueError(
            f"{path} cannot be read as a checkpoint with weights_only=True: {str(error).splitlines()[0]} "
            "Save a state dict of tensors, not a whole model."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict of tensors.")
    key = next((k for k in ("state_dict", "model") if isinstance(content.get(k), dict)), None)
    state = content if key is None else content[key]
    facts = {} if key is None else {k: v for k, v in content.items() if k != key}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(
            f"{path} holds no state dict of tensors (keys: {', '.join(map(str, list(state)[:5]))})."
        )
    return {_plain_name(name): value for name, value in state.items()}, facts


def _plain_name(name: str) -> str:
    """A tensor's name without the prefixes of wrappers, in whatever order they were put on."""
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


def imagenet_state(architecture: str) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights; for vgg16_1fc and vgg16_avg1fc, VGG16's convolutional part."""
    source, _, name = architecture.rpartition(":")
    known = torchvision.models.get_model_weights("vgg16" if name.endswith("1fc") else name)
    entry = known.DEFAULT if source else known.IMAGENET1K_V1
    try:
        state = entry.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        raise RuntimeError(
            f"weights of {architecture} are not to be had from {entry.url} ({error}). Fetch "
            f"that file elsewhere into {torch.hub.get_dir()}/checkpoints, or train with weights=None."
        ) from error
    if name.endswith("1fc"):
        return {key: value for key, value in state.items() if key.startswith("features.")}
    return fold_input_transform(state) if name == "inception_v3" and not source else state


def check_facts(
    facts: Mapping[str, object], path: str | os.PathLike, architecture: str, class_names: Sequence[str] | None
) -> None:
    """ValueError when a checkpoint names another architecture or other classes (None: not compared)."""
    theirs = facts.get("architecture")
    if theirs is not None and theirs != architecture:
        raise ValueError(
            f"{path} holds weights of {theirs}, not of {architecture}: name the right one of the two."
        )
    names = facts.get("class_names")
    if class_names is None or names is None or list(names) == list(class_names):
        return
    missing = [name for name in class_names if name not in names]
    surplus = [name for name in names if name not in class_names]
    difference = (
        f"not in it: {missing[:5]}, only in it: {surplus[:5]}" if missing or surplus else "in another order"
    )
    raise ValueError(
        f"{path} was trained on {len(names)} classes, asked for are {len(class_names)} ({difference}). Use a "
        "checkpoint of this cohort, or keep_head=False to take all but the last layer."
    )


def misfit(
    shapes: Mapping[str, torch.Size], state: Mapping[str, torch.Tensor], head: Iterable[str], keep_head: bool
) -> str:
    """Why a state dict cannot fill a network of these shapes, in words; "" when it can.

    `head` names the tensors of the last layer; with `keep_head` False they are not needed, and a last layer
    of another kind (vectors and matrices under its name) or Inception's auxiliary head may be left over.
    """
    head = set(head)
    needed = [key for key in shapes if keep_head or key not in head]
    absent = [key for key in needed if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in shapes and (keep_head or not _is_head(key, state, head))]
    differ = [key for key in needed if key in state and state[key].shape != shapes[key]]
    if differ and not absent and not surplus and set(differ) <= head:
        return (
            f"it ends in {state[differ[0]].shape[0]} classes, asked for are {shapes[differ[0]][0]}; use a "
            "checkpoint of this class list, or keep_head=False to take all but the last layer."
        )
    if absent or differ or surplus:
        return (
            f"{len(absent)} tensors are missing, {len(surplus)} too many, {len(differ)} of another shape "
            f"(first: {(absent + differ + surplus)[0]})."
        )
    return ""


def _is_head(key: str, state: Mapping[str, torch.Tensor], head: set[str]) -> bool:
    """Whether a checkpoint's tensor belongs to a last layer, or to an auxiliary one."""
    layers = {name.rpartition(".")[0] + "." for name in head}
    of_last = state[key].ndim <= 2 and any(key.startswith(layer) for layer in layers)
    return of_last or key.startswith("AuxLogits.")


def fill(model: nn.Module, state: Mapping[str, torch.Tensor], head: Iterable[str], keep_head: bool) -> None:
    """Copy a state dict that fits (`misfit`) into the model, with or without its last layer."""
    own = model.state_dict()
    taken = {key: state[key] for key in own if key in state and (keep_head or key not in set(head))}
    model.load_state_dict(own | taken)
