"""Features summed over the tiles of each sample, slide by slide and resumable; mean or sum is chosen on use.

Each finished slide leaves `<slide_id>.npz` (sample_ids [n], n_tiles int64 [n], sums float64 [n, n_features])
with the work record of what it was made for. The numbers do not depend on the order of slides or tiles.
"""

import itertools
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from lib import code_versions, work_records
from lib.errors import InputError
from lib.features import precision_check
from lib.features.quantification import Quantification
from lib.features.quantify import QuantifyBatch, tile_quantifier
from lib.network import devices, models
from lib.network.batches import read_tensor
from lib.network.weights import fingerprint
from lib.tiles.stored import StoredTiles, in_batches
from lib.whole_files import text_fingerprint


def quantify_samples(
    model: torch.nn.Module, tiles_df: pd.DataFrame, out_dir: Path, how: Quantification
) -> tuple[pd.DataFrame, pd.Series]:
    """Sums of every feature over the tiles of every sample, and the tile counts; resumes slide by slide.

    The tiles of a slide run in full batches regardless of sample (spots of one tile each, regions, whole
    slides) and are added to their samples' rows in float64. A slide whose record holds the same
    parameters, weights and tiles, with these pixels, is not run again, wherever its tiles are.

    Parameters
    ----------
    model : in eval mode
    tiles_df : one row per tile and sample: file, stack_index, sample_id, slide_id (`stored.labelled_tiles`)
    out_dir : folder of the slides' files

    Returns
    -------
    sums_df : DataFrame, features x samples, float64; index "feature"
    n_tiles : Series of int64; index "sample_id"

    Raises
    ------
    FileNotFoundError, ValueError
        As `StoredTiles` and `tile_quantifier`; a tile that counts twice for one sample.
    RuntimeError
        Values that are not finite (names slide and layer), or out of memory.
    """
    rows_df = _in_order(tiles_df)
    tiles = StoredTiles(rows_df)
    out_dir.mkdir(parents=True, exist_ok=True)
    slides = {out_dir / f"{slide_id}.npz": slide_df for slide_id, slide_df in rows_df.groupby("slide_id")}
    made_for = _made_for(model, slides, tiles, how)
    todo = [path for path in slides if work_records.why_unfinished(path, made_for[path]) is not None]
    if todo:
        tiles.require_slides(np.concatenate([slides[path].index for path in todo]))
    _run(model, {path: slides[path] for path in todo}, made_for, tiles, how)
    return _collected(list(slides), tiles_df["sample_id"].unique(), how)


def _run(
    model: torch.nn.Module,
    slides: dict[Path, pd.DataFrame],
    made_for: dict[Path, dict[str, Any]],
    tiles: StoredTiles,
    how: Quantification,
) -> None:
    """Write the file of each slide; on a GPU while it works on the next one."""
    batches = {
        path: in_batches(slide_df.index.to_numpy(), how.batch_size) for path, slide_df in slides.items()
    }
    on_gpu = how.device.startswith("cuda")
    parts = list(itertools.chain.from_iterable(batches.values()))
    if parts and how.precision != "float32":
        precision_check.require_precise(model, tiles.read(parts[0][: precision_check.N_TILES]), how)
    read = tiles.read_ahead(parts, partial(read_tensor, tiles, pinned=on_gpu))
    bar = tqdm(total=sum(map(len, slides.values())), unit="tile", desc=f"features {how.architecture}")
    last = _Later()
    with tile_quantifier(model, how) as quantify_batch, bar, closing(read), last:
        for k, (path, slide_df) in enumerate(slides.items()):
            bar.set_postfix_str(f"slide {k + 1} of {len(slides)}")
            of_slide = itertools.islice(read, len(batches[path]))
            ids, n_tiles, sums = _slide_sums(quantify_batch, slide_df["sample_id"], of_slide, bar)
            last.do()
            last.call = partial(_save, path, made_for[path], ids, n_tiles, sums, how)
            if not on_gpu:
                last.do()


class _Later:
    """A call that waits, and is made at the end at the latest, whatever ends it."""

    call: Callable[[], None] | None = None

    def do(self) -> None:
        call, self.call = self.call, None
        if call is not None:
            call()

    def __enter__(self) -> "_Later":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            self.do()
        except Exception as another:
            if error is None:
                raise
            error.add_note(f"And: {another}")


