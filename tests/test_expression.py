"""Expression tables: pandas is the oracle for reading; arithmetic by hand; every kind of bad file."""

import gzip
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lib
from lib import expression, gct_header
from lib import gct as tables

GTEX = Path(os.environ.get("DATA_MIRROR") or Path(lib.__file__).parents[2] / "shared/data") / "gtex"
needs_gtex = pytest.mark.skipif(not GTEX.exists(), reason=f"no GTEx files in {GTEX}")


def gct(tmp_path, rows, samples=("a", "b"), size=None, head="#1.2", name="x.gct", newline="\n"):
    size = size or (len(rows), len(samples))
    lines = [head, f"{size[0]}\t{size[1]}", "\t".join(["Name", "Description", *samples]), *rows]
    path = tmp_path / name
    data = (newline.join(lines) + newline).encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return path


ROWS = ["g1.1\tG1\t1\t2.5", "g2.3\tG2\t0\t1e3", "g3.1\tG1\t0.000939\t123456.789"]


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["x.gct", "x.gct.gz"])
def test_gct(tmp_path, name, newline):
    path = gct(tmp_path, ROWS, name=name, newline=newline)
    expression_df, genes_df = expression.read_expression(path)
    assert expression_df.index.tolist() == ["g1.1", "g2.3", "g3.1"]
    assert expression_df.index.name == genes_df.index.name == "gene"
    assert (expression_df.dtypes == np.float32).all()
    expected = np.array([[1, 2.5], [0, 1000], [0.000939, 123456.789]], np.float32)
    np.testing.assert_array_equal(expression_df.to_numpy(), expected)
    assert genes_df["symbol"].tolist() == ["G1", "G2", "G1"]
    assert expression.rna_ids(path) == ["a", "b"]


def test_wanted_columns_in_the_order_asked(tmp_path):
    path = gct(tmp_path, ["g\tG\t1\t2\t3"], samples=("a", "b", "c"))
    expression_df, _ = expression.read_expression(path, columns=["c", "a"])
    assert expression_df.columns.tolist() == ["c", "a"]
    assert expression_df.loc["g"].tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"1 of 2 wanted RNA ids are not there, first \['z'\]"):
        expression.read_expression(path, columns=["a", "z"])


def test_gct_with_a_row_number_column_and_text_like_ids(tmp_path):
    path = tmp_path / "x.gct"
    path.write_text("#1.2\n2\t2\nid\tName\tDescription\t007\t1e5\n0\tg1\tMARCH1\t1\t2\n1\tg2\tNA\t3\t4\n")
    expression_df, genes_df = expression.read_expression(path)
    assert expression_df.columns.tolist() == ["007", "1e5"]
    assert genes_df["symbol"].tolist() == ["MARCH1", "NA"]
    assert expression_df.to_numpy().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(("name", "separator"), [("x.csv", ","), ("x.tsv", "\t"), ("x.csv.gz", ",")])
def test_csv_and_tsv_with_quotes(tmp_path, name, separator):
    frame = pd.DataFrame(
        {
            "gene": ["g1", "g,2"],
            "symbol": ["A", 'B"q'],
            "biotype": ["lncRNA", ""],
            "s 1": [1.5, 0],
            "s2": [2e-7, 3],
        }
    )
    frame.to_csv(tmp_path / name, sep=separator, index=False, quoting=2 if separator == "," else 0)
    expression_df, genes_df = expression.read_expression(tmp_path / name)
    assert expression_df.columns.tolist() == ["s 1", "s2"]
    assert expression_df.index.tolist() == ["g1", "g,2"]
    assert genes_df["biotype"].tolist() == ["lncRNA", ""]
    np.testing.assert_array_equal(expression_df.to_numpy(), np.array([[1.5, 2e-7], [0, 3]], np.float32))


