"""Polite downloads of many large files: several at a time, each resumable, size and disk asked beforehand.

What happens to one file is in `lib.sources.resume`.
"""

import errno
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from lib.sources.resume import (
    NETWORK_ERRORS,
    USER_AGENT,
    DownloadError,
    NotThereError,
    Session,
    Settings,
    fetch_url,
    http_request,
    partial_path,
    run_check,
)

PROBE_BYTES = 1 << 20
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


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
            f"{self.n_files} files, {self.n_present} already here; about {self.bytes_to_fetch / 1e9:.1f} GB"
            f" to fetch ({self.bytes_per_file / 1e6:.0f} MB a file, {self.n_probed} asked);"
            f" {self.bytes_free / 1e9:.1f} GB free"
        )
        if self.bytes_per_second:
            hours = self.bytes_to_fetch / self.bytes_per_second / 3600
            text += f"; {hours:.1f} h over one connection at {self.bytes_per_second / 1e6:.1f} MB/s"
        return text


def fetch_all(
    files: Sequence[File],
    check: Callable[[Path], None] | None = None,
    settings: Settings = Settings(),  # noqa: B008 (immutable)
    assumed_bytes: float = 0.0,
    progress: bool = True,
) -> pd.DataFrame:
    """Fetch `files`, several at a time; what is already here and whole is left alone.

    Before the first file a few sizes are asked for (`estimate`); too small a disk stops the call there, one
    that becomes full stops it later. A file that fails otherwise does not stop the others. Partial files are
    kept, also after Ctrl-C.

    Parameters
    ----------
    check : called with the path of a complete body, raises ValueError when it is not what it should be.
    assumed_bytes : size of a file where the server does not tell.

    Returns
    -------
    DataFrame, a row per file in the given order: path, state ("present", "downloaded", "failed"), n_bytes,
    n_requests, url, reason (empty unless failed).

    Raises
    ------
    ValueError for two files of the same path or nonsensical settings, OSError for a folder that cannot be
    made, RuntimeError when the disk is too small or becomes full, or no server can be reached.
    """
    _check_arguments(files, settings)
    expected = estimate(files, settings, assumed_bytes)
    if progress:
        print(expected)
    require_disk(files[0].path.parent if files else Path(), expected)
    for folder in {file.path.parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)
    rows: dict[int, dict] = {}
    total = expected.bytes_to_fetch or None
    with tqdm(total=total, unit="B", unit_scale=True, disable=not progress, desc="download") as bar:
        session = Session(settings, bar)
        with ThreadPoolExecutor(settings.n_parallel) as pool:
            waiting = {pool.submit(_fetch_row, file, check, session): i for i, file in enumerate(files)}
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
    columns = ["path", "state", "n_bytes", "n_requests", "url", "reason"]
    return pd.DataFrame([rows[i] for i in range(len(files))], columns=columns)


def fetch(
    file: File,
    check: Callable[[Path], None] | None = None,
    settings: Settings = Settings(),  # noqa: B008 (immutable)
) -> dict:
    """Fetch one file; returns its row of `fetch_all`, raises DownloadError when it cannot be had."""
    _check_arguments([file], settings)
    return _fetch(file, check, Session(settings))


