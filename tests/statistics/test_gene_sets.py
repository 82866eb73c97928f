"""gene_sets: against brute force; null, random sets and planted sets; covariates, donors, degenerate sets."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.statistics import gene_sets, link_table, link_tests, permutations

QUIET = link_tests.Plan(progress=False)
N, N_GENES, N_FEATURES = 80, 300, 40
SYMBOLS = pd.Series([f"S{i}" for i in range(N_GENES)], [f"g{i}" for i in range(N_GENES)])


def cohort(seed, planted=()):
    """Samples of four tissues; genes that three factors correlate; features in near-copies of four."""
    rng = np.random.default_rng(seed)
    ids = [f"s{i}" for i in range(N)]
    samples_df = pd.DataFrame({"sample_id": ids, "slide_id": ids, "tissue": np.repeat(list("abcd"), N // 4)})
    base = rng.normal(size=(N_FEATURES // 4, N))
    y = np.repeat(base, 4, axis=0) + 0.2 * rng.normal(size=(N_FEATURES, N))
    x = rng.normal(size=(N_GENES, N)) + 0.5 * rng.normal(size=(N_GENES, 3)) @ rng.normal(size=(3, N))
    for genes, feature in planted:
        x[genes] += 1.2 * base[feature] * rng.choice([-1, 1], len(genes))[:, None]
    features_df = pd.DataFrame(y, [f"1_{i}" for i in range(N_FEATURES)], ids)
    return samples_df, pd.DataFrame(x, SYMBOLS.index, ids), features_df


def names(at):
    return [f"g{i}" for i in at]


def run_sets(seed, sets, planted=(), n=400, q=0.05, covariates_df=None):
    samples_df, log_df, features_df = cohort(seed, planted)
    shuffles = permutations.draw("within_tissue", n, samples_df, seed)
    links = link_tests.run(log_df, features_df, samples_df, shuffles, covariates_df, QUIET)
    return gene_sets.run(sets, links.sides, shuffles, q, QUIET), links, shuffles


def test_against_brute_force():
    """T and p of every set by the definition, a shuffle at a time."""
    sets = {"a": names(range(20)), "b": names(range(10, 60, 2)), "c": names(range(100, 112))}
    samples_df, log_df, features_df = cohort(3, planted=[(np.arange(20), 2)])
    shuffles = permutations.draw("within_tissue", 300, samples_df, 3)
    plan = link_tests.Plan(exceedances=10**6, progress=False)  # no gene stops
    links = link_tests.run(log_df, features_df, samples_df, shuffles, plan=plan)
    tests = gene_sets.run(sets, links.sides, shuffles, 0.05, plan)
    tissue = samples_df["tissue"].to_numpy()

    def residuals(df):
        return np.concatenate([(of - of.mean(axis=1, keepdims=True)) for of in
                               (df.to_numpy()[:, tissue == t] for t in "abcd")], axis=1)  # fmt: skip

    x, y = residuals(log_df), residuals(features_df.loc[tests.sides.features])

    def t_of(x):
        of_x, of_y = ((v * v).reshape(len(v), 4, -1).sum(axis=2) for v in (x, y))  # of each tissue
        u = (x @ y.T) ** 2 / (of_x @ of_y.T / (N // 4 - 1))
        mean, sd = u.mean(axis=0), u.std(axis=0)
        at = [[int(g[1:]) for g in genes] for genes in sets.values()]
        return np.stack([(u[rows].mean(axis=0) - mean) / sd * np.sqrt(len(rows)) for rows in at])

    np.testing.assert_allclose(tests.observed, t_of(x), rtol=1e-9)
    null = np.stack([t_of(x[:, order]).max(axis=1) for order in shuffles.order])
    p = (1 + (null >= tests.observed.max(axis=1)).sum(axis=0)) / (1 + len(null))
    np.testing.assert_allclose(tests.null.p, p)


def test_calibrated_where_nothing_is_linked_and_where_other_genes_are():
    """Random sets: 5 % where nothing is linked, and no more where a fifth of the genes follow features."""
    planted = [(np.arange(20 * k, 20 * k + 20), k) for k in range(3)]
    for links, at_most in (((), 0.075), (planted, 0.075)):
        p = []
        for seed in range(30):
            rng = np.random.default_rng([9, seed])
            sets = {f"r{k}": names(rng.choice(N_GENES, 25, replace=False)) for k in range(12)}
            p.extend(run_sets(seed, sets, links)[0].null.p)
        assert np.mean(np.array(p) <= 0.05) <= at_most
        assert np.mean(np.array(p) <= 0.01) <= 0.03
        if not links:
            assert np.mean(np.array(p) <= 0.05) >= 0.025
            assert stats.kstest(p, "uniform").statistic < 0.1


def test_planted_sets_are_found_by_their_clump_in_either_direction():
    planted = [(np.arange(20 * k, 20 * k + 20), 3 * k) for k in range(3)]
    rng = np.random.default_rng(0)
    sets = {f"whole{k}": names(genes) for k, (genes, _) in enumerate(planted)}
    half = {f"half{k}": names([*genes[:12], *rng.choice(np.arange(60, 300), 12)])
            for k, (genes, _) in enumerate(planted)}  # fmt: skip
    others = {f"r{k}": names(rng.choice(np.arange(60, 300), 25, replace=False)) for k in range(15)}
    sets |= half | others
    tests, links, _ = run_sets(1, sets, planted, n=1000)
    links_df = link_table.find_links(links, 0.05).assign(clump=lambda df: df["feature"])
    table_df = gene_sets.table(tests, sets, links_df, SYMBOLS)
    found = table_df.index[table_df["q"] <= 0.05]
    assert set(sets) - set(others) <= set(found)
    assert len(set(found) & set(others)) <= 1
    for k, (_, feature) in enumerate(planted):
        row = table_df.loc[f"whole{k}"]
        assert int(row["feature"].split("_")[1]) // 4 == feature
        assert row["n_named"] == row["n_genes"] == 20
        assert 0 < row["share_positive"] < 1
        assert abs(row["mean_r"]) < 0.5  # of either sign
        assert row["n_linked"] <= 20
        assert all(name in SYMBOLS.to_numpy() for name in row["genes"].split(", ") if name)
    pairs_df = gene_sets.set_links(tests, links_df, SYMBOLS, 0.05)
    assert set(pairs_df["set"]) <= set(found)
    assert (pairs_df["q"] <= 0.05 + 1e-9).all()
    best_df = pairs_df.drop_duplicates("set").set_index("set")
    assert best_df["p"].equals(table_df.loc[best_df.index, "p"])


def test_stable_under_blocks(monkeypatch):
    sets = {"a": names(range(30)), "b": names(range(5, 50))}
    tests, *_ = run_sets(5, sets)
    monkeypatch.setattr(gene_sets, "BLOCK_VALUES", 1)
    monkeypatch.setattr(link_tests, "BLOCK_VALUES", 1000)
    again, *_ = run_sets(5, sets)
    np.testing.assert_array_equal(tests.null.p, again.null.p)
    np.testing.assert_allclose(tests.observed, again.observed, rtol=1e-9)


def test_covariates_that_make_a_set_are_taken_out():
    """A set and a feature that both follow a covariate are found with it left in, not with it out."""
    samples_df, log_df, features_df = cohort(8)
    rng = np.random.default_rng(2)
    delay = rng.normal(size=N)
    log_df.iloc[:25] += 2 * delay
    features_df += delay
    shuffles = permutations.draw("within_tissue", 1000, samples_df, 0)
    sets = {"handled": names(range(25))} | {f"r{k}": names(range(30 + 20 * k, 50 + 20 * k)) for k in range(5)}
    p = {}
    for out in (None, pd.DataFrame({"delay": delay}, index=log_df.columns)):
        links = link_tests.run(log_df, features_df, samples_df, shuffles, out, QUIET)
        tests = gene_sets.run(sets, links.sides, shuffles, 0.05, QUIET)
        p[out is None] = dict(zip(tests.names, tests.null.p, strict=True))["handled"]
    assert p[True] <= 0.002
    assert p[False] > 0.05


@pytest.mark.parametrize(
    "sets",
    [{}, {"small": names(range(9))}, {"unknown": ["x"] * 30}, {"all": names(range(N_GENES))}],
    ids=["none", "too small", "unknown genes", "all genes"],
)
def test_sets_that_cannot_be_tested_are_left_out(sets):
    tests, links, _ = run_sets(0, sets, n=20)
    assert not len(tests.names)
    links_df = link_table.find_links(links, 0.05).assign(clump=lambda df: df["feature"])
    assert gene_sets.table(tests, sets, links_df, SYMBOLS).empty
    pairs_df = gene_sets.set_links(tests, links_df, SYMBOLS, 0.05)
    assert pairs_df.empty
    assert {"set", "feature", "q", "genes"} <= set(pairs_df)


def test_genes_named_twice_count_once_and_the_background_of_many_genes_is_drawn(monkeypatch):
    monkeypatch.setattr(gene_sets, "BACKGROUND", 100)
    tests, *_ = run_sets(0, {"twice": names(range(15)) * 2}, n=100)
    assert tests.members.sum() == 15
    of_some = tests.observed
    monkeypatch.setattr(gene_sets, "BACKGROUND", N_GENES)
    of_all = run_sets(0, {"twice": names(range(15))}, n=100)[0].observed
    assert np.abs(of_some - of_all).max() > 0
    assert np.corrcoef(of_some.ravel(), of_all.ravel())[0, 1] > 0.9
