"""Within-section correlation: section differences alone give nothing, a planted link is found."""

import numpy as np
import pandas as pd
import pytest

from lib.statistics.spatial_association import within_section_shuffle_test


def planted(link, n_genes=200, seed=0):
    """Four sections of 60 spots with different levels; `link` ties gene 0 to feature 0 within them."""
    rng = np.random.default_rng(seed)
    sections = pd.Series(np.repeat(list("abcd"), 60), index=[f"s{i}" for i in range(240)])
    level = np.repeat(rng.normal(0, 5, 4), 60)
    features = rng.normal(size=(6, 240)) + level
    genes = rng.normal(size=(n_genes, 240)) + level
    genes[0] += link * (features[0] - level)
    genes_df, features_df = (pd.DataFrame(rows, columns=sections.index) for rows in (genes, features))
    return genes_df, features_df, sections


def test_section_differences_alone_give_nothing():
    genes_df, features_df, sections = planted(link=0)
    raw = np.abs(np.corrcoef(genes_df, features_df)[:200, 200:]).max()
    observed, null = within_section_shuffle_test(genes_df, features_df, sections)
    assert raw > 0.7, "uncentred, the sections alone correlate everything"
    assert observed < 0.4
    assert observed < 1.25 * null.max()
    assert null.shape == (20,)


def test_planted_link_within_sections_is_found():
    genes_df, features_df, sections = planted(link=1.0)
    observed, null = within_section_shuffle_test(genes_df, features_df, sections)
    centred = [df.iloc[0] - df.iloc[0].groupby(sections).transform("mean") for df in (genes_df, features_df)]
    assert observed == pytest.approx(np.corrcoef(*centred)[0, 1], abs=1e-5)
    assert observed > 1.5 * null.max()


def test_seed_decides_and_order_of_samples_does_not():
    genes_df, features_df, sections = planted(link=0.5)
    one = within_section_shuffle_test(genes_df, features_df, sections, 3, 7)
    two = within_section_shuffle_test(
        genes_df, features_df.iloc[:, ::-1], sections.sample(frac=1, random_state=0), 3, 7
    )
    assert one[0] == pytest.approx(two[0])
    np.testing.assert_allclose(one[1], two[1], rtol=1e-5)


def test_constant_rows_are_left_out_and_gaps_refused():
    genes_df, features_df, sections = planted(link=0, n_genes=5)
    genes_df.iloc[1] = 3.0
    genes_df.iloc[2] = sections.map({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})  # constant within each section
    observed, null = within_section_shuffle_test(genes_df, features_df, sections, 2)
    assert np.isfinite(observed)
    assert np.isfinite(null).all()
    with pytest.raises(ValueError, match="no gene or no feature varies"):
        within_section_shuffle_test(genes_df.iloc[1:3], features_df, sections, 2)
    with pytest.raises(ValueError, match=r"1 of 240 samples have no features or section, first \['s0'\]"):
        within_section_shuffle_test(genes_df, features_df.drop(columns="s0"), sections)
