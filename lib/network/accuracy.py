"""Accuracies with intervals over donors, recall per tissue, confusion matrix, majority baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.network.merged_tissues import merge_tissues

N_BOOTSTRAP = 2000


def accuracy_table(
    predictions: Mapping[str, pd.DataFrame],
    *,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy and macro accuracy per level and split, with 95 % intervals over donors (Tables 2 and 3).

    A donor's samples are not independent, so the bootstrap resamples whole donors, with replacement.

    Parameters
    ----------
    predictions : per level ("tile", "slide") a frame with columns split, donor, tissue (true), predicted
    class_names : tissues the network was trained on; others are counted in n_unknown and left out
    groups : merge tissues on both sides first, e.g. `MERGED_GTEX`

    Returns
    -------
    DataFrame, one row per level and split: level, split, n_classes, n, correct, accuracy, low, high,
    macro_accuracy (mean recall of the tissues present), macro_low, macro_high, n_donors, n_unknown. With a
    single donor there is no interval: low and high are missing.

    Raises
    ------
    ValueError
        A column or a true tissue is missing.
    """
    rows = []
    for level, predictions_df in predictions.items():
        merged_df, n_classes = _merged(predictions_df, class_names, groups, level)
        for split, part_df in merged_df.groupby("split", sort=False):
            known_df = part_df.loc[part_df["known"]]
            if len(known_df):
                overall, _ = _with_intervals(known_df, n_bootstrap, seed)
                n_unknown = len(part_df) - len(known_df)
                of_level = {"level": level, "split": split, "n_classes": n_classes}
                rows.append(of_level | overall | {"n_unknown": n_unknown})
    return pd.DataFrame(rows)


def recall_table(
    predictions_df: pd.DataFrame,
    *,
    class_names: Sequence[str],
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> pd.DataFrame:
    """Recall of each tissue in each split, with 95 % intervals over donors.

    Parameters
    ----------
    As in `accuracy_table`; `predictions_df` is one of its levels.

    Returns
    -------
    DataFrame, one row per split and tissue: split, tissue, n, correct, recall, low, high, n_donors. An
    interval over a single donor is missing.
    """
    merged_df, _ = _merged(predictions_df, class_names, None, "predictions")
    parts = []
    for split, part_df in merged_df.loc[merged_df["known"]].groupby("split", sort=False):
        _, recalls_df = _with_intervals(part_df, n_bootstrap, seed)
        recalls_df.insert(0, "split", split)
        parts.append(recalls_df)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _merged(
    predictions_df: pd.DataFrame,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None,
    level: str,
) -> tuple[pd.DataFrame, int]:
    """Split, donor, tissue, predicted, known and correct, after merging; and the number of classes."""
    missing = [name for name in ("split", "donor", "tissue", "predicted") if name not in predictions_df]
    if missing or bool(predictions_df["tissue"].isna().any()):
        raise InputError(
            f"the {level} frame lacks {missing or 'the true tissue of some rows'}: join samples first"
        )
    known = predictions_df["tissue"].isin(list(class_names)).to_numpy()
    columns: dict[str, Any] = {name: predictions_df[name].to_numpy() for name in ("split", "donor")}
    truth, predicted = (predictions_df[name].to_numpy() for name in ("tissue", "predicted"))
    if groups is not None:
        tissues = {*map(str, class_names), *truth, *predicted}
        truth, predicted = (merge_tissues(labels, groups, tissues) for labels in (truth, predicted))
        class_names = sorted(set(merge_tissues(class_names, groups, tissues)))
    merged_df = pd.DataFrame(columns | {"tissue": truth, "predicted": predicted, "known": known})
    merged_df["correct"] = merged_df["tissue"] == merged_df["predicted"]
    return merged_df, len(class_names)


def _with_intervals(
    known_df: pd.DataFrame, n_bootstrap: int, seed: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Overall accuracy, and recall per tissue, of one split, with percentile intervals over donors."""
    donor, donors = pd.factorize(known_df["donor"])
    tissue, tissues = pd.factorize(known_df["tissue"], sort=True)
    counts, right = np.zeros((2, len(donors), len(tissues)))
    np.add.at(counts, (donor, tissue), 1)
    np.add.at(right, (donor, tissue), known_df["correct"].to_numpy(float))
    # A resample is how often each donor was drawn: (n_bootstrap, n_donors).
    equal = np.full(len(donors), 1 / len(donors))
    drawn = np.random.default_rng(seed).multinomial(len(donors), equal, size=n_bootstrap).astype(float)
    drawn_n, drawn_right = drawn @ counts, drawn @ right
    with np.errstate(invalid="ignore"):
        recalls = np.where(drawn_n > 0, drawn_right / drawn_n, np.nan)
    n, correct = int(counts.sum()), int(right.sum())
    recall = right.sum(axis=0) / counts.sum(axis=0)
    low, high = _percentiles(drawn_right.sum(axis=1) / drawn_n.sum(axis=1), len(donors))
    macro_low, macro_high = _percentiles(np.nanmean(recalls, axis=1), len(donors))
    overall = {"n": n, "correct": correct, "accuracy": correct / n, "low": low, "high": high}
    overall |= {"macro_accuracy": float(recall.mean()), "macro_low": macro_low, "macro_high": macro_high}
    n_donors = (counts > 0).sum(axis=0)
    intervals = [_percentiles(recalls[:, place], n_donors[place]) for place in range(len(tissues))]
    recalls_df = pd.DataFrame({"tissue": tissues, "n": counts.sum(axis=0).astype(int)})
    recalls_df["correct"], recalls_df["recall"] = right.sum(axis=0).astype(int), recall
    recalls_df[["low", "high"]] = np.array(intervals)
    recalls_df["n_donors"] = n_donors
    return overall | {"n_donors": len(donors)}, recalls_df


def _percentiles(values: np.ndarray, n_donors: int) -> tuple[float, float]:
    if n_donors < 2:
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def confusion(predicted: Sequence[str], truth: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Counts, int64: rows are true tissues, columns predicted, both in the order of `classes` (S4 Table).

    Raises
    ------
    ValueError
        Sequences of different length; a label that is not among `classes`.
    """
    if len(predicted) != len(truth):
        raise InputError(f"{len(predicted)} predictions for {len(truth)} true tissues")
    for labels, what in ((truth, "true"), (predicted, "predicted")):
        stray = sorted(set(map(str, labels)) - set(classes))
        if stray:
            raise InputError(
                f"{what} tissues that are not among the classes: {stray[:5]}; drop or merge them"
            )
    counts_df = pd.crosstab(
        np.asarray(truth), np.asarray(predicted), rownames=["tissue"], colnames=["predicted"]
    )
    return counts_df.reindex(index=list(classes), columns=list(classes), fill_value=0)


def majority_baseline(train_tissues: Sequence[str], truth: Sequence[str]) -> tuple[str, float]:
    """The most frequent training tissue (ties: first by name), and the accuracy of always predicting it."""
    if not len(train_tissues) or not len(truth):
        raise InputError(
            "the majority baseline needs training tissues and true tissues; one of them is empty"
        )
    counts = pd.Series(list(train_tissues)).value_counts()
    tissue = min(counts.index[counts == counts.max()])
    return str(tissue), float(np.mean(np.asarray(truth) == tissue))
