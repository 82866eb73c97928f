"""lib.statistics.link_tests against brute force, planted links, and coverage of the intervals."""

import numpy as np
import pandas as pd
import pytest
from linked_cohort import cohort, links_of

from lib.statistics import effective_size, link_tests, permutations
from lib.statistics.false_discovery import bh
from lib.statistics.links import find_links, q_of_pairs


def brute(result, shuffles, h, q):
    """p of genes and the links, all statistics in float64 at once."""
    s = result.sides
    w = np.array(
        [s.values.weights_of_pairs(np.full(len(s.y), g), np.arange(len(s.y))) for g in range(len(s.x))]
    )
    statistic = np.abs(s.x @ s.y.T) * w / np.sqrt(s.inflation.of_block(slice(0, len(s.x))))
    null = np.stack([(np.abs(s.x[:, o] @ s.y.T) * w).max(axis=1) for o in shuffles.order])
    p, used = [], []
    for g in range(len(s.x)):
        reached = np.cumsum(null[:, g] >= statistic[g].max() - 1e-9)
        stop = int(np.argmax(reached >= h)) + 1 if reached[-1] >= h else len(null)
        p.append(h / stop if reached[-1] >= h else (1 + reached[-1]) / (1 + len(null)))
        used.append(stop)
    p = np.array(p)
    found = bh(p) <= q
    level = q * found.sum() / len(p)
    largest = null[: link_tests.Plan().overall].max(axis=1)
    overall = [(1 + (largest >= s - 1e-9).sum()) / (1 + len(largest)) for s in statistic.max(axis=1)]
    links = set()
    for g in np.flatnonzero(found):
        for f in range(len(s.y)):
            n_reached = (null[: used[g], g] >= statistic[g, f] - 1e-9).sum()
            one = int(used[g] == len(null))  # p is b / m where the gene stopped
            if max((one + n_reached) / (one + used[g]), p[g]) <= level + 1e-12:
                links.add((s.genes[g], s.features[f]))
    return p, overall, links


@pytest.mark.parametrize("donor_sd", [0, 0.6])
def test_genes_and_links_are_those_of_brute_force(donor_sd):
    result, shuffles = links_of(*cohort(donor_sd=donor_sd))
    p, overall, pairs = brute(result, shuffles, 10, 0.1)
    np.testing.assert_allclose(result.genes_df["p"], p)
    np.testing.assert_allclose(result.genes_df["p_overall"], overall)
    links_df = find_links(result, 0.1)
    assert set(zip(links_df["gene"], links_df["feature"], strict=True)) == pairs
    planted = {(f"g{i}", f"1_{i}") for i in range(8)}
    assert planted <= pairs


def test_every_gene_found_has_a_link_and_its_first_is_its_best():
    result, _ = links_of(*cohort())
    found = result.genes_df.index[result.genes_df["q"] <= 0.05]
    links_df = find_links(result, 0.05)
    first_df = links_df.groupby("gene").head(1).set_index("gene")
    assert set(first_df.index) == set(found)
    assert first_df["feature"].to_dict() == result.genes_df.loc[found, "feature"].to_dict()
    assert (links_df["q"] <= 0.05 + 1e-12).all()
    np.testing.assert_allclose(q_of_pairs(result, links_df), links_df["q"])


def test_r_within_is_signed_and_its_interval_holds_it():
    log_df, features_df, samples_df = cohort()
    features_df.loc["1_0"] *= -1
    df = find_links(links_of(log_df, features_df, samples_df)[0], 0.05).set_index(["gene", "feature"])
    link = df.loc[("g0", "1_0")]
    centred = [
        (row - row.groupby(samples_df.set_index("sample_id")["tissue"]).transform("mean"))
        for row in (log_df.loc["g0"], features_df.loc["1_0"])
    ]
    assert link["r_within"] == pytest.approx(np.corrcoef(*centred)[0, 1])
    assert link["low"] < link["r_within"] < link["high"] < 0


@pytest.mark.parametrize("donor_sd", [0, 1])
@pytest.mark.parametrize("unequal", [False, True])
def test_intervals_cover(donor_sd, unequal):
    """95 % intervals hold the r of the population in 93 to 97 % of 2,000 pairs."""
    rng = np.random.default_rng(2)
    n, m, rho = 150, 2000, 0.4
    tissue, donor = np.sort(rng.integers(0, 8, n)), rng.integers(0, 45, n)
    samples_df = pd.DataFrame(
        {"sample_id": [f"s{i}" for i in range(n)], "tissue": [f"t{t}" for t in tissue], "donor": donor}
    )
    spread = np.exp(rng.normal(0, 0.5, 8))[tissue] if unequal else 1.0
    shared = [rng.standard_normal((m, n)) + donor_sd * rng.standard_normal((m, 45))[:, donor] for _ in "ab"]
    x, own = shared
    y = rho * x + np.sqrt(1 - rho**2) * own
    frames = [
        pd.DataFrame(rows * spread, index=[f"p{i}" for i in range(m)], columns=samples_df["sample_id"])
        for rows in (x, y)
    ]
    shuffles = permutations.draw("within_tissue", 10, samples_df, 0)
    classes = effective_size.donor_classes(samples_df, shuffles.groups)
    sides = link_tests.prepare(*frames, shuffles, np.zeros((n, 0)), classes)
    df = link_tests.intervals(sides, np.arange(m), np.arange(m))
    covered = ((df["low"] <= rho) & (rho <= df["high"])).mean()
    assert 0.93 <= covered <= 0.97, (covered, df["inflation"].median())


def test_nothing_varies_within_tissues():
    log_df, features_df, samples_df = cohort(n_true=0)
    constant_df = log_df * 0 + 1
    with pytest.raises(ValueError, match="no gene of 80 varies within tissues"):
        links_of(constant_df, features_df, samples_df)


def test_no_gene_is_expressed():
    log_df, features_df, samples_df = cohort(n_true=0)
    with pytest.raises(ValueError, match="no gene to test within tissues: none reaches e_threshold"):
        links_of(log_df.iloc[:0], features_df, samples_df)


def test_what_donors_allow_is_said():
    samples_df = pd.DataFrame({"donor": ["a"] * 6})
    assert "are of one donor" in effective_size.donor_notes(samples_df)[0]
    assert "3 donors, too few" in effective_size.donor_notes(samples_df.assign(donor=list("aabbcc")))[0]
    assert "effective size" in effective_size.donor_notes(pd.DataFrame({"donor": list("abcdefgg")}))[0]
    for alone_df in (samples_df.drop(columns="donor"), samples_df.assign(donor=list("abcdef"))):
        assert effective_size.donor_notes(alone_df) == []
    unknown_df = samples_df.assign(donor=[None] * 6)
    assert effective_size.donor_notes(unknown_df) == [], "samples without a donor are not one donor's"


def test_a_plan_is_checked():
    with pytest.raises(ValueError, match="exceedances = 0"):
        link_tests.Plan(exceedances=0)
