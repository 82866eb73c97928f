"""The methods paragraphs: what was made is told with its own numbers, what was not made is not."""

import numpy as np
import pandas as pd
import pytest
from spot_factory import places, section

from lib.config import Config
from lib.explore import methods_text
from lib.store import Store

LINKS_DF = pd.DataFrame({
    "gene": list("aab"), "feature": ["1_0", "1_1", "1_0"], "clump": ["1_0", "1_0", "1_0"],
    "clump_lead": [True, False, True], "r_within": 0.5, "statistic": 4.0, "same_sign": [1.0, 1.0, 0.0],
    "p_validation": [0.01, 0.01, 0.2], "q_validation": [0.01, 0.01, 0.2],
})  # fmt: skip


def samples():
    """Twelve samples of six donors, two tissues."""
    df = pd.DataFrame({"sample_id": [f"s{i}" for i in range(12)]})
    return df.assign(
        slide_id=df["sample_id"], donor=[f"d{i // 2}" for i in range(12)], tissue=["Liver", "Lung"] * 6,
        split=["train"] * 6 + ["validation"] * 2 + ["test"] * 4,
    )  # fmt: skip


def tiles():
    """Five tiles, two of them left out."""
    return pd.DataFrame({"sample_id": "s0", "dropped_for": ["", "", "", "pen", "blur"]})


def told(monkeypatch, tmp_path, samples_df, config=None, **tables):
    """The paragraphs of a run that has these tables and no other artefact."""
    tables = {"samples": samples_df} | tables
    monkeypatch.setattr(Store, "is_current", lambda self, name: name in tables)
    monkeypatch.setattr(Store, "load", lambda self, name: tables[name])
    monkeypatch.setattr(Store, "facts", lambda self, name: {"versions": {"python": "3.11", "torch": "2.14"}})
    monkeypatch.setattr(
        Store, "samples_of", lambda self, ids: samples_df.set_index("sample_id").loc[ids].reset_index()
    )
    values = {"cohort": "mine", "architecture": "alexnet", "epochs": 40} | (config or {})
    return methods_text.paragraphs(Store(Config(**values), root=tmp_path))


def features(samples_df):
    ids = samples_df.loc[samples_df["split"] == "test", "sample_id"]
    return pd.DataFrame(np.zeros((7, len(ids))), columns=ids)


def test_every_number_is_the_runs_own(monkeypatch, tmp_path):
    samples_df = samples()
    accuracy_df = pd.DataFrame(
        {"level": ["tile", "slide"], "split": "test", "n": [900, 4], "accuracy": [0.757, 0.75]}
    )
    cohort, network, tests, results, software = told(
        monkeypatch, tmp_path, samples_df, {"covariates": ("rin", "age"), "link_permutations": 5000},
        tiles=tiles(), accuracy=accuracy_df, features_test=features(samples_df), links=LINKS_DF,
        gene_significance=pd.DataFrame({"q": [0.01, 0.01, 0.9]}),
    )  # fmt: skip
    assert "Samples (12; 12 slides of 6 donors, 2 tissues) were divided by donor" in cohort
    assert "(6 training, 2 validation, 4 test)" in cohort
    assert "tiles 506 µm wide (512 px at 0.9884 µm per pixel)" in cohort
    assert (
        "3 tiles with at least 50% tissue were used. 2 further tiles with ink, folds, bled stain or blur"
        in cohort
    )
    assert "The network alexnet was trained from random weights" in network
    assert (
        "for 40 epochs by stochastic gradient descent (batches of 256, learning rate 0.01, multiplied"
        in network
    )
    assert "75.7% of 900 tiles and 75.0% of 4 slides were classified correctly" in network
    assert "(7 in all)" in network
    assert "log2(1 + TPM); the 3 genes whose highest median over tissues is at least 7 were tested" in tests
    assert "on 4 samples" in tests
    assert "rin and age were regressed out of both, with slopes of its own for each tissue" in tests
    assert "5,000 random rearrangements of the samples within tissues" in tests
    assert "several samples of one donor" in tests
    assert "2 genes of 3 had a link; there were 3 links, 2 counting near-copies" in results
    assert "50% of 2 had the same sign" in results
    assert software == "Software: python 3.11 and torch 2.14; seed 0."


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"encoder": "random"}, "The network alexnet with random weights was used, without training."),
        ({"encoder": "imagenet"}, "was used as it is, without training on these samples."),
        ({"null_network": "shuffled"}, "the tissue of a tile with permuted labels for 40 epochs"),
        ({"features_file": "f.csv"}, "7 features of each sample had been computed elsewhere."),
    ],
)
def test_the_network_is_called_what_it_was(monkeypatch, tmp_path, config, words):
    samples_df = samples()
    text = told(monkeypatch, tmp_path, samples_df, config, features_test=features(samples_df))[1]
    assert words in text
    assert "classified correctly" not in text


def test_spots_are_tested_within_sections_with_their_neighbours(monkeypatch, tmp_path):
    xy = places("square", 7)
    samples_df = pd.concat([section(xy, name) for name in "AB"], ignore_index=True).assign(split="test")
    texts = told(
        monkeypatch, tmp_path, samples_df, {"spot_splits": {"test": ("A", "B")}}, tiles=tiles(),
        features_test=features(samples_df), gene_significance=pd.DataFrame({"q": [1.0]}),
    )  # fmt: skip
    assert "were divided by section (98 test)" in texts[0]
    assert "From the region of each spot, tiles" in texts[0]
    assert "rearrangements of the samples within sections" in texts[2]
    assert "For autocorrelated neighbouring spots the statistic was divided" in texts[2]


def test_of_independent_donors_nothing_is_corrected_and_what_is_missing_is_not_told(monkeypatch, tmp_path):
    samples_df = samples().assign(donor=[f"d{i}" for i in range(12)])
    texts = told(
        monkeypatch, tmp_path, samples_df, features_test=features(samples_df),
        gene_significance=pd.DataFrame({"q": [1.0]}),
    )  # fmt: skip
    assert "variance inflation" not in texts[2]
    assert not any("had a link" in text for text in texts)
    none = told(
        monkeypatch,
        tmp_path,
        samples(),
        gene_significance=pd.DataFrame({"q": [1.0]}),
        links=LINKS_DF[:0],
        features_test=features(samples()),
    )
    assert none[-2] == "None of 1 genes had a link."
    monkeypatch.undo()
    assert methods_text.paragraphs(Store(Config(cohort="mine"), root=tmp_path)) == []
