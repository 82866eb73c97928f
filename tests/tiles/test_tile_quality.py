"""Ink, folds and blur on drawn truth and on real slides; what counts, and what is left out."""

import numpy as np
import pandas as pd
import pytest
from real_data import MIRROR
from scipy import ndimage
from slide_factory import write_slide

from lib.cohort import summary
from lib.errors import InputError
from lib.simulated import slides as drawn
from lib.simulated.tissues import TISSUES
from lib.tiles import cut, slide_artefacts, slides, stored, tile_quality, tissue_mask
from lib.tiles.tile_quality import Limits
from lib.tiles.tiling import Tiling

real = pytest.mark.skipif(not (MIRROR / "slides").is_dir(), reason="needs the real slides (DATA_MIRROR)")
INKS = drawn.INK | {"purple": (0.85, 1.85, 0.6), "yellow": (0.12, 0.33, 1.3), "red": (0.12, 2.0, 1.7)}
MASK_MPP, TILE_PX = 8.0, 128


def reduced(image, factor):
    """Means over blocks, uint8."""
    n = int(factor)
    height, width = image.shape[0] // n * n, image.shape[1] // n * n
    blocks = image[:height, :width].reshape(height // n, n, width // n, n, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def spec(tissue, seed, **look):
    rng = np.random.default_rng(seed)
    quantities = {name: float(rng.normal()) for name in drawn.QUANTITIES}
    size = {"size_um": 640.0, "coverage": 0.8}
    return drawn.SlideSpec(tissue=tissue, quantities=quantities, **(size | look))


def shares(mask, edge):
    """Mean of a mask in each square of this edge."""
    rows, columns = mask.shape[0] // edge, mask.shape[1] // edge
    return mask[: rows * edge, : columns * edge].reshape(rows, edge, columns, edge).mean((1, 3)).ravel()


@pytest.mark.parametrize("ink", INKS)
def test_ink_of_every_colour_is_found_on_tissue_and_glass(ink, monkeypatch):
    """Targets: precision and recall of tiles of at least 0.95; truth is the difference to the same slide."""
    monkeypatch.setattr(drawn, "INK", INKS)
    found, truth = [], []
    for k, tissue in enumerate(TISSUES):
        for seed in (k, 50 + k):
            pair = [drawn.draw(spec(tissue, seed, pen=pen), np.random.default_rng(seed)) for pen in (ink, "")]
            difference = np.abs(pair[0].astype(int) - pair[1]).max(axis=2) > 40
            factor = round(MASK_MPP / drawn.MPP)
            mask = slide_artefacts.ink_mask(reduced(pair[0], factor), MASK_MPP)
            found.append(shares(mask, 16) > Limits().max_pen)
            truth.append(shares(difference, 16 * factor)[: len(found[-1])])
    found, truth = np.concatenate(found), np.concatenate(truth)
    inked, clean = truth > 0.1, truth < 0.01
    assert inked.sum() > 50
    assert (found & inked).sum() / inked.sum() >= 0.95
    assert (found & inked).sum() / max(1, (found & (inked | clean)).sum()) >= 0.95


def tiles_of(image, px=TILE_PX):
    """Squares that are mostly tissue."""
    for top in range(0, image.shape[0] - px + 1, px):
        for left in range(0, image.shape[1] - px + 1, px):
            tile = image[top : top + px, left : left + px]
            if (tile.min(axis=2) < 220).mean() > 0.5:
                yield tile


def test_blur_is_found_in_every_tissue():
    sharp, blurred = [], []
    for k, tissue in enumerate(TISSUES):
        for seed in (k, 20 + k):
            for blur, values in ((False, sharp), (True, blurred)):
                image = drawn.draw(spec(tissue, seed, blur=blur), np.random.default_rng(seed))
                values += [tile_quality.focus(tile) for tile in tiles_of(reduced(image, 2))]
    sharp, blurred = np.array(sharp), np.array(blurred)
    limit = Limits().min_focus
    assert min(len(sharp), len(blurred)) > 200
    assert (blurred < limit).mean() >= 0.95
    assert (sharp < limit).mean() <= 0.01
    found = (blurred < limit).sum() + (sharp < limit).sum()
    assert (blurred < limit).sum() / found >= 0.95


def test_focus_does_not_depend_on_contrast_and_falls_with_blur():
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=(128, 128)), 1)
    texture = 128 + 40 * texture / texture.std()
    tile = np.repeat(np.clip(texture, 0, 255)[..., None], 3, axis=2)
    faint = (tile - 128) / 4 + 128
    values = [tile_quality.focus(t.astype(np.uint8)) for t in (tile, faint)]
    assert values[0] == pytest.approx(values[1], rel=0.1)
    by_blur = [
        tile_quality.focus(ndimage.gaussian_filter(tile, (s, s, 0)).astype(np.uint8)) for s in (0, 1, 2)
    ]
    assert by_blur[0] > 1.5 * by_blur[1] > 2 * by_blur[2]
    assert np.isnan(tile_quality.focus(np.zeros((8, 8, 3), np.uint8)))
    assert tile_quality.focus(np.full((32, 32, 3), 200, np.uint8)) == 1.0


