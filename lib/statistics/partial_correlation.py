"""Partial correlations of gene, feature and tissue, and the three patterns of Table 7 (METHOD section 8).

For a pair (g, f) and the tissue t of the gene's highest expression: r(g, f | t), r(f, t | g), r(g, t | f).
"Independent" means not rejected, p > alpha, and absence of rejection is not independence: read the
interval beside it. These are conditional-independence patterns, not causes. The tests are parametric and
reject too often when the variance differs between tissues; the calibrated test of r(g, f | all tissues) is
`significance.pair_p` with `within_tissue` and `two_sided`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from lib.statistics.residuals import covariate_table

PATTERNS = {
    "g-t-f": "gf_t",
    "f-g-t": "ft_g",
    "g-f-t": "gt_f",
}  # pattern -> the partial correlation that vanishes
DEGENERATE = 1e-10  # 1 - R^2 below this leaves no variance to correlate
MIN_DF = 2  # degrees of freedom: Fisher's z takes one of them


def partial_r(x: np.ndarray, y: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """Correlation of rows of x with rows of y after linear projection on the conditions.

    Parameters
    ----------
    x, y : [n] or [n_pairs, n]; row k of x goes with row k of y.
    conditions : [n] or [n, k], the same for all pairs; an intercept is added.

    Returns
    -------
    float or float64 [n_pairs].

    Raises
    ------
    ValueError : missing values, a row without variation beyond the conditions, or no degree of freedom left.
    """
    x2, y2 = np.atleast_2d(np.asarray(x, float)), np.atleast_2d(np.asarray(y, float))
    conditions = np.asarray(conditions, float)
    basis = _basis(conditions.reshape(x2.shape[-1], -1))
    _degrees_of_freedom(x2.shape[-1], basis.shape[1] - 1)
    rows = []
    for what, values in (("x", x2), ("y", y2)):
        if not np.isfinite(values).all():
            raise ValueError(f"{what} holds {int((~np.isfinite(values)).sum())} missing or infinite values")
        residual, varies = _residual(values, basis)
        if not varies.all():
            raise ValueError(
                f"row {np.flatnonzero(~varies)[0]} of {what} does not vary beyond the conditions: r is "
                "undefined"
            )
        rows.append(residual)
    r = np.clip(np.einsum("ps,ps->p", *np.broadcast_arrays(*rows)), -1, 1)
    return float(r[0]) if np.ndim(x) == 1 and np.ndim(y) == 1 else r


def ci_test(
    r: np.ndarray | float, n: int, n_conditions: int, method: Literal["fisher", "t"] = "fisher"
) -> np.ndarray | float:
    """Two-sided p of a partial correlation r over n slides given n_conditions columns.

    `fisher`: sqrt(n - k - 3) |atanh r| against the normal (r = 0.1074, n = 334, k = 1 give 0.05016; the
    paper prints 0.0501 for r = 0.107). `t`: |r| sqrt(df / (1 - r^2)) against t with df = n - 2 - k.
    ValueError when no degree of freedom is left, or |r| > 1.
    """
    r = _checked_r(r)
    df = _degrees_of_freedom(n, n_conditions)
    with np.errstate(divide="ignore"):
        if method == "fisher":
            p = 2 * stats.norm.sf(np.sqrt(df - 1) * np.abs(np.arctanh(r)))
        elif method == "t":
            p = 2 * stats.t.sf(np.abs(r) * np.sqrt(df / (1 - r * r)), df)
        else:
            raise ValueError(f"method is 'fisher' or 't', got {method!r}")
    return float(p) if p.ndim == 0 else p


def interval(
    r: np.ndarray | float, n: int, n_conditions: int, level: float = 0.95
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Confidence interval of a partial correlation: tanh(atanh r -+ z / sqrt(n - k - 3)).

    ValueError when |r| > 1, level (a share, such as 0.95) is not between 0 and 1, or no degree of freedom is
    left.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is a share between 0 and 1, such as 0.95, got {level}")
    r = _checked_r(r)
    half = stats.norm.ppf(0.5 + level / 2) / np.sqrt(_degrees_of_freedom(n, n_conditions) - 1)
    with np.errstate(divide="ignore"):
        z = np.arctanh(r)
    low, high = np.tanh(z - half), np.tanh(z + half)
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def pairs_conditional(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    *,
    tissue: Literal["indicator", "categorical"] = "indicator",
    covariates: Sequence[str] | None = None,
    alphas: Sequence[float] = (0.01, 0.05),
    level: float = 0.95,
) -> pd.DataFrame:
    """The three partial correlations of each pair, their tests, intervals and patterns.

    Parameters
    ----------
    log_expression_df, features_df : genes and features x samples.
    pairs_df : gene, feature, tissue (of the gene's highest median expression), and anything else.
    samples_df : sample_id, tissue, and the covariates as columns (numbers, or categories that become
        dummies).
    tissue : `indicator` conditions on one column, the gene's own tissue or not (the paper's).
        `categorical` conditions on all tissues; then t has T - 1 columns, r_ft_g and r_gt_f are multiple
        partial correlations (0 or above) and their test is the F test of the tissue's columns.
    covariates : columns of samples_df added to every condition.

    Returns
    -------
    The columns of pairs_df and, for each of gf_t, ft_g, gt_f: r_<>, p_<> (Fisher z; F for multiple ones),
    p_t_<> (t); low_<>, high_<> (the interval; of gf_t alone under `categorical`); n_conditions (of gf_t);
    undefined (no variance left in one of the three: r 0, p 1, never called independent); for each alpha
    and pattern a bool `g-t-f_0.01`, and `pattern_0.01`, the pattern of largest p among those not rejected,
    or "none". Patterns may overlap: count with the bools. Where `categorical` tissues add nothing to the
    covariates (one tissue, or a covariate that tells it), every pair is undefined: r_ft_g and r_gt_f are 0
    with p 1, and only r_gf_t, then given the covariates alone, keeps its value.

    Raises
    ------
    ValueError : samples or covariates missing (with counts), no degrees of freedom, unknown names.
    """
    if tissue not in ("indicator", "categorical"):
        raise ValueError(f"tissue is 'indicator' or 'categorical', got {tissue!r}")
    lacking = [c for c in ("gene", "feature", "tissue") if c not in pairs_df]
    if lacking:
        raise ValueError(f"the pairs lack the columns {lacking}")
    ids, of_sample, covariate_columns = _slides(samples_df, log_expression_df, features_df, covariates)
    n = len(ids)
    basis = _basis(covariate_columns)
    n_covariates = basis.shape[1] - 1
    genes, g = np.unique(pairs_df["gene"].to_numpy(dtype=object), return_inverse=True)
    features, f = np.unique(pairs_df["feature"].to_numpy(dtype=object), return_inverse=True)
    x, x_varies = _residual(_rows(log_expression_df, genes, ids, "gene"), basis)
    y, y_varies = _residual(_rows(features_df, features, ids, "feature"), basis)
    r_gf = _clipped_dots(x, y, g, f)
    tissues = np.array(sorted(of_sample.unique()))
    unknown = sorted(set(pairs_df["tissue"]) - set(tissues))
    if unknown:
        raise ValueError(f"tissues of pairs without a slide: {unknown[:5]}")
    indicators = (of_sample.to_numpy()[None, :] == tissues[:, None]).astype(float)
    if tissue == "indicator":
        t, t_varies = _residual(indicators, basis)
        which = np.searchsorted(tissues, pairs_df["tissue"].to_numpy(dtype=object).astype(tissues.dtype))
        r_gt, r_ft = (x @ t.T)[g, which], (y @ t.T)[f, which]
        r, defined = _three_partials(r_gf, np.clip(r_gt, -1, 1), np.clip(r_ft, -1, 1))
        defined &= x_varies[g] & y_varies[f] & t_varies[which]
        result = _tests(r, defined, n, n_covariates + 1, level)
    else:
        whole = _basis(np.concatenate([covariate_columns, indicators[1:].T], axis=1))
        result, defined = _categorical(x, y, g, f, r_gf, basis, whole, n, level)
        defined &= x_varies[g] & y_varies[f]
        _set_undefined(result, ~defined)
        if whole.shape[1] == basis.shape[1]:  # r_gf_t stands, but there is no t to speak of
            defined = np.zeros_like(defined)
    result["undefined"] = ~defined
    for alpha in alphas:
        _add_patterns(result, alpha)
    return pd.concat([pairs_df.reset_index(drop=True), pd.DataFrame(result)], axis=1).set_axis(pairs_df.index)


def patterns(
    r_gf: np.ndarray, r_gt: np.ndarray | float, r_ft: np.ndarray, n: int, alpha: float
) -> np.ndarray:
    """The pattern of each pair from its three plain correlations, one indicator being the condition.

    As the column `pattern_<alpha>` of `pairs_conditional`; the arrays broadcast; n slides.
    """
    r, defined = _three_partials(*np.broadcast_arrays(r_gf, r_gt, r_ft))
    result = {"undefined": ~defined} | {f"p_{name}": ci_test(values, n, 1) for name, values in r.items()}
    _add_patterns(result, alpha)
    return result[f"pattern_{alpha:g}"]


def table7(
    pairs_df: pd.DataFrame,
    grid: Sequence[tuple[float, float]] = ((0.7, 7.0), (0.8, 10.0)),
    alphas: Sequence[float] = (0.01, 0.05),
) -> pd.DataFrame:
    """Table 7: for each (R_T, E_T) the pairs with r >= R_T and how many show each pattern at each alpha.

    Columns r_threshold, e_threshold, pairs, then `g-t-f_0.01` ..., and undefined.
    """
    rows = []
    for r_threshold, e_threshold in grid:
        kept = pairs_df.attrs.get("r_threshold", 0.0)
        if r_threshold < kept:
            raise ValueError(f"asked for r >= {r_threshold}, but pairs were kept from {kept} on")
        df = pairs_df[(pairs_df["r"] >= r_threshold) & (pairs_df["max_median_log2"] >= e_threshold)]
        names = [f"{pattern}_{alpha:g}" for pattern in PATTERNS for alpha in alphas]
        row = {"r_threshold": float(r_threshold), "e_threshold": float(e_threshold), "pairs": len(df)}
        rows.append(row | {c: int(df[c].sum()) for c in [*names, "undefined"]})
    return pd.DataFrame(rows)


def degrees_of_freedom(
    samples_df: pd.DataFrame,
    *,
    tissue: Literal["indicator", "categorical"] = "categorical",
    covariates: Sequence[str] | None = None,
) -> int:
    """n - 2 - k of r(g, f | t) under `pairs_conditional` with these samples; it needs MIN_DF of them."""
    if tissue not in ("indicator", "categorical"):
        raise ValueError(f"tissue is 'indicator' or 'categorical', got {tissue!r}")
    columns = _covariate_columns(samples_df, covariates)
    if tissue == "indicator":
        return len(samples_df) - 2 - _basis(columns).shape[1]  # the basis has the intercept too
    dummies = pd.get_dummies(samples_df["tissue"], dtype=float).to_numpy()
    return len(samples_df) - 1 - _basis(np.concatenate([columns, dummies], axis=1)).shape[1]


def given_all_tissues(
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    pairs_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    covariates: Sequence[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """r(g, f) of each pair given all tissues, and given the covariates too, where there are slides enough.

    Parameters as `pairs_conditional`.

    Returns
    -------
    The rows of pairs_df with r_gf_tissues, p_gf_tissues (Fisher z), low_gf_tissues, high_gf_tissues (95 %),
    and r_gf_covariates, p_gf_covariates; NaN where too few slides are left. And a sentence on each version
    left out for that.
    """
    parts, notes = [], []
    for suffix, names, kept in (
        ("tissues", (), ("r", "p", "low", "high")),
        ("covariates", covariates, ("r", "p")),
    ):
        columns = {f"{name}_gf_t": f"{name}_gf_{suffix}" for name in kept}
        left = degrees_of_freedom(samples_df, covariates=names)
        if left >= MIN_DF:
            df = pairs_conditional(
                log_expression_df, features_df, pairs_df, samples_df,
                tissue="categorical", covariates=names, alphas=(),
            )  # fmt: skip
            parts.append(df[list(columns)].rename(columns=columns))
            continue
        parts.append(pd.DataFrame(np.nan, index=pairs_df.index, columns=list(columns.values())))
        notes.append(
            f"Left out: r given all tissues{' and covariates' if names else ''}. {len(samples_df)} slides of "
            f"{samples_df['tissue'].nunique()} tissues leave {left} degrees of freedom; {MIN_DF} are needed."
        )
    return pd.concat(parts, axis=1), list(dict.fromkeys(notes))


# -- parts ------------------------------------------------------------------------------------------------


def _checked_r(r: np.ndarray | float) -> np.ndarray:
    r = np.asarray(r, float)
    if not (np.abs(r) <= 1).all():
        raise ValueError(f"r must lie in [-1, 1], got {r[~(np.abs(r) <= 1)].flat[0]}")
    return r


def _degrees_of_freedom(n: int, n_conditions: int) -> int:
    df = n - 2 - n_conditions
    if df < MIN_DF:
        raise ValueError(
            f"{n} slides and {n_conditions} conditions leave {df} degrees of freedom; {MIN_DF} are needed. "
            "Use fewer conditions (tissue = 'indicator', fewer covariates) or more slides"
        )
    return df


def _basis(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis [n, 1 + rank] of an intercept and the columns; collinear columns count once."""
    n = len(columns)
    if not np.isfinite(columns).all():
        raise ValueError(
            f"the conditions hold {int((~np.isfinite(columns)).sum())} missing or infinite values"
        )
    intercept = np.full((n, 1), n**-0.5)
    centred = columns - columns.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    centred = centred[
        :, length > 1e-12 * np.maximum(np.abs(columns).max(axis=0, initial=0), 1e-300) * np.sqrt(n)
    ]
    if centred.shape[1] == 0:
        return intercept
    u, s, _ = np.linalg.svd(centred / np.sqrt((centred**2).sum(axis=0)), full_matrices=False)
    return np.concatenate([intercept, u[:, s > 1e-9 * s[0]]], axis=1)


