"""Plain or gzipped files opened as bytes; damaged gzip data raise an error that says what to do."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from isal import igzip, isal_zlib  # decompresses about three times as fast as zlib

from lib.errors import InputError, MissingInputError

# isal's stub declares the class as an instance
DAMAGED: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, isal_zlib.IsalError)  # pyright: ignore[reportAssignmentType]


@contextmanager
def open_bytes(path: str | Path, remedy: str = "download it again") -> Iterator[BufferedIOBase]:
    """Open a file for reading; its first two bytes, not its name, decide whether it is decompressed.

    Several gzip members in one file are read as one text, zero padding after them is ignored.

    Parameters
    ----------
    remedy : what to do about a missing or damaged file, the end of the error message.

    Raises
    ------
    FileNotFoundError
    ValueError
        Truncated or corrupt gzip data, met while reading inside the `with` block.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file; {remedy}")
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    with igzip.IGzipFile(path) if is_gzip else path.open("rb") as file:
        try:
            yield file
        except DAMAGED as error:
            fault = "truncated" if isinstance(error, EOFError) else "corrupt"
            n_bytes = path.stat().st_size
            raise InputError(f"{path}: {fault} gzip data ({n_bytes:,} bytes; {error}); {remedy}") from error
