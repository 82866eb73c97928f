"""Partial correlations: conditions projected out of rows, tests and intervals."""

from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from lib.errors import InputError

DEGENERATE = 1e-10  # 1 - R^2 below this leaves no variance to correlate
MIN_DF = 2  # degrees of freedom; Fisher's z takes one of them
LEVEL = 0.95  # of the intervals


class Partials(NamedTuple):
    """First-order partial correlations of gene g, feature f and tissue t.

    r : "gf_t", "ft_g", "gt_f" -> float64 [n_pairs], 0 where undefined.
    defined : bool [n_pairs], False where one of the three leaves no variance.
    """

    r: dict[str, np.ndarray]
    defined: np.ndarray


def ci_test(
    r: np.ndarray | float, n: int, n_conditions: int, method: Literal["fisher", "t"] = "fisher"
) -> np.ndarray:
    """Two-sided p of a partial correlation r over n slides given n_conditions columns, in the shape of r.

    `fisher`: sqrt(n - k - 3) |atanh r| against the normal (r = 0.1074, n = 334, k = 1 give 0.05016; the
    paper prints 0.0501 for r = 0.107). `t`: |r| sqrt(df / (1 - r^2)) against t with df = n - 2 - k.
    ValueError when fewer than MIN_DF degrees of freedom are left, or |r| > 1.
    """
    r = _checked_r(r)
    df = degrees_left(n, n_conditions)
    with np.errstate(divide="ignore"):
        if method == "fisher":
            return 2 * stats.norm.sf(np.sqrt(df - 1) * np.abs(np.arctanh(r)))
        if method == "t":
            return 2 * stats.t.sf(np.abs(r) * np.sqrt(df / (1 - r * r)), df)
    raise InputError(f"method is 'fisher' or 't', got {method!r}")


def interval(r: np.ndarray | float, n: int, n_conditions: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % confidence interval of a partial correlation: tanh(atanh r -+ 1.96 / sqrt(n - k - 3)).

    ValueError when fewer than MIN_DF degrees of freedom are left, or |r| > 1.
    """
    r = _checked_r(r)
    half = stats.norm.ppf(0.5 + LEVEL / 2) / np.sqrt(degrees_left(n, n_conditions) - 1)
    with np.errstate(divide="ignore"):
        z = np.arctanh(r)
    return np.tanh(z - half), np.tanh(z + half)


def degrees_left(n: int, n_conditions: int) -> int:
    """n - 2 - k; ValueError if fewer than MIN_DF."""
    df = n - 2 - n_conditions
    if df < MIN_DF:
        raise InputError(
            f"{n} slides and {n_conditions} conditions leave {df} degrees of freedom; {MIN_DF} are needed: "
            "use fewer covariates or more slides"
        )
    return df


def three_partials(r_gf: np.ndarray, r_gt: np.ndarray, r_ft: np.ndarray) -> Partials:
    """The partial correlations of g, f and t from the three plain ones."""
    left = {"gf": 1 - r_gf**2, "gt": 1 - r_gt**2, "ft": 1 - r_ft**2}
    defined = (left["gf"] > DEGENERATE) & (left["gt"] > DEGENERATE) & (left["ft"] > DEGENERATE)
    safe = {k: np.where(defined, v, 1.0) for k, v in left.items()}
    r = {
        "gf_t": (r_gf - r_gt * r_ft) / np.sqrt(safe["gt"] * safe["ft"]),
        "ft_g": (r_ft - r_gf * r_gt) / np.sqrt(safe["gf"] * safe["gt"]),
        "gt_f": (r_gt - r_gf * r_ft) / np.sqrt(safe["gf"] * safe["ft"]),
    }
    return Partials({k: np.where(defined, np.clip(v, -1, 1), 0.0) for k, v in r.items()}, defined)


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis [n, 1 + rank] of an intercept and the columns [n, k]; collinear ones count once.

    ValueError on a missing or infinite value.
    """
    n = len(columns)
    if not np.isfinite(columns).all():
        raise InputError(
            f"the conditions hold {int((~np.isfinite(columns)).sum())} missing or infinite values"
        )
    intercept = np.full((n, 1), n**-0.5)
    centred = columns - columns.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    rounding = 1e-12 * np.maximum(np.abs(columns).max(axis=0, initial=0), 1e-300) * np.sqrt(n)
    centred = centred[:, length > rounding]
    if centred.shape[1] == 0:
        return intercept
    u, s, _ = np.linalg.svd(centred / np.sqrt((centred**2).sum(axis=0)), full_matrices=False)
    return np.concatenate([intercept, u[:, s > 1e-9 * s[0]]], axis=1)


def unit_residuals(rows: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1 orthogonal to the basis, and whether anything was left of each (else the row is 0)."""
    total = np.sqrt(((rows - rows.mean(axis=1, keepdims=True)) ** 2).sum(axis=1, keepdims=True))
    residual = rows - (rows @ basis) @ basis.T
    residual -= (residual @ basis) @ basis.T  # a second time, against the rounding errors of the first
    length = np.sqrt((residual**2).sum(axis=1, keepdims=True))
    rounding = 1e-12 * np.sqrt((rows**2).sum(axis=1, keepdims=True))  # all that is left of a constant row
    varies = length > np.maximum(np.sqrt(DEGENERATE) * total, rounding)
    return np.divide(residual, length, out=np.zeros_like(residual), where=varies), varies[:, 0]


def _checked_r(r: np.ndarray | float) -> np.ndarray:
    r = np.asarray(r, float)
    if not (np.abs(r) <= 1).all():
        raise InputError(f"r must lie in [-1, 1], got {r[~(np.abs(r) <= 1)].flat[0]}")
    return r
