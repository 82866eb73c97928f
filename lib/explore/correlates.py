"""All correlates of one gene or feature, computed on demand.

A table of marker pairs answers only for pairs over its threshold. Here every gene has all features as
correlates and every feature all genes, by one matrix-vector product each. Beside r stand the correlation
given all tissues, the pattern of conditional independence (notebooks/README.md, section 8), and p and q of
the test of links (`lib.statistics.link_lookup`). Variables are rows, samples are columns.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.explore import name_search
from lib.statistics import correlation, link_lookup, partial_correlation
from lib.statistics.conditional_independence import patterns
from lib.statistics.table_rows import same_slides

LEFT = 1e-5  # a row with less of its length left within tissues does not vary there


@dataclass(frozen=True)
class Settings:
    """How correlates are computed and tested.

    Parameters
    ----------
    method : "spearman" takes ranks over the samples first, and everything from these, as notebooks 05 to 07
        do (`correlation.on_scale`)
    alpha : level of the patterns, in (0, 1)
    """

    method: Literal["pearson", "spearman"] = "pearson"
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha is {self.alpha}: it must be in (0, 1)")


class Side(NamedTuple):
    """All genes, or all features, ready for products."""

    names: pd.Index
    # float64 [n, n_samples], mean 0 and length 1; of ranks for Spearman; a constant row is 0
    unit: np.ndarray
    varies: np.ndarray  # bool [n], not constant
    left: np.ndarray  # float64 [n], length of the row of `unit` once tissue means are taken off
    r_tissue: np.ndarray  # float64 [n, n_tissues], correlation with the indicator of each tissue


class Lookup(NamedTuple):
    """Everything `features_of` and `genes_of` need; made by `build`."""

    genes: Side
    features: Side
    log_df: pd.DataFrame  # log2(1 + expression), never ranks
    features_df: pd.DataFrame  # f_lz, never ranks
    settings: Settings
    genes_df: pd.DataFrame  # index gene, in the order of `genes`: symbol, tissue, max_median_log2
    membership: np.ndarray  # float64 [n_samples, n_tissues], 1 where the sample is of the tissue
    tissue_of_gene: np.ndarray  # int [n_genes], column of `membership`
    links: link_lookup.LinkLookup | None  # None where nothing could be tested within tissues
    names: name_search.Names


def build(
    log_df: pd.DataFrame,
    features_df: pd.DataFrame,
    tissues: pd.Series,
    genes_df: pd.DataFrame,
    links: link_lookup.LinkLookup | None = None,
    settings: Settings = Settings(),
) -> Lookup:
    """Standardise both sides once, so that every question afterwards is one product.

    Parameters
    ----------
    log_df, features_df : genes and features x samples, the same samples; log2(1 + expression), and f_lz.
    tissues : sample_id -> tissue.
    genes_df : index gene; symbol, tissue (of highest median), max_median_log2.
    links : the test of links, where there is one.

    Raises
    ------
    ValueError : samples that differ or have no tissue, missing values, fewer than four samples.
    """
    features_df = same_slides(log_df, features_df)
    lacking = log_df.columns[tissues.reindex(log_df.columns).isna()]
    if len(lacking):
        raise InputError(f"{len(lacking)} samples have no tissue, first {list(lacking[:3])}")
    of_sample = tissues.loc[log_df.columns]
    names = np.array(sorted(of_sample.unique()))
    membership = (of_sample.to_numpy()[:, None] == names).astype(float)
    genes_df = genes_df.loc[log_df.index, ["symbol", "tissue", "max_median_log2"]]
    return Lookup(
        genes=_side(log_df, "gene", membership, settings.method),
        features=_side(features_df, "feature", membership, settings.method),
        log_df=log_df,
        features_df=features_df,
        settings=settings,
        genes_df=genes_df,
        membership=membership,
        tissue_of_gene=np.searchsorted(names, genes_df["tissue"].to_numpy(dtype=object).astype(names.dtype)),
        links=links,
        names=name_search.index_names(genes_df["symbol"], features_df.index),
    )


def _side(df: pd.DataFrame, what: str, membership: np.ndarray, method: str) -> Side:
    unit = _units(df, what, method)
    tissue_df = pd.DataFrame(membership.T)
    indicator, varies = correlation.standardise(tissue_df, "tissue", dtype="float64")
    r_tissue = np.zeros((len(df), len(tissue_df)))
    r_tissue[:, varies] = unit @ indicator.T
    left = np.empty(len(df))
    for start in range(0, len(df), 4096):
        rows = slice(start, start + 4096)
        left[rows] = np.linalg.norm(_within(unit[rows], membership), axis=1)
    return Side(df.index, unit, np.asarray(unit.any(axis=1)), left, r_tissue)


def _units(df: pd.DataFrame, what: str, method: str) -> np.ndarray:
    rows, varying = correlation.standardise(df, what, method, "float64")
    if varying.all():
        return rows
    unit = np.zeros(df.shape)
    unit[varying] = rows
    return unit


def _within(rows: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """Rows [..., n_samples] less the mean of each tissue."""
    return rows - (rows @ (membership / membership.sum(axis=0))) @ membership.T


def features_of(lookup: Lookup, gene: str) -> pd.DataFrame:
    """All features that vary as correlates of one gene, strongest given the tissues first.

    Returns
    -------
    DataFrame, index feature
        r; r_tissues: the partial correlation given all tissues (NaN where nothing varies within them);
        p_tissues: of its Fisher z test; p_link, q_link: of the test of links (NaN where the gene was not
        tested); pattern: at `Settings.alpha`, given the gene's own tissue.

    Raises
    ------
    KeyError, ValueError : an unknown name; a gene that is the same in all samples.
    """
    i = _place(lookup.genes, gene, "gene")
    r_gt = lookup.genes.r_tissue[i, lookup.tissue_of_gene[i]]
    r_ft = lookup.features.r_tissue[:, lookup.tissue_of_gene[i]]
    return _correlates(lookup, lookup.genes, i, lookup.features, "gene", r_gt, r_ft)


def genes_of(lookup: Lookup, feature: str) -> pd.DataFrame:
    """All genes that vary as correlates of one feature; index gene, columns as `features_of`."""
    i = _place(lookup.features, feature, "feature")
    r_gt = lookup.genes.r_tissue[np.arange(len(lookup.genes.names)), lookup.tissue_of_gene]
    r_ft = lookup.features.r_tissue[i, lookup.tissue_of_gene]
    return _correlates(lookup, lookup.features, i, lookup.genes, "feature", r_gt, r_ft)


def _place(side: Side, name: str, what: str) -> int:
    i = int(side.names.get_indexer(pd.Index([name]))[0])
    if i < 0:
        raise KeyError(f"there is no {what} {name!r} in this cohort")
    if not side.varies[i]:
        n = side.unit.shape[1]
        raise InputError(f"{what} {name!r} has the same value in all {n} test samples: it has no correlates")
    return i


def _correlates(
    lookup: Lookup, one: Side, i: int, other: Side, what: str, r_gt: np.ndarray | float, r_ft: np.ndarray
) -> pd.DataFrame:
    n, n_tissues = lookup.membership.shape
    residual = _within(one.unit[i], lookup.membership)
    # One reading of the large matrix for both products.
    r, covariance = np.clip(np.stack([one.unit[i], residual]) @ other.unit.T, -1, 1)
    varies = (other.left > LEFT) & (one.left[i] > LEFT) & (n - n_tissues > 2)
    r_tissues = np.divide(covariance, other.left * one.left[i], out=np.full(len(r), np.nan), where=varies)
    r_tissues = np.clip(r_tissues, -1, 1)
    p = np.full(len(r), np.nan)
    if varies.any():
        p[varies] = partial_correlation.ci_test(r_tissues[varies], n, n_tissues - 1)
    partner = "feature" if what == "gene" else "gene"
    index = other.names.rename(partner)
    table_df = pd.DataFrame({"r": r, "r_tissues": r_tissues, "p_tissues": p}, index=index)
    names = {what: one.names[i], partner: other.names}
    tested_df = link_test(lookup, pd.DataFrame(names), intervals=False)
    table_df[["p_link", "q_link"]] = tested_df[["p", "q"]].to_numpy()
    enough = n_tissues > 1 and n > 4
    table_df["pattern"] = patterns(r, r_gt, r_ft, n, lookup.settings.alpha) if enough else "none"
    return ordered(table_df[other.varies], "r_tissues")


def ordered(table_df: pd.DataFrame, by: str, reverse: bool = False) -> pd.DataFrame:
    """Sort correlates: r by size, strongest first; p, q and text ascending; unknown values always last."""
    if by == table_df.index.name:
        key = pd.Series(table_df.index)
    else:
        key = table_df[by].reset_index(drop=True)
    if by.startswith("r"):
        key = -key.abs()
    return table_df.iloc[key.sort_values(ascending=not reverse, kind="stable", na_position="last").index]


def link_test(lookup: Lookup, pairs_df: pd.DataFrame, intervals: bool = True) -> pd.DataFrame:
    """`link_lookup.of_pairs` of pairs (gene, feature); all missing where nothing was tested."""
    if lookup.links is None:
        columns = ["r_within", "low", "high", "p", "q"]
        return pd.DataFrame(np.nan, index=pairs_df.index, columns=columns)
    return link_lookup.of_pairs(lookup.links, pairs_df, intervals)


def default_pair(
    lookup: Lookup, gene: str = "", gene_significance_df: pd.DataFrame | None = None
) -> tuple[str, str]:
    """The pair to begin with: of the name asked for, or of the gene with the lowest q.

    gene_significance_df : index gene; feature, statistic, q (notebook 06), where there is one.
    """
    if gene:
        found = name_search.find(lookup.names, gene)
        if found.kind == "gene":
            return found.name, str(features_of(lookup, found.name).index[0])
        return str(genes_of(lookup, found.name).index[0]), found.name
    if gene_significance_df is not None and len(gene_significance_df):
        best_df = gene_significance_df.sort_values(["q", "statistic"], ascending=[True, False])
        return str(best_df.index[0]), str(best_df["feature"].iloc[0])
    varying_df = lookup.genes_df[lookup.genes.varies]
    gene = str(varying_df["max_median_log2"].idxmax())
    return gene, str(features_of(lookup, gene).index[0])
