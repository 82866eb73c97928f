"""The statistic of a pair under shuffles within groups, in float64 on one device.

`r`: the correlation of the residuals of gene and feature, each centred within its groups. `z`: their
covariance over its standard deviation under shuffles within the groups, sqrt(sum over groups of Sxx Syy /
(n - 1)), so that a feature whose variation sits in one small tissue does not set the bar for all others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lib.statistics.permutations import Permutations

BLOCK_BYTES = 64_000_000  # of one block of float64 values


class Statistic(NamedTuple):
    """Unit residual rows and what weighs their products; the statistic is x . y times the weight.

    x_t, y_t : float64 [n_genes, n_slides] and [n_features, n_slides].
    a_t, b_t : float64 [n_genes, n_groups] and [n_features, n_groups]; the weight is
        max(a . b, floor) ** -0.5. None: every weight is 1.
    signed : the largest value counts, not the largest absolute value.
    """

    x_t: torch.Tensor
    y_t: torch.Tensor
    a_t: torch.Tensor | None
    b_t: torch.Tensor | None
    floor: float
    signed: bool

    def weights(self, genes: slice | torch.Tensor) -> torch.Tensor | None:
        """float64 [genes, n_features], or None where all are 1."""
        if self.a_t is None:
            return None
        return (self.a_t[genes] @ self.b_t.T).clamp_min_(self.floor).rsqrt_()

    def sized(self, values_t: torch.Tensor) -> torch.Tensor:
        return values_t if self.signed else values_t.abs_()


def prepare(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, statistic: str, signed: bool, device: str
) -> Statistic:
    """Rows of length 1 (float64, centred within the groups) as a `Statistic` on the device."""
    device = "cpu" if device.startswith("mps") else device  # Apple's GPUs have no float64
    x_t, y_t = (torch.from_numpy(np.ascontiguousarray(rows)).to(device) for rows in (x, y))
    sizes = np.bincount(groups)
    if statistic == "r" or (sizes > 0).sum() == 1:
        return Statistic(x_t, y_t, None, None, 0.0, signed)
    root = torch.from_numpy(np.sqrt(np.maximum(sizes - 1, 1))).to(device)
    membership = torch.from_numpy(np.eye(len(sizes))[groups]).to(device)
    a_t, b_t = ((rows * rows) @ membership / root for rows in (x_t, y_t))
    # a gene and a feature that vary in different tissues have a variance near 0; a tenth of the usual
    # deviation is the least
    return Statistic(x_t, y_t, a_t, b_t, 0.01 / max(len(groups) - (sizes > 0).sum(), 1), signed)


def observed_maxima(s: Statistic) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each gene its largest statistic over the features, the feature's row, and the largest weight."""
    largest, best, weight = [], [], []
    for genes in _blocks(len(s.x_t), len(s.y_t)):
        values_t, w_t = s.x_t[genes] @ s.y_t.T, s.weights(genes)
        if w_t is not None:
            values_t *= w_t
        top_t, at_t = s.sized(values_t).max(dim=1)
        largest.append(top_t)
        best.append(at_t)
        weight.append(torch.ones_like(top_t) if w_t is None else w_t.amax(dim=1))
    return tuple(torch.cat(parts).cpu().numpy() for parts in (largest, best, weight))


def of_pairs(s: Statistic, genes: np.ndarray, features: np.ndarray) -> np.ndarray:
    """float64 [n_pairs]: the statistic of row genes[k] with row features[k]."""
    result = np.empty(len(genes))
    for at in _blocks(len(genes), s.x_t.shape[1]):
        g, f = (torch.from_numpy(rows[at]).to(s.x_t.device) for rows in (genes, features))
        values_t = (s.x_t[g] * s.y_t[f]).sum(dim=1)
        if s.a_t is not None:
            values_t *= (s.a_t[g] * s.b_t[f]).sum(dim=1).clamp_min_(s.floor).rsqrt_()
        result[at] = s.sized(values_t).cpu().numpy()
    return result


def exact_maxima(
    s: Statistic, permutations: Permutations, which: np.ndarray, genes: np.ndarray
) -> np.ndarray:
    """float64 [n_cases]: the maximum over features of gene genes[k] under rearrangement which[k]."""
    result = np.empty(len(genes))
    for at in _blocks(len(genes), len(s.y_t)):
        g = torch.from_numpy(genes[at]).to(s.x_t.device)
        order_t = torch.from_numpy(permutations.order[which[at]].astype(np.int64)).to(s.x_t.device)
        rows_t = s.x_t[g].gather(1, order_t)
        if permutations.signs is not None:
            rows_t *= torch.from_numpy(permutations.signs[which[at]]).to(s.x_t.device)
        values_t, w_t = rows_t @ s.y_t.T, s.weights(g)
        if w_t is not None:
            values_t *= w_t
        result[at] = s.sized(values_t).amax(dim=1).cpu().numpy()
    return result


def _blocks(n_rows: int, n_columns: int) -> Sequence[slice]:
    step = max(1, BLOCK_BYTES // (8 * max(n_columns, 1)))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]
