"""Text tables: pandas and Python's float are the oracles; every kind of bad file; memory; real files."""

import gzip
import sys
import zlib

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_gct import GTEX, ROWS, make_gct, needs_gtex

from lib.benchmarks import gct
from lib.cohort import expression, gct_header, gct_parquet
from lib.cohort.gct_cells import parse_lines

# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["x.gct", "x.gct.gz"])
def test_gct(tmp_path, name, newline):
    path = make_gct(tmp_path, ROWS, name=name, newline=newline)
    expression_df, genes_df = expression.read_expression(path)
    assert expression_df.index.tolist() == ["g1.1", "g2.3", "g3.1"]
    assert expression_df.index.name == genes_df.index.name == "gene"
    assert (expression_df.dtypes == np.float32).all()
    expected = np.array([[1, 2.5], [0, 1000], [0.000939, 123456.789]], np.float32)
    np.testing.assert_array_equal(expression_df.to_numpy(), expected)
    assert genes_df["symbol"].tolist() == ["G1", "G2", "G1"]
    assert expression.rna_ids(path) == ["a", "b"]


def test_wanted_columns_in_the_order_asked(tmp_path):
    path = make_gct(tmp_path, ["g\tG\t1\t2\t3"], samples=("a", "b", "c"))
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


def number_text():
    plain = st.floats(0, 1e7, allow_nan=False).flatmap(
        lambda x: st.sampled_from([f"{x:.4g}", f"{x:.0f}", f"{x:.6f}", repr(x), f"{x:.3e}", f"+{x:.2f}"])
    )
    long = st.from_regex(r"[0-9]{0,9}\.[0-9]{1,15}(e[+-]?[0-9]{1,2})?", fullmatch=True).filter(
        lambda text: float(text) < 3e38
    )
    odd = ["0", "0.0", ".5", "5.", "00012", "1E-12", "-0.0", "12345678901234567890", "1e-45", "2e38", "0e9"]
    return st.one_of(plain, long, st.sampled_from(odd))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(number_text(), min_size=3, max_size=3), min_size=1, max_size=8))
def test_numbers_equal_python_float(tmp_path_factory, cells):
    rows = [f"g{i}\tG\t" + "\t".join(row) for i, row in enumerate(cells)]
    path = make_gct(tmp_path_factory.mktemp("n"), rows, samples=("a", "b", "c"))
    expression_df, _ = expression.read_expression(path)
    np.testing.assert_array_equal(expression_df.to_numpy(), np.array(cells, float).astype(np.float32))


def parsed(cells):
    """What the compiled loop makes of one line: float32 values, and how many cells it leaves to Python."""
    text = np.frombuffer(("\t".join(["g", *cells]) + "\n").encode(), np.uint8)
    target = np.array([-2, *range(len(cells))])
    values, odd = np.empty((1, len(cells)), np.float32), np.empty((2 * len(target), 4), np.int64)
    spans, n_skip = np.zeros((1, 3, 2), np.int64), np.zeros(len(target), np.int64)
    n_rows, _, n_odd, n_fields = parse_lines(text, ord("\t"), target, n_skip, values, spans, odd)
    assert (n_rows, n_fields) == (1, -1)
    return values[0], n_odd


def test_usual_numbers_never_go_through_python():
    """repr of doubles, exponents as pandas writes them, four digits: nothing is left to the slow way."""
    x = np.exp(np.random.default_rng(0).normal(0, 4, 3_000))
    for write in (repr, "{:.4g}".format, "{:.6e}".format, "{:.0f}".format, "{:.11f}".format):
        cells = [write(float(v)) for v in x]
        values, n_odd = parsed(cells)
        np.testing.assert_array_equal(values, np.array(cells, float).astype(np.float32))
        assert n_odd == 0, write


def test_numbers_next_to_the_middle_of_two_float32(tmp_path):
    """Where a rounding error of the double would change the float32, Python decides."""
    x = np.random.default_rng(1).uniform(1, 2, 500).astype(np.float32)
    middle = (x.astype(np.float64) + np.nextafter(x, np.float32(3))) / 2
    cells = [f"{m + d:.17g}" for m in middle for d in (-4e-16, -2e-16, 0, 2e-16, 4e-16)]
    assert parsed(cells)[1] > len(middle)
    samples = [f"s{i}" for i in range(len(cells))]
    expression_df, _ = expression.read_expression(make_gct(tmp_path, ["g\tG\t" + "\t".join(cells)], samples))
    np.testing.assert_array_equal(expression_df.to_numpy()[0], np.array(cells, float).astype(np.float32))


