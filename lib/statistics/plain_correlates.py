"""What a feature may be without any structure: its r with stain, sharpness and nuclei of the tiles."""

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.statistics.residuals import centre, unit_length

STRONG = 0.7  # |r|: half of a feature's variance within tissues


def plain_correlates(
    features_df: pd.DataFrame, measured_df: pd.DataFrame, groups: np.ndarray
) -> pd.DataFrame:
    """r of every feature with every measure of its samples' tiles, both centred within groups.

    Parameters
    ----------
    features_df : features x samples.
    measured_df : index sample_id (those of features_df, in any order); numeric columns. A sample without a
        value is left out of that column's r.
    groups : [n_samples], what links are tested within (`spots.strata`), in the order of features_df.

    Returns
    -------
    DataFrame: index feature; r for each measure (missing where it or the feature does not vary within
        groups), then `most_like`, the measure of largest |r| ("" where there is none), and `r_most_like`.

    Raises
    ------
    ValueError : samples of features_df that measured_df lacks.
    """
    if len(lost := features_df.columns.difference(measured_df.index)):
        raise InputError(
            f"{len(lost)} samples have features and no measures of their tiles: {list(lost[:5])}"
        )
    codes = pd.factorize(np.asarray(groups))[0]
    measured_df = measured_df.loc[features_df.columns]
    r_df = pd.DataFrame(index=features_df.index.rename("feature"), columns=measured_df.columns, dtype=float)
    for name, values in measured_df.items():
        known = values.notna().to_numpy()
        if known.sum() < 3:
            continue
        y = unit_length(centre(features_df.to_numpy(float)[:, known], codes[known]))
        x = unit_length(centre(values.to_numpy(float)[None, known], codes[known]))
        defined = y.any(axis=1) & x.any()
        r_df[name] = np.where(defined, np.clip(y @ x[0], -1, 1), np.nan)
    size = r_df.abs().to_numpy()
    best = np.nan_to_num(size, nan=-1).argmax(axis=1) if r_df.shape[1] else np.zeros(0, int)
    some = r_df.notna().any(axis=1).to_numpy()
    names = np.where(some, r_df.columns.to_numpy()[best], "") if len(best) else ""
    values = r_df.to_numpy()[np.arange(len(best)), best] if len(best) else np.nan
    return r_df.assign(most_like=names, r_most_like=values)
