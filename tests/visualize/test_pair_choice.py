"""Which pairs and tiles are shown: against hand-made tables, scipy, and the table of links."""

import linked_cohort
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.visualize import pair_choice

rng = np.random.default_rng(3)


def links_table(rows):
    """Rows (gene, feature, clump, tissue), the strongest first; each leads its clump."""
    return pd.DataFrame(rows, columns=["gene", "feature", "clump", "tissue"]).assign(clump_lead=True)


def markers(rows):
    """Rows (gene, feature, tissue, r)."""
    return pd.DataFrame(rows, columns=["gene", "feature", "tissue", "r"])


def alive(*tables, n=20):
    features = pd.unique(pd.concat([df["feature"] for df in tables]).astype(str))
    return pd.DataFrame({f: rng.random(n) for f in features}).T


def chosen(links_df, markers_df, features_df=None, n=24):
    features_df = alive(links_df, markers_df) if features_df is None else features_df
    chosen_df = pair_choice.best_pairs(links_df, markers_df, features_df, n=n)
    return list(chosen_df.itertuples(index=False, name=None))


NO_LINKS, NO_MARKERS = links_table([]), markers([])


def test_links_take_turns_and_repeat_no_gene_and_no_clump():
    links_df = links_table(
        [
            ("a", "1_0", "1_0", "liver"),
            ("a", "1_1", "1_1", "liver"),  # gene again
            ("b", "1_2", "1_0", "liver"),  # clump again
            ("c", "1_3", "1_3", "liver"),
            ("d", "1_4", "1_4", "lung"),
        ]
    )
    links_df.loc[len(links_df)] = ["e", "1_5", "1_4", "skin", False]  # leads no clump
    assert chosen(links_df, NO_MARKERS) == [("a", "1_0"), ("d", "1_4"), ("c", "1_3")]
    assert chosen(links_df, NO_MARKERS, n=2) == [("a", "1_0"), ("d", "1_4")]
    as_stored_df = links_df.astype(dict.fromkeys(("gene", "feature", "tissue", "clump"), "category"))
    assert chosen(as_stored_df, NO_MARKERS) == chosen(links_df, NO_MARKERS)
    assert chosen(NO_LINKS, NO_MARKERS) == []


def test_where_links_are_few_the_marker_pairs_of_highest_r_follow():
    links_df = links_table([("a", "1_0", "1_0", "liver")])
    markers_df = markers(
        [
            ("b", "1_1", "liver", 0.8),
            ("c", "1_2", "lung", -0.9),
            ("d", "1_0", "lung", 0.95),  # the feature of the link
            ("a", "1_3", "skin", 0.99),  # the gene of the link
        ]
    )
    assert chosen(links_df, markers_df) == [("a", "1_0"), ("c", "1_2"), ("b", "1_1")]
    assert chosen(NO_LINKS, markers_df, n=1) == [("a", "1_3")]


def test_features_active_in_a_few_samples_are_not_chosen():
    links_df = links_table([(g, f"1_{i}", f"1_{i}", "liver") for i, g in enumerate("abc")])
    features_df = alive(links_df)
    features_df.loc["1_0", 1:] = 0.0  # one sample, and 19 zeros
    features_df.loc["1_1", pair_choice.MIN_ACTIVE :] = -0.25  # just enough samples; not zero at rest
    assert pair_choice.n_active(features_df).tolist() == [1, pair_choice.MIN_ACTIVE, 19]
    assert chosen(links_df, NO_MARKERS, features_df) == [("b", "1_1"), ("c", "1_2")]


GENES = pd.DataFrame(
    {
        "symbol": ["AMY2A", "DUP", "DUP"],
        "tissue": ["Pancreas", "Liver", "Lung"],
        "max_median_log2": [12.0, 3.0, 8.0],
    },
    index=["ENSG1.1", "ENSG2.1", "ENSG3.1"],
)


