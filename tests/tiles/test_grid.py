"""The tile grid: physical tile sizes, edges, regions; against plain loops."""

import numpy as np
import pytest
from slide_factory import regions, samples

from lib.tiles import grid
from lib.tiles.slides import SlideError
from lib.tiles.tiling import Tiling


def test_tile_size_is_physical():
    assert [Tiling().l0_size(mpp) for mpp in (0.4942, 0.2471, 0.499)] == [1024, 2048, 1014]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("tile_px", 0), ("input_px", 1.5), ("tile_mpp", 0), ("mask_mpp", -8), ("mask_mpp", float("nan"))),
        *(("min_tissue", 50), ("reader", "pil")),
    ],
)
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        Tiling(**{name: value})


def test_grid_of_a_whole_slide_drops_what_the_edge_cuts():
    grid_df = grid.lay_grid(samples("a"), 100, (350, 200))
    assert len(grid_df) == 4 * 2
    kept = grid_df[~grid_df["cut"]]
    assert kept[["column", "row"]].to_numpy().tolist() == [[c, r] for r in range(2) for c in range(3)]
    assert (kept[["l0_x", "l0_y"]].to_numpy() == kept[["column", "row"]].to_numpy() * 100).all()
    assert grid.lay_grid(samples("a"), 100, (99, 100))["cut"].all(), "a whole slide gets no tolerance"


@pytest.mark.parametrize("width", [99, 100, 101])
@pytest.mark.parametrize("height", [99, 100, 101])
def test_a_region_one_tile_wide_gives_one_tile(width, height):
    grid_df = grid.lay_grid(samples("a", **regions((37, 41, width, height))), 100, (1000, 1000))
    assert grid_df.drop(columns="sample_id").to_numpy().tolist() == [[0, 0, 37, 41, False]]


def test_regions_beyond_the_slide_are_dropped_and_counted():
    boxes = regions((-5, 10, 100, 100), (950, 10, 100, 100), (10, 901, 100, 100), (900, 900, 100, 100))
    grid_df = grid.lay_grid(samples(*"abcd", **boxes), 100, (1000, 1000))
    assert grid_df.set_index("sample_id")["cut"].to_dict() == {"a": True, "b": True, "c": True, "d": False}


def test_grids_of_many_regions_against_plain_loops():
    rng = np.random.default_rng(0)
    boxes = [tuple(rng.integers([-20, -20, 20, 20], [400, 400, 300, 300])) for _ in range(60)]
    grid_df = grid.lay_grid(samples(*[f"s{i}" for i in range(60)], **regions(*boxes)), 50, (500, 450))
    expected = set()
    for i, (x, y, width, height) in enumerate(boxes):
        for row in range(20):
            for column in range(20):
                left, top = x + column * 50, y + row * 50
                fits = left + 50 <= x + width + 1 and top + 50 <= y + height + 1
                if fits and left >= 0 and top >= 0 and left + 50 <= 500 and top + 50 <= 450:
                    expected.add((f"s{i}", column, row, left, top))
    kept = grid_df[~grid_df["cut"]]
    got = set(kept[["sample_id", "column", "row", "l0_x", "l0_y"]].itertuples(index=False, name=None))
    assert got == expected
    assert len(got) == len(kept)


def test_one_mpp_per_slide():
    assert grid.one_mpp(samples("a")) is None
    assert grid.one_mpp(samples("a", mpp=np.nan)) is None
    assert grid.one_mpp(samples("a", "b", mpp=[np.nan, 0.5])) == 0.5
    with pytest.raises(SlideError, match=r"several mpp for this slide \(0.5, 0.25\)"):
        grid.one_mpp(samples("a", "b", mpp=[0.5, 0.25]))
