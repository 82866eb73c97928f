"""Headless runs of notebooks: what makes an executed copy stale, and what a run removes."""

import os

import pandas as pd
import papermill
import pytest
from conftest import FRAME, keep_network
from papermill.exceptions import PapermillExecutionError

from lib.artefacts import NOTEBOOKS
from lib.explore import notebook_pages, notebook_runs
from lib.whole_files import write_json


def test_comparison_is_repeated_when_a_network_changes(make_store, monkeypatch):
    only_accuracy = NOTEBOOKS["09_architectures"]._replace(of_networks=("accuracy",))
    monkeypatch.setitem(NOTEBOOKS, "09_architectures", only_accuracy)
    store = make_store(architecture="alexnet")
    keep_network(store)
    assert notebook_runs.why_rerun(store, "09_architectures") == "has not run to its end"
    executed = store.executed_path("09_architectures")
    executed.parent.mkdir(parents=True)
    write_json(executed, {})
    notebook_runs.keep_record(store, "09_architectures")
    assert notebook_runs.why_rerun(store, "09_architectures") is None
    keep_network(store.with_network("vgg11"))
    assert notebook_runs.why_rerun(store, "09_architectures") == "its networks changed"
    notebook_runs.keep_record(store, "09_architectures")
    store.save("accuracy", FRAME.assign(n=0))
    assert notebook_runs.why_rerun(store, "09_architectures") == "its networks changed"


def test_table6_is_made_once_the_gene_ontology_is_there(make_store, tmp_path, monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    before = notebook_runs._record(make_store(), "05_correlate")
    (tmp_path / "data/raw/go").mkdir(parents=True)
    for name in ("go-basic.obo", "goa_human.gaf.gz"):
        (tmp_path / "data/raw/go" / name).touch()
    assert notebook_runs._record(make_store(), "05_correlate") != before
    assert "go" not in notebook_runs._record(make_store(synthetic_data=True), "05_correlate")


@pytest.mark.parametrize("problem", [None, PapermillExecutionError(0, 1, "", "ValueError", "broken", [])])
def test_a_run_removes_stale_figures_and_a_failed_one_nothing(make_store, monkeypatch, problem):
    store = make_store("10_visualize")
    for stem in ("pairs_1", "pairs_2"):
        store.save_table(stem, pd.DataFrame({"a": [1]}), "Old.")
    for path in store.figures.iterdir():
        os.utime(path, (1000, 1000))

    def execute_notebook(*args, **kwargs):
        store.save_table("pairs_1", pd.DataFrame({"a": [2]}), "New.")
        if problem:
            raise problem

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    for name in ("tidy_executed", "export_html"):
        monkeypatch.setattr(notebook_pages, name, lambda executed: None)
    said = notebook_runs.execute(store, "10_visualize", {})
    left = sorted(path.name for path in store.figures.glob("*.csv"))
    recorded = store.executed_path("10_visualize").with_suffix(".ipynb.json").is_file()
    if problem:
        assert said.startswith("cell 1: ValueError: broken")
        assert (left, recorded) == (["pairs_1__vgg16.csv", "pairs_2__vgg16.csv"], False)
    else:
        assert (said, left, recorded) == ("", ["pairs_1__vgg16.csv"], True)
        assert "10_visualize__vgg16" in notebook_runs.seconds_taken(store)
