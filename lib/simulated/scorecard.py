"""What a run found, compared with the truth planted in the demo cohort.

A gene is *called* when it has a link: a feature that it follows within tissues. Truth: direct genes are
driven by a hidden quantity of the slide (nuclear density, lumen size, ...), markers by the tissue alone,
covariate genes by how the sample was handled, null genes by nothing.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.simulated import planted_sets
from lib.simulated.slides import QUANTITIES
from lib.statistics.link_tests import LinkTests
from lib.statistics.links import q_of_pairs
from lib.statistics.residuals import centre, unit_length

KINDS = ("direct", "marker", "covariate", "null")
# what a pair truly is; for a direct gene it depends on how well the feature follows the gene's quantity
PAIR_KINDS = ("direct", "weak", "unrelated", "marker", "covariate", "null")
LINKS, UNADJUSTED = "links", "covariates not taken out"  # names of tests
FOLLOWS = 0.5  # |r| within tissues: the quantity explains at least a quarter of the feature's variance there
MOST_PAIRS = 4_000_000  # scored; of more, every k-th feature


class Truth(NamedTuple):
    """What is true of genes and features.

    genes_df : index gene; kind, quantity (of direct genes).
    r_df : float64, features x quantities; correlation within tissues over slides that no test has used.
    chance_r : |r| that so many slides cannot distinguish from 0.
    """

    genes_df: pd.DataFrame
    r_df: pd.DataFrame
    chance_r: float


def known_truth(genes_df: pd.DataFrame, quantities_df: pd.DataFrame, unseen_df: pd.DataFrame) -> Truth:
    """The truth of genes (`demo_cohort.read_truth`), and of features from samples that no test has used."""
    hidden_df, tissues = quantities_df.loc[unseen_df.columns, list(QUANTITIES)].T, quantities_df["tissue"]
    r_df = within_tissue_r(unseen_df, hidden_df, tissues)
    return Truth(genes_df, r_df, chance_r(unseen_df.shape[1], tissues.nunique()))


def within_tissue_r(a_df: pd.DataFrame, b_df: pd.DataFrame, tissues: pd.Series) -> pd.DataFrame:
    """Correlation of every row of a_df with every row of b_df within tissues, float64.

    a_df, b_df : variables x samples, the same samples in any order; rows constant within tissues give 0.
    """
    samples = a_df.columns
    groups = pd.factorize(tissues.loc[samples])[0]
    sides = (df[samples].to_numpy(np.float64).copy() for df in (a_df, b_df))
    a, b = (unit_length(centre(rows, groups)) for rows in sides)
    return pd.DataFrame(a @ b.T, index=a_df.index, columns=b_df.index)


def chance_r(n_slides: int, n_tissues: int) -> float:
    """|r| within tissues that so many slides cannot distinguish from 0 (two-sided, 5 %)."""
    return 1.96 / np.sqrt(max(n_slides - n_tissues, 1))


def score_genes(truth: Truth, genes_df: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Called genes by what they truly are.

    genes_df : index gene; q (called at or below threshold), feature (the best one within tissues). Genes it
        lacks were not tested.

    Returns index kind; genes, tested, called, share_called (of the tested), right_quantity (called by a
    feature that best follows the gene's own quantity), share_right (of the tested).
    """
    joined_df = truth.genes_df.join(genes_df[["q", "feature"]], how="left")
    called = joined_df["q"] <= threshold
    best = truth.r_df.columns[truth.r_df.abs().to_numpy().argmax(axis=1)]
    followed = joined_df["feature"].map(dict(zip(truth.r_df.index, best, strict=True)))
    flags = {
        "genes": True, "tested": joined_df["q"].notna(), "called": called,
        "right_quantity": called & (followed == joined_df["quantity"]),
    }  # fmt: skip
    counts_df = joined_df.assign(**flags).groupby("kind")[list(flags)].sum()
    score_df = counts_df.reindex(KINDS, fill_value=0).astype(int).rename_axis("kind")
    tested_or_one = score_df["tested"].clip(lower=1)
    score_df.insert(3, "share_called", score_df["called"] / tested_or_one)
    score_df["share_right"] = score_df["right_quantity"] / tested_or_one
    score_df.loc[score_df.index != "direct", ["right_quantity", "share_right"]] = np.nan
    return score_df