def test_parquet_roundtrip(tmp_path):
    values_df = pd.DataFrame({"s1": [1.0, 2.0], "s2": [3.0, 4.0]}, index=pd.Index(["g1", "g2"], name="gene"))
    values_df.to_parquet(tmp_path / "x.parquet")
    expression_df, genes_df = expression.read_expression(tmp_path / "x.parquet", columns=["s2"])
    assert expression_df["s2"].tolist() == [3, 4]
    assert genes_df["symbol"].tolist() == ["g1", "g2"]
    assert expression.rna_ids(tmp_path / "x.parquet") == ["s1", "s2"]


def number_text():
    plain = st.floats(0, 1e7, allow_nan=False).flatmap(
        lambda x: st.sampled_from([f"{x:.4g}", f"{x:.0f}", f"{x:.6f}", repr(x), f"{x:.3e}", f"+{x:.2f}"])
    )
    return st.one_of(
        plain, st.sampled_from(["0", "0.0", ".5", "5.", "00012", "1E-12", "-0.0", "12345678901234567890"])
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(number_text(), min_size=3, max_size=3), min_size=1, max_size=8))
def test_numbers_equal_python_float(tmp_path_factory, cells):
    rows = [f"g{i}\tG\t" + "\t".join(row) for i, row in enumerate(cells)]
    path = gct(tmp_path_factory.mktemp("n"), rows, samples=("a", "b", "c"))
    expression_df, _ = expression.read_expression(path)
    np.testing.assert_array_equal(expression_df.to_numpy(), np.array(cells, float).astype(np.float32))


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
def test_blocks_of_any_size_give_what_pandas_gives(tmp_path, monkeypatch, block):
    monkeypatch.setattr(gct_header, "BLOCK_BYTES", block)
    rng = np.random.default_rng(0)
    values = np.round(rng.gamma(0.3, 50, (300, 17)), 4)
    rows = [f"ENSG{i}.1\tSYM{i}\t" + "\t".join(map(str, row)) for i, row in enumerate(values)]
    path = gct(tmp_path, rows, samples=[f"s{i}" for i in range(17)], name="x.gct.gz")
    expression_df, genes_df = expression.read_expression(path)
    oracle_df = pd.read_csv(path, sep="\t", skiprows=2, index_col=0)
    assert (expression_df.index == oracle_df.index).all()
    assert genes_df["symbol"].tolist() == oracle_df["Description"].tolist()
    np.testing.assert_array_equal(expression_df.to_numpy(), oracle_df.iloc[:, 1:].to_numpy(np.float32))


def test_gzip_of_several_members_with_padding(tmp_path):
    path = gct(tmp_path, ROWS)
    data = path.read_bytes()
    joined = tmp_path / "y.gct.gz"
    joined.write_bytes(gzip.compress(data[:40]) + gzip.compress(data[40:]) + b"\0" * 512)
    left, right = (expression.read_expression(p)[0] for p in (path, joined))
    pd.testing.assert_frame_equal(left, right)


# ----------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("size", [(5, 2), (2, 2), (3, 9)])
def test_header_that_lies(tmp_path, size):
    path = gct(tmp_path, ROWS, size=size)
    promise = f"promises {size[0]} genes x {size[1]} samples, the file has 3 x 2.*expression_rows = 'report'"
    with pytest.raises(ValueError, match=promise):
        expression.read_expression(path)
    expression_df, genes_df = expression.read_expression(path, on_header_mismatch="report")
    assert expression_df.shape == (3, 2)
    found = expression.describe_expression(expression_df, genes_df).set_index("what")["n"]
    assert found["genes promised (file)"] == size[0]
    assert found["genes (file)"] == 3


def test_absurd_promise_costs_no_memory(tmp_path):
    path = gct(tmp_path, ROWS, size=(10**15, 2))
    assert expression.read_expression(path, on_header_mismatch="report")[0].shape == (3, 2)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_gzip(tmp_path, share):
    rng = np.random.default_rng(0)
    rows = [f"g{i}\tG\t" + "\t".join(map(str, row)) for i, row in enumerate(rng.random((2000, 2)))]
    path = gct(tmp_path, rows, name="x.gct.gz")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="gzip ends early"):
        expression.read_expression(path)


