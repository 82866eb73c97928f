"""Reading .h5ad files (AnnData) with h5py: tables, matrices and scalars in their documented encodings.

The format is that of anndata 0.8 and newer (https://anndata.readthedocs.io, "On-disk format"): every element
states its encoding-type and encoding-version. Other encodings are refused by name. anndata itself is not
needed. Observations (samples, spots) are rows, variables (genes) are columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from lib.cohort.samples import first, says_missing
from lib.cohort.table_checks import column_role, refuse_duplicates
from lib.errors import HistocorrError, InputError, MissingInputError

# Versions of each encoding that are read here.
ENCODINGS = {
    **{"anndata": "0.1.0", "raw": "0.1.0", "dict": "0.1.0", "null": "0.1.0", "dataframe": "0.2.0"},
    **{"array": "0.2.0", "string-array": "0.2.0", "numeric-scalar": "0.2.0", "string": "0.2.0"},
    **{"csr_matrix": "0.1.0", "csc_matrix": "0.1.0", "categorical": "0.2.0"},
    **{"nullable-integer": "0.1.0", "nullable-boolean": "0.1.0", "nullable-string-array": "0.1.0"},
}
REWRITE = "open it with a current anndata and write it again: anndata.read_h5ad(path).write_h5ad(path)"
GENE_IDS = ("gene_ids", "gene_id", "ensembl_id")  # columns that scanpy and others keep the ids in
SYMBOLS = "feature_name"  # the column of CELLxGENE

Matrix = np.ndarray | sparse.csr_array | sparse.csc_array


class Genes(NamedTuple):
    """What a var table says of each gene, "" where nothing."""

    ids: list[str]
    symbols: list[str]
    biotypes: list[str]


class Values(NamedTuple):
    """A matrix of observations x genes as it was found, and where: "X", "layers['counts']", "raw.X"."""

    matrix: Matrix
    var_df: pd.DataFrame
    found_in: str


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """An .h5ad file, open while the context lasts.

    Raises
    ------
    MissingInputError, InputError : no file; no HDF5 file; not of AnnData, or of anndata before 0.8; and, of
    whatever is read within the context, damage.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such .h5ad file")
    try:
        with h5py.File(path, "r") as file:
            _require_anndata(file, path)
            yield file
    except HistocorrError:
        raise
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable h5ad file ({error}); write it again") from error


def _require_anndata(file: h5py.File, path: Path) -> None:
    missing = [name for name in ("obs", "var") if name not in file]
    if missing:
        held = first(file) if len(file) else "nothing"
        raise InputError(f"{path}: no h5ad file: it lacks {' and '.join(missing)} and holds {held}")
    elements: list[Any] = [file, file["obs"], file["var"], *([file["X"]] if "X" in file else [])]
    if any("encoding-type" not in element.attrs for element in elements):
        how = "frames as compound arrays, " if isinstance(file["obs"], h5py.Dataset) else ""
        how += "h5sparse_format, " if "X" in file and "h5sparse_format" in file["X"].attrs else ""
        raise InputError(f"{path}: written by an anndata before 0.8 ({how}no encoding-type); {REWRITE}")
    encoding(file)


def encoding(element: Any) -> str:
    """The encoding-type of an element; InputError for one, or a version of one, that is not read here."""
    kind, version = (_said(element, f"encoding-{what}") for what in ("type", "version"))
    if kind and ENCODINGS.get(kind) == version:
        return kind
    remedy = REWRITE if not kind or version < ENCODINGS.get(kind, "") else "leave it out of the file"
    raise InputError(f"{_where(element)}: encoding {kind or 'unknown'!r} {version} is not read; {remedy}")


