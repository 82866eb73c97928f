"""Correlation against numpy and scipy, thresholds on the edge, the paper's tables by hand, and bad input."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.statistics import correlation, pair_tables

N = 60
IDS = [f"s{i}" for i in range(N)]


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(1)
    features_df = pd.DataFrame(
        rng.normal(size=(131, N)), index=[f"{i // 40}_{i % 40}" for i in range(131)], columns=IDS
    )
    expression_df = pd.DataFrame(rng.gamma(1, 30, (90, N)), index=[f"g{i}" for i in range(90)], columns=IDS)
    expression_df.iloc[:30] *= np.exp(2 * features_df.iloc[:30].to_numpy())
    expression_df.iloc[30:40] *= np.exp(-2 * features_df.iloc[:10].to_numpy())
    log_df = correlation.log2_expression(expression_df)
    tissues = pd.Series(rng.choice(["liver", "lung", "skin"], N), index=IDS)
    return log_df, features_df, correlation.highest_median(log_df, tissues), tissues


def dense(log_df, features_df):
    return np.corrcoef(log_df.to_numpy(float), features_df.to_numpy(float))[: len(log_df), len(log_df) :]


@pytest.mark.parametrize("use_numba", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pairs_and_histogram_match_numpy(frames, use_numba, dtype):
    log_df, features_df, genes_table, _ = frames
    result = correlation.correlate(
        log_df, features_df[IDS[::-1]], genes_table=genes_table, r_threshold=0.2, dtype=dtype,
        use_numba=use_numba, gene_block=17, progress=False,
    )  # fmt: skip
    r = dense(log_df, features_df)
    g, f = np.nonzero(np.abs(r) >= 0.2)
    pairs_df = result.pairs_df
    assert pairs_df["gene"].tolist() == log_df.index[g].tolist()
    assert pairs_df["feature"].tolist() == features_df.index[f].tolist()
    np.testing.assert_allclose(pairs_df["r"], r[g, f], atol=1e-12)
    histogram_df = result.histogram_df
    assert histogram_df["count"].sum() == result.n_pairs == 90 * 131
    edges = np.append(histogram_df["r_low"], 1.0)
    expected = np.histogram(r, edges)[0]
    beyond = np.abs(edges[:-1] + 0.00025) > 0.2
    np.testing.assert_array_equal(histogram_df["count"][beyond], expected[beyond])
    # nearer to 0 a float32 r may fall on the other side of an edge, never further
    assert np.abs(np.cumsum(histogram_df["count"] - expected)).max() <= (3 if dtype == "float32" else 0)
    layer = histogram_df[[f"layer_{i}" for i in range(4)]]
    np.testing.assert_array_equal(layer.sum(axis=1), histogram_df["count"])
    assert layer["layer_3"].sum() == 90 * 11


def test_numba_and_numpy_scan_agree_exactly(frames):
    log_df, features_df, genes_table, _ = frames
    a, b = (
        correlation.correlate(
            log_df, features_df, genes_table=genes_table, r_threshold=0.3, use_numba=u, progress=False
        )
        for u in (True, False)
    )
    pd.testing.assert_frame_equal(a.pairs_df, b.pairs_df)
    pd.testing.assert_frame_equal(a.histogram_df, b.histogram_df)


@pytest.mark.parametrize("use_numba", [True, False])
def test_perfect_correlation_lands_in_the_outer_bins(use_numba):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(6, N)).astype(np.float32)
    log_df = pd.DataFrame(np.abs(base), index=[f"g{i}" for i in range(6)], columns=IDS)
    features_df = pd.DataFrame(
        np.concatenate([3 * np.abs(base) + 1, -np.abs(base)]),
        index=[f"0_{i}" for i in range(12)],
        columns=IDS,
    )
    table = correlation.highest_median(log_df, pd.Series("a", index=IDS))
    result = correlation.correlate(
        log_df, features_df, genes_table=table, r_threshold=1e-9 + 0.99, use_numba=use_numba, progress=False
    )
    assert result.histogram_df["count"].iloc[[0, -1]].tolist() == [6, 6]
    assert len(result.pairs_df) == 12
    assert result.histogram_df["count"].sum() == 72


def test_threshold_is_decided_in_float64():
    """Pairs whose r straddles R_T by far less than a float32 product can tell."""
    n, r_threshold = 40, 0.7
    rng = np.random.default_rng(3)
    x = rng.normal(size=n)
    x = (x - x.mean()) / np.linalg.norm(x - x.mean())
    e = rng.normal(size=n)
    e -= e.mean() + (e @ x) * x
    e /= np.linalg.norm(e)
    offsets = np.array([-3e-8, -1e-8, -1e-9, 1e-9, 1e-8, 3e-8])
    rows = [(r_threshold + d) * x + np.sqrt(1 - (r_threshold + d) ** 2) * e for d in offsets]
    ids = [f"s{i}" for i in range(n)]
    log_df = pd.DataFrame(x[None], index=["g"], columns=ids)
    features_df = pd.DataFrame(
        rows + [-row for row in rows], index=[f"1_{i}" for i in range(12)], columns=ids
    )
    table = pd.DataFrame({"symbol": "g", "tissue": "t", "max_median_log2": 1.0}, index=["g"])
    result = correlation.correlate(
        log_df, features_df, genes_table=table, r_threshold=r_threshold, progress=False
    )
    assert result.pairs_df["channel"].tolist() == [3, 4, 5, 9, 10, 11]
    beyond = result.histogram_df["r_low"] >= 0.7
    assert result.histogram_df.loc[beyond, "count"].sum() == 3
    positive = correlation.correlate(
        log_df, features_df, genes_table=table, r_threshold=r_threshold, negative=False, progress=False
    )
    assert positive.pairs_df["channel"].tolist() == [3, 4, 5]


def test_spearman_matches_scipy_with_ties(frames):
    log_df, features_df, genes_table, _ = frames
    tied_df = log_df.round(0)
    result = correlation.correlate(
        tied_df, features_df, genes_table=genes_table, r_threshold=0.4, method="spearman", progress=False
    )
    assert len(result.pairs_df) > 20
    for row in result.pairs_df.sample(20, random_state=0).itertuples():
        expected = stats.spearmanr(tied_df.loc[row.gene], features_df.loc[row.feature])[0]
        assert row.r == pytest.approx(expected, abs=1e-12)


def test_ranks_carry_spearman_into_what_follows(frames):
    """r of ranks is Spearman's, so permutations and partial correlations of ranks are Spearman's too."""
    log_df, features_df, _, _ = frames
    x, y = (correlation.on_scale(df, "spearman") for df in (log_df.round(0), features_df))
    pairs_df = pd.DataFrame({"gene": log_df.index[:9], "feature": features_df.index[:9]})
    expected = correlation.r_of_pairs(log_df.round(0), features_df, pairs_df, "spearman")
    np.testing.assert_allclose(correlation.r_of_pairs(x, y, pairs_df), expected, atol=1e-12)
    assert correlation.on_scale(log_df, "pearson") is log_df
    with pytest.raises(ValueError, match="got 'kendall'"):
        correlation.on_scale(log_df, "kendall")


def test_extreme_scales_do_not_overflow():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3, N))
    df = pd.DataFrame(x * np.array([[1e200], [1e-200], [1.0]]), index=["a", "b", "c"], columns=IDS)
    rows, varying = correlation.standardise(df, "gene", dtype="float64")
    assert varying.all()
    np.testing.assert_allclose(rows @ rows.T, np.corrcoef(x), atol=1e-12)


def test_constant_rows_are_reported_and_left_out(frames):
    log_df, features_df, genes_table, _ = (f.copy() for f in frames)
    log_df.iloc[5] = np.float32(0.1)
    features_df.iloc[[3, 50]] = 0.1
    result = correlation.correlate(
        log_df, features_df, genes_table=genes_table, r_threshold=0.2, progress=False
    )
    assert result.constant_genes == ["g5"]
    assert result.constant_features == ["0_3", "1_10"]
    assert result.n_pairs == 89 * 129 == result.histogram_df["count"].sum()
    r = dense(log_df.drop("g5"), features_df.drop(["0_3", "1_10"]))
    assert len(result.pairs_df) == (np.abs(r) >= 0.2).sum()


def rounding_noise(samples, value=0.1):
    """The mean of a constant over slides with different numbers of tiles: not quite constant."""
    n_tiles = np.random.default_rng(0).integers(10, 300, len(samples))
    row = np.array([np.sum(np.full(n, value)) / n for n in n_tiles])
    assert 0 < row.max() - row.min() < 1e-15
    return row


def test_what_rounding_leaves_is_not_variation(frames):
    """A constant channel's mean and its like would come out with r = 1."""
    log_df, features_df, genes_table, _ = (f.copy() for f in frames)
    noise = rounding_noise(IDS)
    log_df = log_df.astype(np.float64)
    log_df.iloc[5], features_df.iloc[50] = noise * 1e3 + 5, noise
    small = np.arange(N) * 1e-9 + 1  # little variation is variation all the same
    features_df.iloc[3] = small
    for method in ("pearson", "spearman"):
        result = correlation.correlate(
            log_df, features_df, genes_table=genes_table, r_threshold=0.2, method=method, progress=False
        )
        assert (result.constant_genes, result.constant_features) == (["g5"], ["1_10"])
        assert result.n_pairs == 89 * 130 == result.histogram_df["count"].sum()
    ranks_df = correlation.on_scale(features_df, "spearman")
    assert (ranks_df.loc["1_10"] == (N + 1) / 2).all(), "what follows of ranks is told that it is constant"
    assert ranks_df.loc["0_3"].tolist() == list(range(1, N + 1))
    with pytest.raises(ValueError, match="feature '1_10' is constant"):
        correlation.r_of_pairs(log_df, features_df, pd.DataFrame({"gene": ["g0"], "feature": ["1_10"]}))


