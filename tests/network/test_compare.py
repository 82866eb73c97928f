"""Networks side by side: Table 1 computed, counts against loops written out, the order of the rows."""

import numpy as np
import pandas as pd
import pytest

from lib.config import ROOT
from lib.figures import network_plots
from lib.network import compare

PAPER = ROOT / "data" / "reference"


def test_table_1_equals_the_papers_for_all_thirteen():
    ours_df = compare.size_table()
    paper_df = pd.read_csv(PAPER / "paper_table1.csv")[["architecture", "n_features", "n_parameters"]]
    pd.testing.assert_frame_equal(ours_df, paper_df)


def test_other_numbers_of_classes_change_the_last_layer_alone():
    with_39, with_8 = (
        compare.size_table(["vgg16_avg1fc", "timm:resnet10t"], n).set_index("architecture") for n in (39, 8)
    )
    change = with_39["n_parameters"] - with_8["n_parameters"]
    assert change.tolist() == [31 * 513, 31 * 513]
    assert (with_39["n_features"] == with_8["n_features"]).all()


def accuracy(seed):
    rng = np.random.default_rng(seed)
    rows = [
        {"level": level, "split": split} for level in ("tile", "slide") for split in ("validation", "test")
    ]
    columns = ("accuracy", "low", "high", "macro_accuracy")
    return pd.DataFrame([row | dict(zip(columns, rng.random(4), strict=True)) for row in rows])


NAMES = [("vgg11", "shuffled"), ("timm:vit", "trained"), ("vgg11", "trained"), ("alexnet", "trained")]
ORDER = [("alexnet", "trained"), ("vgg11", "trained"), ("vgg11", "shuffled"), ("timm:vit", "trained")]


def test_accuracies_in_percent_in_the_order_of_table_1():
    frames = {name: accuracy(i) for i, name in enumerate(NAMES)}
    table_df = compare.accuracy_table(frames, "slide")
    assert list(table_df[compare.KEYS].itertuples(index=False, name=None)) == ORDER
    of_vgg = frames["vgg11", "trained"]
    test = of_vgg[(of_vgg["level"] == "slide") & (of_vgg["split"] == "test")].iloc[0]
    row = table_df.iloc[1]
    assert row["test_accuracy_percent"] == pytest.approx(100 * test["accuracy"])
    assert row["test_low_percent"] == pytest.approx(100 * test["low"])
    assert row["test_macro_percent"] == pytest.approx(100 * test["macro_accuracy"])


def test_pretrained_networks_stand_beside_their_architecture():
    names = [("vgg11", "trained"), ("alexnet", "untrained"), ("alexnet", "trained")]
    names[1:1] = [("alexnet (imagenet)", "as it is"), ("alexnet (imagenet)", "trained")]
    table_df = compare.accuracy_table({name: accuracy(0) for name in names}, "slide")
    assert list(table_df[compare.KEYS].itertuples(index=False, name=None)) == [
        *(("alexnet", "trained"), ("alexnet", "untrained")),
        *(("alexnet (imagenet)", "trained"), ("alexnet (imagenet)", "as it is"), ("vgg11", "trained")),
    ]
    table_df = table_df.assign(slide_test_percent=50.0, n_pairs=3, genes_with_a_link=2)
    points = network_plots.accuracy_against_pairs(table_df, 0.8, 10.0).axes[0].collections
    white = (1.0, 1.0, 1.0, 1.0)
    hollow = [tuple(c.get_facecolor()[0]) == white for c in points if len(c.get_offsets())]
    assert hollow == [False, True, False, False, False]


def test_a_set_without_known_samples_has_no_accuracy():
    frame = accuracy(0)
    table_df = compare.accuracy_table({("alexnet", "trained"): frame[frame["split"] == "test"]}, "tile")
    assert np.isnan(table_df.loc[0, "validation_accuracy_percent"])
    assert table_df.loc[0, "test_accuracy_percent"] > 0


def made_up_pairs(seed, n=400):
    rng = np.random.default_rng(seed)
    columns = {"gene": rng.choice(list("abcdefgh"), n), "feature": rng.choice(["0_1", "1_2", "3_4"], n)}
    pairs_df = pd.DataFrame(columns | {"tissue": rng.choice(["liver", "lung"], n)})
    return pairs_df.assign(r=rng.uniform(-1, 1, n), max_median_log2=rng.uniform(5, 12, n))


