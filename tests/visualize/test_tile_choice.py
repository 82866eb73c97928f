"""The choice of tiles against brute force, planted covers and hand-made strips."""

from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from lib.visualize import tile_choice


def cohort(n_samples: int, n_tiles: int, n_donors: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tiles and samples; sample i belongs to donor i modulo n_donors, on one slide each."""
    rows = [
        (f"S{s}_{t}_0", f"S{s}", f"slide{s}", t, 0, 512 * t, 0, 512, t)
        for s in range(n_samples)
        for t in range(n_tiles)
    ]
    names = ["tile_id", "sample_id", "slide_id", "column", "row", "l0_x", "l0_y", "l0_size", "stack_index"]
    samples_df = pd.DataFrame(
        {
            "sample_id": [f"S{s}" for s in range(n_samples)],
            "donor": [f"D{s % n_donors}" for s in range(n_samples)],
        }
    )
    return pd.DataFrame(rows, columns=names), samples_df


def random_values(tiles_df: pd.DataFrame, n_features: int, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).gamma(2.0, size=(len(tiles_df), n_features))
    return pd.DataFrame(values, index=tiles_df["tile_id"], columns=[f"29_{j}" for j in range(n_features)])


def cover(values_df, tiles_df, samples_df, top_q=0.01, expression_df=None):
    """The greedy cover; without an expression all samples tie in it."""
    if expression_df is None:
        expression_df = pd.DataFrame(1.0, index=values_df.columns, columns=samples_df["sample_id"])
    return tile_choice.greedy_cover(values_df, tiles_df, samples_df, expression_df, top_q=top_q)


def top_sets(values_df: pd.DataFrame, top_q: float) -> np.ndarray:
    """The cover relation written out again: the ceil(q n) highest tiles of each feature."""
    n_top = int(np.ceil(top_q * len(values_df)))
    covers = np.zeros(values_df.shape, dtype=bool)
    for j, feature in enumerate(values_df):
        best = values_df[feature].nlargest(n_top).index
        covers[:, j] = values_df.index.isin(best)
    return covers


def smallest_cover(covers: np.ndarray) -> int:
    for size in range(1, covers.shape[1] + 1):
        if any(covers[list(pick)].any(axis=0).all() for pick in combinations(range(len(covers)), size)):
            return size
    raise AssertionError("no cover exists")


@pytest.mark.parametrize("seed", range(6))
def test_cover_is_complete_irredundant_and_near_the_smallest(seed):
    tiles_df, samples_df = cohort(4, 5, 4)
    values_df = random_values(tiles_df, 7, seed)
    found_df = cover(values_df, tiles_df, samples_df, 0.2)
    covers = top_sets(values_df, 0.2)
    chosen = values_df.index.get_indexer(found_df["tile_id"].unique())
    assert sorted(found_df["feature"]) == sorted(values_df.columns)
    assert covers[chosen].any(axis=0).all()
    for tile in chosen:
        others = [i for i in chosen if i != tile]
        assert not covers[others].any(axis=0).all(), "a chosen tile could be dropped"
    best = smallest_cover(covers)
    assert len(chosen) <= np.ceil((1 + np.log(7)) * best)
    assert len(chosen) <= best + 1


def test_cover_finds_the_planted_tile_and_reports_it():
    tiles_df, samples_df = cohort(3, 10, 3)
    values_df = random_values(tiles_df, 4)
    values_df.loc["S1_7_0"] = 100.0
    found_df = cover(values_df, tiles_df, samples_df, 0.03)
    assert found_df["tile_id"].tolist() == ["S1_7_0"] * 4
    row = found_df.iloc[0]
    assert (row["pick"], row["sample_id"], row["slide_id"], row["donor"]) == (1, "S1", "slide1", "D1")
    assert (row["column"], row["l0_x"], row["value"], row["quantile"]) == (7, 3584, 100.0, 1.0)


def test_cover_lists_a_feature_with_the_chosen_tile_where_it_is_highest():
    tiles_df, samples_df = cohort(1, 4, 1)
    values_df = pd.DataFrame(
        {"1_0": [9, 8, 0, 0.0], "1_1": [9, 0, 1, 0.0], "1_2": [0, 9, 8, 0.0], "1_3": [9, 0, 0, 8.0]},
        index=tiles_df["tile_id"],
    )
    found_df = cover(values_df, tiles_df, samples_df, 0.5).set_index("feature")
    assert found_df["tile_id"].to_dict() == {
        "1_0": "S0_0_0",
        "1_1": "S0_0_0",
        "1_3": "S0_0_0",
        "1_2": "S0_1_0",
    }
    assert found_df.loc["1_2", "pick"] == 2


def test_ties_go_to_the_sample_with_high_expression_of_the_paired_gene():
    tiles_df, samples_df = cohort(4, 1, 4)
    values_df = pd.DataFrame(
        {"1_0": [5.0, 5.0, 5.0, 0.0], "1_1": [7.0, 7.0, 7.0, 0.0]}, index=tiles_df["tile_id"]
    )
    by_id_df = cover(values_df, tiles_df, samples_df, 0.75)
    assert set(by_id_df["tile_id"]) == {"S0_0_0"}
    # S2 is second and first by rank; a mean of the levels would choose S1, whose first gene is high.
    expression_df = pd.DataFrame(
        [[1.0, 90.0, 80.0, 2.0], [1.0, 1.5, 3.0, 2.0]], index=["1_0", "1_1"], columns=["S0", "S1", "S2", "S3"]
    )
    found_df = cover(values_df, tiles_df, samples_df, 0.75, expression_df)
    assert set(found_df["tile_id"]) == {"S2_0_0"}


def test_result_does_not_depend_on_the_order_of_rows():
    tiles_df, samples_df = cohort(5, 6, 3)
    values_df = random_values(tiles_df, 6).round(0)
    shuffled_df = values_df.sample(frac=1, random_state=3)
    top, strip = partial(tile_choice.top_k, k=8), partial(tile_choice.quantile_strip, n=7)
    for choose in (cover, top, strip):
        first_df = choose(values_df, tiles_df, samples_df)
        pd.testing.assert_frame_equal(first_df, choose(shuffled_df, tiles_df.iloc[::-1], samples_df))


def test_a_feature_mostly_zero_is_covered_only_where_it_fires():
    tiles_df, samples_df = cohort(2, 10, 2)
    values_df = random_values(tiles_df, 1).assign(dead=0.0)
    values_df.loc["S1_3_0", "dead"] = 0.1
    found_df = cover(values_df, tiles_df, samples_df, 0.5).set_index("feature")
    assert found_df.loc["dead", "tile_id"] == "S1_3_0"


def test_constant_features_are_left_out():
    tiles_df, samples_df = cohort(2, 4, 2)
    values_df = random_values(tiles_df, 2).assign(flat=3.0)
    found_df = cover(values_df, tiles_df, samples_df)
    assert sorted(found_df["feature"]) == ["29_0", "29_1"]
    empty_df = cover(values_df[["flat"]], tiles_df, samples_df)
    assert len(empty_df) == 0
    assert list(empty_df.columns) == list(found_df.columns)


def test_one_tile_represents_everything():
    tiles_df, samples_df = cohort(1, 1, 1)
    values_df = random_values(tiles_df, 3)
    assert cover(values_df, tiles_df, samples_df)["tile_id"].eq("S0_0_0").all()
    assert len(tile_choice.top_k(values_df, tiles_df, samples_df, k=8)) == 3
    assert tile_choice.quantile_strip(values_df, tiles_df, samples_df, n=7)["order"].tolist() == [1, 1, 1]


def test_top_k_is_the_best_tile_of_each_of_the_best_donors():
    tiles_df, samples_df = cohort(8, 5, 6)
    values_df = random_values(tiles_df, 3)
    found_df = tile_choice.top_k(values_df, tiles_df, samples_df, k=4)
    donor = tiles_df.merge(samples_df).set_index("tile_id")["donor"]
    for feature, strip_df in found_df.groupby("feature"):
        expected = values_df[feature].groupby(donor).max().nlargest(4)
        assert strip_df["donor"].tolist() == expected.index.tolist()
        assert strip_df["value"].tolist() == expected.tolist()
        assert strip_df["order"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("choose", [tile_choice.top_k, tile_choice.quantile_strip])
def test_no_strip_shows_a_donor_twice_unless_there_is_one_donor(choose):
    for n_donors, expected in ((2, 2), (5, 5), (9, 6), (1, 6)):
        tiles_df, samples_df = cohort(10, 6, n_donors)
        count = {"k": 6} if choose is tile_choice.top_k else {"n": 6}
        found_df = choose(random_values(tiles_df, 4), tiles_df, samples_df, **count)
        for _, strip_df in found_df.groupby("feature"):
            assert len(strip_df) == expected
            assert strip_df["tile_id"].is_unique
            if n_donors > 1:
                assert strip_df["donor"].is_unique


def test_quantile_strip_runs_from_low_to_high_at_even_ranks():
    tiles_df, samples_df = cohort(1, 101, 1)
    values_df = pd.DataFrame(
        {"3_1": np.random.default_rng(2).permutation(101) ** 2.0}, index=tiles_df["tile_id"]
    )
    strip_df = tile_choice.quantile_strip(values_df, tiles_df, samples_df, n=5)
    assert strip_df["value"].tolist() == [0, 25**2, 50**2, 75**2, 100**2]
    assert strip_df["target"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_quantile_strip_assigns_donors_at_least_total_distance():
    tiles_df, samples_df = cohort(3, 4, 3)
    values_df = random_values(tiles_df, 1, 4)
    strip_df = tile_choice.quantile_strip(values_df, tiles_df, samples_df, n=3)
    fraction = (values_df["29_0"].rank() - 1) / 11
    donor = tiles_df.merge(samples_df).set_index("tile_id")["donor"]
    best = min(
        sum(abs(fraction[tile] - t) for tile, t in zip(trio, (0, 0.5, 1), strict=True))
        for a, b, c in [("D0", "D1", "D2"), ("D0", "D2", "D1"), ("D1", "D0", "D2")]
        + [("D1", "D2", "D0"), ("D2", "D0", "D1"), ("D2", "D1", "D0")]
        for x in donor.index[donor == a]
        for y in donor.index[donor == b]
        for z in donor.index[donor == c]
        for trio in [(x, y, z)]
    )
    cost = (fraction[strip_df["tile_id"]].to_numpy() - strip_df["target"].to_numpy()).__abs__().sum()
    assert cost == pytest.approx(best)
    assert strip_df["value"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiles_df": lambda df: df.iloc[:-1]}, r"missing from tiles_df, first \['S2_3_0'\]"),
        ({"samples_df": lambda df: df.iloc[1:]}, r"1 sample_id .*missing from samples_df, first \['S0'\]"),
        ({"samples_df": lambda df: df.assign(donor=["D0", None, "D2"])}, "1 samples have no donor"),
        ({"values_df": lambda df: df.assign(**{"29_1": np.nan})}, r"not finite, first in \['29_1'\]"),
        ({"values_df": lambda df: pd.concat([df, df.iloc[:1]])}, "not unique"),
        ({"tiles_df": lambda df: pd.concat([df, df.iloc[:1]])}, "not unique"),
        ({"values_df": lambda df: df.iloc[:0]}, "no tile values"),
        ({"top_q": lambda _: 0}, "top_q is 0"),
        (
            {"expression_df": lambda _: pd.DataFrame(1.0, index=["29_0", "29_1"], columns=["S0", "S1"])},
            r"gene_expression_df \(its columns\)",
        ),
    ],
)
def test_bad_input_is_refused_with_its_names(change, message):
    tiles_df, samples_df = cohort(3, 4, 3)
    given = {"values_df": random_values(tiles_df, 2), "tiles_df": tiles_df, "samples_df": samples_df}
    for name, alter in change.items():
        given[name] = alter(given.get(name))
    with pytest.raises(ValueError, match=message):
        cover(**given)


def test_no_tile_asked_for_is_refused():
    tiles_df, samples_df = cohort(3, 4, 3)
    with pytest.raises(ValueError, match="k is 0"):
        tile_choice.top_k(random_values(tiles_df, 2), tiles_df, samples_df, k=0)
