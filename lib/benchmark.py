"""Timings at the paper's size, each beside its limit (the bare matrix products) or what a user would pick
instead.

`python -m lib.benchmark --out table.csv` prints and saves one row per comparison. Both sides of a row are
timed in turns in one process, so that their ratio means something on a busy machine; a peer too slow to
run whole is timed on a part and scaled, and its name says so. A row is a plain dict made by `timing.row`.
"""

import argparse
from pathlib import Path

import pandas as pd

from lib.benchmark_statistics import QUICK, Size, gpu_rows, statistics_rows
from lib.timing import save


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    """Command line: --out file.csv, --quick (a small size, to see that it runs), --gpu."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark.csv"), help="csv file to write")
    parser.add_argument("--quick", action="store_true", help="a small made-up cohort")
    parser.add_argument("--gpu", action="store_true", help="add the rows of the first GPU")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else Size()
    rows = statistics_rows(size) + (gpu_rows(size) if options.gpu else [])
    table = save(rows, options.out)
    with pd.option_context("display.width", 250, "display.max_colwidth", 90, "display.max_columns", None):
        print(table.drop(columns=["device", "versions"]).to_string(index=False, float_format="%.3g"))
    print(f"{rows[0]['device']}; {rows[0]['versions']}; saved to {options.out}")
    return table


if __name__ == "__main__":
    main()
