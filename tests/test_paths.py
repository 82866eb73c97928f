"""Paths: where files of a configuration lie, and inputs that are found by their names."""

import pandas as pd
import pytest

from lib.config import Config
from lib.store import Store


@pytest.mark.parametrize("slide_id", ["../a", "a/b", "", "..", "/etc/passwd"])
def test_a_slide_id_must_be_a_file_name(make_store, slide_id):
    with pytest.raises(ValueError, match="rename it"):
        make_store().slide_path(slide_id)


def test_slides_are_found_with_any_known_suffix(make_store):
    store = make_store()
    (store.raw / "slides/b.tiff").write_bytes(b"slide")
    assert store.slide_path("b").name == "b.tiff"
    assert store.slide_path("nowhere").name == "nowhere.svs"
    assert store.missing_slides(pd.DataFrame({"slide_id": ["a", "b", "c", "c"]})) == ["c"]


def test_a_slide_file_of_gtex_may_end_in_5(make_store):
    store, folder = make_store(id_rule="gtex"), make_store().raw / "slides"
    (folder / "GTEX-1A-0525.svs").write_bytes(b"slide")
    assert store.slide_path("GTEX-1A-0526").name == "GTEX-1A-0525.svs"
    assert make_store().slide_path("GTEX-1A-0526").name == "GTEX-1A-0526.svs"
    samples_df = pd.DataFrame({"slide_id": ["GTEX-1A-0526", "GTEX-1B-0526"]})
    assert store.missing_slides(samples_df) == ["GTEX-1B-0526"]
    both_df = pd.DataFrame({"slide_id": ["GTEX-1A-0525", "GTEX-1A-0526"]})
    assert store.missing_slides(both_df) == ["GTEX-1A-0526"]
    (folder / "GTEX-1A-0526.svs").write_bytes(b"slide")
    assert store.slide_path("GTEX-1A-0526").name == "GTEX-1A-0526.svs"


def test_an_immunohistochemistry_image_is_found_by_symbol_or_id(make_store):
    store = make_store()
    assert store.ihc_path("AMY2A") is None
    assert store.unused_ihc([]) == []
    folder = store.raw_path("ihc_dir")
    folder.mkdir()
    images = ("amy2a.PNG", "ENSG00000900162.png", "ENSG7.3.jpg", "ENSG7.tif", "RP11-34P13.7.png")
    for name in (*images, "KLK3.txt", ".hidden"):
        (folder / name).write_bytes(b"x")
    found = {
        "amy2a.PNG": store.ihc_path("AMY2A", "ENSG1"),
        "ENSG00000900162.png": store.ihc_path("LMO2", "ENSG00000900162.9"),
        "ENSG7.3.jpg": store.ihc_path(float("nan"), "ENSG7.3"),
        "ENSG7.tif": store.ihc_path(None, "ENSG7"),
        "RP11-34P13.7.png": store.ihc_path("RP11-34P13.7"),
    }
    assert {name: path and path.name for name, path in found.items()} == {name: name for name in found}
    assert store.ihc_path("X", "ENSG7.8").name == "ENSG7.3.jpg", "another version of the id"
    for names in (("RP11-34P13", "ENSG2"), ("KLK3",), (pd.NA, ""), ()):
        assert store.ihc_path(*names) is None
    used = [found["amy2a.PNG"], None, found["ENSG7.tif"]]
    assert store.unused_ihc(used) == ["ENSG00000900162.png", "ENSG7.3.jpg", "KLK3.txt", "RP11-34P13.7.png"]


def test_root_from_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    assert Store(Config(cohort="mine")).raw == tmp_path / "data/raw/mine"


def test_go_files_as_configured_or_found(make_store, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    assert make_store().go_files() is None
    touch(
        tmp_path / "mirror/go",
        "go_2021.obo.gz",
        "go_2022.obo.gz",
        "goslim_generic.obo",
        "goa_human_2022.gaf.gz",
    )
    touch(tmp_path / "data/raw/go", "go-basic.obo")
    found = make_store().go_files()
    assert [path.name for path in found] == ["go_2022.obo.gz", "goa_human_2022.gaf.gz"]
    touch(tmp_path / "data/raw/go", "goa_human.gaf.gz")
    assert make_store().go_files()[0] == tmp_path / "data/raw/go/go-basic.obo"
    named = make_store(go_obo_file="/x/a.obo", go_gaf_file="/x/b.gaf").go_files()
    assert [str(path) for path in named] == ["/x/a.obo", "/x/b.gaf"]
    with pytest.raises(ValueError, match="give both or none"):
        make_store(go_obo_file="/x/a.obo").go_files()


def test_partial_and_rejected_go_files_are_ignored(make_store, tmp_path, monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    folder = tmp_path / "data/raw/go"
    touch(folder, "go-basic.obo", "goa_human.gaf.gz.part", "goa_human.gaf.gz.part.json")
    assert make_store().go_files() is None
    assert make_store().places[1:] == ((tmp_path / "data/raw/gtex",), folder)
    touch(folder, "goa_human.gaf.gz", "goa_human.gaf.gz.unusable", "go-basic.obo.part")
    assert make_store().go_files() == (folder / "go-basic.obo", folder / "goa_human.gaf.gz")
    assert make_store().places.go is None
    (folder / "go-basic.obo").rename(folder / "go.obo.gz")
    assert make_store().go_files()[0] == folder / "go.obo.gz"


def test_missing_inputs_are_named_with_the_command_that_makes_them(make_store):
    make_store().require_inputs()
    lacking = {"features_file": "features.parquet"}
    with pytest.raises(FileNotFoundError, match=r"features\.parquet is missing: data/README\.md"):
        make_store(**lacking).require_inputs()
    store = make_store(**lacking, inputs_command="python -m x {raw}")
    with pytest.raises(FileNotFoundError, match=f"make it with python -m x {store.raw}"):
        store.require_inputs()


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
