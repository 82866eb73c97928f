"""Correlates of one gene or feature against numpy, scipy and the tables of pairs."""

import numpy as np
import pandas as pd
import pytest
from linked_cohort import lookup_of
from scipy import stats

from lib.explore import correlates
from lib.explore.correlates import Settings
from lib.statistics import (
    conditional_independence,
    correlation,
    expression_levels,
    link_lookup,
    partial_correlation,
)

N = 60


def tables(seed=0, n_genes=40, n_features=25):
    """Expression, features, tissues of samples and the genes' table; every third gene marks a tissue."""
    rng = np.random.default_rng(seed)
    ids = [f"s{i:02d}" for i in range(N)]
    tissues = pd.Series(np.array(["Liver", "Lung", "Skin", "Heart"])[np.arange(N) % 4], index=ids)
    genes = rng.normal(5, 1, (n_genes, N))
    genes[::3] += 3 * (tissues == "Liver").to_numpy()
    features = rng.normal(0, 1, (n_features, N))
    features[::5] += 2 * (tissues == "Liver").to_numpy()
    features[1] += 1.5 * genes[1]
    names = [f"ENSG{i:011d}.{i % 7}" for i in range(n_genes)]
    log_df = pd.DataFrame(genes, index=names, columns=ids)
    features_df = pd.DataFrame(features, index=[f"{k // 8}_{k % 8}" for k in range(n_features)], columns=ids)
    genes_df = expression_levels.highest_median(log_df, tissues, pd.DataFrame({"symbol": "SYM"}, index=[]))
    genes_df["symbol"] = [f"GENE{i}" for i in range(n_genes)]
    return log_df, features_df, tissues, genes_df


@pytest.fixture(scope="module")
def cohort():
    return tables()


@pytest.fixture(scope="module")
def table(cohort):
    return correlates.build(*cohort)


def residual(row, tissues):
    values = pd.Series(row.to_numpy(), index=tissues.index)
    return values - values.groupby(tissues).transform("mean")


def test_features_of_a_gene_are_all_of_them_with_their_r(cohort, table):
    log_df, features_df, tissues, _ = cohort
    gene = log_df.index[1]
    found_df = correlates.features_of(table, gene)
    assert set(found_df.index) == set(features_df.index)
    for feature in features_df.index:
        r = stats.pearsonr(log_df.loc[gene], features_df.loc[feature])[0]
        given = stats.pearsonr(
            residual(log_df.loc[gene], tissues), residual(features_df.loc[feature], tissues)
        )[0]
        assert found_df.loc[feature, "r"] == pytest.approx(r, abs=1e-12)
        assert found_df.loc[feature, "r_tissues"] == pytest.approx(given, abs=1e-12)
        assert found_df.loc[feature, "p_tissues"] == pytest.approx(partial_correlation.ci_test(given, N, 3))
    assert found_df["r_tissues"].abs().is_monotonic_decreasing
    assert found_df.index[0] == "0_1"


def test_genes_of_a_feature_are_the_same_pairs_from_the_other_side(cohort, table):
    log_df = cohort[0]
    of_feature_df = correlates.genes_of(table, "0_5")
    assert set(of_feature_df.index) == set(log_df.index)
    for gene in log_df.index[:6]:
        one, other = of_feature_df.loc[gene], correlates.features_of(table, gene).loc["0_5"]
        assert one["pattern"] == other["pattern"]
        for column in ("r", "r_tissues", "p_tissues"):
            assert one[column] == pytest.approx(other[column], abs=1e-12)


def test_patterns_are_those_of_table_7(cohort, table):
    """Every gene with one feature, against `pairs_conditional`; more than one pattern occurs."""
    log_df, features_df, tissues, genes_df = cohort
    pairs_df = pd.DataFrame({"gene": log_df.index, "feature": "0_5", "tissue": genes_df["tissue"].to_numpy()})
    samples_df = pd.DataFrame({"sample_id": tissues.index, "tissue": tissues.to_numpy()})
    expected_df = conditional_independence.pairs_conditional(
        log_df, features_df, pairs_df, samples_df
    ).set_index("gene")
    found_df = correlates.genes_of(table, "0_5")
    assert found_df["pattern"].nunique() > 2
    pd.testing.assert_series_equal(
        found_df["pattern"].sort_index(), expected_df["pattern_0.05"].sort_index(), check_names=False
    )


def test_p_and_q_are_those_of_the_test_of_links(cohort):
    log_df, features_df, tissues, genes_df = cohort
    samples_df = pd.DataFrame({"sample_id": tissues.index, "tissue": tissues.to_numpy()})
    _, lookup = lookup_of(log_df.iloc[:20], features_df, samples_df, 999)
    table = correlates.build(log_df, features_df, tissues, genes_df, lookup)
    gene = log_df.index[1]
    found_df = correlates.features_of(table, gene)
    pairs_df = pd.DataFrame({"gene": gene, "feature": found_df.index})
    expected_df = link_lookup.of_pairs(lookup, pairs_df)
    np.testing.assert_array_equal(found_df[["p_link", "q_link"]], expected_df[["p", "q"]])
    assert found_df.index[0] == "0_1"
    assert found_df["q_link"].iloc[0] <= 0.05, "planted"
    of_feature_df = correlates.genes_of(table, "0_1")
    assert of_feature_df.loc[gene, "q_link"] == found_df.loc["0_1", "q_link"]
    assert of_feature_df.loc[log_df.index[20:], "q_link"].isna().all(), "genes that were not tested"
    assert correlates.ordered(of_feature_df, "q_link").index[0] == gene


