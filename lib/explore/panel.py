"""The panel of notebook 11: search for a name, choose a correlate, look at the pair.

Its state is one gene and one feature. Callbacks only call what `correlates`, `inspection` and `pair_figures`
offer, and an error in one is shown above the tables. What needs the network runs in a thread, so that it can
be cancelled while the rest stays responsive.
"""

import html
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from lib.explore import inspection as runs
from lib.explore import name_search, pair_figures, pair_files, pair_words
from lib.explore.correlates_table import CorrelatesTable
from lib.explore.feature_view import FeatureView
from lib.explore.inspection import Inspection
from lib.explore.widgets import SearchBox

N_SUGGESTED = 6  # names offered while one is typed
WRAPPED = {"flex_flow": "row wrap", "align_items": "center"}


class Cancelled(Exception):
    """The person asked to stop."""


def reported(method: Callable) -> Callable:
    """A callback whose error is shown in place of its result ([]) until the next success."""

    @wraps(method)
    def run(self: "Panel", *args: Any) -> Any:
        self.message.value = ""
        try:
            return method(self, *args)
        except Exception as error:  # the edge of the program: every error is shown
            self.report(error)
            return []

    return run


class Panel(widgets.VBox):
    """The panel; `show_pair` shows a gene and a feature, and everything else leads there."""

    def __init__(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self.gene, self.feature = "", ""
        self.history: list[tuple[str, str]] = []
        self.stop = threading.Event()
        self.work: threading.Thread | None = None
        self._make_widgets()
        super().__init__(self._arranged())
        self.show_pair(*inspection.start)

    def _make_widgets(self) -> None:
        self.search = SearchBox(
            self._typed, self._find, placeholder="gene symbol, gene id, or feature such as 8_40"
        )
        self.back = self._button("← Back", "the previous pair", self._back)
        self.message, self.words, self.strip = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.features = CorrelatesTable(self.inspection, "feature", self._choose_feature)
        self.genes = CorrelatesTable(self.inspection, "gene", self._choose_gene)
        self.pair_image = widgets.Image(format="png", layout={"max_width": "100%", "object_fit": "contain"})
        tip = "guided backpropagation and a synthetic image"
        self.view = self._button("What raises it?", tip, self._view, icon="search")
        self.slide = widgets.Dropdown(options=[], description="slide", layout={"width": "420px"})
        self.slide.observe(self._slide_chosen, "value")
        self.map = self._button("Map this slide", "where on it the feature is active", self._map)
        tip = "pictures of this pair as PDF and PNG, and the code that makes them"
        self.save = self._button("Save figures", tip, self._save, icon="download")
        self.saved = widgets.HTML()
        self.progress = widgets.IntProgress(layout={"width": "220px", "display": "none"})
        self.doing = widgets.Label()
        self.cancel = self._button("Cancel", "", lambda _: self.stop.set(), layout={"display": "none"})
        self.view_image = widgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        self.map_image = widgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        for name in (
            "search",
            "back",
            "words",
            "view",
            "map",
            "save",
            "pair_image",
            "view_image",
            "map_image",
        ):
            getattr(self, name).add_class(f"inspect-{name.replace('_', '-')}")

    @staticmethod
    def _button(text: str, tip: str, call: Callable[[Any], None], **how: Any) -> widgets.Button:
        button = widgets.Button(description=text, tooltip=tip, **how)
        button.on_click(call)
        return button

    def _arranged(self) -> list[widgets.Widget]:
        tables = [self.features.table, self.genes.table]
        return [
            widgets.HBox([self.search, self.back], layout=WRAPPED | {"align_items": "flex-start"}),
            self.message,
            self.words,
            widgets.HBox(tables, layout={"flex_flow": "row wrap", "grid_gap": "12px"}),
            self.pair_image,
            widgets.HBox([self.save, self.saved], layout=WRAPPED),
            self.strip,
            widgets.HBox([self.view, self.progress, self.doing, self.cancel], layout=WRAPPED),
            self.view_image,
            widgets.HBox([self.slide, self.map], layout=WRAPPED),
            self.map_image,
        ]

    # -- showing ------------------------------------------------------------------------------------------

    def show_pair(self, gene: str, feature: str, remember: bool = True) -> None:
        """Show a pair: both tables, the figures, and what the network gave for the feature before."""
        self.features.show(gene, feature)
        self.genes.show(feature, gene)
        if remember and self.gene:
            self.history.append((self.gene, self.feature))
        new_feature = feature != self.feature
        self.gene, self.feature = gene, feature
        self.saved.value = ""
        self.back.disabled = not self.history
        facts = self.features.table_df.loc[[feature]].iloc[0]
        self.words.value = pair_words.pair_in_words(self.inspection, gene, feature, facts)
        figure = pair_figures.pair_figure(self.inspection, gene, feature, facts)
        self.pair_image.value = pair_figures.png(figure)
        if new_feature:
            self._show_feature()

    def _show_feature(self) -> None:
        try:
            self.strip.value = pair_words.strip_html(self.inspection, self.feature)
        except (FileNotFoundError, ValueError) as error:  # the tables do not need the pictures
            self.strip.value = f"No tiles to show: {html.escape(str(error))}"
        self._show_view(self.feature, runs.feature_view(self.inspection, self.feature, compute=False))
        of_slide = runs.slides_by_value(self.inspection, self.feature)
        self.slide.options = [(f"{slide} ({value:.4g})", slide) for slide, value in of_slide.items()]
        self.slide.value = of_slide.index[0] if len(of_slide) else None
        self._show_map(self.feature, self.slide.value)

    def _show_view(self, feature: str, view: FeatureView | None) -> None:
        if feature == self.feature:  # the person may have moved on while it was made
            figure = None if view is None else pair_figures.feature_figure(view, feature)
            show_figure(self.view_image, figure)

    def _show_map(self, feature: str, slide: str | None) -> None:
        if feature == self.feature and slide == self.slide.value:
            figure = None
            if slide is not None:
                values = runs.slide_values(self.inspection, feature, slide, compute=False)
                maps = runs.slide_maps(self.inspection, feature, slide, compute=False)
                if values is not None:
                    figure = pair_figures.slide_figure(self.inspection, feature, slide, values, maps)
            show_figure(self.map_image, figure)

    def report(self, error: Exception) -> None:
        """Show what went wrong; and, unless it was a name that was typed, where in the code."""
        text = html.escape(
            str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
        )
        if not isinstance(error, LookupError):
            where = html.escape("".join(traceback.format_exception(error)))
            text = f"<b>{type(error).__name__}</b>: {text}"
            text += f"<details><summary>where</summary><pre>{where}</pre></details>"
        self.message.value = f'<div class="inspect-error" role="alert">{text}</div>'

    # -- callbacks ----------------------------------------------------------------------------------------

    @reported
    def _typed(self, text: str) -> list[str]:
        return name_search.suggest(self.inspection.lookup.names, text, N_SUGGESTED)

    @reported
    def _find(self, text: str) -> list[str]:
        lookup = self.inspection.lookup
        try:
            found = name_search.find(lookup.names, text)
        except LookupError as error:
            self.report(error)
            return name_search.suggest(lookup.names, text, N_SUGGESTED)
        if found.kind == "gene":
            self.show_pair(found.name, self.features.strongest(found.name))
        else:
            self.show_pair(self.genes.strongest(found.name), found.name)
        return []

    @reported
    def _choose_feature(self, feature: str) -> None:
        self.show_pair(self.gene, feature)

    @reported
    def _choose_gene(self, gene: str) -> None:
        self.show_pair(gene, self.feature)

    @reported
    def _back(self, _: Any) -> None:
        self.show_pair(*self.history.pop(), remember=False)

    @reported
    def _slide_chosen(self, change: dict) -> None:
        if change["new"] is not None:
            self._show_map(self.feature, change["new"])

    @reported
    def _save(self, _: Any) -> None:
        paths = pair_files.save(self.inspection, self.gene, self.feature, self.slide.value)
        names = ", ".join(html.escape(path.name) for path in paths)
        self.saved.value = f"Saved in {html.escape(str(paths[0].parent))}: {names}"

    @reported
    def _view(self, _: Any) -> None:
        feature = self.feature
        self._start(
            f"feature {feature}",
            lambda: runs.feature_view(self.inspection, feature, on_step=self._step),
            lambda view: self._show_view(feature, view),
        )

    @reported
    def _map(self, _: Any) -> None:
        feature, slide = self.feature, self.slide.value
        if slide is None:
            raise LookupError("no test sample has a tile, so there is no slide to map")
        self._start(
            f"feature {feature} on {slide}",
            lambda: self._map_slide(feature, slide),
            lambda _: self._show_map(feature, slide),
        )

    def _map_slide(self, feature: str, slide: str) -> None:
        maps = runs.slide_maps(self.inspection, feature, slide, on_step=self._step)
        known = None if maps is None else maps.sum(axis=(1, 2), dtype=float)  # the sum is the feature
        runs.slide_values(self.inspection, feature, slide, known=known, on_step=self._step)

    # -- work in a thread -----------------------------------------------------------------------------------

    def _start(self, what: str, work: Callable[[], Any], show: Callable[[Any], None]) -> None:
        if self.work is not None and self.work.is_alive():
            raise LookupError("the network is already at work: wait for it, or cancel it")
        self.stop.clear()
        self._busy(True, what)
        self.work = threading.Thread(target=self._run, args=(work, show), daemon=True)
        self.work.start()

    def _run(self, work: Callable[[], Any], show: Callable[[Any], None]) -> None:
        try:
            show(work())
            self._busy(False, "")
        except Cancelled:
            self._busy(False, "cancelled")
        except Exception as error:  # an error in a thread would otherwise be lost
            self._busy(False, "")
            self.report(error)

    def _busy(self, busy: bool, doing: str) -> None:
        self.progress.value = 0
        self.progress.layout.display = self.cancel.layout.display = "" if busy else "none"
        self.view.disabled = self.map.disabled = busy
        self.doing.value = doing

    def _step(self, done: int, n_all: int) -> None:
        if self.stop.is_set():
            raise Cancelled
        self.progress.max, self.progress.value = n_all, done


def show_figure(image: widgets.Image, figure: Figure | None) -> None:
    """Show a figure in an image widget; hide the widget if there is none."""
    image.value = b"" if figure is None else pair_figures.png(figure)
    image.layout.display = "none" if figure is None else ""
