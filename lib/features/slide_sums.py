"""Per-slide files behind quantification: a slide's tiles, the mark that says a file is current, the total.

A slide's file `<slide_id>.npz` holds sample_ids [n], n_tiles int64 [n], sums float64 [n, n_features] and a
mark, a hash of all that the sums depend on.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd


def tile_rows(tiles_df: pd.DataFrame, sample_ids: Sequence[str] | None) -> pd.DataFrame:
    """Columns file, stack_index, sample_id, slide_id, checked and sorted; all samples in attrs["sample_ids"].

    ValueError when a column, a value or a wanted sample is missing, or a tile counts twice for one sample.
    """
    missing = [name for name in ("file", "stack_index", "sample_id") if name not in tiles_df]
    if missing:
        raise ValueError(f"the tile table has no column {missing}; it has {list(tiles_df)}.")
    if tiles_df.empty:
        raise ValueError("the tile table has no rows: no tiles to quantify.")
    slide_id = (
        tiles_df["slide_id"] if "slide_id" in tiles_df else tiles_df["file"].map(lambda f: Path(f).stem)
    )
    rows_df = tiles_df[["file", "stack_index", "sample_id"]].assign(slide_id=slide_id)
    if rows_df.isna().any(axis=None):
        raise ValueError(
            f"{int(rows_df.isna().any(axis=1).sum())} rows of the tile table have missing values."
        )
    rows_df = rows_df.astype({"file": str, "stack_index": np.int64, "sample_id": str, "slide_id": str})
    twice = int(rows_df.duplicated(["file", "stack_index", "sample_id"]).sum())
    if twice:
        raise ValueError(f"{twice} rows of the tile table name a tile of a sample a second time.")
    bad = [name for name in rows_df["slide_id"].unique() if Path(name).name != name]
    if bad:
        raise ValueError(f"slide_id {bad[0]!r} cannot be a file name; use ids without slashes.")
    present = list(dict.fromkeys(rows_df["sample_id"]))
    if sample_ids is not None:
        without = [sample_id for sample_id in sample_ids if sample_id not in set(present)]
        if without:
            raise ValueError(
                f"{len(without)} of {len(sample_ids)} samples have no tiles (first: {without[:5]}): "
                "leave them out of the samples, or lower the tissue share a tile must have."
            )
        rows_df = rows_df[rows_df["sample_id"].isin(set(sample_ids))]
    rows_df = rows_df.sort_values(["slide_id", "file", "stack_index", "sample_id"], ignore_index=True)
    rows_df.attrs["sample_ids"] = present
    return rows_df


def mark_of(slide_df: pd.DataFrame, facts: dict[str, object]) -> str:
    """Hash of everything one slide's sums depend on."""
    files = {}
    for file in slide_df["file"].unique():
        if not Path(file).is_file():
            raise FileNotFoundError(f"no tile stack at {file}: run the tiles notebook first.")
        status = os.stat(file)
        files[file] = [Path(file).name, status.st_size, status.st_mtime_ns]
    names = [files[file][0] for file in slide_df["file"]]
    tiles = list(zip(names, slide_df["stack_index"].tolist(), slide_df["sample_id"], strict=True))
    text = json.dumps([facts, sorted(files.values()), tiles], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def stored_mark(path: Path) -> str | None:
    """The mark in a slide's file; None when there is no file, or none that can be read."""
    try:
        with np.load(path) as content:
            return str(content["mark"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def save(path: Path, ids: np.ndarray, counts: np.ndarray, sums: np.ndarray, mark: str) -> None:
    """Write one slide's file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, sample_ids=ids, n_tiles=counts, sums=sums, mark=np.array(mark))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def collect(
    paths: Sequence[Path], sample_ids: Sequence[str], feature_names: Sequence[str]
) -> tuple[pd.DataFrame, pd.Series]:
    """Slides' files added up to one matrix; a sample on several slides is the sum over them."""
    names = pd.Index(feature_names, name="feature")
    samples = pd.Index(sample_ids, name="sample_id")
    if not samples.is_unique:
        raise ValueError(f"sample_ids lists {samples[samples.duplicated()][0]!r} twice.")
    sums, n_tiles = np.zeros((len(samples), len(names))), np.zeros(len(samples), dtype=np.int64)
    for path in paths:
        with np.load(path) as content:
            rows = samples.get_indexer(content["sample_ids"])
            sums[rows] += content["sums"]
            n_tiles[rows] += content["n_tiles"]
    sums_df = pd.DataFrame(sums.T, index=names, columns=samples)
    return sums_df, pd.Series(n_tiles, index=samples, name="n_tiles")
