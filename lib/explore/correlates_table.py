"""A table widget of the correlates of one gene or feature."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from lib.explore import correlates
from lib.explore.inspection import Inspection
from lib.explore.widgets import Table

N_ROWS = 200  # of correlates listed; sorting is over all of them
# Column -> heading, and its meaning in words.
COLUMNS = {
    "rank": ("#", "position in this order"),
    "name": ("name", "sort by name"),
    "r": ("r", "r over the test samples"),
    "r_tissues": ("r | t", "r given all tissues: the correlation within them"),
    "p_link": ("p", "of the test of links: within tissues, covariates out, over all features of the gene"),
    "q_link": ("q", "false discovery rate of links; a dash: the gene was not tested"),
    "pattern": ("pattern", "conditional independence of gene g, feature f and the gene's tissue t"),
}
UNSORTED = ("rank",)
LEFT_ALIGNED = ("name", "pattern")


def number(value: float, decimals: int | None = None) -> str:
    """A number in few characters; a dash where there is none."""
    if np.isnan(value):
        return "–"
    return f"{value:.2g}" if decimals is None else f"{value:.{decimals}f}"


class CorrelatesTable:
    """The features of a gene (kind "feature") or the genes of a feature; choosing a row calls `choose`."""

    def __init__(self, inspection: Inspection, kind: str, choose: Callable[[str], None]) -> None:
        self.lookup, self.kind, self.choose = inspection.lookup, kind, choose
        self.of = self.current = ""
        self.by, self.reverse = "r_tissues", False
        self.table_df = pd.DataFrame()
        self.filling = False
        columns = [
            {
                "key": key,
                "label": label,
                "tip": tip,
                "align": "left" if key in LEFT_ALIGNED else "right",
                "sortable": key not in UNSORTED,
            }
            for key, (label, tip) in COLUMNS.items()
        ]
        self.table = Table(columns, self.sort, layout={"flex": "1 1 400px", "min_width": "380px"})
        self.table.add_class(f"inspect-{kind}s")
        self.table.observe(self._chosen, "chosen")

    def show(self, of: str, current: str) -> None:
        """List the correlates of one name, with the current partner chosen."""
        self._ask(of)
        self.current = current
        self._fill()

    def strongest(self, of: str) -> str:
        """The first correlate of one name, whose correlates are those that are shown next."""
        self._ask(of)
        return str(self.table_df.index[0])

    def _ask(self, of: str) -> None:
        if of != self.of:
            asked = correlates.features_of if self.kind == "feature" else correlates.genes_of
            self.of, self.table_df = of, asked(self.lookup, of)

    def sort(self, column: str) -> None:
        """Order by a column; if already ordered by it, reverse the order."""
        self.reverse = not self.reverse if column == self.by else False
        self.by = column
        self._fill()

    def _fill(self) -> None:
        by = str(self.table_df.index.name) if self.by == "name" else self.by
        sorted_df = correlates.ordered(self.table_df, by, self.reverse)
        ranks = np.arange(min(N_ROWS, len(sorted_df)))
        if self.current in sorted_df.index:
            ranks = np.union1d(ranks, sorted_df.index.get_indexer(pd.Index([self.current])))
        shown_df = sorted_df.iloc[ranks].assign(rank=ranks + 1)
        names = shown_df.index.tolist()
        shown_df["name"] = names if self.kind == "feature" else self._symbols(names)
        what, whose = (
            ("Features", self._symbols([self.of])[0]) if self.kind == "feature" else ("Genes", self.of)
        )
        self.filling = True
        self.table.fill(
            heading=f"{what} that follow {whose} ({len(self.table_df):,}; {len(names)} listed)",
            rows=[self._row(row) for row in shown_df[list(COLUMNS)].itertuples(index=False)],
            ids=names,
            chosen=self.current if self.current in names else "",
            by=self.by,
            reverse=self.reverse,
        )
        self.filling = False

    def _symbols(self, names: list[str]) -> list[str]:
        return self.lookup.genes_df["symbol"].loc[names].astype(str).tolist()

    @staticmethod
    def _row(row: Any) -> list[str]:
        words = {"rank": f"{row.rank:,}", "name": row.name, "pattern": row.pattern}
        words |= {column: number(getattr(row, column), 2) for column in ("r", "r_tissues")}
        words |= {column: number(getattr(row, column)) for column in ("p_link", "q_link")}
        return [words[column] for column in COLUMNS]

    def _chosen(self, change: dict) -> None:
        if not self.filling and change["new"]:
            self.choose(change["new"])
