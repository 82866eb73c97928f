"""The scorecard counts correctly, and true tables score better than permuted ones."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.simulated import scorecard
from lib.simulated.slides import QUANTITIES

FIRST, SECOND = QUANTITIES[:2]
CHANCE = 0.2


@pytest.fixture
def planted():
    """Three features of 90 samples: one follows the first quantity, one the second, one only the tissue."""
    rng = np.random.default_rng(3)
    samples = [f"s{i}" for i in range(90)]
    tissues = pd.Series(np.repeat(["a", "b", "c"], 30), index=samples)
    quantities_df = pd.DataFrame(rng.normal(size=(90, 5)), index=samples, columns=list(QUANTITIES))
    offset = tissues.map({"a": 0, "b": 40, "c": -9})
    features_df = pd.DataFrame(
        {"0_0": quantities_df[FIRST] + offset, "0_1": -quantities_df[SECOND] + 2 * offset, "0_2": offset}
    ).T
    return features_df, quantities_df, tissues


def truth_of(planted, kinds, quantities, genes=None):
    features_df, quantities_df, tissues = planted
    genes = [f"g{i}" for i in range(len(kinds))] if genes is None else genes
    genes_df = pd.DataFrame({"kind": kinds, "quantity": quantities}, index=genes)
    truth = scorecard.known_truth(genes_df, quantities_df.assign(tissue=tissues), features_df)
    return truth._replace(chance_r=CHANCE)


def test_within_tissue_r_is_the_correlation_of_residuals(planted):
    features_df, quantities_df, tissues = planted
    r_df = scorecard.within_tissue_r(features_df, quantities_df.T, tissues)
    dummies = pd.get_dummies(tissues).to_numpy(float)
    x, y = features_df.loc["0_0"].to_numpy(), quantities_df[SECOND].to_numpy()
    residuals = [v - dummies @ np.linalg.lstsq(dummies, v, rcond=None)[0] for v in (x, y)]
    assert r_df.loc["0_0", SECOND] == pytest.approx(stats.pearsonr(*residuals)[0], abs=1e-9)
    assert r_df.loc["0_1", SECOND] == pytest.approx(-1)
    assert (r_df.loc["0_2"] == 0).all(), "a feature constant within tissues follows nothing"


def test_genes_are_counted_by_kind(planted):
    kinds = ["direct", "direct", "marker", "null", "null"]
    truth = truth_of(planted, kinds, [FIRST, SECOND, "", "", ""], list("uvwxy"))
    features = ["0_0", "0_0", "0_1", "0_1"]
    found_df = pd.DataFrame({"q": [0.01, 0.05, 0.06, 0.0], "feature": features}, index=list("uvwx"))
    score_df = scorecard.score_genes(truth, found_df, 0.05)
    assert score_df.loc["direct", ["tested", "called", "right_quantity"]].tolist() == [2, 2, 1]
    assert score_df.loc["direct", "share_right"] == 0.5
    assert score_df.loc["null", ["genes", "tested", "called"]].tolist() == [2, 1, 1]
    assert score_df.loc["marker", "share_called"] == 0
    assert score_df.loc["covariate", "genes"] == 0
    assert np.isnan(score_df.loc["null", "right_quantity"])


def test_perfect_calls_score_1_and_permuted_truth_does_not(planted):
    kinds = ["direct"] * 20 + ["marker"] * 20 + ["covariate"] * 5 + ["null"] * 55
    truth = truth_of(planted, kinds, [FIRST] * 20 + [""] * 80)
    found_df = pd.DataFrame({"q": np.where(np.array(kinds) == "direct", 0, 1), "feature": "0_0"})
    found_df.index = truth.genes_df.index
    accuracy = {"level": "slide", "split": "test", "accuracy": 0.9, "correct": 9, "n": 10, "n_classes": 8}
    permuted = truth._replace(genes_df=scorecard.permute_labels(truth.genes_df))
    good, bad = (
        scorecard.summary(pd.DataFrame([accuracy]), {"links": scorecard.score_genes(t, found_df, 0.05)})[
            "value"
        ]
        for t in (truth, permuted)
    )
    assert good["test slide accuracy"] == 0.9
    assert good["direct genes found (recall)"] == good["... by a feature of the right quantity"] == 1
    assert good["false discovery proportion"] == 0
    assert bad["direct genes found (recall)"] < 0.5 < bad["false discovery proportion"]


def planted_pairs(planted):
    """Ten direct genes of each of two quantities, 20 markers, 20 nulls, with each of the three features."""
    kinds = ["direct"] * 20 + ["marker"] * 20 + ["null"] * 20
    truth = truth_of(planted, kinds, [FIRST] * 10 + [SECOND] * 10 + [""] * 40)
    return truth, scorecard.every_pair(truth.genes_df.index, truth.r_df.index)


def test_every_pair_is_thinned_by_feature(monkeypatch):
    pairs_df = scorecard.every_pair(["a", "b"], ["0_0", "0_1", "0_2"])
    assert pairs_df.to_numpy().tolist()[:4] == [["a", "0_0"], ["a", "0_1"], ["a", "0_2"], ["b", "0_0"]]
    monkeypatch.setattr(scorecard, "MOST_PAIRS", 500)
    assert len(scorecard.every_pair(["a", "b"], [f"0_{i}" for i in range(1000)])) == 500


def test_kind_of_a_pair_depends_on_the_genes_own_quantity(planted):
    truth, pairs_df = planted_pairs(planted)
    by_pair = scorecard.pair_kinds(pairs_df, truth).set_axis(pd.MultiIndex.from_frame(pairs_df))
    assert abs(truth.r_df.loc["0_1", FIRST]) < CHANCE, "must not be linked by chance"
    assert by_pair["g0", "0_0"] == "direct"
    assert by_pair["g0", "0_1"] == "unrelated", "follows the other quantity"
    assert by_pair["g10", "0_1"] == "direct", "of either sign"
    assert by_pair["g0", "0_2"] == "unrelated", "constant within tissues"
    assert by_pair["g25", "0_0"] == "marker"
    weak = truth._replace(r_df=truth.r_df.assign(**{FIRST: [0.49, 0.2, 0.19]}))
    assert scorecard.pair_kinds(pairs_df, weak).head(3).tolist() == ["weak", "weak", "unrelated"]
    with pytest.raises(KeyError, match="1 genes of the pairs are not in the truth, first 'g0'"):
        scorecard.pair_kinds(pairs_df, truth._replace(genes_df=truth.genes_df.drop("g0")))


def test_precision_and_recall_of_pairs(planted):
    truth, pairs_df = planted_pairs(planted)
    kinds = scorecard.pair_kinds(pairs_df, truth)
    direct = kinds == "direct"
    called_df = pd.DataFrame({"perfect": direct, "half": direct & (pairs_df.index % 2 == 0)})
    called_df["everything"] = True
    score_df = scorecard.score_pairs(kinds, called_df)
    assert score_df["pairs"].sum() == 180
    both = ["precision", "recall"]
    found_df = scorecard.precision_recall(score_df)
    assert found_df.loc["perfect", both].tolist() == [1, 1]
    assert found_df.loc["half", both].tolist() == [1, 0.5]
    assert found_df.loc["everything", both].tolist() == [20 / 180, 1]
    weak = scorecard.precision_recall(scorecard.score_pairs(kinds.mask(direct, "weak"), called_df))
    assert weak.loc["perfect", ["called", "direct", "weak"]].tolist() == [0, 0, 20], "neither right nor wrong"


def test_calls_are_scored_over_all_pairs_marker_pairs_and_permuted_truth(planted):
    truth, pairs_df = planted_pairs(planted)
    direct = scorecard.pair_kinds(pairs_df, truth) == "direct"
    q_df = pd.concat([pairs_df[direct], pairs_df], ignore_index=True)
    q_df["q_covariates"] = q_df["q_within_tissue"] = np.where(pd.concat([direct[direct], direct]), 0.05, 1)
    scores = scorecard.score_calls(q_df, int(direct.sum()), truth, 0.05)
    genes_df = scorecard.score_genes(truth, pd.DataFrame({"q": [], "feature": []}), 0.05)
    both = {scorecard.LINKS: genes_df, scorecard.UNADJUSTED: genes_df}
    card_df = scorecard.summary(None, both, scores)
    for test in ("links", "covariates not taken out", "links, marker pairs"):
        assert card_df.loc[[f"pair precision, {test}", f"pair recall, {test}"], "value"].tolist() == [1, 1]
    assert card_df.loc["pair precision, links, permuted truth", "value"] < 0.6
    assert card_df.loc["pair recall, links, permuted truth", "value"] < 0.6
    assert "null genes called (false positives), covariates not taken out" in card_df.index
    alone = scorecard.score_calls(q_df.drop(columns="q_covariates"), int(direct.sum()), truth, 0.05)
    assert alone[0].columns.tolist() == ["pairs", "links"]


def test_listed_links_are_counted_by_gene_and_clump(planted):
    truth, _ = planted_pairs(planted)
    rows = [("g0", "0_0", True), ("g0", "0_1", False), ("g25", "0_0", True)]
    links_df = pd.DataFrame(rows, columns=["gene", "feature", "clump_lead"]).astype({"gene": "category"})
    genes_df = pd.DataFrame({"q": [0.01, 0.02, 0.03, 0.5]}, index=["g0", "g25", "g1", "g2"])
    lines = scorecard.score_links(links_df, genes_df, 3, truth, 0.05)
    assert lines["links listed"] == (0.25, "3 of 12 pairs tested")
    assert lines["genes found that have a listed link"] == (2 / 3, "2 of 3")
    assert lines["precision of clumps"][0] == 0.5, "one direct pair, one of a marker gene"


def test_what_a_run_must_reach():
    names = ["pair precision, links", "pair recall, links"]
    card_df = pd.DataFrame({"value": [0.95, 0.75]}, index=names)
    assert scorecard.missed(card_df, 0.9, 0.7) == []
    assert scorecard.missed(card_df, 0.9, 0.8) == [f"{names[1]} is 75.0%; at least 80% is required"]
    assert len(scorecard.missed(card_df.iloc[:0], 0.9, 0.8)) == 2, "an absent line misses its target"
    assert scorecard.missed(card_df.iloc[:0], 0, 0) == []


def test_chance_r_is_reached_by_5_percent_of_noise():
    rng = np.random.default_rng(0)
    tissues = pd.Series(np.repeat(list("abcd"), 25), index=[f"s{i}" for i in range(100)])
    a_df, b_df = (pd.DataFrame(rng.normal(size=(60, 100)), columns=tissues.index) for _ in range(2))
    r = scorecard.within_tissue_r(a_df, b_df, tissues).abs().to_numpy()
    assert abs((r >= scorecard.chance_r(100, 4)).mean() - 0.05) < 0.01
