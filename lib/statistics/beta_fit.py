"""Smooth p of genes beyond what shuffles resolve: a beta distribution fitted to each gene's null maxima.

As in FastQTL (Ongen et al. 2016, Bioinformatics 32:1479): the smallest nominal p over many correlated
features follows about Beta(a, b). An extrapolation, for ranking genes that all reach the smallest p that
shuffles can give; q rests on the shuffles themselves.
"""

import numpy as np
from scipy import special, stats


def beta_p(null: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """p of each gene's largest statistic under the beta distribution of its nominal p.

    Parameters
    ----------
    null : float [n_shuffles, n_genes], largest statistics (about normal) under shuffles.
    observed : float64 [n_genes].

    Returns
    -------
    float64 [n_genes]; missing where the null does not vary.
    """
    nominal = 2 * special.ndtr(-np.asarray(null, np.float64))
    mean, variance = nominal.mean(axis=0), nominal.var(axis=0, ddof=1)
    usable = variance > 0
    size = np.divide(mean * (1 - mean), variance, out=np.full(len(mean), np.nan), where=usable) - 1
    return stats.beta.cdf(2 * special.ndtr(-observed), mean * size, (1 - mean) * size)
