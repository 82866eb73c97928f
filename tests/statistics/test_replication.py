"""lib.statistics.replication: planted links replicate on other samples, chance findings do not."""

import numpy as np
import pandas as pd
import pytest
from linked_cohort import cohort, links_of

from lib.statistics import effective_size, link_tests, permutations, replication
from lib.statistics.links import find_links


def other_sides(seed, n_true):
    log_df, features_df, samples_df = cohort(seed=seed, n_true=n_true)
    shuffles = permutations.draw("within_tissue", 10, samples_df, 0)
    classes = effective_size.donor_classes(samples_df, shuffles.groups)
    return link_tests.prepare(log_df, features_df, shuffles, np.zeros((len(samples_df), 0)), classes)


def test_planted_links_replicate():
    links_df = find_links(links_of(*cohort())[0], 0.05)
    planted_df = links_df[links_df["gene"].str[1:] == links_df["feature"].str[2:]]
    df = replication.replicate(planted_df, other_sides(seed=5, n_true=8))
    summary = replication.summarise(df)
    assert summary["links"] == summary["same_sign"] == summary["replicated"] == len(planted_df) == 8
    assert summary["pi1"] == 1


def test_pairs_without_a_link_do_not():
    rng = np.random.default_rng(0)
    sides = other_sides(seed=6, n_true=0)
    genes, features = rng.integers(0, 80, 3000), rng.integers(0, 120, 3000)
    links_df = pd.DataFrame({"gene": sides.genes[genes], "feature": sides.features[features]})
    links_df["r_within"] = rng.choice([-0.5, 0.5], 3000)
    df = replication.replicate(links_df, sides)
    assert (df["p"] <= 0.05).mean() == pytest.approx(0.05, abs=0.02)
    assert replication.summarise(df)["pi1"] < 0.1
    assert df["same_sign"].mean() == pytest.approx(0.5, abs=0.05)


def test_what_does_not_vary_there_is_missing():
    links_df = pd.DataFrame({"gene": ["nowhere"], "feature": ["1_0"], "r_within": [0.3]})
    df = replication.replicate(links_df, other_sides(seed=6, n_true=0))
    assert df.isna().all(axis=None)
    assert replication.summarise(df)["links"] == 0
