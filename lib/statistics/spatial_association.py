"""Do genes and features of spots correlate within sections, beyond what shuffled spots reach?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib.statistics.residuals import centre, unit_length
from lib.statistics.table_rows import check_none


def within_section_shuffle_test(
    expression_log_df: pd.DataFrame,
    features_df: pd.DataFrame,
    sections: pd.Series,
    n_shuffles: int = 20,
    seed: int = 0,
    *,
    progress: bool = True,
) -> tuple[float, np.ndarray]:
    """Largest |r| of any gene with any feature, centred within sections, observed and after shuffles.

    Sections differ in stain and sequencing depth, which alone makes r large. Both sides are therefore centred
    within sections, and the spots of one side are shuffled only within their section. Neighbouring spots
    resemble each other, which this shuffle ignores: trust only pairs that replicate on another section.

    Parameters
    ----------
    expression_log_df : genes x samples, log2(1 + CPM).
    features_df : features x samples; columns in any order, at least those of `expression_log_df`.
    sections : section of each sample, indexed by sample_id.

    Returns
    -------
    observed : largest |r|.
    null : float64 [n_shuffles], largest |r| of each shuffle.

    Raises
    ------
    ValueError : samples without features or section; nothing varies within sections.
    """
    samples = expression_log_df.columns
    known = features_df.columns.intersection(sections.index)
    check_none(samples.difference(known), f"of {len(samples)} samples have no features or section")
    codes = pd.factorize(sections.loc[samples])[0]
    genes = _unit_rows(expression_log_df, codes)
    features = _unit_rows(features_df[samples], codes)
    if not len(genes) or not len(features):
        raise ValueError("no gene or no feature varies within sections: nothing to correlate")
    rng = np.random.default_rng(seed)
    null = np.empty(n_shuffles)
    for i in tqdm(range(n_shuffles), unit="shuffle", desc="within sections", disable=not progress):
        order = np.arange(len(codes))
        for code in range(codes.max() + 1):
            members = np.flatnonzero(codes == code)
            order[members] = rng.permutation(members)
        null[i] = _largest_r(
            genes, features[:, order]
        )  # the smaller side is shuffled: the result is the same
    return _largest_r(genes, features), null


def compare_within_sections(
    expression_log_df: pd.DataFrame, features: Mapping[str, pd.DataFrame], sections: pd.Series
) -> pd.DataFrame:
    """`within_section_shuffle_test` of several sets of features, a row each: largest |r|, shuffled range."""
    rows = {}
    for name, features_df in features.items():
        found, null = within_section_shuffle_test(expression_log_df, features_df, sections, progress=False)
        rows[name] = {"largest |r|": found, "shuffled, least": null.min(), "shuffled, most": null.max()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _unit_rows(df: pd.DataFrame, codes: np.ndarray) -> np.ndarray:
    """Rows centred within sections, of length 1, float32; rows that do not vary in float32 are left out."""
    values = df.to_numpy(np.float32).astype(np.float64)
    size = np.linalg.norm(values, axis=1)
    rows = centre(values, codes)
    varies = np.linalg.norm(rows, axis=1) > 1e-6 * np.maximum(size, 1e-300)
    return unit_length(rows[varies]).astype(np.float32)


def _largest_r(genes: np.ndarray, features: np.ndarray, block: int = 4096) -> float:
    return max(
        float(np.abs(genes[start : start + block] @ features.T).max())
        for start in range(0, len(genes), block)
    )
