"""Any pair of a tested gene held against the same null as the table of links.

The table lists the pairs that are links. For all others p and q follow from the gene's null maxima that the
test has left (`link_table.null_table`), so that a pair looked up never contradicts the table.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.statistics import link_tests
from lib.statistics.false_discovery import hierarchical_q
from lib.statistics.link_tests import Sides

DOUBT = 1e-6  # null maxima are float32; what is this close counts as reached


class LinkLookup(NamedTuple):
    """The headline test of a run.

    sides : of the genes tested and all features, covariates out (`replication.sides_of`).
    null_df : `link_table.null_table`, its genes in the order of the sides.
    q_genes : float64 [n_genes].
    links_df : the table of links.
    keys : of its rows, gene and feature in one number (`_keys`).
    """

    sides: Sides
    null_df: pd.DataFrame
    q_genes: np.ndarray
    links_df: pd.DataFrame
    keys: pd.Index


def build(sides: Sides, null_df: pd.DataFrame, links_df: pd.DataFrame) -> LinkLookup:
    """Sides of at least the genes of null_df, reduced to these; ValueError where one is missing."""
    rows = sides.genes.get_indexer(null_df.index)
    if (rows < 0).any():
        lacking = null_df.index[rows < 0]
        raise InputError(f"{len(lacking)} genes of the test do not vary here, first {lacking[0]!r}")
    values = sides.values
    sides = sides._replace(
        x=sides.x[rows],
        genes=null_df.index,
        values=values._replace(x_t=values.x_t[rows], a_t=None if values.a_t is None else values.a_t[rows]),
        inflation=sides.inflation._replace(x=sides.inflation.x.take(rows)),
    )
    q_genes, _ = hierarchical_q(null_df["p"].to_numpy(), np.empty(0))
    g, f = sides.places(links_df.astype({"gene": object, "feature": object}))
    known = (g >= 0) & (f >= 0)
    return LinkLookup(sides, null_df, q_genes, links_df[known], _keys(sides, g[known], f[known]))


def _keys(sides: Sides, genes: np.ndarray, features: np.ndarray) -> pd.Index:
    return pd.Index(genes * len(sides.features) + features)


def of_pairs(lookup: LinkLookup, pairs_df: pd.DataFrame, intervals: bool = True) -> pd.DataFrame:
    """What the test of links says of pairs (gene, feature); r_within, low and high only with `intervals`.

    Returns
    -------
    DataFrame, index of pairs_df: r_within, low, high (95 % interval at the effective size), p (in the family
    of all features of the gene), q. Missing where the gene was not tested; p and q 1 where the feature does
    not vary within tissues.
    """
    columns = ["r_within", "low", "high", "p", "q"]
    found_df = pd.DataFrame(np.nan, index=pairs_df.index, columns=columns)
    g, f = lookup.sides.places(pairs_df)
    found_df.loc[(g >= 0) & (f < 0), ["p", "q"]] = 1.0
    known = (g >= 0) & (f >= 0)
    if not known.any():
        return found_df
    g, f = g[known], f[known]
    if intervals:
        interval_df = link_tests.intervals(lookup.sides, g, f)
        found_df.loc[known, columns[:3]] = interval_df[columns[:3]].to_numpy()
    p = _p(lookup, g, link_tests.statistic_of_pairs(lookup.sides, g, f))
    _, q = hierarchical_q(lookup.null_df["p"].to_numpy(), p)
    called = np.stack([p, np.maximum(q, lookup.q_genes[g])], axis=1)
    at = lookup.keys.get_indexer(_keys(lookup.sides, g, f))
    listed_df = lookup.links_df.iloc[at[at >= 0]]
    q = listed_df["q_covariates"].fillna(listed_df["q"])
    called[at >= 0] = np.stack([listed_df["p"], q], axis=1)
    found_df.loc[known, ["p", "q"]] = called
    return found_df


def _p(lookup: LinkLookup, genes: np.ndarray, statistic: np.ndarray) -> np.ndarray:
    p = np.empty(len(genes))
    maxima, own = lookup.null_df["maxima"].to_numpy(), lookup.null_df["p"].to_numpy()
    reached_own = lookup.null_df["n_reached"].to_numpy()
    order = np.argsort(genes, kind="stable")
    for at in np.split(order, np.flatnonzero(np.diff(genes[order])) + 1):
        gene, null = genes[at[0]], np.asarray(maxima[genes[at[0]]], np.float64)
        least = statistic[at] - DOUBT * (1 + statistic[at])
        n_reached = len(null) - np.searchsorted(null, least, side="left")
        one = 0 if np.isclose(own[gene] * len(null), reached_own[gene], rtol=1e-12) else 1  # the gene stopped
        p[at] = np.maximum((one + n_reached) / (one + len(null)), own[gene])
    return p
