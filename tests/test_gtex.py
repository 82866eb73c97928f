"""lib.gtex: which files to download, whether a slide is complete, and the command line."""

import re
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from gtex_factory import portal_rows, write_portal
from local_server import Quiet, serving

from lib import gtex

NOWHERE = ["--base-url", "http://127.0.0.1:9", "--interval", "0"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root without data, which the command takes its default folders from."""
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    return tmp_path


def slide_bytes(path, steps=(1, 2), edge=512) -> bytes:
    """A tiled pyramid written to `path`, its levels in this order."""
    pixels = np.random.default_rng(3).integers(0, 255, (edge, edge, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        for step in steps:
            level = pixels[::step, ::step]
            tiff.write(level, tile=(256, 256), photometric="rgb", subfiletype=0 if step == 1 else 1)
    return path.read_bytes()


def test_slide_files():
    file = gtex.slide_files(["GTEX-117YW-0126"], "slides", "http://x/image")[0]
    assert file.path == Path("slides/GTEX-117YW-0126.svs")
    assert file.urls == ("http://x/image/GTEX-117YW-0126", "http://x/image/GTEX-117YW-0125")
    assert len(gtex.slide_files(["GTEX-117YW-0124"], "slides")[0].urls) == 1
    with pytest.raises(ValueError, match=r"'\.\./x' is not a GTEx"):
        gtex.slide_files(["../x"], "slides")


def test_a_slide_that_ends_in_5_is_not_downloaded_again(tmp_path):
    (tmp_path / "GTEX-117YW-0125.svs").write_bytes(b"x")
    assert gtex.slide_files(["GTEX-117YW-0126"], tmp_path)[0].path.name == "GTEX-117YW-0125.svs"
    both = gtex.slide_files(["GTEX-117YW-0126", "GTEX-117YW-0125"], tmp_path)
    assert [file.path.name for file in both] == ["GTEX-117YW-0126.svs", "GTEX-117YW-0125.svs"]
    (tmp_path / "GTEX-117YW-0126.svs").write_bytes(b"x")
    assert gtex.slide_files(["GTEX-117YW-0126"], tmp_path)[0].path.name == "GTEX-117YW-0126.svs"


def test_check_slide(tmp_path):
    path = tmp_path / "a.tif"
    whole = slide_bytes(path)
    gtex.check_slide(path)
    for n_bytes in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match=r"OpenSlide cannot read|truncated"):
            gtex.check_slide(path)


def test_a_cut_in_a_middle_level_escapes_openslide_but_not_the_check(tmp_path):
    path = tmp_path / "a.tif"
    whole = slide_bytes(path, steps=(1, 4, 2), edge=1024)  # the middle level last
    gtex.check_slide(path)
    path.write_bytes(whole[:-1000])
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 3
    with pytest.raises(ValueError, match="it is truncated"):
        gtex.check_slide(path)


def test_download_by_tissue_and_cap(tmp_path, capsys):
    slide, missing = slide_bytes(tmp_path / "a.tif"), []

    class Service(Quiet):
        def do_GET(self):
            self.answer(404) if missing else self.answer(200, slide)

    portal, folder = write_portal(tmp_path / "portal.csv", portal_rows(6)), tmp_path / "slides"
    with serving(Service) as server:
        command = ["download", "--tissue", "liver", "--portal", str(portal), "--interval", "0"]
        command += ["--folder", str(folder), "--base-url", server.base, "--max-slides"]
        assert gtex.main([*command, "2", "--dry-run"]) == 0
        assert "2 files, 0 already present" in capsys.readouterr().out
        assert not folder.exists()
        assert gtex.main([*command, "2"]) == 0
        assert "2 downloaded" in capsys.readouterr().out
        assert len(list(folder.glob("GTEX-1AB?-0126.svs"))) == 2
        assert gtex.main([*command, "2"]) == 0
        assert "2 present" in capsys.readouterr().out
        missing.append("all")
        assert gtex.main([*command, "3"]) == 1
        assert "failed: " in capsys.readouterr().err
        (tmp_path / "file").write_text("x")
        command[command.index("--folder") + 1] = str(tmp_path / "file" / "slides")
        assert gtex.main([*command, "2"]) == 2
        assert "file/slides" in capsys.readouterr().err, "a folder that cannot be created"


def test_command_line_errors(tmp_path, capsys):
    portal = str(write_portal(tmp_path / "portal.csv", portal_rows()))
    assert gtex.main(["download", "--tissue", "Livre", "--portal", portal]) == 2
    assert "nearest: ['Liver'" in capsys.readouterr().err
    assert gtex.main(["download", "--portal", str(tmp_path / "absent.csv")]) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gtex.main(["download", "--max-slides", "0"])
    choice = ["--tissue", "liver", "--max-slides", "2", "--portal", portal, "--folder", str(tmp_path / "s")]
    assert gtex.main(["download", *choice, *NOWHERE]) == 2
    assert "no server could be reached" in capsys.readouterr().err


def test_without_a_list_a_choice_must_be_made(root, capsys):
    write_portal(root / "GTExPortal.csv", portal_rows())
    typed = ["download", "--list", str(root / "wantd.csv"), "--tissue", "Liver", "--dry-run"]
    assert gtex.main(typed) == 2
    assert f"--list {root / 'wantd.csv'}: no such file" in capsys.readouterr().err
    assert gtex.main(["download", "--dry-run"]) == 2
    assert "slides_wanted.csv is missing" in capsys.readouterr().err


def test_download_uses_the_list_of_notebook_00(root, capsys):
    raw = root / "data" / "raw" / "gtex"
    raw.mkdir(parents=True)
    rows = "".join(f"{row[0]},{row[0]},{row[1]}\n" for row in portal_rows())
    (raw / "slides_wanted.csv").write_text("sample_id,slide_id,tissue\n" + rows)
    chosen = ["download", "--tissue", "brain—cerebellum", "--max-slides", "3"]
    assert gtex.main([*chosen, *NOWHERE]) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"3 of 12 slides of {raw / 'slides_wanted.csv'}")
    assert "no server could be reached" in err
    (raw / "slides_wanted.csv").write_text("slide,organ\nx,y\n")
    assert gtex.main(chosen) == 2
    assert "columns ['sample_id', 'tissue'] are missing" in capsys.readouterr().err
    (raw / "slides_wanted.csv").write_text("sample_id,tissue\n")
    assert gtex.main(["download"]) == 0
    assert "nothing to download" in capsys.readouterr().out


def test_how_to_fetch_names_folders_other_than_the_defaults(root):
    raw = root / "data" / "raw"
    text = gtex.how_to_fetch(raw / "gtex", raw / "gtex" / "slides", 10)
    assert re.search(r"about 3 GB; .*: python -m lib\.gtex download$", text)
    other = gtex.how_to_fetch(raw / "mine", root / "s", 1)
    assert other.endswith(f"download --list {raw / 'mine' / 'slides_wanted.csv'} --folder {root / 's'}")
