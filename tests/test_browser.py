"""The report of a finished run in a real browser, opened from disk."""

import json
from contextlib import contextmanager, nullcontext

import pandas as pd
import pytest
from axe import violations
from chromium import MARKS, chromium
from selenium.webdriver.support.ui import WebDriverWait

from lib.config import Config
from lib.explore import report
from lib.store import Store

pytestmark = MARKS


@pytest.fixture(scope="module")
def browser():
    with chromium(1280, 1700) as driver:
        yield driver


def open_report(browser, root):
    """Leave the page before (`get` of the same one can return too early), open it, wait for its table."""
    browser.get("data:,")
    browser.get((root / "figures/demo/index.html").as_uri())
    WebDriverWait(browser, 20).until(lambda b: b.find_elements("css selector", "#pairs tbody tr"))


def some(browser, css):
    return browser.find_elements("css selector", css)


def texts(browser, css):
    return [element.text for element in some(browser, css)]


def search(browser, words):
    box = browser.find_element("id", "search")
    box.clear()
    box.send_keys(words)
    return texts(browser, "#pairs tbody button")


def requests_that_leave(browser):
    """Addresses asked for over the network since the last call."""
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("file:", "data:", "blob:", "chrome"))]


def assert_quiet(browser):
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not requests_that_leave(browser)


@contextmanager
def phone(browser):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def image_widths(browser, images="document.images"):
    """Widths of images in px once each is decoded; 0 for one that fails to load."""
    return browser.execute_async_script(
        f"const done = arguments[0], images = [...{images}];"
        "Promise.all(images.map(i => i.decode().then(() => i.naturalWidth, () => 0))).then(done)"
    )


def widths(browser, css):
    """Width of an element's content, and of the element."""
    found = "const e = document.querySelector(arguments[0]); return [e.scrollWidth, e.clientWidth]"
    return browser.execute_script(found, css)


# -- a finished run ----------------------------------------------------------------------------------------


def test_index_shows_its_figures_and_fetches_nothing(finished, browser):
    open_report(browser, finished[0])
    browser.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    loaded = image_widths(browser)
    assert len(loaded) > 10
    assert all(width > 100 for width in loaded), "a figure did not load"
    assert "synthetic" in browser.find_element("css selector", ".notice").text
    assert_quiet(browser)


def test_index_is_readable_on_a_phone(finished, browser):
    with phone(browser):
        open_report(browser, finished[0])
        page, window = widths(browser, "html")
        assert window == 400
        assert page <= window + 1, "the page scrolls sideways"
        some(browser, "#pairs button")[0].click()
        inside, outside = widths(browser, "#card")
        assert outside <= 400
        assert inside <= outside + 1, "the card scrolls sideways"


def test_the_first_screen_and_the_methods_are_in_words(finished, browser):
    open_report(browser, finished[0])
    assert not some(browser, "#reading-notes") or all(texts(browser, "#reading-notes li"))
    said = " ".join(texts(browser, ".methods p"))
    assert "ischaemic_time_min and rin were regressed out of both" in said
    assert "classified correctly" in said


def test_search_narrows_the_table_and_a_card_opens(finished, browser):
    root, _ = finished
    open_report(browser, root)
    everything = texts(browser, "#pairs tbody button")
    assert len(everything) > 5
    narrowed = search(browser, everything[-1].lower())
    assert 0 < len(narrowed) < len(everything)
    assert everything[-1] in narrowed
    assert search(browser, "no such gene") == []
    assert search(browser, " ") == everything

    some(browser, "#pairs button")[0].click()  # those with pictures come first
    assert everything[0] in browser.find_element("id", "card-title").text
    loaded = image_widths(browser, "document.querySelectorAll('#card-body img')")
    assert len(loaded) >= 1 + 1 + 2 + 2, "tile, gradient, synthetic images, tiles from low to high"
    assert all(width >= 60 for width in loaded)
    (features,) = (root / "data/derived/demo").rglob("features_test.parquet")
    n_test = pd.read_parquet(features).shape[1]
    assert len(some(browser, "#card-body circle")) == n_test, "a point per test sample"
    some(browser, "#card .close")[0].click()
    assert not browser.find_element("id", "card").is_displayed()
    some(browser, "#pairs button")[-1].click()
    assert not some(browser, "#card-body img"), "a pair without pictures has its scatter"
    assert some(browser, "#card-body circle")
    assert_quiet(browser)