def test_rows_with_missing_values_are_reported_and_left_out(frames):
    log_df, features_df, genes_table, _ = (f.copy() for f in frames)
    log_df.iloc[5], log_df.iloc[7, 3], log_df.iloc[8, 4] = 2.0, np.nan, np.inf
    features_df.loc["1_2", "s7"] = np.nan
    features_df.iloc[3] = np.nan
    run = {"genes_table": genes_table, "r_threshold": 0.2, "progress": False}
    result = correlation.correlate(log_df, features_df, **run)
    assert (result.missing_genes, result.constant_genes) == (["g7", "g8"], ["g5"])
    assert (result.missing_features, result.constant_features) == (["0_3", "1_2"], [])
    assert (result.n_genes, result.n_features, result.n_pairs) == (87, 129, 87 * 129)
    assert result.n_genes_below_expression == 0
    rest = log_df.drop(["g7", "g8"]), features_df.drop(["0_3", "1_2"])
    alone = correlation.correlate(*rest, **run)
    pd.testing.assert_frame_equal(result.pairs_df, alone.pairs_df)
    pd.testing.assert_frame_equal(result.histogram_df, alone.histogram_df)
    left_df = correlation.left_out(log_df, features_df).set_index("left_out")
    assert left_df["n"].to_dict() == {
        "constant genes": 1, "genes with missing values": 2,
        "constant features": 0, "features with missing values": 2,
    }  # fmt: skip
    assert left_df["first"].tolist() == ["g5", "g7, g8", "", "0_3, 1_2"]
    assert left_df["of"].tolist() == [90, 90, 131, 131]
    ranks_df = correlation.on_scale(features_df, "spearman")
    assert np.isnan(ranks_df.loc["1_2", "s7"])
    assert ranks_df.loc["0_3"].isna().all()
    with pytest.raises(
        ValueError, match=r"all 131 features have missing .* first feature '0_0' in sample 's9'"
    ):
        correlation.correlate(log_df, features_df.assign(s9=np.nan), **run)
    log_df.iloc[:] = 1.0
    log_df.iloc[:2, 0] = np.nan
    with pytest.raises(
        ValueError, match="all 88 genes are constant over the 60 slides, and 2 more have missing"
    ):
        correlation.correlate(log_df, features_df, **run)


