"""Timings of networks: that they measure what they say, on a small size; speed itself is not tested here."""

import numpy as np
import pytest
import torch

from lib.benchmarks import networks as bench
from lib.benchmarks import timing
from lib.features import precision_check, quantify

TINY = bench.Size(("vgg16_avg1fc",), ("vgg16_avg1fc",), 32, 3, (2, 4), ("float32",), 12, 1)


@pytest.fixture(scope="module")
def rows():
    return bench.networks_rows(size=TINY)


def test_one_row_for_each_work_and_batch(rows):
    assert len(rows) == 4
    assert all(set(timing.COLUMNS) <= set(row) for row in rows)
    for row in rows:
        assert row["ratio"] == pytest.approx(row["ours_s"] / row["peer_s"])
        assert row["tiles_per_s"] == pytest.approx(1000 / row["ours_s"])
        assert row["n_tiles"] == 12
    works = [
        f"{work}, vgg16_avg1fc, 32 px, batch {n}"
        for work in ("quantification", "training epoch")
        for n in (2, 4)
    ]
    assert all(row["work"].startswith(work) for row, work in zip(rows, works, strict=True))


def test_every_batch_is_worked_on(monkeypatch):
    """Passes are counted, so that a row cannot be fast by leaving work out."""
    passes = []

    def network(architecture, size):
        model = torch.nn.Module.__new__(Counted)
        Counted.__init__(model, architecture, size)
        return model

    class Counted(torch.nn.Module):
        def __init__(self, architecture, size):
            super().__init__()
            torch.manual_seed(0)
            self.inner = plain(architecture, size)

        def forward(self, images_t):
            passes.append((self.training, len(images_t)))
            return self.inner(images_t)

    plain = bench._network
    monkeypatch.setattr(bench, "_network", network)
    bench.training_row(bench.Case("vgg16_avg1fc", 4, "float32", TINY, "cpu"))
    # Three batches of four tiles, by two sides, a warm-up and one repeat of each.
    assert passes == [(True, 4)] * 12


def test_agreement_of_a_device_with_itself_and_of_lower_precision():
    same = bench.agreement_row("vgg16_avg1fc", "float32", TINY, "cpu")
    assert same["ours_s"] == 0
    coarse = bench.agreement_row("vgg16_avg1fc", "bfloat16", TINY, "cpu")
    assert 1e-4 < coarse["ours_s"] < precision_check.TOLERANCE["bfloat16"]
    assert coarse["peer_s"] == precision_check.TOLERANCE["bfloat16"]


def test_agreement_sees_wrong_values(monkeypatch):
    right = quantify._spatial_sum
    calls = []

    def doubled_the_second_time(output_t, axis, p):
        calls.append(1)
        return right(output_t, axis, p) * (2 if len(calls) > 32 else 1)

    monkeypatch.setattr(quantify, "_spatial_sum", doubled_the_second_time)
    assert bench.agreement_row("vgg16_avg1fc", "float32", TINY, "cpu")["ratio"] > 1


def test_stored_tiles_are_what_training_reads(tmp_path):
    tiles_df = bench.stored_tiles(tmp_path, 70, TINY)
    assert len(tiles_df) == 70
    assert tiles_df["file"].nunique() == 2
    assert np.load(tiles_df["file"].iloc[-1]).shape == (6, 32, 32, 3)
    assert set(tiles_df["label"]) == {0, 1, 2}
