"""`python -m lib.export`: what a run holds, as AnnData has it. anndata itself reads it in test_anndata.py."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from exported_run import FEATURES, IDS, run, samples

from lib import export
from lib.cohort import h5ad_reading
from lib.errors import StaleArtefactError


def read(path):
    with h5ad_reading.opened(path) as file:
        obs_df, var_df = h5ad_reading.read_frame(file["obs"]), h5ad_reading.read_frame(file["var"])
        shape = (len(obs_df), len(var_df))
        x_df = pd.DataFrame(h5ad_reading.read_matrix(file["X"], shape), obs_df.index, var_df.index)
        return x_df, obs_df, var_df


def test_both_files_hold_the_run(make_store):
    store = make_store()
    values_df = run(store)
    made = export.export(store)
    assert list(made.values()) == [(3, 3), (4, 2)]
    assert store.export_path("features").parent == store.path("network").parent
    x_df, obs_df, var_df = read(store.export_path("features"))
    assert x_df.index.tolist() == ["s2", "s3", "s4"], "in the order of the samples table"
    assert x_df.loc["s2"].tolist() == [7, 8, 9]
    assert x_df.loc["s3"].tolist() == [1, 2, 3]
    assert x_df.to_numpy().dtype == np.float32
    assert obs_df["split"].tolist() == ["test", "validation", "test"]
    assert var_df["layer"].tolist() == [1, 1, 29]
    assert var_df["channel"].tolist() == [0, 1, 499]
    assert var_df["clump"].tolist() == ["1_0", "1_0", "29_499"], "a lead is of its own clump"
    assert var_df["n_links"].tolist() == [0, 1, 1]
    x_df, obs_df, var_df = read(store.export_path("expression"))
    assert x_df.index.tolist() == IDS
    np.testing.assert_array_equal(x_df.to_numpy(), values_df[IDS].to_numpy().T)
    assert var_df["gene_ids"].tolist() == var_df.index.tolist() == ["ENSG2", "ENSG1"]
    assert var_df["symbol"].tolist() == ["B", "A"]
    assert var_df["max_median_log2"].tolist() == [1, 2]
    assert var_df["q"].tolist() == [0.2, 0.01]
    assert var_df["n_links"].tolist() == [0, 2]
    assert np.isnan(obs_df["age"].iloc[1])


def test_places_are_the_centres_in_pixels_of_the_slide(make_store):
    store = make_store()
    run(store)
    export.export(store)
    with h5py.File(store.export_path("features")) as file:
        assert file["obsm/spatial"][()].tolist() == [[24, 8], [34, 9], [44, 10]]
        assert file["obsm/spatial"].dtype == np.float64
    with h5py.File(store.export_path("expression")) as file:
        np.testing.assert_allclose(file["layers/log2"][()], np.log2(1 + file["X"][()]))
        parameters = {name: of[()] for name, of in file["uns/parameters"].items()}
        assert file["uns/cohort"].asstr()[()] == "mine"
        assert file["uns/unit"].asstr()[()] == "TPM"
        assert "numpy" in file["uns/versions"]
        assert "log1p" not in file["uns"], "X is not logged"
    assert parameters["tile_px"] == store.config.tile_px
    assert json.loads(parameters["split_fractions"]) == [0.6, 0.2, 0.2]
    store = make_store()
    run(store, spots=False)
    export.export(store)
    with h5py.File(store.export_path("features")) as file:
        assert len(file["obsm"]) == 0, "whole slides have no place"


def test_what_has_not_run_is_named_or_left_out(make_store, capsys):
    store = make_store()
    with pytest.raises(StaleArtefactError, match=r"'samples' is missing.*00_cohort"):
        export.export(store)
    assert not store.export_path("features").exists()
    run(store, links=False)
    export.export(store)
    said = capsys.readouterr().out
    assert "left out: 'links' is missing" in said
    assert "run notebook 06_significance" in said
    assert "clump" not in read(store.export_path("features"))[2]
    stale = make_store(min_tissue=0.3)
    with pytest.raises(StaleArtefactError, match=r"min_tissue.*04_features"):
        export.export(stale)


def test_training_samples_are_there_where_they_were_measured(make_store):
    store = make_store(quantify_train=True)
    run(store)
    with pytest.raises(StaleArtefactError, match="'features_train'"):
        export.export(store)
    store.save("features_train", pd.DataFrame({"s1": [0.0, 0, 1]}, pd.Index(FEATURES, name="feature")))
    assert export.export(store)[store.export_path("features")] == (4, 3)


def test_slides_without_rna_give_features_alone(make_store):
    store = make_store(expression_file="")
    weights = store.root / "weights.pt"
    weights.write_bytes(b"weights")
    store.save("samples", samples())
    store.save("tiles", samples())
    store.save("network", weights)
    for name, ids in (("features_validation", ["s3"]), ("features_test", ["s2", "s4"])):
        store.save(name, pd.DataFrame(1.0, pd.Index(FEATURES, name="feature"), ids))
    assert list(export.export(store)) == [store.export_path("features")]


def test_the_command_says_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    (tmp_path / "mine.toml").write_text('expression_file = "expression.csv"\n')
    assert export.main(["--cohort", str(tmp_path / "mine.toml"), "--set", "epochs=2"]) == 2
    assert "run notebook 00_cohort" in capsys.readouterr().err
    assert export.main(["--cohort", "no_such_cohort"]) == 2


def test_the_command_says_what_it_wrote(make_store, monkeypatch, capsys):
    store = make_store()
    run(store)
    monkeypatch.setenv("HISTOCORR_ROOT", str(store.root))
    (store.root / "mine.toml").write_text("")
    assert export.main(["--cohort", str(store.root / "mine.toml")]) == 0
    said = capsys.readouterr().out
    assert f"{store.export_path('features')}: 3 samples x 3 features" in said
    assert f"{store.export_path('expression')}: 4 samples x 2 genes" in said
