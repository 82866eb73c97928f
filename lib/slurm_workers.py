"""Workers of dask that are jobs of Slurm, through dask-jobqueue, and what becomes of those jobs."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.core import Status

from lib import slurm_queue
from lib.errors import InputError
from lib.slurm import Jobs

INTERRUPTED = signal.getsignal(signal.SIGINT)
from dask_jobqueue.slurm import SLURMCluster, SLURMJob  # noqa: E402

signal.signal(
    signal.SIGINT, INTERRUPTED or signal.SIG_DFL
)  # dask-jobqueue takes it for itself, and then exits in silence

LOOK_S = 10.0  # between looks at the queue while there is no worker


class _Job(SLURMJob):
    """A job that keeps what Slurm said where it was refused, in place of a traceback."""

    refusal = ""

    async def start(self) -> None:
        try:
            await super().start()
        except RuntimeError as error:
            self.refusal = str(error).rpartition("stderr:")[2].strip()
            self.status = Status.running  # as is expected of what was started; there is nothing to end

    async def close(self) -> None:
        await super().close()
        self.status = Status.closed  # dask-jobqueue leaves it, and distributed asserts it where one is held


class _Cluster(SLURMCluster):
    job_cls = _Job


@contextmanager
def workers(jobs: Jobs, n_processes: int, log_dir: Path) -> Iterator[Any]:
    """A client of a scheduler on this machine, once the first of its workers has started.

    Parameters
    ----------
    n_processes : in each job.
    log_dir : what the jobs print, a file for each.

    Raises
    ------
    InputError : Slurm is not here or takes no such job, or all jobs ended before a worker was there.
    """
    if not shutil.which("sbatch"):
        raise InputError('cluster = "slurm" needs sbatch on this machine: start from a login node')
    with slurm_cluster(jobs, n_processes, log_dir) as made, Client(made, set_as_default=False) as client:
        made.scale(jobs=jobs.jobs)
        print(f"waiting for the first of {jobs.jobs} jobs of Slurm", flush=True)
        _wait(client, made, log_dir)
        refused = {job.refusal for job in list(made.workers.values()) if job.refusal}
        if refused:
            print(f"Slurm does not take all {jobs.jobs} jobs: {'; '.join(refused)}", flush=True)
        yield client


def _wait(client: Client, made: Any, log_dir: Path) -> None:
    """Until there is a worker; says what the queue says of the jobs whenever that changes."""
    known = ""
    while not client.nthreads():
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=LOOK_S)
            return
        submitted = list(made.workers.values())  # all at once, when the last has been answered
        if submitted and all(job.refusal for job in submitted):
            raise InputError(f"Slurm takes no such job; see [slurm] of the cohort: {submitted[0].refusal}")
        states = in_queue(made) if submitted else "being submitted"
        if not states:
            raise InputError(f"the jobs of Slurm ended before a worker was there: see {log_dir}")
        if states != known:
            print(f"in Slurm's queue: {states}", flush=True)
        known = states


def slurm_cluster(jobs: Jobs, n_processes: int, log_dir: Path) -> Any:
    """A scheduler on this machine whose workers are jobs of Slurm; none is submitted yet."""
    log_dir.mkdir(parents=True, exist_ok=True)
    gpus = [f"--gres=gpu:{jobs.gpus}"] if jobs.gpus else []
    return _Cluster(
        queue=jobs.partition or None,
        account=jobs.account or None,
        cores=jobs.cpus,
        processes=n_processes,
        memory=f"{jobs.memory_gb:g}GB",
        walltime=jobs.walltime,
        interface=jobs.interface or None,
        job_extra_directives=[f'--output="{log_dir}/worker-%j.out"', *gpus, *jobs.directives],
        job_script_prologue=list(jobs.prologue),
    )


def in_queue(made: Any) -> str:
    """The states of the cluster's jobs that Slurm still has (`slurm_queue.states`)."""
    return slurm_queue.states([job.job_id for job in list(made.workers.values()) if job.job_id])
