"""Which gene-feature pairs to show, and on which tiles.

The paper's tiles were chosen by an algorithm in a supplement that is not available; this is our own
formulation of the same aim (notebooks/README.md, section 10).
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.statistics import correlation, link_lookup
from lib.visualize import tile_choice

PAIR_COLUMNS = ["gene", "symbol", "feature", "tissue", "max_median_log2", "r", "r_within", "low", "high"]
PAIR_COLUMNS += ["p", "q", "carried_by", "finding"]
# What notebook 06 finds of a pair (`links.within_tissue_pattern`) -> the words on figures and cards.
FINDINGS = {
    "direct": "found within tissues",
    "direct, other sign": "found within tissues, with the opposite sign",
    "through covariates": "explained by covariates",
    "through tissue": "not found within tissues",
    "not found": "not found",
    "not tested": "not tested within tissues",
}
# Skip features off their modal value (0 after a ReLU) in fewer samples than this: their r rests on a handful
# of points, and hardly any tile shows them.
MIN_ACTIVE = 5


class Found(NamedTuple):
    """What notebooks 05 and 06 found.

    markers_df : the marker pairs; gene, symbol, feature, tissue, r, pattern_within_tissue.
    links_df : the table of links.
    lookup : the test of links for any pair; None where nothing varies within tissues.
    medians_df : index gene; symbol, tissue, max_median_log2 (the artefact `gene_medians`).
    q_threshold : float
    """

    markers_df: pd.DataFrame
    links_df: pd.DataFrame
    lookup: link_lookup.LinkLookup | None
    medians_df: pd.DataFrame
    q_threshold: float = 0.05


def asked_pairs(show: Sequence[str], genes_df: pd.DataFrame, features: pd.Index) -> pd.DataFrame:
    """The pairs named as "GENE:FEATURE", the gene by symbol or id.

    Parameters
    ----------
    show : such as ["AMY2A:20_139"]
    genes_df : index gene; columns symbol, max_median_log2 (the artefact `gene_medians`)
    features : names of the network's features

    Returns
    -------
    DataFrame with columns gene, feature, one row per pair, as named.

    Raises
    ------
    ValueError
        For a pair of another form, or an unknown gene or feature, with the nearest names.
    """
    rows = []
    for text in show:
        gene, colon, feature = text.rpartition(":")
        if not colon:
            raise InputError(f'show_pairs has {text!r}: write "GENE:FEATURE", such as "AMY2A:20_139"')
        named = genes_df[(genes_df["symbol"] == gene) | (genes_df.index == gene)]
        if named.empty:
            near = difflib.get_close_matches(gene, [*genes_df["symbol"].dropna(), *genes_df.index], n=3)
            raise InputError(
                f"show_pairs names gene {gene!r}, which is not in the expression table; nearest: {near}"
            )
        if feature not in features:
            near = difflib.get_close_matches(feature, list(features), n=3)
            raise InputError(
                f"show_pairs names feature {feature!r}, which this network does not have; nearest: {near}"
            )
        best = named.sort_values("max_median_log2", ascending=False, kind="stable").iloc[0]
        rows.append((best.name, feature))
    return pd.DataFrame(rows, columns=["gene", "feature"])


def best_pairs(
    links_df: pd.DataFrame, markers_df: pd.DataFrame, features_df: pd.DataFrame, *, n: int = 24
) -> pd.DataFrame:
    """The strongest links, and, where these are fewer than n, the marker pairs of highest |r|.

    Of each gene and clump the strongest link; in both groups tissues take turns and no gene, clump or feature
    comes twice. Features active in fewer than MIN_ACTIVE samples are left out.

    Parameters
    ----------
    links_df : the table of links, the strongest first.
    markers_df : gene, feature, tissue, r of marker pairs.
    features_df : features x samples.
    n : pairs at most.

    Returns
    -------
    DataFrame: gene, feature in order of choice, links first; empty when there is neither.
    """
    key = ["gene", "feature", "tissue"]
    leads_df = links_df.loc[links_df["clump_lead"].astype(bool), [*key, "clump"]].astype(object)
    order = np.argsort(-markers_df["r"].abs().to_numpy(), kind="stable")
    others_df = markers_df[key].iloc[order].astype(object).assign(clump=lambda df: df["feature"])
    rows_df = pd.concat([leads_df.assign(link=True), others_df.assign(link=False)], ignore_index=True)
    rows_df = rows_df.drop_duplicates(["gene", "feature"])
    active = n_active(features_df.loc[rows_df["feature"].unique()]) >= MIN_ACTIVE
    rows_df = rows_df[active.reindex(rows_df["feature"]).to_numpy(bool)]
    link = rows_df["link"].to_numpy(bool)
    keys = rows_df[["gene", "clump", "tissue"]].to_numpy()
    chosen: list[int] = []
    for rows in (np.flatnonzero(link), np.flatnonzero(~link)):
        _take_turns(keys, rows, chosen, n)
    return rows_df.iloc[chosen][["gene", "feature"]].reset_index(drop=True)


def tested_pairs(
    pairs_df: pd.DataFrame, found: Found, log_expression_df: pd.DataFrame, features_df: pd.DataFrame
) -> pd.DataFrame:
    """Pairs with what is known of them: r, the test of links, and its result in words.

    Parameters
    ----------
    pairs_df : gene, feature.
    found : what notebooks 05 and 06 found.
    log_expression_df, features_df : genes and features x samples, on the scale of the correlation
        (`correlation.on_scale`).

    Returns
    -------
    DataFrame of PAIR_COLUMNS, rows of pairs_df. r over all samples; r_within, low, high, p, q of
    `link_lookup.of_pairs` (covariates out); carried_by: the tissue that carries most of a link, "" for other
    pairs; finding: whether the pair is a link.
    """
    df = pairs_df[["gene", "feature"]].reset_index(drop=True).astype(object)
    df = df.join(found.medians_df[["symbol", "tissue", "max_median_log2"]], on="gene")
    df["r"] = correlation.r_of_pairs(log_expression_df, features_df, df) if len(df) else np.empty(0)
    if found.lookup is None:
        df[["r_within", "low", "high", "p", "q"]] = np.nan
    else:
        df = df.join(link_lookup.of_pairs(found.lookup, df))
    key = ["gene", "feature"]
    carried_df = found.links_df[[*key, "carried_by"]].astype(object)
    verdict_df = found.markers_df[[*key, "pattern_within_tissue"]].astype(object)
    df = df.merge(carried_df, on=key, how="left").merge(verdict_df, on=key, how="left")
    df["carried_by"] = df["carried_by"].fillna("")
    called, turned = df["q"] <= found.q_threshold, df["r"] * df["r_within"] < 0
    conditions = [
        df["q"].isna(),
        called & turned,
        called,
        df["pattern_within_tissue"] == "through covariates",
    ]
    patterns = ["not tested", "direct, other sign", "direct", "through covariates"]
    pattern = pd.Series(np.select(conditions, patterns, "through tissue"), df.index)
    df["finding"] = pattern.map(FINDINGS).astype(object)
    return df[PAIR_COLUMNS]


def _take_turns(keys: np.ndarray, rows: np.ndarray, chosen: list[int], n: int) -> None:
    """Add rows to those chosen until there are n: tissues take turns, no gene and no clump twice.

    keys are gene, clump, tissue of each row; the first of a tissue's rows are taken first.
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


