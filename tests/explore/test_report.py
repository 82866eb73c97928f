"""The report: grouped in running order, numbers from the artefacts, ids of the user escaped."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.config import ROOT, Config
from lib.explore import report, report_pairs
from lib.explore.notebook_runs import question
from lib.store import Store

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def store(tmp_path):
    made = Store(Config(cohort="mine", title=f"A & B {EVIL}"), root=tmp_path)
    made.figures.mkdir(parents=True)
    return made


def a_picture(path, edge=40):
    noise = np.random.default_rng(0).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, dpi=(200, 200))


def test_ids_and_notes_of_the_user_are_escaped(store):
    table_df = pd.DataFrame({"sample_id": [EVIL, "b"], "note": ["x", '"><img src=x onerror=alert(1)>']})
    store.save_table("s1_table", table_df, f"Caption {EVIL}", per_network=False)
    a_picture(store.figures / "fig2_tiles.png")
    (store.figures / "fig2_tiles.png.json").write_text(json.dumps({"caption": f"Figure {EVIL}"}))
    page = report.build(store).read_text()
    assert EVIL not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 4


def test_json_of_the_page_cannot_end_its_script(store):
    import jinja2

    page = (
        jinja2.Environment(autoescape=True)
        .from_string("{{ pairs | tojson }}")
        .render(pairs=[{"symbol": EVIL}])
    )
    assert "<" not in page
    assert "pairs | tojson" in (ROOT / "lib/explore/report_page.html.j2").read_text()
    assert "innerHTML" not in (ROOT / "lib/explore/report_page.html.j2").read_text()


def test_files_are_grouped_by_network_and_notebook_in_the_order_of_saving(store):
    (store.figures / "notebooks").mkdir()
    (store.figures / "notebooks/05_correlate__vgg16.html").write_text("")
    table_df = pd.DataFrame({"a": [1]})
    store.notebook = "05_correlate"
    for stem in ("tab5_thresholds", "fig3_genes_per_layer"):
        store.save_table(stem, table_df, "")
    Store(store.config, "00_cohort", store.root).save_table("s1_table", table_df, "", per_network=False)
    (store.figures / "mine_alone__vgg16.csv").write_text("a\n1\n")
    for number in (10, 2):
        a_picture(store.figures / f"pairs_{number}__alexnet.png")
    cohort, vgg16, alexnet = report.sections(store, ["vgg16"])
    assert [s["name"] for s in (cohort, vgg16, alexnet)] == ["", "vgg16", "alexnet"]
    assert [i["id"] for i in cohort["groups"][0]["items"]] == ["s1_table"]
    by_question = {g["question"]: [i["id"] for i in g["items"]] for g in vgg16["groups"]}
    assert by_question == {
        question("05_correlate"): ["tab5_thresholds__vgg16", "fig3_genes_per_layer__vgg16"],
        "Further files": ["mine_alone__vgg16"],
    }
    assert [g["page"] for g in vgg16["groups"]] == ["notebooks/05_correlate__vgg16.html", ""]
    assert [i["id"] for i in alexnet["groups"][0]["items"]] == ["pairs_2__alexnet", "pairs_10__alexnet"]


def test_figures_leave_the_page_when_it_grows_large(store, monkeypatch):
    for name in ("a", "b"):
        a_picture(store.figures / f"{name}__vgg16.png", 100)
    inside = report.sections(store, ["vgg16"])[0]["groups"][0]["items"]
    assert all(item["source"].startswith("data:image/webp") for item in inside)
    assert inside[0]["width"] == 55, "100 px at 200 dpi, shown at 110"
    monkeypatch.setattr(report, "LIMIT_BYTES", len(inside[0]["source"]) + 10)
    sources = [i["source"] for i in report.sections(store, ["vgg16"])[0]["groups"][0]["items"]]
    assert sources[0].startswith("data:")
    assert sources[1] == "b__vgg16.png"


def test_long_tables_say_that_they_are_cut(store):
    table_df = pd.DataFrame({"x": range(report.ROWS_SHOWN + 5)})
    store.save_table("s1_table", table_df, "Long.", per_network=False)
    item = report.sections(store, [])[0]["groups"][0]["items"][0]
    assert item["note"] == f"The first {report.ROWS_SHOWN} rows."
    assert item["html"].count("<tr>") + item["html"].count("<tr ") == report.ROWS_SHOWN + 1


def test_pictures_are_small_and_true():
    chart = np.full((60, 80, 3), 255, np.uint8)
    chart[10:20] = (0, 114, 178)
    uri = report_pairs.webp(Image.fromarray(chart))
    assert uri.startswith("data:image/webp;base64,")
    import base64
    import io

    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), chart)


def some_pairs(rows):
    columns = ["gene", "feature", "r", "r_partial", "q_within_tissue"]
    return pd.DataFrame(rows, columns=columns).assign(symbol="S", tissue="T", max_median_log2=9.0)


def test_table_of_pairs_has_cards_first_then_each_genes_best():
    tested_df = some_pairs(
        [
            *(("a", "1", 0.8, 0.1, 0.01), ("a", "2", 0.9, 0.0, np.nan)),
            *(("b", "1", -0.95, -0.5, 0.9), ("b", "3", 0.9, -0.8, 0.9)),
        ]
    )
    cards_df = some_pairs([("c", "9", 0.3, 0.2, 0.5)])
    rows_df = report_pairs.shown_pairs(tested_df, cards_df)
    assert rows_df[["gene", "feature"]].to_numpy().tolist() == [
        *(["c", "9"], ["a", "1"], ["b", "1"], ["a", "2"]),
    ]
    assert rows_df["card"].tolist()[0] == 0
    assert rows_df["card"].isna().sum() == 3
    assert report_pairs.shown_pairs(tested_df.head(0), cards_df.head(0)).empty
    assert len(report_pairs.shown_pairs(tested_df, cards_df.head(0))) == 3


def test_rows_are_plain_json():
    row = {"r": np.float64(0.123456), "q": np.nan, "symbol": None, "gene": "g", "card": np.nan}
    plain = report_pairs._plain(row)
    assert plain == {"r": 0.1235, "q": None, "symbol": None, "gene": "g", "card": None}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_accuracy_is_of_samples_where_they_share_slides_and_has_its_interval_or_none(store, monkeypatch):
    accuracy_df = pd.DataFrame({
        "level": ["tile", "slide"], "split": "test", "n": [900, 184], "accuracy": [0.4, 0.511],
        "low": [0.35, np.nan], "high": [0.45, np.nan],
    })  # fmt: skip
    samples_df = pd.DataFrame({"slide_id": ["A1", "A1", "B1"]})
    tables = {"accuracy": accuracy_df, "samples": samples_df}
    monkeypatch.setattr(Store, "is_current", lambda self, name: name == "accuracy")
    monkeypatch.setattr(Store, "load", lambda self, name: tables[name])
    assert report.network_numbers(store) == [
        ("test tile accuracy (n = 900; 95 % interval over donors)", "40.0% (35% to 45%)"),
        ("test sample accuracy (n = 184)", "51.1%"),
    ]
    tables["samples"] = pd.DataFrame({"slide_id": ["A1", "A2", "B1"]})
    assert report.network_numbers(store)[1][0] == "test slide accuracy (n = 184)"


def test_the_page_says_how_to_read_a_gradient_and_a_pattern(store, monkeypatch):
    monkeypatch.setattr(report_pairs, "payload", lambda of: {"network": "vgg16", "rows": []})
    page = report.build(store).read_text()
    before_the_table = page[: page.index('<table id="pairs"')]
    for code in ("g-t-f", "f-g-t", "g-f-t"):
        assert f"<em>{code}</em>:" in before_the_table
    assert "mid grey is zero" in page


def test_nothing_made_yet_is_a_page_all_the_same(store):
    page = report.build(store).read_text()
    assert "Parameters and versions" in page
    assert 'id="pairs"' not in page