@pytest.mark.parametrize("seed", range(8))
def test_any_choice_of_columns_gives_what_pandas_gives(tmp_path, monkeypatch, seed):
    """Columns between are stepped over in chunks; quoted cells with the delimiter inside must not mislead."""
    monkeypatch.setattr(gct_header, "BLOCK_BYTES", 700)
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 200))
    frame = pd.DataFrame({"gene": [f"g{i}" for i in range(20)], "symbol": 'S,"y'})
    for i in range(n):
        cells = [str(v) for v in np.round(rng.gamma(0.3, 50, 20), int(rng.integers(0, 9)))]
        frame[f"s{i}"] = [f"a,{c}" for c in cells] if i % 7 == 3 else cells  # text where nothing is wanted
    path = tmp_path / "x.csv"
    frame.to_csv(
        path, index=False, quoting=int(rng.integers(0, 2)), lineterminator=rng.choice(["\n", "\r\n"])
    )
    numbers = [f"s{i}" for i in range(n) if i % 7 != 3]
    wanted = rng.permutation(numbers)[: int(rng.integers(1, len(numbers) + 1))].tolist()
    expression_df, genes_df = expression.read_expression(path, columns=wanted)
    oracle_df = pd.read_csv(path, usecols=["symbol", *wanted])
    np.testing.assert_array_equal(expression_df.to_numpy(), oracle_df[wanted].to_numpy(np.float32))
    assert genes_df["symbol"].tolist() == oracle_df["symbol"].tolist()


@pytest.mark.parametrize("n_fields", [1, 2, 3, 40, 101, 103, 150])
@pytest.mark.parametrize("wanted", [["s0"], ["s50"], ["s99"], None])
def test_ragged_rows_whatever_is_wanted(tmp_path, n_fields, wanted):
    samples = [f"s{i}" for i in range(100)]
    rows = ["\t".join(["g", "G", *["1.5"] * 100])] * 2 + ["\t".join(["h", "H", *["1.5"] * 150][:n_fields])]
    path = make_gct(tmp_path, rows, samples)
    with pytest.raises(ValueError, match=f"gene row 3 has {n_fields} fields where the header has 102"):
        expression.read_expression(path, columns=wanted)


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
def test_blocks_of_any_size_give_what_pandas_gives(tmp_path, monkeypatch, block):
    monkeypatch.setattr(gct_header, "BLOCK_BYTES", block)
    rng = np.random.default_rng(0)
    values = np.round(rng.gamma(0.3, 50, (300, 17)), 4)
    rows = [f"ENSG{i}.1\tSYM{i}\t" + "\t".join(map(str, row)) for i, row in enumerate(values)]
    path = make_gct(tmp_path, rows, samples=[f"s{i}" for i in range(17)], name="x.gct.gz")
    expression_df, genes_df = expression.read_expression(path)
    oracle_df = pd.read_csv(path, sep="\t", skiprows=2, index_col=0)
    assert (expression_df.index == oracle_df.index).all()
    assert genes_df["symbol"].tolist() == oracle_df["Description"].tolist()
    np.testing.assert_array_equal(expression_df.to_numpy(), oracle_df.iloc[:, 1:].to_numpy(np.float32))


@pytest.mark.parametrize("inflate", ["isal", "zlib"])
def test_both_inflaters(tmp_path, monkeypatch, inflate):
    if inflate == "zlib":
        monkeypatch.setattr(gct_header, "zlib", zlib)
    rows = [f"g{i}\tG\t{i}\t{i / 7:.4f}" for i in range(9_000)]
    expression_df, _ = expression.read_expression(make_gct(tmp_path, rows, name="x.gct.gz"))
    assert expression_df["a"].tolist() == list(range(9_000))
    path = tmp_path / "x.gct.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"gzip ends early, after [0-9,]+ bytes"):
        expression.read_expression(path)


@pytest.mark.parametrize("name", ["x.gct", "x.gct.gz"])
@pytest.mark.parametrize("end", ["", "\n\n", "\r\n", "\n\r\n"])
def test_any_end_of_the_file(tmp_path, name, end):
    path = tmp_path / name
    data = ("#1.2\n2\t2\nName\tDescription\ta\tb\ng1\tG\t1\t2\ng2\tG\t3\t4" + end).encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert expression.read_expression(path)[0].to_numpy().tolist() == [[1, 2], [3, 4]]
    assert expression.read_expression(path, columns=["a"])[0].to_numpy().tolist() == [[1], [3]]


def test_gzip_of_several_members_with_padding(tmp_path):
    path = make_gct(tmp_path, ROWS)
    data = path.read_bytes()
    joined = tmp_path / "y.gct.gz"
    joined.write_bytes(gzip.compress(data[:40]) + gzip.compress(data[40:]) + b"\0" * 512)
    left, right = (expression.read_expression(p)[0] for p in (path, joined))
    pd.testing.assert_frame_equal(left, right)


