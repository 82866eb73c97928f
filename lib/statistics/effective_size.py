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

Where samples are not equally variable, and those that vary most do so on both sides (spots of little depth at
the edge of the tissue), r varies more as well, and shuffling does not show it. s_xi is then the standard
deviation of x in the group times sqrt(v_i), v_i being the mean square of sample i over all rows of its side,
each standardised in the group; D keeps the groups' own. The 1 becomes the mean of two estimates,

    (E + tau / (1 + 2 r^2)) / 2,    E = sum_i s_xi^2 s_yi^2 / D,    tau = sum_i x_i^2 y_i^2 / D,

one from what a sample is like in all rows, one from this pair's own values, which studentises the statistic
(DiCiccio and Romano 2017, J Am Stat Assoc 112:1211); 1 + 2 r^2 is what tau is for a correlated pair of equal
variances, which is to lose nothing. On 361 spots, 40 features, 192,000 pairs a design without a link, 5.0 and
4.7 % are rejected at 0.05 (0.10 and 0.04 % at 0.001) for independent spots and for smooth fields; with
lognormal variances (sd 0.7) that both sides share, from spot to spot, 3.6 and 4.3 % (0.02 %), and with smooth
ones in smooth fields 3.9 % (0.01 %). With E alone the last three are 5.2, 5.5 and 4.6 % (0.14, 0.22 and
0.06 %), and with max(1, tau / (1 + 2 r^2)) and a rho of equal variances 5.1 to 10.7 % (0.07 to 0.35 %).

v depends on which rows are given: with the genes of 99 links in place of 4,319, lambda is 1.03 times as large
in her2st, and of a single row it is as likely too small as too large (a standard deviation of 20 %).

The null maxima are of z as it is. With equal variances 5.4 and 2.3 % of genes are called at 0.05 in these
designs, with unequal ones at most 0.3 %. Studentised under each shuffle the maxima are too small (in a
simulation 13 % of genes were called at 0.05), because there tau is large only where r is.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse, stats

from lib.statistics.residuals import unit_length

LEAST_DONORS = 6  # with several samples each, to estimate how alike these are
BLOCK_VALUES = 4_000_000  # of one side, in one product
TINY = 1e-30  # of a variance: a gene and a feature that vary in different sections
LEAST = 0.1  # of lambda: classes of opposite sign never claim more than ten times the samples there are


class Classes(NamedTuple):
    """Classes of sample pairs that may depend on each other.

    pairs : symmetric 0/1 matrix [n_samples, n_samples] of each class, the diagonal empty.
    names : of the classes.
    non_negative : whether a negative rho counts as 0 (donors: samples of one donor do not repel each other).
    uneven : whether samples may differ in how variable they are, on both sides at once.
    """

    pairs: tuple[sparse.csr_array, ...]
    names: tuple[str, ...]
    non_negative: bool
    uneven: bool = False


class Dependence(NamedTuple):
    """What lambda needs of the rows of one side.

    rho : float64 [n_classes, n_rows], autocorrelation of each row within each class.
    spread : float64 [n_rows, n_groups], standard deviation of each row within each group.
    variance : float64 [n_samples], of each sample over the rows, relative to the mean of its group.
    rows : float32 [n_rows, n_samples], the rows themselves, of length 1; where samples may be uneven.
    """

    rho: np.ndarray
    spread: np.ndarray
    variance: np.ndarray
    rows: np.ndarray | None = None

    def take(self, at: slice | np.ndarray) -> "Dependence":
        """Of some rows only."""
        rows = None if self.rows is None else self.rows[at]
        return Dependence(self.rho[:, at], self.spread[at], self.variance, rows)


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
    variance = _variance(scaled, spread, groups) if classes.uneven else np.ones(len(groups))
    membership = membership * np.sqrt(variance)[:, None]
    rho = np.zeros((len(classes.pairs), len(rows)))
    for c, pairs in enumerate(classes.pairs):
        expected = np.einsum("ig,gh,ih->i", spread, membership.T @ (pairs @ membership), spread)
        np.divide(_products(scaled, pairs), expected, out=rho[c], where=expected > 0)
    rho = np.clip(rho, 0.0 if classes.non_negative else -1.0, 1.0)
    return Dependence(rho, spread, variance)