def _save(
    path: Path,
    made_for: dict[str, Any],
    ids: np.ndarray,
    n_tiles: np.ndarray,
    sums: Callable[[], np.ndarray],
    how: Quantification,
) -> None:
    _check_finite(values := sums(), how, f"slide {path.stem}")
    arrays = {"sample_ids": ids, "n_tiles": n_tiles, "sums": values}
    work_records.save_arrays(path, made_for, arrays)


def unfinished(
    model: torch.nn.Module, tiles_df: pd.DataFrame, out_dir: Path, how: Quantification
) -> list[str]:
    """The slides that `quantify_samples` with these arguments would run, in the order of their ids."""
    if tiles_df.empty:
        return []
    rows_df = _in_order(tiles_df)
    slides = {out_dir / f"{slide_id}.npz": slide_df for slide_id, slide_df in rows_df.groupby("slide_id")}
    made_for = _made_for(model, slides, StoredTiles(rows_df), how)
    return [
        path.name.removesuffix(".npz")
        for path in slides
        if work_records.why_unfinished(path, made_for[path]) is not None
    ]


def _in_order(tiles_df: pd.DataFrame) -> pd.DataFrame:
    """The rows that are summed, by slide, file and tile; InputError for a tile that counts twice."""
    columns = ["slide_id", "file", "stack_index", "sample_id"]
    rows_df = tiles_df[columns].sort_values(by=columns, ignore_index=True)
    repeated = int(rows_df.duplicated(columns[1:]).sum())
    if repeated:
        raise InputError(f"{repeated} rows of the tiles frame name a tile of a sample a second time")
    return rows_df


def _made_for(
    model: torch.nn.Module, slides: dict[Path, pd.DataFrame], tiles: StoredTiles, how: Quantification
) -> dict[Path, dict[str, Any]]:
    """What the file of each slide depends on: network, parameters, and the slide's tiles."""
    network = {"architecture": how.architecture, "weights": fingerprint(model)}
    network["code"] = code_versions.of_work("lib.features.quantify")
    facts = network | {"features": how.features, "p": float(how.p), "precision": how.precision}
    return {path: facts | {"tiles": _tiles(tiles, slide_df)} for path, slide_df in slides.items()}


def _tiles(tiles: StoredTiles, slide_df: pd.DataFrame) -> str:
    """Fingerprint of one slide's tiles: whose they are, and their pixels."""
    of_row = slide_df[["stack_index", "sample_id"]].assign(content=tiles.contents(slide_df.index.to_numpy()))
    return text_fingerprint(of_row.to_csv(index=False))


def _slide_sums(
    quantify_batch: QuantifyBatch, sample_of_tile: pd.Series, batches: Iterable[torch.Tensor], bar: tqdm
) -> tuple[np.ndarray, np.ndarray, Callable[[], np.ndarray]]:
    """What the file of a slide holds (module docstring): ids, tile counts, and sums once they are there."""
    sample_ids, rows = np.unique(sample_of_tile.to_numpy(str), return_inverse=True)
    sums_t, start = torch.empty(0), 0
    for tiles in batches:
        tile_sums_t = quantify_batch(tiles)  # float32 [B, n_features]
        tile_sums_t = tile_sums_t.to(_accumulator(tile_sums_t.device)).double()
        if start == 0:
            sums_t = torch.zeros_like(tile_sums_t[:1]).repeat(len(sample_ids), 1)
        rows_t = devices.uploaded(torch.from_numpy(rows[start : start + len(tiles)]), tile_sums_t.device)
        sums_t.index_add_(0, rows_t, tile_sums_t)
        start += len(tiles)
        bar.update(len(tiles))
    return sample_ids, np.bincount(rows).astype(np.int64), devices.downloading(sums_t)


