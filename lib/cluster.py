"""Work on other machines: spread over the workers of a dask scheduler, or of Slurm.

Here the slides of notebooks 01 and 04; `lib.gene_shards` has the genes of notebook 06.

The workers see the cohort's folders under the same paths and write there what this machine would write, with
the same records, so that a notebook which calls this finds the work done. A worker that dies costs the slides
it had at that moment, which others take over.
"""

import os
import platform
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from lib import code_versions
from lib.cohort import sample_slides
from lib.config import Config
from lib.errors import InputError
from lib.slurm import Jobs
from lib.store import Store
from lib.tiles.stored import files_read
from lib.whole_files import write_text

ANSWER_S = 10.0  # for a scheduler to answer, and to have a worker
ALONE_S = 60.0  # without any worker, after which the work is given up
# workers need it as it is here
CODE = ("lib.tiles.cut", "lib.features.quantify", "lib.statistics.null_maxima")
RETRIES = 2  # of a task that fails, on any worker: a disk may have been away for a moment
ONE_AT_A_TIME = threading.Lock()  # in a process: networks are read through hooks, products use all cores
SLIDES_PER_TASK = 8  # at most, of those measured: each task hashes the network's weights


@dataclass(frozen=True)
class Share:
    """What a worker needs to take part."""

    code: dict[str, str]  # module -> fingerprint
    token: Path  # a file that this machine has just written into the cohort's folder


