"""Links: the genes and pairs significant within tissues, their q, and the verdict on each marker pair."""

import numpy as np
import pandas as pd

from lib.statistics import link_tests
from lib.statistics.false_discovery import hierarchical_q
from lib.statistics.link_tests import LinkTests

BLOCK_PAIRS = 200_000


def find_links(tests: LinkTests, q_threshold: float) -> pd.DataFrame:
    """Pairs of the genes found whose p in the family of their gene is at most q R / G.

    With R of G genes found at q (Benjamini and Bogomolov 2014): averaged over the genes found, the expected
    share of false pairs among a gene's links is at most q. p within a gene is corrected for all its features,
    so that the same holds for its clumps.

    Returns
    -------
    DataFrame: gene, feature, statistic, p, q, r_within (signed), low, high (95 %), n_effective, inflation;
    genes by falling statistic of their best link, links of a gene by falling statistic.
    """
    q_genes = tests.genes_df["q"].to_numpy()
    found = np.flatnonzero(q_genes <= q_threshold)
    level = q_threshold * len(found) / len(q_genes)
    parts = []
    for block in link_tests.blocks(tests.sides, len(found)):
        genes = found[block]
        statistic = link_tests.statistic_of_block(tests.sides, genes)
        for gene, values in zip(genes, statistic, strict=True):
            features = np.flatnonzero(values >= _least(tests, gene, level))
            parts.append(np.stack([np.full(len(features), gene), features, values[features]]))
    g, f, statistic = np.concatenate(parts, axis=1) if parts else np.empty((3, 0))
    g, f = g.astype(np.int64), f.astype(np.int64)
    p = link_tests.p_in_gene(tests, g, statistic)
    kept = p <= level * (1 + 1e-12)
    g, f, statistic, p = g[kept], f[kept], statistic[kept], p[kept]
    names = {"gene": tests.sides.genes[g], "feature": tests.sides.features[f]}
    df = pd.DataFrame(names | {"statistic": statistic, "p": p, "q": _q(tests, g, p)})
    df = df.join(link_tests.intervals(tests.sides, g, f))
    best = df.groupby("gene")["statistic"].transform("max")
    order_df = df.assign(best=best).sort_values(["best", "gene", "statistic"], ascending=[False, True, False])
    return order_df.drop(columns="best").reset_index(drop=True)


def q_of_pairs(tests: LinkTests, pairs_df: pd.DataFrame) -> pd.Series:
    """q of given pairs (gene, feature), float64, index of pairs_df; missing where they were not tested.

    A gene that was tested and a feature that does not vary within tissues have 1.
    """
    sides = tests.sides
    g, f = sides.places(pairs_df)
    q = np.where(g >= 0, 1.0, np.nan)
    known = np.flatnonzero((g >= 0) & (f >= 0))
    for start in range(0, len(known), BLOCK_PAIRS):
        at = known[start : start + BLOCK_PAIRS]
        statistic = link_tests.statistic_of_pairs(sides, g[at], f[at])
        q[at] = _q(tests, g[at], link_tests.p_in_gene(tests, g[at], statistic))
    return pd.Series(q, pairs_df.index)


def _q(tests: LinkTests, genes: np.ndarray, p: np.ndarray) -> np.ndarray:
    q_genes, q = hierarchical_q(tests.null.p, p)
    return np.maximum(q, q_genes[genes])


def _least(tests: LinkTests, gene: int, level: float) -> float:
    """Statistic that a pair of the gene needs for p <= level, less what its null maxima leave in doubt."""
    maxima = np.sort(tests.null.null_of(gene))
    allowed = int(level * (1 + len(maxima)) + 1e-9)
    return float(maxima[-1 - allowed]) - 2 * tests.doubt[gene] if allowed < len(maxima) else 0.0


def genes_table(
    tests: dict[str, LinkTests], links_df: pd.DataFrame, medians_df: pd.DataFrame
) -> pd.DataFrame:
    """Every gene tested, by the headline test (with covariates out where there are any).

    Parameters
    ----------
    tests : "within_tissue" and, where the cohort names covariates, "covariates".
    links_df : `link_table.describe`, the links of the headline test. medians_df : symbol and tissue of genes.

    Returns
    -------
    Index gene: symbol, tissue, feature, statistic, inflation, p, p_overall, q, p_beta, n_permutations,
    n_links, n_clumps and, with covariates, q_without_covariates and feature_without_covariates.
    """
    *_, headline = tests.values()
    df = medians_df[["symbol", "tissue"]].join(headline.genes_df, how="inner")
    of_gene = links_df.groupby("gene", observed=True)
    counts = {"n_links": of_gene.size(), "n_clumps": of_gene["clump"].nunique()}
    df = df.assign(**{name: n.reindex(df.index).fillna(0).astype(int) for name, n in counts.items()})
    if len(tests) > 1:
        without_df = tests["within_tissue"].genes_df[["q", "feature"]]
        df = df.join(without_df.add_suffix("_without_covariates"))
    return df.rename_axis("gene")


def pairs_table(
    pairs_df: pd.DataFrame,
    p_df: pd.DataFrame,
    q_df: pd.DataFrame,
    r_within_tissue: np.ndarray,
    q_threshold: float,
    one_tissue: bool = False,
) -> pd.DataFrame:
    """Everything that was found about each marker pair: gene, feature, the p, the q, and the verdict.

    Parameters
    ----------
    pairs_df : gene, feature, r. p_df : p and q of each pair, the same rows.
    q_df : q_within_tissue and, with covariates, q_covariates (`q_of_pairs`).
    r_within_tissue : float64 [n_pairs] (`pair_tests.r_within`).

    Returns
    -------
    gene, feature, the columns of p_df and q_df (NaN: not tested), r_within_tissue, pattern_within_tissue.
    """
    rows_df = pairs_df[["gene", "feature"]].join(p_df).join(q_df)
    other_sign = pd.Series(r_within_tissue, pairs_df.index) * pairs_df["r"] < 0
    pattern = within_tissue_pattern(
        rows_df["q_within_tissue"], rows_df.get("q_covariates"), q_threshold, other_sign
    )
    if one_tissue:  # there is nothing that it could explain
        pattern = pattern.replace("through tissue", "not found")
    return rows_df.assign(r_within_tissue=r_within_tissue, pattern_within_tissue=pattern)


def within_tissue_pattern(
    q: pd.Series,
    q_given_covariates: pd.Series | None = None,
    threshold: float = 0.05,
    other_sign: pd.Series | None = None,
) -> pd.Series:
    """The verdict of the calibrated test on each pair.

    `direct`: gene and feature are correlated within tissues (q at or below the threshold; with covariates
    given, also once these are taken out). `direct, other sign`: the same, with the sign opposite to that of r
    over all slides. `through covariates`: only until the covariates are taken out. `through tissue`: not
    beyond what the tissue explains. `not tested`: no q. "Direct" is a pattern of conditional dependence, not
    a cause.

    Parameters
    ----------
    q, q_given_covariates : q of each pair within tissues, without and with covariates taken out.
    other_sign : whether the correlation within tissues has the opposite sign of r.
    """
    found = q <= threshold
    left = found if q_given_covariates is None else q_given_covariates <= threshold
    untested = q.isna() if q_given_covariates is None else q.isna() | q_given_covariates.isna()
    turned = pd.Series(False, q.index) if other_sign is None else other_sign
    names = np.select(
        [untested, found & left & turned, found & left, found],
        ["not tested", "direct, other sign", "direct", "through covariates"],
        "through tissue",
    )
    return pd.Series(names, index=q.index)
