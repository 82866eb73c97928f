"""Links: the larger p of two schemes, verdicts, and the whole chain from arrays to verdicts."""

import numpy as np
import pandas as pd
import pytest
from made_cohort import make_frames, make_samples, small_cohort
from scipy import stats

from lib.simulated import scorecard
from lib.statistics import calibration, links, permutations
from lib.statistics.max_statistic import max_statistic


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


def test_tables_of_genes_and_pairs():
    pairs_df = pd.DataFrame({"gene": list("aab"), "feature": ["0_0", "0_1", "0_0"], "r": [0.9, -0.8, 0.7]})
    p_df = pd.DataFrame({"p_free": [0.01, 0.02, 0.03]})
    q_df = pd.DataFrame({"q_within_tissue": [0.01, 0.02], "q_covariates": [0.01, 0.3]}, index=[0, 1])
    rows_df = links.pairs_table(pairs_df, p_df, q_df, np.array([-0.5, -0.5, 0.5]), 0.05)
    verdicts = ["direct, other sign", "through covariates", "not tested"]
    assert rows_df["pattern_within_tissue"].tolist() == verdicts
    columns = ["gene", "feature", "p_free", "q_within_tissue", "q_covariates", "r_within_tissue"]
    assert rows_df.columns.tolist() == [*columns, "pattern_within_tissue"]
    genes_df = pd.DataFrame({"feature": "0_0", "p_gene": 0.1, "q": 0.2}, index=list("ab"))
    one = links.Links(genes_df, np.ones(2), np.ones(2), np.ones((1, 2)))
    medians_df = pd.DataFrame({"symbol": list("ABC"), "tissue": "t"}, index=list("abc"))
    table_df = links.genes_table({"within_tissue": one, "covariates": one}, medians_df)
    assert table_df.columns.tolist()[3:] == [
        "symbol", "tissue", "feature_covariates", "p_gene_covariates", "q_covariates",
    ]  # fmt: skip
    assert table_df["symbol"].tolist() == ["A", "B"]


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
    drawn = [permutations.draw("within_tissue", 499, samples_df, 0)]
    given_df = pd.DataFrame({"d": delay}, index=log_df.columns)
    plain, given = (
        pd.Series(links.find_links(log_df, features_df, pairs_df, drawn, df).q_pairs)
        for df in (None, given_df)
    )
    pattern = links.within_tissue_pattern(plain, given)
    called_df = pd.DataFrame({"plain": plain <= 0.05, "covariates": pattern == "direct"})
    found_df = scorecard.precision_recall(scorecard.score_pairs(kinds, called_df))
    assert (found_df.loc["covariates", ["precision", "recall"]] > [0.95, 0.9]).all()
    assert found_df.loc["plain", "precision"] < 0.7, "without the covariate its genes are called"
    of_covariate = pattern[kinds == "covariate"].value_counts(normalize=True)
    assert of_covariate["through covariates"] > 0.5, "other features hardly show the covariate"
    assert of_covariate.get("direct", 0) < 0.01
    assert (pattern[kinds == "marker"] == "through tissue").mean() > 0.99


def test_largest_p_of_two_schemes():
    samples_df, log_df, features_df, pairs_df = small_cohort()
    drawn = [permutations.draw(s, 60, samples_df, 2) for s in ("within_tissue", "donor_signs")]
    results = [max_statistic(log_df, features_df, d, pairs_df=pairs_df) for d in drawn]
    genes_df, tested_df = links.largest_p(results)
    for mine_df, theirs in (
        (genes_df, [r.genes_df for r in results]),
        (tested_df, [r.tested_df for r in results]),
    ):
        for column in ("p_gene", "p_overall"):
            expected = np.maximum(theirs[0][column], theirs[1][column])
            np.testing.assert_array_equal(mine_df[column], expected)
    assert genes_df["statistic"].equals(results[0].genes_df["statistic"])
    with pytest.raises(ValueError, match="not of the same genes"):
        links.largest_p([results[0], results[1]._replace(genes_df=results[1].genes_df.iloc[1:])])


@pytest.mark.slow
def test_family_wise_error_with_donors_and_with_sparse_genes():
    """Shuffling is anti-conservative where a donor's tissues share an effect, signs where genes are sparse.

    The larger p of both holds its level in either case.
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
    drawn = [permutations.draw(s, 199, samples_df, 0) for s in permutations.required_schemes(samples_df)]
    for name, tables in (("donors", (log_df, features_df)), ("sparse", (sparse_df, heavy_df))):
        results = [max_statistic(*tables, d) for d in drawn]
        p = [r.genes_df["p_gene"] for r in results] + [links.largest_p(results)[0]["p_gene"]]
        rates[name] = [(p <= 0.05).mean() for p in p]
    allowed = stats.binom.ppf(0.999, n_genes, 0.05) / n_genes
    assert rates["donors"][0] > 2 * allowed, "shuffling treats a donor's tissues as independent"
    assert rates["donors"][1] <= allowed
    assert rates["sparse"][0] <= allowed < rates["sparse"][1]
    assert max(rates[name][2] for name in rates) <= allowed
