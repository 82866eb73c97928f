"""Do the tests reject as often as they say? Simulated pairs that are linked by nothing but tissue and donor.

Gene and feature of a pair are specific to tissues, vary more in the tissues they mark than elsewhere, and are
independent given the tissue (METHOD section 7). A test of what is left within tissues then rejects at level
alpha in a share alpha of the pairs; what it rejects beyond that is false.
"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from lib.statistics import pair_tests, partial_correlation, permutations
from lib.statistics.correlation import r_of_pairs

# Name of a test -> what it is: a permutation scheme, or a parametric test of `conditional`.
TESTS = {
    "free permutation (paper)": "free",
    "Fisher z, one indicator (paper)": "indicator",
    "Fisher z, all tissues": "categorical",
    "within-tissue permutation": "within_tissue",
    "whole-donor permutation": "within_donor_block",
    "donor signs": "donor_signs",
}


BELIEVED = "both: within-tissue and donor signs"  # the larger p of the two, as `permutations.believable`


def design(
    n_slides: int = 334, n_tissues: int = 39, n_donors: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """A samples table (sample_id, tissue, donor) with tissues of unequal size, two slides each at least.

    n_donors : donors, each giving a tissue at most once; None gives every slide a donor of its own.
    """
    if n_slides < 2 * n_tissues:
        raise ValueError(f"{n_slides} slides are too few for two of each of {n_tissues} tissues")
    rng = np.random.default_rng([seed, 0])
    extra = rng.integers(0, n_tissues, n_slides - 2 * n_tissues)
    tissue = np.sort(np.r_[np.arange(n_tissues).repeat(2), extra])
    donor = np.arange(n_slides)
    if n_donors is not None:
        most = int(np.bincount(tissue).max())
        if n_donors < most:
            raise ValueError(f"{n_donors} donors cannot give {most} slides of one tissue: each gives one")
        for t in range(n_tissues):
            members = np.flatnonzero(tissue == t)
            donor[members] = rng.permutation(n_donors)[: len(members)]
    return pd.DataFrame({
        "sample_id": [f"s{i}" for i in range(n_slides)],
        "tissue": [f"t{t:02d}" for t in tissue],
        "donor": [f"d{d}" for d in donor],
    })  # fmt: skip


def null_pairs(
    samples_df: pd.DataFrame, n_pairs: int, donor_effect: float = 0.0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Genes and features with nothing in common but the tissues they mark; gene k goes with feature k.

    Every row marks the first tissue and one in ten of the others by 8 units, with a standard deviation of
    about 2 there and 0.5 elsewhere (log-normal, sigma 0.8, by row and tissue).

    Parameters
    ----------
    samples_df : sample_id, tissue, donor.
    donor_effect : standard deviation of what all slides of a donor share, in units of a slide's own.

    Returns
    -------
    log_df, features_df (n_pairs x samples), pairs_df (gene, feature, tissue, r).
    """
    rng = np.random.default_rng([seed, 1])
    tissue, names = pd.factorize(samples_df["tissue"], sort=True)
    donor = pd.factorize(samples_df["donor"])[0]
    rows = []
    for _ in range(2):
        marks = rng.uniform(size=(n_pairs, len(names))) < 0.1
        marks[:, 0] = True
        spread = np.exp(rng.normal(0, 0.8, marks.shape)) * np.where(marks, 2.0, 0.5)
        noise = rng.normal(size=(n_pairs, len(tissue)))
        noise += donor_effect * rng.normal(size=(n_pairs, donor.max() + 1))[:, donor]
        rows.append(8 * marks[:, tissue] + spread[:, tissue] * noise / math.hypot(1, donor_effect))
    ids = samples_df["sample_id"].tolist()
    log_df = pd.DataFrame(rows[0], index=[f"g{k}" for k in range(n_pairs)], columns=ids)
    features_df = pd.DataFrame(rows[1], index=[f"0_{k}" for k in range(n_pairs)], columns=ids)
    pairs_df = pd.DataFrame({"gene": log_df.index, "feature": features_df.index, "tissue": names[0]})
    return log_df, features_df, pairs_df.assign(r=r_of_pairs(log_df, features_df, pairs_df))


def p_values(
    samples_df: pd.DataFrame,
    log_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    n_permutations: int,
    seed: int,
) -> pd.DataFrame:
    """Two-sided p of each pair under every one of TESTS that can be made with these samples, and BELIEVED
    where donors give several of them.

    A scheme is left out where nothing can change place, or so little that no p reaches 0.01; a parametric
    test where its conditions leave too few degrees of freedom.
    """
    columns = {}
    tables = (log_df, features_df, pairs_df)
    for name, kind in TESTS.items():
        if kind in permutations.SCHEMES:
            try:
                drawn = permutations.draw(kind, n_permutations, samples_df, seed)
            except ValueError:  # no two slides, or donors, can take each other's place
                continue
            if len(drawn.order) < permutations.FEW_ORDERS:
                continue
            columns[name] = pair_tests.pair_p(*tables, drawn, alternative="two_sided", progress=False)
        elif partial_correlation.degrees_of_freedom(samples_df, tissue=kind) >= partial_correlation.MIN_DF:
            result_df = partial_correlation.pairs_conditional(*tables, samples_df, tissue=kind, alphas=())
            columns[name] = result_df["p_gf_t"].to_numpy()
    p_df = pd.DataFrame(columns)
    asked = [name for name, kind in TESTS.items() if kind in permutations.believable(samples_df)]
    if len(asked) > 1 and set(asked) <= set(p_df):
        p_df[BELIEVED] = p_df[asked].max(axis=1)
    return p_df


def rejection_table(
    p_df: pd.DataFrame, alphas: tuple[float, ...] = (0.05, 0.01), level: float = 0.95
) -> pd.DataFrame:
    """How often each test (a column of p_df) rejects at each alpha.

    Returns
    -------
    test, alpha, n, rejected (count), rate, low, high (Clopper-Pearson interval of the rate at `level`), and
    holds: the interval reaches down to alpha, so there is no sign of more false calls than promised.
    """
    rows = []
    for name in p_df:
        for alpha in alphas:
            k, n = int((p_df[name] <= alpha).sum()), len(p_df)
            low, high = stats.binomtest(k, n).proportion_ci(level)
            rows.append(
                {"test": name, "alpha": alpha, "n": n, "rejected": k, "rate": k / n, "low": low, "high": high}
                | {"holds": bool(low <= alpha)}
            )
    return pd.DataFrame(rows)


def calibration(
    designs: dict[str, tuple[pd.DataFrame, float]],
    n_pairs: int = 2000,
    n_permutations: int = 399,
    alphas: tuple[float, ...] = (0.05, 0.01),
    seed: int = 0,
) -> pd.DataFrame:
    """`rejection_table` of all tests for several designs: name -> (samples table, donor effect)."""
    tables = []
    for name, (samples_df, donor_effect) in designs.items():
        made = null_pairs(samples_df, n_pairs, donor_effect, seed)
        table_df = rejection_table(p_values(samples_df, *made, n_permutations, seed), alphas)
        tables.append(table_df.assign(design=name))
    return pd.concat(tables, ignore_index=True)
