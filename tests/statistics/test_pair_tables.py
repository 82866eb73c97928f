"""The paper's tables of pairs, by hand."""

import pandas as pd
import pytest

from lib.statistics import correlation, pair_tables


def test_tables_by_hand():
    rows = [
        ("a", "1_0", 0.71, "liver", 11.0), ("a", "1_1", 0.81, "liver", 11.0),
        ("a", "2_0", 0.81, "liver", 11.0),
        ("b", "1_0", 0.76, "lung", 7.0), ("b", "2_5", -0.80, "lung", 7.0), ("c", "2_5", 0.80, "liver", 6.99),
    ]  # fmt: skip
    df = pd.DataFrame(rows, columns=["gene", "feature", "r", "tissue", "max_median_log2"])
    df["layer"], df["channel"] = correlation.feature_layers(df["feature"])
    df.attrs = {"r_threshold": 0.7}
    table = pair_tables.threshold_table(df, ((0.8, 7.0), (0.7, 7.0), (0.8, 6.0)))
    assert table["pairs"].tolist() == [2, 4, 3]
    assert table["genes"].tolist() == [1, 2, 2]
    assert table["features"].tolist() == [2, 3, 3]
    assert table["tissues"].tolist() == [1, 2, 1]
    assert table["negative_pairs"].tolist() == [1, 1, 1]
    best_df = pair_tables.best_feature_per_gene(df, 0.75)
    assert best_df[["gene", "feature", "n_features"]].to_numpy().tolist() == [
        ["a", "1_1", 2], ["c", "2_5", 1], ["b", "1_0", 1],
    ]  # fmt: skip
    layer = pair_tables.genes_per_layer(df)
    assert layer.loc[1].to_dict() == {"liver": 1, "lung": 1}
    assert layer.loc[2].to_dict() == {"liver": 2, "lung": 0}
    per_feature = pair_tables.genes_per_feature(df, (0.7, 0.8))
    assert per_feature.loc["1_0"].tolist() == [2, 0]
    assert per_feature["r_0.7"].is_monotonic_decreasing
    assert pair_tables.features_per_gene(df, (0.7, 0.8)).loc["a"].tolist() == [3, 2]
    with pytest.raises(ValueError, match=r"r >= 0.6, but pairs were kept from 0\.7"):
        pair_tables.best_feature_per_gene(df, 0.6)
    with pytest.raises(ValueError, match=r"r >= 0.6, but pairs were kept from 0\.7"):
        pair_tables.genes_per_feature(df, (0.6,))
    with pytest.raises(ValueError, match=r"r >= 0.5, but pairs were kept from 0\.7"):
        pair_tables.threshold_table(df, ((0.5, 7.0),))