def test_asked_pairs_by_symbol_or_id():
    asked_df = pair_choice.asked_pairs(
        ["AMY2A:20_139", "ENSG2.1:3_1", "DUP:3_1"], GENES, pd.Index(["20_139", "3_1"])
    )
    assert list(asked_df["gene"]) == ["ENSG1.1", "ENSG2.1", "ENSG3.1"], "of two genes the one expressed more"
    assert list(asked_df["feature"]) == ["20_139", "3_1", "3_1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("AMY2A", "GENE:FEATURE"), ("AMY2B:3_1", "AMY2A"), ("AMY2A:3_2", "nearest: .'3_1'")],
)
def test_wrong_pairs_name_what_is_near(text, says):
    with pytest.raises(ValueError, match=says):
        pair_choice.asked_pairs([text], GENES, pd.Index(["20_139", "3_1"]))


@pytest.fixture
def cohort():
    """Two tissues of 12 samples; feature 0_0 follows gene a within tissues, 0_1 only marks the tissue."""
    samples = [f"s{i}" for i in range(24)]
    samples_df = pd.DataFrame(
        {
            "sample_id": samples,
            "tissue": ["liver"] * 12 + ["lung"] * 12,
            "donor": [f"d{i % 8}" for i in range(24)],
        }
    )
    liver = (samples_df["tissue"] == "liver").to_numpy()
    a = 5 + 4 * liver + rng.normal(size=24)
    log_df = pd.DataFrame([a, rng.normal(size=24)], index=["a", "b"], columns=samples)
    features = [
        a + rng.normal(0, 0.3, 24),
        3.0 * liver + rng.normal(0, 0.3, 24),
        -3.0 * liver + rng.normal(0, 0.3, 24),
    ]
    return log_df, pd.DataFrame(features, index=["0_0", "0_1", "0_2"], columns=samples), samples_df


@pytest.fixture(scope="module")
def run():
    """A linked cohort, its test of links, and what was found."""
    log_df, features_df, samples_df = linked_cohort.cohort()
    _, lookup = linked_cohort.lookup_of(log_df, features_df, samples_df)
    medians_df = pd.DataFrame({"symbol": log_df.index, "tissue": "t", "max_median_log2": 9.0}, log_df.index)
    verdict_df = pd.DataFrame({"gene": ["g70"], "feature": ["1_70"]})
    verdict_df["pattern_within_tissue"] = "through covariates"
    return log_df, features_df, pair_choice.Found(verdict_df, lookup.links_df, lookup, medians_df)


def test_pairs_get_the_numbers_of_the_table_of_links(run):
    log_df, features_df, found = run
    links_df = found.links_df
    assert len(links_df) >= 8
    pairs_df = links_df.head(3)[["gene", "feature"]]
    tested_df = pair_choice.tested_pairs(pairs_df, found, log_df, features_df)
    assert list(tested_df.columns) == pair_choice.PAIR_COLUMNS
    for column in ("r", "r_within", "low", "high", "p", "q"):
        np.testing.assert_allclose(tested_df[column].astype(float), links_df.head(3)[column], atol=1e-9)
    assert tested_df["carried_by"].tolist() == links_df.head(3)["carried_by"].tolist()
    for pair in tested_df.itertuples():
        r = stats.pearsonr(log_df.loc[pair.gene], features_df.loc[pair.feature])[0]
        assert pair.r == pytest.approx(r, abs=1e-6)
        words = "found within tissues" + (", with the opposite sign" if r * pair.r_within < 0 else "")
        assert pair.finding == words


def test_every_finding_has_its_words(run):
    log_df, features_df, found = run
    pairs_df = pd.DataFrame({"gene": ["g0", "g70", "g71"], "feature": ["1_0", "1_70", "1_71"]})
    tested_df = pair_choice.tested_pairs(pairs_df, found, log_df, features_df)
    assert tested_df["finding"].tolist() == [
        *("found within tissues", "explained by covariates", "not found within tissues"),
    ]
    assert tested_df["carried_by"].tolist()[1:] == ["", ""]
    nothing = pair_choice.tested_pairs(pairs_df, found._replace(lookup=None), log_df, features_df)
    assert set(nothing["finding"]) == {"not tested within tissues"}
    assert nothing["q"].isna().all()
    empty_df = pair_choice.tested_pairs(pairs_df.head(0), found, log_df, features_df)
    assert list(empty_df.columns) == pair_choice.PAIR_COLUMNS


