"""Feature tables computed elsewhere: checked against network and samples, and divided into sets."""

import numpy as np
import pandas as pd
import pytest

from lib.features import from_file
from lib.network import models


def test_a_feature_table_is_checked(tmp_path):
    names = models.feature_names("alexnet")
    values = np.arange(2.0 * len(names)).reshape(-1, 2)
    good_df = pd.DataFrame(values, index=names[::-1], columns=["a", "b"])
    good_df.to_csv(tmp_path / "f.csv")
    read_df = from_file.read_features(tmp_path / "f.csv", "alexnet")
    assert read_df.index.tolist() == names
    assert read_df.loc[names[-1]].tolist() == [0.0, 1.0]
    with pytest.raises(FileNotFoundError, match="features_file"):
        from_file.read_features(tmp_path / "none.csv", "alexnet")
    with pytest.raises(
        ValueError, match=r"not of vgg11: of its 6,976 features \d,\d+ are missing \(first \['"
    ):
        from_file.read_features(tmp_path / "f.csv", "vgg11")
    good_df.replace(3.0, np.nan).to_csv(tmp_path / "nan.csv")
    with pytest.raises(ValueError, match=f"'{names[-2]}' is missing or infinite in sample 'b' .1 such"):
        from_file.read_features(tmp_path / "nan.csv", "alexnet")
    good_df.assign(b="x").to_csv(tmp_path / "text.csv")
    with pytest.raises(ValueError, match=r"values are not numbers, first 'x' of feature .* in sample 'b'"):
        from_file.read_features(tmp_path / "text.csv", "alexnet")
    (tmp_path / "f.xlsx").touch()
    with pytest.raises(ValueError, match=r"\.parquet or \.csv"):
        from_file.read_features(tmp_path / "f.xlsx", "alexnet")


def test_features_by_set():
    features_df = pd.DataFrame(1.0, index=["0_0"], columns=["v2", "t1", "v1", "other"])
    samples_df = pd.DataFrame(
        {"sample_id": ["v1", "v2", "t1", "x"], "split": ["validation", "validation", "test", "train"]}
    )
    validation_df, test_df = from_file.by_set(features_df, samples_df)
    assert validation_df.columns.tolist() == ["v1", "v2"]
    assert test_df.columns.tolist() == ["t1"]
    both_df = features_df.assign(x=2.0)
    assert from_file.by_set(both_df, samples_df, ("train", "test"))[1].columns.tolist() == ["t1", "x"]
    with pytest.raises(ValueError, match=r"none of the 1 test samples \(first \['t1'\]\)"):
        from_file.by_set(features_df.drop(columns="t1"), samples_df)