def test_table_sorts_by_the_column_chosen(finished, browser):
    open_report(browser, finished[0])
    for descending in (True, False):
        some(browser, "#pairs th")[3].click()
        values = [float(text) for text in texts(browser, "#pairs tbody td:nth-child(4)")]
        assert values == sorted(values, reverse=descending)


WIDTHS = pytest.mark.parametrize("window", [nullcontext, phone], ids=["1280", "400"])


def unfold(browser):
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")


@WIDTHS
@pytest.mark.parametrize("tab", ["links", "markers"])
def test_the_report_breaks_no_rule_of_accessibility(finished, browser, tab, window):
    """Tables and parameters unfolded; with a card where a table has rows: the small run may have no link."""
    with window(browser):
        open_report(browser, finished[0])
        unfold(browser)
        some(browser, f"#tab-{tab}")[0].click()
        assert violations(browser) == []
        for first in some(browser, "#pairs tbody button")[:1]:
            first.click()
            assert some(browser, "#card-body svg")
            assert violations(browser, "#card") == []
        assert some(browser, "#card-body svg") or tab == "links"


def test_executed_notebooks_open_with_equations(finished, browser):
    browser.get((finished[0] / "figures/demo/notebooks/05_correlate__alexnet.html").as_uri())
    fractions = some(browser, "math mfrac")
    assert fractions, "equations are MathML"
    assert fractions[0].size["height"] > 15, "a fraction stands above its denominator"
    assert "Traceback" not in browser.page_source
    assert_quiet(browser)


# -- pages of made-up pairs --------------------------------------------------------------------------------


def one_pair(network="vgg16", symbol="ALB", tissue="Liver", card=None, **numbers):
    """The payload of a network with one pair in both tables, and its card if there is one."""
    row = {"symbol": symbol, "gene": symbol, "feature": "1_1", "tissue": tissue, "r_within": 0.6} | numbers
    payload = {"network": network, "unit": "TPM", "aggregate": "mean", "samples": ["s"], "covariates": []}
    payload |= {"tissues": [tissue], "tissue_of": [0], "colours": ["#000000"], "features": {"1_1": [2.0]}}
    payload |= {"stratum": "tissue", "strata": [tissue], "strata_colours": ["#000000"]}
    payload |= {"genes": {symbol: [1.0]}, "cards": [], "q_threshold": 0.05, "r_threshold": 0.7}
    link, marker = {"low": 0.4, "high": 0.7, "card": None} | row, {"r": 0.9, "card": None} | row
    rows = {"links": [link], "markers": [marker]}
    payload["tables"] = {name: {"rows": rows[name], "n": 1} for name in rows}
    if card is not None:
        pictures = {"tile": "data:,", "gradient": "data:,", "synthetic": [], "strip": [], "strip_labels": []}
        link["card"] = 0
        payload["cards"] = [
            pictures | {"tile_tissue": tissue, "method": "plain gradient", "ihc": None} | card
        ]
    return payload


@pytest.fixture
def open_page(browser, tmp_path, monkeypatch):
    """Opens a report whose networks have these payloads."""

    def show(*payloads):
        by_name = {payload["network"]: payload for payload in payloads}
        names = list(by_name)
        store = Store(Config(cohort="mine", title="Mine", architecture="vgg16"), root=tmp_path)
        others = {name: (store.with_network(name), "") for name in names[1:]}
        monkeypatch.setattr(Store, "networks", lambda self, artefacts: others)
        made = by_name.get if others else lambda name: payloads[0]
        monkeypatch.setattr(report.report_pairs, "payload", lambda of: made(of.config.run_name))
        browser.get("data:,")
        browser.get(report.build(store).as_uri())

    return show


def test_ids_with_markup_stay_text_in_table_and_card(browser, open_page):
    breaks_in = "document.title='broken in'"
    evil = f'<img src=x onerror="{breaks_in}"></script><script>{breaks_in}</script>'
    words = dict.fromkeys(("tile_label", "method", "finding"), evil)
    open_page(one_pair(evil, evil, evil, card=words | {"strip": ["data:,"], "strip_labels": [evil]}))
    some(browser, "#pairs button")[0].click()
    for css in ("#card-title", "#card-body .strip figcaption"):
        assert evil in some(browser, css)[0].get_property("textContent")
    assert browser.title == "Mine"
    assert not some(browser, "img[src=x]")


