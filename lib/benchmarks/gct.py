"""Reading a GCT of 1,000 samples beside pandas.read_csv and pyarrow.csv: seconds and memory.

All sides read the same file and the same columns; pandas with its default (C) engine. The parquet rows hold
our reading *and* writing against the other's reading alone. Memory is the peak of a process of its own
beyond what it held before.
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
N_DIFFERENT = 4_000  # rows drawn; they are repeated under other gene ids, far beyond what gzip looks back
TARGET = "<= 0.25"


def write_gct(path: Path, n_genes: int, n_rna: int, seed: int = 0) -> list[str]:
    """A GCT of made-up TPM with four significant digits, four in ten of them 0; returns its RNA ids."""
    rng = np.random.default_rng(seed)
    ids = [f"GTEX-{i:05d}-0526-SM-{i:05X}" for i in range(n_rna)]
    n_rows = min(n_genes, N_DIFFERENT)
    tpm = np.exp(rng.normal(-2, 3, (n_rows, 1)) + rng.normal(0, 0.8, (n_rows, n_rna)))
    tpm[tpm < 0.02] = 0
    bodies = ["\t".join(map("{:.4g}".format, values)) for values in tpm.tolist()]
    with open(path, "w", encoding="ascii") as file:
        file.write(f"#1.2\n{n_genes}\t{n_rna}\n" + "\t".join(["Name", "Description", *ids]) + "\n")
        for i in range(n_genes):
            file.write(f"ENSG{i:011d}.{i % 9 + 1}\tSYM{i}\t{bodies[i % len(bodies)]}\n")
    return ids


def gct_rows(quick: bool = False) -> list[dict[str, object]]:
    """Rows of all samples and of a few, from .gct.gz and .gct; `quick` takes a small file.

    No rows where pyarrow or numba are not installed: no expression table can be read there.
    """
    if find_spec("pyarrow") is None or find_spec("numba") is None:
        return []
    n_genes, n_rna, n_few = (600, 50, 5) if quick else (N_GENES, N_RNA, N_FEW)
    rows = []
    with TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "x.gct", Path(folder) / "x.gct.gz"
        ids = write_gct(plain, n_genes, n_rna)
        packed.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=6))
        for path in (packed, plain):
            for wanted in (ids, ids[:: n_rna // n_few]):
                name = f"{path.name[1:]} of {n_genes:,} x {n_rna:,}, {len(wanted):,} samples"
                rows += _second_rows(name, path, wanted, 2 if quick else 3)
        rows += _memory_rows(packed, ids, f".gct.gz of {n_genes:,} x {n_rna:,}, {n_rna:,} samples")
    return rows


def _second_rows(name: str, path: Path, wanted: list[str], n_repeats: int) -> list[dict[str, object]]:
    calls = [_call(what, path, wanted) for what in ("frame", "parquet", "pandas", "pyarrow")]
    frame_s, parquet_s, pandas_s, pyarrow_s = timed(*calls, n_repeats=n_repeats)
    return [
        row(f"{name}, to a frame", frame_s, "pandas.read_csv", pandas_s, TARGET, n_repeats),
        row(f"{name}, to parquet", parquet_s, "pandas.read_csv (no parquet)", pandas_s, TARGET, n_repeats),
        row(f"{name}, to a frame", frame_s, "pyarrow.csv, float32", pyarrow_s, "< 1", n_repeats),
    ]


def _call(what: str, path: Path, wanted: list[str]) -> Callable[[], object]:
    """One way of reading, as a call. The imports are here: `lib.benchmarks.run` loads without them."""
    from pyarrow import csv, float32

    from lib.cohort import gct, gct_parquet

    options = csv.ConvertOptions(
        include_columns=["Name", "Description", *wanted], column_types=dict.fromkeys(wanted, float32())
    )
    return {
        "frame": lambda: gct.read_table(path, wanted),
        "parquet": lambda: gct_parquet.convert_to_parquet(path, path.with_name("x.parquet"), wanted),
        "pandas": lambda: pd.read_csv(
            path, sep="\t", skiprows=2, usecols=["Name", "Description", *wanted]
        ),
        "pyarrow": lambda: csv.read_csv(
            path,
            read_options=csv.ReadOptions(skip_rows=2, block_size=8 << 20),
            parse_options=csv.ParseOptions(delimiter="\t"),
            convert_options=options,
        ),
    }[what]  # fmt: skip


def _memory_rows(path: Path, wanted: list[str], name: str) -> list[dict[str, object]]:
    """Peak memory beyond what was held before, GB in the columns of seconds; Linux only, else no rows."""
    if not Path("/proc/self/status").exists():
        return []
    peaks = {what: peak_gb(what, path, wanted) for what in ("frame", "parquet", "pandas")}
    return [
        row(f"peak memory of {name}, to {ours}, GB", peaks[what], "pandas.read_csv, GB", peaks["pandas"],
            target, 1)
        for what, ours, target in (("frame", "a frame", "< 1"), ("parquet", "parquet", "1.5 GB"))
    ]  # fmt: skip


def peak_gb(what: str, path: Path, wanted: list[str]) -> float:
    """Peak of resident memory of one call in a fresh process, beyond that after its imports and a first call.

    Parameters
    ----------
    what : "frame", "parquet", "pandas" or "pyarrow".
    """
    ids_file = path.with_name("wanted.txt")
    ids_file.write_text("\n".join(wanted))
    code = f"""
from pathlib import Path
from lib import benchmark_gct
path = Path({str(path)!r})
call = benchmark_gct._call({what!r}, path, Path({str(ids_file)!r}).read_text().split("\\n"))
small = path.with_name("small.gct")
benchmark_gct._call({what!r}, small, benchmark_gct.write_gct(small, 5, 5))()
before = benchmark_gct.memory_gb("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
kept = call()
print(benchmark_gct.memory_gb("VmHWM") - before)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return max(float(ran.stdout), 1e-3)


def memory_gb(key: str) -> float:
    """VmRSS or VmHWM of this process, GB (Linux)."""
    line = next(n for n in Path("/proc/self/status").read_text().splitlines() if n.startswith(key))
    return int(line.split()[1]) * 1024 / 1e9
