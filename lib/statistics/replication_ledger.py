"""The ledger of replication: which units had a part in finding each link, and what the others say of it.

A unit replicates a link if it had no part in finding it, r has the sign of the link there, and q <= the
threshold. By chance half of the signs agree, and one link in twenty reaches p <= 0.05 in its direction.

A section that took part in finding a link favours it, even where the link is found without the section too:
only links that also hold there were found. On her2st over 99 % of such links replicate on section C4, but of
the genes' strongest links found without it 59 %. These sections are shown and not counted.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.statistics import link_tests, replication

# What a unit is to a link: it took part in finding it, or did though the link is found without it too; or had
# no part, as validation samples, a section of these, another cohort, a section of that.
FOUND, LEFT_OUT = "found", "left out"
VALIDATION, SECTION, COHORT, COHORT_SECTION = "validation", "section", "cohort", "cohort section"
UNSEEN = (VALIDATION, SECTION, COHORT, COHORT_SECTION)
ELSEWHERE = (SECTION, COHORT)  # counted beside the validation samples; a cohort's sections are in it already
KEY = ["gene", "feature"]
ROLES = ["role", "same_sign", "q"]  # columns that `with_roles` adds to LEDGER
SHARES = ["links", "same_sign", "nominal", "replicated"]


def with_roles(
    ledger_df: pd.DataFrame, links_df: pd.DataFrame, unseen: Mapping[str, tuple[str, link_tests.Sides]],
    left_out_df: pd.DataFrame,
) -> pd.DataFrame:  # fmt: skip
    """The ledger with role, same_sign and q.

    Parameters
    ----------
    ledger_df : `meta_analysis.ledger`.
    links_df : all links: gene, feature, r_within.
    unseen : units no sample of which took part in finding links: their role and both sides.
    left_out_df : links found without a section (`sections_left_out`): section, gene, feature, q there.

    Returns
    -------
    DataFrame: ledger_df and role, same_sign (1 or 0: whether r has the sign of the link) and q (one-sided p
    in the direction of the link, Benjamini-Hochberg over all links held against the unit; missing where the
    role is FOUND).
    """
    links_df = links_df.astype(dict.fromkeys(KEY, object))
    keys = pd.MultiIndex.from_frame(ledger_df[KEY].astype(object))
    of_link = pd.Series(
        np.sign(links_df["r_within"].to_numpy(float)), pd.MultiIndex.from_frame(links_df[KEY])
    )
    sign = np.sign(ledger_df["r"].to_numpy(float))
    same_sign = (sign == of_link.reindex(keys).to_numpy()).astype(float)
    df = ledger_df.assign(role=FOUND, same_sign=same_sign, q=np.nan)
    for unit, (role, sides) in unseen.items():
        q = replication.replicate(links_df, sides)["q"].set_axis(of_link.index)
        here = (df["unit"] == unit).to_numpy()
        df.loc[here, "role"], df.loc[here, "q"] = role, q.reindex(keys[here]).to_numpy()
    for section, of_section_df in left_out_df.groupby("section"):
        q = of_section_df.set_index(KEY)["q"]
        here = ((df["unit"] == section) & (df["role"] == FOUND)).to_numpy() & keys.isin(q.index)
        df.loc[here, "role"], df.loc[here, "q"] = LEFT_OUT, q.reindex(keys[here]).to_numpy()
    return df


def unseen(
    units: Mapping[str, link_tests.Sides], others: Mapping[str, link_tests.Sides], found_on_df: pd.DataFrame
) -> dict[str, tuple[str, link_tests.Sides]]:
    """Role and sides of the units that had no part in finding links.

    Parameters
    ----------
    units : of this cohort: "validation" and "test", or its sections.
    others : other cohorts by name, and their sections as "<cohort>: <section>".
    found_on_df : the samples that links were found on.
    """
    seen = {"test", *found_on_df["slide_id"].astype(str)}
    made = {
        name: (VALIDATION if name == "validation" else SECTION, of)
        for name, of in units.items()
        if name not in seen
    }
    return made | {n: (COHORT_SECTION if ": " in n else COHORT, of) for n, of in others.items()}


def replicated(ledger_df: pd.DataFrame, q_threshold: float) -> pd.Series:
    """Whether the unit replicates the link, for each row of the ledger."""
    return (ledger_df["same_sign"] == 1) & (ledger_df["q"] <= q_threshold)


def counted_elsewhere(ledger_df: pd.DataFrame, q_threshold: float) -> pd.DataFrame:
    """In how many unseen sections and other cohorts each link replicates.

    Returns
    -------
    DataFrame, index gene, feature: elsewhere_of (units), elsewhere (of these replicate it), same_elsewhere
    (of these have its sign), and the least and the largest r there: r_elsewhere, r_elsewhere_high. Links that
    no such unit has are left out.
    """
    df = ledger_df[ledger_df["role"].isin(ELSEWHERE)].astype(dict.fromkeys(KEY, object))
    df["holds"] = replicated(df, q_threshold)
    return df.groupby(KEY, sort=False).agg(
        elsewhere_of=("unit", "size"),
        elsewhere=("holds", "sum"),
        same_elsewhere=("same_sign", "sum"),
        r_elsewhere=("r", "min"),
        r_elsewhere_high=("r", "max"),
    )


def shares(ledger_df: pd.DataFrame, q_threshold: float) -> pd.DataFrame:
    """Of each gene's strongest link, how many hold in each other cohort.

    Parameters
    ----------
    ledger_df : with roles; the strongest link of a gene first.

    Returns
    -------
    DataFrame, index unit: links (known there), and the shares same_sign, nominal (p <= q_threshold in the
    direction of the link) and replicated, as in `replication.summarise`.
    """
    strongest_df = ledger_df.drop_duplicates("gene")[KEY]
    df = ledger_df[ledger_df["role"] == COHORT].merge(strongest_df, on=KEY)
    one_sided = np.where(df["same_sign"] == 1, df["p"] / 2, 1 - df["p"] / 2)
    df = df.assign(nominal=one_sided <= q_threshold, replicated=replicated(df, q_threshold))
    grouped = df.groupby("unit", sort=False)
    return grouped[SHARES[1:]].mean().assign(links=grouped.size())[SHARES]
