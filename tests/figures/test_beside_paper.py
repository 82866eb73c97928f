"""The paper's numbers stand beside this run's, with a remark where they cannot be compared."""

import pandas as pd
import pytest

from lib.config import ROOT
from lib.figures import beside_paper

TEXT_DF = pd.read_csv(ROOT / "data/reference/paper_text.csv")


def test_beside():
    table_df = beside_paper.beside({"n_slides": 12, "n_tiles": 300}, TEXT_DF, comparable=False)
    assert table_df.loc["n_slides", ["this run", "paper"]].tolist() == [12, 1670]
    assert (table_df["remark"] == beside_paper.NOT_COMPARABLE).all()
    assert (beside_paper.beside({"n_slides": 12}, TEXT_DF, comparable=True)["remark"] == "").all()


def test_unknown_item():
    with pytest.raises(KeyError, match="n_slidez"):
        beside_paper.beside({"n_slidez": 1}, TEXT_DF, comparable=False)


def test_table_beside():
    run_df = pd.DataFrame({"architecture": ["alexnet", "mine"], "n_pairs": [7, 9]})
    paper_df = pd.read_csv(ROOT / "data/reference/paper_table4.csv")
    table_df = beside_paper.table_beside(run_df, paper_df, ["architecture"], comparable=True)
    assert table_df["n_pairs (paper)"].tolist()[0] == 424
    assert table_df["n_pairs (paper)"].isna().tolist() == [False, True]


@pytest.mark.filterwarnings("error")
def test_thresholds_of_this_run_may_be_fractions_where_the_papers_are_whole():
    run_df = pd.DataFrame({"r": [0.7, 0.4], "e": [7, 10], "E": [0.5, 7.0], "n_pairs": [1, 2]})
    paper_df = pd.DataFrame({"r": [0.7, 0.4], "e": [7.0, 10.0], "E": [7, 7], "n_pairs": [3, 4]})
    table_df = beside_paper.table_beside(run_df, paper_df, ["r", "e", "E"], comparable=True)
    assert table_df["n_pairs (paper)"].isna().tolist() == [True, False]
    assert table_df.dtypes[["r", "e", "E"]].equals(run_df.dtypes[["r", "e", "E"]])
