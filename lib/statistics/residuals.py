"""Rows centred within groups of slides, with covariates projected out.

Under shuffles within groups the part of r between groups is constant, so r is an increasing function of the
covariance of the residuals, each row centred within its groups. That covariance is the statistic of all
permutation tests here: the p of a pair is the p of r itself, and it costs one product. Variables are rows,
slides are columns.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.statistics import spots
from lib.statistics.permutations import Permutations, draw
from lib.statistics.table_rows import Names, check_same_samples, rows_of

ROUNDING = 1e-12  # of a row's largest value; float64 sums of some thousand values err by less
# that a group keeps with slopes of its own; with 5, links reject .08 at .05 (39 tissues, 3 covariates)
LEAST_DF = 10
EXPLAINED = 1e-10  # a smaller share of a row's sum of squares is rounding error, not variation


def varies(centred: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """bool [n_rows]: whether more than rounding error is left of a row once it is centred.

    One rule for all statistics: the mean of a constant over slides with different numbers of tiles differs
    in the last bit, and r of two such rows can come out as 1.

    centred : float64 [n_rows, n_slides]. scale : float64 [n_rows], `largest` of the rows before centring.
    """
    return largest(centred) > ROUNDING * scale


def largest(rows: np.ndarray) -> np.ndarray:
    """The largest absolute value of each row, [n_rows]; without a copy of the rows."""
    return np.maximum(rows.max(axis=1), -rows.min(axis=1))


def centre(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Centre float64 rows within groups of columns, in place; a row constant within all groups becomes 0."""
    scale = largest(rows)
    for group in np.unique(groups):
        members = groups == group
        rows[:, members] -= rows[:, members].mean(axis=1, keepdims=True)
    rows[~varies(rows, scale)] = 0
    return rows


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays zero, ties with all its shuffles, and has p 1."""
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def within_groups(df: pd.DataFrame, names: Names, permutations: Permutations, what: str) -> np.ndarray:
    """Rows of these names, slides in the order of the permutations, centred within the groups, float64.

    ValueError on names or samples that do not match, or a missing value.
    """
    ids = pd.Index(permutations.sample_ids)
    check_same_samples(df.columns, f"the {what} table", ids, "the permutations")
    return centre(rows_of(df, names, permutations.sample_ids, what), permutations.groups)


def covariate_table(samples_df: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Covariates of the samples as numbers: index sample_id; a text column becomes dummies, one left out.

    ValueError on a name that is no column, or a missing value (with counts).
    """
    df, names = samples_df.set_index("sample_id"), list(names)
    unknown = [c for c in names if c not in df]
    if unknown:
        raise InputError(
            f"covariates {unknown} are not columns of the samples table: {', '.join(df.columns)}"
        )
    _check_complete(df[names])
    return pd.get_dummies(df[names], drop_first=True, dtype=float)


def covariate_basis(
    covariates_df: pd.DataFrame | None, permutations: Permutations, slopes: str = "per group"
) -> np.ndarray:
    """Orthonormal columns [n_slides, k] that span the covariates within the groups; k = 0 without any.

    Parameters
    ----------
    slopes : "per group": each group (tissue) has slopes of its own where that leaves it LEAST_DF degrees of
        freedom, and the smaller groups share theirs; a slope that is common to all leaves behind what differs
        between groups, and the test is then anti-conservative. "common": all groups share theirs.

    Raises
    ------
    ValueError : missing values; the covariates leave no degree of freedom within the groups.
    """
    n, groups = len(permutations.sample_ids), permutations.groups
    if covariates_df is None or covariates_df.shape[1] == 0:
        return np.zeros((n, 0))
    _check_complete(covariates_df)
    rows = within_groups(covariates_df.T, covariates_df.columns, permutations, "covariate")
    own = _own_slopes(rows, groups) if slopes == "per group" else []
    parts = [_orthonormal(np.where(groups == group, rows, 0)) for group in own]
    parts.append(_orthonormal(np.where(np.isin(groups, own), 0, rows)))
    basis, n_groups = np.concatenate(parts, axis=1), len(np.unique(groups))
    if basis.shape[1] >= n - n_groups - 1:
        raise InputError(
            f"{basis.shape[1]} covariates leave {n - n_groups - basis.shape[1]} degrees of freedom to {n} "
            f"slides in {n_groups} groups: use fewer covariates"
        )
    return basis


def _own_slopes(rows: np.ndarray, groups: np.ndarray) -> list[int]:
    """Groups that keep LEAST_DF degrees of freedom with slopes of their own."""
    sizes = np.bincount(groups)
    return [
        group
        for group in np.unique(groups)
        if sizes[group] - 1 - np.any(rows[:, groups == group], axis=1).sum() >= LEAST_DF
    ]


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    u, s, _ = np.linalg.svd(unit_length(rows).T, full_matrices=False)
    return u[:, s > 1e-8]


