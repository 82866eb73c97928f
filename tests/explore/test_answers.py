"""The answer of each notebook: numbers of the run, and words where there is nothing."""

import json

import pandas as pd
import pytest

from lib.artefacts import NOTEBOOKS
from lib.config import ROOT, Config
from lib.explore import answers
from lib.store import Store

LINKS_DF = pd.DataFrame({
    "gene": list("aab"), "feature": ["1_0", "2_1", "1_0"], "clump": ["1_0", "2_1", "1_0"],
    "clump_lead": True, "r_within": 0.5, "statistic": 4.0, "same_sign": [1.0, 1.0, 0.0],
    "p_validation": [0.01, 0.01, 0.2], "q_validation": [0.01, 0.01, 0.2],
})  # fmt: skip
SAMPLES_DF = pd.DataFrame({
    "sample_id": list("abcd"), "slide_id": list("abcd"), "donor": list("xxyz"),
    "tissue": ["Liver", "Lung"] * 2, "split": ["train", "train", "validation", "test"],
})  # fmt: skip


def told(monkeypatch, tmp_path, notebook, config=None, **tables):
    monkeypatch.setattr(Store, "is_current", lambda self, name: name in tables)
    monkeypatch.setattr(Store, "load", lambda self, name: tables[name])
    values = {"cohort": "mine", "architecture": "alexnet"} | (config or {})
    return answers.answer(Store(Config(**values), notebook, root=tmp_path))


def test_every_notebook_has_an_answer_and_ends_with_it():
    assert list(answers.ANSWERS) == list(NOTEBOOKS)
    for name in NOTEBOOKS:
        cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"]
        assert "".join(cells[-1]["source"]).endswith("print(answers.answer(store))")


def test_links_genes_sets_and_replication(monkeypatch, tmp_path):
    tables = {
        "links": LINKS_DF, "gene_significance": pd.DataFrame({"q": [0.01, 0.01, 0.5]}), "samples": SAMPLES_DF,
        "gene_sets": pd.DataFrame({"q": [0.01, 0.5]}),
    }  # fmt: skip
    config = {"covariates": ("rin",), "gene_sets": "s.gmt"}
    assert told(monkeypatch, tmp_path, "06_significance", config, **tables) == (
        "Answer: 3 links within tissues with features of 2 clumps, for 2 of 3 genes at q <= 0.05, rin taken "
        "out; 1 of 2 gene sets follow a feature; of 2 genes' strongest, 1 have the same sign on the "
        "validation samples."
    )
    tables["links"] = LINKS_DF.head(0)
    assert told(monkeypatch, tmp_path, "06_significance", **tables) == (
        "Answer: no link within tissues for any of 3 genes at q <= 0.05."
    )


@pytest.mark.parametrize(
    ("notebook", "tables", "expected"),
    [
        (
            "00_cohort",
            {"samples": SAMPLES_DF, "expression": pd.DataFrame(index=range(9))},
            "4 samples of 3 donors and 2 tissues: 2 for training, 1 for validation, 1 for testing; 9 genes.",
        ),
        (
            "01_tiles",
            {
                "tiles": pd.DataFrame({"slide_id": list("aabb"), "dropped_for": ["", "pen", "", ""]}),
                "slides": pd.DataFrame({"state": ["cut", "cut", "failed"]}),
            },
            "3 tiles of 2 slides are used, 1 left out for ink, folds, bled stain or blur; 1 slide could not "
            "be cut.",
        ),
        (
            "02_train",
            {"history": pd.DataFrame({"epoch": [1, 2, 3], "validation_accuracy": [0.2, 0.6, 0.5]})},
            "alexnet was trained for 3 epochs; its best accuracy on the validation tiles is 60.0% (epoch 2).",
        ),
        (
            "02_train",
            {"history": pd.DataFrame({"epoch": [], "validation_accuracy": []})},
            "alexnet is used without training (trained).",
        ),
        (
            "07_conditional",
            {"pairs_conditional": pd.DataFrame({"pattern_0.05": ["g-t-f", "none", "g-t-f", "g-t-f"]})},
            "75% of 4 marker pairs are connected through the tissue only (g-t-f, alpha 0.05).",
        ),
        ("07_conditional", {"pairs_conditional": pd.DataFrame()}, "there is no marker pair."),
        (
            "12_benchmark",
            {"benchmark": pd.DataFrame({"work": list("abc"), "met": ["yes", "no", ""]})},
            "1 of 2 targets are met on this machine; not: b.",
        ),
    ],
)  # fmt: skip
def test_numbers_are_those_of_the_artefacts(monkeypatch, tmp_path, notebook, tables, expected):
    assert told(monkeypatch, tmp_path, notebook, **tables) == f"Answer: {expected}"
