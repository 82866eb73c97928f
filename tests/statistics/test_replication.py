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


def summary_of(links_df, df):
    names = {"p": "p_validation", "q": "q_validation"}
    return replication.summarise(
        links_df.assign(clump_lead=True).join(
            df[["p", "q", "same_sign"]].rename(columns=names)[[*names.values(), "same_sign"]]
        )
    )


def test_samples_that_cannot_tell_are_said():
    log_df, features_df, samples_df = cohort()
    alone_df = samples_df.assign(tissue=[f"t{k}" for k in range(len(samples_df))])
    sides, note = replication.sides_of(log_df, features_df, alone_df)
    assert sides is None
    assert note.startswith("120 samples cannot tell: ")
    sides, note = replication.sides_of(log_df, features_df, samples_df)
    assert note == "120 samples, tissues: 6"
    (first_x, first_y), (second_x, _) = replication.residual_tables(
        sides, sides._replace(x=sides.x[:5], genes=sides.genes[:5])
    )
    assert first_x.index.tolist() == second_x.index.tolist() == sides.genes[:5].tolist()
    np.testing.assert_array_equal(first_y, sides.y)


def test_planted_links_replicate():
    links_df = find_links(links_of(*cohort())[0], 0.05)
    planted_df = links_df[links_df["gene"].str[1:] == links_df["feature"].str[2:]]
    df = replication.replicate(planted_df, other_sides(seed=5, n_true=8))
    summary = summary_of(planted_df, df).loc["all links"]
    assert summary["links"] == len(planted_df) == 8
    assert summary[["same_sign", "replicated", "pi1"]].tolist() == [1, 1, 1]


def test_pairs_without_a_link_do_not():
    rng = np.random.default_rng(0)
    sides = other_sides(seed=6, n_true=0)
    genes, features = rng.integers(0, 80, 3000), rng.integers(0, 120, 3000)
    links_df = pd.DataFrame({"gene": sides.genes[genes], "feature": sides.features[features]})
    links_df["r_within"] = rng.choice([-0.5, 0.5], 3000)
    df = replication.replicate(links_df, sides)
    assert (df["p"] <= 0.05).mean() == pytest.approx(0.05, abs=0.02)
    assert summary_of(links_df, df).loc["all links", "pi1"] < 0.1
    assert df["same_sign"].mean() == pytest.approx(0.5, abs=0.05)


def test_what_does_not_vary_there_is_missing():
    links_df = pd.DataFrame({"gene": ["nowhere"], "feature": ["1_0"], "r_within": [0.3]})
    df = replication.replicate(links_df, other_sides(seed=6, n_true=0))
    assert df.isna().all(axis=None)
    assert summary_of(links_df, df)["links"].tolist() == [0, 0, 0]
    assert replication.summarise(links_df.assign(clump_lead=True))["links"].tolist() == [0, 0, 0]


def test_summary_has_a_row_for_each_unit_and_kind_of_link():
    links_df = pd.DataFrame({
        "gene": ["a", "a", "b"], "feature": ["0_0", "0_1", "0_0"], "clump_lead": [True, False, True],
        "r_within": [0.5, 0.4, -0.6], "p_validation": [0.001, 0.2, 0.6], "q_validation": [0.003, 0.3, 0.6],
        "same_sign": [1.0, 1.0, 0.0],
    })  # fmt: skip
    df = replication.summarise_units({"mine": links_df, "yours": links_df.iloc[:2]}, 0.05)
    assert df["unit"].tolist() == ["mine"] * 3 + ["yours"] * 3
    assert df["links"].tolist() == [3, 2, 2, 2, 1, 1]
    np.testing.assert_allclose(df["replicated"], [1 / 3, 1 / 2, 1 / 2, 1 / 2, 1, 1])
    none_df = replication.summarise_units({}, 0.05)
    assert none_df.empty
    assert none_df.columns.tolist() == df.columns.tolist(), "a csv without columns cannot be read again"


def test_change_of_links_under_another_measurement():
    log_df, features_df, samples_df = cohort()
    links_df = find_links(links_of(log_df, features_df, samples_df)[0], 0.05).assign(clump_lead=True)
    same, _ = replication.sides_of(log_df, features_df, samples_df)
    table_df = replication.changed(links_df, same).set_index("of")
    assert table_df.loc["all links", "links"] == len(links_df)
    assert table_df["same_sign"].tolist() == [1, 1]
    assert table_df["largest"].max() < 1e-6, "measured alike nothing changes"
    turned, _ = replication.sides_of(log_df, -features_df, samples_df)
    turned_df = replication.changed(links_df, turned).set_index("of")
    assert turned_df["same_sign"].tolist() == [0, 0]
    strongest = links_df.drop_duplicates("gene")["r_within"].abs()
    assert turned_df.loc["strongest link of each gene", "median"] == pytest.approx(
        2 * strongest.median(), rel=1e-3
    )
