"""lib.statistics.sequential: Besag and Clifford's p, by hand and under the null."""

import itertools

import numpy as np
import pytest
from scipy import stats

from lib.statistics import sequential
from lib.statistics.false_discovery import bh


def draws(n_genes=300, n_shuffles=2000, n_true=10, seed=0):
    rng = np.random.default_rng(seed)
    null = np.abs(rng.standard_normal((n_shuffles, n_genes, 3))).max(axis=2)
    observed = np.abs(rng.standard_normal((n_genes, 3))).max(axis=1)
    observed[:n_true] += 6
    return null, observed


def run(null, observed, h=10, doubt=1e-4, error=0.0):
    noisy = (null + error).astype(np.float32)
    return sequential.sequential_p(
        observed,
        len(null),
        lambda start, stop, genes: (noisy[start:stop][:, genes], np.full(len(genes), doubt)),
        lambda which, genes: null[which, genes],
        h,
    )


def test_p_is_that_of_the_definition():
    null, observed = draws()
    result = run(null, observed)
    for gene in range(len(observed)):
        reached = np.cumsum(null[:, gene] >= observed[gene])
        if reached[-1] >= 10:
            m = int(np.argmax(reached >= 10)) + 1
            assert result.p[gene] == 10 / m
            assert (result.n_permutations[gene], result.n_reached[gene]) == (m, 10)
        else:
            assert result.p[gene] == (1 + reached[-1]) / (1 + len(null))
            assert result.n_permutations[gene] == len(null)
        kept = result.null_of(gene)
        assert len(kept) == result.n_permutations[gene]
        np.testing.assert_array_equal(kept, null[: len(kept), gene].astype(np.float32))


def test_the_first_shuffles_are_drawn_for_all_genes_without_changing_p():
    null, observed = draws()
    noisy = null.astype(np.float32)
    how = (lambda a, b, g: (noisy[a:b][:, g], np.full(len(g), 1e-4)), lambda w, g: null[w, g], 10)
    result = sequential.sequential_p(observed, len(null), *how, of_all=300)
    np.testing.assert_array_equal(result.p, run(null, observed).p)
    whole = result.of_all_genes()
    assert len(whole) >= 300
    np.testing.assert_array_equal(whole, noisy[: len(whole)])


def test_genes_without_a_link_stop_early():
    null, observed = draws(n_shuffles=10_000, n_true=0)
    result = run(null, observed)
    assert result.n_permutations.mean() < 200
    assert np.median(result.n_permutations) < 30


def test_values_too_close_to_call_are_settled_exactly():
    null, observed = draws()
    observed[50] = null[7, 50]  # a tie in float64
    plain = run(null, observed)
    noise = np.random.default_rng(1).uniform(-1e-3, 1e-3, null.shape)
    shifted = run(null, observed, doubt=1.1e-3, error=noise)
    np.testing.assert_array_equal(plain.p, shifted.p)


def test_p_is_uniform_or_larger_under_the_null():
    null, observed = draws(n_genes=2000, n_shuffles=1000, n_true=0, seed=3)
    p = run(null, observed).p
    for level in (0.01, 0.05, 0.2):
        assert stats.binomtest(int((p <= level).sum()), len(p), level, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(("cap", "needed"), [(1000, 108), (10_000, 11)])
def test_genes_needed_at_the_floor(cap, needed):
    """With 5,400 genes and 1,000 shuffles nothing is called unless 108 genes reach the smallest p."""
    assert sequential.genes_needed(5400, cap, 0.05) == needed


@pytest.mark.parametrize("n_true", [20, 50, 100])
def test_few_true_genes_among_many_are_found(n_true):
    """5,400 genes: a cap of 10,000 finds the true ones, 1,000 fixed shuffles none (108 would do)."""
    rng = np.random.default_rng(n_true)
    n = 5400
    observed = np.abs(rng.standard_normal((n, 20))).max(axis=1)
    observed[:n_true] += 6

    def maxima(start, stop, genes):
        shape = (stop - start, len(genes), 20)
        values = np.abs(np.random.default_rng(start).standard_normal(shape, np.float32)).max(axis=2)
        return values, np.zeros(len(genes))

    def nothing(which, genes):
        return np.full(len(which), -np.inf)

    result = sequential.sequential_p(observed, 10_000, maxima, nothing, 10)
    found = bh(result.p) <= 0.05
    assert found[:n_true].all()
    assert found[n_true:].sum() <= 0.15 * n_true + 3
    assert result.n_permutations.mean() < 350
    fixed = sequential.sequential_p(observed, 1000, maxima, nothing, 10**9)
    assert not (bh(fixed.p) <= 0.05).any()


def test_batches_cover_every_shuffle_once():
    bounds = list(sequential.batches(3000))
    assert [bounds[0][0], bounds[-1][1]] == [0, 3000]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