def test_expression_filter(frames):
    log_df, features_df, genes_table, _ = frames
    e = float(np.sort(genes_table["max_median_log2"])[-10])
    result = correlation.correlate(
        log_df, features_df, genes_table=genes_table, r_threshold=0.2, e_threshold=e, progress=False
    )
    assert (result.n_genes, result.n_genes_below_expression) == (10, 80)
    assert result.pairs_df["max_median_log2"].min() >= e
    with pytest.raises(ValueError, match=rf"highest seen is {genes_table['max_median_log2'].max():.2f}"):
        correlation.correlate(log_df, features_df, genes_table=genes_table, e_threshold=99.0, progress=False)
    with pytest.raises(ValueError, match="no gene has a highest median log2 expression of 99"):
        correlation.correlate(
            log_df, features_df, genes_table=genes_table, pairs_e_threshold=99.0, progress=False
        )


def test_highest_median_and_ties(frames):
    log_df, _, genes_table, tissues = frames
    medians = log_df.T.groupby(tissues).median().T
    np.testing.assert_allclose(genes_table["max_median_log2"], medians.max(axis=1), rtol=1e-6)
    assert (genes_table["tissue"] == medians.idxmax(axis=1)).all()
    flat_df = pd.DataFrame(1.0, index=["g"], columns=IDS)
    assert correlation.highest_median(flat_df, tissues)["tissue"].tolist() == ["liver"]
    genes_df = pd.DataFrame({"symbol": ["PAX8"]}, index=["g0"])
    assert correlation.highest_median(log_df, tissues, genes_df)["symbol"].tolist()[:2] == ["PAX8", "g1"]
    with pytest.raises(ValueError, match="1 samples have no tissue, first \\['s0'\\]"):
        correlation.highest_median(log_df, tissues.drop("s0"))


