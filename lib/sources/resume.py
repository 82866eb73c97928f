"""One file over HTTP, resumed where it broke off: a file under its final name is whole and was checked.

The body grows in `<name>.part`; beside it `<name>.part.json` keeps the address, the total length and the
server's validator (ETag or date), so that a later run asks only for the missing bytes and notices when the
file changed. Only a body of the promised length that passes the check is renamed. RFC 9110, sections 13.1.5
(If-Range) and 14 (Range).
"""

import http.client
import json
import os
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm.auto import tqdm

USER_AGENT = "histocorr (research; resumable downloader)"
CHUNK_BYTES = 1 << 18
STOPPED = "stopped; the partial file is kept and the next run goes on from it"
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


class Settings(NamedTuple):
    """How to ask. `interval_s`: least time between the starts of two requests, over all connections together.
    `n_retries`: attempts in a row that bring no new byte before a file is given up; the wait doubles from
    `backoff_s`.
    """

    n_parallel: int = 4
    interval_s: float = 0.5
    n_retries: int = 5
    backoff_s: float = 2.0
    timeout_s: float = 60.0


class DownloadError(RuntimeError):
    """A file that could not be fetched; the message says why and what was tried."""


class RetryError(Exception):
    """This request failed, another may succeed."""


class NotThereError(Exception):
    """The server says that this address has no such file."""


class Session:
    """What the connections of one call share: the request clock, the stop sign, the progress bar."""

    def __init__(self, settings: Settings, bar: tqdm | None = None):
        self.settings, self.bar = settings, bar
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._next_start = 0.0

    def wait_for_turn(self) -> None:
        with self._lock:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + self.settings.interval_s
        self.sleep(start - time.monotonic())

    def sleep(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)):
            raise DownloadError(STOPPED)

    def add(self, n_bytes: int) -> None:
        if self.bar is not None:
            with self._lock:
                self.bar.update(n_bytes)


def fetch_url(url: str, path: Path, check: Callable[[Path], None] | None, session: Session) -> int:
    """Requests until the file is whole and under its name; returns how many. Only requests that bring no new
    byte count as failures.
    """
    settings, n_failures, n_requests, largest = session.settings, 0, 0, _size(partial_path(path))
    while True:
        n_requests += 1
        cost, wait_s = 1, 0.0
        session.wait_for_turn()
        try:
            _attempt(url, path, session, checked=check is not None)
            run_check(check, partial_path(path))
            os.replace(partial_path(path), path)
            _discard(path)
            return n_requests
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                _discard(path)
                raise NotThereError(f"HTTP {error.code}") from error
            if error.code not in RETRY_STATUS:
                raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from error
            reason, wait_s = f"HTTP {error.code} {error.reason}", _retry_after(error.headers)
        except NETWORK_ERRORS as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        except ValueError as error:  # complete, but not usable: asking again is dear, so only once or twice
            reason, cost = f"the file is not usable: {error}", max(1, settings.n_retries // 2)
            _discard(path)
        except RetryError as error:
            reason = str(error)
        n_failures = 1 if _size(partial_path(path)) > largest else n_failures + cost
        largest = max(largest, _size(partial_path(path)))
        if n_failures > settings.n_retries:
            raise DownloadError(f"{url}: given up after {n_requests} requests; the last one: {reason}")
        session.sleep(max(wait_s, settings.backoff_s * 2 ** (n_failures - 1)))


def _attempt(url: str, path: Path, session: Session, checked: bool) -> None:
    """One request. Afterwards `<name>.part` is complete, or an exception tells why not."""
    part, state = partial_path(path), _read_state(path, url)
    begin = _size(part) if state.get("validator") else 0
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if begin:
        headers |= {"Range": f"bytes={begin}-", "If-Range": state["validator"]}
    try:
        response = urllib.request.urlopen(http_request(url, headers), timeout=session.settings.timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not begin:
            raise
        error.close()
        if begin == state.get("total"):  # nothing was missing but the last step
            return
        _discard(path)
        raise RetryError("the server refused the range; starting again") from error
    with response:
        begin, total = _where(response, begin, state, path)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise _html_error(response.read(4096))
        _write_state(path, {"url": url, "total": total, "validator": _validator(response.headers)})
        with open(part, "r+b" if begin else "wb") as out:
            out.seek(begin)
            _copy(response, out, session)
        if total is None and not response.chunked and not checked:
            raise RetryError("the server told no length, so a cut-off file could not be recognised")
    size = _size(part)
    if total is not None and size != total:
        if size > total:
            _discard(path)
        raise RetryError(f"{size} of {total} bytes arrived")
    if not size:
        raise RetryError("the server sent an empty file")


def _copy(response: http.client.HTTPResponse, out: BinaryIO, session: Session) -> None:
    """Write the body piece by piece; a web page in place of a file is recognised at its start."""
    while piece := response.read1(CHUNK_BYTES):
        start = piece[:64].lstrip().lower()
        if out.tell() == 0 and start.startswith((b"<!doctype html", b"<html")):
            raise _html_error(piece)
        out.write(piece)
        session.add(len(piece))
        if session.stop.is_set():
            raise DownloadError(STOPPED)


def _where(response, begin: int, state: dict, path: Path) -> tuple[int, int | None]:
    """First byte that the body holds, and the whole file's length (None when not told)."""
    length = response.headers.get("Content-Length")
    if response.status != 206:
        return 0, int(length) if length and length.isdigit() else None
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    right = unit == "bytes" and start == str(begin) and total.isdigit()
    if not right or (state.get("total") and int(total) != state["total"]):
        _discard(path)
        raise RetryError(f"the server answered another range than asked ({unit} {rest})")
    return begin, int(total)


def run_check(check: Callable[[Path], None] | None, path: Path) -> None:
    if check is not None:
        check(path)


def http_request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: only http and https addresses can be fetched.")
    return urllib.request.Request(url, headers=headers)


def _html_error(body: bytes) -> RetryError:
    text = body.decode("utf-8", "replace")
    title = text.partition("<title>")[2].partition("</title>")[0].strip()
    return RetryError(f"the server sent a web page{f' ({title!r})' if title else ''} instead of the file")


def _validator(headers) -> str:
    etag = headers.get("ETag", "")
    # a weak ETag says "looks the same", which is not enough to glue two halves together (RFC 9110, 13.1.5)
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _retry_after(headers) -> float:
    seconds = headers.get("Retry-After", "")
    return min(float(seconds), 600.0) if seconds.isdigit() else 0.0


def partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _state_path(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _read_state(path: Path, url: str) -> dict:
    """What is known of a partial file; empty when there is none, or when it came from another address."""
    try:
        state = json.loads(_state_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return state if isinstance(state, dict) and state.get("url") == url else {}


def _write_state(path: Path, state: dict) -> None:
    temporary = _state_path(path).with_suffix(".tmp")
    temporary.write_text(json.dumps(state), encoding="utf-8")
    os.replace(temporary, _state_path(path))


def _discard(path: Path) -> None:
    partial_path(path).unlink(missing_ok=True)
    _state_path(path).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
