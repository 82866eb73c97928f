"""The shared look of all figures: theme, sizes, and one fixed colour for each tissue."""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

COLUMN_IN = 3.5  # width of one journal column, inches
PAGE_IN = 7.2  # width of a page

THEME: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "lines.linewidth": 1.2, "figure.dpi": 110, "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}  # fmt: skip
SPLIT_COLOURS = {"train": "#bbbbbb", "validation": "#56b4e9", "test": "#0072b2"}  # Okabe and Ito
ACCENT = "#d55e00"
QUIET = "#7f7f7f"


def themed(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw under THEME and close the figure, so that a notebook does not show it twice."""

    @wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Figure:
        with plt.rc_context(THEME):
            figure = function(*args, **kwargs)
            figure.draw_without_rendering()
        plt.close(figure)
        return figure

    return draw


def distinct_colours(names: Sequence[str]) -> dict[str, Any]:
    """A colour for each name: up to ten that colour-blind readers can tell apart, else evenly spaced hues."""
    few = len(names) <= 10
    palette = sns.color_palette("colorblind", len(names)) if few else sns.husl_palette(len(names))
    return dict(zip(names, palette, strict=True))


def tissue_colours(tissues: Iterable[str], known_df: pd.DataFrame | None = None) -> dict[str, Any]:
    """One fixed colour for each tissue, the same in every figure of a cohort.

    Parameters
    ----------
    tissues : of all samples of the cohort, not only of those shown: otherwise a tissue that is missing from
        one figure would change the colours of the others there.
    known_df : tissue, color; GTEx's published colours. Tissues without one take, in alphabetical order, a
        colour of `distinct_colours`. Neither GTEx's colours nor more than ten hues suit colour-blind readers,
        so figures also name the tissues.
    """
    known = {} if known_df is None else dict(zip(known_df["tissue"], known_df["color"], strict=True))
    names = sorted(set(tissues))
    others = [name for name in names if name not in known]
    return {name: known[name] for name in names if name in known} | distinct_colours(others)
