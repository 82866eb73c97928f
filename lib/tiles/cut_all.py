"""Tiles of many slides: several processes, bad slides recorded, and an interrupted run that resumes.

Each slide leaves `<slide_id>.npy` (uint8, n_tiles x input_px x input_px x 3; open it with
np.load(..., mmap_mode="r")), `<slide_id>.parquet` (its tiles) and, written last, `<slide_id>.json` (what they
were made from). Files appear complete or not at all.
"""

import hashlib
import json
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib.tiles import cut as tiles
from lib.tiles import grid, slides
from lib.tiles.slides import SlideError

SLIDE_COLUMNS = {
    "slide_id": "str",
    "state": "str",
    "reason": "str",
    "note": "str",
    "n_samples": "int64",
    "n_samples_without_tiles": "int64",
    "n_grid": "int64",
    "n_tiles": "int64",
    "n_dropped_tissue": "int64",
    "n_dropped_edge": "int64",
    "mpp": "float64",
    "l0_width": "int64",
    "l0_height": "int64",
    "tissue_area_mm2": "float64",
}
FORMAT = 1  # raise when a stack made by older code must not be reused


def cut_slides(
    samples_df: pd.DataFrame,
    slide_paths: Mapping[str, str | Path],
    stacks_dir: str | Path,
    *,
    n_workers: int = 1,
    progress: bool = True,
    force: bool = False,
    **parameters: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut many slides, several at a time; a bad slide is recorded and the others go on.

    A slide whose json names the same parameters, samples and file (size, first and last MB) is not cut again;
    failed slides are tried again. `force` cuts all.

    Parameters
    ----------
    samples_df : sample_id, slide_id, optional mpp and region columns.
    slide_paths : slide_id -> file. Slides of samples_df that are not in it count as failed.
    stacks_dir : folder of the stacks `<slide_id>.npy`.
    n_workers : processes. `parameters` go to `tiles.cut_slide`.

    Returns
    -------
    tiles_df : columns tiles.TILE_COLUMNS, slides in the order of samples_df.
    slides_df : columns SLIDE_COLUMNS, one row per slide; state "ok", "empty" (no tile kept) or "failed". Of a
        failed slide the counts are 0 and mpp is NaN.

    Raises
    ------
    ValueError : ids are missing, duplicated or hold path separators; a parameter is out of range.
    RuntimeError : no slide gave a tile (with the first reasons), or a worker process died.
    """
    _check_ids(samples_df)
    parameters = tiles.cut_slide.__kwdefaults__ | parameters
    tiles.check_parameters(**parameters)
    if n_workers < 1:
        raise ValueError(f"n_workers must be at least 1, got {n_workers}")
    stacks_dir = Path(stacks_dir)
    stacks_dir.mkdir(parents=True, exist_ok=True)
    of_slide = {str(i): df for i, df in samples_df.groupby("slide_id", sort=False)}
    jobs = [(i, slide_paths.get(i), df, stacks_dir, parameters, force) for i, df in of_slide.items()]
    rows: dict[str, dict[str, Any]] = {}
    bar = tqdm(total=len(jobs), unit="slide", desc="cutting", disable=not progress)
    with bar, closing(_run(jobs, min(n_workers, len(jobs)))) as done:
        for row in done:
            rows[row["slide_id"]] = row
            bar.update()
            bar.set_postfix(tiles=sum(r["n_tiles"] for r in rows.values()), refresh=False)
    slides_df = pd.DataFrame([rows[i] for i in of_slide], columns=list(SLIDE_COLUMNS)).astype(SLIDE_COLUMNS)
    if not slides_df["n_tiles"].any():
        first = "\n".join(f"  {r.slide_id} ({r.state}): {r.reason}" for r in slides_df.head(5).itertuples())
        raise RuntimeError(f"none of {len(slides_df)} slides gave a tile; the first reasons:\n{first}")
    tables = [
        pd.read_parquet(stacks_dir / f"{i}.parquet") for i in slides_df.query("state == 'ok'")["slide_id"]
    ]
    return pd.concat(tables, ignore_index=True).astype(tiles.TILE_COLUMNS), slides_df


def _check_ids(samples_df: pd.DataFrame) -> None:
    if samples_df.empty:
        raise ValueError("the samples table has no rows: nothing to cut")
    for name in ("sample_id", "slide_id"):
        if name not in samples_df:
            raise ValueError(
                f"the samples table has no column {name}; it has {', '.join(samples_df.columns)}"
            )
        ids = samples_df[name]
        if ids.isna().any() or (ids.astype(str) == "").any():
            raise ValueError(f"column {name} of the samples table has empty cells")
        ids = ids.astype(str)
        bad = ids[
            ids.str.contains(r"[/\\\x00]") | ids.str.startswith(".") | ids.str.contains("..", regex=False)
        ]
        if len(bad):
            raise ValueError(
                f"{name} {bad.iloc[0]!r} cannot be a file's name ({len(bad)} such): no '/', '\\', '..' "
                "or leading '.'; rename it in the samples table"
            )
    twice = samples_df["sample_id"][samples_df["sample_id"].duplicated()]
    if len(twice):
        raise ValueError(f"{len(twice)} sample ids occur more than once, the first is {twice.iloc[0]!r}")


def _run(jobs: list[tuple], n_workers: int) -> Iterator[dict[str, Any]]:
    """Yield each job's row as it is ready; on any way out no worker is left behind."""
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
        # Half-written slides only exist under temporary names, so workers may be stopped anywhere.
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

    def watch() -> None:
        connection.wait([mp.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cut_or_reuse(job: tuple) -> dict[str, Any]:
    """One slide: its row of slides_df, from its json when that still fits, else by cutting it."""
    slide_id, path, samples_df, stacks_dir, parameters, force = job
    json_path, table_path, stack_path = (
        stacks_dir / f"{slide_id}{end}" for end in (".json", ".parquet", ".npy")
    )
    row = dict.fromkeys(SLIDE_COLUMNS, 0) | {"slide_id": slide_id, "reason": "", "note": ""}
    row |= {"mpp": np.nan, "n_samples": len(samples_df), "n_samples_without_tiles": len(samples_df)}
    if path is None:
        return row | {"state": "failed", "reason": "no file with this slide's name was found"}
    try:
        made_from = _made_from(Path(path), samples_df, parameters)
        if not force and (known := _known_row(json_path, made_from, stack_path, table_path)):
            return known
        json_path.unlink(missing_ok=True)
        cut = tiles.cut_slide(path, samples_df, stack_path, **parameters)
    except (SlideError, FileNotFoundError, PermissionError) as error:
        return row | {"state": "failed", "reason": str(error)}
    row |= {
        "state": "ok" if len(cut.tiles_df) else "empty",
        "reason": "" if len(cut.tiles_df) else _why_empty(cut, parameters["min_tissue"]),
        "n_samples_without_tiles": len(samples_df) - cut.tiles_df["sample_id"].nunique(),
        "n_tiles": len(cut.tiles_df),
        "n_dropped_tissue": cut.dropped["tissue"],
        "n_dropped_edge": cut.dropped["edge"],
    }
    same = ("note", "n_grid", "mpp", "l0_width", "l0_height", "tissue_area_mm2")
    row |= {name: getattr(cut, name) for name in same}
    _replace(table_path, lambda part: cut.tiles_df.to_parquet(part, index=False))
    how = {"reader": cut.reader, "seconds": round(cut.seconds, 3)}
    text = json.dumps({"made_from": made_from, "slide": row, "how": how}, indent=1)
    _replace(json_path, lambda part: part.write_text(text, encoding="utf-8"))
    return row


def _why_empty(cut: tiles.SlideTiles, min_tissue: float) -> str:
    if cut.tissue_area_mm2 == 0:
        return "no tissue was found"
    return (
        f"none of {cut.n_grid} tiles was kept: {cut.dropped['edge']} cut by an edge, {cut.dropped['tissue']} "
        f"with less than {min_tissue:.0%} tissue ({cut.tissue_area_mm2:.3g} mm² of tissue on the slide)"
    )


def _made_from(path: Path, samples_df: pd.DataFrame, parameters: dict[str, Any]) -> dict[str, Any]:
    """Everything a stack depends on. The slide counts by its size and its first and last MB."""
    if not path.is_file():
        slides.open_slide(path)  # raises, saying what is wrong
    size, end = path.stat().st_size, 2**20
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(end))
        file.seek(max(size - end, 0))
        digest.update(file.read(end))
    used_df = samples_df.reindex(columns=["sample_id", "slide_id", "mpp", *grid.REGION])
    samples = hashlib.sha256(used_df.to_csv(index=False).encode()).hexdigest()
    slide = {"bytes": size, "sha256_ends": digest.hexdigest()}
    return {"format": FORMAT, "parameters": parameters, "slide": slide, "samples": samples}


def _known_row(
    json_path: Path, made_from: dict[str, Any], stack_path: Path, table_path: Path
) -> dict[str, Any] | None:
    try:
        known = json.loads(json_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    row = known["slide"]
    there = table_path.is_file() and (row["n_tiles"] == 0 or stack_path.is_file())
    return row if there and known["made_from"] == made_from else None


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)
