"""The states of jobs in Slurm's queue."""

import subprocess
from collections.abc import Sequence

ANSWER_S = 60.0  # for Slurm


def states(job_ids: Sequence[str]) -> str:
    """How many of the jobs are in which state, such as "2 PENDING (Priority)"; "" where all have left.

    Where Slurm does not answer "unknown" and why, which is not the end of a job.
    """
    if not job_ids:
        return ""
    command = ["squeue", "--noheader", "--format=%T (%r)", f"--jobs={','.join(job_ids)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown, {error}"
    if done.returncode and "Invalid job id" not in done.stderr:
        return f"unknown, {done.stderr.strip()}"
    found = done.stdout.splitlines()
    return ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(found))
