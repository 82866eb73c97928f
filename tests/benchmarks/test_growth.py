"""Growth with the number of slides: that it measures the processes it says; a plan that looks once."""

import os

import pandas as pd
import pytest

from lib.benchmarks import growth
from lib.explore import notebook_runs
from lib.figures import benchmark_plots
from lib.store import Store


def test_the_peak_is_that_of_the_process_not_of_its_parent(tmp_path, monkeypatch):
    """A child that takes 300 MB, measured from a process that holds 600 MB more than it."""
    held = bytearray(600_000_000)
    script = tmp_path / "run_all.py"
    script.write_text("import sys, time\nx = bytearray(int(sys.argv[2]))\ntime.sleep(0.5)\nprint('done')\n")
    monkeypatch.setattr(growth, "ROOT", tmp_path)
    seconds, cpu_s, gb = growth._measured(["300000000"], tmp_path)
    assert 0.5 < seconds < 60
    assert cpu_s < seconds
    assert 0.3 < gb < 0.4
    assert len(held)
    script.write_text("import sys\nsys.exit('no such cohort')\n")
    with pytest.raises(RuntimeError, match="no such cohort"):
        growth._measured(["1"], tmp_path)


@pytest.mark.slow
def test_stages_of_a_tiny_cohort(monkeypatch):
    monkeypatch.setattr(growth, "STAGES", [stage for stage in growth.STAGES if stage.name != growth.CUT])
    table_df = growth.growth_table(growth.QUICK, n_genes=20)
    assert table_df["stage"].tolist() == [growth.LIST_NEW, growth.COHORT, growth.LIST_DONE]
    assert (table_df[["seconds", "cpu_s", "gb"]] > 0).all(axis=None)
    assert table_df["files_per_slide"].iloc[0] == 0
    assert 2 <= table_df["files_per_slide"].iloc[-1] < 3
    assert len(benchmark_plots.growth(table_df).axes) == 2


def test_a_plan_looks_at_each_folder_once(tmp_path, monkeypatch):
    """Of a cohort whose tiles and features are done; counted by the operating system's own call."""
    store = growth._made_up_cohort(tmp_path, 40, 20)
    ids = [f"S{i:05d}" for i in range(40)]
    samples_df = pd.DataFrame({"sample_id": ids, "slide_id": ids, "donor": ids, "tissue": "Liver"})
    for name in ("samples", "expression", "genes"):
        store.save(name, samples_df.assign(split="test"))
    growth._make_up_work(store)
    looked_at, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked_at.append(str(path)) or scandir(path))
    store = Store(store.config, root=tmp_path)
    assert store.is_current("features_test")
    assert notebook_runs.why_rerun(store, "04_features") == "has not run to its end"
    expected = [str(store.raw_path("slides_dir")), str(store.path("stacks"))]
    assert sorted(looked_at) == sorted(expected * 2), "two questions, two folders"


def test_whether_limits_are_kept():
    rows = [(growth.LIST_NEW, 25_713, 4.9, 0.2), (growth.LIST_NEW, 100, 99.0, 0.2)]
    rows += [(growth.COHORT, 25_713, 200.0, 8.1), (growth.CUT, 25_713, 1e6, 1.0)]
    table_df = pd.DataFrame(rows, columns=["stage", "n_slides", "cpu_s", "gb"])
    assert growth.met(table_df).tolist() == ["yes", "", "no", ""]
