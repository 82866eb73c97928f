"""One rule for what varies, kept by all statistics; and what covariates take out of rearranged rows."""

import numpy as np
import pandas as pd
import pytest
from made_cohort import N, small_cohort

from lib.statistics import correlation, permutations, reproducibility, residuals


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e200])
def test_rounding_error_differs_from_variation_at_any_scale(scale):
    noise = np.full(12, 0.1)
    noise[3] = np.nextafter(0.1, 1)
    rows = scale * np.stack([noise, -noise, np.ones(12), 1 + 1e-11 * np.arange(12), np.eye(12)[0]])
    centred = rows - rows.mean(axis=1, keepdims=True)
    assert residuals.varies(centred, residuals.largest(rows)).tolist() == [False] * 3 + [True] * 2
    np.testing.assert_array_equal(residuals.largest(rows), np.abs(rows).max(axis=1))
    assert not residuals.varies(np.zeros((1, 4)), np.zeros(1)).any()


@pytest.mark.parametrize("share", [1e-15, 1e-13, 9e-13, 1.2e-12, 1e-9])
def test_correlation_residuals_and_reproducibility_agree(share):
    """A row of mean 1 and a largest deviation of about the share, on either side of the limit."""
    samples = [f"s{i}" for i in range(8)]
    row = 1 + share * np.tile([1, -1], 4)
    df = pd.DataFrame([row, np.arange(8)], index=["0_0", "0_1"], columns=samples)
    varies = share > residuals.ROUNDING
    assert correlation.standardise(df, "feature")[1].tolist() == [varies, True]
    drawn = permutations.draw("free", 5, pd.DataFrame({"sample_id": samples, "tissue": "a"}), 0)
    assert residuals.within_groups(df, df.index, drawn, "feature").any(axis=1).tolist() == [varies, True]
    more_df = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 8)), index=list("abc"), columns=samples)
    both = more_df, df
    assert reproducibility.compare(both, both).n_pairs == (6 if varies else 3)


@pytest.mark.parametrize("scheme", ["free", "within_tissue"])
def test_scales_of_single_cases_are_those_of_the_table(scheme):
    samples_df, log_df, _, _ = small_cohort()
    drawn = permutations.draw(scheme, 40, samples_df, 5)
    given = np.random.default_rng(3).normal(size=(N, 2))
    covariates_df = pd.DataFrame(given, index=samples_df["sample_id"], columns=["c0", "c1"])
    basis = residuals.covariate_basis(covariates_df, drawn)
    rows = residuals.within_groups(log_df, log_df.index, drawn, "gene")
    rows[3] = 0
    rows = residuals.unit_length(residuals.project_out(rows, basis))
    table = residuals.covariate_scales(rows, drawn, basis)
    assert table.shape == (40, len(rows))
    assert (table >= 1).all()
    assert (table[:, 3] == 1).all()
    which, row = (v.ravel() for v in np.indices(table.shape))
    cases = residuals.covariate_scales_of(rows, drawn, basis, which, row)
    np.testing.assert_allclose(cases, table.ravel(), rtol=1e-12)
    some = np.random.default_rng(0).permutation(len(which))[:17]
    alone = residuals.covariate_scales_of(rows, drawn, basis, which[some], row[some])
    np.testing.assert_array_equal(alone, cases[some])
    nothing = np.zeros(0, np.int64)
    assert len(residuals.covariate_scales_of(rows, drawn, basis, nothing, nothing)) == 0
