"""Rows of expression and feature tables as checked numbers: names, samples and values are all there."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.errors import InputError

Names = Sequence | pd.Index | np.ndarray
MIN_SLIDES = 4  # with three slides a correlation has one degree of freedom


class PairRows(NamedTuple):
    """Distinct genes and features of a table of pairs, sorted, and the position of each pair among them."""

    genes: np.ndarray
    g: np.ndarray
    features: np.ndarray
    f: np.ndarray


def rows_of_pairs(pairs_df: pd.DataFrame) -> PairRows:
    """Distinct names in the columns gene and feature, object, and int positions [n_pairs]."""
    check_columns(pairs_df, ["gene", "feature"], "table of pairs")
    sides = (np.unique(pairs_df[c].to_numpy(dtype=object), return_inverse=True) for c in ("gene", "feature"))
    return PairRows(*next(sides), *next(sides))


def rows_of(df: pd.DataFrame, names: Names, samples: Names, what: str) -> np.ndarray:
    """float64 copy [n_names, n_samples] of these rows and columns.

    ValueError if the table lacks a row, or a value is missing or infinite.
    """
    check_names(df, names, what)
    rows = df.loc[list(names), list(samples)].to_numpy(np.float64, copy=True)
    check_finite(rows, names, samples, what)
    return rows


def pair_dots(x: np.ndarray, y: np.ndarray, g: np.ndarray, f: np.ndarray) -> np.ndarray:
    """float64 [n_pairs]: products of rows x[g[k]] and y[f[k]]."""
    r = np.empty(len(g))
    for start in range(0, len(g), 65536):
        at = slice(start, start + 65536)
        r[at] = np.einsum("ps,ps->p", x[g[at]], y[f[at]])
    return r


def check_none(offending: Iterable, problem: str) -> None:
    """ValueError "<n> <problem>, first [...]" if there are any offending names."""
    names = list(offending)
    if names:
        raise InputError(f"{len(names)} {problem}, first {names[:3]}")


def check_columns(df: pd.DataFrame, columns: Iterable[str], table: str) -> None:
    """ValueError if the table lacks any of the columns."""
    lacking = [c for c in columns if c not in df]
    if lacking:
        raise InputError(f"the {table} lacks the columns {lacking}")


def check_names(df: pd.DataFrame, names: Names, what: str) -> None:
    """ValueError if the table lacks any of these rows."""
    check_none(pd.Index(names).difference(df.index), f"{what}s of the pairs are not in the {what} table")


def check_finite(rows: np.ndarray, names: Names, samples: Names, what: str) -> None:
    """ValueError naming the first missing or infinite value."""
    if not np.isfinite(rows).all():
        i, s = np.argwhere(~np.isfinite(rows))[0]
        raise InputError(
            f"{what} {names[i]!r} is {rows[i, s]} in sample {samples[s]!r}: every value is needed; drop the "
            f"{what} or the sample"
        )


def check_same_samples(of_a: pd.Index, a: str, of_b: pd.Index, b: str) -> None:
    """ValueError unless a and b have the same samples, in any order."""
    only_a, only_b = of_a.difference(of_b), of_b.difference(of_a)
    if len(only_a) or len(only_b):
        raise InputError(
            f"{a} and {b} have different samples: {len(only_a)} of {len(of_a)} only in {a} (first "
            f"{list(only_a[:3])}), {len(only_b)} of {len(of_b)} only in {b} (first {list(only_b[:3])})"
        )


def numbers(df: pd.DataFrame, what: str) -> np.ndarray:
    """The table's values in their own dtype; ValueError if they are not numbers."""
    values = df.to_numpy()
    if values.dtype.kind not in "fiu":
        raise InputError(f"the {what} table holds {values.dtype}, not numbers")
    return values


def same_slides(expression_df: pd.DataFrame, features_df: pd.DataFrame) -> pd.DataFrame:
    """The features with samples in the expression's order.

    ValueError if the tables have different samples, fewer than MIN_SLIDES, or a sample or row twice.
    """
    for what, df in (("expression", expression_df), ("feature", features_df)):
        for labels, kind in ((df.columns, "sample ids"), (df.index, "row names")):
            check_none(labels[labels.duplicated()], f"{kind} occur twice in the {what} table")
    check_same_samples(
        expression_df.columns, "the expression table", features_df.columns, "the feature table"
    )
    if expression_df.shape[1] < MIN_SLIDES:
        raise InputError(f"{expression_df.shape[1]} slides: a correlation needs at least {MIN_SLIDES}")
    return features_df[expression_df.columns]
