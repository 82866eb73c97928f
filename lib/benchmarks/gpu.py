"""What a GPU does, beside its own limits, within some minutes: the rows of data/reference/performance.csv.

`python -m lib.benchmarks --gpu --minutes 6`. The most telling rows come first; those for which no time is
left are named. OpenSlide and Jupyter are not needed.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lib.benchmarks import networks
from lib.benchmarks.networks import Case
from lib.benchmarks.statistics import Cohort, Size, every_shuffle, made_up, max_statistic, max_work
from lib.benchmarks.timing import row, table, timed
from lib.network.batches import TileLoader
from lib.statistics import null_maxima, permutations, residuals

SIZE = networks.Size(n_tiles=2048)
TRAINED = SIZE._replace(n_tiles=6144, n_repeats=2)  # an epoch long enough for its start not to count
TILES_PER_S = 25_000  # that the loader should reach


def gpu_table(minutes: float, device: str = "cuda") -> pd.DataFrame:
    """Rows of `timing.table` with tiles_per_s, measured until the minutes are over."""
    end, rows, left_out = time.monotonic() + 60 * minutes, [], []
    for name, measure in _measurements(device):
        if time.monotonic() > end:
            left_out.append(name)
            continue
        started = time.monotonic()
        try:
            rows.append(measure())
        except torch.OutOfMemoryError:
            left_out.append(name)
            continue
        print(f"{time.monotonic() - started:5.0f} s  {name}: {rows[-1]['ratio']:.3g} ({rows[-1]['target']})")
        torch.cuda.empty_cache()
    if left_out:
        print(f"no time or memory was left for {len(left_out)} rows: {', '.join(left_out)}")
    rates = [float(found.get("tiles_per_s", np.nan)) for found in rows]
    return table(rows).assign(tiles_per_s=rates)


def _measurements(device: str) -> list[tuple[str, Callable[[], dict]]]:
    cohort, size = made_up(Size()), Size(n_repeats=1)
    whole = size._replace(n_max_genes=size.n_genes, n_max_permutations=size.n_permutations)
    found: list[tuple[str, Callable[[], dict]]] = [
        ("null maxima", lambda: null_maxima_row(cohort, whole, device)),
        ("test of links", lambda: max_statistic_row(cohort, whole, device)),
        ("p equal to the CPU's", lambda: same_p_row(cohort, size, device)),
    ]
    sides = {"quantification": networks.quantification_row, "training": networks.training_row}
    plans = {
        "quantification": [("vgg16", "bfloat16", 64), ("vgg16", "bfloat16", 256), ("vgg16", "tf32", 64)],
        "training": list(itertools.product(("vgg16", "vgg16_avg1fc"), ("bfloat16",), (64, 256))),
    }
    plans["quantification"].append(("vgg16", "float32", 64))
    for work, cases in plans.items():
        for architecture, precision, batch in cases:
            case = Case(architecture, batch, precision, TRAINED if work == "training" else SIZE, device)
            name = f"{work}, {architecture}, {precision}, {batch}"
            found.append((name, lambda work=work, case=case: sides[work](case)))
    stored = Case("vgg16", 64, "bfloat16", TRAINED, device)
    found.append(("quantification of stored tiles", lambda: networks.slides_row(stored)))
    found += [
        (f"loader, batch {batch}", lambda batch=batch: loader_row(batch, device, TRAINED))
        for batch in (64, 256)
    ]
    agreements = [
        ("vgg16", "float32"),
        ("vgg16", "tf32"),
        ("vgg16", "bfloat16"),
        ("inception_v3", "bfloat16"),
    ]
    for architecture, precision in agreements:
        how = architecture, precision, SIZE, device
        found.append(
            (f"features of {architecture}, {precision}", lambda how=how: networks.agreement_row(*how))
        )
    return found


def loader_row(batch_size: int, device: str, size: networks.Size) -> dict:
    """Reading shuffled tiles of files in the page cache into pinned memory, beside the wanted rate."""
    with tempfile.TemporaryDirectory() as folder:
        tiles_df = networks.stored_tiles(Path(folder), size.n_tiles, size)
        loader = TileLoader(tiles_df, batch_size, torch.device(device), shuffle=True)
        (seconds,) = timed(lambda: [len(batch.rows_t) for batch in loader], n_repeats=size.n_repeats)
    ours = 1000 * seconds / size.n_tiles
    work = (
        f"loader alone, {size.input_px} px, batch {batch_size}, {loader.n_workers} threads, s per 1,000 tiles"
    )
    limit = f"{TILES_PER_S:,} tiles/s"
    found = row(work, ours, limit, 1000 / TILES_PER_S, "<= 1", size.n_repeats, device)
    return found | {"tiles_per_s": 1000 / ours}


def max_statistic_row(cohort: Cohort, size: Size, device: str) -> dict[str, object]:
    """The whole test of links, every shuffle for every gene, against bare float32 products."""
    genes, perms, products = max_statistic(cohort, size, device)
    seconds = timed(lambda: every_shuffle(cohort, genes, perms, device), products, n_repeats=size.n_repeats)
    bare = "its bare products, float32"
    return row(max_work(cohort, size), seconds[0], bare, seconds[1], "20 s", size.n_repeats, device)


def null_maxima_row(cohort: Cohort, size: Size, device: str) -> dict[str, object]:
    """Null maxima alone against half-precision products of the same size (on a CPU, float32)."""
    dtype = torch.float32 if device == "cpu" else torch.float16
    genes, perms, products = max_statistic(cohort, size, device, dtype)
    tables = genes, cohort.features_df
    rows = [residuals.unit_length(residuals.within_groups(df, df.index, perms, "row")) for df in tables]
    statistic = null_maxima.prepare(rows[0], rows[1], perms.groups, device)
    ours_s, product_s = timed(
        lambda: null_maxima.null_maxima(statistic, perms, device, False), products, n_repeats=size.n_repeats
    )
    work = max_work(cohort, size).replace("max statistic", "null maxima").removesuffix(", z")
    limit = f"its bare products, {dtype}".replace("torch.", "")
    return row(work, ours_s, limit, product_s, "3 s", size.n_repeats, device)


def same_p_row(cohort: Cohort, size: Size, device: str) -> dict[str, object]:
    """Largest difference between the p of device and CPU, genes and overall, in the columns of seconds."""
    genes = cohort.log_df.iloc[: size.n_max_genes]
    perms = permutations.draw("within_tissue", size.n_max_permutations, cohort.samples_df, 0)
    there, here = (every_shuffle(cohort, genes, perms, d).genes_df for d in (device, "cpu"))
    columns = ["p", "p_overall"]
    difference = float((there[columns] - here[columns]).abs().to_numpy().max())
    work = f"p of {len(genes):,} genes, {len(perms.order)} permutations: largest difference from the CPU's"
    return row(work, difference, "tolerance", 1e-12, "<= 1", 1, device)
