"""axe-core in a browser: which rules of WCAG 2, levels A and AA, the page as it is shown now breaks."""

from importlib.resources import files

RUN = """
const done = arguments[arguments.length - 1];
axe.run(arguments[0], { runOnly: ["wcag2a", "wcag2aa"], resultTypes: ["violations"] }).then(
 found => done([found.violations, found.passes.map(rule => rule.id)]), error => done([String(error), []]));
"""


def violations(browser, css="html"):
    """A line for each element that breaks a rule: the rule, the element, what is wrong."""
    browser.execute_script((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    found, passed = browser.execute_async_script(RUN, css)
    assert not isinstance(found, str), found
    assert "color-contrast" in passed or any(rule["id"] == "color-contrast" for rule in found), "nothing seen"
    return [
        f"{rule['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]
