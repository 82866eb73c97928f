"""The table of links: each link with what a reader needs to judge it."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.statistics import clumps, heterogeneity, replication, sensitivity, sequential
from lib.statistics.correlation import r_of_pairs
from lib.statistics.link_tests import LinkTests, Sides
from lib.statistics.links import find_links, q_of_pairs

BLOCK_LINKS = 20_000
MOST_ROWS = 200_000  # of a csv for people
CATEGORIES = ("gene", "symbol", "feature", "tissue", "clump", "carried_by")
# columns of the table in order; those on replication only where there are other samples
COLUMNS = (
    *("gene", "symbol", "feature", "layer", "channel", "r_within", "low", "high", "n_effective", "r"),
    *("p", "q", "q_covariates", "tissue", "clump", "clump_lead", "i2", "p_heterogeneity", "carried_by"),
    *("share", "low_without", "high_without", "robustness", "inflation", "statistic"),
    *("r_validation", "low_validation", "high_validation", "p_validation", "q_validation", "same_sign"),
)


class Context(NamedTuple):
    """What describes links beyond their test.

    log_df, features_df : of all genes and features, over the samples tested.
    medians_df : index gene; symbol, tissue (of highest expression).
    tissues : names of the groups.
    validation : the same sides on other samples (`link_tests.prepare`), or None.
    """

    log_df: pd.DataFrame
    features_df: pd.DataFrame
    medians_df: pd.DataFrame
    tissues: list[str]
    validation: Sides | None = None


def describe(tests: dict[str, LinkTests], q_threshold: float, context: Context) -> pd.DataFrame:
    """The links of the headline test (the last: with covariates out where there are any).

    Parameters
    ----------
    tests : "within_tissue" and, where the cohort names covariates, "covariates".

    Returns
    -------
    DataFrame of COLUMNS. q: without covariates taken out; q_covariates: with them out (missing where the
    cohort names none); one of the two called the link. clump: lead feature of the near-copies; clump_lead:
    whether this is its gene's strongest link in the clump. i2, p_heterogeneity, carried_by, share (of the
    covariance that this tissue carries), low_without, high_without (r when one tissue is left out): see
    `heterogeneity`. robustness: see `sensitivity`. ..._validation: see `replication`.
    """
    headline = list(tests.values())[-1]
    df = find_links(headline, q_threshold)
    called = df["q"]
    df["q"] = q_of_pairs(tests["within_tissue"], df) if len(tests) > 1 else called
    df["q_covariates"] = called if len(tests) > 1 else np.nan
    df["symbol"] = context.medians_df["symbol"].reindex(df["gene"]).to_numpy()
    df["tissue"] = context.medians_df["tissue"].reindex(df["gene"]).to_numpy()
    places = df["feature"].str.extract(r"^(\d+)_(\d+)$").astype(float)
    df["layer"], df["channel"] = (places[k].astype("Int64") for k in (0, 1))
    df["r"] = r_of_pairs(context.log_df, context.features_df, df) if len(df) else np.empty(0)
    df["robustness"] = sensitivity.robustness(df["r_within"].to_numpy())
    clump = clumps.find_clumps(headline.sides.y, headline.sides.features)["clump"]
    df["clump"] = df["feature"].map(clump)
    df["clump_lead"] = ~df.duplicated(["gene", "clump"])  # rows fall by statistic within a gene
    df = df.join(_where(df, headline.sides, context.tissues))
    if context.validation is not None:
        df = replication.held_against(df, context.validation)
    df = df.reindex(columns=[name for name in COLUMNS if name in df])
    return df.astype({name: "category" for name in CATEGORIES if name in df})


def _where(df: pd.DataFrame, sides: Sides, tissues: list[str]) -> pd.DataFrame:
    """How far the tissues of each link differ, which one carries it, and r when one is left out."""
    parts = []
    for start in range(0, len(df), BLOCK_LINKS):
        at_df = df.iloc[start : start + BLOCK_LINKS]
        g, f = sides.places(at_df)
        x, y = sides.x[g], sides.y[f]
        by_tissue_df = heterogeneity.by_tissue(x, y, sides.groups, tissues, at_df["inflation"].to_numpy())
        part_df = heterogeneity.summary(by_tissue_df, len(at_df))
        part_df = part_df.join(heterogeneity.leave_one_tissue_out(x, y, sides.groups))
        parts.append(part_df.set_axis(at_df.index))
    columns = ["i2", "p_heterogeneity", "carried_by", "share", "low_without", "high_without"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns, index=df.index)


def of_tissues(df: pd.DataFrame, sides: Sides, tissues: list[str]) -> pd.DataFrame:
    """r of links in each tissue (`heterogeneity.by_tissue`) with gene and feature; for a table or a figure.

    df : gene, feature, inflation of the links.
    """
    g, f = sides.places(df)
    parts_df = heterogeneity.by_tissue(
        sides.x[g], sides.y[f], sides.groups, tissues, df["inflation"].to_numpy()
    )
    names_df = df[["gene", "feature"]].reset_index(drop=True)
    return names_df.loc[parts_df["link"]].reset_index(drop=True).join(parts_df.drop(columns="link"))


def of_clumps(links_df: pd.DataFrame) -> pd.DataFrame:
    """Each clump with a link: how many genes follow it, the gene that follows it best, and where it lies.

    links_df : `describe`. Returns: index clump (by falling n_genes); n_genes, n_features (of these linked),
    symbol and r_within of the strongest link, and for each layer the number of linked features,
    `layer_<number>` (features that lie in no layer are in no column).
    """
    by_clump = links_df.groupby("clump", observed=True)
    strongest_df = links_df.loc[by_clump["statistic"].idxmax()].set_index("clump")
    df = by_clump.agg(n_genes=("gene", "nunique"), n_features=("feature", "nunique"))
    df = df.join(strongest_df[["symbol", "r_within"]].astype({"symbol": "str"}))
    places_df = links_df[["clump", "feature", "layer"]].drop_duplicates().dropna(subset="layer")
    counts_df = pd.crosstab(places_df["clump"], places_df["layer"]).add_prefix("layer_")
    df = df.join(counts_df).fillna(dict.fromkeys(counts_df.columns, 0)).astype(dict.fromkeys(counts_df, int))
    df.index = df.index.astype("str")
    return df.sort_values(["n_genes", "n_features"], ascending=False, kind="stable")


def null_table(tests: LinkTests) -> pd.DataFrame:
    """The null maxima that each gene's p rests on, to place other pairs of the gene among them.

    Returns
    -------
    Index gene: p; n_reached (shuffles that reach the gene's own statistic); maxima, float32 rising.
    """
    null = tests.null
    maxima = [np.sort(null.null_of(gene)) for gene in range(len(null.p))]
    columns = {"p": null.p, "n_reached": null.n_reached, "maxima": maxima}
    return pd.DataFrame(columns, index=tests.genes_df.index)


def reach(tests: LinkTests, n_permutations: int, q_threshold: float) -> str:
    """In words: whether so many permutations can call a gene at all."""
    n, p = len(tests.genes_df), tests.genes_df["p"]
    needed = sequential.genes_needed(n, n_permutations, q_threshold)
    floor = 1 / (1 + n_permutations)
    at_floor = int((p <= floor * (1 + 1e-9)).sum())
    words = (
        f"{n:,} genes, {tests.genes_df['n_permutations'].mean():.0f} permutations each on average, "
        f"{n_permutations:,} at most: the smallest p is {floor:.2g}, reached by {at_floor:,} genes; "
        f"{needed:,} must reach it for q <= {q_threshold:g}"
    )
    return words if at_floor >= needed else f"{words}; if none is found, raise link_permutations"


def counts(tests: dict[str, LinkTests], links_df: pd.DataFrame, q_threshold: float) -> pd.DataFrame:
    """Genes tested, genes with a link, links, and links counted once a clump; a row for each test."""
    rows = {}
    for name, test in tests.items():
        is_headline = name == list(tests)[-1]
        df = links_df if is_headline else find_links(test, q_threshold)
        row = {
            "genes_tested": len(test.genes_df),
            "genes_found": int((test.genes_df["q"] <= q_threshold).sum()),
        }
        row |= {"links": len(df), "genes_with_a_link": int(df["gene"].nunique())}
        row |= {"links_of_clumps": int(links_df["clump_lead"].sum()) if is_headline else pd.NA}
        rows["covariates out" if name == "covariates" else "covariates not taken out"] = row
    return pd.DataFrame.from_dict(rows, orient="index").astype("Int64")


def for_people(
    links_df: pd.DataFrame, q_threshold: float, covariates_out: bool, within: str = "tissues"
) -> tuple[pd.DataFrame, str]:
    """The links as a csv (four significant digits) and its caption: all, or of very many each gene's
    strongest in every clump.
    """
    n, n_genes = len(links_df), links_df["gene"].nunique()
    out = "covariates out" if covariates_out else "the cohort names no covariates"
    caption = f"{n:,} links of {n_genes:,} genes at q <= {q_threshold:g} within {within} ({out})"
    if n <= MOST_ROWS:
        return _rounded(links_df), f"{caption}; clump_lead: the strongest of its gene and clump."
    leads_df = links_df[links_df["clump_lead"]]
    caption = f"{caption}; a row for the strongest of each gene and clump, {len(leads_df):,} rows."
    return _rounded(leads_df), caption


def _rounded(df: pd.DataFrame) -> pd.DataFrame:
    numbers = df.select_dtypes("float").columns
    return df.assign(**{name: [float(f"{value:.4g}") for value in df[name]] for name in numbers})
