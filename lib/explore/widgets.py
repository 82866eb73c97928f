"""Two widgets for the panel: a search box with suggestions, and a table of rows to choose from.

ipywidgets has no table, and its list box does not receive the arrow keys in JupyterLab, which moves between
cells instead; its text box withholds letters while the kernel is busy, so that a name typed quickly would be
looked up before its last letters arrive. anywidget sends `widgets.js` to the browser unchanged: nothing is
built or fetched.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets


class PanelWidget(anywidget.AnyWidget):
    """A widget of a kind that `widgets.js` draws; `received` is called with each message from the browser."""

    _esm = Path(__file__).with_name("widgets.js")
    _css = Path(__file__).with_name("widgets.css")
    kind = traitlets.Unicode().tag(sync=True)

    def __init__(self, kind: str, received: Callable[[dict[str, Any]], None], **traits: Any) -> None:
        super().__init__(kind=kind, **traits)
        self.on_msg(lambda _, content, __: received(content))


class SearchBox(PanelWidget):
    """A text box with a button, and the names offered for its text.

    Parameters
    ----------
    typed, find : functions of the text so far
        Called at each letter, and at Enter, the button or a suggestion; they return the names to offer.
    """

    placeholder = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self, typed: Callable[[str], Sequence[str]], find: Callable[[str], Sequence[str]], **traits: Any
    ) -> None:
        super().__init__("search", self._answer, **traits)
        self.calls = {"typed": typed, "find": find}

    def _answer(self, content: dict[str, Any]) -> None:
        """Send the names to offer; by `question` the browser drops all answers but the last."""
        for key, call in self.calls.items():
            if key in content:
                self.send({"question": content["question"], "suggestions": list(call(content[key]))})


class Table(PanelWidget):
    """Rows of words; `chosen` is the id of one row, and changes when the person or the program chooses.

    Parameters
    ----------
    columns : mappings of key, label, tip, align ("left", "right"), sortable
    sort : called with the key of a heading that was pressed
    """

    columns = traitlets.List().tag(sync=True)
    heading = traitlets.Unicode("").tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    ids = traitlets.List().tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)
    by = traitlets.Unicode("").tag(sync=True)
    reverse = traitlets.Bool(False).tag(sync=True)

    def __init__(self, columns: Sequence[dict[str, Any]], sort: Callable[[str], None], **traits: Any) -> None:
        super().__init__("table", lambda content: sort(content["sort"]), columns=list(columns), **traits)

    def fill(self, **state: Any) -> None:
        """Set heading, rows, ids, chosen ("" for none), by and reverse in one message."""
        with self.hold_sync():
            for name, value in state.items():
                setattr(self, name, value)
