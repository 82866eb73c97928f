"""What a run found, held against the truth that was planted in the demo cohort.

A gene is *called* when it has a feature it follows within tissues. Truth: direct genes are driven by a hidden
quantity of the slide (nuclear density, lumen size, ...), markers by the tissue alone, covariate genes by how
the sample was handled, nulls by nothing.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.statistics import variation

KINDS = ("direct", "marker", "covariate", "null")
# What a pair truly is; of a direct gene's pairs it depends on how the feature follows the gene's quantity.
PAIR_KINDS = ("direct", "weak", "unrelated", "marker", "covariate", "null")
# q of a pair -> what its test is called here.
TESTS = {
    "q_within_tissue": "within tissue", "q_shuffled": "shuffling alone", "q_covariates": "covariates out",
}  # fmt: skip
FOLLOWS = 0.5  # |r| within tissues: the quantity makes at least a quarter of the feature's variance there


def within_tissue_r(a_df: pd.DataFrame, b_df: pd.DataFrame, tissues: pd.Series) -> pd.DataFrame:
    """Correlation of every row of `a_df` with every row of `b_df`, both centred within each tissue.

    Parameters
    ----------
    a_df, b_df : variables x samples, the same samples (in any order); constant rows give 0.
    tissues : tissue of each sample.

    Returns
    -------
    DataFrame
        Rows of `a_df` x rows of `b_df`, float64.
    """
    samples = a_df.columns
    of_sample = tissues.loc[samples].to_numpy()
    sides = [_centred_unit(df[samples].to_numpy(np.float64), of_sample) for df in (a_df, b_df)]
    return pd.DataFrame(sides[0] @ sides[1].T, index=a_df.index, columns=b_df.index)


def followed_quantity(
    features_df: pd.DataFrame, quantities_df: pd.DataFrame, tissues: pd.Series
) -> pd.DataFrame:
    """The hidden quantity that each feature follows best within tissues.

    Parameters
    ----------
    features_df : features x samples.
    quantities_df : samples x quantities.

    Returns
    -------
    DataFrame
        Index feature; quantity, r_quantity (signed).
    """
    r_df = within_tissue_r(features_df, quantities_df.T[features_df.columns], tissues)
    best = r_df.abs().to_numpy().argmax(axis=1)
    return pd.DataFrame(
        {"quantity": r_df.columns[best], "r_quantity": r_df.to_numpy()[np.arange(len(r_df)), best]},
        index=r_df.index,
    )


def score_links(truth_df: pd.DataFrame, calls_df: pd.DataFrame, followed_df: pd.DataFrame) -> pd.DataFrame:
    """Called genes by what they truly are.

    Parameters
    ----------
    truth_df : index gene; kind, quantity (of direct genes).
    calls_df : index gene; called (bool), feature (the best one within tissues). Genes it lacks were not
        tested.
    followed_df : index feature; quantity (`followed_quantity`).

    Returns
    -------
    DataFrame
        Index kind; genes, tested, called, share_called (of the tested), right_quantity (called by a feature
        that follows the gene's own quantity), share_right (of the tested).
    """
    joined_df = truth_df.join(calls_df, how="left")
    tested = joined_df["called"].notna()
    called = joined_df["called"].eq(True)
    followed = joined_df["feature"].map(followed_df["quantity"])
    right = called & (followed == joined_df["quantity"])
    rows = {
        kind: {
            "genes": int(of_kind.sum()),
            "tested": int((of_kind & tested).sum()),
            "called": int((of_kind & called).sum()),
            "right_quantity": int((of_kind & right).sum()),
        }
        for kind in KINDS
        for of_kind in [joined_df["kind"] == kind]
    }
    score_df = pd.DataFrame.from_dict(rows, orient="index").rename_axis("kind")
    tested_or_one = score_df["tested"].clip(lower=1)
    score_df.insert(3, "share_called", score_df["called"] / tested_or_one)
    score_df["share_right"] = score_df["right_quantity"] / tested_or_one
    score_df.loc[score_df.index != "direct", ["right_quantity", "share_right"]] = np.nan
    return score_df


def every_pair(genes: Sequence[str], features: Sequence[str], most: int = 4_000_000) -> pd.DataFrame:
    """Each gene with each feature (columns gene, feature); beyond `most` pairs, with every k-th feature."""
    step = max(1, -(-len(genes) * len(features) // most))
    features = np.asarray(features, object)[::step]
    return pd.DataFrame({
        "gene": np.repeat(np.asarray(genes, object), len(features)), "feature": np.tile(features, len(genes)),
    })  # fmt: skip


def like_nothing(n_slides: int, n_tissues: int) -> float:
    """|r| within tissues that so many slides cannot tell from 0 (two-sided, 5 %)."""
    return 1.96 / np.sqrt(max(n_slides - n_tissues, 1))


def pair_kinds(
    pairs_df: pd.DataFrame, truth_df: pd.DataFrame, r_df: pd.DataFrame, ignores: float
) -> pd.Series:
    """What each pair truly is, one of PAIR_KINDS.

    A pair of a direct gene is *direct* if its feature follows the gene's own quantity within tissues (|r| at
    least FOLLOWS), *unrelated* if it ignores it (|r| below `ignores`), and *weak* between: linked, but too
    weakly to be asked for, and no mistake where it is called. All other pairs are of the gene's kind.

    Parameters
    ----------
    pairs_df : gene, feature.
    truth_df : index gene; kind, quantity.
    r_df : features x quantities, `within_tissue_r` over slides that no test of a pair has used.
    ignores : `like_nothing` of these slides.

    Raises
    ------
    KeyError : genes or features that the truth does not know.
    """
    for what, names, known in (("gene", pairs_df["gene"], truth_df), ("feature", pairs_df["feature"], r_df)):
        unknown = pd.Index(names.unique()).difference(known.index)
        if len(unknown):
            raise KeyError(f"{len(unknown)} {what}s of the pairs are not in the truth, first {unknown[0]!r}")
    genes = truth_df.index.get_indexer(pairs_df["gene"])
    kinds = truth_df["kind"].to_numpy(object)[genes]
    is_direct = np.flatnonzero(kinds == "direct")
    quantity = r_df.columns.get_indexer(truth_df["quantity"])[genes[is_direct]]
    feature = r_df.index.get_indexer(pairs_df["feature"].iloc[is_direct])
    r = np.abs(r_df.to_numpy()[feature, quantity])
    kinds[is_direct] = np.select([r >= FOLLOWS, r >= ignores], ["direct", "weak"], "unrelated")
    return pd.Series(kinds, index=pairs_df.index)


def score_pairs(kinds: pd.Series, called_df: pd.DataFrame) -> pd.DataFrame:
    """Pairs called direct, by what they truly are.

    Parameters
    ----------
    kinds : `pair_kinds`. called_df : a bool column for each test, same rows.

    Returns
    -------
    DataFrame
        Index kind (PAIR_KINDS); pairs, and for each test the number called.
    """
    grouped = called_df.groupby(kinds.to_numpy()).sum().reindex(PAIR_KINDS, fill_value=0).astype(int)
    grouped.insert(0, "pairs", kinds.value_counts().reindex(PAIR_KINDS, fill_value=0))
    return grouped.rename_axis("kind")


def precision_recall(score_df: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of each test in `score_pairs`, with the counts behind them; no weak pairs.

    Precision: the direct share of the direct and the falsely called. Recall: the called share of the direct.
    `weak`: how many weak pairs were called beside these, neither right nor wrong.
    """
    tests = [column for column in score_df if column != "pairs"]
    right = score_df.loc["direct", tests]
    called = right + score_df.loc[["unrelated", "marker", "covariate", "null"], tests].sum()
    n_direct = int(score_df.loc["direct", "pairs"])
    return pd.DataFrame({
        "precision": right / called.clip(lower=1), "recall": right / max(n_direct, 1), "right": right,
        "called": called, "direct": n_direct, "weak": score_df.loc["weak", tests],
    })  # fmt: skip


