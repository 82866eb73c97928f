"""Quantification: f_lz of every channel of every layer, summed over positions, tiles and samples.

For an image X, f_lz(X) is the sum over x, y of Y_lzxy(X)^p; a sample's value is the sum over its tiles.
Sums and tile counts are both kept, and mean or sum is chosen on use. Each layer is reduced inside the
forward pass, so memory does not depend on the number of tiles and in-place ReLUs cannot overwrite a layer
before it is read.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from lib.features import slide_sums
from lib.network import devices, models
from lib.network.weights import fingerprint
from lib.tiles.stored import StoredTiles

DTYPES = ("float32", "tf32", "bfloat16")


class SlideFeatures(NamedTuple):
    """Features of one set of tiles."""

    sums: np.ndarray  # float64 [n_features], in the order of networks.feature_table
    n_tiles: int


@contextmanager
def tile_quantifier(
    model: nn.Module,
    architecture: str,
    *,
    p: float = 1.0,
    device: str = "cpu",
    dtype: str = "float32",
    features: str = "table1",
) -> Iterator[Callable[[np.ndarray], torch.Tensor]]:
    """Within the context, a function from uint8 [B, H, W, 3] tiles to their features, float32 [B,
    n_features].

    Parameters
    ----------
    model : nn.Module
        In eval mode. Moved to `device`, channels last; its values are not changed.
    architecture, features : str
        As in `networks.feature_table`, whose order the columns have.
    p : float
        Power of the activations, > 0. Y^p for whole p; for other p, sign(Y) |Y|^p, which is Y^p wherever a
        layer is non-negative and keeps the sign where it is not.
    dtype : {"float32", "tf32", "bfloat16"}
        "float32" is full float32, also on GPUs that would use TF32; "tf32" lets them (no change on a CPU);
        "bfloat16" runs the network under autocast. Sums over positions are float32 in all three.

    Raises
    ------
    ValueError
        Bad p, dtype or tiles, tiles smaller than the network takes, a model of another architecture.
    RuntimeError
        Training mode, values that are not finite, or no memory left on the device.
    """
    if not p > 0:
        raise ValueError(f"p is {p}; the power of the activations must be above 0 (the paper's is 1).")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
    layers = models.feature_layers(architecture, features)
    ends = np.cumsum([layer.call.n_channels for layer in layers])
    columns = {
        layer.layer: slice(end - layer.call.n_channels, end) for layer, end in zip(layers, ends, strict=True)
    }
    axes = {layer.layer: layer.call.channel_axis for layer in layers}
    mean, sd = models.normalisation(architecture)
    model = model.to(device=device, memory_format=torch.channels_last)
    sums_t = torch.empty(0)  # float32 [B, n_features] of the batch in hand

    def reduce(layer: int, output_t: torch.Tensor) -> None:
        values_t = _spatial_sum(output_t, axes[layer], p)
        expected = columns[layer].stop - columns[layer].start
        if values_t.shape[1] != expected:
            raise ValueError(
                f"layer {layer} has {values_t.shape[1]} channels where {architecture} has {expected}: the "
                "model is not of that architecture."
            )
        sums_t[:, columns[layer]] = values_t

    def quantify_batch(tiles: np.ndarray) -> torch.Tensor:
        nonlocal sums_t
        check_tiles(tiles, architecture)
        tiles_t = torch.from_numpy(np.ascontiguousarray(tiles))
        remedy = f"try {max(1, len(tiles) // 2)} (inference_batch of a run, batch_size of quantify_samples), "
        remedy += "or bfloat16 (feature_precision, dtype)"
        explained = devices.out_of_memory_explained(len(tiles), tiles.shape[1], device, remedy)
        with explained, torch.inference_mode(), precision(device, dtype):
            sums_t = torch.empty((len(tiles), int(ends[-1])), device=device)
            model(models.normalise(tiles_t.to(device), mean, sd))
        return sums_t

    with models.layer_outputs(model, architecture, reduce, features=features):
        yield quantify_batch


@contextmanager
def precision(device: str, dtype: str) -> Iterator[None]:
    """Autocast for "bfloat16"; TF32, which CUDA convolutions use unasked, only for "tf32"."""
    cuda, tf32 = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, tf32.allow_tf32
    cuda.allow_tf32 = tf32.allow_tf32 = dtype == "tf32"
    try:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bfloat16"):
            yield
    finally:
        cuda.allow_tf32, tf32.allow_tf32 = before


def accumulator(device: str) -> torch.device:
    """Where sums over tiles are added up: the device itself, or the CPU where the device has no float64."""
    device_t = torch.device(device)
    return torch.device("cpu") if device_t.type == "mps" else device_t


def _spatial_sum(output_t: torch.Tensor, channel_axis: int, p: float) -> torch.Tensor:
    """Sum over positions of Y^p, float32 [B, C]; maps in any layout, or tokens."""
    positions = (2, 3) if channel_axis == 1 else tuple(range(1, output_t.ndim - 1))
    if p == 1:
        return output_t.sum(positions, dtype=torch.float32)
    values_t = output_t.float()
    powered_t = values_t**p if p == int(p) else values_t.sign() * values_t.abs() ** p
    return powered_t.sum(positions)


def check_tiles(tiles: np.ndarray, architecture: str) -> None:
    """ValueError unless `tiles` is uint8 [B, H, W, 3], not empty and large enough for the network."""
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
        raise ValueError(
            f"tiles must be uint8 [n, height, width, 3]; these are {tiles.dtype} {list(tiles.shape)}."
        )
    if len(tiles) == 0:
        raise ValueError("a batch holds no tiles; leave empty batches out.")
    models.check_input_px(architecture, min(tiles.shape[1:3]))


def quantify(
    model: nn.Module,
    architecture: str,
    batches: Iterable[np.ndarray],
    *,
    p: float = 1.0,
    device: str = "cpu",
    dtype: str = "float32",
    features: str = "table1",
) -> SlideFeatures:
    """Features summed over all tiles of `batches` (uint8 [B, H, W, 3] each, any sizes), accumulated in
    float64.

    Parameters and errors as in `tile_quantifier`; ValueError also when there are no tiles.
    """
    n_tiles, sums_t = 0, None
    with tile_quantifier(
        model, architecture, p=p, device=device, dtype=dtype, features=features
    ) as quantify_batch:
        for tiles in batches:
            batch_t = quantify_batch(tiles).to(accumulator(device)).double().sum(0)  # float64 [n_features]
            sums_t = batch_t if sums_t is None else sums_t + batch_t
            n_tiles += len(tiles)
    if sums_t is None:
        raise ValueError("no tiles to quantify: the sample has none, or its batches were used up before.")
    sums = sums_t.cpu().numpy()
    _check_finite(sums[None], architecture, features, "these tiles")
    return SlideFeatures(sums, n_tiles)


def quantify_samples(
    model: nn.Module,
    architecture: str,
    tiles_df: pd.DataFrame,
    out_dir: str | os.PathLike,
    *,
    sample_ids: Sequence[str] | None = None,
    batch_size: int = 40,
    p: float = 1.0,
    device: str = "cpu",
    dtype: str = "float32",
    features: str = "table1",
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.Series]:
    """Sums of every feature over the tiles of every sample, and the tile counts; resumes slide by slide.

    The tiles of a slide run in full batches whatever samples they belong to (spots of one tile each,
    regions, whole slides) and are added to their samples' rows in float64. Each finished slide leaves
    `<slide_id>.npz` in `out_dir`, marked with a hash of the parameters, the weights, the tile list and the
    size and date of the tile stacks; a slide whose file carries the right mark is not run again. The
    numbers do not depend on the order of slides or tiles.

    Parameters
    ----------
    model, architecture, p, device, dtype, features
        As in `tile_quantifier`.
    tiles_df : DataFrame
        One row per tile and sample: file (path of a .npy stack, uint8 [n, px, px, 3]), stack_index (int),
        sample_id, and slide_id (default: the stack's name without .npy).
    sample_ids : sequence of str, optional
        The samples that must have tiles; also the order of the result. Default: those of tiles_df.
    batch_size : int
        Tiles per forward pass.

    Returns
    -------
    sums_df : DataFrame, features x samples, float64; index "feature"
    n_tiles : Series of int64; index "sample_id"

    Raises
    ------
    ValueError
        Missing columns, a sample without tiles, a stack index out of range, a stack of another type.
    FileNotFoundError
        A tile stack is missing.
    RuntimeError
        Values that are not finite (names slide and layer), or out of memory.
    """
    rows_df = slide_sums.tile_rows(tiles_df, sample_ids)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    facts = {"architecture": architecture, "features": features, "p": float(p), "dtype": dtype}
    facts["weights"] = fingerprint(model)
    stored_tiles = StoredTiles(rows_df)
    slides = {str(slide_id): slide_df for slide_id, slide_df in rows_df.groupby("slide_id", sort=True)}
    marks = {slide_id: slide_sums.mark_of(slide_df, facts) for slide_id, slide_df in slides.items()}
    todo = [
        slide_id
        for slide_id in slides
        if slide_sums.stored_mark(out_dir / f"{slide_id}.npz") != marks[slide_id]
    ]
    n_todo = sum(len(slides[slide_id]) for slide_id in todo)
    options = {"p": p, "device": device, "dtype": dtype, "features": features}
    with (
        tile_quantifier(model, architecture, **options) as quantify_batch,
        tqdm(total=n_todo, unit="tile", desc=f"features {architecture}", disable=not progress) as bar,
    ):
        for k, slide_id in enumerate(todo):
            bar.set_postfix_str(f"slide {k + 1} of {len(todo)}")
            batches = stored_tiles.batches(slides[slide_id].index.to_numpy(), batch_size)
            ids, counts, sums = _slide_sums(quantify_batch, slides[slide_id], batches, device, bar)
            _check_finite(sums, architecture, features, f"slide {slide_id}")
            slide_sums.save(out_dir / f"{slide_id}.npz", ids, counts, sums, marks[slide_id])
    wanted = list(sample_ids) if sample_ids is not None else rows_df.attrs["sample_ids"]
    names = models.feature_names(architecture, features)
    return slide_sums.collect([out_dir / f"{slide_id}.npz" for slide_id in slides], wanted, names)


def _slide_sums(
    quantify_batch: Callable[[np.ndarray], torch.Tensor],
    slide_df: pd.DataFrame,
    batches: Iterable[np.ndarray],
    device: str,
    bar: tqdm,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One slide's sample ids, tile counts int64 [n_samples] and sums float64 [n_samples, n_features]."""
    rows, ids = pd.factorize(slide_df["sample_id"], sort=True)
    sums_t, start = None, 0
    for tiles in batches:
        tile_sums_t = quantify_batch(tiles).to(accumulator(device)).double()  # [B, n_features]
        if sums_t is None:
            sums_t = torch.zeros_like(tile_sums_t[:1]).repeat(len(ids), 1)
        rows_t = torch.from_numpy(rows[start : start + len(tiles)]).to(tile_sums_t.device)
        sums_t.index_add_(0, rows_t, tile_sums_t)
        start += len(tiles)
        bar.update(len(tiles))
    return ids.to_numpy(str), np.bincount(rows).astype(np.int64), sums_t.cpu().numpy()


def _check_finite(sums: np.ndarray, architecture: str, features: str, where: str) -> None:
    """RuntimeError naming the first layer that is not finite; sums is [n, n_features]."""
    bad = ~np.isfinite(sums).all(axis=0)
    if bad.any():
        first = models.feature_table(architecture, features).iloc[int(np.argmax(bad))]
        raise RuntimeError(
            f"{int(bad.sum())} of {bad.size} features of {where} are not finite (first: {first['feature']}, "
            f"{first['layer_label']}): the weights hold NaN or diverged, or p is too large for float32."
        )


def aggregate(sums_df: pd.DataFrame, n_tiles: pd.Series, how: str = "mean") -> pd.DataFrame:
    """Features x samples to correlate: "mean" over a sample's tiles, or "sum" (the paper's formula).

    Under "sum" every feature carries the sample's tile count. n_tiles is indexed by sample_id.
    """
    if how not in ("mean", "sum"):
        raise ValueError(f"aggregate is {how!r}; it must be 'mean' or 'sum'.")
    counts = _counts_of(sums_df, n_tiles)
    return sums_df / counts if how == "mean" else sums_df.copy()


def r_with_tile_count(features_df: pd.DataFrame, n_tiles: pd.Series) -> pd.Series:
    """Pearson r over samples between each feature and the tile count; index "feature", float64.

    Features that do not vary (sd below 1e-6 of the largest value: dead channels) have no r and are left out
    of the result. ValueError when the tile count itself does not vary, or for fewer than 3 samples.
    """
    counts = _counts_of(features_df, n_tiles)
    if len(counts) < 3 or np.ptp(counts) == 0:
        raise ValueError(
            f"r with the tile count needs 3 samples or more of different counts; {len(counts)} samples have "
            f"{np.unique(counts).size} different."
        )
    values = features_df.to_numpy(np.float64)
    varies = values.std(axis=1) > 1e-6 * np.abs(values).max(axis=1)
    centred = values[varies] - values[varies].mean(axis=1, keepdims=True)
    centred_counts = counts - counts.mean()
    r = centred @ centred_counts / (np.linalg.norm(centred, axis=1) * np.linalg.norm(centred_counts))
    return pd.Series(r.clip(-1, 1), index=features_df.index[varies], name="r_tile_count")


def _counts_of(values_df: pd.DataFrame, n_tiles: pd.Series) -> np.ndarray:
    """Tile counts, float64, in the order of values_df's columns."""
    without = [sample_id for sample_id in values_df.columns if n_tiles.get(sample_id, 0) < 1]
    if without:
        raise ValueError(f"{len(without)} samples have no tile count of 1 or more (first: {without[:5]}).")
    return n_tiles.loc[values_df.columns].to_numpy(np.float64)