def slope_plan(covariates_df: pd.DataFrame, samples_df: pd.DataFrame, slopes: str) -> pd.DataFrame:
    """What taking the covariates out costs each tissue; raises what `covariate_basis` would raise.

    Parameters
    ----------
    samples_df : sample_id, tissue of the samples of covariates_df.

    Returns
    -------
    Index tissue (of spots the section): n, slopes ("own" or "shared"), degrees_of_freedom (left to the
    tissue; of those that share, to all of them together); last a row "all".
    """
    shuffles = draw("within_tissue", 1, samples_df, 0)
    basis = covariate_basis(covariates_df, shuffles, slopes)
    rows = within_groups(covariates_df.T, covariates_df.columns, shuffles, "covariate")
    own = _own_slopes(rows, shuffles.groups) if slopes == "per group" else []
    names, sizes = sorted(spots.strata(samples_df).unique()), np.bincount(shuffles.groups)
    used = [(basis[shuffles.groups == group] ** 2).sum() for group in range(len(names))]
    shared = [group for group in range(len(names)) if group not in own]
    left_to_shared = sum(sizes[group] - 1 - used[group] for group in shared)
    table = {
        name: {
            "n": sizes[group],
            "slopes": "own" if group in own else "shared",
            "degrees_of_freedom": round(sizes[group] - 1 - used[group] if group in own else left_to_shared),
        }
        for group, name in enumerate(names)
    }
    left = len(samples_df) - len(names) - basis.shape[1]
    table["all"] = {"n": len(samples_df), "slopes": f"{len(own)} tissues own", "degrees_of_freedom": left}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("tissue")


def _check_complete(covariates_df: pd.DataFrame) -> None:
    missing = covariates_df.isna().sum()
    if missing.any():
        raise InputError(
            f"samples without a value: {missing[missing > 0].to_dict()} of {len(covariates_df)}; fill them "
            "in, drop the samples or leave the covariate out"
        )


def project_out(rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Rows orthogonal to the basis; a row that the basis explains but for rounding becomes 0."""
    if not basis.shape[1]:
        return rows
    residual = rows - (rows @ basis) @ basis.T
    residual -= (residual @ basis) @ basis.T  # a second time, against the rounding errors of the first
    left, before = ((v * v).sum(axis=1) for v in (residual, rows))
    residual[left <= EXPLAINED * before] = 0
    return residual


def covariate_scales(rows: np.ndarray, permutations: Permutations, basis: np.ndarray) -> np.ndarray:
    """Length of each rearranged row over its length once the covariates are projected out of it again.

    Freedman and Lane (1983; Winkler et al. 2014, NeuroImage 92:381): the residuals are rearranged, and the
    covariates are projected out of them again. The other side is orthogonal to the covariates already, so
    its product with a rearranged row does not change, and the second projection only shortens the row.
    Exact only where the residuals are exchangeable; with covariates they are so approximately.

    Parameters
    ----------
    rows : [n_rows, n_slides], orthogonal to the basis.
    basis : [n_slides, k], orthonormal, k >= 1.

    Returns
    -------
    float64 [N, n_rows], 1 or above.
    """
    n_permutations, n = permutations.order.shape
    k = basis.shape[1]
    # row[order] . basis = row . (basis moved back to the places the values came from)
    moved, order = np.empty((n_permutations, n)), permutations.order.astype(np.int64)
    explained = np.zeros((n_permutations, len(rows)))
    for j in range(k):  # one column at a time: with slopes per group there can be hundreds
        np.put_along_axis(moved, order, np.broadcast_to(basis[:, j], moved.shape), 1)
        explained += (moved @ rows.T) ** 2
    return _scales(explained, (rows * rows).sum(axis=1))


def covariate_scales_of(
    rows: np.ndarray, permutations: Permutations, basis: np.ndarray, which: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """`covariate_scales` of single cases, float64 [n_cases]: of row row[c] under rearrangement which[c]."""
    explained, length = np.empty((2, len(which)))
    for start in range(0, len(which), 4096):
        at = slice(start, start + 4096)
        moved = np.take_along_axis(rows[row[at]], permutations.order[which[at]], axis=1)
        # a sum for each row, so that a value does not depend on which others are asked for
        explained[at] = sum((moved * column).sum(axis=1) ** 2 for column in basis.T)
        length[at] = (moved * moved).sum(axis=1)
    return _scales(explained, length)


def _scales(explained: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Scales from the squared length that the covariates explain, in place: large tables are held once."""
    share = np.divide(explained, length, out=explained, where=length > 0)
    np.subtract(1, share, out=share)
    np.maximum(share, EXPLAINED, out=share)
    return np.divide(1, np.sqrt(share, out=share), out=share)
