"""Store: whole files, provenance, and staleness that follows the inputs and nothing else."""

import os

import pandas as pd
import pytest
from conftest import FRAME, keep_network

import lib.paths
from lib.artefacts import ARTEFACTS, NOTEBOOKS, WORK_FOLDERS
from lib.config import Config
from lib.errors import StaleArtefactError


def test_round_trip_and_record(make_store):
    store = make_store()
    store.save("samples", FRAME, seconds=1.0)
    pd.testing.assert_frame_equal(store.load("samples"), FRAME)
    record = store.facts("samples")
    assert record["made_by"] == "00_cohort"
    assert record["seconds"] == 1.0
    assert set(record["versions"]) >= {"python", "numpy", "torch"}
    assert not list(store.derived.glob(".*.tmp*")), "temporary files left behind"


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
    (store.raw / "samples.csv").write_text("sample_id\nb\nc\n")
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
    assert not store.is_current("samples"), "the former file without a record is not trusted"
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


def test_more_epochs_keep_the_work_and_another_recipe_deletes_it(make_store, capsys):
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
    assert "Restarting training (was made with learning_rate = 0.01, now 0.5): deleting 1 files of" in said
    assert said.count("\n") == 1


def test_weights_lie_in_the_repository_and_their_content_counts(make_store, tmp_path, monkeypatch):
    monkeypatch.setattr(lib.paths, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path / "data")
    assert make_store().weights is None
    assert make_store(weights="imagenet").weights == "imagenet"
    store = make_store(weights="runs/best.pt")
    with pytest.raises(FileNotFoundError, match=r"weights = 'runs/best.pt': there is no checkpoint at /"):
        _ = store.weights
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/best.pt").write_bytes(b"first")
    assert store.weights == str(tmp_path / "runs/best.pt")
    keep_network(store, names=())
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
        keep_network(make_store(architecture="resnet34", **fields))
    found = make_store().networks(("accuracy",))
    names = ["resnet34", "resnet34__imagenet", "resnet34__imagenet__as_it_is"]
    assert list(found) == names
    assert [why for _, why in found.values()] == ["", "", ""]
    kinds = [store.config.network_kind for store, _ in found.values()]
    assert kinds == ["trained", "trained", "as it is"]


def test_finished_networks_are_those_that_are_current(make_store, tmp_path):
    store = make_store(architecture="alexnet")
    names = ("accuracy",)
    assert store.networks(names) == {}
    with pytest.raises(StaleArtefactError, match="no network was trained"):
        store.finished_networks("09_architectures")
    keep_network(store)
    keep_network(store.with_network("timm:vit_tiny_patch16_224", "untrained"))
    keep_network(store.with_network("vgg11"), names=())  # stopped before its accuracy was there
    found = store.networks(names)
    assert list(found) == ["alexnet", "timm_vit_tiny_patch16_224__untrained", "vgg11"]
    assert [bool(why) for _, why in found.values()] == [False, False, True]
    assert "'accuracy' is missing" in found["vgg11"][1]
    encoder = found["timm_vit_tiny_patch16_224__untrained"][0].config
    assert (encoder.architecture, encoder.null_network) == ("timm:vit_tiny_patch16_224", "untrained")
    longer = make_store(architecture="vgg16", epochs=3)  # asked from any network, under other parameters
    assert "epochs" in longer.networks(names)["alexnet"][1]


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


def test_source_of_gtex_follows_its_choice_and_that_of_others_does_not(make_store):
    gtex = make_store(source="gtex")
    gtex.save("source", {"steps": []})
    assert gtex.is_current("source")
    for fields in ({"gtex_max_slides": 5}, {"covariates": ("rin",)}, {"expression_file": "other.gct"}):
        assert not make_store(source="gtex", **fields).is_current("source"), fields
    demo = make_store(source="synthetic")
    demo.save("source", {})
    assert make_store(source="synthetic", gtex_max_slides=5, covariates=("rin",)).is_current("source")


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


def test_samples_come_with_what_was_measured_on_their_tiles(make_store):
    """The columns of the samples table itself take precedence."""
    store = make_store()
    store.save("samples", FRAME.assign(focus=["sharp", "soft"]))
    counts_df = pd.DataFrame({"n_tiles": [3, 4], "focus": [0.2, 0.3], "eosin": [0.1, 0.2]}, index=["a", "b"])
    store.save("tiles", FRAME)
    keep_network(store)
    store.save("tile_counts", counts_df)
    found_df = store.samples_of(["b", "a"])
    assert found_df["sample_id"].tolist() == ["b", "a"]
    assert found_df["n_tiles"].tolist() == [4, 3]
    assert found_df["eosin"].tolist() == [0.2, 0.1]
    assert found_df["focus"].tolist() == ["soft", "sharp"]


def test_networks_of_encoder_files_are_found_again(make_store, tmp_path):
    """With what their files say; one whose file is gone is not listed."""
    path = tmp_path / "fm.toml"
    path.write_text(
        'architecture = "timm:resnet18"\nmean = [0.5, 0.5, 0.5]\nsd = [0.5, 0.5, 0.5]\ninput_px = 224\n'
    )
    common = {"tile_px": 512, "tile_mpp": 0.9884, "test_on": "test"}
    of_file = make_store(encoder=str(path), encoder_weights="w.pth", **common)
    keep_network(of_file)
    keep_network(make_store(architecture="alexnet", **common))
    store = make_store(architecture="alexnet", **common)
    assert set(store.networks(("accuracy",))) == {"alexnet", of_file.config.run_name}
    found, _ = store.networks(())[of_file.config.run_name]
    assert found.config.encoder_digest == of_file.config.encoder_digest
    assert found.config.network_kind == "as it is"
    assert found.config.weights == "w.pth"
    other = of_file.with_network("alexnet")
    assert other.config.encoder_digest == ""
    assert other.config.encoder == "trained here"
    assert other.config.weights == ""
    path.unlink()
    assert set(store.networks(("accuracy",))) == {"alexnet"}
