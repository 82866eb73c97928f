"""Does what is found on some sections hold on one that was left out? Each section in turn."""

from typing import NamedTuple

import pandas as pd

from lib.errors import InputError
from lib.statistics import clumps, link_tests, permutations, replication, spots
from lib.statistics.links import find_links
from lib.statistics.residuals import covariate_table

LEAST_SECTIONS = 3  # two to find links on, one to hold them against
MOST_SHUFFLES = 1000  # of each of these tests
SHARES = ("same_sign", "nominal", "replicated", "pi1")


class How(NamedTuple):
    """Parameters of the test of links, under their names in a cohort's configuration."""

    covariates: tuple[str, ...] = ()
    covariate_slopes: str = "per group"
    link_permutations: int = 1000
    link_exceedances: int = 10
    q_threshold: float = 0.05
    seed: int = 0


def find(
    log_df: pd.DataFrame, features_df: pd.DataFrame, samples_df: pd.DataFrame, how: How
) -> tuple[link_tests.LinkTests, pd.DataFrame]:
    """The test of links, covariates out, and its links with clump and clump_lead.

    Parameters
    ----------
    log_df, features_df : genes and features x samples. samples_df : of these samples, in the same order.
    """
    shuffles = permutations.draw("within_tissue", how.link_permutations, samples_df, how.seed)
    plan = link_tests.Plan(how.link_exceedances, slopes=how.covariate_slopes, progress=False)
    columns_df = covariate_table(samples_df, how.covariates) if how.covariates else None
    tests = link_tests.run(log_df, features_df, samples_df, shuffles, columns_df, plan)
    links_df = find_links(tests, how.q_threshold)
    clump = clumps.find_clumps(tests.sides.y, tests.sides.features)["clump"]
    links_df["clump"] = links_df["feature"].map(clump)
    links_df["clump_lead"] = ~links_df.duplicated(["gene", "clump"])
    return tests, links_df


class LeftOut(NamedTuple):
    """What holds on sections that were left out; empty where there are too few.

    sections_df : a row for each section: section, n (spots), genes_tested, genes_found and links (on the
        others), and of each gene's strongest link same_sign, nominal, replicated, pi1 on the section
        (`replication.summarise`).
    links_df : the links found on the others: section, gene, feature, and q on the section (one-sided, in the
        direction of the link; Benjamini-Hochberg over these links).
    """

    sections_df: pd.DataFrame
    links_df: pd.DataFrame


NONE_LEFT_OUT = LeftOut(
    pd.DataFrame(columns=["section", "n", "genes_tested", "genes_found", "links", *SHARES]),
    pd.DataFrame(columns=["section", "gene", "feature", "q"]),
)


def each_left_out(
    log_df: pd.DataFrame, features_df: pd.DataFrame, samples_df: pd.DataFrame, how: How
) -> LeftOut:
    """Links found on all sections but one, held against that one; at most MOST_SHUFFLES shuffles each.

    Fewer than LEAST_SECTIONS sections of FEW_SPOTS spots give NONE_LEFT_OUT.
    """
    how = how._replace(link_permutations=min(MOST_SHUFFLES, how.link_permutations))
    sizes = samples_df["slide_id"].value_counts().sort_index()
    sections = sizes.index[sizes >= spots.FEW_SPOTS]
    rows, links = [], []
    for section in sections if len(sections) >= LEAST_SECTIONS else []:
        here_df = samples_df[samples_df["slide_id"] == section]
        others_df = samples_df[samples_df["slide_id"].isin(sections.drop(section))]
        here, others = here_df["sample_id"].tolist(), others_df["sample_id"].tolist()
        try:
            tests, links_df = find(log_df[others], features_df[others], others_df, how)
        except InputError as error:
            raise InputError(f"without section {section}: {error}") from error
        found, given = links_df["gene"].unique(), (how.covariates, how.covariate_slopes)
        of_found = log_df[here].loc[log_df.index.isin(found)]
        sides, _ = replication.sides_of(of_found, features_df[here], here_df, *given)
        held_df = replication.held_against(links_df, sides)
        shares = replication.summarise(held_df, how.q_threshold)
        best = shares.loc["strongest link of each gene"].drop("links")
        counts = {"genes_tested": len(tests.genes_df), "genes_found": len(found), "links": len(links_df)}
        rows.append({"section": section, "n": len(here), **counts, **best})
        held_df = held_df[["gene", "feature", "q_validation"]].astype({"gene": object, "feature": object})
        links.append(held_df.rename(columns={"q_validation": "q"}).assign(section=str(section)))
    if not rows:
        return NONE_LEFT_OUT
    sections_df = pd.DataFrame(rows, columns=NONE_LEFT_OUT.sections_df.columns)
    return LeftOut(sections_df, pd.concat(links, ignore_index=True)[NONE_LEFT_OUT.links_df.columns])
