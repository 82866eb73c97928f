"""Accuracies, recalls and confusion against loops; intervals against a bootstrap, and their coverage."""

import numpy as np
import pandas as pd
import pytest

from lib.network import accuracy
from lib.network.merged_tissues import MERGED_GTEX

CLASSES = ["Colon", "Liver", "Lung"]


def slide_row(frame, class_names=CLASSES, **options):
    return accuracy.accuracy_table({"slide": frame}, class_names=class_names, **options).iloc[0]


def planted(n_donors, seed, accuracy=0.8, per_donor=4):
    """Predictions in which each donor has its own accuracy, 0.8 on average."""
    rng = np.random.default_rng(seed)
    rows = []
    for donor in range(n_donors):
        own = rng.beta(2 * accuracy, 2 * (1 - accuracy))
        for _ in range(per_donor):
            tissue = CLASSES[rng.integers(3)]
            others = [name for name in CLASSES if name != tissue]
            rows.append((f"d{donor}", tissue, tissue if rng.random() < own else others[rng.integers(2)]))
    return pd.DataFrame(rows, columns=["donor", "tissue", "predicted"]).assign(split="test")


def test_accuracies_equal_a_loop():
    frame = pd.concat([planted(30, 0), planted(20, 1).assign(split="validation")], ignore_index=True)
    table = accuracy.accuracy_table(
        {"tile": frame, "slide": frame.iloc[::2]}, class_names=CLASSES, n_bootstrap=50
    )
    assert table[["level", "split"]].to_numpy().tolist() == [
        *(["tile", "test"], ["tile", "validation"], ["slide", "test"], ["slide", "validation"])
    ]
    recalls_df = accuracy.recall_table(frame, class_names=CLASSES, n_bootstrap=50)
    for _, row in table[table["level"] == "tile"].iterrows():
        part = frame[frame["split"] == row["split"]]
        right = sum(a == b for a, b in zip(part["tissue"], part["predicted"], strict=True))
        assert (row["n"], row["correct"]) == (len(part), right)
        assert row["accuracy"] == pytest.approx(right / len(part))
        recalls = []
        for tissue in CLASSES:
            of_tissue = part[part["tissue"] == tissue]
            recalls.append(sum(of_tissue["predicted"] == tissue) / len(of_tissue))
        found = recalls_df[recalls_df["split"] == row["split"]]
        assert found["recall"].tolist() == pytest.approx(recalls)
        assert found["n"].sum() == len(part)
        assert row["macro_accuracy"] == pytest.approx(np.mean(recalls))


def test_interval_equals_a_bootstrap_written_out():
    frame = planted(25, 3)
    row = slide_row(frame, n_bootstrap=4000, seed=1)
    rng, of_donor = np.random.default_rng(7), dict(list(frame.groupby("donor")))
    drawn, macro = [], []
    for _ in range(1000):
        sample = pd.concat([of_donor[donor] for donor in rng.choice(list(of_donor), len(of_donor))])
        right = sample["tissue"] == sample["predicted"]
        drawn.append(right.mean())
        macro.append(right.groupby(sample["tissue"]).mean().mean())
    assert (row["low"], row["high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    assert (row["macro_low"], row["macro_high"]) == pytest.approx(np.percentile(macro, [2.5, 97.5]), abs=0.02)


def test_donor_intervals_cover_the_truth_and_sample_intervals_do_not():
    """250 cohorts of donors with their own accuracy: near 95 % of intervals hold the truth, 0.8."""
    held, too_narrow = 0, 0
    for seed in range(250):
        frame = planted(40, seed, per_donor=6)
        row = slide_row(frame, n_bootstrap=400)
        held += row["low"] <= 0.8 <= row["high"]
        alone = slide_row(frame.assign(donor=range(len(frame))), n_bootstrap=400)
        too_narrow += alone["low"] <= 0.8 <= alone["high"]
    assert 0.90 <= held / 250 <= 0.99
    assert too_narrow / 250 < 0.85


def test_a_single_donor_has_no_interval():
    row = slide_row(planted(1, 0))
    assert np.isnan([row["low"], row["high"], row["macro_low"], row["macro_high"]]).all()
    assert row["n_donors"] == 1
    recalls_df = accuracy.recall_table(planted(1, 0), class_names=CLASSES)
    assert recalls_df[["low", "high"]].isna().all(axis=None)


def test_same_seed_same_interval():
    first, again, other = (slide_row(planted(20, 0), n_bootstrap=200, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_series_equal(first, again)
    assert not first.equals(other)


def test_tables_name_missing_columns():
    with pytest.raises(ValueError, match=r"slide frame lacks \['donor'\]"):
        slide_row(planted(3, 0).drop(columns="donor"))
    with pytest.raises(ValueError, match="true tissue of some rows"):
        slide_row(planted(3, 0).assign(tissue=None))


def test_merged_accuracy_forgives_confusion_within_a_group():
    names = ["Skin - Not Sun Exposed (Suprapubic)", "Skin - Sun Exposed (Lower leg)", "Lung"]
    frame = pd.DataFrame(
        {"tissue": [names[0], names[1], "Lung", "Lung"], "donor": list("abcd"), "split": "test"}
    )
    frame["predicted"] = [names[1], names[1], "Lung", names[0]]
    plain, merged = (slide_row(frame, names, groups=groups) for groups in (None, MERGED_GTEX))
    assert (plain["accuracy"], plain["n_classes"]) == (0.5, 3)
    assert (merged["accuracy"], merged["n_classes"]) == (0.75, 2)
    assert merged["macro_accuracy"] == pytest.approx((1 + 0.5) / 2)


def test_confusion_counts():
    frame = planted(40, 5)
    counts = accuracy.confusion(frame["predicted"], frame["tissue"], CLASSES)
    for truth in CLASSES:
        for predicted in CLASSES:
            wanted = sum((frame["tissue"] == truth) & (frame["predicted"] == predicted))
            assert counts.loc[truth, predicted] == wanted
    assert counts.to_numpy().sum() == len(frame)
    assert counts.index.name == "tissue"
    with pytest.raises(ValueError, match=r"true tissues that are not among the classes: \['Skin'\]"):
        accuracy.confusion(["Lung"], ["Skin"], CLASSES)
    with pytest.raises(ValueError, match=r"predicted tissues .* \['Skin'\]"):
        accuracy.confusion(["Skin"], ["Lung"], CLASSES)
    with pytest.raises(ValueError, match="1 predictions for 2"):
        accuracy.confusion(["Lung"], ["Lung", "Lung"], CLASSES)


def test_majority_baseline():
    assert accuracy.majority_baseline(["b", "b", "a"], ["b", "a", "c", "b"]) == ("b", 0.5)
    assert accuracy.majority_baseline(["b", "a"], ["a"]) == ("a", 1.0)
    with pytest.raises(ValueError, match="empty"):
        accuracy.majority_baseline([], ["a"])