def direction(chosen_df: pd.DataFrame) -> np.ndarray:
    """Sign in which feature and gene go together: of r within tissues for links, else of r; float64."""
    link = chosen_df["carried_by"].ne("").to_numpy()
    return np.sign(np.where(link, chosen_df["r_within"], chosen_df["r"]).astype(float))


def tile_tissue(chosen_df: pd.DataFrame, features_df: pd.DataFrame, tissues: pd.Series) -> pd.Series:
    """The tissue whose tiles show a pair.

    Of a link the one that carries it. Of another pair the gene's own. Where r < 0, the feature is low where
    the gene is high, and what it detects is shown where it is high: in the tissue of its highest median. So
    it is for a link of spots, which a section carries and no tissue.

    Parameters
    ----------
    chosen_df : columns feature, tissue, r, carried_by.
    features_df : features x samples.
    tissues : tissue of each sample.

    Returns
    -------
    Series of str, index of chosen_df.
    """
    of_sample = tissues.loc[features_df.columns].to_numpy()
    known, found = set(of_sample), []
    for feature, tissue, r, carried_by in chosen_df[["feature", "tissue", "r", "carried_by"]].to_numpy():
        carries = carried_by in known
        if (r < 0 or carried_by) and not carries:
            tissue = features_df.loc[[feature]].iloc[0].groupby(of_sample).median().idxmax()
        found.append(carried_by if carries else tissue)
    return pd.Series(found, index=chosen_df.index, dtype=object)


def candidate_tiles(
    labelled_df: pd.DataFrame, samples: pd.Series, n_per_sample: int, seed: int = 0
) -> pd.DataFrame:
    """Tiles of these samples to choose from, at most `n_per_sample` of each, drawn at random.

    labelled_df is from `stored.labelled_tiles`, with any further columns; the order of its rows is kept.
    """
    test_df = labelled_df[labelled_df["sample_id"].isin(samples)]
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
    paired gene is high (low, for a negative correlation). A feature with one value on all tiles of the tissue
    takes its highest tile in any tissue.

    Parameters
    ----------
    chosen_df : columns gene, feature, r, r_within, carried_by, tile_tissue
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
        expression_df = expression_df.mul(direction(of_tissue_df), axis=0)
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
