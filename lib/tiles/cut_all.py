"""Tiles of many slides: several processes, bad slides recorded, and an interrupted run that resumes.

Each slide leaves `<slide_id>.npy` (its stack, `stack_files`) if it is among those to store and, written last,
`<slide_id>.parquet` (its tiles, with the CRC-32 of each, and a work record: what they were made for, and the
slide's row of the summary).
"""

import ctypes
import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib import code_versions, work_records
from lib.cohort.sample_slides import TILES_NAMED, by_slide
from lib.cohort.samples import REGION
from lib.errors import InputError, MissingInputError
from lib.tiles import cut, slides
from lib.tiles.slides import SlideError
from lib.tiles.tiling import Tiling
from lib.whole_files import ends_fingerprint, remove_leftovers, text_fingerprint

_COUNTS = ["n_samples", "n_samples_without_tiles", "n_grid", "n_tiles", "n_dropped_tissue", "n_dropped_edge"]
SLIDE_COLUMNS = dict.fromkeys(["slide_id", "state", "reason", "note"], "str") | dict.fromkeys(
    _COUNTS, "int64"
)
SLIDE_COLUMNS |= {"mpp": "float64", "l0_width": "int64", "l0_height": "int64", "tissue_area_mm2": "float64"}
MAX_RATIO = 10.0  # of a slide's µm/px to the cohort's median, either way
MAX_ENLARGED = 2.0  # of a tile's pixels, beyond what the tiling asks for


class _Job(NamedTuple):
    """One slide to cut."""

    slide_id: str
    path: str | Path | None  # None: no file was found
    samples_df: pd.DataFrame
    stacks_dir: Path
    tiling: Tiling
    limit_s: float
    stored: bool  # whether its tiles are kept in a stack


class _TookTooLong(BaseException):
    """Of a slide; no Exception, so that nothing on the way takes it for a fault of the file."""


