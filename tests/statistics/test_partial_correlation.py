"""Partial correlations against pingouin, scipy and statsmodels; the paper's printed values; degenerate
data.
"""

import time

import numpy as np
import pandas as pd
import pingouin
import pytest
import statsmodels.api as sm
from scipy import stats

from lib.statistics import partial_correlation

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
    """METHOD section 8: n = 334, one condition.

    The printed r are rounded to three digits, so p is a range.
    """
    assert partial_correlation.ci_test(0.1074, 334, 1) == pytest.approx(0.05016, abs=5e-6)
    assert "0.05016" in partial_correlation.ci_test.__doc__
    assert partial_correlation.ci_test(0.1075, 334, 1) < 0.0501 < partial_correlation.ci_test(0.1065, 334, 1)
    assert partial_correlation.ci_test(0.1675, 334, 1) < 0.00215 < partial_correlation.ci_test(0.1665, 334, 1)
    # all 38 dummies give other values
    assert partial_correlation.ci_test(0.1074, 334, 38) == pytest.approx(0.066, abs=2e-3)
    assert partial_correlation.ci_test(0.1672, 334, 38) == pytest.approx(0.0039, abs=2e-4)


def test_ci_test_shapes_signs_and_t():
    r = np.array([[0.3, -0.3], [0.0, 1.0]])
    p = partial_correlation.ci_test(r, 50, 2)
    assert p.shape == (2, 2)
    assert p[0, 0] == p[0, 1]
    assert p[1].tolist() == [1.0, 0.0]
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    expected = stats.pearsonr(x, y)
    assert partial_correlation.ci_test(expected[0], 30, 0, "t") == pytest.approx(expected[1], rel=1e-10)
    low, high = partial_correlation.interval(expected[0], 30, 0, 0.9)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.9)), rel=1e-10)
    assert isinstance(partial_correlation.ci_test(0.1, 30, 0), float)