def test_a_card_says_what_was_found_and_why_pictures_are_missing(browser, open_page):
    card = {"tile_label": "S1_0_0, Lung, 127 µm wide", "finding": "not found within tissues"}
    card |= {"synthetic_note": "no image: because", "strip_note": "no strip: all one"}
    open_page(one_pair(card=card))
    some(browser, "#pairs button")[0].click()
    words = browser.find_element("id", "card-body").get_property("textContent")
    assert all(part in words for part in card.values())
    assert "from the lowest to the highest" not in words


def test_a_card_names_the_source_of_its_stained_image_and_leads_elsewhere(browser, open_page):
    credit, page = (
        "HPA054, Liver; Human Protein Atlas, CC BY 4.0",
        "https://v25.proteinatlas.org/ENSG00000163631",
    )
    card = {"tile_label": "tile", "tile_sample": "GTEX-1117F-0126"}
    card |= {"ihc": "data:,", "ihc_credit": credit, "ihc_page": page}
    open_page(one_pair(symbol="ALB", gene="ENSG00000163631.15", card=card))
    some(browser, "#pairs button")[0].click()
    captions = [caption.get_property("textContent") for caption in some(browser, "#card-body figcaption")]
    assert f"immunohistochemistry: {credit} page" in captions
    links = some(browser, "#card-body a")
    assert [link.get_attribute("href") for link in links] == [
        page,
        "https://www.proteinatlas.org/ENSG00000163631",
        "https://www.ensembl.org/Homo_sapiens/Gene/Summary?g=ENSG00000163631",
        "https://gtexportal.org/home/gene/ENSG00000163631",
        "https://brd.nci.nih.gov/brd/specimen/GTEX-1117F-0126",
    ]
    for link in links:
        assert (link.get_attribute("rel"), link.get_attribute("target")) == ("noreferrer", "_blank")
    assert not requests_that_leave(browser)


@pytest.mark.parametrize("changes", [{"gene": "ALB"}, {"gene": "ENSMUSG00000163631"}, {"synthetic": True}])
def test_a_card_leads_nowhere_without_an_id_that_others_know(browser, open_page, changes):
    card = {"tile_label": "tile", "tile_sample": "S1", "ihc_note": "the Atlas has no counterpart of Lung"}
    pair = one_pair(**{"symbol": "ALB", "gene": "ENSG00000163631.15"} | changes, card=card)
    open_page(pair | changes)
    some(browser, "#pairs button")[0].click()
    assert not some(browser, "#card-body a")
    assert "Immunohistochemistry: the Atlas has no counterpart of Lung." in card_text(browser)


def test_a_link_shows_its_interval_its_q_and_where_it_holds(browser, open_page):
    numbers = {"r_within": -0.5049, "low": -0.0549, "high": -0.7, "q": 0.000999, "q_without": 0.02, "r": 0.1}
    numbers |= {"replicates": "yes", "r_validation": -0.4, "carried_by": "Liver", "share": 0.61, "i2": 0.3}
    pair = one_pair(symbol="A", **numbers, n_copies=4, robustness=0.25)
    pair |= {"tissues": ["Liver", "Lung"], "colours": ["#000000", "#ff0000"], "covariates": ["rin", "sex"]}
    pair |= {"strata": pair["tissues"], "strata_colours": pair["colours"]}
    pair["tables"]["links"]["rows"][0]["where"] = [[0, 8, -0.6, 0.45], [1, 9, 0.1, 0.4]]
    open_page(pair)
    cells = ["A", "1_1", "Liver", "-0.50", "-0.05 to -0.70", "0.0010", "yes", "-0.40", "Liver", "0.30"]
    assert texts(browser, "#pairs tbody td") == cells
    assert ", with rin, sex taken out." in browser.find_element("id", "about-links").text
    some(browser, "#pairs button")[0].click()
    (facts,) = texts(browser, "#card-body .facts")
    for words in ("r within tissues: -0.50 (-0.05 to -0.70)", "q with covariates left in: 0.02", "(61 %)"):
        assert words in facts
    body = browser.find_element("id", "card-body").text
    assert "4 near-copies" in body
    assert "25 % of the variance" in body
    drawn = [element.text for element in some(browser, "#card-body svg text")]
    assert {"Liver (n = 8)", "Lung (n = 9)", "all tissues"} <= set(drawn)


