"""The null maxima on a GPU's tensor cores: product, weight and maximum in one Triton kernel.

Rows are held transposed [samples, rows] in half precision, scaled by 16 (unit rows of some hundred samples
have entries near 0.05). Each program takes 128 genes by 256 features through all shuffles: it gathers the
shuffled genes, multiplies, weighs and keeps the largest absolute value. What rounding to half precision can
change is bounded by HALF_ERROR times the weight, and settled in float64 by the caller.
"""

import functools
from typing import Any

import numpy as np
import torch

SCALE = 16.0
# Each factor of a product of unit rows is rounded by at most 2^-11 of itself: at most 2 x 2^-11 of the sum of
# absolute products, which is at most 1; the float32 sum adds less than 1e-5.
HALF_ERROR = 2.0**-10 + 1e-5
WIDTH = 256  # rows are padded to a multiple of it, so that every tile is whole
GENES, FEATURES, SAMPLES = 128, 256, 32  # of one program, and of one step of its product
NUM_WARPS, NUM_STAGES = 8, 4


@functools.cache
def available(device: str) -> bool:
    """Whether the kernel can run there: an NVIDIA GPU with fast half precision, and Triton."""
    if not device.startswith("cuda") or torch.cuda.get_device_capability(device)[0] < 7:
        return False
    return _kernel() is not None


def transposed_half(rows_t: torch.Tensor) -> torch.Tensor:
    """float16 [samples, rows], scaled; padded with zeros, the rows to whole tiles, by one sample at least."""
    n_rows, n = rows_t.shape
    height, width = -(-(n + 1) // SAMPLES) * SAMPLES, -(-n_rows // WIDTH) * WIDTH
    out_t = torch.zeros(height, width, dtype=torch.float16, device=rows_t.device)
    out_t[:n, :n_rows] = (rows_t.T * SCALE).to(torch.float16)
    return out_t


def padded_groups(parts_t: torch.Tensor, width: int) -> torch.Tensor:
    """float32 [n_groups, width] of what weighs the products, padded with zeros."""
    out_t = torch.zeros(parts_t.shape[1], width, dtype=torch.float32, device=parts_t.device)
    out_t[:, : len(parts_t)] = parts_t.T
    return out_t


def padded_order(order: np.ndarray, height: int, device: str) -> torch.Tensor:
    """int32 [N, height]: shuffles, padded with a row of zeros."""
    n_shuffles, n = order.shape
    order_t = torch.full((n_shuffles, height), n, dtype=torch.int32, device=device)
    order_t[:, :n] = torch.from_numpy(np.ascontiguousarray(order, dtype=np.int32)).to(device)
    return order_t


def maxima(
    x_t: torch.Tensor, y_t: torch.Tensor, order_t: torch.Tensor, a_t: torch.Tensor, b_t: torch.Tensor,
    floor: float, n_genes: int,
) -> torch.Tensor:  # fmt: skip
    """float32 [N, n_genes]: largest absolute statistic of each gene over all features under each shuffle.

    Parameters
    ----------
    x_t, y_t : of `transposed_half`.
    order_t : of `padded_order`.
    a_t, b_t : of `padded_groups`; the weight is max(a . b, floor) ** -0.5. Padding has weight 0.
    """
    n_shuffles, width, n_features = len(order_t), x_t.shape[1], y_t.shape[1]
    out_t = torch.zeros(n_shuffles, width, dtype=torch.float32, device=x_t.device)
    _kernel()[width // GENES, n_features // FEATURES](
        x_t, y_t, order_t, a_t, b_t, out_t, n_shuffles, width, n_features, floor, 1.0 / SCALE**2,
        HEIGHT=x_t.shape[0], N_GROUPS=a_t.shape[0], BM=GENES, BN=FEATURES, BK=SAMPLES,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return out_t[:, :n_genes]


@functools.cache
def _kernel() -> Any:
    """Compile at first use; None without Triton (torch on the same device gives the same p, more slowly)."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    @triton.jit
    def kernel(
        x_ptr, y_ptr, order_ptr, a_ptr, b_ptr, out_ptr, n_shuffles, width, n_features, floor, unscale,
        HEIGHT: tl.constexpr, N_GROUPS: tl.constexpr,
        BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    ):  # fmt: skip
        genes = tl.program_id(0) * BM + tl.arange(0, BM)
        features = tl.program_id(1) * BN + tl.arange(0, BN)
        variance = tl.zeros((BM, BN), tl.float32)
        for g in range(N_GROUPS):
            a = tl.load(a_ptr + g * width + genes)
            b = tl.load(b_ptr + g * n_features + features)
            variance += a[:, None] * b[None, :]
        weight = unscale / tl.sqrt(tl.maximum(variance, floor))
        k = tl.arange(0, BK)
        for p in range(n_shuffles):
            total = tl.zeros((BM, BN), tl.float32)
            for start in tl.range(0, HEIGHT, BK):  # pyright: ignore[reportGeneralTypeIssues]
                rows = tl.load(order_ptr + p * HEIGHT + start + k)
                x = tl.load(x_ptr + rows[:, None] * width + genes[None, :])
                y = tl.load(y_ptr + (start + k)[:, None] * n_features + features[None, :])
                total = tl.dot(tl.trans(x), y, total)
            largest = tl.max(tl.abs(total) * weight, axis=1)
            tl.atomic_max(out_ptr + p * width + genes, largest, sem="relaxed")

    return kernel
