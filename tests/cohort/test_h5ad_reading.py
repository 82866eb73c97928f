"""Files of AnnData that h5py wrote by hand: expression tables read, damage and old forms refused."""

import h5ad_factory
import h5py
import numpy as np
import pytest
from scipy import sparse

from lib.cohort import expression, expression_units, h5ad_reading
from lib.errors import InputError, MissingInputError

VALUES = np.array([[1.5, 0, 3], [0, 2, 0]])  # two samples, three genes
NAMES = {"obs": ["a", "b"], "var": ["g1", "g2", "g3"]}


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, sparse.csc_array])
def test_expression_is_read_from_dense_and_sparse(tmp_path, form):
    path = h5ad_factory.write(tmp_path / "x.h5ad", form(VALUES), **NAMES)
    assert expression.rna_ids(path) == ["a", "b"]
    expression_df, genes_df = expression.read_expression(path, columns=["b", "a"])
    assert expression_df.columns.tolist() == ["b", "a"]
    np.testing.assert_array_equal(expression_df.to_numpy(), VALUES[::-1].T)
    assert expression_df.to_numpy().dtype == np.float32
    assert genes_df["symbol"].tolist() == NAMES["var"]


def test_missing_symbols_keep_all_genes(tmp_path):
    columns = {"symbol": ["A", "", "nan"], "gene_type": ["protein_coding", "", "lncRNA"]}
    path = h5ad_factory.write(tmp_path / "x.h5ad", VALUES, **NAMES, var_columns=columns)
    _, genes_df = expression.read_expression(path)
    assert genes_df["symbol"].tolist() == ["A", "g2", "g3"]
    assert genes_df["biotype"].tolist() == ["protein_coding", "", "lncRNA"]


def test_ids_in_a_column_are_the_ids(tmp_path):
    """Scanpy makes symbols the index and keeps the ids in gene_ids; a symbol may then occur twice."""
    columns = {"gene_ids": ["ENSG1", "ENSG2", "ENSG3"]}
    path = h5ad_factory.write(
        tmp_path / "x.h5ad", VALUES, obs=["a", "b"], var=["A", "B", "A"], var_columns=columns
    )
    expression_df, genes_df = expression.read_expression(path)
    assert expression_df.index.tolist() == columns["gene_ids"]
    assert genes_df["symbol"].tolist() == ["A", "B", "A"]


def test_logarithms_are_refused_or_passed_over(tmp_path):
    path = h5ad_factory.write(tmp_path / "x.h5ad", np.log1p(VALUES), **NAMES, uns={"log1p": {"base": None}})
    with pytest.raises(InputError, match=r"x\.h5ad.*logarithms \(uns\['log1p'\]\); save counts"):
        expression.read_expression(path)
    counts = np.array([[1, 0, 3], [0, 2, 0]])
    groups = {"uns": {"log1p": {}}, "layers": {"counts": counts}}
    path = h5ad_factory.write(tmp_path / "y.h5ad", np.log1p(VALUES), **NAMES, **groups)
    np.testing.assert_array_equal(expression.read_expression(path)[0].to_numpy(), counts.T)
    # values that are not logged are read as they are, whatever layers lie beside them
    path = h5ad_factory.write(tmp_path / "z.h5ad", VALUES, **NAMES, layers={"counts": counts})
    np.testing.assert_array_equal(expression.read_expression(path)[0].to_numpy(), VALUES.T)


def test_logarithms_said_to_be_counts_are_refused(tmp_path):
    """Without uns["log1p"] only the values tell."""
    rng = np.random.default_rng(0)
    genes = [f"g{k}" for k in range(200)]
    path = h5ad_factory.write(
        tmp_path / "x.h5ad", np.log1p(rng.poisson(3, (2, 200)) * 1.7), obs=["a", "b"], var=genes
    )
    values_df, _ = expression.read_expression(path)
    with pytest.raises(InputError, match="values are not whole numbers, first"):
        expression_units.in_unit(values_df, "counts")
    with pytest.raises(InputError, match="look like logarithms"):
        expression_units.in_unit(values_df, "TPM")


# ------------------------------------------------------------------------------------------- bad input


