"""Executed notebooks, tidied and exported to one self-contained HTML page that fetches nothing."""

import re
import secrets
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert import HTMLExporter

from lib.whole_files import write_text


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
    """Outputs with adjacent pieces of one stream joined: a progress bar arrives in many."""
    joined: list = []
    for output in outputs:
        streams = bool(joined) and joined[-1].output_type == output.output_type == "stream"
        if streams and joined[-1].name == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def export_html(path: Path) -> Path:
    """Write an executed notebook as one self-contained HTML page beside it; equations become MathML."""
    notebook = nbformat.read(path, as_version=4)
    equations: list[str] = []
    mark = secrets.token_hex(8)  # that no text of the page holds
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _without_equations(cell.source, equations, mark)
    exporter = HTMLExporter(template_name="lab", embed_images=True)
    for library in ("mathjax", "require_js", "jquery", "mermaid_js"):
        setattr(exporter, f"{library}_url", "")
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": path.stem}})
    # The template loads MathJax, require.js and mermaid from the network; MathML needs none of them.
    body = re.sub(r'<script src="[^"]*">\s*</script>', "", body)
    body = re.sub(r'<script type="module">.*?</script>', "", body, flags=re.DOTALL)
    body = re.sub(rf"EQUATION{mark}(\d+)END", lambda m: equations[int(m[1])], body)
    write_text(path.with_suffix(".html"), body)
    return path.with_suffix(".html")


def _without_equations(markdown: str, equations: list[str], mark: str) -> str:
    """Markdown with each equation replaced by a placeholder word; its MathML is appended to `equations`.

    The exporter's Markdown reader breaks MathML, so `export_html` inserts it afterwards.
    """

    def keep(latex: str, display: str) -> str:
        equations.append(latex_to_mathml(latex.strip(), display=display))
        return f"EQUATION{mark}{len(equations) - 1}END"

    block = re.sub(r"\$\$(.+?)\$\$", lambda m: keep(m[1], "block"), markdown, flags=re.DOTALL)
    return re.sub(r"(?<![\\$])\$([^$\n]+?)\$", lambda m: keep(m[1], "inline"), block)
