"""The scorecard counts what it says, and tells a true table from a shuffled one."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.simulated import scorecard

IGNORES = 0.2


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


def planted_pairs(planted):
    """Ten direct genes of each quantity, 20 markers, 20 nulls, each with each of the three features."""
    features_df, quantities_df, tissues = planted
    kinds = ["direct"] * 20 + ["marker"] * 20 + ["null"] * 20
    quantity = ["density"] * 10 + ["lumen"] * 10 + [""] * 40
    truth_df = pd.DataFrame({"kind": kinds, "quantity": quantity}, index=[f"g{i}" for i in range(60)])
    pairs_df = scorecard.every_pair(truth_df.index, features_df.index)
    return truth_df, pairs_df, scorecard.within_tissue_r(features_df, quantities_df.T, tissues)


def test_every_pair_is_thinned_by_feature():
    pairs_df = scorecard.every_pair(["a", "b"], ["0_0", "0_1", "0_2"])
    assert pairs_df.to_numpy().tolist()[:4] == [["a", "0_0"], ["a", "0_1"], ["a", "0_2"], ["b", "0_0"]]
    assert len(scorecard.every_pair(["a", "b"], [f"0_{i}" for i in range(1000)], most=500)) == 500


def test_pair_kinds_go_by_the_genes_own_quantity(planted):
    truth_df, pairs_df, r_df = planted_pairs(planted)
    kinds = scorecard.pair_kinds(pairs_df, truth_df, r_df, IGNORES)
    by_pair = kinds.set_axis(pd.MultiIndex.from_frame(pairs_df))
    assert abs(r_df.loc["0_1", "density"]) < IGNORES, "the draw must not link them by chance"
    assert by_pair["g0", "0_0"] == "direct"
    assert by_pair["g0", "0_1"] == "unrelated", "follows the other quantity"
    assert by_pair["g10", "0_1"] == "direct", "of either sign"
    assert by_pair["g0", "0_2"] == "unrelated", "constant within tissues"
    assert by_pair["g25", "0_0"] == "marker"
    weak_df = r_df.assign(density=[0.49, 0.2, 0.19])
    assert scorecard.pair_kinds(pairs_df, truth_df, weak_df, IGNORES).head(3).tolist() == [
        "weak",
        "weak",
        "unrelated",
    ]
    with pytest.raises(KeyError, match="1 genes of the pairs are not in the truth, first 'g0'"):
        scorecard.pair_kinds(pairs_df, truth_df.drop("g0"), r_df, IGNORES)


def test_precision_and_recall_of_pairs(planted):
    """Perfect calls score 1; a shuffled truth table fails; weak pairs count neither way."""
    truth_df, pairs_df, r_df = planted_pairs(planted)
    kinds = scorecard.pair_kinds(pairs_df, truth_df, r_df, IGNORES)
    called_df = pd.DataFrame(
        {"perfect": kinds == "direct", "half": (kinds == "direct") & (pairs_df.index % 2 == 0)}
    )
    called_df["everything"] = True
    score_df = scorecard.score_pairs(kinds, called_df)
    assert score_df["pairs"].sum() == 180
    found_df = scorecard.precision_recall(score_df)
    assert found_df.loc["perfect", ["precision", "recall"]].tolist() == [1, 1]
    assert found_df.loc["half", ["precision", "recall"]].tolist() == [1, 0.5]
    assert found_df.loc["everything", ["precision", "recall"]].tolist() == [20 / 180, 1]
    shuffled_df = truth_df.sample(frac=1, random_state=0).set_axis(truth_df.index)
    wrong = scorecard.score_pairs(scorecard.pair_kinds(pairs_df, shuffled_df, r_df, IGNORES), called_df)
    assert (scorecard.precision_recall(wrong).loc["perfect", ["precision", "recall"]] < 0.6).all()
    weak = kinds.mask(kinds == "direct", "weak")
    dealt_anew = scorecard.pair_kinds(pairs_df, scorecard.shuffled(truth_df, 1), r_df, IGNORES)
    by_chance = scorecard.precision_recall(scorecard.score_pairs(dealt_anew, called_df)).loc["perfect"]
    assert (by_chance[["precision", "recall"]] < 0.6).all()
    nothing = scorecard.precision_recall(scorecard.score_pairs(weak, called_df)).loc["perfect"]
    assert nothing[["called", "direct"]].tolist() == [0, 0]
    lines = scorecard.summary(pd.DataFrame({"split": []}), score_links_of_nothing(), pairs=[score_df])
    assert lines.loc["direct pairs called direct, half", "value"] == 0.5


def score_links_of_nothing():
    columns = ["genes", "tested", "called", "share_called", "right_quantity", "share_right"]
    return pd.DataFrame(0.0, index=list(scorecard.KINDS), columns=columns)


def test_what_a_run_must_reach():
    names = ["pairs called direct that are, shuffling alone", "direct pairs called direct, shuffling alone"]
    card_df = pd.DataFrame({"value": [0.95, 0.75]}, index=names)
    assert scorecard.missed(card_df, 0.9, 0.7) == []
    assert scorecard.missed(card_df, 0.9, 0.8) == [f"{names[1]}: 75.0%, at least 80% are asked for"]
    assert len(scorecard.missed(card_df.iloc[:0], 0.9, 0.8)) == 2, "no line meets no target"
    assert scorecard.missed(card_df.iloc[:0], 0, 0) == []


def test_what_slides_cannot_tell_from_nothing():
    rng = np.random.default_rng(0)
    tissues = pd.Series(np.repeat(list("abcd"), 25), index=[f"s{i}" for i in range(100)])
    a_df, b_df = (pd.DataFrame(rng.normal(size=(60, 100)), columns=tissues.index) for _ in range(2))
    r = scorecard.within_tissue_r(a_df, b_df, tissues).abs().to_numpy()
    assert abs((r >= scorecard.like_nothing(100, 4)).mean() - 0.05) < 0.01
