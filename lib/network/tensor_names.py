"""Tensors of a published checkpoint under the names that timm or torchvision gives them.

An encoder file says how: the prefix that its tensors share, and the library whose names they have.
"""

import sys
from collections.abc import Mapping

import torch
from torch import nn

from lib.errors import InputError
from lib.network import encoder_files

State = dict[str, torch.Tensor]
_OF_DINOV2 = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
_OF_BLOCK = {
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
}


def renamed(state: Mapping[str, torch.Tensor], model: nn.Module, architecture: str, where: str) -> State:
    """The tensors under the names of `model`, as the file of its encoder says; position embeddings are
    interpolated by timm's own rules where the input is of another size.

    Raises InputError where the file lacks the prefix, or tensors do not fit by their order.
    """
    state = dict(state)
    if encoder_files.is_file(architecture):
        stated = encoder_files.read(architecture)
        state = _without_prefix(state, stated.key_prefix, where)
        if stated.keys == "by order":
            return by_order(state, model, where)
        if stated.keys == "transformers dinov2":
            state = of_transformers_dinov2(state)
    own_rules = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)  # timm's, if any
    if not own_rules:
        return state
    try:
        return dict(own_rules(state, model))
    except (KeyError, AttributeError, RuntimeError):  # of another architecture: the caller says what differs
        return state


def _without_prefix(state: State, prefix: str, where: str) -> State:
    kept = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not kept:
        raise InputError(
            f"no tensor of {where} begins with key_prefix = {prefix!r} (the first is {next(iter(state))!r})"
        )
    return kept


def by_order(state: Mapping[str, torch.Tensor], model: nn.Module, where: str) -> State:
    """Tensors named after those of the model in the same place; each shape but the last layer's must fit."""
    own = model.state_dict()
    if len(own) != len(state):
        raise InputError(
            f"{where} has {len(state)} tensors, the network {len(own)}: they do not fit by order"
        )
    pairs = list(zip(own.items(), state.items(), strict=True))
    for (name, mine), (theirs, value) in pairs:
        if mine.shape[1:] != value.shape[1:] or (mine.ndim > 2 and mine.shape != value.shape):
            raise InputError(
                f"{where}: tensor {theirs!r} {list(value.shape)} does not fit {name!r} {list(mine.shape)}, "
                "which has its place"
            )
    return {name: value for (name, _), (_, value) in pairs}


def of_transformers_dinov2(state: Mapping[str, torch.Tensor]) -> State:
    """timm's names for a Dinov2 of the library transformers: query, key and value become one tensor."""
    found: State = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if key == "embeddings.mask_token":
            continue  # of training alone
        if not key.startswith("encoder.layer."):
            stem, _, end = key.rpartition(".")
            found[_OF_DINOV2.get(key) or f"{_OF_DINOV2.get(stem, stem)}.{end}"] = value
            continue
        _, _, number, rest = key.split(".", 3)
        stem, _, end = rest.rpartition(".")
        if stem.startswith("attention.attention."):
            parts.setdefault(f"blocks.{number}.attn.qkv.{end}", {})[stem.rsplit(".", 1)[1]] = value
        else:
            found[f"blocks.{number}." + (_OF_BLOCK.get(rest) or f"{_OF_BLOCK.get(stem, stem)}.{end}")] = value
    for name, of in parts.items():
        found[name] = torch.cat([of["query"], of["key"], of["value"]])
    return found
