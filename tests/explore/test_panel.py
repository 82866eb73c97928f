"""The panel without Jupyter: what the browser would send and show, and errors that are reported."""

import threading
import time
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from lib.explore import correlates, correlates_table, feature_view, inspection, pair_words, panel
from lib.figures import style

ODD = "<b>A$b$&"


@pytest.fixture
def shown(run):
    return panel.Panel(run)


def finished_work(shown):
    shown.work.join(60)
    assert not shown.work.is_alive()


def test_the_panel_begins_with_the_pair_it_is_given(run, shown):
    assert (shown.gene, shown.feature) == run.start
    assert shown.features.table.chosen == "1_1"
    assert shown.genes.table.chosen == "ENSG2"
    assert bytes(shown.pair_image.value).startswith(b"\x89PNG")
    assert "AFP" in shown.words.value
    assert "q 0.04 within tissues" in shown.words.value
    r = correlates.features_of(run.lookup, "ENSG2").loc["1_1", "r"]
    assert f"<b>{r:.3f}</b>" in shown.words.value
    assert shown.strip.value.count("<img") == 7
    assert shown.back.disabled


def test_a_link_is_told_in_other_samples():
    ledger_df = pd.DataFrame({
        "gene": "ENSG2", "feature": "1_1", "unit": ["test", "yours", "C4"], "n": 40, "n_effective": 31.25,
        "r": [0.5, 0.4, -0.2], "low": 0.1, "high": 0.6, "p": 0.012, "role": ["found", "cohort", "section"],
        "same_sign": [1.0, 1.0, 0.0], "q": [np.nan, 0.02, 0.8],
    })  # fmt: skip
    words = pair_words.elsewhere_in_words(ledger_df, "ENSG2", "1_1")
    assert words.startswith(" In samples that had no part in finding it (1 of 2 of the same sign, half by ")
    assert "yours r 0.40 (0.10 to 0.60; n 40, effective 31.2; p 0.012, q 0.02); C4 r -0.20" in words
    assert pair_words.elsewhere_in_words(ledger_df, "ENSG2", "0_0") == ""
    assert pair_words.elsewhere_in_words(None, "ENSG2", "1_1") == ""


def test_a_row_leads_on_and_back_returns(shown):
    first = (shown.gene, shown.feature)
    picture = shown.pair_image.value
    feature = next(f for f in shown.features.table.ids if f != shown.feature)
    shown.features.table.chosen = feature
    assert (shown.gene, shown.feature) == (first[0], feature)
    assert shown.pair_image.value != picture
    assert feature in shown.genes.table.heading
    gene = next(g for g in shown.genes.table.ids if g != shown.gene)
    shown.genes.table.chosen = gene
    assert (shown.gene, shown.feature) == (gene, feature)
    assert shown.features.table.chosen == feature
    shown.back.click()
    shown.back.click()
    assert (shown.gene, shown.feature) == first
    assert shown.pair_image.value == picture
    assert shown.back.disabled


def asked(shown, text, what="find"):
    """What the browser sends at Enter ("find") or at each letter ("typed"); returns the names offered."""
    sent = []
    with mock.patch.object(shown.search, "send", sent.append):
        shown.search._handle_custom_msg({what: text, "question": 0.5}, [])
    (answer,) = sent
    assert answer["question"] == 0.5, "by it the browser tells the last answer from earlier ones"
    return answer["suggestions"]


def test_search_by_text_and_by_suggestion(shown):
    offered = asked(shown, "krt", "typed")
    assert offered[0] == "KRT1 · ENSG4"
    assert asked(shown, offered[0]) == []
    assert shown.gene == "ENSG4"
    asked(shown, "alb")
    assert shown.gene == "ENSG1"
    asked(shown, "0_2")
    assert shown.feature == "0_2"
    assert shown.genes.table.ids[0] == shown.gene, "with the gene that follows it most closely"


def test_an_unknown_name_is_reported_with_the_nearest(shown):
    before = (shown.gene, shown.feature, shown.pair_image.value)
    assert asked(shown, "SFTBP")[0] == "SFTPB · ENSG3"
    assert 'role="alert"' in shown.message.value
    assert "SFTPB · ENSG3" in shown.message.value
    assert (shown.gene, shown.feature, shown.pair_image.value) == before


