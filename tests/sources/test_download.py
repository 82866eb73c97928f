"""lib.sources.download against a server on 127.0.0.1 that misbehaves in every way the issue names."""

import errno
import hashlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lib import gtex
from lib.sources import download, resume

BODY = np.random.default_rng(0).bytes(3_000_000)
SMALL = np.random.default_rng(1).bytes(50_000)
FAST = download.Settings(n_parallel=4, interval_s=0.0, n_retries=3, backoff_s=0.01, timeout_s=2.0)


class Misbehaving(BaseHTTPRequestHandler):
    """The path says how to misbehave: /<manner>/<anything>. The server counts the requests for each path."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        manner = self.path.split("/")[1]
        with self.server.lock:
            self.server.seen[self.path] += 1
            n = self.server.seen[self.path]
            self.server.ranges.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
            self.server.times.append(time.monotonic())
        getattr(self, f"do_{manner}")(n)

    def whole(self, body, limit=None, headers=(), ranges=True, etag=None):
        """Answer with `body` (honouring Range), sending no more than `limit` bytes of the promised ones."""
        etag = etag or '"' + hashlib.md5(body).hexdigest() + '"'
        wanted, begin = self.headers.get("Range"), 0
        same = self.headers.get("If-Range") in (None, etag)
        if wanted and ranges and same:
            begin, end = (int(part) if part else None for part in wanted.removeprefix("bytes=").split("-"))
            if begin >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            stop = len(body) if end is None else min(end + 1, len(body))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{stop - 1}/{len(body)}")
            body = body[begin:stop]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:limit])
        if limit is not None and limit < len(body):
            self.close_connection = True

    def status(self, code, headers=()):
        self.send_response(code)
        for name, value in (*headers, ("Content-Length", "0")):
            self.send_header(name, value)
        self.end_headers()

    def do_fine(self, n):
        self.whole(BODY)

    def do_small(self, n):
        self.whole(SMALL)

    def do_slide(self, n):
        self.whole(self.server.slide)

    def do_drops(self, n):  # every answer breaks off after about a third
        self.whole(BODY, limit=1_100_000)

    def do_dropsnorange(self, n):  # breaks off twice and knows no ranges
        self.whole(BODY, limit=1_100_000 if n <= 3 else None, ranges=False)

    def do_alwaysdrops(self, n):  # promises, but never sends a byte
        self.whole(BODY, limit=0)

    def do_reset(self, n):
        if n <= 2:
            self.connection.close()
            self.close_connection = True
            return
        self.whole(BODY)

    def do_missing(self, n):
        self.status(404)

    def do_only5(self, n):
        self.whole(SMALL) if self.path.endswith("5") else self.status(404)

    def do_broken(self, n):
        self.status(500)

    def do_brokenfirst(self, n):
        self.status(500) if n <= 2 else self.whole(SMALL)

    def do_busy(self, n):
        self.status(503, [("Retry-After", "1")]) if n == 2 else self.whole(SMALL)

    def do_forbidden(self, n):
        self.status(403)

    def do_html(self, n):
        page = b"<html><head><title>Down for maintenance</title></head></html>"
        self.whole(page, headers=[("Content-Type", "text/html; charset=utf-8")])

    def do_disguised(self, n):  # a web page said to be a slide
        self.whole(
            b"\n<!DOCTYPE html><html><title>Oops</title></html>", headers=[("Content-Type", "image/x-svs")]
        )

    def do_htmlfirst(self, n):
        self.do_html(n) if n <= 2 else self.whole(SMALL)

    def do_short(self, n):  # honest about a length that is too small: a cut-off slide
        self.whole(self.server.slide[: len(self.server.slide) // 2])

    def do_changing(self, n):  # another file at every request, broken off in the first
        other = BODY[::-1]
        self.whole(BODY, limit=1_000_000) if n == 1 else self.whole(other)

    def do_wrongrange(self, n):  # answers ranges with the wrong part, once
        if self.headers.get("Range", "").endswith("-") and n == 2:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)
        else:
            self.whole(BODY, limit=1_000_000 if n == 1 else None)

    def do_shifted(self, n):  # as many bytes as are missing, but from another place, and saying so
        if n != 2:
            self.whole(BODY, limit=1_000_000 if n == 1 else None)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 500000-{len(BODY) - 500_001}/{len(BODY)}")
        self.send_header("Content-Length", str(len(BODY) - 1_000_000))
        self.end_headers()
        self.wfile.write(BODY[500_000:-500_000])

    def do_empty(self, n):
        self.whole(b"")

    def do_chunked(self, n):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(0, len(SMALL), 9000):
            piece = SMALL[i : i + 9000]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if n == 1 and i > 20_000:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def do_nolength(self, n):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        body = self.server.slide
        self.wfile.write(body if n > 1 else body[: len(body) // 2])
        self.close_connection = True

    def do_stalls(self, n):
        if n == 1:
            self.whole(SMALL, limit=10_000)
            self.close_connection = False
            time.sleep(3)
            self.close_connection = True
        else:
            self.whole(SMALL)

    def do_slow(self, n):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.send_header("ETag", '"slow"')
        self.end_headers()
        for i in range(0, len(BODY), 100_000):
            self.wfile.write(BODY[i : i + 100_000])
            time.sleep(0.02)


@pytest.fixture(scope="module")
def slide_bytes(tmp_path_factory) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    pixels = np.random.default_rng(2).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, tile=(256, 256), photometric="rgb")
        tiff.write(pixels[::2, ::2], tile=(256, 256), photometric="rgb", subfiletype=1)
    return path.read_bytes()


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the test


@pytest.fixture
def server(slide_bytes):
    server = QuietServer(("127.0.0.1", 0), Misbehaving)
    server.lock, server.seen, server.ranges, server.times = threading.Lock(), Counter(), [], []
    server.slide = slide_bytes
    server.base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


def one(server, folder: Path, *ways: str) -> download.File:
    return download.File(folder / "x.svs", tuple(f"{server.base}/{way}" for way in ways))


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
def test_gets_there_in_the_end(server, tmp_path, way, body, n_requests):
    row = download.fetch(one(server, tmp_path, way), settings=FAST)
    assert (tmp_path / "x.svs").read_bytes() == body
    assert (row["state"], row["n_bytes"], row["n_requests"]) == ("downloaded", len(body), n_requests)
    assert leftovers(tmp_path) == []


def test_resumes_by_byte_range(server, tmp_path):
    download.fetch(one(server, tmp_path, "drops/a"), settings=FAST)
    asked = [wanted for _, wanted, _ in server.ranges]
    assert asked == [None, "bytes=1100000-", "bytes=2200000-"]
    assert all(condition for _, wanted, condition in server.ranges if wanted)


@pytest.mark.parametrize(
    ("way", "message", "n_requests"),
    [
        ("missing/a", "not on the server: .*HTTP 404", 1),
        ("forbidden/a", "HTTP 403", 1),
        ("broken/a", "given up after 4 requests.*HTTP 500", 4),
        ("html/a", "given up after 4.*web page \\('Down for maintenance'\\)", 4),
        ("disguised/a", "given up after 4.*web page \\('Oops'\\)", 4),
        ("alwaysdrops/a", "given up after 4.*0 of 3000000 bytes", 4),
        ("nolength/a", "no length, so a cut-off file could not be recognised", None),
    ],
)
def test_gives_up_and_says_why(server, tmp_path, way, message, n_requests):
    with pytest.raises(download.DownloadError, match=message):
        download.fetch(one(server, tmp_path, way), settings=FAST)
    assert not (tmp_path / "x.svs").exists()
    if n_requests:
        assert server.seen[f"/{way}"] == n_requests


def test_cut_off_slide_with_a_consistent_length_is_caught(server, tmp_path):
    file = one(server, tmp_path, "short/a")
    assert download.fetch(file, settings=FAST)["state"] == "downloaded"  # nothing but the content can tell
    with pytest.raises(download.DownloadError, match="not usable"):
        download.fetch(file, download.check_slide, FAST)
    assert not file.path.exists()
    assert leftovers(tmp_path) == ["x.svs.unusable"]  # the earlier copy is put aside, not deleted
    good = one(server, tmp_path, "slide/a")
    download.fetch(good, download.check_slide, FAST)
    assert good.path.read_bytes() == server.slide


def test_without_a_length_the_check_decides(server, tmp_path):
    row = download.fetch(one(server, tmp_path, "nolength/a"), download.check_slide, FAST)
    assert row["n_requests"] == 2
    assert (tmp_path / "x.svs").read_bytes() == server.slide


def test_check_slide(tmp_path, slide_bytes):
    path = tmp_path / "a.tif"
    path.write_bytes(slide_bytes)
    download.check_slide(path)
    for n_bytes in (0, 100, len(slide_bytes) // 2, len(slide_bytes) - 1):
        path.write_bytes(slide_bytes[:n_bytes])
        with pytest.raises(ValueError, match=r"OpenSlide cannot read|cut off"):
            download.check_slide(path)


def test_a_cut_in_a_middle_level_escapes_openslide_but_not_the_check(tmp_path):
    openslide, tifffile = pytest.importorskip("openslide"), pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(3).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 4, 2):  # the middle level last
            tiff.write(
                pixels[::step, ::step], tile=(256, 256), photometric="rgb", subfiletype=0 if step == 1 else 1
            )
    download.check_slide(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 3
    with pytest.raises(ValueError, match="it was cut off"):
        download.check_slide(path)


def test_next_address_after_404(server, tmp_path):
    row = download.fetch(one(server, tmp_path, "only5/GTEX-A-0126", "only5/GTEX-A-0125"), settings=FAST)
    assert row["url"].endswith("GTEX-A-0125")
    assert (tmp_path / "x.svs").read_bytes() == SMALL


def test_retry_after_is_honoured(server, tmp_path):
    server.seen["/busy/a"] = 1
    started = time.monotonic()
    download.fetch(one(server, tmp_path, "busy/a"), settings=FAST)
    assert time.monotonic() - started > 0.95


def test_a_later_run_goes_on_where_an_earlier_one_stopped(server, tmp_path):
    file = one(server, tmp_path, "drops/a")
    with pytest.raises(download.DownloadError):
        download.fetch(file, settings=FAST._replace(n_retries=0))
    assert leftovers(tmp_path) == ["x.svs.part", "x.svs.part.json"]
    assert (tmp_path / "x.svs.part").stat().st_size == 1_100_000
    download.fetch(file, settings=FAST)
    assert file.path.read_bytes() == BODY
    assert server.ranges[1][1] == "bytes=1100000-"


def test_killed_just_before_the_last_step(server, tmp_path):
    file = one(server, tmp_path, "fine/a")
    download.fetch(file, settings=FAST)
    file.path.rename(tmp_path / "x.svs.part")
    etag = '"' + hashlib.md5(BODY).hexdigest() + '"'
    state = {"url": file.urls[0], "total": len(BODY), "validator": etag}
    (tmp_path / "x.svs.part.json").write_text(json.dumps(state))
    row = download.fetch(file, settings=FAST)
    assert (file.path.read_bytes() == BODY, row["n_requests"]) == (True, 1)
    assert server.ranges[-1][1] == f"bytes={len(BODY)}-"


@pytest.mark.parametrize(
    "state", ["", "{not json", '{"url": "http://elsewhere/", "validator": "x", "total": 5}']
)
def test_a_partial_file_of_unknown_origin_is_not_built_upon(server, tmp_path, state):
    (tmp_path / "x.svs.part").write_bytes(b"x" * 1000)
    if state:
        (tmp_path / "x.svs.part.json").write_text(state)
    download.fetch(one(server, tmp_path, "fine/a"), settings=FAST)
    assert (tmp_path / "x.svs").read_bytes() == BODY
    assert server.ranges[-1][1] is None


# ------------------------------------------------------------------------------------------------ many files
def test_fetch_all(server, tmp_path):
    ways = ["fine/1", "drops/2", "missing/3", "html/4", "small/5", "reset/6"]
    files = [download.File(tmp_path / f"{i}.svs", (f"{server.base}/{way}",)) for i, way in enumerate(ways)]
    (tmp_path / "4.svs").write_bytes(SMALL)
    df = download.fetch_all(files, settings=FAST, progress=False)
    assert df["path"].tolist() == [str(file.path) for file in files]
    assert df["state"].tolist() == ["downloaded", "downloaded", "failed", "failed", "present", "downloaded"]
    assert df.loc[df["state"] != "failed", "reason"].eq("").all()
    assert "404" in df.loc[2, "reason"]
    assert server.seen["/small/5"] == 0
    again = download.fetch_all(
        [f for i, f in enumerate(files) if i not in (2, 3)], settings=FAST, progress=False
    )
    assert set(again["state"]) == {"present"}


def test_several_at_a_time_but_politely(server, tmp_path):
    files = [download.File(tmp_path / f"{i}.svs", (f"{server.base}/slow/{i}",)) for i in range(4)]
    started = time.monotonic()
    download.fetch_all(files, settings=FAST._replace(interval_s=0.05), progress=False)
    assert time.monotonic() - started < 4 * 0.6 + 2  # a file takes 0.6 s, and is also probed for 1 MB
    gaps = np.diff(sorted(server.times))
    assert len(gaps) == 7
    assert gaps.min() > 0.03


def test_estimate(server, tmp_path):
    files = [download.File(tmp_path / f"{i}.svs", (f"{server.base}/fine/{i}",)) for i in range(20)]
    (tmp_path / "0.svs").write_bytes(BODY)
    expected = download.estimate(files, FAST)
    assert (expected.n_files, expected.n_present, expected.n_probed) == (20, 1, 6)
    assert expected.bytes_per_file == len(BODY)
    assert expected.bytes_to_fetch == 19 * len(BODY)
    assert expected.bytes_per_second > 1e5
    assert expected.bytes_free > 0
    assert "20 files, 1 already here; about 0.1 GB to fetch (3 MB a file, 6 asked)" in str(expected)
    assert all(wanted == "bytes=0-1048575" for _, wanted, _ in server.ranges)
    lost = [download.File(tmp_path / "y.svs", (f"{server.base}/missing/y",))]
    assert download.estimate(lost, FAST, assumed_bytes=5e6).bytes_to_fetch == 5e6


def test_disk_too_small_is_said_before_anything_is_fetched(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1_005_000_000))
    files = [download.File(tmp_path / f"{i}.svs", (f"{server.base}/fine/{i}",)) for i in range(3)]
    with pytest.raises(RuntimeError, match=r"1\.0 GB free, but 1\.0 GB are needed"):
        download.fetch_all(files, settings=FAST, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_becomes_full_stops_the_run(server, tmp_path, monkeypatch):
    def no_room(response, out, session):
        out.write(response.read(1_000_000))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resume, "_copy", no_room)
    files = [download.File(tmp_path / f"{i}.svs", (f"{server.base}/fine/{i}",)) for i in range(40)]
    one_by_one = FAST._replace(n_parallel=1)
    with pytest.raises(RuntimeError, match=r"No room .*No space left.*: 40 of 40 files, about 0\.1 GB"):
        download.fetch_all(files, settings=one_by_one, progress=False)
    assert sum(seen for path, seen in server.seen.items()) < 12, "six probes and the one that failed"
    assert (tmp_path / "0.svs.part").stat().st_size == 1_000_000


def test_another_error_of_one_file_fails_that_file(server, tmp_path, monkeypatch):
    files = [download.File(tmp_path / f"{i}.svs", (f"{server.base}/small/{i}",)) for i in range(3)]
    (tmp_path / "1.svs.part").mkdir()
    df = download.fetch_all(files, settings=FAST, progress=False)
    assert df["state"].tolist() == ["downloaded", "failed", "downloaded"]
    assert "1.svs.part" in df.loc[1, "reason"]


def test_a_folder_that_cannot_be_made(server, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    listed = tmp_path / "list.csv"
    listed.write_text("sample_id,tissue\nGTEX-A1-0126,Liver\n")
    arguments = ["download", "--list", str(listed), "--base-url", f"{server.base}/slide", "--interval", "0"]
    assert gtex.main([*arguments, "--folder", str(tmp_path / "file" / "slides")]) == 2
    assert "file/slides" in capsys.readouterr().err


def test_an_empty_body_is_no_file(server, tmp_path):
    with pytest.raises(download.DownloadError, match="empty file"):
        download.fetch(one(server, tmp_path, "empty/a"), settings=FAST)
    assert not (tmp_path / "x.svs").exists()


def test_no_network(tmp_path):
    files = [download.File(tmp_path / "x.svs", ("http://127.0.0.1:9/x",))]
    with pytest.raises(RuntimeError, match=r"No server could be reached.*by hand"):
        download.fetch_all(files, settings=FAST, progress=False)


def test_interrupt_keeps_partial_files(server, tmp_path, monkeypatch):
    files = [download.File(tmp_path / f"{i}.svs", (f"{server.base}/slow/{i}",)) for i in range(3)]

    def interrupted(_):
        while not any(p.stat().st_size for p in tmp_path.glob("*.part")):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download.fetch_all(files, settings=FAST._replace(n_parallel=2), progress=False)
    assert not list(tmp_path.glob("*.svs"))
    assert any(p.stat().st_size for p in tmp_path.glob("*.part"))


def test_bad_arguments(tmp_path):
    file = download.File(tmp_path / "a", ("http://127.0.0.1:9/a",))
    with pytest.raises(ValueError, match="occurs twice"):
        download.fetch_all([file, file], settings=FAST)
    with pytest.raises(ValueError, match="has no address"):
        download.fetch_all([file._replace(urls=())], settings=FAST)
    with pytest.raises(ValueError, match="n_parallel goes from 1 to 16"):
        download.fetch_all([file], settings=FAST._replace(n_parallel=50))
    with pytest.raises(download.DownloadError, match="only http and https"):
        download.fetch(file._replace(urls=("file:///etc/passwd",)), settings=FAST)
    assert download.fetch_all([], settings=FAST, progress=False).empty
    assert str(download.estimate([], FAST)) == "no files: nothing to fetch"


def test_command_line_of_gtex(server, tmp_path, capsys):
    portal = tmp_path / "portal.csv"
    rows = "".join(f"GTEX-A{i}-0126,Liver\nGTEX-A{i}-0226,Lung\n" for i in range(6))
    portal.write_text("Tissue Sample ID,Tissue\n" + rows)
    folder = tmp_path / "slides"
    arguments = [
        "download",
        "--tissue",
        "liver",
        "--max-slides",
        "2",
        "--portal",
        str(portal),
        "--interval",
        "0",
    ]
    arguments += ["--folder", str(folder), "--base-url", f"{server.base}/slide"]
    assert gtex.main([*arguments, "--dry-run"]) == 0
    assert "2 files, 0 already here" in capsys.readouterr().out
    assert not folder.exists()
    assert gtex.main(arguments) == 0
    assert "2 downloaded" in capsys.readouterr().out
    assert len(list(folder.glob("GTEX-A?-0126.svs"))) == 2
    assert gtex.main(arguments) == 0
    assert "2 present" in capsys.readouterr().out
    arguments[-1] = f"{server.base}/missing"
    arguments[4] = "3"
    assert gtex.main(arguments) == 1
    assert "failed: " in capsys.readouterr().err