def test_pairs_equal_a_loop():
    frames = {name: made_up_pairs(i) for i, name in enumerate(NAMES)}
    table_df = compare.pair_table(frames, 0.8, 10.0)
    for row in table_df.itertuples():
        kept = [
            pair
            for pair in frames[row.architecture, row.network].itertuples()
            if pair.r >= 0.8 and pair.max_median_log2 >= 10
        ]
        assert row.n_pairs == len(kept) > 0
        for column, what in (("n_genes", "gene"), ("n_features", "feature"), ("n_tissues", "tissue")):
            assert getattr(row, column) == len({getattr(pair, what) for pair in kept})


def test_what_is_learned_counts_links_and_their_genes():
    links_df = pd.DataFrame({"gene": list("aab"), "clump_lead": [True, False, True]})
    links_df["gene"] = links_df["gene"].astype("category").cat.add_categories("c")
    validation = {"p_validation": [0.001, 0.2, 0.3], "q_validation": [0.003, 0.3, 0.3], "same_sign": 1.0}
    pairs_df, genes_df = pd.DataFrame({"r": [0.9] * 4}), pd.DataFrame({"q": [0.04, 0.04, 0.9]})
    raw_df = pd.DataFrame({"raw": [0.9, 0.91]}, index=["reproducibility_r", "reproducibility_r_fisher"])
    both_df = raw_df.assign(**{"within tissues": [0.3, 0.31]})
    networks = {("alexnet", "untrained"): compare.Learned(pairs_df, links_df.head(0), genes_df, raw_df)}
    networks["alexnet", "trained"] = compare.Learned(
        pairs_df, links_df.assign(**validation), genes_df, both_df
    )
    table_df = compare.learned_table(networks, 0.05)
    assert table_df["network"].tolist() == ["trained", "untrained"]
    columns = ["marker_pairs", "links", "links_of_clumps", "genes_tested", "genes_with_a_link"]
    assert table_df[columns].to_numpy().tolist() == [[4, 3, 2, 3, 2], [4, 0, 0, 3, 0]]
    assert table_df["links_replicated_percent"].tolist() == pytest.approx([50, np.nan], nan_ok=True)
    assert table_df["r_reproducibility_within"].tolist() == pytest.approx([0.3, np.nan], nan_ok=True)


def test_one_table_holds_each_network_once_with_its_own_numbers():
    frames = {name: accuracy(i) for i, name in enumerate(NAMES)}
    levels = {level: compare.accuracy_table(frames, level) for level in ("tile", "slide")}
    pairs_df = compare.pair_table({name: made_up_pairs(i) for i, name in enumerate(NAMES)}, 0.8, 10.0)
    learned_df = pairs_df[compare.KEYS].assign(genes_with_a_link=range(4))
    table_df = compare.one_table(levels, pairs_df, learned_df)
    assert list(table_df[compare.KEYS].itertuples(index=False, name=None)) == ORDER
    of_vgg = frames["vgg11", "shuffled"].set_index(["level", "split"])
    row = table_df.iloc[2]
    assert row["tile_test_percent"] == pytest.approx(100 * of_vgg.loc[("tile", "test"), "accuracy"])
    assert row["slide_validation_percent"] == pytest.approx(
        100 * of_vgg.loc[("slide", "validation"), "accuracy"]
    )
    assert row["slide_test_low_percent"] == pytest.approx(100 * of_vgg.loc[("slide", "test"), "low"])
    assert row["n_pairs"] == pairs_df.loc[2, "n_pairs"]
    assert row["genes_with_a_link"] == 2


def test_nothing_to_compare_is_said():
    with pytest.raises(ValueError, match="no network to compare"):
        compare.pair_table({}, 0.8, 10.0)


def test_picture_sets_null_networks_apart_and_stands_a_single_network_without_pairs():
    rows = [("alexnet", "trained", 80.0, 500, 40), ("alexnet", "untrained", 12.5, 0, 0)]
    columns = ["architecture", "network", "slide_test_percent", "n_pairs", "genes_with_a_link"]
    table_df = pd.DataFrame(rows, columns=columns)
    figure = network_plots.accuracy_against_pairs(table_df, 0.8, 10.0)
    points = [c for c in figure.axes[0].collections if len(c.get_offsets())]
    assert [tuple(c.get_offsets()[0]) for c in points] == [(80.0, 500), (12.5, 0)]
    white = (1.0, 1.0, 1.0, 1.0)
    assert [tuple(c.get_facecolor()[0]) == white for c in points] == [False, True]
    low, high = figure.axes[0].get_ylim()
    assert low < 0 < 500 < high
    alone = network_plots.accuracy_against_pairs(table_df[1:], 0.8, 10.0)
    assert len(alone.axes) == 2
