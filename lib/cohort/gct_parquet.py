"""A text expression table of any size to parquet, in memory that does not grow with the number of genes.

`python -m lib.cohort.gct_parquet table.gct.gz table.parquet [--columns ids.txt] [--rows report]`
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.cohort.gct import Names, gene_counts, pieces
from lib.cohort.gct_header import Header, check_promise, read_header, refuse_duplicates, wanted_samples

DESCRIBED = ("gene", "symbol", "biotype")
# Genes per parquet row group: 64 MB of values, or 3,000 where samples are many (a group costs the writer 2 kB
# a sample besides, kept to the end; so fewer genes a group would take more memory, not less).
ROW_GROUP_BYTES, ROW_GROUP_GENES = 64 << 20, 3_000


def convert_to_parquet(
    path: str | Path,
    out_path: str | Path,
    columns: Sequence[str] | None = None,
    *,
    on_header_mismatch: str = "error",
) -> dict[str, int]:
    """Text table of any size to parquet (gene, symbol, biotype, then float32 samples) in bounded memory.

    Genes are written in groups while the next are parsed. Values are not compressed: lz4 would take 15 % off
    TPM and as long again. The file appears under its name only when it is complete.

    Parameters
    ----------
    columns, on_header_mismatch : as in `expression.read_expression`.

    Returns
    -------
    dict
        Counts: genes, RNA samples, of a GCT what its header promises, and those of `gene_counts`.

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
    settings = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    try:
        with pq.ParquetWriter(partial, schema, **settings) as writer:
            genes, symbols = _write_groups(writer, schema, _row_groups(path, header, wanted))
        found = check_promise(path, header, len(genes), on_header_mismatch)
        refuse_duplicates(genes, "gene id", str(path))
        os.replace(partial, out_path)
    finally:
        partial.unlink(missing_ok=True)
    return found | gene_counts(pd.Index(genes, dtype=object), symbols)


def _write_groups(
    writer: pq.ParquetWriter, schema: pa.Schema, groups: Iterator[tuple[np.ndarray, Names]]
) -> tuple[list[str], list[str]]:
    """Write each group while the next is made. Returns genes and symbols.

    No group outlives the call: closing the writer needs the memory for the file's footer.
    """
    genes, symbols = [], []
    with ThreadPoolExecutor(1) as pool:
        writing: Future | None = None
        for values, names in groups:
            arrays = [pa.array(column, pa.string()) for column in names]
            arrays += [pa.array(column) for column in values.T]
            table = pa.Table.from_arrays(arrays, schema=schema)
            if writing:
                writing.result()
            writing = pool.submit(writer.write_table, table, row_group_size=len(values))
            genes += names[0]
            symbols += [symbol or gene for symbol, gene in zip(names[1], names[0], strict=True)]
        if writing:
            writing.result()
    return genes, symbols


def _row_groups(path: Path, header: Header, wanted: list[str]) -> Iterator[tuple[np.ndarray, Names]]:
    """Pieces joined to row groups whose columns are contiguous. A group is overwritten two groups later."""
    n_group = max(ROW_GROUP_GENES, ROW_GROUP_BYTES // (4 * len(wanted)))
    # No longer than the genes promised: columns far apart would touch all of the room, a large page each.
    n_group = min(n_group, max(header.n_genes, ROW_GROUP_GENES)) if header.n_genes >= 0 else n_group
    group, other = (np.empty((n_group, len(wanted)), np.float32, order="F") for _ in range(2))
    names: Names = [[], [], []]
    for values, piece_names in pieces(path, header, wanted):
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


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.cohort.gct_parquet", description=__doc__.splitlines()[0]
    )
    parser.add_argument("table", type=Path, help=".gct, .csv or .tsv, also .gz")
    parser.add_argument("parquet", type=Path, help="file to write")
    parser.add_argument("--columns", type=Path, metavar="FILE", help="sample ids wanted, one on each line")
    parser.add_argument(
        "--rows",
        choices=("error", "report"),
        default="error",
        help="where a GCT has other rows or samples than its header promises: stop, or only count them",
    )
    options = parser.parse_args(arguments)
    try:
        wanted = options.columns.read_text(encoding="utf-8").split() if options.columns else None
        found = convert_to_parquet(options.table, options.parquet, wanted, on_header_mismatch=options.rows)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.parquet}: " + "; ".join(f"{count:,} {what}" for what, count in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
