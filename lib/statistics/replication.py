"""Do links replicate on samples that no test has used: sign, effect size and p, per link and in total."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lib.statistics import link_tests, permutations, sample_dependence, spots
from lib.statistics.effective_size import precision
from lib.statistics.false_discovery import bh
from lib.statistics.residuals import covariate_basis, covariate_table


def sides_of(
    log_expression_df: pd.DataFrame, features_df: pd.DataFrame, samples_df: pd.DataFrame,
    covariates: Sequence[str] = (), slopes: str = "per group",
) -> tuple[link_tests.Sides | None, str]:  # fmt: skip
    """Residuals of a set of samples, covariates out, and in words what is possible with them.

    Parameters
    ----------
    log_expression_df, features_df : genes and features x these samples.
    samples_df : sample_id, tissue, donor and covariates, in the same order.
    slopes : of the covariates (`residuals.covariate_basis`).

    Returns
    -------
    Sides, or None where these samples cannot tell (none, or nothing varies within tissues); and a sentence.
    """
    try:
        shuffles = permutations.draw("within_tissue", 1, samples_df, 0)
        table_df = covariate_table(samples_df, covariates) if covariates else None
        basis = covariate_basis(table_df, shuffles, slopes)
        classes = sample_dependence.classes_of(samples_df, shuffles.groups)
        sides = link_tests.prepare(log_expression_df, features_df, shuffles, basis, classes)
    except ValueError as error:
        return None, f"{len(samples_df)} samples cannot tell: {error}"
    n_strata = spots.strata(samples_df).nunique()
    return sides, f"{len(samples_df)} samples, {spots.stratum_name(samples_df)}s: {n_strata}"


def residual_tables(*sets: link_tests.Sides) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Residuals of genes and of features of each set as tables, of what varies in all sets."""
    genes = functools.reduce(lambda a, b: a.intersection(b, sort=False), [s.genes for s in sets])
    features = functools.reduce(lambda a, b: a.intersection(b, sort=False), [s.features for s in sets])
    return [
        (pd.DataFrame(s.x, s.genes).loc[genes], pd.DataFrame(s.y, s.features).loc[features]) for s in sets
    ]


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
    p = stats.norm.sf(sign * z * np.sqrt(precision(found_df["n_effective"].to_numpy())))
    values = [found_df[name] for name in ("r_within", "low", "high", "n_effective")]
    same_sign = np.sign(found_df["r_within"]) == sign
    result_df.loc[known] = np.stack([*values, same_sign, p, bh(p)], axis=1)
    return result_df


def held_against(links_df: pd.DataFrame, sides: link_tests.Sides | None) -> pd.DataFrame:
    """The links with `replicate` on other samples beside them: r, low, high, p, q (each ..._validation) and
    same_sign, in place of such columns that they had; all missing without other samples.
    """
    names = {name: f"{name}_validation" for name in ("r", "low", "high", "p", "q")}
    names["same_sign"] = "same_sign"
    links_df = links_df.drop(columns=list(names.values()), errors="ignore")
    if sides is None:
        return links_df.assign(**dict.fromkeys(names.values(), np.nan))
    found_df = replicate(links_df.astype({"gene": object, "feature": object}), sides)
    return links_df.join(found_df[list(names)].rename(columns=names))


def changed(links_df: pd.DataFrame, sides: link_tests.Sides | None) -> pd.DataFrame:
    """How much the links change when the same samples are measured otherwise: no replication, a check.

    Parameters
    ----------
    links_df : gene, clump_lead, r_within; the strongest of a gene first
    sides : the same samples, under the other measurement

    Returns
    -------
    A row for all links and for each gene's strongest: links, same_sign (share), and the median and the
    largest absolute change of r within tissues.
    """
    rows = {}
    held_df = held_against(links_df, sides)
    strongest = ~links_df.duplicated("gene")
    for name, chosen in {"all links": strongest | True, "strongest link of each gene": strongest}.items():
        of_df = held_df[chosen].dropna(subset=["r_validation"])
        change = (of_df["r_validation"] - of_df["r_within"]).abs()
        same = of_df["same_sign"].astype(float).mean()
        rows[name] = {
            "links": len(of_df),
            "same_sign": same,
            "median": change.median(),
            "largest": change.max(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("of").reset_index()


def summarise_units(found: Mapping[str, pd.DataFrame], q_threshold: float) -> pd.DataFrame:
    """`summarise` of the links held against each unit: unit, of (which links), and the shares."""
    tables = [
        summarise(df, q_threshold).rename_axis("of").reset_index().assign(unit=unit)
        for unit, df in found.items()
    ]
    columns = ["unit", "of", "links", "same_sign", "nominal", "replicated", "pi1"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def summarise(links_df: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """How many links replicate: all, each gene's strongest, and the strongest of each gene and clump.

    Parameters
    ----------
    links_df : gene, clump_lead, p_validation, q_validation, same_sign; the strongest of a gene first.

    Returns
    -------
    A row each: links (tested there), the shares same_sign (0.5 by chance), nominal (p <= level in the
    direction of the link; level by chance) and replicated (q <= level), and pi1.
    """
    if "p_validation" not in links_df:
        links_df = links_df.assign(p_validation=np.nan, q_validation=np.nan, same_sign=np.nan)
    rows = {
        "all links": links_df,
        "strongest link of each gene": links_df.drop_duplicates("gene"),
        "strongest of each gene and clump": links_df[links_df["clump_lead"]],
    }
    return pd.DataFrame.from_dict({name: _shares(df, level) for name, df in rows.items()}, orient="index")


def _shares(links_df: pd.DataFrame, level: float) -> dict[str, float]:
    """pi1 is the share of links that are true there: 1 - pi0 of Storey and Tibshirani (2003, PNAS 100:9440)
    at lambda = 0.5.
    """
    df = links_df.dropna(subset="p_validation")
    if df.empty:
        return {"links": 0, "same_sign": np.nan, "nominal": np.nan, "replicated": np.nan, "pi1": np.nan}
    pi0 = min(1.0, float((df["p_validation"] > 0.5).mean()) / 0.5)
    return {
        "links": len(df),
        "same_sign": float(df["same_sign"].mean()),
        "nominal": float((df["p_validation"] <= level).mean()),
        "replicated": float((df["q_validation"] <= level).mean()),
        "pi1": 1 - pi0,
    }
