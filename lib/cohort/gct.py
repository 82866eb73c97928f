"""GCT, csv and tsv expression tables of any size, streamed: to a float32 frame, or in pieces.

One thread inflates while another parses; only the samples wanted are kept. `lib.cohort.gct_header` reads the
top of the file, `lib.cohort.gct_cells` holds the inner loops, `lib.cohort.gct_parquet` writes the pieces.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from lib.cohort import gct_header
from lib.cohort.gct_cells import parse_lines
from lib.cohort.gct_header import (
    Header,
    check_promise,
    read_header,
    refuse_duplicates,
    text_blocks,
    wanted_samples,
)

MISSING_TEXT = ("", "na", "n/a", "nan", "null", "none", "-nan", "#n/a")
# Of the frame, touched by another thread before rows come: fresh memory can cost more than to parse the text.
AHEAD_BYTES = 64 << 20
N_AHEAD = 4  # blocks inflated before they are needed, so that neither thread waits for the other
LARGEST = float(np.finfo(np.float32).max)  # of float32

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
    n_ahead, n_ready = max(1, AHEAD_BYTES // (4 * len(wanted))), 0
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(kept[:n_ahead].fill, 0)
        for values, piece_names in pieces(path, header, wanted):
            start, stop = len(names[0]), len(names[0]) + len(values)
            while n_ready < min(stop, len(kept)):
                coming.result()
                n_ready += n_ahead
                coming = pool.submit(kept[n_ready : n_ready + n_ahead].fill, 0)
            if stop > len(kept):
                coming.result()
                larger = np.empty((max(stop, 3 * len(kept) // 2), len(wanted)), np.float32)
                larger[:start] = kept[:start]
                kept, n_ready = larger, len(larger)
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


def gene_counts(genes: pd.Index, symbols: Sequence[str]) -> dict[str, int]:
    """How many ids are Ensembl's with a version, and how many symbols stand for several genes."""
    symbols = pd.Series(symbols, dtype=object)
    return {
        "versioned Ensembl ids": int(genes.str.match(r"ENS[A-Z]*G\d+\.\d+").sum()),
        "symbols shared by several genes": int(symbols[symbols.duplicated()].nunique()),
        "genes with such a symbol": int(symbols.duplicated(keep=False).sum()),
    }


def genes_frame(genes: pd.Index, symbols: Sequence[str], biotypes: Sequence[str]) -> pd.DataFrame:
    """Index gene, columns symbol and biotype; the gene id stands in for a symbol that is missing."""
    symbol = [s or g for s, g in zip(symbols, genes, strict=True)]
    return pd.DataFrame({"symbol": symbol, "biotype": list(biotypes)}, index=genes, dtype=object)


def pieces(path: Path, header: Header, wanted: list[str]) -> Iterator[tuple[np.ndarray, Names]]:
    """Parse the table in pieces: values (rows x wanted, overwritten by the next piece) and names.

    Raises ValueError for ragged rows at once, for all bad values together after the last piece.
    """
    target, n_skip = _targets(header, wanted)
    n_rows = max(1, gct_header.BLOCK_BYTES // (4 * len(wanted)))
    values = np.empty((n_rows, len(wanted)), np.float32)
    spans = np.zeros((n_rows, 3, 2), np.int64)
    odd = np.empty((max(4096, 2 * len(target)), 4), np.int64)
    given, problems, n_done = set(target.tolist()), Problems(), 0
    for text, n_whole in _whole_lines(path, header.n_lines):
        lines, used = np.frombuffer(text, np.uint8, n_whole), 0
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


def _whole_lines(path: Path, n_head: int) -> Iterator[tuple[bytes, int]]:
    """The text below the first `n_head` lines, in pieces, and how much of each is whole lines.

    What is not comes again with the next piece. A thread inflates ahead.
    """
    blocks, tail, block = text_blocks(path), b"", b""
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, blocks, None) for _ in range(N_AHEAD))
        while block is not None:
            block = coming.popleft().result()
            coming.append(pool.submit(next, blocks, None))
            text = tail + (block if block is not None else b"\n" if tail else b"")
            while n_head and b"\n" in text:
                text, n_head = text.partition(b"\n")[2], n_head - 1
            whole = 0 if n_head else text.rfind(b"\n") + 1
            tail = text[whole:]
            if whole:
                yield text, whole


def _unquoted(name: bytes) -> str:
    text = name.decode("utf-8", errors="replace").strip()
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def _settle(values, odd, text: bytes, genes: list[str], wanted: list[str], problems: Problems) -> None:
    """Cells the kernel left: signs, quotes, very long numbers are read; the rest are problems."""
    for row, column, start, stop in odd.tolist():
        cell = _unquoted(text[start:stop])
        try:
            # float() also takes 1_000 and other scripts' digits, which no table means
            number = float(cell) if cell.isascii() and "_" not in cell else np.nan
        except ValueError:
            number = np.nan
        kind = ""
        if cell.lower() in MISSING_TEXT:
            kind = "missing"
        elif not np.isfinite(number):
            kind = "non-numeric"
        elif number > LARGEST:
            kind = "too large"
        elif number < 0:
            kind = "negative"
        if kind:
            problems.add(kind, genes[row], wanted[column], cell)
        values[row, column] = number if not kind else np.nan
