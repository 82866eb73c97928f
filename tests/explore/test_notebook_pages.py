"""Pages of executed notebooks: equations survive, progress bars leave their last state, ids are escaped."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib.config import ROOT
from lib.explore import notebook_pages


def test_export_keeps_equations_and_fetches_nothing(tmp_path):
    cell = new_markdown_cell("With $b$ of $N$:\n\n$$ p = \\frac{1 + b}{1 + N} $$\n\nCosts \\$5 | a | b.")
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    body = notebook_pages.export_html(tmp_path / "a.ipynb").read_text()
    assert "<mfrac><mrow><mn>1</mn><mo>&#x0002B;</mo><mi>b</mi></mrow>" in body
    assert "EQUATION" not in body
    assert '<script src="' not in body


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_equation_is_understood(path):
    """latex2mathml prints the name of a command that it does not know."""
    equations = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            notebook_pages._without_equations(cell.source, equations, "mark")
    assert [equation for equation in equations if "\\" in equation] == []


def test_progress_bars_leave_their_last_state(tmp_path):
    pieces = ["\rcutting:  0%", "\rcutting: 50%", "\rcutting: 100%\n"]
    outputs = [new_output("stream", name="stderr", text=text) for text in pieces]
    outputs.append(new_output("stream", name="stdout", text="done"))
    nbformat.write(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), tmp_path / "a.ipynb")
    notebook_pages.tidy_executed(tmp_path / "a.ipynb")
    left = nbformat.read(tmp_path / "a.ipynb", as_version=4).cells[0].outputs
    assert [output.text for output in left] == ["cutting: 100%\n", "done"]