def test_a_fold_is_found_and_crowded_nuclei_are_not():
    image = reduced(drawn.draw(spec("Liver", 3), np.random.default_rng(3)), round(MASK_MPP / drawn.MPP))
    tissue = tissue_mask.tissue_mask(image, MASK_MPP)
    assert not slide_artefacts.fold_mask(image, MASK_MPP, tissue).any()
    folded = image.copy()
    strip = (slice(20, 32), slice(16, 64))
    folded[strip] = (image[strip].astype(float) ** 2 / 244).astype(np.uint8)  # the light that passes twice
    found = slide_artefacts.fold_mask(folded, MASK_MPP, tissue_mask.tissue_mask(folded, MASK_MPP))
    assert found[22:30, 20:60].mean() > 0.7  # its faintest parts are no darker than liver is elsewhere
    assert found.sum() < 1.3 * 12 * 48
    nuclei = image.copy()  # more haematoxylin alone
    nuclei[strip] = (image[strip] * np.exp(-0.5 * drawn.HAEMATOXYLIN)).astype(np.uint8)
    found = slide_artefacts.fold_mask(nuclei, MASK_MPP, tissue_mask.tissue_mask(nuclei, MASK_MPP))
    assert not found.any()


def test_stains_follow_what_was_drawn():
    height = np.ones((64, 64, 1), np.float32)
    amounts = [(0.4, 0.2), (0.8, 0.2), (0.4, 0.5)]
    images = [
        (drawn.GLASS * np.exp(-h * height * drawn.HAEMATOXYLIN - e * height * drawn.EOSIN)).astype(np.uint8)
        for h, e in amounts
    ]
    measured = np.array([tile_quality.stains(image) for image in images])
    assert measured[1, 0] > 1.7 * measured[0, 0]
    assert measured[2, 1] > 1.7 * measured[0, 1]


@real
@pytest.mark.parametrize("input_px", [112, 224])
def test_a_real_slide_has_at_most_one_tile_in_a_hundred_flagged(input_px, tmp_path):
    path = MIRROR / "slides/cmu-1-small-region.svs"
    samples_df = pd.DataFrame({"sample_id": ["a"], "slide_id": ["a"]})
    tiling = Tiling(tile_px=input_px, tile_mpp=1.0, input_px=input_px)
    tiles_df = cut.cut_slide(path, samples_df, tmp_path / "a.npy", tiling).tiles_df
    flagged_df = tile_quality.judged(tiles_df, Limits())
    assert len(flagged_df) >= 10
    assert (flagged_df["flag"] != "").mean() <= 0.01
    assert flagged_df["haematoxylin"].between(0.01, 0.2).all()


@real
@pytest.mark.parametrize("section", ["B/B4/BT10737_D2_HE.jpg", "C/C4/5714_HE_BT_D2.jpg"])
def test_real_sections_have_at_most_one_tile_in_a_hundred_flagged(section, tmp_path):
    flagged_df, tiles = judged_section(section, tmp_path)
    clean = flat_share(tiles) < 0.3  # eosin has bled beside both sections
    assert clean.sum() >= 200
    assert (flagged_df["flag"] != "")[clean].mean() <= 0.01
    assert set(flagged_df["flag"][~clean]) <= {"", "bleed"}


def judged_section(section, folder):
    """A section of her2st cut and judged: its tiles table, and the tiles."""
    samples_df = pd.DataFrame({"sample_id": ["a"], "slide_id": ["a"], "mpp": [0.69]})
    tiling = Tiling(tile_px=224, tile_mpp=0.69, input_px=128, min_tissue=0.5)
    path = MIRROR / "her2st/data/ST-imgs" / section
    tiles_df = cut.cut_slide(path, samples_df, folder / "a.npy", tiling).tiles_df
    return tile_quality.judged(tiles_df, Limits()), np.load(folder / "a.npy")


def flat_share(tiles, edge=16):
    """Share of each tile in squares without any structure: the green channel's sd is below 5."""
    n = tiles.shape[1] // edge
    squares = tiles[..., 1].astype(float).reshape(len(tiles), n, edge, n, edge)
    return (squares.std(axis=(2, 4)) < 5).mean(axis=(1, 2))


