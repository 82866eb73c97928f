"""Samples by their features: principal components, and what is known of samples that explains them.

Batch effects are seen here: a scanner, a centre or a delay that explains much of the features will make links
of its own. Variables are rows, samples are columns.
"""

import numpy as np
import pandas as pd
from scipy.sparse.linalg import svds

N_COMPONENTS = 5
LARGE = 1000  # features and samples: then the first components alone are computed
MOST_LEVELS = 0.5  # of the samples: a text with more values than this is an id


def components(features_df: pd.DataFrame, n: int = N_COMPONENTS) -> tuple[pd.DataFrame, np.ndarray]:
    """Scores of the samples on the first principal components of the standardised features.

    Features that do not vary are left out. The sign of a component is that which makes its largest loading
    positive.

    Returns
    -------
    scores_df : samples x PC1, PC2, ...; share : float64, of the variance of all features.
    """
    rows = features_df.to_numpy(np.float64)
    rows = rows - rows.mean(axis=1, keepdims=True)
    sd = rows.std(axis=1)
    varies = sd > 1e-12 * np.maximum(np.abs(features_df.to_numpy(np.float64)).max(axis=1), 1e-300)
    rows = rows[varies] / sd[varies, None]
    n = min(n, len(rows), max(rows.shape[1] - 1, 0))
    names = [f"PC{k + 1}" for k in range(n)]
    if not n:
        return pd.DataFrame(index=features_df.columns, columns=names, dtype=float), np.zeros(0)
    if min(rows.shape) > LARGE:
        found = svds(rows, k=n, v0=np.ones(min(rows.shape)))
        loadings, sizes, directions = (np.asarray(part) for part in found)
        loadings, sizes, directions = loadings[:, ::-1], sizes[::-1], directions[::-1]
    else:
        loadings, sizes, directions = np.linalg.svd(rows, full_matrices=False)
        loadings, sizes, directions = loadings[:, :n], sizes[:n], directions[:n]
    turned = np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=0)[None], axis=0))[0]
    scores = (directions * (sizes * turned)[:, None]).T
    return pd.DataFrame(scores, features_df.columns, names), sizes**2 / rows.size


def known_of(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Columns that may explain features, samples as rows: numbers that vary, texts that are no ids."""
    kept = {}
    for name, values in samples_df.items():
        given = values.dropna()
        n_values = given.nunique()
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        if n_values < 2 or str(name).startswith("l0_"):
            continue
        if numeric or n_values <= MOST_LEVELS * len(given):
            kept[name] = values
    return pd.DataFrame(kept, index=samples_df.index)


def explained(features_df: pd.DataFrame, scores_df: pd.DataFrame, known_df: pd.DataFrame) -> pd.DataFrame:
    """Share of the variance of features that each column of known_df explains by itself.

    A text explains by the means of its values (eta squared), a number by a straight line (r squared); samples
    without a value are left out.

    Parameters
    ----------
    scores_df : `components`. known_df : index sample_id (`known_of`).

    Returns
    -------
    Index variable: n (samples with a value), degrees_of_freedom, by_chance (what random values would explain
    on average), all_features (mean over the standardised features), PC1, ...; by falling all_features beyond
    chance.
    """
    known_df = known_df.loc[scores_df.index]
    of_all = features_df[scores_df.index].to_numpy(np.float64)
    rows = {}
    for name, values in known_df.items():
        given = values.notna().to_numpy()
        if given.sum() < 3:
            continue
        design = _design(values[given])
        if not design.shape[1] or design.shape[1] >= given.sum() - 1:
            continue
        shares = _explained(of_all[:, given], design)
        by_component = _explained(scores_df.to_numpy()[given].T, design)
        rows[name] = {
            "n": int(given.sum()),
            "degrees_of_freedom": design.shape[1],
            "by_chance": design.shape[1] / (given.sum() - 1),
            "all_features": np.nanmean(shares) if np.isfinite(shares).any() else 0.0,
            **dict(zip(scores_df.columns, by_component, strict=True)),
        }
    columns = ["n", "degrees_of_freedom", "by_chance", "all_features", *scores_df.columns]
    df = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("variable")
    beyond = (df["all_features"] - df["by_chance"]) / (1 - df["by_chance"])
    return df.loc[beyond.sort_values(ascending=False, kind="stable").index]


def _design(values: pd.Series) -> np.ndarray:
    """Orthonormal columns [n, k], orthogonal to the constant, of a number or of the values of a text."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        columns = values.to_numpy(np.float64)[:, None]
    else:
        codes = pd.factorize(values)[0]
        columns = np.eye(codes.max() + 1)[codes]
    u, s, _ = np.linalg.svd(columns - columns.mean(axis=0), full_matrices=False)
    return u[:, s > 1e-9 * max(s.max(initial=0), 1e-300)]


def _explained(rows: np.ndarray, design: np.ndarray) -> np.ndarray:
    """R squared of each row, float64; NaN where it does not vary."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    varies = total > 1e-20 * np.maximum((rows**2).sum(axis=1), 1e-300)
    return np.divide(
        ((centred @ design) ** 2).sum(axis=1), total, out=np.full(len(rows), np.nan), where=varies
    )