def _residual(rows: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1 orthogonal to the basis, and whether anything was left of each (else the row is 0)."""
    total = np.sqrt(((rows - rows.mean(axis=1, keepdims=True)) ** 2).sum(axis=1, keepdims=True))
    residual = rows - (rows @ basis) @ basis.T
    residual -= (residual @ basis) @ basis.T  # once more: what rounding left of the first
    length = np.sqrt((residual**2).sum(axis=1, keepdims=True))
    rounding = 1e-12 * np.sqrt((rows**2).sum(axis=1, keepdims=True))  # all that is left of a constant row
    varies = length > np.maximum(np.sqrt(DEGENERATE) * total, rounding)
    return np.divide(residual, length, out=np.zeros_like(residual), where=varies), varies[:, 0]


def _slides(samples_df, log_expression_df, features_df, covariates):
    """Sample ids in the expression's order, their tissue, and the covariates as float columns [n, k]."""
    ids = log_expression_df.columns
    for what, other in (
        ("feature table", features_df.columns),
        ("samples table", pd.Index(samples_df["sample_id"])),
    ):
        missing = ids.difference(other)
        if len(missing):
            raise ValueError(
                f"{len(missing)} of {len(ids)} samples are not in the {what}, first {list(missing[:3])}"
            )
    df = samples_df.set_index("sample_id").loc[ids]
    if df["tissue"].isna().any():
        raise ValueError(
            f"{int(df['tissue'].isna().sum())} of {len(df)} samples have no tissue; fill it in or drop them"
        )
    return ids, df["tissue"], _covariate_columns(df.reset_index(names="sample_id"), covariates)


def _covariate_columns(samples_df: pd.DataFrame, covariates: Sequence[str] | None) -> np.ndarray:
    if not covariates:
        return np.zeros((len(samples_df), 0))
    return covariate_table(samples_df, list(covariates)).to_numpy(float)


def _rows(df: pd.DataFrame, names: np.ndarray, ids: pd.Index, what: str) -> np.ndarray:
    missing = pd.Index(names).difference(df.index)
    if len(missing):
        raise ValueError(
            f"{len(missing)} {what}s of the pairs are not in the {what} table, first {list(missing[:3])}"
        )
    rows = df.loc[names, ids].to_numpy(np.float64)
    if not np.isfinite(rows).all():
        i, s = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(f"{what} {names[i]!r} is {rows[i, s]} in sample {ids[s]!r}: every value is needed")
    return rows


def _clipped_dots(x: np.ndarray, y: np.ndarray, g: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Products of rows g of x and f of y: by one matrix product while that is small, else pair by pair."""
    if len(x) * len(y) <= 50_000_000:
        return np.clip((x @ y.T)[g, f], -1, 1)
    blocks = [np.einsum("ps,ps->p", x[g[s : s + 8192]], y[f[s : s + 8192]]) for s in range(0, len(g), 8192)]
    return np.clip(np.concatenate(blocks), -1, 1)


def _three_partials(r_gf, r_gt, r_ft) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """First-order partial correlations from the three plain ones."""
    left = {"gf": 1 - r_gf**2, "gt": 1 - r_gt**2, "ft": 1 - r_ft**2}
    defined = (left["gf"] > DEGENERATE) & (left["gt"] > DEGENERATE) & (left["ft"] > DEGENERATE)
    safe = {k: np.where(defined, v, 1.0) for k, v in left.items()}
    r = {
        "gf_t": (r_gf - r_gt * r_ft) / np.sqrt(safe["gt"] * safe["ft"]),
        "ft_g": (r_ft - r_gf * r_gt) / np.sqrt(safe["gf"] * safe["gt"]),
        "gt_f": (r_gt - r_gf * r_ft) / np.sqrt(safe["gf"] * safe["ft"]),
    }
    return {k: np.where(defined, np.clip(v, -1, 1), 0.0) for k, v in r.items()}, defined


def _tests(r: dict[str, np.ndarray], defined: np.ndarray, n: int, n_conditions: int, level: float) -> dict:
    result = {f"r_{k}": v for k, v in r.items()}
    for k, v in r.items():
        result[f"p_{k}"] = ci_test(v, n, n_conditions)
        result[f"p_t_{k}"] = ci_test(v, n, n_conditions, "t")
        result[f"low_{k}"], result[f"high_{k}"] = interval(v, n, n_conditions, level)
    result["n_conditions"] = np.full(len(defined), n_conditions)
    return _set_undefined(result, ~defined)


def _set_undefined(result: dict, undefined: np.ndarray) -> dict:
    for name, values in result.items():
        neutral = {"r": 0.0, "p": 1.0, "low": -1.0, "high": 1.0}.get(name.split("_")[0])
        if neutral is not None:
            values[undefined] = neutral
    return result


def _categorical(x, y, g, f, r_gf, basis, whole, n, level) -> tuple[dict, np.ndarray]:
    """All tissues at once: x, y are unit residuals on the covariates, `whole` spans covariates and
    tissues.
    """
    n_tissue = whole.shape[1] - basis.shape[1]
    xt, yt = x - (x @ whole) @ whole.T, y - (y @ whole) @ whole.T
    left_x, left_y = (xt**2).sum(axis=1), (yt**2).sum(axis=1)  # 1 - R^2 of g, of f on the tissues
    x1, x_varies = _residual(x, whole)
    y1, y_varies = _residual(y, whole)
    r = {"gf_t": _clipped_dots(x1, y1, g, f)}
    defined = x_varies[g] & y_varies[f] & (1 - r_gf**2 > DEGENERATE) & (1 - r["gf_t"] ** 2 > DEGENERATE)
    result = {"r_gf_t": r["gf_t"]}
    k = whole.shape[1] - 1
    result["p_gf_t"] = ci_test(r["gf_t"], n, k)
    result["p_t_gf_t"] = ci_test(r["gf_t"], n, k, "t")
    result["low_gf_t"], result["high_gf_t"] = interval(r["gf_t"], n, k, level)
    df = n - k - 2  # of the residual once the other variable is in as well
    for name, left in (("ft_g", left_y[f]), ("gt_f", left_x[g])):
        explained, p = np.zeros(len(g)), np.ones(len(g))
        if n_tissue:  # else the tissues say nothing that the covariates do not: t has no variance left
            # residual sums of squares without and with the tissues, the other variable being in both
            without = np.where(defined, 1 - r_gf**2, 1.0)
            with_tissues = np.where(defined, left * (1 - r["gf_t"] ** 2), 1.0)
            explained = np.clip(1 - with_tissues / without, 0, 1)
            p = stats.f.sf(explained / n_tissue / np.maximum((1 - explained) / df, 1e-300), n_tissue, df)
        result[f"r_{name}"], result[f"p_{name}"], result[f"p_t_{name}"] = np.sqrt(explained), p, p.copy()
    result["n_conditions"] = np.full(len(g), k)
    return result, defined


def _add_patterns(result: dict, alpha: float) -> None:
    p = np.stack([result[f"p_{name}"] for name in PATTERNS.values()])
    independent = (p > alpha) & ~result["undefined"]
    for pattern, values in zip(PATTERNS, independent, strict=True):
        result[f"{pattern}_{alpha:g}"] = values
    largest = np.where(independent, p, -1).argmax(axis=0)
    result[f"pattern_{alpha:g}"] = np.where(
        independent.any(axis=0), np.array(list(PATTERNS))[largest], "none"
    )
