"""Rows centred within the groups of a permutation scheme, and covariates projected out of them.

Under shuffles within groups the part of r between the groups is fixed, so r is a growing function of the
covariance of the residuals, each row centred within its groups. That covariance is the statistic of all
permutation tests here: the p of one pair is the p of r itself, and it costs one product. Variables are
rows, slides are columns.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.statistics import variation
from lib.statistics.permutations import Permutations

EXPLAINED = 1e-10  # a smaller share of a row's squares is what rounding leaves, not variation


def within_groups(df: pd.DataFrame, names: Sequence, permutations: Permutations, what: str) -> np.ndarray:
    """Rows of the names, in the order of the slides, centred within the groups, float64."""
    missing = pd.Index(names).difference(df.index)
    if len(missing):
        raise ValueError(
            f"{len(missing)} {what}s of the pairs are not in the {what} table, first {list(missing[:3])}"
        )
    ids = pd.Index(permutations.sample_ids)
    if len(ids.symmetric_difference(df.columns)):
        only, lacking = df.columns.difference(ids), ids.difference(df.columns)
        raise ValueError(
            f"the {what} table and the permutations are of different samples: {len(only)} only in the "
            "table (first "
            f"{list(only[:3])}), {len(lacking)} only in the permutations (first {list(lacking[:3])})"
        )
    rows = df.loc[list(names), permutations.sample_ids].to_numpy(np.float64, copy=True)
    if not np.isfinite(rows).all():
        i, s = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(f"{what} {names[i]!r} is {rows[i, s]} in sample {ids[s]!r}: every value is needed")
    scale = variation.largest(rows)
    for group in np.unique(permutations.groups):
        members = permutations.groups == group
        rows[:, members] -= rows[:, members].mean(axis=1, keepdims=True)
    rows[~variation.varies(rows, scale)] = 0
    return rows


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row without variation within the groups stays 0, every shuffle ties with it and
    p is 1.
    """
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def covariate_table(samples_df: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Covariates of the samples as numbers: index sample_id; a column of text becomes dummies, one left out.

    ValueError on a name that is no column, or a missing value (with counts).
    """
    df, names = samples_df.set_index("sample_id"), list(names)
    unknown = [c for c in names if c not in df]
    if unknown:
        raise ValueError(
            f"covariates {unknown} are not columns of the samples table: {', '.join(df.columns)}"
        )
    missing = df[names].isna().sum()
    if missing.any():
        raise ValueError(
            f"samples without a value: {missing[missing > 0].to_dict()} of {len(df)}; fill them in, drop "
            "the samples or leave the covariate out"
        )
    return pd.get_dummies(df[names], drop_first=True, dtype=float)


def covariate_basis(covariates_df: pd.DataFrame | None, permutations: Permutations) -> np.ndarray:
    """Orthonormal columns [n_slides, k] of the covariates' part within the groups; k = 0 without any.

    ValueError on missing values, or when the covariates leave no degree of freedom within the groups.
    """
    n = len(permutations.sample_ids)
    if covariates_df is None or covariates_df.shape[1] == 0:
        return np.zeros((n, 0))
    missing = covariates_df.isna().sum()
    if missing.any():
        raise ValueError(
            f"covariates with missing values: {missing[missing > 0].to_dict()}; fill them or drop the samples"
        )
    rows = within_groups(covariates_df.T, covariates_df.columns, permutations, "covariate")
    u, s, _ = np.linalg.svd(unit_length(rows).T, full_matrices=False)
    basis, n_groups = u[:, s > 1e-8], len(np.unique(permutations.groups))
    if basis.shape[1] >= n - n_groups - 1:
        raise ValueError(
            f"{basis.shape[1]} covariates leave {n - n_groups - basis.shape[1]} degrees of freedom to {n} "
            f"slides in {n_groups} groups: use fewer covariates"
        )
    return basis


def project_out(rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Rows orthogonal to the basis; a row that the basis explains but for rounding becomes 0."""
    if not basis.shape[1]:
        return rows
    residual = rows - (rows @ basis) @ basis.T
    residual -= (residual @ basis) @ basis.T  # once more: what rounding left of the first
    left, before = ((v * v).sum(axis=1) for v in (residual, rows))
    residual[left <= EXPLAINED * before] = 0
    return residual


def covariate_scales(rows: np.ndarray, permutations: Permutations, basis: np.ndarray) -> np.ndarray:
    """Length of each row over its length once the covariates are out, under every rearrangement.

    Freedman and Lane (1983; Winkler et al. 2014, NeuroImage 92:381): residuals of the covariates are
    shuffled, and the covariates are taken out of the shuffled residuals again. The other side is orthogonal
    to the covariates already, so its product with a shuffled row stays as it is, and all that the second
    projection changes is the row's length. Exact only where the residuals are exchangeable: approximately,
    with covariates.

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
    # row[order] . basis = row . (basis carried back to the places the values came from)
    moved = np.empty((n_permutations, n, k))
    signed = np.ones((n_permutations, n)) if permutations.signs is None else permutations.signs
    np.put_along_axis(moved, permutations.order[:, :, None].astype(np.int64), signed[:, :, None] * basis, 1)
    explained = np.zeros((n_permutations, len(rows)))
    for j in range(k):
        explained += (moved[:, :, j] @ rows.T) ** 2
    return _scales(explained, _lengths(rows, permutations))


def covariate_scales_of(
    rows: np.ndarray, permutations: Permutations, basis: np.ndarray, which: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """`covariate_scales` of single cases, float64 [n_cases]: of row row[c] under rearrangement which[c]."""
    explained, length = np.empty((2, len(which)))
    for start in range(0, len(which), 4096):
        at = slice(start, start + 4096)
        moved = np.take_along_axis(rows[row[at]], permutations.order[which[at]], axis=1)
        if permutations.signs is not None:
            moved *= permutations.signs[which[at]]
        # sums of rows of their own, so that a value does not depend on what else is asked for
        explained[at] = sum((moved * column).sum(axis=1) ** 2 for column in basis.T)
        length[at] = _lengths(rows[row[at]], permutations)
    return _scales(explained, length)


def _lengths(rows: np.ndarray, permutations: Permutations) -> np.ndarray:
    """Squared length of the rows once shuffled: a donor's signs have the same squares in every one."""
    squares = rows * rows
    if permutations.signs is not None:
        squares *= permutations.signs[0] ** 2
    return squares.sum(axis=1)


def _scales(explained: np.ndarray, length: np.ndarray) -> np.ndarray:
    """In the place of the share that the covariates explain, so that large tables are held once."""
    share = np.divide(explained, length, out=explained, where=length > 0)
    np.subtract(1, share, out=share)
    np.maximum(share, EXPLAINED, out=share)
    return np.divide(1, np.sqrt(share, out=share), out=share)
