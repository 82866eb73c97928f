"""The reader of stored tiles: against plain NumPy indexing, and files that are wrong in each way."""

import zlib

import numpy as np
import pandas as pd
import pytest
from stack_factory import PX, expected_tiles, write_stacks

from lib.errors import DamagedFileError
from lib.tiles import stack_files, stored


@pytest.fixture
def stacks(tmp_path):
    """Three stacks of random tiles, and the frame of all their tiles in a scrambled order."""
    return write_stacks(tmp_path)


def test_rows_come_in_the_order_asked_for(stacks):
    arrays, tiles_df = stacks
    tiles = stored.StoredTiles(tiles_df)
    assert (len(tiles), tiles.input_px) == (31, PX)
    rows = np.random.default_rng(2).permutation(31)[:20]
    pixels = tiles.read(rows)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected_tiles(arrays, tiles_df, rows))
    assert tiles.read(rows[:0]).shape == (0, PX, PX, 3)
    np.testing.assert_array_equal(
        stored.read_tiles(tiles_df.iloc[5:9]), expected_tiles(arrays, tiles_df, range(5, 9))
    )


@pytest.mark.parametrize("batch_size", [1, 7, 20, 50])
def test_batches_are_the_rows_cut_in_pieces(stacks, batch_size):
    _, tiles_df = stacks
    tiles = stored.StoredTiles(tiles_df)
    rows = np.random.default_rng(3).permutation(31)[:20]
    batches = list(tiles.batches(rows, batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate(batches), tiles.read(rows))


def test_missing_stack_is_named(stacks):
    _, tiles_df = stacks
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy does not exist"):
        stored.StoredTiles(tiles_df.assign(file="nowhere.npy"))


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((3, PX, PX, 3), np.float32), "float32"),
        (np.zeros((3, PX, PX), np.uint8), "shape"),
        (np.zeros((3, PX, PX + 1, 3), np.uint8), "shape"),
        (np.asfortranarray(np.zeros((3, PX, PX, 3), np.uint8)), "Fortran"),
        (np.zeros((3, PX + 4, PX + 4, 3), np.uint8), f"tiles of {PX + 4} px"),
    ],
)
def test_wrong_stacks_are_refused(stacks, tmp_path, array, text):
    _, tiles_df = stacks
    np.save(tmp_path / "wrong.npy", array)
    wrong_df = pd.DataFrame({"file": [str(tmp_path / "wrong.npy")], "stack_index": [0]})
    with pytest.raises(ValueError, match=text):
        stored.StoredTiles(pd.concat([tiles_df, wrong_df]))


def test_files_that_are_not_arrays_or_truncated_are_refused(tmp_path):
    (tmp_path / "text.npy").write_text("not an array at all, but some text of a length")
    np.save(tmp_path / "short.npy", np.zeros((3, PX, PX, 3), np.uint8))
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-10])
    for name in ("text", "short"):
        with pytest.raises(ValueError, match=rf"{name}\.npy is not a readable"):
            stored.read_tiles(pd.DataFrame({"file": [tmp_path / f"{name}.npy"], "stack_index": [0]}))


def test_stack_truncated_after_opening_is_an_error(stacks):
    _, tiles_df = stacks
    tiles = stored.StoredTiles(tiles_df)
    with open(tiles_df["file"][0], "r+b") as stack:
        stack.truncate(200)
    with pytest.raises(ValueError, match="ends inside tile"):
        tiles.read(np.arange(len(tiles_df)))


@pytest.mark.parametrize("index", [-1, 5])
def test_index_outside_its_stack_is_refused(stacks, index):
    _, tiles_df = stacks
    file = next(iter(tiles_df["file"][tiles_df["label"] == 0]))
    wrong_df = pd.DataFrame({"file": [file], "stack_index": [index]})
    with pytest.raises(ValueError, match=f"stack_index {index} in row 31 is outside .* holds 5 tiles"):
        stored.StoredTiles(pd.concat([tiles_df, wrong_df], ignore_index=True))


def test_no_tiles_are_refused(stacks):
    with pytest.raises(ValueError, match="no tiles"):
        stored.StoredTiles(stacks[1].iloc[:0])


@pytest.fixture
def tables():
    tiles_df = pd.DataFrame(
        {"tile_id": ["a_0_0", "b_0_0", "a_0_1"], "sample_id": ["a", "b", "a"], "slide_id": ["s", "t", "s"]}
    ).assign(stack_index=[0, 0, 1], column=0, row=0)
    samples_df = pd.DataFrame({"sample_id": ["b", "a"], "donor": ["d2", "d1"], "tissue": ["Lung", "Liver"]})
    return tiles_df, samples_df.assign(split=["test", "train"])


def test_labelled_tiles(tables):
    frame = stored.labelled_tiles(*tables, {"s": "s.npy", "t": "t.npy"}, ["Colon", "Liver"])
    assert frame["file"].tolist() == ["s.npy", "t.npy", "s.npy"]
    assert frame["label"].tolist() == [1, -1, 1]
    assert frame["donor"].tolist() == ["d1", "d2", "d1"]
    assert frame["split"].tolist() == ["train", "test", "train"]
    assert frame["tile_id"].tolist() == tables[0]["tile_id"].tolist()


def test_labelled_tiles_names_what_does_not_join(tables):
    tiles_df, samples_df = tables
    with pytest.raises(ValueError, match=r"1 slides .*\['t'\]"):
        stored.labelled_tiles(tiles_df, samples_df, {"s": "s.npy"}, ["Liver"])
    with pytest.raises(ValueError, match=r"1 samples .*\['b'\]"):
        stored.labelled_tiles(tiles_df, samples_df.iloc[1:], {"s": "s.npy", "t": "t.npy"}, ["Liver"])
    with pytest.raises(ValueError, match="not unique"):
        stored.labelled_tiles(tiles_df, pd.concat([samples_df] * 2), {"s": "s.npy", "t": "t.npy"}, ["Liver"])


def test_a_flipped_bit_of_a_stack_is_noticed_and_the_stack_removed(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "s.npy"
    pixels = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.save(path, pixels)
    with path.open("ab") as file:
        file.write(stack_files.checksum_block([zlib.crc32(tile.tobytes()) for tile in pixels]))
    content = path.read_bytes()
    assert np.array_equal(np.load(path), pixels), "NumPy reads the stack as before"
    tiles_df = pd.DataFrame({"file": str(path), "stack_index": [0, 1, 2]})
    assert np.array_equal(stored.StoredTiles(tiles_df).read(np.arange(3)), pixels)
    start = len(content) - pixels.nbytes - len(stack_files.checksum_block([0] * 3))
    for byte in rng.integers(start, start + pixels.nbytes, 60):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << int(byte) % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match="it was removed; run notebook 01"):
            stored.StoredTiles(tiles_df).read(np.arange(3))
        assert not path.exists()
