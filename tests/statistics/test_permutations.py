"""Which rearrangements each scheme draws, and what it says about them."""

import numpy as np
import pandas as pd
import pytest
from made_cohort import N, make_samples, small_cohort
from scipy import stats

from lib.statistics import permutations


@pytest.fixture(scope="module")
def small():
    return small_cohort()


def test_orders_are_permutations_that_respect_the_scheme(small):
    samples_df = small[0]
    tissue, donor = samples_df["tissue"].to_numpy(), samples_df["donor"].to_numpy()
    for scheme in ("free", "within_tissue", "within_donor_block"):
        order = permutations.draw(scheme, 50, samples_df, 7).order
        assert order.dtype == np.int32
        assert (np.sort(order, axis=1) == np.arange(N)).all()
        assert len(np.unique(order, axis=0)) == 50
        assert (tissue[order] == tissue).all() == (scheme != "free")
        if scheme == "within_donor_block":  # the slides of one donor go to one donor
            for d in np.unique(donor):
                assert all(len(np.unique(row)) == 1 for row in donor[order[:, donor == d]])


def test_seed_decides(small):
    a, b, c = (permutations.draw("within_tissue", 20, small[0], seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.order, b.order)
    assert (a.order != c.order).any()


def test_places_are_uniform():
    """Under within_tissue every slide of a tissue is equally often in each of its places."""
    samples_df = make_samples(list("aaaabbbbb"))
    order = permutations.draw("within_tissue", 8000, samples_df, 0)
    # 4! 5! = 2880 are possible: enumerated, so exactly uniform but for the identity left out
    assert len(order.order) == 2879
    counts = np.array([np.bincount(order.order[:, s], minlength=9) for s in range(9)]) + np.eye(9, dtype=int)
    assert set(np.unique(counts)) == {0, 720, 576}
    drawn = permutations.draw("within_tissue", 2000, samples_df, 0).order
    observed = np.bincount(drawn[:, 0], minlength=4)[:4]
    assert stats.chisquare(observed).pvalue > 0.001


def test_notes_say_that_spots_of_one_slide_are_not_independent():
    spots_df = pd.DataFrame({
        "sample_id": list("abcdef"), "tissue": list("xxyxyy"), "slide_id": list("sssttt"),
        "donor": list("dddeee"),
    })  # fmt: skip
    notes = permutations.draw("within_tissue", 10, spots_df, 0).notes
    assert any("several samples lie on one slide" in note for note in notes)
    assert not any("one slide" in note for note in permutations.draw("free", 10, spots_df, 0).notes)
    whole_df = spots_df.assign(slide_id=spots_df["sample_id"])
    assert not any(
        "several samples" in note for note in permutations.draw("within_tissue", 10, whole_df, 0).notes
    )


def test_notes_on_single_slides_and_few_permutations():
    samples_df = make_samples(list("aaab") + ["c"])
    p = permutations.draw("within_tissue", 1000, samples_df, 0)
    assert len(p.order) == 5
    assert "2 tissues have one sample and contribute nothing: b, c" in p.notes[0]
    assert "1,000 rearrangements were asked for, 6 are possible" in p.notes[1]
    donors = make_samples(list("aabbc"), ["d1", "d2", "d1", "d2", "d3"])
    p = permutations.draw("within_donor_block", 10, donors, 0)
    assert p.order.tolist() == [[1, 0, 3, 2, 4]]
    assert "1 of 5 slides stay in place and contribute nothing" in p.notes[0]


def test_bad_schemes():
    with pytest.raises(ValueError, match="can move none of the 5 slides"):
        permutations.draw("within_tissue", 10, make_samples(list("abcde")), 0)
    with pytest.raises(ValueError, match="unknown scheme 'shuffle'"):
        permutations.draw("shuffle", 10, make_samples(list("aabb")), 0)
    with pytest.raises(ValueError, match="3 slides"):
        permutations.draw("free", 10, make_samples(list("aab")), 0)
    with pytest.raises(ValueError, match="1 samples have no tissue"):
        permutations.draw("within_tissue", 10, make_samples(["a", "a", "b", None]), 0)
    with pytest.raises(ValueError, match=r"lacks the columns \['donor'\]"):
        permutations.draw("within_donor_block", 10, make_samples(list("aabb")).drop(columns="donor"), 0)
    twice_df = pd.concat([make_samples(list("aabbb")), make_samples(list("aa"))])
    for scheme in permutations.SCHEMES:
        with pytest.raises(ValueError, match=r"2 of 7 rows .* repeat a sample_id .*first \['s0', 's1'\]"):
            permutations.draw(scheme, 10, twice_df, 0)


def test_schemes_drawn():
    samples_df = make_samples(list("aabb") * 15)
    alone_df = samples_df.assign(donor=[f"d{i}" for i in range(60)])
    assert permutations.draw("within_tissue", 9, alone_df, 0).notes == ()
    several_df = samples_df.assign(donor=[f"d{i // 2}" for i in range(60)])
    beside = permutations.draw_schemes(9, several_df, 0)
    assert list(beside) == ["free", "within_tissue", "within_donor_block"]
    assert list(permutations.draw_schemes(9, alone_df, 0)) == ["free", "within_tissue"]
    three_df = make_samples(list("abababacbc"), donors=list("1122334455"))  # donors 1 to 3: 6 rearrangements
    assert list(permutations.draw_schemes(99, three_df, 0)) == ["free", "within_tissue"]
    unlike_df = make_samples(list("abcabab"), donors=list("1112234"))
    assert list(permutations.draw_schemes(9, unlike_df.iloc[:5], 0)) == ["free", "within_tissue"]


def test_all_orders_of_few_samples_come_in_random_order():
    """Tests with sequential stopping use the first ones; in the order of their listing these hardly move."""
    samples_df = pd.DataFrame({"sample_id": list("abcdefg"), "tissue": "one"})
    shuffles = permutations.draw("within_tissue", 10_000, samples_df, seed=0)
    assert len(shuffles.order) == 5039
    assert len(np.unique(shuffles.order, axis=0)) == 5039
    stays = (shuffles.order == np.arange(7)).mean(axis=1)
    assert stays[:200].mean() == pytest.approx(stays.mean(), abs=0.03)
