"""A Slurm of its own on this machine: controller, one node and keys in a folder, on free ports."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
SOON_S = 30
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=5
KillWait=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(folder):
    """Start it; the variables that its commands need. Skips where it is not installed, or without root."""
    lacking = [name for name in COMMANDS if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    if lacking or os.geteuid():
        pytest.skip(f"needs root and Slurm (Debian: slurm-wlm, munge); lacking: {lacking}")
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], ports=free_ports(2), folder=folder))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    munge = [f"--{key}={folder}/munge.{key.partition('-')[0]}" for key in ("socket", "key-file", "pid-file")]
    munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": os.environ["PATH"] + ":/usr/sbin"}
    started = []
    try:
        for line in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            with open(folder / f"{line[0]}.out", "wb") as out:
                started.append(subprocess.Popen(line, env=environment, stdout=out, stderr=out))
            time.sleep(1)
        _wait_until_idle(environment, folder)
        yield {name: environment[name] for name in ("SLURM_CONF", "PATH")}
    finally:
        _end_jobs(environment)
        for one in reversed(started):  # the node while the controller is there, and the keys last
            one.terminate()
            try:
                one.wait(SOON_S)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


def _end_jobs(environment):
    """Cancel what is left, and wait until it has gone."""
    run = {"env": environment, "capture_output": True, "check": False}
    subprocess.run(["scancel", "--state=PENDING"], **run)
    subprocess.run(["scancel", "--state=RUNNING"], **run)
    deadline = time.monotonic() + SOON_S
    while subprocess.run(["squeue", "--noheader"], **run).stdout and time.monotonic() < deadline:
        time.sleep(0.2)


def _wait_until_idle(environment, folder):
    deadline = time.monotonic() + SOON_S
    line = ["sinfo", "--noheader", "--format=%T"]
    while (
        done := subprocess.run(line, env=environment, capture_output=True, check=False)
    ).stdout != b"idle\n":
        if time.monotonic() > deadline:
            logs = "".join(path.read_text() for path in folder.glob("*.out"))
            pytest.skip(f"Slurm does not start on this machine: {done.stdout + done.stderr}\n{logs}")
        time.sleep(0.2)
