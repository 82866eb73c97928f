"""Tiles cut from slides with known content, by both readers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from real_data import MIRROR
from slide_factory import MPP, PINK, glass, regions, samples, textured, write_slide

from lib.tiles import cut, scaled_jpeg, slides
from lib.tiles.slides import SlideError
from lib.tiles.tiling import Tiling

CMU = MIRROR / "slides" / "cmu-1-small-region.svs"
SMALL = Tiling(tile_px=64, input_px=32, mask_mpp=4)  # tiles of 128 level-0 px at 0.4942 µm/px
CELL = 512  # edge of a drawn square, level-0 px at 0.4942 µm/px
LARGE = Tiling(tile_px=256, input_px=32, mask_mpp=4)  # tiles of one CELL


@pytest.fixture
def cut_slide(tmp_path):
    """Cuts a slide; gives what was found and the stack (int64; None where there is none)."""

    def run(path, tiling, samples_df=None, **changes):
        samples_df, stack_path = samples("a") if samples_df is None else samples_df, tmp_path / "s.npy"
        found = cut.cut_slide(path, samples_df, stack_path, replace(tiling, **changes))
        return found, np.load(stack_path).astype(int) if stack_path.exists() else None

    return run


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
def test_known_squares_land_in_their_tiles(squares, cut_slide, tmp_path, reader):
    path, colours = squares
    found, stack = cut_slide(path, LARGE, reader=reader)
    assert found.reader == ("openslide" if reader == "openslide" else "jpeg 1/2")
    assert stack.shape == (4, 32, 32, 3)
    assert np.load(tmp_path / "s.npy").dtype == np.uint8
    tiles_df = found.tiles_df
    assert list(tiles_df) == list(cut.TILE_COLUMNS)
    assert set(zip(tiles_df["column"], tiles_df["row"], strict=True)) == set(colours)
    for tile in tiles_df.itertuples():
        assert tile.tile_id == f"a_{tile.column}_{tile.row}"
        assert (tile.l0_x, tile.l0_y, tile.l0_size) == (tile.column * CELL, tile.row * CELL, CELL)
        inner = stack[tile.stack_index][2:-2, 2:-2].reshape(-1, 3)
        assert np.abs(inner - np.array(colours[tile.column, tile.row])).max() < 8
        assert tile.tissue_fraction > 0.9
    counts = (found.n_grid, found.n_dropped_edge, found.n_dropped_tissue)
    assert counts == (8 * 5, 8 * 5 - 7 * 4, 7 * 4 - 4)
    assert (found.l0_width, found.l0_height, found.mpp) == (3600, 2240, MPP)
    # The four squares and the piece in the row that is cut.
    assert found.tissue_area_mm2 == pytest.approx((4 * CELL**2 + 192 * CELL) * MPP**2 / 1e6, rel=0.05)


@pytest.mark.parametrize("reader", ["openslide", "auto"])
def test_the_same_place_in_um_on_a_40x_slide(cut_slide, tmp_path, reader):
    rgb = glass(3100, 3100)
    rgb[2048:3072, 1024:2048] = PINK
    found, _ = cut_slide(write_slide(tmp_path / "a.svs", rgb, mpp=MPP / 2), LARGE, reader=reader)
    assert found.tiles_df[["column", "row", "l0_size"]].to_numpy().tolist() == [[1, 2, 1024]]


def test_spots_each_give_their_own_tile(squares, cut_slide):
    path, colours = squares
    # The third is glass, the fourth leaves the slide.
    at = [(1536, 512), (0, 0), (2200, 1100), (3400, 10), (1024, 1024)]
    found, stack = cut_slide(path, LARGE, samples(*"pqrst", **regions(*[(x, y, 511, 513) for x, y in at])))
    assert (found.n_grid, found.n_dropped_edge, found.n_dropped_tissue) == (5, 1, 1)
    assert sorted(found.tiles_df["tile_id"]) == ["p_0_0", "q_0_0", "t_0_0"]
    for tile in found.tiles_df.itertuples():
        square = {"p": (3, 1), "q": (0, 0), "t": (2, 2)}[tile.sample_id]
        assert np.abs(stack[tile.stack_index].mean(axis=(0, 1)) - colours[square]).max() < 4


def test_whole_slide_and_a_spot_on_one_slide(squares, cut_slide):
    df = samples("whole", "spot", **regions([np.nan] * 4, (1536, 512, 512, 512)))
    found, stack = cut_slide(squares[0], LARGE, df)
    assert found.tiles_df["sample_id"].value_counts().to_dict() == {"whole": 4, "spot": 1}
    same = found.tiles_df.query("l0_x == 1536 and l0_y == 512")["stack_index"]
    np.testing.assert_array_equal(*stack[same])


def test_pixels_against_pillow(cut_slide, tmp_path):
    path = write_slide(tmp_path / "a.svs", textured(600, 600, 0), quality=95)
    _, stack = cut_slide(path, Tiling(128, input_px=64, reader="openslide"))
    with slides.open_slide(path) as slide:
        level_0 = Image.fromarray(slides.read_rgb(slide, 0, 0, 600, 600))
    for i, (x, y) in enumerate([(0, 0), (256, 0), (0, 256), (256, 256)]):
        oracle = np.asarray(level_0.crop((x, y, x + 256, y + 256)).reduce(4))
        assert np.abs(stack[i] - oracle).max() <= 1


def test_override_changes_the_size_and_is_noted(squares, cut_slide):
    found, _ = cut_slide(squares[0], LARGE, samples("a", mpp=2 * MPP), min_tissue=0)
    assert set(found.tiles_df["l0_size"]) == {256}
    assert "samples table's" in found.note


def test_min_tissue_is_inclusive_and_zero_keeps_all(squares, cut_slide):
    fractions = cut_slide(squares[0], LARGE, min_tissue=0)[0].tiles_df["tissue_fraction"]
    assert len(fractions) == 28
    level = fractions.sort_values().iloc[-2]
    assert len(cut_slide(squares[0], LARGE, min_tissue=level)[1]) == (fractions >= level).sum()


def test_an_empty_slide_leaves_no_stack(cut_slide, tmp_path):
    (tmp_path / "s.npy").write_bytes(b"old")
    found, stack = cut_slide(write_slide(tmp_path / "a.svs", glass(600, 600)), SMALL)
    assert found.tiles_df.empty
    assert list(found.tiles_df) == list(cut.TILE_COLUMNS)
    assert found.tissue_area_mm2 == 0
    assert stack is None


def test_a_slide_smaller_than_a_tile(cut_slide, tmp_path):
    found, _ = cut_slide(write_slide(tmp_path / "a.svs", textured(60, 60, 0)), Tiling())
    assert (found.n_dropped_edge, found.n_dropped_tissue) == (1, 0)


def test_errors_name_the_slide(cut_slide, tmp_path):
    path = write_slide(tmp_path / "nowhere.svs", glass(64, 64), mpp=None)
    with pytest.raises(SlideError, match=r"nowhere\.svs: the slide does not state its µm/px: fill in column"):
        cut_slide(path, Tiling())


# -- libjpeg's scaled decoding ------------------------------------------------------------------------------


def tissue_slide(path: Path, **kwargs) -> Path:
    rgb = glass(800, 1100)
    rgb[60:760, 50:1000] = textured(700, 950, 0, (190, 120, 170))
    rgb[300:500, 300:600] = textured(200, 300, 1, (120, 70, 150))
    return write_slide(path, rgb, steps=(), **kwargs)


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
@pytest.mark.parametrize(
    ("tile_px", "mpp", "way"), [(128, MPP, "1/2"), (240, 0.499, "1/2"), (240, MPP / 2, "1/4")]
)
def test_scaled_decoding_equals_openslide(cut_slide, tmp_path, photometric, tile_px, mpp, way):
    path = tissue_slide(tmp_path / "a.svs", photometric=photometric, tile_px=tile_px, mpp=mpp, quality=80)
    with tifffile.TiffFile(path) as tiff:  # RGB data without a marker, or YCbCr: as intended
        assert tiff.pages[0].photometric.name.lower() == photometric
        assert b"Adobe" not in path.read_bytes()
    (_, plain), (found, scaled) = (
        cut_slide(path, Tiling(64, input_px=28), reader=reader) for reader in ("openslide", "jpeg")
    )
    assert found.reader == f"jpeg {way}"
    assert len(scaled) >= 4
    assert np.abs(scaled - plain).mean() < 1


def test_unmarked_rgb_would_be_wrong_without_the_marker(cut_slide, tmp_path, monkeypatch):
    """The check against OpenSlide catches what the marker prevents."""
    path = tissue_slide(tmp_path / "a.svs", photometric="rgb")
    monkeypatch.setattr(scaled_jpeg, "APP14", b"")
    monkeypatch.setattr(scaled_jpeg, "_header", lambda tables, photometric: b"\xff\xd8")
    assert cut_slide(path, SMALL)[0].reader == "openslide"
    with pytest.raises(SlideError, match="differs from OpenSlide"):
        cut_slide(path, SMALL, reader="jpeg")


def test_auto_falls_back(squares, cut_slide, tmp_path):
    fine = Tiling(tile_px=512, tile_mpp=MPP, input_px=64)  # needs level 0 itself
    assert cut_slide(squares[0], fine)[0].reader == "openslide"
    with pytest.raises(SlideError, match=r"cannot be read with reader = 'jpeg'.*reader = 'auto'"):
        cut_slide(squares[0], fine, reader="jpeg")
    tifffile.imwrite(tmp_path / "a.tiff", textured(512, 512, 0), tile=(128, 128), photometric="rgb")
    assert cut_slide(tmp_path / "a.tiff", SMALL, samples("a", mpp=MPP))[0].reader == "openslide"


@pytest.mark.parametrize("reader", ["auto", "jpeg"])
def test_damaged_tile_is_left_to_openslide(cut_slide, tmp_path, reader):
    path = tissue_slide(tmp_path / "a.svs")
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].dataoffsets[12]
    data = bytearray(path.read_bytes())
    data[at : at + 2] = b"\x00\x00"
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"a\.svs: .*(damaged|try reader)"):
        cut_slide(path, SMALL, reader=reader)
    assert not (tmp_path / "s.npy").exists()


@pytest.mark.skipif(not CMU.is_file(), reason=f"{CMU} is missing")
def test_real_slide(cut_slide):
    found, _ = cut_slide(CMU, Tiling(), samples("cmu"))
    assert found[1:5] == (9, 5, 3, 0.499)
    assert found.tiles_df["tile_id"].tolist() == ["cmu_1_1"]
    assert 0.6 < found.tissue_area_mm2 < 0.75
    plain, scaled = (cut_slide(CMU, Tiling(256), reader=reader)[1] for reader in ("openslide", "jpeg"))
    assert len(scaled) == 8
    assert np.abs(scaled - plain).mean() < 0.5
    assert scaled.mean(axis=(0, 1, 2)).argmin() == 1  # H&E: green is darkest
