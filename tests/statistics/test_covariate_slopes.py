"""Covariates whose slopes differ between tissues, or that are measured with noise."""

import numpy as np
import pandas as pd
import pytest
from designs import N_PAIRS, layout, p_of_pairs

from lib.statistics import permutations, residuals


def pairs_through_a_covariate(slopes_differ: bool):
    """Gene and feature that share nothing but a covariate; 143 samples of eight tissues, 42 donors."""
    rng = np.random.default_rng(7)
    groups, donors = layout("143", rng)
    covariate = rng.standard_normal(len(groups))
    sides = []
    for _ in range(2):
        slopes = rng.standard_normal((N_PAIRS, 8 if slopes_differ else 1))
        of_sample = slopes[:, groups] if slopes_differ else slopes
        sides.append(rng.standard_normal((N_PAIRS, len(groups))) + of_sample * covariate)
    names = {"sample_id": [f"s{i}" for i in range(len(groups))], "tissue": [f"t{g}" for g in groups]}
    samples_df = pd.DataFrame(names | {"donor": [f"d{d}" for d in donors]})
    return *sides, samples_df, covariate


def test_slopes_of_each_tissue_are_calibrated_and_a_common_one_is_not():
    x, y, samples_df, covariate = pairs_through_a_covariate(slopes_differ=True)
    rates = {}
    for slopes in ("per group", "common"):
        p, _ = p_of_pairs(x, y, samples_df, covariate[:, None], slopes=slopes)
        rates[slopes] = [(p <= level).mean() for level in (0.05, 0.01)]
    assert 0.03 <= rates["per group"][0] <= 0.075, rates
    assert rates["per group"][1] <= 0.02
    assert rates["common"][0] > 0.15, "what differs between tissues stays in both sides"


def test_a_noisy_covariate_is_not_wholly_out():
    """A limit that no projection can lift, which is why each link has a robustness value."""
    x, y, samples_df, covariate = pairs_through_a_covariate(slopes_differ=False)
    noise = np.random.default_rng(1).standard_normal(len(covariate)) * np.sqrt(1 / 0.67 - 1)
    p, _ = p_of_pairs(x, y, samples_df, (covariate + noise)[:, None])
    exact, _ = p_of_pairs(x, y, samples_df, covariate[:, None])
    assert (exact <= 0.05).mean() <= 0.075
    assert (p <= 0.05).mean() > 0.2


def test_small_tissues_share_their_slopes():
    rng = np.random.default_rng(0)
    tissues = ["a"] * 16 + ["b"] * 6 + ["c"] * 5
    ids = [f"s{i}" for i in range(27)]
    samples_df = pd.DataFrame({"sample_id": ids, "tissue": tissues})
    covariates_df = pd.DataFrame(rng.standard_normal((27, 2)), index=ids)
    plan_df = residuals.slope_plan(covariates_df, samples_df, "per group")
    assert plan_df["slopes"].tolist() == ["own", "shared", "shared", "1 tissues own"]
    assert plan_df["degrees_of_freedom"].tolist() == [13, 7, 7, 20]
    shuffles = permutations.draw("within_tissue", 5, samples_df, 0)
    basis = residuals.covariate_basis(covariates_df, shuffles)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-12)
    of_a = np.array(tissues) == "a"
    rows = rng.standard_normal((3, 27))
    left = residuals.project_out(residuals.centre(rows.copy(), shuffles.groups), basis)
    design = np.c_[np.ones(16), covariates_df.to_numpy()[of_a]]
    expected = rows[:, of_a].T - design @ np.linalg.lstsq(design, rows[:, of_a].T, rcond=None)[0]
    np.testing.assert_allclose(left[:, of_a], expected.T, atol=1e-10)
    common = residuals.covariate_basis(covariates_df, shuffles, "common")
    assert common.shape[1] == 2
    assert residuals.slope_plan(covariates_df, samples_df, "common")["slopes"].iloc[0] == "shared"


def test_covariates_that_leave_nothing_are_named():
    ids = [f"s{i}" for i in range(8)]
    samples_df = pd.DataFrame({"sample_id": ids, "tissue": list("aaaabbbb")})
    many_df = pd.DataFrame(np.random.default_rng(0).standard_normal((8, 5)), index=ids)
    with pytest.raises(ValueError, match="5 covariates leave 1 degrees of freedom to 8 slides in 2 groups"):
        residuals.slope_plan(many_df, samples_df, "per group")
