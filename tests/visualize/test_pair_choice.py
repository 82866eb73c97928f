"""Which pairs and tiles are shown: against hand-made tables and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.statistics import links, pair_tests, permutations
from lib.visualize import pair_choice

rng = np.random.default_rng(3)


def pairs(rows):
    """Rows (gene, feature, tissue, r, r_partial, max_median_log2, q_within_tissue)."""
    columns = ["gene", "feature", "tissue", "r", "r_partial", "max_median_log2", "q_within_tissue"]
    pairs_df = pd.DataFrame(rows, columns=columns).assign(symbol=lambda df: df["gene"].str.upper())
    pattern = links.within_tissue_pattern(pairs_df["q_within_tissue"])
    return pairs_df.assign(pattern_within_tissue=pattern)


def alive(pairs_df, n=20):
    return pd.DataFrame({f: rng.random(n) for f in pairs_df["feature"].unique()}).T


def test_best_pairs_take_turns_and_repeat_nothing():
    pairs_df = pairs(
        [
            ("a", "1_0", "liver", 0.9, 0.8, 9, 0.01),
            ("a", "1_1", "liver", 0.9, 0.7, 9, 0.01),  # gene again
            ("b", "1_0", "liver", 0.9, 0.6, 9, 0.01),  # feature again
            ("c", "1_2", "liver", 0.8, 0.5, 9, 0.01),
            ("d", "1_3", "lung", 0.8, 0.3, 9, 0.01),
            ("e", "1_4", "lung", 0.9, -0.9, 9, 0.01),  # changes sign within tissues
            ("f", "1_5", "lung", -0.8, -0.2, 9, 0.01),  # negative, and stays so
            ("g", "1_6", "skin", 0.9, 0.9, 3, 0.01),  # hardly expressed
        ]
    )
    features_df = alive(pairs_df)
    chosen_df = pair_choice.best_pairs(pairs_df, features_df, n=10, e_threshold=7)
    assert list(zip(chosen_df["gene"], chosen_df["feature"], strict=True)) == [
        *(("a", "1_0"), ("d", "1_3"), ("c", "1_2"), ("f", "1_5"))
    ]
    assert list(pair_choice.best_pairs(pairs_df, features_df, n=2, e_threshold=7)["gene"]) == ["a", "d"]
    assert pair_choice.best_pairs(pairs_df.head(0), features_df, n=5).empty
    assert pair_choice.best_pairs(pairs_df, features_df, n=5, e_threshold=20).empty


def test_pairs_found_within_tissues_come_first_at_any_r_given_the_tissues():
    pairs_df = pairs(
        [
            ("a", "1_0", "liver", 0.9, 0.8, 9, 0.9),  # strong, and not found
            ("b", "1_1", "lung", 0.9, 0.7, 9, np.nan),  # not tested
            ("c", "1_2", "liver", 0.9, 0.3, 9, 0.05),
            ("d", "1_3", "liver", -0.9, -0.2, 9, 0.01),
            ("d", "1_4", "lung", 0.9, 0.6, 9, 0.2),  # its gene is shown already
        ]
    )
    features_df = alive(pairs_df)
    chosen_df = pair_choice.best_pairs(pairs_df, features_df, n=4, e_threshold=7)
    assert list(chosen_df["gene"]) == ["c", "d", "a", "b"]
    assert list(pair_choice.best_pairs(pairs_df, features_df, n=2, e_threshold=7)["gene"]) == ["c", "d"]
    pairs_df.loc[2, "pattern_within_tissue"] = "through covariates"
    assert list(pair_choice.best_pairs(pairs_df, features_df, n=1, e_threshold=7)["gene"]) == ["d"]


def test_features_active_in_a_few_samples_are_not_chosen():
    pairs_df = pairs(
        [("a", "1_0", "liver", 0.9, 0.8, 9, 0.01), ("b", "1_1", "liver", 0.9, 0.5, 9, 0.01)]
        + [("c", "1_2", "liver", 0.9, 0.3, 9, 0.01)]
    )
    features_df = alive(pairs_df)
    features_df.loc["1_0", 1:] = 0.0  # one sample, and 19 zeros
    features_df.loc["1_1", pair_choice.MIN_ACTIVE :] = -0.25  # just enough samples; not zero at rest
    assert pair_choice.n_active(features_df).tolist() == [1, pair_choice.MIN_ACTIVE, 19]
    assert list(pair_choice.best_pairs(pairs_df, features_df)["gene"]) == ["b", "c"]


def test_findings_in_words():
    pattern = pd.Series(["direct", "through tissue", np.nan, "through covariates"], index=list("xyzc"))
    assert pair_choice.finding(pattern).to_dict() == {
        "x": "found within tissues",
        "y": "not found within tissues",
        "z": "not tested within tissues",
        "c": "explained by covariates",
    }
    q = pd.Series([0.01, 0.01, 0.01, 0.9, np.nan])
    given = pd.Series([0.01, 0.01, 0.9, 0.9, np.nan])
    turned = pd.Series([False, True, False, False, False])
    patterns = links.within_tissue_pattern(q, given, 0.05, turned)
    assert set(patterns) == set(pair_choice.FINDINGS), "every pattern there is has its words"


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
    assert list(asked_df["tissue"]) == ["Pancreas", "Liver", "Lung"]


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


def test_measured_takes_what_is_known_and_computes_the_rest(cohort):
    log_df, features_df, samples_df = cohort
    asked_df = pd.DataFrame(
        {"gene": "a", "symbol": "A", "feature": ["0_0", "0_1"], "tissue": "liver", "max_median_log2": 9.0}
    )
    known_df = asked_df.head(1).assign(r=0.5, r_given_own=0.4, r_partial=0.3, p_free=0.2, p_within_tissue=0.1)
    known_df = known_df.assign(q_within_tissue=0.05, pattern="g-t-f", pattern_within_tissue="direct")
    found_df = pair_choice.measured(asked_df, known_df, log_df, features_df, samples_df, n_permutations=199)
    assert list(found_df.columns) == pair_choice.PAIR_COLUMNS
    assert found_df.loc[0, ["r", "r_partial", "q_within_tissue"]].tolist() == [0.5, 0.3, 0.05]
    new = found_df.loc[1]
    assert new["r"] == pytest.approx(stats.pearsonr(log_df.loc["a"], features_df.loc["0_1"])[0])
    by = samples_df["tissue"].to_numpy()
    x, y = (
        df.loc[name] - df.loc[name].groupby(by).transform("mean")
        for df, name in ((log_df, "a"), (features_df, "0_1"))
    )
    assert new["r_partial"] == pytest.approx(stats.pearsonr(x, y)[0])
    assert new["r_given_own"] == pytest.approx(new["r_partial"]), "with two tissues the two are one"
    assert new["p_free"] == pytest.approx(1 / 200)
    assert new["p_within_tissue"] > 0.02
    assert np.isnan(new["q_within_tissue"])


def test_measured_computes_everything_of_ranks_for_spearman(cohort):
    log_df, features_df, samples_df = cohort
    asked_df = pd.DataFrame(
        {"gene": ["b", "a"], "symbol": "A", "feature": ["0_1", "0_0"], "tissue": "liver"}
    ).assign(max_median_log2=9.0)
    none_df = pd.DataFrame(columns=pair_choice.PAIR_COLUMNS)
    how = {"n_permutations": 99, "seed": 2}
    inputs = (np.exp(log_df), np.sinh(features_df))  # the same ranks
    found_df = pair_choice.measured(asked_df, none_df, *inputs, samples_df, method="spearman", **how)
    sides = [df.rank(axis=1) for df in inputs]
    ranked_df = pair_choice.measured(asked_df, none_df, *sides, samples_df, **how)
    pd.testing.assert_frame_equal(found_df, ranked_df)
    rho = [stats.spearmanr(log_df.loc[p.gene], features_df.loc[p.feature])[0] for p in asked_df.itertuples()]
    np.testing.assert_allclose(found_df["r"].astype(float), rho)


def test_p_of_a_pair_asked_for_is_the_two_sided_one_of_the_tables(cohort):
    log_df, features_df, samples_df = cohort
    asked_df = pd.DataFrame({"gene": ["a"], "symbol": "A", "feature": "0_1", "tissue": "liver"})
    tissues = samples_df.set_index("sample_id")["tissue"]
    within = log_df.loc["a"] - log_df.loc["a"].groupby(tissues).transform("mean")
    features_df.loc["0_1"] -= within  # changes sign within tissues
    none_df = pd.DataFrame(columns=pair_choice.PAIR_COLUMNS)
    asked_df["max_median_log2"] = 9.0
    found_df = pair_choice.measured(asked_df, none_df, log_df, features_df, samples_df, n_permutations=99)
    assert found_df["r"].item() > 0 > found_df["r_partial"].item()
    assert found_df["p_within_tissue"].item() < 0.05
    for scheme in ("free", "within_tissue"):
        drawn = permutations.draw(scheme, 99, samples_df, 0)
        p = pair_tests.pair_p(log_df, features_df, asked_df, drawn, progress=False)
        assert found_df[f"p_{scheme}"].item() == p[0]


def test_measured_leaves_out_what_slides_are_too_few_for(cohort):
    """Five slides of three tissues: no degree of freedom given all of them."""
    log_df, features_df, samples_df = cohort
    samples_df = samples_df.head(5).assign(tissue=["liver", "liver", "lung", "lung", "skin"])
    frames = [df[samples_df["sample_id"]] for df in (log_df, features_df)]
    asked_df = pd.DataFrame(
        {"gene": "a", "symbol": "A", "feature": ["0_1"], "tissue": "liver", "max_median_log2": 9.0}
    )
    known_df = pd.DataFrame(columns=pair_choice.PAIR_COLUMNS)
    new = pair_choice.measured(asked_df, known_df, *frames, samples_df, n_permutations=19).loc[0]
    assert np.isnan(new["r_partial"])
    assert np.isfinite([new["r"], new["r_given_own"], new["p_free"]]).all()


def test_negative_pairs_look_where_the_feature_is_high(cohort):
    _, features_df, samples_df = cohort
    chosen_df = pd.DataFrame({"feature": ["0_1", "0_2"], "tissue": ["liver", "liver"], "r": [0.9, -0.9]})
    tissues = samples_df.set_index("sample_id")["tissue"]
    assert list(pair_choice.tile_tissue(chosen_df, features_df, tissues)) == ["liver", "lung"]


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


def test_candidates_are_test_tiles_and_few_of_each_sample(cohort):
    tiles_df = tiles(cohort[2])
    tiles_df.loc[tiles_df["sample_id"] == "s3", "split"] = "train"
    found_df = pair_choice.candidate_tiles(tiles_df, 2, seed=1)
    assert (found_df.groupby("sample_id").size() == 2).all()
    assert "s3" not in set(found_df["sample_id"])
    assert found_df["tile_id"].equals(pair_choice.candidate_tiles(tiles_df, 2, seed=1)["tile_id"])
    assert not found_df["tile_id"].equals(pair_choice.candidate_tiles(tiles_df, 2, seed=2)["tile_id"])
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
    chosen_df["tile_tissue"] = ["lung", "liver", "liver"]
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
    chosen_df["tile_tissue"] = ["lung", "liver", "lung"]
    cover_df = pair_choice.cover_tiles(chosen_df, values_df, tiles_df, log_df, top_q=0.05)
    assert list(cover_df["tissue"]) == ["lung", "liver", "lung"]
