"""Whether genes and features of spots correlate within sections, beyond what shuffled spots reach."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from tqdm.auto import tqdm


def within_section_shuffle_test(
    expression_log_df: pd.DataFrame,
    features_df: pd.DataFrame,
    sections: pd.Series,
    n_shuffles: int = 20,
    seed: int = 0,
    *,
    progress: bool = True,
) -> tuple[float, np.ndarray]:
    """Largest |r| of any gene with any feature once sections are centred, and after shuffles within them.

    Sections differ in stain and depth, which alone makes r large; both sides lose each section's mean, and
    the spots of the expression side are shuffled only among their own section, which keeps all else as it is.

    Parameters
    ----------
    expression_log_df : genes x samples, log2(1 + CPM).
    features_df : features x samples; columns in any order, all of `expression_log_df`'s must be there.
    sections : section of each sample, indexed by sample_id.

    Returns
    -------
    observed : largest |r|.
    null : float64 (n_shuffles,), largest |r| of each shuffle.

    Raises
    ------
    ValueError
        Samples without features or section; nothing varies within sections.
    """
    samples = expression_log_df.columns
    absent = [s for s in samples if s not in features_df.columns or s not in sections.index]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(samples)} samples have no features or section, first {absent[:3]}."
        )
    codes = pd.factorize(sections.loc[samples])[0]
    genes = _unit_rows(expression_log_df.to_numpy(np.float32), codes)
    features = _unit_rows(features_df[samples].to_numpy(np.float32), codes)
    if not len(genes) or not len(features):
        raise ValueError("No gene or no feature varies within sections: nothing to correlate.")
    rng = np.random.default_rng(seed)
    null = np.empty(n_shuffles)
    for i in tqdm(range(n_shuffles), unit="shuffle", desc="within sections", disable=not progress):
        order = np.arange(len(codes))
        for code in range(codes.max() + 1):
            members = np.flatnonzero(codes == code)
            order[members] = rng.permutation(members)
        null[i] = _largest_r(genes, features[:, order])  # shuffling the smaller side is the same
    return _largest_r(genes, features), null


def compare_within_sections(
    expression_log_df: pd.DataFrame,
    features: Mapping[str, pd.DataFrame],
    sections: pd.Series,
    n_shuffles: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """`within_section_shuffle_test` of several sets of features, a row each: largest |r|, shuffled range."""
    rows = {}
    for name, features_df in features.items():
        found, null = within_section_shuffle_test(
            expression_log_df, features_df, sections, n_shuffles, seed, progress=False
        )
        rows[name] = {"largest |r|": found, "shuffled, least": null.min(), "shuffled, most": null.max()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _unit_rows(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Rows without their section means, scaled to length 1, float32; rows that do not vary are left out."""
    values = values.astype(np.float64)
    size = np.sqrt((values**2).sum(axis=1))
    for code in range(codes.max() + 1):
        values[:, codes == code] -= values[:, codes == code].mean(axis=1, keepdims=True)
    length = np.sqrt((values**2).sum(axis=1))
    varies = length > 1e-6 * np.maximum(size, 1e-300)
    return (values[varies] / length[varies, None]).astype(np.float32)


def _largest_r(genes: np.ndarray, features: np.ndarray, block: int = 4096) -> float:
    return max(
        float(np.abs(genes[start : start + block] @ features.T).max())
        for start in range(0, len(genes), block)
    )
