"""One polite HTTP session for all requests of a download: retries, a request clock, a stop sign."""

import re
import threading
import time
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry

HEADERS = {"User-Agent": "histocorr (research; resumable downloader)", "Accept-Encoding": "identity"}
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
NETWORK_ERRORS = (requests.RequestException, HTTPError)  # of requests, and of bodies read through urllib3
LONGEST_WAIT_S = 600.0  # of what a server asks for by Retry-After


class Settings(NamedTuple):
    """How to request: connections at a time, least seconds between two requests (of all connections
    together), retries in a row without a new byte, seconds that the waits between them double from, seconds
    without an answer after which a request has failed, the least rate over as many seconds, the most bytes
    that a file may have (256 GiB).
    """

    n_parallel: int = 4
    interval_s: float = 0.5
    n_retries: int = 5
    backoff_s: float = 2.0
    timeout_s: float = 60.0
    least_bytes_per_s: float = 1000.0
    most_bytes: int = 1 << 38


class DownloadError(RuntimeError):
    """A file that could not be fetched; the message says why and what was tried."""


class Session:
    """What the requests of one call share. `get` repeats a request after a refused connection or a status of
    `RETRY_STATUS`; what goes wrong while a body is read is the caller's business, with `retry` to count by.
    """

    def __init__(self, settings: Settings, bar: tqdm | None = None) -> None:
        self.settings, self.bar = settings, bar
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._next_start = 0.0
        self.retry = _Retry(
            total=settings.n_retries,
            backoff_factor=settings.backoff_s / 2,  # urllib3's first wait, after two failures, is 2 factors
            status_forcelist=RETRY_STATUS,
            raise_on_status=False,
        )
        self.retry.session = self
        self._http = requests.Session()
        self._http.headers.update(HEADERS)
        for scheme in ("http://", "https://"):
            self._http.mount(scheme, HTTPAdapter(max_retries=self.retry, pool_maxsize=settings.n_parallel))

    def get(self, url: str, **headers: str) -> requests.Response:
        """The answer, its body not yet read; DownloadError where none could be had."""
        self.wait_for_turn()
        try:
            return self._http.get(url, headers=headers, stream=True, timeout=self.settings.timeout_s)
        except requests.RequestException as error:
            raise DownloadError(f"{url}: {error}") from error

    def wait_for_turn(self) -> None:
        """Sleep until the next request may start."""
        with self._lock:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + self.settings.interval_s
        self.sleep(start - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Sleep; DownloadError as soon as the download is stopped."""
        if self.stop.wait(max(0.0, seconds)):
            raise DownloadError("stopped; the partial file is kept and the next run continues it")

    def add(self, n_bytes: int) -> None:
        """Count bytes that arrived."""
        if self.bar is not None:
            with self._lock:
                self.bar.update(n_bytes)


class _Retry(Retry):
    """urllib3's retries; their waits keep to the session's request clock and end when it is stopped."""

    session: Session

    def new(self, **changes: Any) -> "_Retry":
        retry = super().new(**changes)
        retry.session = self.session
        return retry

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        asked = self.get_retry_after(response) if response is not None else None
        self.session.sleep(min(asked or self.get_backoff_time(), LONGEST_WAIT_S))
        self.session.wait_for_turn()


def body_range(response: requests.Response) -> tuple[int, int | None]:
    """First byte that the body holds (-1 when unreadable), and the whole file's length (None: not told)."""
    if response.status_code != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (int(found[1]), int(found[2])) if found else (-1, None)


def validator_of(response: requests.Response) -> str:
    """The header by which a later request recognises the same file: ETag or date; "" where there is none."""
    etag = response.headers.get("ETag", "")
    # a weak ETag says "looks the same", which is not enough to join two halves (RFC 9110, 13.1.5)
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
