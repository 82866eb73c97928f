"""The wrong-section null: independent fields are rejected at the level, neighbours as independent more."""

import numpy as np
import pandas as pd
import pytest
from spot_factory import frame, places, section, smooth

from lib.statistics import spatial_null
from lib.statistics.spatial_null import Size

SMALL = Size(n_genes=150, n_features=60, n_pairings=20, n_single_genes=60, n_gene_pairings=3, n_shuffles=99)


def cohort(names="ABC", n=13, length=2.5, shared=0.0, seed=0):
    """Sections whose genes and features are smooth fields; `shared` links gene k to feature k on each."""
    rng, tables, genes, features = np.random.default_rng(seed), [], [], []
    xy = places("square", n)
    for name in names:
        tables.append(section(xy, name, log_counts=rng.normal(4, 0.2, len(xy))))
        features.append(smooth(xy, 60, length, rng))
        genes.append(smooth(xy, 150, length, rng))
        genes[-1][:60] += shared * features[-1]
    samples_df = pd.concat(tables, ignore_index=True)
    rows = np.concatenate(genes, axis=1), np.concatenate(features, axis=1)
    return frame(rows[0], samples_df, "g"), frame(rows[1], samples_df, "0_"), samples_df


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_rejects_at_the_level_whether_or_not_there_are_links(shared):
    made = cohort(shared=shared)
    df = spatial_null.wrong_section_null(*made, ["log_counts"], size=SMALL, progress=False)
    rate = df.set_index(["test", "genes", "level"])["rejected"]
    independent, effective = spatial_null.TESTS["pairs"]
    assert rate[effective, "all", 0.05] == pytest.approx(0.05, abs=0.015)
    assert rate[effective, "highest Moran's I", 0.05] == pytest.approx(0.05, abs=0.025)
    assert rate[effective, "all", 0.001] < 0.004
    assert rate[independent, "all", 0.05] > 0.15
    plain, links = spatial_null.TESTS["genes"]
    assert rate[links, "all", 0.05] < 0.12
    assert rate[plain, "all", 0.05] > 0.3
    assert (df["low"] <= df["rejected"]).all()
    assert (df["high"] >= df["rejected"]).all()
    assert df["n_pairings"].max() == 20
    assert df.columns.tolist() == [
        "test",
        "genes",
        "level",
        "rejected",
        "low",
        "high",
        "n_pairings",
        "n_tests",
    ]


def test_places_are_matched_one_to_one_and_never_as_they_lie():
    _, _, samples_df = cohort("AB", n=7)
    pairings = list(spatial_null._pairings(samples_df))
    assert len(pairings) == 2 * 7
    for genes, features in pairings:
        assert len(np.unique(features)) == len(features) == len(genes) == 49
        assert set(samples_df["slide_id"].iloc[genes]) != set(samples_df["slide_id"].iloc[features])
        index_on_grid = np.arange(49)
        assert not np.array_equal(genes % 49, features % 49), "a symmetric grid, turned or mirrored"
        assert np.array_equal(np.sort(features % 49), index_on_grid)


def test_one_section_or_tiny_ones_are_named():
    log_df, features_df, samples_df = cohort("A")
    with pytest.raises(ValueError, match=r"two sections .*\{'A': 169\}"):
        spatial_null.wrong_section_null(log_df, features_df, samples_df)
    made = cohort("AB", n=5)
    with pytest.raises(ValueError, match="share 30 places"):
        spatial_null.wrong_section_null(*made)


def test_constant_rows_and_covariates_that_take_all_are_passed_over():
    log_df, features_df, samples_df = cohort("AB", n=7)
    features_df.iloc[:30] = 1.0
    log_df.iloc[3] = 0.0
    df = spatial_null.wrong_section_null(log_df, features_df, samples_df, size=SMALL, progress=False)
    assert np.isfinite(df["rejected"]).all()
