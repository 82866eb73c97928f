"""What one feature sees, worked out when asked: its top tiles, guided backpropagation, a synthetic image.

The slides where the feature is highest are known from the feature table; only their tiles go through the
network. What was made is kept in a folder and read again the next time.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from lib.visualize import attribution, synthetic_images
from lib.visualize.tile_choice import top_k


class Closeup(NamedTuple):
    """One feature, seen closely."""

    tile_ids: np.ndarray  # str [k], highest value first, no two of one donor unless there is one donor
    values: np.ndarray  # float64 [k], the feature on these tiles (spatial sum)
    tiles: np.ndarray  # uint8 [k, h, w, 3]
    gradients: np.ndarray  # uint8 [k, h, w, 3], mid grey is zero (`attribution.to_picture`)
    method: np.ndarray  # str [], how the gradients were taken
    synthetic: np.ndarray  # uint8 [h, w, 3]
    objective: np.ndarray  # float64 [2], the feature on the noise it began with, and on the image


def look(
    model: torch.nn.Module,
    architecture: str,
    feature: str,
    feature_values: pd.Series,
    tiles_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    stack_files: Mapping[str, str | Path],
    *,
    n_tiles: int = 4,
    n_samples: int = 8,
    tiles_per_sample: int = 48,
    n_steps: int = 64,
    seed: int = 0,
    p: float = 1.0,
    on_step: Callable[[int, int], None] | None = None,
) -> Closeup:
    """The tiles with the highest value of a feature, their gradients, and an image that maximises it.

    Parameters
    ----------
    model, architecture, feature : as in `attribution.guided_backpropagation`
    feature_values : sample_id -> value of the feature; only tiles of the n_samples highest are tried
    tiles_df : tile_id, sample_id, slide_id, stack_index
    samples_df : sample_id, donor
    tiles_per_sample : int
        Of a sample with more tiles as many are tried, evenly spaced.
    n_steps, seed : of the synthetic image (`synthesis.synthesise`)
    p : exponent of the feature, as in `attribution.feature_sums`
    on_step : called with steps done and steps in all; what it raises ends the work

    Raises
    ------
    ValueError, FileNotFoundError : no tiles, an unknown feature, a stack that is missing
    """
    tried_df = candidates(feature_values, tiles_df, samples_df, n_samples, tiles_per_sample)
    k = min(n_tiles, len(tried_df))
    n_all = len(tried_df) + k + n_steps

    def report(done: int) -> None:
        if on_step is not None:
            on_step(done, n_all)

    options = {"p": p, "progress": False, "on_step": report}
    values_df = attribution.tile_values(model, architecture, [feature], tried_df, stack_files, **options)
    top_df = top_k(values_df, tried_df, samples_df, k=k)
    tiles = pictures_of(top_df, stack_files)
    gradients = []
    for i, tile in enumerate(tiles):
        gradient, method = attribution.guided_or_plain(model, architecture, feature, tile, p=p)
        gradients.append(attribution.to_picture(gradient))
        report(len(tried_df) + i + 1)
    spread_df = tried_df.iloc[np.linspace(0, len(tried_df) - 1, min(len(tried_df), 48)).astype(int)]
    basis = synthetic_images.colour_decorrelation(
        pictures_of(spread_df, stack_files), n_pixels=50_000, seed=seed
    )
    images, curve_df = synthetic_images.synthesise(
        model,
        architecture,
        [feature],
        input_px=tiles.shape[1],
        n_steps=n_steps,
        seed=seed,
        colour_basis=basis,
        n_recorded=2,
        p=p,
        progress=False,
        on_step=lambda done: report(len(tried_df) + k + done),
    )
    return Closeup(
        top_df["tile_id"].to_numpy(dtype="U"),
        top_df["value"].to_numpy(float),
        tiles,
        np.stack(gradients),
        np.array(method),
        images[0],
        curve_df["objective"].to_numpy(float),
    )


def candidates(
    feature_values: pd.Series,
    tiles_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    n_samples: int,
    tiles_per_sample: int,
) -> pd.DataFrame:
    """Tiles worth trying: of the samples with the highest values, one per donor unless there is only one."""
    with_tiles = feature_values[feature_values.index.isin(tiles_df["sample_id"])]
    if with_tiles.empty:
        raise ValueError(f"none of the {len(feature_values)} samples with this feature has a tile")
    donors = samples_df.set_index("sample_id")["donor"].reindex(with_tiles.index)
    ranked = with_tiles.sort_values(ascending=False, kind="stable").index
    if donors.nunique() > 1:
        ranked = ranked[~donors.loc[ranked].duplicated().to_numpy()]
    parts = []
    for sample_id in ranked[:n_samples]:
        of_sample_df = tiles_df[tiles_df["sample_id"] == sample_id]
        n = min(len(of_sample_df), tiles_per_sample)
        parts.append(of_sample_df.iloc[np.linspace(0, len(of_sample_df) - 1, n).astype(int)])
    return pd.concat(parts, ignore_index=True)


def pictures_of(tiles_df: pd.DataFrame, stack_files: Mapping[str, str | Path]) -> np.ndarray:
    """The stored pictures of some tiles, uint8 [n, h, w, 3], in the order of tiles_df.

    FileNotFoundError for a stack that is missing, ValueError for one that is shorter than the tiles say.
    """
    pictures = []
    for tile in tiles_df.itertuples():
        path = Path(stack_files[tile.slide_id])
        if not path.is_file():
            raise FileNotFoundError(f"no tile stack at {path} for slide {tile.slide_id}: run notebook 01")
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
        if tile.stack_index >= len(stack):
            raise ValueError(
                f"{path} holds {len(stack)} tiles, and tile {tile.tile_id} is number {tile.stack_index}"
            )
        pictures.append(stack[tile.stack_index])
    return np.stack(pictures)


# -- kept results -----------------------------------------------------------------------------------------


def kept(folder: Path, feature: str, n_steps: int) -> Closeup | None:
    """What `keep` left for a feature, or None."""
    path = folder / f"closeup_{feature}_{n_steps}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return Closeup(*(arrays[name] for name in Closeup._fields))


def keep(folder: Path, feature: str, n_steps: int, closeup: Closeup) -> None:
    """Write a closeup whole or not at all."""
    temporary = folder / f".closeup_{feature}.{os.getpid()}.npz"
    np.savez(temporary, **closeup._asdict())
    os.replace(temporary, folder / f"closeup_{feature}_{n_steps}.npz")


def kept_map(folder: Path, feature: str, slide_id: str, tile_ids: pd.Index) -> pd.Series | None:
    """Values of a feature on the tiles of one slide, or None."""
    path = folder / f"map_{feature}_{slide_id}.npy"
    if not path.is_file():
        return None
    values = np.load(path, allow_pickle=False)
    return pd.Series(values, index=tile_ids) if len(values) == len(tile_ids) else None


def keep_map(folder: Path, feature: str, slide_id: str, values: pd.Series) -> None:
    """Write the values of one slide whole or not at all."""
    temporary = folder / f".map_{feature}.{os.getpid()}.npy"
    np.save(temporary, values.to_numpy(float), allow_pickle=False)
    os.replace(temporary, folder / f"map_{feature}_{slide_id}.npy")
