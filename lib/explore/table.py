"""A table widget: rows to choose with the mouse or the arrow keys, headings that sort.

ipywidgets has no table, and its list box does not get the arrow keys in JupyterLab, which moves between cells
instead. anywidget carries this one to the browser as it is: nothing is built, and nothing fetched.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

CSS = """
.correlates {height: 300px; overflow: auto; position: relative;
  border: 1px solid var(--jp-border-color1, #bbb);}
.correlates:focus-visible {outline: 2px solid var(--jp-brand-color1, #1976d2);}
.correlates table {border-collapse: collapse; width: 100%; font-size: 12px;
  font-variant-numeric: tabular-nums;}
.correlates th {position: sticky; top: 0; background: var(--jp-layout-color2, #eee); padding: 3px 6px;
  font-weight: 600; white-space: nowrap;}
.correlates th button {all: unset; cursor: pointer; text-decoration: underline dotted;}
.correlates th button:focus-visible {outline: 2px solid var(--jp-brand-color1, #1976d2);}
.correlates td {padding: 2px 6px; white-space: nowrap; max-width: 150px; overflow: hidden;
  text-overflow: ellipsis;}
.correlates .right {text-align: right;}
.correlates .left {text-align: left;}
.correlates tbody tr {cursor: pointer; background: none;}
.correlates tbody tr:hover {background: var(--jp-layout-color2, #eee);}
.correlates tbody tr[aria-selected=true] {background: var(--jp-brand-color3, #bbdefb);}
"""


class Table(anywidget.AnyWidget):
    """Rows of words; `chosen` is the id of one row, and changes when the person or the program chooses.

    Parameters
    ----------
    columns : mappings of key, label, tip, align ("left", "right"), sortable
    sort : called with the key of a heading that was pressed
    """

    _esm = Path(__file__).with_name("table.js")
    _css = CSS
    columns = traitlets.List().tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    ids = traitlets.List().tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)
    by = traitlets.Unicode("").tag(sync=True)
    reverse = traitlets.Bool(False).tag(sync=True)

    def __init__(self, columns: Sequence[dict[str, Any]], sort: Callable[[str], None], **traits: Any) -> None:
        super().__init__(columns=list(columns), **traits)
        self.on_msg(lambda _, content, __: sort(content["sort"]) if "sort" in content else None)

    def fill(self, rows: list[list[str]], ids: list[str], chosen: str, by: str, reverse: bool) -> None:
        """Show other rows, all at once; `chosen` may be "" for none."""
        with self.hold_sync():
            self.ids, self.chosen, self.by, self.reverse = ids, chosen, by, reverse
            self.rows = rows
