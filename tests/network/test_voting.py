"""Votes of tiles against a loop, ties, unknown tissues; the most misclassified slides."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from lib.network import accuracy, voting

CLASSES = ["Colon", "Liver", "Lung"]


def random_votes(seed, n_tiles=400, n_samples=40, n_classes=4, decimals=1):
    """Coarse probabilities, so that votes and even means tie."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.dirichlet(np.ones(n_classes) * 0.7, n_tiles), decimals)
    return scores, [f"s{number}" for number in rng.integers(0, n_samples, n_tiles)]


@pytest.mark.parametrize("seed", range(5))
def test_votes_equal_a_loop(seed):
    scores, samples = random_votes(seed)
    names = ["d", "a", "c", "b"]
    truth = dict.fromkeys(samples, names[seed % 4])
    votes_df = voting.slide_votes(scores, samples, names, truth)
    assert votes_df.index.tolist() == list(dict.fromkeys(samples))
    n_ties = 0
    for sample, row in votes_df.iterrows():
        mine = [scores[place] for place in range(len(samples)) if samples[place] == sample]
        counts = Counter(int(np.argmax(tile)) for tile in mine)
        means = [sum(tile[k] for tile in mine) / len(mine) for k in range(4)]
        most = max(counts.values())
        tied = [k for k in range(4) if counts[k] == most]
        n_ties += len(tied) > 1
        winner = max(tied, key=lambda k: (means[k], -k))
        assert row["predicted"] == names[winner]
        assert row["n_tiles"] == len(mine)
        assert row["vote_fraction"] == pytest.approx(most / len(mine))
        assert row["mean_softmax"] == pytest.approx(means[winner])
        assert row["truth_fraction"] == pytest.approx(counts[seed % 4] / len(mine))
        assert row["correct"] == (winner == seed % 4)
    assert n_ties > 0


def test_tied_votes_go_to_the_higher_mean_softmax():
    scores = np.array([[0.6, 0.4, 0.0], [0.0, 0.9, 0.1], [0.5, 0.0, 0.5], [0.0, 0.3, 0.7]])
    votes_df = voting.slide_votes(scores, ["x", "x", "y", "y"], CLASSES, {"x": "Colon", "y": "Lung"})
    assert votes_df["predicted"].tolist() == ["Liver", "Lung"]  # 1 : 1 each; means 0.3 to 0.65, 0.25 to 0.6
    assert votes_df["correct"].tolist() == [False, True]


def test_samples_of_an_unknown_tissue_are_kept_and_flagged():
    scores = np.array([[0.6, 0.4, 0.0], [0.0, 0.9, 0.1]])
    votes_df = voting.slide_votes(scores, ["x", "y"], CLASSES, {"x": "Skin", "y": "Liver"})
    assert votes_df["known"].tolist() == [False, True]
    assert votes_df["correct"].tolist() == [False, True]
    assert np.isnan(votes_df.loc["x", "truth_fraction"])
    assert votes_df.loc["x", "tissue"] == "Skin"
    frame = votes_df.assign(split="test", donor=["d", "e"])
    table = accuracy.accuracy_table({"slide": frame}, class_names=CLASSES)
    assert table.loc[0, ["n", "correct", "n_unknown"]].tolist() == [1, 1, 1]
    assert not len(voting.most_misclassified(votes_df))


def test_votes_without_truth():
    votes_df = voting.slide_votes(np.eye(3), ["x", "y", "z"], CLASSES)
    assert votes_df["tissue"].isna().all()
    assert not votes_df["known"].any()
    assert votes_df["predicted"].tolist() == CLASSES


def test_votes_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"shape \(3, 3\) do not fit 2 tiles"):
        voting.slide_votes(np.eye(3), ["x", "y"], CLASSES)
    with pytest.raises(ValueError, match="do not fit"):
        voting.slide_votes(np.zeros((0, 3)), [], CLASSES)
    with pytest.raises(ValueError, match="3 probabilities are not finite"):
        voting.slide_votes(np.vstack([np.eye(3), np.full(3, np.nan)]), list("wxyz"), CLASSES)
    with pytest.raises(ValueError, match=r"1 samples have no true tissue in the table, first \['z'\]"):
        voting.slide_votes(np.eye(3), ["x", "y", "z"], CLASSES, {"x": "Liver", "y": "Liver"})


def test_most_misclassified_over_two_networks():
    truth = dict.fromkeys("wxyz", "Liver") | {"u": "Skin"}
    tiles = {"w": [1, 1, 1], "x": [0, 0, 1], "y": [0, 0, 0], "z": [2, 2, 1], "u": [0, 0, 0]}
    samples = [sample for sample, classes in tiles.items() for _ in classes]
    scores = np.eye(3)[[place for classes in tiles.values() for place in classes]]
    first = voting.slide_votes(scores, samples, CLASSES, truth)
    wrong = voting.most_misclassified(first, 2)
    assert wrong.index.tolist() == ["y", "x"]  # y has no tile right; x and z one of three: by name
    assert wrong["predicted"].tolist() == ["Colon", "Colon"]
    assert wrong["truth_fraction"].tolist() == pytest.approx([0, 1 / 3])
    second = voting.slide_votes(np.eye(3)[[1, 1, 0, 2]], list("wxyz"), CLASSES, truth)
    both = voting.most_misclassified(pd.concat([first, second]))
    assert both.index.tolist() == ["y", "z", "x"]
    assert both["times_wrong"].tolist() == [2, 2, 1]
    assert both["times_judged"].tolist() == [2, 2, 2]
