"""Simulated pairs without a link in designs where samples depend on each other, and their p."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.statistics import effective_size, link_tests, permutations
from lib.statistics.residuals import covariate_basis, covariate_scales

N_PAIRS, N_SHUFFLES = 1000, 499


class Design(NamedTuple):
    """groups and donors are drawn; sd is the donor effect's, noise the kind of the rest."""

    layout: str
    sd: float
    noise: str = "normal"
    covariates: int = 0
    anti_conservative: bool = False


DESIGNS = {
    "334 slides": Design("334", 0),
    "334 slides, donors": Design("334", 1, anti_conservative=True),
    "334 slides, strong donors": Design("334", 2, anti_conservative=True),
    "334 slides, donors, unequal variances": Design("334", 1, "unequal"),
    "334 slides, donors, t with 2 df": Design("334", 1, "t2"),
    "334 slides, donors switch rows on": Design("334", 1, "switch", anti_conservative=True),
    "334 slides, donors, covariates out": Design("334", 1, covariates=3, anti_conservative=True),
    "334 slides, 90 % zeros": Design("334", 1, "zeros"),
    "143 slides, donors": Design("143", 1, anti_conservative=True),
    "143 slides, donors switch rows on": Design("143", 1, "switch", anti_conservative=True),
    "10 donors x 5 tissues": Design("10 x 5", 0),
    "10 donors x 5 tissues, donors": Design("10 x 5", 1, anti_conservative=True),
    "10 donors x 5 tissues, t with 2 df": Design("10 x 5", 1, "t2"),
    "6 donors x 5 tissues": Design("6 x 5", 1, anti_conservative=True),
    "30 slides of 15 donors": Design("30 of 15", 1),
    "30 slides of 15 donors, strong": Design("30 of 15", 2, anti_conservative=True),
    "small noisy tissues": Design("2 to 40", 1, "small noisy"),
}


def layout(name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tissue and donor of each sample."""
    if name == "334":
        groups = np.sort(np.r_[np.arange(39), rng.integers(0, 39, 295)])
        sizes = rng.integers(1, 11, 334)
        donors = np.empty(334, int)
        donors[rng.permutation(334)] = np.repeat(np.arange(334), sizes)[:334]
        return groups, donors
    if name == "143":
        return np.sort(rng.integers(0, 8, 143)), rng.integers(0, 42, 143)
    if name == "2 to 40":
        groups = np.repeat(np.arange(16), rng.integers(2, 41, 16))
        return groups, rng.integers(0, len(groups) // 4, len(groups))
    if name == "30 of 15":
        return np.zeros(30, int), np.repeat(np.arange(15), 2)
    n_donors = int(name.split()[0])
    return np.repeat(np.arange(5), n_donors), np.tile(np.arange(n_donors), 5)


def simulated(name: str, seed: int = 1) -> tuple:
    """expression and features [1,000 x samples] without a link but tissue, donor and covariates; samples."""
    design, rng = DESIGNS[name], np.random.default_rng(seed)
    groups, donors = layout(design.layout, rng)
    n, n_groups = len(groups), int(groups.max()) + 1
    covariates = rng.standard_normal((n, design.covariates))
    spread = np.ones(n_groups)
    if design.noise == "unequal":
        spread = np.exp(rng.normal(0, 0.7, n_groups))
    if design.noise == "small noisy":
        spread = np.where(np.bincount(groups) <= 12, 4.0, 1.0)
    sides = []
    for _ in range(2):
        rest = rng.standard_t(2, (N_PAIRS, n)) if design.noise == "t2" else rng.standard_normal((N_PAIRS, n))
        effects = rng.standard_normal((N_PAIRS, donors.max() + 1))
        if design.noise == "switch":
            effects = 2.5 * (rng.random(effects.shape) < 0.2)
        rows = (rest + design.sd * effects[:, donors]) * spread[groups]
        if design.noise == "zeros":
            rows = np.maximum(rows - np.quantile(rows, 0.9, axis=1, keepdims=True), 0)
        rows += 3 * rng.standard_normal((N_PAIRS, n_groups))[:, groups]
        rows += rng.standard_normal((N_PAIRS, design.covariates)) @ covariates.T
        sides.append(rows)
    names = {"sample_id": [f"s{i}" for i in range(n)], "tissue": [f"t{g:02}" for g in groups]}
    samples_df = pd.DataFrame(names | {"donor": [f"d{d}" for d in donors]})
    return *sides, samples_df, covariates


def p_of_pairs(
    x: np.ndarray, y: np.ndarray, samples_df: pd.DataFrame, covariates: np.ndarray, seed: int = 1,
    slopes: str = "per group",
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """p of row k of x with row k of y at the effective size, and by plain shuffles alone."""
    shuffles = permutations.draw("within_tissue", N_SHUFFLES, samples_df, seed)
    ids, names = samples_df["sample_id"], [f"p{k}" for k in range(len(x))]
    basis = covariate_basis(pd.DataFrame(covariates, index=ids), shuffles, slopes)
    frames = (pd.DataFrame(rows, index=names, columns=ids) for rows in (x, y))
    classes = effective_size.donor_classes(samples_df, shuffles.groups)
    sides = link_tests.prepare(*frames, shuffles, basis, classes)
    kept = sides.genes.intersection(sides.features)
    g, f = sides.genes.get_indexer(kept), sides.features.get_indexer(kept)
    z = np.abs(np.einsum("ij,ij->i", sides.x[g], sides.y[f])) * sides.values.weights_of_pairs(g, f)
    corrected = z / np.sqrt(sides.inflation.of_pairs(g, f))
    reached = np.zeros((2, len(kept)))
    for start in range(0, N_SHUFFLES, 50):
        these = shuffles._replace(order=shuffles.order[start : start + 50])
        scales = covariate_scales(sides.x[g], these, basis) if basis.shape[1] else np.ones((50, len(kept)))
        for order, scale in zip(these.order, scales, strict=False):
            null = np.abs(np.einsum("ij,ij->i", sides.x[g][:, order], sides.y[f]))
            null *= sides.values.weights_of_pairs(g, f) * scale
            reached += np.stack([null >= corrected - 1e-12, null >= z - 1e-12])
    return tuple((1 + reached) / (1 + N_SHUFFLES))
