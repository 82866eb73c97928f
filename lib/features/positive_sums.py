"""A ReLU that takes the sums of its input and of its output on the way, in Triton.

The sums of a convolution and of its ReLU are two features of one map. Reading maps is what quantification
costs beyond the network, so on an NVIDIA GPU both are taken while the ReLU has the map in hand.
"""

import functools
from typing import Any

import torch

POSITIONS, CHANNELS = 32, 64  # of one step of a program
CHUNK = 1024  # positions of one program; their sums are added in a fixed order


def available(device: str) -> bool:
    """Whether the kernel can run there: an NVIDIA GPU, and Triton."""
    return device.startswith("cuda") and _kernel() is not None


def rectify(maps_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Set negative values to 0, in place; sums over positions before and after it, float32 [B, C] each.

    maps_t : [B, C, H, W] on a GPU, of any floating type
    """
    rows_t = maps_t.permute(0, 2, 3, 1).contiguous()  # no copy of a map that is channels last
    n_images, height, width, n_channels = rows_t.shape
    n_chunks = -(-height * width // CHUNK)
    parts_t = torch.empty(n_images, n_chunks, 2, n_channels, dtype=torch.float32, device=maps_t.device)
    grid = (n_images, n_chunks, -(-n_channels // CHANNELS))
    with torch.cuda.device_of(maps_t):  # Triton launches on the current GPU
        _kernel()[grid](
            rows_t, parts_t, height * width, n_channels, CHUNK=CHUNK, BP=POSITIONS, BC=CHANNELS, num_warps=4
        )
    if rows_t.data_ptr() != maps_t.data_ptr():
        maps_t.copy_(rows_t.permute(0, 3, 1, 2))
    sums_t = parts_t[:, 0] if n_chunks == 1 else parts_t.sum(1)
    return sums_t[:, 0], sums_t[:, 1]


@functools.cache
def _kernel() -> Any:
    """Compile at first use; None without Triton."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    @triton.jit
    def kernel(
        maps_ptr, out_ptr, n_positions, n_channels, CHUNK: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr
    ):
        image, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
        channels = tl.program_id(2) * BC + tl.arange(0, BC)
        inside = channels < n_channels
        total, positive = tl.zeros((BP, BC), tl.float32), tl.zeros((BP, BC), tl.float32)
        for start in range(0, CHUNK, BP):
            positions = chunk * CHUNK + start + tl.arange(0, BP)
            at = (image * n_positions + positions)[:, None] * n_channels + channels[None, :]
            known = (positions < n_positions)[:, None] & inside[None, :]
            values = tl.load(maps_ptr + at, mask=known, other=0.0).to(tl.float32)
            total += values
            values = tl.where(values < 0.0, 0.0, values)  # NaN stays NaN
            positive += values
            tl.store(maps_ptr + at, values, mask=known)
        row = (image * tl.num_programs(1) + chunk) * 2 * n_channels
        tl.store(out_ptr + row + channels, tl.sum(total, axis=0), mask=inside)
        tl.store(out_ptr + row + n_channels + channels, tl.sum(positive, axis=0), mask=inside)

    return kernel
