"""Files that are written completely or not at all, and fingerprints of their content."""

import errno
import hashlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from isal import isal_zlib

from lib.errors import OutputError

UNFINISHED = (".part", ".part.json", ".partial", ".crdownload", ".tmp")  # endings of downloads that go on
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]  # this computer, in temporary names
FORGOTTEN_S = 7 * 86_400.0
CANNOT_WRITE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "there is no permission to write here",
    errno.EPERM: "there is no permission to write here",
}


@contextmanager
def writing_explained(path: str | Path) -> Iterator[None]:
    """Within the context, a full or read-only disk raises OutputError, which says so and names `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise OutputError(
            error.errno,
            f"{CANNOT_WRITE[error.errno]}; free space or give permission, then run the same command again",
            str(path),
        ) from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    Until then `path` keeps its former content. The temporary name contains computer, process and thread, so
    two writers never share one, not even on a shared disk, and ends in the suffix of `path`, from which some
    writers infer the format. Its content is on disk before the rename. A killed process leaves its temporary
    file behind: hidden, and useless.

    Raises OutputError where the disk is full or cannot be written.
    """
    path = Path(path)
    writer = f"{HOST}-{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp{path.suffix}")
    try:
        with writing_explained(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that killed writers left in a folder.

    Those of living processes stay, and those of other computers, whose processes cannot be seen from here,
    for a week.
    """
    for temporary in Path(folder).glob(".*.tmp*"):
        writer = re.search(r"\.([0-9a-f]{6})-(\d+)-\d+\.tmp", temporary.name)
        if not writer:
            continue
        if writer[1] == HOST:
            dead = not _is_alive(int(writer[2]))
        else:
            dead = time.time() - temporary.stat().st_mtime > FORGOTTEN_S
        if dead:
            temporary.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether a process of this computer exists; this one's own threads included."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes completely or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text completely or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON completely or not at all; values that JSON lacks are written as their text."""
    write_text(path, json.dumps(value, indent=1, default=str))


def write_record(path: str | Path, record: dict[str, Any]) -> None:
    """Write a json object with the checksum of its content, completely or not at all."""
    write_json(path, sealed(record))


def read_record(path: str | Path) -> dict[str, Any]:
    """A json object as `write_record` wrote it; {} where it is missing, unreadable or damaged."""
    return unsealed(read_json(path))


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record as JSON stores it, with the checksum of its content."""
    content = json.loads(json.dumps(record, default=str))
    return content | {"record_sha256": _content_hash(content)}


def unsealed(content: Any) -> dict[str, Any]:
    """The record that was `sealed`; {} where this is none, or damaged."""
    if not isinstance(content, dict):
        return {}
    record = {key: value for key, value in content.items() if key != "record_sha256"}
    return record if content.get("record_sha256") == _content_hash(record) else {}


def _content_hash(content: dict[str, Any]) -> str:
    return text_fingerprint(json.dumps(content, sort_keys=True))


def read_json(path: str | Path) -> dict[str, Any]:
    """A json object; {} where the file is missing, unreadable or holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


_hashes: dict[tuple[str, int, int], str] = {}


def fingerprint(path: str | Path) -> str:
    """sha256 of a file, in hex; remembered within the process by path, size and modification time."""
    stat = os.stat(path)
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        with open(path, "rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def checksum(path: str | Path) -> int:
    """CRC-32 of a file: at the speed of the disk, against damage though not against intent."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(8 << 20):
            value = isal_zlib.crc32(block, value)
    return value


def ends_fingerprint(path: str | Path) -> str:
    """sha256 of a large file's size, date and first and last MB, in hex: in a moment, of slides for example.

    The date is part of it because a damaged file fetched again has the size, and often the ends, of before.
    """
    status, end = os.stat(path), 2**20
    digest = hashlib.sha256(f"{status.st_size}:{status.st_mtime_ns}:".encode())
    with open(path, "rb") as file:
        digest.update(file.read(end))
        file.seek(max(status.st_size - end, 0))
        digest.update(file.read(end))
    return digest.hexdigest()


def text_fingerprint(text: str) -> str:
    """sha256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


_looked_at: ContextVar[dict[tuple[str, bool], str | None] | None] = ContextVar("_looked_at", default=None)


@contextmanager
def folders_looked_at_once() -> Iterator[None]:
    """Within the context each folder is looked at once: for a question about many results made from one.

    A folder of 25,000 slides takes half a second, and a plan asks about it for every artefact.
    """
    if _looked_at.get() is not None:
        yield
        return
    token = _looked_at.set({})
    try:
        yield
    finally:
        _looked_at.reset(token)


def folder_fingerprint(folder: str | Path, dates: bool = True) -> str | None:
    """`listing_fingerprint`, or what it was in this context (`folders_looked_at_once`)."""
    looked_at, key = _looked_at.get(), (str(folder), dates)
    if looked_at is None:
        return listing_fingerprint(folder, dates)
    if key not in looked_at:
        looked_at[key] = listing_fingerprint(folder, dates)
    return looked_at[key]


def listing_fingerprint(folder: str | Path, dates: bool = True) -> str | None:
    """sha256 of the names, sizes and (unless told not to) dates of a folder's visible entries, in hex; None
    if there are none. Links count as what they point to; a broken link counts by its name alone, and files
    whose download is not finished do not count.
    """
    listing = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(UNFINISHED):
                continue
            try:
                status = entry.stat()
            except OSError:  # a link to nothing, or to itself
                listing.append([os.fsencode(entry.name).hex()])
                continue
            listing.append(
                [os.fsencode(entry.name).hex(), status.st_size, *([status.st_mtime_ns] if dates else [])]
            )
    return text_fingerprint(json.dumps(sorted(listing))) if listing else None