# ----------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("size", [(5, 2), (2, 2), (3, 9)])
def test_header_that_lies(tmp_path, size):
    path = make_gct(tmp_path, ROWS, size=size)
    promise = f"promises {size[0]} genes x {size[1]} samples, the file has 3 x 2.*expression_rows = 'report'"
    with pytest.raises(ValueError, match=promise):
        expression.read_expression(path)
    expression_df, genes_df = expression.read_expression(path, on_header_mismatch="report")
    assert expression_df.shape == (3, 2)
    found = expression.describe_expression(expression_df, genes_df).set_index("what")["n"]
    assert found["genes promised (file)"] == size[0]
    assert found["genes (file)"] == 3


def test_unknown_answer_to_a_lying_header(tmp_path):
    with pytest.raises(ValueError, match="on_header_mismatch 'ignore': choose"):
        expression.read_expression(make_gct(tmp_path, ROWS), on_header_mismatch="ignore")


def test_absurd_promise_costs_no_memory(tmp_path):
    path = make_gct(tmp_path, ROWS, size=(10**15, 2))
    assert expression.read_expression(path, on_header_mismatch="report")[0].shape == (3, 2)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_gzip(tmp_path, share):
    rng = np.random.default_rng(0)
    rows = [f"g{i}\tG\t" + "\t".join(map(str, row)) for i, row in enumerate(rng.random((2000, 2)))]
    path = make_gct(tmp_path, rows, name="x.gct.gz")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="gzip ends early"):
        expression.read_expression(path)


def test_corrupt_gzip_and_cut_text(tmp_path):
    path = make_gct(tmp_path, ROWS * 400, name="x.gct.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"gzip (data corrupt|ends early)"):
        expression.read_expression(path)
    plain = make_gct(tmp_path, ROWS)
    plain.write_bytes(plain.read_bytes()[:-14])  # the last row loses its last field
    with pytest.raises(ValueError, match="gene row 3 has 3 fields where the header has 4"):
        expression.read_expression(plain)


def test_duplicated_ids(tmp_path):
    with pytest.raises(ValueError, match=r"2 duplicated gene id\(s\), first \['g1', 'g2'\]"):
        expression.read_expression(make_gct(tmp_path, [f"g{i}\tG\t1\t2" for i in (1, 2, 3, 1, 2, 1)]))
    with pytest.raises(ValueError, match=r"1 duplicated RNA id\(s\), first \['a'\]"):
        expression.read_expression(make_gct(tmp_path, ["g\tG\t1\t2"], samples=("a", "a")))


@pytest.mark.parametrize("cell", ["", "NA", "nan", "NaN", "null", " "])
def test_missing_values(tmp_path, cell):
    path = make_gct(tmp_path, ["g1\tG\t1\t2", f"g2\tG\t1\t{cell}", f"g3\tG\t{cell}\t3"])
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
        ("5e", "1 non-numeric value"),
        ("1e99", "1 too large value"),
    ],
)
def test_bad_values(tmp_path, cell, said):
    path = make_gct(tmp_path, ["g1\tG\t1\t2", f"g2\tG\t{cell}\t2"])
    with pytest.raises(ValueError, match=rf"{said}\(s\), first '{cell}' at gene g2, sample a"):
        expression.read_expression(path)
    assert expression.read_expression(path, columns=["b"])[0]["b"].tolist() == [
        2,
        2,
    ]  # not asked for: no matter


