"""Where a link holds: its correlation in each tissue, how far tissues differ, and which of them carry it.

With some eight samples a tissue this describes a link that was found over all of them; it discovers nothing.
Variables are rows, samples are columns.
"""

import numpy as np
import pandas as pd
from scipy import stats

LEAST_SAMPLES = 4  # of a tissue, for a standard error of atanh r


def by_tissue(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, tissues: list[str], inflation: np.ndarray
) -> pd.DataFrame:
    """r of each link in each tissue, a row per link and tissue with at least four samples.

    Parameters
    ----------
    x, y : float64 [n_links, n_samples], residuals within tissues (and of covariates) of gene and feature.
    groups : int [n_samples], index of the tissue in `tissues`.
    inflation : float64 [n_links], lambda of each link (`effective_size`).

    Returns
    -------
    DataFrame: link (row of x), tissue, n, r, se (standard error of atanh r at the effective size), share (of
    the covariance of the link).
    """
    whole = (x * y).sum(axis=1)
    parts = []
    for code, tissue in enumerate(tissues):
        members = groups == code
        n = int(members.sum())
        if n < LEAST_SAMPLES:
            continue
        xt, yt = x[:, members], y[:, members]
        product = (xt * yt).sum(axis=1)
        length = np.sqrt((xt * xt).sum(axis=1) * (yt * yt).sum(axis=1))
        r = np.divide(product, length, out=np.full(len(x), np.nan), where=length > 0)
        share = np.divide(product, whole, out=np.full(len(x), np.nan), where=whole != 0)
        se = 1 / np.sqrt(np.maximum(n / inflation - 3, 1))
        columns = {"link": np.arange(len(x)), "tissue": tissue, "n": n, "r": r, "se": se, "share": share}
        parts.append(pd.DataFrame(columns))
    if not parts:  # no tissue has so many samples
        empty_df = pd.DataFrame(columns=["link", "tissue", "n", "r", "se", "share"], dtype=float)
        return empty_df.astype({"link": int, "tissue": object, "n": int})
    return pd.concat(parts, ignore_index=True).dropna(subset="r").reset_index(drop=True)


def summary(tissues_df: pd.DataFrame, n_links: int) -> pd.DataFrame:
    """Cochran's Q of atanh r over the tissues, its p and I^2, and the tissue that carries most of a link.

    Parameters
    ----------
    tissues_df : of `by_tissue`.

    Returns
    -------
    DataFrame [n_links]: n_tissues, q_cochran, p_heterogeneity, i2 (0 to 1), carried_by (tissue of the largest
    share), its share.
    """
    z = np.arctanh(tissues_df["r"].clip(-0.999999, 0.999999))
    weight = tissues_df["se"] ** -2
    link = tissues_df["link"].to_numpy()
    total = np.bincount(link, weight, n_links)
    n_tissues = np.bincount(link, minlength=n_links)
    mean = np.divide(np.bincount(link, weight * z, n_links), total, out=np.zeros(n_links), where=total > 0)
    q = np.bincount(link, weight * (z - mean[link]) ** 2, n_links)
    p, i2 = q_test(q, n_tissues)
    carried_df = tissues_df.loc[tissues_df.groupby("link")["share"].idxmax()].set_index("link")
    df = pd.DataFrame(
        {
            "n_tissues": n_tissues,
            "q_cochran": q,
            "p_heterogeneity": p,
            "i2": i2,
        }
    )
    return df.join(carried_df[["tissue", "share"]].rename(columns={"tissue": "carried_by"}))


def q_test(q: np.ndarray, n_units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p of Cochran's Q over so many units, and I^2 (0 to 1); missing where there are fewer than two."""
    degrees = np.where(n_units > 1, n_units - 1.0, np.nan)
    return stats.chi2.sf(q, degrees), np.maximum(1 - degrees / np.maximum(q, 1e-12), 0)


def leave_one_tissue_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    """Smallest and largest r within tissues of each link when one tissue is left out, low_without and
    high_without; missing where there is one tissue.
    """
    if groups.max() == 0:
        return pd.DataFrame(np.nan, index=range(len(x)), columns=["low_without", "high_without"])
    membership = np.eye(int(groups.max()) + 1)[groups]
    sums = [(product @ membership) for product in (x * y, x * x, y * y)]
    xy, xx, yy = (total.sum(axis=1, keepdims=True) - total for total in sums)
    length = np.sqrt(xx * yy)
    r = np.divide(xy, length, out=np.full(xy.shape, np.nan), where=length > 0)
    return pd.DataFrame({"low_without": np.nanmin(r, axis=1), "high_without": np.nanmax(r, axis=1)})
