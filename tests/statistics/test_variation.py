"""One rule for what varies, and all statistics keep it."""

import numpy as np
import pandas as pd
import pytest

from lib.statistics import correlation, permutations, reproducibility, residuals, variation


def centred(rows):
    return rows - rows.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e200])
def test_rounding_is_told_from_variation_at_any_scale(scale):
    noise = np.full(12, 0.1)
    noise[3] = np.nextafter(0.1, 1)
    rows = scale * np.stack([noise, -noise, np.ones(12), 1 + 1e-11 * np.arange(12), np.eye(12)[0]])
    assert variation.varies(centred(rows), variation.largest(rows)).tolist() == [False] * 3 + [True] * 2
    np.testing.assert_array_equal(variation.largest(rows), np.abs(rows).max(axis=1))
    assert not variation.varies(np.zeros((1, 4)), np.zeros(1)).any()


@pytest.mark.parametrize("share", [1e-15, 1e-13, 9e-13, 1.2e-12, 1e-9])
def test_correlation_residuals_and_reproducibility_agree(share):
    """A row of mean 1 and a largest deviation of about the share, on either side of the limit."""
    samples = [f"s{i}" for i in range(8)]
    row = 1 + share * np.tile([1, -1], 4)
    df = pd.DataFrame([row, np.arange(8)], index=["0_0", "0_1"], columns=samples)
    varies = share > variation.ROUNDING
    assert correlation.standardise(df, "feature")[1].tolist() == [varies, True]
    samples_df = pd.DataFrame({"sample_id": samples, "tissue": "a"})
    drawn = permutations.draw("free", 5, samples_df, 0)
    assert residuals.within_groups(df, df.index, drawn, "feature").any(axis=1).tolist() == [varies, True]
    more_df = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 8)), index=list("abc"), columns=samples)
    both = more_df, df
    result = reproducibility.compare(both, both, progress=False)
    assert result.constant_features == ([] if varies else ["0_0"])
