"""Resumable downloads of many large files, several at a time, their size estimated before the first byte.

The body of a file grows in `<name>.part`; the record beside it keeps the address, the total length and the
server's validator (ETag or date), so a later run asks only for the missing bytes and notices a changed file.
A body takes its final name when it has the promised length and passes the check. RFC 9110, sections 13.1.5
(If-Range) and 14 (Range).
"""

import errno
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm.auto import tqdm
from urllib3.exceptions import MaxRetryError

from lib import work_records
from lib.errors import InputError
from lib.sources.http_body import BodyError, NotOnServerError, copy_body, require_file
from lib.sources.http_session import (
    NETWORK_ERRORS,
    DownloadError,
    Session,
    Settings,
    body_range,
    validator_of,
)

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
PROBE_BYTES, N_PROBES, SPARE_BYTES = 1 << 20, 6, 1e9


class NowhereError(DownloadError):
    """None of a file's addresses has it."""


Check = Callable[[Path], None]  # raises ValueError for a complete body that is not what it should be


class File(NamedTuple):
    """One file to fetch: its path, and the addresses to try in turn (the next one after a 404)."""

    path: Path
    urls: tuple[str, ...]


class Estimate(NamedTuple):
    """What a download will need. Sizes in bytes; speed in bytes per second over one connection, 0 when
    unknown.
    """

    n_files: int
    n_present: int
    n_probed: int
    bytes_per_file: float
    bytes_to_fetch: float
    bytes_per_second: float
    bytes_free: int

    def __str__(self) -> str:
        if not self.n_files:
            return "no files: nothing to fetch"
        text = (
            f"{self.n_files} files, {self.n_present} already present; about {self.bytes_to_fetch / 1e9:.1f}"
            f" GB to fetch ({self.bytes_per_file / 1e6:.0f} MB per file, from {self.n_probed} of them);"
            f" {self.bytes_free / 1e9:.1f} GB free"
        )
        if self.bytes_per_second:
            hours = self.bytes_to_fetch / self.bytes_per_second / 3600
            text += f"; {hours:.1f} h over one connection at {self.bytes_per_second / 1e6:.1f} MB/s"
        return text


# ---------------------------------------------------------------------------------------------- many files


def fetch_all(
    files: Sequence[File], check: Check, settings: Settings, assumed_bytes: float = 0.0
) -> pd.DataFrame:
    """Fetch `files`, several at a time; those already present and whole are left alone.

    The sizes of a few files are requested first (`estimate`): a disk that is too small ends the call before
    the first file, one that fills up ends it later. A file that fails otherwise does not stop the others.
    Partial files are kept, also after Ctrl-C.

    Parameters
    ----------
    check : called with the path of a complete body; raises ValueError when it is not the wanted file.
    assumed_bytes : size of a file where the server does not tell.

    Returns
    -------
    DataFrame, a row per file in the given order: path, state ("present", "downloaded", "failed"), n_bytes,
    url, reason (empty unless failed).

    Raises
    ------
    ValueError for two files of the same path or settings out of range, OSError for a folder that cannot be
    created, RuntimeError when the disk is too small or becomes full, or no server can be reached.
    """
    _check_arguments(files, settings)
    expected = estimate(files, settings, assumed_bytes)
    print(expected)
    needed = expected.bytes_to_fetch + SPARE_BYTES
    if expected.bytes_to_fetch and expected.bytes_free < needed:
        raise RuntimeError(
            f"the disk of {files[0].path.parent} has {expected.bytes_free / 1e9:.1f} GB free, but"
            f" {needed / 1e9:.1f} GB are needed ({expected.bytes_to_fetch / 1e9:.1f} GB to fetch,"
            f" {SPARE_BYTES / 1e9:.1f} GB to spare): free some, choose another folder, or fetch fewer files"
        )
    for folder in {file.path.parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)
    rows: dict[int, dict[str, Any]] = {}
    total = expected.bytes_to_fetch or None
    with tqdm(total=total, unit="B", unit_scale=True, desc="download") as bar:
        session = Session(settings, bar)
        with ThreadPoolExecutor(settings.n_parallel) as pool:
            waiting = {pool.submit(_row, file, check, session): i for i, file in enumerate(files)}
            try:
                for done in as_completed(waiting):
                    rows[waiting[done]] = done.result()
                    bar.set_postfix_str(f"{len(rows)}/{len(files)} files")
            except BaseException as error:
                session.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    raise RuntimeError(_disk_full(error, files, expected)) from error
                raise
    columns = ["path", "state", "n_bytes", "url", "reason"]
    return pd.DataFrame([rows[i] for i in range(len(files))], columns=columns)