@pytest.mark.parametrize("covariates", [(), ("age",), ("age", "sex")])
def test_indicator_matches_pingouin(frames, covariates):
    result_df = partial_correlation.pairs_conditional(*frames, covariates=covariates)
    assert (result_df["n_conditions"] == 1 + len(covariates)).all()
    for row in result_df.iloc[::11].itertuples():
        data = columns_of(row, frames, covariates)
        for name, (a, b, given) in {
            "gf_t": ("g", "f", "t"),
            "ft_g": ("f", "t", "g"),
            "gt_f": ("g", "t", "f"),
        }.items():
            expected = pingouin.partial_corr(data, a, b, [given, *covariates]).iloc[0]
            assert getattr(row, f"r_{name}") == pytest.approx(expected["r"], abs=1e-10)
            p_column = "p_val" if "p_val" in expected else "p-val"
            assert getattr(row, f"p_t_{name}") == pytest.approx(expected[p_column], rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("covariates", [(), ("age", "sex")])
def test_categorical_matches_regression(frames, covariates):
    """The F test of the tissues and the t of the gene, from statsmodels' nested models."""
    samples_df = frames[3]
    result_df = partial_correlation.pairs_conditional(*frames, tissue="categorical", covariates=covariates)
    assert (result_df["n_conditions"] == 3 + len(covariates)).all()
    dummies = pd.get_dummies(samples_df.set_index("sample_id")["tissue"], drop_first=True, dtype=float)
    for row in result_df.iloc[::17].itertuples():
        data = columns_of(row, frames, covariates).drop(columns="t")
        for name, (a, b) in {"ft_g": ("f", "g"), "gt_f": ("g", "f")}.items():
            reduced = sm.OLS(data[a], sm.add_constant(data.drop(columns=a))).fit()
            full = sm.OLS(data[a], sm.add_constant(pd.concat([data.drop(columns=a), dummies], axis=1))).fit()
            assert getattr(row, f"p_{name}") == pytest.approx(
                full.compare_f_test(reduced)[1], rel=1e-6, abs=1e-14
            )
            assert getattr(row, f"r_{name}") ** 2 == pytest.approx(1 - full.ssr / reduced.ssr, abs=1e-10)
            assert row.p_t_gf_t == pytest.approx(full.pvalues[b], rel=1e-6, abs=1e-14)


def test_partial_r(frames):
    log_df, features_df, _, samples_df = frames
    conditions = (
        samples_df[["age"]].assign(s=samples_df["sex"] == "m", twice=2 * samples_df["age"]).to_numpy(float)
    )
    x, y = log_df.to_numpy()[:5], features_df.to_numpy()[:5]
    data = pd.DataFrame({"x": x[2], "y": y[2], "age": conditions[:, 0], "s": conditions[:, 1]})
    expected = pingouin.partial_corr(data, "x", "y", ["age", "s"])["r"].iloc[0]
    r = partial_correlation.partial_r(x, y, conditions)  # a column given twice counts once
    assert r.shape == (5,)
    assert r[2] == pytest.approx(expected, abs=1e-10)
    assert partial_correlation.partial_r(x[2], y[2], conditions) == pytest.approx(expected, abs=1e-10)
    with pytest.raises(ValueError, match="row 0 of x does not vary beyond the conditions"):
        partial_correlation.partial_r(conditions[:, 0], y[0], conditions)
    with pytest.raises(ValueError, match="1 missing"):
        partial_correlation.partial_r(np.where(np.arange(N) == 3, np.nan, x[0]), y[0], conditions)


def test_patterns_and_table7():
    """Planted chains: g - t - f, f - g - t and g - f - t, many slides."""
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
    result_df = partial_correlation.pairs_conditional(log_df, features_df, pairs_df, samples_df)
    assert result_df["pattern_0.01"].tolist() == ["g-t-f", "f-g-t", "g-f-t"]
    flags = result_df[["g-t-f_0.01", "f-g-t_0.01", "g-f-t_0.01"]].to_numpy()
    assert (flags == np.eye(3, dtype=bool)).all()
    table = partial_correlation.table7(result_df, ((0.7, 7.0), (0.8, 10.0)))
    assert table["pairs"].tolist() == [3, 2]
    assert table["g-t-f_0.01"].tolist() == [1, 1]
    assert table["g-f-t_0.01"].tolist() == [1, 0]
    assert (
        (result_df["low_gf_t"] < result_df["r_gf_t"]) & (result_df["r_gf_t"] < result_df["high_gf_t"])
    ).all()


def test_overlapping_patterns_keep_their_flags(frames):
    result_df = partial_correlation.pairs_conditional(*frames, alphas=(0.001,))
    flags = result_df[["g-t-f_0.001", "f-g-t_0.001", "g-f-t_0.001"]]
    several = flags.sum(axis=1) > 1
    assert several.any()
    p = result_df[["p_gf_t", "p_ft_g", "p_gt_f"]].to_numpy()
    named = result_df["pattern_0.001"] != "none"
    assert (named == flags.any(axis=1)).all()
    largest = np.array(["g-t-f", "f-g-t", "g-f-t"])[p.argmax(axis=1)]
    assert (result_df["pattern_0.001"] == largest)[named].all()


@pytest.mark.parametrize("tissue", ["indicator", "categorical"])
def test_degenerate_rows_are_flagged_without_nan(frames, tissue):
    log_df, features_df, pairs_df, samples_df = frames
    log_df, features_df = log_df.copy(), features_df.copy()
    log_df.loc["g0"] = 2.5  # constant
    liver = (samples_df["tissue"] == "liver").to_numpy(float)
    features_df.loc["1_1"] = 3 * liver + 1  # the tissue itself
    features_df.loc["1_2"] = 2 * log_df.loc["g4"] + 1  # the gene itself
    result_df = partial_correlation.pairs_conditional(
        log_df, features_df, pairs_df, samples_df, tissue=tissue
    )
    bad = (result_df["gene"] == "g0") | ((result_df["gene"] == "g4") & (result_df["feature"] == "1_2"))
    on_tissue = result_df["feature"] == "1_1"
    bad |= on_tissue & ((result_df["tissue"] == "liver") if tissue == "indicator" else True)
    assert (result_df["undefined"] == bad).all()
    numbers = result_df.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy()).all()
    assert (result_df.loc[bad, "pattern_0.05"] == "none").all()
    assert (result_df.loc[bad, "p_gf_t"] == 1).all()


