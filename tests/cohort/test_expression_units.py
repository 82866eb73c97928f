"""Units of expression values: counts per million by hand, and values that are not what their unit says."""

import numpy as np
import pandas as pd
import pytest

from lib.cohort import expression_units
from lib.errors import InputError


def test_counts_per_million():
    counts_df = pd.DataFrame({"s1": [1, 3], "s2": [0, 5]}, index=["g1", "g2"])
    cpm_df = expression_units.scale_counts(counts_df)
    assert cpm_df.to_numpy().tolist() == [[250_000, 0], [750_000, 1_000_000]]
    with pytest.raises(ValueError, match="samples without any counts: 's3'"):
        expression_units.scale_counts(counts_df.assign(s3=0))


def drawn(n_genes=200, n_samples=6, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(n_genes)], [f"s{i}" for i in range(n_samples)]
    depth = rng.integers(20_000, 400_000, n_samples)
    counts = rng.poisson(rng.dirichlet(np.full(n_genes, 0.3)) * depth[:, None]).T
    return pd.DataFrame(counts.astype(np.float32), *names)


def test_values_are_what_their_unit_says():
    counts_df = drawn()
    cpm_df = expression_units.in_unit(counts_df, "counts")
    np.testing.assert_allclose(cpm_df.sum(), 1e6, rtol=1e-4)
    pd.testing.assert_frame_equal(expression_units.in_unit(cpm_df, "CPM"), cpm_df)
    pd.testing.assert_frame_equal(expression_units.in_unit(cpm_df, "TPM"), cpm_df)
    few_df = counts_df.head(50)
    pd.testing.assert_frame_equal(expression_units.in_unit(few_df, "TPM"), few_df)
    for unit in ("TPM", "CPM"):
        with pytest.raises(InputError, match="whole numbers: these are counts"):
            expression_units.in_unit(counts_df, unit)
        with pytest.raises(InputError, match=r"largest of 1,200 .* look like logarithms"):
            expression_units.in_unit(np.log2(1 + cpm_df), unit)
    with pytest.raises(InputError, match=r"5 of 6 samples do not sum to 1,000,000.*'counts' or 'TPM'"):
        expression_units.in_unit(counts_df * 1.5, "CPM")
    with pytest.raises(InputError, match=r"not whole numbers, first .* of gene g"):
        expression_units.in_unit(counts_df * 1.5, "counts")
