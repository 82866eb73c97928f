"""Files for AnnData: the encodings as documented, seen with h5py. anndata itself: tests/test_anndata.py."""

import h5py
import numpy as np
import pandas as pd
import pytest

from lib.cohort import h5ad_reading, h5ad_writing
from lib.cohort.h5ad_writing import Annotated
from lib.errors import InputError

OBS_DF = pd.DataFrame(
    {
        "tissue": ["liver", "lung", "liver"],
        "donor": ["x", "y", "z"],
        "batch": ["1", None, "2"],
        "rin": [7.1, np.nan, 6.0],
        "n": [1, 2, 3],
        "kept": [True, False, True],
        "age": pd.array([40, None, 50], dtype="Int64"),
        "smoker": pd.array([True, None, False], dtype="boolean"),
        "grade": pd.Categorical(["low", "high", "low"], ["low", "high"], ordered=True),
        "CD4/CD8": [0.1, 0.2, 0.3],
    },
    index=pd.Index(["a", "b", "c"], name="sample_id"),
)
VAR_DF = pd.DataFrame(index=["g1", "g2"])
X = np.arange(6, dtype=np.float32).reshape(3, 2)
UNS = {
    "name": "mine",
    "n": 3,
    "share": 0.5,
    "yes": True,
    "deep": {"er": {"text": "é"}},
    "list": np.array([1]),
}


def written(path, **changes):
    data = Annotated(X, OBS_DF, VAR_DF, {"log2": X + 1}, {"spatial": np.ones((3, 2))}, UNS)
    h5ad_writing.write(path, data._replace(**changes))
    return path


def test_every_element_states_its_encoding(tmp_path):
    kinds = {}
    with h5py.File(written(tmp_path / "x.h5ad")) as file:
        file.visititems(lambda name, element: kinds.update({name: dict(element.attrs)}))
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        assert file["obs"].attrs["column-order"].tolist() == [*OBS_DF.columns[:-1], "CD4_CD8"]
        assert file["obs"].attrs["_index"] == "sample_id"
        assert file["obs/age/mask"][()].tolist() == [False, True, False]
        assert file["obs/batch/codes"][()].tolist() == [0, -1, 1]
    stated = {name: (of["encoding-type"], of["encoding-version"]) for name, of in kinds.items()}
    expected = {
        "X": ("array", "0.2.0"), "layers/log2": ("array", "0.2.0"), "obsm/spatial": ("array", "0.2.0"),
        "obs": ("dataframe", "0.2.0"), "obs/sample_id": ("string-array", "0.2.0"),
        "obs/tissue": ("categorical", "0.2.0"), "obs/donor": ("string-array", "0.2.0"),
        "obs/batch": ("categorical", "0.2.0"), "obs/rin": ("array", "0.2.0"), "obs/kept": ("array", "0.2.0"),
        "obs/age": ("nullable-integer", "0.1.0"), "obs/smoker": ("nullable-boolean", "0.1.0"),
        "obs/CD4_CD8": ("array", "0.2.0"), "obsp": ("dict", "0.1.0"), "uns/deep/er": ("dict", "0.1.0"),
        "uns/name": ("string", "0.2.0"), "uns/n": ("numeric-scalar", "0.2.0"),
        "uns/yes": ("numeric-scalar", "0.2.0"),
    }  # fmt: skip
    assert {name: stated[name] for name in expected} == expected
    assert kinds["obs/grade"]["ordered"]
    assert not kinds["obs/tissue"]["ordered"]


def test_what_is_written_is_read(tmp_path):
    with h5ad_reading.opened(written(tmp_path / "x.h5ad")) as file:
        obs_df = h5ad_reading.read_frame(file["obs"])
        np.testing.assert_array_equal(h5ad_reading.read_matrix(file["X"], (3, 2)), X)
        assert h5ad_reading.read_scalar(file["uns/deep/er"], "text") == "é"
        assert h5ad_reading.read_frame(file["var"]).shape == (2, 0)
    for name in ("rin", "n", "kept", "age", "smoker"):
        pd.testing.assert_series_equal(obs_df[name], OBS_DF[name], check_index=False, check_dtype=True)
    assert obs_df["grade"].cat.ordered
    assert obs_df["batch"].isna().tolist() == [False, True, False]
    assert obs_df.index.tolist() == ["a", "b", "c"]


def test_a_file_is_the_same_bytes_every_time(tmp_path):
    assert written(tmp_path / "x.h5ad").read_bytes() == written(tmp_path / "y.h5ad").read_bytes()


def test_names_that_occur_twice_are_refused(tmp_path):
    path = tmp_path / "x.h5ad"
    for changes, said in (
        ({"obs_df": OBS_DF.set_axis(["a", "b", "a"])}, "duplicated obs name 'a'"),
        ({"var_df": VAR_DF.set_axis(["g", "g"])}, "duplicated var name 'g'"),
        ({"obs_df": OBS_DF.assign(CD4_CD8=1)}, "duplicated column of obs 'CD4_CD8'"),
        ({"obs_df": OBS_DF.assign(sample_id=1)}, "duplicated column of obs 'sample_id'"),
    ):
        with pytest.raises(InputError, match=said):
            written(path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_parameters_become_values_that_uns_can_hold():
    flat = h5ad_writing.flat({"a": 1, "b": True, "c": "x", "d": None, "e": [1, 2], "f": {"g": "h"}})
    assert flat == {"a": 1, "b": True, "c": "x", "d": "null", "e": "[1, 2]", "f": '{"g": "h"}'}
