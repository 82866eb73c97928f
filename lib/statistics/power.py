"""How weak a link this cohort can find: power of the test of links, and what a larger study would add.

With n_e effective samples the statistic of a pair is |r| sqrt(n_e), and atanh r is normal with variance
1 / (n_e - 2). A gene is found where its largest statistic reaches the critical value, the quantile of the
null maxima over all features at the level that the false discovery rate leaves (q k / G with k genes found).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lib.statistics.link_tests import Sides, intervals


def smallest_r(critical: float, n_effective: float, power: float = 0.8) -> float:
    """r within tissues of the population that is found with this power; NaN where none is."""
    if n_effective <= critical**2 or n_effective <= 3:
        return float("nan")
    z = np.arctanh(critical / np.sqrt(n_effective)) + stats.norm.ppf(power) / np.sqrt(n_effective - 2)
    return float(np.tanh(z))


def power_at(r: np.ndarray, critical: float, n_effective: float) -> np.ndarray:
    """Probability that a link of r within tissues is found."""
    if n_effective <= critical**2 or n_effective <= 3:
        return np.zeros(np.shape(r))
    z = np.arctanh(np.minimum(np.abs(r), 1 - 1e-12)) - np.arctanh(critical / np.sqrt(n_effective))
    return stats.norm.cdf(z * np.sqrt(n_effective - 2))


def critical_value(null_maxima: np.ndarray, level: float) -> float:
    """Statistic that a share `level` of null maxima reaches; beyond what they resolve, their Gumbel tail.

    Parameters
    ----------
    null_maxima : of genes without a link, pooled over genes and shuffles.
    """
    n = len(null_maxima)
    if level * n >= 20:
        return float(np.quantile(null_maxima, 1 - level))
    tail = np.sort(null_maxima)[-max(n // 20, 20) :]  # exponential beyond the 95 % quantile
    scale = float((tail - tail[0]).mean())
    return float(tail[0] + scale * np.log(len(tail) / n / level))


def pooled_null(null_df: pd.DataFrame, least: int = 200_000) -> np.ndarray:
    """Null maxima pooled over the genes with most shuffles, as many genes as give `least` values.

    null_df : `link_table.null_table`. Shuffles know no link, so that genes found serve as well as others;
    these have been through all shuffles, and their maxima are not cut off by stopping.
    """
    lengths = null_df["maxima"].map(len).sort_values(ascending=False, kind="stable")
    n_genes = int(np.searchsorted(lengths.cumsum().to_numpy(), least)) + 1
    return np.concatenate(null_df.loc[lengths.index[:n_genes], "maxima"].to_list()).astype(np.float64)


def usual_size(sides: Sides, seed: int = 0, n_pairs: int = 20_000) -> float:
    """Median effective size over pairs drawn at random."""
    rng = np.random.default_rng(seed)
    genes, features = rng.integers(0, len(sides.x), n_pairs), rng.integers(0, len(sides.y), n_pairs)
    return float(intervals(sides, genes, features)["n_effective"].median())


def curves(power_df: pd.DataFrame, r: np.ndarray) -> dict[str, np.ndarray]:
    """Power at each r for every study size of a `power_table`, at its most lenient level."""
    last_df = power_df.drop_duplicates("n_samples", keep="last")
    columns = (last_df[name].to_numpy(float) for name in ("n_samples", "critical", "n_effective"))
    return {
        f"{n:,.0f} samples": power_at(r, critical, size) for n, critical, size in zip(*columns, strict=True)
    }


def power_table(
    null_maxima: np.ndarray, n_genes: int, n_found: int, n_effective: float, *, n_samples: int,
    n_lost: int = 0, q_threshold: float = 0.05, times: Sequence[float] = (0.5, 1, 2, 4),
) -> pd.DataFrame:  # fmt: skip
    """Smallest r within tissues found with 80 % power, for this cohort and for smaller and larger ones.

    Parameters
    ----------
    n_effective : median over the pairs tested, for `n_samples` samples.
    n_found : genes found, which set the level; a row with 1 gene says what the first costs.
    n_lost : degrees of freedom that tissues and covariates take, in a study of any size.
    times : sizes of the study, relative to this one (same tissues, donors in proportion).

    Returns
    -------
    DataFrame: n_samples, n_effective, genes_found, level, critical, smallest_r.
    """
    rows = []
    for factor in times:
        for found in dict.fromkeys((1, max(n_found, 1))):
            level = q_threshold * found / n_genes
            share = (n_samples * factor - n_lost) / (n_samples - n_lost)
            critical, n_e = critical_value(null_maxima, level), n_effective * max(share, 0.0)
            row = {"n_samples": round(n_samples * factor), "n_effective": n_e, "genes_found": found}
            rows.append(row | {"level": level, "critical": critical, "smallest_r": smallest_r(critical, n_e)})
    return pd.DataFrame(rows)
