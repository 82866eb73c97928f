"""The timing of GCT reading, in a tiny size: the rows are whole, and what is timed reads the same numbers."""

import sys

import numpy as np
import pytest

from lib.benchmarks import gct
from lib.benchmarks.timing import COLUMNS


def test_rows():
    rows = gct.gct_rows(quick=True)
    assert all(list(row) == COLUMNS for row in rows)
    assert len(rows) == 12 + 2 * sys.platform.startswith("linux")
    assert all(row["ours_s"] > 0 and row["peer_s"] > 0 for row in rows)
    assert "isal" in rows[0]["versions"]


@pytest.mark.parametrize("wanted", [slice(None), slice(None, None, 3)])
def test_all_ways_read_the_same(tmp_path, wanted):
    path = tmp_path / "x.gct"
    ids = gct.write_gct(path, 50, 12)[wanted]
    frame_df, _ = gct._call("frame", path, ids)()
    assert (frame_df.to_numpy() > 0).mean() > 0.3
    for what in ("pandas", "pyarrow"):
        table = gct._call(what, path, ids)()
        table = table if what == "pandas" else table.to_pandas()
        np.testing.assert_array_equal(frame_df.to_numpy(), table[ids].to_numpy(np.float32))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
def test_peak_sees_a_large_frame(tmp_path):
    ids = gct.write_gct(tmp_path / "x.gct", 20_000, 300)
    assert gct.peak_gb("frame", tmp_path / "x.gct", ids) > 0.9 * 20_000 * 300 * 4 / 1e9
