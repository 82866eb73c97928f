"""Links: verdicts, tables, and the whole chain from arrays to verdicts."""

import numpy as np
import pandas as pd
import pytest
from linked_cohort import cohort
from made_cohort import make_frames, make_samples
from scipy import stats

from lib.figures import link_plots
from lib.simulated import scorecard
from lib.statistics import calibration, link_table, link_tests, links, permutations
from lib.statistics.correlation import r_of_pairs


def test_verdicts():
    q = pd.Series([0.01, 0.05, 0.06, np.nan, 0.9, 0.01])
    verdicts = ["direct", "direct", "through tissue", "not tested", "through tissue", "direct"]
    assert links.within_tissue_pattern(q).tolist() == verdicts
    given = pd.Series([0.2, 0.05, 0.9, np.nan, 0.01, np.nan])  # direct: found before and after covariates
    verdicts = [
        "through covariates",
        "direct",
        "through tissue",
        "not tested",
        "through tissue",
        "not tested",
    ]
    assert links.within_tissue_pattern(q, given).tolist() == verdicts
    turned = links.within_tissue_pattern(q[:3], None, 0.05, pd.Series([True, False, True]))
    assert turned.tolist() == ["direct, other sign", "direct", "through tissue"]


def test_table_of_pairs():
    pairs_df = pd.DataFrame({"gene": list("aab"), "feature": ["0_0", "0_1", "0_0"], "r": [0.9, -0.8, 0.7]})
    p_df = pd.DataFrame({"p_free": [0.01, 0.02, 0.03]})
    q_df = pd.DataFrame({"q_within_tissue": [0.01, 0.02], "q_covariates": [0.01, 0.3]}, index=[0, 1])
    rows_df = links.pairs_table(pairs_df, p_df, q_df, np.array([-0.5, -0.5, 0.5]), 0.05)
    verdicts = ["direct, other sign", "through covariates", "not tested"]
    assert rows_df["pattern_within_tissue"].tolist() == verdicts
    columns = ["gene", "feature", "p_free", "q_within_tissue", "q_covariates", "r_within_tissue"]
    assert rows_df.columns.tolist() == [*columns, "pattern_within_tissue"]


@pytest.fixture(scope="module")
def described():
    """Links of a small cohort with a covariate that nothing follows, and what they were made from."""
    log_df, features_df, samples_df = cohort()
    features_df.loc["1_100"] = 2 * features_df.loc["1_0"] + 1  # a near-copy
    perms = permutations.draw("within_tissue", 499, samples_df, 0)
    noise_df = pd.DataFrame({"c": np.random.default_rng(0).normal(size=len(samples_df))}, log_df.columns)
    plan = link_tests.Plan(progress=False)
    tests = {
        name: link_tests.run(log_df, features_df, samples_df, perms, df, plan)
        for name, df in (("within_tissue", None), ("covariates", noise_df))
    }
    medians_df = pd.DataFrame({"symbol": log_df.index.str.upper(), "tissue": "t1"}, index=log_df.index)
    tissues = sorted(samples_df["tissue"].unique())
    context = link_table.Context(log_df, features_df, medians_df, tissues, tests["covariates"].sides)
    return tests, context, link_table.describe(tests, 0.05, context)


def test_table_of_links(described):
    tests, context, df = described
    assert df.columns.tolist() == list(link_table.COLUMNS)
    assert (df["q_covariates"] <= 0.05).all()
    assert not df.duplicated(["gene", "feature"]).any()
    first = df[(df["gene"] == "g0") & df["feature"].isin(["1_0", "1_100"])]
    assert first["clump"].tolist() == ["1_0", "1_0"]
    assert first["clump_lead"].tolist() == [True, False]
    assert df[["layer", "channel"]].iloc[0].tolist() == [int(k) for k in df["feature"].iloc[0].split("_")]
    np.testing.assert_allclose(df["r"], r_of_pairs(context.log_df, context.features_df, df))
    np.testing.assert_allclose(df["r_validation"], df["r_within"])  # the same samples
    assert df["same_sign"].all()
    assert (df["low_without"] <= df["r_within"]).all()
    assert (df["r_within"] <= df["high_without"]).all()
    counts_df = link_table.counts(tests, df, 0.05)
    assert counts_df.loc["covariates out", "links"] == len(df)
    assert counts_df.loc["covariates out", "genes_found"] == df["gene"].nunique()


