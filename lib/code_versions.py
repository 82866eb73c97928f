"""Fingerprints of the code that a result was computed with, so that results of two versions never mix.

The code of a module is its own syntax and that of the modules of this library that it imports, directly or
not. Comments, docstrings and layout do not count. Of a notebook it is the code that its cells import, and the
cells that save.
"""

import ast
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lib.whole_files import read_record, text_fingerprint, write_record

LIB = Path(__file__).resolve().parent
# Rooms and modules whose code decides numbers; drawing, storing and reporting do not.
COMPUTING = (
    "cohort",
    "cohort_sources",
    "sources",
    "simulated",
    "tiles",
    "network",
    "features",
    "statistics",
    "visualize",
)
SHOWING = (*COMPUTING, "figures", "explore")  # and those that decide what a page looks like
# Work that is resumed slide by slide, or done by other machines, and the rooms that decide its numbers.
WORK = {
    "lib.tiles.cut": ("tiles",),
    "lib.features.quantify": ("features", "network"),
    "lib.statistics.null_maxima": ("statistics",),
}


def of_work(module: str) -> str:
    """`<module>:<sha256>` of the code of resumable work (a key of WORK)."""
    return f"{module}:{_digest([module], WORK[module])}"


@cache
def of_notebook(path: Path, rooms: tuple[str, ...] = COMPUTING) -> str:
    """`<notebook>:<sha256>` of the modules in `rooms` that a notebook reaches, and of its cells that save."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    trees = [_without_docstrings(ast.parse(source)) for source in sources]
    modules = [name for tree in trees for name in _imports(tree)]
    saving = [
        ast.dump(tree)
        for source, tree in zip(sources, trees, strict=True)
        if "store.cached(" in source or "store.save(" in source
    ]
    name = path.stem if rooms == COMPUTING else path.name
    return f"{name}:{text_fingerprint(_digest(modules, rooms) + ''.join(saving))}"


def of_record(code: str, notebooks: Path) -> str:
    """What the code named in a record would be recorded as today."""
    name = code.partition(":")[0]
    name, end = name.removesuffix(".ipynb"), name[-6:]
    if name in WORK:
        return of_work(name)
    path = notebooks / f"{name}.ipynb"
    return of_notebook(path, SHOWING if end == ".ipynb" else COMPUTING) if path.is_file() else code


def restamp(folder: Path, notebooks: Path) -> int:
    """Declare every record below a folder to be made by the code of today; how many were changed.

    For a change of the code that cannot have changed results. A record is a json file whose entry "code", its
    own or that of its "made_for", is a fingerprint of this module.
    """
    changed = 0
    for path in folder.rglob("*.json"):
        record = read_record(path)
        for entry in (record, record.get("made_for")):
            code = entry.get("code") if isinstance(entry, dict) else None
            if isinstance(entry, dict) and isinstance(code, str) and of_record(code, notebooks) != code:
                entry["code"] = of_record(code, notebooks)
                write_record(path, record)
                changed += 1
    return changed


def _digest(modules: Iterable[str], rooms: tuple[str, ...]) -> str:
    """sha256 of the named modules and all they reach, as far as they lie in `rooms`."""
    waiting, reached = list(modules), {}
    while waiting:
        name = waiting.pop()
        if name in reached or name.split(".")[1:2] not in [[room] for room in rooms]:
            continue
        reached[name], imported = _module(name)
        waiting += imported
    return text_fingerprint(json.dumps(sorted(reached.items())))


@cache
def _module(name: str) -> tuple[str, tuple[str, ...]]:
    """sha256 of a module's syntax, and the modules of this library that it imports."""
    path = LIB.joinpath(*name.split(".")[1:])
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not source.is_file():
        return "", ()
    tree = _without_docstrings(ast.parse(source.read_text(encoding="utf-8")))
    return text_fingerprint(ast.dump(tree)), tuple(_imports(tree))


def _imports(tree: ast.AST) -> list[str]:
    """Modules of this library that a syntax tree imports, and the names it takes from them."""
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module: None} | {f"{node.module}.{alias.name}": None for alias in node.names}
    return [name for name in found if name.startswith("lib.")]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[:1]
            if first and isinstance(first[0], ast.Expr) and isinstance(first[0].value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree
