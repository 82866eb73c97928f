"""Shards of the slides: together they are all of them, and the notebooks find their work done."""

import re
import subprocess
import sys

import pandas as pd
import pytest
import small_cohort
from conftest import run_command

from lib import shard, shard_jobs, slide_parts, slide_work
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


def environment(root):
    return {"HISTOCORR_ROOT": str(root), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}


def command(root, *arguments):
    line = [sys.executable, "-m", "lib.shard", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment(root), cwd=root, check=False)


@pytest.fixture
def make_sampled_store():
    """Makes stores of cohorts of twelve slides, one of them damaged, whose samples are read."""

    def make(root):
        path = small_cohort.make(root, encoder="random")
        (root / "data/raw/mine/slides/S03.svs").write_bytes(b"no slide")
        store = Store(Config.load(str(path)), root=root)
        samples_df = pd.read_csv(store.raw / "samples.csv")
        store.save("samples", samples_df.assign(split=["train", "validation", "test"] * 4))
        return store

    return make


def contents(store):
    """The stacks and tables of a cohort's slides."""
    paths = list(store.path("stacks").glob("[!.]*"))
    tables = {path.name: pd.read_parquet(path).to_csv() for path in paths if path.suffix == ".parquet"}
    return tables | {path.name: path.read_bytes() for path in paths if path.suffix == ".npy"}


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
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(tmp_path)}
    both = [subprocess.Popen([*line, f"{number}/3"], **pipes) for number in (1, 2)]
    said = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [1, 0], said  # S00, S03, S06, S09 are the first shard
    assert b"3 of 4 slides are cut" in said[0][0]
    assert b"failed: S03" in said[0][1]
    status = command(tmp_path, "status", "--cohort", path, "--of", 3)
    assert status.returncode == 1
    assert "shard 3/3: 4 slides are not cut (S02, S05, S08, ...)" in status.stdout
    assert "shard 1/3: 1 slide is not cut (S03)" in status.stdout
    assert status.stdout == command(tmp_path, "status", "--cohort", path).stdout, "it knows that there are 3"
    too_early = run_command(tmp_path, "--cohort", path, "--only", "02")
    assert too_early.returncode == 1
    assert "shard 3/3: 4 slides are not cut (S02, S05, S08, ...)" in too_early.stderr
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
    status = command(tmp_path, "status", "--cohort", path, "--step", "features")
    assert status.returncode == 1
    assert f"shard 1/2: {11 - len(sums)} slides are not measured (S00, " in status.stdout
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


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Runs the command in this process, for the cohort of tmp_path; its exit status, and what it printed."""
    pytest.importorskip("submitit")
    monkeypatch.setattr(shard_jobs, "queue", lambda: "local")
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        status = shard.main([arguments[0], "--cohort", str(tmp_path / "mine.toml"), *map(str, arguments[1:])])
        return status, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_submitted_shards(tmp_path, make_sampled_store, here):
    """submitit's executor of this machine leaves what one process would, and does nothing twice."""
    store = make_sampled_store(tmp_path)
    assert here("submit", "--of", 3, "--cpus", 0)[0] == 2, "jobs of no processor"
    status, out, err = here("submit", "--of", 3, "--cpus", 1)
    assert status == 1, "a slide failed"
    assert "3 shards on this machine" in out
    assert out.endswith("shard 1/3: 1 slide is not cut (S03)\n1 slides are not cut\n")
    assert "3/3" in err, "progress"
    assert re.search(r"shard 1/3: job \d+_?\d* ended with exit code 1 .*_log.err", err)
    logs = "".join(log.read_text() for log in (store.derived / "jobs").glob("*.out"))
    assert logs.count("of 4 slides are cut") == 3
    alone = make_sampled_store(tmp_path / "alone")
    slide_work.cut(alone, alone.load("samples")["slide_id"])
    cut = contents(store)
    assert len(cut) == 2 * 11
    assert cut == contents(alone)
    slides = tmp_path / "data/raw/mine/slides"
    (slides / "S03.svs").write_bytes((slides / "S04.svs").read_bytes())
    status, out, _ = here("submit", "--of", 3, "--jobs", 1)
    assert status == 0
    assert "1 shards on this machine, 1 at a time" in out, "only that of the slide that failed"
    assert here("submit", "--of", 3)[:2] == (0, "all slides are cut\n")


@pytest.mark.slow
def test_a_job_that_fails_is_named(tmp_path, make_sampled_store, here):
    store = make_sampled_store(tmp_path)
    store.path("stacks").parent.mkdir(parents=True)
    store.path("stacks").write_text("no folder")
    status, out, err = here("submit", "--of", 2)
    assert status == 1
    for number in (1, 2):
        assert f"shard {number}/2: job " in err
    assert "_log.err" in err
    assert out.endswith("12 slides are not cut\n")


@pytest.mark.slow
def test_overlapping_shards(tmp_path, make_sampled_store):
    """Both at once: the second says with whom it shares slides, and the files are those of one process."""
    store = make_sampled_store(tmp_path)
    stacks = store.path("stacks")
    with slide_parts.at_work(stacks, Shard(1, 3)) as notes:
        assert notes == []
        other = command(tmp_path, "tiles", "--cohort", tmp_path / "mine.toml", "--shard", "1/2")
        assert "shard 1/3 is at work on some of the same slides (shard 1/3 (process " in other.stderr
        with slide_parts.at_work(stacks, Shard(2, 3)) as notes:
            assert notes == []
        with slide_parts.at_work(stacks, Shard(1, 3)) as notes:
            assert len(notes) == 1, "the same shard twice"
    with slide_parts.at_work(stacks, Shard(1, 2)) as notes:
        assert notes == [], "nobody is at work any more"
    for path in store.path("stacks").glob("*"):
        path.unlink()
    line = [sys.executable, "-m", "lib.shard", "tiles", "--cohort", str(tmp_path / "mine.toml"), "--shard"]
    both = [subprocess.Popen([*line, text], env=environment(tmp_path)) for text in ("1/1", "1/1", "1/2")]
    assert {one.wait(timeout=120) for one in both} <= {0, 1}
    alone = make_sampled_store(tmp_path / "alone")
    slide_work.cut(alone, alone.load("samples")["slide_id"])
    assert contents(store) == contents(alone)


def test_shards_that_meet():
    ids = [str(i).zfill(3) for i in range(200)]
    shards = [Shard(number, of) for of in (1, 2, 3, 4, 6) for number in range(1, of + 1)]
    for one in shards:
        for other in shards:
            assert one.meets(other) == bool({*one.slides(ids)} & {*other.slides(ids)}), (one, other)
