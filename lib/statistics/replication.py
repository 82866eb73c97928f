"""Do links replicate on samples that no test has used: sign, effect size and p, per link and in total."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lib.statistics import effective_size, link_tests, permutations
from lib.statistics.false_discovery import bh
from lib.statistics.residuals import covariate_basis, covariate_table


def other_sides(
    log_expression_df: pd.DataFrame, features_df: pd.DataFrame, samples_df: pd.DataFrame,
    covariates: Sequence[str] = (), slopes: str = "per group",
) -> tuple[link_tests.Sides | None, str]:  # fmt: skip
    """The sides of other samples, covariates out of these as well, and in words what was possible.

    Parameters
    ----------
    log_expression_df, features_df : genes and features x the other samples.
    samples_df : sample_id, tissue, donor and covariates of these samples, in the same order.

    Returns
    -------
    Sides, or None where these samples cannot tell (none, or nothing varies within tissues); and a sentence.
    """
    try:
        shuffles = permutations.draw("within_tissue", 1, samples_df, 0)
        table_df = covariate_table(samples_df, covariates) if covariates else None
        basis = covariate_basis(table_df, shuffles, slopes)
        classes = effective_size.donor_classes(samples_df, shuffles.groups)
        sides = link_tests.prepare(log_expression_df, features_df, shuffles, basis, classes)
    except ValueError as error:
        return None, f"replication is not tested: {error}"
    n_tissues = samples_df["tissue"].nunique()
    return sides, f"replication is tested on {len(samples_df)} other samples of {n_tissues} tissues"


def replicate(links_df: pd.DataFrame, sides: link_tests.Sides) -> pd.DataFrame:
    """r within tissues of each link on other samples.

    Parameters
    ----------
    links_df : gene, feature, r_within.
    sides : of the other samples (`link_tests.prepare`), with the same names.

    Returns
    -------
    DataFrame, index of links_df: r, low, high (95 %), n_effective, same_sign, p (one-sided, in the direction
    of the link), q (Benjamini-Hochberg over links); missing where gene or feature does not vary there.
    """
    g, f = sides.places(links_df)
    known = (g >= 0) & (f >= 0)
    columns = ["r", "low", "high", "n_effective", "same_sign", "p", "q"]
    result_df = pd.DataFrame(np.nan, index=links_df.index, columns=columns)
    if not known.any():
        return result_df
    found_df = link_tests.intervals(sides, g[known], f[known])
    sign = np.sign(links_df["r_within"].to_numpy()[known])
    z = np.arctanh(found_df["r_within"].clip(-1 + 1e-12, 1 - 1e-12))
    p = stats.norm.sf(sign * z * np.sqrt(np.maximum(found_df["n_effective"] - 2, 0.5)))
    values = [found_df[name] for name in ("r_within", "low", "high", "n_effective")]
    same_sign = np.sign(found_df["r_within"]) == sign
    result_df.loc[known] = np.stack([*values, same_sign, p, bh(p)], axis=1)
    return result_df


def summarise(replicated_df: pd.DataFrame, level: float = 0.05) -> dict[str, float]:
    """Counts of `replicate`: links tested, with the same sign, at p and q <= level, and pi1.

    pi1 is the share of links that are true there, 1 - pi0 of Storey and Tibshirani (2003, PNAS 100:9440) at
    lambda = 0.5.
    """
    tested_df = replicated_df.dropna(subset="p")
    n = len(tested_df)
    if not n:
        return {"links": 0, "same_sign": 0, "nominal": 0, "replicated": 0, "pi1": float("nan")}
    pi0 = min(1.0, float((tested_df["p"] > 0.5).mean()) / 0.5)
    return {
        "links": n,
        "same_sign": int(tested_df["same_sign"].sum()),
        "nominal": int((tested_df["p"] <= level).sum()),
        "replicated": int((tested_df["q"] <= level).sum()),
        "pi1": 1 - pi0,
    }
