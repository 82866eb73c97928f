"""Spots: what counts as a section of spots, rings of distance, Moran's I, and tests calibrated on fields."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from spot_factory import frame, places, section, smooth

from lib.statistics import effective_size, link_tests, permutations, sample_dependence, spatial_lags, spots


def test_spots_are_many_regions_of_one_donor_on_a_slide():
    spots_df = section(places("square"))
    assert spots.are_spots(spots_df)
    assert spots.strata(spots_df).unique().tolist() == ["A"]
    assert not spots.are_spots(spots_df.drop(columns="l0_x"))
    assert not spots.are_spots(spots_df.assign(donor=spots_df["sample_id"])), "cores of many donors"
    assert not spots.are_spots(spots_df.assign(slide_id=spots_df["sample_id"])), "a region of each slide"
    bulk_df = pd.DataFrame({"sample_id": ["a", "b"], "slide_id": ["a", "b"], "tissue": ["x", "y"]})
    assert spots.strata(bulk_df).tolist() == ["x", "y"]
    assert (spots.stratum_name(spots_df), spots.stratum_name(bulk_df)) == ("section", "tissue")


def test_centres_and_pitch_are_in_micrometres():
    spots_df = section(places("square", 5), pitch_px=200, mpp=0.5)
    centres = spots.centres_um(spots_df)
    assert centres[0].tolist() == [(1000 + 50) * 0.5, (1000 + 50) * 0.5]
    assert spots.pitch(centres) == pytest.approx(100)


@pytest.mark.parametrize(("kind", "neighbours"), [("square", (4, 8)), ("hexagonal", (6, 6))])
def test_the_first_ring_holds_the_neighbours(kind, neighbours):
    spots_df = section(places(kind, 14))
    classes = spatial_lags.lag_classes(spots_df)
    degree = classes.pairs[0].sum(axis=1)
    assert int(degree.max()) in neighbours


@pytest.mark.parametrize("kind", ["square", "hexagonal", "irregular"])
def test_rings_hold_every_pair_of_a_section_once_and_none_between_sections(kind):
    both_df = pd.concat([section(places(kind, 9), "A"), section(places(kind, 7), "B")], ignore_index=True)
    classes = spatial_lags.lag_classes(both_df.sample(frac=1, random_state=0))
    total = sum(pairs.toarray() for pairs in classes.pairs)
    slides = both_df.sample(frac=1, random_state=0)["slide_id"].to_numpy()
    expected = (slides[:, None] == slides[None, :]) & ~np.eye(len(slides), dtype=bool)
    np.testing.assert_array_equal(total, expected)
    assert len(classes.pairs) <= 2 * (spatial_lags.NEAR_RINGS + spatial_lags.MOST_FAR_RINGS)


def test_odd_sections_have_classes_or_none():
    line = np.stack([np.arange(40.0), np.zeros(40)], axis=1)
    one_place = np.zeros((12, 2))
    for xy in (line, one_place):
        total = sum(p.toarray() for p in spatial_lags.lag_classes(section(xy)).pairs)
        assert total.sum() == len(xy) * (len(xy) - 1)
    assert spatial_lags.lag_classes(section(line[:2])).pairs == ()
    said = "\n".join(spots.notes(section(line)))
    assert "on one line" in said
    assert "one section" in said
    two_df = pd.concat([section(places("square", 5), "A"), section(places("square", 9), "B")])
    said = "\n".join(spots.notes(two_df))
    assert "fewer than 30 spots: {'A': 25}" in said
    assert "2 sections of 1 donor" in said


def test_moran_i_is_that_of_the_definition():
    xy = places("square", 8)
    spots_df = section(xy)
    rows = smooth(xy, 5, 2.0, np.random.default_rng(0))
    rows -= rows.mean(axis=1, keepdims=True)
    weights = (cdist(xy, xy) < 1.5) & ~np.eye(64, dtype=bool)
    expected = [64 / weights.sum() * (x @ weights @ x) / (x @ x) for x in rows]
    near = spatial_lags.neighbours(spots_df)
    np.testing.assert_allclose(spatial_lags.moran_i(rows, near), expected)
    assert spatial_lags.moran_i(np.zeros((1, 64)), near).tolist() == [0]


@pytest.mark.parametrize("uneven", [False, True])
def test_lambda_is_the_formula_of_clifford_and_dutilleul(uneven):
    """With equal variances; and with the variance of each spot over the rows of a side."""
    xy = places("hexagonal", 8)
    spots_df, rng = section(xy), np.random.default_rng(1)
    scale = np.exp(rng.normal(0, 0.7, len(xy)))
    x, y = (smooth(xy, 3, 2.0, rng) * scale for _ in range(2))
    x, y = (rows - rows.mean(axis=1, keepdims=True) for rows in (x, y))
    n, groups = len(xy), np.zeros(len(xy), int)
    classes = sample_dependence.classes_of(spots_df, groups)._replace(uneven=uneven)
    inflation = effective_size.inflation(x, y, groups, classes, np.full(n, 1 / n))
    degrees = n * (1 - 1 / n)  # of a variance
    v, u = ((z * z / (z * z).mean(axis=1, keepdims=True)).mean(axis=0) for z in (x, y))
    v, u = (v, u) if uneven else (np.ones(n), np.ones(n))
    for i in range(3):
        for j in range(3):
            r = np.corrcoef(x[i], y[j])[0, 1]
            tau = (x[i] ** 2 @ y[j] ** 2) * degrees**2 / n / (x[i] @ x[i]) / (y[j] @ y[j])
            own, added = (np.mean(v * u) + tau / (1 + 2 * r * r)) / 2 if uneven else 1.0, 0.0
            for pairs in classes.pairs:
                dense = pairs.toarray()
                rho = [
                    float(z @ dense @ z) / (z @ z / n) / (np.sqrt(w) @ dense @ np.sqrt(w))
                    for z, w in ((x[i], v), (y[j], u))
                ]
                rho = np.clip(rho, -1, 1)  # the farthest rings hold a few pairs
                added += (np.sqrt(v * u) @ dense @ np.sqrt(v * u)) * rho[0] * rho[1] / n
            assert inflation.of_block(slice(None))[i, j] == pytest.approx(own + added, rel=1e-5)
            assert inflation.of_pairs(np.array([i]), np.array([j]))[0] == pytest.approx(own + added, rel=1e-6)


def uneven_spots(n_rows, rho=0.0, sd=0.7, seed=0):
    """Two sections whose spots differ in variance (lognormal), on both sides alike; correlated by rho."""
    xys = [places("square", 13), places("hexagonal", 13)]
    spots_df = pd.concat([section(xy, name) for xy, name in zip(xys, "AB", strict=True)], ignore_index=True)
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, sd, len(spots_df)))
    y = rng.normal(size=(n_rows, len(spots_df)))
    x = rho * y + np.sqrt(1 - rho**2) * rng.normal(size=y.shape)
    return spots_df, frame(x * scale, spots_df, "g"), frame(y * scale, spots_df, "0_")


def p_of_pairs(spots_df, log_df, features_df, uneven):
    """p of all pairs of a gene and a feature, by the effective size; and lambda both ways."""
    shuffles = permutations.draw("within_tissue", 1, spots_df, 0)
    classes = sample_dependence.classes_of(spots_df, shuffles.groups)._replace(uneven=uneven)
    sides = link_tests.prepare(log_df, features_df, shuffles, np.zeros((len(spots_df), 0)), classes)
    block = sides.inflation.of_block(slice(None))
    g, f = (index.ravel() for index in np.indices(block.shape))
    np.testing.assert_allclose(block.ravel(), sides.inflation.of_pairs(g, f), rtol=1e-4)
    r = sides.x @ sides.y.T
    return effective_size.p_of_r(r, (len(spots_df) - 2) / block)


def test_spots_of_unequal_variance_are_calibrated():
    """Spots of little depth are extreme on both sides: 14,400 pairs without a correlation."""
    data = uneven_spots(120)
    p, without = p_of_pairs(*data, uneven=True), p_of_pairs(*data, uneven=False)
    assert 0.03 < (p <= 0.05).mean() < 0.06
    assert (p <= 0.01).mean() < 0.012
    assert (p <= 0.001).mean() < 0.001
    assert (without <= 0.05).mean() > 0.25
    assert (without <= 0.001).mean() > 0.05, "what shuffling alone would call"


def test_smooth_fields_of_unequal_variance_are_calibrated():
    """Autocorrelated, and most variable at the same spots on both sides: pairs, and genes over features."""
    xy, called, genes_called = places("square", 15), [], []
    spots_df = section(xy)
    for seed in range(3):
        rng = np.random.default_rng([seed, 7])
        scale = np.exp(rng.normal(0, 0.7, len(xy)))
        x, y = (smooth(xy, n, 2.0, rng) * scale for n in (200, 40))
        x, y = frame(x, spots_df, "g"), frame(y, spots_df, "0_")
        called.append(p_of_pairs(spots_df, x, y, uneven=True))
        shuffles = permutations.draw("within_tissue", 199, spots_df, seed)
        plan = link_tests.Plan(progress=False)
        genes_called.append(link_tests.run(x, y, spots_df, shuffles, None, plan).genes_df["p"])
    p, p_of_genes = np.concatenate(called), np.concatenate(genes_called)
    assert 0.03 < (p <= 0.05).mean() < 0.06
    assert (p <= 0.001).mean() < 0.001
    assert (p_of_genes <= 0.05).mean() < 0.03


def test_spots_of_equal_variance_lose_nothing_by_it():
    """Power for a correlation of 0.25 at p 1e-4, of 400 pairs, with and without."""
    data = uneven_spots(400, rho=0.25, sd=0.0, seed=1)
    with_it, without = (np.diag(p_of_pairs(*data, uneven=uneven)) <= 1e-4 for uneven in (True, False))
    assert without.mean() > 0.5
    assert with_it.mean() > without.mean() - 0.06


@pytest.mark.parametrize("kind", ["square", "hexagonal", "irregular"])
@pytest.mark.parametrize("length", [1.0, 3.0])
def test_r_of_independent_fields_is_calibrated(kind, length):
    """1,600 pairs of fields that have nothing in common: .05 and .01 are rejected, by t far more."""
    xy, rng = places(kind, 13), np.random.default_rng([int(length), len(kind)])
    spots_df = section(xy)
    x, y = (smooth(xy, 40, length, rng, noise=0.7) for _ in range(2))
    shuffles = permutations.draw("within_tissue", 1, spots_df, 0)
    classes = sample_dependence.classes_of(spots_df, shuffles.groups)
    basis = np.zeros((len(xy), 0))
    log_df, features_df = frame(x, spots_df, "g"), frame(y, spots_df, "0_")
    sides = link_tests.prepare(log_df, features_df, shuffles, basis, classes)
    r = (sides.x @ sides.y.T).ravel()
    n_effective = (len(xy) - 1) / sides.inflation.of_block(slice(None)).ravel()
    p, naive = effective_size.p_of_r(r, n_effective), effective_size.p_of_r(r, np.full(r.shape, len(xy) - 1))
    assert 0.03 < (p <= 0.05).mean() < 0.075
    assert (p <= 0.01).mean() < 0.02
    assert (naive <= 0.05).mean() > (0.07 if length == 1 else 0.2)


def test_lambda_is_not_smaller_where_few_rows_are_at_hand():
    """Of one gene or five, as of links held against another section, it varies around that among all."""
    spots_df, log_df, features_df = uneven_spots(100)
    groups = (spots_df["slide_id"] == "B").to_numpy(int)
    x, y = (df.to_numpy(copy=True) for df in (log_df, features_df))
    for rows in (x, y):
        for group in (0, 1):
            rows[:, groups == group] -= rows[:, groups == group].mean(axis=1, keepdims=True)
    classes, leverage = sample_dependence.classes_of(spots_df, groups), 1 / np.bincount(groups)[groups]

    def of(genes):
        inflation = effective_size.inflation(x[genes], y, groups, classes, leverage)
        return inflation.of_block(slice(None))

    whole = of(slice(None))
    for n, bias, spread in ((20, 0.02, 0.05), (5, 0.03, 0.15), (1, 0.06, 0.4)):
        few = [slice(start, start + n) for start in range(0, 100, n)]
        ratio = np.array([np.median(np.log(of(genes) / whole[genes])) for genes in few])
        assert abs(ratio.mean()) < bias, n
        assert ratio.std() < spread, n


def test_a_gene_and_a_feature_of_different_sections_have_lambda_one():
    spots_df = pd.concat([section(places("square", 8), name) for name in "AB"], ignore_index=True)
    groups, rng = (spots_df["slide_id"] == "B").to_numpy(int), np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, len(groups)))
    x[0, groups == 1] = y[0, groups == 0] = 0
    classes = sample_dependence.classes_of(spots_df, groups)
    inflation = effective_size.inflation(x, y, groups, classes, np.full(len(groups), 1 / 64))
    block = inflation.of_block(slice(None))
    assert block[0, 0] == 1
    g, f = (index.ravel() for index in np.indices(block.shape))
    np.testing.assert_allclose(inflation.of_pairs(g, f), block.ravel(), rtol=1e-5)


def test_spectral_randomisation_agrees_on_the_spread_of_r():
    """Oracle: Moran spectral randomisation (Wagner and Dray 2015) of one side keeps its autocorrelation; the
    standard deviation of r over its surrogates is that of the effective size.
    """
    xy, rng = places("square", 13), np.random.default_rng(3)
    spots_df, n = section(xy), 169
    x, y = (smooth(xy, 12, 2.5, rng) for _ in range(2))
    groups, classes = np.zeros(n, int), spatial_lags.lag_classes(spots_df)
    x, y = (rows - rows.mean(axis=1, keepdims=True) for rows in (x, y))
    inflation = effective_size.inflation(x, y, groups, classes, np.full(n, 1 / n)).of_pairs(
        *[np.arange(12)] * 2
    )
    weights = 1 - cdist(xy, xy) / cdist(xy, xy).max()
    centre = np.eye(n) - 1 / n
    _, vectors = np.linalg.eigh(centre @ weights @ centre)
    vectors = vectors[:, np.abs(vectors.sum(axis=0)) < 1e-6 * n]
    ratios = []
    for k in range(12):
        loadings = vectors.T @ y[k]
        surrogates = (loadings * rng.choice([-1, 1], (2000, len(loadings)))) @ vectors.T
        r = surrogates @ x[k] / np.linalg.norm(surrogates, axis=1) / np.linalg.norm(x[k])
        ratios.append(r.std() * np.sqrt((n - 1) / inflation[k]))
    assert 0.8 < np.median(ratios) < 1.25


def test_genes_over_all_features_are_calibrated_and_a_planted_link_is_found():
    xys = [places("square", 11), places("hexagonal", 11)]
    spots_df = pd.concat([section(xy, name) for xy, name in zip(xys, "AB", strict=True)], ignore_index=True)
    rng = np.random.default_rng(5)
    x, y = (np.concatenate([smooth(xy, n, 2.0, rng) for xy in xys], axis=1) for n in (300, 60))
    x[0] += 1.5 * y[0]
    log_df, features_df = frame(x, spots_df, "g"), frame(y, spots_df, "0_")
    shuffles = permutations.draw("within_tissue", 199, spots_df, 0)
    plan = link_tests.Plan(progress=False)
    genes_df = link_tests.run(log_df, features_df, spots_df, shuffles, None, plan).genes_df
    assert genes_df["feature"].iloc[0] == "0_0"
    assert genes_df["p"].iloc[0] == genes_df["p"].min()
    null = genes_df["p"].iloc[1:]
    assert stats.binomtest(int((null <= 0.05).sum()), len(null), 0.05).pvalue > 0.001
    donors_df = spots_df.drop(columns=["l0_x"]).assign(tissue=spots_df["slide_id"])
    plain = link_tests.run(log_df, features_df, donors_df, shuffles, None, plan).genes_df["p"].iloc[1:]
    assert (plain <= 0.05).mean() > 0.1, "neighbours that count as independent"


def test_notes_stand_in_the_test():
    spots_df = section(places("square", 12))
    shuffles = permutations.draw("within_tissue", 10, spots_df, 0)
    said = link_tests.notes(shuffles, spots_df)
    assert "144 spots of 1 sections" in said
    assert "this shuffle ignores" not in said
