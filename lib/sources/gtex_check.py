"""Whether a downloaded table is what its name says: an error page sent as if it were the file is not."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

HEAD_BYTES = 1 << 16
BLOCK_BYTES = 1 << 20


def _has_column(name: str) -> Callable[[str], bool]:
    return lambda head: name in head.partition("\n")[0].rstrip("\r").split("\t")


def _is_gtf(head: str) -> bool:
    lines = (line for line in head.split("\n") if line and not line.startswith("#"))
    return next(lines, "").count("\t") == 8


# Part of a file's name, without .gz -> what its text begins with, and whether it does.
KINDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    ".gct": ("the line #1.2", lambda head: head.startswith("#1.2")),
    "attributes": ("a header with the column SAMPID", _has_column("SAMPID")),
    "phenotypes": ("a header with the column SUBJID", _has_column("SUBJID")),
    ".gtf": ("lines of nine tab-separated columns", _is_gtf),
    ".obo": ("format-version", lambda head: head.startswith("format-version")),
    ".gaf": ("!gaf", lambda head: head.startswith("!gaf")),
}


def check_table(path: Path) -> None:
    """Raise ValueError unless a table of `gtex_fetch.RELEASES` or `gtex_fetch.GO` holds what its name says.

    A file that is still `<name>.part` is read to its end, so that a gzip that was cut off is noticed; of one
    that lies under its own name only the beginning is looked at, for it may be gigabytes.
    """
    name = path.name.removesuffix(".part").lower()
    with open(path, "rb") as file:
        magic = file.read(2)
    if not magic:
        raise ValueError("it is empty")
    zipped = magic == b"\x1f\x8b"
    if name.endswith(".gz") and not zipped:
        raise ValueError(f"it is not gzip; it begins with {_beginning(path)}")
    try:
        with gzip.open(path, "rb") if zipped else open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            while path.name.endswith(".part") and file.read(BLOCK_BYTES):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"the gzip is damaged or cut off ({error})") from error
    text = head.decode("utf-8", "replace").removeprefix("\ufeff")
    for part, (expected, is_so) in KINDS.items():
        if part in name.removesuffix(".gz") and not is_so(text):
            raise ValueError(f"it should begin with {expected}; it begins with {text[:40]!r}")


def _beginning(path: Path) -> str:
    with open(path, "rb") as file:
        return repr(file.read(40).decode("utf-8", "replace"))