def test_corrupt_gzip_and_cut_text(tmp_path):
    path = gct(tmp_path, ROWS * 400, name="x.gct.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"gzip (data corrupt|ends early)"):
        expression.read_expression(path)
    plain = gct(tmp_path, ROWS)
    plain.write_bytes(plain.read_bytes()[:-14])  # the last row loses its last field
    with pytest.raises(ValueError, match="gene row 3 has 3 fields where the header has 4"):
        expression.read_expression(plain)


def test_duplicated_ids(tmp_path):
    with pytest.raises(ValueError, match=r"2 duplicated gene id\(s\), first \['g1', 'g2'\]"):
        expression.read_expression(gct(tmp_path, [f"g{i}\tG\t1\t2" for i in (1, 2, 3, 1, 2, 1)]))
    with pytest.raises(ValueError, match=r"1 duplicated RNA id\(s\), first \['a'\]"):
        expression.read_expression(gct(tmp_path, ["g\tG\t1\t2"], samples=("a", "a")))


@pytest.mark.parametrize("cell", ["", "NA", "nan", "NaN", "null", " "])
def test_missing_values(tmp_path, cell):
    path = gct(tmp_path, ["g1\tG\t1\t2", f"g2\tG\t1\t{cell}", f"g3\tG\t{cell}\t3"])
    with pytest.raises(ValueError, match=r"2 missing value\(s\), first '.*' at gene g2, sample b"):
        expression.read_expression(path)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("-0.5", "1 negative value"),
        ("-3", "1 negative value"),
        ("abc", "1 non-numeric value"),
        ("1,5", "1 non-numeric value"),
        ("1.2.3", "1 non-numeric value"),
        ("inf", "1 non-numeric value"),
        ("-", "1 non-numeric value"),
        (".", "1 non-numeric value"),
        ("5 mg", "1 non-numeric value"),
    ],
)
def test_bad_values(tmp_path, cell, said):
    path = gct(tmp_path, ["g1\tG\t1\t2", f"g2\tG\t{cell}\t2"])
    with pytest.raises(ValueError, match=rf"{said}\(s\), first '{cell}' at gene g2, sample a"):
        expression.read_expression(path)
    assert expression.read_expression(path, columns=["b"])[0]["b"].tolist() == [
        2,
        2,
    ]  # not asked for: no matter


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, np.nan], "1 missing value.*gene g2, sample s"),
        ([-1.0, 0.0], "1 negative value.*gene g1, sample s"),
    ],
)
def test_bad_values_in_parquet(tmp_path, values, said):
    pd.DataFrame({"s": values}, index=pd.Index(["g1", "g2"], name="gene")).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=said):
        expression.read_expression(tmp_path / "x.parquet")


def test_not_an_expression_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="expression_file"):
        expression.read_expression(tmp_path / "none.gct")
    with pytest.raises(ValueError, match=r"expression is \.gct"):
        expression.read_expression(tmp_path / "x.xlsx")
    with pytest.raises(ValueError, match=r"starts with '#1\.2'"):
        expression.read_expression(gct(tmp_path, ROWS, head="#1.3"))
    with pytest.raises(ValueError, match="no gene rows"):
        expression.read_expression(gct(tmp_path, []))
    (tmp_path / "e.gct").write_text("")
    with pytest.raises(ValueError, match="empty"):
        expression.read_expression(tmp_path / "e.gct")
    (tmp_path / "h.gct").write_text("#1.2\n1\t1\nGene\tSymbol\ta\ng\tG\t1\n")
    with pytest.raises(ValueError, match="no Name and Description"):
        expression.read_expression(tmp_path / "h.gct")
    (tmp_path / "p.gct.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="first line is '<html>404"):
        expression.read_expression(tmp_path / "p.gct.gz")


@pytest.mark.skipif("anndata" in sys.modules, reason="anndata is there")
def test_h5ad_without_anndata_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    (tmp_path / "x.h5ad").write_bytes(b"")
    with pytest.raises(RuntimeError, match="pip install anndata"):
        expression.read_expression(tmp_path / "x.h5ad")


# -------------------------------------------------------------------------------------------- big tables


def test_conversion_to_parquet_reads_back_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 4 * 3 * 50)  # 50 rows a group
    rng = np.random.default_rng(0)
    rows = [
        f"g{i}\tG{i}\t" + "\t".join(f"{v:.3f}" for v in row)
        for i, row in enumerate(rng.gamma(1, 9, (333, 4)))
    ]
    path = gct(tmp_path, rows, samples=list("abcd"), name="x.gct.gz")
    found = tables.convert_to_parquet(path, tmp_path / "x.parquet", columns=["d", "b", "a"])
    assert found["genes"] == 333
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 7
    direct = expression.read_expression(path, columns=["a", "d"])
    again = expression.read_expression(tmp_path / "x.parquet", columns=["a", "d"])
    for left, right in zip(direct, again, strict=True):
        pd.testing.assert_frame_equal(left, right)


