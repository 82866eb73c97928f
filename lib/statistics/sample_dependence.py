"""Which samples may depend on each other: those of one donor, or neighbouring spots of a section."""

import numpy as np
import pandas as pd

from lib.statistics import effective_size, spatial_lags, spots
from lib.statistics.effective_size import Classes


def classes_of(samples_df: pd.DataFrame, groups: np.ndarray) -> Classes:
    """Classes of sample pairs (`effective_size`): of spots the rings of each section, else donors.

    Parameters
    ----------
    samples_df : in the order of the analysis; donor, where it is known.
    groups : int [n_samples], what links are tested within (`spots.strata`).
    """
    if spots.are_spots(samples_df):
        return spatial_lags.lag_classes(samples_df)
    return effective_size.donor_classes(samples_df, groups)


def notes(samples_df: pd.DataFrame) -> list[str]:
    """What these samples allow to be tested, in words; empty where nothing needs saying."""
    if spots.are_spots(samples_df):
        return spots.notes(samples_df)
    return effective_size.donor_notes(samples_df)
