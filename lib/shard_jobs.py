"""Shards as jobs of a batch queue, through submitit: of Slurm where there is one, else on this machine.

A job is the command line of a shard; submitit keeps that, and what it printed, in a folder of its own.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lib import slurm_queue
from lib.errors import InputError
from lib.slurm import Jobs

LOOK_S = 5.0  # between looks at a job of Slurm
SHOWN_S = 60.0  # until a network disk shows the result of a job that has ended


def queue() -> str:
    """The queue that this machine has: "slurm" or "local"."""
    return "slurm" if shutil.which("sbatch") else "local"


def executor(of: Jobs, name: str, log_dir: Path, where: str) -> Any:
    """submitit's executor for jobs of this size; their output goes to `log_dir`."""
    try:
        import submitit
    except ImportError as error:
        raise InputError("submitting needs submitit: python -m pip install -e '.[cluster]'") from error
    log_dir.mkdir(parents=True, exist_ok=True)
    found = submitit.AutoExecutor(folder=log_dir, cluster=where)
    found.update_parameters(
        name=name,
        timeout_min=of.minutes,
        mem_gb=of.memory_gb,
        cpus_per_task=of.cpus,
        gpus_per_node=of.gpus,
    )
    if where == "slurm":
        extra = dict(_directive(text) for text in of.directives)
        account = {"slurm_account": of.account} if of.account else {}
        partition = {"slurm_partition": of.partition} if of.partition else {}
        found.update_parameters(
            slurm_array_parallelism=of.jobs,
            slurm_setup=list(of.prologue),
            slurm_additional_parameters=extra,
            **account,
            **partition,
        )
    return found


def _directive(text: str) -> tuple[str, str | bool]:
    """An option of sbatch, "--constraint=a100" or "--exclusive", as submitit takes it."""
    name, equals, value = text.removeprefix("--").partition("=")
    return name, value if equals else True


def submit(executor_: Any, commands: list[list[str]]) -> list[Any]:
    """Submit one job for each command line, as one array where the queue has arrays."""
    return executor_.map_array(subprocess.call, commands)


def at_once(executor_: Any, commands: list[list[str]], n: int) -> Iterator[str]:
    """Run the commands `n` at a time and yield how each ended: "" or what went wrong; in their order."""
    with ThreadPoolExecutor(n) as pool:
        yield from pool.map(lambda command: ending(executor_.submit(subprocess.call, command)), commands)


def _wait(job: Any) -> None:
    """Wait for a job of Slurm; RuntimeError where it left the queue without a result.

    submitit asks `sacct`, which many a Slurm lacks; then it would wait for ever for a job that was killed.
    """
    said, gone_since = "", time.monotonic()
    while not job.paths.result_pickle.exists():
        states = slurm_queue.states([job.job_id])
        if states:
            gone_since = time.monotonic()
        elif time.monotonic() - gone_since > SHOWN_S:
            raise RuntimeError("it left Slurm's queue without a result: cancelled, or out of time or memory")
        job.paths.folder.chmod(job.paths.folder.stat().st_mode)  # has a network disk look again
        if states and states != said:
            tqdm.write(f"job {job.job_id} in Slurm's queue: {states}")
        said = states
        time.sleep(LOOK_S)


def ending(job: Any, where: str = "local") -> str:
    """Wait for a job; "" where its command came to its end, else what went wrong and where its output is."""
    try:
        if where == "slurm":
            _wait(job)
        code = job.result()
    except Exception as error:
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        return f"job {job.job_id} did not finish ({first[0]}): see {job.paths.stderr}"
    what = "" if code != 1 else " (1: slides failed, or more)"
    return f"job {job.job_id} ended with exit code {code}{what}: see {job.paths.stderr}" if code else ""