def test_failed_conversion_leaves_no_file(tmp_path):
    for rows, size in ((ROWS, (9, 2)), (["g\tG\t1\t-1"], None), (["g\tG\t1\t1", "g\tG\t1\t1"], None)):
        path = gct(tmp_path, rows, size=size)
        with pytest.raises(ValueError, match=r"x\.gct"):
            tables.convert_to_parquet(path, tmp_path / "x.parquet")
        assert [p.name for p in tmp_path.iterdir()] == ["x.gct"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory with Linux's ru_maxrss")
def test_converting_takes_memory_that_does_not_grow_with_the_file(tmp_path):
    """400 MB of values (40,000 genes x 2,500 samples) converted by a process that stays far below that."""
    row = "\t".join(f"{v:.3f}" for v in np.random.default_rng(0).gamma(0.4, 30, 2500))
    with gzip.open(tmp_path / "x.gct.gz", "wt", compresslevel=1) as file:
        file.write("#1.2\n40000\t2500\nName\tDescription\t" + "\t".join(f"s{i}" for i in range(2500)) + "\n")
        for i in range(40_000):
            file.write(f"g{i}\tG{i}\t{row}\n")
    code = f"""
        import resource
        from lib import gct
        path = {str(tmp_path / "x.gct.gz")!r}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        gct.convert_to_parquet(path, {str(tmp_path / "x.parquet")!r})
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 700, f"{ran.stdout.strip()} MB more than before"
    assert pq.read_metadata(tmp_path / "x.parquet").num_rows == 40_000


# ------------------------------------------------------------------------------------------ real files


@needs_gtex
def test_real_extract_with_a_lying_header():
    path = GTEX / "GTEx_v8_gene_reads.acmg_59.gct.gz"
    ids = expression.rna_ids(path)
    assert len(ids) == 17_382
    with pytest.raises(ValueError, match="promises 56,200 genes x 17,382 samples, the file has 59 x 17,382"):
        expression.read_expression(path, columns=ids[:5])
    expression_df, genes_df = expression.read_expression(path, columns=ids[-3:], on_header_mismatch="report")
    oracle_df = pd.read_csv(
        path, sep="\t", skiprows=2, index_col=0, usecols=["Name", "Description", *ids[-3:]]
    )
    np.testing.assert_array_equal(expression_df.to_numpy(), oracle_df[ids[-3:]].to_numpy(np.float32))
    assert genes_df.loc["ENSG00000117118.9", "symbol"] == "SDHB"


@needs_gtex
def test_real_tpm_and_gene_table():
    expression_df, genes_df = expression.read_expression(
        GTEX / "gtex_tpm_heart_brain_liver_180samples.gct.gz"
    )
    assert expression_df.shape == (261, 180)
    table_df = expression.read_gene_table(GTEX / "genes_gencode_v26.csv.gz")
    assert len(table_df) == 56_200
    named_df = expression.annotate_genes(genes_df, table_df)
    assert (named_df["biotype"] != "").mean() > 0.95
    assert (named_df["symbol"] == genes_df["symbol"]).all()
    coding = expression.protein_coding(named_df)
    assert 0 < len(coding) <= 261
    assert (named_df.loc[coding, "biotype"] == "protein_coding").all()
    assert len(expression.protein_coding(table_df)) > 19_000
    found = expression.describe_expression(expression_df, genes_df).set_index("what")["n"]
    assert found["versioned Ensembl ids"] == 261


# ------------------------------------------------------------------------------------- values and samples


def duplicated():
    expression_df = pd.DataFrame(
        [[1.0, 7.0, 5.0], [0.0, 3.0, 2.0]],
        index=pd.Index(["g1", "g2"], name="gene"),
        columns=["r1", "r2", "r3"],
    )
    return expression_df, pd.DataFrame({"sample_id": ["A", "A", "B"], "rna_id": ["r1", "r2", "r3"]})


def test_duplicates_mean_is_taken_of_the_logarithms():
    combined_df = expression.combine_duplicates(*duplicated())
    assert combined_df.columns.tolist() == ["A", "B"]
    # log2(1 + 1) = 1, log2(1 + 7) = 3, mean 2, back: 3; and (0 + 2) / 2 = 1 -> 1
    np.testing.assert_allclose(combined_df.to_numpy(), [[3, 5], [1, 2]], rtol=1e-6)
    assert combined_df.to_numpy().dtype == np.float32


def test_duplicates_first_and_error():
    assert expression.combine_duplicates(*duplicated(), how="first")["A"].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"1 samples have several RNA samples: \['A'\]"):
        expression.combine_duplicates(*duplicated(), how="error")
    with pytest.raises(ValueError, match="choose 'mean'"):
        expression.combine_duplicates(*duplicated(), how="median")
    expression_df, pairing_df = duplicated()
    with pytest.raises(ValueError, match=r"1 paired RNA ids are not in the expression table: \['r3'\]"):
        expression.combine_duplicates(expression_df[["r1", "r2"]], pairing_df)
    assert expression_df.to_numpy()[0].tolist() == [1, 7, 5]  # the input is left alone


def test_counts_per_million():
    counts_df = pd.DataFrame({"s1": [1, 3], "s2": [0, 5]}, index=["g1", "g2"])
    assert expression.counts_per_million(counts_df).to_numpy().tolist() == [
        [250_000, 0],
        [750_000, 1_000_000],
    ]
    with pytest.raises(ValueError, match=r"1 sample\(s\) have no counts at all: \['s3'\]"):
        expression.counts_per_million(counts_df.assign(s3=0))


def test_gene_names(tmp_path):
    path = tmp_path / "genes.csv"
    path.write_text(
        "gene_id,gene_biotype,gene_name\nENSG00000000001.5,protein_coding,AAA\nENSG00000000002.1,lncRNA,BBB\n"
    )
    table_df = expression.read_gene_table(path)
    genes_df = pd.DataFrame(
        {"symbol": ["ENSG00000000001.9", "kept", "x"], "biotype": ""},
        index=pd.Index(["ENSG00000000001.9", "ENSG00000000002.1", "other"], name="gene"),
    )
    named_df = expression.annotate_genes(genes_df, table_df)
    assert named_df["symbol"].tolist() == ["AAA", "kept", "x"]
    assert named_df["biotype"].tolist() == ["protein_coding", "lncRNA", ""]
    assert expression.protein_coding(named_df).tolist() == ["ENSG00000000001.9"]
    with pytest.raises(ValueError, match="genes_file"):
        expression.protein_coding(genes_df)
    path.write_text("gene_id,length\na,1\n")
    with pytest.raises(ValueError, match="needs gene_id"):
        expression.read_gene_table(path)


def test_shared_symbols():
    genes_df = pd.DataFrame({"symbol": ["A", "B", "A"]}, index=pd.Index(["g1", "g2", "g3"], name="gene"))
    assert expression.shared_symbols(genes_df).to_numpy().tolist() == [["A", 2, "g1 g3"]]
