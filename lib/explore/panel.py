"""The panel of notebook 11: search for a name, choose a correlate, look at the pair.

Its state is one gene and one feature. Callbacks only call what `correlates`, `inspection` and `pair_figures`
offer, and an error in one is shown above the tables. What needs the network runs in a thread, so that it can
be cancelled while the rest stays responsive.
"""

import base64
import html
import io
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from lib.explore import correlates, name_search, pair_figures
from lib.explore import inspection as runs
from lib.explore.correlates_table import CorrelatesTable, number
from lib.explore.feature_view import FeatureView
from lib.explore.inspection import Inspection
from lib.explore.widgets import SearchBox
from lib.statistics import replication_ledger
from lib.tiles.stored import read_tiles

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
        self.progress = widgets.IntProgress(layout={"width": "220px", "display": "none"})
        self.doing = widgets.Label()
        self.cancel = self._button("Cancel", "", lambda _: self.stop.set(), layout={"display": "none"})
        self.view_image = widgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        self.map_image = widgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        for name in ("search", "back", "words", "view", "map", "pair_image", "view_image", "map_image"):
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
        self.back.disabled = not self.history
        facts = self.features.table_df.loc[[feature]].iloc[0]
        self.words.value = pair_in_words(self.inspection, gene, feature, facts)
        figure = pair_figures.pair_figure(self.inspection, gene, feature, facts)
        self.pair_image.value = pair_figures.png(figure)
        if new_feature:
            self._show_feature()

    def _show_feature(self) -> None:
        try:
            self.strip.value = strip_html(self.inspection, self.feature)
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
        self.show_pair(*correlates.default_pair(lookup, found.name))
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


def pair_in_words(inspection: Inspection, gene: str, feature: str, facts: pd.Series) -> str:
    """What is known of a pair and of its gene, as HTML; names escaped."""
    about = inspection.lookup.genes_df.loc[[gene]].iloc[0]
    symbol = str(about["symbol"])
    text = f"<b>{html.escape(symbol)}</b>"
    if symbol != gene:
        text += f" ({html.escape(gene)})"
    text += (
        f", highest in {html.escape(str(about['tissue']))} (median log₂(1 + {inspection.unit}) "
        f"{about['max_median_log2']:.1f}), and <b>feature {html.escape(feature)}</b>: "
        f"r = <b>{facts['r']:.3f}</b>, given the tissues <b>{number(facts['r_tissues'], 3)}</b>; "
        f"pattern {facts['pattern']}. {html.escape(link_in_words(inspection, gene, feature))}"
    )
    if gene in inspection.genes_df.index:
        q = number(float(inspection.genes_df["q"].loc[gene]))
        text += f" Over all features, the gene has q {q} within tissues."
    return text


def link_in_words(inspection: Inspection, gene: str, feature: str) -> str:
    """What the test of links says of a pair: as in the table of links where the pair is one."""
    links = inspection.lookup.links
    pair_df = pd.DataFrame({"gene": [gene], "feature": [feature]})
    found = correlates.link_test(inspection.lookup, pair_df).iloc[0]
    if links is None or np.isnan(found["p"]):
        return "Not tested within tissues (the gene is below E_T, or nothing varies there)."
    words = f"p {number(found['p'])}, q {number(found['q'])}"
    if not np.isnan(found["r_within"]):
        interval = f"{found['low']:.2f} to {found['high']:.2f}"
        words = f"r within tissues {found['r_within']:.2f} (95 % interval {interval}), {words}"
    of_gene_df = links.links_df[links.links_df["gene"] == gene]
    listed_df = of_gene_df[of_gene_df["feature"] == feature]
    if listed_df.empty:
        return f"Not a link: {words}."
    link = listed_df.iloc[0]
    n_copies = int((of_gene_df["clump"] == link["clump"]).sum())
    words += f"; one of {n_copies} links of clump {link['clump']}, most of it in {link['carried_by']}"
    if "q_validation" in link and not np.isnan(link["r_validation"]):
        words += (
            f"; r {link['r_validation']:.2f} on the validation samples (q {number(link['q_validation'])})"
        )
    return f"A link: {words}.{elsewhere_in_words(inspection.ledger_df, gene, feature)}"


def elsewhere_in_words(ledger_df: pd.DataFrame | None, gene: str, feature: str) -> str:
    """What samples that had no part in finding a link say of it; "" where there are none."""
    if ledger_df is None:
        return ""
    of_pair = (ledger_df["gene"] == gene) & (ledger_df["feature"] == feature)
    others_df = ledger_df[of_pair & ledger_df["role"].isin(replication_ledger.UNSEEN)]
    said = [
        f"{unit['unit']} r {unit['r']:.2f} ({unit['low']:.2f} to {unit['high']:.2f}; n {unit['n']}, "
        f"effective {unit['n_effective']:.1f}; p {number(unit['p'])}, q {number(unit['q'])})"
        for unit in others_df.to_dict("records")
    ]
    agree = f"{int(others_df['same_sign'].sum())} of {len(said)} of the same sign, half by chance"
    return f" In samples that had no part in finding it ({agree}): {'; '.join(said)}." if said else ""


def strip_html(inspection: Inspection, feature: str) -> str:
    """`inspection.strip_tiles` as pictures with captions below; names escaped."""
    strip_df = runs.strip_tiles(inspection, feature)
    figures = []
    for tile, caption in zip(read_tiles(strip_df), pair_figures.strip_captions(strip_df), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, format="jpeg", quality=88)
        source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        lines = html.escape(caption).replace("\n", "<br>")
        figures.append(f'<figure><img src="{source}" alt="tile">{lines}</figure>')
    heading = html.escape(pair_figures.strip_heading(strip_df, feature))
    return f'<b>{heading}</b><div class="inspect-strip">{"".join(figures)}</div>'