def test_table_of_genes(described):
    tests, context, df = described
    genes_df = links.genes_table(tests, df, context.medians_df)
    found_df = genes_df[genes_df["q"] <= 0.05]
    assert found_df["n_links"].gt(0).all(), "every gene found has a listed link"
    assert found_df["n_links"].sum() == len(df)
    assert found_df.loc["g0", ["n_links", "n_clumps"]].tolist() == [2, 1]
    expected = tests["within_tissue"].genes_df["q"]
    pd.testing.assert_series_equal(genes_df["q_without_covariates"], expected, check_names=False)


def test_no_link_leaves_an_empty_table_with_all_columns():
    log_df, features_df, samples_df = cohort(n_true=0, n_genes=20)
    perms = permutations.draw("within_tissue", 99, samples_df, 0)
    plan = link_tests.Plan(progress=False)
    tests = {"within_tissue": link_tests.run(log_df, features_df, samples_df, perms, None, plan)}
    medians_df = pd.DataFrame({"symbol": log_df.index, "tissue": "t1"}, index=log_df.index)
    context = link_table.Context(log_df, features_df, medians_df, sorted(samples_df["tissue"].unique()))
    df = link_table.describe(tests, 1e-9, context)
    assert df.empty
    assert set(link_table.COLUMNS) - set(df.columns) == {
        name for name in link_table.COLUMNS if "validation" in name or name == "same_sign"
    }
    assert links.genes_table(tests, df, medians_df)["n_links"].eq(0).all()
    assert link_table.counts(tests, df, 1e-9)["links"].tolist() == [0]


def test_chain_calls_direct_pairs_and_not_markers():
    """From arrays to verdicts: links within tissues, through the tissue, through a covariate."""
    rng = np.random.default_rng(5)
    samples_df = make_samples(np.repeat(list("abcdefgh"), 18).tolist())
    n = len(samples_df)
    tissue = pd.factorize(samples_df["tissue"])[0]
    delay, hidden = rng.normal(size=(2, n))
    x = 5 * rng.normal(size=(240, 8))[:, tissue] + rng.normal(size=(240, n))
    y = 3 * rng.normal(size=(60, 8))[:, tissue] + rng.normal(size=(60, n))
    x[:40] += 1.8 * hidden  # direct genes, driven by what features 0 to 19 follow
    x[40:80] += 1.8 * delay
    y += 0.9 * delay
    y[:20] += 1.8 * hidden
    log_df, features_df = make_frames(x, y, samples_df)
    kinds = ["direct"] * 40 + ["covariate"] * 40 + ["marker"] * 160
    truth_df = pd.DataFrame({"kind": kinds, "quantity": ["hidden"] * 40 + [""] * 200}, index=log_df.index)
    hidden_df = pd.DataFrame([hidden], index=["hidden"], columns=log_df.columns)
    r_df = scorecard.within_tissue_r(features_df, hidden_df, samples_df.set_index("sample_id")["tissue"])
    pairs_df = scorecard.every_pair(log_df.index, features_df.index)
    kinds = scorecard.pair_kinds(pairs_df, scorecard.Truth(truth_df, r_df, scorecard.chance_r(n, 8)))
    drawn = permutations.draw("within_tissue", 999, samples_df, 0)
    given_df = pd.DataFrame({"d": delay}, index=log_df.columns)
    how, plan = (log_df, features_df, samples_df, drawn), link_tests.Plan(progress=False)
    plain, given = (links.q_of_pairs(link_tests.run(*how, df, plan), pairs_df) for df in (None, given_df))
    pattern = links.within_tissue_pattern(plain, given)
    called_df = pd.DataFrame({"plain": plain <= 0.05, "covariates": pattern == "direct"})
    found_df = scorecard.precision_recall(scorecard.score_pairs(kinds, called_df))
    assert (found_df.loc["covariates", ["precision", "recall"]] > [0.95, 0.9]).all()
    assert found_df.loc["plain", "precision"] < 0.7, "without the covariate its genes are called"
    of_covariate = pattern[kinds == "covariate"].value_counts(normalize=True)
    assert of_covariate["through covariates"] > 0.5, "other features hardly show the covariate"
    assert of_covariate.get("direct", 0) < 0.01
    assert (pattern[kinds == "marker"] == "through tissue").mean() > 0.99


