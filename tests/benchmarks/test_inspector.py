"""The timing of the panel measures a pair being shown; speed itself is not tested here."""

import pytest

from lib.benchmarks import inspector, timing
from lib.explore import panel


def test_rows_time_a_search_and_a_choice(monkeypatch):
    shown, show_pair = [], panel.Panel.show_pair

    def counted(self, *pair):
        show_pair(self, *pair)
        shown.append((self.gene, self.feature, len(self.pair_image.value), self.strip.value.count("<img")))

    monkeypatch.setattr(panel.Panel, "show_pair", counted)
    rows = inspector.inspector_rows(quick=True)
    assert [row["work"].split(":")[0] for row in rows] == [
        "inspector, find a gene",
        "inspector, choose a feature",
    ]
    assert all(set(row) == set(timing.COLUMNS) and row["target"] == "0.3 s" for row in rows)
    assert all(row["ratio"] == pytest.approx(row["ours_s"] / 0.3) for row in rows)
    assert all(n_bytes > 5_000 and n_tiles == 7 for *_, n_bytes, n_tiles in shown)
    assert len({pair[:2] for pair in shown}) == len(shown), "a pair shown twice would be cached"


def test_an_error_in_the_panel_is_no_timing(monkeypatch):
    monkeypatch.setattr(panel.Panel, "_show_feature", lambda self: 1 / 0 if self.history else None)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        inspector.inspector_rows(quick=True)
