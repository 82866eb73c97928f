"""Networks side by side: Tables 1 to 4 of one cohort, and what each has learned beyond its null networks.

A network is named by its architecture (with its initial weights, if any: "resnet34 (imagenet)") and its kind:
"trained", "as it is" (weights from elsewhere, not trained here), or one of the null networks
"untrained" and "shuffled" (notebooks/README.md, section 11). Tables begin with these two columns, in the
order of Table 1, trained first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch

from lib.errors import InputError
from lib.network import models
from lib.network.architectures import ARCHITECTURES
from lib.statistics import representations
from lib.statistics.pair_tables import threshold_table

KINDS = ("trained", "as it is", "untrained", "shuffled")
KEYS = ["architecture", "network"]
Name = tuple[str, str]  # architecture, kind


def size_table(architectures: Sequence[str] = ARCHITECTURES, n_classes: int = 39) -> pd.DataFrame:
    """Table 1, computed: architecture, n_features, n_parameters (trainable, with `n_classes` outputs).

    The networks are built on the meta device, so nothing is allocated.
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
    accuracies : for each network the frame of `accuracy.accuracy_table` (level, split, accuracy, low, high,
        macro_accuracy; fractions)

    Returns
    -------
    DataFrame: architecture, network, validation_accuracy_percent, test_accuracy_percent, and for the test set
    the 95 % interval over donors (test_low_percent, test_high_percent) and test_macro_percent. A set without
    samples of known tissue has no accuracy.
    """
    rows = []
    for name, accuracy_df in accuracies.items():
        of_level = accuracy_df.loc[accuracy_df["level"] == level].set_index("split")
        percent = (
            100 * of_level.reindex(["validation", "test"])[["accuracy", "low", "high", "macro_accuracy"]]
        )
        validation, test = percent.to_numpy(float)
        columns = ("test_accuracy_percent", "test_low_percent", "test_high_percent", "test_macro_percent")
        row = {"validation_accuracy_percent": validation[0], **dict(zip(columns, test, strict=True))}
        rows.append(_keys(name) | row)
    return _ordered(rows)


def pair_table(pairs: Mapping[Name, pd.DataFrame], r_threshold: float, e_threshold: float) -> pd.DataFrame:
    """Table 4: pairs of each network at r >= R_T among genes at E_T; unique genes, features and tissues.

    Parameters
    ----------
    pairs : for each network its pairs (gene, feature, tissue, r, max_median_log2), from an |r| at or below
        `r_threshold` upwards

    Returns
    -------
    DataFrame: architecture, network, n_pairs, n_genes, n_features, n_tissues.
    """
    rows = []
    for name, pairs_df in pairs.items():
        counts = threshold_table(pairs_df, [(r_threshold, e_threshold)]).iloc[0]
        columns = [f"n_{what}" for what in ("pairs", "genes", "features", "tissues")]
        counted = counts[["pairs", "genes", "features", "tissues"]].to_numpy(int)
        rows.append(_keys(name) | dict(zip(columns, counted, strict=True)))
    return _ordered(rows)


class Learned(NamedTuple):
    """What notebooks 05 to 08 found with one network: artefacts of these names."""

    pairs: pd.DataFrame
    links: pd.DataFrame
    gene_significance: pd.DataFrame
    reproducibility: pd.DataFrame


def learned_table(networks: Mapping[Name, Learned], q_threshold: float) -> pd.DataFrame:
    """Links and genes of each network within tissues, and its reproducibility.

    Returns
    -------
    DataFrame: architecture, network, marker_pairs, `representations.counts` (the cohort's covariates out),
    r_reproducibility and r_reproducibility_within (validation against test, all pairs).
    """
    rows = []
    for name, found in networks.items():
        of_r = found.reproducibility.reindex(columns=["raw", "within tissues"]).loc["reproducibility_r"]
        raw, within = of_r.to_numpy(float)
        row = {"marker_pairs": len(found.pairs)}
        row |= representations.counts(found.gene_significance, found.links, q_threshold)
        rows.append(_keys(name) | row | {"r_reproducibility": raw, "r_reproducibility_within": within})
    return _ordered(rows)


def one_table(
    accuracies: Mapping[str, pd.DataFrame], pairs_df: pd.DataFrame, learned_df: pd.DataFrame
) -> pd.DataFrame:
    """All of these in one row for each network.

    Parameters
    ----------
    accuracies : level ("tile", "slide") -> `accuracy_table`
    pairs_df, learned_df : `pair_table`, `learned_table` of the same networks

    Returns
    -------
    DataFrame: architecture, network; for each level <level>_validation_percent and <level>_test_percent;
    slide_test_low_percent and slide_test_high_percent; then the columns of `pairs_df` and `learned_df`.
    """
    table_df = pairs_df[KEYS]
    for level, accuracy_df in accuracies.items():
        ends = ("low", "high") if level == "slide" else ()
        names = {f"{split}_accuracy_percent": f"{level}_{split}_percent" for split in ("validation", "test")}
        names |= {f"test_{end}_percent": f"{level}_test_{end}_percent" for end in ends}
        of_level = accuracy_df[[*KEYS, *names]].rename(columns=names)
        table_df = table_df.merge(of_level, on=KEYS, validate="one_to_one")
    for other_df in (pairs_df, learned_df):
        table_df = table_df.merge(other_df, on=KEYS, validate="one_to_one")
    return table_df


def _keys(name: Name) -> dict[str, Any]:
    return dict(zip(KEYS, name, strict=True))


def _ordered(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows in the order of Table 1 (other encoders after it, by name), trained before its null networks."""
    if not rows:
        raise InputError("there is no network to compare: finish at least one first")
    place = {name: i for i, name in enumerate(ARCHITECTURES)}

    def key(row: dict) -> tuple:
        architecture, kind = row["architecture"], row["network"]
        return place.get(architecture.partition(" (")[0], len(place)), architecture, KINDS.index(kind)

    return pd.DataFrame(sorted(rows, key=key))
