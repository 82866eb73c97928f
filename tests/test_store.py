"""Store: whole files, provenance, and staleness that follows the inputs and nothing else."""

import json
import os

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import lib.store
from lib.artefacts import ARTEFACTS, NOTEBOOKS, WORK_FOLDERS, StaleArtefactError
from lib.config import Config
from lib.store import Store
from lib.whole_files import write_json


@pytest.fixture
def make_store(tmp_path):
    raw = tmp_path / "data/raw/mine"
    (raw / "slides").mkdir(parents=True)
    (raw / "samples.csv").write_text("sample_id\na\n")
    (raw / "expression.gct.gz").write_bytes(b"x")
    (raw / "slides/a.svs").write_bytes(b"slide")
    return lambda **fields: Store(Config(cohort="mine", **fields), root=tmp_path)


FRAME = pd.DataFrame({"sample_id": ["a", "b"], "n": [1, 2]})


def test_round_trip_and_record(make_store):
    store = make_store()
    store.save("samples", FRAME, seconds=1.0)
    pd.testing.assert_frame_equal(store.load("samples"), FRAME)
    record = store.facts("samples")
    assert record["made_by"] == "00_cohort"
    assert record["seconds"] == 1.0
    assert set(record["versions"]) >= {"python", "numpy", "torch"}
    assert not list(store.derived.glob(".*")), "temporary files left behind"


def test_missing_names_the_notebook(make_store):
    with pytest.raises(StaleArtefactError, match="01_tiles") as caught:
        make_store().load("tiles")
    assert (caught.value.artefact, caught.value.notebook) == ("tiles", "01_tiles")


def test_changed_parameter_makes_stale_what_depends_on_it_and_nothing_else(make_store):
    store = make_store()
    store.save("samples", FRAME)
    store.save("tiles", FRAME)
    assert make_store(epochs=2).is_current("tiles")  # training does not matter to tiles
    other = make_store(min_tissue=0.3)
    assert other.is_current("samples")
    assert "min_tissue" in other.why_stale("tiles")
    with pytest.raises(StaleArtefactError, match=r"min_tissue = 0\.5, now 0\.3"):
        other.load("tiles")


def test_new_content_of_an_input_makes_stale_the_same_content_does_not(make_store):
    store = make_store()
    store.save("samples", FRAME)
    store.save("tiles", FRAME)
    store.save("samples", FRAME)  # made again, equal
    assert store.is_current("tiles")
    store.save("samples", FRAME.assign(n=[1, 3]))
    assert "samples" in store.why_stale("tiles")


def test_raw_inputs_count(make_store):
    store = make_store()
    store.save("samples", FRAME)
    store.raw_path("samples_file").write_text("sample_id\nb\nc\n")
    assert "raw:samples_file" in store.why_stale("samples")
    store.save("samples", FRAME)
    store.save("tiles", FRAME)
    (store.raw / "slides/b.svs").write_bytes(b"another")
    assert "raw:slides_dir" in store.why_stale("tiles")


def test_changed_by_hand(make_store):
    store = make_store()
    store.save("samples", FRAME)
    store.path("samples").write_bytes(b"short")
    assert "by hand" in store.why_stale("samples")


