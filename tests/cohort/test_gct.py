"""Text tables: pandas and Python's float are the reference; every kind of bad file; real files."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_gct import GTEX, ROWS, make_gct, needs_gtex

from lib.cohort import gct
from lib.cohort.expression import describe_expression, read_expression, rna_ids

# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["x.gct", "x.gct.gz"])
def test_gct(tmp_path, name, newline):
    path = make_gct(tmp_path, ROWS, name=name, newline=newline)
    expression_df, genes_df = read_expression(path)
    assert expression_df.index.tolist() == ["g1.1", "g2.3", "g3.1"]
    assert expression_df.index.name == genes_df.index.name == "gene"
    assert (expression_df.dtypes == np.float32).all()
    expected = np.array([[1, 2.5], [0, 1000], [0.000939, 123456.789]], np.float32)
    np.testing.assert_array_equal(expression_df.to_numpy(), expected)
    assert genes_df["symbol"].tolist() == ["G1", "G2", "G1"]
    assert rna_ids(path) == ["a", "b"]


def test_wanted_columns_in_the_order_asked_for(tmp_path):
    path = make_gct(tmp_path, ["g\tG\t1\t2\t3"], samples=("a", "b", "c"))
    expression_df, _ = read_expression(path, columns=["c", "a"])
    assert expression_df.columns.tolist() == ["c", "a"]
    assert expression_df.loc["g"].tolist() == [3, 1]
    with pytest.raises(ValueError, match="1 of 2 wanted RNA ids are missing: 'z'; the table has 'a', 'b'"):
        read_expression(path, columns=["a", "z"])


def test_gct_with_a_row_number_column_and_text_like_ids(tmp_path):
    path = tmp_path / "x.gct"
    path.write_text("#1.2\n2\t2\nid\tName\tDescription\t007\t1e5\n0\tg1\tMARCH1\t1\t2\n1\tg2\tNA\t3\t4\n")
    expression_df, genes_df = read_expression(path)
    assert expression_df.columns.tolist() == ["007", "1e5"]
    assert genes_df["symbol"].tolist() == ["MARCH1", "NA"]
    assert expression_df.to_numpy().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(("name", "separator"), [("x.csv", ","), ("x.tsv", "\t"), ("x.csv.gz", ",")])
def test_csv_and_tsv_with_quotes(tmp_path, name, separator):
    names = {"gene": ["g1", 'g"",2'], "symbol": ["A", 'B"q'], "biotype": ["lncRNA", ""]}
    frame = pd.DataFrame(names | {"s 1": [1.5, 0], "s2": [2e-7, 3]})
    frame.to_csv(tmp_path / name, sep=separator, index=False, quoting=2 if separator == "," else 0)
    expression_df, genes_df = read_expression(tmp_path / name)
    assert expression_df.columns.tolist() == ["s 1", "s2"]
    assert expression_df.index.tolist() == names["gene"]
    assert genes_df["symbol"].tolist() == names["symbol"]
    assert genes_df["biotype"].tolist() == names["biotype"]
    np.testing.assert_array_equal(expression_df.to_numpy(), np.array([[1.5, 2e-7], [0, 3]], np.float32))


def number_text():
    plain = st.floats(0, 1e7, allow_nan=False).flatmap(
        lambda x: st.sampled_from([f"{x:.4g}", f"{x:.0f}", f"{x:.6f}", repr(x), f"{x:.3e}", f"+{x:.2f}"])
    )
    long = st.from_regex(r"[0-9]{0,9}\.[0-9]{1,15}(e[+-]?[0-9]{1,2})?", fullmatch=True).filter(
        lambda text: float(text) < 3e38
    )
    odd = ["0", "0.0", ".5", "5.", "00012", "1E-12", "-0.0", "12345678901234567890", "1e-45", "2e38", "0e9"]
    return st.one_of(plain, long, st.sampled_from([*odd, " 7 ", '"8"']))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(number_text(), min_size=3, max_size=3), min_size=1, max_size=8))
def test_numbers_equal_those_of_python(tmp_path_factory, cells):
    rows = [f"g{i}\tG\t" + "\t".join(row) for i, row in enumerate(cells)]
    path = make_gct(tmp_path_factory.mktemp("n"), rows, samples=("a", "b", "c"))
    expected = [[float(cell.strip('"')) for cell in row] for row in cells]
    np.testing.assert_array_equal(read_expression(path)[0].to_numpy(), np.array(expected).astype(np.float32))


def test_numbers_next_to_the_middle_of_two_float32(tmp_path):
    """They are rounded to float64 first, then to float32, as numpy and pandas do."""
    x = np.random.default_rng(1).uniform(1, 2, 500).astype(np.float32)
    middle = (x.astype(np.float64) + np.nextafter(x, np.float32(3))) / 2
    cells = [f"{m + d:.17g}" for m in middle for d in (-4e-16, -2e-16, 0, 2e-16, 4e-16)]
    samples = [f"s{i}" for i in range(len(cells))]
    expression_df, _ = read_expression(make_gct(tmp_path, ["g\tG\t" + "\t".join(cells)], samples))
    np.testing.assert_array_equal(expression_df.to_numpy()[0], np.array(cells, float).astype(np.float32))


@pytest.mark.parametrize("block", [1, 700, 20_000])
@pytest.mark.parametrize("seed", range(4))
def test_any_columns_and_blocks_of_any_size_give_what_pandas_gives(tmp_path, monkeypatch, seed, block):
    monkeypatch.setattr(gct, "BLOCK_BYTES", block)
    monkeypatch.setattr(gct, "BLOCK_BYTES_PER_COLUMN", 0)
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 200))
    frame = pd.DataFrame({"gene": [f"g{i}" for i in range(20)], "symbol": 'S,"y'})
    for i in range(n):
        cells = [str(v) for v in np.round(rng.gamma(0.3, 50, 20), int(rng.integers(0, 9)))]
        frame[f"s{i}"] = [f"a,{c}" for c in cells] if i % 7 == 3 else cells  # text, where nothing is wanted
    path, newline = tmp_path / "x.csv.gz", rng.choice(["\n", "\r\n"])
    frame.to_csv(path, index=False, quoting=int(rng.integers(0, 2)), lineterminator=newline)
    numbers = [f"s{i}" for i in range(n) if i % 7 != 3]
    wanted = rng.permutation(numbers)[: int(rng.integers(1, len(numbers) + 1))].tolist()
    expression_df, genes_df = read_expression(path, columns=wanted)
    oracle_df = pd.read_csv(path, usecols=["gene", "symbol", *wanted])
    np.testing.assert_array_equal(expression_df.to_numpy(), oracle_df[wanted].to_numpy(np.float32))
    assert expression_df.index.tolist() == oracle_df["gene"].tolist()
    assert genes_df["symbol"].tolist() == oracle_df["symbol"].tolist()


@pytest.mark.parametrize("name", ["x.gct", "x.gct.gz"])
@pytest.mark.parametrize("end", ["", "\n\n", "\r\n", "\n\r\n"])
def test_any_end_of_the_file(tmp_path, name, end):
    path = tmp_path / name
    data = ("#1.2\n2\t2\nName\tDescription\ta\tb\ng1\tG\t1\t2\n\ng2\tG\t3\t4" + end).encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_expression(path)[0].to_numpy().tolist() == [[1, 2], [3, 4]]
    assert read_expression(path, columns=["a"])[0].to_numpy().tolist() == [[1], [3]]


def test_gzip_of_several_members_with_padding(tmp_path):
    path = make_gct(tmp_path, ROWS)
    data = path.read_bytes()
    joined = tmp_path / "y.gct.gz"
    joined.write_bytes(gzip.compress(data[:40]) + gzip.compress(data[40:]) + b"\0" * 512)
    left, right = (read_expression(p)[0] for p in (path, joined))
    pd.testing.assert_frame_equal(left, right)


# ----------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("size", [(5, 2), (2, 2), (3, 9), (10**15, 2)])
def test_header_that_promises_another_size(tmp_path, size):
    path = make_gct(tmp_path, ROWS, size=size)
    sizes = f"promises {size[0]:,} genes x {size[1]} samples, the file has 3 x 2.*expression_rows = 'report'"
    with pytest.raises(ValueError, match=sizes):
        read_expression(path)
    expression_df, genes_df = read_expression(path, on_header_mismatch="report")
    assert expression_df.shape == (3, 2)
    found = describe_expression(expression_df, genes_df).set_index("what")["n"]
    assert found["genes promised (file)"] == size[0]
    assert found["genes (file)"] == 3
    assert found["symbols shared by several genes"] == 1
    assert found["genes with such a symbol"] == 2
    with pytest.raises(ValueError, match="on_header_mismatch = 'ignore'; choose"):
        read_expression(path, on_header_mismatch="ignore")


def test_truncated_and_corrupt_gzip(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"g{i}\tG\t" + "\t".join(map(str, row)) for i, row in enumerate(rng.random((2000, 2)))]
    path = make_gct(tmp_path, rows, name="x.gct.gz")
    data = path.read_bytes()
    for n_bytes in (15, len(data) // 50, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:n_bytes])
        with pytest.raises(ValueError, match=rf"x\.gct\.gz: truncated gzip data \({n_bytes:,} bytes.*again"):
            read_expression(path)
    for at in (len(data) // 2, len(data) - 6):  # the second is in the checksum
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"x\.gct\.gz: (corrupt|truncated) gzip data|non-numeric|fields"):
            read_expression(path)


@pytest.mark.parametrize("n_fields", [1, 2, 3, 40, 101, 103, 150])
@pytest.mark.parametrize("wanted", [["s0"], ["s50"], ["s99"], None])
def test_ragged_rows_and_truncated_text(tmp_path, n_fields, wanted):
    samples = [f"s{i}" for i in range(100)]
    rows = ["\t".join(["g", "G", *["1.5"] * 100])] * 2 + ["\t".join(["h", "H", *["1.5"] * 150][:n_fields])]
    path = make_gct(tmp_path, rows, samples)
    with pytest.raises(ValueError, match=rf"line 'h.* has {n_fields} fields, the header 102; .* again"):
        read_expression(path, columns=wanted)


def test_duplicated_ids(tmp_path):
    with pytest.raises(ValueError, match="duplicated gene id 'g1', 'g2'; keep"):
        read_expression(make_gct(tmp_path, [f"g{i}\tG\t1\t2" for i in (1, 2, 3, 1, 2, 1)]))
    with pytest.raises(ValueError, match="duplicated RNA id 'a'; keep"):
        read_expression(make_gct(tmp_path, ["g\tG\t1\t2"], samples=("a", "a")))


@pytest.mark.parametrize("cell", ["", "NA", "nan", "NaN", "null", ".", " "])
def test_missing_values(tmp_path, cell):
    path = make_gct(tmp_path, ["g1\tG\t1\t2", f"g2\tG\t1\t{cell}", f"g3\tG\t{cell}\t3"])
    with pytest.raises(ValueError, match=r"2 missing value\(s\), first '.*' at gene g2, sample b"):
        read_expression(path)


def test_several_kinds_of_bad_values(tmp_path):
    rows = [f"g{i}\tG\t{'x' if i % 2 else i}\t{-1 if i == 7 else 1}" for i in range(10)]
    said = (
        r"5 non-numeric value\(s\), first 'x' at gene g1, sample a; 1 negative .* '-1' at gene g7, sample b"
    )
    with pytest.raises(ValueError, match=rf"x\.gct, genes g0 to g9: {said}; correct the table"):
        read_expression(make_gct(tmp_path, rows))


@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        ("negative", ["-0.5", "-3"]),
        ("non-numeric", ["abc", "1,5", "1.2.3", "-", "5 mg", "5e", "0x10", "1_000", "\u0661"]),
        ("too large", ["1e99", "3.5e38", "inf", "1e999"]),
    ],
)
def test_bad_values(tmp_path, kind, cells):
    for cell in cells:
        path = make_gct(tmp_path, ["g1\tG\t1\t2", f"g2\tG\t{cell}\t2"])
        with pytest.raises(ValueError, match=rf"1 {kind} value\(s\), first '{cell}' at gene g2, sample a"):
            read_expression(path)
        assert read_expression(path, columns=["b"])[0]["b"].tolist() == [2, 2]  # the other sample is read


@pytest.mark.parametrize(
    "row", ["g2\tG\t4\r37.5\t2", "g2\tG\t1\t4\r37.5", "g2\tG\r\t1\t2", "g2\tG\t1\t4\rg3\tG\t1\t2"]
)
def test_carriage_return_inside_a_line(tmp_path, row):
    for newline in ("\n", "\r\n"):
        path = make_gct(tmp_path, [ROWS[0], row, ROWS[2]], newline=newline)
        for columns in (None, ["a"]):
            with pytest.raises(ValueError, match=r"carriage return inside the line b'g2.*\\n or \\r\\n"):
                read_expression(path, columns=columns)
    path = tmp_path / "old_mac.csv"
    path.write_text("gene,a\rg1,1\rg2,2\r")
    with pytest.raises(ValueError, match="carriage return inside the line b'gene,a"):
        read_expression(path)


def test_quoted_newline(tmp_path):
    """Without the check the two lines would be read as one gene."""
    path = make_gct(tmp_path, [ROWS[0], 'g2\t"B\t1\t2', 'g3\tC"\t3\t4'])
    with pytest.raises(ValueError, match=r"a quoted cell spans several of the 3 lines.*quotation marks"):
        read_expression(path)


@pytest.mark.parametrize("head", ["", "gene\ta\n"])
def test_line_without_an_end(tmp_path, head):
    path = tmp_path / "x.tsv.gz"
    path.write_bytes(gzip.compress(head.encode()) + gzip.compress(b"1.5\t" * (1 << 20)) * 100)  # 400 MB
    with pytest.raises(ValueError, match=r"x\.tsv\.gz: a line has more than 67,108,864 bytes, .* end in"):
        read_expression(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "v.gct",
            "#1.3\n1\t1\nName\tDescription\ta\ng\tG\t1\n",
            r"first line is '#1\.3'.*starts with '#1\.2'",
        ),
        ("s.gct", "#1.2\nName\tDescription\ta\ng\tG\t1\n", "second line is 'Name"),
        ("h.gct", "#1.2\n1\t1\nGene\tSymbol\ta\ng\tG\t1\n", "no Name and Description"),
        ("n.gct", "#1.2\n1\t0\nName\tDescription\ng\tG\n", "no sample columns"),
        ("r.gct", "#1.2\n0\t1\nName\tDescription\ta\n", "no gene rows"),
        ("e.gct", "", "the file is empty"),
        ("e.gct.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("p.gct.gz", "<html>404</html>", "first line is '<html>404"),
    ],
)
def test_not_a_gct(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said):
        read_expression(tmp_path / name)


# ------------------------------------------------------------------------------------------ real files


@needs_gtex
def test_real_extract_whose_header_promises_the_whole_release():
    path = GTEX / "GTEx_v8_gene_reads.acmg_59.gct.gz"
    ids = rna_ids(path)
    assert len(ids) == 17_382
    with pytest.raises(ValueError, match="promises 56,200 genes x 17,382 samples, the file has 59 x 17,382"):
        read_expression(path, columns=ids[:5])
    expression_df, genes_df = read_expression(path, columns=ids[-3:], on_header_mismatch="report")
    oracle_df = pd.read_csv(
        path, sep="\t", skiprows=2, index_col=0, usecols=["Name", "Description", *ids[-3:]]
    )
    np.testing.assert_array_equal(expression_df.to_numpy(), oracle_df[ids[-3:]].to_numpy(np.float32))
    assert genes_df.loc["ENSG00000117118.9", "symbol"] == "SDHB"
