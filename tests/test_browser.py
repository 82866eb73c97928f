"""The report of a finished run in a real browser, opened from disk."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


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
    browser.get((root / "figures/demo/index.html").as_uri())
    browser.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    browser.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(() => done())"
    )
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) > 10
    assert all(width > 100 for width in widths), "a figure did not load"
    assert "synthetic" in browser.find_element("css selector", ".notice").text
    assert not errors(browser)
    assert not requests_that_leave(browser)


def test_index_is_readable_on_a_phone(finished, browser):
    root, _ = finished
    browser.set_window_size(400, 800)
    browser.get((root / "figures/demo/index.html").as_uri())
    page, window = browser.execute_script("return [document.body.scrollWidth, window.innerWidth]")
    assert page <= window + 1, "the page scrolls sideways"
    browser.set_window_size(1200, 1000)


def test_executed_notebooks_open_with_equations(finished, browser):
    root, _ = finished
    browser.get((root / "figures/demo/notebooks/05_correlate__alexnet.html").as_uri())
    fractions = browser.find_elements("css selector", "math mfrac")
    assert fractions, "equations are MathML"
    assert fractions[0].size["height"] > 15, "a fraction stands above its denominator"
    assert "Traceback" not in browser.page_source
    assert not errors(browser)
    assert not requests_that_leave(browser)
