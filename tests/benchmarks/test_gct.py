"""The benchmark of reading a GCT, at a tiny size: complete rows, and readers that read the same numbers."""

import sys

import numpy as np
import pytest

from lib.benchmarks import gct
from lib.benchmarks.timing import COLUMNS


def test_rows():
    rows = gct.gct_rows(quick=True)
    assert all(list(row) == COLUMNS for row in rows)
    assert len(rows) == 8 + (sys.platform == "linux")
    assert all(row["ours_s"] > 0 and row["peer_s"] > 0 for row in rows)
    assert "pyarrow" in rows[0]["versions"]


@pytest.mark.parametrize("wanted", [slice(None), slice(None, None, 3)])
def test_all_readers_read_the_same(tmp_path, wanted):
    path = tmp_path / "x.gct"
    ids = gct.write_gct(path, 50, 12)[wanted]
    expression_df, _ = gct.reader("ours", path, ids)()
    assert (expression_df.to_numpy() > 0).mean() > 0.3
    for table in (gct.reader("pandas", path, ids)(), gct.reader("pyarrow", path, ids)().to_pandas()):
        np.testing.assert_array_equal(expression_df.to_numpy(), table[ids].to_numpy(np.float32))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_reading_takes_the_memory_of_the_wanted_samples(tmp_path):
    """Not of the file, which would be 0.2 GB of float32."""
    ids = gct.write_gct(tmp_path / "x.gct", 20_000, 2_500)
    frame_gb = 20_000 * 1_500 * 4 / 1e9
    assert 0.9 * frame_gb < gct.peak_gb("ours", tmp_path / "x.gct", ids[:1_500]) < frame_gb + 0.4
