"""The body of an answer: whether it is the wanted file, and how it is written as it arrives."""

import time
from typing import BinaryIO

import requests

from lib.sources.http_session import DownloadError, Session

CHUNK_BYTES = 1 << 18


class NotOnServerError(Exception):
    """The server has no file at this address."""


class BodyError(Exception):
    """The body of this answer is not the file; another request may bring it."""


def require_file(response: requests.Response, url: str) -> None:
    """Raise unless the answer promises a file: for a status of failure, or a web page in its place."""
    status = f"HTTP {response.status_code} {response.reason}"
    if response.status_code in (404, 410):
        raise NotOnServerError(status)
    if not response.ok:
        n_requests = 1 + len(response.raw.retries.history)
        raise DownloadError(f"{url}: {status}" + (f" ({n_requests} requests)" if n_requests > 1 else ""))
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _web_page(response.raw.read(4096))


def copy_body(response: requests.Response, out: BinaryIO, session: Session, total: int | None) -> None:
    """Write the body as it arrives; a web page in place of a file is recognised by its beginning.

    Ends a body that is longer than announced or allowed, and one that hardly moves.
    """
    settings, most = session.settings, total or session.settings.most_bytes
    if most > settings.most_bytes:
        raise DownloadError(
            f"{response.url}: {most / 1e9:,.0f} GB are more than a file of this kind can have"
        )
    started, since = time.monotonic(), out.tell()
    while piece := response.raw.read1(CHUNK_BYTES):
        if out.tell() == 0 and piece[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise _web_page(piece)
        out.write(piece)
        if out.tell() > most:
            raise BodyError(f"the body is longer than the {most:,} bytes it may have")
        if (seconds := time.monotonic() - started) > settings.timeout_s:
            if out.tell() - since < settings.least_bytes_per_s * seconds:
                raise BodyError(f"only {(out.tell() - since) / seconds:,.0f} bytes a second arrived")
            started, since = time.monotonic(), out.tell()
        session.add(len(piece))
        session.sleep(0)


def _web_page(body: bytes) -> BodyError:
    title = body.decode("utf-8", "replace").partition("<title>")[2].partition("</title>")[0].strip()
    return BodyError(f"the server sent a web page{f' ({title!r})' if title else ''} instead of the file")
