"""Notes for the first screen: each appears where it is true and nowhere else."""

import pandas as pd
import pytest
from spot_factory import places, section

from lib.config import Config
from lib.explore.reading_notes import reading_notes
from lib.store import Store


@pytest.fixture
def notes(monkeypatch, tmp_path):
    """The notes on a samples table, as one text."""

    def of(samples_df, **config):
        monkeypatch.setattr(Store, "is_current", lambda self, name: name == "samples")
        monkeypatch.setattr(Store, "load", lambda self, name: samples_df)
        return " ".join(reading_notes(Store(Config(cohort="mine", **config), root=tmp_path)))

    return of


def bulk(n=40, n_donors=40, tissues=2, n_validation=10):
    df = pd.DataFrame({"sample_id": [f"s{i}" for i in range(n)]})
    sets = ["validation"] * n_validation + ["test"] * (n - n_validation)
    return df.assign(
        slide_id=df["sample_id"], donor=[f"d{i % n_donors}" for i in range(n)],
        tissue=[f"t{i % tissues}" for i in range(n)], split=sets,
    )  # fmt: skip


def test_a_sound_cohort_needs_no_note(notes):
    assert notes(bulk(), covariates=("rin",)) == ""


@pytest.mark.parametrize(
    ("samples_df", "words"),
    [
        (bulk(n=20, n_donors=20), "Only 10 samples were tested"),
        (bulk(tissues=1), "All samples tested are of one tissue"),
        (bulk(n_donors=1), "All 30 samples are of one donor"),
        (bulk(n_donors=4), "30 samples are of 4 donors, too few"),
        (bulk(n_validation=5), "Only 5 validation samples"),
        (bulk().assign(split="test"), "There are no validation samples"),
    ],
)
def test_each_weakness_is_said(notes, samples_df, words):
    assert words in notes(samples_df, covariates=("rin",))


def test_slides_without_expression_say_what_is_left_out(notes):
    assert notes(bulk(), expression_file="").startswith("There is no expression table: features were")


def test_covariates_that_nobody_named_are_missed(notes):
    assert notes(bulk()).startswith("No covariate is taken out")


def test_of_spots_one_section_and_depth_are_said(notes):
    spots_df = section(places("square", 7)).assign(split="test", log_counts=1.0)
    said = notes(spots_df)
    assert "One section: nothing can be said of others" in said
    assert "depth of a spot (log_counts) is not taken out" in said
    assert "depth of a spot" not in notes(spots_df, covariates=("log_counts",))
