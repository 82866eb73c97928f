"""Other machines: a real dask scheduler, and workers on loopback which die, see nothing, or are not there."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from contextlib import ExitStack, contextmanager
from functools import partial

import linked_cohort
import numpy as np
import pandas as pd
import pytest
import small_cohort
from conftest import run_command

from lib import cluster, gene_shards, shard, slide_work
from lib.config import ROOT, Config
from lib.errors import InputError
from lib.features import sample_sums
from lib.network import training
from lib.slurm import Jobs
from lib.statistics import link_tests, permutations
from lib.store import Store
from lib.tiles import cut_all, tile_quality

dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
SOON_S = 60


def eventually(what, within=SOON_S):
    """Wait until `what` gives something true, and return that."""
    deadline = time.monotonic() + within
    while not (found := what()):
        assert time.monotonic() < deadline, f"{what} in {within} s"
        time.sleep(0.02)
    return found


def environment(**others):
    return (
        os.environ | {"PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"} | others
    )


@contextmanager
def process(*arguments, before=(), **others):
    """A dask command that ends with the context; `before` it the words of another command that runs it."""
    line = [*before, sys.executable, "-m", "dask", *map(str, arguments)]
    started = subprocess.Popen(line, env=environment(**others), stderr=subprocess.PIPE, cwd="/")
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@contextmanager
def running_scheduler(protocol="tcp", **others):
    """A scheduler's process and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show")
    with process(*arguments, "--protocol", protocol, **others) as started:
        eventually(lambda: answers(port))
        yield started, f"{protocol}://127.0.0.1:{port}"


@pytest.fixture
def scheduler_process():
    with running_scheduler() as started:
        yield started


@pytest.fixture
def scheduler(scheduler_process):
    """Its address."""
    return scheduler_process[1]


