"""Links: genes and pairs significant within tissues, with their false discovery rates and verdicts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.statistics.false_discovery import hierarchical_q
from lib.statistics.max_statistic import MaxStatistic, max_statistic
from lib.statistics.permutations import Permutations


class Links(NamedTuple):
    """q of all genes tested and of given pairs.

    genes_df : index gene; feature (of the largest statistic), statistic, p_gene, p_overall, q.
    q_pairs : float64 [n_pairs], in the order of the pairs.
    q_first_scheme : the same by the first scheme alone.
    null_gene : float32 [N, n_genes], null maxima of the first scheme.
    """

    genes_df: pd.DataFrame
    q_pairs: np.ndarray
    q_first_scheme: np.ndarray
    null_gene: np.ndarray


def find_links(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    schemes: Sequence[Permutations],
    covariates_df: pd.DataFrame | None = None,
    device: str = "cpu",
) -> Links:
    """Max-statistic p of every gene over all features (the largest over the schemes), and q from them.

    Parameters
    ----------
    log_expression_df, features_df : all genes and features tested, x samples.
    pairs_df : gene, feature of the pairs for which q is wanted.
    schemes : rearrangements of the `permutations.required_schemes`.
    covariates_df, device : as `max_statistic.max_statistic`.
    """
    how = {"pairs_df": pairs_df, "covariates_df": covariates_df}
    maxima = [max_statistic(log_expression_df, features_df, s, device=device, **how) for s in schemes]
    genes_df, tested_df = largest_p(maxima)
    q_genes, q_pairs = hierarchical_q(genes_df["p_gene"].to_numpy(), tested_df["p_gene"].to_numpy())
    first = maxima[0]
    q_first = hierarchical_q(first.genes_df["p_gene"].to_numpy(), first.tested_df["p_gene"].to_numpy())[1]
    return Links(genes_df.assign(q=q_genes), q_pairs, q_first, first.null_gene)


def largest_p(results: Sequence[MaxStatistic]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """genes_df and tested_df of the first result, each p replaced by the largest over all results.

    An intersection-union test (Berger 1982): the p is valid wherever one of the schemes is. The results are
    of the same genes, features and pairs under schemes with the same groups.
    """
    first, *others = results
    genes_df, tested_df = first.genes_df.copy(), first.tested_df.copy()
    for other in others:
        if not other.genes_df.index.equals(genes_df.index):
            raise ValueError("the results are not of the same genes: use schemes with the same groups")
        for df, other_df in ((genes_df, other.genes_df), (tested_df, other.tested_df)):
            for column in ("p_gene", "p_overall"):
                df[column] = np.maximum(df[column], other_df[column])
    return genes_df, tested_df


def genes_table(found: Mapping[str, Links], medians_df: pd.DataFrame) -> pd.DataFrame:
    """genes_df of "within_tissue" with symbol and tissue, and with feature, p_gene and q of the other results
    (`_covariates`).
    """
    genes_df = found["within_tissue"].genes_df.join(medians_df[["symbol", "tissue"]])
    for name in found.keys() - {"within_tissue"}:
        genes_df = genes_df.join(found[name].genes_df[["feature", "p_gene", "q"]].add_suffix(f"_{name}"))
    return genes_df


def pairs_table(
    pairs_df: pd.DataFrame,
    p_df: pd.DataFrame,
    q_df: pd.DataFrame,
    r_within_tissue: np.ndarray,
    q_threshold: float,
) -> pd.DataFrame:
    """Everything that was found about each pair: gene, feature, the p, the q, and the verdict.

    Parameters
    ----------
    pairs_df : gene, feature, r. p_df : p and q of each pair, the same rows.
    q_df : q_shuffled, q_within_tissue and, with covariates, q_covariates, of the pairs tested (by index).
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
