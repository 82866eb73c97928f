"""Workers of dask that are jobs of Slurm, through dask-jobqueue, and what becomes of those jobs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lib import slurm_queue
from lib.errors import InputError
from lib.slurm import Jobs

LOOK_S = 10.0  # between looks at the queue while there is no worker
SUBMITTED_S = 120.0  # after which a job is in the queue, or never will be


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
    from distributed import Client

    with slurm_cluster(jobs, n_processes, log_dir) as made, Client(made, set_as_default=False) as client:
        slurm_queue.require_accepted(made.job_script())
        made.scale(jobs=jobs.jobs)
        print(f"waiting for the first of {jobs.jobs} jobs of Slurm", flush=True)
        known, since = "", time.monotonic()
        while not client.nthreads():
            with suppress(TimeoutError):
                client.wait_for_workers(1, timeout=LOOK_S)
                break
            states = in_queue(made)
            if not states and (made.workers or time.monotonic() - since > SUBMITTED_S):
                raise InputError(f"the jobs of Slurm ended before a worker was there: see {log_dir}")
            if states != known:
                print(f"in Slurm's queue: {states}", flush=True)
            known = states
        yield client


def slurm_cluster(jobs: Jobs, n_processes: int, log_dir: Path) -> Any:
    """A scheduler on this machine whose workers are jobs of Slurm; none is submitted yet."""
    from dask_jobqueue.slurm import SLURMCluster

    log_dir.mkdir(parents=True, exist_ok=True)
    gpus = [f"--gres=gpu:{jobs.gpus}"] if jobs.gpus else []
    return SLURMCluster(
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
    return slurm_queue.states([job.job_id for job in made.workers.values() if job.job_id])
