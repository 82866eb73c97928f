"""Within-section correlation: section differences alone give nothing, a planted link is found."""

import numpy as np
import pandas as pd
import pytest

from lib.statistics import spatial_association


def planted(link, n_genes=200, seed=0):
    """Four sections of 60 spots, other levels in each; `link` ties gene 0 to feature 0 within them."""
    rng = np.random.default_rng(seed)
    sections = pd.Series(np.repeat(list("abcd"), 60), index=[f"s{i}" for i in range(240)])
    level = np.repeat(rng.normal(0, 5, 4), 60)
    features = rng.normal(size=(6, 240)) + level
    genes = rng.normal(size=(n_genes, 240)) + level
    genes[0] += link * (features[0] - level)
    return (
        pd.DataFrame(genes, columns=sections.index),
        pd.DataFrame(features, columns=sections.index),
        sections,
    )


def test_section_differences_alone_are_not_found():
    genes_df, features_df, sections = planted(link=0)
    raw = np.abs(np.corrcoef(genes_df, features_df)[:200, 200:]).max()
    observed, null = spatial_association.within_section_shuffle_test(
        genes_df, features_df, sections, progress=False
    )
    assert raw > 0.7, "uncentred, the sections alone correlate everything"
    assert observed < 0.4
    assert observed < 1.25 * null.max()
    assert null.shape == (20,)


def test_planted_link_within_sections_is_found():
    genes_df, features_df, sections = planted(link=1.0)
    observed, null = spatial_association.within_section_shuffle_test(
        genes_df, features_df, sections, progress=False
    )
    centred_gene = genes_df.iloc[0] - genes_df.iloc[0].groupby(sections).transform("mean")
    centred_feature = features_df.iloc[0] - features_df.iloc[0].groupby(sections).transform("mean")
    assert observed == pytest.approx(np.corrcoef(centred_gene, centred_feature)[0, 1], abs=1e-5)
    assert observed > 1.5 * null.max()


def test_shuffle_test_is_seeded_and_order_free():
    genes_df, features_df, sections = planted(link=0.5)
    one = spatial_association.within_section_shuffle_test(
        genes_df, features_df, sections, 3, 7, progress=False
    )
    two = spatial_association.within_section_shuffle_test(
        genes_df, features_df.iloc[:, ::-1], sections.sample(frac=1, random_state=0), 3, 7, progress=False
    )
    assert one[0] == pytest.approx(two[0])
    np.testing.assert_allclose(one[1], two[1], rtol=1e-5)


def test_constant_rows_are_left_out_and_gaps_refused():
    genes_df, features_df, sections = planted(link=0, n_genes=5)
    genes_df.iloc[1] = 3.0
    genes_df.iloc[2] = sections.map({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})  # constant within each section
    observed, null = spatial_association.within_section_shuffle_test(
        genes_df, features_df, sections, 2, progress=False
    )
    assert np.isfinite(observed)
    assert np.isfinite(null).all()
    with pytest.raises(ValueError, match="No gene or no feature varies"):
        spatial_association.within_section_shuffle_test(
            genes_df.iloc[1:3], features_df, sections, 2, progress=False
        )
    with pytest.raises(ValueError, match=r"1 of 240 samples have no features or section, first \['s0'\]"):
        spatial_association.within_section_shuffle_test(
            genes_df, features_df.drop(columns="s0"), sections, progress=False
        )
