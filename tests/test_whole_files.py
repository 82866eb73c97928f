"""Whole files: a reader sees the former content or the new one, never a part; fingerprints follow content."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lib.config import ROOT
from lib.whole_files import (
    FORGOTTEN_S,
    HOST,
    ends_fingerprint,
    fingerprint,
    folder_fingerprint,
    folders_looked_at_once,
    remove_leftovers,
    text_fingerprint,
    whole_file,
    write_bytes,
    write_json,
    write_text,
)


def test_writing_and_overwriting(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "µm")
    assert path.read_bytes() == "µm".encode()
    write_bytes(path, b"other")
    assert path.read_bytes() == b"other"
    write_json(tmp_path / "a.json", {"path": path, "n": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"path": str(path), "n": 1}
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", "a.json"}


@pytest.mark.parametrize("error", [ValueError("full disk"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_former_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "a.npy"
    path.write_bytes(b"former")

    def write():
        with whole_file(path) as temporary:
            temporary.write_bytes(b"hal")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"former"
    assert os.listdir(tmp_path) == ["a.npy"]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.txt"):
        pass
    assert not os.listdir(tmp_path)


def test_a_kill_during_the_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"former")
    code = f"""
import os, signal
from lib.whole_files import whole_file
with whole_file({str(path)!r}) as temporary:
    temporary.write_bytes(b"hal")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"former"
    (leftover,) = set(tmp_path.iterdir()) - {path}
    assert leftover.name.startswith(".")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    living = f".b.bin.{HOST}-{os.getpid()}-1.tmp.bin"
    elsewhere, forgotten = (f".{name}.bin.0a1b2c-1-1.tmp.bin" for name in "cd")  # of another computer
    for name in (living, elsewhere, forgotten, ".hidden"):
        (tmp_path / name).touch()
    os.utime(tmp_path / forgotten, (time.time() - FORGOTTEN_S - 60,) * 2)
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.bin", living, elsewhere, ".hidden"}


def test_two_writers_at_once_leave_the_content_of_one(tmp_path):
    path, both = tmp_path / "a.bin", threading.Barrier(2)

    def write(content):
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
            both.wait(timeout=10)  # both temporary files exist before either is renamed

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with whole_file(tmp_path / "a.csv.gz") as temporary:
        assert temporary.suffix == ".gz"
        assert temporary.parent == tmp_path
        temporary.touch()


def test_fingerprint_is_of_the_content(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"content")
    two.write_bytes(b"content")
    assert fingerprint(one) == fingerprint(two) == fingerprint(str(one))
    assert len(fingerprint(one)) == 64
    two.write_bytes(b"content!")
    assert fingerprint(one) != fingerprint(two)
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "three")


def test_fingerprint_of_a_text_and_of_the_ends_of_a_file(tmp_path):
    assert text_fingerprint("µm") == hashlib.sha256("µm".encode()).hexdigest()
    path, content = tmp_path / "slide", bytearray(3 * 2**20)
    found = set()
    for change in (None, 0, 2**20 - 1, 2 * 2**20, -1):
        changed = bytearray(content)
        if change is not None:
            changed[change] = 1
        path.write_bytes(changed)
        found.add(ends_fingerprint(path))
    path.write_bytes(content + b"\0")
    found.add(ends_fingerprint(path))
    assert len(found) == 6
    before = ends_fingerprint(path)
    assert ends_fingerprint(path) == before
    os.utime(path, ns=(1, 1))  # fetched again: equal size and ends, perhaps another middle
    assert ends_fingerprint(path) != before


def test_a_folder_with_broken_links_and_unfinished_downloads(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"x")
    before = folder_fingerprint(tmp_path)
    (tmp_path / "b.svs.part").write_bytes(b"x")
    assert folder_fingerprint(tmp_path) == before
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.svs").symlink_to(tmp_path / "loop.svs")
    with_links = folder_fingerprint(tmp_path)
    assert with_links != before
    assert folder_fingerprint(tmp_path) == with_links


def test_folder_fingerprint_is_of_names_sizes_and_dates(tmp_path):
    assert folder_fingerprint(tmp_path) is None
    (tmp_path / ".hidden").write_bytes(b"x")
    assert folder_fingerprint(tmp_path) is None
    (tmp_path / "a").write_bytes(b"x")
    before = folder_fingerprint(tmp_path)
    (tmp_path / ".hidden").unlink()
    assert folder_fingerprint(tmp_path) == before
    os.utime(tmp_path / "a", ns=(1, 1))
    assert folder_fingerprint(tmp_path) != before
    undated = folder_fingerprint(tmp_path, dates=False)
    os.utime(tmp_path / "a", ns=(2, 2))
    assert folder_fingerprint(tmp_path, dates=False) == undated
    (tmp_path / "a").write_bytes(b"xy")
    assert folder_fingerprint(tmp_path, dates=False) != undated


def test_folders_are_looked_at_once_within_a_question(tmp_path):
    """A new file is seen by the next question, not by the one that is being answered."""
    (tmp_path / "a").write_text("a")
    before = folder_fingerprint(tmp_path)
    with folders_looked_at_once():
        assert folder_fingerprint(tmp_path) == before
        (tmp_path / "b").write_text("b")
        with folders_looked_at_once():
            assert folder_fingerprint(tmp_path) == before
        assert folder_fingerprint(tmp_path) == before
        assert folder_fingerprint(tmp_path, dates=False) != before
    assert folder_fingerprint(tmp_path) != before
