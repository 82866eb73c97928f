"""Executed notebooks as pages: tidied, and exported to one self-contained HTML file that fetches nothing."""

import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert import HTMLExporter


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