def test_cards_of_many_links_draw_their_own_values(browser, open_page):
    """Values are read in parts; rows here are ordered otherwise than genes and features."""
    n = 450
    pair = one_pair(symbol="g0", gene="g0")
    (row,) = pair["tables"]["links"]["rows"]
    names = [(f"g{i}", f"1_{(7 * i) % n}") for i in range(n)]
    where = [[[0, 8, -0.6, 0.45], [1, i, 0.1, 0.4]] for i in range(n)]
    rows = [
        row | {"symbol": gene, "gene": gene, "feature": feature, "where": of, "low": 0.1, "high": 0.6}
        for (gene, feature), of in zip(names, where, strict=True)
    ]
    pair["tables"]["links"] = {"rows": rows, "n": n}
    pair |= {
        "genes": {f"g{i}": [float(i)] for i in range(n)},
        "features": {f"1_{i}": [i / 2] for i in range(n)},
    }
    pair |= {"tissues": ["Liver", "Lung"], "colours": ["#000000", "#ff0000"], "strata": ["Liver", "Lung"]}
    pair["strata_colours"] = pair["colours"]
    open_page(pair, one_pair("alexnet"))
    for i in (0, 199, 200, 449):
        search(browser, f"g{i}")
        one = next(b for b in some(browser, "#pairs button") if b.text == f"g{i}")
        one.click()
        drawn = browser.execute_script(
            "const [gene, feature] = arguments;"
            "return [shown.genes.length, valuesOf('genes', gene), valuesOf('features', feature)]",
            *names[i],
        )
        assert drawn == [n, [i], [int(names[i][1][2:]) / 2]]
        labels = [element.text for element in some(browser, "#card-body svg text")]
        assert {f"Lung (n = {i})", "all tissues"} <= set(labels)
        some(browser, "#card .close")[0].click()


def test_a_card_leads_to_the_other_links_of_its_gene_and_of_its_feature(browser, open_page):
    pair = one_pair(symbol="A", clump="1_1", layer=1)
    (first,) = pair["tables"]["links"]["rows"]
    pair["tables"]["links"]["rows"] += [
        first | {"feature": "9_9", "layer": 9, "clump": "9_9", "r_within": -0.7},
        first | {"symbol": "B", "gene": "B", "feature": "1_2", "r_within": 0.55},
        first | {"symbol": "C", "gene": "C", "feature": "3_3", "clump": "3_3"},
    ]
    pair["plain"] = {"1_1": ["eosin", 0.81], "9_9": ["focus", -0.2]}
    open_page(pair)
    some(browser, "#pairs button")[0].click()
    words = "may be no more than stain, sharpness or number of nuclei: within tissues its r with the eosin"
    assert words in card_text(browser)
    assert texts(browser, ".siblings button") == ["9_9 (layer 9) -0.70", "B 0.55"]
    some(browser, ".siblings button")[0].click()
    assert browser.find_element("id", "card-title").text == "A and feature 9_9"
    assert "most like focus (r within tissues -0.20)" in card_text(browser)
    assert texts(browser, ".siblings button") == ["1_1 (layer 1) 0.60"]
    some(browser, ".siblings button")[0].click()
    some(browser, ".siblings button")[1].click()
    assert browser.find_element("id", "card-title").text == "B and feature 1_2"
    some(browser, "#card .close")[0].click()
    assert not browser.find_element("id", "card").is_displayed()


def card_text(browser):
    return browser.find_element("id", "card-body").text


def test_marker_pairs_are_a_table_of_their_own(browser, open_page):
    numbers = {"r_within": -0.05, "q": 0.3, "finding": "not found within tissues", "pattern": "g-t-f"}
    open_page(one_pair(symbol="A", **numbers))
    some(browser, "#tab-markers")[0].click()
    cells = ["A", "1_1", "Liver", "0.90", "-0.05", "0.30", "not found within tissues", "g-t-f"]
    assert texts(browser, "#pairs tbody td") == cells
    assert not browser.find_element("id", "replicated").is_displayed()
    assert "0.7" in browser.find_element("id", "about-markers").text
    some(browser, "#tab-links")[0].click()
    assert texts(browser, "#pairs th")[3] == "r within"


