"""Clumps: near-copies of a feature, which are one finding.

Neighbouring channels and the layers that follow each other measure much the same. Features whose values
within tissues correlate with a lead feature at |r| >= 0.9 form its clump, as linkage disequilibrium makes
clumps of variants (Purcell et al. 2007, Am J Hum Genet 81:559). Variables are rows, samples are columns.
"""

import numpy as np
import pandas as pd

CLUMP_R = 0.9
LEADS_AT_ONCE = 64
BLOCK = 1024


def find_clumps(rows: np.ndarray, names: pd.Index, r_threshold: float = CLUMP_R) -> pd.DataFrame:
    """The clump of every feature.

    The feature with most near-copies leads first (ties: the earlier one), and takes those that no clump has
    yet; so every member correlates with its lead at |r| >= r_threshold.

    Parameters
    ----------
    rows : float [n_features, n_samples], residuals within tissues; a row of zeros (no variation within
        tissues) is a clump of its own.
    names : of the features.

    Returns
    -------
    DataFrame, index feature: clump (name of its lead feature), r_lead (correlation with the lead, signed).
    """
    length = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    unit = np.divide(rows, length, out=np.zeros(rows.shape), where=length > 0).astype(np.float32)
    near = r_threshold - 1e-6  # float32 products of unit rows err by less
    n_near = np.concatenate(
        [(np.abs(unit[i : i + BLOCK] @ unit.T) >= near).sum(axis=1) for i in range(0, len(unit), BLOCK)]
    )
    queue = np.argsort(-n_near, kind="stable")
    lead, r_lead = np.full(len(unit), -1), np.ones(len(unit))
    for start in range(0, len(queue), LEADS_AT_ONCE):
        candidates = queue[start : start + LEADS_AT_ONCE]
        candidates = candidates[lead[candidates] < 0]
        free = np.flatnonzero(lead < 0)
        r = unit[candidates] @ unit[free].T
        for candidate, r_free in zip(candidates, r, strict=True):
            if lead[candidate] >= 0:
                continue
            taken = (np.abs(r_free) >= near) & (lead[free] < 0)
            lead[free[taken]], r_lead[free[taken]] = candidate, r_free[taken]
            lead[candidate], r_lead[candidate] = candidate, 1.0
    frame = {"clump": names.to_numpy()[lead], "r_lead": r_lead.astype(np.float64)}
    return pd.DataFrame(frame, index=names.rename("feature"))
