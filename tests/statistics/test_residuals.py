"""What covariates take out of shuffled rows, case by case and all at once."""

import numpy as np
import pandas as pd
import pytest
from made_cohort import N, small_cohort

from lib.statistics import permutations, residuals


@pytest.mark.parametrize("scheme", ["free", "within_tissue", "donor_signs"])
def test_scales_of_cases_are_those_of_the_table(scheme):
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
