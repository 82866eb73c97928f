"""The static pages a run leaves behind: each executed notebook as HTML, and an index of figures and tables.

Everything opens from disk: no server, and nothing is fetched from outside the page.
"""

import json
import re
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert import HTMLExporter

from lib.store import NOTEBOOKS, Store

ROWS_SHOWN = 200  # of a table on the index page; the csv beside it has them all


def tidy_executed(path: Path) -> None:
    """Keep only the last state of each progress bar in an executed notebook, and plain text of widgets."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = _joined_streams(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = "\n".join(line.split("\r")[-1] for line in output.text.split("\n"))
        cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text.strip()]
    nbformat.write(notebook, path)


def _joined_streams(outputs: list) -> list:
    """Outputs with neighbouring pieces of one stream as one: a progress bar arrives in many."""
    joined: list = []
    for output in outputs:
        before = joined[-1] if joined else None
        is_stream = output.output_type == "stream" and before is not None and before.output_type == "stream"
        if is_stream and before.name == output.name:
            before.text += output.text
        else:
            joined.append(output)
    return joined


def export_html(path: Path) -> Path:
    """Write an executed notebook as one self-contained HTML page beside it; equations become MathML."""
    notebook = nbformat.read(path, as_version=4)
    equations: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _without_equations(cell.source, equations)
    exporter = HTMLExporter(template_name="lab", embed_images=True)
    exporter.mathjax_url = ""
    exporter.require_js_url = ""
    exporter.jquery_url = ""
    exporter.mermaid_js_url = ""
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": path.stem}})
    # The template loads MathJax, require.js and mermaid from the network; MathML needs none of them.
    body = re.sub(r'<script src="[^"]*">\s*</script>', "", body)
    body = re.sub(r'<script type="module">.*?</script>', "", body, flags=re.DOTALL)
    body = re.sub(r"EQUATION(\d+)END", lambda m: equations[int(m[1])], body)
    page = path.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page


def _without_equations(markdown: str, equations: list[str]) -> str:
    """Markdown with each equation replaced by a placeholder word; its MathML is appended to `equations`.

    The exporter's Markdown reader takes MathML apart, so it is put in after it (`export_html`).
    """

    def keep(latex: str, display: str) -> str:
        equations.append(latex_to_mathml(latex.strip(), display=display))
        return f"EQUATION{len(equations) - 1}END"

    block = re.sub(r"\$\$(.+?)\$\$", lambda m: keep(m[1], "block"), markdown, flags=re.DOTALL)
    return re.sub(r"(?<![\\$])\$([^$\n]+?)\$", lambda m: keep(m[1], "inline"), block)


def build(store: Store) -> Path:
    """Write figures/<cohort>/index.html from what lies in that folder; returns its path."""
    folder = store.figures
    folder.mkdir(parents=True, exist_ok=True)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_PAGE).render(
        cohort=store.config.cohort,
        title=store.config.title or store.config.cohort,
        synthetic=store.config.synthetic_data,
        figures=[_figure(path) for path in sorted(folder.glob("*.png"))],
        tables=[_table(path) for path in sorted(folder.glob("*.csv"))],
        notebooks=_notebooks(store),
        parameters=store.config.model_dump(mode="json"),
        versions=store.facts("samples").get("versions", {}),
    )
    index = folder / "index.html"
    temporary = folder / ".index.html.tmp"
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(index)
    return index


def _caption(path: Path) -> str:
    sidecar = path.with_name(path.name + ".json")
    return json.loads(sidecar.read_text(encoding="utf-8"))["caption"] if sidecar.is_file() else ""


def _figure(path: Path) -> dict[str, str]:
    pdf = path.with_suffix(".pdf")
    return {
        "file": path.name,
        "name": path.stem,
        "caption": _caption(path),
        "pdf": pdf.name if pdf.is_file() else "",
    }


def _table(path: Path) -> dict[str, str]:
    table_df = pd.read_csv(path, nrows=ROWS_SHOWN + 1)
    note = f"The first {ROWS_SHOWN} rows." if len(table_df) > ROWS_SHOWN else ""
    shown = table_df.head(ROWS_SHOWN).to_html(
        index=False, escape=True, border=0, na_rep="", float_format="%.4g"
    )
    return {"file": path.name, "name": path.stem, "caption": _caption(path), "html": shown, "note": note}


def _notebooks(store: Store) -> list[dict[str, str]]:
    pages = sorted((store.figures / "notebooks").glob("*.html"))
    questions = {name: notebook.question for name, notebook in NOTEBOOKS.items()}
    return [
        {
            "file": f"notebooks/{page.name}",
            "name": page.stem,
            "question": questions.get(page.stem.split("__")[0], ""),
        }
        for page in pages
    ]


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 1080px; padding: 1rem; }
 h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
 figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
 figcaption, .caption { color: #444; font-size: .92rem; max-width: 75ch; }
 .notice { background: #fff3cd; border-left: 4px solid #b8860b; padding: .6rem 1rem; }
 details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
 .scroll { overflow-x: auto; max-height: 26rem; overflow-y: auto; }
 table { border-collapse: collapse; font-size: .85rem; } th, td { padding: .15rem .6rem; text-align: left; }
 thead th { position: sticky; top: 0; background: #f4f4f4; } tr:nth-child(even) { background: #fafafa; }
 code { font-size: .9em; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if synthetic %}
<p class="notice">These slides and their expression are <strong>synthetic</strong>: drawn by a program with
known truth, to show and check the method. No number here says anything about a real tissue.</p>
{% endif %}
<p>Cohort <code>{{ cohort }}</code>. Jump to <a href="#figures">figures</a>, <a href="#tables">tables</a>,
<a href="#notebooks">executed notebooks</a>, <a href="#parameters">parameters and versions</a>.</p>
<h2 id="figures">Figures</h2>
{% for f in figures %}
<figure id="{{ f.name }}"><img src="{{ f.file }}" alt="{{ f.caption }}" loading="lazy">
<figcaption>{{ f.caption }} {% if f.pdf %}<a href="{{ f.pdf }}">PDF</a>{% endif %}</figcaption></figure>
{% endfor %}
<h2 id="tables">Tables</h2>
{% for t in tables %}
<details id="{{ t.name }}"><summary>{{ t.name }}</summary>
<p class="caption">{{ t.caption }} {{ t.note }} <a href="{{ t.file }}">csv</a></p>
<div class="scroll">{{ t.html | safe }}</div></details>
{% endfor %}
<h2 id="notebooks">Executed notebooks</h2>
<ul>
{% for n in notebooks %}
<li><a href="{{ n.file }}">{{ n.name }}</a> {{ n.question }}</li>
{% endfor %}
</ul>
<h2 id="parameters">Parameters and versions</h2>
<details><summary>Parameters</summary><div class="scroll"><table>
{% for key, value in parameters.items() %}<tr><td><code>{{ key }}</code></td><td>{{ value }}</td></tr>
{% endfor %}
</table></div></details>
<details><summary>Versions</summary><table>
{% for key, value in versions.items() %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>
{% endfor %}
</table></details>
</body>
</html>
"""