def _accumulator(device: torch.device) -> torch.device:
    """Where sums over tiles are added up: the device itself, or the CPU where the device has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def _check_finite(sums: np.ndarray, how: Quantification, where: str) -> None:
    """RuntimeError naming the first layer that is not finite; sums is [n, n_features]."""
    bad = ~np.isfinite(sums).all(axis=0)
    if bad.any():
        first = models.feature_table(how.architecture, how.features).iloc[int(np.argmax(bad))]
        raise RuntimeError(
            f"{int(bad.sum())} of {bad.size} features of {where} are not finite (first: {first['feature']}, "
            f"{first['layer_label']}): the weights hold NaN or diverged, or p is too large for float32"
        )


def _collected(
    paths: list[Path], sample_ids: Iterable[str], how: Quantification
) -> tuple[pd.DataFrame, pd.Series]:
    """Slides' files added up to one matrix; a sample on several slides is the sum over them."""
    names = pd.Index(models.feature_names(how.architecture, how.features), name="feature")
    samples = pd.Index(sample_ids, name="sample_id")
    sums, n_tiles = np.zeros((len(samples), len(names))), np.zeros(len(samples), dtype=np.int64)
    for path in paths:
        with np.load(path, allow_pickle=False) as content:  # a damaged one has been made again
            rows = samples.get_indexer(content["sample_ids"])
            sums[rows] += content["sums"]
            n_tiles[rows] += content["n_tiles"]
    return pd.DataFrame(sums.T, index=names, columns=samples), pd.Series(n_tiles, samples, name="n_tiles")


def aggregate(sums_df: pd.DataFrame, n_tiles: pd.Series, how: str = "mean") -> pd.DataFrame:
    """Features x samples to correlate: "mean" over a sample's tiles, or "sum" (the paper's formula).

    Under "sum" every feature carries the sample's tile count. n_tiles is indexed by sample_id.
    """
    if how not in ("mean", "sum"):
        raise InputError(f"aggregate must be 'mean' or 'sum', not {how!r}")
    counts = _counts_of(sums_df, n_tiles)
    return sums_df.div(counts, axis="columns") if how == "mean" else sums_df.copy()


def dropped_features(
    model: torch.nn.Module, tiles_df: pd.DataFrame, out_dir: Path, how: Quantification, aggregated: str
) -> pd.DataFrame:
    """`quantify_samples` of tiles that do not count, aggregated; without columns where there are none."""
    if tiles_df.empty:
        names = models.feature_names(how.architecture, how.features)
        return pd.DataFrame(index=pd.Index(names, name="feature"))
    sums_df, n_tiles = quantify_samples(model, tiles_df, out_dir, how)
    return aggregate(sums_df, n_tiles, aggregated)


def with_dropped(
    features_df: pd.DataFrame, dropped_df: pd.DataFrame, counts_df: pd.DataFrame, how: str
) -> pd.DataFrame:
    """The features as they would be with the tiles that were left out.

    Parameters
    ----------
    features_df, dropped_df : features x samples, of the tiles that count and of the others; see `aggregate`
    counts_df : index sample_id; n_tiles (those that count) and n_dropped
    """
    samples = features_df.columns.intersection(dropped_df.columns)
    both_df = features_df.copy()
    if how == "sum":
        both_df[samples] += dropped_df[samples]
    else:
        share = counts_df["n_dropped"] / (counts_df["n_dropped"] + counts_df["n_tiles"])
        both_df[samples] += (dropped_df[samples] - features_df[samples]).mul(share[samples], axis="columns")
    return both_df


def r_with_tile_count(features_df: pd.DataFrame, n_tiles: pd.Series) -> pd.Series:
    """Pearson r over samples between each feature and the tile count; index "feature", float64.

    Features that do not vary (sd below 1e-6 of the largest value: dead channels) are left out, and the result
    is empty where the tile count itself does not vary or there are fewer than 3 samples.
    """
    counts = _counts_of(features_df, n_tiles)
    values = features_df.to_numpy(np.float64)
    varies = values.std(axis=1) > 1e-6 * np.abs(values).max(axis=1)
    if len(counts) < 3 or np.ptp(counts) == 0:
        varies[:] = False
    centred = values[varies] - values[varies].mean(axis=1, keepdims=True)
    centred_counts = counts - counts.mean()
    r = centred @ centred_counts / (np.linalg.norm(centred, axis=1) * np.linalg.norm(centred_counts))
    return pd.Series(r.clip(-1, 1), index=features_df.index[varies], name="r_tile_count")


def _counts_of(values_df: pd.DataFrame, n_tiles: pd.Series) -> np.ndarray:
    """Tile counts, float64, in the order of values_df's columns."""
    counts = n_tiles.reindex(values_df.columns).to_numpy(np.float64)
    without = values_df.columns[~(counts >= 1)].tolist()
    if without:
        raise InputError(f"{len(without)} samples have no tile count of 1 or more (first: {without[:5]})")
    return counts