@pytest.fixture
def scheduler_of_one_death():
    with running_scheduler(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as (_, address):
        yield address


def answers(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def worker(address, name, **others):
    """One process, one thread, nobody who starts it again."""
    options = ("--no-nanny", "--nthreads", 1, "--name", name, "--no-dashboard", "--host", "127.0.0.1")
    return process("worker", address, *options, **others)


@contextmanager
def client_of(address, n_workers):
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(n_workers, timeout=SOON_S)
        yield client


def finished_tasks(client, prefix):
    """How often the scheduler saw each task end, and how often one was taken from a dead worker."""

    def look(dask_scheduler):
        return [(str(entry[0]), entry[1], entry[2]) for entry in dask_scheduler.transition_log]

    log = [entry for entry in client.run_on_scheduler(look) if entry[0].startswith(prefix)]
    ends = pd.Series([key for key, start, end in log if end == "memory"]).value_counts()
    return ends, sum(start == "processing" and end == "released" for _, start, end in log)


def cohort(root, n, **settings):
    """A cohort whose samples are read; its store."""
    path = small_cohort.make(root, n=n, encoder="random", **settings)
    (root / "data/raw/mine/slides/S03.svs").write_bytes(b"no slide")
    store = Store(Config.load(str(path)), root=root)
    samples_df = pd.read_csv(store.raw / "samples.csv")
    store.save("samples", samples_df.assign(split=["train", "validation", "test"] * (n // 3)))
    return store


def notebooks(store, *arguments):
    done = run_command(store.root, "--cohort", store.root / "mine.toml", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def with_network(store):
    """The artefacts of notebooks 01 and 02, made without them."""
    config, samples_df = store.config, store.load("samples")
    judged = partial(tile_quality.judged, limits=config.tile_limits, drop=config.drop_tiles)
    how = config.tiling, judged, 2, 0, store.stored_slides(samples_df)
    made = cut_all.cut_and_judged(samples_df, store.slide_paths(samples_df), store.path("stacks"), *how)
    store.save("tiles", made[0])
    store.save("slides", made[1])
    class_names = sorted(small_cohort.COLOURS)
    model = training.initial_network(config.recipe, len(class_names), config.input_px, None)
    how = class_names, config.input_px, store.root / "run", config.recipe
    training.keep_as_it_is(model, *how)
    store.save("network", store.root / "run/best.pt")


def n_cut(store):
    return len(list(store.path("stacks").glob("[!.]*.parquet")))


def contents(folder, pattern):
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def dates(folder, pattern):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)}


@pytest.mark.slow
def test_one_of_two_workers_killed(tmp_path, scheduler, capsys):
    """Notebooks 01 to 04 with a scheduler: nothing lost, nothing twice, the files of one machine."""
    store = cohort(tmp_path, 24, cluster=scheduler)
    stacks, finished = store.path("stacks"), {}
    with worker(scheduler, "one") as first, worker(scheduler, "two"), client_of(scheduler, 2) as client:

        def kill():
            eventually(lambda: n_cut(store) >= 5)
            names = [path.stem for path in stacks.glob("[!.]*.parquet")]
            finished.update({name: (stacks / f"{name}.npy").stat().st_mtime_ns for name in names})
            first.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        cluster.cut(store)
        killer.join()
        said = capsys.readouterr()
        assert "23 of 24 slides are cut" in said.out
        assert "failed: S03" in said.out
        assert re.search(r"cutting: 100%.*24/24", said.err), "progress is shown"
        assert first.wait(SOON_S) == -signal.SIGKILL
        ends, n_taken_over = finished_tasks(client, "cutting")
        assert len(ends) == 24
        assert n_taken_over >= 1, "the killed worker had something to do"
        cut = dates(stacks, "[!.]*.npy")
        assert len(cut) == 23
        assert {name: cut[f"{name}.npy"] for name in finished} == finished, "no slide is cut twice"
        notebooks(store, "--only", "01")
        assert dates(stacks, "[!.]*.npy") == cut, "notebook 01 finds the slides cut"
    assert not list(store.derived.glob(".cluster-*"))
    alone = cohort(tmp_path / "alone", 24)
    slide_work.cut(alone, alone.load("samples")["slide_id"])
    both = [one.path("stacks") for one in (store, alone)]
    assert contents(both[0], "[!.]*.npy") == contents(both[1], "[!.]*.npy")
    tables = [
        {path.name: pd.read_parquet(path).to_csv() for path in folder.glob("[!.]*.parquet")}
        for folder in both
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 23


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_a_scheduler_with_tls(tmp_path):
    """As dask's own configuration says; whoever has no certificate cannot take part."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=here"]
    subprocess.run([*line, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    tls = {"ca-file": str(certificate)}
    tls |= {who: {"key": str(key), "cert": str(certificate)} for who in ("scheduler", "worker", "client")}
    written = tmp_path / "dask/distributed.json"
    written.parent.mkdir()
    written.write_text(json.dumps({"distributed": {"comm": {"tls": tls}}}))
    of_dask = {"DASK_CONFIG": str(written.parent)}
    with running_scheduler("tls", **of_dask) as (_, address), worker(address, "one", **of_dask):
        store = cohort(tmp_path, 3, cluster=address)
        with pytest.raises(InputError, match=r"'tls://.*' needs certificates, .* \(distributed.comm.tls\)"):
            cluster.cut(store)
        with dask.config.set({f"distributed.comm.tls.{name}": value for name, value in tls.items()}):
            cluster.cut(store)
    assert n_cut(store) == 3


@pytest.mark.slow
def test_workers_read_tiles_that_are_not_stored(tmp_path, scheduler):
    """store_tiles = false: no stack is written, and features are those of stored tiles."""
    settings = {"architecture": "torchvision:squeezenet1_1"}
    store = cohort(tmp_path, 6, cluster=scheduler, store_tiles=False, **settings)
    with worker(scheduler, "one"), client_of(scheduler, 1):
        cluster.cut(store)
        assert n_cut(store) == 5
        with_network(store)
        cluster.measure(store)
    assert not list(store.path("stacks").glob("*.npy"))
    alone = cohort(tmp_path / "alone", 6, **settings)
    with_network(alone)
    work = slide_work.to_measure(alone)
    slide_work.measure(alone, work)
    assert len(list(alone.path("stacks").glob("*.npy"))) == 5
    both = [quantification_of(one, work) for one in (store, alone)]
    assert both[0].shape[1] == 5
    pd.testing.assert_frame_equal(*both, rtol=1e-6)


def quantification_of(store, work):
    """Mean features by sample, from the sums that are there."""
    before = dates(store.path("sums"), "*.npz")
    how = store.path("sums"), store.config.quantification
    sums_df, n_tiles = sample_sums.quantify_samples(
        work.model, slide_work.to_measure(store).tiles_df["sums"], *how
    )
    assert dates(store.path("sums"), "*.npz") == before
    return sample_sums.aggregate(sums_df, n_tiles)


@pytest.mark.slow
def test_features_with_one_of_two_workers_killed(tmp_path, scheduler):
    """Sums of this machine; the notebook finds them, and status says so."""
    store = cohort(tmp_path, 12, cluster=scheduler, architecture="torchvision:squeezenet1_1")
    with_network(store)
    todo = shard.unfinished(store, "features", 2)
    assert len(todo) == 11
    sums, finished = store.path("sums"), {}
    with worker(scheduler, "one") as first, worker(scheduler, "two"), client_of(scheduler, 2):

        def kill():
            eventually(lambda: len(list(sums.glob("[!.]*.npz"))) >= 3)
            finished.update(dates(sums, "[!.]*.npz"))
            first.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        cluster.measure(store)
        killer.join()
    measured = dates(sums, "*.npz")
    assert len(measured) == 11
    assert {name: measured[name] for name in finished} == finished, "no slide is measured twice"
    assert shard.unfinished(store, "features", 2).empty
    cluster.measure(store)  # nothing is left, so no worker is needed
    notebooks(store, "--only", "04")
    assert dates(sums, "*.npz") == measured, "notebook 04 finds them measured"
    work, features_df = slide_work.to_measure(store), store.load("features_test")
    tiles_df, how = work.tiles_df["sums"], store.config.quantification
    here_df, n_tiles = sample_sums.quantify_samples(work.model, tiles_df, tmp_path / "here", how)
    here_df = sample_sums.aggregate(here_df, n_tiles)[features_df.columns]
    pd.testing.assert_frame_equal(features_df, here_df, rtol=1e-6)


@pytest.mark.slow
def test_genes_with_one_of_two_workers_killed(tmp_path, scheduler):
    """The test of links on workers: every p of this machine, with covariates too, and no file left."""
    store = cohort(tmp_path, 3, cluster=scheduler)
    log_df, features_df, samples_df = linked_cohort.cohort(n_genes=600, n_features=200, n=90)
    shuffles = permutations.draw("within_tissue", 2000, samples_df, 0)
    rng = np.random.default_rng(1)
    given_df = pd.DataFrame({"depth": rng.standard_normal(len(samples_df))}, samples_df["sample_id"])
    tables = log_df, features_df, samples_df, shuffles
    alone = [link_tests.run(*tables, given, link_tests.Plan(progress=False)) for given in (None, given_df)]
    with worker(scheduler, "one") as first, worker(scheduler, "two"), client_of(scheduler, 2) as client:
        with gene_shards.elsewhere(store) as elsewhere:
            calls = []

            def killing(*arguments):
                calls.append(arguments[-2:])
                if len(calls) == 3:
                    threading.Timer(0.05, first.send_signal, [signal.SIGKILL]).start()
                return elsewhere(*arguments)

            plan = link_tests.Plan(progress=False, elsewhere=killing)
            spread = [link_tests.run(*tables, given, plan) for given in (None, given_df)]
            assert len(list(store.derived.glob(".cluster-*.npy"))) >= 3
        assert first.wait(SOON_S) == -signal.SIGKILL
        ends, _ = finished_tasks(client, "shuffling")
        assert len(ends) > len(calls), "more than one task for each part of the shuffles"
    assert not list(store.derived.glob(".cluster-*"))
    for one, other in zip(alone, spread, strict=True):
        exact = ["feature", "statistic", "p", "p_overall", "q", "n_permutations"]
        pd.testing.assert_frame_equal(one.genes_df[exact], other.genes_df[exact], check_exact=True)
        np.testing.assert_allclose(one.null.of_all_genes(), other.null.of_all_genes(), rtol=1e-5)


@pytest.mark.slow
def test_notebook_01_cuts_on_the_workers(tmp_path, scheduler, monkeypatch):
    """The notebook itself; later without a worker it says what is the matter, and only if there is work."""
    store = cohort(tmp_path, 6, cluster=scheduler)
    with worker(scheduler, "one"), client_of(scheduler, 1) as client:
        notebooks(store, "--only", "01")
        assert len(finished_tasks(client, "cutting")[0]) == 6
    assert len(store.load("slides")) == 6
    monkeypatch.setattr(cluster, "ANSWER_S", 1.0)
    cluster.cut(store)
    store.path("tiles").unlink()
    with pytest.raises(InputError, match=r"at tcp://127.* has no worker: start some, `dask worker"):
        cluster.cut(store)


@pytest.mark.slow
def test_slides_that_end_their_workers_are_named(tmp_path, scheduler_of_one_death):
    """A scheduler that tries nothing again after a worker's death: all other slides are cut."""
    address = scheduler_of_one_death
    store = cohort(tmp_path, 24, cluster=address)
    with worker(address, "one") as first, worker(address, "two"), client_of(address, 2):

        def kill():
            eventually(lambda: n_cut(store) >= 2)
            first.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(RuntimeError, match=r"every worker that had one of these \d+ slides died: S") as e:
            cluster.cut(store)
        killer.join()
    lost = re.findall(r"S\d\d", str(e.value))
    assert lost
    assert n_cut(store) >= 23 - len(lost), "what only waited is cut by the other"


@pytest.mark.slow
def test_interrupted(tmp_path, scheduler):
    """Ctrl-C takes back what waits; the scheduler forgets it, and what was finished stays."""
    store = cohort(tmp_path, 240, cluster=scheduler)  # many: a busy machine takes seconds to interrupt
    code = (
        "import signal, sys\nfrom lib import cluster\n"
        "from lib.config import Config\nfrom lib.store import Store\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "cluster.cut(Store(Config.load(sys.argv[1]), root=sys.argv[2]))"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "mine.toml"), str(tmp_path)]
    with worker(scheduler, "one"), client_of(scheduler, 1) as client:
        started = subprocess.Popen(line, env=environment(), stderr=subprocess.PIPE)
        eventually(lambda: n_cut(store) >= 2)
        started.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in started.communicate(timeout=SOON_S)[1]
        eventually(lambda: not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
        done = n_cut(store)
        assert 2 <= done < 235
        time.sleep(1)
        assert n_cut(store) == done
        cluster.cut(store)
    assert n_cut(store) == 239


def test_a_result_that_is_lost_with_the_last_worker_is_not_waited_for(tmp_path, scheduler, monkeypatch):
    """It died after its task and before the answer was read."""
    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    monkeypatch.setattr(cluster, "ALONE_S", 2)
    store, usual = cohort(tmp_path, 3, cluster=scheduler), cluster._next
    with worker(scheduler, "one") as only:

        def lose(*arguments):
            future = usual(*arguments)
            only.kill()
            only.wait()
            return future

        monkeypatch.setattr(cluster, "_next", lose)
        with pytest.raises(InputError, match="has lost all its workers"):
            cluster.cut(store)


@pytest.mark.parametrize(
    ("takes", "error"), [(35, None), (0, InputError("of the task")), (0, TimeoutError("of the task"))]
)
def test_a_result_may_be_long_in_coming(takes, error):
    """Each try begins anew, so that it is given longer; the error of a task is not that of the waiting."""
    tried = []

    class Future:
        status = "finished"

        def add_done_callback(self, call):
            call(self)

        def exception(self):
            return error

        def result(self, timeout):
            tried.append(timeout)
            if self.status == "error":
                raise error
            if not takes:
                self.status = "error"
            if timeout < takes or not takes:
                raise TimeoutError
            return "cut"

    client = types.SimpleNamespace(submit=lambda *a, **k: Future(), nthreads=lambda: {"one": 1})
    task = cluster.Task(print, (), ["a"], [])
    gathered = partial(cluster.gather, client, None, [task], "cutting", "tcp://", "slide", progress=False)
    if takes:
        assert gathered() == ["cut"]
        assert tried == [10, 20, 40]
    else:
        with pytest.raises(type(error)):
            gathered()
        assert len(tried) <= 2


@pytest.mark.slow
def test_scheduler_that_dies(tmp_path, scheduler_process, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_S", 2.0)
    running, address = scheduler_process
    store = cohort(tmp_path, 48, cluster=address)
    with worker(address, "one"):

        def kill():
            eventually(lambda: n_cut(store) >= 2)
            running.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        started = time.monotonic()
        with pytest.raises(InputError, match=r"the scheduler at tcp://127.* no longer answers"):
            cluster.cut(store)
        killer.join()
        assert time.monotonic() - started < SOON_S


@pytest.mark.slow
def test_workers_that_cannot_take_part_are_named(tmp_path, scheduler):
    """One has no code, one an empty disk where the cohort lies here; the third is fit, and not named."""
    elsewhere = ("unshare", "-Urm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(tmp_path))
    store = cohort(tmp_path, 3, cluster=scheduler)
    without = tmp_path / "without"  # the library may be installed: here it cannot be imported
    without.mkdir()
    (without / "sitecustomize.py").write_text("import sys\nsys.modules['lib'] = None\n")
    with ExitStack() as stack:
        stack.enter_context(worker(scheduler, "fit"))
        stack.enter_context(worker(scheduler, "codeless", PYTHONPATH=str(without)))
        if mounts := not subprocess.run([*elsewhere, "true"], capture_output=True, check=False).returncode:
            stack.enter_context(worker(scheduler, "diskless", before=elsewhere))
        client = stack.enter_context(client_of(scheduler, 2 + mounts))
        names = {about["name"]: address for address, about in client.scheduler_info()["workers"].items()}
        with pytest.raises(InputError) as caught:
            cluster.cut(store)
    assert f"{names['codeless']} cannot import this library" in str(caught.value)
    if mounts:
        assert f"{names['diskless']} does not see {store.derived} as it is here" in str(caught.value)
    assert names["fit"] not in str(caught.value)
    assert not list(store.path("stacks").glob("*.npy"))


def test_what_a_worker_lacks(tmp_path):
    """The checks that a worker makes, each against what it is for."""
    code = {module: cluster.code_versions.of_work(module) for module in cluster.CODE}
    token, slide = tmp_path / ".cluster-1", tmp_path / "a.svs"
    assert "does not see" in cluster.problem(code, str(token), [])
    token.touch()
    assert cluster.problem(code, str(token), []) == ""
    assert f"cannot read {slide}" in cluster.problem(code, str(token), [str(slide)])
    slide.touch()
    assert cluster.problem(code, str(token), [str(slide)]) == ""
    other = code | {"lib.tiles.cut": "lib.tiles.cut:0"}
    assert "another version of lib.tiles.cut" in cluster.problem(other, str(token), [])


def test_unreachable_scheduler_is_an_error_within_seconds(make_store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    store = make_store(cluster=address)
    frame = pd.DataFrame({"sample_id": ["a"], "slide_id": ["a"]})
    store.save("samples", frame)
    started = time.monotonic()
    with pytest.raises(InputError, match=rf"no dask scheduler answers at {address}.*set cluster"):
        cluster.cut(store)
    assert time.monotonic() - started < 2 * cluster.ANSWER_S


@pytest.mark.parametrize(
    "address", ["tcp://h:8786", "tls://10.0.0.1:1", "tcp://[::1]:8786", "slurm", "local"]
)
def test_addresses(address):
    assert Config(cohort="mine", cluster=address).cluster == address


@pytest.mark.parametrize(
    "address", ["", "http://h:1", "tcp://h", "h:8786", "tcp://:8786", "Slurm", "tcp://h:p"]
)
def test_what_is_no_cluster_is_refused(address):
    with pytest.raises(InputError, match=r'give "local", "slurm", or the address of a dask scheduler'):
        Config.checked({"cohort": "mine", "cluster": address})


def test_jobs_of_slurm_say_what_the_cohort_says(tmp_path):
    """The job's script, as dask-jobqueue would hand it to sbatch."""
    pytest.importorskip("dask_jobqueue")
    from lib import slurm_workers

    settings = {"partition": "gpu", "account": "lab", "cpus": 6, "gpus": 1, "memory_gb": 12.5, "minutes": 90}
    settings |= {"directives": ["--constraint=a100"], "prologue": ["module load cuda"]}
    jobs = Config.checked({"cohort": "mine", "cluster": "slurm", "slurm": settings}).slurm
    with slurm_workers.slurm_cluster(jobs, 6, tmp_path / "jobs") as made:
        script = made.job_script()
    for line in ("-p gpu", "-A lab", "--cpus-per-task=6", "--gres=gpu:1", "--constraint=a100", "-t 01:30:00"):
        assert f"#SBATCH {line}\n" in script, script
    assert re.search(r"#SBATCH --mem=1[23]G", script), script
    assert "\nmodule load cuda\n" in script
    assert "--nworkers 6" in script
    with pytest.raises(InputError, match=r"slurm.cpus = 0"):
        Config.checked({"cohort": "mine", "slurm": {"cpus": 0}})
    assert Jobs(minutes=1500).walltime == "25:00:00"
