"""Correlation against numpy and scipy, pairs at the threshold, rows that are left out, and bad input."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.statistics import block_products, correlation, expression_levels, pair_tables

N = 60
IDS = [f"s{i}" for i in range(N)]


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(1)
    features_df = pd.DataFrame(
        rng.normal(size=(131, N)), index=[f"{i // 40}_{i % 40}" for i in range(131)], columns=IDS
    )
    expression_df = pd.DataFrame(rng.gamma(1, 30, (90, N)), index=[f"g{i}" for i in range(90)], columns=IDS)
    expression_df.iloc[:30] *= np.exp(2 * features_df.iloc[:30].to_numpy())
    expression_df.iloc[30:40] *= np.exp(-2 * features_df.iloc[:10].to_numpy())
    log_df = expression_levels.log2_expression(expression_df)
    tissues = pd.Series(rng.choice(["liver", "lung", "skin"], N), index=IDS)
    return log_df, features_df, expression_levels.highest_median(log_df, tissues)


@pytest.fixture
def frames(made):
    return tuple(df.copy() for df in made)


@pytest.fixture(params=["numba", "numpy"])
def scan(request, monkeypatch):
    """Each of the two scans of a block."""
    if request.param == "numpy":
        monkeypatch.setattr(block_products, "_kernel", lambda: None)


def correlate(log_df, features_df, genes_table, r_threshold=0.2, **how):
    return correlation.correlate(
        log_df, features_df, genes_table=genes_table, r_threshold=r_threshold, progress=False, **how
    )


def dense(log_df, features_df):
    return np.corrcoef(log_df.to_numpy(float), features_df.to_numpy(float))[: len(log_df), len(log_df) :]


@pytest.mark.usefixtures("scan")
def test_pairs_and_histogram_match_numpy(made, monkeypatch):
    log_df, features_df, genes_table = made
    monkeypatch.setattr(block_products, "GENE_BLOCK", 17)
    pairs_df, histogram_df = correlate(log_df, features_df[IDS[::-1]], genes_table)
    r = dense(log_df, features_df)
    g, f = np.nonzero(np.abs(r) >= 0.2)
    assert pairs_df["gene"].tolist() == log_df.index[g].tolist()
    assert pairs_df["feature"].tolist() == features_df.index[f].tolist()
    np.testing.assert_allclose(pairs_df["r"], r[g, f], atol=1e-12)
    assert histogram_df["count"].sum() == 90 * 131
    edges = np.append(histogram_df["r_low"], 1.0)
    expected = np.histogram(r, edges)[0]
    beyond = np.abs(edges[:-1] + 0.00025) > 0.2
    np.testing.assert_array_equal(histogram_df["count"][beyond], expected[beyond])
    # closer to 0 a float32 r may fall on the other side of an edge, never further
    assert np.abs(np.cumsum(histogram_df["count"] - expected)).max() <= 3
    layer = histogram_df[[f"layer_{i}" for i in range(4)]]
    np.testing.assert_array_equal(layer.sum(axis=1), histogram_df["count"])
    assert layer["layer_3"].sum() == 90 * 11


def test_numba_and_numpy_scan_agree_exactly(made, monkeypatch):
    with_numba = correlate(*made, 0.3)
    monkeypatch.setattr(block_products, "_kernel", lambda: None)
    for a, b in zip(with_numba, correlate(*made, 0.3), strict=True):
        pd.testing.assert_frame_equal(a, b)


@pytest.mark.usefixtures("scan")
def test_perfect_correlation_lands_in_the_outer_bins():
    base = np.abs(np.random.default_rng(0).normal(size=(6, N)).astype(np.float32))
    log_df = pd.DataFrame(base, index=[f"g{i}" for i in range(6)], columns=IDS)
    rows = np.concatenate([3 * base + 1, -base])
    features_df = pd.DataFrame(rows, index=[f"0_{i}" for i in range(12)], columns=IDS)
    genes_table = expression_levels.highest_median(log_df, pd.Series("a", index=IDS))
    pairs_df, histogram_df = correlate(log_df, features_df, genes_table, 0.99)
    assert histogram_df["count"].iloc[[0, -1]].tolist() == [6, 6]
    assert len(pairs_df) == 12
    assert histogram_df["count"].sum() == 72


def test_threshold_is_decided_in_float64():
    """Pairs whose r is off R_T by far less than a float32 product resolves."""
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
    pairs_df, histogram_df = correlate(log_df, features_df, table, r_threshold)
    assert pairs_df["channel"].tolist() == [3, 4, 5, 9, 10, 11]
    assert histogram_df.loc[histogram_df["r_low"] >= 0.7, "count"].sum() == 3


def test_spearman_matches_scipy_with_ties(made):
    log_df, features_df, genes_table = made
    tied_df = log_df.round(0)
    pairs_df, _ = correlate(tied_df, features_df, genes_table, 0.4, method="spearman")
    assert len(pairs_df) > 20
    for row in pairs_df.sample(20, random_state=0).itertuples():
        expected = stats.spearmanr(tied_df.loc[row.gene], features_df.loc[row.feature])[0]
        assert row.r == pytest.approx(expected, abs=1e-12)


def test_ranks_carry_spearman_into_later_tests(made):
    """r of ranks is Spearman's, so permutations and partial correlations of ranks are Spearman's too."""
    log_df, features_df, _ = made
    x, y = (correlation.on_scale(df, "spearman") for df in (log_df.round(0), features_df))
    pairs_df = pd.DataFrame({"gene": log_df.index[:9], "feature": features_df.index[:9]})
    expected = correlation.r_of_pairs(log_df.round(0), features_df, pairs_df, "spearman")
    np.testing.assert_allclose(correlation.r_of_pairs(x, y, pairs_df), expected, atol=1e-12)
    assert correlation.on_scale(log_df, "pearson") is log_df
    with pytest.raises(ValueError, match="got 'kendall'"):
        correlation.on_scale(log_df, "kendall")


def test_extreme_scales_do_not_overflow():
    x = np.random.default_rng(5).normal(size=(3, N))
    df = pd.DataFrame(x * np.array([[1e200], [1e-200], [1.0]]), index=["a", "b", "c"], columns=IDS)
    rows, varying = correlation.standardise(df, "gene", dtype="float64")
    assert varying.all()
    np.testing.assert_allclose(rows @ rows.T, np.corrcoef(x), atol=1e-12)


def left_out(log_df, features_df):
    """Numbers and first names, in the order constant genes, missing genes, and of features."""
    df = correlation.left_out(log_df, features_df)
    assert df["left_out"].str.split(" ", n=1).str[0].tolist() == ["constant", "genes", "constant", "features"]
    assert df["of"].tolist() == [90, 90, 131, 131]
    return df["n"].tolist(), df["first"].tolist()


def test_rounding_error_is_not_variation(frames):
    """The mean of a constant channel over different numbers of tiles would give r = 1 with its like."""
    log_df, features_df, genes_table = frames
    n_tiles = np.random.default_rng(0).integers(10, 300, N)
    noise = np.array([np.sum(np.full(n, 0.1)) / n for n in n_tiles])
    assert 0 < noise.max() - noise.min() < 1e-15
    log_df = log_df.astype(np.float64)
    log_df.iloc[5], features_df.iloc[50] = noise * 1e3 + 5, noise
    features_df.iloc[3] = np.arange(N) * 1e-9 + 1  # a small variation is a variation
    assert left_out(log_df, features_df) == ([1, 0, 1, 0], ["g5", "", "1_10", ""])
    for method in ("pearson", "spearman"):
        pairs_df, histogram_df = correlate(log_df, features_df, genes_table, method=method)
        assert histogram_df["count"].sum() == 89 * 130
        assert not pairs_df["gene"].eq("g5").any()
    ranks_df = correlation.on_scale(features_df, "spearman")
    assert (ranks_df.loc["1_10"] == (N + 1) / 2).all(), "later tests see that it is constant"
    assert ranks_df.loc["0_3"].tolist() == list(range(1, N + 1))
    with pytest.raises(ValueError, match=r"1 features are constant over .* first \['1_10'\]"):
        correlation.r_of_pairs(log_df, features_df, pd.DataFrame({"gene": ["g0"], "feature": ["1_10"]}))


def test_rows_that_are_constant_or_have_missing_values_are_left_out(frames):
    log_df, features_df, genes_table = frames
    log_df.iloc[5], log_df.iloc[7, 3], log_df.iloc[8, 4] = 2.0, np.nan, np.inf
    features_df.loc["1_2", "s7"] = np.nan
    features_df.iloc[3], features_df.iloc[50] = np.nan, 0.1
    assert left_out(log_df, features_df) == ([1, 2, 1, 2], ["g5", "g7, g8", "1_10", "0_3, 1_2"])
    result = correlate(log_df, features_df, genes_table)
    rest = log_df.drop(["g5", "g7", "g8"]), features_df.drop(["0_3", "1_2", "1_10"])
    assert result.histogram_df["count"].sum() == 87 * 128
    assert len(result.pairs_df) == (np.abs(dense(*rest)) >= 0.2).sum()
    for a, b in zip(result, correlate(*rest, genes_table), strict=True):
        pd.testing.assert_frame_equal(a, b)
    ranks_df = correlation.on_scale(features_df, "spearman")
    assert np.isnan(ranks_df.loc["1_2", "s7"])
    assert ranks_df.loc["0_3"].isna().all()
    with pytest.raises(ValueError, match="none of 131 features can be correlated: 131 have missing"):
        correlate(log_df, features_df.assign(s9=np.nan), genes_table)
    log_df.iloc[:] = 1.0
    log_df.iloc[:2, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"none of 90 genes .* 2 have missing .* constant over the 60 slides"
    ):
        correlate(log_df, features_df, genes_table)


def test_highest_median_and_ties(made):
    log_df = made[0]
    tissues = pd.Series(np.random.default_rng(1).choice(["lung", "liver", "skin"], N), index=IDS)
    genes_table = expression_levels.highest_median(log_df, tissues)
    medians = log_df.T.groupby(tissues).median().T
    np.testing.assert_allclose(genes_table["max_median_log2"], medians.max(axis=1), rtol=1e-6)
    assert (genes_table["tissue"] == medians.idxmax(axis=1)).all()
    flat_df = pd.DataFrame(1.0, index=["g"], columns=IDS)
    assert expression_levels.highest_median(flat_df, tissues)["tissue"].tolist() == ["liver"]
    genes_df = pd.DataFrame({"symbol": ["PAX8"]}, index=["g0"])
    named_df = expression_levels.highest_median(log_df, tissues, genes_df)
    assert named_df["symbol"].tolist()[:2] == ["PAX8", "g1"]
    with pytest.raises(ValueError, match="1 samples have no tissue, first \\['s0'\\]"):
        expression_levels.highest_median(log_df, tissues.drop("s0"))


def test_no_pair_gives_empty_tables(made):
    log_df, features_df, genes_table = made
    pairs_df, _ = correlate(log_df.iloc[40:], features_df, genes_table, 0.99)
    assert len(pairs_df) == 0
    assert pair_tables.threshold_table(pairs_df, ((0.99, 1.0),))["pairs"].tolist() == [0]
    assert len(pair_tables.best_feature_per_gene(pairs_df, 0.99)) == 0
    assert len(pair_tables.genes_per_layer(pairs_df)) == 0


def test_r_of_pairs_on_other_slides(made):
    log_df, features_df, genes_table = made
    pairs_df, _ = correlate(log_df, features_df, genes_table, 0.5)
    half = IDS[:30]
    r = correlation.r_of_pairs(log_df[half], features_df[half], pairs_df)
    expected = [stats.pearsonr(log_df.loc[p.gene, half].astype(float), features_df.loc[p.feature, half])[0]
                for p in pairs_df.itertuples()]  # fmt: skip
    np.testing.assert_allclose(r, expected, atol=1e-12)


def test_bad_input(frames, monkeypatch):
    log_df, features_df, genes_table = frames
    with pytest.raises(ValueError, match=r"1 of 60 only in the expression table \(first \['s0'\]\)"):
        correlate(log_df, features_df.drop(columns="s0"), genes_table)
    with pytest.raises(ValueError, match="3 slides"):
        correlate(log_df[IDS[:3]], features_df[IDS[:3]], genes_table)
    with pytest.raises(ValueError, match="the feature table holds object, not numbers"):
        correlate(log_df, features_df.astype(object), genes_table)
    with pytest.raises(ValueError, match=r"not named <layer>_<channel>, as in 29_499, first \['conv'\]"):
        correlate(log_df, features_df.rename(index={"0_0": "conv"}), genes_table)
    with pytest.raises(ValueError, match="1 genes are not in genes_table"):
        correlate(log_df, features_df, genes_table.drop("g3"))
    with pytest.raises(ValueError, match="1 sample ids occur twice in the expression table"):
        correlate(log_df.rename(columns={"s1": "s0"}), features_df, genes_table)
    with pytest.raises(ValueError, match="r_threshold must be"):
        correlate(log_df, features_df, genes_table, 0.0)
    monkeypatch.setattr(block_products, "MAX_PAIRS", 5)
    with pytest.raises(ValueError, match="more than 5 pairs"):
        correlate(log_df, features_df, genes_table)
    features_df.loc["1_2", "s7"] = np.nan
    with pytest.raises(ValueError, match=r"feature '1_2' is nan in sample 's7'"):
        correlation.r_of_pairs(log_df, features_df, pd.DataFrame({"gene": ["g0"], "feature": ["1_2"]}))


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_log2_refuses(value):
    df = pd.DataFrame([[0.0, 1.0], [3.0, value]], index=["a", "b"], columns=["s", "t"])
    with pytest.raises(ValueError, match=r"gene 'b' in sample 't'"):
        expression_levels.log2_expression(df)
    df.iloc[1, 1] = 7.0
    assert expression_levels.log2_expression(df).to_numpy().tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_pairs_e_threshold_does_not_change_the_histogram(made):
    genes_table = made[2]
    e = float(genes_table["max_median_log2"].median())
    all_pairs, kept = correlate(*made), correlate(*made, pairs_e_threshold=e)
    pd.testing.assert_frame_equal(kept.histogram_df, all_pairs.histogram_df)
    expected_df = all_pairs.pairs_df[all_pairs.pairs_df["max_median_log2"] >= e].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept.pairs_df, expected_df)
    assert 0 < len(kept.pairs_df) < len(all_pairs.pairs_df)
    assert kept.pairs_df.attrs["r_threshold"] == 0.2
    highest = genes_table["max_median_log2"].max()
    with pytest.raises(
        ValueError, match=rf"none of 90 genes .* of 99\.0 or more; the highest is {highest:.2f}"
    ):
        correlate(*made, pairs_e_threshold=99.0)
