"""Expression tables: GCT, csv, tsv, parquet, h5ad in; duplicates; CPM; log2(1+TPM); gene names and filters.

Genes are rows, RNA samples are columns, values float32 TPM, CPM or counts, never logged in a file. Text
tables are streamed: one thread inflates while another parses, and only the columns wanted are kept. METHOD
section 1.
"""

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

try:  # Intel's inflate is twice as fast; the results are the same
    from isal import isal_zlib as zlib
except ImportError:
    import zlib

SYMBOL_COLUMNS = ("description", "symbol", "gene_name", "gene_symbol")
BIOTYPE_COLUMNS = ("biotype", "gene_biotype", "gene_type")
MISSING_TEXT = ("", "na", "n/a", "nan", "null", "none", "-nan", "#n/a")
NEWLINE, RETURN, POINT, QUOTE = 10, 13, 46, 34
BLOCK_BYTES = 4 << 20  # text parsed at a time; larger gains nothing
ROW_GROUP_BYTES = 160 << 20  # float32 values per parquet row group when converting


class Header(NamedTuple):
    """What the top of a text table says. `columns`: all names; `n_genes`, `n_rna`: promised, or -1."""

    # roles: see _roles; n_lines: lines above the first gene

    columns: list[str]
    roles: list[str | None]
    delimiter: str
    n_lines: int
    n_genes: int
    n_rna: int


# -------------------------------------------------------------------------------------------- reading