def cut_slides(
    samples_df: pd.DataFrame,
    slide_paths: Mapping[str, str | Path],
    stacks_dir: Path,
    tiling: Tiling,
    n_workers: int = 1,
    limit_s: float = 0,
    stored: Collection[str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut many slides, several at a time; a bad slide is recorded and the others go on.

    A slide that was cut by the same code for the same tiling, samples and file (size, date, first and last
    MB) is not cut again; failed slides are tried again.

    Parameters
    ----------
    samples_df : the samples table, checked by `cohort.samples`: sample_id, slide_id, optional mpp and region
    slide_paths : slide_id -> file; slides of samples_df that are not in it count as failed
    stacks_dir : folder of the stacks `<slide_id>.npy`
    n_workers : processes
    limit_s : seconds after which a slide is given up and recorded as failed; 0: none
    stored : slides whose tiles are kept in a stack (None: all). Those of others are read from the slide again
        (`cut_again`). A stack that is there and right stays.

    Returns
    -------
    tiles_df : DataFrame
        Columns `cut.TILE_COLUMNS`, slides in the order of samples_df.
    slides_df : DataFrame
        Columns SLIDE_COLUMNS, one row per slide; state "ok", "empty" (no tile kept) or "failed". The counts
        of a failed slide are 0 and its mpp is NaN.

    Raises
    ------
    InputError
        A slide whose µm/px stands out from the others' or would enlarge its tiles: it is most likely wrong.
    OutputError
        The stacks cannot be written.
    RuntimeError
        No slide gave a tile (with the first reasons), or a worker process died.
    """
    in_order = cut_each(by_slide(samples_df), slide_paths, stacks_dir, tiling, n_workers, limit_s, stored)
    rows = {row["slide_id"]: row for row in in_order}
    refuse_odd_resolutions(in_order, tiling)
    if not any(row["n_tiles"] for row in in_order):
        first = "\n".join(f"  {row['slide_id']} ({row['state']}): {row['reason']}" for row in in_order[:5])
        raise RuntimeError(f"none of {len(in_order)} slides gave a tile; the first reasons:\n{first}")
    tables = [pd.read_parquet(stacks_dir / f"{i}.parquet") for i in rows if rows[i]["state"] == "ok"]
    tiles_df = pd.concat(tables, ignore_index=True)[list(cut.TILE_COLUMNS)]
    tiles_df = tiles_df.astype(cut.TILE_COLUMNS)
    return tiles_df, pd.DataFrame(in_order, columns=list(SLIDE_COLUMNS)).astype(SLIDE_COLUMNS)


def cut_each(
    samples_df: pd.DataFrame,
    slide_paths: Mapping[str, str | Path],
    stacks_dir: Path,
    tiling: Tiling,
    n_workers: int = 1,
    limit_s: float = 0,
    stored: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """`cut_slides` without the tables: the slides' files, and the row of each in slides_df.

    samples_df : `sample_slides.by_slide` of the samples table
    """
    stacks_dir.mkdir(parents=True, exist_ok=True)
    remove_leftovers(stacks_dir)
    of_slide = {str(i): df for i, df in samples_df.groupby("slide_id", sort=False)}
    jobs = [
        _Job(i, slide_paths.get(i), df, stacks_dir, tiling, limit_s, stored is None or i in stored)
        for i, df in of_slide.items()
    ]
    rows: dict[str, dict[str, Any]] = {}
    bar = tqdm(total=len(jobs), unit="slide", desc="cutting")
    with bar, closing(_run(jobs, min(n_workers, len(jobs)))) as done:
        for row in done:
            rows[row["slide_id"]] = row
            bar.update()
            bar.set_postfix(tiles=sum(r["n_tiles"] for r in rows.values()), refresh=False)
    return [rows[slide_id] for slide_id in of_slide]


def cut_and_judged(
    samples_df: pd.DataFrame,
    slide_paths: Mapping[str, str | Path],
    stacks_dir: Path,
    tiling: Tiling,
    judged: Callable[[pd.DataFrame], pd.DataFrame],
    n_workers: int = 1,
    limit_s: float = 0,
    stored: Collection[str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`cut_slides`, and which of the tiles count, as `judged` says (`tile_quality.judged`)."""
    how = tiling, n_workers, limit_s, stored
    tiles_df, slides_df = cut_slides(samples_df, slide_paths, stacks_dir, *how)
    return judged(tiles_df), slides_df


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
        children = set(mp.active_children()) - others
        for child in children:
            child.terminate()
        for (
            child
        ) in children:  # stopped while it wrote, it leaves its temporary file: on a full disk they count
            child.join(timeout=5)
        remove_leftovers(jobs[0].stacks_dir)
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
    slide_id, path, samples_df, stacks_dir, tiling, limit_s, stored = job
    table_path, stack_path = stacks_dir / f"{slide_id}.parquet", stacks_dir / f"{slide_id}.npy"
    row = dict.fromkeys(SLIDE_COLUMNS, 0) | {"slide_id": slide_id, "reason": "", "note": ""}
    row |= {"mpp": np.nan, "n_samples": len(samples_df), "n_samples_without_tiles": len(samples_df)}
    if path is None:
        return row | {"state": "failed", "reason": "no file with this slide's name was found"}
    try:  # what is wrong with the slide itself; errors of writing are not the slide's
        made_for = _made_for(Path(path), samples_df, tiling)
    except (SlideError, OSError) as error:
        return row | {"state": "failed", "reason": str(error)}
    if work_records.why_unfinished(table_path, made_for) is None:
        known, n_bytes = work_records.read(table_path)["outcome"], _size(stack_path)
        dispensable = not n_bytes and not (stored and known["slide"]["n_tiles"])
        if dispensable or n_bytes == known["stack_bytes"] > 0:
            return known["slide"]
    work_records.remove(table_path)
    if not stored:
        stack_path.unlink(missing_ok=True)  # of another file or tiling: whoever finds it would read it
    try:
        with _at_most(limit_s):
            found = cut.cut_slide(path, samples_df, stack_path if stored else None, tiling)
    except (SlideError, MissingInputError) as error:
        return row | {"state": "failed", "reason": str(error)}
    except _TookTooLong:
        reason = f"took longer than slide_limit_s = {limit_s:g} s: a slow disk, or a damaged file ({path})"
        return row | {"state": "failed", "reason": reason}
    row |= {
        "state": "ok" if len(found.tiles_df) else "empty",
        "reason": "" if len(found.tiles_df) else _why_empty(found, tiling.min_tissue),
        "n_samples_without_tiles": len(samples_df) - found.tiles_df["sample_id"].nunique(),
        "n_tiles": len(found.tiles_df),
    }
    row |= {name: value for name, value in found._asdict().items() if name in SLIDE_COLUMNS}
    table_df = found.tiles_df.assign(crc32=np.array(found.checksums, np.uint32))
    outcome = {"slide": row, "reader": found.reader, "stack_bytes": _size(stack_path)}
    work_records.save_table(table_path, made_for, table_df, **outcome)
    return row


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _TookTooLong in this block, in whatever thread, after so many seconds; 0: never.

    It waits for the end of a call into C, such as a read.
    """
    if not seconds:
        yield
        return
    thread, deciding = ctypes.c_ulong(threading.get_ident()), threading.Lock()
    over = sent = raised = False

    def give_up() -> None:
        nonlocal sent
        with deciding:
            if not over:
                sent = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TookTooLong))

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _TookTooLong:
        raised = True
        raise
    finally:
        timer.cancel()
        with deciding:
            over = True
        # One that is on its way is waited for: taken back, it made traced code hang in Python 3.11.
        with suppress(_TookTooLong):
            for _ in range(1000 if sent and not raised else 0):
                time.sleep(1e-3)


def _why_empty(found: cut.SlideTiles, min_tissue: float) -> str:
    if found.tissue_area_mm2 == 0:
        return "no tissue was found"
    return (
        f"none of {found.n_grid} tiles was kept: {found.n_dropped_edge} cut by an edge, "
        f"{found.n_dropped_tissue} with less than {min_tissue:.0%} tissue ({found.tissue_area_mm2:.3g} mm² "
        "of tissue on the slide)"
    )


def _size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def refuse_odd_resolutions(rows: list[dict[str, Any]], tiling: Tiling) -> None:
    """InputError for slides whose µm/px cannot be right beside the others'."""
    known = {row["slide_id"]: row["mpp"] for row in rows if row["n_grid"] and row["mpp"] > 0}
    median = float(np.median(list(known.values()))) if known else 1.0
    allowed = MAX_ENLARGED * max(1.0, tiling.input_px / tiling.tile_px)
    odd = [
        f"{slide_id}: {mpp:g} µm/px ({mpp / median:.3g} times the median of {len(known)} slides; tiles of "
        f"{tiling.l0_size(mpp)} px would be enlarged to {tiling.input_px})"
        for slide_id, mpp in known.items()
        if not 1 / MAX_RATIO < mpp / median < MAX_RATIO or tiling.input_px / tiling.l0_size(mpp) > allowed
    ]
    if odd:
        raise InputError(
            f"{len(odd)} slides state a resolution that cannot be right: {'; '.join(odd[:3])}. Fill in "
            "column mpp (µm/px) of the samples table for them, or leave them out"
        )


def _made_for(path: Path, samples_df: pd.DataFrame, tiling: Tiling) -> dict[str, Any]:
    """Everything a stack depends on."""
    if not path.is_file():
        slides.open_slide(path)  # raises, saying what is wrong
    used_df = samples_df.reindex(columns=["sample_id", "slide_id", "mpp", *REGION, TILES_NAMED])
    inputs = {"slide": ends_fingerprint(path), "samples": text_fingerprint(used_df.to_csv(index=False))}
    return {"code": code_versions.of_work("lib.tiles.cut"), **asdict(tiling), **inputs}
