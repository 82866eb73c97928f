"""The inspector as a person uses it: notebook 11 in JupyterLab, in a real browser."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from chromium import MARKS, chromium
from conftest import SMALL
from notebook_cells import run_cells

from lib.config import ROOT
from lib.config_values import parse_setting
from lib.store import Store

OVERRIDES = dict(parse_setting(text) for text in SMALL)
NEEDED = ["00_cohort", "01_tiles", "02_train", "03_classify", "04_features", "05_correlate"]
NEEDED += ["06_significance"]
QUIET_SETTINGS = '{"fetchNews": "false", "checkForUpdates": false}'

pytestmark = MARKS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root where the small cohort has been run as far as notebook 11 needs it, without figures."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HISTOCORR_ROOT", str(folder))
        for save in ("save_figure", "save_table"):
            patch.setattr(Store, save, lambda self, stem, shown, *_, **__: shown)
        for stem in NEEDED:
            run_cells(stem, OVERRIDES)
    yield folder
    shutil.rmtree(folder)  # 1 GB


@pytest.fixture(scope="module")
def lab(root, tmp_path_factory):
    """The address of a JupyterLab of its own, whose folder holds notebook 11 set to the small cohort."""
    folder, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    notebook = nbformat.read(ROOT / "notebooks" / "11_inspect.ipynb", as_version=4)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source = f'cohort = "demo"\narchitecture = ""\noverrides = {OVERRIDES!r}'
    nbformat.write(notebook, folder / "11_inspect.ipynb")
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(QUIET_SETTINGS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    own = {
        "HISTOCORR_ROOT": str(root),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/api?token={token}"), 60, "JupyterLab to start")
        yield f"http://127.0.0.1:{port}/lab/tree/11_inspect.ipynb?token={token}"
    finally:
        server.terminate()  # it ends its kernels first
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def browser():
    with chromium(1280, 1700) as driver:
        yield driver


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_for(condition, seconds, what):
    """The first true value of `condition`, asked again and again; what was waited for, in the failure."""
    from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            value = condition()
        except (ElementClickInterceptedException, StaleElementReferenceException):  # redrawn meanwhile
            value = None
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for {what}")


def one(browser, css):
    found = browser.find_elements("css selector", css)
    return found[0] if found else None


def picture(browser, which):
    """Address of the picture an image widget shows; a new one for each new picture."""
    shown = one(browser, f"img.inspect-{which}-image")
    return shown.get_attribute("src") if shown else ""


def picture_bytes(browser, which):
    """The picture itself, from the browser."""
    return browser.execute_async_script(
        "const done = arguments[1], img = document.querySelector(`img.inspect-${arguments[0]}-image`);"
        "fetch(img.src).then(r => r.arrayBuffer())"
        ".then(b => done(Array.from(new Uint8Array(b)).join(',')), e => done('' + e))",
        which,
    )


def texts(browser, css):
    """Words of all elements at once: read one by one, some may be redrawn meanwhile."""
    read = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())"
    return browser.execute_script(read, css)


def words(browser):
    """What the panel says of the pair."""
    return " ".join(texts(browser, ".inspect-words"))


def headings(browser):
    """What the two lists of correlates say they are of: first the features, then the genes."""
    return texts(browser, ".heading")


def names(browser, kind):
    """Names in the table of features or genes, from the top."""
    return texts(browser, f".inspect-{kind} tbody tr td:nth-child(2)")


@pytest.fixture(scope="module")
def panel(lab, browser):
    """Notebook 11 run from top to bottom in the browser, its panel in view."""
    browser.get(lab)
    kernel = "return window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
    wait_for(lambda: browser.execute_script(kernel) == "idle", 60, "the kernel of the notebook")
    browser.execute_async_script(
        "const done = arguments[0];"
        "jupyterapp.commands.execute('application:toggle-left-area');"
        "jupyterapp.commands.execute('notebook:run-all-cells').then(() => done(), e => done('' + e))"
    )
    errors = (
        "return [...document.querySelectorAll('.jp-RenderedText[data-mime-type$=stderr], .jp-RenderedText"
    )
    errors += "[data-mime-type$=error]')].map(e => e.innerText).join('')"

    def shown():
        assert "Traceback" not in (browser.execute_script(errors) or "")
        return picture(browser, "pair").startswith("blob:")

    wait_for(shown, 120, "the panel")
    browser.execute_script("document.querySelector('.inspect-search').scrollIntoView()")
    return browser


def type_in(panel, *keys):
    """Replace what is in the search box."""
    from selenium.webdriver.common.keys import Keys

    box = one(panel, ".inspect-search input")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(*keys)
    return box


def look_up(panel, text):
    """Type into the search box and press Enter, as a person does."""
    from selenium.webdriver.common.keys import Keys

    type_in(panel, text, Keys.ENTER)


def offered(panel):
    """The suggestions once they answer the last letter: buttons by their names."""
    wait_for(lambda: one(panel, ".suggestions[aria-busy=false]"), 20, "the answer to the last letter")
    return {button.text: button for button in panel.find_elements("css selector", ".suggestions button")}


def choose(panel, kind, wanted):
    """Click the first row wanted, where it can be seen; returns its name."""

    read = "return [...document.querySelectorAll(arguments[0])].map(row => [row, row.cells[1].innerText])"

    def clicked():
        rows = panel.execute_script(read, f".inspect-{kind} tbody tr")
        row, name = next((row, name) for i, (row, name) in enumerate(rows) if wanted(i, name))
        panel.execute_script("arguments[0].scrollIntoView({block: 'center'})", row)
        row.click()
        return name

    return wait_for(clicked, 20, f"a row of the {kind} to click")


def keep_screenshot(panel, name):
    folder = ROOT / "tests" / "artefacts"
    folder.mkdir(exist_ok=True)
    panel.save_screenshot(str(folder / name))


def test_another_gene_gives_another_figure(panel):
    before, said = picture(panel, "pair"), words(panel)
    drawn = picture_bytes(panel, "pair")
    assert drawn.startswith("137,80,78,71,"), "a PNG file"
    other = next(symbol for symbol in names(panel, "genes") if symbol not in said)
    look_up(panel, other.lower())
    wait_for(lambda: picture(panel, "pair") not in ("", before), 20, "another figure")
    wait_for(lambda: other in words(panel), 20, "the words about the gene")
    assert picture_bytes(panel, "pair") != drawn
    wait_for(lambda: other in headings(panel)[0], 20, "the title of its features")
    keep_screenshot(panel, "inspector.png")


def test_a_row_leads_on(panel):
    """A feature chosen on the left fills the genes on the right; a gene there, the features on the left."""
    before, feature_before = headings(panel), words(panel)
    feature = choose(panel, "features", lambda _, text: text not in feature_before)
    wait_for(lambda: feature in headings(panel)[1], 20, "the genes of the feature")
    assert headings(panel)[0] == before[0], "the gene stays"
    gene = choose(panel, "genes", lambda _, text: text not in headings(panel)[0])
    wait_for(lambda: gene in headings(panel)[0], 20, "the features of the gene")
    assert feature in headings(panel)[1], "the feature stays"
    one(panel, ".inspect-back").click()
    wait_for(lambda: headings(panel)[0] == before[0], 20, "the gene before, by Back")


def test_arrow_keys_move_through_the_rows(panel):
    from selenium.webdriver.common.keys import Keys

    first = choose(panel, "features", lambda i, _: i == 0)
    wait_for(lambda: first in headings(panel)[1], 20, "the first feature")
    second = names(panel, "features")[1]
    one(panel, ".inspect-features .correlates").send_keys(Keys.ARROW_DOWN)
    wait_for(lambda: second in headings(panel)[1], 20, "the second feature")


def test_headings_sort(panel):
    panel.find_elements("css selector", ".inspect-features th button")[1].click()  # r
    sorted_by = ".inspect-features th[aria-sort]"
    wait_for(lambda: texts(panel, sorted_by)[0].startswith("r ▼"), 20, "the other order")
    sizes = [abs(float(text)) for text in texts(panel, ".inspect-features tbody tr td:nth-child(3)")[:20]]
    assert sizes == sorted(sizes, reverse=True)


def test_an_unknown_gene_is_reported_with_the_nearest_names(panel):
    before = picture(panel, "pair")
    look_up(panel, "SYN00O1")
    message = wait_for(lambda: " ".join(texts(panel, ".inspect-error")), 20, "a message")
    assert "SYN00O1" in message
    assert "nearest: SYN0001" in message
    assert picture(panel, "pair") == before
    keep_screenshot(panel, "inspector_unknown_gene.png")
    look_up(panel, "SYN0001")
    wait_for(lambda: not one(panel, ".inspect-error"), 20, "the message to go away")
    wait_for(lambda: "SYN0001" in headings(panel)[0], 20, "the gene itself")


def test_a_suggestion_is_taken_with_a_click(panel):
    box = type_in(panel, "syn000")
    name = next(text for text in offered(panel) if "SYN0002" in text)
    offered(panel)[name].click()
    wait_for(lambda: "SYN0002" in headings(panel)[0], 20, "the gene")
    assert box.get_attribute("value") == name
    assert not offered(panel)


def typed_at_once(panel, *texts):
    """The box takes one text after another before any answer can come; the pointer stays where it is."""
    change = "const [box, texts] = arguments;"
    change += "for (const text of texts) { box.value = text; box.dispatchEvent(new InputEvent('input')); }"
    panel.execute_script(change, one(panel, ".inspect-search input"), texts)


def test_suggestions_answer_the_last_letters_and_stay_where_they_are(panel):
    type_in(panel, "syn000")
    before = offered(panel)
    typed_at_once(panel, "syn0001")
    after = offered(panel)
    kept = next(name for name in after if name in before and "SYN0001" in name)
    assert after[kept] == before[kept], "the same element"
    typed_at_once(panel, "", "8_4", "syn000")
    assert list(offered(panel)) == list(before), "answers to earlier letters are dropped"
    assert offered(panel)[kept] == before[kept]


def test_what_is_pressed_is_chosen_even_if_the_list_changes(panel):
    from selenium.webdriver import ActionChains

    type_in(panel, "syn000")
    shown = offered(panel)
    name = next(text for text in shown if "SYN0003" in text)
    ActionChains(panel).click_and_hold(shown[name]).perform()
    typed_at_once(panel, "")
    assert name in offered(panel), "no redraw under a pressed pointer"
    ActionChains(panel).release().perform()
    wait_for(lambda: "SYN0003" in headings(panel)[0], 20, "the gene that was pressed")
    assert not offered(panel)


def test_the_network_is_asked_on_demand(panel):
    """Another feature than the one the notebook looked at: nothing, until the button is pressed."""
    chosen = choose(panel, "features", lambda i, _: i == 7)
    wait_for(lambda: chosen in headings(panel)[1], 20, "the eighth feature")
    wait_for(lambda: not one(panel, "img.inspect-view-image").is_displayed(), 20, "the other feature")
    one(panel, ".inspect-view").click()
    wait_for(lambda: one(panel, "img.inspect-view-image").is_displayed(), 90, "the view of the feature")
    assert picture_bytes(panel, "view").startswith("137,80,78,71,")
    one(panel, ".inspect-map").click()
    wait_for(lambda: one(panel, "img.inspect-map-image").is_displayed(), 60, "the slide")
    keep_screenshot(panel, "inspector_closeup.png")