def test_false_discovery_rate_of_genes_where_donors_repeat():
    """100 true of 1,000 genes, three cohorts: shuffling alone exceeds q, the effective size keeps it."""
    false = {"plain": [], "effective": []}
    true = {f"g{k}" for k in range(100)}
    for seed in range(3):
        log_df, features_df, samples_df = cohort(1000, 200, 100, donor_sd=0.6, seed=seed, n=150)
        perms = permutations.draw("within_tissue", 3000, samples_df, 0)
        for how, df in (("plain", samples_df.drop(columns="donor")), ("effective", samples_df)):
            plan = link_tests.Plan(progress=False)
            genes_df = link_tests.run(log_df, features_df, df, perms, None, plan).genes_df
            found = set(genes_df.index[genes_df["q"] <= 0.05])
            false[how].append(len(found - true) / len(found))
            assert len(found & true) >= 73, "power is not below that of two schemes"
    assert np.mean(false["effective"]) <= 0.06
    assert np.mean(false["plain"]) > 0.15


def test_clumps_are_counted_by_gene_and_by_layer():
    rows = [
        ("a", "A", "1_0", 1, "1_0", 5.0, 0.5),
        ("a", "A", "2_1", 2, "1_0", 4.0, 0.4),
        ("b", "B", "1_0", 1, "1_0", 6.0, -0.3),
        ("b", "B", "2_2", 2, "2_2", 2.0, 0.2),
        ("c", "C", "embedding_3", None, "embedding_3", 1.0, 0.1),
    ]
    names = ["gene", "symbol", "feature", "layer", "clump", "statistic", "r_within"]
    df = pd.DataFrame(rows, columns=names).astype({"layer": "Int64", "clump": "category"})
    clumps_df = link_table.of_clumps(df)
    assert clumps_df.index.tolist() == ["1_0", "2_2", "embedding_3"]
    assert clumps_df["n_genes"].tolist() == [2, 1, 1]
    assert clumps_df["n_features"].tolist() == [2, 1, 1]
    assert clumps_df["symbol"].tolist() == ["B", "B", "C"]  # the strongest link, whatever its sign
    assert clumps_df["r_within"].tolist() == [-0.3, 0.2, 0.1]
    assert clumps_df[["layer_1", "layer_2"]].to_numpy().tolist() == [[1, 1], [0, 1], [0, 0]]
    figure = link_plots.clumps_by_layer(clumps_df)
    assert figure.axes[1].images[0].get_array().filled(0).tolist() == [
        [1, 0],
        [1, 1],
    ]  # the embedding: in no layer
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 1]
    assert link_table.of_clumps(df.iloc[:0]).empty


@pytest.mark.slow
def test_family_wise_error_with_donors_and_with_sparse_genes():
    """Plain shuffling is anti-conservative where a donor's tissues share an effect, the effective size is
    not; nor is it where genes are sparse.
    """
    n_genes, rates = 300, {}
    samples_df = calibration.design(n_donors=60)
    log_df, _, _ = calibration.null_pairs(samples_df, n_genes, 1.0, 0)
    _, features_df, _ = calibration.null_pairs(samples_df, 400, 1.0, 100)
    rng = np.random.default_rng(0)
    shape = (n_genes, len(samples_df))
    sparse = np.where(rng.random(shape) < 0.1, rng.lognormal(1, 0.8, shape), 0.0)
    sparse_df = pd.DataFrame(sparse, log_df.index, log_df.columns)
    heavy_df = pd.DataFrame(rng.lognormal(0, 1, features_df.shape), features_df.index, features_df.columns)
    perms = permutations.draw("within_tissue", 199, samples_df, 0)
    plan = link_tests.Plan(progress=False)
    for name, tables in (("donors", (log_df, features_df)), ("sparse", (sparse_df, heavy_df))):
        for how, df in (("plain", samples_df.drop(columns="donor")), ("effective", samples_df)):
            p = link_tests.run(*tables, df, perms, None, plan).genes_df["p"]
            rates[name, how] = (p <= 0.05).mean()
    allowed = stats.binom.ppf(0.999, n_genes, 0.05) / n_genes
    assert rates["donors", "plain"] > 2 * allowed, "shuffling treats a donor's tissues as independent"
    assert rates["donors", "effective"] <= allowed
    assert max(rates["sparse", "plain"], rates["sparse", "effective"]) <= allowed
