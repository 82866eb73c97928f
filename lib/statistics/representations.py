"""Representations side by side: how many links any set of features has, under one and the same test."""

import pandas as pd

from lib.statistics import replication, spots
from lib.statistics.sections_left_out import How, each_left_out, find


def counts(genes_df: pd.DataFrame, links_df: pd.DataFrame, q_threshold: float) -> dict[str, float]:
    """links, links_of_clumps (counted once for each gene and group of near-copies), genes_tested,
    genes_with_a_link, links_replicated_percent (of each gene's strongest, on the samples kept apart).

    genes_df : a row for each gene tested. links_df : with `replication.held_against`.
    """
    shares = replication.summarise(links_df, q_threshold).loc["strongest link of each gene"]
    return {
        "links": len(links_df),
        "links_of_clumps": int(links_df["clump_lead"].sum()),
        "genes_tested": len(genes_df),
        "genes_with_a_link": links_df["gene"].nunique(),
        "links_replicated_percent": 100 * shares["replicated"],
    }


def row(
    n_features: int,
    genes_df: pd.DataFrame,
    links_df: pd.DataFrame,
    left_out_df: pd.DataFrame,
    q_threshold: float,
) -> dict[str, float]:
    """The row of a representation: n_features, `counts` and, of spots, sections_replicated_percent: the share
    that replicates on each section left out (`sections_left_out.each_left_out`), averaged.
    """
    made: dict[str, float] = {"n_features": n_features} | counts(genes_df, links_df, q_threshold)
    if len(left_out_df):
        made["sections_replicated_percent"] = 100 * left_out_df["replicated"].astype(float).mean()
    return made


def of_features(
    log_df: pd.DataFrame, features_df: pd.DataFrame, test_df: pd.DataFrame, other_df: pd.DataFrame, how: How
) -> dict[str, float]:
    """`row` of any features: tested on some samples, replicated on others, sections left out.

    Parameters
    ----------
    log_df, features_df : genes and features x samples, of both sets.
    test_df, other_df : samples tables of the two sets.
    """
    test, other = test_df["sample_id"].tolist(), other_df["sample_id"].tolist()
    tests, links_df = find(log_df[test], features_df[test], test_df, how)
    given = how.covariates, how.covariate_slopes
    sides, _ = replication.sides_of(log_df[other], features_df[other], other_df, *given)
    both_df = pd.concat([test_df, other_df], ignore_index=True)
    left_out_df = pd.DataFrame()
    if spots.are_spots(both_df):
        left_out = each_left_out(log_df[test + other], features_df[test + other], both_df, how)
        left_out_df = left_out.sections_df
    links_df = replication.held_against(links_df, sides)
    return row(len(features_df), tests.genes_df, links_df, left_out_df, how.q_threshold)
