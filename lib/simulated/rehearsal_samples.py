"""
The samples of the rehearsal (`lib.simulated.rehearsal`): real tissue samples of the GTEx portal's table.

They come in three sets of whole donors, with made-up covariates, hidden quantities and RNA samples.
"""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from lib.simulated.genes import TYPICAL
from lib.simulated.slides import QUANTITIES

SETS = ("train", "validation", "test")
DUPLICATE_SHARE = 108 / 1670  # the paper's: 1,778 RNA samples of 1,670 slides
SPREAD_LOG_SD = 0.5  # between tissues, of the factor by which everything in a tissue varies more or less


def plan_samples(
    portal_df: pd.DataFrame, tissues: Collection[str], n_samples: Sequence[int], seed: int
) -> pd.DataFrame:
    """
    Real tissue samples in three sets of whole donors, tissues as even as the portal's counts allow.

    Returns
    -------
    DataFrame
        One row per sample, sorted by id: sample_id, slide_id, donor, tissue, split, sex, age_bracket (real);
        ischaemic_time_min, rin, the five `QUANTITIES` (standard normal), donor_index and spread (factor on
        every sd in the sample's tissue), made up.
    """
    rng = np.random.default_rng([seed, 1])
    listed_df = portal_df[portal_df["tissue"].isin(list(tissues))].sort_values("sample_id")
    donors = listed_df["donor"].unique()
    shares = np.cumsum(n_samples) / np.sum(n_samples)
    place = (rng.permutation(len(donors)) + 0.5) / max(len(donors), 1)
    set_of = dict(zip(donors, np.searchsorted(shares, place), strict=True))
    sets = listed_df["donor"].map(set_of)
    parts = []
    for number, (name, n) in enumerate(zip(SETS, n_samples, strict=True)):
        of_set_df = listed_df[sets == number].sample(frac=1, random_state=rng.integers(2**32))
        quotas = even_quotas(of_set_df["tissue"].value_counts().sort_index(), n, f"the {name} set")
        rank = of_set_df.groupby("tissue").cumcount()
        parts.append(of_set_df[rank < of_set_df["tissue"].map(quotas)].assign(split=name))
    plan_df = pd.concat(parts).sort_values("sample_id").reset_index(drop=True)
    plan_df["slide_id"] = plan_df["sample_id"]
    _add_hidden(plan_df, rng)
    return plan_df


def even_quotas(available: pd.Series, total: int, what: str) -> pd.Series:
    """
    How many of each tissue to take: equal numbers, or all of a tissue that has fewer, summing to `total`.

    Raises ValueError when there are fewer than `total`, naming both numbers.
    """
    if available.sum() < total:
        raise ValueError(
            f"{what} wants {total:,} samples, and the portal table has {int(available.sum()):,} of its "
            f"donors in {len(available)} tissues: ask for fewer (rehearsal_samples) or give the whole table"
        )
    level = next(k for k in range(total + 1) if available.clip(upper=k).sum() >= total)
    quotas = available.clip(upper=level)
    too_many = int(quotas.sum()) - total
    at_level = quotas.index[quotas == level][:too_many]
    quotas.loc[at_level] -= 1
    return quotas


def _add_hidden(plan_df: pd.DataFrame, rng: np.random.Generator) -> None:
    """Technical covariates and hidden quantities; ischaemic time is mostly the donor's, RIN falls with it."""
    n = len(plan_df)
    plan_df["donor_index"], donors = pd.factorize(plan_df["donor"])
    donor = rng.standard_normal(len(donors))[plan_df["donor_index"]]
    delay = 0.8 * donor + 0.6 * rng.standard_normal(n)
    mean, sd = TYPICAL["ischaemic_time_min"]
    plan_df["ischaemic_time_min"] = np.clip(mean + sd * delay, 30, 1440).round().astype(int)
    mean, sd = TYPICAL["rin"]
    plan_df["rin"] = np.clip(mean + sd * (-0.3 * delay + 0.95 * rng.standard_normal(n)), 4, 10).round(1)
    for quantity in QUANTITIES:
        plan_df[quantity] = rng.standard_normal(n)
    tissue, tissues = pd.factorize(plan_df["tissue"], sort=True)
    plan_df["spread"] = np.exp(SPREAD_LOG_SD * rng.standard_normal(len(tissues)))[tissue]


def rna_samples(plan_df: pd.DataFrame, seed: int) -> pd.DataFrame:
    """RNA samples (rna_id, row of the sample in `plan_df`, depth in reads per TPM), one or two per sample."""
    rng = np.random.default_rng([seed, 3])
    n = len(plan_df)
    again = rng.permutation(n)[: round(DUPLICATE_SHARE * n)]
    rows = np.sort(np.concatenate([np.arange(n), again]))
    alphabet = np.array(list("123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    codes = ["".join(code) for code in rng.choice(alphabet, (len(rows), 4))]
    second = np.r_[False, rows[1:] == rows[:-1]]  # first and second of one sample never share a code
    ids = [
        f"{plan_df['sample_id'].iloc[row]}-SM-{'2' if twice else '1'}{code}"
        for row, twice, code in zip(rows, second, codes, strict=True)
    ]
    return pd.DataFrame({"rna_id": ids, "row": rows, "depth": rng.uniform(30, 60, len(rows))})
