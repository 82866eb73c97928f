"""What a run found, held against the truth that was planted in the demo cohort.

A gene is *called* when it has a feature it follows within tissues. Truth: direct genes are driven by a hidden
quantity of the slide (nuclear density, lumen size, ...), markers by the tissue alone, covariate genes by how
the sample was handled, nulls by nothing.
"""

import numpy as np
import pandas as pd

KINDS = ("direct", "marker", "covariate", "null")


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
    sides = [_unit(_centred(df[samples].to_numpy(np.float64), of_sample)) for df in (a_df, b_df)]
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


def summary(accuracy_df: pd.DataFrame | None, links_df: pd.DataFrame) -> pd.DataFrame:
    """The scorecard in a few lines: index measure; value (a share), detail (counts in words).

    Parameters
    ----------
    accuracy_df : classify.accuracy_table; its test rows are used. None where no network was run.
    links_df : `score_links`.
    """
    rows = {}
    on_test = [] if accuracy_df is None else accuracy_df[accuracy_df["split"] == "test"].itertuples()
    for row in on_test:
        rows[f"{row.level} accuracy"] = (
            row.accuracy,
            f"{row.correct:.0f} of {row.n:.0f}, {row.n_classes} classes",
        )
    direct = links_df.loc["direct"]
    rows["direct genes found (recall)"] = (
        direct["share_called"],
        f"{direct['called']:.0f} of {direct['tested']:.0f} tested",
    )
    rows["... by a feature of the right quantity"] = (
        direct["share_right"],
        f"{direct['right_quantity']:.0f} of {direct['tested']:.0f} tested",
    )
    for kind in ("null", "marker"):
        row = links_df.loc[kind]
        rows[f"{kind} genes called (false positives)"] = (
            row["share_called"],
            f"{row['called']:.0f} of {row['tested']:.0f} tested",
        )
    row = links_df.loc["covariate"]
    rows["covariate genes called (stain, not biology)"] = (
        row["share_called"],
        f"{row['called']:.0f} of {row['tested']:.0f} tested",
    )
    called = links_df["called"].sum()
    false = links_df.loc[["null", "marker"], "called"].sum()
    rows["false discovery proportion"] = (false / max(called, 1), f"{false:.0f} of {called:.0f} called")
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "detail"]).rename_axis("measure")


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    centred = values.copy()
    for group in np.unique(groups):
        members = groups == group
        centred[:, members] -= values[:, members].mean(axis=1, keepdims=True)
    return centred


def _unit(values: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    # Rounding leaves a constant row a tiny norm; it correlates with nothing.
    is_constant = norms <= 1e-12 * np.maximum(np.abs(values).max(axis=1, keepdims=True), 1)
    return np.where(is_constant, 0, values / np.where(is_constant, 1, norms))
