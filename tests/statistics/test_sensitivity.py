"""lib.statistics.sensitivity: the published example, and a covariate of just that strength."""

import numpy as np
import pytest

from lib.statistics.sensitivity import robustness


def test_the_published_example():
    """Darfur: t = 4.18 with 783 degrees of freedom gives 13.9 % (the vignette of sensemakr)."""
    t, df = 4.18, 783
    assert robustness(np.array([t / np.sqrt(t * t + df)]))[0] == pytest.approx(0.139, abs=0.001)


@pytest.mark.parametrize("r", [0.1, 0.4, 0.8])
def test_a_covariate_of_this_strength_explains_the_link(r):
    """Partial R^2 of RV on both sides: r given it is 0 (r - RV over 1 - RV, up to the scale of the sides)."""
    rv = robustness(np.array([r]))[0]
    # the bias of the regression coefficient is f(link) = RV / sqrt(1 - RV)
    assert r / np.sqrt(1 - r * r) == pytest.approx(rv / np.sqrt(1 - rv))


def test_limits():
    found = robustness(np.array([0.0, 1.0, -0.5, 0.3]), np.array([0, 0, 0, 0.4]))
    assert found[[0, 3]].tolist() == [0, 0]
    assert found[1] == pytest.approx(1)
    assert found[2] == robustness(np.array([0.5]))[0]
