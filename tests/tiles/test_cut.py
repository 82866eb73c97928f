"""The grid, and tiles cut from slides with known content, by both readers."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from slide_factory import MPP, PINK, glass, textured, write_slide

import lib
from lib.cohort.samples import REGION
from lib.tiles import cut, grid, scaled_jpeg, slides
from lib.tiles.slides import SlideError
from lib.tiles.tiling import Tiling

CMU = Path(os.environ.get("DATA_MIRROR", Path(lib.__file__).parents[2] / "shared/data")) / (
    "slides/cmu-1-small-region.svs"
)
SMALL = Tiling(tile_px=64, input_px=32)  # tiles of 128 level-0 px at 0.4942 µm/px
CELL = 512  # edge of a drawn square, level-0 px at 0.4942 µm/px
LARGE = Tiling(tile_px=256, input_px=32, mask_mpp=4)  # tiles of one CELL


def samples(*ids: str, slide_id: str = "s", **columns) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": list(ids), "slide_id": slide_id} | columns)


def regions(*boxes) -> dict[str, list]:
    return {name: [box[i] for box in boxes] for i, name in enumerate(REGION)}


# -- geometry -----------------------------------------------------------------------------------------------


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
    assert (kept["l0_x"] == kept["column"] * 100).all()
    assert (kept["l0_y"] == kept["row"] * 100).all()


def test_a_whole_slide_gets_no_tolerance():
    assert grid.lay_grid(samples("a"), 100, (99, 100))["cut"].all()


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


# -- cutting ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> tuple[Path, dict[tuple[int, int], tuple[int, int, int]]]:
    """A slide of 3600 x 2240 px whose tiles (column, row) are known plain colours, the rest glass."""
    colours = {
        (0, 0): (220, 130, 180),
        (3, 1): (150, 90, 170),
        (6, 3): (200, 90, 150),
        (2, 2): (235, 160, 200),
    }
    rgb = glass(2240, 3600)
    for (column, row), colour in colours.items():
        rgb[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = colour
    rgb[4 * CELL :, CELL : 2 * CELL] = PINK  # in a tile that the bottom edge cuts
    return write_slide(tmp_path_factory.mktemp("slides") / "squares.svs", rgb, quality=95), colours


@pytest.mark.parametrize("reader", ["openslide", "auto", "jpeg"])
def test_known_squares_land_in_their_tiles(squares, tmp_path, reader):
    path, colours = squares
    found = cut.cut_slide(path, samples("a"), tmp_path / "s.npy", replace(LARGE, reader=reader))
    assert found.reader == ("openslide" if reader == "openslide" else "jpeg 1/2")
    stack = np.load(tmp_path / "s.npy", mmap_mode="r")
    assert stack.shape == (4, 32, 32, 3)
    assert stack.dtype == np.uint8
    tiles_df = found.tiles_df
    assert list(tiles_df) == list(cut.TILE_COLUMNS)
    assert set(zip(tiles_df["column"], tiles_df["row"], strict=True)) == set(colours)
    for tile in tiles_df.itertuples():
        assert tile.tile_id == f"a_{tile.column}_{tile.row}"
        assert (tile.l0_x, tile.l0_y, tile.l0_size) == (tile.column * CELL, tile.row * CELL, CELL)
        inner = stack[tile.stack_index][2:-2, 2:-2].reshape(-1, 3)
        assert np.abs(inner - np.array(colours[tile.column, tile.row])).max() < 8
        assert tile.tissue_fraction > 0.9
    assert found.n_grid == 8 * 5
    assert found.dropped == {"edge": 8 * 5 - 7 * 4, "tissue": 7 * 4 - 4}
    assert (found.l0_width, found.l0_height, found.mpp) == (3600, 2240, MPP)
    # The four squares and the piece in the row that is cut.
    assert found.tissue_area_mm2 == pytest.approx((4 * CELL**2 + 192 * CELL) * MPP**2 / 1e6, rel=0.05)


def test_the_same_place_in_um_on_a_40x_slide(tmp_path):
    rgb = glass(3100, 3100)
    rgb[2048:3072, 1024:2048] = PINK
    path = write_slide(tmp_path / "a.svs", rgb, mpp=MPP / 2)
    for reader in ("openslide", "auto"):
        found = cut.cut_slide(path, samples("a"), tmp_path / "s.npy", replace(LARGE, reader=reader))
        assert found.tiles_df[["column", "row", "l0_size"]].to_numpy().tolist() == [[1, 2, 1024]]


def test_spots_each_give_their_own_tile(squares, tmp_path):
    path, colours = squares
    # The third is glass, the fourth leaves the slide.
    at = [(1536, 512), (0, 0), (2200, 1100), (3400, 10), (1024, 1024)]
    df = samples("p", "q", "r", "s", "t", **regions(*[(x, y, 511, 513) for x, y in at]))
    found = cut.cut_slide(path, df, tmp_path / "s.npy", LARGE)
    stack = np.load(tmp_path / "s.npy")
    assert found.dropped == {"edge": 1, "tissue": 1}
    assert found.n_grid == 5
    seen = {t.sample_id: stack[t.stack_index].mean(axis=(0, 1)) for t in found.tiles_df.itertuples()}
    assert set(seen) == {"p", "q", "t"}
    for sample_id, square in {"p": (3, 1), "q": (0, 0), "t": (2, 2)}.items():
        assert np.abs(seen[sample_id] - colours[square]).max() < 4
    assert sorted(found.tiles_df["tile_id"]) == ["p_0_0", "q_0_0", "t_0_0"]


def test_whole_slide_and_a_spot_on_one_slide(squares, tmp_path):
    df = samples("whole", "spot", **regions([np.nan] * 4, (1536, 512, 512, 512)))
    found = cut.cut_slide(squares[0], df, tmp_path / "s.npy", LARGE)
    assert found.tiles_df["sample_id"].value_counts().to_dict() == {"whole": 4, "spot": 1}
    stack = np.load(tmp_path / "s.npy")
    same = found.tiles_df.query("l0_x == 1536 and l0_y == 512")["stack_index"]
    np.testing.assert_array_equal(*stack[same])


def test_pixels_against_pillow(tmp_path):
    rgb = textured(600, 600, 0)
    path = write_slide(tmp_path / "a.svs", rgb, quality=95)
    cut.cut_slide(path, samples("a"), tmp_path / "s.npy", Tiling(128, input_px=64, reader="openslide"))
    stack = np.load(tmp_path / "s.npy")
    with slides.open_slide(path) as slide:
        level_0 = Image.fromarray(slides.read_rgb(slide, 0, 0, 600, 600))
    for i, (x, y) in enumerate([(0, 0), (256, 0), (0, 256), (256, 256)]):
        oracle = np.asarray(level_0.crop((x, y, x + 256, y + 256)).reduce(4))
        assert np.abs(stack[i].astype(int) - oracle).max() <= 1


def test_override_changes_the_size_and_is_noted(squares, tmp_path):
    found = cut.cut_slide(
        squares[0], samples("a", mpp=2 * MPP), tmp_path / "s.npy", replace(LARGE, min_tissue=0)
    )
    assert set(found.tiles_df["l0_size"]) == {256}
    assert "samples table's" in found.note


def test_min_tissue_is_inclusive_and_zero_keeps_all(squares, tmp_path):
    def tiles_with(min_tissue):
        tiling = replace(LARGE, min_tissue=min_tissue)
        return cut.cut_slide(squares[0], samples("a"), tmp_path / "s.npy", tiling).tiles_df

    fractions = tiles_with(0)["tissue_fraction"]
    assert len(fractions) == 28
    level = fractions.sort_values().iloc[-2]
    assert len(tiles_with(level)) == (fractions >= level).sum()


def test_an_empty_slide_leaves_no_stack(tmp_path):
    path = write_slide(tmp_path / "a.svs", glass(600, 600))
    (tmp_path / "s.npy").write_bytes(b"old")
    found = cut.cut_slide(path, samples("a"), tmp_path / "s.npy", SMALL)
    assert found.tiles_df.empty
    assert list(found.tiles_df) == list(cut.TILE_COLUMNS)
    assert found.tissue_area_mm2 == 0
    assert not list(tmp_path.glob("s.npy*"))


def test_a_slide_smaller_than_a_tile(tmp_path):
    path = write_slide(tmp_path / "a.svs", textured(60, 60, 0))
    found = cut.cut_slide(path, samples("a"), tmp_path / "s.npy", Tiling())
    assert found.dropped == {"edge": 1, "tissue": 0}


def test_errors_name_the_slide(tmp_path):
    path = write_slide(tmp_path / "nowhere.svs", glass(64, 64), mpp=None)
    with pytest.raises(SlideError, match=r"nowhere\.svs: the slide does not state its µm/px: fill in column"):
        cut.cut_slide(path, samples("a"), tmp_path / "s.npy", Tiling())


# -- libjpeg's scaled decoding ------------------------------------------------------------------------------


def tissue_slide(path: Path, **kwargs) -> Path:
    rgb = glass(800, 1100)
    rgb[60:760, 50:1000] = textured(700, 950, 0, (190, 120, 170))
    rgb[300:500, 300:600] = textured(200, 300, 1, (120, 70, 150))
    return write_slide(path, rgb, **kwargs)


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
@pytest.mark.parametrize(
    ("tile_px", "mpp", "way"), [(128, MPP, "1/2"), (240, 0.499, "1/2"), (240, MPP / 2, "1/4")]
)
def test_scaled_decoding_equals_openslide(tmp_path, photometric, tile_px, mpp, way):
    path = tissue_slide(
        tmp_path / "a.svs", photometric=photometric, tile_px=tile_px, mpp=mpp, quality=80, steps=()
    )
    with tifffile.TiffFile(path) as tiff:  # the trap is really set
        assert tiff.pages[0].photometric.name.lower() == photometric
        assert b"Adobe" not in path.read_bytes()
    stacks = {}
    for reader in ("openslide", "jpeg"):
        tiling = Tiling(64, input_px=28, reader=reader)
        found = cut.cut_slide(path, samples("a"), tmp_path / "s.npy", tiling)
        stacks[reader] = np.load(tmp_path / "s.npy").astype(int)
    assert found.reader == f"jpeg {way}"
    assert len(stacks["jpeg"]) >= 4
    assert np.abs(stacks["jpeg"] - stacks["openslide"]).mean() < 1


def test_unmarked_rgb_would_be_wrong_without_the_marker(tmp_path, monkeypatch):
    """The check against OpenSlide catches what the marker prevents."""
    path = tissue_slide(tmp_path / "a.svs", photometric="rgb", steps=())
    monkeypatch.setattr(scaled_jpeg, "APP14", b"")
    monkeypatch.setattr(scaled_jpeg, "_header", lambda tables, photometric: b"\xff\xd8")
    assert cut.cut_slide(path, samples("a"), tmp_path / "s.npy", SMALL).reader == "openslide"
    with pytest.raises(SlideError, match="differs from OpenSlide"):
        cut.cut_slide(path, samples("a"), tmp_path / "s.npy", replace(SMALL, reader="jpeg"))


def test_auto_falls_back(squares, tmp_path):
    fine = Tiling(tile_px=512, tile_mpp=MPP, input_px=64)  # needs level 0 itself
    assert cut.cut_slide(squares[0], samples("a"), tmp_path / "s.npy", fine).reader == "openslide"
    with pytest.raises(SlideError, match=r"cannot be read with reader = 'jpeg'.*reader = 'auto'"):
        cut.cut_slide(squares[0], samples("a"), tmp_path / "s.npy", replace(fine, reader="jpeg"))
    tifffile.imwrite(tmp_path / "a.tiff", textured(512, 512, 0), tile=(128, 128), photometric="rgb")
    df = samples("a", mpp=MPP)
    assert cut.cut_slide(tmp_path / "a.tiff", df, tmp_path / "s.npy", SMALL).reader == "openslide"


def test_damaged_tile_is_left_to_openslide(tmp_path):
    path = tissue_slide(tmp_path / "a.svs", steps=())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        at = page.dataoffsets[12]
    data = bytearray(path.read_bytes())
    data[at : at + 2] = b"\x00\x00"
    path.write_bytes(data)
    for reader in ("auto", "jpeg"):
        with pytest.raises(SlideError, match=r"a\.svs: .*(damaged|try reader)"):
            cut.cut_slide(path, samples("a"), tmp_path / "s.npy", replace(SMALL, reader=reader, mask_mpp=4))
    assert not (tmp_path / "s.npy").exists()


# -- a real slide -------------------------------------------------------------------------------------------


def test_real_slide(tmp_path):
    if not CMU.is_file():
        pytest.skip(f"{CMU} is not there")
    found = cut.cut_slide(CMU, samples("cmu"), tmp_path / "s.npy", Tiling())
    assert (found.mpp, found.n_grid, found.dropped) == (0.499, 9, {"edge": 5, "tissue": 3})
    assert found.tiles_df["tile_id"].tolist() == ["cmu_1_1"]
    assert 0.6 < found.tissue_area_mm2 < 0.75
    stacks = {}
    for reader in ("openslide", "jpeg"):
        found = cut.cut_slide(CMU, samples("cmu"), tmp_path / "s.npy", Tiling(256, reader=reader))
        stacks[reader] = np.load(tmp_path / "s.npy").astype(int)
    assert len(found.tiles_df) == 8
    assert np.abs(stacks["jpeg"] - stacks["openslide"]).mean() < 0.5
    assert stacks["jpeg"].mean(axis=(0, 1, 2)).argmin() == 1  # H&E: green is darkest