@dataclass(frozen=True)
class Task:
    """A call on a worker."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    names: list[str]  # of its slides, or genes
    files: list[Path]  # that it reads


def cut(store: Store) -> None:
    """Cut the cohort's slides on the workers of `cluster`; nothing where it is local or the tiles are there.

    Raises InputError where scheduler or workers cannot do the work, RuntimeError where slides ended workers.
    """
    if store.config.cluster == "local" or all(store.is_current(name) for name in ("tiles", "slides")):
        return
    from lib.tiles import cut_all  # late, as others here: a notebook imports this whether or not it is used

    config, samples_df = store.config, sample_slides.by_slide(store.load("samples"))
    paths = {i: path for i, path in store.slide_paths(samples_df).items() if path.is_file()}
    how = store.path("stacks"), config.tiling, 1, config.slide_limit_s
    stored = store.stored_slides(samples_df)
    tasks = [
        Task(
            cut_all.cut_each,
            (slide_df, {str(i): paths[str(i)]}, *how, stored & {str(i)}),
            [str(i)],
            [paths[str(i)]],
        )
        for i, slide_df in samples_df.groupby("slide_id", sort=False)
        if i in paths
    ]
    with workers(store, config.slurm.without_gpus, config.slurm.cpus) as client:
        rows = [row for rows in _spread(client, store, tasks, "cutting") for row in rows]
    failed = [row for row in rows if row["state"] == "failed"]
    print(f"{len(rows) - len(failed)} of {len(rows)} slides are cut")
    for row in failed:
        print(f"failed: {row['slide_id']}: {row['reason']}")


def measure(store: Store) -> None:
    """Measure what notebook 04 measures, as `cut`; nothing where it is measured."""
    if store.config.cluster == "local":
        return
    from lib import slide_work

    config, work = store.config, slide_work.to_measure(store)
    todo = work.unfinished(store)
    if not any(todo.values()):
        return
    network, tasks = store.path("network"), []
    n_processes = 1 if config.slurm.gpus else config.slurm.cpus
    with workers(store, config.slurm, n_processes) as client:
        n_threads = max(1, sum(client.nthreads().values()))
        for name, slide_ids in todo.items():
            n_each = min(SLIDES_PER_TASK, max(1, len(slide_ids) // (4 * n_threads)))
            for start in range(0, len(slide_ids), n_each):
                ids = slide_ids[start : start + n_each]
                tiles_df = work.of(ids).tiles_df[name]
                arguments = network, store.fingerprint("network"), tiles_df, store.path(name), config
                files = [network, *(path for i in tiles_df["file"].unique() for path in files_read(i))]
                tasks.append(Task(_measure, arguments, ids, files))
        _spread(client, store, tasks, "measuring")


def _measure(network: Path, fingerprint: str, tiles_df: pd.DataFrame, out_dir: Path, config: Config) -> None:
    """On a worker: sums of features over the tiles of some slides."""
    from lib.features import sample_sums

    with ONE_AT_A_TIME:
        model = _network(network, fingerprint, config.architecture)
        sample_sums.quantify_samples(model, tiles_df, out_dir, config.quantification)  # on its own device


@cache
def _network(path: Path, fingerprint: str, architecture: str) -> Any:
    """The network of this content, read once by each process."""
    from lib.network import models

    return models.load(path, architecture)[0]


def _do(task: Task, share: Share) -> Any:
    """On a worker: the task, unless something that it needs is missing here."""
    if why := problem(share.code, str(share.token), [str(file) for file in task.files]):
        raise InputError(f"the worker on {socket.gethostname()} {why}")
    return task.function(*task.arguments)


def problem(code: dict[str, str], token: str, files: list[str]) -> str:
    """What this process lacks to take part (`Share`), to follow its name; "" where it lacks nothing."""
    for module, known in code.items():
        if code_versions.of_work(module) != known:
            return f"has another version of {module}: start it with the code of this repository"
    folder = os.path.dirname(token)
    if token and not os.path.isfile(token):
        return f"does not see {folder} as it is here: the folder must be shared, under the same path"
    if token and not os.access(folder, os.W_OK):
        return f"may not write into {folder}"
    unread = [file for file in files if not os.access(file, os.R_OK)]
    return f"cannot read {unread[0]}: it must be there under the same path" if unread else ""


def _look_here() -> Callable[..., str]:
    """`problem` as a function that travels as code, not as a name: whoever lacks this library answers too."""

    def look(code: dict[str, str], token: str, files: list[str]) -> str:
        try:
            from lib import cluster
        except Exception as error:
            return f"cannot import this library ({error}): start it in the environment of this repository"
        return cluster.problem(code, token, files)

    return look


# -- the client's side --------------------------------------------------------------------------------------


@contextmanager
def workers(store: Store, jobs: Jobs, n_processes: int) -> Iterator[Any]:
    """A client of the configured scheduler, which has a worker; `n_processes` in a job of Slurm."""
    cluster = store.config.cluster
    try:
        from distributed import Client

        if cluster == "slurm":
            from lib import slurm_workers
    except ImportError as error:
        raise InputError(
            f"cluster = {cluster!r} needs dask: python -m pip install -e '.[cluster]' here and on the "
            'workers, or set cluster = "local"'
        ) from error
    if cluster == "slurm":
        with slurm_workers.workers(jobs, n_processes, store.derived / "jobs") as client:
            yield client
        return
    try:
        client = Client(cluster, timeout=ANSWER_S, set_as_default=False)
    except TypeError as error:
        raise InputError(
            f"cluster = {cluster!r} needs certificates, and dask's configuration here names none "
            "(distributed.comm.tls): https://distributed.dask.org/en/stable/tls.html"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"no dask scheduler answers at {cluster} within {ANSWER_S:g} s: start it (`dask "
            f'scheduler`) and its workers (`dask worker {cluster}`), or set cluster = "local"'
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=ANSWER_S)
        except TimeoutError as error:
            raise InputError(
                f"the scheduler at {cluster} has no worker: start some, `dask worker {cluster}`"
            ) from error
        yield client


def _spread(client: Any, store: Store, tasks: list[Task], what: str) -> list[Any]:
    """What the tasks of slides return, in the order in which they are done."""
    with announced(store) as share:
        require_fit(client, share, tasks)
        return gather(client, share, tasks, what, store.config.cluster, "slide")


def gather(
    client: Any, share: Share, tasks: list[Task], what: str, cluster: str, unit: str, progress: bool = True
) -> list[Any]:
    """What tasks return, in the order in which they are done; with a bar of their slides, or genes (`unit`).

    An interruption, or a task that fails on every try, takes back what is waiting.
    """
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    results, fatal, done = [], [], SimpleQueue()
    watch = _Watch(client, cluster)
    n_names = sum(len(task.names) for task in tasks)
    with tqdm(total=n_names, unit=unit, desc=what, disable=not progress) as bar:
        run = secrets.token_hex(4)
        keys = [f"{what}-{task.names[0]}-{i}-{run}" for i, task in enumerate(tasks)]
        waiting: dict[Any, Task] = {}
        patience: dict[Any, float] = {}  # seconds for an answer, more for one that is long in coming
        try:
            for key, task in zip(keys, tasks, strict=True):
                future = client.submit(_do, task, share, key=key, retries=RETRIES)
                waiting[future] = task
                future.add_done_callback(done.put)
            while waiting:
                future = _next(done, watch)
                task = waiting.pop(future)
                try:
                    results.append(future.result(timeout=patience.setdefault(future, ANSWER_S)))
                    watch.alone_since = 0.0
                except TimeoutError:
                    if future.status == "error" and isinstance(future.exception(), TimeoutError):
                        raise  # that of the task; another comes next time
                    if future.status == "finished":
                        patience[future] *= 2
                    waiting[future] = task  # else its worker died with the result: it is computed again
                    future.add_done_callback(done.put)  # at once, as long as it is lost
                    watch.look()
                    continue
                except KilledWorker:
                    fatal += task.names
                except (CommClosedError, FutureCancelledError) as error:
                    raise _gone(f"the scheduler at {cluster} no longer answers") from error
                bar.update(len(task.names))
        except BaseException:
            with suppress(Exception):  # the scheduler may be what went wrong
                client.cancel(list(waiting), force=True)
            raise
    if fatal:
        raise RuntimeError(
            f"every worker that had one of these {len(fatal)} {unit}s died: {', '.join(fatal[:5])}; most "
            f"likely for lack of memory: give them more (all other {unit}s are done)"
        )
    return results


def _next(done: SimpleQueue, watch: "_Watch") -> Any:
    """The next future that is done, or lost."""
    while True:
        try:
            return done.get(timeout=ANSWER_S)
        except Empty:
            watch.look()


class _Watch:
    """Whether scheduler and workers are there, looked at whenever nothing comes."""

    def __init__(self, client: Any, address: str) -> None:
        self.client, self.address = client, address
        self.alone_since, self.known = 0.0, ""

    def look(self) -> None:
        """InputError where scheduler or workers are gone for good."""
        try:
            alone = not self.client.nthreads()
        except Exception as error:
            raise _gone(f"the scheduler at {self.address} no longer answers") from error
        self.alone_since = (self.alone_since or time.monotonic()) if alone else 0.0
        if not alone or time.monotonic() - self.alone_since < ALONE_S:
            return
        if self.client.cluster is None:
            raise _gone(f"the scheduler at {self.address} has lost all its workers")
        from lib import slurm_workers

        states = slurm_workers.in_queue(self.client.cluster)
        if not states:
            raise _gone("all jobs of Slurm have ended, perhaps since their time was up ([slurm] minutes)")
        if states != self.known:
            print(f"no worker; in Slurm's queue: {states}", flush=True)
        self.known = states


def _gone(what: str) -> InputError:
    return InputError(f"{what}: start it, or them, again, then this (finished slides are kept)")


@contextmanager
def announced(store: Store) -> Iterator[Share]:
    """What workers must have, with a new file in the cohort's folder by which they prove to see it."""
    token = store.derived / f".cluster-{secrets.token_hex(8)}"
    token.parent.mkdir(parents=True, exist_ok=True)
    write_text(token, socket.gethostname())
    try:
        yield Share({module: code_versions.of_work(module) for module in CODE}, token)
    finally:
        token.unlink(missing_ok=True)


def require_fit(client: Any, share: Share, tasks: list[Task]) -> None:
    """InputError naming each worker that cannot do the work, and why; those that join later say it then."""
    needs = share.code, str(share.token), [str(file) for task in tasks[:1] for file in task.files]
    python = ".".join(platform.python_version_tuple()[:2])
    versions = client.get_versions()
    others = {"the scheduler": versions["scheduler"], **versions["workers"]}
    others = {name: known["host"]["python"] for name, known in others.items()}
    found = {
        name: f"runs Python {other}, this machine {python}"
        for name, other in others.items()
        if not other.startswith(f"{python}.")
    }
    if not found:
        look = _look_here()
        found = client.run(look, *needs, on_error="return")
        found["the scheduler"] = client.run_on_scheduler(look, {}, "", [])  # it reads the calls, not the data
    unfit = [f"  {name} {why}" for name, why in found.items() if why]
    if unfit:
        raise InputError(f"{len(unfit)} of the cluster cannot take part:\n" + "\n".join(unfit))