def measured(n=20, **changed):
    values = {
        "focus": 0.2,
        "pen": 0.0,
        "fold": 0.0,
        "bleed": 0.0,
        "haematoxylin": 0.1,
        "eosin": 0.05,
        "nuclear_density": 2000.0,
        "tissue_fraction": 1.0,
    }
    frame = pd.DataFrame({"tile_id": [f"t{i}" for i in range(n)]})
    frame["sample_id"] = ["b" if i >= 16 else "a" for i in range(n)]
    frame = frame.assign(**values)
    for name, of in changed.items():
        frame.loc[list(of), name] = list(of.values())
    return frame


def test_what_is_measured_on_tiles_may_be_a_covariate():
    assert ("n_tiles", *tile_quality.SAMPLE_MEASURES) == summary.OF_TILES


def test_a_tile_is_left_out_for_the_first_reason():
    pen, fold, bleed = {0: 0.2, 1: 0.2}, {1: 0.9, 2: 0.9}, {2: 0.9, 5: 0.9}
    tiles_df = measured(pen=pen, fold=fold, bleed=bleed, focus={2: 0.01, 3: 0.01, 4: np.nan, 5: 0.01, 6: 0.2})
    judged_df = tile_quality.judged(tiles_df, Limits())
    assert judged_df["flag"].tolist()[:7] == ["pen", "pen", "fold", "blur", "", "bleed", ""]
    assert judged_df["dropped_for"].equals(judged_df["flag"])
    some_df = tile_quality.judged(tiles_df, Limits(), drop=["pen"])
    assert some_df["dropped_for"].tolist()[:5] == ["pen", "pen", "", "", ""]
    assert len(tile_quality.kept(some_df)) == 18
    assert len(tile_quality.kept(some_df, dropped=None)) == 20
    table_df = tile_quality.counts(some_df).set_index("flag")
    assert table_df["tiles"].to_dict() == {"none": 15, "pen": 2, "fold": 1, "bleed": 1, "blur": 1}
    assert table_df["dropped"].sum() == 2
    assert table_df["share"].sum() == pytest.approx(1)


def test_a_cohort_that_is_soft_throughout_keeps_its_tiles():
    soft_df = measured(focus=dict.fromkeys(range(20), 0.09))
    assert (tile_quality.judged(soft_df, Limits())["flag"] == "").all()
    worse_df = measured(focus=dict.fromkeys(range(20), 0.09) | {0: 0.02})
    assert (tile_quality.judged(worse_df, Limits())["flag"] == "blur").sum() == 1


def test_what_cannot_be_judged_is_said():
    with pytest.raises(InputError, match=r"every tile would be dropped \(20 for pen\).*max_pen"):
        tile_quality.judged(measured(pen=dict.fromkeys(range(20), 0.5)), Limits())
    with pytest.raises(InputError, match="drop_tiles takes pen, fold, bleed, blur, not 'dust'"):
        tile_quality.judged(measured(), Limits(), drop=["dust"])
    assert len(tile_quality.judged(measured(0), Limits())) == 0


def test_means_of_samples_leave_dropped_tiles_out():
    tiles_df = measured(pen={0: 0.9}, eosin={0: 9.0, 16: 0.25})
    of_df = tile_quality.of_samples(tile_quality.judged(tiles_df, Limits()))
    assert of_df.loc["a", "eosin"] == pytest.approx(0.05)
    assert of_df.loc["b", "eosin"] == pytest.approx(0.1)
    assert of_df["n_dropped"].to_dict() == {"a": 1, "b": 0}


def test_no_pixel_of_a_dropped_tile_is_read(tmp_path):
    image = drawn.draw(spec("Liver", 5, pen="blue"), np.random.default_rng(5))
    path = write_slide(tmp_path / "s.svs", image, mpp=drawn.MPP)
    samples_df = pd.DataFrame({"sample_id": ["s"], "slide_id": ["s"]})
    tiling = Tiling(tile_px=128, tile_mpp=1.0, input_px=64, min_tissue=0.3)
    tiles_df = cut.cut_slide(path, samples_df, tmp_path / "s.npy", tiling).tiles_df
    judged_df = tile_quality.judged(tiles_df, Limits())
    n_pen = int((judged_df["dropped_for"] == "pen").sum())
    assert 0 < n_pen < len(judged_df)
    files = {"s": tmp_path / "s.npy"}
    assert len(stored.with_files(judged_df, files)) == len(judged_df) - n_pen
    assert len(stored.with_files(judged_df, files, dropped=True)) == n_pen
    known_df = samples_df.assign(donor="d", tissue="Liver", split="test")
    labelled_df = stored.labelled_tiles(judged_df, known_df, files, ["Liver"])
    assert set(labelled_df["tile_id"]) == set(judged_df.loc[judged_df["dropped_for"] == "", "tile_id"])
    assert slides.slide_mpp(slides.open_slide(path)).mpp == pytest.approx(drawn.MPP, rel=0.01)
