"""Does a row vary, or is what differs only what rounding left? One rule for all statistics.

The mean of a constant over slides with different numbers of tiles differs in the last bit, and r of such rows
can come out as 1. Variables are rows, slides are columns.
"""

import numpy as np

ROUNDING = 1e-12  # of a row's largest value; float64 sums of some thousand values leave less


def varies(centred: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """bool [n_rows]: whether a row, once centred, has anything left that is more than rounding.

    Parameters
    ----------
    centred : float64 [n_rows, n_slides], the rows less their mean, or their means within groups.
    scale : float64 [n_rows], `largest` of the rows as they were.
    """
    return largest(centred) > ROUNDING * scale


def largest(rows: np.ndarray) -> np.ndarray:
    """The largest absolute value of each row, [n_rows]; without a copy of the rows."""
    return np.maximum(rows.max(axis=1), -rows.min(axis=1))
