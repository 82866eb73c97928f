"""Effective number of samples of a correlation where samples depend on each other.

Samples of one donor resemble each other, and so do neighbouring spots of a section. Both are *classes* of
sample pairs within which gene and feature may each be autocorrelated. Where they are, r varies by a factor
lambda more than among independent samples:

    lambda = 1 + sum_c rho_x(c) rho_y(c) W_c / D,    D = sum_i s_xi^2 s_yi^2
    rho_x(c) = sum_c x_i x_j / sum_c s_xi s_xj,      W_c = sum_c s_xi s_xj s_yi s_yj

with sums over the ordered pairs (i, j) of the class, x and y leverage-scaled residuals within tissues, and
s_xi the standard deviation of x in the tissue of sample i. n / lambda is the effective size. With one class
per lag and equal variances it is that of Clifford, Richardson and Hemon (1989, Biometrics 45:123) and
Dutilleul (1993, Biometrics 49:305). Variables are rows, samples are columns.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

LEAST_DONORS = 6  # with several samples each, to estimate how alike these are
LEAST = 0.1  # of lambda: classes of opposite sign never claim more than ten times the samples there are


class Classes(NamedTuple):
    """Classes of sample pairs that may depend on each other.

    pairs : symmetric 0/1 matrix [n_samples, n_samples] of each class, the diagonal empty.
    names : of the classes.
    non_negative : whether a negative rho counts as 0 (donors: samples of one donor do not repel each other).
    """

    pairs: tuple[sparse.csr_array, ...]
    names: tuple[str, ...]
    non_negative: bool


class Dependence(NamedTuple):
    """What lambda needs of the rows of one side.

    rho : float64 [n_classes, n_rows], autocorrelation of each row within each class.
    spread : float64 [n_rows, n_groups], standard deviation of each row within each group.
    """

    rho: np.ndarray
    spread: np.ndarray


def donor_classes(samples_df: pd.DataFrame, groups: np.ndarray) -> Classes:
    """Pairs of samples of one donor: in another tissue, and in the same tissue.

    Parameters
    ----------
    samples_df : in the order of the analysis; donor, where it is known: a sample without one has its own.
    groups : int [n_samples], the tissue of each sample.
    """
    codes = _donors(samples_df)
    same = codes[:, None] == codes[None, :]
    np.fill_diagonal(same, False)
    within = groups[:, None] == groups[None, :]
    classes = {"same donor, other tissue": same & ~within, "same donor, same tissue": same & within}
    return _classes(classes, non_negative=True)


def _donors(samples_df: pd.DataFrame) -> np.ndarray:
    """int [n_samples], the donor of each sample."""
    own = pd.Series(np.arange(len(samples_df)), samples_df.index)
    if "donor" not in samples_df:
        return own.to_numpy()
    codes = pd.Series(pd.factorize(samples_df["donor"])[0], samples_df.index)
    return codes.where(codes >= 0, own + len(samples_df)).to_numpy()


def donor_notes(samples_df: pd.DataFrame) -> list[str]:
    """What these donors allow to be tested; empty where each gave one sample."""
    donors = _donors(samples_df)
    n, n_donors = len(donors), len(np.unique(donors))
    if n_donors == n:
        return []
    if n_donors == 1:
        return [f"all {n} samples are of one donor: links hold for this donor and say nothing of others"]
    if n_donors < LEAST_DONORS:
        return [
            f"{n} samples are of {n_donors} donors, too few to tell how alike the samples of a donor are: "
            f"p can be too small; at least {LEAST_DONORS} donors are needed"
        ]
    return [f"{n} samples are of {n_donors} donors: links are tested at their effective size"]


def _classes(masks: Mapping[str, np.ndarray], non_negative: bool) -> Classes:
    kept = {name: mask for name, mask in masks.items() if mask.any()}
    pairs = tuple(sparse.csr_array(mask.astype(np.float64)) for mask in kept.values())
    return Classes(pairs, tuple(kept), non_negative)


def dependence(rows: np.ndarray, groups: np.ndarray, classes: Classes, leverage: np.ndarray) -> Dependence:
    """Autocorrelation of each row within each class, and its standard deviation within each group.

    Parameters
    ----------
    rows : float64 [n_rows, n_samples], residuals within the groups (and of covariates).
    groups : int [n_samples], 0 to n_groups - 1.
    leverage : float64 [n_samples], of the projection that left these residuals; a sample alone in its group
        has 1 and contributes nothing.
    """
    free = 1 - leverage
    usable = free > 1e-9
    scaled = np.where(usable, rows / np.sqrt(np.where(usable, free, 1)), 0.0)
    membership = np.eye(int(groups.max()) + 1)[groups]
    degrees = np.maximum(free @ membership, 1e-9)
    spread = np.sqrt((rows * rows) @ membership / degrees)
    rho = np.zeros((len(classes.pairs), len(rows)))
    for c, pairs in enumerate(classes.pairs):
        products = np.einsum("ij,ij->i", scaled, (pairs @ scaled.T).T)
        expected = np.einsum("ig,gh,ih->i", spread, membership.T @ (pairs @ membership), spread)
        np.divide(products, expected, out=rho[c], where=expected > 0)
    rho = np.clip(rho, 0.0 if classes.non_negative else -1.0, 1.0)
    return Dependence(rho, spread)


class Inflation(NamedTuple):
    """lambda of every pair of two sides, in blocks.

    weights : for each class float64 [n_groups, n_groups], the ordered pairs of the class between groups.
    sizes : float64 [n_groups], samples of each group.
    """

    x: Dependence
    y: Dependence
    weights: tuple[np.ndarray, ...]
    sizes: np.ndarray

    def of_block(self, genes: slice | np.ndarray) -> np.ndarray:
        """lambda of the genes with all features, float64 [genes, n_features]."""
        sx, sy = self.x.spread[genes], self.y.spread
        variance = (sx * sx * self.sizes) @ (sy * sy).T
        added = np.zeros_like(variance)
        upper = np.triu_indices(sx.shape[1])
        for c, weight in enumerate(self.weights):
            if not (self.x.rho[c, genes].any() and self.y.rho[c].any()):
                continue
            counted = np.where(upper[0] == upper[1], 1.0, 2.0) * weight[upper]
            used = counted > 0
            i, j, counted = upper[0][used], upper[1][used], counted[used]
            shared = (sx[:, i] * sx[:, j] * counted) @ (sy[:, i] * sy[:, j]).T
            added += shared * self.x.rho[c, genes][:, None] * self.y.rho[c]
        inflation = 1 + np.divide(added, variance, out=np.zeros_like(added), where=variance > 0)
        return np.maximum(inflation, LEAST)

    def of_pairs(self, genes: np.ndarray, features: np.ndarray) -> np.ndarray:
        """lambda of gene genes[k] with feature features[k], float64 [n_pairs]."""
        a = self.x.spread[genes] * self.y.spread[features]
        variance = (a * a) @ self.sizes
        added = np.zeros(len(a))
        for c, weight in enumerate(self.weights):
            added += np.einsum("ig,gh,ih->i", a, weight, a) * self.x.rho[c, genes] * self.y.rho[c, features]
        inflation = 1 + np.divide(added, variance, out=np.zeros_like(added), where=variance > 0)
        return np.maximum(inflation, LEAST)


def inflation(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, classes: Classes, leverage: np.ndarray
) -> Inflation:
    """What gives lambda of every pair of rows of x and y (residuals within the groups, float64)."""
    membership = np.eye(int(groups.max()) + 1)[groups]
    weights = tuple(membership.T @ (pairs @ membership) for pairs in classes.pairs)
    of_x, of_y = (dependence(rows, groups, classes, leverage) for rows in (x, y))
    return Inflation(of_x, of_y, weights, membership.sum(axis=0))
