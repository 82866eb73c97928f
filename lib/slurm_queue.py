"""What Slurm says of jobs: whether it would take one, and the states of those in its queue."""

import subprocess
from collections.abc import Sequence

from lib.errors import InputError

ANSWER_S = 60.0  # for Slurm's commands


def require_accepted(script: str) -> None:
    """InputError, in Slurm's own words, where it would not take this job."""
    try:
        done = _run(["sbatch", "--test-only"], script)
    except FileNotFoundError as error:
        raise InputError('cluster = "slurm" needs sbatch on this machine: start from a login node') from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"Slurm does not answer within {ANSWER_S:g} s (sbatch --test-only)") from error
    if done.returncode:
        raise InputError(f"Slurm takes no such job; see [slurm] of the cohort's file: {done.stderr.strip()}")


def states(job_ids: Sequence[str]) -> str:
    """How many of the jobs are in which state, such as "2 PENDING (Priority)"; "" where all have left.

    What cannot be asked at the moment is said as well ("unknown, ..."), and is not the end of a job.
    """
    if not job_ids:
        return ""
    command = ["squeue", "--noheader", "--format=%T (%r)", f"--jobs={','.join(job_ids)}"]
    try:
        done = _run(command)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown, {error}"
    if done.returncode and "Invalid job id" not in done.stderr:
        return f"unknown, {done.stderr.strip()}"
    found = done.stdout.splitlines()
    return ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(found))


def _run(command: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=ANSWER_S, check=False)
