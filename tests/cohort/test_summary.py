"""Tables that describe a cohort."""

import pandas as pd
import pytest
from table_factory import table

from lib.cohort import summary


def test_slides_per_tissue_and_donor_overlap():
    samples_df = table(
        4,
        slide_id=["a", "a", "b", "c"],
        donor=["x", "x", "y", "x"],
        tissue=["Liver", "Lung", "Lung", "Lung"],
        split=["train", "train", "validation", "test"],
    )
    tiles_df = pd.DataFrame({"sample_id": ["s0", "s0", "s1", "s3"]})
    counts_df = summary.slides_per_tissue(samples_df, tiles_df)
    assert counts_df.loc["Lung"].tolist() == [3, 3, 2, 1, 1, 1, 2, 1, 0, 1]
    assert counts_df.loc["total"].tolist() == [4, 3, 2, 2, 1, 1, 4, 3, 0, 1]
    assert summary.donor_overlap(samples_df).to_numpy().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_count_steps():
    counts_df = pd.DataFrame({"step": ["samples", "paired"], "n": [4, 3]})
    assert summary.count_steps(counts_df)["n"].to_dict() == {"samples": 4, "paired": 3}
    earlier = [{"step": "portal", "n_left": 9, "n_dropped": 1, "note": "2 donors"}]
    steps_df = summary.count_steps(counts_df, earlier)
    assert steps_df.loc["portal"].tolist() == [9, 1, "2 donors"]
    assert steps_df.loc["paired"].tolist() == [3, 0, ""]


def test_left_out_adds_up():
    listed_df = table(5, tissue=["Liver", "Liver", "Lung", "Lung", "Skin"])
    earlier = [{"tissue": "Liver", "reason": "cap", "n": 7}, {"tissue": "Bladder", "reason": "cap", "n": 1}]
    left_df = summary.left_out(listed_df, listed_df.iloc[:3], earlier)
    assert left_df.loc["Liver"].to_dict() == {"known": 9, "cap": 7, summary.NO_RNA: 0, "kept": 2}
    assert left_df.loc["Skin"].to_dict() == {"known": 1, "cap": 0, summary.NO_RNA: 1, "kept": 0}
    assert left_df.loc["total"].to_dict() == {"known": 13, "cap": 8, summary.NO_RNA: 2, "kept": 3}
    assert list(summary.left_out(listed_df, listed_df)) == ["known", "kept"]


def test_covariates_are_checked_early():
    samples_df = table(4, rin=[6.0, 7.0, 8.0, 9.5], sex=["f", "m", "f", ""])
    report_df = summary.covariate_report(samples_df.head(3), ["rin", "sex"])
    assert report_df.loc["rin", ["kind", "lowest", "median", "highest"]].tolist() == ["number", 6, 7, 8]
    assert report_df.loc["sex", "categories"] == "f 2, m 1"
    assert summary.covariate_report(samples_df, []).empty
    coded_df = summary.covariate_report(table(4, batch=[1, 2, 3, 1]), ["batch"])
    assert "categorical_covariates" in coded_df.loc["batch", "categories"]
    with pytest.raises(ValueError, match=r"covariate 'sex' has no value in 1 of 4 samples: 's3'"):
        summary.covariate_report(samples_df, ["rin", "sex"])
    with pytest.raises(
        ValueError, match=r"covariates 'RIN' are not columns of the samples table; .* choose from sample_id"
    ):
        summary.covariate_report(samples_df, ["RIN"])


def test_slide_files_missing_and_unknown(tmp_path):
    for name in ("a.svs", "stranger.svs", "notes.txt", "b.svs.part"):
        (tmp_path / name).write_bytes(b"")
    files_df = summary.slide_files({"a": tmp_path / "a.svs", "b": tmp_path / "b.svs"})
    assert files_df["n"].tolist() == [2, 1, 1]
    assert files_df["examples"].tolist() == ["", "'b'", "'stranger.svs'"]
    fives = {f"GTEX-1{x}-0126": tmp_path / f"GTEX-1{x}-012{end}.svs" for x, end in ("A5", "B6", "C6")}
    for name in ("GTEX-1A-0125", "GTEX-1B-0125", "GTEX-1B-0126"):
        (tmp_path / f"{name}.svs").write_bytes(b"")
    files_df = summary.slide_files(fives).set_index("what")
    assert files_df["n"].tolist() == [3, 1, 1, 1, 2]
    assert files_df["examples"].tolist()[2:4] == ["'GTEX-1A-0125.svs'", "'GTEX-1B-0125.svs'"]
    lost = summary.slide_files({"a": tmp_path / "nowhere" / "a.svs"})
    assert lost["n"].tolist() == [1, 1, 0]
