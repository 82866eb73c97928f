"""Partial correlations of gene, feature and tissue for each pair, and the three patterns of Table 7.

For a pair (g, f) and the tissue t of the gene's highest expression: r(g, f | t), r(f, t | g), r(g, t | f).
"Independent" means not rejected, p > alpha, and absence of rejection is not evidence of independence: read
the interval beside it. These are patterns of conditional independence, not causes (notebooks/README.md,
section 8). The tests are parametric and anti-conservative when the variance differs between tissues; the
calibrated test of r(g, f | all tissues) is `pair_tests.pair_p` with the scheme `within_tissue`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.statistics.pair_tables import check_kept
from lib.statistics.partial_correlation import (
    DEGENERATE,
    MIN_DF,
    ci_test,
    interval,
    orthonormal,
    three_partials,
    unit_residuals,
)
from lib.statistics.residuals import covariate_table
from lib.statistics.table_rows import check_columns, check_none, pair_dots, rows_of, rows_of_pairs

# pattern -> the partial correlation that vanishes
PATTERNS = {"g-t-f": "gf_t", "f-g-t": "ft_g", "g-f-t": "gt_f"}


def pairs_conditional(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    alphas: Sequence[float] = (0.01, 0.05),
) -> pd.DataFrame:
    """The paper's three partial correlations of each pair, their tests, intervals and patterns.

    The condition t is one column: whether the sample is of the gene's own tissue.

    Parameters
    ----------
    log_expression_df, features_df : genes and features x samples.
    pairs_df : gene, feature, tissue (of the gene's highest median expression), and any other columns.
    samples_df : sample_id, tissue.

    Returns
    -------
    The columns of pairs_df and, for each of gf_t, ft_g, gt_f: r_<>, p_<> (Fisher z), p_t_<> (t), low_<> and
    high_<> (95 % interval); n_conditions; undefined (one of the three leaves no variance: r 0, p 1, never
    called independent); for each alpha and pattern a bool `g-t-f_0.01`, and `pattern_0.01`, the pattern of
    largest p among those not rejected, or "none". Patterns may overlap: count with the bools.

    Raises
    ------
    ValueError : samples missing (with counts), too few degrees of freedom, unknown names.
    """
    check_columns(pairs_df, ["tissue"], "table of pairs")
    of_sample = _tissues(samples_df, log_expression_df.columns, features_df.columns)
    basis = orthonormal(np.zeros((len(of_sample), 0)))
    pairs = _residual_pairs(log_expression_df, features_df, pairs_df, basis)
    tissues = np.array(sorted(of_sample.unique()))
    check_none(sorted(set(pairs_df["tissue"]) - set(tissues)), "tissues of pairs have no slide")
    t, t_varies = unit_residuals((of_sample.to_numpy() == tissues[:, None]).astype(float), basis)
    own = np.searchsorted(tissues, pairs_df["tissue"].to_numpy(dtype=object).astype(tissues.dtype))
    r_gt, r_ft = (pairs.x @ t.T)[pairs.g, own], (pairs.y @ t.T)[pairs.f, own]
    partials = three_partials(pairs.r, np.clip(r_gt, -1, 1), np.clip(r_ft, -1, 1))
    defined = partials.defined & pairs.varies & t_varies[own]
    result = {f"r_{name}": r for name, r in partials.r.items()}
    for name, r in partials.r.items():
        result |= _tested(name, r, len(of_sample), 1, defined)
    result |= {"n_conditions": np.ones(len(defined), int), "undefined": ~defined}
    for alpha in alphas:
        result |= _patterns(result, alpha)
    return pd.concat([pairs_df.reset_index(drop=True), pd.DataFrame(result)], axis=1).set_axis(pairs_df.index)


def given_tissues(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """r(g, f) of each pair given all tissues at once, and technical covariates.

    Parameters as `pairs_conditional`, and

    covariates : columns of samples_df (numbers, or categories that become dummies).

    Returns
    -------
    The rows of pairs_df with r, p (Fisher z), low and high (95 % interval); r is 0 and p 1 where gene or
    feature does not vary beyond the conditions. ValueError as `pairs_conditional`.
    """
    ids = log_expression_df.columns
    _tissues(samples_df, ids, features_df.columns)
    samples_df = samples_df.set_index("sample_id").loc[ids].reset_index(names="sample_id")
    of_covariates, of_all = _bases(samples_df, covariates)
    pairs = _residual_pairs(log_expression_df, features_df, pairs_df, of_covariates)
    x, x_varies = unit_residuals(pairs.x, of_all)
    y, y_varies = unit_residuals(pairs.y, of_all)
    r = _clipped_dots(x, y, pairs.g, pairs.f)
    defined = pairs.varies & x_varies[pairs.g] & y_varies[pairs.f]
    defined &= (1 - pairs.r**2 > DEGENERATE) & (1 - r**2 > DEGENERATE)
    columns = _tested("gf_t", r, len(ids), of_all.shape[1] - 1, defined)
    return pd.DataFrame({c: columns[f"{c}_gf_t"] for c in ("r", "p", "low", "high")}, index=pairs_df.index)


def given_all_tissues(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    covariates: Sequence[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """`given_tissues` without and with the covariates, where there are enough slides.

    Returns
    -------
    The rows of pairs_df with r_gf_tissues, p_gf_tissues, low_gf_tissues, high_gf_tissues, r_gf_covariates and
    p_gf_covariates; NaN where there are too few slides. And a sentence on each version omitted.
    """
    parts, notes = [], []
    for suffix, names, kept in (("tissues", (), 4), ("covariates", covariates, 2)):
        columns = [f"{name}_gf_{suffix}" for name in ("r", "p", "low", "high")[:kept]]
        left = degrees_of_freedom(samples_df, names)
        if left >= MIN_DF:
            df = given_tissues(log_expression_df, features_df, pairs_df, samples_df, names)
            parts.append(df.iloc[:, :kept].set_axis(columns, axis=1))
            continue
        parts.append(pd.DataFrame(np.nan, index=pairs_df.index, columns=columns))
        notes.append(
            f"Omitted: r given all tissues{' and covariates' if names else ''}. {len(samples_df)} slides of "
            f"{samples_df['tissue'].nunique()} tissues leave {left} degrees of freedom; {MIN_DF} are needed."
        )
    return pd.concat(parts, axis=1), list(dict.fromkeys(notes))


def degrees_of_freedom(samples_df: pd.DataFrame, covariates: Sequence[str] = ()) -> int:
    """n - 2 - k of `given_tissues` with these samples; it needs MIN_DF of them."""
    return len(samples_df) - 1 - _bases(samples_df, covariates)[1].shape[1]  # the basis has the intercept too


def patterns(
    r_gf: np.ndarray, r_gt: np.ndarray | float, r_ft: np.ndarray, n: int, alpha: float
) -> np.ndarray:
    """The pattern of each pair from its three plain correlations over n slides.

    As the column `pattern_<alpha>` of `pairs_conditional`; the arrays broadcast.
    """
    partials = three_partials(*np.broadcast_arrays(r_gf, r_gt, r_ft))
    result = {"undefined": ~partials.defined}
    result |= {f"p_{name}": ci_test(r, n, 1) for name, r in partials.r.items()}
    return _patterns(result, alpha)[f"pattern_{alpha:g}"]


def table7(
    pairs_df: pd.DataFrame, grid: Sequence[tuple[float, float]], alphas: Sequence[float]
) -> pd.DataFrame:
    """Table 7: for each (R_T, E_T) the pairs with r >= R_T and how many show each pattern at each alpha.

    Columns r_threshold, e_threshold, pairs, then `g-t-f_0.01` ..., and undefined.
    """
    rows = []
    for r_threshold, e_threshold in grid:
        check_kept(pairs_df, r_threshold)
        df = pairs_df[(pairs_df["r"] >= r_threshold) & (pairs_df["max_median_log2"] >= e_threshold)]
        names = [f"{pattern}_{alpha:g}" for pattern in PATTERNS for alpha in alphas]
        row = {"r_threshold": float(r_threshold), "e_threshold": float(e_threshold), "pairs": len(df)}
        rows.append(row | {c: int(df[c].sum()) for c in [*names, "undefined"]})
    return pd.DataFrame(rows)


class _Pairs(NamedTuple):
    """Unit residuals of genes x and features y; pair k is (x[g[k]], y[f[k]]), of correlation r[k].

    varies : bool [n_pairs], gene and feature vary beyond the conditions.
    """

    x: np.ndarray
    y: np.ndarray
    g: np.ndarray
    f: np.ndarray
    r: np.ndarray
    varies: np.ndarray


def _residual_pairs(
    log_df: pd.DataFrame, features_df: pd.DataFrame, pairs_df: pd.DataFrame, basis: np.ndarray
) -> _Pairs:
    genes, g, features, f = rows_of_pairs(pairs_df)
    x, x_varies = unit_residuals(rows_of(log_df, genes, log_df.columns, "gene"), basis)
    y, y_varies = unit_residuals(rows_of(features_df, features, log_df.columns, "feature"), basis)
    return _Pairs(x, y, g, f, _clipped_dots(x, y, g, f), x_varies[g] & y_varies[f])


def _clipped_dots(x: np.ndarray, y: np.ndarray, g: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Products of rows g of x and f of y: by one matrix product while that is small, else pair by pair."""
    small = len(x) * len(y) <= 50_000_000
    return np.clip((x @ y.T)[g, f] if small else pair_dots(x, y, g, f), -1, 1)


def _tissues(samples_df: pd.DataFrame, ids: pd.Index, of_features: pd.Index) -> pd.Series:
    """The tissue of each sample of the expression table, in its order."""
    for what, other in (("feature table", of_features), ("samples table", samples_df["sample_id"])):
        check_none(ids.difference(pd.Index(other)), f"of {len(ids)} samples are not in the {what}")
    tissues = samples_df.set_index("sample_id")["tissue"].loc[ids]
    check_none(tissues.index[tissues.isna()], f"of {len(ids)} samples have no tissue")
    return tissues


def _bases(samples_df: pd.DataFrame, covariates: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the covariates, and of covariates and tissues."""
    columns = np.zeros((len(samples_df), 0))
    if covariates:
        columns = covariate_table(samples_df, covariates).to_numpy(float)
    dummies = pd.get_dummies(samples_df["tissue"], dtype=float).to_numpy()[:, 1:]
    return orthonormal(columns), orthonormal(np.concatenate([columns, dummies], axis=1))


def _tested(
    name: str, r: np.ndarray, n: int, n_conditions: int, defined: np.ndarray
) -> dict[str, np.ndarray]:
    """A partial correlation with both tests and the interval, by column; neutral values where undefined."""
    low, high = interval(r, n, n_conditions)
    columns = {
        f"r_{name}": (r, 0.0), f"p_{name}": (ci_test(r, n, n_conditions), 1.0),
        f"p_t_{name}": (ci_test(r, n, n_conditions, "t"), 1.0), f"low_{name}": (low, -1.0),
        f"high_{name}": (high, 1.0),
    }  # fmt: skip
    return {column: np.where(defined, values, neutral) for column, (values, neutral) in columns.items()}


def _patterns(result: dict[str, np.ndarray], alpha: float) -> dict[str, np.ndarray]:
    """A bool for each pattern, and the name of the one with the largest p, at this alpha."""
    p = np.stack([result[f"p_{name}"] for name in PATTERNS.values()])
    independent = (p > alpha) & ~result["undefined"]
    columns = {f"{pattern}_{alpha:g}": are for pattern, are in zip(PATTERNS, independent, strict=True)}
    largest = np.where(independent, p, -1).argmax(axis=0)
    named = np.where(independent.any(axis=0), np.array(list(PATTERNS))[largest], "none")
    return columns | {f"pattern_{alpha:g}": named}
