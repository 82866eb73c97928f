"""One run at a time in a cohort's folders: who holds the lock, since when, and on which computer.

The lock is the file `.lock` of the cohort's derived data, held with the operating system's file locks: these
vanish with the process that holds them, also on a network disk, so no lock outlives a killed run. `.holder`
says in words who holds it. The kernels that a run starts work under its lock, as the environment tells them.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from lib.errors import BusyError
from lib.whole_files import read_json, write_json, writing_explained

TOKEN = "HISTOCORR_LOCK"  # environment variable: "<token> <folder>" of the lock that a parent process holds
WAIT_S = 5.0  # saving takes less: whoever holds the lock for longer computes


@contextmanager
def holding(folder: Path, what: str, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock of a cohort while the context lasts; at once where this run or its parent holds it.

    Parameters
    ----------
    folder : the cohort's derived data; made if it is missing
    what : what the holder does, for whoever meets the lock: "notebook 02_train"
    wait_s : how long to wait for another holder, seconds; -1 for ever

    Raises
    ------
    BusyError
        Another run holds it; it is named.
    OutputError
        The folder cannot be written.
    """
    if _parent_holds(folder):
        yield
        return
    lock = _lock(str(folder.resolve()))
    with writing_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            raise BusyError(f"{folder} is in use by {holder(folder)}: wait for it, or stop it") from None
    try:
        if lock.lock_counter == 1:
            about = {"host": socket.gethostname(), "process": os.getpid(), "what": what}
            about |= {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": secrets.token_hex(8)}
            write_json(folder / ".holder", about)
        yield
    finally:
        if lock.lock_counter == 1:
            (folder / ".holder").unlink(missing_ok=True)
        lock.release()


@cache
def _lock(folder: str) -> FileLock:
    """The one lock object of a folder in this process; it counts how often it is held."""
    return FileLock(Path(folder) / ".lock", thread_local=False)


def for_children(folder: Path) -> dict[str, str]:
    """Environment for the processes that the holder starts, so that they work under its lock."""
    return {TOKEN: f"{_about(folder).get('token', '')} {folder.resolve()}"}


def holder(folder: Path) -> str:
    """Who holds the lock, in words."""
    about = _about(folder)
    if not about:
        return "another run"
    return f"{about['what']} (process {about['process']} on {about['host']}, since {about['since']})"


def held_by(folder: Path) -> str:
    """Who holds the lock now, in words; "" where nobody does."""
    lock = _lock(str(folder.resolve()))
    if not lock.is_locked:
        try:
            with lock.acquire(timeout=0):
                return ""
        except Timeout:
            pass
    return holder(folder)


def _parent_holds(folder: Path) -> bool:
    """Whether the run that started this process still holds the lock."""
    token, _, where = os.environ.get(TOKEN, "").partition(" ")
    return bool(token) and where == str(folder.resolve()) and _about(folder).get("token") == token


def _about(folder: Path) -> dict[str, str]:
    about = read_json(folder / ".holder")
    return about if {"what", "process", "host", "since"} <= about.keys() else {}
