"""The wrong-section null: features of one section laid on the genes of another.

Turned and mirrored, the features keep their own spatial pattern and the genes theirs, and nothing links the
two: what a test rejects here it rejects falsely. A cohort of two or more sections can so check the
calibration of its own tests, with its own genes, features and covariates. The placement as it lies is left
out, because sections of one block resemble each other place by place.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial import KDTree
from tqdm.auto import tqdm

from lib.errors import InputError
from lib.statistics import effective_size, link_tests, permutations, spatial_lags, spots
from lib.statistics.residuals import covariate_basis, covariate_table

LEVELS = (0.05, 0.01, 0.001)
GENE_LEVELS = (0.05, 0.01)  # as far as the shuffles of the tests of genes reach
PLACEMENTS = tuple(itertools.product((1, -1), (0, 90, 180, 270)))[1:]  # mirrored, degrees
TOP_SHARE = 0.1  # of the genes, those of highest Moran's I
ALL, TOP = "all", "highest Moran's I"
TESTS = {
    "pairs": ("pair, spots as if independent", "pair, effective size"),
    "genes": ("gene over all features, plain shuffles", "gene over all features, effective size (links)"),
}


@dataclass(frozen=True)
class Size:
    """How much is drawn at random: genes and features of the tests of pairs, pairings, and genes, pairings
    and shuffles of the tests of genes (which take all features).
    """

    n_genes: int = 2000
    n_features: int = 500
    n_pairings: int = 240
    n_single_genes: int = 300
    n_gene_pairings: int = 24
    n_shuffles: int = 199


def wrong_section_null(
    log_df: pd.DataFrame, features_df: pd.DataFrame, samples_df: pd.DataFrame,
    covariates: Sequence[str] = (), *, size: Size = Size(), seed: int = 0, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """How often each test rejects where nothing is to be found.

    Parameters
    ----------
    log_df, features_df : genes and features x spots.
    samples_df : of these spots, in the same order (`spots.REGION`, sample_id, tissue and covariates).
    covariates : of the section that gives the genes; they are taken out of both sides.

    Returns
    -------
    DataFrame, a row for each test, genes ("all" or the tenth of highest Moran's I) and level: rejected
    (share, mean of the pairings), low, high (95 %, from the spread between pairings), n_pairings, n_tests.

    Raises
    ------
    ValueError : fewer than two sections, or none that share FEW_SPOTS places in any placement.
    """
    rng = np.random.default_rng(seed)
    pairings = list(_pairings(samples_df))
    if not pairings:
        raise InputError(
            f"the spatial null needs two sections that share {spots.FEW_SPOTS} places when one is turned; "
            f"here: {samples_df['slide_id'].value_counts().to_dict()}"
        )
    chosen = rng.permutation(len(pairings))[: size.n_pairings]
    genes = _some(log_df, size.n_genes, rng)
    few_features = _some(features_df, size.n_features, rng)
    rows = []
    bar = tqdm(chosen, unit="pairing", desc="wrong-section null", disable=not progress)
    for k, pairing in enumerate(bar):
        of_genes, of_features = pairings[pairing]
        target_df = samples_df.iloc[of_genes]
        here_df = log_df.take(of_genes, axis=1)
        for what in ("pairs", "genes") if k < size.n_gene_pairings else ("pairs",):
            features = few_features if what == "pairs" else np.arange(len(features_df))
            at = genes if what == "pairs" else genes[: size.n_single_genes]
            y_df = features_df.take(features).take(of_features, axis=1).set_axis(here_df.columns, axis=1)
            try:
                sides = _sides(here_df.take(at), y_df, target_df, covariates)
            except ValueError:  # nothing varies on these spots, or the covariates take all
                continue
            moran = spatial_lags.moran_i(sides.x, spatial_lags.neighbours(target_df))
            top = moran >= np.quantile(moran, 1 - TOP_SHARE)
            if what == "pairs":
                rejected = _rejected_pairs(sides)
            else:
                rejected = _rejected_genes(sides, target_df, size.n_shuffles, seed + k)
            for (test, level), share in rejected.items():
                for name, share_of in ((ALL, share), (TOP, share[top])):
                    rows.append((test, name, level, share_of.mean(), len(share_of)))
    columns = ["test", "genes", "level", "rejected", "n_tests"]
    return _table(pd.DataFrame(rows, columns=columns))


def _pairings(samples_df: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Spots (rows of samples_df) that give genes and those that give features, matched place by place."""
    centres = spots.centres_um(samples_df)
    slides = samples_df["slide_id"].to_numpy()
    members: list[np.ndarray] = [np.flatnonzero(slides == section) for section in np.unique(slides)]
    for i, j in itertools.permutations(range(len(members)), 2):
        a, b = members[i], members[j]
        if min(len(a), len(b)) < spots.FEW_SPOTS:
            continue
        here = centres[b] - centres[b].mean(axis=0)
        there = centres[a] - centres[a].mean(axis=0)
        for mirrored, degrees in PLACEMENTS:
            turned = there * (mirrored, 1) @ _rotation(degrees).T
            distance, nearest = map(np.asarray, KDTree(turned).query(here))
            near = np.flatnonzero(distance <= spots.pitch(here) / np.sqrt(2))
            _, first = np.unique(nearest[near], return_index=True)  # a spot lends its features once
            near = near[np.sort(first)]
            if len(near) >= spots.FEW_SPOTS:
                yield b[near], a[nearest[near]]


def _rotation(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine], [sine, cosine]])