def test_no_pair_gives_empty_tables(frames):
    log_df, features_df, genes_table, _ = frames
    pairs_df = correlation.correlate(
        log_df.iloc[40:], features_df, genes_table=genes_table, r_threshold=0.99, progress=False
    ).pairs_df
    assert len(pairs_df) == 0
    assert pair_tables.threshold_table(pairs_df, ((0.99, 1.0),))["pairs"].tolist() == [0]
    assert len(pair_tables.best_feature_per_gene(pairs_df, 0.99)) == 0
    assert len(pair_tables.genes_per_layer(pairs_df)) == 0


def test_r_of_pairs_on_other_slides(frames):
    log_df, features_df, genes_table, _ = frames
    pairs_df = correlation.correlate(
        log_df, features_df, genes_table=genes_table, r_threshold=0.5, progress=False
    ).pairs_df
    half = IDS[:30]
    r = correlation.r_of_pairs(log_df[half], features_df[half], pairs_df)
    expected = [stats.pearsonr(log_df.loc[p.gene, half].astype(float), features_df.loc[p.feature, half])[0]
                for p in pairs_df.itertuples()]  # fmt: skip
    np.testing.assert_allclose(r, expected, atol=1e-12)


def test_bad_input(frames):
    log_df, features_df, genes_table, _ = frames
    run = {"genes_table": genes_table, "progress": False}
    with pytest.raises(ValueError, match=r"1 of 60 only in the expression table \(first \['s0'\]\)"):
        correlation.correlate(log_df, features_df.drop(columns="s0"), **run)
    with pytest.raises(ValueError, match="3 slides"):
        correlation.correlate(log_df[IDS[:3]], features_df[IDS[:3]], **run)
    bad_df = features_df.copy()
    bad_df.loc["1_2", "s7"] = np.nan
    with pytest.raises(ValueError, match=r"feature '1_2' is nan in sample 's7'"):
        correlation.r_of_pairs(log_df, bad_df, pd.DataFrame({"gene": ["g0"], "feature": ["1_2"]}))
    with pytest.raises(ValueError, match="the feature table holds object, not numbers"):
        correlation.correlate(log_df, bad_df.astype(object), **run)
    with pytest.raises(ValueError, match="all 90 genes are constant"):
        correlation.correlate(log_df * 0, features_df, **run)
    with pytest.raises(ValueError, match="not called <layer>_<channel>"):
        correlation.correlate(log_df, features_df.rename(index={"0_0": "conv"}), **run)
    with pytest.raises(ValueError, match="more than 5 pairs"):
        correlation.correlate(log_df, features_df, r_threshold=0.2, max_pairs=5, **run)
    with pytest.raises(ValueError, match="1 genes are not in genes_table"):
        correlation.correlate(log_df, features_df, genes_table=genes_table.drop("g3"), progress=False)
    with pytest.raises(ValueError, match="occur twice"):
        correlation.correlate(log_df.rename(columns={"s1": "s0"}), features_df, **run)
    with pytest.raises(ValueError, match="r_threshold must be"):
        correlation.correlate(log_df, features_df, r_threshold=0.0, **run)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_log2_refuses(value):
    df = pd.DataFrame([[0.0, 1.0], [3.0, value]], index=["a", "b"], columns=["s", "t"])
    with pytest.raises(ValueError, match=r"gene 'b' in sample 't'"):
        correlation.log2_expression(df)
    df.iloc[1, 1] = 7.0
    assert correlation.log2_expression(df).to_numpy().tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_pairs_e_threshold_leaves_the_histogram_whole():
    rng = np.random.default_rng(4)
    samples = [f"s{i}" for i in range(20)]
    log_df = pd.DataFrame(rng.normal(8, 1, (6, 20)), index=list("abcdef"), columns=samples)
    features_df = pd.DataFrame(rng.normal(size=(5, 20)), index=[f"0_{i}" for i in range(5)], columns=samples)
    table_df = pd.DataFrame(
        {"symbol": list("abcdef"), "tissue": "t", "max_median_log2": [1.0, 9, 9, 2, 9, 9]}, index=log_df.index
    )
    how = {"genes_table": table_df, "r_threshold": 0.1, "progress": False}
    all_of = correlation.correlate(log_df, features_df, **how)
    kept = correlation.correlate(log_df, features_df, pairs_e_threshold=7, **how)
    assert kept.histogram_df["count"].sum() == 30
    expected_df = all_of.pairs_df[~all_of.pairs_df["gene"].isin(["a", "d"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept.pairs_df, expected_df)
    assert kept.pairs_df.attrs["r_threshold"] == 0.1
