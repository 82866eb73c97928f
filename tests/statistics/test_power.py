"""lib.statistics.power against simulated links and its own limits."""

import numpy as np
import pytest
from linked_cohort import cohort, links_of

from lib.statistics import power


def test_power_agrees_with_simulation_within_two_points():
    """4,000 simulated pairs of the smallest r: found with 80 % power by the same critical value."""
    rng = np.random.default_rng(0)
    n, tissues, critical = 150, 8, 3.6
    groups = np.sort(rng.integers(0, tissues, n))
    r = power.smallest_r(critical, n - tissues)
    x = rng.standard_normal((8000, n))
    y = r * x + np.sqrt(1 - r * r) * rng.standard_normal((8000, n))
    for rows in (x, y):
        for g in range(tissues):
            rows[:, groups == g] -= rows[:, groups == g].mean(axis=1, keepdims=True)
    observed = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    found = np.abs(observed) * np.sqrt(n - tissues) >= critical
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    assert power.power_at(np.array([r]), critical, n - tissues)[0] == pytest.approx(0.8)


def test_critical_value_is_the_quantile_and_continues_beyond_it():
    null = np.random.default_rng(0).gumbel(3, 0.3, 200_000)
    for level in (0.05, 1e-3):
        assert power.critical_value(null, level) == pytest.approx(
            3 - 0.3 * np.log(-np.log1p(-level)), abs=0.03
        )
    assert power.critical_value(null[:20_000], 1e-5) == pytest.approx(3 - 0.3 * np.log(1e-5), abs=0.25)


def test_larger_studies_find_weaker_links():
    result, _ = links_of(*cohort(n_true=4))
    null = np.concatenate([result.null.null_of(g)[:32] for g in range(len(result.sides.genes))])
    df = power.power_table(null, 80, 4, 110, n_samples=120)
    of_four = df[df["genes_found"] == 4]["smallest_r"]
    assert of_four.is_monotonic_decreasing
    assert df["smallest_r"].between(0.1, 0.9).all()
    assert (df[df["genes_found"] == 1]["smallest_r"].to_numpy() > of_four.to_numpy()).all()


def test_too_few_samples_have_no_power():
    assert np.isnan(power.smallest_r(4.0, 12))
    assert power.power_at(np.array([0.9]), 4.0, 12).tolist() == [0]
