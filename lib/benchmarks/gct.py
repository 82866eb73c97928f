"""Reading a GCT of 1,000 samples, compared with pandas.read_csv and pyarrow.csv: seconds and memory.

All read the same file and the same columns; pandas with its default (C) engine. Memory is the peak of a fresh
process beyond what it held after its imports.
"""

import gzip
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from lib.benchmarks.timing import row, timed

ROOT = Path(__file__).resolve().parents[2]
N_GENES, N_RNA, N_FEW = 56_200, 1_000, 40
N_DISTINCT_ROWS = 4_000  # repeated under other gene ids; too far apart for gzip to find the repeats
TARGETS, MEMORY_TARGET = {".gz": "<= 0.6", ".gct": "< 1"}, "1.5 GB"


def write_gct(path: Path, n_genes: int, n_rna: int, seed: int = 0) -> list[str]:
    """Write a GCT of simulated TPM with four significant digits, four in ten zero; returns its RNA ids."""
    rng = np.random.default_rng(seed)
    ids = [f"GTEX-{i:05d}-0526-SM-{i:05X}" for i in range(n_rna)]
    n_rows = min(n_genes, N_DISTINCT_ROWS)
    tpm = np.exp(rng.normal(-2, 3, (n_rows, 1)) + rng.normal(0, 0.8, (n_rows, n_rna)))
    tpm[tpm < 0.02] = 0
    bodies = ["\t".join(map("{:.4g}".format, values)) for values in tpm.tolist()]
    with open(path, "w", encoding="ascii") as file:
        file.write(f"#1.2\n{n_genes}\t{n_rna}\n" + "\t".join(["Name", "Description", *ids]) + "\n")
        for i in range(n_genes):
            file.write(f"ENSG{i:011d}.{i % 9 + 1}\tSYM{i}\t{bodies[i % len(bodies)]}\n")
    return ids


def gct_rows(quick: bool = False) -> list[dict[str, object]]:
    """Rows for all samples and for a few, from .gct.gz and .gct; `quick` takes a small file.

    No rows where pyarrow or isal is not installed, since no expression table can be read there.
    """
    if find_spec("pyarrow") is None or find_spec("isal") is None:
        return []
    n_genes, n_rna, n_few = (600, 50, 5) if quick else (N_GENES, N_RNA, N_FEW)
    rows = []
    with TemporaryDirectory() as folder:
        plain, zipped = Path(folder) / "x.gct", Path(folder) / "x.gct.gz"
        ids = write_gct(plain, n_genes, n_rna)
        zipped.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=6))
        for path in (zipped, plain):
            for wanted in (ids, ids[:: n_rna // n_few]):
                name = f"{path.name[1:]} of {n_genes:,} x {n_rna:,}, {len(wanted):,} samples"
                rows += _second_rows(name, path, wanted, 2 if quick else 3)
        if sys.platform == "linux":
            ours, pandas = (peak_gb(reader, zipped, ids) for reader in ("ours", "pandas"))
            name = f"peak memory of .gct.gz of {n_genes:,} x {n_rna:,}, {n_rna:,} samples, GB"
            rows.append(row(name, ours, "pandas.read_csv, GB", pandas, MEMORY_TARGET, 1))
    return rows


def _second_rows(name: str, path: Path, wanted: list[str], n_repeats: int) -> list[dict[str, object]]:
    readers = [reader(name, path, wanted) for name in ("ours", "pandas", "pyarrow")]
    ours_s, pandas_s, pyarrow_s = timed(*readers, n_repeats=n_repeats)
    return [
        row(name, ours_s, "pandas.read_csv", pandas_s, TARGETS[path.suffix], n_repeats),
        row(name, ours_s, "pyarrow.csv, unchecked", pyarrow_s, "", n_repeats),
    ]


def reader(name: str, path: Path, wanted: list[str]) -> Callable[[], object]:
    """A call that reads `wanted` samples: "ours", "pandas" or "pyarrow".

    The imports are here so that `lib.benchmarks.run` loads without them.
    """
    from pyarrow import csv, float32

    from lib.cohort.expression import read_expression

    columns = ["Name", "Description", *wanted]
    read = csv.ReadOptions(skip_rows=2, block_size=8 << 20)
    parse = csv.ParseOptions(delimiter="\t")
    convert = csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(wanted, float32()))
    return {
        "ours": lambda: read_expression(path, wanted),
        "pandas": lambda: pd.read_csv(path, sep="\t", skiprows=2, usecols=columns),
        "pyarrow": lambda: csv.read_csv(path, read, parse, convert),
    }[name]


def peak_gb(name: str, path: Path, wanted: list[str]) -> float:
    """Peak resident memory of one `reader` in a fresh process, beyond a small first call, GB (Linux)."""
    ids_file = path.with_name("wanted.txt")
    ids_file.write_text("\n".join(wanted))
    code = f"""
from pathlib import Path
from lib.benchmarks import gct
path = Path({str(path)!r})
small = path.with_name("small.gct")
gct.reader({name!r}, small, gct.write_gct(small, 5, 5))()
read = gct.reader({name!r}, path, Path({str(ids_file)!r}).read_text().split("\\n"))
before = gct.memory_gb("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
kept = read()
print(gct.memory_gb("VmHWM") - before)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return max(float(ran.stdout), 1e-3)


def memory_gb(key: str) -> float:
    """VmRSS or VmHWM of this process, GB (Linux)."""
    line = next(n for n in Path("/proc/self/status").read_text().splitlines() if n.startswith(key))
    return int(line.split()[1]) * 1024 / 1e9
