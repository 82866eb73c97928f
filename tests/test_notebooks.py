"""Static form of the notebooks: short cells, no logic that belongs in lib, outputs stripped."""

import ast
import itertools
import re

import nbformat
import pytest

from lib.artefacts import NOTEBOOKS
from lib.config import ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = 'cohort = "demo"\narchitecture = ""\noverrides = {}'


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_each_declared_notebook_exists_and_no_other():
    assert [path.stem for path in PATHS] == sorted(NOTEBOOKS)


def test_outputs_are_stripped(notebook):
    for cell in code_cells(notebook):
        assert cell.execution_count is None
        assert cell.outputs == []


def test_title_is_a_question_and_header_tells(notebook):
    head = notebook.cells[0].source
    assert re.match(r"# .+\?", head), head.splitlines()[0]
    for word in ("Reads", "Writes", "Paper", "Time"):
        assert f"**{word}**" in head, f"the header lacks {word}"


def test_parameters_cell(notebook):
    tagged = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0].source == PARAMETERS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_store_has_the_name_of_its_notebook(path):
    """It goes into the sidecar of each figure and table, by which the report orders them."""
    assert f'store = Store(config, "{path.stem}")\n' in "\n".join(
        cell.source + "\n" for cell in code_cells(nbformat.read(path, as_version=4))
    )


def test_size(notebook):
    assert len(notebook.cells) <= 30
    assert len(code_cells(notebook)) <= 15
    for cell in code_cells(notebook)[1:]:  # the first one holds the imports
        assert len(cell.source.splitlines()) <= 12, cell.source
    imports = ast.parse(code_cells(notebook)[0].source).body
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in imports)


def test_every_step_is_explained(notebook):
    """After the imports, no two code cells follow each other without words between them."""
    kinds = [cell.cell_type for cell in notebook.cells]
    body = kinds[4:]
    assert all(pair != ("code", "code") for pair in itertools.pairwise(body))


def test_no_logic_that_belongs_in_lib(notebook):
    for cell in code_cells(notebook):
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef), cell.source
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"(\.{0,2}/|data/|figures/)", node.value), f"literal path {node.value!r}"
        assert "sys.path" not in cell.source


@pytest.mark.parametrize("name", ["05_correlate", "07_conditional", "08_reproducibility", "09_architectures"])
def test_captions_say_of_how_many(name):
    """Each caption counts something: pairs, genes, samples, networks."""
    (path,) = (path for path in PATHS if path.stem == name)
    n_calls = 0
    for cell in code_cells(nbformat.read(path, as_version=4)):
        tree = ast.parse(cell.source)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in ("store.save_figure", "store.save_table"):
                words = ast.unparse(call.args[2])
                if words == "caption":  # what is assigned and added to it, up to this call
                    words = " ".join(re.findall(r"^ *caption \+?= .*", cell.source, re.MULTILINE))
                assert re.search(r"\{(len\(|.*nunique\(|.*\.n_pairs|.*\.shape|over)", words), (
                    f"{words} has no n"
                )
                n_calls += 1
    assert n_calls >= 2
