"""Rows of the report's two tables, as plain data: links, and marker pairs."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.visualize.pair_choice import FINDINGS

MOST_LINKS = 5000  # rows with values to draw; each gene's strongest link has a row beyond that
MOST_MARKERS = 300  # genes by their highest |r|
CHUNK = 200  # genes, features or rows whose values the page reads at once
KEY = ["gene", "feature"]
LINK_COLUMNS = [
    *("gene", "symbol", "feature", "layer", "tissue", "r_within", "low", "high", "p", "q", "r", "clump"),
    *("carried_by", "share", "i2", "robustness", "r_validation", "low_validation", "high_validation"),
]
UNIT_NUMBERS = ("n", "n_effective", "r", "low", "high", "p", "same_sign", "q")
MARKER_COLUMNS = [*KEY, "symbol", "layer", "tissue", "r", "r_within", "q", "finding", "pattern"]


def links_shown(links_df: pd.DataFrame, cards_df: pd.DataFrame, q_threshold: float) -> pd.DataFrame:
    """A row for the strongest link of each gene and clump, the strongest first.

    All of the genes' strongest links, those with a card, and up to MOST_LINKS others.

    Returns
    -------
    DataFrame: LINK_COLUMNS (q: the one that calls the link), q_without (the covariates taken out; missing
    where there are none), n_copies (links of the gene in the clump), replicates ("yes", "no", or "" where
    the validation samples cannot tell), card (number, or missing).
    """
    n_copies = links_df.groupby(["gene", "clump"], observed=True)["feature"].transform("size")
    df = links_df.assign(n_copies=n_copies, rank=np.arange(len(links_df)))
    df = with_cards(df[df["clump_lead"].astype(bool)], cards_df)
    strongest = ~df["gene"].duplicated()
    others = df["statistic"].where(~strongest & df["card"].isna()).rank(ascending=False, method="first")
    df = df[strongest | df["card"].notna() | (others <= MOST_LINKS - strongest.sum())]
    called = df["q_covariates"].notna()
    df = df.assign(q_without=df["q"].where(called), q=df["q_covariates"].where(called, df["q"]))
    df["replicates"] = ""
    if "q_validation" in df and len(df):
        agrees = (df["q_validation"] <= q_threshold) & (df["same_sign"] == 1)
        df["replicates"] = np.where(df["q_validation"].isna(), "", np.where(agrees, "yes", "no"))
    df = df.sort_values("statistic", ascending=False, kind="stable")
    return df.reindex(columns=[*LINK_COLUMNS, "q_without", "n_copies", "replicates", "card"])


def markers_shown(markers_df: pd.DataFrame, cards_df: pd.DataFrame) -> pd.DataFrame:
    """The pair of highest |r| of each gene, the highest first; before them those with a card.

    Parameters
    ----------
    markers_df : the marker pairs; columns of notebooks 05 and 06 and `pattern` (of notebook 07).
    cards_df : cards that are no row of the links.
    """
    df = markers_df.assign(by=-markers_df["r"].abs()).sort_values("by", kind="stable")
    df = df.drop_duplicates("gene").head(MOST_MARKERS)
    q = df["q_covariates"] if "q_covariates" in df else df["q_within_tissue"]
    finding = df["pattern_within_tissue"].map(FINDINGS)
    df = df.assign(q=q, finding=finding, r_within=df["r_within_tissue"])
    parts = [part.astype(object) for part in (cards_df, df) if len(part)]
    if not parts:
        return pd.DataFrame(columns=[*MARKER_COLUMNS, "card"])
    df = pd.concat(parts, ignore_index=True).drop_duplicates(KEY)
    if len(cards_df):  # a card knows nothing of the pattern and the layer
        df["layer"] = df["feature"].str.extract(r"^(\d+)_", expand=False).astype(float)
        known = markers_df.astype(dict.fromkeys(KEY, object)).set_index(KEY)["pattern"]
        df["pattern"] = known.reindex(pd.MultiIndex.from_frame(df[KEY])).to_numpy()
    return df.reindex(columns=[*MARKER_COLUMNS, "card"])


def with_cards(df: pd.DataFrame, cards_df: pd.DataFrame) -> pd.DataFrame:
    """Rows with the number of their card (column card), missing where there is none."""
    numbers = cards_df[KEY].astype(object).assign(card=np.arange(len(cards_df), dtype=float))
    return df.astype(dict.fromkeys(KEY, object)).merge(numbers, on=KEY, how="left")


def by_tissue(shown_df: pd.DataFrame, tissues_df: pd.DataFrame, strata: Sequence[str]) -> list[list]:
    """r in each stratum of the first MOST_LINKS rows: for each a list of [place in strata, n, r, se].

    tissues_df : the artefact `link_tissues`.
    """
    place = {name: i for i, name in enumerate(strata)}

    def row(at: dict[Any, Any]) -> list:
        return [place[at["tissue"]], int(at["n"]), round(float(at["r"]), 3), round(float(at["se"]), 3)]

    return _of_pairs(shown_df, tissues_df.astype({"tissue": object}), row)


def _of_pairs(shown_df: pd.DataFrame, df: pd.DataFrame, row: Callable[[dict[Any, Any]], list]) -> list[list]:
    """`row` of each of a pair's rows in df, for the first MOST_LINKS pairs shown; nothing for the others."""
    of_pair = dict(list(df.astype(dict.fromkeys(KEY, object)).groupby(KEY, sort=False)))
    keys = shown_df[KEY].head(MOST_LINKS).itertuples(index=False, name=None)
    made = [[row(at) for at in of_pair.get(key, df.head(0)).to_dict("records")] for key in keys]
    return made + [[]] * (len(shown_df) - len(made))


