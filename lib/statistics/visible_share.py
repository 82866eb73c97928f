"""How much of each gene the features see within tissues: cross-validated kernel ridge regression.

One prediction of every gene from all features together, the multivariate complement of the links. Donors are
kept together in the folds; predictions are made for donors that the regression has not seen. Variables are
rows, samples are columns.
"""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.statistics.false_discovery import bh
from lib.statistics.link_tests import Sides

PENALTIES = np.geomspace(0.01, 100, 9)  # times the mean eigenvalue of the kernel
N_FOLDS = 5
LEAST_DONORS = 4


def visible_genes(
    sides: Sides, samples_df: pd.DataFrame, n_permutations: int = 200, seed: int = 0, progress: bool = True
) -> tuple[pd.DataFrame, str]:
    """`visible_share` of every gene of the sides, with q, and in words on what it rests.

    Parameters
    ----------
    samples_df : sample_id, tissue and, where known, donor, in the order of the sides.

    Returns
    -------
    DataFrame, index gene: r_cv, p, q (Benjamini-Hochberg); empty with fewer than LEAST_DONORS donors.
    """
    own = samples_df["sample_id"].astype(str)
    donors = samples_df["donor"].fillna(own) if "donor" in samples_df else own
    n_donors = donors.nunique()
    if n_donors < LEAST_DONORS:
        empty_df = pd.DataFrame({"r_cv": [], "p": [], "q": []}, index=pd.Index([], name="gene"))
        return (
            empty_df,
            f"{n_donors} donors are too few to predict genes of unseen ones: {LEAST_DONORS} needed",
        )
    how = {"n_permutations": n_permutations, "seed": seed, "progress": progress}
    df = visible_share(sides.x, sides.y, sides.groups, donors.to_numpy(), **how)
    df = df.set_index(sides.genes.rename("gene"))
    n_folds = min(N_FOLDS, n_donors)
    return df.assign(q=bh(df["p"].to_numpy())), f"{n_folds} folds of {n_donors} donors"


def donor_folds(donors: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold of each sample, int [n_samples]: all samples of a donor in one fold, folds of similar size.

    ValueError with fewer donors than folds.
    """
    codes, names = pd.factorize(np.asarray(donors))
    if len(names) < n_folds:
        raise InputError(f"{len(names)} donors cannot fill {n_folds} folds: ask for at most {len(names)}")
    rng = np.random.default_rng(seed)
    sizes = np.bincount(codes)
    fold_of, filled = np.empty(len(names), np.int64), np.zeros(n_folds)
    for donor in sorted(rng.permutation(len(names)), key=lambda d: -sizes[d]):
        fold_of[donor] = np.argmin(filled)
        filled[fold_of[donor]] += sizes[donor]
    return fold_of[codes]


def visible_share(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, donors: np.ndarray, *, n_permutations: int = 200,
    seed: int = 0, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Correlation within tissues of each gene with its cross-validated prediction from all features.

    Parameters
    ----------
    x : float64 [n_genes, n_samples], residuals within tissues (and of covariates).
    y : float64 [n_features, n_samples], the same of the features.
    groups, donors : tissue (int) and donor of each sample.
    n_permutations : shuffles of the genes' residuals within tissues, the same for all genes.

    Returns
    -------
    DataFrame [n_genes]: r_cv; p, the share of shuffles that predict as well, (1 + b) / (1 + N); 0 and 1 for
    genes without variation.
    """
    folds = donor_folds(donors, min(N_FOLDS, len(np.unique(donors))), seed)
    scale = np.sqrt((y * y).sum(axis=1, keepdims=True))
    unit = np.divide(y, scale, out=np.zeros_like(y), where=scale > 0)
    smoothers = [_Fold(unit.T @ unit, groups, folds != fold) for fold in range(folds.max() + 1)]
    genes = np.ascontiguousarray(x.T)
    observed = _predicted_r(genes, groups, smoothers)
    rng = np.random.default_rng(seed)
    reached = np.zeros(len(x), np.int64)
    for _ in tqdm(range(n_permutations), unit="shuffle", desc="visible share", disable=not progress):
        order = np.arange(len(groups))
        for group in range(groups.max() + 1):
            members = np.flatnonzero(groups == group)
            order[members] = rng.permutation(members)
        reached += _predicted_r(genes[order], groups, smoothers) >= observed - 1e-12
    p = (1 + reached) / (1 + n_permutations)
    return pd.DataFrame({"r_cv": observed, "p": np.where(x.any(axis=1), p, 1.0)})


class _Fold:
    """Kernel ridge regression fitted on the training samples of one fold, for many genes at once."""

    def __init__(self, kernel: np.ndarray, groups: np.ndarray, train: np.ndarray) -> None:
        self.train, self.test = np.flatnonzero(train), np.flatnonzero(~train)
        n_groups = int(groups.max()) + 1
        membership = np.eye(n_groups)[groups]
        counts = np.maximum(membership[self.train].sum(axis=0), 1)
        whole = np.eye(len(groups))
        whole[:, self.train] -= membership @ (membership[self.train] / counts).T  # tissue means of training
        centred = whole @ kernel @ whole.T
        inner = centred[np.ix_(self.train, self.train)]
        values, vectors = np.linalg.eigh(inner)
        values = np.maximum(values, 0)[:, None]
        self.rotation = vectors.T @ whole[np.ix_(self.train, self.train)]  # of genes as they come
        self.outer = centred[np.ix_(self.test, self.train)] @ vectors
        self.inverse = 1 / (values + PENALTIES * values.mean())  # [n_train, n_penalties]
        self.shrink = values * self.inverse

    def predict(self, genes: np.ndarray) -> np.ndarray:
        """Predictions for the test samples, [n_test, n_genes], the penalty of each gene by generalised
        cross-validation (Golub, Heath and Wahba 1979) within the training samples.
        """
        rotated = self.rotation @ genes[self.train]
        error = ((1 - self.shrink) ** 2).T @ (rotated * rotated)  # [n_penalties, n_genes]
        free = np.maximum(len(self.train) - self.shrink.sum(axis=0), 1e-9)
        best = np.argmin(error / (free * free)[:, None], axis=0)
        rotated *= self.inverse[:, best]
        return self.outer @ rotated


def _predicted_r(genes: np.ndarray, groups: np.ndarray, smoothers: list[_Fold]) -> np.ndarray:
    """r within tissues of genes [n_samples, n_genes] with their predictions over all folds."""
    predicted = np.empty_like(genes)
    for fold in smoothers:
        predicted[fold.test] = fold.predict(genes)
    for group in range(groups.max() + 1):
        members = np.flatnonzero(groups == group)
        predicted[members] -= predicted[members].mean(axis=0)
    squares, of_genes, together = (
        np.einsum("ij,ij->j", a, b) for a, b in ((predicted, predicted), (genes, genes), (predicted, genes))
    )
    length = np.sqrt(squares * of_genes)
    return np.divide(together, length, out=np.zeros(len(length)), where=length > 0)