@pytest.mark.parametrize("covariates", [(), ("age",)])
@pytest.mark.filterwarnings("error")
def test_tissues_that_add_nothing_leave_their_partials_undefined(frames, covariates):
    """One tissue, or a covariate that tells the tissue: t has no variance left, no pattern is called."""
    log_df, features_df, pairs_df, samples_df = frames
    one_df = samples_df.assign(tissue="liver")
    cases = [
        (pairs_df.assign(tissue="liver"), one_df, covariates),
        (pairs_df, samples_df.assign(batch="b" + samples_df["tissue"]), ("batch", *covariates)),
    ]
    for asked_df, cohort_df, names in cases:
        result_df = partial_correlation.pairs_conditional(
            log_df, features_df, asked_df, cohort_df, tissue="categorical", covariates=names
        )
        assert result_df["undefined"].all()
        for name in ("ft_g", "gt_f"):
            assert (result_df[f"r_{name}"] == 0).all()
            assert (result_df[[f"p_{name}", f"p_t_{name}"]] == 1).all(axis=None)
        assert (result_df["pattern_0.05"] == "none").all()
        assert not result_df.filter(regex="^.-.-._").any(axis=None)
        row = result_df.iloc[3]
        data = columns_of(row, (log_df, features_df, asked_df, samples_df))
        given = [pd.get_dummies(cohort_df[[c]], drop_first=True, dtype=float) for c in names]
        given = np.column_stack([np.ones(N), *given])  # an intercept more changes nothing
        r = partial_correlation.partial_r(data["g"].to_numpy(), data["f"].to_numpy(), given)
        assert row["r_gf_t"] == pytest.approx(r, abs=1e-10)  # this one is not about t


def test_degrees_of_freedom_are_those_of_the_tests(frames):
    samples_df = frames[3]
    for tissue in ("indicator", "categorical"):
        for covariates in ((), ("age", "sex")):
            how = {"tissue": tissue, "covariates": covariates}
            result_df = partial_correlation.pairs_conditional(*frames, **how)
            left = N - 2 - result_df["n_conditions"].iloc[0]
            assert partial_correlation.degrees_of_freedom(samples_df, **how) == left
    with pytest.raises(ValueError, match="got 'dummies'"):
        partial_correlation.degrees_of_freedom(samples_df, tissue="dummies")


def test_given_all_tissues_leaves_out_what_slides_are_too_few_for(frames):
    log_df, features_df, pairs_df, samples_df = frames
    given_df, notes = partial_correlation.given_all_tissues(*frames, ["age", "sex"])
    assert notes == []
    assert given_df.index.equals(pairs_df.index)
    for suffix, covariates in (("tissues", ()), ("covariates", ["age", "sex"])):
        result_df = partial_correlation.pairs_conditional(
            *frames, tissue="categorical", covariates=covariates
        )
        for name in ("r", "p", "low", "high")[: 4 if suffix == "tissues" else 2]:
            np.testing.assert_array_equal(given_df[f"{name}_gf_{suffix}"], result_df[f"{name}_gf_t"])
    two_each = samples_df.groupby("tissue")["sample_id"].head(2)
    few_df = samples_df[samples_df["sample_id"].isin(two_each)]
    few = log_df[few_df["sample_id"]], features_df[few_df["sample_id"]], pairs_df, few_df
    given_df, notes = partial_correlation.given_all_tissues(*few, ["age", "sex"])
    assert given_df["r_gf_tissues"].notna().all()
    assert given_df[["r_gf_covariates", "p_gf_covariates"]].isna().all(axis=None)
    assert len(notes) == 1
    assert "all tissues and covariates. 8 slides of 4 tissues leave 1 degrees of freedom; 2 are" in notes[0]
    assert len(partial_correlation.given_all_tissues(*few)[1]) == 0


def test_few_degrees_of_freedom(frames):
    log_df, features_df, pairs_df, samples_df = frames
    ids = (
        samples_df.groupby("tissue")["sample_id"].head(2).tolist()
    )  # 8 slides, 3 dummies, 3 degrees of freedom
    few = (log_df[ids], features_df[ids], pairs_df, samples_df)
    result_df = partial_correlation.pairs_conditional(*few, tissue="categorical")
    assert np.isfinite(result_df.select_dtypes("number").to_numpy()).all()
    with pytest.raises(ValueError, match="8 slides and 5 conditions leave 1 degrees of freedom"):
        partial_correlation.pairs_conditional(*few, tissue="categorical", covariates=["age", "sex"])
    one_each = samples_df.groupby("tissue")["sample_id"].head(1).tolist()
    with pytest.raises(ValueError, match="4 slides"):
        partial_correlation.pairs_conditional(
            log_df[one_each], features_df[one_each], pairs_df, samples_df, tissue="categorical"
        )
    with pytest.raises(ValueError, match="degrees of freedom"):
        partial_correlation.ci_test(0.5, 4, 1)
    with pytest.raises(ValueError, match=r"\[-1, 1\], got 1.2"):
        partial_correlation.ci_test(1.2, 40, 1)
    with pytest.raises(ValueError, match=r"\[-1, 1\], got 2"):
        partial_correlation.interval(2, 334, 1)
    for level in (95, 0, 1, -0.5):
        with pytest.raises(ValueError, match=f"level is a share between 0 and 1, such as 0.95, got {level}"):
            partial_correlation.interval(0.5, 334, 1, level)


