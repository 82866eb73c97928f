"""GCT, csv and tsv expression tables of any size: to a float32 frame, or to parquet in bounded memory.

Text is streamed: one thread inflates while another parses, and a third writes; only the samples wanted are
kept. `lib.gct_header` reads the top of the file, `lib.gct_cells` holds the inner loops.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib import gct_header
from lib.gct_cells import parse_lines
from lib.gct_header import Header, check_promise, read_header, refuse_duplicates, text_blocks, wanted_samples

MISSING_TEXT = ("", "na", "n/a", "nan", "null", "none", "-nan", "#n/a")
ROW_GROUP_BYTES = 160 << 20  # float32 values per parquet row group when converting; two are in memory
DESCRIBED = ("gene", "symbol", "biotype")
LARGEST = float(np.finfo(np.float32).max)

Names = list[list[str]]  # genes, symbols, biotypes


class Problems:
    """Counts of bad cells by kind, with the first gene, sample and text of each; raised together."""

    def __init__(self) -> None:
        self.seen: dict[str, list] = {}

    def add(self, kind: str, gene: str, rna_id: str, text: str, n: int = 1) -> None:
        """Note `n` cells of a kind; the first noted is the one named."""
        self.seen.setdefault(kind, [0, gene, rna_id, text])[0] += n

    def refuse(self, source: str) -> None:
        """ValueError naming all that was noted, if anything was."""
        if self.seen:
            said = [
                f"{n} {kind} value(s), first {text!r} at gene {gene}, sample {rna_id}"
                for kind, (n, gene, rna_id, text) in self.seen.items()
            ]
            raise ValueError(
                f"{source}: {'; '.join(said)}. Correct the table or leave those genes or samples out."
            )


def read_table(
    path: str | Path, columns: Sequence[str] | None = None, *, on_header_mismatch: str = "error"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a text table. Parameters, results and errors as in `expression.read_expression`."""
    path = Path(path)
    header = read_header(path)
    wanted = wanted_samples(header.samples, columns, str(path))
    # Room for the rows promised, but never more than the bytes of the file can hold (gzip shrinks 1032-fold
    # at most); untouched room costs no memory.
    n_possible = 1032 * path.stat().st_size // (2 * len(header.columns)) + 1
    n_promised = header.n_genes if header.n_genes >= 0 else 65_536
    kept = np.empty((min(n_possible, n_promised), len(wanted)), np.float32)
    names: Names = [[], [], []]
    for values, piece_names in _pieces(path, header, wanted):
        start, stop = len(names[0]), len(names[0]) + len(values)
        if stop > len(kept):
            larger = np.empty((max(stop, 3 * len(kept) // 2), len(wanted)), np.float32)
            larger[:start] = kept[:start]
            kept = larger
        kept[start:stop] = values
        for column, more in zip(names, piece_names, strict=True):
            column.extend(more)
    found = check_promise(path, header, len(names[0]), on_header_mismatch)
    genes = pd.Index(names[0], name="gene", dtype=object)
    refuse_duplicates(genes, "gene id", str(path))
    columns_index = pd.Index(wanted, dtype=object)
    expression_df = pd.DataFrame(kept[: len(genes)], genes, columns_index, copy=False)
    expression_df.attrs["found"] = found
    return expression_df, genes_frame(genes, names[1], names[2])


def genes_frame(genes: pd.Index, symbols: Sequence[str], biotypes: Sequence[str]) -> pd.DataFrame:
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

    Rows are written in groups of about 160 MB, so memory does not grow with the number of genes. Values are
    not compressed: lz4 takes 15 % off TPM and as long again. The file appears under its name only when it
    is complete.

    Parameters
    ----------
    columns, on_header_mismatch : as in `expression.read_expression`.

    Returns
    -------
    dict
        Counts: genes, RNA samples, and of a GCT what its header promises.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `expression.read_expression`.
    """
    path, out_path = Path(path), Path(out_path)
    header = read_header(path)
    wanted = wanted_samples(header.samples, columns, str(path))
    types = [pa.string()] * len(DESCRIBED) + [pa.float32()] * len(wanted)
    schema = pa.schema(list(zip([*DESCRIBED, *wanted], types, strict=True)))
    partial = out_path.with_name(out_path.name + ".partial")
    genes: list[str] = []
    settings = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    try:
        with pq.ParquetWriter(partial, schema, **settings) as writer, ThreadPoolExecutor(1) as pool:
            writing: Future | None = None
            for values, names in _row_groups(path, header, wanted):
                arrays = [pa.array(column, pa.string()) for column in names]
                arrays += [pa.array(column) for column in values.T]
                table = pa.Table.from_arrays(arrays, schema=schema)
                if writing:
                    writing.result()
                writing = pool.submit(writer.write_table, table, row_group_size=len(values))
                genes += names[0]
            if writing:
                writing.result()
        found = check_promise(path, header, len(genes), on_header_mismatch)
        refuse_duplicates(genes, "gene id", str(path))
        os.replace(partial, out_path)
    finally:
        partial.unlink(missing_ok=True)
    return found


def _row_groups(path: Path, header: Header, wanted: list[str]) -> Iterator[tuple[np.ndarray, Names]]:
    """Pieces joined to row groups whose columns are contiguous. A group is overwritten two groups later."""
    n_group = max(1, ROW_GROUP_BYTES // (4 * len(wanted)))
    group, other = (np.empty((n_group, len(wanted)), np.float32, order="F") for _ in range(2))
    names: Names = [[], [], []]
    for values, piece_names in _pieces(path, header, wanted):
        start = 0
        while start < len(values):
            n_held = len(names[0])
            n_now = min(len(values) - start, n_group - n_held)
            group[n_held : n_held + n_now] = values[start : start + n_now]
            for column, more in zip(names, piece_names, strict=True):
                column.extend(more[start : start + n_now])
            start += n_now
            if len(names[0]) == n_group:
                yield group, names
                group, other, names = other, group, [[], [], []]
    if names[0]:
        yield group[: len(names[0])], names


def _pieces(path: Path, header: Header, wanted: list[str]) -> Iterator[tuple[np.ndarray, Names]]:
    """Parse the table in pieces: values (rows x wanted, overwritten by the next piece) and names.

    Raises ValueError for ragged rows at once, for all bad values together after the last piece.
    """
    target, n_skip = _targets(header, wanted)
    n_rows = max(1, gct_header.BLOCK_BYTES // (4 * len(wanted)))
    values = np.empty((n_rows, len(wanted)), np.float32)
    spans = np.zeros((n_rows, 3, 2), np.int64)
    odd = np.empty((max(4096, 2 * len(target)), 4), np.int64)
    given, problems, n_done = set(target.tolist()), Problems(), 0
    for text in _whole_lines(path, header.n_lines):
        lines, used = np.frombuffer(text, np.uint8), 0
        while used < len(lines):
            got, n_used, n_odd, n_fields = parse_lines(
                lines[used:], ord(header.delimiter), target, n_skip, values, spans, odd
            )
            if n_fields >= 0:
                raise ValueError(
                    f"{path}: gene row {n_done + got + 1} has {n_fields} fields where the header has "
                    f"{len(header.columns)}. The file is damaged or cut off; fetch it again."
                )
            spans[:got] += used
            odd[:n_odd, 2:] += used
            names = [
                [_unquoted(text[a:b]) for a, b in spans[:got, k].tolist()] if -2 - k in given else [""] * got
                for k in range(3)
            ]
            _settle(values, odd[:n_odd], text, names[0], wanted, problems)
            if got:
                yield values[:got], names
            n_done, used = n_done + got, used + n_used
    problems.refuse(str(path))


def _targets(header: Header, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """What `parse_lines` needs to know of each column: where it goes, and how many from it on go nowhere."""
    at = {name: i for i, name in enumerate(wanted)}
    text_at = {"gene": -2, "symbol": -3, "biotype": -4}
    pairs = zip(header.columns, header.roles, strict=True)
    target = np.array([text_at.get(role, -1) if role else at.get(name, -1) for name, role in pairs])
    n_skip = np.zeros(len(target), np.int64)
    for i in reversed(range(len(target))):
        if target[i] == -1:
            n_skip[i] = 1 + (n_skip[i + 1] if i + 1 < len(target) else 0)
    return target, n_skip


def _whole_lines(path: Path, n_head: int) -> Iterator[bytes]:
    """The text below the first `n_head` lines, in pieces of whole lines; a thread inflates ahead."""
    blocks, tail, block = text_blocks(path), b"", b""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, blocks, None)
        while block is not None:
            block = coming.result()
            if block is not None:
                coming = pool.submit(next, blocks, None)
            text = tail + (block if block is not None else b"\n" if tail else b"")
            while n_head and b"\n" in text:
                text, n_head = text.partition(b"\n")[2], n_head - 1
            whole = 0 if n_head else text.rfind(b"\n") + 1
            tail = text[whole:]
            if whole:
                yield text[:whole]


def _unquoted(name: bytes) -> str:
    text = name.decode("utf-8", errors="replace").strip()
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def _settle(values, odd, text: bytes, genes: list[str], wanted: list[str], problems: Problems) -> None:
    """Cells the kernel left: signs, quotes, very long numbers are read; the rest are problems."""
    for row, column, start, stop in odd.tolist():
        cell = _unquoted(text[start:stop])
        try:
            number = float(cell)
        except ValueError:
            number = np.nan
        kind = ""
        if cell.lower() in MISSING_TEXT:
            kind = "missing"
        elif not abs(number) <= LARGEST:  # NaN too
            kind = "non-numeric"
        elif number < 0:
            kind = "negative"
        if kind:
            problems.add(kind, genes[row], wanted[column], cell)
        values[row, column] = number if not kind else np.nan
