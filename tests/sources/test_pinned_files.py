"""Pinned files: from a mirror, from a local server, damaged, and on a machine without a network."""

import hashlib

import pandas as pd
import pytest
from local_server import serving

from lib.sources import pinned_files
from lib.sources.http_session import Settings

CONTENT = {"data/a.txt": b"alpha\n" * 1000, "b.txt": b"beta\n"}


@pytest.fixture(autouse=True)
def quick_and_without_a_mirror(monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    monkeypatch.setattr(pinned_files, "SETTINGS", Settings(interval_s=0.0, n_retries=2, backoff_s=0.01))


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


@pytest.fixture
def server(files):
    with serving(folder=files / "toy") as running:
        yield running.base


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Fetches `toy` by a registry of these addresses into a folder; returns the content of that folder."""

    def run(url="", dataset="toy"):
        rows = [
            (dataset, path, len(data), hashlib.sha256(data).hexdigest(), f"{url}/{path}" if url else "")
            for path, data in CONTENT.items()
        ]
        columns = ["dataset", "path", "n_bytes", "sha256", "url"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "registry.csv", index=False)
        monkeypatch.setattr(pinned_files, "REGISTRY_CSV", tmp_path / "registry.csv")
        return content_of(pinned_files.fetch(dataset, tmp_path / "dest"))

    return run


def content_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_from_the_mirror(fetch, mirror):
    assert fetch() == CONTENT


def test_correct_files_are_kept_and_truncated_ones_replaced(fetch, tmp_path, mirror, monkeypatch):
    fetch()
    dest = tmp_path / "dest"
    (dest / "data/a.txt").unlink()
    (dest / "data/a.txt").write_bytes(CONTENT["data/a.txt"][:100])
    before = (dest / "b.txt").stat().st_mtime_ns
    assert fetch() == CONTENT
    assert (dest / "b.txt").stat().st_mtime_ns == before
    monkeypatch.delenv("DATA_MIRROR")
    assert fetch() == CONTENT, "complete: no mirror, no network needed"


def test_damaged_mirror_is_refused_and_leaves_nothing(fetch, tmp_path, mirror):
    (mirror / "toy/b.txt").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"b\.txt \(5 bytes\) has sha256 .*replace it"):
        fetch()
    assert set(content_of(tmp_path / "dest")) == {"data/a.txt"}


def test_mirror_first_then_network(fetch, tmp_path, server, monkeypatch):
    assert fetch(server) == CONTENT
    (tmp_path / "other" / "toy").mkdir(parents=True)
    (tmp_path / "other" / "toy/b.txt").write_bytes(CONTENT["b.txt"])
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "other"))
    (tmp_path / "dest").rename(tmp_path / "first")
    assert fetch(server) == CONTENT
    assert (tmp_path / "dest/b.txt").stat().st_nlink == 2, "linked, not downloaded"


def test_wrong_bytes_from_the_network(fetch, tmp_path, files, server):
    (files / "toy/b.txt").write_bytes(b"oops\n")
    with pytest.raises(RuntimeError, match=r"1 of 2 files of toy .*not usable: it has sha256"):
        fetch(server)
    assert set(content_of(tmp_path / "dest")) == {"data/a.txt"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "server/absent"])
def test_no_network_names_both_ways(fetch, tmp_path, server, url):
    with pytest.raises(RuntimeError, match=r"could not be downloaded .*connect to the network.*DATA_MIRROR"):
        fetch(url.replace("server", server))
    assert content_of(tmp_path / "dest") == {}


def test_no_address_and_no_mirror(fetch, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no public address.*DATA_MIRROR.*no mirror is set"):
        fetch()
    with pytest.raises(FileNotFoundError, match="go_obo_file"):
        fetch(dataset="go")
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        fetch()


def test_the_registry_itself():
    commit = "85df7411b987a7dec3feff9718b869a7a82091ec"
    rows_df = pinned_files.files("her2st")
    assert rows_df["sha256"].str.fullmatch(r"[0-9a-f]{64}").all()
    base = f"https://raw.githubusercontent.com/almaan/her2st/{commit}/"
    assert (rows_df["url"] == base + rows_df["path"]).all()
    for section in ("B4", "C2", "C3", "C4"):
        of_section = rows_df[rows_df["path"].str.contains(f"/{section}[-_./]")]
        assert len(of_section) == 4, f"section {section} needs counts, picture, spots and labels"
    assert set(pinned_files.files("go")["path"]) >= {"go_2022-07-01.obo.gz", "goa_human_2022-09.gaf.gz"}
    with pytest.raises(ValueError, match=r"unknown dataset 'her3st'.*'go', 'her2st'"):
        pinned_files.files("her3st")
