"""Links over several units, against statsmodels' meta-analysis; sections by themselves and left out."""

import numpy as np
import pandas as pd
import pytest
from spot_factory import frame, places, section, smooth
from statsmodels.stats.meta_analysis import combine_effects

from lib.statistics import meta_analysis, sections_left_out
from lib.statistics.sections_left_out import How


def made_ledger(seed=0, units=4):
    rng = np.random.default_rng(seed)
    rows = [
        (f"g{k}", "0_0", f"u{u}", 100, n, np.tanh(rng.normal(0.3, 0.2)))
        for k in range(6)
        for u, n in enumerate(rng.uniform(20, 200, units))
    ]
    df = pd.DataFrame(rows, columns=["gene", "feature", "unit", "n", "n_effective", "r"])
    return df.assign(low=0.0, high=0.0, p=0.5)


def test_agrees_with_statsmodels():
    ledger_df = made_ledger()
    combined_df = meta_analysis.combine(ledger_df).set_index("gene")
    for gene, df in ledger_df.groupby("gene"):
        theirs = combine_effects(np.arctanh(df["r"]), 1 / (df["n_effective"] - 2), method_re="chi2")
        frame_df, row = theirs.summary_frame(), combined_df.loc[gene]
        for ours, name in (("fixed", "fixed effect"), ("random", "random effect")):
            assert np.arctanh(row[f"r_{ours}"]) == pytest.approx(frame_df.loc[name, "eff"])
            assert np.arctanh(row[f"low_{ours}"]) == pytest.approx(frame_df.loc[name, "ci_low"], rel=1e-6)
            assert np.arctanh(row[f"high_{ours}"]) == pytest.approx(frame_df.loc[name, "ci_upp"], rel=1e-6)
        assert row["q_cochran"] == pytest.approx(theirs.q)
        assert row["i2"] == pytest.approx(max(theirs.i2, 0))
        assert row["p_heterogeneity"] == pytest.approx(theirs.test_homogeneity().pvalue)
        without = [
            combine_effects(np.arctanh(d["r"]), 1 / (d["n_effective"] - 2)).mean_effect_fe
            for unit in df["unit"]
            for d in [df[df["unit"] != unit]]
        ]
        assert row["low_without"] == pytest.approx(np.tanh(min(without)))
        assert row["high_without"] == pytest.approx(np.tanh(max(without)))


def test_units_that_lack_a_link_and_single_units():
    ledger_df = made_ledger(units=3)
    short_df = ledger_df[~((ledger_df["gene"] == "g0") & (ledger_df["unit"] != "u1"))]
    df = meta_analysis.combine(short_df).set_index("gene")
    assert df.loc["g0", "n_units"] == 1
    only = ledger_df[(ledger_df["gene"] == "g0") & (ledger_df["unit"] == "u1")]["r"].iloc[0]
    assert df.loc["g0", "r_fixed"] == pytest.approx(only)
    assert df.loc["g0", ["i2", "p_heterogeneity", "low_without", "high_without"]].isna().all()
    assert df.loc["g1", "n_units"] == 3
    assert meta_analysis.combine(made_ledger()[:0]).empty
    assert meta_analysis.ledger(pd.DataFrame({"gene": ["a"], "feature": ["b"]}), {}).empty


def cohort(n_true=8, sections="ABCD", n=12, seed=0):
    """Genes 0 to n_true follow the feature of their number on every section; the others follow none."""
    rng, xy = np.random.default_rng(seed), places("square", n)
    tables, genes, features = [], [], []
    for name in sections:
        tables.append(section(xy, name, donor="d" if name < "C" else "e"))
        features.append(smooth(xy, 20, 2.0, rng))
        genes.append(smooth(xy, 60, 2.0, rng))
        genes[-1][:n_true] += 1.5 * features[-1][:n_true]
    samples_df = pd.concat(tables, ignore_index=True)
    rows = np.concatenate(genes, axis=1), np.concatenate(features, axis=1)
    return frame(rows[0], samples_df, "g"), frame(rows[1], samples_df, "0_"), samples_df


def test_sections_hold_by_themselves_and_together():
    log_df, features_df, samples_df = cohort()
    units, said = meta_analysis.sections(log_df, features_df, samples_df)
    assert (list(units), said) == (list("ABCD"), [])
    pairs = [(f"g{k}", f"0_{k}") for k in range(20)]
    pairs_df = pd.DataFrame(pairs, columns=["gene", "feature"])
    ledger_df = meta_analysis.ledger(pairs_df, units)
    assert ledger_df.columns.tolist() == meta_analysis.LEDGER
    assert ledger_df["unit"].tolist() == list("ABCD") * 20
    ids = samples_df.loc[samples_df["slide_id"] == "B", "sample_id"]
    r = np.corrcoef(log_df.loc["g3", ids], features_df.loc["0_3", ids])[0, 1]
    row = ledger_df[(ledger_df["gene"] == "g3") & (ledger_df["unit"] == "B")].iloc[0]
    assert row["r"] == pytest.approx(r)
    assert row["n_effective"] < row["n"]
    combined_df = meta_analysis.combine(ledger_df)
    assert (combined_df["p_fixed"].iloc[:8] < 1e-6).all()
    assert (combined_df["p_fixed"].iloc[8:] > 0.01).all()
    small_df = pd.concat([samples_df, section(places("square", 2), "E")])
    more_df = log_df.join(pd.DataFrame(1.0, log_df.index, [f"E_{k}" for k in range(4)]))
    _, said = meta_analysis.sections(more_df, more_df, small_df)
    assert said == ["section E: 4 spots are too few"]


def test_links_found_without_a_section_hold_on_it():
    log_df, features_df, samples_df = cohort(8, "ABC")
    df, links_df = sections_left_out.each_left_out(
        log_df, features_df, samples_df, How(link_permutations=199)
    )
    assert df["section"].tolist() == list("ABC")
    assert (df["genes_found"] >= 8).all()
    assert (df["replicated"] >= 0.7).all()
    assert links_df.groupby("section").size().tolist() == df["links"].tolist()
    of_found_df = links_df.drop_duplicates(["section", "gene"])
    shares = (of_found_df["q"] <= 0.05).groupby(of_found_df["section"]).mean()
    assert shares.tolist() == pytest.approx(df["replicated"].tolist())
    two_df = samples_df[samples_df["slide_id"] != "C"]
    ids = two_df["sample_id"]
    assert sections_left_out.each_left_out(log_df[ids], features_df[ids], two_df, How()).links_df.empty


def test_nothing_replicates_where_nothing_is():
    log_df, features_df, samples_df = cohort(0, "ABC", seed=4)
    df, _ = sections_left_out.each_left_out(
        log_df, features_df, samples_df, How(link_permutations=199, q_threshold=0.5)
    )
    assert (df["links"] == 0).all() or df["replicated"].fillna(0).mean() < 0.4
