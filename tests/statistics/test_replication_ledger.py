"""The ledger of replication: roles, signs and q, and the shares that hold elsewhere, against plain loops."""

import numpy as np
import pandas as pd
import pytest
from linked_cohort import cohort, links_of
from scipy import stats

from lib.statistics import meta_analysis, replication, replication_ledger
from lib.statistics.links import find_links


def sides(seed, n_true=8):
    return replication.sides_of(*cohort(seed=seed, n_true=n_true))[0]


@pytest.fixture(scope="module")
def made():
    """Links of one cohort, and the ledger with a cohort in which they hold and one in which none does."""
    links_df = find_links(links_of(*cohort())[0], 0.05).assign(clump_lead=True)
    units = {"validation": sides(5), "test": sides(0)}
    others = {"true": sides(6), "true: A": sides(7), "null": sides(8, n_true=0)}
    ledger_df = meta_analysis.ledger(links_df, units | others)
    unseen = replication_ledger.unseen(units, others, pd.DataFrame({"slide_id": ["S1"]}))
    none_df = pd.DataFrame(columns=["section", "gene", "feature", "q"])
    return links_df, replication_ledger.with_roles(ledger_df, links_df, unseen, none_df), others


def test_each_unit_has_its_role_and_what_found_a_link_does_not_replicate_it(made):
    _, df, _ = made
    roles = df.groupby("unit")["role"].unique().map(list).to_dict()
    assert roles == {
        "validation": ["validation"], "test": ["found"], "true": ["cohort"], "true: A": ["cohort section"],
        "null": ["cohort"],
    }  # fmt: skip
    assert (df["q"].isna() == (df["role"] == "found")).all()
    assert not replication_ledger.replicated(df[df["role"] == "found"], 1.0).any()


def test_sign_and_q_are_those_of_all_links_held_against_the_unit(made):
    links_df, df, _ = made
    for unit in ("true", "null", "validation"):
        here_df = df[df["unit"] == unit].reset_index(drop=True)
        sign = np.sign(links_df["r_within"].to_numpy())
        assert here_df["same_sign"].tolist() == (np.sign(here_df["r"]) == sign).tolist()
        one_sided = np.where(here_df["same_sign"] == 1, here_df["p"] / 2, 1 - here_df["p"] / 2)
        np.testing.assert_allclose(here_df["q"], stats.false_discovery_control(one_sided), rtol=1e-9)


def test_shares_are_those_of_the_table_of_replication(made):
    """Also where the strongest link of a gene is not known in a unit: the next one does not stand for it."""
    links_df, df, others = made
    held = {unit: replication.held_against(links_df, of) for unit, of in others.items()}
    table_df = replication.summarise_units(held, 0.05).set_index(["of", "unit"])
    expected_df = table_df.loc["strongest link of each gene"].loc[["true", "null"]]
    shares_df = replication_ledger.shares(df, 0.05)
    columns = ["links", "same_sign", "nominal", "replicated"]
    np.testing.assert_allclose(shares_df.loc[["true", "null"], columns], expected_df[columns])
    assert shares_df.loc["true", "replicated"] > 0.9
    assert shares_df.loc["null", "replicated"] < 0.2
    first = df.drop_duplicates("gene").iloc[0]
    known_df = df[
        (df["unit"] != "true") | (df["gene"] != first["gene"]) | (df["feature"] != first["feature"])
    ]
    again_df = replication_ledger.shares(known_df, 0.05)
    assert again_df.loc["true", "links"] == shares_df.loc["true", "links"] - 1
    assert replication_ledger.shares(df[df["role"] != "cohort"], 0.05).empty


def test_units_are_counted_once_and_only_those_without_a_part(made):
    _, df, _ = made
    counts_df = replication_ledger.counted_elsewhere(df, 0.05)
    for (gene, feature), row in counts_df.iterrows():
        of_pair_df = df[(df["gene"] == gene) & (df["feature"] == feature) & df["unit"].isin(["true", "null"])]
        assert row["elsewhere_of"] == len(of_pair_df) == 2
        holds = (of_pair_df["q"] <= 0.05) & (of_pair_df["same_sign"] == 1)
        assert row["elsewhere"] == holds.sum()
        assert row["same_elsewhere"] == of_pair_df["same_sign"].sum()
        assert (row["r_elsewhere"], row["r_elsewhere_high"]) == (of_pair_df["r"].min(), of_pair_df["r"].max())
    assert replication_ledger.counted_elsewhere(df.head(0), 0.05).empty


def test_a_section_that_took_part_is_marked_and_not_counted():
    ledger_df = pd.DataFrame({
        "gene": ["a", "a", "b", "b"], "feature": "1_0", "unit": ["A", "B", "A", "B"], "n": 50,
        "r": [0.5, -0.2, -0.4, 0.3], "p": 0.01,
    })  # fmt: skip
    links_df = pd.DataFrame({"gene": ["a", "b"], "feature": "1_0", "r_within": [0.4, -0.3]})
    left_df = pd.DataFrame({"section": ["A", "B"], "gene": ["a", "a"], "feature": "1_0", "q": [0.02, 0.9]})
    found_on_df = pd.DataFrame({"slide_id": ["A", "B"]})
    assert replication_ledger.unseen({"A": None, "B": None}, {}, found_on_df) == {}
    df = replication_ledger.with_roles(ledger_df, links_df, {}, left_df)
    assert df["role"].tolist() == ["left out", "left out", "found", "found"]
    assert df["same_sign"].tolist() == [1, 0, 1, 0]
    assert replication_ledger.replicated(df, 0.05).tolist() == [True, False, False, False]
    assert replication_ledger.counted_elsewhere(df, 0.05).empty
    counts_df = replication_ledger.counted_elsewhere(df.replace({"role": {"left out": "section"}}), 0.05)
    assert counts_df.index.tolist() == [("a", "1_0")]
    assert counts_df[["elsewhere_of", "elsewhere", "same_elsewhere"]].to_numpy().tolist() == [[2, 1, 1]]
    kept = replication_ledger.unseen({"A": None, "C": None}, {}, found_on_df)
    assert kept == {"C": ("section", None)}, "a section of the validation samples alone"
