"""Which module calls are a network's layers, and a callback for each of them during a forward pass.

A layer is one call of one module: a ReLU used twice in a residual block is two layers. `trace` finds the
calls by running the network once; `watch` hooks them in a later pass and delivers each output at once,
before an in-place operation downstream overwrites it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib.errors import InputError


class Call(NamedTuple):
    """One call of one module in a forward pass, in execution order."""

    module: str  # qualified name, as in model.named_modules()
    call: int  # 0 for the first call of that module in the pass
    kind: str  # class name of the module
    n_channels: int
    channel_axis: int  # 1: maps [B, C, H, W]; -1: maps [B, H, W, C] or tokens [B, T, C]
    non_negative: bool  # True when no value can be below 0, for any weights and input
    is_leaf: bool  # the module has no children
    is_new: bool  # the output is not that of an earlier call, nor the module's own input, even rearranged
    n_positions: int = 1  # of the map or the list of tokens, at the traced input


N_IMAGES = 2  # batch size of a tracing pass; outputs of another first size (attention windows) are not layers
# Modules that only rearrange their input, and attention weights, which sum to a constant, are not layers.
_NOT_NEW = {"Identity", "Dropout", "Permute", "Flatten", "Softmax"}


EMBEDDING = "embedding"  # the part of a layer that is what the last Linear takes in, not what it puts out


class Layer(NamedTuple):
    """A call, or some of its tokens, chosen as a layer of features, with its number and a readable label."""

    layer: int
    label: str
    call: Call
    part: str = ""  # "class", "registers", "patches", EMBEDDING; "" for all positions
    start: int = 0  # the tokens of that part
    stop: int | None = None


def trace(model: nn.Module, input_px: int) -> list[Call]:
    """Every module call of an eval-mode forward pass whose output is a map or a list of tokens.

    Parameters
    ----------
    model : on any device; on "meta" nothing is computed. It is left in eval mode.
    input_px : edge of the square input

    Raises
    ------
    RuntimeError, AssertionError, ValueError
        Those of the network itself, for an input of this size.
    """
    calls: list[Call] = []
    counts: dict[str, int] = {}
    seen: list[torch.Tensor] = []  # kept alive, so that an id() is never reused
    given: set[tuple[int, int]] = set()  # (id, version) of earlier outputs
    entered: list[set[tuple[int, int]]] = []  # stack: (id, version) of the inputs of the running modules

    def before(module, inputs):
        entered.append({(id(x), x._version) for x in inputs if isinstance(x, torch.Tensor)})

    def after(name, module, inputs, output):
        mine = entered.pop()
        kind = type(module).__name__
        axis = _channel_axis(output, kind)
        if axis is None:
            return
        key = (id(output), output._version)
        n_before = counts.get(name, 0)
        counts[name] = n_before + 1
        is_leaf = not any(True for _ in module.children())
        is_new = key not in given and key not in mine and kind not in _NOT_NEW
        non_negative = id(output) in signs.non_negative
        n_positions = output[0].numel() // output.shape[axis]
        calls.append(
            Call(name, n_before, kind, output.shape[axis], axis, non_negative, is_leaf, is_new, n_positions)
        )
        given.add(key)
        seen.append(output)

    model.eval()
    parameter = next(model.parameters())
    images_t = torch.zeros((N_IMAGES, 3, input_px, input_px), device=parameter.device, dtype=parameter.dtype)
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if name:  # the network itself is not a layer
                stack.callback(module.register_forward_pre_hook(before).remove)
                hook = module.register_forward_hook(lambda *args, name=name: after(name, *args))
                stack.callback(hook.remove)
        signs = stack.enter_context(_Signs())
        model(images_t)
    return calls


@contextmanager
def watch(
    model: nn.Module, layers: Sequence[Layer], callback: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """Within the context, every forward pass of `model` calls `callback(layer, output)` for each layer.

    The calls come in execution order, from inside the pass. The tensor is the live output: reduce or clone it
    there, because an in-place ReLU or `out += identity` may overwrite it as soon as the callback returns.
    Of a layer that is a part of the tokens it is those tokens, [B, T, C]; the embedding is [B, 1, C].
    Gradients flow through what the callback computes. Hooks are always removed on leaving.

    Raises
    ------
    RuntimeError
        Part of the network is in training mode (dropout and batch norm would change the features), or a
        layer of the list was not reached by any pass.
    ValueError
        The network has no module of that name.
    """
    modules = _require_watchable(model, layers)
    wanted: dict[str, dict[int, list[Layer]]] = {}  # module name -> call -> layers
    for layer in layers:
        wanted.setdefault(layer.call.module, {}).setdefault(layer.call.call, []).append(layer)
    counts: dict[str, int] = {}
    reached: set[int] = set()
    n_passes = [0]

    def restart(module, inputs):
        counts.clear()
        n_passes[0] += 1

    def after(name, module, inputs, output):
        call = counts.get(name, 0)
        counts[name] = call + 1
        for layer in wanted[name].get(call, ()):
            reached.add(layer.layer)
            if layer.part == EMBEDDING:
                callback(layer.layer, inputs[0][:, None])
            else:
                callback(layer.layer, output[:, layer.start : layer.stop] if layer.part else output)

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(restart).remove)
        for name in wanted:
            hook = modules[name].register_forward_hook(lambda *args, name=name: after(name, *args))
            stack.callback(hook.remove)
        yield
    unreached = [layer for layer in layers if layer.layer not in reached]
    if n_passes[0] and unreached:
        raise RuntimeError(
            f"{len(unreached)} of {len(layers)} layers were not reached by the forward pass (first: layer "
            f"{unreached[0].layer}, {unreached[0].label}): the network is not of the architecture named"
        )


def _require_watchable(model: nn.Module, layers: Sequence[Layer]) -> dict[str, nn.Module]:
    """Modules by name; RuntimeError in training mode, ValueError where one is missing."""
    modules = dict(model.named_modules())
    training = [name or "the network" for name, module in modules.items() if module.training]
    if training:
        raise RuntimeError(
            f"{len(training)} modules are in training mode (first: {training[0]}), where dropout and batch "
            "norm change the features: call model.eval() first"
        )
    missing = [layer.call.module for layer in layers if layer.call.module not in modules]
    if missing:
        raise InputError(
            f"the network has no module {missing[0]!r} ({len(missing)} of {len(layers)} layers missing): it "
            "is not of the architecture named, or is wrapped (give the module inside)"
        )
    return modules


def numbered_layers(calls: Sequence[Call]) -> list[Layer]:
    """Numbered in execution order, labelled by the module's name, with "(call 2)" for its second call."""
    return [Layer(k, label_of(call), call) for k, call in enumerate(calls)]


