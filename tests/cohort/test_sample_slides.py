"""Samples of several slides: how they are written, what is refused, and what they lack."""

import numpy as np
import pandas as pd
import pytest
from table_factory import table, written

from lib.cohort import sample_slides, samples, summary
from lib.cohort.splits import assign_splits
from lib.errors import InputError

POOLED = table(3, slide_id=["slide0", "a;b", "slide2"])


@pytest.mark.parametrize(
    "text",
    [
        "s0,slide0,d0,Liver,3\ns1,a;b,d1,Liver,4\ns2,slide2,d2,Liver,5\n",
        "s0,slide0,d0,Liver,3\ns1, a ; b ,d1,Liver,4\ns2,slide2,d2,Liver,5\n",
        "s0,slide0,d0,Liver,3\ns1,a,d1,Liver,4\ns2,slide2,d2,Liver,5\ns1,b,d1,Liver,4\n",
    ],
)
def test_one_row_or_a_row_for_each_slide(tmp_path, text):
    samples_df = samples.read_samples(written(tmp_path, "sample_id,slide_id,donor,tissue,age\n" + text))
    pd.testing.assert_frame_equal(
        samples_df, samples.check_samples(POOLED.assign(age=[3, 4, 5])), check_dtype=False
    )
    assert sample_slides.slide_ids(samples_df) == ["slide0", "a", "b", "slide2"]


def test_a_table_with_semicolons_between_its_columns(tmp_path):
    text = 'sample_id;slide_id;donor;tissue\ns0;slide0;d0;Liver\ns1;"a;b";d1;Liver\ns2;slide2;d2;Liver\n'
    samples_df = samples.read_samples(written(tmp_path, text))
    assert samples_df["slide_id"].tolist() == POOLED["slide_id"].tolist()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"sample_id": ["s", "s", "t"], "donor": "d", "tissue": ["Liver", "Lung", "Lung"]},
            r"duplicated sample_id 's'; keep one row .*differ in tissue; tissue of s: 'Liver', 'Lung'",
        ),
        (
            {"sample_id": ["s", "s", "t"], "donor": "d", "mpp": [0.25, 0.5, 0.5]},
            r"duplicated sample_id 's'.*differ in mpp",
        ),
        (
            {"sample_id": ["s", "s", "t"], "donor": "d", "split": ["train", "test", "test"]},
            r"duplicated sample_id 's'.*differ in split; split of s: 'train', 'test'",
        ),
        ({"sample_id": ["s", "s", "t"], "donor": "d", "slide_id": "a"}, "sample 's' lists slide 'a' twice"),
        ({"slide_id": ["a;a", "b", "c"]}, "sample 's0' lists slide 'a' twice"),
        ({"slide_id": ["a;b", "b;c", "d"]}, "slide 'b' is listed for samples 's0', 's1'"),
        ({"slide_id": ["a;b", "b", "c"]}, "slide 'b' is listed for samples 's0', 's1'"),
        ({"slide_id": ["a;s2", "b", "c"]}, "slide 's2' of sample 's0' has the name of another sample"),
        ({"slide_id": ["a;", "b", "c"]}, r"slide_id 'a;' \(data row 1\) is empty"),
        ({"slide_id": ["a;../b", "c", "d"]}, "path separator"),
        (
            {"slide_id": ["a;b", "c", "d"], "l0_x": [0, 0, 0], "l0_y": 0, "l0_width": 9, "l0_height": 9},
            r"sample 's0' has several slides and a region \(l0_x",
        ),
    ],
)
def test_what_cannot_be_pooled_is_refused(columns, said):
    with pytest.raises(InputError, match=said):
        samples.check_samples(table(3, **columns))


def test_a_slide_may_still_hold_several_samples():
    regions = {"l0_x": [0, 50, 100], "l0_y": 0, "l0_width": 9, "l0_height": 9}
    assert len(samples.check_samples(table(3, slide_id="a", **regions))) == 3


def test_by_slide():
    rows_df = sample_slides.by_slide(samples.check_samples(POOLED))
    assert rows_df["slide_id"].tolist() == ["slide0", "a", "b", "slide2"]
    assert rows_df["sample_id"].tolist() == ["s0", "s1", "s1", "s2"]
    assert rows_df[sample_slides.TILES_NAMED].tolist() == ["s0", "a", "b", "s2"]
    assert not sample_slides.pools_slides(table(3))
    assert sample_slides.pools_slides(POOLED)


def test_slides_are_counted_once_each():
    table_df = summary.slides_per_tissue(POOLED.assign(split=["train", "validation", "test"]))
    assert table_df[["n_samples", "n_slides"]].to_numpy()[-1].tolist() == [3, 4], "the total"
    assert table_df.loc["Liver", "n_slides"] == 4


def test_what_samples_lack():
    lacking_df = sample_slides.lacking(table(4, slide_id=["a;b", "c", "d;e", "f;g;h"]), ["b", "d", "e"])
    assert lacking_df.index.tolist() == ["s0", "s3"], "a sample of one slide lacks nothing in part"
    assert lacking_df["lacking"].tolist() == ["a", "f, g, h"]
    assert lacking_df["n_lacking"].tolist() == [1, 3]


@pytest.mark.parametrize("split_by", ["donor", "slide", "sample"])
def test_slides_of_a_sample_are_in_one_set(split_by):
    cells = [f"a{i};b{i}" if i % 2 else f"a{i}" for i in range(40)]
    samples_df = samples.check_samples(table(40, slide_id=cells))
    sets = assign_splits(samples_df, fractions=(0.6, 0.2, 0.2), split_by=split_by, seed=0)
    assert len(set(sets)) == 3
    rows_df = sample_slides.by_slide(samples_df.assign(split=np.asarray(sets)))
    assert rows_df.groupby("sample_id")["split"].nunique().max() == 1
    assert not rows_df["slide_id"].duplicated().any()
