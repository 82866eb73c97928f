"""Which gene-feature pairs to show, and on which tiles.

The paper's tiles were chosen by an algorithm in a supplement that is not available; this is our own
formulation of the same aim (notebooks/README.md, section 10).
"""

import difflib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from lib.statistics import conditional_independence, correlation, pair_tests, permutations
from lib.statistics.partial_correlation import MIN_DF
from lib.visualize import tile_choice

PAIR_COLUMNS = ["gene", "symbol", "feature", "tissue", "max_median_log2", "r", "r_given_own", "r_partial"]
PAIR_COLUMNS += ["p_free", "p_within_tissue", "q_within_tissue", "pattern", "pattern_within_tissue"]
# What notebook 06 finds of a pair (`links.within_tissue_pattern`) -> the words on figures and cards.
FINDINGS = {
    "direct": "found within tissues",
    "direct, other sign": "found within tissues, with the opposite sign",
    "through covariates": "explained by covariates",
    "through tissue": "not found within tissues",
    "not tested": "not tested within tissues",
}
# Skip features off their modal value (0 after a ReLU) in fewer samples than this: their r rests on a handful
# of points, and hardly any tile shows them.
MIN_ACTIVE = 5


def pairs_with_tests(
    conditional_df: pd.DataFrame, significance_df: pd.DataFrame, alpha: float = 0.05
) -> pd.DataFrame:
    """The marker pairs with what notebooks 06 and 07 found for each; columns PAIR_COLUMNS.

    r_given_own is the partial correlation given the indicator of the gene's own tissue, r_partial given all
    tissues; pattern is that at level `alpha`.
    """
    renamed_df = conditional_df.rename(
        columns={"r_gf_t": "r_given_own", "r_gf_tissues": "r_partial", f"pattern_{alpha}": "pattern"}
    )
    joined_df = renamed_df.merge(significance_df, on=["gene", "feature"], how="left", validate="1:1")
    return joined_df.reindex(columns=PAIR_COLUMNS)


def asked_pairs(show: Sequence[str], genes_df: pd.DataFrame, features: pd.Index) -> pd.DataFrame:
    """The pairs named as "GENE:FEATURE", the gene by symbol or id.

    Parameters
    ----------
    show : such as ["AMY2A:20_139"]
    genes_df : index gene; columns symbol, tissue, max_median_log2 (the artefact `gene_medians`)
    features : names of the network's features

    Returns
    -------
    DataFrame with columns gene, symbol, feature, tissue, max_median_log2, one row per pair, as named.

    Raises
    ------
    ValueError
        For a pair of another form, or an unknown gene or feature, with the nearest names.
    """
    rows = []
    for text in show:
        gene, colon, feature = text.rpartition(":")
        if not colon:
            raise ValueError(f'show_pairs has {text!r}: write "GENE:FEATURE", such as "AMY2A:20_139"')
        named = genes_df[(genes_df["symbol"] == gene) | (genes_df.index == gene)]
        if named.empty:
            near = difflib.get_close_matches(gene, [*genes_df["symbol"].dropna(), *genes_df.index], n=3)
            raise ValueError(
                f"show_pairs names gene {gene!r}, which is not in the expression table; nearest: {near}"
            )
        if feature not in features:
            near = difflib.get_close_matches(feature, list(features), n=3)
            raise ValueError(
                f"show_pairs names feature {feature!r}, which this network does not have; nearest: {near}"
            )
        best = named.sort_values("max_median_log2", ascending=False, kind="stable").iloc[0]
        rows.append((best.name, best["symbol"], feature, best["tissue"], best["max_median_log2"]))
    return pd.DataFrame(rows, columns=["gene", "symbol", "feature", "tissue", "max_median_log2"])


