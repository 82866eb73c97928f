"""Timings at the paper's size, each beside its limit (the bare matrix products) or the usual alternative.

`python -m lib.benchmarks` prints one row per comparison and saves them to data/reference/benchmark.csv, which
notebook 12 shows; `--quick` runs a small size, to check that everything works. `--gpu --minutes 6` measures
the first GPU instead (`lib.benchmarks.gpu`), for data/reference/performance.csv; `--growth` how stages grow
with the number of slides (`lib.benchmarks.growth`), for growth.csv. Both sides of a row are
timed alternately in one process, so their ratio holds on a busy machine; a peer too slow to run in full is
timed on a part and scaled, and its name says so. A row is a plain dict made by `timing.row`.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from lib.benchmarks import gpu
from lib.benchmarks.networks import networks_rows
from lib.benchmarks.statistics import QUICK, Size, statistics_rows
from lib.benchmarks.timing import save, table

REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"
BENCHMARK_FILE, PERFORMANCE_FILE = REFERENCE / "benchmark.csv", REFERENCE / "performance.csv"
GROWTH_FILE = REFERENCE / "growth.csv"


def run(quick: bool = False) -> pd.DataFrame:
    """All rows of the CPU, with `timing.COLUMNS` and met."""
    # late: slides need OpenSlide and the inspector Jupyter's widgets, which a machine with a GPU may lack
    from lib.benchmarks.gct import gct_rows
    from lib.benchmarks.inspector import inspector_rows
    from lib.benchmarks.spatial import spatial_rows
    from lib.benchmarks.tiles import tiles_rows

    rows = statistics_rows(QUICK if quick else Size()) + networks_rows(quick=quick) + gct_rows(quick)
    rows += spatial_rows(300, 600, 12) if quick else spatial_rows()
    return table(rows + inspector_rows(quick) + tiles_rows(quick))


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    """Command line: --out file.csv, --quick (a small size, as a check), --gpu with --minutes, --growth."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.benchmarks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, help=f"csv file to write; without --quick {BENCHMARK_FILE.name}")
    parser.add_argument(
        "--quick", action="store_true", help="a small simulated cohort; saved only with --out"
    )
    parser.add_argument("--gpu", action="store_true", help=f"of the first GPU ({PERFORMANCE_FILE.name})")
    parser.add_argument("--minutes", type=float, default=6, help="of the GPU's rows (default: 6)")
    growth = f"how time, memory and files grow with the number of slides ({GROWTH_FILE.name})"
    parser.add_argument("--growth", action="store_true", help=growth)
    options = parser.parse_args(arguments)
    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a CUDA device, and torch finds none")
    if options.gpu:
        table_df, default = gpu.gpu_table(options.minutes), PERFORMANCE_FILE
    elif options.growth:
        from lib.benchmarks.growth import QUICK, growth_table  # late, as above: it draws slides

        table_df, default = growth_table(QUICK) if options.quick else growth_table(), GROWTH_FILE
    else:
        table_df, default = run(options.quick), BENCHMARK_FILE
    out = options.out or (None if options.quick else default)
    if out:
        save(table_df, out)
    with pd.option_context("display.width", 250, "display.max_colwidth", 90, "display.max_columns", None):
        shown_df = table_df.drop(columns=["device", "versions", "measured_on"])
        print(shown_df.to_string(index=False, float_format="%.3g"))
    print(f"{table_df['device'][0]}; {table_df['versions'][0]}; {f'saved to {out}' if out else 'not saved'}")
    return table_df
