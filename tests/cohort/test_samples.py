"""Samples table: what is read, what is refused."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_factory import table, written

from lib.cohort import samples


def test_ids_stay_text_and_covariates_become_numbers(tmp_path):
    text = "\ufeffsample_id,slide_id,donor,tissue,age,note\n007,1e5, D1 ,Liver,61,x\n008,2.0,D2,Lung,,7\n"
    path = written(tmp_path, text)
    samples_df = samples.read_samples(path)
    assert samples_df["sample_id"].tolist() == ["007", "008"]
    assert samples_df["slide_id"].tolist() == ["1e5", "2.0"]
    assert samples_df["donor"].tolist() == ["D1", "D2"]
    assert samples_df["age"].tolist()[0] == 61
    assert np.isnan(samples_df["age"].tolist()[1])
    assert samples_df["note"].tolist() == ["x", "7"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "parquet"])
def test_every_format_gives_the_same_table(tmp_path, suffix):
    samples_df, path = table(3, rin=[6.5, 7.0, 8.25]), tmp_path / f"samples.{suffix}"
    if suffix == "parquet":
        samples_df.to_parquet(path)
    else:
        samples_df.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    pd.testing.assert_frame_equal(
        samples.read_samples(path), samples.check_samples(samples_df), check_dtype=False
    )


def test_missing_column_names_the_nearest(tmp_path):
    path = written(tmp_path, "Sample,slide_id,donor,Tissues\na,b,c,d\n")
    said = r"'sample_id' \(nearest present: 'Sample'\).*nearest present: 'Tissues'"
    with pytest.raises(ValueError, match=said):
        samples.read_samples(path)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        *((bad, "path separator") for bad in ("a/b", "a\\b", "C:x")),
        *((bad, r"'\.\.'") for bad in ("..", "a..b")),
        *((bad, "control") for bad in ("a\x07b", "a\nb")),
        ("", "is empty"),
        ("x" * 201, "is 201 bytes long"),
        ("ж" * 129, "is 258 bytes long"),
    ],
)
def test_ids_that_cannot_be_file_names(bad, said):
    for column in ("sample_id", "slide_id"):
        samples_df = table(3)
        samples_df.loc[1, column] = bad
        with pytest.raises(ValueError, match=said) as caught:
            samples.check_samples(samples_df)
        assert column in str(caught.value)
    assert re.search(said, samples.id_problem(bad))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20))
def test_an_accepted_id_stays_inside_its_folder(text):
    if samples.id_problem(text):
        return
    assert (Path("/folder") / text).parent == Path("/folder")
    assert os.path.normpath(f"/folder/{text}").startswith("/folder/")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"tissue": ["Liver", "", "Lung", " "]}, r"no tissue.*'s1', 's3'"),
        ({"donor": ["d", "", "d", "d"]}, "no donor"),
        ({"mpp": ["0.5", "-1", "", "0.5"]}, "mpp must be positive.*'s1'"),
        ({"mpp": ["0.5", "half", "", "0.5"]}, "mpp is not a number.*'s1'"),
        ({"l0_x": [0, 0, 0, 0]}, "l0_y, l0_width, l0_height are missing"),
        (
            {"l0_x": [0, 0, 0, 0], "l0_y": 0, "l0_width": [9, 9, None, 9], "l0_height": 9},
            "incomplete region.*'s2'",
        ),
        ({"l0_x": [0, -1, 0, 0], "l0_y": 0, "l0_width": 9, "l0_height": 9}, "negative corner.*'s1'"),
        ({"l0_x": 0, "l0_y": 0, "l0_width": 0, "l0_height": 9}, "no area"),
        ({"split": ["train", "holdout", "test", "val"]}, "unknown set name 'holdout' in 1 row"),
        ({"split": ["train", "", "test", "val"]}, "some rows only.*'s1'"),
        ({"sample_id": [1.5, 2.0, 3.0, 4.0]}, "holds decimals"),
        ({"sample_id": ["a", "a", "b", "b"]}, "duplicated sample_id 'a', 'b'; keep"),
    ],
)
def test_bad_tables(columns, said):
    with pytest.raises(ValueError, match=said):
        samples.check_samples(table(4, **columns))


def test_other_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such samples table"):
        samples.read_samples(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="not a samples table; give"):
        samples.read_samples(written(tmp_path, "x", "samples.xlsx"))
    with pytest.raises(ValueError, match="empty"):
        samples.read_samples(written(tmp_path, ""))
    with pytest.raises(ValueError, match="no rows"):
        samples.read_samples(written(tmp_path, "sample_id,slide_id,donor,tissue\n"))
    with pytest.raises(ValueError, match="twice"):
        samples.check_samples(pd.concat([table(2), table(2)["tissue"]], axis=1))


def test_region_of_some_rows_only_is_allowed():
    region = {"l0_x": [0, None], "l0_y": [5, None], "l0_width": [9, None], "l0_height": [9, None]}
    samples_df = samples.check_samples(table(2, **region))
    assert samples_df.loc[0, list(samples.REGION)].tolist() == [0, 5, 9, 9]
    assert samples_df.loc[1, list(samples.REGION)].isna().all()


@pytest.mark.parametrize("word", ["NA", "n/a", "NaN", "NULL", "", ".", "None"])
def test_words_for_missing_values(tmp_path, word):
    """One such word in a column of numbers makes no categories; in ids of donors it is no donor."""
    text = "sample_id,slide_id,donor,tissue,age,sex\n" + "".join(
        f"s{k},s{k},d{k},Liver,{word if k == 3 else 40 + k},{word if k == 2 else 'f'}\n" for k in range(9)
    )
    samples_df = samples.read_samples(written(tmp_path, text))
    assert samples_df["age"].isna().tolist() == [k == 3 for k in range(9)]
    assert samples_df["age"].dtype == float
    assert samples_df["sex"].tolist() == ["" if k == 2 else "f" for k in range(9)]
    for column in ("donor", "tissue"):
        other_df = table(3, **{column: ["x", word, "y"]})
        with pytest.raises(ValueError, match=rf"no {column} \(empty, NA, ...\)"):
            samples.check_samples(other_df)
    assert samples.check_samples(table(2, sample_id=["NA", "b"]))["sample_id"].tolist() == ["NA", "b"]


def test_a_column_of_numbers_with_a_few_odd_cells_is_refused(tmp_path):
    ages = ["41", "42", "43", "44", "45", "46", "47", "48", "4l"]
    with pytest.raises(ValueError, match=r"'age' holds numbers, but 1 cells are not \('4l'\)"):
        samples.check_samples(table(9, age=ages))
    assert samples.check_samples(table(3, note=["x", "7", "8"]))["note"].tolist() == ["x", "7", "8"]


def test_codes_declared_as_categories_stay_text(tmp_path):
    text = "sample_id,slide_id,donor,tissue,batch\na,a,d,Liver,01\nb,b,e,Liver,2\n"
    path = written(tmp_path, text)
    assert samples.read_samples(path, ["batch"])["batch"].tolist() == ["01", "2"]
    assert samples.read_samples(path)["batch"].tolist() == [1, 2]