def test_bad_input(frames):
    log_df, features_df, pairs_df, samples_df = frames
    missing_df = samples_df.copy()
    missing_df.loc[:4, "age"] = np.nan
    with pytest.raises(ValueError, match=r"\{'age': 5\} of 80"):
        partial_correlation.pairs_conditional(log_df, features_df, pairs_df, missing_df, covariates=["age"])
    with pytest.raises(ValueError, match=r"covariates \['rin'\] are not columns"):
        partial_correlation.pairs_conditional(*frames, covariates=["rin"])
    with pytest.raises(ValueError, match=r"1 of 80 samples are not in the feature table, first \['s0'\]"):
        partial_correlation.pairs_conditional(log_df, features_df.drop(columns="s0"), pairs_df, samples_df)
    with pytest.raises(ValueError, match=r"tissues of pairs without a slide: \['brain'\]"):
        partial_correlation.pairs_conditional(
            log_df, features_df, pairs_df.assign(tissue="brain"), samples_df
        )
    nan_df = features_df.copy()
    nan_df.loc["1_3", "s9"] = np.nan
    with pytest.raises(ValueError, match=r"feature '1_3' is nan in sample 's9'"):
        partial_correlation.pairs_conditional(log_df, nan_df, pairs_df, samples_df)
    with pytest.raises(ValueError, match="lack the columns"):
        partial_correlation.pairs_conditional(
            log_df, features_df, pairs_df.drop(columns="tissue"), samples_df
        )


def test_parametric_test_is_anticonservative_under_unequal_variances():
    """METHOD section 8: 28 to 31 % rejected at 0.05; why the shuffled p stands beside it."""
    rng = np.random.default_rng(2)
    n, n_pairs, n_tissues = 334, 1500, 39
    tissue = np.sort(np.r_[np.arange(n_tissues).repeat(2), rng.integers(0, n_tissues, n - 78)])
    ids = [f"s{i}" for i in range(n)]
    rows = []
    for _ in range(2):
        spread = np.full((n_pairs, n_tissues), 0.2)
        spread[:, 0] = 2.0  # the tissue of highest expression varies most
        rows.append(8.0 * (tissue == 0) + spread[:, tissue] * rng.normal(size=(n_pairs, n)))
    samples_df = pd.DataFrame({"sample_id": ids, "tissue": [f"t{t:02d}" for t in tissue]})
    log_df = pd.DataFrame(rows[0], index=[f"g{i}" for i in range(n_pairs)], columns=ids)
    features_df = pd.DataFrame(rows[1], index=[f"1_{i}" for i in range(n_pairs)], columns=ids)
    pairs_df = pd.DataFrame({"gene": log_df.index, "feature": features_df.index, "tissue": "t00"})
    for kind in ("indicator", "categorical"):
        result_df = partial_correlation.pairs_conditional(
            log_df, features_df, pairs_df, samples_df, tissue=kind
        )
        assert (result_df["p_gf_t"] <= 0.05).mean() > 0.15
    # and where variances are equal it is calibrated
    equal = [rng.normal(size=(n_pairs, n)) + 8.0 * (tissue == 0) for _ in range(2)]
    log_df[:], features_df[:] = equal
    for kind in ("indicator", "categorical"):
        p = partial_correlation.pairs_conditional(log_df, features_df, pairs_df, samples_df, tissue=kind)[
            "p_gf_t"
        ]
        low, high = stats.binomtest(int((p <= 0.05).sum()), n_pairs).proportion_ci(0.999)
        assert low <= 0.05 <= high


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
    partial_correlation.pairs_conditional(log_df, features_df, pairs_df, samples_df)
    assert time.process_time() - start < 4  # one second of a free core; room for a busy machine