def test_links_are_filtered_by_tissue_layer_sign_and_replication(browser, open_page):
    pair = one_pair(symbol="A", layer=2, replicates="no")
    (first,) = pair["tables"]["links"]["rows"]
    others = [
        {"symbol": "B", "layer": 10, "r_within": -0.5},
        {"symbol": "C", "tissue": "Lung", "replicates": "yes"},
    ]
    pair["tables"]["links"]["rows"] += [first | other for other in others]
    open_page(pair)

    def left(css, value):
        browser.execute_script(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input'))",
            css,
            value,
        )
        found = texts(browser, "#pairs tbody button")
        browser.execute_script(
            "const e = document.querySelector(arguments[0]); e.value = '';"
            "e.dispatchEvent(new Event('input'))",
            css,
        )
        return found

    assert left("#of-tissue", "Lung") == ["C"]
    assert left("#of-layer", "10") == ["B"]
    assert left("#of-sign", "-1") == ["B"]
    assert left("#of-sign", "1") == ["A", "C"]
    assert texts(browser, "#of-layer option") == ["every layer", "layer 2", "layer 10"]
    some(browser, "#replicated")[0].click()
    assert texts(browser, "#pairs tbody button") == ["C"]


def in_other_samples(pair):
    """Three links: the first in validation samples, a section and two cohorts; the third is known nowhere."""
    (first,) = pair["tables"]["links"]["rows"]
    first |= {
        "elsewhere_of": 2,
        "elsewhere": 1,
        "same_elsewhere": 1,
        "r_elsewhere": -0.1,
        "r_elsewhere_high": 0.5,
    }
    first["units"] = [
        [0, "found", 184, 96.04, 0.6, 0.4, 0.7, 1e-8, 1.0, None],
        [1, "validation", 179, 88.5, 0.31, 0.1, 0.49, 0.004, 1.0, 0.02],
        [2, "cohort", 60, 41.2, 0.5, 0.2, 0.7, 0.0012, 1.0, 0.003],
        [3, "cohort", 50, 30.0, -0.1, -0.4, 0.3, 0.6, 0.0, 0.7],
        [4, "left out", 70, 50.0, 0.4, 0.2, 0.6, 0.001, 1.0, 0.004],
    ]
    second = {"symbol": "B", "gene": "B", "units": [], "elsewhere_of": 2, "elsewhere": 0, "same_elsewhere": 2}
    second |= {"r_elsewhere": 0.2, "r_elsewhere_high": 0.3}
    third = dict.fromkeys(("elsewhere_of", "elsewhere", "same_elsewhere", "r_elsewhere", "r_elsewhere_high"))
    pair["tables"]["links"]["rows"] += [
        first | second,
        first | third | {"symbol": "C", "gene": "C", "units": []},
    ]
    return pair | {"units": ["test", "validation", "yours", "theirs", "C4"]}


def test_links_show_what_other_samples_say_and_are_filtered_by_it(browser, open_page):
    open_page(in_other_samples(one_pair(symbol="A")))
    heads = texts(browser, "#pairs th")
    at = heads.index("elsewhere")
    assert heads[at : at + 3] == ["elsewhere", "same sign", "r elsewhere"]
    rows = [[cell.text for cell in some(row, "td")] for row in some(browser, "#pairs tbody tr")]
    assert [row[at : at + 3] for row in rows] == [
        ["1 of 2", "1 of 2", "-0.10 to 0.50"], ["0 of 2", "2 of 2", "0.20 to 0.30"], ["", "", ""],
    ]  # fmt: skip
    assert "half of them by chance" in browser.find_element("id", "about-links").text
    for order in (["B", "A", "C"], ["A", "B", "C"]):  # from the largest; unknown ones last both times
        some(browser, "#pairs th")[at + 1].click()
        assert texts(browser, "#pairs tbody button") == order
    some(browser, "#elsewhere")[0].click()
    assert texts(browser, "#pairs tbody button") == ["A"]
    some(browser, "#tab-markers")[0].click()
    assert not browser.find_element("id", "elsewhere").is_displayed()


def test_a_card_has_a_line_for_each_unit_with_interval_sizes_p_and_sign(browser, open_page):
    open_page(in_other_samples(one_pair(symbol="A")))
    some(browser, "#pairs button")[0].click()
    lines = [[cell.text for cell in some(row, "th, td")] for row in some(browser, ".units tbody tr")]
    part = "took part in finding the link"
    assert lines == [
        [f"test samples ({part})", "0.60", "0.40 to 0.70", "184", "96", "1.0e-8", "same", ""],
        ["validation samples", "0.31", "0.10 to 0.49", "179", "88.5", "0.0040", "same", "yes (q 0.020)"],
        ["yours (another cohort)", "0.50", "0.20 to 0.70", "60", "41.2", "0.0012", "same", "yes (q 0.0030)"],
        ["theirs (another cohort)", "-0.10", "-0.40 to 0.30", "50", "30", "0.60", "other", "no (q 0.70)"],
        [f"section C4 ({part}, which is found without it too)", "0.40", "0.20 to 0.60", "70", "50"]
        + ["0.0010", "same", "yes (q 0.0040)"],
    ]
    assert "in 2 of 3 that had no part in finding it (by chance half)" in card_text(browser)
    assert_quiet(browser)


