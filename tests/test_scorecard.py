"""The scorecard counts what it says, and tells a true table from a shuffled one."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib import scorecard


@pytest.fixture
def planted():
    rng = np.random.default_rng(3)
    samples = [f"s{i}" for i in range(90)]
    tissues = pd.Series(np.repeat(["a", "b", "c"], 30), index=samples)
    quantities_df = pd.DataFrame(rng.normal(size=(90, 2)), index=samples, columns=["density", "lumen"])
    offset = tissues.map({"a": 0, "b": 40, "c": -9}).to_numpy()
    features_df = pd.DataFrame(
        [quantities_df["density"] + offset, -quantities_df["lumen"] + 2 * offset, pd.Series(offset, samples)],
        index=["0_0", "0_1", "0_2"],
        columns=samples,
    )
    return features_df, quantities_df, tissues


def test_within_tissue_r_is_the_correlation_of_residuals(planted):
    features_df, quantities_df, tissues = planted
    r_df = scorecard.within_tissue_r(features_df, quantities_df.T, tissues)
    dummies = pd.get_dummies(tissues).to_numpy(float)
    x, y = features_df.loc["0_0"].to_numpy(), quantities_df["lumen"].to_numpy()
    residuals = [v - dummies @ np.linalg.lstsq(dummies, v, rcond=None)[0] for v in (x, y)]
    assert r_df.loc["0_0", "lumen"] == pytest.approx(stats.pearsonr(*residuals)[0], abs=1e-9)
    assert (r_df.loc["0_2"] == 0).all(), "a feature constant within tissues follows nothing"


def test_followed_quantity(planted):
    followed_df = scorecard.followed_quantity(*planted)
    assert list(followed_df["quantity"].iloc[:2]) == ["density", "lumen"]
    assert followed_df["r_quantity"].iloc[1] == pytest.approx(-1)


def test_score_links_counts(planted):
    followed_df = scorecard.followed_quantity(*planted)
    truth_df = pd.DataFrame(
        {
            "kind": ["direct", "direct", "marker", "null", "null"],
            "quantity": ["density", "lumen", "", "", ""],
        },
        index=list("uvwxy"),
    )
    calls_df = pd.DataFrame(
        {"called": [True, True, False, True], "feature": ["0_0", "0_0", "0_1", "0_1"]}, index=list("uvwx")
    )
    score_df = scorecard.score_links(truth_df, calls_df, followed_df)
    assert score_df.loc["direct", ["tested", "called", "right_quantity"]].tolist() == [2, 2, 1]
    assert score_df.loc["direct", "share_right"] == 0.5
    assert score_df.loc["null", ["genes", "tested", "called"]].tolist() == [2, 1, 1]
    assert score_df.loc["marker", "share_called"] == 0
    assert np.isnan(score_df.loc["null", "right_quantity"])


def test_summary_and_shuffled_truth(planted):
    """Perfect calls score 1; the same calls against a shuffled truth do not."""
    followed_df = scorecard.followed_quantity(*planted)
    kinds = ["direct"] * 20 + ["marker"] * 20 + ["covariate"] * 5 + ["null"] * 55
    genes = [f"g{i}" for i in range(100)]
    truth_df = pd.DataFrame({"kind": kinds, "quantity": ["density"] * 20 + [""] * 80}, index=genes)
    calls_df = pd.DataFrame({"called": [k == "direct" for k in kinds], "feature": "0_0"}, index=genes)
    accuracy_df = pd.DataFrame(
        {
            "level": ["slide"],
            "split": ["test"],
            "accuracy": [0.9],
            "correct": [9],
            "n": [10],
            "n_classes": [8],
        }
    )
    good_df = scorecard.summary(accuracy_df, scorecard.score_links(truth_df, calls_df, followed_df))
    assert good_df.loc["slide accuracy", "value"] == 0.9
    assert good_df.loc["direct genes found (recall)", "value"] == 1
    assert good_df.loc["false discovery proportion", "value"] == 0
    shuffled_df = truth_df.sample(frac=1, random_state=0).set_axis(genes)
    bad_df = scorecard.summary(accuracy_df, scorecard.score_links(shuffled_df, calls_df, followed_df))
    assert bad_df.loc["direct genes found (recall)", "value"] < 0.5
    assert bad_df.loc["false discovery proportion", "value"] > 0.5
