"""A search widget: a text box and its button; letters as they are typed, and the whole text with Enter.

ipywidgets' own box sends Enter at once but holds letters back while the kernel is busy, so that a name typed
quickly would be looked up before its last letters are there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

CSS = """
.search-box {display: flex; gap: 4px; margin: 2px;}
.search-box input {width: 330px; max-width: 60vw; box-sizing: border-box; height: 28px; padding: 4px 8px;
  font-size: 13px; color: var(--jp-widgets-input-color, inherit);
  background: var(--jp-widgets-input-background-color, #fff);
  border: 1px solid var(--jp-widgets-input-border-color, #bbb);}
.search-box input:focus {outline: 1px solid var(--jp-widgets-input-focus-border-color, #1976d2);}
.search-box button {height: 28px; padding: 0 10px; font-size: 13px; cursor: pointer; border: none;
  color: var(--jp-ui-font-color1, #222); background: var(--jp-layout-color2, #eee);}
.search-box button:hover, .search-box button:focus-visible {box-shadow: 0 0 0 1px #8888;}
"""


class SearchBox(anywidget.AnyWidget):
    """A text box with a button.

    Parameters
    ----------
    typed : called with the text so far at each letter
    find : called with the text at Enter or the button
    """

    _esm = Path(__file__).with_name("search_box.js")
    _css = CSS
    placeholder = traitlets.Unicode("").tag(sync=True)

    def __init__(self, typed: Callable[[str], None], find: Callable[[str], None], **traits: Any) -> None:
        super().__init__(**traits)
        self.calls = {"typed": typed, "find": find}
        self.on_msg(self._called)

    def _called(self, _: Any, content: dict, __: Any) -> None:
        for key, call in self.calls.items():
            if key in content:
                call(content[key])

    def put(self, text: str) -> None:
        """Write a text into the box."""
        self.send({"put": text})
