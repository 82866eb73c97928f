"""Downloads from a server on 127.0.0.1 that misbehaves in every way a server can."""

import errno
import hashlib
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from local_server import Quiet, serving

from lib import work_records
from lib.sources import download
from lib.sources.http_session import DownloadError, Session, Settings

BODY = np.random.default_rng(0).bytes(3_000_000)
SMALL = np.random.default_rng(1).bytes(50_000)
FAST = Settings(n_parallel=4, interval_s=0.0, n_retries=3, backoff_s=0.01, timeout_s=1.0)


class Misbehaving(Quiet):
    """The path says how to misbehave: /<manner>/<anything>. The server counts the requests for each path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        manner = self.path.split("/")[1]
        with self.server.lock:
            self.server.seen[self.path] += 1
            n = self.server.seen[self.path]
            self.server.ranges.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
            self.server.times.append(time.monotonic())
        MANNERS[manner](self, n)

    def begin(self, code, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def whole(self, body, limit=None, ranges=True, **headers):
        """Answer with `body` (honouring Range), sending no more than `limit` bytes of the promised ones."""
        etag, wanted = '"' + hashlib.md5(body).hexdigest() + '"', self.headers.get("Range")
        code, headers = 200, {"ETag": etag, **headers}
        if wanted and ranges and self.headers.get("If-Range") in (None, etag):
            begin, end = (int(part) if part else None for part in wanted.removeprefix("bytes=").split("-"))
            stop = len(body) if end is None else min(end + 1, len(body))
            if begin >= len(body):
                self.begin(416, Content_Range=f"bytes */{len(body)}", Content_Length="0")
                return
            code, headers["Content_Range"] = 206, f"bytes {begin}-{stop - 1}/{len(body)}"
            body = body[begin:stop]
        self.begin(code, Content_Length=str(len(body)), **headers)
        self.wfile.write(body[:limit])
        self.close_connection |= limit is not None and limit < len(body)

    def misplaced(self, n, start, stop):
        """Break off the first answer, send another part than the wanted one at the second, and say so."""
        if n == 2:
            span = f"bytes {start}-{stop - 1}/{len(BODY)}"
            self.begin(206, Content_Range=span, Content_Length=str(stop - start))
            self.wfile.write(BODY[start:stop])
        else:
            self.whole(BODY, limit=1_000_000 if n == 1 else None)

    def reset(self, n):
        if n <= 2:
            self.connection.close()
            self.close_connection = True
        else:
            self.whole(BODY)

    def chunked(self, n):
        self.begin(200, Transfer_Encoding="chunked")
        for i in range(0, len(SMALL), 9000):
            piece = SMALL[i : i + 9000]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if n == 1 and i > 20_000:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def without_length(self, n):
        self.begin(200, Connection="close")
        self.wfile.write(SMALL if n > 1 else SMALL[:20_000])
        self.close_connection = True

    def stall(self, n):
        self.whole(SMALL, limit=10_000 if n == 1 else None)
        if n == 1:
            time.sleep(1.5)  # before the connection is closed

    def slow(self, n):
        self.begin(200, Content_Length=str(len(BODY)), ETag='"slow"')
        for i in range(0, len(BODY), 100_000):
            self.wfile.write(BODY[i : i + 100_000])
            time.sleep(0.02)

    def trickle(self, n):
        """A byte now and then, for ever: alive for every timeout of a single read."""
        self.begin(200, Content_Length=str(len(SMALL)))
        for i in range(200):
            try:
                self.wfile.write(SMALL[i : i + 1])
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    def endless(self, n):
        self.begin(200, Connection="close")
        try:
            for _ in range(200):
                self.wfile.write(SMALL)
        except OSError:
            pass
        self.close_connection = True


PAGE, OOPS = (f"\n<!DOCTYPE html><html><title>{t}</title></html>".encode() for t in ("Maintenance", "Oops"))
MANNERS = {  # what the handler h does at the n-th request of a path
    "fine": lambda h, n: h.whole(BODY),
    "small": lambda h, n: h.whole(SMALL),
    "drops": lambda h, n: h.whole(BODY, limit=1_100_000),  # every answer breaks off after about a third
    "dropsnorange": lambda h, n: h.whole(BODY, limit=1_100_000 if n <= 3 else None, ranges=False),
    "alwaysdrops": lambda h, n: h.whole(BODY, limit=0),  # promises, but never sends a byte
    "reset": Misbehaving.reset,
    "missing": lambda h, n: h.answer(404),
    "only5": lambda h, n: h.whole(SMALL) if h.path.endswith("5") else h.answer(404),
    "broken": lambda h, n: h.answer(500),
    "brokenfirst": lambda h, n: h.answer(500) if n <= 2 else h.whole(SMALL),
    "busy": lambda h, n: h.begin(503, Retry_After="1", Content_Length="0") if n == 1 else h.whole(SMALL),
    "forbidden": lambda h, n: h.answer(403),
    "html": lambda h, n: h.whole(PAGE, Content_Type="text/html; charset=utf-8"),
    "htmlfirst": lambda h, n: MANNERS["html" if n <= 2 else "small"](h, n),
    "disguised": lambda h, n: h.whole(OOPS, Content_Type="image/x-svs"),  # a web page said to be a slide
    "short": lambda h, n: h.whole(SMALL[:20_000]),  # honest about a length that is too small
    "changing": lambda h, n: h.whole(BODY, limit=1_000_000) if n == 1 else h.whole(BODY[::-1]),
    "wrongrange": lambda h, n: h.misplaced(n, 7, len(BODY)),
    "shifted": lambda h, n: h.misplaced(n, 500_000, len(BODY) - 500_000),  # as many bytes as are missing
    "empty": lambda h, n: h.whole(b""),
    "chunked": Misbehaving.chunked,
    "nolength": Misbehaving.without_length,
    "stalls": Misbehaving.stall,
    "slow": Misbehaving.slow,
    "trickle": Misbehaving.trickle,
    "endless": Misbehaving.endless,
    "ftp": lambda h, n: h.begin(302, Location="ftp://localhost/x.svs", Content_Length="0"),
    "file": lambda h, n: h.begin(302, Location="file:///etc/passwd", Content_Length="0"),
}


@pytest.fixture
def server():
    with serving(Misbehaving, lock=threading.Lock(), seen=Counter(), ranges=[], times=[]) as running:
        yield running


def one(server, folder: Path, *ways: str) -> download.File:
    return download.File(folder / "x.svs", tuple(f"{server.base}/{way}" for way in ways))


def several(server, folder: Path, way: str, n: int) -> list[download.File]:
    return [download.File(folder / f"{i}.svs", (f"{server.base}/{way}/{i}",)) for i in range(n)]


def anything(path):
    """A check that accepts all files."""


def is_small(path):
    if path.read_bytes() != SMALL:
        raise ValueError("it is truncated")


def fetch(file, check=anything, settings=FAST):
    return download.fetch(file, check, Session(settings))


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != "x.svs")


# ------------------------------------------------------------------------------------------------ one file
@pytest.mark.parametrize(
    ("way", "body", "n_requests"),
    [
        ("fine/a", BODY, 1), ("drops/a", BODY, 3), ("dropsnorange/a", BODY, 4), ("reset/a", BODY, 3),
        ("brokenfirst/a", SMALL, 3), ("htmlfirst/a", SMALL, 3), ("changing/a", BODY[::-1], 2),
        ("wrongrange/a", BODY, 3), ("shifted/a", BODY, 3), ("chunked/a", SMALL, 2), ("stalls/a", SMALL, 2),
    ],
)  # fmt: skip
def test_downloads_in_spite_of_faults(server, tmp_path, way, body, n_requests):
    row = fetch(one(server, tmp_path, way))
    assert (tmp_path / "x.svs").read_bytes() == body
    assert (row["state"], row["n_bytes"]) == ("downloaded", len(body))
    assert server.seen[f"/{way}"] == n_requests
    assert leftovers(tmp_path) == []


def test_resumes_by_byte_range(server, tmp_path):
    fetch(one(server, tmp_path, "drops/a"))
    asked = [wanted for _, wanted, _ in server.ranges]
    assert asked == [None, "bytes=1100000-", "bytes=2200000-"]
    assert all(condition for _, wanted, condition in server.ranges if wanted)


@pytest.mark.parametrize(
    ("way", "message", "n_requests"),
    [
        ("missing/a", "not on the server: .*HTTP 404", 1),
        ("forbidden/a", "HTTP 403", 1),
        ("broken/a", "HTTP 500 Internal Server Error \\(4 requests\\)", 4),
        ("html/a", "gave up after 3 retries.*web page \\('Maintenance'\\)", 4),
        ("disguised/a", "gave up after 3 retries.*web page \\('Oops'\\)", 4),
        ("alwaysdrops/a", "gave up after 3 retries.*\\(0 bytes read, 3000000 more", 4),
    ],
)
def test_gives_up_and_says_why(server, tmp_path, way, message, n_requests):
    with pytest.raises(DownloadError, match=message):
        fetch(one(server, tmp_path, way))
    assert not (tmp_path / "x.svs").exists()
    assert server.seen[f"/{way}"] == n_requests


def test_a_truncated_file_of_a_consistent_length_is_caught(server, tmp_path):
    file = one(server, tmp_path, "short/a")
    assert fetch(file)["state"] == "downloaded"  # nothing but the content can tell
    with pytest.raises(DownloadError, match="not usable"):
        fetch(file, is_small)
    assert not file.path.exists()
    assert leftovers(tmp_path) == ["x.svs.unusable"]  # the earlier copy is set aside, not deleted
    good = one(server, tmp_path, "small/a")
    fetch(good, is_small)
    assert good.path.read_bytes() == SMALL


def test_without_a_length_the_check_decides(server, tmp_path):
    fetch(one(server, tmp_path, "nolength/a"), is_small)
    assert server.seen["/nolength/a"] == 2
    assert (tmp_path / "x.svs").read_bytes() == SMALL


def test_next_address_after_404(server, tmp_path):
    row = fetch(one(server, tmp_path, "only5/GTEX-A-0126", "only5/GTEX-A-0125"))
    assert row["url"].endswith("GTEX-A-0125")
    assert (tmp_path / "x.svs").read_bytes() == SMALL


def test_retry_after_is_honoured(server, tmp_path):
    started = time.monotonic()
    fetch(one(server, tmp_path, "busy/a"))
    assert time.monotonic() - started > 0.95


def test_a_stop_ends_the_wait_that_a_server_asked_for(server, tmp_path):
    session = Session(FAST)
    threading.Timer(0.1, session.stop.set).start()
    started = time.monotonic()
    with pytest.raises(DownloadError, match="stopped"):
        download.fetch(one(server, tmp_path, "busy/a"), anything, session)
    assert time.monotonic() - started < 0.9


def test_a_later_run_continues_a_partial_file(server, tmp_path):
    file = one(server, tmp_path, "drops/a")
    with pytest.raises(DownloadError):
        fetch(file, settings=FAST._replace(n_retries=0))
    assert leftovers(tmp_path) == ["x.svs.part", "x.svs.part.json"]
    assert (tmp_path / "x.svs.part").stat().st_size == 1_100_000
    fetch(file)
    assert file.path.read_bytes() == BODY
    assert server.ranges[1][1] == "bytes=1100000-"


def test_killed_just_before_the_last_step(server, tmp_path):
    file = one(server, tmp_path, "fine/a")
    fetch(file)
    file.path.rename(tmp_path / "x.svs.part")
    etag = '"' + hashlib.md5(BODY).hexdigest() + '"'
    work_records.write(tmp_path / "x.svs.part", {"url": file.urls[0]}, total=len(BODY), validator=etag)
    fetch(file)
    assert file.path.read_bytes() == BODY
    assert [wanted for _, wanted, _ in server.ranges[1:]] == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{not json",
        '{"made_for": {"url": "http://elsewhere/"}, "outcome": {"validator": "x", "total": 5}}',
    ],
)
def test_a_partial_file_of_unknown_origin_is_discarded(server, tmp_path, state):
    (tmp_path / "x.svs.part").write_bytes(b"x" * 1000)
    if state:
        (tmp_path / "x.svs.part.json").write_text(state)
    fetch(one(server, tmp_path, "fine/a"))
    assert (tmp_path / "x.svs").read_bytes() == BODY
    assert server.ranges[-1][1] is None


# ------------------------------------------------------------------------------------------------ many files
def test_fetch_all(server, tmp_path):
    ways = ["fine/1", "drops/2", "missing/3", "html/4", "small/5", "reset/6"]
    files = [download.File(tmp_path / f"{i}.svs", (f"{server.base}/{way}",)) for i, way in enumerate(ways)]
    (tmp_path / "4.svs").write_bytes(SMALL)
    df = download.fetch_all(files, anything, FAST)
    assert df["path"].tolist() == [str(file.path) for file in files]
    assert df["state"].tolist() == ["downloaded", "downloaded", "failed", "failed", "present", "downloaded"]
    assert df.loc[df["state"] != "failed", "reason"].eq("").all()
    assert "404" in df.loc[2, "reason"]
    assert server.seen["/small/5"] == 0
    again = download.fetch_all([f for i, f in enumerate(files) if i not in (2, 3)], anything, FAST)
    assert set(again["state"]) == {"present"}


def test_several_at_a_time_but_politely(server, tmp_path):
    files = several(server, tmp_path, "slow", 4)
    started = time.monotonic()
    download.fetch_all(files, anything, FAST._replace(interval_s=0.05))
    assert time.monotonic() - started < 4 * 0.6 + 2  # a file takes 0.6 s, and is also probed for 1 MB
    gaps = np.diff(sorted(server.times))
    assert len(gaps) == 7
    assert gaps.min() > 0.03


def test_estimate(server, tmp_path):
    files = several(server, tmp_path, "fine", 20)
    (tmp_path / "0.svs").write_bytes(BODY)
    expected = download.estimate(files, FAST)
    text = "20 files, 1 already present; about 0.1 GB to fetch (3 MB per file, from 6 of them)"
    assert (expected.n_files, expected.n_present, expected.n_probed) == (20, 1, 6)
    assert expected.bytes_per_file == len(BODY)
    assert expected.bytes_to_fetch == 19 * len(BODY)
    assert expected.bytes_per_second > 1e5
    assert expected.bytes_free > 0
    assert text in str(expected)
    assert all(wanted == "bytes=0-1048575" for _, wanted, _ in server.ranges)
    lost = [download.File(tmp_path / "y.svs", (f"{server.base}/missing/y",))]
    assert download.estimate(lost, FAST, assumed_bytes=5e6).bytes_to_fetch == 5e6


def test_a_disk_that_is_too_small_stops_the_run_before_the_first_file(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1_005_000_000))
    files = several(server, tmp_path, "fine", 3)
    with pytest.raises(RuntimeError, match=r"1\.0 GB free, but 1\.0 GB are needed"):
        download.fetch_all(files, anything, FAST)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_becomes_full_stops_the_run(server, tmp_path, monkeypatch):
    def no_room(response, out, *_):
        out.write(response.raw.read(1_000_000))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "copy_body", no_room)
    files = several(server, tmp_path, "fine", 40)
    one_by_one = FAST._replace(n_parallel=1)
    with pytest.raises(RuntimeError, match=r"no space left .*No space left.*: 40 of 40 files, about 0\.1 GB"):
        download.fetch_all(files, anything, one_by_one)
    assert sum(seen for path, seen in server.seen.items()) < 12, "six probes and the one that failed"
    assert (tmp_path / "0.svs.part").stat().st_size == 1_000_000


def test_another_error_of_one_file_fails_that_file(server, tmp_path, monkeypatch):
    files = several(server, tmp_path, "small", 3)
    (tmp_path / "1.svs.part").mkdir()
    df = download.fetch_all(files, anything, FAST)
    assert df["state"].tolist() == ["downloaded", "failed", "downloaded"]
    assert "1.svs.part" in df.loc[1, "reason"]


def test_an_empty_body_is_no_file(server, tmp_path):
    with pytest.raises(DownloadError, match="empty file"):
        fetch(one(server, tmp_path, "empty/a"))
    assert not (tmp_path / "x.svs").exists()


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("trickle", r"only \d+ bytes a second arrived"),
        ("endless", "longer than the 1,000,000 bytes it may have"),
        ("ftp", "No connection adapters were found for 'ftp://"),
        ("file", "No connection adapters were found for 'file://"),
    ],
)
def test_servers_that_would_hold_the_run_or_lead_it_elsewhere(server, tmp_path, way, words):
    settings = FAST._replace(n_retries=0, timeout_s=0.5, least_bytes_per_s=1000.0, most_bytes=1_000_000)
    with pytest.raises(DownloadError, match=words):
        download.fetch(one(server, tmp_path, way), lambda path: None, Session(settings))
    assert not (tmp_path / "x.svs").exists()


def test_no_network(tmp_path):
    files = [download.File(tmp_path / "x.svs", ("http://127.0.0.1:9/x",))]
    with pytest.raises(RuntimeError, match=r"no server could be reached.*by hand"):
        download.fetch_all(files, anything, FAST)


def test_interrupt_keeps_partial_files(server, tmp_path, monkeypatch):
    files = several(server, tmp_path, "slow", 3)

    def interrupted(_):
        while not any(p.stat().st_size for p in tmp_path.glob("*.part")):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download.fetch_all(files, anything, FAST._replace(n_parallel=2))
    assert not list(tmp_path.glob("*.svs"))
    assert any(p.stat().st_size for p in tmp_path.glob("*.part"))


def test_bad_arguments(tmp_path):
    file = download.File(tmp_path / "a", ("http://127.0.0.1:9/a",))
    with pytest.raises(ValueError, match="occurs 2 times"):
        download.fetch_all([file, file], anything, FAST)
    with pytest.raises(ValueError, match="n_parallel must be 1 to 16"):
        download.fetch_all([file], anything, FAST._replace(n_parallel=50))
    with pytest.raises(DownloadError, match="No connection adapters"):
        fetch(file._replace(urls=("file:///etc/passwd",)))
    assert download.fetch_all([], anything, FAST).empty
    assert str(download.estimate([], FAST)) == "no files: nothing to fetch"
