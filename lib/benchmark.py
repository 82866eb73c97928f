"""Timings at the paper's size, each beside its limit (the bare matrix products) or what a user would pick
instead.

`python -m lib.benchmark --out table.csv` prints and saves one row per comparison. Both sides of a row are
timed in turns in one process, so that their ratio means something on a busy machine; a peer too slow to
run whole is timed on a part and scaled, and its name says so. A row is a plain dict made by `timing.row`.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from lib.benchmark_gct import gct_rows
from lib.benchmark_networks import networks_rows, save_performance
from lib.benchmark_statistics import QUICK, Size, gpu_rows, statistics_rows
from lib.timing import save

PERFORMANCE_FILE = Path(__file__).resolve().parent.parent / "data" / "reference" / "performance.csv"


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    """Command line: --out file.csv, --quick (a small size, to see that it runs), --gpu.

    With --gpu, tiles per second of the networks on the first GPU are also kept in PERFORMANCE_FILE.
    """
    parser = argparse.ArgumentParser(prog="python -m lib.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark.csv"), help="csv file to write")
    parser.add_argument("--quick", action="store_true", help="a small made-up cohort")
    parser.add_argument("--gpu", action="store_true", help="add the rows of the first GPU")
    options = parser.parse_args(arguments)
    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu asked for, but torch sees no CUDA device")
    size = QUICK if options.quick else Size()
    rows = statistics_rows(size) + networks_rows(quick=options.quick) + gct_rows(options.quick)
    if options.gpu:
        network_rows = networks_rows("cuda", options.quick)
        save_performance(network_rows, PERFORMANCE_FILE)
        rows += gpu_rows(size) + network_rows
    table = save(rows, options.out)
    with pd.option_context("display.width", 250, "display.max_colwidth", 90, "display.max_columns", None):
        print(table.drop(columns=["device", "versions"]).to_string(index=False, float_format="%.3g"))
    print(f"{rows[0]['device']}; {rows[0]['versions']}; saved to {options.out}")
    return table


if __name__ == "__main__":
    main()