def test_not_a_text_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="expression_file"):
        gct_parquet.convert_to_parquet(tmp_path / "none.gct", tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="not a text table"):
        gct_parquet.convert_to_parquet(tmp_path / "x.h5ad", tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"starts with '#1\.2'"):
        expression.read_expression(make_gct(tmp_path, ROWS, head="#1.3"))
    with pytest.raises(ValueError, match="no gene rows"):
        expression.read_expression(make_gct(tmp_path, []))
    (tmp_path / "e.gct").write_text("")
    (tmp_path / "e.gct.gz").write_bytes(gzip.compress(b""))
    for name in ("e.gct", "e.gct.gz"):
        with pytest.raises(ValueError, match="the file is empty"):
            expression.read_expression(tmp_path / name)
    (tmp_path / "h.gct").write_text("#1.2\n1\t1\nGene\tSymbol\ta\ng\tG\t1\n")
    with pytest.raises(ValueError, match="no Name and Description"):
        expression.read_expression(tmp_path / "h.gct")
    (tmp_path / "p.gct.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="first line is '<html>404"):
        expression.read_expression(tmp_path / "p.gct.gz")


# -------------------------------------------------------------------------------------------- big tables


def test_conversion_to_parquet_reads_back_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(gct_parquet, "ROW_GROUP_BYTES", 0)
    monkeypatch.setattr(gct_parquet, "ROW_GROUP_GENES", 50)
    rng = np.random.default_rng(0)
    rows = [
        f"g{i}\tG{i}\t" + "\t".join(f"{v:.3f}" for v in row)
        for i, row in enumerate(rng.gamma(1, 9, (333, 4)))
    ]
    path = make_gct(tmp_path, rows, samples=list("abcd"), name="x.gct.gz")
    found = gct_parquet.convert_to_parquet(path, tmp_path / "x.parquet", columns=["d", "b", "a"])
    assert found["genes"] == 333
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 7
    direct = expression.read_expression(path, columns=["a", "d"])
    again = expression.read_expression(tmp_path / "x.parquet", columns=["a", "d"])
    for left, right in zip(direct, again, strict=True):
        pd.testing.assert_frame_equal(left, right)


def test_failed_conversion_leaves_no_file(tmp_path):
    for rows, size in ((ROWS, (9, 2)), (["g\tG\t1\t-1"], None), (["g\tG\t1\t1", "g\tG\t1\t1"], None)):
        path = make_gct(tmp_path, rows, size=size)
        with pytest.raises(ValueError, match=r"x\.gct"):
            gct_parquet.convert_to_parquet(path, tmp_path / "x.parquet")
        assert [p.name for p in tmp_path.iterdir()] == ["x.gct"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory with Linux's /proc")
def test_converting_takes_memory_that_does_not_grow_with_the_file(tmp_path):
    """400 MB of values (40,000 genes x 2,500 samples) converted by a process that stays below that."""
    path = tmp_path / "x.gct"
    ids = gct.write_gct(path, 40_000, 2_500)
    peak_gb = gct.peak_gb("parquet", path, ids)
    path.unlink()
    assert peak_gb < 0.3
    assert pq.read_metadata(tmp_path / "x.parquet").num_rows == 40_000


def test_writing_that_fails_stops_the_conversion(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(gct_parquet.pq.ParquetWriter, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        gct_parquet.convert_to_parquet(make_gct(tmp_path, ROWS), tmp_path / "x.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["x.gct"]


def test_what_was_found(tmp_path):
    path = make_gct(tmp_path, [*ROWS, "plain\tG4\t1\t1"], size=(9, 2))
    with pytest.raises(ValueError, match="ENSG0"):
        gct_parquet.convert_to_parquet(
            make_gct(tmp_path, ["ENSG01.2\tA\t1\t1"] * 2, name="y.gct"), tmp_path / "y.parquet"
        )
    found = gct_parquet.convert_to_parquet(path, tmp_path / "x.parquet", on_header_mismatch="report")
    assert found["genes"] == 4
    assert found["genes promised"] == 9
    assert found["symbols shared by several genes"] == 1
    assert found["genes with such a symbol"] == 2
    path = make_gct(tmp_path, ["ENSG01.2\tA\t1\t1", "ENSMUSG02.11\t\t1\t1", "ENSG03\tC\t1\t1"])
    assert gct_parquet.convert_to_parquet(path, tmp_path / "x.parquet")["versioned Ensembl ids"] == 2


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


def test_command_converts_the_samples_asked_for(tmp_path, capsys):
    path, out, ids = make_gct(tmp_path, ROWS), tmp_path / "x.parquet", tmp_path / "ids.txt"
    ids.write_text("b\na\n")
    assert gct_parquet.main([str(path), str(out), "--columns", str(ids)]) == 0
    assert pd.read_parquet(out).columns.tolist() == ["gene", "symbol", "biotype", "b", "a"]
    assert "genes" in capsys.readouterr().out
    ids.write_text("nobody\n")
    assert gct_parquet.main([str(path), str(tmp_path / "y.parquet"), "--columns", str(ids)]) == 1
    assert "nobody" in capsys.readouterr().err
    assert not (tmp_path / "y.parquet").exists()


def test_command_takes_an_extract_when_told(tmp_path, capsys):
    path, out = make_gct(tmp_path, ROWS, size=(5, 2)), tmp_path / "x.parquet"
    assert gct_parquet.main([str(path), str(out)]) == 1
    assert "--rows report" in capsys.readouterr().err
    assert gct_parquet.main([str(path), str(out), "--rows", "report"]) == 0
    assert "5 genes promised" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["1_000", "\u0661", "1_0.5"])
def test_numbers_that_only_python_reads_are_refused(tmp_path, cell):
    path = tmp_path / "x.gct"
    path.write_text(f"#1.2\n1\t2\nName\tDescription\ta\tb\ng1\tG\t{cell}\t2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"1 non-numeric value\\(s\\), first '{cell}' at gene g1, sample a"):
        expression.read_expression(path)