def _said(element: Any, name: str) -> str:
    value = element.attrs.get(name, "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _where(element: Any) -> str:
    return f"{element.file.filename}, {element.name}"


# ------------------------------------------------------------------------------------------------- tables


def read_names(frame: Any) -> list[str]:
    """The index of a table (obs, var) as text."""
    if encoding(frame) != "dataframe":
        raise InputError(f"{_where(frame)}: a table is expected, not {encoding(frame)!r}")
    return [str(name) for name in read_values(frame[_said(frame, "_index")])]


def read_frame(frame: Any) -> pd.DataFrame:
    """A table (obs, var) with its columns in order; those of an encoding not read here are left out."""
    index = pd.Index(read_names(frame), dtype=object)
    columns = {}
    for name in frame.attrs["column-order"]:
        name = name.decode() if isinstance(name, bytes) else str(name)
        if _said(frame[name], "encoding-type") not in ENCODINGS:
            continue
        values = read_values(frame[name])
        if len(values) != len(index):
            raise InputError(f"{_where(frame[name])}: {len(values)} values of {len(index)} rows")
        columns[name] = values
    return pd.DataFrame(columns, index=index)


def read_values(element: Any) -> Any:
    """A column: numbers and text (object) as numpy has them, categories and nullable values as pandas has."""
    kind = encoding(element)
    if kind == "array":
        return element[()]
    if kind == "string-array":
        return element.asstr()[()]
    if kind == "categorical":
        categories = pd.Index(read_values(element["categories"]))
        ordered = bool(element.attrs["ordered"])
        return pd.Categorical.from_codes(element["codes"][()], categories, ordered=ordered)
    if kind.startswith("nullable"):
        values, mask = read_values(element["values"]), read_values(element["mask"])
        if kind == "nullable-string-array":
            return pd.Series(values, dtype=object).mask(mask, None).to_numpy()
        array = pd.arrays.IntegerArray if kind == "nullable-integer" else pd.arrays.BooleanArray
        return array(values, mask)
    raise InputError(f"{_where(element)}: a column is expected, not {kind!r}")


def genes_of(var_df: pd.DataFrame) -> Genes:
    """Ids, symbols and biotypes: the ids are the index or, where scanpy made symbols the index, a column."""
    text = {
        str(name): var_df[name].astype(str).mask(says_missing(var_df[name]), "").tolist()
        for name in var_df.columns
    }
    by_role = {column_role(name): column for name, column in text.items()}
    names, none = [str(name) for name in var_df.index], [""] * len(var_df)
    symbols = by_role.get("symbol") or text.get(SYMBOLS)
    ids = next((text[name] for name in GENE_IDS if all(text.get(name, ("",)))), None)
    if ids is None or len(set(ids)) < len(ids):
        return Genes(names, symbols or none, by_role.get("biotype") or none)
    return Genes(ids, symbols or (none if ids == names else names), by_role.get("biotype") or none)


# ------------------------------------------------------------------------------------------------- matrices


def read_matrix(element: Any, shape: tuple[int, int]) -> Matrix:
    """A dense or sparse matrix; InputError where it is not of this shape, or not of numbers."""
    kind = encoding(element)
    if kind not in ("array", "csr_matrix", "csc_matrix"):
        raise InputError(f"{_where(element)}: a matrix is expected, not {kind!r}")
    stated = element.shape if kind == "array" else element.attrs["shape"]
    has = tuple(int(n) for n in stated)
    if has != shape:
        raise InputError(f"{_where(element)}: a matrix of {has}, but obs and var give {shape}")
    data = element if kind == "array" else element["data"]
    if data.dtype.kind not in "iuf":
        raise InputError(f"{_where(element)}: values of type {data.dtype} are no numbers")
    if kind == "array":
        return element[()]
    parts = tuple(element[name][()] for name in ("data", "indices", "indptr"))
    made = (sparse.csr_array if kind == "csr_matrix" else sparse.csc_array)(parts, shape=shape)
    made.check_format(full_check=True)
    return made


def read_scalar(group: Any, name: str) -> Any:
    """A number or text of uns; None where there is none of that name, or it is null."""
    if name not in group or encoding(group[name]) == "null":
        return None
    value = group[name][()]
    return value.decode() if isinstance(value, bytes) else value


def log_base(file: h5py.File) -> float | None:
    """Base of the logarithm that uns["log1p"] says X is; None where it does not say that."""
    if "uns/log1p" not in file:
        return None
    return float(read_scalar(file["uns/log1p"], "base") or np.e)


def read_all_values(file: h5py.File) -> Iterator[Values]:
    """The matrices that may hold counts or values that are not logged, the likeliest first."""
    n_obs, var_df = len(read_names(file["obs"])), read_frame(file["var"])
    for element, found_in in (("layers/counts", "layers['counts']"), ("X", "X")):
        if element in file:
            yield Values(read_matrix(file[element], (n_obs, len(var_df))), var_df, found_in)
    if "raw/X" in file:
        var_df = read_frame(file["raw/var"])
        yield Values(read_matrix(file["raw/X"], (n_obs, len(var_df))), var_df, "raw.X")


def require_unique(file: h5py.File, path: Path) -> list[str]:
    """Names of the observations; InputError where one occurs twice."""
    names = read_names(file["obs"])
    refuse_duplicates(names, "obs name", str(path))
    return names
