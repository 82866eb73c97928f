"""Networks side by side: Tables 1 to 4 of one cohort, and what is left of each against its null networks.

A network is named by its architecture (with the weights it began with, if any: "resnet34 (imagenet)") and
its kind: "trained", "pretrained only" (weights from elsewhere, not trained here), or one of the null networks
"untrained" and "shuffled" (METHOD section 11). Tables have these two as their first columns, architectures in
the order of Table 1, trained first.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from lib.network import models
from lib.network.architectures import ARCHITECTURES
from lib.statistics.pair_tables import threshold_table

KINDS = ("trained", "pretrained only", "untrained", "shuffled")
KEYS = ["architecture", "network"]
Name = tuple[str, str]  # architecture, kind


def size_table(architectures: Sequence[str] = ARCHITECTURES, n_classes: int = 39) -> pd.DataFrame:
    """Table 1, computed: architecture, n_features, n_parameters (trainable, with `n_classes` outputs).

    Nothing is allocated: the networks are built on the meta device.
    """
    rows = []
    for architecture in architectures:
        with torch.device("meta"):
            model = models.build(architecture, n_classes)
        n_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        n_features = len(models.feature_names(architecture))
        rows.append({"architecture": architecture, "n_features": n_features, "n_parameters": n_parameters})
    return pd.DataFrame(rows)


def accuracy_table(accuracies: Mapping[Name, pd.DataFrame], level: str) -> pd.DataFrame:
    """Table 2 (level "tile") or 3 ("slide"): accuracy of each network on validation and test, in percent.

    Parameters
    ----------
    accuracies : of each network the frame of `classify.accuracy_table` (level, split, accuracy, low, high,
        macro_accuracy; fractions)

    Returns
    -------
    DataFrame: architecture, network, validation_accuracy_percent, test_accuracy_percent, and of the test set
    the 95 % interval over donors (test_low_percent, test_high_percent) and test_macro_percent.
    """
    rows = []
    for name, accuracy_df in accuracies.items():
        of_split = accuracy_df[accuracy_df["level"] == level].set_index("split")
        row = dict(zip(KEYS, name, strict=True))
        for split in ("validation", "test"):
            row[f"{split}_accuracy_percent"] = _percent(of_split, split, "accuracy")
        row |= {f"test_{end}_percent": _percent(of_split, "test", end) for end in ("low", "high")}
        row["test_macro_percent"] = _percent(of_split, "test", "macro_accuracy")
        rows.append(row)
    return _ordered(rows)


def _percent(of_split: pd.DataFrame, split: str, column: str) -> float:
    """A set without samples of known tissue has no row, and no accuracy."""
    return 100 * float(of_split.loc[split, column]) if split in of_split.index else float("nan")


def pair_table(pairs: Mapping[Name, pd.DataFrame], r_threshold: float, e_threshold: float) -> pd.DataFrame:
    """Table 4: pairs of each network at r >= R_T among genes at E_T; unique genes, features and tissues.

    Parameters
    ----------
    pairs : of each network the pairs kept (gene, feature, tissue, r, max_median_log2), from an |r| at or
        below `r_threshold` on

    Returns
    -------
    DataFrame: architecture, network, n_pairs, n_genes, n_features, n_tissues.
    """
    rows = []
    for name, pairs_df in pairs.items():
        counts = threshold_table(pairs_df, [(r_threshold, e_threshold)]).iloc[0]
        row = dict(zip(KEYS, name, strict=True))
        rows.append(
            row | {f"n_{what}": int(counts[what]) for what in ("pairs", "genes", "features", "tissues")}
        )
    return _ordered(rows)


def learned_table(
    significance: Mapping[Name, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]], q_threshold: float
) -> pd.DataFrame:
    """What the counts are worth: survivors of the within-tissue test, and reproducibility, of each network.

    Parameters
    ----------
    significance : of each network the frames `pairs_significance` (q_within_tissue), `gene_significance` (q)
        and `reproducibility` (row reproducibility_r; columns raw and, where it could be computed, within
        tissues)

    Returns
    -------
    DataFrame: architecture, network, pairs_over_threshold, pairs_within_tissue (of these, q at or below the
    threshold), genes_tested, genes_within_tissue (following any feature within tissues at that q),
    r_reproducibility and r_reproducibility_within (validation against test, all pairs).
    """
    rows = []
    for name, (pairs_df, genes_df, reproducibility_df) in significance.items():
        returned = reproducibility_df.loc["reproducibility_r"]
        row = dict(zip(KEYS, name, strict=True))
        row["pairs_over_threshold"] = len(pairs_df)
        row["pairs_within_tissue"] = int((pairs_df["q_within_tissue"] <= q_threshold).sum())
        row["genes_tested"] = len(genes_df)
        row["genes_within_tissue"] = int((genes_df["q"] <= q_threshold).sum())
        row["r_reproducibility"] = float(returned["raw"])
        row["r_reproducibility_within"] = float(returned.get("within tissues", float("nan")))
        rows.append(row)
    return _ordered(rows)


def one_table(
    accuracies: Mapping[str, pd.DataFrame], pairs_df: pd.DataFrame, learned_df: pd.DataFrame
) -> pd.DataFrame:
    """Everything of each network in one row: Tables 2 to 4 and what the counts are worth.

    Parameters
    ----------
    accuracies : level ("tile", "slide") -> `accuracy_table`
    pairs_df, learned_df : `pair_table`, `learned_table` of the same networks

    Returns
    -------
    DataFrame: architecture, network; of each level <level>_validation_percent and <level>_test_percent;
    slide_test_low_percent and slide_test_high_percent; then the columns of `pairs_df` and `learned_df`.
    """
    table = pairs_df[KEYS]
    for level, accuracy_df in accuracies.items():
        columns = {
            f"{split}_accuracy_percent": f"{level}_{split}_percent" for split in ("validation", "test")
        }
        if level == "slide":
            columns |= {f"test_{end}_percent": f"slide_test_{end}_percent" for end in ("low", "high")}
        of_level = accuracy_df[[*KEYS, *columns]].rename(columns=columns)
        table = table.merge(of_level, on=KEYS, validate="one_to_one")
    for other_df in (pairs_df, learned_df):
        table = table.merge(other_df, on=KEYS, validate="one_to_one")
    return table


def _ordered(rows: Sequence[dict]) -> pd.DataFrame:
    """Rows in the order of Table 1 (other encoders after it, by name), trained before its null networks."""
    if not rows:
        raise ValueError("there is no network to compare: run one to its end first")
    place = {name: i for i, name in enumerate(ARCHITECTURES)}

    def key(row: dict) -> tuple:
        architecture, kind = row["architecture"], row["network"]
        return place.get(architecture.partition(" (")[0], len(place)), architecture, KINDS.index(kind)

    return pd.DataFrame(sorted(rows, key=key))
