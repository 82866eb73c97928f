"""p of genes and pairs against brute force; ties; independence of blocks and threads; covariates."""

import numpy as np
import pandas as pd
import pytest
import torch
from made_cohort import N, make_frames, make_samples, small_cohort

from lib.statistics import link_tests, null_maxima, pair_tests, permutations, residuals


@pytest.fixture(scope="module")
def small():
    return small_cohort()


def all_shuffles(log_df, features_df, samples_df, perms, covariates_df=None, slopes="per group"):
    """All shuffles for every gene, each sample of a donor of its own."""
    plan = link_tests.Plan(exceedances=10**9, overall=10**9, slopes=slopes, progress=False)
    alone_df = samples_df.drop(columns="donor", errors="ignore")
    return link_tests.run(log_df, features_df, alone_df, perms, covariates_df, plan)


def p_of_pairs(result, pairs_df):
    g, f = result.sides.places(pairs_df)
    return link_tests.p_in_gene(result, g, link_tests.statistic_of_pairs(result.sides, g, f))


def brute_statistic(x, y, tissue):
    """Matrix of the statistic from its definition."""
    groups = [tissue == t for t in np.unique(tissue)]
    c, v = np.zeros((len(x), len(y))), np.zeros((len(x), len(y)))
    sx, sy = np.zeros(len(x)), np.zeros(len(y))
    for m in groups:
        a = x[:, m] - x[:, m].mean(axis=1, keepdims=True)
        b = y[:, m] - y[:, m].mean(axis=1, keepdims=True)
        c += a @ b.T
        sx, sy = sx + (a**2).sum(axis=1), sy + (b**2).sum(axis=1)
        v += np.outer((a**2).sum(axis=1), (b**2).sum(axis=1)) / max(m.sum() - 1, 1)
    return c / np.sqrt(np.maximum(v, 0.01 / (x.shape[1] - len(groups)) * np.outer(sx, sy)))


def p_of(null, observed):
    return (1 + (null >= observed - 1e-9).sum(axis=0)) / (1 + len(null))


def brute_null(x, y, tissue, perms):
    return np.stack([np.abs(brute_statistic(x[:, o], y, tissue)).max(axis=1) for o in perms.order])