def estimate(
    files: Sequence[File],
    settings: Settings = Settings(),  # noqa: B008 (immutable)
    assumed_bytes: float = 0.0,
    n_probes: int = 6,
) -> Estimate:
    """Size of what is missing, from the first bytes of a few files spread over the list, and the speed
    seen.
    """
    missing = [file for file in files if not file.path.is_file()]
    session, sizes, speeds, refused = Session(settings), [], [], []
    n_probes = min(n_probes, len(missing))
    for file in (missing[i * len(missing) // n_probes] for i in range(n_probes)):
        try:
            size, speed = _probe(file, session)
        except NETWORK_ERRORS as error:
            refused.append(f"{file.urls[0]}: {getattr(error, 'reason', error) or type(error).__name__}")
            continue
        sizes += [size] if size else []
        speeds += [speed] if speed else []
    if missing and len(refused) == n_probes:
        raise RuntimeError(
            f"No server could be reached ({refused[0]}). Check the network, or copy the files into"
            f" {missing[0].path.parent} by hand under the names of the list."
        )
    mean = sum(sizes) / len(sizes) if sizes else float(assumed_bytes)
    return Estimate(
        n_files=len(files),
        n_present=len(files) - len(missing),
        n_probed=len(sizes),
        bytes_per_file=mean,
        bytes_to_fetch=max(0.0, mean * len(missing) - _begun_bytes(missing)),
        bytes_per_second=sorted(speeds)[len(speeds) // 2] if speeds else 0.0,
        bytes_free=shutil.disk_usage(_existing(files[0].path.parent)).free if files else 0,
    )


def require_disk(folder: Path, expected: Estimate, spare_bytes: float = 1e9) -> None:
    """Raise RuntimeError when the disk of `folder` cannot hold what is missing and `spare_bytes` beside
    it.
    """
    needed = expected.bytes_to_fetch + spare_bytes
    if expected.bytes_to_fetch and expected.bytes_free < needed:
        raise RuntimeError(
            f"The disk of {folder} has {expected.bytes_free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are"
            f" needed ({expected.bytes_to_fetch / 1e9:.1f} GB to fetch, {spare_bytes / 1e9:.1f} GB to spare)."
            " Free some, choose another folder, or take fewer files."
        )


def check_slide(path: Path) -> None:
    """Raise ValueError unless OpenSlide opens and reads `path` and all image data lies inside the file."""
    import openslide
    import tifffile

    try:
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
            slide.read_region((max(0, width - 64), max(0, height - 64)), 0, (64, 64))
    except openslide.OpenSlideError as error:
        raise ValueError(f"OpenSlide cannot read it ({error})") from error
    n_bytes = path.stat().st_size
    try:
        with tifffile.TiffFile(path) as tiff:
            ends = [
                offset + count
                for page in tiff.pages
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
    except tifffile.TiffFileError:  # a slide format that is not TIFF: OpenSlide's word counts
        return
    if max(ends, default=0) > n_bytes:
        raise ValueError(f"image data ends at byte {max(ends)} but the file has {n_bytes}: it was cut off")


def _fetch_row(file: File, check: Callable[[Path], None] | None, session: Session) -> dict:
    try:
        return _fetch(file, check, session)
    except (DownloadError, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # no file after this one fares better
            raise
        row = {"path": str(file.path), "state": "failed", "n_bytes": 0, "n_requests": 0, "url": file.urls[0]}
        return row | {"reason": str(error)}


def _disk_full(error: OSError, files: Sequence[File], expected: Estimate) -> str:
    """What to say when a write found no room: how much is still to fetch, and what to do."""
    missing = [file for file in files if not file.path.is_file()]
    needed = max(0.0, expected.bytes_per_file * len(missing) - _begun_bytes(missing))
    return (
        f"No room to write in {files[0].path.parent} ({error}): {len(missing)} of {len(files)} files, about"
        f" {needed / 1e9:.1f} GB, are still to fetch. Partial files are kept: free some room (or lift the"
        " limit) and give the same command again, or choose another folder."
    )


def _begun_bytes(missing: Sequence[File]) -> int:
    """Bytes that partial files hold already."""
    parts = [partial_path(file.path) for file in missing]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _fetch(file: File, check: Callable[[Path], None] | None, session: Session) -> dict:
    row = {"path": str(file.path), "state": "present", "n_requests": 0, "url": "", "reason": ""}
    if file.path.is_file():
        try:
            run_check(check, file.path)
            return row | {"n_bytes": file.path.stat().st_size}
        except ValueError:  # an incomplete copy from elsewhere: put aside, never deleted, and fetched anew
            os.replace(file.path, file.path.with_name(file.path.name + ".unusable"))
    file.path.parent.mkdir(parents=True, exist_ok=True)
    missing = []
    for url in file.urls:
        try:
            n_requests = fetch_url(url, file.path, check, session)
        except NotThereError as error:
            missing.append(f"{url}: {error}")
            continue
        return row | {
            "state": "downloaded", "n_requests": n_requests, "url": url, "n_bytes": file.path.stat().st_size
        }  # fmt: skip
    raise DownloadError("not on the server: " + "; ".join(missing))


def _probe(file: File, session: Session) -> tuple[int, float]:
    """Size in bytes (0 when not told or not there), and bytes per second over the first megabyte."""
    for url in file.urls:
        session.wait_for_turn()
        request = http_request(url, {"User-Agent": USER_AGENT, "Range": f"bytes=0-{PROBE_BYTES - 1}"})
        started = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=session.settings.timeout_s) as response:
                if response.headers.get("Content-Type", "").startswith("text/html"):
                    continue
                body = response.read(PROBE_BYTES)
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                if response.status != 206:
                    total = response.headers.get("Content-Length") or ""
                seconds = time.monotonic() - started
                return int(total) if total.isdigit() else 0, len(body) / max(seconds, 1e-3)
        except urllib.error.HTTPError as error:  # the download itself will find out more
            error.close()
    return 0, 0.0


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _check_arguments(files: Sequence[File], settings: Settings) -> None:
    seen: set[Path] = set()
    for file in files:
        if file.path in seen:
            raise ValueError(f"{file.path} occurs twice in the list of downloads; name each file once.")
        if not file.urls:
            raise ValueError(f"{file.path} has no address in the list of downloads.")
        seen.add(file.path)
    if not 1 <= settings.n_parallel <= 16 or settings.interval_s < 0 or settings.n_retries < 0:
        raise ValueError(f"{settings}: n_parallel goes from 1 to 16, interval_s and n_retries from 0.")
