"""lib.statistics.power against simulated links and its own limits."""

import numpy as np
import pandas as pd
import pytest
from linked_cohort import cohort, links_of

from lib.statistics import link_table, link_tests, permutations, power


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


def test_power_agrees_with_the_test_of_links_within_two_points():
    """1,600 genes that follow one feature each at the smallest r: 80 % reach the critical value."""
    rng = np.random.default_rng(3)
    n, n_genes, n_features = 150, 1600, 40
    tissue = np.repeat(np.arange(6), 25)
    samples_df = pd.DataFrame({"sample_id": [f"s{k}" for k in range(n)], "tissue": [f"t{t}" for t in tissue]})
    y = rng.standard_normal((n_features, n))
    plain = [
        pd.DataFrame(rows, index=[f"{what}{k}" for k in range(len(rows))], columns=samples_df["sample_id"])
        for rows, what in ((rng.standard_normal((200, n)), "g"), (y, "1_"))
    ]
    shuffles = permutations.draw("within_tissue", 999, samples_df, 0)
    plan = link_tests.Plan(exceedances=10**9, progress=False)
    null = link_tests.run(*plain, samples_df, shuffles, None, plan)
    pooled = power.pooled_null(link_table.null_table(null))
    critical, n_effective = power.critical_value(pooled, 1e-3), power.usual_size(null.sides)
    assert n_effective == pytest.approx(n - 6, rel=0.03)
    r = power.smallest_r(critical, n_effective)
    x = r * y[np.arange(n_genes) % n_features] + np.sqrt(1 - r * r) * rng.standard_normal((n_genes, n))
    linked_df = pd.DataFrame(x, index=[f"g{k}" for k in range(n_genes)], columns=samples_df["sample_id"])
    once = link_tests.Plan(exceedances=1, overall=1, progress=False)
    genes_df = link_tests.run(linked_df, plain[1], samples_df, shuffles, None, once).genes_df
    # the features are drawn once, so that r of the sample varies as the genes do
    assert (genes_df["statistic"] >= critical).mean() == pytest.approx(0.8, abs=0.02)


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
