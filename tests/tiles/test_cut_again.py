"""Tiles that are not stored: the bytes of a stack, read from the slide again; what is missing is named."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from slide_factory import glass, textured, write_slide

from lib.errors import InputError, MissingInputError
from lib.tiles import cut_all, stored
from lib.tiles.tiling import Tiling

TILING = Tiling(tile_px=64, input_px=32, mask_mpp=4.0)


def make_slides(folder: Path) -> dict[str, Path]:
    """Three slides with tissue, one of them with RGB in its JPEG tiles."""
    paths = {}
    for i, name in enumerate(("a", "b", "c.d")):
        rgb = glass(500, 600)
        rgb[20:480, 30 : 330 + 60 * i] = textured(460, 300 + 60 * i, i)
        paths[name] = write_slide(folder / f"{name}.svs", rgb, photometric="rgb" if name == "b" else "ycbcr")
    return paths


@pytest.fixture
def cut(tmp_path):
    """Cuts the slides with a tiling, all stored and none stored; the slides, and the two tables of tiles."""

    def make(tiling: Tiling = TILING, n_workers: int = 1):
        paths = make_slides(tmp_path)
        samples_df = pd.DataFrame({"sample_id": list(paths), "slide_id": list(paths)})
        found = []
        for name, kept in (("with", None), ("without", ())):
            folder = tmp_path / name
            tiles_df, slides_df = cut_all.cut_slides(
                samples_df, paths, folder, tiling, n_workers, stored=kept
            )
            files = {i: stored.place(folder / f"{i}.npy", paths[i]) for i in paths}
            found.append((stored.with_files(tiles_df, files), slides_df))
        return paths, *found

    return make


@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_the_bytes_are_those_of_the_stack(cut, tmp_path, reader):
    paths, (with_df, slides_df), (without_df, other_slides_df) = cut(replace(TILING, reader=reader))
    assert not list((tmp_path / "without").glob("*.npy"))
    assert len(list((tmp_path / "without").iterdir())) == len(paths), "one file a slide"
    pd.testing.assert_frame_equal(without_df.drop(columns="file"), with_df.drop(columns="file"))
    pd.testing.assert_frame_equal(other_slides_df, slides_df)
    expected = np.concatenate([np.load(tmp_path / f"with/{name}.npy") for name in paths])
    assert len(expected) > 20
    tiles = stored.StoredTiles(without_df)
    assert (tiles.input_px, len(tiles)) == (32, len(expected))
    rows = np.random.default_rng(0).permutation(len(expected))
    np.testing.assert_array_equal(tiles.read(rows), expected[rows])
    for batch_size in (5, 1000):
        batches = list(tiles.batches(rows, batch_size))
        assert max(map(len, batches)) == min(batch_size, len(rows))
        np.testing.assert_array_equal(np.concatenate(batches), expected[rows])
    assert tiles.contents(rows) == stored.StoredTiles(with_df).contents(rows)


def test_some_slides_stored_and_others_not(cut, tmp_path):
    paths, (with_df, _), (without_df, _) = cut()
    mixed_df = pd.concat([with_df[with_df["slide_id"] != "b"], without_df[without_df["slide_id"] == "b"]])
    mixed_df = mixed_df.sample(frac=1, random_state=0)
    stacks = {name: np.load(tmp_path / f"with/{name}.npy") for name in paths}
    expected = [stacks[row.slide_id][row.stack_index] for row in mixed_df.itertuples()]
    np.testing.assert_array_equal(stored.read_tiles(mixed_df), expected)


def test_a_stack_is_made_and_kept_as_asked(cut, tmp_path):
    """What is stored stays and is read; one that is to be stored is cut once more; files of others go."""
    paths, _, _ = cut()
    samples_df = pd.DataFrame({"sample_id": list(paths), "slide_id": list(paths)})
    folder = tmp_path / "without"
    tables_df = pd.concat(pd.read_parquet(folder / f"{i}.parquet") for i in paths)
    cut_all.cut_each(samples_df, paths, folder, TILING, stored={"b"})
    assert [path.name for path in folder.glob("*.npy")] == ["b.npy"]
    assert (folder / "b.npy").read_bytes() == (tmp_path / "with/b.npy").read_bytes()
    again_df = pd.concat(pd.read_parquet(folder / f"{i}.parquet") for i in paths)
    pd.testing.assert_frame_equal(again_df, tables_df)
    before = (folder / "b.npy").stat().st_mtime_ns
    cut_all.cut_each(samples_df, paths, folder, TILING, stored=())
    assert (folder / "b.npy").stat().st_mtime_ns == before, (
        "what is there and right is neither cut nor removed"
    )
    (folder / "b.npy").unlink()
    made = (folder / "b.parquet").stat().st_mtime_ns
    cut_all.cut_each(samples_df, paths, folder, TILING, stored=())
    assert (folder / "b.parquet").stat().st_mtime_ns == made, "a stack that is not wanted may be deleted"
    cut_all.cut_each(samples_df, paths, folder, TILING, stored={"b"})
    cut_all.cut_each(samples_df, paths, folder, replace(TILING, min_tissue=0.9), stored=())
    assert not (folder / "b.npy").exists(), "the stack of another tiling would be read for this one"


def test_a_slide_that_is_gone_is_named_when_its_tiles_are_needed(cut):
    paths, (with_df, _), (without_df, _) = cut()
    os.unlink(paths["b"])
    tiles = stored.StoredTiles(without_df)  # what is measured can be told without the slides
    rows = np.arange(len(without_df))
    assert tiles.contents(rows) == stored.StoredTiles(with_df).contents(rows)
    stored.StoredTiles(with_df).require_slides(rows)
    tiles.require_slides(rows[without_df["slide_id"] != "b"])
    for ask in (tiles.require_slides, tiles.read):
        with pytest.raises(MissingInputError, match=r"of 1 slides are not stored .* gone: b\.svs in .*back"):
            ask(rows)


def test_a_slide_that_changed_is_no_longer_what_was_cut(cut):
    paths, _, (without_df, _) = cut()
    other = glass(500, 600)
    other[20:480, 30:390] = textured(460, 360, 99)
    write_slide(paths["b"], other)
    of_b_df = without_df[without_df["slide_id"] == "b"]
    with pytest.raises(InputError, match=r"b\.svs holds another tile 0 than was cut"):
        stored.read_tiles(of_b_df)
    assert len(stored.read_tiles(without_df[without_df["slide_id"] == "a"]))


def test_a_slide_that_was_never_cut_is_named(tmp_path):
    file = stored.place(tmp_path / "x.npy", tmp_path / "x.svs")
    with pytest.raises(MissingInputError, match=r"x\.parquet .*cut the tiles of this slide first"):
        stored.read_tiles(pd.DataFrame({"file": [file], "stack_index": [0]}))


def test_training_from_slides_is_refused(cut):
    _, (with_df, _), (without_df, _) = cut()
    stored.require_stored(with_df)
    with pytest.raises(InputError, match=r"2 slides to train on are not stored \(first a\)"):
        stored.require_stored(pd.concat([with_df, without_df[without_df["slide_id"] != "b"]]))


def test_where_tiles_are(tmp_path):
    (tmp_path / "a.npy").touch()
    there, not_there = (stored.place(tmp_path / f"{i}.npy", tmp_path / "s/x y.svs") for i in ("a", "b.c"))
    assert stored.files_read(there) == [tmp_path / "a.npy"]
    assert stored.files_read(not_there) == [tmp_path / "b.c.parquet", tmp_path / "s/x y.svs"]
    assert [stored.slide_name(file) for file in (there, not_there)] == ["a", "b.c"]
