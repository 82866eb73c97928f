"""Shards of the slides: together they are all of them, and the notebooks find their work done."""

import subprocess
import sys

import pandas as pd
import pytest
import small_cohort
from conftest import run_command

from lib import shard
from lib.config import ROOT, Config
from lib.errors import InputError
from lib.shard import Shard
from lib.store import Store


def test_shards_are_all_slides_once():
    ids = [f"s{i}" for i in range(23)]
    for of in (1, 4, 23, 40):
        parts = [Shard(number, of).slides(ids[::-1] + ids) for number in range(1, of + 1)]
        assert sorted(i for part in parts for i in part) == sorted(ids)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4", "1/4/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InputError, match=r"such as 3/64"):
        shard.parse(text)
    assert shard.parse("3/64") == Shard(3, 64)


def command(root, *arguments):
    environment = {"HISTOCORR_ROOT": str(root), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    line = [sys.executable, "-m", "lib.shard", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=root, check=False)


@pytest.mark.slow
def test_notebooks_find_the_work_of_the_shards(tmp_path):
    """Two shards of tiles at once, one slide damaged; a shard of features; the rest is the notebooks'."""
    path = small_cohort.make(tmp_path, encoder="random")
    (tmp_path / "data/raw/mine/slides/S03.svs").write_bytes(b"no slide")
    early = command(tmp_path, "tiles", "--cohort", path, "--shard", "1/3")
    assert early.returncode == 2
    assert "00_cohort" in early.stderr, "the notebook to run first is named"
    assert run_command(tmp_path, "--cohort", path, "--only", "00").returncode == 0
    line = [sys.executable, "-m", "lib.shard", "tiles", "--cohort", path, "--shard"]
    environment = {"HISTOCORR_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    both = [
        subprocess.Popen(
            [*line, f"{number}/3"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for number in (1, 2)
    ]
    said = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [1, 0], said  # S00, S03, S06, S09 are the first shard
    assert b"3 of 4 slides are cut" in said[0][0]
    assert b"failed: S03" in said[0][1]
    status = command(tmp_path, "status", "--cohort", path, "--of", 3)
    assert status.returncode == 1
    assert "shard 3/3: 4 slides are not cut (S02, S05, S08, ...)" in status.stdout
    store = Store(Config.load(str(path)), root=tmp_path)
    stacks = store.path("stacks")
    before = {p.name: p.stat().st_mtime_ns for p in stacks.glob("[!.]*.npy")}
    assert len(before) == 7
    assert run_command(tmp_path, "--cohort", path, "--to", "02").returncode == 0
    after = {p.name: p.stat().st_mtime_ns for p in stacks.glob("[!.]*.npy")}
    assert len(after) == 11
    assert {name: after[name] for name in before} == before, "what the shards cut is not cut again"
    done = command(tmp_path, "features", "--cohort", path, "--shard", "2/2")
    assert done.returncode == 0, done.stderr
    sums = {p.name: p.stat().st_mtime_ns for p in store.path("sums").glob("*.npz")}
    assert len(sums) in (5, 6)
    whole = run_command(tmp_path, "--cohort", path, "--to", "04")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert {p.name: p.stat().st_mtime_ns for p in store.path("sums").glob("*.npz") if p.name in sums} == sums
    alone = tmp_path / "alone"
    other = small_cohort.make(alone, encoder="random")
    (alone / "data/raw/mine/slides/S03.svs").write_bytes(b"no slide")
    assert run_command(alone, "--cohort", other, "--to", "04").returncode == 0
    undisturbed = Store(Config.load(str(other)), root=alone)
    for name in ("tiles", "features_test", "features_validation"):
        pd.testing.assert_frame_equal(store.load(name), undisturbed.load(name))
