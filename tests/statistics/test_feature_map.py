"""feature_map: against statsmodels' OLS and an eigendecomposition; planted batches; degenerate tables."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from lib.figures import cohort_plots
from lib.statistics import feature_map


def made(seed=0, n=60, n_features=30):
    rng = np.random.default_rng(seed)
    ids = [f"s{i}" for i in range(n)]
    known_df = pd.DataFrame({"tissue": rng.choice(list("abc"), n), "scanner": rng.choice(["x", "y"], n)}, ids)
    known_df = known_df.assign(age=rng.normal(50, 9, n), slide_id=ids, same="one")
    known_df = known_df.assign(l0_x=rng.integers(0, 9, n), sex=rng.choice([True, False], n))
    known_df.loc["s3", "age"] = np.nan
    values = rng.normal(size=(n_features, n)) + 3 * (known_df["scanner"] == "x").to_numpy()
    values[-1] = 7.0  # constant
    return pd.DataFrame(values, [f"1_{i}" for i in range(n_features)], ids), known_df


def test_shares_are_those_of_ordinary_least_squares():
    features_df, all_df = made()
    scores_df, _ = feature_map.components(features_df)
    known_df = feature_map.known_of(all_df)
    assert set(known_df) == {"tissue", "scanner", "age", "sex"}, "no ids, no constants, no coordinates"
    df = feature_map.explained(features_df, scores_df, known_df)
    for name, formula in (
        ("tissue", "C(tissue)"),
        ("scanner", "C(scanner)"),
        ("age", "age"),
        ("sex", "C(sex)"),
    ):
        data_df = all_df.join(scores_df).dropna()
        fits = smf.ols(f"PC2 ~ {formula}", data_df if name == "age" else all_df.join(scores_df)).fit()
        assert df.loc[name, "PC2"] == pytest.approx(fits.rsquared)
        assert df.loc[name, "degrees_of_freedom"] == fits.df_model
        with_df = all_df.join(features_df.T.add_prefix("f"))
        shares = [
            smf.ols(f"Q('f{feature}') ~ {formula}", with_df.dropna() if name == "age" else with_df)
            .fit()
            .rsquared
            for feature in features_df.index[:-1]
        ]
        assert df.loc[name, "all_features"] == pytest.approx(np.mean(shares))
    assert df.loc["age", "n"] == 59
    assert df.index[0] == "scanner"
    assert df.loc["tissue", "by_chance"] == pytest.approx(2 / 59)


def test_components_are_the_eigenvectors_and_do_not_depend_on_sign_or_scale(monkeypatch):
    features_df, _ = made(1)
    scores_df, share = feature_map.components(features_df, 3)
    rows = features_df.iloc[:-1].to_numpy()
    rows = (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    np.testing.assert_allclose(share, (values / values.sum())[::-1][:3])
    for k in range(3):
        assert abs(scores_df.iloc[:, k] @ vectors[:, -1 - k]) == pytest.approx(np.sqrt(values[-1 - k]))
    scaled_df = features_df * np.linspace(1, 1e6, len(features_df))[:, None]
    np.testing.assert_allclose(feature_map.components(scaled_df, 3)[0], scores_df, atol=1e-8)
    monkeypatch.setattr(feature_map, "LARGE", 1)
    large_df, large_share = feature_map.components(features_df, 3)
    np.testing.assert_allclose(large_df, scores_df, atol=1e-6)
    np.testing.assert_allclose(large_share, share)


def test_random_columns_explain_what_chance_does():
    features_df, _ = made(2, n=80)
    rng = np.random.default_rng(0)
    scores_df, _ = feature_map.components(features_df)
    names = {f"k{i}": rng.choice(list("abcdefgh"), 80) for i in range(40)}
    df = feature_map.explained(features_df, scores_df, pd.DataFrame(names, index=features_df.columns))
    assert df["all_features"].mean() == pytest.approx(df["by_chance"].mean(), abs=0.01)


def test_few_samples_or_none_that_vary():
    features_df, known_df = made(3)
    two_df = features_df.iloc[:, :2]
    scores_df, share = feature_map.components(two_df)
    assert scores_df.shape == (2, 1)
    assert share == pytest.approx([1.0])
    assert feature_map.explained(two_df, scores_df, known_df.iloc[:2]).empty
    scores_df, share = feature_map.components(features_df.iloc[-1:])
    assert scores_df.shape == (60, 0)
    assert len(share) == 0


def test_the_figure_has_a_panel_for_each_column():
    features_df, all_df = made()
    scores_df, share = feature_map.components(features_df)
    known_df = feature_map.known_of(all_df)
    figure = cohort_plots.feature_map(scores_df, share, known_df, {"a": "red", "b": "blue", "c": "green"})
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == list(known_df)