def _some(df: pd.DataFrame, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(len(df))[:n]


def _sides(
    log_df: pd.DataFrame, features_df: pd.DataFrame, samples_df: pd.DataFrame, covariates: Sequence[str]
) -> link_tests.Sides:
    shuffles = permutations.draw("within_tissue", 1, samples_df, 0)
    basis = covariate_basis(covariate_table(samples_df, covariates) if covariates else None, shuffles)
    classes = spatial_lags.lag_classes(samples_df)
    return link_tests.prepare(log_df, features_df, shuffles, basis, classes)


def _rejected_pairs(sides: link_tests.Sides) -> dict[tuple[str, float], np.ndarray]:
    """Share of its features that each gene is wrongly linked to, by test and level; float64 [n_genes]."""
    z = np.abs(np.arctanh(np.clip(sides.x @ sides.y.T, -1 + 1e-12, 1 - 1e-12)))
    free = sides.x.shape[1] - sides.n_lost
    found = {}
    for test, inflation in zip(TESTS["pairs"], (1.0, sides.inflation.of_block(slice(None))), strict=True):
        statistic = z * np.sqrt(effective_size.precision(free / inflation))
        for level in LEVELS:
            found[test, level] = (statistic >= stats.norm.isf(level / 2)).mean(axis=1)
    return found


def _rejected_genes(
    sides: link_tests.Sides, samples_df: pd.DataFrame, n_shuffles: int, seed: int
) -> dict[tuple[str, float], np.ndarray]:
    """Whether each gene is wrongly called over all features, by test and level; float64 [n_genes]."""
    shuffles = permutations.draw("within_tissue", n_shuffles, samples_df, seed)
    plan = link_tests.Plan(overall=1, progress=False)
    independent = sides._replace(inflation=sides.inflation._replace(weights=()))
    found = {}
    for test, these in zip(TESTS["genes"], (independent, sides), strict=True):
        p = link_tests.of_sides(these, shuffles, plan).genes_df["p"].to_numpy()
        found |= {(test, level): (p <= level).astype(float) for level in GENE_LEVELS}
    return found


def _table(rows_df: pd.DataFrame) -> pd.DataFrame:
    """Mean over pairings with its interval; pairings, not pairs, are the units that vary independently."""
    keys = ["test", "genes", "level"]
    grouped = rows_df.groupby(keys, sort=False)
    df = grouped["rejected"].agg(rejected="mean", sd="std", n_pairings="size")
    df["n_tests"] = grouped["n_tests"].sum()
    half = 1.96 * df["sd"].fillna(0) / np.sqrt(df["n_pairings"])
    df["low"], df["high"] = (df["rejected"] - half).clip(lower=0), df["rejected"] + half
    return df[["rejected", "low", "high", "n_pairings", "n_tests"]].reset_index()
