"""Tiles of many slides: several processes, bad slides recorded, and an interrupted run that resumes.

Each slide leaves `<slide_id>.npy` (its stack, module `stored`), `<slide_id>.parquet` (its tiles) and, written
last, `<slide_id>.parquet.json` (a work record: what they were made for, and the slide's row of the summary).
"""

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Generator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib import work_records
from lib.cohort.samples import REGION
from lib.tiles import cut, slides
from lib.tiles.slides import SlideError
from lib.tiles.tiling import Tiling
from lib.whole_files import ends_fingerprint, remove_leftovers, text_fingerprint, whole_file

_COUNTS = ["n_samples", "n_samples_without_tiles", "n_grid", "n_tiles", "n_dropped_tissue", "n_dropped_edge"]
SLIDE_COLUMNS = dict.fromkeys(["slide_id", "state", "reason", "note"], "str") | dict.fromkeys(
    _COUNTS, "int64"
)
SLIDE_COLUMNS |= {"mpp": "float64", "l0_width": "int64", "l0_height": "int64", "tissue_area_mm2": "float64"}
FORMAT = 1  # raise when a stack made by older code must not be reused


class _Job(NamedTuple):
    """One slide to cut."""

    slide_id: str
    path: str | Path | None  # None: no file was found
    samples_df: pd.DataFrame
    stacks_dir: Path
    tiling: Tiling