def changed(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def drop(name):
    return lambda file: file.__delitem__(name)


def untag(*names):
    def change(file):
        for name in names:
            del file[name].attrs["encoding-type"]

    return change


def old_form(file):
    """As anndata 0.6 wrote it: frames as compound arrays, a sparse matrix of h5sparse."""
    del file.attrs["encoding-type"], file["obs"], file["X"]
    file["obs"] = np.array([(b"a", 1.0)], dtype=[("index", "S3"), ("n", float)])
    file.create_group("X").attrs["h5sparse_format"] = "csr"


def stretch_indices(file):
    file["X/indices"][0] = 7


def new_encoding(file):
    file["X"].attrs["encoding-version"] = "9.0.0"


def new_kind(file):
    file["X"].attrs["encoding-type"] = "awkward-array"


def short_column(file):
    h5ad_factory.put(file["var"], "symbol", ["A"])
    file["var"].attrs["column-order"] = ["symbol"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("obs"), "no h5ad file: it lacks obs and holds 'X'"),
        (drop("X"), r"it has no values \(X\)"),
        (
            old_form,
            r"before 0\.8 \(frames as compound arrays, h5sparse_format.*read_h5ad\(path\)\.write_h5ad",
        ),
        (untag("/"), r"before 0\.8 \(no encoding-type\)"),
        (untag("obs/_index"), "/obs/_index: encoding 'unknown'"),
        (drop("X/indptr"), "not a readable h5ad file"),
        (stretch_indices, "not a readable h5ad file"),
        (new_encoding, r"/X: encoding 'csr_matrix' 9\.0\.0 is not read; leave it out"),
        (new_kind, "/X: encoding 'awkward-array'"),
        (short_column, "/var/symbol: 1 values of 3 rows"),
        (lambda file: file["X"].attrs.__setitem__("shape", [3, 2]), r"a matrix of \(3, 2\).*give \(2, 3\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_named(tmp_path, change, said):
    path = h5ad_factory.write(tmp_path / "x.h5ad", sparse.csr_array(VALUES), **NAMES)
    with pytest.raises(InputError, match=said) as caught:
        expression.read_expression(changed(path, change))
    assert str(path) in str(caught.value)


def test_what_is_no_h5ad_is_refused(tmp_path):
    path = tmp_path / "x.h5ad"
    with pytest.raises(MissingInputError, match=r"x\.h5ad"):
        expression.read_expression(path)
    path.write_bytes(b"sample_id,g1\na,1\n")
    for read in (expression.read_expression, expression.rna_ids):
        with pytest.raises(InputError, match="not a readable h5ad file"):
            read(path)
    h5ad_factory.write(path, VALUES, **NAMES)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="not a readable h5ad file"):
        expression.read_expression(path)


def test_names_that_occur_twice_are_refused(tmp_path):
    path = h5ad_factory.write(tmp_path / "x.h5ad", VALUES, obs=["a", "a"], var=NAMES["var"])
    with pytest.raises(InputError, match=r"x\.h5ad: duplicated obs name 'a'"):
        expression.read_expression(path)
    path = h5ad_factory.write(tmp_path / "y.h5ad", VALUES, obs=["a", "b"], var=["g", "h", "g"])
    with pytest.raises(InputError, match="duplicated gene id 'g'"):
        expression.read_expression(path)


def test_missing_and_negative_values_are_refused(tmp_path):
    values = VALUES.copy()
    values[0, 0], values[1, 1] = np.nan, -1
    path = h5ad_factory.write(tmp_path / "x.h5ad", values, **NAMES)
    with pytest.raises(
        InputError, match=r"1 missing value.*gene g1, sample a; 1 negative.*gene g2, sample b"
    ):
        expression.read_expression(path)


def test_base_of_the_logarithm(tmp_path):
    for uns, base in (
        ({}, None),
        ({"log1p": {}}, np.e),
        ({"log1p": {"base": None}}, np.e),
        ({"log1p": {"base": 2.0}}, 2),
    ):
        path = h5ad_factory.write(tmp_path / "x.h5ad", VALUES, **NAMES, uns=uns)
        with h5ad_reading.opened(path) as file:
            assert h5ad_reading.log_base(file) == base