def test_tiles_are_of_the_tissue_that_carries_a_link_or_where_the_feature_is_high(cohort):
    _, features_df, samples_df = cohort
    chosen_df = pd.DataFrame({"feature": ["0_1", "0_2", "0_2"], "tissue": "liver", "r": [0.9, -0.9, 0.9]})
    chosen_df["carried_by"] = ["", "", "lung"]
    tissues = samples_df.set_index("sample_id")["tissue"]
    assert list(pair_choice.tile_tissue(chosen_df, features_df, tissues)) == ["liver", "lung", "lung"]


def test_direction_is_that_within_tissues_only_for_links():
    chosen_df = pd.DataFrame({"r": [0.5, 0.5], "r_within": [-0.3, -0.3], "carried_by": ["lung", ""]})
    assert pair_choice.direction(chosen_df).tolist() == [-1.0, 1.0]


def tiles(samples_df, n=4):
    tiles_df = samples_df.loc[samples_df.index.repeat(n)].reset_index(drop=True)
    k = tiles_df.groupby("sample_id").cumcount()
    return tiles_df.assign(
        tile_id=tiles_df["sample_id"] + "_" + k.astype(str) + "_0",
        slide_id=tiles_df["sample_id"],
        split="test",
        file="/" + tiles_df["sample_id"] + ".npy",
        stack_index=k,
        column=k,
        row=0,
    )


def test_candidates_are_tiles_of_the_samples_and_few_of_each(cohort):
    tiles_df, samples = tiles(cohort[2]), cohort[2]["sample_id"].drop(3)
    found_df = pair_choice.candidate_tiles(tiles_df, samples, 2, seed=1)
    assert (found_df.groupby("sample_id").size() == 2).all()
    assert set(found_df["sample_id"]) == set(samples)
    again_df, other_df = (pair_choice.candidate_tiles(tiles_df, samples, 2, seed=seed) for seed in (1, 2))
    assert found_df["tile_id"].equals(again_df["tile_id"])
    assert not found_df["tile_id"].equals(other_df["tile_id"])
    assert list(found_df["tile_id"]) == [t for t in tiles_df["tile_id"] if t in set(found_df["tile_id"])]


def test_cover_takes_tiles_of_the_tissue_and_falls_back_where_a_feature_is_flat(cohort):
    log_df, _, samples_df = cohort
    tiles_df = tiles(samples_df)
    values_df = pd.DataFrame(
        rng.random((len(tiles_df), 3)), index=tiles_df["tile_id"], columns=["0_0", "0_1", "0_2"]
    )
    in_liver = (tiles_df["tissue"] == "liver").to_numpy()
    values_df.loc[in_liver, "0_2"] = 0.0  # dead in its tissue, alive elsewhere
    chosen_df = pd.DataFrame(
        {"gene": ["a", "b", "a"], "feature": ["0_1", "0_0", "0_2"], "r": [0.9, -0.8, 0.9]}
    )
    chosen_df = chosen_df.assign(tile_tissue=["lung", "liver", "liver"], r_within=0.1, carried_by="")
    cover_df = pair_choice.cover_tiles(chosen_df, values_df, tiles_df, log_df, top_q=0.05)
    assert list(cover_df["feature"]) == ["0_1", "0_0", "0_2"]
    assert list(cover_df["tissue"]) == ["lung", "liver", "lung"]
    for row in cover_df.itertuples():
        here = values_df[row.feature][(tiles_df["tissue"] == row.tissue).to_numpy()]
        assert row.value >= here.quantile(0.94)
    assert cover_df.loc[2, "tile_id"] == values_df["0_2"].idxmax()
    assert pair_choice.cover_tiles(chosen_df.head(0), values_df, tiles_df, log_df, top_q=0.05).empty


def test_one_feature_of_two_genes_is_covered_in_each_tissue(cohort):
    log_df, _, samples_df = cohort
    tiles_df = tiles(samples_df)
    values_df = pd.DataFrame(rng.random((len(tiles_df), 1)), index=tiles_df["tile_id"], columns=["0_0"])
    chosen_df = pd.DataFrame({"gene": ["a", "b", "b"], "feature": "0_0", "r": [0.9, 0.8, 0.8]})
    chosen_df = chosen_df.assign(tile_tissue=["lung", "liver", "lung"], r_within=0.1, carried_by="lung")
    cover_df = pair_choice.cover_tiles(chosen_df, values_df, tiles_df, log_df, top_q=0.05)
    assert list(cover_df["tissue"]) == ["lung", "liver", "lung"]
