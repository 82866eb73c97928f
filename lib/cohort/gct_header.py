"""The top of a text expression table (GCT, csv, tsv): columns, their roles, the size promised, gzip or not.

Nothing here reads a value; `lib.cohort.gct` does.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

try:  # Intel's inflate is three times as fast; the text is the same
    from isal import isal_zlib as zlib
except ImportError:
    import zlib

SYMBOL_COLUMNS = ("description", "symbol", "gene_name", "gene_symbol")
BIOTYPE_COLUMNS = ("biotype", "gene_biotype", "gene_type")
TEXT_KINDS = ("gct", "csv", "tsv", "txt")
# Text inflated and parsed at a time. Blocks of this size are recycled by the allocator; each of 4 MiB is
# fresh memory, which costs more than to parse it.
BLOCK_BYTES = 1 << 20


class Header(NamedTuple):
    """What the top of a text table says."""

    columns: list[str]
    roles: list[str | None]  # of each column, see `_roles`
    delimiter: str
    n_lines: int  # lines above the first gene
    n_genes: int  # promised; -1 where nothing is
    n_rna: int

    @property
    def samples(self) -> list[str]:
        """RNA ids, in the order of the file."""
        return [name for name, role in zip(self.columns, self.roles, strict=True) if role is None]


def table_kind(path: Path) -> str:
    """The file's suffix, .gz apart: "gct", "csv", "parquet", ..."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def read_header(path: str | Path) -> Header:
    """Column names of a text table and, for a GCT, the size its second line promises.

    Parameters
    ----------
    path : .gct, .csv, .tsv or .txt, each also .gz. Whether it is gzip is told from its first bytes.

    Raises
    ------
    FileNotFoundError, ValueError
        No file, or none of these; empty file; not a GCT 1.2; no Name and Description column; no samples;
        duplicated RNA ids.
    """
    path = Path(path)
    kind = table_kind(path)
    if kind not in TEXT_KINDS:
        raise ValueError(f"{path}: not a text table; those are .gct, .csv, .tsv, .txt, each also .gz.")
    if not path.is_file():
        raise FileNotFoundError(f"No expression table at {path}. Check expression_file in the cohort's TOML.")
    lines = _first_lines(path, 3 if kind == "gct" else 1)
    if kind == "gct":
        header = _gct_header(path, lines)
    else:
        delimiter = "," if kind == "csv" else "\t"
        names = [c.strip() for c in next(csv.reader(lines, delimiter=delimiter))]
        header = Header(names, _roles(names, False), delimiter, 1, -1, -1)
    if not header.samples:
        raise ValueError(f"{path}: no sample columns; the header is {header.columns[:5]}.")
    refuse_duplicates(header.samples, "RNA id", str(path))
    return header


def _gct_header(path: Path, lines: list[str]) -> Header:
    if lines[0].strip() != "#1.2" or len(lines) < 3:
        raise ValueError(
            f"{path}: first line is {lines[0][:40]!r}; a GCT 1.2 starts with '#1.2' and has 3 head lines."
        )
    size = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", lines[1])
    if not size:
        raise ValueError(f"{path}: second line {lines[1][:40]!r} should be the numbers of genes and samples.")
    names = [c.strip() for c in lines[2].split("\t")]
    if not {"name", "description"} <= {n.lower() for n in names}:
        raise ValueError(f"{path}: third line has no Name and Description column; it starts {names[:3]}.")
    return Header(names, _roles(names, True), "\t", 3, int(size[1]), int(size[2]))


def column_role(name: str) -> str | None:
    """Whether a column describes the gene: "symbol", "biotype", or None."""
    lower = name.lower()
    return "symbol" if lower in SYMBOL_COLUMNS else "biotype" if lower in BIOTYPE_COLUMNS else None


def _roles(columns: Sequence[str], is_gct: bool) -> list[str | None]:
    """Of each column: "gene", "symbol", "biotype", "skip" (the row number of some GCTs) or None, a sample."""
    gene = [name.lower() for name in columns].index("name") if is_gct else 0
    return [
        column_role(name) if i > gene else "gene" if i == gene else "skip" for i, name in enumerate(columns)
    ]


def _first_lines(path: Path, n: int) -> list[str]:
    text = b""
    for block in text_blocks(path):
        text += block
        if text.count(b"\n") >= n:
            break
    if not text.strip():
        raise ValueError(f"{path}: the file is empty. Fetch it again.")
    return [line.rstrip("\r") for line in text.decode("utf-8-sig", errors="replace").split("\n")[:n]]


def text_blocks(path: Path, size: int | None = None) -> Iterator[bytes]:
    """The file's text in pieces of at most `size` bytes (BLOCK_BYTES), inflated if it is gzip.

    Several gzip members are allowed, as is zero padding after them.

    Raises
    ------
    ValueError
        Truncated or corrupt gzip.
    """
    size = size or BLOCK_BYTES
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


def check_promise(path: Path, header: Header, n_genes: int, on_mismatch: str) -> dict[str, int]:
    """Compare a GCT's promised size with what is there; returns the counts as a report.

    Raises
    ------
    ValueError
        No gene rows; another size than promised where `on_mismatch` is "error" (and not "report").
    """
    if on_mismatch not in ("error", "report"):
        raise ValueError(f"on_header_mismatch {on_mismatch!r}: choose 'error' or 'report'.")
    n_rna = len(header.samples)
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
            "meant to be so, set expression_rows = 'report' (lib.cohort.gct_parquet: --rows report)."
        )
    return found


def wanted_samples(samples: Sequence[str], wanted: Sequence[str] | None, source: str) -> list[str]:
    """The RNA ids to read, in the order asked; all of `samples` for None.

    Raises
    ------
    ValueError
        Ids that are repeated or not there (first ones and how many); none at all.
    """
    if wanted is None:
        return list(samples)
    wanted = [str(w) for w in wanted]
    refuse_duplicates(wanted, "wanted RNA id", source)
    known = set(samples)
    absent = [w for w in wanted if w not in known]
    if absent or not wanted:
        raise ValueError(
            f"{source}: {len(absent)} of {len(wanted)} wanted RNA ids are not there, first {absent[:3]}; "
            f"the table has {len(samples)}, first {list(samples[:3])}."
        )
    return wanted


def refuse_duplicates(ids: Sequence[str], what: str, source: str) -> None:
    """ValueError naming the first repeated ids and how many."""
    ids = pd.Index(ids)
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise ValueError(
            f"{source}: {len(repeated)} duplicated {what}(s), first {list(repeated[:3])}. Keep one of each."
        )
