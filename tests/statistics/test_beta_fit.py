"""lib.statistics.beta_fit: agrees with shuffles where these resolve p, and goes on beyond."""

import numpy as np
from scipy import stats

from lib.statistics.beta_fit import beta_p


def maxima(n, n_genes, n_features, rng):
    """Largest |z| over correlated features."""
    shared = rng.standard_normal((n, n_genes, 1))
    z = 0.5 * shared + np.sqrt(0.75) * rng.standard_normal((n, n_genes, n_features))
    return np.abs(z).max(axis=2)


def test_uniform_under_the_null_and_close_to_many_shuffles():
    rng = np.random.default_rng(0)
    observed = maxima(1, 1000, 40, rng)[0]
    p = beta_p(maxima(128, 1000, 40, rng), observed)
    assert stats.kstest(p, "uniform").pvalue > 0.001
    many = np.sort(maxima(20_000, 1, 40, rng)[:, 0])
    exact = 1 - np.searchsorted(many, observed) / len(many)
    assert np.corrcoef(p, exact)[0, 1] > 0.99


def test_goes_on_beyond_the_smallest_p_of_the_shuffles():
    rng = np.random.default_rng(1)
    null = maxima(128, 3, 40, rng)
    p = beta_p(null, np.array([4.5, 6.0, 8.0]))
    assert (np.diff(p) < 0).all()
    assert p[0] < 1 / 129
    expected = 1 - (1 - 2 * stats.norm.sf(6.0)) ** 40
    assert 0.1 < p[1] / expected < 10
    assert np.isnan(beta_p(np.ones((5, 1)), np.ones(1))).all()
