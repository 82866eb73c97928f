"""Partial correlations against pingouin, scipy and statsmodels; the paper's values; degenerate data."""

import time

import numpy as np
import pandas as pd
import pingouin
import pytest
import statsmodels.api as sm
from scipy import stats

from lib.statistics.conditional_independence import (
    degrees_of_freedom,
    given_all_tissues,
    given_tissues,
    pairs_conditional,
    table7,
)
from lib.statistics.partial_correlation import ci_test, interval

N = 80


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(N)]
    samples_df = pd.DataFrame({
        "sample_id": ids, "tissue": rng.choice(["liver", "lung", "skin", "testis"], N),
        "age": rng.normal(50, 10, N), "sex": rng.choice(["f", "m"], N),
    })  # fmt: skip
    t = pd.factorize(samples_df["tissue"], sort=True)[0]
    x = rng.normal(size=(12, N)) + 3 * (t == np.arange(12)[:, None] % 4) + 0.02 * samples_df["age"].to_numpy()
    y = rng.normal(size=(15, N)) + 3 * (t == np.arange(15)[:, None] % 4) + 0.02 * samples_df["age"].to_numpy()
    y[:6] += 0.7 * x[:6]
    log_df = pd.DataFrame(x, index=[f"g{i}" for i in range(12)], columns=ids)
    features_df = pd.DataFrame(y, index=[f"1_{i}" for i in range(15)], columns=ids)
    pairs_df = pd.DataFrame(
        [(f"g{i}", f"1_{j}") for i in range(12) for j in range(15)], columns=["gene", "feature"]
    )
    pairs_df["tissue"] = [sorted(set(samples_df["tissue"]))[int(g[1:]) % 4] for g in pairs_df["gene"]]
    pairs_df["max_median_log2"] = 8.0
    pairs_df["r"] = [np.corrcoef(log_df.loc[g], features_df.loc[f])[0, 1]
                     for g, f in zip(pairs_df["gene"], pairs_df["feature"], strict=True)]  # fmt: skip
    return log_df, features_df, pairs_df, samples_df


def columns_of(row, frames, covariates=()):
    log_df, features_df, _, samples_df = frames
    df = samples_df.set_index("sample_id").loc[log_df.columns]
    data = pd.DataFrame({
        "g": log_df.loc[row.gene], "f": features_df.loc[row.feature],
        "t": (df["tissue"] == row.tissue).astype(float),
        "age": df["age"], "sex": (df["sex"] == "m").astype(float),
    })  # fmt: skip
    return data[["g", "f", "t", *covariates]]


def test_paper_values():
    """n = 334, one condition; the printed r are rounded to three digits, so p is a range."""
    assert ci_test(0.1074, 334, 1) == pytest.approx(0.05016, abs=5e-6)
    assert "0.05016" in ci_test.__doc__
    assert ci_test(0.1075, 334, 1) < 0.0501 < ci_test(0.1065, 334, 1)
    assert ci_test(0.1675, 334, 1) < 0.00215 < ci_test(0.1665, 334, 1)
    # all 38 dummies give other values
    assert ci_test(0.1074, 334, 38) == pytest.approx(0.066, abs=2e-3)
    assert ci_test(0.1672, 334, 38) == pytest.approx(0.0039, abs=2e-4)


def test_ci_test_shapes_signs_and_t():
    r = np.array([[0.3, -0.3], [0.0, 1.0]])
    p = ci_test(r, 50, 2)
    assert p.shape == (2, 2)
    assert p[0, 0] == p[0, 1]
    assert p[1].tolist() == [1.0, 0.0]
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    expected = stats.pearsonr(x, y)
    assert ci_test(expected[0], 30, 0, "t") == pytest.approx(expected[1], rel=1e-10)
    low, high = interval(expected[0], 30, 0)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-10)


