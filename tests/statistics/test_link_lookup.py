"""Pairs looked up never contradict the table of links, nor the test it is from."""

import numpy as np
import pandas as pd
import pytest
from linked_cohort import cohort, lookup_of

from lib.statistics import link_lookup, link_tests, links
from lib.statistics.link_tests import p_in_gene, statistic_of_pairs


@pytest.fixture(scope="module")
def looked_up():
    log_df, features_df, samples_df = cohort()
    tests, lookup = lookup_of(log_df, features_df, samples_df, 999)
    pairs_df = pd.MultiIndex.from_product([log_df.index, features_df.index], names=["gene", "feature"])
    return tests, lookup, pairs_df.to_frame(index=False)


def test_every_pair_has_the_p_and_q_of_the_test(looked_up):
    tests, lookup, pairs_df = looked_up
    found_df = link_lookup.of_pairs(lookup, pairs_df)
    g, f = tests.sides.places(pairs_df)
    p = p_in_gene(tests, g, statistic_of_pairs(tests.sides, g, f))
    np.testing.assert_allclose(found_df["p"], p)
    np.testing.assert_allclose(found_df["q"], links.q_of_pairs(tests, pairs_df))
    expected_df = link_tests.intervals(tests.sides, g, f)
    np.testing.assert_allclose(found_df[["r_within", "low", "high"]], expected_df.iloc[:, :3])


def test_links_are_those_of_the_table(looked_up):
    _, lookup, pairs_df = looked_up
    found_df = pairs_df.join(link_lookup.of_pairs(lookup, pairs_df))
    called_df = found_df[found_df["q"] <= 0.05].set_index(["gene", "feature"])
    listed_df = lookup.links_df.astype({"gene": object, "feature": object}).set_index(["gene", "feature"])
    assert len(listed_df) >= 8
    assert set(called_df.index) == set(listed_df.index)
    np.testing.assert_array_equal(called_df.loc[listed_df.index, ["p", "q"]], listed_df[["p", "q"]])


def test_what_was_not_tested_is_missing(looked_up):
    _, lookup, _ = looked_up
    pairs_df = pd.DataFrame({"gene": ["nobody", "g0"], "feature": ["1_0", "9_9"]}, index=[7, 3])
    found_df = link_lookup.of_pairs(lookup, pairs_df)
    assert found_df.loc[7].isna().all()
    assert found_df.loc[3, ["p", "q"]].tolist() == [1, 1], "a feature that does not vary within tissues"
    more_df = lookup.null_df.rename(index={"g79": "g80"})
    with pytest.raises(ValueError, match="1 genes of the test do not vary here, first 'g80'"):
        link_lookup.build(lookup.sides, more_df, lookup.links_df)
