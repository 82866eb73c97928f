"""Files that are written completely or not at all, and fingerprints of their content."""

import glob
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    Until then `path` keeps its former content. The temporary name contains process and thread, so two writers
    never share one, and ends in the suffix of `path`, from which some writers infer the format. Its content
    is on disk before the rename. A killed process leaves its temporary file behind: hidden, and useless.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files that killed writers of `path` left; nobody may be writing it meanwhile."""
    path = Path(path)
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        temporary.unlink(missing_ok=True)


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


_hashes: dict[tuple[str, int, int], str] = {}


def fingerprint(path: str | Path) -> str:
    """sha256 of a file, in hex; remembered within the process by path, size and modification time."""
    stat = os.stat(path)
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        with open(path, "rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def ends_fingerprint(path: str | Path) -> str:
    """sha256 of a large file's size and its first and last MB, in hex: in a moment, of slides for example."""
    n_bytes, end = os.stat(path).st_size, 2**20
    digest = hashlib.sha256(f"{n_bytes}:".encode())
    with open(path, "rb") as file:
        digest.update(file.read(end))
        file.seek(max(n_bytes - end, 0))
        digest.update(file.read(end))
    return digest.hexdigest()


def text_fingerprint(text: str) -> str:
    """sha256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def folder_fingerprint(folder: str | Path) -> str | None:
    """sha256 of the names and sizes of a folder's visible files, in hex; None if there are none."""
    listing = sorted((p.name, p.stat().st_size) for p in Path(folder).iterdir() if not p.name.startswith("."))
    return text_fingerprint(json.dumps(listing)) if listing else None