def test_p_matches_brute_force(small):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw("within_tissue", 40, samples_df, 5)
    result = all_shuffles(log_df, features_df, samples_df, perms)
    x, y, tissue = log_df.to_numpy(), features_df.to_numpy(), samples_df["tissue"].to_numpy()
    observed, null = np.abs(brute_statistic(x, y, tissue)), brute_null(x, y, tissue, perms)
    genes_df, best = result.genes_df, observed.max(axis=1)
    np.testing.assert_allclose(genes_df["statistic"], best, rtol=1e-9)
    assert genes_df["feature"].tolist() == features_df.index[observed.argmax(axis=1)].tolist()
    np.testing.assert_allclose(result.null.of_all_genes(), null, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(genes_df["p"], p_of(null, best))
    np.testing.assert_array_equal(genes_df["p_overall"], p_of(null.max(axis=1)[:, None], best))
    g, f = log_df.index.get_indexer(pairs_df["gene"]), features_df.index.get_indexer(pairs_df["feature"])
    expected = np.maximum(p_of(null[:, g], observed[g, f]), p_of(null[:, g], best[g]))
    np.testing.assert_array_equal(p_of_pairs(result, pairs_df), expected)


@pytest.mark.parametrize("with_covariates", [False, True])
def test_independent_of_blocks_threads_and_kernel(small, with_covariates, monkeypatch):
    samples_df, log_df, features_df, pairs_df = small
    perms = permutations.draw("within_tissue", 30, samples_df, 5)
    given = covariates_of(samples_df, *np.random.default_rng(1).normal(size=(2, N)))
    given = given if with_covariates else None
    a = all_shuffles(log_df, features_df, samples_df, perms, given)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(null_maxima, "CPU_BLOCK", (7, 3))
    monkeypatch.setattr(null_maxima, "_kernels", lambda: None)
    b = all_shuffles(log_df, features_df, samples_df, perms, given)
    torch.set_num_threads(before)
    pd.testing.assert_frame_equal(a.genes_df, b.genes_df)
    np.testing.assert_array_equal(p_of_pairs(a, pairs_df), p_of_pairs(b, pairs_df))
    shuffled = np.random.default_rng(0).permutation(len(pairs_df))
    np.testing.assert_array_equal(p_of_pairs(a, pairs_df)[shuffled], p_of_pairs(a, pairs_df.iloc[shuffled]))
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
    result = all_shuffles(log_df, features_df, samples_df, perms)
    x, y, tissue = log_df.to_numpy(), features_df.to_numpy(), samples_df["tissue"].to_numpy()
    varying = np.array([any(len(set(row[tissue == t])) > 1 for t in "ab") for row in y])
    with np.errstate(invalid="ignore"):
        observed = np.abs(brute_statistic(x, y[varying], tissue)).max(axis=1)
        null = brute_null(x, y[varying], tissue, perms)
    np.testing.assert_array_equal(result.genes_df["p"], p_of(null, observed))
    assert result.genes_df["feature"].isin(features_df.index[varying]).all()


def test_nothing_varies(small):
    samples_df, log_df, features_df, _ = small
    tissue_df = pd.DataFrame(
        np.tile(pd.factorize(samples_df["tissue"])[0] * 0.3, (3, 1)),
        index=["a", "b", "c"],
        columns=log_df.columns,
    )
    perms = permutations.draw("within_tissue", 10, samples_df, 0)
    with pytest.raises(ValueError, match="no gene of 3 varies within tissues"):
        all_shuffles(tissue_df, features_df, samples_df, perms)
    mixed = all_shuffles(pd.concat([tissue_df, log_df]), features_df, samples_df, perms)
    assert mixed.genes_df.index.equals(log_df.index)
    pairs_df = pd.DataFrame({"gene": ["a"], "feature": [features_df.index[0]], "r": [0.9]})
    assert pair_tests.pair_p(tissue_df, features_df, pairs_df, perms)[0] == 1.0


def covariates_of(samples_df, *columns):
    return pd.DataFrame(np.array(columns).T, index=samples_df["sample_id"]).add_prefix("c")


@pytest.mark.parametrize("slopes", ["per group", "common"])
def test_covariates_match_an_explicit_second_projection(small, slopes, monkeypatch):
    """Freedman and Lane step by step: regress, shuffle the residual, regress again, correlate."""
    samples_df, log_df, features_df, pairs_df = small
    rng = np.random.default_rng(3)
    covariates_df = covariates_of(samples_df, rng.normal(size=N), rng.integers(0, 2, N))
    monkeypatch.setattr(residuals, "LEAST_DF", 1)  # every tissue has slopes of its own
    perms = permutations.draw("within_tissue", 40, samples_df, 5)
    result = all_shuffles(log_df, features_df, samples_df, perms, covariates_df, slopes)
    dummies = np.eye(perms.groups.max() + 1)[perms.groups]
    columns = covariates_df.to_numpy(float)
    if slopes == "per group":
        columns = (dummies[:, :, None] * columns[:, None, :]).reshape(N, -1)
    design = np.column_stack([dummies, columns])
    project = np.eye(N) - design @ np.linalg.pinv(design)
    centred = (np.eye(N) - dummies @ np.linalg.pinv(dummies)) @ columns
    again = np.eye(N) - centred @ np.linalg.pinv(centred)
    x, y = log_df.to_numpy() @ project, features_df.to_numpy() @ project
    sizes = np.maximum(dummies.sum(axis=0) - 1, 1)
    deviation = np.sqrt((x**2 @ dummies / sizes) @ (y**2 @ dummies).T)
    null = []
    for order in perms.order:
        moved = x[:, order]
        shrunk = np.linalg.norm(moved @ again, axis=1) / np.linalg.norm(moved, axis=1)
        null.append(np.abs(moved @ again @ y.T / shrunk[:, None] / deviation).max(axis=1))
    observed = np.abs(x @ y.T / deviation)
    np.testing.assert_allclose(result.genes_df["statistic"], observed.max(axis=1), rtol=1e-9)
    np.testing.assert_allclose(result.null.of_all_genes(), null, rtol=1e-4)
    np.testing.assert_array_equal(result.genes_df["p"], p_of(np.array(null), observed.max(axis=1)))
    # the p of a pair alone, by the same projection (partial r, so not the z of this family)
    if slopes == "common":
        return
    p = pair_tests.pair_p(log_df, features_df, pairs_df, perms, covariates_df=covariates_df)
    pair = pairs_df.iloc[3]
    g, f = log_df.index.get_loc(pair["gene"]), features_df.index.get_loc(pair["feature"])
    moved = x[g][perms.order]
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


def test_genes_do_not_change_the_p_of_their_neighbours(many_genes):
    samples_df, log_df, features_df, covariates_df = many_genes
    perms = permutations.draw("within_tissue", 150, samples_df, 0)
    whole = all_shuffles(log_df, features_df, samples_df, perms, covariates_df)
    parts = [
        all_shuffles(log_df.iloc[rows], features_df, samples_df, perms, covariates_df)
        for rows in (slice(0, 700), slice(700, 1500))
    ]
    apart_df = pd.concat([part.genes_df for part in parts])
    columns = ["feature", "statistic", "p"]
    pd.testing.assert_frame_equal(whole.genes_df[columns], apart_df[columns], rtol=1e-12)
    null = np.concatenate([part.null.of_all_genes() for part in parts], axis=1)
    overall, best = null.max(axis=1).astype(float), whole.genes_df["statistic"].to_numpy()
    expected = (1 + (overall[:, None] >= best - 1e-6).sum(axis=0)) / 151
    np.testing.assert_array_equal(whole.genes_df["p_overall"], expected)


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
        q = all_shuffles(log_df, features_df, samples_df, perms, covariates_df).genes_df["q"].to_numpy()
        called[name] = [(q[s] <= 0.05).mean() for s in (slice(60), slice(60, 120), slice(120, None))]
    assert called["without"][0] > 0.9
    assert called["with"][0] <= 0.1
    assert min(called["without"][1], called["with"][1]) > 0.9
    assert max(called["without"][2], called["with"][2]) <= 0.1


def test_covariates_that_leave_nothing(small):
    samples_df, log_df, features_df, _ = small
    perms = permutations.draw("within_tissue", 10, samples_df, 0)
    explained_df = covariates_of(samples_df, log_df.iloc[0].to_numpy())
    result = all_shuffles(log_df, features_df, samples_df, perms, explained_df)
    assert result.genes_df.index.equals(log_df.index[1:]), "g0 is the covariate"
    with pytest.raises(ValueError, match=r"no gene of 1 varies .* beyond the covariates"):
        all_shuffles(log_df.iloc[:1], features_df, samples_df, perms, explained_df)
    many = covariates_of(samples_df, *np.random.default_rng(0).normal(size=(70, N)))
    with pytest.raises(ValueError, match="degrees of freedom to 72 slides in 5 groups"):
        all_shuffles(log_df, features_df, samples_df, perms, many)