def cut_slides(
    samples_df: pd.DataFrame,
    slide_paths: Mapping[str, str | Path],
    stacks_dir: Path,
    tiling: Tiling,
    n_workers: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut many slides, several at a time; a bad slide is recorded and the others go on.

    A slide that was cut for the same tiling, samples and file (size, first and last MB) is not cut again;
    failed slides are tried again.

    Parameters
    ----------
    samples_df : the samples table, checked by `cohort.samples`: sample_id, slide_id, optional mpp and region
    slide_paths : slide_id -> file; slides of samples_df that are not in it count as failed
    stacks_dir : folder of the stacks `<slide_id>.npy`
    n_workers : processes

    Returns
    -------
    tiles_df : DataFrame
        Columns `cut.TILE_COLUMNS`, slides in the order of samples_df.
    slides_df : DataFrame
        Columns SLIDE_COLUMNS, one row per slide; state "ok", "empty" (no tile kept) or "failed". The counts
        of a failed slide are 0 and its mpp is NaN.

    Raises
    ------
    RuntimeError
        No slide gave a tile (with the first reasons), or a worker process died.
    """
    stacks_dir.mkdir(parents=True, exist_ok=True)
    of_slide = {str(i): df for i, df in samples_df.groupby("slide_id", sort=False)}
    jobs = [_Job(i, slide_paths.get(i), df, stacks_dir, tiling) for i, df in of_slide.items()]
    rows: dict[str, dict[str, Any]] = {}
    bar = tqdm(total=len(jobs), unit="slide", desc="cutting")
    with bar, closing(_run(jobs, min(n_workers, len(jobs)))) as done:
        for row in done:
            rows[row["slide_id"]] = row
            bar.update()
            bar.set_postfix(tiles=sum(r["n_tiles"] for r in rows.values()), refresh=False)
    in_order = [rows[slide_id] for slide_id in of_slide]
    if not any(row["n_tiles"] for row in in_order):
        first = "\n".join(f"  {row['slide_id']} ({row['state']}): {row['reason']}" for row in in_order[:5])
        raise RuntimeError(f"none of {len(in_order)} slides gave a tile; the first reasons:\n{first}")
    tables = [pd.read_parquet(stacks_dir / f"{i}.parquet") for i in of_slide if rows[i]["state"] == "ok"]
    tiles_df = pd.concat(tables, ignore_index=True).astype(cut.TILE_COLUMNS)
    return tiles_df, pd.DataFrame(in_order, columns=list(SLIDE_COLUMNS)).astype(SLIDE_COLUMNS)


def _run(jobs: list[_Job], n_workers: int) -> Generator[dict[str, Any], None, None]:
    """Yield each job's row when it is ready; no worker outlives the generator, however it ends."""
    if n_workers == 1:
        yield from map(_cut_or_reuse, jobs)
        return
    others = set(mp.active_children())
    # spawn: forking a kernel that runs torch's threads may hang.
    executor = ProcessPoolExecutor(n_workers, mp.get_context("spawn"), initializer=_end_with_parent)
    try:
        for future in as_completed([executor.submit(_cut_or_reuse, job) for job in jobs]):
            yield future.result()
    except BaseException as error:
        # Half-written files only exist under temporary names, so workers may be stopped anywhere.
        executor.shutdown(wait=False, cancel_futures=True)
        for child in set(mp.active_children()) - others:
            child.terminate()
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError(
                f"one of {n_workers} worker processes died, most likely for lack of memory: run again with "
                "fewer (finished slides are kept)"
            ) from error
        raise
    executor.shutdown()


def _end_with_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and stop when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = mp.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cut_or_reuse(job: _Job) -> dict[str, Any]:
    """One slide: its row of slides_df, from its record when that still fits, else by cutting it."""
    slide_id, path, samples_df, stacks_dir, tiling = job
    table_path, stack_path = stacks_dir / f"{slide_id}.parquet", stacks_dir / f"{slide_id}.npy"
    row = dict.fromkeys(SLIDE_COLUMNS, 0) | {"slide_id": slide_id, "reason": "", "note": ""}
    row |= {"mpp": np.nan, "n_samples": len(samples_df), "n_samples_without_tiles": len(samples_df)}
    if path is None:
        return row | {"state": "failed", "reason": "no file with this slide's name was found"}
    try:
        made_for = _made_for(Path(path), samples_df, tiling)
        if work_records.why_unfinished(table_path, made_for) is None:
            known = work_records.read(table_path)["outcome"]["slide"]
            if known["n_tiles"] == 0 or stack_path.is_file():
                return known
        work_records.remove(table_path)
        remove_leftovers(stack_path)
        found = cut.cut_slide(path, samples_df, stack_path, tiling)
    except (SlideError, FileNotFoundError, PermissionError) as error:
        return row | {"state": "failed", "reason": str(error)}
    row |= {
        "state": "ok" if len(found.tiles_df) else "empty",
        "reason": "" if len(found.tiles_df) else _why_empty(found, tiling.min_tissue),
        "n_samples_without_tiles": len(samples_df) - found.tiles_df["sample_id"].nunique(),
        "n_tiles": len(found.tiles_df),
    }
    row |= {name: value for name, value in found._asdict().items() if name in SLIDE_COLUMNS}
    with whole_file(table_path) as temporary:
        found.tiles_df.to_parquet(temporary, index=False)
    work_records.write(table_path, made_for, slide=row, reader=found.reader)
    return row


def _why_empty(found: cut.SlideTiles, min_tissue: float) -> str:
    if found.tissue_area_mm2 == 0:
        return "no tissue was found"
    return (
        f"none of {found.n_grid} tiles was kept: {found.n_dropped_edge} cut by an edge, "
        f"{found.n_dropped_tissue} with less than {min_tissue:.0%} tissue ({found.tissue_area_mm2:.3g} mm² "
        "of tissue on the slide)"
    )


def _made_for(path: Path, samples_df: pd.DataFrame, tiling: Tiling) -> dict[str, Any]:
    """Everything a stack depends on."""
    if not path.is_file():
        slides.open_slide(path)  # raises, saying what is wrong
    used_df = samples_df.reindex(columns=["sample_id", "slide_id", "mpp", *REGION])
    inputs = {"slide": ends_fingerprint(path), "samples": text_fingerprint(used_df.to_csv(index=False))}
    return {"format": FORMAT, **asdict(tiling), **inputs}
