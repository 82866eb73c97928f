"""lib.statistics.heterogeneity against statsmodels' meta-analysis and by hand."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from lib.statistics import heterogeneity, link_table, replication


@pytest.fixture(scope="module")
def links():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), [12, 9, 15, 3])
    x, y = rng.standard_normal((2, 6, len(groups)))
    y[0] += 2 * x[0]
    y[1, groups == 1] += 5 * x[1, groups == 1]
    for rows in (x, y):
        for g in range(4):
            rows[:, groups == g] -= rows[:, groups == g].mean(axis=1, keepdims=True)
    inflation = np.array([1, 1, 1.5, 1, 1, 2])
    return x, y, groups, ["a", "b", "c", "d"], inflation


def test_summary_is_cochrans_q_of_statsmodels(links):
    x, y, groups, tissues, inflation = links
    by_tissue_df = heterogeneity.by_tissue(x, y, groups, tissues, inflation)
    assert set(by_tissue_df["tissue"]) == {"a", "b", "c"}, "a tissue of three samples has no standard error"
    found_df = heterogeneity.summary(by_tissue_df, len(x))
    for link in range(len(x)):
        rows_df = by_tissue_df[by_tissue_df["link"] == link]
        expected = combine_effects(np.arctanh(rows_df["r"]), rows_df["se"] ** 2)
        assert found_df.loc[link, "q_cochran"] == pytest.approx(expected.q)
        assert found_df.loc[link, "i2"] == pytest.approx(max(expected.i2, 0))
    assert found_df.loc[1, "carried_by"] == "b"
    assert found_df.loc[1, "i2"] > 0.5


def test_r_and_share_of_a_tissue_by_hand(links):
    x, y, groups, tissues, inflation = links
    df = heterogeneity.by_tissue(x, y, groups, tissues, inflation).set_index(["link", "tissue"])
    b = groups == 1
    assert df.loc[(0, "b"), "r"] == pytest.approx(np.corrcoef(x[0, b], y[0, b])[0, 1])
    assert df.loc[(0, "b"), "share"] == pytest.approx((x[0, b] @ y[0, b]) / (x[0] @ y[0]))
    assert df.loc[(2, "c"), "se"] == pytest.approx(1 / np.sqrt(15 / 1.5 - 3))


def test_leave_one_tissue_out(links):
    x, y, groups, *_ = links
    df = heterogeneity.leave_one_tissue_out(x, y, groups)
    left = [np.corrcoef(x[1, groups != g], y[1, groups != g])[0, 1] for g in range(4)]
    assert df.loc[1, "low_without"] == pytest.approx(min(left))
    assert df.loc[1, "high_without"] == pytest.approx(max(left))


def test_tissues_too_small_and_a_single_tissue():
    x, y = np.random.default_rng(0).standard_normal((2, 3, 6))
    few = np.repeat([0, 1], 3)
    by_tissue_df = heterogeneity.by_tissue(x, y, few, ["a", "b"], np.ones(3))
    assert by_tissue_df.empty
    found_df = heterogeneity.summary(by_tissue_df, 3)
    assert found_df["n_tissues"].tolist() == [0, 0, 0]
    assert found_df[["i2", "p_heterogeneity", "carried_by"]].isna().all(axis=None)
    one = np.zeros(6, int)
    assert heterogeneity.leave_one_tissue_out(x, y, one).isna().all(axis=None)
    only_df = heterogeneity.summary(heterogeneity.by_tissue(x, y, one, ["a"], np.ones(3)), 3)
    assert only_df["carried_by"].tolist() == ["a"] * 3
    assert only_df["i2"].isna().all()


def test_a_feature_that_is_constant_in_a_tissue_shifts_no_name():
    """r of every link and tissue under its own names, also behind one that has no r."""
    rng = np.random.default_rng(7)
    ids, tissue = [f"s{i}" for i in range(40)], np.repeat(["a", "b"], 20)
    samples_df = pd.DataFrame({"sample_id": ids, "tissue": tissue})
    samples_df["donor"] = samples_df["sample_id"]
    y = rng.normal(size=(4, 40))
    y[1, :20] = 2.0  # constant in tissue a
    x = y + rng.normal(size=(4, 40))

    log_df = pd.DataFrame(x, [f"g{k}" for k in range(4)], ids)
    features_df = pd.DataFrame(y, [f"0_{k}" for k in range(4)], ids)
    sides, _ = replication.sides_of(log_df, features_df, samples_df)
    links_df = pd.DataFrame({"gene": log_df.index, "feature": features_df.index, "inflation": 1.0})
    df = link_table.of_tissues(links_df, sides, ["a", "b"])
    assert len(df) == 7
    assert df.notna().all(axis=None)
    for row in df.itertuples():
        at = (samples_df["tissue"] == row.tissue).to_numpy()
        k = int(row.gene[1:])
        assert row.feature == f"0_{k}"
        assert row.r == pytest.approx(np.corrcoef(x[k, at], y[k, at])[0, 1])
