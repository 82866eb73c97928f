"""Largest statistics against brute force; ties; independence of blocks and threads; covariates."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from made_cohort import N, make_frames, make_samples, small_cohort

from lib.statistics import (
    false_discovery,
    max_statistic,
    null_maxima,
    pair_tests,
    permutations,
)


@pytest.fixture(scope="module")
def small():
    return small_cohort()


def brute_statistic(x, y, tissue, statistic):
    """Matrix of the statistic from its definition."""
    groups = [tissue == t for t in np.unique(tissue)] if tissue is not None else [np.ones(x.shape[1], bool)]
    c, v = np.zeros((len(x), len(y))), np.zeros((len(x), len(y)))
    sx, sy = np.zeros(len(x)), np.zeros(len(y))
    for m in groups:
        a = x[:, m] - x[:, m].mean(axis=1, keepdims=True)
        b = y[:, m] - y[:, m].mean(axis=1, keepdims=True)
        c += a @ b.T
        sx, sy = sx + (a**2).sum(axis=1), sy + (b**2).sum(axis=1)
        v += np.outer((a**2).sum(axis=1), (b**2).sum(axis=1)) / max(m.sum() - 1, 1)
    scale = np.outer(sx, sy)
    if statistic == "r" or len(groups) == 1:
        return c / np.sqrt(scale)
    return c / np.sqrt(np.maximum(v, 0.01 / (x.shape[1] - len(groups)) * scale))


def p_of(null, observed):
    return (1 + (null >= observed - 1e-9).sum(axis=0)) / (1 + len(null))


def brute_null(x, y, tissue, perms, statistic="z"):
    return np.stack([np.abs(brute_statistic(x[:, o], y, tissue, statistic)).max(axis=1) for o in perms.order])


@pytest.mark.parametrize(
    ("scheme", "statistic"), [("free", "z"), ("within_tissue", "z"), ("within_tissue", "r")]
)
def test_max_statistic_matches_brute_force(small, scheme, statistic):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw(scheme, 40, samples_df, 5)
    result = max_statistic.max_statistic(log_df, features_df, perms, pairs_df=pairs_df, statistic=statistic)
    x, y = log_df.to_numpy(), features_df.to_numpy()
    tissue = samples_df["tissue"].to_numpy() if scheme != "free" else None
    observed = np.abs(brute_statistic(x, y, tissue, statistic))
    null = brute_null(x, y, tissue, perms, statistic)
    genes_df = result.genes_df
    np.testing.assert_allclose(genes_df["statistic"], observed.max(axis=1), rtol=1e-9)
    assert genes_df["feature"].tolist() == features_df.index[observed.argmax(axis=1)].tolist()
    np.testing.assert_allclose(result.null_gene, null, rtol=1e-4, atol=1e-5)
    best = observed.max(axis=1)
    np.testing.assert_array_equal(genes_df["p_gene"], p_of(null, best))
    np.testing.assert_array_equal(genes_df["p_overall"], p_of(null.max(axis=1)[:, None], best))
    g, f = log_df.index.get_indexer(pairs_df["gene"]), features_df.index.get_indexer(pairs_df["feature"])
    np.testing.assert_array_equal(result.tested_df["p_gene"], p_of(null[:, g], observed[g, f]))


@pytest.mark.parametrize("with_covariates", [False, True])
@pytest.mark.parametrize("scheme", permutations.SCHEMES)
def test_independent_of_blocks_threads_and_kernel(small, scheme, with_covariates, monkeypatch):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw(scheme, 30, samples_df, 5)
    given = covariates_of(samples_df, *np.random.default_rng(1).normal(size=(2, N)))
    given = given if with_covariates else None
    how = {"pairs_df": pairs_df, "covariates_df": given}
    a = max_statistic.max_statistic(log_df, features_df, perms, **how)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(null_maxima, "CPU_BLOCK", (7, 3))
    monkeypatch.setattr(null_maxima, "_kernels", lambda: None)
    b = max_statistic.max_statistic(log_df, features_df, perms, **how)
    torch.set_num_threads(before)
    pd.testing.assert_frame_equal(a.genes_df, b.genes_df)
    pd.testing.assert_frame_equal(a.tested_df, b.tested_df)
    shuffled = np.random.default_rng(0).permutation(len(pairs_df))
    p, q = (
        pair_tests.pair_p(log_df, features_df, df, perms, covariates_df=given)
        for df in (pairs_df, pairs_df.iloc[shuffled])
    )
    np.testing.assert_array_equal(p[shuffled], q)


def test_ties_in_float32_are_settled():
    """Few slides, exhaustive orders: many exact ties, which a float32 comparison would lose at random."""
    rng = np.random.default_rng(0)
    samples_df = make_samples(list("aaabbb"))
    log_df, features_df = make_frames(
        rng.integers(0, 3, (30, 6)) + 0.1, rng.integers(0, 3, (40, 6)) / 3, samples_df
    )
    log_df = log_df[(log_df.T.groupby(samples_df["tissue"].to_numpy()).nunique() > 1).any()]
    perms = permutations.draw("within_tissue", 1000, samples_df, 0)
    result = max_statistic.max_statistic(log_df, features_df, perms)
    x, y, tissue = log_df.to_numpy(), features_df.to_numpy(), samples_df["tissue"].to_numpy()
    varying = np.array([any(len(set(row[tissue == t])) > 1 for t in "ab") for row in y])
    with np.errstate(invalid="ignore"):
        observed = np.abs(brute_statistic(x, y[varying], tissue, "z")).max(axis=1)
        null = brute_null(x, y[varying], tissue, perms)
    np.testing.assert_array_equal(result.genes_df["p_gene"], p_of(null, observed))
    assert result.genes_df["feature"].isin(features_df.index[varying]).all()


def test_free_z_and_r_agree(small):
    samples_df, log_df, features_df, _ = small
    perms = permutations.draw("free", 50, samples_df, 5)
    a, b = (max_statistic.max_statistic(log_df, features_df, perms, statistic=s) for s in ("z", "r"))
    pd.testing.assert_series_equal(a.genes_df["p_gene"], b.genes_df["p_gene"])


def test_nothing_varies(small):
    samples_df, log_df, features_df, _ = small
    tissue_df = pd.DataFrame(
        np.tile(pd.factorize(samples_df["tissue"])[0] * 0.3, (3, 1)),
        index=["a", "b", "c"],
        columns=log_df.columns,
    )
    perms = permutations.draw("within_tissue", 10, samples_df, 0)
    with pytest.raises(ValueError, match="no gene of 3 varies within the groups"):
        max_statistic.max_statistic(tissue_df, features_df, perms)
    mixed = max_statistic.max_statistic(pd.concat([tissue_df, log_df]), features_df, perms)
    assert mixed.genes_df.index.equals(log_df.index)
    pairs_df = pd.DataFrame({"gene": ["a"], "feature": [features_df.index[0]], "r": [0.9]})
    assert pair_tests.pair_p(tissue_df, features_df, pairs_df, perms)[0] == 1.0


def covariates_of(samples_df, *columns):
    return pd.DataFrame(np.array(columns).T, index=samples_df["sample_id"]).add_prefix("c")


@pytest.mark.parametrize("scheme", ["free", "within_tissue", "donor_signs"])
@pytest.mark.parametrize("statistic", ["z", "r"])
def test_covariates_match_an_explicit_second_projection(small, scheme, statistic):
    """Freedman and Lane step by step: regress, shuffle the residual, regress again, correlate."""
    samples_df, log_df, features_df, pairs_df = small
    rng = np.random.default_rng(3)
    covariates_df = covariates_of(samples_df, rng.normal(size=N), rng.integers(0, 2, N))
    perms = permutations.draw(scheme, 40, samples_df, 5)
    result = max_statistic.max_statistic(
        log_df, features_df, perms, pairs_df=pairs_df, covariates_df=covariates_df, statistic=statistic,
    )  # fmt: skip
    dummies = np.eye(perms.groups.max() + 1)[perms.groups]
    design = np.column_stack([dummies, covariates_df])
    project = np.eye(N) - design @ np.linalg.pinv(design)
    # flipping signs moves the means of the tissues: their degree of freedom is in the signs already
    centred = (np.eye(N) - dummies @ np.linalg.pinv(dummies)) @ covariates_df.to_numpy(float)
    again = np.eye(N) - centred @ np.linalg.pinv(centred)
    x, y = log_df.to_numpy() @ project, features_df.to_numpy() @ project
    lengths = np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    sizes = np.maximum(dummies.sum(axis=0) - 1, 1)
    deviation = np.sqrt((x**2 @ dummies / sizes) @ (y**2 @ dummies).T)
    if statistic == "r" or scheme == "free":
        deviation = lengths
    null = []
    for i, order in enumerate(perms.order):
        moved = x[:, order] * (1 if perms.signs is None else perms.signs[i])
        shrunk = np.linalg.norm(moved @ again, axis=1) / np.linalg.norm(moved, axis=1)
        null.append(np.abs(moved @ again @ y.T / shrunk[:, None] / deviation).max(axis=1))
    observed = np.abs(x @ y.T / deviation)
    np.testing.assert_allclose(result.genes_df["statistic"], observed.max(axis=1), rtol=1e-9)
    np.testing.assert_allclose(result.null_gene, null, rtol=1e-4)
    np.testing.assert_array_equal(result.genes_df["p_gene"], p_of(np.array(null), observed.max(axis=1)))
    # the p of a pair alone, by the same projection (partial r, so not the z of this family)
    p = pair_tests.pair_p(log_df, features_df, pairs_df, perms, covariates_df=covariates_df)
    pair = pairs_df.iloc[3]
    g, f = log_df.index.get_loc(pair["gene"]), features_df.index.get_loc(pair["feature"])
    moved = x[g][perms.order] * (1 if perms.signs is None else perms.signs)
    r = moved @ y[f] / (np.linalg.norm(moved @ again, axis=1) / np.linalg.norm(moved, axis=1))
    assert p[3] == (1 + (np.abs(r) >= abs(x[g] @ y[f]) - 1e-9).sum()) / 41


@pytest.fixture(scope="module")
def many_genes():
    """1,500 genes: more than fit one block of what works through them."""
    rng = np.random.default_rng(4)
    samples_df = make_samples(np.repeat(list("abc"), 5).tolist())
    x, y = rng.normal(size=(1500, 15)), rng.normal(size=(6, 15))
    x[::7, :10] = np.round(x[::7, :10])  # ties
    return samples_df, *make_frames(x, y, samples_df), covariates_of(samples_df, *rng.normal(size=(2, 15)))


@pytest.mark.parametrize("scheme", ["within_tissue", "donor_signs"])
def test_genes_do_not_change_the_p_of_their_neighbours(many_genes, scheme):
    samples_df, log_df, features_df, covariates_df = many_genes
    perms = permutations.draw(scheme, 150, samples_df, 0)
    how = {"covariates_df": covariates_df}
    whole = max_statistic.max_statistic(log_df, features_df, perms, **how)
    parts = [
        max_statistic.max_statistic(log_df.iloc[rows], features_df, perms, **how)
        for rows in (slice(0, 700), slice(700, 1500))
    ]
    apart_df = pd.concat([part.genes_df for part in parts])
    columns = ["feature", "statistic", "p_gene"]
    pd.testing.assert_frame_equal(whole.genes_df[columns], apart_df[columns], rtol=1e-12)
    assert whole.genes_df["p_gene"].equals(apart_df["p_gene"])
    null = np.concatenate([part.null_gene for part in parts], axis=1)
    np.testing.assert_allclose(whole.null_gene, null, rtol=1e-5)
    overall, best = null.max(axis=1).astype(float), whole.genes_df["statistic"].to_numpy()
    expected = (1 + (overall[:, None] >= best - 1e-6).sum(axis=0)) / 151
    np.testing.assert_array_equal(whole.genes_df["p_overall"], expected)


@pytest.mark.parametrize("with_covariates", [False, True])
def test_memory_is_that_of_the_maxima_alone(many_genes, with_covariates):
    """The float32 maxima that are returned are the only table of rearrangements x genes."""
    samples_df, log_df, features_df, covariates_df = many_genes
    log_df = pd.concat([log_df.add_prefix(f"{k}_", axis=0) for k in range(10)])
    perms = permutations.draw("within_tissue", 1000, samples_df, 0)
    given = covariates_df if with_covariates else None
    tracemalloc.start()
    result = max_statistic.max_statistic(log_df, features_df, perms, covariates_df=given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.0 * result.null_gene.nbytes, peak / result.null_gene.nbytes


def test_covariate_driven_genes_disappear():
    """Genes that follow a covariate are called until it is taken out; genes that follow a feature stay."""
    rng = np.random.default_rng(11)
    samples_df = make_samples(np.repeat(list("abcdef"), 20).tolist())
    n = len(samples_df)
    delay, hidden = rng.normal(size=(2, n))
    x, y = rng.normal(size=(300, n)), rng.normal(size=(40, n))
    x[:60] += 1.5 * delay  # of the covariate
    x[60:120] += 1.5 * hidden  # of what the features see
    y += 0.8 * delay
    y[:10] += 1.2 * hidden
    log_df, features_df = make_frames(x, y, samples_df)
    perms = permutations.draw("within_tissue", 199, samples_df, 1)
    called = {}
    for name, covariates_df in (("without", None), ("with", covariates_of(samples_df, delay))):
        result = max_statistic.max_statistic(log_df, features_df, perms, covariates_df=covariates_df)
        q = false_discovery.hierarchical_q(result.genes_df["p_gene"], [])[0]
        called[name] = [(q[s] <= 0.05).mean() for s in (slice(60), slice(60, 120), slice(120, None))]
    assert called["without"][0] > 0.9
    assert called["with"][0] <= 0.1
    assert min(called["without"][1], called["with"][1]) > 0.9
    assert max(called["without"][2], called["with"][2]) <= 0.1


def test_covariates_that_leave_nothing(small):
    samples_df, log_df, features_df, _ = small
    perms = permutations.draw("within_tissue", 10, samples_df, 0)
    explained_df = covariates_of(samples_df, log_df.iloc[0].to_numpy())
    result = max_statistic.max_statistic(log_df, features_df, perms, covariates_df=explained_df)
    assert result.genes_df.index.equals(log_df.index[1:]), "g0 is the covariate"
    with pytest.raises(ValueError, match=r"no gene of 1 varies .* beyond the covariates"):
        max_statistic.max_statistic(log_df.iloc[:1], features_df, perms, covariates_df=explained_df)
    many = covariates_of(samples_df, *np.random.default_rng(0).normal(size=(70, N)))
    with pytest.raises(ValueError, match="degrees of freedom to 72 slides in 5 groups"):
        max_statistic.max_statistic(log_df, features_df, perms, covariates_df=many)