def measured(
    asked_df: pd.DataFrame,
    tested_df: pd.DataFrame,
    log_expression_df: pd.DataFrame,
    features_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    *,
    method: Literal["pearson", "spearman"] = "pearson",
    n_permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The pairs asked for with their statistics: of `pairs_with_tests`, or computed here.

    A pair below the threshold was not tested with the others, so it has no q and no pattern; nor has it a
    partial r where there are too few slides for one.

    Parameters
    ----------
    asked_df : from `asked_pairs`
    tested_df : from `pairs_with_tests`
    log_expression_df, features_df : genes and features x samples
    samples_df : sample_id, tissue, donor, in the order of the columns of features_df
    method : of all statistics computed here; "spearman" takes ranks first, as notebooks 05 to 07 do
    """
    key = ["gene", "feature"]
    found_df = asked_df.merge(tested_df[key + PAIR_COLUMNS[5:]], on=key, how="left")
    new = found_df["r"].isna()
    if new.any():
        new_df = asked_df[new.to_numpy()]
        x_df = log_expression_df.loc[new_df["gene"].unique(), features_df.columns]
        sides = correlation.on_scale(x_df, method)
        sides = sides, correlation.on_scale(features_df.loc[new_df["feature"].unique()], method)
        x, y = (df.loc[new_df[name]].to_numpy(float) for df, name in zip(sides, key, strict=True))
        r = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
        new_df = new_df.assign(r=r)
        found_df.loc[new, "r"] = r
        if len(samples_df) - 3 >= MIN_DF:
            own_df = conditional_independence.pairs_conditional(*sides, new_df, samples_df)
            found_df.loc[new, "r_given_own"] = own_df["r_gf_t"].to_numpy()
        if conditional_independence.degrees_of_freedom(samples_df) >= MIN_DF:
            given_df = conditional_independence.given_tissues(*sides, new_df, samples_df)
            found_df.loc[new, "r_partial"] = given_df["r"].to_numpy()
        repeated = samples_df["tissue"].duplicated().any()  # else nothing can be permuted within a tissue
        schemes: list[Literal["free", "within_tissue"]] = ["free", "within_tissue"] if repeated else ["free"]
        for scheme in schemes:
            drawn = permutations.draw(scheme, n_permutations, samples_df, seed)
            # On both sides, as in notebook 06.
            p = pair_tests.pair_p(*sides, new_df, drawn, progress=False)
            found_df.loc[new, f"p_{scheme}"] = p
    return found_df[PAIR_COLUMNS]


def best_pairs(
    pairs_df: pd.DataFrame,
    features_df: pd.DataFrame,
    *,
    n: int = 24,
    e_threshold: float = 0.0,
) -> pd.DataFrame:
    """The strongest pairs found within tissues, and, where these are fewer than n, the strongest others.

    In both groups tissues take turns and no gene or feature comes twice. Pairs are ranked by r_partial in the
    direction of r; pairs that change sign or vanish within tissues are left out, and so are features active
    in fewer than MIN_ACTIVE samples.

    Parameters
    ----------
    pairs_df : columns gene, feature, tissue, max_median_log2, r, r_partial (given all tissues),
        pattern_within_tissue ("direct": found within tissues), and others
    features_df : features x samples
    n : int
        Pairs at most.
    e_threshold : float
        Only genes whose highest median of log2(1 + expression) reaches it.

    Returns
    -------
    DataFrame, rows of pairs_df in order of choice, those found first; empty when no pair passes.
    """
    agreement = pairs_df["r_partial"] * np.sign(pairs_df["r"])
    active = n_active(features_df.loc[pairs_df["feature"].unique()]) >= MIN_ACTIVE
    able = (pairs_df["max_median_log2"] >= e_threshold) & (agreement > 0)
    able &= active.reindex(pairs_df["feature"]).to_numpy(bool)
    ranked_df = pairs_df[able].iloc[np.argsort(-agreement[able].to_numpy(), kind="stable")]
    found = ranked_df["pattern_within_tissue"].eq("direct").to_numpy()
    keys = ranked_df[["gene", "feature", "tissue"]].to_numpy()
    chosen: list[int] = []
    for rows in (np.flatnonzero(found), np.flatnonzero(~found)):
        _take_turns(keys, rows, chosen, n)
    return ranked_df.iloc[chosen].reset_index(drop=True)


def _take_turns(keys: np.ndarray, rows: np.ndarray, chosen: list[int], n: int) -> None:
    """Add rows to those chosen until there are n: tissues take turns, no gene and no feature twice.

    keys are gene, feature, tissue of each row; the first of a tissue's rows are taken first.
    """
    of_tissue = keys[rows, 2]
    waiting = {tissue: iter(rows[of_tissue == tissue]) for tissue in pd.unique(of_tissue)}
    taken = {name for row in chosen for name in keys[row, :2]}
    while waiting and len(chosen) < n:
        for tissue in list(waiting):
            row = next((i for i in waiting[tissue] if not taken & {*keys[i, :2]}), None)
            if row is None:
                del waiting[tissue]
            elif len(chosen) < n:
                taken |= {*keys[row, :2]}
                chosen.append(int(row))


def n_active(features_df: pd.DataFrame) -> pd.Series:
    """In how many samples each feature (a row) differs from its modal value."""
    same = [np.unique(row, return_counts=True)[1].max() for row in features_df.to_numpy()]
    return pd.Series(features_df.shape[1] - np.array(same, dtype=int), index=features_df.index)


def finding(pattern_within_tissue: pd.Series) -> pd.Series:
    """The result of the within-tissue test of each pair, one of FINDINGS; NaN is a pair not tested."""
    return pattern_within_tissue.fillna("not tested").map(FINDINGS).astype(object)


def tile_tissue(chosen_df: pd.DataFrame, features_df: pd.DataFrame, tissues: pd.Series) -> pd.Series:
    """The tissue whose tiles show a pair: the gene's own, or, for r < 0, where the feature is highest.

    A feature with negative r is low where the gene is high; what it detects is then shown where it is high,
    in the tissue with the highest median of the feature.

    Parameters
    ----------
    chosen_df : columns feature, tissue, r
    features_df : features x samples
    tissues : tissue of each sample

    Returns
    -------
    Series of str, index of chosen_df
    """
    of_sample = tissues.loc[features_df.columns].to_numpy()
    found = [
        tissue if r >= 0 else features_df.loc[[feature]].iloc[0].groupby(of_sample).median().idxmax()
        for feature, tissue, r in chosen_df[["feature", "tissue", "r"]].to_numpy()
    ]
    return pd.Series(found, index=chosen_df.index, dtype=object)


def candidate_tiles(labelled_df: pd.DataFrame, n_per_sample: int, seed: int = 0) -> pd.DataFrame:
    """Test tiles to choose from, at most `n_per_sample` of each sample, drawn at random.

    labelled_df is from `stored.labelled_tiles`, with any further columns; the order of its rows is kept.
    """
    test_df = labelled_df[labelled_df["split"] == "test"]
    turn = test_df.sample(frac=1, random_state=seed).groupby("sample_id").cumcount()
    return test_df[turn.reindex(test_df.index) < n_per_sample].reset_index(drop=True)


def cover_tiles(
    chosen_df: pd.DataFrame,
    values_df: pd.DataFrame,
    tiles_df: pd.DataFrame,
    log_expression_df: pd.DataFrame,
    *,
    top_q: float,
) -> pd.DataFrame:
    """A few tiles of each tissue on which its pairs' features are near their highest.

    `tile_choice.greedy_cover` for the features of one tile tissue at a time; ties go to samples where the
    paired gene is high (low, for r < 0). A feature with one value on all tiles of the tissue takes its
    highest tile in any tissue.

    Parameters
    ----------
    chosen_df : columns gene, feature, r, tile_tissue
    values_df : tiles x features, index tile_id
    tiles_df : tile_id, sample_id, slide_id, donor, tissue, and others of `tile_choice.CARRIED_COLUMNS`
    log_expression_df : genes x samples
    top_q : share of the tiles that counts as the top

    Returns
    -------
    DataFrame, one row per pair of chosen_df in its order: columns as `greedy_cover`.
    """
    if chosen_df.empty:
        return pd.DataFrame(columns=["feature", *tiles_df.columns, "value", "quantile"])
    samples_df = tiles_df.drop_duplicates("sample_id")
    covers = []
    for tissue, of_tissue_df in chosen_df.groupby("tile_tissue", sort=True):
        of_tissue_df = of_tissue_df.drop_duplicates("feature")
        here_df = tiles_df[tiles_df["tissue"] == tissue]
        expression_df = log_expression_df.loc[of_tissue_df["gene"]].set_axis(of_tissue_df["feature"])
        expression_df = expression_df.mul(np.sign(of_tissue_df["r"].to_numpy()), axis=0)
        cover_df = tile_choice.greedy_cover(
            values_df.loc[here_df["tile_id"], of_tissue_df["feature"]],
            here_df,
            samples_df,
            expression_df,
            top_q=top_q,
        )
        flat = [feature for feature in of_tissue_df["feature"] if feature not in set(cover_df["feature"])]
        if flat:
            anywhere_df = tile_choice.top_k(values_df[flat], tiles_df, samples_df, k=1)
            cover_df = pd.concat([cover_df, anywhere_df.drop(columns="order")], ignore_index=True)
        covers.append(cover_df.assign(tile_tissue=tissue))
    key = ["feature", "tile_tissue"]
    return chosen_df[key].merge(pd.concat(covers, ignore_index=True), on=key, how="left")
