"""Files of AnnData written by hand with h5py, element by element, as its documentation describes them."""

import h5py
import numpy as np
from scipy import sparse

VERSIONS = {"anndata": "0.1.0", "dataframe": "0.2.0", "array": "0.2.0", "string-array": "0.2.0"}
VERSIONS |= dict.fromkeys(("csr_matrix", "csc_matrix", "dict", "null", "nullable-integer"), "0.1.0")
VERSIONS |= dict.fromkeys(("categorical", "string", "numeric-scalar"), "0.2.0")
TEXT = h5py.string_dtype()


def tag(element, kind, **more):
    for name, value in ({"encoding-type": kind, "encoding-version": VERSIONS[kind]} | more).items():
        element.attrs[name] = value
    return element


def put(group, name, value):
    """One element: a sparse or dense matrix, a list of text, a dict, a scalar."""
    if sparse.issparse(value):
        made = tag(group.create_group(name), f"{value.format}_matrix", shape=np.array(value.shape))
        for part in ("data", "indices", "indptr"):
            made[part] = getattr(value, part)
    elif isinstance(value, dict):
        made = tag(group.create_group(name), "dict")
        for key, inner in value.items():
            put(made, key, inner)
    elif value is None:
        tag(group.create_dataset(name, data=h5py.Empty("f4")), "null")
    elif isinstance(value, str):
        tag(group.create_dataset(name, data=value, dtype=TEXT), "string")
    elif isinstance(value, list):
        tag(group.create_dataset(name, data=np.array(value, object), dtype=TEXT), "string-array")
    else:
        tag(group.create_dataset(name, data=value), "array" if np.ndim(value) else "numeric-scalar")


def put_frame(group, name, index, columns):
    frame = tag(group.create_group(name), "dataframe", _index="_index")
    frame.attrs.create("column-order", np.array(list(columns), object), dtype=TEXT)
    put(frame, "_index", list(index))
    for key, value in columns.items():
        put(frame, key, value)


def write(path, x=None, obs=(), var=(), obs_columns=(), var_columns=(), **groups):
    """A file with names of observations and genes; `groups` are layers, obsm, uns: name -> value."""
    with h5py.File(path, "w") as file:
        tag(file, "anndata")
        if x is not None:
            put(file, "X", x)
        put_frame(file, "obs", obs, dict(obs_columns))
        put_frame(file, "var", var, dict(var_columns))
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            put(file, name, groups.get(name, {}))
    return path
