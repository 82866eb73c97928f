"""The device of a computation, the processes that torchrun started, and errors of exhausted memory."""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from lib.errors import InputError

N_AHEAD = 8  # uploads that may wait on a GPU; a batch has two, its tiles and labels or samples


def choose_device(device: str) -> torch.device:
    """The named device; "auto" is this process's GPU if there is one, else the CPU.

    Raises ValueError for a GPU where PyTorch sees none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: PyTorch sees no GPU here; use 'cpu' or 'auto'")
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device)


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its weights in channels-last order, in which convolutions are faster."""
    return model.to(  # pyright: ignore[reportCallIssue]  (torch's stub lacks memory_format)
        device=device, memory_format=torch.channels_last
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the CPU, could not give the memory that was asked for."""
    on_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, torch.OutOfMemoryError)


class FittingPasses:
    """A forward pass over as many tiles at a time as memory holds: halved, for good, where it does not.

    For evaluation alone, where a tile's result does not depend on the others of its batch.
    """

    def __init__(self, forward: Callable[..., torch.Tensor], device: torch.device) -> None:
        self.forward, self.device = forward, device
        self.most = 0  # tiles at a time; 0: as many as come

    def __call__(self, tiles: Any) -> torch.Tensor:
        """What `forward` gives for an array or tensor of tiles, whose first axis it keeps.

        Raises the error of exhausted memory where a single tile is too much.
        """
        parts: list[torch.Tensor] = []
        start = 0
        while start < len(tiles):
            part = tiles[start : start + (self.most or len(tiles))]
            try:
                parts.append(self.forward(part))
                start += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
            # Outside the handler: its error keeps the tensors of the pass that failed.
            self.most = len(part) // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            print(
                f"out of memory on {self.device} with {len(part)} tiles at a time: going on with {self.most} "
                f"(inference_batch = {self.most} does so from the start)",
                flush=True,
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def out_of_memory_explained(
    batch_size: int, input_px: int, device: str | torch.device, remedy: str
) -> Iterator[None]:
    """Turn the device's out-of-memory error into one that gives the batch size and what to try (`remedy`)."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RuntimeError(
            f"out of memory on {device} with {batch_size} tiles of {input_px} px at a time ({reason}): "
            f"{remedy}"
        ) from error


def rank_and_ranks() -> tuple[int, int]:
    """This process's number and how many train together: (0, 1) outside torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def process_group() -> Iterator[int]:
    """Join the processes that torchrun started (NCCL on GPUs, else gloo) and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def uploaded(tensor_t: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; to a CUDA device from pinned memory on a stream of its own.

    While the GPU works on one batch, the next one is copied. The CPU runs ahead, not without end (`Pace`).
    """
    if device.type != "cuda":
        return tensor_t.to(device)
    _pace(device)()
    stream, current = _upload_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        there_t = (tensor_t if tensor_t.is_pinned() else tensor_t.pin_memory()).to(device, non_blocking=True)
    current.wait_stream(stream)
    there_t.record_stream(current)
    return there_t


def downloading(tensor_t: torch.Tensor) -> Callable[[], np.ndarray]:
    """Start copying to the CPU; what is returned gives the copy, and waits for no work that came later."""
    if tensor_t.device.type != "cuda":
        return tensor_t.cpu().numpy
    here_t = torch.empty(tensor_t.shape, dtype=tensor_t.dtype, pin_memory=True)
    here_t.copy_(tensor_t, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensor_t.device))

    def arrived() -> np.ndarray:
        copied.synchronize()
        return here_t.numpy()

    return arrived


class Pace:
    """Called before each upload, it lets the CPU run a few of them ahead, so that a GPU never waits for it.

    Any further, and the tiles that wait would fill the memory of both.
    """

    def __init__(self, device: torch.device, n_ahead: int = N_AHEAD) -> None:
        self.device, self.n_ahead = device, n_ahead
        self.ends: deque[torch.cuda.Event] = deque()

    def __call__(self) -> None:
        end = torch.cuda.Event()
        end.record(torch.cuda.current_stream(self.device))
        self.ends.append(end)
        if len(self.ends) > self.n_ahead:
            self.ends.popleft().synchronize()


@functools.cache
def _pace(device: torch.device) -> Pace:
    return Pace(device)


@functools.cache
def _upload_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
