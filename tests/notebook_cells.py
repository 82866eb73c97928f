"""Cells of a notebook run in this process, for tests that need what they make and no page."""

import nbformat

from lib.config import ROOT


def run_cells(stem, overrides, cohort="demo"):
    """Run the code cells of `notebooks/<stem>.ipynb` with these parameters; figures are not displayed."""
    names = {"display": lambda *shown: None}
    for cell in nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            source = cell.source
            if "parameters" in cell.metadata.get("tags", []):
                source = f"cohort, architecture, overrides = {cohort!r}, '', {overrides!r}"
            exec(compile(source, stem, "exec"), names)
