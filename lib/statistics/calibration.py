"""Are the tests calibrated? Rejection rates on simulated pairs that only tissue and donor link.

Gene and feature of a pair mark tissues, vary more in the tissues they mark than elsewhere, and are
independent given the tissue (notebooks/README.md, section 7). A calibrated test of correlation within tissues
rejects a share alpha of these pairs at level alpha; an anti-conservative one rejects more.
"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from lib.errors import InputError
from lib.statistics import pair_tests, permutations, sample_dependence
from lib.statistics.conditional_independence import degrees_of_freedom, given_tissues, pairs_conditional
from lib.statistics.correlation import r_of_pairs
from lib.statistics.partial_correlation import MIN_DF

# name of a test -> its permutation scheme, or the condition of a parametric test
TESTS = {
    "free permutation (paper)": "free",
    "Fisher z, one indicator (paper)": "indicator",
    "Fisher z, all tissues": "all_tissues",
    "within-tissue permutation": "within_tissue",
    "whole-donor permutation": "within_donor_block",
    "effective size (links)": "effective_size",
}
ALPHAS = (0.05, 0.01)
LEVEL = 0.95  # of the intervals of the rates

Pairs = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]  # log expression, features, pairs


def design(
    n_slides: int = 334, n_tissues: int = 39, n_donors: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """A samples table (sample_id, tissue, donor) with tissues of unequal size, at least two slides each.

    n_donors : each gives a tissue at most once; None gives every slide its own donor.
    """
    if n_slides < 2 * n_tissues:
        raise InputError(f"{n_slides} slides are too few for two of each of {n_tissues} tissues")
    rng = np.random.default_rng([seed, 0])
    extra = rng.integers(0, n_tissues, n_slides - 2 * n_tissues)
    tissue = np.sort(np.r_[np.arange(n_tissues).repeat(2), extra])
    donor = np.arange(n_slides)
    if n_donors is not None:
        most = int(np.bincount(tissue).max())
        if n_donors < most:
            raise InputError(f"{n_donors} donors cannot give {most} slides of one tissue: a donor gives one")
        for t in range(n_tissues):
            members = np.flatnonzero(tissue == t)
            donor[members] = rng.permutation(n_donors)[: len(members)]
    return pd.DataFrame({
        "sample_id": [f"s{i}" for i in range(n_slides)],
        "tissue": [f"t{t:02d}" for t in tissue],
        "donor": [f"d{d}" for d in donor],
    })  # fmt: skip


def null_pairs(samples_df: pd.DataFrame, n_pairs: int, donor_effect: float = 0.0, seed: int = 0) -> Pairs:
    """Pairs (gene k, feature k) that have nothing in common but the tissues they mark.

    Each row marks the first tissue and one in ten of the others: 8 units higher, with a standard deviation of
    about 2 there and 0.5 elsewhere (log-normal, sigma 0.8, by row and tissue).

    Parameters
    ----------
    samples_df : sample_id, tissue, donor.
    donor_effect : standard deviation of what all slides of a donor share, in units of a slide's own noise.

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


def p_values(samples_df: pd.DataFrame, pairs: Pairs, n_permutations: int, seed: int) -> pd.DataFrame:
    """Two-sided p of each pair under those of TESTS that these samples allow (columns).

    A scheme is omitted where fewer than FEW_ORDERS rearrangements are possible, so that no p reaches 0.01; a
    parametric test where its conditions leave too few degrees of freedom.
    """
    columns, classes = {}, None
    for name, kind in TESTS.items():
        if kind in (*permutations.SCHEMES, "effective_size"):
            try:
                scheme = "within_tissue" if kind == "effective_size" else kind
                drawn = permutations.draw(scheme, n_permutations, samples_df, seed)
            except ValueError:  # no two slides, or donors, are exchangeable
                continue
            if len(drawn.order) < permutations.FEW_ORDERS:
                continue
            if kind == "effective_size":
                classes = sample_dependence.classes_of(samples_df, drawn.groups)
            columns[name] = pair_tests.pair_p(*pairs, drawn, classes=classes, progress=False)
        elif kind == "indicator":
            if len(samples_df) - 3 >= MIN_DF:
                columns[name] = pairs_conditional(*pairs, samples_df, alphas=())["p_gf_t"].to_numpy()
        elif degrees_of_freedom(samples_df) >= MIN_DF:
            columns[name] = given_tissues(*pairs, samples_df)["p"].to_numpy()
    return pd.DataFrame(columns)


def rejection_table(p_df: pd.DataFrame) -> pd.DataFrame:
    """Share of pairs that each test (a column of p_df) rejects at each of ALPHAS.

    Returns
    -------
    scheme, level, n, rejected (share), low, high (95 % Clopper-Pearson interval), and holds: the interval
    reaches down to the level, so there is no evidence that the test is anti-conservative.
    """
    rows = []
    for name in p_df:
        for alpha in ALPHAS:
            k, n = int((p_df[name] <= alpha).sum()), len(p_df)
            low, high = stats.binomtest(k, n).proportion_ci(LEVEL)
            row = {"scheme": name, "level": alpha, "n": n, "rejected": k / n, "low": low, "high": high}
            rows.append(row | {"holds": bool(low <= alpha)})
    return pd.DataFrame(rows)


def calibration(
    designs: dict[str, tuple[pd.DataFrame, float]],
    n_pairs: int = 2000,
    n_permutations: int = 399,
    seed: int = 0,
) -> pd.DataFrame:
    """`rejection_table` of all tests for several designs: name -> (samples table, donor effect)."""
    tables = []
    for name, (samples_df, donor_effect) in designs.items():
        made = null_pairs(samples_df, n_pairs, donor_effect, seed)
        table_df = rejection_table(p_values(samples_df, made, n_permutations, seed))
        table_df.insert(0, "design", name)
        tables.append(table_df)
    return pd.concat(tables, ignore_index=True)
