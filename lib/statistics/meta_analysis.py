"""Links over several sections, cohorts or other units: r in each unit, and what all say together.

Each unit's atanh r has the standard error of its effective size, 1 / sqrt(n_effective - 2). Fixed effect:
weights 1 / se^2. Random effects: DerSimonian and Laird (1986, Control Clin Trials 7:177). I^2: Higgins and
Thompson (2002, Stat Med 21:1539).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lib.statistics import heterogeneity, link_tests, replication, spots
from lib.statistics.effective_size import p_of_r, precision

LEDGER = ["gene", "feature", "unit", "n", "n_effective", "r", "low", "high", "p"]


def sections(
    log_df: pd.DataFrame, features_df: pd.DataFrame, samples_df: pd.DataFrame,
    covariates: Sequence[str] = (), slopes: str = "per group",
) -> tuple[dict[str, link_tests.Sides], list[str]]:  # fmt: skip
    """Both sides of each section by itself, covariates out; and in words which sections cannot tell.

    Parameters
    ----------
    log_df, features_df : genes and features x spots. samples_df : of these spots, in the same order.
    """
    made, said = {}, []
    for section, members in samples_df.groupby("slide_id", sort=True)["sample_id"]:
        ids = members.tolist()
        if len(ids) < spots.LEAST_ON_SECTION:
            said.append(f"section {section}: {len(ids)} spots are too few")
            continue
        own_df = samples_df[samples_df["sample_id"].isin(ids)]
        sides, note = replication.sides_of(log_df[ids], features_df[ids], own_df, covariates, slopes)
        if sides is None:
            said.append(f"section {section}: {note}")
        else:
            made[str(section)] = sides
    return made, said


def ledger(links_df: pd.DataFrame, units: Mapping[str, link_tests.Sides]) -> pd.DataFrame:
    """r of each link in each unit in which both sides vary.

    Parameters
    ----------
    links_df : gene, feature.
    units : name -> both sides on the samples of that unit (`replication.sides_of`).

    Returns
    -------
    DataFrame, rows in the order of links_df, then of units: gene, feature, unit, n (samples), n_effective, r,
    low, high (95 %), p (two-sided).
    """
    parts = []
    for position, (unit, sides) in enumerate(units.items()):
        g, f = sides.places(links_df)
        row = np.flatnonzero((g >= 0) & (f >= 0))
        found_df = link_tests.intervals(sides, g[row], f[row]).rename(columns={"r_within": "r"})
        names_df = links_df[["gene", "feature"]].astype(object).iloc[row].reset_index(drop=True)
        found_df = names_df.join(found_df).assign(unit=unit, n=sides.x.shape[1], row=row, position=position)
        parts.append(found_df.assign(p=p_of_r(found_df["r"].to_numpy(), found_df["n_effective"].to_numpy())))
    if not parts:
        return pd.DataFrame(columns=LEDGER)
    df = pd.concat(parts, ignore_index=True).sort_values(["row", "position"], ignore_index=True)
    return df[LEDGER]


def combine(ledger_df: pd.DataFrame) -> pd.DataFrame:
    """What the units say together about each link.

    Returns
    -------
    DataFrame, a row for each link of the ledger, in its order: gene, feature, n_units, same_sign (share of
    the units with the sign of r_fixed), r_fixed, low_fixed, high_fixed, p_fixed, r_random, low_random,
    high_random, p_random, q_cochran, p_heterogeneity, i2, low_without, high_without (range of r_fixed when
    one unit is left out; missing for a single unit).
    """
    keys_df = ledger_df[["gene", "feature"]].drop_duplicates(ignore_index=True)
    row = pd.MultiIndex.from_frame(keys_df).get_indexer(
        pd.MultiIndex.from_frame(ledger_df[["gene", "feature"]])
    )
    unit = pd.factorize(ledger_df["unit"])[0]
    shape = len(keys_df), int(unit.max(initial=-1)) + 1
    z, w = np.zeros(shape), np.zeros(shape)
    z[row, unit] = np.arctanh(ledger_df["r"].clip(-1 + 1e-12, 1 - 1e-12))
    w[row, unit] = precision(ledger_df["n_effective"].to_numpy(float))
    n_units, total = (w > 0).sum(axis=1), w.sum(axis=1)
    fixed = (w * z).sum(axis=1) / total
    q = (w * (z - fixed[:, None]) ** 2).sum(axis=1)
    scale = total - (w * w).sum(axis=1) / total
    excess = np.maximum(q - (n_units - 1), 0)
    tau2 = np.divide(excess, scale, out=np.zeros(len(q)), where=scale > 1e-12)
    w_random = np.divide(1, 1 / np.where(w > 0, w, 1) + tau2[:, None]) * (w > 0)
    random = (w_random * z).sum(axis=1) / w_random.sum(axis=1)
    df = keys_df.assign(n_units=n_units)
    df["same_sign"] = ((np.sign(z) == np.sign(fixed)[:, None]) & (w > 0)).sum(axis=1) / n_units
    for name, mean, weight in (("fixed", fixed, total), ("random", random, w_random.sum(axis=1))):
        half = link_tests.INTERVAL_Z / np.sqrt(weight)
        df[f"r_{name}"] = np.tanh(mean)
        df[f"low_{name}"], df[f"high_{name}"] = np.tanh(mean - half), np.tanh(mean + half)
        df[f"p_{name}"] = 2 * stats.norm.sf(np.abs(mean) * np.sqrt(weight))
    df["q_cochran"] = q
    df["p_heterogeneity"], df["i2"] = heterogeneity.q_test(q, n_units)
    left = total[:, None] - w
    without = np.divide(
        (w * z).sum(axis=1)[:, None] - w * z, left, out=np.full(shape, np.nan), where=left > 1e-9
    )
    without[w == 0] = np.nan
    df["low_without"] = np.tanh(np.fmin.reduce(without, axis=1, initial=np.nan))
    df["high_without"] = np.tanh(np.fmax.reduce(without, axis=1, initial=np.nan))
    return df
