"""GCT, csv and tsv expression tables: the header, then gene names and values read in blocks of lines.

One thread decompresses while others parse with pyarrow, and only the wanted samples are kept. A block that
holds anything but valid numbers is read a second time as text, to name what is wrong.
"""

import csv
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from lib.cohort import table_checks, table_files
from lib.cohort.gzip_files import open_bytes
from lib.cohort.samples import MISSING_WORDS
from lib.errors import InputError

# Text parsed at a time. pyarrow spends about 10 µs on each column of a block: wide tables get longer blocks.
BLOCK_BYTES, BLOCK_BYTES_PER_COLUMN = 4 << 20, 1024
MAX_LINE_BYTES = 64 << 20  # GTEx's longest, with 17,382 samples, have 0.4 MB
N_THREADS = min(4, os.cpu_count() or 1)


class Header(NamedTuple):
    """Top of a text table."""

    columns: list[str]
    # "gene", "symbol", "biotype", "skip", "nameless" (must be empty); None for a sample
    roles: list[str | None]
    delimiter: str
    promised: tuple[int, int] | None = None  # genes and samples, of a GCT

    @property
    def samples(self) -> list[str]:
        """RNA ids, in the order of the file."""
        return [name for name, role in zip(self.columns, self.roles, strict=True) if role is None]


class GeneValues(NamedTuple):
    """Part or all of an expression table."""

    values: np.ndarray  # float32, genes x samples
    genes: list[str]
    symbols: list[str]
    biotypes: list[str]


def read_table(
    path: Path, columns: Sequence[str] | None = None, on_header_mismatch: str = "error"
) -> tuple[GeneValues, list[str], dict[str, int]]:
    """Read a text table, plain or gzipped; parameters and errors as in `expression.read_expression`.

    Returns
    -------
    table : symbols and biotypes are "" where the file has none.
    samples : the RNA ids read.
    found : counts: genes, RNA samples and, of a GCT, genes promised, RNA samples promised.
    """
    if on_header_mismatch not in ("error", "report"):
        raise InputError(f"on_header_mismatch = {on_header_mismatch!r}; choose 'error' or 'report'")
    with open_bytes(path) as file:
        header = _header(file, path)
        samples = table_checks.wanted_samples(header.samples, columns, str(path))
        parser = _BlockParser(path, header, samples)
        n_bytes = max(BLOCK_BYTES, BLOCK_BYTES_PER_COLUMN * len(header.columns))
        blocks = list(_in_threads(parser.parse, _line_blocks(file, path, n_bytes)))
    genes, symbols, biotypes = ([name for b in blocks for name in b[i]] for i in (1, 2, 3))
    if not genes:
        raise InputError(f"{path}: no gene rows below the header; download it again")
    size = (len(genes), len(header.samples))
    found = {"genes": size[0], "RNA samples": size[1]}
    if header.promised:
        found |= {"genes promised": header.promised[0], "RNA samples promised": header.promised[1]}
    if header.promised not in (None, size) and on_header_mismatch == "error":
        raise InputError(
            "{}: the header promises {:,} genes x {:,} samples, the file has {:,} x {:,}; it may be "
            "truncated: download it again, or, if it is an extract, set expression_rows = 'report'".format(
                path, *header.promised, *size
            )
        )
    values, stop = np.empty((len(genes), len(samples)), np.float32), len(genes)
    while blocks:  # released one by one, so that the values are never held twice
        block = blocks.pop().values
        values[stop - len(block) : stop] = block
        stop -= len(block)
    return GeneValues(values, genes, symbols, biotypes), samples, found


# ------------------------------------------------------------------------------------------------- header


def read_header(path: Path) -> Header:
    """Column names of a text table and, for a GCT, the size its second line promises.

    Raises
    ------
    FileNotFoundError
    ValueError
        Empty file; not a GCT 1.2; no Name and Description column; no samples; duplicated RNA ids.
    """
    with open_bytes(path) as file:
        return _header(file, path)


