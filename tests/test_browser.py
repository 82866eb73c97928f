"""The report of a finished run in a real browser, opened from disk."""

import pandas as pd
import pytest
from chromium import MARKS, chromium

pytestmark = MARKS


@pytest.fixture(scope="module")
def browser():
    with chromium(1200, 1000) as driver:
        yield driver


def open_report(browser, root):
    """Leave the page before (`get` of the same one can return too early), open it, wait for its table."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("data:,")
    browser.get((root / "figures/demo/index.html").as_uri())
    WebDriverWait(browser, 20).until(lambda b: b.find_elements("css selector", "#pairs tbody tr"))


def requests_that_leave(browser):
    """Addresses asked for over the network since the last call."""
    import json

    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("file:", "data:", "blob:", "chrome"))]


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_index_shows_its_figures_and_fetches_nothing(finished, browser):
    root, _ = finished
    open_report(browser, root)
    browser.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    widths = image_widths(browser)
    assert len(widths) > 10
    assert all(width > 100 for width in widths), "a figure did not load"
    assert "synthetic" in browser.find_element("css selector", ".notice").text
    assert not errors(browser)
    assert not requests_that_leave(browser)


def test_index_is_readable_on_a_phone(finished, browser):
    root, _ = finished
    phone = {"width": 400, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    open_report(browser, root)
    widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
    page, window = browser.execute_script(widths)
    assert window == 400
    assert page <= window + 1, "the page scrolls sideways"
    browser.find_element("css selector", "#pairs button").click()
    dialog = browser.find_element("id", "card")
    assert dialog.size["width"] <= 400
    inside, outside = browser.execute_script(
        "return [arguments[0].scrollWidth, arguments[0].clientWidth]", dialog
    )
    assert inside <= outside + 1, "the card scrolls sideways"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def image_widths(browser, images="document.images"):
    """Widths of images in px once each is decoded; 0 for one that fails to load."""
    return browser.execute_async_script(
        f"const done = arguments[0], images = [...{images}];"
        "Promise.all(images.map(i => i.decode().then(() => i.naturalWidth, () => 0))).then(done)"
    )


def shown_symbols(browser):
    return [button.text for button in browser.find_elements("css selector", "#pairs tbody button")]


def test_search_narrows_the_table_and_a_card_opens(finished, browser):
    root, _ = finished
    open_report(browser, root)
    everything = shown_symbols(browser)
    assert len(everything) > 5
    one = everything[-1]
    browser.find_element("id", "search").send_keys(one.lower())
    narrowed = shown_symbols(browser)
    assert 0 < len(narrowed) < len(everything)
    assert one in narrowed
    browser.find_element("id", "search").clear()
    browser.find_element("id", "search").send_keys("no such gene")
    assert shown_symbols(browser) == []
    browser.find_element("id", "search").clear()
    browser.find_element("id", "search").send_keys(" ")
    assert shown_symbols(browser) == everything

    browser.find_element("css selector", "#pairs button").click()  # those with pictures come first
    title = browser.find_element("id", "card-title").text
    assert everything[0] in title
    widths = image_widths(browser, "document.querySelectorAll('#card-body img')")
    assert len(widths) >= 1 + 1 + 2 + 2, "tile, gradient, synthetic images, tiles from low to high"
    assert all(width >= 60 for width in widths)
    (features,) = (root / "data/derived/demo").rglob("features_test.parquet")
    n_test = pd.read_parquet(features).shape[1]
    assert len(browser.find_elements("css selector", "#card-body circle")) == n_test, (
        "a point per test sample"
    )
    browser.find_element("css selector", "#card .close").click()
    assert not browser.find_element("id", "card").is_displayed()
    browser.find_elements("css selector", "#pairs button")[-1].click()
    assert not browser.find_elements("css selector", "#card-body img"), (
        "a pair without pictures has its scatter"
    )
    assert browser.find_elements("css selector", "#card-body circle")
    assert not errors(browser)
    assert not requests_that_leave(browser)


def test_table_sorts_by_the_column_chosen(finished, browser):
    root, _ = finished
    open_report(browser, root)
    column = (
        "return [...document.querySelectorAll('#pairs tbody tr')].map(r => Number(r.cells[3].textContent))"
    )
    for descending in (True, False):
        browser.find_elements("css selector", "#pairs th")[3].click()
        values = browser.execute_script(column)
        assert values == sorted(values, reverse=descending)


def test_ids_with_markup_stay_text_in_table_and_card(tmp_path, browser, monkeypatch):
    from lib.config import Config
    from lib.explore import report
    from lib.store import Store

    breaks_in = "document.title='broken in'"
    evil = f'<img src=x onerror="{breaks_in}"></script><script>{breaks_in}</script>'
    row = {
        "symbol": evil,
        "gene": evil,
        "feature": "1_1",
        "tissue": evil,
        "r": 0.9,
        "r_partial": None,
        "card": 0,
    }
    card = {
        "tile": "data:,",
        "gradient": "data:,",
        "synthetic": [],
        "strip": ["data:,"],
        "strip_labels": [evil],
    }
    pairs = {
        "network": evil,
        "unit": "TPM",
        "aggregate": "mean",
        "n_pairs": 1,
        "samples": [evil],
        "tissues": [evil],
    }
    pairs |= {"tissue_of": [0], "colours": ["#000000"], "genes": {evil: [1.0]}, "features": {"1_1": [2.0]}}
    pairs |= {
        "rows": [row],
        "cards": [card | {"tile_label": evil, "tile_tissue": evil, "method": evil, "ihc": None}],
    }
    monkeypatch.setattr(report.report_pairs, "payload", lambda store: pairs)
    page = report.build(Store(Config(cohort="mine", title="Mine"), root=tmp_path))
    browser.get(page.as_uri())
    browser.find_element("css selector", "#pairs button").click()
    assert evil in browser.find_element("id", "card-title").get_property("textContent")
    assert evil in browser.find_element("css selector", "#card-body .strip figcaption").get_property(
        "textContent"
    )
    assert browser.title == "Mine"
    assert not browser.find_elements("css selector", "img[src=x]")


def test_executed_notebooks_open_with_equations(finished, browser):
    root, _ = finished
    browser.get((root / "figures/demo/notebooks/05_correlate__alexnet.html").as_uri())
    fractions = browser.find_elements("css selector", "math mfrac")
    assert fractions, "equations are MathML"
    assert fractions[0].size["height"] > 15, "a fraction stands above its denominator"
    assert "Traceback" not in browser.page_source
    assert not errors(browser)
    assert not requests_that_leave(browser)


def a_network(name, symbol, **numbers):
    """The payload of a network with one pair."""
    row = {"symbol": symbol, "gene": symbol, "feature": "1_1", "tissue": "Liver", "r": 0.9, "card": None}
    return {
        "network": name,
        "unit": "TPM",
        "aggregate": "mean",
        "n_pairs": 1,
        "samples": ["s"],
        "tissues": ["Liver"],
        "tissue_of": [0],
        "colours": ["#000000"],
        "genes": {symbol: [1.0]},
        "features": {"1_1": [2.0]},
        "rows": [row | numbers],
        "cards": [],
    }


def open_page(browser, tmp_path, monkeypatch, pairs):
    from lib.config import Config
    from lib.explore import report
    from lib.store import Store

    monkeypatch.setattr(report.report_pairs, "payload", lambda store: pairs)
    browser.get("data:,")
    browser.get(report.build(Store(Config(cohort="mine", title="Mine"), root=tmp_path)).as_uri())


def test_a_card_says_what_was_found_and_why_pictures_are_missing(tmp_path, browser, monkeypatch):
    card = {"tile": "data:,", "gradient": "data:,", "synthetic": [], "strip": [], "strip_labels": []}
    card |= {"tile_label": "S1_0_0, Lung, 127 µm wide", "tile_tissue": "Liver", "method": "plain gradient"}
    card |= {"ihc": None, "finding": "not found within tissues", "synthetic_note": "no image: because"}
    pairs = a_network("vgg16", "ALB") | {"cards": [card | {"strip_note": "no strip: all one"}]}
    pairs["rows"] = [row | {"card": 0} for row in pairs["rows"]]
    open_page(browser, tmp_path, monkeypatch, pairs)
    browser.find_element("css selector", "#pairs button").click()
    words = browser.find_element("id", "card-body").get_property("textContent")
    for part in (
        "not found within tissues",
        "S1_0_0, Lung, 127 µm wide",
        "no image: because",
        "no strip: all one",
    ):
        assert part in words
    assert "from the lowest to the highest" not in words


def test_small_p_and_q_keep_two_digits(tmp_path, browser, monkeypatch):
    numbers = {"r": 0.8049, "r_partial": -0.0549, "p_free": 0.000999, "p_within_tissue": 0.0549}
    pairs = a_network("vgg16", "A", **numbers, q_within_tissue=0.3, pattern="g-t-f")
    open_page(browser, tmp_path, monkeypatch, pairs)
    cells = [cell.text for cell in browser.find_elements("css selector", "#pairs tbody td")]
    assert cells == ["A", "1_1", "Liver", "0.80", "-0.05", "0.0010", "0.055", "0.30", "g-t-f"]
    browser.find_element("css selector", "#pairs button").click()
    facts = browser.find_element("css selector", "#card-body .facts").text
    for words in ("r: 0.80", "r given tissue: -0.05", "p within tissue: 0.055", "q: 0.30", "pattern: g-t-f"):
        assert words in facts


def test_q_is_seen_on_a_phone_without_scrolling(tmp_path, browser, monkeypatch):
    numbers = {"r_partial": -0.54, "p_free": 0.001, "p_within_tissue": 0.05, "q_within_tissue": 0.00012}
    pairs = a_network("vgg16", "ENSG00000900162.9", **numbers, pattern="g-t-f")
    pairs["rows"][0]["feature"] = "100_1023"
    phone = {"width": 400, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    open_page(browser, tmp_path, monkeypatch, pairs)
    shown = [cell for cell in browser.find_elements("css selector", "#pairs tbody td") if cell.is_displayed()]
    assert [cell.text for cell in shown][-1] == "0.00012"
    right = shown[-1].rect["x"] + shown[-1].rect["width"]
    inside, outside = browser.execute_script(
        "const b = document.querySelector('#pairs').parentElement; return [b.scrollWidth, b.clientWidth]"
    )
    assert right <= 400
    assert inside <= outside + 1, "the table scrolls sideways"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_several_networks_are_chosen_from_a_list(tmp_path, browser, monkeypatch):
    from lib.config import Config
    from lib.explore import report
    from lib.store import Store

    store = Store(Config(cohort="mine", architecture="vgg16"), root=tmp_path)
    other = (Store(Config(cohort="mine", architecture="alexnet"), root=tmp_path), "")
    monkeypatch.setattr(Store, "networks", lambda self, names: {"alexnet": other})
    monkeypatch.setattr(
        report.report_pairs, "payload", lambda s: a_network(s.config.run_name, f"OF_{s.config.run_name}")
    )
    browser.get(report.build(store).as_uri())
    assert shown_symbols(browser) == ["OF_vgg16"]
    browser.find_element("css selector", "#network option:nth-child(2)").click()
    assert shown_symbols(browser) == ["OF_alexnet"]
