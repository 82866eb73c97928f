"""lib.gtex: which files to download, and the command line."""

from pathlib import Path

import pytest
from gtex_factory import portal_rows, write_portal

from lib import gtex


def test_slide_files():
    file = gtex.slide_files(["GTEX-117YW-0126"], "slides", "http://x/image")[0]
    assert file.path == Path("slides/GTEX-117YW-0126.svs")
    assert file.urls == ("http://x/image/GTEX-117YW-0126", "http://x/image/GTEX-117YW-0125")
    assert len(gtex.slide_files(["GTEX-117YW-0124"], "slides")[0].urls) == 1
    with pytest.raises(ValueError, match=r"'\.\./x' is not a GTEx"):
        gtex.slide_files(["../x"], "slides")


def test_a_slide_that_ends_in_5_is_not_fetched_again(tmp_path):
    (tmp_path / "GTEX-117YW-0125.svs").write_bytes(b"x")
    assert gtex.slide_files(["GTEX-117YW-0126"], tmp_path)[0].path.name == "GTEX-117YW-0125.svs"
    both = gtex.slide_files(["GTEX-117YW-0126", "GTEX-117YW-0125"], tmp_path)
    assert [file.path.name for file in both] == ["GTEX-117YW-0126.svs", "GTEX-117YW-0125.svs"]
    (tmp_path / "GTEX-117YW-0126.svs").write_bytes(b"x")
    assert gtex.slide_files(["GTEX-117YW-0126"], tmp_path)[0].path.name == "GTEX-117YW-0126.svs"


def test_command_line_errors(tmp_path, capsys):
    portal = str(write_portal(tmp_path / "portal.csv", portal_rows()))
    assert gtex.main(["download", "--tissue", "Livre", "--portal", portal]) == 2
    assert "nearest: ['Liver'" in capsys.readouterr().err
    assert gtex.main(["download", "--portal", str(tmp_path / "absent.csv")]) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gtex.main(["download", "--max-slides", "0"])
    nowhere = ["--base-url", "http://127.0.0.1:9", "--folder", str(tmp_path / "s"), "--interval", "0"]
    assert (
        gtex.main(["download", "--tissue", "liver", "--max-slides", "2", "--portal", portal, *nowhere]) == 2
    )
    assert "No server could be reached" in capsys.readouterr().err