def test_spearman_is_that_of_the_tables_in_every_column(cohort):
    """As notebooks 06 and 07 compute it: everything from ranks over the samples."""
    log_df, features_df, tissues, genes_df = cohort
    log_df, features_df = 2**log_df, np.sinh(features_df)  # the same ranks, another Pearson's r
    settings = Settings("spearman", alpha=0.01)
    table = correlates.build(log_df, features_df, tissues, genes_df, settings=settings)
    sides = [correlation.on_scale(df, "spearman") for df in (log_df, features_df)]
    samples_df = pd.DataFrame({"sample_id": tissues.index, "tissue": tissues.to_numpy()})
    gene = log_df.index[3]
    pairs_df = pd.DataFrame({"gene": gene, "feature": features_df.index})
    pairs_df["tissue"] = genes_df.loc[gene, "tissue"]
    own_df = conditional_independence.pairs_conditional(*sides, pairs_df, samples_df, alphas=(0.01,))
    given_df = conditional_independence.given_tissues(*sides, pairs_df, samples_df)
    found_df = correlates.features_of(table, gene).loc[features_df.index]
    rho = [stats.spearmanr(log_df.loc[gene], row)[0] for row in features_df.to_numpy()]
    np.testing.assert_allclose(found_df["r"], rho, atol=1e-12)
    np.testing.assert_allclose(found_df["r_tissues"], given_df["r"], atol=1e-6)
    np.testing.assert_allclose(found_df["p_tissues"], given_df["p"], atol=1e-5)
    assert found_df["pattern"].tolist() == own_df["pattern_0.01"].tolist()
    names = features_df.index.tolist()
    of_feature = correlates.genes_of(table, names[5]).loc[gene]
    assert of_feature["r_tissues"] == pytest.approx(found_df.loc[names[5], "r_tissues"], abs=1e-12)
    pd.testing.assert_frame_equal(table.log_df, log_df)


def test_constant_rows_have_no_correlates_and_are_none(cohort):
    log_df, features_df, tissues, genes_df = (frame.copy() for frame in cohort)
    log_df.iloc[5], features_df.iloc[7] = 2.0, 0.1
    features_df.iloc[7, 1] -= 1e-17 + 2e-16 * features_df.iloc[7, 1]  # but for rounding
    assert features_df.iloc[7].nunique() == 2
    table = correlates.build(log_df, features_df, tissues, genes_df)
    with pytest.raises(ValueError, match=r"gene 'ENSG0+5\.5' has the same value in all 60 test samples"):
        correlates.features_of(table, log_df.index[5])
    with pytest.raises(ValueError, match="feature '0_7' has the same value"):
        correlates.genes_of(table, "0_7")
    assert "0_7" not in correlates.features_of(table, log_df.index[0]).index
    assert log_df.index[5] not in correlates.genes_of(table, "0_0").index


def test_a_gene_that_only_marks_tissues_is_undefined_given_them(cohort):
    log_df, features_df, tissues, genes_df = (frame.copy() for frame in cohort)
    log_df.iloc[5] = (tissues == "Liver").to_numpy() * 3.0
    table = correlates.build(log_df, features_df, tissues, genes_df)
    found_df = correlates.features_of(table, log_df.index[5])
    assert found_df["r"].notna().all()
    assert found_df[["r_tissues", "p_tissues"]].isna().all(axis=None)


def test_one_tissue_gives_plain_r_and_no_pattern(cohort):
    log_df, features_df, _, genes_df = cohort
    tissues = pd.Series("Liver", index=log_df.columns)
    table = correlates.build(log_df, features_df, tissues, genes_df.assign(tissue="Liver"))
    found_df = correlates.features_of(table, log_df.index[3])
    np.testing.assert_allclose(found_df["r"], found_df["r_tissues"], atol=1e-12)
    assert set(found_df["pattern"]) == {"none"}


def test_one_sample_per_tissue_leaves_no_within(cohort):
    log_df, features_df, _, genes_df = cohort
    tissues = pd.Series(log_df.columns.to_numpy(), index=log_df.columns)
    table = correlates.build(log_df, features_df, tissues, genes_df.assign(tissue="s00"))
    found_df = correlates.features_of(table, log_df.index[3])
    assert found_df["r_tissues"].isna().all()
    assert found_df["p_link"].isna().all()


def test_default_pair(cohort, table):
    log_df = cohort[0]
    best_df = pd.DataFrame(
        {"feature": ["0_2", "0_3", "0_4"], "statistic": [5.0, 9.0, 7.0], "q": [0.5, 0.01, 0.01]},
        index=log_df.index[:3],
    )
    assert correlates.default_pair(table, "", best_df) == (log_df.index[1], "0_3")
    gene, feature = correlates.default_pair(table, "GENE1", best_df)
    assert (gene, feature) == (log_df.index[1], "0_1")
    assert correlates.default_pair(table, "0_1", best_df) == (log_df.index[1], "0_1")
    gene, feature = correlates.default_pair(table, "", best_df.iloc[:0])
    assert gene == cohort[3]["max_median_log2"].idxmax()
    with pytest.raises(LookupError, match="nearest"):
        correlates.default_pair(table, "GENEX", best_df)


def test_bad_tables_are_refused(cohort):
    log_df, features_df, tissues, genes_df = cohort
    with pytest.raises(ValueError, match=r"1 samples have no tissue, first \['s00'\]"):
        correlates.build(log_df, features_df, tissues.drop("s00"), genes_df)
    with pytest.raises(ValueError, match="different samples"):
        correlates.build(log_df, features_df.drop(columns="s00"), tissues, genes_df)
    with pytest.raises(KeyError, match="no gene 'nobody'"):
        correlates.features_of(correlates.build(log_df, features_df, tissues, genes_df), "nobody")
    with pytest.raises(ValueError, match="alpha is 1"):
        Settings(alpha=1)
