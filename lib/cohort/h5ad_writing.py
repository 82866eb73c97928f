"""Writing .h5ad files that anndata 0.8 and newer read: the counterpart of `lib.cohort.h5ad_reading`.

Text with repeated values becomes categories, as anndata itself writes it; missing text is a missing category.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from lib.cohort.h5ad_reading import ENCODINGS
from lib.cohort.table_checks import refuse_duplicates
from lib.whole_files import whole_file

TEXT = h5py.string_dtype()
PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}  # readable by every HDF5 library
MAPPINGS = ("layers", "obsm", "obsp", "uns", "varm", "varp")  # of a file; empty where nothing is in them


class Annotated(NamedTuple):
    """What a file holds: x float [n_obs, n_vars]; tables by name of observation and of variable; arrays of
    the shape of x (layers) and of one row for each observation (obsm); anything else (uns: numbers, truth
    values, text, and mappings of these).
    """

    x: np.ndarray
    obs_df: pd.DataFrame
    var_df: pd.DataFrame
    layers: Mapping[str, np.ndarray]
    obsm: Mapping[str, np.ndarray]
    uns: Mapping[str, Any]


def write(path: str | Path, data: Annotated) -> None:
    """Write the file completely or not at all.

    A slash in the name of a column, which HDF5 would take for a folder, becomes `_`.

    Raises InputError for names of observations, variables or columns that occur twice, and OutputError where
    the disk is full or cannot be written.
    """
    for frame_df, what in ((data.obs_df, "obs"), (data.var_df, "var")):
        refuse_duplicates((str(name) for name in frame_df.index), f"{what} name", str(path))
        refuse_duplicates(_fields(frame_df), f"column of {what}", str(path))
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        _tag(file, "anndata")
        _tag(file.create_dataset("X", data=data.x, **PACKED), "array")
        _write_frame(file, "obs", data.obs_df)
        _write_frame(file, "var", data.var_df)
        for name in MAPPINGS:
            _write_mapping(file, name, getattr(data, name, {}))


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as `uns` can hold them: numbers, truth values and text as they are, anything else as JSON."""
    simple = (bool, int, float, str)
    return {name: v if isinstance(v, simple) else json.dumps(v) for name, v in values.items()}


def _tag(element: Any, kind: str) -> None:
    element.attrs["encoding-type"], element.attrs["encoding-version"] = kind, ENCODINGS[kind]


def _write_mapping(parent: h5py.Group, name: str, values: Mapping[str, Any]) -> None:
    group = parent.create_group(name)
    _tag(group, "dict")
    for key, value in values.items():
        if isinstance(value, Mapping):
            _write_mapping(group, key, value)
        elif isinstance(value, np.ndarray):
            _write_array(group, key, value)
        else:
            text = isinstance(value, str)
            data = group.create_dataset(key, data=value, dtype=TEXT if text else None)
            _tag(data, "string" if text else "numeric-scalar")


def _write_array(group: h5py.Group, name: str, values: np.ndarray) -> None:
    if values.dtype == object:
        _tag(group.create_dataset(name, data=values, dtype=TEXT), "string-array")
    else:
        packed = PACKED if values.ndim == 2 and values.size else {}
        _tag(group.create_dataset(name, data=values, **packed), "array")


def _write_frame(parent: h5py.Group, name: str, frame_df: pd.DataFrame) -> None:
    group = parent.create_group(name)
    _tag(group, "dataframe")
    index, *columns = _fields(frame_df)
    group.attrs["_index"] = index
    group.attrs.create("column-order", np.array(columns, dtype=object), dtype=TEXT)
    _write_array(group, index, np.array([str(i) for i in frame_df.index], dtype=object))
    for position, column in enumerate(columns):
        _write_column(group, column, frame_df.iloc[:, position])


def _fields(frame_df: pd.DataFrame) -> list[str]:
    """Names of the index and of the columns in the file."""
    names = [str(name).replace("/", "_") for name in (frame_df.index.name or "_index", *frame_df.columns)]
    return ["_" if name in ("", ".") else name for name in names]


def _write_column(group: h5py.Group, name: str, values: pd.Series) -> None:
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype):
        _write_categories(group, name, values.cat)
    elif isinstance(kind, np.dtype) and kind.kind in "biuf":
        _write_array(group, name, values.to_numpy())
    elif pd.api.types.is_bool_dtype(kind) or pd.api.types.is_integer_dtype(kind):
        _write_nullable(group, name, values)
    elif pd.api.types.is_float_dtype(kind):
        _write_array(group, name, values.to_numpy(float, na_value=np.nan))
    else:
        text = values.astype(object).where(values.notna(), None)
        text = text.map(str, na_action="ignore")
        if text.isna().any() or text.nunique() < len(text):
            _write_categories(group, name, text.astype("category").cat)
        else:
            _write_array(group, name, text.to_numpy(object))


def _write_categories(group: h5py.Group, name: str, values: Any) -> None:
    column = group.create_group(name)
    _tag(column, "categorical")
    column.attrs["ordered"] = bool(values.ordered)
    categories = values.categories
    numbers = isinstance(categories.dtype, np.dtype) and categories.dtype.kind in "biuf"
    _write_array(column, "codes", values.codes.to_numpy())
    _write_array(column, "categories", categories.to_numpy() if numbers else _text(categories))


def _text(values: pd.Index) -> np.ndarray:
    return np.array([str(value) for value in values], dtype=object)


def _write_nullable(group: h5py.Group, name: str, values: pd.Series) -> None:
    truth = pd.api.types.is_bool_dtype(values.dtype)
    column = group.create_group(name)
    _tag(column, "nullable-boolean" if truth else "nullable-integer")
    missing = values.isna().to_numpy()
    filled = values.fillna(False if truth else 0).to_numpy(bool if truth else np.int64)
    _write_array(column, "values", filled)
    _write_array(column, "mask", missing)
