"""A real Slurm of one node: jobs as workers of notebook 01, jobs as shards, and jobs that end early."""

import os
import shutil
import subprocess
import sys
import threading

import one_node_slurm
import pandas as pd
import pytest
from test_cluster import cohort, contents, dates, eventually, n_cut

from lib import cluster, shard, shard_jobs, slide_work
from lib.config import ROOT
from lib.errors import InputError

pytest.importorskip("dask_jobqueue")
slurm_workers = pytest.importorskip("lib.slurm_workers")
pytestmark = pytest.mark.slow
JOBS = {"jobs": 2, "cpus": 1, "memory_gb": 2, "minutes": 10}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with one_node_slurm.running(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(autouse=True)
def _use_it(slurm, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm_workers, "LOOK_S", 1)
    monkeypatch.setattr(shard_jobs, "LOOK_S", 1)
    monkeypatch.setattr(shard_jobs, "SHOWN_S", 3)
    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    monkeypatch.setattr(cluster, "ALONE_S", 2)


def jobs_here(*options):
    """The ids of the jobs in the queue."""
    line = ["squeue", "--noheader", "--format=%A", *options]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()


def test_a_job_is_cancelled_and_the_other_does_its_slides(tmp_path, capsys):
    """What dask-jobqueue starts under Slurm leaves the files of one machine, and no job."""
    store = cohort(tmp_path, 24, cluster="slurm", slurm=JOBS)

    def cancel():
        eventually(lambda: n_cut(store) >= 5)
        subprocess.run(["scancel", "--signal=KILL", "--full", jobs_here()[0]], check=True)

    killer = threading.Thread(target=cancel)
    killer.start()
    cluster.cut(store)
    killer.join()
    said = capsys.readouterr().out
    assert "waiting for the first of 2 jobs of Slurm" in said
    assert "23 of 24 slides are cut" in said
    eventually(lambda: not jobs_here("--states=PENDING,RUNNING"))
    assert len(list((store.derived / "jobs").glob("worker-*.out"))) == 2
    alone = cohort(tmp_path / "alone", 24)
    slide_work.cut(alone, alone.load("samples")["slide_id"])
    both = [one.path("stacks") for one in (store, alone)]
    assert contents(both[0], "[!.]*.npy") == contents(both[1], "[!.]*.npy")


def test_an_interruption_stays_one():
    """dask-jobqueue makes SIGINT end the process when it is imported."""
    code = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nimport lib.slurm_workers\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_what_slurm_refuses_is_said_in_its_words(tmp_path):
    store = cohort(tmp_path, 3, cluster="slurm", slurm=JOBS | {"partition": "nowhere"})
    with pytest.raises(InputError, match=r"see \[slurm\] of the cohort: .*[Ii]nvalid partition"):
        cluster.cut(store)


def test_one_of_two_jobs_is_refused(tmp_path, monkeypatch, capsys):
    """As where somebody may submit one at a time: that one does the work."""
    refused = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/sbatch"
    command.write_text(
        f'#!/bin/sh\nmkdir {tmp_path}/one 2>/dev/null || {{ echo "{refused}" >&2; exit 1; }}\n'
        f'exec {shutil.which("sbatch")} "$@"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    store = cohort(tmp_path, 6, cluster="slurm", slurm=JOBS)
    cluster.cut(store)
    assert n_cut(store) == 5
    assert f"Slurm does not take all 2 jobs: {refused}\n" in capsys.readouterr().out


def test_jobs_that_end_before_they_work(tmp_path):
    """As where a module of the prologue does not exist: nobody waits for them for ever."""
    store = cohort(tmp_path, 3, cluster="slurm", slurm=JOBS | {"prologue": ["echo no such module", "exit 1"]})
    with pytest.raises(InputError, match=r"ended before a worker was there: see .*jobs"):
        cluster.cut(store)
    logs = [path.read_text() for path in (store.derived / "jobs").glob("worker-*.out")]
    assert logs
    assert all("no such module" in text for text in logs)


def test_all_jobs_end_in_the_middle(tmp_path):
    """As when their time is up: what is cut stays, and the next run does the rest."""
    store = cohort(tmp_path, 96, cluster="slurm", slurm=JOBS)

    def cancel():
        eventually(lambda: n_cut(store) >= 5)
        subprocess.run(["scancel", *jobs_here()], check=True)

    killer = threading.Thread(target=cancel)
    killer.start()
    with pytest.raises(InputError, match=r"all jobs of Slurm have ended, .* \(finished slides are kept\)"):
        cluster.cut(store)
    killer.join()
    finished = dates(store.path("stacks"), "[!.]*.npy")
    assert 5 <= len(finished) < 95
    cluster.cut(store)
    cut = dates(store.path("stacks"), "[!.]*.npy")
    assert len(cut) == 95
    assert {name: cut[name] for name in finished} == finished


def test_shards_as_an_array_of_jobs(tmp_path, monkeypatch, capsys):
    """`python -m lib.shard submit`: submitit's jobs under Slurm leave the files of one machine."""
    pytest.importorskip("submitit")
    store = cohort(tmp_path, 12)
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    of = ["--cohort", str(tmp_path / "mine.toml"), "--of", "3"]
    assert shard.main(["submit", *of, "--cpus", "1", "--memory-gb", "1", "--minutes", "5", "--wait"]) == 1, (
        "a slide failed"
    )
    said = capsys.readouterr()
    assert "3 shards are submitted: jobs " in said.out
    assert "shard 1/3: job" in said.err
    assert said.out.endswith("1 slides are not cut\n")
    alone = cohort(tmp_path / "alone", 12)
    slide_work.cut(alone, alone.load("samples")["slide_id"])
    tables = [
        pd.concat(map(pd.read_parquet, sorted(s.path("stacks").glob("[!.]*.parquet"))))
        for s in (store, alone)
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_a_shard_whose_job_is_cancelled_is_named(tmp_path, monkeypatch, capsys):
    """Without `sacct`, too, nobody waits for it for ever."""
    pytest.importorskip("submitit")
    cohort(tmp_path, 96)
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = jobs_here()

    def cancel():
        started = eventually(lambda: set(jobs_here("--states=RUNNING")) - set(before))
        subprocess.run(["scancel", *started], check=True)

    killer = threading.Thread(target=cancel)
    killer.start()
    of = ["--cohort", str(tmp_path / "mine.toml"), "--of", "1"]
    assert shard.main(["submit", *of, "--cpus", "1", "--memory-gb", "1", "--minutes", "5", "--wait"]) == 1
    killer.join()
    said = capsys.readouterr()
    assert "it left Slurm's queue without a result" in said.err
    assert "slides are not cut" in said.out
