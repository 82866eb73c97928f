"""The inspector's widgets: search a name, choose a correlate, look at the pair (notebook 11).

State is one gene and one feature. Every callback only calls what `lookup` and `inspector` offer, and an error
in one is shown above the tables. What needs the network runs in a thread, so that it can be stopped and the
rest stays alive.
"""

import base64
import html
import io
import itertools
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from PIL import Image

from lib.explore import correlates, feature_view, pair_figures
from lib.explore.pair_figures import Inspection
from lib.explore.search_box import SearchBox
from lib.explore.table import Table

N_ROWS = 200  # of correlates listed; sorting is over all of them
N_SUGGESTED = 6  # names offered while one is typed
# Column of a table of correlates -> heading, and what it is, in words.
COLUMNS = {
    "rank": ("#", "place in this order"),
    "name": ("name", "sort by name"),
    "r": ("r", "r over the test samples"),
    "r_tissues": ("r | t", "r given all tissues: what remains within them"),
    "p_within": ("p | t", "two-sided p of shuffling within tissues; listed rows only: r | t orders alike"),
    "q_within_tissue": (
        "q | t",
        "false discovery rate within tissues; only pairs over the threshold have one",
    ),
    "pattern": ("pattern", "conditional independence of gene g, feature f and the gene's tissue t"),
}
UNSORTED = ("rank", "p_within")
STYLE = """<style>
.inspect-words .widget-html-content {line-height: 1.45;}
.inspect-title .widget-html-content {line-height: 1.6;}
.inspect-suggestion {font-size: 12px; height: 24px; line-height: 22px;}
.inspect-error {border-left: 4px solid #d55e00; background: #fdf0e8; padding: 6px 10px; line-height: 1.4;}
.inspect-strip {display: flex; flex-wrap: wrap; gap: 8px; margin: 0;}
.inspect-strip figure {margin: 0; width: 112px; font-size: 11px; line-height: 1.3; overflow-wrap: anywhere;}
.inspect-strip img {width: 112px; height: 112px; display: block;}
</style>"""


class Cancelled(Exception):
    """The person asked to stop."""


def reported(method: Callable) -> Callable:
    """A callback whose errors are shown to the person, and whose message goes away at the next success."""

    @wraps(method)
    def run(self: "Panel", *args: Any) -> None:
        self.message.value = ""
        try:
            method(self, *args)
        except Exception as error:  # the edge of the program: it is shown, whatever it is
            self.report(error)

    return run


class Correlates:
    """One table of correlates and its heading; choosing a row calls `choose`."""

    def __init__(self, inspection: Inspection, kind: str, choose: Callable[[str], None]) -> None:
        self.inspection, self.kind, self.choose = inspection, kind, choose
        self.of = self.current = ""
        self.by, self.reverse = "r_tissues", False
        self.table_df = pd.DataFrame()
        self.filling = False
        self.title = widgets.HTML()
        self.title.add_class("inspect-title")
        columns = [
            {
                "key": key,
                "label": label,
                "tip": tip,
                "align": "left" if key in ("name", "pattern") else "right",
                "sortable": key not in UNSORTED,
            }
            for key, (label, tip) in COLUMNS.items()
        ]
        self.table = Table(columns, self.sort)
        self.table.add_class(f"inspect-{kind}s")
        self.table.observe(self._chosen, "chosen")
        layout = {"flex": "1 1 400px", "min_width": "380px"}
        self.box = widgets.VBox([self.title, self.table], layout=layout)

    def show(self, of: str, current: str) -> None:
        """List the correlates of one name, with the current partner chosen."""
        if of != self.of:
            asked = correlates.features_of if self.kind == "feature" else correlates.genes_of
            self.table_df = asked(self.inspection.lookup, of)
        self.of, self.current = of, current
        self._fill()

    def sort(self, column: str) -> None:
        """Order by a column; once more, the other way round."""
        self.reverse = not self.reverse if column == self.by else False
        self.by = column
        self._fill()

    def _fill(self) -> None:
        by = self.table_df.index.name if self.by == "name" else self.by
        sorted_df = correlates.ordered(self.table_df, by, self.reverse)
        ranks = np.arange(min(N_ROWS, len(sorted_df)))
        if self.current in sorted_df.index:
            ranks = np.union1d(ranks, sorted_df.index.get_loc(self.current))
        shown_df = sorted_df.iloc[ranks].assign(rank=ranks + 1)
        names = shown_df.index.tolist()
        pairs = ([self.of] * len(names), names) if self.kind == "feature" else (names, [self.of] * len(names))
        shown_df["p_within"] = correlates.within_tissue_p(self.inspection.lookup, *pairs)
        shown_df["name"] = names if self.kind == "feature" else self._symbols(names)
        rows = [self._row(row) for row in shown_df[list(COLUMNS)].itertuples(index=False)]
        self.filling = True
        chosen = self.current if self.current in names else ""
        self.table.fill(rows, names, chosen, self.by, self.reverse)
        self.filling = False
        n, what = len(self.table_df), "features" if self.kind == "feature" else "genes"
        of = self.of if self.kind == "gene" else self._symbols([self.of])[0]
        self.title.value = (
            f"<b>{what.capitalize()} that follow {html.escape(of)}</b> ({n:,}; {len(names)} listed)"
        )

    def _symbols(self, names: list[str]) -> list[str]:
        return self.inspection.lookup.genes_df["symbol"].loc[names].astype(str).tolist()

    @staticmethod
    def _row(row: Any) -> list[str]:
        words = {"rank": f"{row.rank:,}", "name": row.name, "pattern": row.pattern}
        words |= {column: number(getattr(row, column), 2) for column in ("r", "r_tissues")}
        words |= {column: number(getattr(row, column)) for column in ("p_within", "q_within_tissue")}
        return [words[column] for column in COLUMNS]

    def _chosen(self, change: dict) -> None:
        if not self.filling and change["new"]:
            self.choose(change["new"])


