"""Timing of tiles: that it measures what it says; speed is not tested here."""

import re

import pytest

from lib.benchmarks import tiles as benchmark_tiles
from lib.benchmarks import timing
from lib.tiles import cut


def test_row_of_tiles_counts_what_was_cut(monkeypatch):
    cut_slide, readers = cut.cut_slide, []

    def counted(*args, **kwargs):
        result = cut_slide(*args, **kwargs)
        readers.append((result.reader, len(result.tiles_df)))
        return result

    monkeypatch.setattr(cut, "cut_slide", counted)
    (row,) = benchmark_tiles.tiles_rows(quick=True)
    assert set(row) == set(timing.COLUMNS)
    n_tiles = int(re.search(r"timed on (\d+)", row["work"])[1])
    assert n_tiles > 0
    assert {n for _, n in readers} == {n_tiles}
    assert {name.split()[0] for name, _ in readers} == {"jpeg", "openslide"}, readers
    assert row["ratio"] == pytest.approx(row["ours_s"] / row["peer_s"])
