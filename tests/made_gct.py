"""Small GCT files written by the tests, and the folder of GTEx's real ones."""

import gzip

import pytest
from real_data import MIRROR

GTEX = MIRROR / "gtex"
needs_gtex = pytest.mark.skipif(not GTEX.exists(), reason=f"no GTEx files in {GTEX}")


def make_gct(tmp_path, rows, samples=("a", "b"), size=None, head="#1.2", name="x.gct", newline="\n"):
    size = size or (len(rows), len(samples))
    lines = [head, f"{size[0]}\t{size[1]}", "\t".join(["Name", "Description", *samples]), *rows]
    path = tmp_path / name
    data = (newline.join(lines) + newline).encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return path


ROWS = ["g1.1\tG1\t1\t2.5", "g2.3\tG2\t0\t1e3", "g3.1\tG1\t0.000939\t123456.789"]
