"""q-values against statsmodels and their definitions."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lib.statistics import block_products, false_discovery


def test_bh_matches_its_definition():
    p = np.random.default_rng(0).uniform(size=500) ** 3
    p[100:110] = p[100]
    q = [min(1, *(500 * k / (p <= k).sum() for k in p[p >= own])) for own in p]
    np.testing.assert_allclose(false_discovery.bh(p), q, rtol=1e-12)
    assert len(false_discovery.bh(np.array([]))) == 0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        false_discovery.bh(np.array([0.5, np.nan]))


@pytest.mark.parametrize(("method", "name"), [("bh", "fdr_bh"), ("by", "fdr_by")])
def test_histogram_q_matches_statsmodels(method, name):
    """r placed on the bins' edges, where q is exact; between edges it is never below the true q."""
    rng = np.random.default_rng(1)
    edges = block_products.edges()
    r = np.round(np.tanh(rng.normal(0, rng.choice([0.15, 0.5], 4000))) * 2000) / 2000
    r[r == 0] = 0.0005
    inside = np.sign(r) * np.minimum(np.abs(r) + 1e-9, 1 - 1e-9)  # the bin whose lower |edge| is |r|
    counts = np.histogram(inside, edges)[0]
    histogram_df = pd.DataFrame({"r_low": edges[:-1], "r_high": edges[1:], "count": counts})
    q_df = false_discovery.q_from_histogram(histogram_df, 50, method)
    p = 2 * stats.beta(24, 24, loc=-1, scale=2).sf(np.abs(r))
    expected = multipletests(np.minimum(p, 1), method=name)[1]
    np.testing.assert_allclose(false_discovery.q_of(inside, q_df), expected, rtol=2e-6)
    between, above = (false_discovery.q_of(np.abs(inside) + step, q_df) for step in (0.0003, 0.0005))
    assert (between >= above - 1e-12).all()
    threshold = false_discovery.r_at_q(q_df, 0.05)
    assert false_discovery.q_of(threshold, q_df) <= 0.05 < false_discovery.q_of(threshold - 0.0004, q_df)


def test_histogram_q_edges():
    edges = block_products.edges()
    counts = np.zeros(4000, np.int64)
    counts[2000] = 50
    histogram_df = pd.DataFrame({"r_low": edges[:-1], "r_high": edges[1:], "count": counts})
    q_df = false_discovery.q_from_histogram(histogram_df, 20)
    assert false_discovery.r_at_q(q_df) == math.inf
    assert np.isfinite(q_df.to_numpy()).all()
    with pytest.raises(ValueError, match="degrees of freedom"):
        false_discovery.q_from_histogram(histogram_df, 2)
    with pytest.raises(ValueError, match="'bh' or 'by'"):
        false_discovery.q_from_histogram(histogram_df, 20, "storey")
    with pytest.raises(ValueError, match="not symmetric"):
        false_discovery.q_from_histogram(histogram_df.iloc[10:], 20)


def test_hierarchical_q_matches_its_definition():
    rng = np.random.default_rng(4)
    gene_p = np.r_[rng.uniform(0, 0.002, 15), rng.uniform(size=60)]
    gene = rng.integers(0, 75, 200)
    pair_p = np.clip(gene_p[gene] * rng.choice([1, 1.5, 4], 200), 0, 1)
    q_gene, q_pair = false_discovery.hierarchical_q(gene_p, pair_p)
    assert (q_pair >= q_gene[gene] - 1e-12).all()
    for level in (0.001, 0.01, 0.05, 0.2, 0.5):
        found = multipletests(gene_p, level, method="fdr_bh")[0]
        np.testing.assert_array_equal(q_gene <= level, found)
        expected = found[gene] & (pair_p <= level * found.sum() / 75)
        np.testing.assert_array_equal(q_pair <= level, expected)