def _variance(scaled: np.ndarray, spread: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean square of each sample over the rows, each divided by its variance in the sample's group; float64
    [n_samples], 1 in the mean of a group.
    """
    variance = np.ones(len(groups))
    for group in range(spread.shape[1]):
        members = np.flatnonzero(groups == group)
        rows = scaled if len(members) == len(groups) else scaled[:, members]
        square = spread[:, group] ** 2
        weight = np.divide(1, square, out=np.zeros_like(square), where=square > 0)
        squares = np.einsum("i,ij,ij->j", weight, rows, rows)
        if squares.any():
            variance[members] = squares / squares.mean()
    return variance


def _products(rows: np.ndarray, pairs: sparse.csr_array) -> np.ndarray:
    """Sum of row[i] row[j] over the pairs of a class, float64 [n_rows]; only its own samples are read."""
    members = np.flatnonzero(np.diff(pairs.indptr))
    own = pairs[members][:, members]
    step = max(1, BLOCK_VALUES // max(len(members), 1))
    parts = [np.empty(0)]
    for start in range(0, len(rows), step):
        block = rows[start : start + step, members]
        parts.append(np.einsum("ij,ji->i", block, own @ block.T))
    return np.concatenate(parts)


class Inflation(NamedTuple):
    """lambda of every pair of two sides, in blocks.

    weights : for each class float64 [n_groups, n_groups], the ordered pairs of the class between groups, each
        counted as the root of its samples' variances on both sides.
    sizes : float64 [n_groups], samples of each group.
    shared : float64 [n_groups], mean product of the variances of a sample on both sides; 1 where even.
    """

    x: Dependence
    y: Dependence
    weights: tuple[np.ndarray, ...]
    sizes: np.ndarray
    shared: np.ndarray

    def of_block(self, genes: slice | np.ndarray, r_t: torch.Tensor | None = None) -> np.ndarray:
        """lambda of the genes with all features [genes, n_features], float64 (one section of spots: float32).

        r_t : float32 [genes, n_features], their correlations, where they are known already.
        """
        sx, sy = self.x.spread[genes], self.y.spread
        own_t = self._own_of_block(genes, r_t)
        if len(self.sizes) == 1:  # one group: its spreads cancel, 1 + sum of n_c rho_x rho_y / n is left
            share = np.array([weight[0, 0] for weight in self.weights]) / self.sizes[0]
            of_x, of_y = self.x.rho[:, genes].T * share, self.y.rho
            return _at_least(own_t, torch.from_numpy(of_x), torch.from_numpy(of_y))
        variance = (sx * sx * self.sizes) @ (sy * sy).T
        upper = np.triu_indices(sx.shape[1])
        of_x, of_y = [np.zeros((len(sx), 0))], [np.zeros((len(sy), 0))]
        for c, weight in enumerate(self.weights):
            if not (self.x.rho[c, genes].any() and self.y.rho[c].any()):
                continue
            counted = np.where(upper[0] == upper[1], 1.0, 2.0) * weight[upper]
            used = counted > 0
            i, j = upper[0][used], upper[1][used]
            of_x.append(sx[:, i] * sx[:, j] * counted[used] * self.x.rho[c, genes][:, None])
            of_y.append(sy[:, i] * sy[:, j] * self.y.rho[c][:, None])
        added = np.concatenate(of_x, axis=1) @ np.concatenate(of_y, axis=1).T  # all classes in one product
        np.divide(added, variance, out=added, where=variance > 0)  # elsewhere both are 0
        added += 1.0 if own_t is None else own_t.numpy()
        return np.maximum(added, LEAST, out=added)

    def _own_of_block(self, genes: slice | np.ndarray, r_t: torch.Tensor | None) -> torch.Tensor | None:
        """What each sample by itself adds to lambda, float32 [genes, n_features]; None: 1 everywhere."""
        if self.x.rows is None or self.y.rows is None:
            return None
        x_t, y_t = torch.from_numpy(self.x.rows[genes]), torch.from_numpy(self.y.rows)
        vx, vy = self.x.spread[genes] ** 2 * self.sizes, self.y.spread**2
        r_t = x_t @ y_t.T if r_t is None else r_t
        one_group = len(self.sizes) == 1
        scale_x, scale_y = (  # D of one group is a product: it divides the rows
            torch.from_numpy(
                (1 / np.maximum(v, TINY) if one_group else np.ones((len(v), 1))).astype(np.float32)
            )
            for v in (vx, vy)
        )
        own_t = (x_t * x_t * scale_x) @ (y_t * y_t * scale_y).T
        own_t.div_((r_t * r_t).mul_(4).add_(2))
        if one_group:
            own_t.add_(float(self.shared[0] / 2))
            still_x, still_y = (torch.from_numpy(~v.any(axis=1)) for v in (vx, vy))
            own_t[still_x] = 1
            own_t[:, still_y] = 1
            return own_t
        sides = np.stack([vx, vx * self.shared / 2]).astype(np.float32)
        usual_t, shared_t = torch.from_numpy(sides) @ torch.from_numpy(vy.T.astype(np.float32))
        apart_t = usual_t <= TINY  # they vary in different groups, and r is 0
        return own_t.add_(shared_t).div_(usual_t.clamp_min_(TINY)).masked_fill_(apart_t, 1)

    def of_pairs(self, genes: np.ndarray, features: np.ndarray) -> np.ndarray:
        """lambda of gene genes[k] with feature features[k], float64 [n_pairs]."""
        a = self.x.spread[genes] * self.y.spread[features]
        variance = (a * a) @ self.sizes
        added = np.zeros(len(a))
        for c, weight in enumerate(self.weights):
            added += np.einsum("ig,gh,ih->i", a, weight, a) * self.x.rho[c, genes] * self.y.rho[c, features]
        inflation = np.divide(added, variance, out=np.zeros_like(added), where=variance > 0)
        return np.maximum(inflation + self._own_of_pairs(genes, features, variance), LEAST)

    def _own_of_pairs(self, genes: np.ndarray, features: np.ndarray, usual: np.ndarray) -> np.ndarray:
        """As `_own_of_block`, of pairs; usual : float64 [n_pairs], D."""
        if self.x.rows is None or self.y.rows is None:
            return np.ones(len(genes))
        shared = (self.x.spread[genes] ** 2 * self.y.spread[features] ** 2) @ (self.sizes * self.shared)
        own = np.empty(len(genes))
        step = max(1, BLOCK_VALUES // self.x.rows.shape[1])
        for start in range(0, len(genes), step):
            at = slice(start, start + step)
            products = self.x.rows[genes[at]].astype(np.float64) * self.y.rows[features[at]]
            r, squares = products.sum(axis=1), (products * products).sum(axis=1)
            own[at] = squares / (1 + 2 * r * r)
        return np.divide((own + shared) / 2, usual, out=np.ones(len(genes)), where=usual > 0)


def _at_least(own_t: torch.Tensor | None, of_x_t: torch.Tensor, of_y_t: torch.Tensor) -> np.ndarray:
    """own (None: 1) and the product of the classes together, no less than LEAST; overwrites own."""
    if own_t is None:
        return (of_x_t @ of_y_t).add_(1).clamp_min_(LEAST).numpy()
    return own_t.addmm_(of_x_t.float(), of_y_t.float()).clamp_min_(LEAST).numpy()


def inflation(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, classes: Classes, leverage: np.ndarray
) -> Inflation:
    """What gives lambda of every pair of rows of x and y (residuals within the groups, float64)."""
    membership = np.eye(int(groups.max()) + 1)[groups]
    if classes.uneven:  # r is the product of rows of length 1
        x, y = unit_length(x), unit_length(y)
    of_x, of_y = (dependence(rows, groups, classes, leverage) for rows in (x, y))
    if classes.uneven:
        of_x, of_y = of_x._replace(rows=x.astype(np.float32)), of_y._replace(rows=y.astype(np.float32))
    products, sizes = of_x.variance * of_y.variance, membership.sum(axis=0)
    shared = products @ membership / sizes
    membership *= np.sqrt(products)[:, None]
    weights = tuple(membership.T @ (pairs @ membership) for pairs in classes.pairs)
    return Inflation(of_x, of_y, weights, sizes, shared)


def precision(n_effective: np.ndarray) -> np.ndarray:
    """1 / variance of atanh r of so many effective samples; a half where next to nothing is known."""
    return np.maximum(n_effective - 2, 0.5)


def p_of_r(r: np.ndarray, n_effective: np.ndarray) -> np.ndarray:
    """Two-sided p of r by Fisher's transformation."""
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    return 2 * stats.norm.sf(np.abs(z) * np.sqrt(precision(n_effective)))