def test_interrupted_save_leaves_no_half_file(make_store, monkeypatch):
    store = make_store()
    store.save("samples", FRAME)

    def killed(self, path, **_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save("samples", FRAME.assign(n=[5, 6]))
    assert not store.is_current(
        "samples"
    )  # the old file without a record is not trusted, the half file is not there
    monkeypatch.undo()
    pd.testing.assert_frame_equal(pd.read_parquet(store.path("samples")), FRAME)


def test_cached_makes_once(make_store):
    store, calls = make_store(), []
    make = lambda: calls.append(1) or FRAME  # noqa: E731
    store.cached("samples", make)
    store.cached("samples", make)
    assert len(calls) == 1
    tiles, slides = store.cached(("tiles", "slides"), lambda: (FRAME, FRAME.head(1)))
    assert (len(tiles), len(slides)) == (2, 1)


def test_forget_removes_artefacts_and_work(make_store):
    store = make_store()
    store.save("samples", FRAME)
    store.save("tiles", FRAME)
    store.path("stacks").mkdir(parents=True)
    store.forget("01_tiles")
    assert store.is_current("samples")
    assert not store.path("tiles").exists()
    assert not store.path("stacks").exists()


def test_more_epochs_keep_the_work_and_another_recipe_throws_it_away(make_store, capsys):
    def begun(**fields):
        folder = make_store(**fields).work_folder("training", "network")
        kept = (folder / "last.pt").exists()
        (folder / "last.pt").write_bytes(b"x")
        return kept

    assert not begun(epochs=2)
    assert capsys.readouterr().out == ""
    assert begun(epochs=4)
    assert begun(epochs=3)
    assert not begun(epochs=3, learning_rate=0.5)
    said = capsys.readouterr().out
    assert "training begins anew (learning_rate was 0.01, is 0.5): 1 files of" in said
    assert said.count("\n") == 1


def test_a_record_that_still_names_epochs_keeps_the_work(make_store):
    store = make_store()
    folder = store.work_folder("training", "network")
    (folder / "last.pt").write_bytes(b"x")
    begun = json.loads((folder / "begun.json").read_text())
    begun["config"]["epochs"] = 7
    write_json(folder / "begun.json", begun)
    assert (store.work_folder("training", "network") / "last.pt").exists()


def test_weights_lie_in_the_repository_and_their_content_counts(make_store, tmp_path, monkeypatch):
    monkeypatch.setattr(lib.store, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path / "data")
    assert make_store().weights is None
    assert make_store(weights="imagenet").weights == "imagenet"
    store = make_store(weights="runs/best.pt")
    with pytest.raises(FileNotFoundError, match=r"weights = 'runs/best.pt': there is no checkpoint at /"):
        _ = store.weights
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/best.pt").write_bytes(b"first")
    assert store.weights == str(tmp_path / "runs/best.pt")
    keep_network(store, tmp_path, names=())
    folder = store.work_folder("training", "network")
    (folder / "last.pt").write_bytes(b"x")
    assert store.is_current("network")
    (tmp_path / "runs/best.pt").write_bytes(b"another")
    assert store.why_stale("network") == "was made from another 'raw:weights'"
    assert not (store.work_folder("training", "network") / "last.pt").exists()
    store.save("network", tmp_path / "weights.pt")
    (tmp_path / "runs/best.pt").unlink()
    assert store.is_current("network")  # it may be on another machine


def test_networks_that_began_with_other_weights_are_others(make_store, tmp_path):
    for fields in ({}, {"weights": "imagenet"}, {"weights": "imagenet", "null_network": "untrained"}):
        keep_network(make_store(architecture="resnet34", **fields), tmp_path)
    found = make_store().networks(("accuracy",))
    names = ["resnet34", "resnet34__imagenet", "resnet34__imagenet__untrained"]
    assert list(found) == names
    assert [why for _, why in found.values()] == ["", "", ""]
    kinds = [store.config.network_kind for store, _ in found.values()]
    assert kinds == ["trained", "trained", "as it is"]


@pytest.mark.parametrize("slide_id", ["../a", "a/b", "", "..", "/etc/passwd"])
def test_slide_ids_cannot_leave_the_folder(make_store, slide_id):
    with pytest.raises(ValueError, match="rename it"):
        make_store().slide_path(slide_id)


def test_slide_suffixes(make_store):
    store = make_store()
    (store.raw / "slides/b.tiff").write_bytes(b"slide")
    assert store.slide_path("b").name == "b.tiff"
    assert store.slide_path("nowhere").name == "nowhere.svs"


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
    for name in (
        "amy2a.PNG",
        "ENSG00000900162.png",
        "ENSG7.3.jpg",
        "ENSG7.tif",
        "RP11-34P13.7.png",
        "KLK3.txt",
    ):
        (folder / name).write_bytes(b"x")
    (folder / ".hidden").write_bytes(b"x")
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


def test_figures_and_tables_carry_captions(make_store):
    store = make_store()
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    plt.close(figure)
    store.save_figure("fig", figure, "A line (n = 2).")
    store.save_table("tab", FRAME, "Two rows.", per_network=False)
    names = {path.name for path in store.figures.iterdir()}
    assert {"fig__vgg16.png", "fig__vgg16.pdf", "tab.csv"} <= names
    assert json.loads((store.figures / "fig__vgg16.png.json").read_text())["caption"] == "A line (n = 2)."


def test_root_from_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    assert Store(Config(cohort="mine")).raw == tmp_path / "data/raw/mine"


def keep_network(store, tmp_path, names=("accuracy",)):
    """Artefacts of one network, as its notebooks would leave them."""
    weights = tmp_path / "weights.pt"
    weights.write_bytes(store.config.run_name.encode())
    for name in ("samples", "tiles"):
        if not store.is_current(name):
            store.save(name, FRAME)
    store.save("network", weights)
    for name in ("tile_predictions", "predictions", *names):
        store.save(name, FRAME)


def test_finished_networks_are_those_that_are_current(make_store, tmp_path):
    store = make_store(architecture="alexnet")
    names = ("accuracy",)
    assert store.networks(names) == {}
    with pytest.raises(StaleArtefactError, match="no network was trained"):
        store.finished_networks("09_architectures")
    keep_network(store, tmp_path)
    keep_network(store.with_network("timm:vit_tiny_patch16_224", "untrained"), tmp_path)
    keep_network(store.with_network("vgg11"), tmp_path, names=())  # stopped before its accuracy was there
    found = store.networks(names)
    assert list(found) == ["alexnet", "timm_vit_tiny_patch16_224__untrained", "vgg11"]
    assert [bool(why) for _, why in found.values()] == [False, False, True]
    assert "'accuracy' is missing" in found["vgg11"][1]
    encoder = found["timm_vit_tiny_patch16_224__untrained"][0].config
    assert (encoder.architecture, encoder.null_network) == ("timm:vit_tiny_patch16_224", "untrained")
    longer = make_store(architecture="vgg16", epochs=3)  # asked from any network, under other parameters
    assert "epochs" in longer.networks(names)["alexnet"][1]


def test_comparison_is_repeated_when_a_network_changes(make_store, tmp_path, monkeypatch):
    only_accuracy = NOTEBOOKS["09_architectures"]._replace(of_networks=("accuracy",))
    monkeypatch.setitem(NOTEBOOKS, "09_architectures", only_accuracy)
    source = tmp_path / "09.ipynb"
    source.write_text("{}")
    store = make_store(architecture="alexnet")
    keep_network(store, tmp_path)
    executed = store.executed_path("09_architectures")
    executed.parent.mkdir(parents=True)
    executed.write_text("{}")

    def record():
        write_json(executed.with_suffix(".ipynb.json"), store.notebook_record("09_architectures", source))

    record()
    assert store.why_rerun("09_architectures", source) is None
    keep_network(store.with_network("vgg11"), tmp_path)
    assert store.why_rerun("09_architectures", source) == "its networks changed"
    record()
    store.save("accuracy", FRAME.assign(n=0))
    assert store.why_rerun("09_architectures", source) == "its networks changed"


def test_the_table_of_artefacts_is_sound():
    fields = set(Config.model_fields)
    done: set[str] = set()
    for name, artefact in ARTEFACTS.items():
        assert artefact.notebook in NOTEBOOKS, name
        assert set(artefact.fields) <= fields, name
        for used in artefact.inputs:
            assert used in done or used.removeprefix("raw:") in fields, (
                f"{name} needs {used} before it is made"
            )
        done.add(name)
    for name, notebook in NOTEBOOKS.items():
        assert set(notebook.reads) | set(notebook.of_networks) <= set(ARTEFACTS), name
        assert set(notebook.fields) <= fields, name
    assert {owner for _, owner in WORK_FOLDERS.values()} <= set(NOTEBOOKS)
    assert os.sep not in "".join(ARTEFACTS)


def test_go_files_as_configured_or_found(make_store, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    assert make_store().go_files() is None
    for folder, names in {
        tmp_path / "mirror/go": (
            "go_2021.obo.gz",
            "go_2022.obo.gz",
            "goslim_generic.obo",
            "goa_human_2022.gaf.gz",
        ),
        tmp_path / "data/raw/go": ("go-basic.obo",),
    }.items():
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(b"")
    found = make_store().go_files()
    assert [path.name for path in found] == ["go_2022.obo.gz", "goa_human_2022.gaf.gz"]
    (tmp_path / "data/raw/go/goa_human.gaf.gz").write_bytes(b"")
    assert make_store().go_files()[0] == tmp_path / "data/raw/go/go-basic.obo"
    named = make_store(go_obo_file="/x/a.obo", go_gaf_file="/x/b.gaf").go_files()
    assert [str(path) for path in named] == ["/x/a.obo", "/x/b.gaf"]
    with pytest.raises(ValueError, match="give both or none"):
        make_store(go_obo_file="/x/a.obo").go_files()


def test_partial_go_files_are_not_whole_ones(make_store, tmp_path, monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    folder = tmp_path / "data/raw/go"
    folder.mkdir(parents=True)
    for name in ("go-basic.obo", "goa_human.gaf.gz.part", "goa_human.gaf.gz.part.json"):
        (folder / name).write_bytes(b"")
    assert make_store().go_files() is None
    for name in ("goa_human.gaf.gz", "goa_human.gaf.gz.unusable", "go-basic.obo.part"):
        (folder / name).write_bytes(b"")
    assert make_store().go_files() == (folder / "go-basic.obo", folder / "goa_human.gaf.gz")
    (folder / "go-basic.obo").rename(folder / "go.obo.gz")
    assert make_store().go_files()[0] == folder / "go.obo.gz"


def test_go_files_are_fetched_where_there_are_none_and_table6_then_made(make_store, tmp_path, monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    source, folder = tmp_path / "05.ipynb", tmp_path / "data/raw/go"
    source.write_text("{}")
    assert make_store().gtex_places == {"folders": make_store().gtex_folders, "go_folder": folder}
    before = make_store().notebook_record("05_correlate", source)
    folder.mkdir(parents=True)
    for name in ("go-basic.obo", "goa_human.gaf.gz"):
        (folder / name).write_bytes(b"")
    assert make_store().gtex_places["go_folder"] is None
    assert make_store().notebook_record("05_correlate", source) != before
    assert "go" not in make_store(synthetic_data=True).notebook_record("05_correlate", source)


def test_source_of_gtex_follows_its_choice_and_that_of_others_does_not(make_store):
    gtex = make_store(source="gtex")
    gtex.save("source", {"steps": []})
    assert gtex.is_current("source")
    for fields in ({"gtex_max_slides": 5}, {"covariates": ("rin",)}, {"expression_file": "other.gct"}):
        assert not make_store(source="gtex", **fields).is_current("source"), fields
    demo = make_store(source="synthetic")
    demo.save("source", {})
    assert make_store(source="synthetic", gtex_max_slides=5, covariates=("rin",)).is_current("source")


def test_missing_slides(make_store):
    samples_df = pd.DataFrame({"slide_id": ["a", "b", "b"]})
    assert make_store().missing_slides(samples_df) == ["b"]


def test_raw_inputs_may_be_elsewhere_but_not_changed(make_store, tmp_path):
    store = make_store()
    store.save("samples", FRAME)
    store.save("tiles", FRAME)
    slide, table = tmp_path / "data/raw/mine/slides/a.svs", tmp_path / "data/raw/mine/samples.csv"
    slide.unlink()
    table.rename(table.with_suffix(".elsewhere"))
    assert store.is_current("tiles")
    slide.write_bytes(b"another slide")
    assert "another 'raw:slides_dir'" in store.why_stale("tiles")
    slide.unlink()
    table.write_text("sample_id\nb\n")
    assert "another 'raw:samples_file'" in store.why_stale("tiles")
