"""Permutation schemes, p, family-wise p and q against brute force and statsmodels; calibration with
planted nulls.
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lib import correlation, significance

N = 72


def make_samples(tissues, donors=None):
    n = len(tissues)
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "tissue": tissues,
            "donor": donors if donors is not None else [f"d{i}" for i in range(n)],
        }
    )


def make_frames(x, y, samples_df):
    ids = samples_df["sample_id"].tolist()
    log_df = pd.DataFrame(x, index=[f"g{i}" for i in range(len(x))], columns=ids)
    features_df = pd.DataFrame(y, index=[f"{i // 50}_{i % 50}" for i in range(len(y))], columns=ids)
    return log_df, features_df


def matched_pairs(log_df, features_df):
    """Gene k with feature k."""
    pairs_df = pd.DataFrame({"gene": log_df.index, "feature": features_df.index})
    return pairs_df.assign(r=correlation.r_of_pairs(log_df, features_df, pairs_df))


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(2)
    samples_df = make_samples(
        np.sort(rng.choice(list("abcde"), N)).tolist(), [f"d{i}" for i in rng.integers(0, 30, N)]
    )
    x, y = rng.normal(size=(40, N)), rng.normal(size=(55, N))
    x[:8] += 1.2 * y[:8]
    x[8:10] -= 1.2 * y[8:10]
    log_df, features_df = make_frames(x, y, samples_df)
    table = correlation.highest_median(log_df, samples_df.set_index("sample_id")["tissue"])
    pairs_df = correlation.correlate(
        log_df, features_df, genes_table=table, r_threshold=0.25, progress=False
    ).pairs_df
    return samples_df, log_df, features_df, pairs_df


# -- schemes ------------------------------------------------------------------------------------------------


def test_orders_are_permutations_that_respect_the_scheme(small):
    samples_df = small[0]
    tissue, donor = samples_df["tissue"].to_numpy(), samples_df["donor"].to_numpy()
    for scheme in ("free", "within_tissue", "within_donor_block"):
        order = significance.permutations(scheme, 50, samples_df, 7).order
        assert order.dtype == np.int32
        assert (np.sort(order, axis=1) == np.arange(N)).all()
        assert len(np.unique(order, axis=0)) == 50
        assert (tissue[order] == tissue).all() == (scheme != "free")
        if scheme == "within_donor_block":  # the slides of one donor go to one donor
            for d in np.unique(donor):
                assert all(len(np.unique(row)) == 1 for row in donor[order[:, donor == d]])
    signs = significance.permutations("donor_signs", 50, samples_df, 7)
    assert (signs.order == np.arange(N)).all()
    for d in np.unique(donor):
        flips = np.sign(signs.signs[:, donor == d])
        assert (flips == flips[:, :1]).all()
    assert abs(signs.signs.mean()) < 0.1


def test_seed_decides(small):
    a, b, c = (significance.permutations("within_tissue", 20, small[0], seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.order, b.order)
    assert (a.order != c.order).any()
    assert a.seed == 1


def test_places_are_uniform():
    """Under within_tissue every slide of a tissue is equally often at each place of it."""
    samples_df = make_samples(list("aaaabbbbb"))
    order = significance.permutations("within_tissue", 8000, samples_df, 0)
    # 4! 5! = 2880 are possible: enumerated, so exactly uniform but for the identity left out
    assert order.exhaustive
    assert order.n_possible == 2880
    assert len(order.order) == 2879
    counts = np.array([np.bincount(order.order[:, s], minlength=9) for s in range(9)]) + np.eye(9, dtype=int)
    assert set(np.unique(counts)) == {0, 720, 576}
    drawn = significance.permutations("within_tissue", 2000, samples_df, 0).order
    observed = np.bincount(drawn[:, 0], minlength=4)[:4]
    assert stats.chisquare(observed).pvalue > 0.001


def test_notes_on_single_slides_and_few_permutations():
    samples_df = make_samples(list("aaab") + ["c"])
    p = significance.permutations("within_tissue", 1000, samples_df, 0)
    assert (p.n_possible, len(p.order), p.n_fixed_slides, p.exhaustive) == (6, 5, 2, True)
    assert "2 tissues have one slide and contribute nothing: b, c" in p.notes[0]
    assert "1,000 rearrangements were asked for, 6 are possible" in p.notes[1]
    donors = make_samples(list("aabbc"), ["d1", "d2", "d1", "d2", "d3"])
    p = significance.permutations("within_donor_block", 10, donors, 0)
    assert p.n_possible == 2
    assert p.order.tolist() == [[1, 0, 3, 2, 4]]
    assert "1 of 5 slides are of donors whose set of tissues" in p.notes[0]


def test_bad_schemes():
    with pytest.raises(ValueError, match="can move none of the 5 slides"):
        significance.permutations("within_tissue", 10, make_samples(list("abcde")), 0)
    with pytest.raises(ValueError, match="unknown scheme 'shuffle'"):
        significance.permutations("shuffle", 10, make_samples(list("aabb")), 0)
    with pytest.raises(ValueError, match="3 slides"):
        significance.permutations("free", 10, make_samples(list("aab")), 0)
    with pytest.raises(ValueError, match="1 samples have no tissue"):
        significance.permutations("within_tissue", 10, make_samples(["a", "a", "b", None]), 0)
    with pytest.raises(ValueError, match=r"lacks the columns \['donor'\]"):
        significance.permutations("donor_signs", 10, make_samples(list("aabb")).drop(columns="donor"), 0)


# -- p of pairs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["free", "within_tissue", "within_donor_block"])
def test_pair_p_is_the_count_of_r_reached(small, scheme):
    """b counted from scipy's own r on shuffled expression, positive and negative pairs."""
    samples_df, log_df, features_df, pairs_df = small
    perms = significance.permutations(scheme, 60, samples_df, 3)
    chosen = pairs_df.iloc[:: max(1, len(pairs_df) // 25)]
    p = significance.pair_p(log_df, features_df, chosen, perms, progress=False)
    for row, value in zip(chosen.itertuples(), p, strict=True):
        x, y = log_df.loc[row.gene].to_numpy(), features_df.loc[row.feature].to_numpy()
        null = np.array([stats.pearsonr(x[o], y)[0] for o in perms.order])
        reached = (null >= row.r - 1e-9) if row.r > 0 else (null <= row.r + 1e-9)
        assert value == (1 + reached.sum()) / (1 + len(null))


def test_two_sided_is_the_partial_correlation_given_tissue(small):
    samples_df, log_df, features_df, pairs_df = small
    perms = significance.permutations("within_tissue", 80, samples_df, 3)
    chosen = pairs_df.iloc[::7]
    p = significance.pair_p(log_df, features_df, chosen, perms, alternative="two_sided", progress=False)
    centre = lambda v: v - pd.Series(v).groupby(samples_df["tissue"].to_numpy()).transform("mean").to_numpy()  # noqa: E731
    for row, value in zip(chosen.itertuples(), p, strict=True):
        x, y = centre(log_df.loc[row.gene].to_numpy()), centre(features_df.loc[row.feature].to_numpy())
        null = np.abs([stats.pearsonr(x[o], y)[0] for o in perms.order])
        observed = abs(stats.pearsonr(x, y)[0])
        assert value == (1 + (null >= observed - 1e-9).sum()) / (1 + len(null))


def test_exhaustive_p_is_exact():
    """Five slides, 120 orders: p is the exact permutation p."""
    samples_df = make_samples(list("aaaaa"))
    x, y = np.array([1.0, 2, 3, 4, 6]), np.array([1.0, 3, 2, 5, 4])
    log_df, features_df = make_frames(x[None], y[None], samples_df)
    perms = significance.permutations("free", 1000, samples_df, 0)
    p = significance.pair_p(log_df, features_df, matched_pairs(log_df, features_df), perms, progress=False)
    r = stats.pearsonr(x, y)[0]
    everything = [stats.pearsonr(x[list(o)], y)[0] >= r - 1e-12 for o in itertools.permutations(range(5))]
    assert p[0] == pytest.approx(np.mean(everything), abs=1e-15)


def test_smallest_p_and_ties():
    samples_df = make_samples(["a"] * 50)
    x = np.linspace(0, 1, 50)[None]
    outlier, constant = np.r_[np.zeros(49), 1][None], np.ones((1, 50))
    log_df, features_df = make_frames(np.vstack([x, outlier]), np.vstack([x, constant]), samples_df)
    perms = significance.permutations("free", 99, samples_df, 0)
    pairs_df = pd.DataFrame({"gene": ["g0", "g0"], "feature": ["0_0", "0_1"], "r": [1.0, 0.5]})
    p = significance.pair_p(log_df, features_df, pairs_df, perms, progress=False)
    assert p.tolist() == [0.01, 1.0]  # never 0; a constant feature ties with every shuffle


def test_pair_p_bad_input(small):
    samples_df, log_df, features_df, pairs_df = small
    perms = significance.permutations("free", 10, samples_df, 0)
    with pytest.raises(ValueError, match="1 only in the permutations"):
        significance.pair_p(log_df.drop(columns="s0"), features_df, pairs_df, perms, progress=False)
    nan_df = log_df.copy()
    nan_df.loc[pairs_df["gene"].iloc[0], "s3"] = np.nan
    with pytest.raises(ValueError, match="in sample 's3'"):
        significance.pair_p(nan_df, features_df, pairs_df, perms, progress=False)
    with pytest.raises(ValueError, match="genes of the pairs are not in the gene table"):
        significance.pair_p(
            log_df.drop(index=pairs_df["gene"].iloc[0]), features_df, pairs_df, perms, progress=False
        )
    covariates_df = pd.DataFrame({"rin": np.nan, "age": 1.0}, index=samples_df["sample_id"])
    with pytest.raises(ValueError, match=r"missing values: \{'rin': 72\}"):
        significance.pair_p(log_df, features_df, pairs_df, perms, covariates_df=covariates_df, progress=False)


# -- largest statistics
# ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("scheme", "statistic"), [("free", "z"), ("within_tissue", "z"), ("within_tissue", "r")]
)
@pytest.mark.parametrize("signed", [True, False])
def test_max_statistic_matches_brute_force(small, scheme, statistic, signed):
    samples_df, log_df, features_df, pairs_df = small
    perms = significance.permutations(scheme, 40, samples_df, 5)
    result = significance.max_statistic(
        log_df, features_df, perms, pairs_df=pairs_df, statistic=statistic, signed=signed, progress=False
    )
    x, y = log_df.to_numpy(), features_df.to_numpy()
    tissue = samples_df["tissue"].to_numpy() if scheme != "free" else None
    absolute = (lambda v: v) if signed else np.abs
    observed = absolute(brute_statistic(x, y, tissue, statistic))
    null = np.stack(
        [absolute(brute_statistic(x[:, o], y, tissue, statistic)).max(axis=1) for o in perms.order]
    )
    genes_df = result.genes_df
    np.testing.assert_allclose(genes_df["statistic"], observed.max(axis=1), rtol=1e-9)
    assert genes_df["feature"].tolist() == features_df.index[observed.argmax(axis=1)].tolist()
    np.testing.assert_allclose(result.null_gene, null, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.null_overall, null.max(axis=1), rtol=1e-9)
    best = observed.max(axis=1)
    np.testing.assert_array_equal(genes_df["p_gene"], (1 + (null >= best - 1e-9).sum(axis=0)) / 41)
    np.testing.assert_array_equal(
        genes_df["p_overall"], (1 + (null.max(axis=1)[:, None] >= best - 1e-9).sum(axis=0)) / 41
    )
    g, f = log_df.index.get_indexer(pairs_df["gene"]), features_df.index.get_indexer(pairs_df["feature"])
    np.testing.assert_array_equal(
        result.tested_df["p_gene"], (1 + (null[:, g] >= observed[g, f] - 1e-9).sum(axis=0)) / 41
    )


@pytest.mark.parametrize("scheme", significance.SCHEMES)
def test_independent_of_blocks_threads_and_kernel(small, scheme):
    import torch

    samples_df, log_df, features_df, pairs_df = small
    perms = significance.permutations(scheme, 30, samples_df, 5)
    a = significance.max_statistic(log_df, features_df, perms, pairs_df=pairs_df, progress=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    b = significance.max_statistic(
        log_df, features_df, perms, pairs_df=pairs_df, progress=False, gene_block=7, permutation_block=3,
        use_numba=False,
    )  # fmt: skip
    torch.set_num_threads(before)
    pd.testing.assert_frame_equal(a.genes_df, b.genes_df)
    pd.testing.assert_frame_equal(a.tested_df, b.tested_df)
    np.testing.assert_array_equal(a.null_overall, b.null_overall)
    shuffled = np.random.default_rng(0).permutation(len(pairs_df))
    p = significance.pair_p(log_df, features_df, pairs_df, perms, progress=False)
    q = significance.pair_p(log_df, features_df, pairs_df.iloc[shuffled], perms, progress=False)
    np.testing.assert_array_equal(p[shuffled], q)


def test_ties_in_float32_are_settled():
    """Few slides, exhaustive orders: many exact ties, which a float32 comparison would lose at random."""
    rng = np.random.default_rng(0)
    samples_df = make_samples(list("aaabbb"))
    log_df, features_df = make_frames(
        rng.integers(0, 3, (30, 6)) + 0.1, rng.integers(0, 3, (40, 6)) / 3, samples_df
    )
    log_df = log_df[(log_df.T.groupby(samples_df["tissue"].to_numpy()).nunique() > 1).any()]
    perms = significance.permutations("within_tissue", 1000, samples_df, 0)
    result = significance.max_statistic(log_df, features_df, perms, progress=False)
    x, y, tissue = log_df.to_numpy(), features_df.to_numpy(), samples_df["tissue"].to_numpy()
    varying = np.array([any(len(set(row[tissue == t])) > 1 for t in "ab") for row in y])
    with np.errstate(invalid="ignore"):
        observed = np.abs(brute_statistic(x, y[varying], tissue, "z")).max(axis=1)
        null = np.stack(
            [np.abs(brute_statistic(x[:, o], y[varying], tissue, "z")).max(axis=1) for o in perms.order]
        )
    np.testing.assert_array_equal(result.genes_df["p_gene"], (1 + (null >= observed - 1e-9).sum(axis=0)) / 36)
    assert result.constant_features == features_df.index[~varying].tolist()


def test_free_z_and_r_agree(small):
    samples_df, log_df, features_df, _ = small
    perms = significance.permutations("free", 50, samples_df, 5)
    a, b = (
        significance.max_statistic(log_df, features_df, perms, statistic=s, progress=False)
        for s in ("z", "r")
    )
    pd.testing.assert_series_equal(a.genes_df["p_gene"], b.genes_df["p_gene"])


def test_nothing_varies(small):
    samples_df, log_df, features_df, _ = small
    tissue_df = pd.DataFrame(
        np.tile(pd.factorize(samples_df["tissue"])[0] * 0.3, (3, 1)),
        index=["a", "b", "c"],
        columns=log_df.columns,
    )
    perms = significance.permutations("within_tissue", 10, samples_df, 0)
    with pytest.raises(ValueError, match="no gene of 3 varies within the groups"):
        significance.max_statistic(tissue_df, features_df, perms, progress=False)
    mixed = significance.max_statistic(pd.concat([tissue_df, log_df]), features_df, perms, progress=False)
    assert mixed.constant_genes == ["a", "b", "c"]
    pairs_df = pd.DataFrame({"gene": ["a"], "feature": [features_df.index[0]], "r": [0.9]})
    assert significance.pair_p(tissue_df, features_df, pairs_df, perms, progress=False)[0] == 1.0


# -- q ------------------------------------------------------------------------------------------------------


def test_bh_matches_statsmodels():
    p = np.random.default_rng(0).uniform(size=500) ** 3
    p[100:110] = p[100]
    np.testing.assert_allclose(significance.bh(p), multipletests(p, method="fdr_bh")[1], rtol=1e-12)
    assert len(significance.bh(np.array([]))) == 0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        significance.bh(np.array([0.5, np.nan]))


@pytest.mark.parametrize(("method", "name"), [("bh", "fdr_bh"), ("by", "fdr_by")])
def test_histogram_q_matches_statsmodels(method, name):
    """r placed on the bins' edges, where q is exact; between edges it is never below the true q."""
    rng = np.random.default_rng(1)
    edges = correlation._edges()
    r = np.round(np.tanh(rng.normal(0, rng.choice([0.15, 0.5], 4000))) * 2000) / 2000
    r[r == 0] = 0.0005
    inside = np.sign(r) * np.minimum(
        np.abs(r) + 1e-9, 1 - 1e-9
    )  # [edge, edge + ...): the bin whose lower |edge| is |r|
    histogram_df = pd.DataFrame(
        {"r_low": edges[:-1], "r_high": edges[1:], "count": np.histogram(inside, edges)[0]}
    )
    q_df = significance.q_from_histogram(histogram_df, 50, method)
    p = 2 * stats.beta(24, 24, loc=-1, scale=2).sf(np.abs(r))
    expected = multipletests(np.minimum(p, 1), method=name)[1]
    np.testing.assert_allclose(significance.q_of(inside, q_df), expected, rtol=2e-6)
    r_off = np.abs(inside) + 0.0003
    assert (significance.q_of(r_off, q_df) >= significance.q_of(np.abs(inside) + 0.0005, q_df) - 1e-12).all()
    threshold = significance.r_at_q(q_df, 0.05)
    assert significance.q_of(threshold, q_df) <= 0.05 < significance.q_of(threshold - 0.0004, q_df)


def test_histogram_q_edges():
    edges = correlation._edges()
    counts = np.zeros(4000, np.int64)
    counts[2000] = 50
    histogram_df = pd.DataFrame({"r_low": edges[:-1], "r_high": edges[1:], "count": counts})
    q_df = significance.q_from_histogram(histogram_df, 20)
    assert significance.r_at_q(q_df) == math.inf
    assert np.isfinite(q_df.to_numpy()).all()
    with pytest.raises(ValueError, match="degrees of freedom"):
        significance.q_from_histogram(histogram_df, 20, n_conditions=18)
    with pytest.raises(ValueError, match="'bh' or 'by'"):
        significance.q_from_histogram(histogram_df, 20, "storey")
    with pytest.raises(ValueError, match="not symmetric"):
        significance.q_from_histogram(histogram_df.iloc[10:], 20)


def test_hierarchical_q_matches_its_definition():
    rng = np.random.default_rng(4)
    gene_p = np.r_[rng.uniform(0, 0.002, 15), rng.uniform(size=60)]
    gene = rng.integers(0, 75, 200)
    pair_p = np.clip(gene_p[gene] * rng.choice([1, 1.5, 4], 200), 0, 1)
    q_gene, q_pair = significance.hierarchical_q(gene_p, pair_p)
    assert (q_pair >= q_gene[gene] - 1e-12).all()
    for level in (0.001, 0.01, 0.05, 0.2, 0.5):
        found = multipletests(gene_p, level, method="fdr_bh")[0]
        np.testing.assert_array_equal(q_gene <= level, found)
        expected = found[gene] & (pair_p <= level * found.sum() / 75)
        np.testing.assert_array_equal(q_pair <= level, expected)


def test_survival_table():
    df = pd.DataFrame(
        {"tissue": list("aab"), "layer": [1, 2, 2], "p_free": [0.01, 0.01, 0.05], "q": [0.5, 0.01, 1]}
    )
    table = significance.survival_table(df, ["p_free", "q"])
    assert table.loc["a"].tolist() == [2, 2, 1]
    assert table.loc["all"].tolist() == [3, 3, 1]
    assert significance.survival_table(df, ["q"], by="layer").loc["2"].tolist() == [2, 1]


# -- calibration
# ----------------------------------------------------------------------------------------------


def simulated(seed, n_pairs, donor_effect=0.0, n_tissues=39, n=334):
    """Gene and feature specific to tissues, of unequal variances, independent given the tissue (METHOD
    section 7).
    """
    rng = np.random.default_rng(seed)
    tissue = np.sort(np.r_[np.arange(n_tissues).repeat(2), rng.integers(0, n_tissues, n - 2 * n_tissues)])
    donor = np.empty(n, int)
    n_donors = 60
    for t in range(n_tissues):
        m = np.flatnonzero(tissue == t)
        donor[m] = rng.permutation(n_donors)[: len(m)]
    rows = []
    for _ in range(2):
        marks = rng.uniform(size=(n_pairs, n_tissues)) < 0.1
        marks[:, 0] = True  # gene and feature both mark tissue 0
        spread = np.exp(rng.normal(0, 0.8, (n_pairs, n_tissues))) * np.where(marks, 2.0, 0.5)
        effect = donor_effect * rng.normal(size=(n_pairs, n_donors))[:, donor]
        noise = rng.normal(size=(n_pairs, n))
        rows.append(8 * marks[:, tissue] + spread[:, tissue] * (noise + effect) / math.hypot(1, donor_effect))
    samples_df = make_samples([f"t{t:02d}" for t in tissue], [f"d{d}" for d in donor])
    return samples_df, *make_frames(*rows, samples_df)


def rejected(p, alpha):
    return int((p <= alpha).sum())


def inside(k, n, alpha):
    """Does the 99.9 % binomial interval of the rate hold alpha?"""
    low, high = stats.binomtest(k, n).proportion_ci(0.999)
    return low <= alpha <= high


@pytest.fixture(scope="module")
def null_pairs():
    samples_df, log_df, features_df = simulated(0, 1000)
    return samples_df, log_df, features_df, matched_pairs(log_df, features_df)


@pytest.mark.parametrize("alternative", ["same_sign", "two_sided"])
def test_within_tissue_is_calibrated(null_pairs, alternative):
    samples_df, log_df, features_df, pairs_df = null_pairs
    pairs_df = pairs_df.assign(r=np.abs(pairs_df["r"]))  # one tail for all, so that p is uniform
    perms = significance.permutations("within_tissue", 399, samples_df, 1)
    p = significance.pair_p(log_df, features_df, pairs_df, perms, alternative=alternative, progress=False)
    for alpha in (0.05, 0.01):
        assert inside(rejected(p, alpha), 1000, alpha), (alpha, rejected(p, alpha))
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_free_shuffling_fails(null_pairs):
    """The paper's test calls markers of one tissue significant although nothing links them within tissues."""
    samples_df, log_df, features_df, pairs_df = null_pairs
    perms = significance.permutations("free", 399, samples_df, 1)
    strong_df = pairs_df[pairs_df["r"] >= 0.3]
    assert len(strong_df) > 100
    p = significance.pair_p(log_df, features_df, strong_df, perms, progress=False)
    assert (p == 1 / 400).mean() > 0.99


def test_donors_with_several_tissues():
    """Donor effects on both sides: shuffling single slides rejects too often, whole-donor schemes do not."""
    samples_df, log_df, features_df = simulated(3, 800, donor_effect=1.5)
    pairs_df = matched_pairs(log_df, features_df)
    n_rejected = {}
    for scheme in ("within_tissue", "donor_signs"):
        perms = significance.permutations(scheme, 399, samples_df, 1)
        p = significance.pair_p(log_df, features_df, pairs_df, perms, alternative="two_sided", progress=False)
        n_rejected[scheme] = rejected(p, 0.05)
    assert n_rejected["within_tissue"] / 800 > 0.08
    low, high = stats.binomtest(n_rejected["donor_signs"], 800).proportion_ci(0.999)
    assert high >= 0.03
    assert low <= 0.05, n_rejected


def test_whole_donor_exchange_is_exact():
    """Donors in three designs, each shared by many: exchange of whole donors is calibrated, single slides
    are not.
    """
    rng = np.random.default_rng(8)
    sets = [["a", "b", "c", "d"], ["a", "c", "e", "f"], ["b", "d", "e", "f"]]
    rows = [(f"d{s}_{d}", t) for s, tissues in enumerate(sets) for d in range(20) for t in tissues]
    samples_df = make_samples([t for _, t in rows], [d for d, _ in rows])
    donor = pd.factorize(samples_df["donor"])[0]
    tissue = pd.factorize(samples_df["tissue"])[0]
    x, y = (
        4 * rng.normal(size=(800, 6))[:, tissue]
        + rng.normal(size=(800, 240))
        + rng.normal(size=(800, 60))[:, donor]
        for _ in range(2)
    )
    log_df, features_df = make_frames(x, y, samples_df)
    pairs_df = matched_pairs(log_df, features_df)
    n_rejected = {}
    for scheme in ("within_tissue", "within_donor_block"):
        perms = significance.permutations(scheme, 399, samples_df, 1)
        p = significance.pair_p(log_df, features_df, pairs_df, perms, alternative="two_sided", progress=False)
        n_rejected[scheme] = rejected(p, 0.05)
    assert n_rejected["within_tissue"] / 800 > 0.1
    assert inside(n_rejected["within_donor_block"], 800, 0.05), n_rejected


def test_family_wise_error_holds(null_pairs):
    """No pair is linked: each gene's p over 30 features is uniform, and the overall family seldom rejects."""
    samples_df, log_df, features_df, _ = null_pairs
    features_df = features_df.iloc[:30]
    perms = significance.permutations("within_tissue", 199, samples_df, 1)
    result = significance.max_statistic(log_df.iloc[:400], features_df, perms, progress=False)
    k = rejected(result.genes_df["p_gene"], 0.05)
    assert k / 400 < 0.12  # genes share the features, so the count varies more than a binomial one
    assert significance.hierarchical_q(result.genes_df["p_gene"], [])[0].min() > 0.05


def test_z_finds_links_that_r_misses():
    """With unequal variances the largest r is set by what varies in one small tissue: so z is the default."""
    samples_df, log_df, features_df = simulated(1, 200)
    tissue = samples_df["tissue"].to_numpy()
    log_df = log_df.copy()
    for k in range(50):  # gene k follows feature k in every tissue, on each tissue's own scale
        grouped = features_df.iloc[k].groupby(tissue)
        scaled = (features_df.iloc[k] - grouped.transform("mean")) / grouped.transform("std")
        log_df.iloc[k] += 0.5 * scaled * log_df.iloc[k].groupby(tissue).transform("std")
    perms = significance.permutations("within_tissue", 99, samples_df, 1)
    found = {}
    for statistic in ("z", "r"):
        genes_df = significance.max_statistic(
            log_df, features_df, perms, statistic=statistic, progress=False
        ).genes_df
        found[statistic] = rejected(genes_df["p_overall"].iloc[:50], 0.05)
        assert rejected(genes_df["p_overall"].iloc[50:], 0.01) <= 1
    assert found["z"] >= 5 + found["r"], found


def test_covariate_link_disappears():
    rng = np.random.default_rng(6)
    samples_df = make_samples(rng.choice(list("abcdef"), 200).tolist())
    age = rng.normal(size=200)
    x = rng.normal(size=(300, 200)) + 0.6 * age
    y = rng.normal(size=(300, 200)) + 0.6 * age
    log_df, features_df = make_frames(x, y, samples_df)
    pairs_df = matched_pairs(log_df, features_df)
    perms = significance.permutations("within_tissue", 399, samples_df, 1)
    run = {"alternative": "two_sided", "progress": False}
    assert rejected(significance.pair_p(log_df, features_df, pairs_df, perms, **run), 0.05) > 200
    covariates_df = pd.DataFrame({"age": age}, index=samples_df["sample_id"])
    p = significance.pair_p(log_df, features_df, pairs_df, perms, covariates_df=covariates_df, **run)
    assert inside(rejected(p, 0.05), 300, 0.05)
