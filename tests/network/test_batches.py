"""Stored tiles to batches: against plain numpy indexing, PIL's turns, and files wrong in each way."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib.network import batches
from lib.tiles import stored

PX = 12


@pytest.fixture
def stacks(tmp_path):
    """Three stacks of random tiles and the frame of all their tiles in a scrambled order."""
    rng = np.random.default_rng(0)
    arrays, rows = {}, []
    for number, n_tiles in enumerate((5, 17, 9)):
        file = str(tmp_path / f"slide_{number}.npy")
        arrays[file] = rng.integers(0, 256, (n_tiles, PX, PX, 3), dtype=np.uint8)
        np.save(file, arrays[file])
        rows += [(file, index, number) for index in range(n_tiles)]
    tiles_df = pd.DataFrame(rows, columns=["file", "stack_index", "label"])
    return arrays, tiles_df.sample(frac=1, random_state=1).reset_index(drop=True)


def expected(arrays, tiles_df, rows):
    return np.stack([arrays[tiles_df["file"][row]][tiles_df["stack_index"][row]] for row in rows])


@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_hold_the_tiles_of_their_rows(stacks, n_workers):
    arrays, tiles_df = stacks
    loader = batches.tile_loader(tiles_df, 4, shuffle=True, seed=3, n_workers=n_workers)
    orders = []
    for epoch in (1, 2):
        loader.sampler.epoch = epoch
        seen = []
        for batch in loader:
            rows = batch.rows_t.tolist()
            assert batch.tiles_t.dtype == torch.uint8
            assert np.array_equal(batch.tiles_t.numpy(), expected(arrays, tiles_df, rows))
            assert batch.labels_t.tolist() == tiles_df["label"][rows].tolist()
            seen += rows
        assert sorted(seen) == list(range(len(tiles_df)))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_order_depends_on_seed_and_epoch_alone(stacks):
    _, tiles_df = stacks

    def order(seed, epoch, n_workers=0):
        loader = batches.tile_loader(tiles_df, 4, shuffle=True, seed=seed, n_workers=n_workers)
        loader.sampler.epoch = epoch
        torch.rand(7)  # the global generator is neither used nor moved
        state = torch.get_rng_state()
        rows = [row for batch in loader for row in batch.rows_t.tolist()]
        assert torch.equal(state, torch.get_rng_state())
        return rows

    assert order(0, 5) == order(0, 5) == order(0, 5, n_workers=2)
    assert order(0, 5) != order(1, 5)
    assert order(0, 5) != order(0, 6)


def test_unshuffled_batches_follow_the_frame(stacks):
    _, tiles_df = stacks
    rows = [row for batch in batches.tile_loader(tiles_df, 7) for row in batch.rows_t.tolist()]
    assert rows == list(range(len(tiles_df)))


@pytest.mark.parametrize(("n_rows", "batch_size"), [(41, 40), (80, 40), (1, 40), (7, 3), (1000, 33)])
def test_batch_sizes_are_even_and_within_the_limit(n_rows, batch_size):
    order = batches.EpochOrder(n_rows, batch_size, shuffle=True)
    sizes = [len(rows) for rows in order]
    assert sizes == order.sizes()
    assert len(sizes) == len(order) == int(np.ceil(n_rows / batch_size))
    assert sum(sizes) == n_rows
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_ranks_divide_each_batch():
    whole = batches.EpochOrder(50, 16, shuffle=True, seed=2)
    parts = [batches.EpochOrder(50, 16, shuffle=True, seed=2, rank=rank, n_ranks=3) for rank in range(3)]
    for rows, *shares in zip(whole, *parts, strict=True):
        assert sorted(rows) == sorted(np.concatenate(shares))


def test_too_many_processes_are_refused():
    with pytest.raises(ValueError, match="4 processes without a tile"):
        batches.EpochOrder(9, 4, shuffle=True, n_ranks=4)


def test_labels_are_optional(stacks):
    _, tiles_df = stacks
    batch = next(iter(batches.tile_loader(tiles_df.drop(columns="label"), 4)))
    assert batch.labels_t.tolist() == [-1] * len(batch.labels_t)


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
    wrong = pd.DataFrame({"file": [str(tmp_path / "wrong.npy")], "stack_index": [0], "label": [0]})
    with pytest.raises(ValueError, match=text):
        stored.StoredTiles(pd.concat([tiles_df, wrong]))


def test_files_that_are_no_arrays_or_cut_short_are_refused(tmp_path):
    (tmp_path / "text.npy").write_text("not an array at all, but some text of a length")
    np.save(tmp_path / "short.npy", np.zeros((3, PX, PX, 3), np.uint8))
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-10])
    for name in ("text", "short"):
        frame = pd.DataFrame({"file": [str(tmp_path / f"{name}.npy")], "stack_index": [0], "label": [0]})
        with pytest.raises(ValueError, match=rf"{name}\.npy is no readable"):
            stored.StoredTiles(frame)


def test_stack_shortened_after_opening_is_an_error(stacks):
    _, tiles_df = stacks
    dataset = stored.StoredTiles(tiles_df)
    file = tiles_df["file"][0]
    with open(file, "r+b") as stack:
        stack.truncate(200)
    with pytest.raises(ValueError, match="ends inside tile"):
        dataset.read(np.arange(len(tiles_df)))


@pytest.mark.parametrize("index", [-1, 5])
def test_index_outside_its_stack_is_refused(stacks, index):
    _, tiles_df = stacks
    file = next(iter(tiles_df["file"][tiles_df["label"] == 0]))
    wrong = pd.DataFrame({"file": [file], "stack_index": [index], "label": [0]})
    with pytest.raises(ValueError, match=f"stack_index {index} in row 31 is outside .* holds 5 tiles"):
        stored.StoredTiles(pd.concat([tiles_df, wrong], ignore_index=True))


def test_no_tiles_and_bad_sizes_are_refused(stacks):
    _, tiles_df = stacks
    with pytest.raises(ValueError, match="no tiles"):
        stored.StoredTiles(tiles_df.iloc[:0])
    with pytest.raises(ValueError, match="batch_size"):
        batches.tile_loader(tiles_df, 0)
    with pytest.raises(ValueError, match="n_workers"):
        batches.tile_loader(tiles_df, 4, n_workers=-1)


def test_orient_equals_pillow(stacks):
    arrays, _ = stacks
    tile = next(iter(arrays.values()))[0]
    turned = batches.orient(torch.from_numpy(np.stack([tile] * 8)), np.arange(8)).numpy()
    for code in range(8):
        image = Image.fromarray(tile)
        image = image.rotate(90 * (code % 4))
        if code >= 4:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert np.array_equal(turned[code], np.asarray(image)), code
    assert len({view.tobytes() for view in turned}) == 8


@pytest.mark.parametrize(
    ("augment", "codes"),
    [
        *(((), {0}), (("flip",), {0, 2, 4, 6}), (("rotate90",), {0, 1, 2, 3})),
        (("rotate90", "flip"), set(range(8))),
    ],
)
def test_orientations_cover_their_group_evenly(augment, codes):
    drawn = batches.orientations(8000, augment, seed=1, epoch=2)
    assert set(drawn.tolist()) == codes
    counts = np.bincount(drawn, minlength=8)[sorted(codes)]
    assert counts.min() > 0.85 * 8000 / len(codes)
    assert np.array_equal(drawn, batches.orientations(8000, augment, seed=1, epoch=2))
    assert augment == () or not np.array_equal(drawn, batches.orientations(8000, augment, seed=1, epoch=3))


def test_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match=r"unknown augmentation \['colour'\]"):
        batches.orientations(4, ("flip", "colour"), 0, 0)


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
    with pytest.raises(ValueError, match="twice"):
        stored.labelled_tiles(tiles_df, pd.concat([samples_df, samples_df]), {}, ["Liver"])
