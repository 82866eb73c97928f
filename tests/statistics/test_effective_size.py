"""lib.statistics.effective_size: lambda by its definition, and calibration in the designs it is for."""

import numpy as np
import pandas as pd
import pytest
from designs import DESIGNS, p_of_pairs, simulated

from lib.statistics import effective_size


def by_definition(x, y, groups, classes, leverage):
    """lambda of one pair by loops over sample pairs."""
    n = len(x)
    sizes = np.bincount(groups)
    s = [np.array([np.sqrt((v[groups == g] ** 2).sum() / (sizes[g] - 1)) for g in groups]) for v in (x, y)]
    scaled = [v / np.sqrt(1 - leverage) for v in (x, y)]
    added = 0.0
    for pairs in classes.pairs:
        mask = pairs.toarray() > 0
        rho = []
        for v, sd in zip(scaled, s, strict=True):
            top = sum(v[i] * v[j] for i in range(n) for j in range(n) if mask[i, j])
            bottom = sum(sd[i] * sd[j] for i in range(n) for j in range(n) if mask[i, j])
            rho.append(np.clip(top / bottom, 0, 1))
        both = s[0] * s[1]
        weight = sum(both[i] * both[j] for i in range(n) for j in range(n) if mask[i, j])
        added += rho[0] * rho[1] * weight
    return 1 + added / ((s[0] * s[1]) ** 2).sum()


def centred(rows, groups):
    rows = rows.copy()
    for g in np.unique(groups):
        rows[:, groups == g] -= rows[:, groups == g].mean(axis=1, keepdims=True)
    return rows


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), [8, 7, 9])
    donors = rng.integers(0, 9, len(groups))
    x, y = (
        centred(rng.standard_normal((5, 24)) + 1.5 * rng.standard_normal((5, 9))[:, donors], groups)
        for _ in range(2)
    )
    classes = effective_size.donor_classes(pd.DataFrame({"donor": donors}), groups)
    leverage = 1 / np.bincount(groups)[groups]
    return x, y, groups, classes, leverage


def test_lambda_is_that_of_the_definition(small):
    x, y, groups, classes, leverage = small
    assert classes.names == ("same donor, other tissue", "same donor, same tissue")
    found = effective_size.inflation(x, y, groups, classes, leverage)
    block = found.of_block(slice(0, 5))
    for i in range(5):
        for j in range(5):
            assert block[i, j] == pytest.approx(
                by_definition(x[i], y[j], groups, classes, leverage), rel=1e-9
            )
    np.testing.assert_allclose(found.of_pairs(np.arange(5), np.arange(5)), np.diag(block), rtol=1e-12)


def test_independent_samples_have_lambda_one():
    groups, donors = np.repeat([0, 1], 20), np.arange(40)
    classes = effective_size.donor_classes(pd.DataFrame({"donor": donors}), groups)
    assert classes.pairs == ()
    rows = centred(np.random.default_rng(0).standard_normal((4, 40)), groups)
    found = effective_size.inflation(rows, rows, groups, classes, np.full(40, 0.05))
    np.testing.assert_array_equal(found.of_block(slice(0, 4)), 1)


def test_a_constant_row_and_a_tissue_of_one_sample_are_harmless(small):
    x, y, groups, _, _ = small
    groups = np.r_[groups, 3]
    x, y = (np.c_[rows, np.zeros(5)] for rows in (x, y))
    x[0] = 0
    classes = effective_size.donor_classes(pd.DataFrame({"donor": np.arange(25) // 2}), groups)
    leverage = 1 / np.bincount(groups)[groups]
    block = effective_size.inflation(x, y, groups, classes, leverage).of_block(slice(0, 5))
    assert np.isfinite(block).all()
    np.testing.assert_array_equal(block[0], 1)


@pytest.mark.parametrize("name", DESIGNS)
def test_calibrated(name):
    """Within .03 to .075 at .05 and at most .02 at .01, 1,000 pairs a design (the targets of the method)."""
    p, p_shuffled = p_of_pairs(*simulated(name))
    assert 0.03 - 0.012 <= (p <= 0.05).mean() <= 0.075, name
    assert (p <= 0.01).mean() <= 0.02
    if DESIGNS[name].anti_conservative:
        assert (p_shuffled <= 0.05).mean() > 0.09, "the design is one where plain shuffling fails"
