"""Saved figures and tables: captions, notebook and order in the sidecar; removal of what is stale."""

import json
import os

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lib import saved_figures
from lib.whole_files import HOST

TABLE = pd.DataFrame({"a": [1]})


@pytest.fixture
def figure():
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([1, 2])
    yield figure
    plt.close(figure)


def sidecar(store, name):
    return json.loads((store.figures / f"{name}.json").read_text())


def test_figures_and_tables_have_a_sidecar(make_store, figure):
    store = make_store("05_correlate")
    assert store.save_figure("fig", figure, "A line (n = 2).") is figure
    assert store.save_table("tab", TABLE, "One row.", per_network=False) is TABLE
    names = {path.name for path in store.figures.iterdir()}
    assert names == {*("fig__vgg16.png", "fig__vgg16.pdf", "fig__vgg16.png.json"), "tab.csv", "tab.csv.json"}
    of_figure = {"caption": "A line (n = 2).", "notebook": "05_correlate", "order": 0}
    assert sidecar(store, "fig__vgg16.png") == of_figure
    assert sidecar(store, "tab.csv") == {"caption": "One row.", "notebook": "05_correlate", "order": 1}
    synthetic = make_store("05_correlate", synthetic_data=True)
    synthetic.save_table("tab", TABLE, "One row.")
    assert sidecar(synthetic, "tab__vgg16.csv")["caption"] == "One row. Synthetic data."


def test_they_are_listed_by_notebook_in_the_order_of_saving(make_store, figure):
    later, earlier = make_store("05_correlate"), make_store("01_tiles")
    later.save_table("b", TABLE, "")
    later.save_figure("a", figure, "")
    later.save_table("b", TABLE, "once more")  # a cell run twice keeps its place
    earlier.save_table("s1", TABLE, "", per_network=False)
    for name in ("pairs_10", "pairs_9"):
        (later.figures / f"{name}.csv").write_text("a\n1\n")  # somebody put them there
    (later.figures / f".a.csv.{HOST}-1-2.tmp.csv").touch()  # a killed run left it
    found = saved_figures.saved(later.figures)
    names = ["s1.csv", "b__vgg16.csv", "a__vgg16.png", "pairs_9.csv", "pairs_10.csv"]
    assert [one.path.name for one in found] == names
    assert [one.network for one in found[:2]] == ["", "vgg16"]
    assert found[1].caption == "once more"
    assert (found[-1].caption, found[-1].notebook) == ("pairs_10", "")


def test_what_a_notebook_did_not_save_again_is_removed(make_store, figure):
    """Twelve pairs had two figures; two pairs have one."""
    store = make_store("10_visualize")
    for stem in ("pairs_1", "pairs_2"):
        store.save_figure(stem, figure, "Old.")
    store.save_table("of_cohort", TABLE, "Old.", per_network=False)
    store.with_network("alexnet").save_table("pairs_2", TABLE, "Of another network.")
    make_store("01_tiles").save_table("s1_table", TABLE, "Of another notebook.", per_network=False)
    (store.figures / "pairs_3__vgg16.csv").write_text("a\n1\n")  # without a sidecar
    for path in store.figures.iterdir():
        os.utime(path, (1000, 1000))
    store.save_figure("pairs_1", figure, "New.")
    removed = saved_figures.remove_stale(store.figures, "10_visualize", "vgg16", since=2000)
    assert sorted(removed) == ["of_cohort.csv", "pairs_2__vgg16.png"]
    left = {path.name for path in store.figures.iterdir()}
    assert not [name for name in left if name.startswith(("pairs_2__vgg16", "of_cohort"))]
    assert {"pairs_1__vgg16.png", "pairs_1__vgg16.pdf", "pairs_2__alexnet.csv"} <= left
    assert {"s1_table.csv", "pairs_3__vgg16.csv"} <= left


def test_row_numbers_are_not_a_column_of_a_table(tmp_path):
    df = pd.DataFrame({"gene": ["a", "b"]})
    tables = {"numbered": df, "sorted": df.iloc[::-1], "named": df.rename_axis("row")}
    tables["words"] = df.set_axis(["all", "strongest"])
    for name, table_df in tables.items():
        saved_figures.save_table(tmp_path, name, table_df, caption="")
    heads = {name: (tmp_path / f"{name}.csv").read_text().split("\n")[0] for name in tables}
    assert heads == {"numbered": "gene", "sorted": "gene", "named": "row,gene", "words": ",gene"}