def table_kind(path: Path) -> str:
    """Suffix of a file, .gz apart: "gct", "csv", "parquet", ..."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def _header(file: BufferedIOBase, path: Path) -> Header:
    kind = table_kind(path)
    line, gene, promised = _text_line(file, path), 0, None
    if not line.strip():
        raise InputError(f"{path}: the file is empty; download it again")
    if kind == "gct":
        if line.strip() != "#1.2":
            raise InputError(f"{path}: the first line is {line[:40]!r}; a GCT 1.2 starts with '#1.2'")
        size = _text_line(file, path)
        numbers = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", size)
        if not numbers:
            raise InputError(f"{path}: the second line is {size[:40]!r}, not the size of the table")
        promised = (int(numbers[1]), int(numbers[2]))
        line = _text_line(file, path)
    delimiter = "\t" if kind == "gct" else table_files.delimiter_of(path, line)
    try:
        names = [table_files.composed(name) for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error as error:
        raise InputError(f"{path}: unreadable column names {line[:40]!r} ...: {error}") from error
    if kind == "gct":
        lower = [name.lower() for name in names]
        if not {"name", "description"} <= set(lower):
            raise InputError(f"{path}: no Name and Description column in the third line: {names[:3]} ...")
        gene = lower.index("name")
    elif names[0].lower() not in table_checks.GENE_ID_COLUMNS:
        by_name = (i for i, name in enumerate(names) if name.lower() in table_checks.GENE_ID_COLUMNS)
        gene = next(by_name, 0)
    # columns before the gene ids, such as row numbers, are skipped
    roles = [table_checks.column_role(name) or "skip" for name in names[:gene]] + ["gene"]
    roles += [table_checks.column_role(name) if name else "nameless" for name in names[gene + 1 :]]
    header = Header(names, roles, delimiter, promised)
    if not header.samples:
        raise InputError(f"{path}: no sample columns; the header is {names[:5]}")
    table_checks.refuse_duplicates(header.samples, "RNA id", str(path))
    return header


def _text_line(file: BufferedIOBase, path: Path) -> str:
    line = _line(file, path).rstrip(b"\r\n")
    if b"\r" in line:
        raise _stray_return(path, line)
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


# ------------------------------------------------------------------------------------------------- blocks


def _line(file: BufferedIOBase, path: Path) -> bytes:
    line = file.readline(MAX_LINE_BYTES)
    if len(line) == MAX_LINE_BYTES:
        raise InputError(
            f"{path}: a line has more than {MAX_LINE_BYTES:,} bytes, to byte {file.tell():,} of the text; "
            "save the table as text whose lines end in \\n or \\r\\n"
        )
    return line


def _line_blocks(file: BufferedIOBase, path: Path, n_bytes: int) -> Iterator[bytes]:
    """Whole lines, about `n_bytes` at a time; blocks of blank lines are left out."""
    while text := file.read(n_bytes):
        text += _line(file, path)
        if not text.isspace():
            yield text


def _in_threads(parse: Callable[[bytes], GeneValues], blocks: Iterator[bytes]) -> Iterator[GeneValues]:
    """Parsed blocks, in order; few blocks are in memory at a time."""
    waiting: deque[Future[GeneValues]] = deque()
    with ThreadPoolExecutor(N_THREADS) as pool:
        for block in blocks:
            waiting.append(pool.submit(parse, block))
            if len(waiting) > N_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# ------------------------------------------------------------------------------------------------ parsing


class _BlockParser:
    """Turns whole lines into gene names and values; threads may share it."""

    def __init__(self, path: Path, header: Header, samples: list[str]) -> None:
        self.path, self.header, self.samples = path, header, samples
        # fields are named by position, since names of columns may be empty or repeat
        self.fields = [f"f{i}" for i in range(len(header.columns))]
        columns = list(zip(header.columns, header.roles, self.fields, strict=True))
        field_of = {name: field for name, role, field in columns if role is None}
        self.value_fields = [field_of[sample] for sample in samples]
        not_names = (None, "skip", "nameless")
        self.name_fields = {role: field for _, role, field in columns if role not in not_names}
        self.nameless = [field for _, role, field in columns if role == "nameless"]

    def parse(self, text: bytes) -> GeneValues:
        """Gene names and values of the lines; ValueError for invalid values and lines."""
        if text.count(b"\r") != text.count(b"\r\n"):
            raise _stray_return(self.path, text)
        try:
            table = self._split(text, pa.float64())
            values = table.select(self.value_fields).to_tensor().to_numpy()
        except pa.ArrowInvalid:  # a cell that is not a number
            values = None
        if values is None or not table_checks.all_valid(values):
            try:
                table = self._split(text, pa.binary())
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"{self.path}: the lines from {text[:40]!r} are no table ({str(error)[:200]}); check "
                    "their encoding (UTF-8), delimiters and quotation marks"
                ) from error
            values = self._numbers(table)
        for field in self.nameless:
            if any(cell.strip() for cell in table.column(field).to_pylist()):
                raise InputError(
                    f"{self.path}: column {int(field[1:]) + 1} has no name but holds values; name it"
                )
        genes, symbols, biotypes = (self._names(table, role) for role in ("gene", "symbol", "biotype"))
        return GeneValues(values.astype(np.float32), genes, symbols, biotypes)

    def _split(self, text: bytes, value_type: pa.DataType) -> pa.RecordBatch:
        """The wanted fields of each line: names as bytes, values as `value_type`."""
        ragged = []
        types = dict.fromkeys([*self.name_fields.values(), *self.nameless], pa.binary())
        types |= dict.fromkeys(self.value_fields, value_type)
        read = arrow_csv.ReadOptions(column_names=self.fields, block_size=len(text) + 1, use_threads=False)
        parse = arrow_csv.ParseOptions(
            delimiter=self.header.delimiter,
            invalid_row_handler=lambda row: ragged.append(row) or "error",
        )
        convert = arrow_csv.ConvertOptions(
            include_columns=list(types), column_types=types, null_values=[], check_utf8=False
        )
        try:
            table = arrow_csv.read_csv(pa.BufferReader(text), read, parse, convert)
        except pa.ArrowInvalid as error:
            if not ragged:
                raise
            remedy = "the file is damaged or truncated: download it again"
            if self.header.promised is None and ragged[0].actual_columns == len(self.fields) + 1:
                remedy = "the header may lack a name for the column of gene ids: add one"
            raise InputError(
                f"{self.path}: line {ragged[0].text[:40]!r} ... has {ragged[0].actual_columns} fields, the "
                f"header {len(self.fields)}; {remedy}"
            ) from error
        n_lines = text.count(b"\n") + (not text.endswith(b"\n"))
        if table.num_rows != n_lines:  # blank lines are no rows, but a quoted newline loses one
            n_lines = sum(line not in (b"", b"\r") for line in text.split(b"\n"))
        if table.num_rows != n_lines:
            raise InputError(
                f"{self.path}: a quoted cell spans several of the {n_lines:,} lines that start with "
                f"{text[:40]!r}; remove the quotation marks"
            )
        return table.combine_chunks().to_batches()[0]

    def _names(self, table: pa.RecordBatch, role: str) -> list[str]:
        if role not in self.name_fields:
            return [""] * table.num_rows
        try:
            return [_text(name) for name in table.column(self.name_fields[role]).to_pylist()]
        except UnicodeDecodeError as error:
            raise _not_utf8(self.path, error) from error

    def _numbers(self, table: pa.RecordBatch) -> np.ndarray:
        """Values of cells read as text; ValueError where some are invalid."""
        columns = [table.column(field).to_pylist() for field in self.value_fields]
        cells = np.array([[_shown(cell) for cell in column] for column in columns], dtype=object).T
        numbers = np.vectorize(_number, otypes=[float])(cells)
        missing = np.vectorize(lambda cell: cell.strip().lower() in MISSING_WORDS, otypes=[bool])(cells)
        kinds = table_checks.kinds_of(numbers)
        kinds[np.isnan(numbers) & ~missing] = table_checks.NON_NUMERIC
        genes = self._names(table, "gene")
        table_checks.refuse_invalid(kinds, cells, genes, self.samples, str(self.path))
        return numbers


def _number(cell: str) -> float:
    """Value of a cell; NaN if it is no number."""
    try:  # float() also reads 1_000 and the digits of other scripts, which no table means
        return float(cell) if cell.isascii() and "_" not in cell else np.nan
    except ValueError:
        return np.nan


def _text(cell: bytes) -> str:
    return table_files.composed(cell.decode("utf-8"))


def _shown(cell: bytes) -> str:
    return cell.decode("utf-8", errors="replace").strip()


def _not_utf8(path: Path, error: UnicodeDecodeError) -> InputError:
    return InputError(
        f"{path}: {error.object[:40]!r} is not UTF-8 text; save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
    )


def _stray_return(path: Path, text: bytes) -> InputError:
    """The error for a carriage return that is not part of a line end."""
    at = len(re.split(rb"\r(?!\n)", text, maxsplit=1)[0])
    line = text[text.rfind(b"\n", 0, at) + 1 : at + 20]
    return InputError(
        f"{path}: a carriage return inside the line {line[:20]!r} ... {line[-30:]!r}; "
        "save the table with lines that end in \\n or \\r\\n"
    )