def read_expression(
    path: str | Path, columns: Sequence[str] | None = None, *, on_header_mismatch: str = "error"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read genes x RNA samples from .gct, .csv, .tsv, .txt (each also .gz), .parquet or .h5ad.

    In csv and tsv the first column is the gene id; columns called symbol, Description, gene_name, biotype and
    the like describe the gene; all others are RNA samples.

    Parameters
    ----------
    columns : RNA ids wanted, in this order; None is all (`rna_ids` lists them without reading values).
    on_header_mismatch : a GCT whose second line promises another size than the file has: `"error"` (a
        truncated download is the usual reason) or `"report"`, which accepts it and leaves both numbers in
        `attrs["found"]`.

    Returns
    -------
    expression_df : float32, index "gene", columns RNA ids; `attrs["found"]` holds counts for
    `describe_expression`.
    genes_df : index "gene", columns symbol, biotype (text, empty where unknown).

    Raises
    ------
    FileNotFoundError
    ValueError
        Unknown format; truncated or corrupt gzip; header that lies; duplicated gene or RNA ids; ragged rows;
        unknown `columns`; missing, negative or non-numeric values (first gene and sample, and how many).
    RuntimeError
        .h5ad without the anndata package.
    """
    path, kind = _kind(path)
    if on_header_mismatch not in ("error", "report"):
        raise ValueError(f"on_header_mismatch {on_header_mismatch!r}: choose 'error' or 'report'.")
    if kind == "parquet":
        expression_df, genes_df = _read_parquet(path, columns)
    elif kind == "h5ad":
        expression_df, genes_df = _read_h5ad(path, columns)
    else:
        return _read_text(path, columns, on_header_mismatch)
    check_expression(expression_df, source=str(path))
    expression_df.attrs["found"] = {"genes": len(expression_df), "RNA samples": expression_df.shape[1]}
    return expression_df, genes_df


def _kind(path: str | Path) -> tuple[Path, str]:
    path = Path(path)
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind not in ("gct", "csv", "tsv", "txt", "parquet", "h5ad"):
        raise ValueError(f"{path}: expression is .gct, .csv, .tsv, .txt (each also .gz), .parquet or .h5ad.")
    if not path.is_file():
        raise FileNotFoundError(f"No expression table at {path}. Check expression_file in the cohort's TOML.")
    return path, kind


def rna_ids(path: str | Path) -> list[str]:
    """RNA ids of an expression table, from its head alone. Errors as in `read_expression`."""
    path, kind = _kind(path)
    if kind == "parquet":
        names = pq.read_schema(path).names
        return [n for n in names if n not in ("gene", "__index_level_0__") and _role(n) is None]
    if kind == "h5ad":
        return [str(i) for i in _anndata().read_h5ad(path, backed="r").obs_names]
    return _samples(read_header(path))


def _role(name: str) -> str | None:
    lower = name.lower()
    return "symbol" if lower in SYMBOL_COLUMNS else "biotype" if lower in BIOTYPE_COLUMNS else None


def _samples(header: Header) -> list[str]:
    return [name for name, role in zip(header.columns, header.roles, strict=True) if role is None]


def _roles(columns: Sequence[str], is_gct: bool) -> list[str | None]:
    """Of each column: "gene", "symbol", "biotype", "skip" (the row number of some GCTs) or None, a sample."""
    gene = [name.lower() for name in columns].index("name") if is_gct else 0
    return [_role(name) if i > gene else "gene" if i == gene else "skip" for i, name in enumerate(columns)]


def read_header(path: str | Path) -> Header:
    """Column names of a text table and, for a GCT, the size its second line promises.

    Raises
    ------
    ValueError
        Not a GCT 1.2, no Name and Description column, no samples, duplicated RNA ids.
    """
    path, kind = _kind(path)
    lines = _first_lines(path, 3 if kind == "gct" else 1)
    if kind != "gct":
        delimiter = "," if kind == "csv" else "\t"
        names = [c.strip() for c in next(csv.reader(lines, delimiter=delimiter))]
        header = Header(names, _roles(names, False), delimiter, 1, -1, -1)
    else:
        if lines[0].strip() != "#1.2" or len(lines) < 3:
            raise ValueError(
                f"{path}: first line is {lines[0][:40]!r}; a GCT 1.2 starts with '#1.2' and has 3 head lines."
            )
        size = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", lines[1])
        if not size:
            raise ValueError(
                f"{path}: second line {lines[1][:40]!r} should be the numbers of genes and samples."
            )
        names = [c.strip() for c in lines[2].split("\t")]
        if not {"name", "description"} <= {n.lower() for n in names}:
            raise ValueError(f"{path}: third line has no Name and Description column; it starts {names[:3]}.")
        header = Header(names, _roles(names, True), "\t", 3, int(size[1]), int(size[2]))
    samples = _samples(header)
    if not samples:
        raise ValueError(f"{path}: no sample columns; the header is {header.columns[:5]}.")
    _refuse_duplicates(pd.Index(samples), "RNA id", str(path))
    return header


def _first_lines(path: Path, n: int) -> list[str]:
    text = b""
    for block in text_blocks(path):
        text += block
        if text.count(b"\n") >= n:
            break
    if not text.strip():
        raise ValueError(f"{path}: the file is empty.")
    return [line.rstrip("\r") for line in text.decode("utf-8-sig", errors="replace").split("\n")[:n]]


def text_blocks(path: Path, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The file's text in pieces of at most `size` bytes, inflated if it is gzip (several members allowed).

    Raises
    ------
    ValueError
        Truncated or corrupt gzip.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            while block := file.read(size):
                yield block
            return
        file.seek(0)
        inflater, n_text, raw = zlib.decompressobj(31), 0, b""
        while raw or (raw := file.read(1 << 20)):
            if inflater.eof:  # a further gzip member, or zero padding after the last
                raw = raw.lstrip(b"\0")
                if not raw:
                    continue
                inflater = zlib.decompressobj(31)
            try:
                block = inflater.decompress(raw, size)
            except zlib.error as error:
                raise ValueError(
                    f"{path}: gzip data corrupt after {n_text:,} bytes of text ({error}). Fetch it again."
                ) from error
            n_text += len(block)
            if block:
                yield block
            raw = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        while not inflater.eof and (block := inflater.decompress(b"", size)):  # held back by `size`
            yield block
        if not inflater.eof:
            raise ValueError(f"{path}: gzip ends early, after {n_text:,} bytes of text. Fetch it again.")


# --------------------------------------------------------------------------- the streaming text reader


@numba.njit(cache=True, nogil=True)
def _parse(text, delimiter, target, values, spans, odd, powers):
    """Parse lines of `text` (uint8, ends with a newline) until it or one of the outputs is used up.

    target: per column, >= 0 column of `values`, -1 skip, -2-k text span k. values: (rows, n) float32. spans:
    (rows, 3, 2) byte offsets. odd: (m, 4) int64 row, column of `values`, start, stop of cells left to Python.
    Returns rows, bytes used, odd cells, and the number of fields of a ragged line (-1: none).
    """
    n_columns, n_rows, n_odd = len(target), 0, 0
    position, end, one = np.uint64(0), np.uint64(len(text)), np.uint64(1)  # unsigned: a quarter faster
    while position < end and n_rows < len(values) and n_odd + n_columns <= len(odd):
        c = text[position]
        if c == NEWLINE or (c == RETURN and text[position + one] == NEWLINE):  # an empty line
            position += one
            continue
        column = 0
        while True:
            start = position
            where = target[column] if column < n_columns else -1
            c = text[position]
            if where >= 0:  # [digits][.digits] is nearly every cell; the rest goes to Python
                digits, n_after = 0, 0
                while 48 <= c <= 57:
                    digits = digits * 10 + (c - 48)
                    position += one
                    c = text[position]
                n_digits = np.int64(position - start)
                if c == POINT:
                    position += one
                    c = text[position]
                    while 48 <= c <= 57:
                        digits = digits * 10 + (c - 48)
                        n_after += 1
                        position += one
                        c = text[position]
                n_digits += n_after
                values[n_rows, where] = digits / powers[min(n_after, 22)]
                if n_digits == 0 or n_digits > 15 or (c != delimiter and c != NEWLINE and c != RETURN):
                    odd[n_odd, 0], odd[n_odd, 1], odd[n_odd, 2] = n_rows, where, start
                    n_odd += 1
                    where = -9
            elif c == QUOTE:
                position += one
                while text[position] != QUOTE and text[position] != NEWLINE:
                    position += one
            while text[position] != delimiter and text[position] != NEWLINE:
                position += one
            stop = position - one if position > start and text[position - one] == RETURN else position
            if where == -9:
                odd[n_odd - 1, 3] = stop
            elif where <= -2:
                spans[n_rows, -2 - where, 0], spans[n_rows, -2 - where, 1] = start, stop
            column += 1
            position += one
            if text[position - one] == NEWLINE:
                break
        if column != n_columns:
            return n_rows, position, n_odd, column
        n_rows += 1
    return n_rows, position, n_odd, -1


class _Problems:
    """Counts of bad cells by kind, with the first gene, sample and text of each; raised together."""

    def __init__(self) -> None:
        self.seen: dict[str, list] = {}

    def add(self, kind: str, gene: str, rna_id: str, text: str, n: int = 1) -> None:
        self.seen.setdefault(kind, [0, gene, rna_id, text])[0] += n

    def refuse(self, source: str) -> None:
        if self.seen:
            said = [
                f"{n} {kind} value(s), first {text!r} at gene {gene}, sample {rna_id}"
                for kind, (n, gene, rna_id, text) in self.seen.items()
            ]
            raise ValueError(
                f"{source}: {'; '.join(said)}. Correct the table or leave those genes or samples out."
            )


Sink = Callable[[np.ndarray, list[list[str]]], None]


def _stream(path: Path, header: Header, wanted: list[str], sink: Sink) -> None:
    """Parse a text table; hand pieces (values rows x wanted, [genes, symbols, biotypes]) to `sink`."""
    at = {name: i for i, name in enumerate(wanted)}
    text_at = {"gene": -2, "symbol": -3, "biotype": -4}
    pairs = zip(header.columns, header.roles, strict=True)
    target = np.array([text_at.get(role, -1) if role else at.get(name, -1) for name, role in pairs])
    n_rows = max(1, BLOCK_BYTES // (4 * len(wanted)), BLOCK_BYTES // (4 * len(header.columns)))
    values = np.empty((n_rows, len(wanted)), np.float32)
    spans = np.zeros((n_rows, 3, 2), np.int64)
    odd = np.empty((max(4096, 2 * len(header.columns)), 4), np.int64)
    powers, given = 10.0 ** np.arange(23), set(target.tolist())
    problems, n_done, n_skip, tail = _Problems(), 0, header.n_lines, b""
    blocks = text_blocks(path)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, blocks, None)
        while True:
            block = coming.result()
            if block is not None:
                coming = pool.submit(next, blocks, None)
            text = tail + (block or b"")
            while n_skip and b"\n" in text:
                text, n_skip = text.partition(b"\n")[2], n_skip - 1
            if block is None and text and not text.endswith(b"\n"):
                text += b"\n"
            whole = text.rfind(b"\n") + 1
            whole = 0 if n_skip else whole
            lines, used = np.frombuffer(text, np.uint8, whole), 0
            while used < whole:
                got, n_used, n_odd, n_fields = _parse(
                    lines[used:], ord(header.delimiter), target, values, spans, odd, powers
                )
                if n_fields >= 0:
                    raise ValueError(
                        f"{path}: gene row {n_done + got + 1} has {n_fields} fields where the header has "
                        f"{len(header.columns)}. The file is damaged or cut off; fetch it again."
                    )
                shifted = spans[:got] + used
                names = [
                    [_unquoted(text[a:b]) for a, b in shifted[:, k].tolist()]
                    if -2 - k in given
                    else [""] * got
                    for k in range(3)
                ]
                odd[:n_odd, 2:] += used
                _settle(values, odd[:n_odd], text, names[0], wanted, problems)
                if got:
                    sink(values[:got], names)
                n_done, used = n_done + got, used + n_used
            tail = text[whole:]
            if block is None:
                break
    problems.refuse(str(path))


def _unquoted(name: bytes) -> str:
    text = name.decode("utf-8", errors="replace").strip()
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def _settle(values, odd, text: bytes, genes: list[str], wanted: list[str], problems: _Problems) -> None:
    """Cells the kernel left: exponents, signs, quotes, long numbers are read; the rest are problems."""
    for row, column, start, stop in odd.tolist():
        cell = _unquoted(text[start:stop])
        try:
            number = float(cell)
        except ValueError:
            number = np.nan
        kind = ""
        if cell.lower() in MISSING_TEXT or (np.isnan(number) and cell.lower() == "nan"):
            kind = "missing"
        elif not np.isfinite(number):
            kind = "non-numeric"
        elif number < 0:
            kind = "negative"
        if kind:
            problems.add(kind, genes[row], wanted[column], cell)
        values[row, column] = number


def _wanted(samples: Sequence[str], wanted: Sequence[str] | None, source: str) -> list[str]:
    if wanted is None:
        return list(samples)
    wanted = [str(w) for w in wanted]
    _refuse_duplicates(pd.Index(wanted), "wanted RNA id", source)
    known = set(samples)
    absent = [w for w in wanted if w not in known]
    if absent or not wanted:
        raise ValueError(
            f"{source}: {len(absent)} of {len(wanted)} wanted RNA ids are not there, first {absent[:3]}; "
            f"the table has {len(samples)}, first {list(samples[:3])}."
        )
    return wanted


def _read_text(
    path: Path, columns: Sequence[str] | None, on_header_mismatch: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    header = read_header(path)
    wanted = _wanted(_samples(header), columns, str(path))
    # Room for the rows promised, but never more than the bytes of the file can hold (gzip shrinks 1032-fold
    # at most); untouched room costs no memory.
    n_possible = 1032 * path.stat().st_size // (2 * len(header.columns)) + 1
    n_promised = header.n_genes if header.n_genes >= 0 else 65_536
    kept = [np.empty((min(n_possible, n_promised), len(wanted)), np.float32)]
    names: list[list[str]] = [[], [], []]

    def keep(values: np.ndarray, piece_names: list[list[str]]) -> None:
        start = len(names[0])
        stop = start + len(values)
        if stop > len(kept[0]):
            larger = np.empty((max(stop, 3 * len(kept[0]) // 2), len(wanted)), np.float32)
            larger[:start] = kept[0][:start]
            kept[0] = larger
        kept[0][start:stop] = values
        for column, more in zip(names, piece_names, strict=True):
            column.extend(more)

    _stream(path, header, wanted, keep)
    found = _check_promise(path, header, len(names[0]), on_header_mismatch)
    genes = pd.Index(names[0], name="gene", dtype=object)
    _refuse_duplicates(genes, "gene id", str(path))
    values = kept[0][: len(genes)]
    expression_df = pd.DataFrame(values, genes, pd.Index(wanted, dtype=object), copy=False)
    expression_df.attrs["found"] = found
    return expression_df, _genes_df(genes, names[1], names[2])


def _check_promise(path: Path, header: Header, n_genes: int, on_mismatch: str) -> dict[str, int]:
    """Compare a GCT's promised size with what is there; returns the counts as a report."""
    n_rna = len(_samples(header))
    found = {"genes": n_genes, "RNA samples": n_rna}
    if n_genes == 0:
        raise ValueError(f"{path}: no gene rows below the header.")
    if header.n_genes < 0:
        return found
    found |= {"genes promised": header.n_genes, "RNA samples promised": header.n_rna}
    if (n_genes, n_rna) != (header.n_genes, header.n_rna) and on_mismatch == "error":
        raise ValueError(
            f"{path}: the header promises {header.n_genes:,} genes x {header.n_rna:,} samples, the file has "
            f"{n_genes:,} x {n_rna:,}. It may be cut off: fetch it again. If it is an extract and "
            "meant to be so, set expression_rows = 'report'."
        )
    return found


def _genes_df(genes: pd.Index, symbols: Sequence[str], biotypes: Sequence[str]) -> pd.DataFrame:
    """Index gene, columns symbol and biotype; the gene id stands in for a symbol that is missing."""
    symbol = [s or g for s, g in zip(symbols, genes, strict=True)]
    return pd.DataFrame({"symbol": symbol, "biotype": list(biotypes)}, index=genes, dtype=object)


def convert_to_parquet(
    path: str | Path,
    out_path: str | Path,
    columns: Sequence[str] | None = None,
    *,
    on_header_mismatch: str = "error",
) -> dict[str, int]:
    """Text table of any size to parquet (gene, symbol, biotype, then float32 samples) in bounded memory.

    Rows are written in groups of about 160 MB, so memory does not grow with the number of genes. The file
    appears under its name only when it is complete. Returns the counts found; errors as in `read_expression`.
    """
    path, kind = _kind(path)
    if kind in ("parquet", "h5ad"):
        raise ValueError(f"{path}: only text tables (.gct, .csv, .tsv, .txt) need converting.")
    header, out_path = read_header(path), Path(out_path)
    wanted = _wanted(rna_ids(path), columns, str(path))
    fields = [(n, pa.string()) for n in ("gene", "symbol", "biotype")]
    schema = pa.schema(fields + [(rna_id, pa.float32()) for rna_id in wanted])
    partial = out_path.with_name(out_path.name + ".partial")
    n_group = max(1, ROW_GROUP_BYTES // (4 * len(wanted)))
    group = np.empty((n_group, len(wanted)), np.float32, order="F")
    names: list[list[str]] = [[], [], []]
    genes: list[str] = []
    try:
        with pq.ParquetWriter(
            partial, schema, compression="lz4", use_dictionary=False, write_statistics=False
        ) as writer:

            def flush() -> None:
                n = len(names[0])
                arrays = [pa.array(column, pa.string()) for column in names]
                arrays += [pa.array(group[:n, i]) for i in range(len(wanted))]
                if n:
                    writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=n)
                genes.extend(names[0])
                for column in names:
                    column.clear()

            def keep(values: np.ndarray, piece_names: list[list[str]]) -> None:
                start = 0
                while start < len(values):
                    n_held = len(names[0])
                    n_now = min(len(values) - start, len(group) - n_held)
                    group[n_held : n_held + n_now] = values[start : start + n_now]
                    for column, more in zip(names, piece_names, strict=True):
                        column.extend(more[start : start + n_now])
                    start += n_now
                    if len(names[0]) == len(group):
                        flush()

            _stream(path, header, wanted, keep)
            flush()
            found = _check_promise(path, header, len(genes), on_header_mismatch)
            _refuse_duplicates(pd.Index(genes), "gene id", str(path))
        os.replace(partial, out_path)
    finally:
        partial.unlink(missing_ok=True)
    return found


# --------------------------------------------------------------------------------- parquet and h5ad


def _read_parquet(path: Path, columns: Sequence[str] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    with pq.ParquetFile(path) as file:
        schema, n_rows = file.schema_arrow, file.metadata.num_rows
        described = [n for n in schema.names if n in ("gene", "__index_level_0__") or _role(n)]
        wanted = _wanted([n for n in schema.names if n not in described], columns, str(path))
        text = [n for n in wanted if not _is_number(schema.field(n).type)]
        if text:
            raise ValueError(f"{path}: {len(text)} sample column(s) are not numbers, first {text[0]!r}.")
        gene_column = next((n for n in ("gene", "__index_level_0__") if n in described), None)
        if gene_column is None:
            raise ValueError(f"{path}: no gene ids; give them as the index or a column called 'gene'.")
        names: dict[str, list[str]] = {name: [] for name in described}
        values, start = np.empty((n_rows, len(wanted)), np.float32), 0
        for batch in file.iter_batches(
            batch_size=8192, columns=[*described, *wanted]
        ):  # never twice in memory
            for name in described:
                names[name] += ["" if v is None else str(v) for v in batch.column(name).to_pylist()]
            for i, name in enumerate(wanted):
                values[start : start + len(batch), i] = batch.column(name).to_numpy(zero_copy_only=False)
            start += len(batch)
    genes = pd.Index(names[gene_column], name="gene", dtype=object)
    by_role = {_role(name): column for name, column in names.items()}
    blank = [""] * n_rows
    expression_df = pd.DataFrame(values, genes, pd.Index(wanted, dtype=object), copy=False)
    return expression_df, _genes_df(genes, by_role.get("symbol", blank), by_role.get("biotype", blank))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _read_h5ad(path: Path, columns: Sequence[str] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    data = _anndata().read_h5ad(path)
    wanted = _wanted([str(i) for i in data.obs_names], columns, str(path))
    data = data[wanted]
    values = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    genes = pd.Index(data.var_names.astype(str), name="gene", dtype=object)
    text = {_role(n): data.var[n].astype(str) for n in data.var.columns if _role(n)}
    blank = [""] * len(genes)
    genes_df = _genes_df(genes, list(text.get("symbol", blank)), list(text.get("biotype", blank)))
    columns_index = pd.Index(wanted, dtype=object)
    expression_df = pd.DataFrame(np.asarray(values.T, dtype=np.float32), genes, columns_index, copy=False)
    return expression_df, genes_df


def _anndata():
    try:
        import anndata
    except ImportError as error:
        raise RuntimeError("Reading .h5ad needs anndata: pip install anndata. Or save as parquet.") from error
    return anndata


# --------------------------------------------------------------------------------------------- checks


def _refuse_duplicates(ids: pd.Index, what: str, source: str) -> None:
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise ValueError(
            f"{source}: {len(repeated)} duplicated {what}(s), first {list(repeated[:3])}. Keep one of each."
        )


def check_expression(expression_df: pd.DataFrame, source: str = "expression table") -> None:
    """Refuse duplicated ids, missing, negative and infinite values, naming the first of each and how many.

    Raises
    ------
    ValueError
    """
    _refuse_duplicates(expression_df.index, "gene id", source)
    _refuse_duplicates(expression_df.columns, "RNA id", source)
    problems, values = _Problems(), expression_df.to_numpy()
    for start in range(0, len(values), 4096):  # the masks stay small
        block = values[start : start + 4096]
        masks = {"missing": np.isnan(block), "negative": block < 0, "infinite": np.isposinf(block)}
        for kind, bad in masks.items():
            if bad.any():
                row, column = np.argwhere(bad)[0]
                gene, rna_id = expression_df.index[start + row], expression_df.columns[column]
                problems.add(kind, str(gene), str(rna_id), str(block[row, column]), int(bad.sum()))
    problems.refuse(source)


def describe_expression(expression_df: pd.DataFrame, genes_df: pd.DataFrame) -> pd.DataFrame:
    """What was read, for the notebook to print.

    Returns
    -------
    DataFrame
        Columns what, n: size, the header's promise, versioned Ensembl ids, symbols that several genes share,
        genes without any expression, and the range of the column sums (1,000,000 for TPM of all genes).
    """
    symbols = genes_df["symbol"]
    values = expression_df.to_numpy()
    sums = values.sum(axis=0, dtype=np.float64)
    found = {f"{key} (file)": n for key, n in expression_df.attrs.get("found", {}).items()}
    found |= {
        "genes kept": len(expression_df),
        "RNA samples kept": expression_df.shape[1],
        "versioned Ensembl ids": int(expression_df.index.str.match(r"ENS[A-Z]*G\d+\.\d+").sum()),
        "symbols shared by several genes": int(symbols[symbols.duplicated()].nunique()),
        "genes with such a symbol": int(symbols.duplicated(keep=False).sum()),
        "genes zero in every sample": int((values.max(axis=1) == 0).sum()),
        "smallest column sum": round(float(sums.min())),
        "largest column sum": round(float(sums.max())),
    }
    return pd.DataFrame({"what": list(found), "n": list(found.values())})


# --------------------------------------------------------------------------------- values and samples


def combine_duplicates(
    expression_df: pd.DataFrame, pairing_df: pd.DataFrame, how: str = "mean"
) -> pd.DataFrame:
    """Genes x RNA samples to genes x samples (METHOD section 1).

    Parameters
    ----------
    expression_df : TPM or CPM, columns RNA ids.
    pairing_df : columns sample_id, rna_id (`pairing.pair_rna`).
    how : several RNA samples of one sample: `"mean"` of log2(1+TPM), taken back to TPM; `"first"` in the
        order of `pairing_df`; `"error"`.

    Returns
    -------
    DataFrame
        float32, columns sample_id in order of first appearance.

    Raises
    ------
    ValueError
        Unknown `how`; RNA ids the table lacks; duplicates under `"error"`.
    """
    if how not in ("mean", "first", "error"):
        raise ValueError(f"duplicates = {how!r}: choose 'mean', 'first' or 'error'.")
    absent = pairing_df["rna_id"][~pairing_df["rna_id"].isin(expression_df.columns)]
    if len(absent):
        raise ValueError(f"{len(absent)} paired RNA ids are not in the expression table: {list(absent[:3])}.")
    several = pairing_df[pairing_df["sample_id"].duplicated(keep=False)]
    if how == "error" and len(several):
        names = list(several["sample_id"].unique())
        raise ValueError(
            f"{len(names)} samples have several RNA samples: {names[:3]}. Set duplicates = 'mean'."
        )
    first_df = pairing_df.drop_duplicates("sample_id")
    values = expression_df[first_df["rna_id"].tolist()].to_numpy(np.float32, copy=True)
    if how == "mean":
        column_of = {sample_id: i for i, sample_id in enumerate(first_df["sample_id"])}
        for sample_id, rna in several.groupby("sample_id", sort=False)["rna_id"]:
            logged = np.log1p(expression_df[rna.tolist()].to_numpy(np.float64))
            values[:, column_of[sample_id]] = np.expm1(logged.mean(axis=1))
    columns = pd.Index(first_df["sample_id"].tolist(), dtype=object)
    return pd.DataFrame(values, index=expression_df.index, columns=columns, copy=False)


def counts_per_million(counts_df: pd.DataFrame) -> pd.DataFrame:
    """Counts (genes x samples) scaled so that every sample sums to 1,000,000; float32.

    Raises
    ------
    ValueError
        A sample without any count.
    """
    totals = counts_df.sum(axis=0).astype(np.float64)
    empty = totals.index[totals <= 0]
    if len(empty):
        raise ValueError(f"{len(empty)} sample(s) have no counts at all: {list(empty[:3])}. Drop them first.")
    values = counts_df.to_numpy(np.float64) * (1e6 / totals.to_numpy())
    return pd.DataFrame(values.astype(np.float32), index=counts_df.index, columns=counts_df.columns)


def read_gene_table(path: str | Path) -> pd.DataFrame:
    """Gene names and biotypes (csv or tsv, also .gz), for example GENCODE: gene_id, gene_biotype, gene_name.

    Returns
    -------
    DataFrame
        Index "gene" (as written, versions kept), columns symbol, biotype.

    Raises
    ------
    FileNotFoundError, ValueError
        No file; no gene, symbol or biotype column; duplicated gene ids.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No gene table at {path}. Check genes_file in the cohort's TOML.")
    separator = "," if path.name.lower().removesuffix(".gz").endswith(".csv") else "\t"
    table_df = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    roles = {_role(c): c for c in table_df if _role(c)}
    gene = next((c for c in table_df if c.lower() in ("gene", "gene_id", "ensembl", "name")), None)
    if gene is None or len(roles) < 2:
        raise ValueError(
            f"{path}: needs gene_id, gene_name (or symbol) and gene_biotype; it has {list(table_df.columns)}."
        )
    genes = pd.Index(table_df[gene], name="gene", dtype=object)
    _refuse_duplicates(genes, "gene id", str(path))
    return _genes_df(genes, list(table_df[roles["symbol"]]), list(table_df[roles["biotype"]]))


def annotate_genes(genes_df: pd.DataFrame, table_df: pd.DataFrame) -> pd.DataFrame:
    """Fill symbol and biotype from a gene table: by exact id, else by the id without its version.

    Returns
    -------
    DataFrame
        `genes_df` with both columns; a symbol already given (other than the gene id itself) is kept.
    """
    by_stem = table_df[~_stem(table_df.index).duplicated()]
    by_stem = by_stem.set_axis(_stem(by_stem.index))
    filled_df = genes_df.copy()
    for column in ("symbol", "biotype"):
        by_id = pd.Series(genes_df.index.map(table_df[column]), index=genes_df.index, dtype=object)
        by_id_stem = pd.Series(_stem(genes_df.index).map(by_stem[column]), index=genes_df.index, dtype=object)
        known = by_id.fillna(by_id_stem)
        lacks = genes_df[column].isin(["", "nan"]) | (genes_df[column] == genes_df.index)
        filled_df[column] = genes_df[column].where(~lacks | known.isna(), known)
    return filled_df


def _stem(genes: pd.Index) -> pd.Index:
    return genes.str.replace(r"^(ENS[A-Z]*G\d+)\.\d+", r"\1", regex=True)


def protein_coding(genes_df: pd.DataFrame) -> pd.Index:
    """Gene ids whose biotype is protein_coding.

    Raises
    ------
    ValueError
        No gene has a biotype: a gene table is needed first.
    """
    if not (genes_df["biotype"] != "").any():
        raise ValueError(
            "No gene has a biotype. Give genes_file (a GENCODE csv) or set protein_coding_only = false."
        )
    return genes_df.index[genes_df["biotype"] == "protein_coding"]


def shared_symbols(genes_df: pd.DataFrame) -> pd.DataFrame:
    """Symbols that several gene ids carry. Returns columns symbol, n_genes, genes (ids joined by blanks)."""
    several = genes_df[genes_df["symbol"].duplicated(keep=False)].reset_index().groupby("symbol")["gene"]
    return several.agg(n_genes="size", genes=" ".join).reset_index()