def command(fetch: Callable[[], int]) -> int:
    """Run what a command downloads, errors in a line each; the exit status: 2 for errors, 130 for Ctrl-C."""
    try:
        return fetch()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; partial files are kept, and the same command continues them", file=sys.stderr)
        return 130


def summarise(report_df: pd.DataFrame, where: object) -> int:
    """Print what `fetch_all` did, failures with their reasons; 1 where there are any."""
    failed_df = report_df[report_df["state"] == "failed"]
    for path, reason in zip(failed_df["path"], failed_df["reason"], strict=True):
        print(f"failed: {path}: {reason}", file=sys.stderr)
    counts = report_df["state"].value_counts()
    print(", ".join(f"{n:,} {state}" for state, n in counts.items()), f"in {where}")
    return int(len(failed_df) > 0)


def estimate(files: Sequence[File], settings: Settings, assumed_bytes: float = 0.0) -> Estimate:
    """Size of the missing files, from the first bytes of a few spread over the list, and the speed seen."""
    missing = [file for file in files if not file.path.is_file()]
    sizes, speeds, refused = [], [], []
    n_probes = min(N_PROBES, len(missing))
    session = Session(settings._replace(n_retries=0))
    for file in (missing[i * len(missing) // n_probes] for i in range(n_probes)):
        try:
            size, speed = _probe(file, session)
        except (DownloadError, *NETWORK_ERRORS) as error:
            refused.append(str(error))
            continue
        sizes += [size] if size else []
        speeds += [speed] if speed else []
    if missing and len(refused) == n_probes:
        raise RuntimeError(
            f"no server could be reached ({refused[0]}): check the network, or copy the files into"
            f" {missing[0].path.parent} by hand under the names of the list"
        )
    mean = sum(sizes) / len(sizes) if sizes else float(assumed_bytes)
    return Estimate(
        n_files=len(files),
        n_present=len(files) - len(missing),
        n_probed=len(sizes),
        bytes_per_file=mean,
        bytes_to_fetch=_bytes_to_fetch(missing, mean),
        bytes_per_second=sorted(speeds)[len(speeds) // 2] if speeds else 0.0,
        bytes_free=shutil.disk_usage(_existing(files[0].path.parent)).free if files else 0,
    )


def _probe(file: File, session: Session) -> tuple[int, float]:
    """Size in bytes (0 when not told or not there), and bytes per second over the first megabyte."""
    for url in file.urls:
        started = time.monotonic()
        with session.get(url, Range=f"bytes=0-{PROBE_BYTES - 1}") as response:
            if response.ok and not response.headers.get("Content-Type", "").startswith("text/html"):
                n_bytes = len(response.raw.read(PROBE_BYTES))
                seconds = max(time.monotonic() - started, 1e-3)
                return body_range(response)[1] or 0, n_bytes / seconds
    return 0, 0.0


def _row(file: File, check: Check, session: Session) -> dict[str, Any]:
    """The row of `fetch_all` for one file; OSError for a full disk, where no later file fares better."""
    try:
        return fetch(file, check, session)
    except (DownloadError, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        row = {"path": str(file.path), "state": "failed", "n_bytes": 0, "url": file.urls[0]}
        return row | {"reason": str(error)}


def _disk_full(error: OSError, files: Sequence[File], expected: Estimate) -> str:
    missing = [file for file in files if not file.path.is_file()]
    needed = _bytes_to_fetch(missing, expected.bytes_per_file)
    return (
        f"no space left in {files[0].path.parent} ({error}): {len(missing)} of {len(files)} files, about"
        f" {needed / 1e9:.1f} GB, are still missing; partial files are kept: free some space (or lift the"
        " limit) and repeat the command, or choose another folder"
    )


def _bytes_to_fetch(missing: Sequence[File], bytes_per_file: float) -> float:
    """Bytes of the missing files, less what their partial files hold."""
    return max(0.0, bytes_per_file * len(missing) - sum(_size(partial_path(file.path)) for file in missing))


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _check_arguments(files: Sequence[File], settings: Settings) -> None:
    (path, n), *_ = Counter(file.path for file in files).most_common(1) or [(None, 0)]
    if n > 1:
        raise InputError(f"{path} occurs {n} times in the list of downloads: name each file once")
    if not 1 <= settings.n_parallel <= 16 or settings.interval_s < 0 or settings.n_retries < 0:
        raise InputError(f"{settings}: n_parallel must be 1 to 16, interval_s and n_retries at least 0")


# ------------------------------------------------------------------------------------------------ one file


def fetch(file: File, check: Check, session: Session) -> dict[str, Any]:
    """Fetch one file; returns its row of `fetch_all`, raises DownloadError when it cannot be had."""
    row = {"path": str(file.path), "state": "present", "url": "", "reason": ""}
    if file.path.is_file():
        try:
            check(file.path)
            return row | {"n_bytes": _size(file.path)}
        except ValueError:  # an incomplete copy from elsewhere: set aside, never deleted, and fetched again
            os.replace(file.path, file.path.with_name(file.path.name + ".unusable"))
    file.path.parent.mkdir(parents=True, exist_ok=True)
    missing = []
    for url in file.urls:
        try:
            _fetch_url(url, file.path, check, session)
        except NotOnServerError as error:
            missing.append(f"{url}: {error}")
            continue
        return row | {"state": "downloaded", "url": url, "n_bytes": _size(file.path)}
    raise NowhereError("not on the server: " + "; ".join(missing))


def _fetch_url(url: str, path: Path, check: Check, session: Session) -> None:
    """Requests until the file is whole and under its name. Only requests in a row that bring no new byte
    count as failures, beside those that `Session.get` repeats itself.
    """
    part = partial_path(path)
    retry, largest, n_unusable = session.retry, _size(part), 0
    while True:
        try:
            _attempt(url, part, session)
            check(part)
            os.replace(part, path)
            work_records.remove(part)
            return
        except ValueError as error:  # complete, but not usable: requesting all of it again is dear
            failure, n_unusable = BodyError(f"the file is not usable: {error}"), n_unusable + 1
            _discard(part)
        except (BodyError, *NETWORK_ERRORS) as error:
            failure = error
        if _size(part) > largest:
            retry, largest = session.retry, _size(part)
        try:
            retry = retry.increment("GET", url, error=failure)
        except MaxRetryError as error:
            n_retries = session.settings.n_retries
            raise DownloadError(f"{url}: gave up after {n_retries} retries: {failure}") from error
        if n_unusable > 1:
            raise DownloadError(f"{url}: {failure}, twice")
        session.sleep(retry.get_backoff_time())


def _attempt(url: str, part: Path, session: Session) -> None:
    """One request. Afterwards `part` is complete, or an exception says why not."""
    record = work_records.read(part)
    state = record["outcome"] if record.get("made_for") == {"url": url} else {}
    begin = _size(part) if state.get("validator") else 0
    ranged = {"Range": f"bytes={begin}-", "If-Range": state["validator"]} if begin else {}
    with session.get(url, **ranged) as response:
        if response.status_code == 416 and begin:
            if begin == state["total"]:  # the run ended just before the last step
                return
            _discard(part)
            raise BodyError("the server refused the range")
        try:
            require_file(response, url)
        except NotOnServerError:
            _discard(part)
            raise
        start, total = body_range(response)
        if start not in (0, begin) or (start and total != (state["total"] or total)):
            _discard(part)
            raise BodyError(f"the server sent another range ({response.headers.get('Content-Range')})")
        with open(part, "r+b" if start else "wb") as out:
            out.seek(start)
            work_records.announce(part, {"url": url}, total=total, validator=validator_of(response))
            copy_body(response, out, session, total)
    size = _size(part)
    if total is not None and size > total:
        _discard(part)
    if total is not None and size != total:
        raise BodyError(f"{size} of {total} bytes arrived")
    if not size:
        raise BodyError("the server sent an empty file")


def partial_path(path: Path) -> Path:
    """Where the body of a file grows."""
    return path.with_name(path.name + ".part")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    work_records.remove(part)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