def test_without_other_cohorts_nothing_is_said_of_them(browser, open_page):
    open_page(one_pair(symbol="A"))
    assert "elsewhere" not in texts(browser, "#pairs th")
    assert not browser.find_element("id", "elsewhere").is_displayed()
    assert not browser.find_element("id", "about-elsewhere").is_displayed()
    some(browser, "#pairs button")[0].click()
    assert not some(browser, ".units")


def test_without_links_the_page_opens_with_the_marker_pairs(browser, open_page):
    pair = one_pair(symbol="A")
    pair["tables"]["links"] = {"rows": [], "n": 0}
    open_page(pair)
    assert texts(browser, "#pairs tbody button") == ["A"]
    some(browser, "#tab-links")[0].click()
    assert "0 of 0 rows, from 0 links" in browser.find_element("id", "count").text


@WIDTHS
@pytest.mark.parametrize("tab", ["links", "markers"])
def test_a_page_with_all_that_a_card_can_hold_breaks_no_rule_of_accessibility(
    browser, open_page, tab, window
):
    card = {
        "tile_label": "tile",
        "tile_sample": "GTEX-1117F-0126",
        "strip": ["data:,"],
        "strip_labels": ["s"],
    }
    card |= {"ihc": "data:,", "ihc_credit": "HPA054, Liver", "ihc_page": "https://v25.proteinatlas.org/ENSG1"}
    pair = one_pair(symbol="ALB", gene="ENSG00000163631.15", layer=1, clump="1_1", card=card)
    in_other_samples(pair)
    pair["units"] = ["test", "validation", "yours", "a cohort of a rather long name", "C4"]
    first, *_ = pair["tables"]["links"]["rows"]
    pair["tables"]["links"]["rows"] += [first | {"feature": f"9_{i}", "r_within": -0.7} for i in range(40)]
    pair["tables"]["markers"]["rows"][0]["card"] = 0
    first |= {"low": 0.4, "high": 0.7, "where": [[0, 8, -0.6, 0.45], [1, 9, 0.1, 0.4]]}
    pair |= {"tissues": ["Liver", "Lung"], "colours": ["#000000", "#ff0000"], "strata": ["Liver", "Lung"]}
    pair["strata_colours"] = pair["colours"]
    with window(browser):
        open_page(pair, one_pair("alexnet"))
        some(browser, f"#tab-{tab}")[0].click()
        unfold(browser)
        assert violations(browser) == []
        some(browser, "#pairs tbody button")[0].click()
        assert len(some(browser, "#card-body a")) == 5
        assert len(some(browser, "#card-body .units tr")) == (6 if tab == "links" else 0)
        inside, outside = widths(browser, "#card")
        assert inside <= outside + 1, "the card scrolls sideways"
        for table in some(browser, "div:has(> .units)"):
            assert table.get_property("scrollWidth") <= table.get_property("clientWidth") + 1
        assert violations(browser, "#card") == []


def test_q_is_seen_on_a_phone_without_scrolling(browser, open_page):
    pair = one_pair(symbol="ENSG00000900162.9", r_within=-0.54, q=0.00012, feature="100_1023")
    with phone(browser):
        open_page(pair)
        shown = [cell for cell in some(browser, "#pairs tbody td") if cell.is_displayed()]
        assert shown[-1].text == "0.00012"
        assert shown[-1].rect["x"] + shown[-1].rect["width"] <= 400
        inside, outside = widths(browser, "div:has(> #pairs)")
        assert inside <= outside + 1, "the table scrolls sideways"


def test_several_networks_are_chosen_from_a_list(browser, open_page):
    open_page(one_pair("vgg16", "OF_vgg16"), one_pair("alexnet", "OF_alexnet"))
    assert texts(browser, "#pairs tbody button") == ["OF_vgg16"]
    some(browser, "#network option:nth-child(2)")[0].click()
    assert texts(browser, "#pairs tbody button") == ["OF_alexnet"]
