"""The report: grouped in running order, numbers from the artefacts, ids of the user escaped."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.config import ROOT, Config
from lib.explore import report, report_pairs, report_sections, report_tables
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


def test_files_are_grouped_by_question_and_network(store):
    (store.figures / "notebooks").mkdir()
    (store.figures / "notebooks/05_correlate__vgg16.html").write_text("")
    table_df = pd.DataFrame({"a": [1]})
    store.notebook = "05_correlate"
    for stem in ("fig3_genes_per_layer", "tab5_thresholds", "links"):
        store.save_table(stem, table_df, "")
    Store(store.config, "00_cohort", store.root).save_table("s1_table", table_df, "", per_network=False)
    (store.figures / "mine_alone__vgg16.csv").write_text("a\n1\n")
    for number in (10, 2):
        a_picture(store.figures / f"tiles_graded_{number}__alexnet.png")
    made = report_sections.sections(store, ["vgg16", "alexnet"])
    shown = {
        s["question"]: [(g["network"], [i["id"] for i in g["items"]]) for g in s["groups"]] for s in made
    }
    assert shown == {
        "What was measured?": [("", ["s1_table"])],
        "What was found?": [("vgg16", ["links__vgg16"])],
        "What does it look like?": [("alexnet", ["tiles_graded_2__alexnet", "tiles_graded_10__alexnet"])],
        # in the order of the page, not of saving
        "How do tissues differ? (the paper's tables)": [
            ("vgg16", ["tab5_thresholds__vgg16", "fig3_genes_per_layer__vgg16"])
        ],
        "Further files": [("vgg16", ["mine_alone__vgg16"])],
    }
    assert len({s["id"] for s in made}) == len(made)
    found, further = made[1]["groups"][0]["items"][0], made[-1]["groups"][0]["items"][0]
    assert (found["page"], found["notebook"]) == ("notebooks/05_correlate__vgg16.html", "05")
    assert further["page"] == ""


def test_every_figure_and_table_answers_a_question():
    """Those that figures/README.md lists, and the most specific name counts."""
    lines = (ROOT / "figures/README.md").read_text().splitlines()
    stems = {
        stem.strip() for line in lines if line.startswith("| ") and "|---" not in line
        for stem in re.sub(r"\(.*?\)", "", line.split("|")[1]).split(",")
    } - {"file", "...", ""}  # fmt: skip
    assert len(stems) > 70
    unplaced = {
        s for s in stems if report_sections._place(s.replace("...", "x"))[0] == report_sections.FURTHER
    }
    assert not unplaced
    assert report_sections._place("tab2_tab3_accuracy")[0] == "How was it made?"
    assert report_sections._place("tab4_pairs")[0].startswith("How do tissues differ?")


def test_one_tissue_does_not_differ_from_others(store, monkeypatch):
    a_picture(store.figures / "s2_genes.png")
    assert [s["question"] for s in report_sections.sections(store, [])] == [report_sections.OF_TISSUES]
    monkeypatch.setattr(Store, "n_tissues", 1)
    assert [s["question"] for s in report_sections.sections(store, [])] == [report_sections.OF_ONE_TISSUE]


def test_comparisons_of_networks_need_several(store):
    a_picture(store.figures / "accuracy_against_pairs.png")
    assert report_sections.sections(store, ["vgg16"]) == []
    assert len(report_sections.sections(store, ["vgg16", "alexnet"])) == 1


def test_figures_leave_the_page_when_it_grows_large(store, monkeypatch):
    for name in ("a", "b"):
        a_picture(store.figures / f"{name}__vgg16.png", 100)
    inside = report_sections.sections(store, ["vgg16"])[0]["groups"][0]["items"]
    assert all(item["source"].startswith("data:image/webp") for item in inside)
    assert inside[0]["width"] == 55, "100 px at 200 dpi, shown at 110"
    monkeypatch.setattr(report_sections, "LIMIT_BYTES", len(inside[0]["source"]) + 10)
    sources = [i["source"] for i in report_sections.sections(store, ["vgg16"])[0]["groups"][0]["items"]]
    assert sources[0].startswith("data:")
    assert sources[1] == "b__vgg16.png"


def test_long_tables_say_that_they_are_cut(store):
    table_df = pd.DataFrame({"x": range(report_sections.ROWS_SHOWN + 5)})
    store.save_table("s1_table", table_df, "Long.", per_network=False)
    item = report_sections.sections(store, [])[0]["groups"][0]["items"][0]
    assert item["note"] == f"The first {report_sections.ROWS_SHOWN} rows."
    assert item["html"].count("<tr>") + item["html"].count("<tr ") == report_sections.ROWS_SHOWN + 1


def test_pictures_are_small_and_true():
    chart = np.full((60, 80, 3), 255, np.uint8)
    chart[10:20] = (0, 114, 178)
    uri = report_pairs.webp(Image.fromarray(chart))
    assert uri.startswith("data:image/webp;base64,")
    import base64
    import io

    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), chart)


NO_CARDS = pd.DataFrame(columns=["gene", "feature"])


def links_table(rows, **columns):
    """Rows (gene, feature, clump, clump_lead, statistic), the strongest gene first."""
    names = ["gene", "feature", "clump", "clump_lead", "statistic"]
    df = pd.DataFrame(rows, columns=names).assign(symbol="S", q=0.2, q_covariates=0.01, r_within=0.5)
    return df.assign(**columns).astype(dict.fromkeys(("gene", "feature", "clump"), "category"))


LINKS = [
    *(("a", "1_0", "1_0", True, 9.0), ("a", "1_1", "1_0", False, 8.9), ("a", "2_5", "2_5", True, 5.0)),
    *(("b", "1_0", "1_0", True, 7.0), ("b", "2_6", "2_6", True, 4.0)),
]


def keys(df):
    return list(zip(df["gene"], df["feature"], strict=True))


def test_links_have_a_row_for_each_gene_and_clump_the_strongest_first():
    rows_df = report_tables.links_shown(links_table(LINKS), NO_CARDS, 0.05)
    assert keys(rows_df) == [("a", "1_0"), ("b", "1_0"), ("a", "2_5"), ("b", "2_6")]
    assert rows_df["n_copies"].tolist() == [2, 1, 1, 1]
    assert rows_df[["q", "q_without"]].to_numpy().tolist() == [[0.01, 0.2]] * 4, "the one that calls the link"
    alone_df = report_tables.links_shown(links_table(LINKS, q_covariates=np.nan), NO_CARDS, 0.05)
    assert alone_df["q"].tolist() == [0.2] * 4
    assert alone_df["q_without"].isna().all()
    assert report_tables.links_shown(links_table(LINKS).head(0), NO_CARDS, 0.05).empty


def test_every_gene_keeps_its_row_when_links_are_many(monkeypatch):
    monkeypatch.setattr(report_tables, "MOST_LINKS", 2)
    cards_df = pd.DataFrame({"gene": ["x", "b"], "feature": ["9_9", "2_6"]})
    rows_df = report_tables.links_shown(links_table(LINKS), cards_df, 0.05)
    assert keys(rows_df) == [("a", "1_0"), ("b", "1_0"), ("b", "2_6")], "and the one with a card"
    assert rows_df["card"].tolist() == pytest.approx([np.nan, np.nan, 1], nan_ok=True)


def test_a_link_replicates_with_its_sign_and_q():
    validation = {"q_validation": [0.01, 0.01, 0.3, np.nan, 0.01], "same_sign": [1.0, 1, 1, np.nan, 0]}
    rows_df = report_tables.links_shown(links_table(LINKS, **validation), NO_CARDS, 0.05)
    by_pair = dict(zip(keys(rows_df), rows_df["replicates"], strict=True))
    assert by_pair == {("a", "1_0"): "yes", ("a", "2_5"): "no", ("b", "1_0"): "", ("b", "2_6"): "no"}
    assert set(report_tables.links_shown(links_table(LINKS), NO_CARDS, 0.05)["replicates"]) == {""}


def test_values_are_parted_and_rows_know_their_part(monkeypatch):
    monkeypatch.setattr(report_tables, "CHUNK", 2)
    rows = [{"gene": "a", "where": [[0, 8, 0.1, 0.4]]}, {"gene": "b", "where": []}, {"gene": "c"}]
    tables = {"links": {"rows": rows, "n": 3}, "markers": {"rows": [{"gene": "b"}], "n": 1}}
    payload = {"genes": {"a": [1.0], "b": [2.0], "c": [3.0]}, "features": {"1_1": [4.0]}, "tables": tables}
    light, chunks = report_tables.in_chunks(payload, 1)
    assert (light["genes"], light["features"]) == (["a", "b", "c"], ["1_1"])
    assert [row["where"] for row in light["tables"]["links"]["rows"]] == [0, 1, 2]
    assert light["tables"]["links"]["n"] == 3
    assert light["tables"]["markers"] == tables["markers"]
    assert dict(chunks) == {
        "genes-1-0": [[1.0], [2.0]], "genes-1-1": [[3.0]], "features-1-0": [[4.0]],
        "where-1-0": [[[0, 8, 0.1, 0.4]], []], "where-1-1": [[]],
    }  # fmt: skip
    assert rows[0]["where"] == [[0, 8, 0.1, 0.4]], "the payload itself is as before"


def test_r_by_tissue_goes_to_the_row_of_its_pair():
    shown_df = report_tables.links_shown(links_table(LINKS), NO_CARDS, 0.05)
    tissues_df = pd.DataFrame({"gene": "b", "feature": "1_0", "tissue": ["Lung", "Liver"], "n": [8, 9]})
    tissues_df = tissues_df.assign(r=[0.12345, -0.5], se=0.4472).astype({"tissue": "category"})
    found = report_tables.by_tissue(shown_df, tissues_df, ["Liver", "Lung"])
    assert found == [[], [[1, 8, 0.123, 0.447], [0, 9, -0.5, 0.447]], [], []]


LEDGER_DF = pd.DataFrame({
    "gene": list("aaabb"), "feature": "1_0", "unit": ["test", "C", "yours", "test", "yours"],
    "n": [30, 20, 40, 30, 40],
    "n_effective": [25.5, 15.25, 31.0, 22.0, 33.0], "r": [0.5, 0.4, -0.1, 0.6, 0.7],
    "low": 0.0, "high": 0.8, "p": [0.001, 0.04, 0.8, 0.001, 0.00012345],
    "role": ["found", "left out", "cohort", "found", "cohort"],
    "same_sign": [1.0, 1.0, 0.0, 1.0, 1.0], "q": [np.nan, 0.03, 0.6, np.nan, 0.0002],
})  # fmt: skip


def test_what_units_say_goes_to_the_row_of_its_link():
    shown_df = report_tables.links_shown(links_table(LINKS), NO_CARDS, 0.05)
    found = report_tables.by_unit(shown_df, LEDGER_DF, ["test", "C", "yours"])
    assert found == [
        [
            [0, "found", 30, 25.5, 0.5, 0.0, 0.8, 0.001, 1.0, None],
            [1, "left out", 20, 15.25, 0.4, 0.0, 0.8, 0.04, 1.0, 0.03],
            [2, "cohort", 40, 31.0, -0.1, 0.0, 0.8, 0.8, 0.0, 0.6],
        ],
        [
            [0, "found", 30, 22.0, 0.6, 0.0, 0.8, 0.001, 1.0, None],
            [2, "cohort", 40, 33.0, 0.7, 0.0, 0.8, 0.0001234, 1.0, 0.0002],
        ],
        [],
        [],
    ]
    assert report_tables.by_unit(shown_df, report_pairs.NO_LEDGER, []) == [[]] * 4


def test_the_page_counts_what_replicates_in_other_cohorts_and_on_sections_left_out(store, monkeypatch):
    left_df = pd.DataFrame({
        "section": ["A", "B", "C"], "same_sign": [0.9, 0.8, np.nan], "nominal": [0.6, 0.5, np.nan],
        "replicated": [0.5, 0.4, np.nan],
    })  # fmt: skip
    tables = {"ledger": LEDGER_DF, "sections_left_out": left_df}
    monkeypatch.setattr(Store, "is_current", lambda self, name: name in tables)
    monkeypatch.setattr(Store, "load", lambda self, name: tables[name])
    (cohort, share, null), (sections, both, of_both) = report.elsewhere_in_numbers(store)
    assert cohort == "of the genes' 2 strongest links replicate in cohort yours"
    assert (share, both) == ("50%", "40% to 50%")
    assert null == (
        "by chance: at most 5%; of the same sign: 50% (by chance 50%); p ≤ 0.05 in the link's direction: 50% "
        "(by chance 5%)"
    )
    assert sections.endswith("found without a section replicate on it (left out in turn: A, B)")
    assert "of the same sign: 80% to 90% (by chance 50%)" in of_both
    assert "50% to 60% (by chance 5%)" in of_both
    tables["sections_left_out"], tables["ledger"] = left_df.head(0), LEDGER_DF[LEDGER_DF["unit"] == "test"]
    assert report.elsewhere_in_numbers(store) == []


def test_marker_pairs_are_each_genes_highest_after_those_with_a_card():
    markers_df = pd.DataFrame({
        "gene": list("aab"), "feature": ["1_0", "1_1", "1_2"], "r": [0.8, 0.9, -0.95], "q_within_tissue": 0.5,
        "r_within_tissue": 0.1, "pattern_within_tissue": ["direct", "through tissue", "not tested"],
    }).assign(pattern="g-t-f", symbol="S", tissue="T", layer=1)  # fmt: skip
    rows_df = report_tables.markers_shown(markers_df, NO_CARDS)
    assert keys(rows_df) == [("b", "1_2"), ("a", "1_1")]
    assert rows_df["finding"].tolist() == ["not tested within tissues", "not found within tissues"]
    card_df = pd.DataFrame({"gene": ["a"], "feature": ["1_0"], "finding": "asked for", "card": 2.0, "r": 0.8})
    rows_df = report_tables.markers_shown(markers_df, card_df)
    assert keys(rows_df) == [("a", "1_0"), ("b", "1_2"), ("a", "1_1")]
    assert rows_df.iloc[0][["card", "finding", "pattern", "layer"]].tolist() == [2.0, "asked for", "g-t-f", 1]
    assert report_tables.markers_shown(markers_df.head(0), NO_CARDS).empty
    with_covariates_df = report_tables.markers_shown(markers_df.assign(q_covariates=0.7), NO_CARDS)
    assert set(with_covariates_df["q"]) == {0.7}


def test_rows_are_plain_json():
    row = {"r": np.float64(0.123456), "q": np.nan, "symbol": None, "gene": "g", "card": np.nan}
    row |= {"layer": np.int64(3)}
    made = report_tables.plain(row)
    assert made == {"r": 0.1235, "q": None, "symbol": None, "gene": "g", "card": None, "layer": 3.0}
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert report_tables.plain(row | {"card": 4.0})["card"] == 4


def test_the_page_opens_with_links_their_genes_and_how_many_replicate(store, monkeypatch):
    links_df = links_table(
        LINKS, same_sign=1.0, p_validation=0.01, q_validation=[0.01, 0.01, 0.01, 0.2, 0.01]
    )
    genes_df = pd.DataFrame({"q": [0.01, 0.01, 0.9], "q_without_covariates": [0.01, 0.01, 0.04]})
    tables = {"links": links_df, "gene_significance": genes_df}
    monkeypatch.setattr(Store, "is_current", lambda self, name: name == "links")
    monkeypatch.setattr(Store, "load", lambda self, name: tables[name])
    with_covariates = Store(store.config.model_copy(update={"covariates": ["rin"]}), root=store.root)
    null = Store(store.config.model_copy(update={"null_network": "untrained"}), root=store.root)
    stores = {"vgg16": with_covariates, "vgg16__untrained": null}
    numbers = report.links_in_numbers(with_covariates, stores)
    (links, n, by_chance), (genes, n_genes, false), (replicate, share, agree) = numbers
    assert (n, n_genes, share) == ("5", "2", "50%")
    assert "rin taken out" in links
    assert "4 counting near-copies" in links
    assert genes == "of 3 expressed genes have a link (3 with the covariates left in)"
    assert "2 strongest links replicate" in replicate
    assert by_chance == "by chance: at most 5% of a gene's, on average; random weights: 5"
    assert false == "by chance: at most 0.1, on average; random weights: 2"
    assert agree == "by chance: at most 5%; random weights: 50%"
    assert next(null for *_, null in report.links_in_numbers(null, stores)).endswith("on average")


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
    nothing = {"network": "vgg16", "genes": {}, "features": {}, "tables": {"links": {"rows": []}}}
    monkeypatch.setattr(report_pairs, "payload", lambda of: nothing)
    page = report.build(store).read_text()
    before_the_table = page[: page.index('<table id="pairs"')]
    for code in ("g-t-f", "f-g-t", "g-f-t"):
        assert f"<em>{code}</em>:" in before_the_table
    assert "mid grey is zero" in page


def test_nothing_made_yet_is_a_page_all_the_same(store):
    page = report.build(store).read_text()
    assert "Parameters and versions" in page
    assert 'id="pairs"' not in page


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "A neural network was trained to classify tissues"),
        ({"encoder": "imagenet"}, "A neural network, used as it is, was shown tiles"),
        (
            {"expression_file": "e.csv", "features_file": "f.csv"},
            "a number for each sample, computed elsewhere",
        ),
    ],
)
def test_the_page_says_where_features_come_from(tmp_path, settings, words):
    settings = {"samples_file": "s.csv", "expression_file": "e.csv"} | settings
    page = report.build(Store(Config(cohort="mine", **settings), root=tmp_path)).read_text()
    said = " ".join(page[page.index("<h1>") : page.index('id="cohort"')].split())
    assert words in said
    assert ("network" in said) == ("computed elsewhere" not in words)


def test_one_of_a_kind_is_said_in_the_singular():
    assert report._sized(1, "tissue") == ("tissue", "1")
    assert report._sized(1234, "sample") == ("samples", "1,234")
