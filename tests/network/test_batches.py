"""Stored tiles to batches: against plain NumPy indexing and PIL's turns."""

import numpy as np
import pytest
import torch
from PIL import Image
from stack_factory import expected_tiles, write_stacks

from lib.network import batches

CPU = torch.device("cpu")


@pytest.fixture
def stacks(tmp_path):
    return write_stacks(tmp_path)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_hold_the_tiles_of_their_rows(stacks, n_workers):
    arrays, tiles_df = stacks
    loader = batches.TileLoader(tiles_df, 4, CPU, shuffle=True, seed=3, n_workers=n_workers)
    orders = []
    for epoch in (1, 2):
        loader.sampler.epoch = epoch
        seen = []
        for batch in loader:
            rows = batch.rows_t.tolist()
            assert batch.tiles_t.dtype == torch.uint8
            assert np.array_equal(batch.tiles_t.numpy(), expected_tiles(arrays, tiles_df, rows))
            assert batch.labels_t.tolist() == tiles_df["label"][rows].tolist()
            seen += rows
        assert sorted(seen) == list(range(len(tiles_df)))
        orders.append(seen)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("n_workers", [0, 3])
def test_batches_stay_as_they_are_while_others_are_read(stacks, n_workers):
    arrays, tiles_df = stacks
    kept = list(batches.TileLoader(tiles_df, 2, CPU, shuffle=True, n_workers=n_workers))
    for batch in kept:
        expected = expected_tiles(arrays, tiles_df, batch.rows_t.tolist())
        assert np.array_equal(batch.tiles_t.numpy(), expected)


def test_an_epoch_can_be_left_early_and_an_error_of_a_reader_is_raised(stacks):
    _, tiles_df = stacks
    loader = batches.TileLoader(tiles_df, 1, CPU, n_workers=2)
    for batch in loader:
        assert batch.rows_t.tolist() == [0]
        break
    file = tiles_df["file"].iloc[-1]
    with open(file, "r+b") as stack:
        stack.truncate(200)
    with pytest.raises(ValueError, match=r"readable tile stack|ends inside tile|is gone"):
        list(loader)


def test_order_depends_on_seed_and_epoch_alone(stacks):
    _, tiles_df = stacks

    def order(seed, epoch, n_workers=0):
        loader = batches.TileLoader(tiles_df, 4, CPU, shuffle=True, seed=seed, n_workers=n_workers)
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
    rows = [row for batch in batches.TileLoader(tiles_df, 7, CPU) for row in batch.rows_t.tolist()]
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
    parts = [batches.EpochOrder(50, 16, shuffle=True, seed=2, ranks=(rank, 3)) for rank in range(3)]
    for rows, *shares in zip(whole, *parts, strict=True):
        assert sorted(rows) == sorted(np.concatenate(shares))


def test_too_many_processes_are_refused():
    with pytest.raises(ValueError, match="4 processes without a tile"):
        batches.EpochOrder(9, 4, shuffle=True, ranks=(0, 4))


def test_labels_are_optional(stacks):
    _, tiles_df = stacks
    batch = next(iter(batches.TileLoader(tiles_df.drop(columns="label"), 4, CPU)))
    assert batch.labels_t.tolist() == [-1] * len(batch.labels_t)


def test_bad_batch_sizes_are_refused_and_workers_chosen(stacks):
    _, tiles_df = stacks
    with pytest.raises(ValueError, match="batch_size"):
        batches.TileLoader(tiles_df, 0, CPU)
    assert batches.TileLoader(tiles_df, 4, CPU).n_workers == 0
    assert 1 <= batches.TileLoader(tiles_df, 4, torch.device("cuda")).n_workers <= 2


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
