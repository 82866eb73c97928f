"""How strong an unmeasured covariate would have to be to explain a link away.

The robustness value of Cinelli and Hazlett (2020, J R Stat Soc B 82:39): the share of the residual variance
of gene *and* feature that a covariate would have to explain to bring the link to nothing. A covariate that is
measured with noise leaves some of itself behind (reliability 0.67 leaves a third), so that a link of small
robustness may be what is left of it.
"""

import numpy as np


def robustness(r: np.ndarray, least_r: np.ndarray | float = 0.0) -> np.ndarray:
    """Partial R^2 with gene and feature that brings |r| within tissues down to least_r.

    Parameters
    ----------
    r : float64 [n_links].
    least_r : 0, or the |r| that is no longer significant.

    Returns
    -------
    float64 [n_links], 0 to 1; 0 where |r| is least_r or below.
    """

    def f(value: np.ndarray) -> np.ndarray:
        value = np.minimum(np.abs(value), 1 - 1e-12)
        return value / np.sqrt(1 - value**2)

    excess = np.maximum(f(np.asarray(r, float)) - f(np.asarray(least_r, float)), 0)
    squared = excess**2
    return (np.sqrt(squared**2 + 4 * squared) - squared) / 2