def test_own_tissue_matches_pingouin(frames):
    result_df = pairs_conditional(*frames)
    assert (result_df["n_conditions"] == 1).all()
    for row in result_df.iloc[::11].itertuples():
        data = columns_of(row, frames)
        for name, (a, b, given) in {"gf_t": "gft", "ft_g": "ftg", "gt_f": "gtf"}.items():
            expected = pingouin.partial_corr(data, a, b, given).iloc[0]
            assert getattr(row, f"r_{name}") == pytest.approx(expected["r"], abs=1e-10)
            p_column = "p_val" if "p_val" in expected else "p-val"
            assert getattr(row, f"p_t_{name}") == pytest.approx(expected[p_column], rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("covariates", [(), ("age", "sex")])
def test_all_tissues_match_regression(frames, covariates):
    """r from the t of the gene in statsmodels' regression of the feature."""
    samples_df = frames[3]
    result_df = given_tissues(*frames, covariates)
    dummies = pd.get_dummies(samples_df.set_index("sample_id")["tissue"], drop_first=True, dtype=float)
    for k in range(0, len(result_df), 17):
        data = columns_of(frames[2].iloc[k], frames, covariates).drop(columns="t")
        fit = sm.OLS(data["f"], sm.add_constant(pd.concat([data.drop(columns="f"), dummies], axis=1))).fit()
        t, df = fit.tvalues["g"], fit.df_resid
        assert df == N - 2 - 3 - len(covariates) == degrees_of_freedom(samples_df, covariates)
        row = result_df.iloc[k]
        assert row["r"] == pytest.approx(t / np.sqrt(df + t * t), abs=1e-10)
        assert row["p"] == ci_test(row["r"], N, 3 + len(covariates))
        assert (row["low"], row["high"]) == interval(row["r"], N, 3 + len(covariates))


def test_patterns_and_table7():
    """Simulated chains g - t - f, f - g - t and g - f - t, many slides."""
    rng = np.random.default_rng(1)
    n = 3000
    t = rng.uniform(size=n) < 0.3
    ids = [f"s{i}" for i in range(n)]
    noise = rng.normal(size=(6, n))
    g = np.stack([2 * t + noise[0], 2 * t + noise[1], np.zeros(n)])
    f = np.stack([2 * t + noise[2], g[1] + noise[3], 2 * t + noise[4]])
    g[2] = f[2] + noise[5]
    samples_df = pd.DataFrame({"sample_id": ids, "tissue": np.where(t, "liver", "lung")})
    log_df = pd.DataFrame(g, index=["mediated", "gene", "feature"], columns=ids)
    features_df = pd.DataFrame(f, index=["1_0", "1_1", "1_2"], columns=ids)
    pairs_df = pd.DataFrame({
        "gene": log_df.index, "feature": features_df.index, "tissue": "liver", "r": [0.9, 0.8, 0.7],
        "max_median_log2": [10.0, 10.0, 7.0],
    })  # fmt: skip
    result_df = pairs_conditional(log_df, features_df, pairs_df, samples_df)
    assert result_df["pattern_0.01"].tolist() == ["g-t-f", "f-g-t", "g-f-t"]
    flags = result_df[["g-t-f_0.01", "f-g-t_0.01", "g-f-t_0.01"]].to_numpy()
    assert (flags == np.eye(3, dtype=bool)).all()
    table = table7(result_df, ((0.7, 7.0), (0.8, 10.0)), (0.01, 0.05))
    assert table["pairs"].tolist() == [3, 2]
    assert table["g-t-f_0.01"].tolist() == [1, 1]
    assert table["g-f-t_0.01"].tolist() == [1, 0]
    assert (
        (result_df["low_gf_t"] < result_df["r_gf_t"]) & (result_df["r_gf_t"] < result_df["high_gf_t"])
    ).all()


def test_overlapping_patterns_keep_their_flags(frames):
    result_df = pairs_conditional(*frames, alphas=(0.001,))
    flags = result_df[["g-t-f_0.001", "f-g-t_0.001", "g-f-t_0.001"]]
    several = flags.sum(axis=1) > 1
    assert several.any()
    p = result_df[["p_gf_t", "p_ft_g", "p_gt_f"]].to_numpy()
    named = result_df["pattern_0.001"] != "none"
    assert (named == flags.any(axis=1)).all()
    largest = np.array(["g-t-f", "f-g-t", "g-f-t"])[p.argmax(axis=1)]
    assert (result_df["pattern_0.001"] == largest)[named].all()


def test_degenerate_rows_are_flagged_without_nan(frames):
    log_df, features_df, pairs_df, samples_df = frames
    log_df, features_df = log_df.copy(), features_df.copy()
    log_df.loc["g0"] = 2.5  # constant
    features_df.loc["1_1"] = 3 * (samples_df["tissue"] == "liver").to_numpy(float) + 1  # the tissue itself
    features_df.loc["1_2"] = 2 * log_df.loc["g4"] + 1  # the gene itself
    undefined = (pairs_df["gene"] == "g0") | ((pairs_df["gene"] == "g4") & (pairs_df["feature"] == "1_2"))
    on_tissue = pairs_df["feature"] == "1_1"
    own_df = pairs_conditional(log_df, features_df, pairs_df, samples_df)
    of_own = undefined | (on_tissue & (pairs_df["tissue"] == "liver"))
    assert (own_df["undefined"] == of_own).all()
    assert (own_df.loc[of_own, "pattern_0.05"] == "none").all()
    assert (own_df.loc[of_own, "p_gf_t"] == 1).all()
    all_df = given_tissues(log_df, features_df, pairs_df, samples_df)
    assert (all_df.loc[undefined | on_tissue] == [0, 1, -1, 1]).all(axis=None)
    assert (all_df.loc[~undefined & ~on_tissue, "r"] != 0).all()
    for df in (own_df, all_df):
        assert np.isfinite(df.select_dtypes("number").to_numpy()).all()


@pytest.mark.filterwarnings("error")
def test_tissues_that_add_nothing_to_the_covariates(frames):
    """One tissue, or a covariate that determines it: r is given the covariates alone."""
    log_df, features_df, pairs_df, samples_df = frames
    one_df = samples_df.assign(tissue="liver")
    batches_df = samples_df.assign(batch="b" + samples_df["tissue"])
    np.testing.assert_allclose(given_tissues(log_df, features_df, pairs_df, one_df)["r"], pairs_df["r"])
    for df, names, same_df in ((one_df, ("age",), None), (batches_df, ("batch", "age"), samples_df)):
        r = given_tissues(log_df, features_df, pairs_df, df, names)["r"]
        if same_df is None:
            data = columns_of(pairs_df.iloc[3], frames, ("age",))
            assert r[3] == pytest.approx(pingouin.partial_corr(data, "g", "f", "age")["r"].iloc[0], abs=1e-10)
        else:
            expected = given_tissues(log_df, features_df, pairs_df, same_df, ("age",))["r"]
            np.testing.assert_allclose(r, expected, atol=1e-10)


def test_given_all_tissues_omits_what_there_are_too_few_slides_for(frames):
    log_df, features_df, pairs_df, samples_df = frames
    given_df, notes = given_all_tissues(*frames, ["age", "sex"])
    assert notes == []
    expected_df = pd.concat(
        [given_tissues(*frames).add_suffix("_gf_tissues"),
         given_tissues(*frames, ["age", "sex"])[["r", "p"]].add_suffix("_gf_covariates")], axis=1,
    )  # fmt: skip
    pd.testing.assert_frame_equal(given_df, expected_df)
    two_each = samples_df.groupby("tissue")["sample_id"].head(2)
    few_df = samples_df[samples_df["sample_id"].isin(two_each)]
    few = log_df[few_df["sample_id"]], features_df[few_df["sample_id"]], pairs_df, few_df
    given_df, notes = given_all_tissues(*few, ["age", "sex"])
    assert given_df["r_gf_tissues"].notna().all()
    assert given_df[["r_gf_covariates", "p_gf_covariates"]].isna().all(axis=None)
    assert len(notes) == 1
    assert "all tissues and covariates. 8 slides of 4 tissues leave 1 degrees of freedom; 2 are" in notes[0]
    assert len(given_all_tissues(*few)[1]) == 0


def test_few_degrees_of_freedom(frames):
    log_df, features_df, pairs_df, samples_df = frames
    ids = samples_df.groupby("tissue")["sample_id"].head(2).tolist()  # 8 slides, 3 dummies
    few = (log_df[ids], features_df[ids], pairs_df, samples_df)
    assert np.isfinite(given_tissues(*few).to_numpy()).all()
    with pytest.raises(ValueError, match="8 slides and 5 conditions leave 1 degrees of freedom"):
        given_tissues(*few, ["age", "sex"])
    with pytest.raises(ValueError, match="degrees of freedom"):
        ci_test(0.5, 4, 1)
    for call in (ci_test, interval):
        with pytest.raises(ValueError, match=r"\[-1, 1\], got 1.2"):
            call(1.2, 40, 1)


def test_bad_input(frames):
    log_df, features_df, pairs_df, samples_df = frames
    missing_df = samples_df.copy()
    missing_df.loc[:4, "age"] = np.nan
    with pytest.raises(ValueError, match=r"\{'age': 5\} of 80"):
        given_tissues(log_df, features_df, pairs_df, missing_df, ["age"])
    with pytest.raises(ValueError, match=r"covariates \['rin'\] are not columns"):
        given_tissues(*frames, ["rin"])
    with pytest.raises(ValueError, match=r"1 of 80 samples are not in the feature table, first \['s0'\]"):
        pairs_conditional(log_df, features_df.drop(columns="s0"), pairs_df, samples_df)
    with pytest.raises(ValueError, match=r"1 tissues of pairs have no slide, first \['brain'\]"):
        pairs_conditional(log_df, features_df, pairs_df.assign(tissue="brain"), samples_df)
    nan_df = features_df.copy()
    nan_df.loc["1_3", "s9"] = np.nan
    with pytest.raises(ValueError, match=r"feature '1_3' is nan in sample 's9'"):
        pairs_conditional(log_df, nan_df, pairs_df, samples_df)
    with pytest.raises(ValueError, match=r"lacks the columns \['tissue'\]"):
        pairs_conditional(log_df, features_df, pairs_df.drop(columns="tissue"), samples_df)


def test_parametric_tests_are_anticonservative_under_unequal_variances():
    """Which is why the shuffled p stands beside them (notebooks/README.md, sections 7 and 8)."""
    rng = np.random.default_rng(2)
    n, n_pairs, n_tissues = 334, 1500, 39
    tissue = np.sort(np.r_[np.arange(n_tissues).repeat(2), rng.integers(0, n_tissues, n - 78)])
    ids = [f"s{i}" for i in range(n)]
    samples_df = pd.DataFrame({"sample_id": ids, "tissue": [f"t{t:02d}" for t in tissue]})
    for highest, check in ((2.0, lambda share: share > 0.15), (0.2, lambda share: 0.03 < share < 0.075)):
        spread = np.full(n_tissues, 0.2)
        spread[0] = highest  # the tissue of highest expression varies most, or as the others
        rows = 8.0 * (tissue == 0) + spread[tissue] * rng.normal(size=(2, n_pairs, n))
        log_df = pd.DataFrame(rows[0], index=[f"g{i}" for i in range(n_pairs)], columns=ids)
        features_df = pd.DataFrame(rows[1], index=[f"1_{i}" for i in range(n_pairs)], columns=ids)
        pairs_df = pd.DataFrame({"gene": log_df.index, "feature": features_df.index, "tissue": "t00"})
        tables = log_df, features_df, pairs_df, samples_df
        assert check((pairs_conditional(*tables)["p_gf_t"] <= 0.05).mean())
        assert check((given_tissues(*tables)["p"] <= 0.05).mean())


def test_27671_pairs_are_fast():
    rng = np.random.default_rng(3)
    n = 334
    ids = [f"s{i}" for i in range(n)]
    samples_df = pd.DataFrame({"sample_id": ids, "tissue": [f"t{i % 39:02d}" for i in range(n)]})
    log_df = pd.DataFrame(rng.normal(size=(995, n)), index=[f"g{i}" for i in range(995)], columns=ids)
    features_df = pd.DataFrame(rng.normal(size=(1947, n)), index=[f"1_{i}" for i in range(1947)], columns=ids)
    pairs_df = pd.DataFrame({
        "gene": rng.choice(log_df.index, 27671), "feature": rng.choice(features_df.index, 27671),
        "tissue": rng.choice(samples_df["tissue"], 27671),
    })  # fmt: skip
    start = time.process_time()
    pairs_conditional(log_df, features_df, pairs_df, samples_df)
    assert time.process_time() - start < 4  # one second of a free core; room for a busy machine
