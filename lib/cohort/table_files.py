"""Tables of a user's as text, whatever program wrote them: encodings, line ends, delimiters, ragged rows.

What can be read with certainty is read; anything else is an InputError that names file, line and remedy.
"""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from lib.cohort.gzip_files import open_bytes
from lib.errors import InputError

MAX_TABLE_BYTES = 1 << 30  # of text; samples and split tables are a few MB
MAX_CELL = 1 << 20  # characters
DELIMITERS = {"csv": ",\t;", "tsv": "\t,;", "txt": "\t,;"}  # by preference, of a file's suffix
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def composed(text: str) -> str:
    """Text in Unicode's composed form, without blanks around it: what names are compared by."""
    return unicodedata.normalize("NFC", text).strip()


def read_text(path: Path, header: int | None = 0, index: bool = False) -> pd.DataFrame:
    """Read a table (.csv, .tsv, .txt, each also .gz) with every cell as text, stripped and in composed form.

    UTF-8 and, with a byte-order mark, UTF-16 and UTF-32; any line ends; comma, tab or semicolon. Blank lines,
    empty columns without a name, and a nameless first column of row numbers are left out.

    Parameters
    ----------
    header : 0 where the first line names the columns, None where there is no such line
    index : the first column holds the rows' names and may have no name itself

    Raises
    ------
    FileNotFoundError
    InputError
        Empty or not text; rows of another length than the header; columns without a name; bad quotes.
    """
    path = Path(path)
    rows = _rows(path, decoded(path))
    if not rows:
        raise InputError(f"{path}: the file is empty")
    if header is None:
        width = max(len(row) for _, row in rows)
        return pd.DataFrame([row + [""] * (width - len(row)) for _, row in rows], dtype=object)
    (_, names), *rows = rows
    for line, row in rows:
        if len(row) < len(names) or any(row[len(names) :]):
            raise InputError(
                f"{path}: line {line} has {len(row)} cells, the header {len(names)} ({', '.join(row[:3])}, "
                "...): put cells that hold the delimiter in quotation marks, and fill up short rows"
            )
    table_df = pd.DataFrame([row[: len(names)] for _, row in rows], dtype=object)
    table_df = table_df.reindex(columns=range(len(names)), fill_value="")
    if index and not names[0]:
        names[0] = "index"
    nameless = [i for i, name in enumerate(names) if not name]
    for i in nameless:
        cells = table_df[i].tolist()
        if any(cells) and not (i == 0 and _row_numbers(cells)):
            shown = next(filter(None, cells))
            raise InputError(f"{path}: column {i + 1} has no name but holds {shown!r}: name it")
    return table_df.drop(columns=nameless).set_axis([name for name in names if name], axis=1)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file; InputError where it is not one, or is damaged."""
    with parquet_explained(path):
        return pd.read_parquet(path)


@contextmanager
def parquet_explained(path: Path) -> Iterator[None]:
    """Within the context, what pyarrow raises is an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: not a readable parquet file ({first}); write or fetch it again") from error


def decoded(path: Path) -> str:
    """Text of a file, plain or gzipped, its lines ended by \\n alone; InputError says what it is instead."""
    with open_bytes(path, remedy="write or fetch it again") as file:
        content = file.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise InputError(f"{path}: more than {MAX_TABLE_BYTES:,} bytes of text; this is not such a table")
    encoding = next((e for mark, e in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        shown = content[max(error.start - 20, 0) : error.start + 20]
        raise InputError(
            f"{path}: line {line} is not {encoding.upper()} near {shown!r}; save the table as UTF-8 (in a "
            "spreadsheet: 'CSV UTF-8')"
        ) from error
    if "\0" in text:
        raise InputError(f"{path}: not text (it holds zero bytes); save the table as UTF-8 text")
    text = text.replace("\r\n", "\n")
    if "\r" in text and "\n" in text:
        line = text[: text.index("\r")].count("\n") + 1
        raise InputError(
            f"{path}: a carriage return inside line {line}; save the table with lines that end in \\n"
        )
    return text.replace("\r", "\n")


def delimiter_of(path: Path, header: str) -> str:
    """The delimiter of a table: that of its suffix, or where the header lacks it, another that it has."""
    suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    known = DELIMITERS.get(suffix, DELIMITERS["tsv"])
    return next((mark for mark in known if mark in header), known[0])


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of each line that is not blank."""
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    before = csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter_of(path, first), strict=True)
    rows = []
    try:
        for row in reader:
            cells = [composed(cell) for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}; check its quotation marks") from error
    finally:
        csv.field_size_limit(before)
    return rows


def _row_numbers(cells: Sequence[str]) -> bool:
    """Whether cells count the rows, from 0 or 1, as the index that a data frame writes along."""
    return any(list(cells) == [str(i) for i in range(start, start + len(cells))] for start in (0, 1))