def score_calls(
    q_df: pd.DataFrame,
    n_over: int,
    truth_df: pd.DataFrame,
    r_df: pd.DataFrame,
    ignores: float,
    threshold: float,
) -> list[pd.DataFrame]:
    """All tables of a run's pairs, `score_pairs` of: every pair; those over R_T; every pair, truth shuffled.

    Parameters
    ----------
    q_df : gene, feature and the q of each test (a key of TESTS); the first n_over rows are the pairs over
        R_T, the others every pair.
    truth_df, r_df, ignores : as in `pair_kinds`.
    threshold : q at or below which a pair is called.
    """
    tests = [name for name in TESTS if name in q_df]
    called_df = (q_df[tests] <= threshold).rename(columns=TESTS)
    over, every = slice(n_over), slice(n_over, None)
    kinds = pair_kinds(q_df, truth_df, r_df, ignores)
    no_truth = pair_kinds(q_df[every], shuffled(truth_df), r_df, ignores)
    return [
        score_pairs(kinds[every], called_df[every]),
        score_pairs(kinds[over], called_df[over].iloc[:, :1].add_suffix(", over R_T")),
        score_pairs(no_truth, called_df[every][["shuffling alone"]].add_suffix(", truth shuffled")),
    ]


def shuffled(truth_df: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The truth with what the genes are dealt anew among them: no run should do well against it."""
    order = np.random.default_rng(seed).permutation(len(truth_df))
    return truth_df.iloc[order].set_axis(truth_df.index)


def missed(card_df: pd.DataFrame, least_precision: float, least_recall: float) -> list[str]:
    """Sentences on what shuffling within tissues does not reach over all pairs (`summary`); none: all met.

    A target of 0 asks for nothing; a line that is absent or not a number misses its target.
    """
    targets = {
        "pairs called direct that are, shuffling alone": least_precision,
        "direct pairs called direct, shuffling alone": least_recall,
    }
    values = card_df["value"].reindex(list(targets))
    return [
        f"{name}: {values[name]:.1%}, at least {least:.0%} are asked for"
        for name, least in targets.items()
        if least and not values[name] >= least
    ]


def summary(
    accuracy_df: pd.DataFrame | None,
    links_df: pd.DataFrame,
    given_df: pd.DataFrame | None = None,
    pairs: Sequence[pd.DataFrame] = (),
) -> pd.DataFrame:
    """The scorecard in a few lines: index measure; value (a share), detail (counts in words).

    Parameters
    ----------
    accuracy_df : `accuracy.accuracy_table`; its test rows are used. None where no network was run.
    links_df : `score_links`. given_df : the same with the covariates taken out.
    pairs : tables of `score_pairs`; a column is named after its test.
    """
    rows = {}
    on_test = [] if accuracy_df is None else accuracy_df[accuracy_df["split"] == "test"].itertuples()
    for row in on_test:
        detail = f"{row.correct:.0f} of {row.n:.0f}, {row.n_classes} classes"
        rows[f"{row.level} accuracy"] = (row.accuracy, detail)
    rows |= _gene_lines(links_df, "")
    if given_df is not None:
        rows |= _gene_lines(given_df, ", covariates out")
    for score_df in pairs:
        for test, row in precision_recall(score_df).iterrows():
            counts = (
                f"{row['right']:,.0f} of {row['called']:,.0f}",
                f"{row['right']:,.0f} of {row['direct']:,.0f}",
            )
            detail = f"precision, {counts[0]} pairs; {row['weak']:,.0f} weak ones called beside"
            rows[f"pairs called direct that are, {test}"] = row["precision"], detail
            rows[f"direct pairs called direct, {test}"] = row["recall"], f"recall, {counts[1]} pairs"
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "detail"]).rename_axis("measure")


def _gene_lines(links_df: pd.DataFrame, how: str) -> dict[str, tuple[float, str]]:
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
        row = links_df.loc[kind]
        rows[f"{name}{how}"] = (row[share], f"{row[count]:.0f} of {row['tested']:.0f} tested")
    called, false = links_df["called"].sum(), links_df.loc[["null", "marker"], "called"].sum()
    rows[f"false discovery proportion{how}"] = (false / max(called, 1), f"{false:.0f} of {called:.0f} called")
    return rows


def _centred_unit(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows centred within the groups, of length 1; 0 where nothing but rounding is left."""
    centred = values.copy()
    for group in np.unique(groups):
        members = groups == group
        centred[:, members] -= values[:, members].mean(axis=1, keepdims=True)
    centred[~variation.varies(centred, variation.largest(values))] = 0
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
