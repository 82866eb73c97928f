"""Figures and tables saved for people, each with a sidecar: caption, notebook, and order in that notebook.

A figure is `<name>.png` and `<name>.pdf`, a table `<name>.csv`; the sidecar is `<name>.png.json` or
`<name>.csv.json`. The name is `<stem>__<network>`, or `<stem>` for what belongs to the whole cohort.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lib.whole_files import read_json, whole_file, write_json


class Saved(NamedTuple):
    """A saved figure or table; without a sidecar the caption is its name, and it belongs to no notebook."""

    path: Path  # of the PNG or csv
    caption: str
    notebook: str
    order: int

    @property
    def network(self) -> str:
        """The network it belongs to; "" for the cohort."""
        return self.path.stem.partition("__")[2]


def save_figure(folder: Path, name: str, figure: Any, **sidecar: Any) -> None:
    """Write a figure as PNG and PDF, and its sidecar."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".pdf"):
        metadata = {"CreationDate": None} if suffix == ".pdf" else None
        with whole_file(folder / f"{name}{suffix}") as temporary:
            # Sharp on a screen at the width of a journal's column; for print there is the PDF.
            figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=metadata)
    write_json(folder / f"{name}.png.json", sidecar)


def save_table(folder: Path, name: str, table_df: pd.DataFrame, **sidecar: Any) -> None:
    """Write a table as csv, and its sidecar; an index of mere row numbers is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    index = table_df.index
    numbered = index.nlevels == 1 and index.name is None and pd.api.types.is_integer_dtype(index)
    with whole_file(folder / f"{name}.csv") as temporary:
        safe_cells(table_df).to_csv(temporary, index=not numbered)
    write_json(folder / f"{name}.csv.json", sidecar)


def safe_cells(table_df: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before texts that a spreadsheet would take for a formula (=cmd, @x)."""

    def safe(value: Any) -> Any:
        formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
        return f"'{value}" if formula and not _is_number(value) else value

    safe_df = table_df.copy(deep=False)
    for place, kind in enumerate(table_df.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe_df.isetitem(place, table_df.iloc[:, place].astype(object).map(safe).to_numpy())
    return safe_df.rename(index=safe, columns=safe)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def saved(folder: Path) -> list[Saved]:
    """All figures and tables of a folder in order of notebook and saving, those without sidecar last."""
    found = []
    for path in (*folder.glob("[!.]*.png"), *folder.glob("[!.]*.csv")):
        said = read_json(_sidecar(path))
        found.append(
            Saved(path, said.get("caption", path.stem), said.get("notebook", ""), said.get("order", 0))
        )
    return sorted(found, key=lambda one: (not one.notebook, one.notebook, one.order, _natural(one.path.name)))


def remove_stale(folder: Path, notebook: str, network: str, since: float) -> list[str]:
    """Remove figures and tables that an earlier run of a notebook saved and this one did not.

    Parameters
    ----------
    network : run name of the notebook's network; files of other networks stay, those of the cohort do not
    since : when this run began, in seconds since the epoch, by the clock of the disk that holds the figures

    Returns
    -------
    Names of the PNG and csv files removed.
    """
    removed = []
    for one in saved(folder):
        if one.notebook != notebook or one.network not in ("", network):
            continue
        if _sidecar(one.path).is_file() and _sidecar(one.path).stat().st_mtime < since:
            also = [one.path.with_suffix(".pdf")] if one.path.suffix == ".png" else []
            for file in (one.path, *also, _sidecar(one.path)):
                file.unlink(missing_ok=True)
            removed.append(one.path.name)
    return removed


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _natural(name: str) -> list[Any]:
    """Sort key by which pairs_10 comes after pairs_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
