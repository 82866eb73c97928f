"""Layers of encoders other than the thirteen: class token, registers and patches apart, and the embedding.

A transformer's block puts out one list of tokens whose first ones do not stand for a place: the class token,
then registers (Darcet et al. 2024) or a distillation token. Summed with the patches they drown: what is
usually taken as the encoder's embedding is the class token alone. So each part is a layer of its own. The
patches are summed, as every map is; their mean is that over a constant.
"""

import re
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import nn

from lib.network.layers import EMBEDDING, N_IMAGES, Call, Layer, label_of

PARTS = ("class", "registers", "patches", EMBEDDING)
_WORDS = {"class": "class token", "registers": "registers", "patches": "patches"}


def encoder_layers(
    calls: Sequence[Call],
    embedding: Call | None,
    first_tokens: tuple[int, int],
    parts: Collection[str] = PARTS,
    patterns: Sequence[str] = (),
) -> list[Layer]:
    """The new calls of `lib.network.layers.trace` as layers, numbered in execution order.

    Parameters
    ----------
    embedding : what `find_embedding` gives; the last layer, where it is among `parts`
    first_tokens : what `count_first_tokens` gives; lists of tokens that begin with those are divided
    parts : of PARTS; the others are left out
    patterns : regular expressions; modules that none matches whole are left out. Empty: all stay.
    """
    maps = {call.n_positions for call in calls}
    chosen: list[tuple[str, Call, str, int, int | None]] = []
    for call in calls:
        if not call.is_new or (patterns and not any(re.fullmatch(p, call.module) for p in patterns)):
            continue
        n_first = sum(first_tokens)
        if n_first and call.channel_axis == -1 and call.n_positions - n_first in maps:
            for part, start, stop in _divided(first_tokens):
                if part in parts:
                    chosen.append((f"{label_of(call)}, {_WORDS[part]}", call, part, start, stop))
        else:
            chosen.append((label_of(call), call, "", 0, None))
    if embedding and EMBEDDING in parts:
        chosen.append((EMBEDDING, embedding, EMBEDDING, 0, None))
    return [Layer(k, *rest) for k, rest in enumerate(chosen)]


def confirmed(calls: Sequence[Call], at_another_size: Sequence[Call]) -> list[Call]:
    """The calls that are layers at inputs of another size too.

    A window of attention is no layer, but looks like one where the map is a single window. A map as wide and
    as high as it has channels does not show which axis they are: its axis is that of the other size.
    """
    there = {(call.module, call.call): call for call in at_another_size}
    found = []
    for call in calls:
        other = there.get((call.module, call.call))
        if other and other.is_new == call.is_new:
            square = call.n_channels**2 == call.n_positions
            found.append(call._replace(channel_axis=other.channel_axis) if square else call)
    return found


def _divided(first_tokens: tuple[int, int]) -> Iterator[tuple[str, int, int | None]]:
    """Part, first token and the one after its last, of each part that there is."""
    n_class, n_registers = first_tokens
    if n_class:
        yield "class", 0, n_class
    if n_registers:
        yield "registers", n_class, n_class + n_registers
    yield "patches", n_class + n_registers, None


def count_first_tokens(model: nn.Module) -> tuple[int, int]:
    """How many class tokens, and how many others (registers, distillation), come before the patches."""
    n_first = getattr(model, "num_prefix_tokens", None)  # timm's transformers
    if isinstance(n_first, int):
        n_class = min(1, n_first - int(getattr(model, "num_reg_tokens", 0) or 0))
        return n_class, n_first - n_class
    return (1, 0) if isinstance(getattr(model, "class_token", None), nn.Parameter) else (0, 0)  # torchvision


def find_embedding(model: nn.Module, input_px: int) -> Call | None:
    """The last Linear that takes in one vector [B, C] per image: that vector is the embedding.

    None where there is no such layer, as in fully convolutional heads. The model is left in eval mode.
    """
    found: list[Call] = []
    counts: dict[str, int] = {}

    def before(name, module, inputs):
        counts[name] = counts.get(name, 0) + 1
        vector = inputs[0]
        if tuple(vector.shape) == (N_IMAGES, module.in_features):
            call = Call(name, counts[name] - 1, "Embedding", module.in_features, -1, False, True, True)
            found.append(call)

    model.eval()
    parameter = next(model.parameters())
    images_t = torch.zeros((N_IMAGES, 3, input_px, input_px), device=parameter.device, dtype=parameter.dtype)
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    hooks = [m.register_forward_pre_hook(lambda *args, n=name: before(n, *args)) for name, m in linears]
    try:
        with torch.no_grad():
            model(images_t)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1] if found else None
