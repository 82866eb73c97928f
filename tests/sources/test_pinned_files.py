"""The registry: a mirror, a local server, damage, and a machine without a network."""

import hashlib
import http.server
import threading
from functools import partial

import pandas as pd
import pytest

from lib.sources import pinned_files

CONTENT = {"data/a.txt": b"alpha\n" * 1000, "b.txt": b"beta\n"}


@pytest.fixture(autouse=True)
def no_mirror_in_the_environment(monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)


@pytest.fixture
def files(tmp_path):
    """A folder that has `toy/<path>`: the content of a mirror or of the server."""
    for path, data in CONTENT.items():
        target = tmp_path / "mirror" / "toy" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return tmp_path / "mirror"


@pytest.fixture
def mirror(files, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(files))
    return files


def table(tmp_path, url="", dataset="toy"):
    rows = [
        {
            "dataset": dataset,
            "path": path,
            "n_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "url": f"{url}/{path}" if url else "",
        }
        for path, data in CONTENT.items()
    ]
    path = tmp_path / "registry.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def server(files):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(files / "toy"))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def whole(dest):
    return {p.relative_to(dest).as_posix(): p.read_bytes() for p in dest.rglob("*") if p.is_file()}


def test_from_the_mirror(tmp_path, mirror):
    assert whole(pinned_files.fetch("toy", tmp_path / "one", registry_csv=table(tmp_path))) == CONTENT


def test_what_is_there_is_kept_and_what_is_partial_is_replaced(tmp_path, mirror, monkeypatch):
    csv, dest = table(tmp_path), tmp_path / "dest"
    pinned_files.fetch("toy", dest, registry_csv=csv)
    (dest / "data/a.txt").unlink()
    (dest / "data/a.txt").write_bytes(CONTENT["data/a.txt"][:100])  # a cut-off file
    before = (dest / "b.txt").stat().st_mtime_ns
    assert whole(pinned_files.fetch("toy", dest, registry_csv=csv)) == CONTENT
    assert (dest / "b.txt").stat().st_mtime_ns == before
    monkeypatch.delenv("DATA_MIRROR")  # all right: no mirror, no network needed
    assert pinned_files.fetch("toy", dest, registry_csv=csv) == dest


def test_damaged_mirror_is_refused_and_leaves_nothing(tmp_path, mirror):
    (mirror / "toy/b.txt").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"b\.txt has sha256 .*5 bytes.*replace it"):
        pinned_files.fetch("toy", tmp_path / "dest", registry_csv=table(tmp_path))
    assert set(whole(tmp_path / "dest")) == {"data/a.txt"}


def test_download(tmp_path, server):
    csv = table(tmp_path, server)
    assert whole(pinned_files.fetch("toy", tmp_path / "dest", registry_csv=csv)) == CONTENT


def test_mirror_first_then_network(tmp_path, server, monkeypatch):
    partial_mirror = tmp_path / "other"
    (partial_mirror / "toy").mkdir(parents=True)
    (partial_mirror / "toy/b.txt").write_bytes(CONTENT["b.txt"])
    monkeypatch.setenv("DATA_MIRROR", str(partial_mirror))
    csv = table(tmp_path, server)
    assert whole(pinned_files.fetch("toy", tmp_path / "dest", registry_csv=csv)) == CONTENT


def test_wrong_bytes_from_the_network(tmp_path, files, server):
    csv = table(tmp_path, server)
    (files / "toy/b.txt").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="does not have the sha256"):
        pinned_files.fetch("toy", tmp_path / "dest", registry_csv=csv)
    assert not (tmp_path / "dest/b.txt").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "server/absent"])
def test_no_network_names_both_ways(tmp_path, server, url):
    csv = table(tmp_path, url.replace("server", server))
    with pytest.raises(RuntimeError, match=r"Could not download .*connect to the network.*DATA_MIRROR"):
        pinned_files.fetch("toy", tmp_path / "dest", registry_csv=csv)
    assert whole(tmp_path / "dest") == {}


def test_no_address_and_no_mirror(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no public address.*DATA_MIRROR.*No mirror is set"):
        pinned_files.fetch("toy", tmp_path / "dest", registry_csv=table(tmp_path))
    with pytest.raises(FileNotFoundError, match="go_obo_file"):
        pinned_files.fetch("go", tmp_path / "dest", registry_csv=table(tmp_path, dataset="go"))
    with pytest.raises(ValueError, match=r"Unknown dataset 'her3st'.*'go', 'her2st'"):
        pinned_files.fetch("her3st", tmp_path / "dest")
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        pinned_files.fetch("toy", tmp_path / "dest", registry_csv=table(tmp_path))


def test_the_table_itself():
    commit = "85df7411b987a7dec3feff9718b869a7a82091ec"
    rows_df = pinned_files.files("her2st")
    assert rows_df["sha256"].str.fullmatch(r"[0-9a-f]{64}").all()
    assert (
        rows_df["url"] == "https://raw.githubusercontent.com/almaan/her2st/" + commit + "/" + rows_df["path"]
    ).all()
    for section in ("B4", "C2", "C3", "C4"):
        of_section = rows_df[rows_df["path"].str.contains(f"/{section}[-_./]")]
        assert len(of_section) == 4, f"section {section} needs counts, picture, spots and labels"
    assert set(pinned_files.files("go")["path"]) >= {"go_2022-07-01.obo.gz", "goa_human_2022-09.gaf.gz"}
