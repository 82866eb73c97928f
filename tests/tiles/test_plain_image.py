"""Plain images as slides: the tiles are the means of their pixels; what cannot be read is said."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from slide_factory import textured

from lib.tiles import plain_image, slides
from lib.tiles.cut_all import cut_slides
from lib.tiles.slides import SlideError
from lib.tiles.tiling import Tiling

TILING = Tiling(tile_px=64, tile_mpp=1.0, input_px=64, min_tissue=0.5, mask_mpp=8.0, reader="auto")
PIXELS = textured(384, 512, seed=0)


def tiles_of(folder, name, mpp=np.nan):
    frame = pd.DataFrame({"sample_id": ["s"], "slide_id": ["s"], "mpp": [mpp]})
    tiles_df, slides_df = cut_slides(frame, {"s": folder / name}, folder / f"stacks_{name}", TILING)
    assert slides_df["state"].tolist() == ["ok"]
    return tiles_df, np.load(folder / f"stacks_{name}/s.npy")


def test_every_kind_of_image_gives_the_same_tiles(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=97, subsampling=0)
    tifffile.imwrite(tmp_path / "strips.tif", PIXELS, photometric="rgb", rowsperstrip=16)
    grey = np.repeat(PIXELS[..., :1], 3, axis=2)
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    tiles_df, expected = tiles_of(tmp_path, "a.png", 0.5)
    for row in tiles_df.itertuples():
        block = PIXELS[row.l0_y : row.l0_y + 128, row.l0_x : row.l0_x + 128].astype(float)
        mean = block.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(expected[row.stack_index] - mean).max() <= 0.5
    assert np.array_equal(tiles_of(tmp_path, "strips.tif", 0.5)[1], expected)
    assert np.abs(tiles_of(tmp_path, "a.jpg", 0.5)[1].astype(int) - expected).mean() < 2
    with slides.open_slide(tmp_path / "grey.png") as slide:
        assert np.array_equal(slides.read_rgb(slide, 0, 0, 512, 384), grey)


def test_resolution_from_ome_xml_and_from_pixels_per_centimetre(tmp_path):
    xml = '<?xml version="1.0"?><OME><Image><Pixels PhysicalSizeX="500" PhysicalSizeXUnit="nm"'
    xml += ' PhysicalSizeY="0.5" SizeX="512"/></Image></OME>'
    plain = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "o.ome.tif", PIXELS, description=xml, rowsperstrip=16, **plain)
    tifffile.imwrite(tmp_path / "t.ome.tif", PIXELS, description=xml, tile=(128, 128), **plain)
    per_cm = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "c.tif", PIXELS, rowsperstrip=16, **per_cm, **plain)
    for name in ("o.ome.tif", "t.ome.tif", "c.tif"):
        with slides.open_slide(tmp_path / name) as slide:
            assert slides.slide_mpp(slide).mpp == pytest.approx(0.5), name
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", dpi=(72, 72))
    with slides.open_slide(tmp_path / "a.jpg") as slide, pytest.raises(SlideError, match="column mpp"):
        slides.slide_mpp(slide)


def test_what_is_no_slide_is_said(tmp_path, monkeypatch):
    turned = Image.fromarray(PIXELS)
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(PIXELS[..., 0].astype(np.int32)).save(tmp_path / "deep.tif")
    Image.fromarray(PIXELS).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no picture")
    said = {"turned.jpg": "turned or mirrored", "deep.tif": "8 bits a channel", "cut.jpg": "truncated"}
    for name, words in (said | {"text.png": "no image that Pillow reads"}).items():
        with pytest.raises(SlideError, match=words):
            slides.open_slide(tmp_path / name)
    monkeypatch.setattr(plain_image, "MAX_PIXELS", 1000)
    Image.fromarray(PIXELS).save(tmp_path / "large.png")
    with pytest.raises(SlideError, match=r"512 x 384 px is too large .*vips tiffsave"):
        slides.open_slide(tmp_path / "large.png")