def test_any_error_in_a_callback_is_shown(shown, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("<i>what went wrong</i>")

    monkeypatch.setattr(panel.pair_figures, "pair_figure", broken)
    shown.features.table.chosen = next(f for f in shown.features.table.ids if f != shown.feature)
    assert "ZeroDivisionError" in shown.message.value
    assert "&lt;i&gt;what went wrong&lt;/i&gt;" in shown.message.value
    monkeypatch.undo()
    shown.features.table.chosen = next(f for f in shown.features.table.ids if f != shown.feature)
    assert shown.message.value == ""


def test_headings_sort_over_all_rows(shown):
    shown.features.table._handle_custom_msg({"sort": "r"}, [])
    r = shown.features.table_df["r"].abs().sort_values(ascending=False)
    assert shown.features.table.ids == r.index.tolist()
    assert (shown.features.table.by, shown.features.table.reverse) == ("r", False)
    shown.features.table._handle_custom_msg({"sort": "r"}, [])
    assert shown.features.table.ids == r.index.tolist()[::-1]
    shown.features.table._handle_custom_msg({"sort": "name"}, [])
    assert shown.features.table.ids == sorted(r.index)


def test_the_current_partner_is_listed_wherever_it_ranks(run, monkeypatch):
    monkeypatch.setattr(correlates_table, "N_ROWS", 2)
    last = correlates.features_of(run.lookup, "ENSG2").index[-1]
    shown = panel.Panel(run._replace(start=("ENSG2", last)))
    assert shown.features.table.ids[-1] == last
    assert shown.features.table.rows[-1][0] == "6"
    assert len(shown.features.table.ids) == 3


def test_odd_ids_are_escaped_wherever_html_is_made(run):
    samples_df = run.samples_df.assign(tissue=run.samples_df["tissue"].replace("Liver", ODD))
    genes_df = run.lookup.genes_df.assign(tissue=run.lookup.genes_df["tissue"].replace("Liver", ODD))
    odd = run._replace(
        samples_df=samples_df,
        colours=style.tissue_colours(samples_df["tissue"]),
        lookup=run.lookup._replace(genes_df=genes_df),
        start=(ODD, "0_0"),
    )
    shown = panel.Panel(odd)
    asked(shown, "<script>")
    for made in (shown.words.value, shown.strip.value, shown.message.value):
        assert "<b>A" not in made
        assert "<script>" not in made
    assert "&lt;b&gt;A$b$&amp;" in shown.words.value
    assert "&lt;script&gt;" in shown.message.value


def test_missing_stacks_leave_the_tables(run):
    gone_df = run.sample_tiles_df.assign(file="nowhere.npy")
    shown = panel.Panel(run._replace(sample_tiles_df=gone_df))
    assert "No tiles to show: the tile stack nowhere.npy does not exist" in shown.strip.value
    assert shown.features.table.ids


def test_view_and_map_on_demand(run, shown):
    shown.features.table.chosen = "2_0"
    assert shown.view_image.layout.display == "none"
    shown.view.click()
    finished_work(shown)
    assert shown.message.value == ""
    assert bytes(shown.view_image.value).startswith(b"\x89PNG")
    assert shown.view_image.layout.display == ""
    assert inspection.feature_view(run, "2_0", compute=False) is not None
    assert shown.map_image.layout.display == "none"
    shown.map.click()
    finished_work(shown)
    assert shown.message.value == ""
    assert bytes(shown.map_image.value).startswith(b"\x89PNG")


def test_what_is_shown_is_saved_as_figures(run, shown):
    shown.save.click()
    assert not shown.message.value
    names = {path.name for path in run.saved.iterdir()}
    assert {"ENSG2_1_1_pair.pdf", "ENSG2_1_1_pair.png", "ENSG2_1_1.py"} <= names
    assert (run.saved / "ENSG2_1_1_pair.pdf").read_bytes().startswith(b"%PDF")
    assert "ENSG2_1_1_pair.pdf" in shown.saved.value
    shown._choose_gene(ODD)
    assert not shown.saved.value
    shown.save.click()
    assert not shown.message.value, shown.message.value
    assert (run.saved / "b-A-b-_1_1.py").is_file(), "no path is made of what an id holds"


def test_work_is_cancelled_between_steps(run, shown, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def slow(_, feature, *, on_step):
        for k in range(1000):
            on_step(k, 1000)
            began.set()
            go_on.wait(0.05)
        pytest.fail("was not stopped")

    monkeypatch.setattr(panel.runs, "feature_view", slow)
    shown.view.click()
    assert began.wait(10)
    assert shown.view.disabled
    assert shown.progress.max == 1000
    shown.view.click()
    assert "already at work" in shown.message.value
    shown.cancel.click()
    go_on.set()
    finished_work(shown)
    assert shown.doing.value == "cancelled"
    assert not shown.view.disabled


def test_an_error_in_the_work_is_shown(shown, monkeypatch):
    def broken(*_, **__):
        time.sleep(0.01)
        raise RuntimeError("the gradient of 1_1 (seed 0) is zero")

    monkeypatch.setattr(panel.runs, "feature_view", broken)
    shown.view.click()
    finished_work(shown)
    assert "the gradient of 1_1" in shown.message.value
    assert not shown.view.disabled


def test_late_work_does_not_overwrite_another_feature(shown, monkeypatch):
    ready = threading.Event()
    made = feature_view.FeatureView(
        np.array(["t"]), np.ones(1), *(np.zeros((1, 8, 8, 3), np.uint8),) * 3,
        np.array("guided backpropagation"), np.zeros((8, 8, 3), np.uint8), np.array([0.0, 1.0]),
    )  # fmt: skip
    monkeypatch.setattr(
        panel.runs,
        "feature_view",
        lambda *_, compute=True, **__: (compute and ready.wait(10) and made) or None,
    )
    shown.features.table.chosen = "0_1"
    shown.view.click()
    shown.features.table.chosen = "1_0"
    ready.set()
    finished_work(shown)
    assert shown.view_image.layout.display == "none"
