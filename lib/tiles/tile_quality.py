"""Which tiles deserve to be measured: ink, folds, bled stain, focus of each, and why one is left out.

Cutting measures every tile; whether a tile counts is decided afterwards, over the whole cohort, by `judged`.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.errors import InputError

REASONS = ("pen", "fold", "bleed", "blur")  # a tile with several has the first
MEASURES = ("focus", "pen", "fold", "bleed", "haematoxylin", "eosin", "nuclear_density")
# Means over tiles; they may be covariates (`cohort.summary.OF_TILES`).
SAMPLE_MEASURES = ("focus", "haematoxylin", "eosin", "nuclear_density", "tissue_fraction")
NEAR_PX, FAR_PX = 1, 4  # lags of `focus`
SOFT = 0.6  # of the cohort's median focus: below it a tile is blurred against its own scanner


@dataclass(frozen=True)
class Limits:
    """What a good tile may have at most, or at least.

    Attributes
    ----------
    max_pen, max_fold, max_bleed : share of the tile's area under ink, folded, or of stain on glass
    min_focus : of `focus`; tiles of a cohort that is soft throughout may be softer (`SOFT`)
    """

    max_pen: float = 0.05
    max_fold: float = 0.5
    max_bleed: float = 0.3
    min_focus: float = 0.13


def focus(tile: np.ndarray) -> float:
    """Sharpness of a tile at its own resolution: detail of 1 px against detail of 4 px.

    Mean absolute second difference of the green channel at lag 1, over that at lag 4, along rows and columns.
    Sharp tiles have 0.15 to 0.5 (drawn and real slides, 0.5 to 2 µm/px), also where they hold little but the
    edge of fat or glass; a blur of sd 1.5 px or more leaves 0.08 to 0.12. Contrast and stain cancel. NaN for
    tiles narrower than 9 px, and 1 for even ones.

    Parameters
    ----------
    tile : uint8 (height, width, 3)
    """
    green = tile[..., 1].astype(np.float32)
    if min(green.shape) <= 2 * FAR_PX:
        return float("nan")
    near, far = _roughness(green, NEAR_PX), _roughness(green, FAR_PX)
    return near / far if far else 1.0


def _roughness(values: np.ndarray, lag: int) -> float:
    middle = 2 * values
    down = np.abs(middle[lag:-lag] - values[2 * lag :] - values[: -2 * lag]).mean()
    across = np.abs(middle[:, lag:-lag] - values[:, 2 * lag :] - values[:, : -2 * lag]).mean()
    return float(down + across) / 2


def stains(tile: np.ndarray) -> tuple[float, float]:
    """Mean amount of haematoxylin and of eosin (Ruifrok and Johnston 2001), from every fourth pixel."""
    from skimage.color import rgb2hed  # late: whoever asks which tiles count needs no scikit-image

    amounts = rgb2hed(np.ascontiguousarray(tile[::4, ::4]))[..., :2].mean(axis=(0, 1))
    return float(amounts[0]), float(amounts[1])


def kept(tiles_df: pd.DataFrame, dropped: bool | None = False) -> pd.DataFrame:
    """The tiles that count; with `dropped` the others (None: all). Without `dropped_for` all count."""
    if dropped is None:
        return tiles_df
    if "dropped_for" not in tiles_df:
        return tiles_df.iloc[:0] if dropped else tiles_df
    return tiles_df.loc[(tiles_df["dropped_for"] != "") == dropped]


def judged(tiles_df: pd.DataFrame, limits: Limits, drop: Collection[str] = REASONS) -> pd.DataFrame:
    """The tiles with `flag`, what is wrong with one, and `dropped_for`, the same where it is in `drop`.

    Parameters
    ----------
    tiles_df : columns MEASURES; of the whole cohort, whose median focus is the measure of softness
    drop : of REASONS

    Raises
    ------
    InputError
        Every tile would be dropped.
    """
    if unknown := sorted(set(drop) - set(REASONS)):
        raise InputError(f"drop_tiles takes {', '.join(REASONS)}, not {unknown[0]!r}")
    inked = tiles_df["pen"] > limits.max_pen
    folded = tiles_df["fold"] > limits.max_fold
    bled = tiles_df["bleed"] > limits.max_bleed
    sharp = tiles_df.loc[~inked & ~folded & ~bled, "focus"].median()
    blurred = tiles_df["focus"] < np.nanmin([limits.min_focus, SOFT * sharp])
    flag = np.select([inked, folded, bled, blurred], REASONS, default="")
    dropped = pd.Series(flag, tiles_df.index, dtype="str")
    dropped_for = dropped.where(dropped.isin(list(drop)), "")
    if len(tiles_df) and (dropped_for != "").all():
        counts = ", ".join(f"{n:,} for {why}" for why, n in dropped_for.value_counts().items())
        raise InputError(
            f"every tile would be dropped ({counts}): look at the slides, then set drop_tiles, or the limits "
            "max_pen, max_fold, max_bleed and min_focus"
        )
    return tiles_df.assign(flag=dropped, dropped_for=dropped_for)


def of_samples(tiles_df: pd.DataFrame) -> pd.DataFrame:
    """Of each sample_id: n_dropped, and the mean of SAMPLE_MEASURES over its tiles that count."""
    means_df = kept(tiles_df).groupby("sample_id")[list(SAMPLE_MEASURES)].mean()
    n_dropped = kept(tiles_df, dropped=True)["sample_id"].value_counts()
    return means_df.assign(n_dropped=n_dropped.reindex(means_df.index, fill_value=0).astype("int64"))


def counts(tiles_df: pd.DataFrame) -> pd.DataFrame:
    """Tiles by what is wrong with them: flag, tiles, samples, dropped (number), share of all tiles."""
    by_flag = tiles_df.groupby("flag")
    table_df = by_flag.agg(
        tiles=("tile_id", "size"),
        samples=("sample_id", "nunique"),
        dropped=("dropped_for", lambda why: int((why != "").sum())),
    )
    table_df = table_df.reindex(["", *REASONS], fill_value=0)
    table_df["share"] = table_df["tiles"] / max(1, len(tiles_df))
    return table_df.rename(index={"": "none"}).rename_axis("flag").reset_index()