def every_pair(genes: Sequence[str] | pd.Index, features: Sequence[str] | pd.Index) -> pd.DataFrame:
    """Each gene with each feature (columns gene, feature); with every k-th feature beyond MOST_PAIRS."""
    step = max(1, -(-len(genes) * len(features) // MOST_PAIRS))
    chosen = np.asarray(features, object)[::step]
    repeated = np.repeat(np.asarray(genes, object), len(chosen))
    return pd.DataFrame({"gene": repeated, "feature": np.tile(chosen, len(genes))})


def pair_kinds(pairs_df: pd.DataFrame, truth: Truth) -> pd.Series:
    """What each pair (gene, feature) truly is, one of PAIR_KINDS.

    A pair of a direct gene is *direct* if its feature follows the gene's quantity within tissues (|r| at
    least FOLLOWS), *unrelated* if it does not (|r| below chance_r), and *weak* in between: linked, but too
    weakly to be required, and no error if called. All other pairs are of the gene's kind.

    KeyError if genes or features are not in the truth.
    """
    for what, known in (("gene", truth.genes_df), ("feature", truth.r_df)):
        unknown = pd.Index(pairs_df[what].unique()).difference(known.index)
        if len(unknown):
            raise KeyError(f"{len(unknown)} {what}s of the pairs are not in the truth, first {unknown[0]!r}")
    genes = truth.genes_df.index.get_indexer(pd.Index(pairs_df["gene"]))
    kinds = truth.genes_df["kind"].to_numpy(object)[genes]
    is_direct = np.flatnonzero(kinds == "direct")
    quantity = truth.r_df.columns.get_indexer(pd.Index(truth.genes_df["quantity"]))[genes[is_direct]]
    feature = truth.r_df.index.get_indexer(pd.Index(pairs_df["feature"].iloc[is_direct]))
    r = np.abs(truth.r_df.to_numpy()[feature, quantity])
    kinds[is_direct] = np.select([r >= FOLLOWS, r >= truth.chance_r], ["direct", "weak"], "unrelated")
    return pd.Series(kinds, index=pairs_df.index)


def score_pairs(kinds: pd.Series, called_df: pd.DataFrame) -> pd.DataFrame:
    """Index kind (PAIR_KINDS); pairs of this kind, and the number called by each test (a bool column)."""
    grouped = called_df.groupby(kinds.to_numpy()).sum().reindex(PAIR_KINDS, fill_value=0).astype(int)
    grouped.insert(0, "pairs", kinds.value_counts().reindex(PAIR_KINDS, fill_value=0))
    return grouped.rename_axis("kind")


def precision_recall(score_df: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of each test in `score_pairs`, with the counts behind them.

    Precision: the direct share of the direct and the falsely called. Recall: the called share of the direct.
    `weak`: weak pairs called, counted neither as right nor as wrong.
    """
    rows = {}
    for test in score_df.columns.drop("pairs"):
        called = score_df[test]
        right, direct = int(called["direct"]), int(score_df["pairs"]["direct"])
        n_called = right + int(called[["unrelated", "marker", "covariate", "null"]].sum())
        rows[test] = {
            "precision": right / max(n_called, 1), "recall": right / max(direct, 1), "right": right,
            "called": n_called, "direct": direct, "weak": int(called["weak"]),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def score_calls(
    q_df: pd.DataFrame, n_marker_pairs: int, truth: Truth, threshold: float
) -> list[pd.DataFrame]:
    """`score_pairs` of every pair, of the marker pairs, and of every pair against permuted truth.

    q_df : gene, feature, q_within_tissue and, with covariates, q_covariates, which then is the q of links;
        first the n_marker_pairs marker pairs, then every pair.
    """
    tests = {"q_covariates": LINKS, "q_within_tissue": UNADJUSTED}
    tests = tests if "q_covariates" in q_df else {"q_within_tissue": LINKS}
    called_df = (q_df[list(tests)] <= threshold).set_axis(list(tests.values()), axis=1)
    marker_pairs, every = slice(n_marker_pairs), slice(n_marker_pairs, None)
    kinds = pair_kinds(q_df, truth)
    control = pair_kinds(q_df.iloc[every], truth._replace(genes_df=permute_labels(truth.genes_df)))
    return [
        score_pairs(kinds.iloc[every], called_df.iloc[every]),
        score_pairs(kinds.iloc[marker_pairs], called_df.iloc[marker_pairs, :1].add_suffix(", marker pairs")),
        score_pairs(control, called_df.iloc[every, :1].add_suffix(", permuted truth")),
    ]


def score_links(
    links_df: pd.DataFrame, genes_df: pd.DataFrame, n_features: int, truth: Truth, threshold: float
) -> dict[str, tuple[float, str]]:
    """Lines of `summary` on the table of links (`link_table.describe`): how many, of which genes, and the
    precision of its clumps, each judged by its lead feature.

    genes_df : index gene; q of the genes tested.
    """
    found = genes_df.index[genes_df["q"] <= threshold]
    listed, n_pairs = found.isin(links_df["gene"]).sum(), len(genes_df) * n_features
    leads_df = links_df.loc[links_df["clump_lead"], ["gene", "feature"]].astype(object)
    kinds = pair_kinds(leads_df, truth).value_counts().reindex(PAIR_KINDS, fill_value=0)
    judged = int(kinds.drop("weak").sum())
    return {
        "links listed": (len(links_df) / max(n_pairs, 1), f"{len(links_df):,} of {n_pairs:,} pairs tested"),
        "genes found that have a listed link": (
            listed / max(len(found), 1), f"{listed:,} of {len(found):,}"
        ),
        "precision of clumps": (
            kinds["direct"] / max(judged, 1),
            f"{kinds['direct']:,} of {judged:,} called; {kinds['weak']:,} weak ones also called",
        ),
    }  # fmt: skip


def permute_labels(truth_df: pd.DataFrame) -> pd.DataFrame:
    """Truth with gene labels permuted: a negative control, against which no run should score well."""
    order = np.random.default_rng(0).permutation(len(truth_df))
    return truth_df.iloc[order].set_axis(truth_df.index)


def missed(card_df: pd.DataFrame, least_precision: float, least_recall: float) -> list[str]:
    """Sentences on the targets that the links miss over all pairs (`summary`); none: all met.

    A target of 0 requires nothing; a line that is absent or not a number misses its target.
    """
    targets = {f"pair precision, {LINKS}": least_precision, f"pair recall, {LINKS}": least_recall}
    values = card_df["value"].reindex(list(targets))
    return [
        f"{name} is {values[name]:.1%}; at least {least:.0%} is required"
        for name, least in targets.items()
        if least and not values[name] >= least
    ]


class Run(NamedTuple):
    """What a run found.

    tests : "within_tissue" and, where the cohort names covariates, "covariates".
    links_df : `link_table.describe`. genes_df : `links.genes_table`.
    marker_pairs_df : gene, feature.
    sets_df, planted_df : `gene_sets.table`, `planted_sets.read_sets`; None where no sets were tested or
        planted.
    """

    tests: dict[str, LinkTests]
    links_df: pd.DataFrame
    genes_df: pd.DataFrame
    marker_pairs_df: pd.DataFrame
    q_threshold: float
    sets_df: pd.DataFrame | None = None
    planted_df: pd.DataFrame | None = None


def tables(run: Run, truth: Truth, accuracy_df: pd.DataFrame | None) -> dict[str, tuple[pd.DataFrame, str]]:
    """The tables that compare a run with the truth, by stem, each with its caption; last the scorecard.

    accuracy_df : `accuracy.accuracy_table`, or None where no network was run.
    """
    q, sides = run.q_threshold, run.tests["within_tissue"].sides
    names = [LINKS, UNADJUSTED][: len(run.tests)]
    genes = {
        name: score_genes(truth, test.genes_df, q)
        for name, test in zip(names, reversed(run.tests.values()), strict=True)
    }
    marker_df = run.marker_pairs_df[["gene", "feature"]]
    marker_df = marker_df[marker_df["gene"].isin(run.genes_df.index)]
    asked_df = pd.concat([marker_df, every_pair(run.genes_df.index, sides.features)], ignore_index=True)
    asked_df = asked_df.assign(
        **{f"q_{name}": q_of_pairs(test, asked_df) for name, test in run.tests.items()}
    )
    scores = score_calls(asked_df, len(marker_df), truth, q)
    listed = score_links(run.links_df, run.genes_df, len(sides.features), truth, q)
    if run.sets_df is not None and run.planted_df is not None:
        listed |= planted_sets.score_sets(run.sets_df, run.planted_df, truth.r_df, q)
    by_test_df = pd.concat(genes, names=["test"]).reset_index("test")
    what = f"called at q <= {q}, by what they truly are."
    return {
        "scorecard_links": (by_test_df, f"Genes {what}"),
        "scorecard_pairs": (pd.concat(scores, axis=1), f"Pairs of expressed genes {what}"),
        "scorecard": (
            summary(accuracy_df, genes, scores, listed),
            "This run compared with the planted truth of its cohort.",
        ),
    }


def summary(
    accuracy_df: pd.DataFrame | None,
    genes: Mapping[str, pd.DataFrame],
    pairs: Sequence[pd.DataFrame] = (),
    listed: Mapping[str, tuple[float, str]] | None = None,
) -> pd.DataFrame:
    """The scorecard: index measure; value (a share), detail (counts in words).

    accuracy_df : `accuracy.accuracy_table`; its test rows are used. None where no network was run.
    genes : tables of `score_genes` by test (LINKS, UNADJUSTED).
    pairs : tables of `score_pairs`, each column named after its test.
    listed : of `score_links`.
    """
    rows = {}
    on_test = [] if accuracy_df is None else accuracy_df[accuracy_df["split"] == "test"].to_dict("records")
    for row in on_test:
        detail = f"{row['correct']:.0f} of {row['n']:.0f}, {row['n_classes']} classes"
        rows[f"test {row['level']} accuracy"] = (row["accuracy"], detail)
    for test, scores_df in genes.items():
        rows |= _gene_lines(scores_df, "" if test == LINKS else f", {test}")
    rows |= listed or {}
    for score_df in pairs:
        for test, row in precision_recall(score_df).iterrows():
            right = f"{row['right']:,.0f} of"
            detail = f"{right} {row['called']:,.0f} called; {row['weak']:,.0f} weak pairs also called"
            rows[f"pair precision, {test}"] = row["precision"], detail
            rows[f"pair recall, {test}"] = row["recall"], f"{right} {row['direct']:,.0f} direct pairs"
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "detail"]).rename_axis("measure")


def _gene_lines(scores_df: pd.DataFrame, how: str) -> dict[str, tuple[float, str]]:
    """Lines of `summary` about genes; `how` ends their names."""
    named = {
        "direct genes found (recall)": ("direct", "share_called", "called"),
        "... by a feature of the right quantity": ("direct", "share_right", "right_quantity"),
        "null genes called (false positives)": ("null", "share_called", "called"),
        "marker genes called (false positives)": ("marker", "share_called", "called"),
        "covariate genes called (stain, not biology)": ("covariate", "share_called", "called"),
    }
    rows = {}
    for name, (kind, share, count) in named.items():
        row = scores_df.loc[kind]
        rows[f"{name}{how}"] = (row[share], f"{row[count]:.0f} of {row['tested']:.0f} tested")
    called, false = scores_df["called"].sum(), scores_df.loc[["null", "marker"], "called"].sum()
    rows[f"false discovery proportion{how}"] = (false / max(called, 1), f"{false:.0f} of {called:.0f} called")
    return rows
