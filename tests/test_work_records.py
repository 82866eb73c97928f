"""Records of resumable work: finished means a readable record, the recorded size, the same purpose."""

import zlib

import numpy as np
import pandas as pd
import pytest

from lib import work_records

MADE_FOR = {"seed": 0, "tiles": "a" * 64, "layers": [1, 2]}


@pytest.fixture
def result(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"result")
    work_records.write(path, MADE_FOR, n_tiles=3)
    return path


def test_a_recorded_result_is_finished(result):
    assert work_records.why_unfinished(result, MADE_FOR) is None
    assert work_records.why_unfinished(result, MADE_FOR | {"layers": (1, 2)}) is None, "as JSON stores it"
    expected = {"made_for": MADE_FOR, "bytes": 6, "crc32": zlib.crc32(b"result"), "outcome": {"n_tiles": 3}}
    assert work_records.read(result) == expected
    assert work_records.record_path(result).name == "a.npy.json"


def test_a_missing_result_is_unfinished(result):
    result.unlink()
    assert work_records.why_unfinished(result, MADE_FOR) == "is missing"


def test_a_result_without_record_is_unfinished(result):
    work_records.remove(result)
    work_records.remove(result)  # twice is as once
    assert work_records.why_unfinished(result, MADE_FOR) == "has no record of what it was made for"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"made_for": 1, "bytes": 6, "outcome": {}}', "\xff"])
def test_an_unreadable_record_means_unfinished(result, text):
    work_records.record_path(result).write_bytes(text.encode("latin-1"))
    assert work_records.read(result) == {}
    assert "no record" in work_records.why_unfinished(result, MADE_FOR)


def test_a_result_of_another_size_is_unfinished(result):
    result.write_bytes(b"res")
    assert work_records.why_unfinished(result, MADE_FOR) == "had 6 bytes when it was finished and has 3"


def test_every_flipped_bit_is_noticed(result):
    content = result.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        result.write_bytes(damaged)
        assert "other bytes than were written" in work_records.why_unfinished(result, MADE_FOR)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (MADE_FOR | {"seed": 1}, "was made with seed = 0, now 1"),
        (MADE_FOR | {"tiles": "b" * 64}, "was made from another 'tiles'"),
        (MADE_FOR | {"tiles": "missing"}, "was made from another 'tiles'"),
        (MADE_FOR | {"p": 2.0}, "was made with p = None, now 2.0"),
        ({"tiles": "a" * 64, "layers": [1, 2]}, "was made with seed = 0, now None"),
    ],
)
def test_a_result_made_for_something_else_is_unfinished(result, now, reason):
    assert work_records.why_unfinished(result, now) == reason


ARRAYS = {"sums": np.arange(6.0).reshape(2, 3), "ids": np.array(["a", "b"])}
TABLE_DF = pd.DataFrame({"tile": ["a", "b"], "crc32": np.array([1, 2], np.uint32)})


@pytest.fixture(params=["arrays.npz", "table.parquet"])
def holding(request, tmp_path):
    """A result that holds its record."""
    path = tmp_path / request.param
    if path.suffix == ".npz":
        work_records.save_arrays(path, MADE_FOR, ARRAYS, n_tiles=3)
    else:
        work_records.save_table(path, MADE_FOR, TABLE_DF, n_tiles=3)
    return path


def content_of(path):
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_csv()
    with np.load(path) as arrays:
        return {name: arrays[name].tolist() for name in ARRAYS}


def test_a_record_lies_inside_an_archive_or_a_table(holding):
    assert [path.name for path in holding.parent.iterdir()] == [holding.name]
    assert work_records.why_unfinished(holding, MADE_FOR | {"layers": (1, 2)}) is None
    assert work_records.why_unfinished(holding, MADE_FOR | {"seed": 1}) == "was made with seed = 0, now 1"
    assert work_records.read(holding)["outcome"] == {"n_tiles": 3}
    with pytest.raises(ValueError, match="holds its record"):
        work_records.write(holding, MADE_FOR)
    before = holding.read_bytes()
    assert content_of(holding) in (TABLE_DF.to_csv(), {name: x.tolist() for name, x in ARRAYS.items()})
    work_records.remove(holding)
    assert work_records.why_unfinished(holding, MADE_FOR) == "is missing"
    if holding.suffix == ".npz":
        work_records.save_arrays(holding, MADE_FOR, ARRAYS, n_tiles=3)
    else:
        work_records.save_table(holding, MADE_FOR, TABLE_DF, n_tiles=3)
    assert holding.read_bytes() == before, "no time or host in it"


def test_one_without_a_record_is_unfinished(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    TABLE_DF.to_parquet(tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        assert "no record" in work_records.why_unfinished(path, MADE_FOR)


def test_a_torn_one_is_unfinished(holding):
    content = holding.read_bytes()
    for n in range(0, len(content), 37):
        holding.write_bytes(content[:n])
        assert work_records.why_unfinished(holding, MADE_FOR)


def test_a_flipped_bit_inside_is_noticed_or_changes_nothing(holding):
    content, whole = holding.read_bytes(), content_of(holding)
    harmless = 0
    for byte in range(len(content)):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << byte % 8
        holding.write_bytes(damaged)
        if work_records.why_unfinished(holding, MADE_FOR) is None:
            assert content_of(holding) == whole, byte
            harmless += 1
    assert harmless < 0.5 * len(content)


def test_the_record_of_a_folder_lies_in_it(tmp_path):
    folder = tmp_path / "training"
    folder.mkdir()
    assert "no record" in work_records.why_unfinished(folder, MADE_FOR)
    work_records.write(folder, MADE_FOR)
    assert work_records.record_path(folder) == folder / "record.json"
    (folder / "more").write_bytes(b"x")
    assert work_records.why_unfinished(folder, MADE_FOR) is None
