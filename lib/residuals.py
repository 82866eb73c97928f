"""Rows centred within the groups of a permutation scheme, and covariates projected out of them.

Under shuffles within groups the part of r between the groups is fixed, so r is a growing function of the
covariance of the residuals, each row centred within its groups. That covariance is the statistic of all
permutation tests here: the p of one pair is the p of r itself, and it costs one product. Variables are
rows, slides are columns.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.permutations import Permutations


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
    scale = np.abs(rows).max(axis=1)
    for group in np.unique(permutations.groups):
        members = permutations.groups == group
        rows[:, members] -= rows[:, members].mean(axis=1, keepdims=True)
    # what rounding leaves of a row that is constant in every group is not variation
    rows[np.abs(rows).max(axis=1) <= 1e-12 * scale] = 0
    return rows


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row without variation within the groups stays 0, every shuffle ties with it and
    p is 1.
    """
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def covariate_basis(covariates_df: pd.DataFrame | None, permutations: Permutations) -> np.ndarray:
    """Orthonormal columns [n_slides, k] of the covariates' part within the groups; k = 0 without any."""
    if covariates_df is None or covariates_df.shape[1] == 0:
        return np.zeros((len(permutations.sample_ids), 0))
    missing = covariates_df.isna().sum()
    if missing.any():
        raise ValueError(
            f"covariates with missing values: {missing[missing > 0].to_dict()}; fill them or drop the samples"
        )
    rows = within_groups(covariates_df.T, covariates_df.columns, permutations, "covariate")
    u, s, _ = np.linalg.svd(unit_length(rows).T, full_matrices=False)
    return u[:, s > 1e-8]


def shuffled(row: np.ndarray, permutations: Permutations, basis: np.ndarray) -> np.ndarray:
    """One gene's residuals [n_slides] under every rearrangement, [N, n_slides], again of length 1 given
    the covariates.
    """
    rows = row[permutations.order]
    if permutations.signs is not None:
        rows = rows * permutations.signs
    if basis.shape[1] and row.any():
        rows = rows / np.sqrt(
            np.maximum((row @ row) - ((rows @ basis) ** 2).sum(axis=1, keepdims=True), 1e-30)
        )
    return rows