def in_chunks(payload: Mapping[str, Any], number: int) -> tuple[dict[str, Any], list[tuple[str, list]]]:
    """What cards draw, in parts that the page reads when a card is opened: many links cost no time before.

    Parameters
    ----------
    payload : `report_pairs.payload`. number : of the network on the page.

    Returns
    -------
    The payload, with names in place of the values of genes and features, and the row's place in place of
    `where`; and the parts, (id, values): `genes-<number>-<k>`, `features-...` and `where-...`, CHUNK each.
    """
    rows = payload["tables"]["links"]["rows"]
    parts = {kind: list(payload[kind].values()) for kind in ("genes", "features")}
    parts["where"] = [row.get("where") or [] for row in rows]
    placed = [row | {"where": place} for place, row in enumerate(rows)]
    links = payload["tables"]["links"] | {"rows": placed}
    light = dict(payload) | {kind: list(payload[kind]) for kind in ("genes", "features")}
    light |= {"tables": payload["tables"] | {"links": links}}
    chunks = [
        (f"{kind}-{number}-{k}", values[k * CHUNK : (k + 1) * CHUNK])
        for kind, values in parts.items()
        for k in range(-(-len(values) // CHUNK))
    ]
    return light, chunks


def by_unit(shown_df: pd.DataFrame, ledger_df: pd.DataFrame, units: Sequence[str]) -> list[list]:
    """What each unit of the ledger says of the first MOST_LINKS rows.

    ledger_df : the artefact `ledger`. Returns for each row a list of [place in units, role, n, n_effective,
    r, low, high, p, same_sign, q or None].
    """
    place = {name: i for i, name in enumerate(units)}

    def row(at: dict[Any, Any]) -> list:
        return [place[at["unit"]], at["role"], *plain({name: at[name] for name in UNIT_NUMBERS}).values()]

    return _of_pairs(shown_df, ledger_df, row)


def plain(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """A table row for JSON: no NaN, no numpy types, numbers to four digits."""
    made: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, float | int | np.number) and not isinstance(value, bool):
            made[str(name)] = float(f"{value:.4g}") if np.isfinite(value) else None
        else:
            made[str(name)] = None if pd.isna(value) else str(value)
    if made.get("card") is not None:
        made["card"] = int(made["card"])
    return made