def number(value: float, decimals: int | None = None) -> str:
    """A number in few characters; a dash where there is none."""
    if np.isnan(value):
        return "–"
    return f"{value:.2g}" if decimals is None else f"{value:.{decimals}f}"


class Panel(widgets.VBox):
    """The inspector: `go` shows a pair of gene and feature, and everything else leads there."""

    def __init__(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self.gene, self.feature = "", ""
        self.history: list[tuple[str, str]] = []
        self.stop = threading.Event()
        self.work: threading.Thread | None = None
        self._make_widgets()
        super().__init__(self._arranged())
        self.go(*inspection.start)

    def _make_widgets(self) -> None:
        self.search = SearchBox(
            self._typed, self._find, placeholder="gene symbol, gene id, or feature such as 8_40"
        )
        self.suggestions = [
            widgets.Button(layout={"width": "auto", "display": "none"}) for _ in range(N_SUGGESTED)
        ]
        for button in self.suggestions:
            button.add_class("inspect-suggestion")
            button.on_click(self._picked)
        self.back = widgets.Button(description="← Back", tooltip="the pair before", disabled=True)
        self.back.on_click(self._back)
        self.message, self.words = widgets.HTML(), widgets.HTML()
        self.features = Correlates(self.inspection, "feature", self._choose_feature)
        self.genes = Correlates(self.inspection, "gene", self._choose_gene)
        self.pair_image = widgets.Image(format="png", layout={"max_width": "100%", "object_fit": "contain"})
        self.strip = widgets.HTML()
        self.closer = widgets.Button(
            description="What raises it?",
            tooltip="guided backpropagation and a synthetic image",
            icon="search",
        )
        self.closer.on_click(self._look)
        self.slide = widgets.Dropdown(options=[], description="slide", layout={"width": "420px"})
        self.slide.observe(self._slide_chosen, "value")
        self.map = widgets.Button(description="Map this slide", tooltip="the feature on each of its tiles")
        self.map.on_click(self._map)
        self.progress = widgets.IntProgress(layout={"width": "220px", "display": "none"})
        self.doing = widgets.Label()
        self.cancel = widgets.Button(description="Cancel", layout={"display": "none"})
        self.cancel.on_click(lambda _: self.stop.set())
        self.closeup_image = widgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        self.map_image = widgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        classes = {"search": self.search, "back": self.back, "words": self.words, "closer": self.closer}
        classes |= {"mapper": self.map, "pair": self.pair_image, "closeup": self.closeup_image}
        for name, widget in (classes | {"map": self.map_image}).items():
            widget.add_class(f"inspect-{name}")

    def _arranged(self) -> list[widgets.Widget]:
        wrapped = {"flex_flow": "row wrap", "align_items": "center"}
        tables = widgets.HBox(
            [self.features.box, self.genes.box], layout={"flex_flow": "row wrap", "grid_gap": "12px"}
        )
        return [
            widgets.HTML(STYLE),
            widgets.HBox([self.search, self.back], layout=wrapped),
            widgets.HBox(self.suggestions, layout=wrapped),
            self.message,
            self.words,
            tables,
            self.pair_image,
            self.strip,
            widgets.HBox([self.closer, self.progress, self.doing, self.cancel], layout=wrapped),
            self.closeup_image,
            widgets.HBox([self.slide, self.map], layout=wrapped),
            self.map_image,
        ]

    # -- showing ------------------------------------------------------------------------------------------

    def go(self, gene: str, feature: str, remember: bool = True) -> None:
        """Show a pair: both tables, the figures, and what was made of the feature before."""
        self.features.show(gene, feature)
        self.genes.show(feature, gene)
        if remember and self.gene:
            self.history.append((self.gene, self.feature))
        new_feature = feature != self.feature
        self.gene, self.feature = gene, feature
        self.back.disabled = not self.history
        self._show_pair()
        if new_feature:
            self._show_feature()

    def _show_pair(self) -> None:
        table, (gene, feature) = self.inspection.lookup, (self.gene, self.feature)
        facts = self.features.table_df.loc[feature]
        symbol = str(table.genes_df.loc[gene, "symbol"])
        self.words.value = pair_in_words(self.inspection, gene, feature, facts)
        figure = pair_figures.render(
            table.log_df.loc[gene],
            table.features_df.loc[feature],
            self.inspection.samples_df["tissue"],
            self.inspection.colours,
            gene=symbol,
            feature=feature,
            facts=facts,
            unit=self.inspection.unit,
        )
        self.pair_image.value = pair_figures.png(figure)

    def _show_feature(self) -> None:
        try:
            self.strip.value = strip_html(self.inspection, self.feature)
        except (FileNotFoundError, ValueError) as error:  # the tables do not need the pictures
            self.strip.value = f"No tiles to show: {html.escape(str(error))}"
        made = feature_view.kept(self.inspection.folder, self.feature, self.inspection.n_steps)
        self._show_closeup(self.feature, made)
        of_slide = pair_figures.slides_by_value(self.inspection, self.feature)
        self.slide.options = [(f"{slide} ({value:.4g})", slide) for slide, value in of_slide.items()]
        self.slide.value = of_slide.index[0] if len(of_slide) else None
        self._show_map(self.feature, self.slide.value)

    def _show_closeup(self, feature: str, made: feature_view.Closeup | None) -> None:
        if feature == self.feature:  # the person may have gone on while it was made
            shown = made is not None
            self.closeup_image.value = (
                pair_figures.png(pair_figures.render_closeup(made, feature)) if shown else b""
            )
            self.closeup_image.layout.display = "" if shown else "none"

    def _show_map(self, feature: str, slide: str | None) -> None:
        if feature == self.feature and slide == self.slide.value:
            values = (
                pair_figures.slide_values(self.inspection, feature, slide, compute=False) if slide else None
            )
            shown = values is not None
            figure = pair_figures.render_heatmap(self.inspection, feature, slide, values) if shown else None
            self.map_image.value = pair_figures.png(figure) if shown else b""
            self.map_image.layout.display = "" if shown else "none"

    def report(self, error: Exception) -> None:
        """Say to the person what went wrong; where it happened as well, if it was not what was typed."""
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
    def _typed(self, text: str) -> None:
        self._suggest(text)

    def _suggest(self, text: str) -> None:
        found = correlates.suggest(self.inspection.lookup, text, N_SUGGESTED)
        for button, label in itertools.zip_longest(self.suggestions, found):
            button.description = label or ""
            button.layout.display = "" if label else "none"

    @reported
    def _picked(self, button: widgets.Button) -> None:
        self.search.put(button.description)
        self._look_up(button.description)

    @reported
    def _find(self, text: str) -> None:
        self._look_up(text)

    def _look_up(self, text: str) -> None:
        self._suggest(text)
        found = correlates.find(self.inspection.lookup, text)
        self.go(*correlates.default_pair(self.inspection.lookup, found.name))
        self._suggest("")

    @reported
    def _choose_feature(self, feature: str) -> None:
        self.go(self.gene, feature)

    @reported
    def _choose_gene(self, gene: str) -> None:
        self.go(gene, self.feature)

    @reported
    def _back(self, _: Any) -> None:
        self.go(*self.history.pop(), remember=False)

    @reported
    def _slide_chosen(self, change: dict) -> None:
        if change["new"] is not None:
            self._show_map(self.feature, change["new"])

    @reported
    def _look(self, _: Any) -> None:
        feature = self.feature
        self._start(
            f"looking at feature {feature}",
            lambda: pair_figures.look_closely(self.inspection, feature, self._step),
            lambda made: self._show_closeup(feature, made),
        )

    @reported
    def _map(self, _: Any) -> None:
        feature, slide = self.feature, self.slide.value
        if slide is None:
            raise LookupError("No test sample has a tile, so there is no slide to map.")
        self._start(
            f"feature {feature} on {slide}",
            lambda: pair_figures.slide_values(self.inspection, feature, slide, on_step=self._step),
            lambda _: self._show_map(feature, slide),
        )

    # -- work that takes a while ----------------------------------------------------------------------------

    def _start(self, what: str, work: Callable[[], Any], show: Callable[[Any], None]) -> None:
        if self.work is not None and self.work.is_alive():
            raise LookupError("One thing is being worked out already: wait for it, or cancel it.")
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
        except Exception as error:  # nobody else hears of an error in a thread
            self._busy(False, "")
            self.report(error)

    def _busy(self, busy: bool, doing: str) -> None:
        self.progress.value = 0
        self.progress.layout.display = self.cancel.layout.display = "" if busy else "none"
        self.closer.disabled = self.map.disabled = busy
        self.doing.value = doing

    def _step(self, done: int, n_all: int) -> None:
        if self.stop.is_set():
            raise Cancelled
        self.progress.max, self.progress.value = n_all, done


def pair_in_words(inspection: Inspection, gene: str, feature: str, facts: pd.Series) -> str:
    """What is known of a pair and of its gene, as HTML; names escaped."""
    about = inspection.lookup.genes_df.loc[gene]
    (p,) = correlates.within_tissue_p(inspection.lookup, [gene], [feature])
    text = f"<b>{html.escape(str(about['symbol']))}</b>"
    if about["symbol"] != gene:
        text += f" ({html.escape(gene)})"
    text += (
        f", highest in {html.escape(str(about['tissue']))} (median log₂(1 + {inspection.unit}) "
        f"{about['max_median_log2']:.1f}), and <b>feature {html.escape(feature)}</b>: "
        f"r = <b>{facts['r']:.3f}</b>; given the tissues <b>{number(facts['r_tissues'], 3)}</b>, "
        f"p of shuffling within tissues {number(p)}, q {number(facts['q_within_tissue'])}; "
        f"pattern {facts['pattern']}."
    )
    if gene in inspection.genes_df.index:
        text += (
            f" Over all features the gene has q {number(inspection.genes_df.loc[gene, 'q'])} within tissues."
        )
    return text


def strip_html(inspection: Inspection, feature: str) -> str:
    """`inspector.strip_tiles` as pictures with captions below; names escaped."""
    strip_df = pair_figures.strip_tiles(inspection, feature)
    tiles = feature_view.pictures_of(strip_df, inspection.stack_files)
    figures = []
    for row, tile in zip(strip_df.itertuples(), tiles, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, format="jpeg", quality=88)
        source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        caption = "<br>".join(html.escape(text) for text in (row.sample_id, row.tissue, f"{row.value:.4g}"))
        figures.append(f'<figure><img src="{source}" alt="tile">{caption}</figure>')
    heading = (
        f"<b>Feature {html.escape(feature)}, from its lowest sample to its highest</b>: "
        "a tile of each, and the value of the sample"
    )
    if strip_df["value"].nunique() == 1:
        heading = (
            f"<b>Feature {html.escape(feature)}</b> has one value in these samples: they stand in no order"
        )
    return f'{heading}<div class="inspect-strip">{"".join(figures)}</div>'
