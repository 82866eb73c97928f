"""Splits: each donor in one set, fractions close to those asked for, published lists."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_factory import table, written

from lib.cohort.samples import SPLITS
from lib.cohort.splits import assign_splits
from lib.cohort.summary import split_report


def organs(n_donors=60, n_tissues=8, seed=0):
    rng = np.random.default_rng(seed)
    pairs = [(d, t) for d in range(n_donors) for t in range(n_tissues) if rng.random() < 0.5]
    rows = [(f"d{d}-{t}", f"d{d}-{t}", f"d{d}", f"tissue{t}") for d, t in pairs]
    return pd.DataFrame(rows, columns=["sample_id", "slide_id", "donor", "tissue"])


def test_donors_are_in_one_set_and_tissues_are_close_to_60_20_20():
    samples_df = organs()
    samples_df["split"] = assign_splits(samples_df)
    assert (samples_df.groupby("donor")["split"].nunique() == 1).all()
    report_df = split_report(samples_df)
    assert report_df["fraction_train"].between(0.54, 0.66).all()
    assert report_df["fraction_test"].between(0.14, 0.26).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 25), st.integers(1, 6), st.sampled_from(["donor", "slide"]))
def test_splits_hold_for_any_cohort(seed, n_donors, n_tissues, split_by):
    samples_df = organs(n_donors, n_tissues, seed)
    column = {"donor": "donor", "slide": "slide_id"}[split_by]
    if samples_df[column].nunique() < 3:
        return
    split = assign_splits(samples_df, split_by=split_by, seed=seed)
    assert set(split) == set(SPLITS)
    assert (split.groupby(samples_df[column]).nunique() == 1).all()


def test_splits_do_not_depend_on_the_order_of_rows():
    samples_df = organs()
    one = assign_splits(samples_df, seed=3)
    shuffled_df = samples_df.sample(frac=1, random_state=1)
    assert assign_splits(shuffled_df, seed=3).sort_index().equals(one)
    assert not assign_splits(samples_df, seed=4).equals(one)


@pytest.mark.parametrize(
    ("n", "expected"), [(3, [1, 1, 1]), (5, [3, 1, 1]), (10, [6, 2, 2]), (101, [61, 20, 20])]
)
def test_slide_split_is_60_20_20_within_a_tissue(n, expected):
    samples_df = table(n, donor=["same"] * n)
    counts = assign_splits(samples_df, split_by="slide").value_counts()
    assert counts.reindex(list(SPLITS)).tolist() == expected


def test_tissue_with_one_slide_goes_to_train_with_a_remark():
    samples_df = pd.concat([organs(), table(1, tissue=["Rare"])], ignore_index=True)
    for split_by in ("donor", "slide"):
        samples_df["split"] = assign_splits(samples_df, split_by=split_by)
        assert samples_df.set_index("tissue").loc["Rare", "split"] == "train"
        assert split_report(samples_df).loc["Rare", "remark"] == "one slide: none in validation, test"
        samples_df = samples_df.drop(columns="split")


def test_samples_of_one_slide_stay_together():
    samples_df = table(60, slide_id=[f"section{i // 10}" for i in range(60)], donor=["d"] * 60)
    split = assign_splits(samples_df, split_by="slide")
    assert (split.groupby(samples_df["slide_id"]).nunique() == 1).all()
    assert set(split) == set(SPLITS)


def test_every_set_is_filled_even_if_each_slide_has_its_own_tissue():
    samples_df = table(4, tissue=list("abcd"))
    assert set(assign_splits(samples_df, split_by="slide")) == set(SPLITS)


def test_fraction_zero_leaves_a_set_empty():
    split = assign_splits(organs(), fractions=(0.75, 0, 0.25))
    assert set(split) == {"train", "test"}
    assert 0.7 < (split == "train").mean() < 0.8


def test_split_column_wins_over_a_split_file(tmp_path):
    given_names = ["Training", "valid", "TEST", "val"]
    samples_df = table(4, split=given_names)
    split = assign_splits(samples_df, split_file=tmp_path / "never_read.csv")
    assert split.tolist() == ["train", "validation", "test", "validation"]


def test_bad_split_parameters():
    with pytest.raises(ValueError, match="sum to 1"):
        assign_splits(organs(), fractions=(0.6, 0.2, 0.3))
    with pytest.raises(ValueError, match="choose one of donor, slide, sample"):
        assign_splits(organs(), split_by="patient")
    with pytest.raises(ValueError, match=r"1 donor\(s\) are too few for 3 sets"):
        assign_splits(table(9, donor=["same"] * 9))


@pytest.mark.parametrize("head", ["sample,tissue,dataset\n", ""])
def test_split_file(tmp_path, head):
    lines = "s0,Liver,Training\ns1,Liver,valid\ns2,Liver,test\ns3,Liver,val\n"
    path = written(tmp_path, head + lines, "split.csv")
    split = assign_splits(table(4), split_file=path)
    assert split.tolist() == ["train", "validation", "test", "validation"]


def test_split_file_with_gtex_endings(tmp_path):
    path = written(tmp_path, "GTEX-1A-0525\ttrain\nGTEX-1D-0826\ttest\nGTEX-1D-0825\ttrain\n", "split.tsv")
    samples_df = table(3, sample_id=["GTEX-1A-0526", "GTEX-1D-0826", "GTEX-1D-0825"])
    split = assign_splits(samples_df, split_file=path, rule="gtex")
    assert split.tolist() == ["train", "test", "train"]


def test_split_file_with_one_sample_in_two_sets(tmp_path):
    samples_df = table(2, sample_id=["GTEX-1A-0526", "GTEX-1D-0826"])
    lines = "GTEX-1A-0526-SM-1,train\nGTEX-1A-0526-SM-2,{}\nGTEX-1D-0826-SM-3,test\n"
    torn = written(tmp_path, lines.format("test"), "torn.csv")
    with pytest.raises(ValueError, match=r"1 sample\(s\) in two sets.*0526: .*SM-1 train, .*SM-2 test"):
        assign_splits(samples_df, split_file=torn, rule="gtex")
    whole = written(tmp_path, lines.format("train"), "whole.csv")
    assert assign_splits(samples_df, split_file=whole, rule="gtex").tolist() == ["train", "test"]


@pytest.mark.parametrize(
    ("n", "more", "said"),
    [
        (4, "x1,test\nx2,test\n", r"2 of 6 ids are not in the samples table: 'x1', 'x2'"),
        (5, "", r"no set for 1 of 5 samples: 's4'"),
        (4, "s4,holdout\n", "unknown set name 'holdout'"),
        (4, "s0,test\n", "in two sets: 's0'"),
    ],
)
def test_split_file_that_does_not_fit(tmp_path, n, more, said):
    path = written(tmp_path, f"s0,train\ns1,test\ns2,val\ns3,train\n{more}", "split.csv")
    with pytest.raises(ValueError, match=said):
        assign_splits(table(n), split_file=path)
    if "x1" in more:
        assert len(assign_splits(table(n), split_file=path, unknown="ignore")) == n


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("q,train\n", "shares no id"),
        ("s0,1\ns1,2\n", "no column beside the ids holds set names"),
        ("s0\ns1\n", "no column beside the ids holds set names"),
        ("", "the file is empty"),
    ],
)
def test_not_a_split_file(tmp_path, lines, said):
    with pytest.raises(ValueError, match=said):
        assign_splits(table(2), split_file=written(tmp_path, lines, "split.csv"))
    with pytest.raises(FileNotFoundError, match="split_file"):
        assign_splits(table(2), split_file=tmp_path / "absent.csv")
