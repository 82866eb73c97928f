"""lib.statistics.visible_share against scikit-learn's kernel ridge regression, and its null."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from lib.statistics import visible_share


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(0)
    groups, donors = np.sort(rng.integers(0, 4, 100)), rng.integers(0, 30, 100)
    hidden = rng.standard_normal((5, 100))
    features = rng.standard_normal((60, 5)) @ hidden + 0.5 * rng.standard_normal((60, 100))
    genes = np.concatenate([hidden + 0.7 * rng.standard_normal((5, 100)), rng.standard_normal((195, 100))])
    for rows in (features, genes):
        for g in range(4):
            rows[:, groups == g] -= rows[:, groups == g].mean(axis=1, keepdims=True)
    return genes, features, groups, donors


def test_donors_stay_together():
    donors = np.random.default_rng(0).integers(0, 20, 150)
    folds = visible_share.donor_folds(donors, 5, 0)
    assert all(len(np.unique(folds[donors == d])) == 1 for d in np.unique(donors))
    assert np.bincount(folds).min() >= 20
    with pytest.raises(ValueError, match="3 donors cannot fill 5 folds"):
        visible_share.donor_folds(np.array([1, 2, 3]), 5, 0)


def test_prediction_is_ridge_regression_of_scikit_learn(cohort, monkeypatch):
    genes, features, groups, donors = cohort
    folds = visible_share.donor_folds(donors, 5, 0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    monkeypatch.setattr(visible_share, "PENALTIES", np.array([0.3]))
    fold = visible_share._Fold(unit.T @ unit, groups, folds != 2)
    train = folds != 2
    means = np.array([[rows[(groups == g) & train].mean() for g in groups] for rows in unit])
    target = np.array([genes[0][(groups == g) & train].mean() for g in groups])
    mean_eigenvalue = ((unit - means)[:, train] ** 2).sum() / train.sum()
    ridge = Ridge(alpha=0.3 * mean_eigenvalue, fit_intercept=False)
    ridge.fit((unit - means)[:, train].T, (genes[0] - target)[train])
    expected = ridge.predict((unit - means)[:, ~train].T)
    np.testing.assert_allclose(fold.predict(genes.T)[:, 0], expected, rtol=1e-6, atol=1e-8)


def test_planted_genes_are_seen_and_others_are_not(cohort):
    found_df = visible_share.visible_share(*cohort, n_permutations=99, progress=False)
    assert found_df["r_cv"][:5].min() > 0.5
    assert (found_df["p"][:5] <= 0.01).all()
    assert -0.15 < found_df["r_cv"][5:].mean() < 0.05, "leaving samples out pulls predictions below 0"
    assert 0.01 <= (found_df["p"][5:] <= 0.05).mean() <= 0.1


def test_a_constant_gene_is_not_seen(cohort):
    _, *rest = cohort
    found_df = visible_share.visible_share(np.zeros((1, 100)), *rest, n_permutations=19, progress=False)
    assert found_df.iloc[0].tolist() == [0.0, 1.0]
