"""Samples table, pairing with RNA and splits: planted truth, what users get wrong, the real GTEx tables."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lib
from lib import cohort

DATA = Path(os.environ.get("DATA_MIRROR") or Path(lib.__file__).parents[2] / "shared/data")
PORTAL, READS = DATA / "gtex/GTExPortal.csv", DATA / "gtex/GTEx_v8_gene_reads.acmg_59.gct.gz"


def table(n=4, **columns):
    base = {
        "sample_id": [f"s{i}" for i in range(n)],
        "slide_id": [f"slide{i}" for i in range(n)],
        "donor": [f"d{i}" for i in range(n)],
        "tissue": ["Liver"] * n,
    }
    return pd.DataFrame(base | columns)


def written(tmp_path, text, name="samples.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------ reading


def test_ids_stay_text_and_covariates_become_numbers(tmp_path):
    path = written(
        tmp_path,
        "\ufeffsample_id,slide_id,donor,tissue,age,note\n007,1e5, NA ,Liver,61,x\n008,2.0,D2,Lung,,7\n",
    )
    samples_df = cohort.read_samples(path)
    assert samples_df["sample_id"].tolist() == ["007", "008"]
    assert samples_df["slide_id"].tolist() == ["1e5", "2.0"]
    assert samples_df["donor"].tolist() == ["NA", "D2"]
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
        cohort.read_samples(path), cohort.check_samples(samples_df), check_dtype=False
    )


def test_missing_column_names_the_nearest(tmp_path):
    path = written(tmp_path, "Sample,slide_id,donor,Tissues\na,b,c,d\n")
    with pytest.raises(
        ValueError, match=r"'sample_id' \(nearest present: 'Sample'\).*nearest present: 'Tissues'"
    ):
        cohort.read_samples(path)


def test_duplicated_ids_are_counted():
    ids = ["a", "a", "b", "b", "c", "c", "d", "d", "e"]
    with pytest.raises(ValueError, match=r"duplicated sample_id 'a', 'b', 'c' \(4 in all\)"):
        cohort.check_samples(table(9, sample_id=ids))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("a/b", "path separator"),
        ("a\\b", "path separator"),
        ("C:x", "path separator"),
        ("..", r"'\.\.'"),
        ("a..b", r"'\.\.'"),
        ("a\x07b", "control"),
        ("a\nb", "control"),
        ("", "is empty"),
        ("x" * 151, "longer"),
    ],
)
def test_ids_that_cannot_be_file_names(bad, said):
    for column in ("sample_id", "slide_id"):
        samples_df = table(3)
        samples_df.loc[1, column] = bad
        with pytest.raises(ValueError, match=said) as caught:
            cohort.check_samples(samples_df)
        assert column in str(caught.value)
    with pytest.raises(ValueError, match=said):
        cohort.check_id(bad)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20))
def test_an_accepted_id_stays_inside_its_folder(text):
    try:
        cohort.check_id(text)
    except ValueError:
        return
    assert (Path("/folder") / text).parent == Path("/folder")
    assert os.path.normpath(f"/folder/{text}").startswith("/folder/")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"tissue": ["Liver", "", "Lung", " "]}, r"empty tissue.*'s1', 's3'"),
        ({"donor": ["d", "", "d", "d"]}, "empty donor"),
        ({"mpp": ["0.5", "-1", "", "0.5"]}, "mpp must be positive.*'s1'"),
        ({"mpp": ["0.5", "half", "", "0.5"]}, "mpp is not a number.*'s1'"),
        ({"l0_x": [0, 0, 0, 0]}, "l0_y, l0_width, l0_height missing"),
        ({"l0_x": [0, 0, 0, 0], "l0_y": 0, "l0_width": [9, 9, None, 9], "l0_height": 9}, "half-given.*'s2'"),
        ({"l0_x": [0, -1, 0, 0], "l0_y": 0, "l0_width": 9, "l0_height": 9}, "negative corner.*'s1'"),
        ({"l0_x": 0, "l0_y": 0, "l0_width": 0, "l0_height": 9}, "no area"),
        ({"split": ["train", "holdout", "test", "val"]}, "unknown set name 'holdout' on 1 row"),
        ({"split": ["train", "", "test", "val"]}, "some rows only.*'s1'"),
        ({"sample_id": [1.5, 2.0, 3.0, 4.0]}, "holds decimals"),
    ],
)
def test_bad_tables(columns, said):
    with pytest.raises(ValueError, match=said):
        cohort.check_samples(table(4, **columns))


def test_other_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="No samples table"):
        cohort.read_samples(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="a samples table is"):
        cohort.read_samples(written(tmp_path, "x", "samples.xlsx"))
    with pytest.raises(ValueError, match="empty"):
        cohort.read_samples(written(tmp_path, ""))
    with pytest.raises(ValueError, match="no rows"):
        cohort.read_samples(written(tmp_path, "sample_id,slide_id,donor,tissue\n"))
    with pytest.raises(ValueError, match="twice"):
        cohort.check_samples(pd.concat([table(2), table(2)["tissue"]], axis=1))


def test_region_of_some_rows_only_is_allowed():
    region = {"l0_x": [0, None], "l0_y": [5, None], "l0_width": [9, None], "l0_height": [9, None]}
    samples_df = cohort.check_samples(table(2, **region))
    assert samples_df.loc[0, list(cohort.REGION)].tolist() == [0, 5, 9, 9]
    assert samples_df.loc[1, list(cohort.REGION)].isna().all()


# ------------------------------------------------------------------------------------------------ pairing


def test_gtex_pairing_step_by_step():
    ids = ["GTEX-1A-0526", "GTEX-1B-0525", "GTEX-1C-0326", "GTEX-1D-0825", "GTEX-1D-0826"]
    rna = [
        "GTEX-1A-0526-SM-1",
        "GTEX-1A-0526-SM-2",
        "GTEX-1B-0526-SM-3",
        "GTEX-1D-0826-SM-4",
        "GTEX-1C-0011-R11a-SM-5",
        "GTEX-9Z-0006-SM-6",
    ]
    pairing_df, counts_df = cohort.pair_rna(table(5, sample_id=ids), rna, "gtex")
    assert pairing_df.to_numpy().tolist() == [
        ["GTEX-1A-0526", "GTEX-1A-0526-SM-1"],
        ["GTEX-1A-0526", "GTEX-1A-0526-SM-2"],
        ["GTEX-1B-0525", "GTEX-1B-0526-SM-3"],
        ["GTEX-1D-0826", "GTEX-1D-0826-SM-4"],  # not to …0825, which also could be read as …0826
    ]
    assert counts_df["n"].tolist() == [5, 6, 1, 3, 1, 4, 2, 2]


def test_brain_rna_pairs_with_nothing():
    samples_df = table(2, sample_id=["GTEX-1C-0011", "GTEX-1A-0526"])
    pairing_df, _ = cohort.pair_rna(samples_df, ["GTEX-1C-0011-R11a-SM-5", "GTEX-1A-0526-SM-1"], "gtex")
    assert pairing_df["sample_id"].tolist() == ["GTEX-1A-0526"]


def test_pairing_refuses():
    with pytest.raises(
        ValueError, match=r"share no id.*'s0', 's1', 's2' \(4 in all\).*'x1', 'x2', 'x3' \(5 in all\)"
    ):
        cohort.pair_rna(table(4), ["x1", "x2", "x3", "x4", "x5"])
    with pytest.raises(ValueError, match="Duplicated RNA id 's0'"):
        cohort.pair_rna(table(4), ["s0", "s0"])
    with pytest.raises(ValueError, match="2 samples claim the same RNA"):
        cohort.pair_rna(table(2, sample_id=["G-1-0526", "G-1-0526-x"]), ["G-1-0526-SM-1"], "gtex")
    with pytest.raises(ValueError, match="'exact' or 'gtex'"):
        cohort.pair_rna(table(4), ["s0"], "fuzzy")


@pytest.mark.skipif(not (PORTAL.exists() and READS.exists()), reason=f"no GTEx tables in {DATA}")
def test_real_gtex_tables():
    portal_df = pd.read_csv(PORTAL, dtype=str, keep_default_na=False)
    samples_df = cohort.check_samples(
        pd.DataFrame(
            {
                "sample_id": portal_df["Tissue Sample ID"],
                "slide_id": portal_df["Tissue Sample ID"],
                "donor": portal_df["Subject ID"],
                "tissue": portal_df["Tissue"],
            }
        )
    )
    with gzip.open(READS, "rt") as file:
        rna = [next(file) for _ in range(3)][2].rstrip("\n").split("\t")[2:]
    pairing_df, counts_df = cohort.pair_rna(samples_df, rna, "gtex")
    n = counts_df.set_index("step")["n"]
    assert (n["samples"], n["RNA samples"], n["samples with RNA"]) == (25713, 17382, 13797)
    paired_df = samples_df[samples_df["sample_id"].isin(pairing_df["sample_id"])]
    paired_df = paired_df.assign(split=cohort.assign_splits(paired_df))
    overlap = cohort.donor_overlap(paired_df).to_numpy()
    assert (overlap[~np.eye(3, dtype=bool)] == 0).all()
    report_df = cohort.split_report(paired_df)
    large = report_df[report_df["n_samples"] >= 20]
    assert (large["fraction_train"] - 0.6).abs().max() < 0.05
    assert (large["fraction_test"] - 0.2).abs().max() < 0.05


# ------------------------------------------------------------------------------------------------- splits


def organs(n_donors=60, n_tissues=8, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        (f"d{d}-{t}", f"d{d}-{t}", f"d{d}", f"tissue{t}")
        for d in range(n_donors)
        for t in range(n_tissues)
        if rng.random() < 0.5
    ]
    return pd.DataFrame(rows, columns=["sample_id", "slide_id", "donor", "tissue"])


def test_donors_never_on_two_sides_and_tissues_stay_near_60_20_20():
    samples_df = organs()
    samples_df["split"] = cohort.assign_splits(samples_df)
    assert (samples_df.groupby("donor")["split"].nunique() == 1).all()
    report_df = cohort.split_report(samples_df)
    assert report_df["fraction_train"].between(0.54, 0.66).all()
    assert report_df["fraction_test"].between(0.14, 0.26).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 25), st.integers(1, 6), st.sampled_from(["donor", "slide"]))
def test_splits_hold_for_any_cohort(seed, n_donors, n_tissues, split_by):
    samples_df = organs(n_donors, n_tissues, seed)
    column = {"donor": "donor", "slide": "slide_id"}[split_by]
    if samples_df[column].nunique() < 3:
        return
    split = cohort.assign_splits(samples_df, split_by=split_by, seed=seed)
    assert set(split) == set(cohort.SPLITS)
    assert (split.groupby(samples_df[column]).nunique() == 1).all()


def test_deterministic_whatever_the_row_order():
    samples_df = organs()
    one = cohort.assign_splits(samples_df, seed=3)
    shuffled_df = samples_df.sample(frac=1, random_state=1)
    assert cohort.assign_splits(shuffled_df, seed=3).sort_index().equals(one)
    assert not cohort.assign_splits(samples_df, seed=4).equals(one)


@pytest.mark.parametrize(
    ("n", "expected"), [(3, [1, 1, 1]), (5, [3, 1, 1]), (10, [6, 2, 2]), (101, [61, 20, 20])]
)
def test_slide_split_is_60_20_20_within_a_tissue(n, expected):
    samples_df = table(n, donor=["same"] * n)
    counts = cohort.assign_splits(samples_df, split_by="slide").value_counts()
    assert counts.reindex(list(cohort.SPLITS)).tolist() == expected


def test_tissue_with_one_slide_goes_to_train_and_is_said():
    samples_df = pd.concat([organs(), table(1, tissue=["Rare"])], ignore_index=True)
    for split_by in ("donor", "slide"):
        samples_df["split"] = cohort.assign_splits(samples_df, split_by=split_by)
        assert samples_df.set_index("tissue").loc["Rare", "split"] == "train"
        assert cohort.split_report(samples_df).loc["Rare", "remark"] == "one slide: none in validation, test"
        samples_df = samples_df.drop(columns="split")


def test_samples_of_one_slide_stay_together():
    samples_df = table(60, slide_id=[f"section{i // 10}" for i in range(60)], donor=["d"] * 60)
    split = cohort.assign_splits(samples_df, split_by="slide")
    assert (split.groupby(samples_df["slide_id"]).nunique() == 1).all()
    assert set(split) == set(cohort.SPLITS)


def test_sets_are_filled_even_if_each_slide_has_its_own_tissue():
    samples_df = table(4, tissue=list("abcd"))
    assert set(cohort.assign_splits(samples_df, split_by="slide")) == set(cohort.SPLITS)


def test_fraction_zero_leaves_a_set_empty():
    split = cohort.assign_splits(organs(), fractions=(0.75, 0, 0.25))
    assert set(split) == {"train", "test"}
    assert 0.7 < (split == "train").mean() < 0.8


def test_column_wins_over_everything(tmp_path):
    given_names = ["Training", "valid", "TEST", "val"]
    samples_df = table(4, split=given_names)
    split = cohort.assign_splits(samples_df, split_file=tmp_path / "never_read.csv")
    assert split.tolist() == ["train", "validation", "test", "validation"]


def test_bad_split_parameters():
    with pytest.raises(ValueError, match="sum to 1"):
        cohort.assign_splits(organs(), fractions=(0.6, 0.2, 0.3))
    with pytest.raises(ValueError, match="choose one of donor, slide, sample"):
        cohort.assign_splits(organs(), split_by="patient")
    with pytest.raises(ValueError, match=r"1 donor\(s\) cannot fill 3 sets"):
        cohort.assign_splits(table(9, donor=["same"] * 9))


@pytest.mark.parametrize("head", ["sample,tissue,dataset\n", ""])
def test_split_file(tmp_path, head):
    path = written(
        tmp_path, head + "s0,Liver,Training\ns1,Liver,valid\ns2,Liver,test\ns3,Liver,val\n", "split.csv"
    )
    split = cohort.assign_splits(table(4), split_file=path)
    assert split.tolist() == ["train", "validation", "test", "validation"]


def test_split_file_with_gtex_endings(tmp_path):
    path = written(tmp_path, "GTEX-1A-0525\ttrain\nGTEX-1D-0826\ttest\nGTEX-1D-0825\ttrain\n", "split.tsv")
    samples_df = table(3, sample_id=["GTEX-1A-0526", "GTEX-1D-0826", "GTEX-1D-0825"])
    split = cohort.assign_splits(samples_df, split_file=path, rule="gtex")
    assert split.tolist() == ["train", "test", "train"]


def test_split_file_that_does_not_fit(tmp_path):
    lines = "s0,train\ns1,test\ns2,val\ns3,train\n"
    more = written(tmp_path, lines + "x1,test\nx2,test\n", "more.csv")
    with pytest.raises(ValueError, match=r"2 of 6 ids are not in the samples table: 'x1', 'x2'"):
        cohort.assign_splits(table(4), split_file=more)
    assert len(cohort.assign_splits(table(4), split_file=more, unknown="ignore")) == 4
    with pytest.raises(ValueError, match=r"no set for 1 of 5 samples.*'s4'"):
        cohort.assign_splits(table(5), split_file=written(tmp_path, lines, "few.csv"))
    with pytest.raises(ValueError, match="shares no id"):
        cohort.assign_splits(table(2), split_file=written(tmp_path, "q,train\n", "other.csv"))
    with pytest.raises(ValueError, match="unknown set name 'holdout'"):
        cohort.assign_splits(table(4), split_file=written(tmp_path, lines + "s4,holdout\n", "name.csv"))
    with pytest.raises(ValueError, match="in two sets: 's0'"):
        cohort.assign_splits(table(4), split_file=written(tmp_path, lines + "s0,test\n", "two.csv"))
    with pytest.raises(ValueError, match="no column holds set names"):
        cohort.assign_splits(table(4), split_file=written(tmp_path, "s0,1\ns1,2\n", "none.csv"))
    with pytest.raises(FileNotFoundError, match="split_file"):
        cohort.assign_splits(table(4), split_file=tmp_path / "absent.csv")


# ---------------------------------------------------------------------------------------------- overviews


def test_overviews():
    samples_df = table(
        4,
        slide_id=["a", "a", "b", "c"],
        donor=["x", "x", "y", "x"],
        tissue=["Liver", "Lung", "Lung", "Lung"],
        split=["train", "train", "validation", "test"],
    )
    tiles_df = pd.DataFrame({"sample_id": ["s0", "s0", "s1", "s3"]})
    counts_df = cohort.slides_per_tissue(samples_df, tiles_df)
    assert counts_df.loc["Lung"].tolist() == [3, 3, 2, 1, 1, 1, 2, 1, 0, 1]
    assert counts_df.loc["total"].tolist() == [4, 3, 2, 2, 1, 1, 4, 3, 0, 1]
    assert cohort.donor_overlap(samples_df).to_numpy().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert cohort.tissues_per_donor(samples_df).to_dict("index") == {
        "x": {"Lung": 2, "Liver": 1},
        "y": {"Lung": 1, "Liver": 0},
    }
