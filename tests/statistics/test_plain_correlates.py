"""r of features with the stain of their tiles: against pingouin, and where nothing varies."""

import numpy as np
import pandas as pd
import pingouin
import pytest

from lib.statistics.plain_correlates import plain_correlates


def made(n=40, seed=0):
    """Features: one that is eosin, one that is the tissue alone, noise, a constant; measures of n samples."""
    rng = np.random.default_rng(seed)
    ids, groups = [f"s{i}" for i in range(n)], np.repeat(["Liver", "Lung"], n // 2)
    measured_df = pd.DataFrame(rng.normal(size=(n, 3)), ids, ["haematoxylin", "eosin", "focus"])
    far = 50.0 * (groups == "Lung")
    rows = [2 * measured_df["eosin"] + 0.1 * rng.normal(size=n) + far, far, rng.normal(size=n), np.ones(n)]
    return pd.DataFrame(np.stack(rows), ["0_0", "0_1", "0_2", "0_3"], ids), measured_df, groups


def test_r_is_that_of_a_partial_correlation_given_the_tissue():
    features_df, measured_df, groups = made()
    df = plain_correlates(features_df, measured_df, groups)
    table_df = pd.concat([features_df.T, measured_df], axis=1).assign(lung=(groups == "Lung").astype(float))
    for feature in ("0_0", "0_2"):
        for measure in measured_df:
            expected = pingouin.partial_corr(table_df, feature, measure, "lung")["r"].iloc[0]
            assert df.loc[feature, measure] == pytest.approx(expected, abs=1e-6)
    assert df.loc["0_0", "most_like"] == "eosin"
    assert df.loc["0_0", "r_most_like"] == df.loc["0_0", "eosin"] > 0.98


def test_what_does_not_vary_within_tissues_has_no_r():
    features_df, measured_df, groups = made()
    df = plain_correlates(features_df, measured_df.assign(n_tiles=4), groups)
    assert df.loc[["0_1", "0_3"], ["eosin", "r_most_like"]].isna().all(axis=None)
    assert df.loc[["0_1", "0_3"], "most_like"].tolist() == ["", ""]
    assert df["n_tiles"].isna().all()
    assert df.index.name == "feature"


def test_a_missing_value_leaves_its_sample_out_and_the_order_of_samples_does_not_matter():
    features_df, measured_df, groups = made()
    gap_df = measured_df.copy()
    gap_df.loc["s3", "eosin"] = np.nan
    df = plain_correlates(features_df, gap_df.iloc[::-1], groups)
    kept = features_df.columns != "s3"
    alone_df = plain_correlates(features_df.loc[:, kept], measured_df, groups[kept])
    assert df.loc["0_2", "eosin"] == pytest.approx(alone_df.loc["0_2", "eosin"], abs=1e-12)
    assert df.loc["0_2", "focus"] != pytest.approx(alone_df.loc["0_2", "focus"], abs=1e-6)


def test_samples_without_measures_are_named_and_no_measure_is_no_claim():
    features_df, measured_df, groups = made()
    with pytest.raises(ValueError, match=r"1 samples have features and no measures of their tiles: \['s7'\]"):
        plain_correlates(features_df, measured_df.drop(index="s7"), groups)
    none_df = plain_correlates(features_df, measured_df[[]], groups)
    assert none_df["most_like"].tolist() == [""] * 4