def label_of(call: Call) -> str:
    """The module's name, with "(call 2)" for its second call."""
    return call.module if call.call == 0 else f"{call.module} (call {call.call + 1})"


def chain_layers(calls: Sequence[Call], architecture: str) -> list[Layer]:
    """AlexNet and VGG: number = index in `features`, label as in the literature (conv5_3, relu5_3, pool5)."""
    words = {"Conv2d": "conv", "BatchNorm2d": "bn", "ReLU": "relu", "MaxPool2d": "pool"}
    layers, block, conv = [], 1, 0
    for call in calls:
        conv += call.kind == "Conv2d"
        whole_block = call.kind.endswith("Pool2d")
        place = f"{conv}" if architecture == "alexnet" else f"{block}" if whole_block else f"{block}_{conv}"
        label = "avgpool" if call.kind == "AdaptiveAvgPool2d" else words[call.kind] + place
        layers.append(Layer(int(call.module.removeprefix("features.")), label, call))
        if whole_block and architecture != "alexnet":
            block, conv = block + 1, 0
    return layers


def _channel_axis(output: object, kind: str) -> int | None:
    """Axis of the channels of a map or token output; None for anything else (vectors, attention windows)."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return None
    shape = tuple(output.shape)
    if len(shape) not in (3, 4) or shape[0] != N_IMAGES:
        return None
    if len(shape) == 3:
        return -1  # tokens [B, T, C]
    channels_first, channels_last = shape[2] == shape[3], shape[1] == shape[2]  # square images, square maps
    if channels_first and channels_last:
        return -1 if kind in ("Linear", "LayerNorm") else 1
    return 1 if channels_first else -1 if channels_last else None


# Operations that give values >= 0 for any input, and those that keep the sign when every input is >= 0.
_MAKE = {"relu", "sigmoid", "hardsigmoid", "_softmax", "abs", "square", "exp"}
_KEEP = {"max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "mean"}
_KEEP |= {"sum", "cat", "stack", "add", "mul", "view", "_unsafe_view", "reshape", "permute", "transpose"}
_KEEP |= {"clone", "slice", "expand", "alias", "detach", "_to_copy", "unsqueeze", "squeeze", "_reshape_alias"}
_KEEP |= {"roll", "select"}


class _Signs(TorchDispatchMode):
    """Tracks, through every operation of a pass, which tensors cannot hold a negative value (S1 Fig D)."""

    def __init__(self):
        super().__init__()
        self.non_negative: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor):
            name = func._schema.name.split("::")[1]
            name = name[:-1] if name.endswith("_") else name
            if self._is_non_negative(name, args, kwargs or {}):
                self.non_negative[id(first)] = first
            else:
                self.non_negative.pop(id(first), None)  # an in-place operation may take the property away
        return output

    def _is_non_negative(self, name: str, args: Sequence, kwargs: dict) -> bool:
        if name in _MAKE:
            return True
        if name in ("hardtanh", "clamp"):  # ReLU6 is hardtanh(0, 6)
            lowest = args[1] if len(args) > 1 else kwargs.get("min_val", kwargs.get("min"))
            return isinstance(lowest, int | float) and lowest >= 0
        if name not in _KEEP:
            return False
        parts = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else [arg])]
        values = [part for part in parts if isinstance(part, torch.Tensor)]
        scalars = [part for part in args[1:] if isinstance(part, float)] if name in ("add", "mul") else []
        return all(id(value) in self.non_negative for value in values) and all(s >= 0 for s in scalars)
