"""Opening slides, their µm/px, and reduced reading, against numpy and slides drawn here."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from real_data import MIRROR
from slide_factory import MPP, PINK, glass, textured, write_slide

from lib.tiles import slides
from lib.tiles.slides import SlideError


def real(name: str) -> Path:
    path = MIRROR / "slides" / name
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return path


def stating(x: str | None, y: str | None) -> SimpleNamespace:
    """Something that states its µm/px like a slide."""
    stated = {"openslide.mpp-x": x, "openslide.mpp-y": y}
    return SimpleNamespace(properties={k: v for k, v in stated.items() if v is not None})


def test_missing_file_folder_empty_file_and_text_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.svs does not exist"):
        slides.open_slide(tmp_path / "gone.svs")
    (tmp_path / "empty.svs").touch()
    (tmp_path / "text.svs").write_text("not a slide")
    for name, words in (
        (".", "is a folder"),
        ("empty.svs", "is an empty file"),
        ("text.svs", "is not in a f"),
    ):
        with pytest.raises(SlideError, match=f"{(tmp_path / name)} {words}"):
            slides.open_slide(tmp_path / name)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_slide_is_refused(tmp_path, share):
    whole = write_slide(tmp_path / "whole.svs", textured(700, 900, 0)).read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SlideError, match="download it again"), slides.open_slide(path) as slide:
        slides.reduced(slide, 16)


@pytest.mark.parametrize("name", ["broken.svs", "unreadable.svs", "unopenable.tiff"])
def test_real_bad_slides_are_refused(name):
    path = real(name)
    with pytest.raises(SlideError, match=name):
        slides.open_slide(path)


def test_real_slides_open():
    with slides.open_slide(real("small.svs")) as slide:
        assert slide.dimensions == (16, 16)
        assert slides.slide_mpp(slide) == (0.499, "")
    for name in ("boxes.tiff", "py_boxes.tiff"):  # their resolution tag means 350 µm/px
        with slides.open_slide(real(name)) as slide:
            with pytest.raises(SlideError, match=r"35.* outside .* column mpp"):
                slides.slide_mpp(slide)
            assert slides.slide_mpp(slide, 0.5).mpp == 0.5


def test_mpp_of_a_written_slide(tmp_path):
    with slides.open_slide(write_slide(tmp_path / "a.svs", glass(64, 64))) as slide:
        assert slides.slide_mpp(slide) == (MPP, "")
    with slides.open_slide(write_slide(tmp_path / "b.svs", glass(64, 64), mpp=None)) as slide:
        with pytest.raises(SlideError, match=r"does not state its µm/px: fill in column mpp"):
            slides.slide_mpp(slide)
        assert slides.slide_mpp(slide, 0.3) == (0.3, "")


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (None, "0.5", "does not state"),
        ("0.5", None, "does not state"),
        ("a half", "0.5", "not numbers"),
        ("0", "0", "outside"),
        ("-0.5", "-0.5", "outside"),
        ("nan", "nan", "outside"),
        ("25", "25", "outside"),
        ("0.5", "0.53", "not square"),
    ],
)
def test_bad_mpp_is_refused_unless_overridden(x, y, words):
    with pytest.raises(SlideError, match=words) as caught:
        slides.slide_mpp(stating(x, y))
    assert "column mpp" in str(caught.value)
    with pytest.raises(SlideError, match=words):
        slides.slide_mpp(stating(x, y), float("nan"))  # an empty cell is no override
    assert slides.slide_mpp(stating(x, y), 0.25) == (0.25, "")


@pytest.mark.parametrize("value", [0, -1, 10.1, float("inf")])
def test_nonsense_override_is_refused(value):
    with pytest.raises(SlideError, match="samples table"):
        slides.slide_mpp(stating("0.5", "0.5"), value)


def test_override_wins_and_a_contradiction_is_noted():
    assert slides.slide_mpp(stating("0.5", "0.5"), 0.52) == (0.52, "")
    note = "the samples table's 0.25 µm/px is used; the slide itself says 0.5"
    assert slides.slide_mpp(stating("0.5", "0.5"), 0.25) == (0.25, note)


def test_nearly_square_pixels_are_averaged():
    assert slides.slide_mpp(stating("0.50", "0.51")).mpp == pytest.approx(0.50498, abs=1e-4)


@pytest.mark.parametrize(
    ("n_in", "start", "stop", "n_out"), [(1024, 0, 1024, 224), (50, 3, 47, 13), (9, 2, 8, 6)]
)
def test_area_weights_average_exactly(n_in, start, stop, n_out):
    line = np.random.default_rng(0).uniform(0, 255, n_in)
    exact = line[start:stop].repeat(n_out).reshape(n_out, stop - start).mean(axis=1)  # n_out parts a pixel
    np.testing.assert_allclose(slides.area_weights(n_in, start, stop, n_out) @ line, exact, rtol=1e-5)


def test_area_weights_with_fractional_bounds():
    weights = slides.area_weights(10, 1.25, 4.25, 1).toarray()[0]
    np.testing.assert_allclose(weights, [0, 0.75 / 3, 1 / 3, 1 / 3, 0.25 / 3, 0, 0, 0, 0, 0], atol=1e-6)


def test_area_weights_ignore_what_lies_outside():
    weights = slides.area_weights(10, 8, 11, 2).toarray()
    np.testing.assert_allclose(weights[0], [0] * 8 + [2 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(weights[1], [0] * 8 + [0, 1], atol=1e-6)
    with pytest.raises(ValueError, match="outside the picture"):
        slides.area_weights(10, 8, 16, 2)


def test_enlarging_interpolates_between_pixel_centres():
    ramp = np.tile(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], (20, 1, 3))
    big = slides.resample(ramp, (0, 0, 20, 20), 40, 40)
    oracle = np.asarray(Image.fromarray(ramp).resize((40, 40), Image.Resampling.BILINEAR))
    assert np.abs(big.astype(int) - oracle).max() <= 1


def test_resample_agrees_with_pillow_at_a_whole_ratio():
    rgb = textured(120, 180, 1)
    got = slides.resample(rgb, (0, 0, 180, 120), 40, 60)
    assert np.abs(got.astype(int) - np.asarray(Image.fromarray(rgb).reduce(3))).max() <= 1
    part = slides.resample(rgb, (30, 60, 90, 120), 20, 20)
    np.testing.assert_array_equal(part, slides.resample(rgb[60:, 30:90], (0, 0, 60, 60), 20, 20))
    np.testing.assert_array_equal(slides.resample(rgb, (0, 0, 180, 120), 120, 180), rgb)


@pytest.mark.parametrize("steps", [(), (4,), (2, 8)])
def test_reduced_shows_the_slide_at_the_asked_scale(tmp_path, steps, monkeypatch):
    rgb = glass(500, 800)
    rgb[100:300, 400:700] = PINK
    with slides.open_slide(write_slide(tmp_path / "a.svs", rgb, steps=steps)) as slide:
        got = slides.reduced(slide, 10)
        monkeypatch.setattr(slides, "STRIP_BYTES", 4 * 800 * 20)
        assert np.abs(slides.reduced(slide, 10).astype(int) - got).max() <= 2
        assert slides.reduced(slide, 16).shape == (32, 50, 3)
    truth = rgb.reshape(50, 10, 80, 10, 3).mean(axis=(1, 3))
    assert got.shape == (50, 80, 3)
    assert np.abs(got - truth).mean() < 1.5
    assert np.abs(got[12:28, 42:68] - np.array(PINK)).max() < 12


def test_best_level_is_never_much_coarser():
    slide = SimpleNamespace(level_downsamples=(1.0, 4.0002, 16.001))
    wanted = {0.5: 0, 2: 0, 3.9: 1, 4: 1, 15: 1, 15.9: 2, 500: 2}
    assert {k: slides.best_level(slide, k) for k in wanted} == wanted


def test_transparent_pixels_are_white():
    rgba = Image.new("RGBA", (4, 2), (200, 0, 0, 255))
    rgba.putpixel((0, 0), (0, 0, 0, 0))
    slide = SimpleNamespace(read_region=lambda *_: rgba)
    rgb = slides.read_rgb(slide, 0, 0, 4, 2)
    assert rgb[0, 0].tolist() == [255, 255, 255]
    assert rgb[1, 1].tolist() == [200, 0, 0]


def test_overview_states_its_own_mpp(tmp_path):
    with slides.open_slide(write_slide(tmp_path / "a.svs", glass(500, 800))) as slide:
        for max_px, shape, factor in ((200, (125, 200, 3), 4), (5000, (500, 800, 3), 1)):
            picture, mpp = slides.overview(slide, MPP, max_px)
            assert picture.shape == shape
            assert mpp == pytest.approx(factor * MPP)


def test_sample_picture_is_the_region_or_the_whole_slide(tmp_path, monkeypatch):
    rgb = textured(400, 600, 3)
    path = write_slide(tmp_path / "a.svs", rgb)
    assert slides.sample_picture(path, {"l0_x": np.nan, "tissue": "liver"}).shape == (267, 400, 3)
    region = {"l0_x": 200, "l0_y": 100, "l0_width": 96, "l0_height": 48}
    picture = slides.sample_picture(path, region)
    with slides.open_slide(path) as slide:
        np.testing.assert_array_equal(picture, slides.read_rgb(slide, 200, 100, 96, 48))
    monkeypatch.setattr(slides, "SAMPLE_PX", 24)
    small = slides.sample_picture(path, region)
    assert small.shape == (12, 24, 3)
    means = picture.reshape(12, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - means).mean() < 6, "the reduced region shows the same place"
