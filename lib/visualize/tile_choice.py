"""Choosing the few tiles to show: a greedy cover of a set of features, the top k, a strip from low to high.

The paper chose its tiles by an algorithm in a supplement that is not available (Methods, "visualization");
the cover here is our own formulation of the same aim. All three take the values of chosen features on tiles
(`feature_values.tile_values`), the tiles and the samples, and return plain tables.
"""

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from lib.errors import InputError
from lib.tiles.stored import read_tiles

# Columns of the tiles table passed on with the ids, where it has them.
CARRIED_COLUMNS = ["column", "row", "l0_x", "l0_y", "l0_size", "file", "stack_index", "tissue"]


def greedy_cover(
    values_df: pd.DataFrame,
    tiles_df: pd.DataFrame,
    samples_df: pd.DataFrame,
    gene_expression_df: pd.DataFrame,
    *,
    top_q: float,
) -> pd.DataFrame:
    """A smallest set of tiles on which every feature is near its highest, found greedily.

    A feature is covered by a tile where its value is among its top `top_q` of all given tiles. Each step
    takes the tile covering most features still uncovered; ties go to the sample with the highest expression
    of the genes paired with those features, then to the tile where those features rank highest, then to the
    lower tile_id. A last pass drops any tile whose features the others cover too. The greedy size is at most
    1 + ln(n_features) times the smallest possible (Chvatal 1979, Math. Oper. Res. 4:233).

    Parameters
    ----------
    values_df : tiles x features, float; index tile_id
        Give only the test tiles of one tissue, and features from pairs of that tissue.
    tiles_df : columns tile_id, sample_id, slide_id and any of CARRIED_COLUMNS
    samples_df : columns sample_id, donor
    gene_expression_df : features x samples
        log2(1 + TPM) of the gene paired with each feature, in each sample. Genes differ in level, so samples
        are compared by their rank within each gene.
    top_q : share of the tiles that counts as the top of a feature, in (0, 1]; at least one tile always does

    Returns
    -------
    DataFrame
        One row per covered feature, index 0..: pick (1.. in order of choice), feature, tile_id, sample_id,
        slide_id, donor, CARRIED_COLUMNS, value, quantile (share of tiles at or below the value). A feature
        covered by several chosen tiles is listed with the one where it is highest. A feature with one value
        on all (two or more) tiles has no top and is left out.

    Raises
    ------
    ValueError
        For unknown or repeated ids, samples without a donor, or values that are not finite.
    """
    if not 0 < top_q <= 1:
        raise InputError(f"top_q is {top_q}: it is the share of tiles that counts as the top, in (0, 1]")
    values_df = values_df.sort_index()  # so that the first of tied tiles has the lower tile_id
    table_df = _described(values_df, tiles_df, samples_df)
    if len(values_df) > 1:
        values_df = values_df.loc[:, values_df.max() > values_df.min()]
    values = values_df.to_numpy(np.float64)  # n_tiles x n_features
    covers = _covers(values, top_q)
    quantile = values_df.rank(method="max").to_numpy() / len(values)
    preference = _expression_rank(gene_expression_df, values_df.columns, table_df["sample_id"])
    picks = _drop_redundant(_greedy(covers, preference, quantile), covers)
    rows = []
    for j, feature in enumerate(values_df.columns):
        able = [(values[i, j], -order, i) for order, i in enumerate(picks, 1) if covers[i, j]]
        value, order, i = max(able)
        rows.append((-order, feature, i, value, quantile[i, j]))
    rows_df = pd.DataFrame(rows, columns=["pick", "feature", "_tile", "value", "quantile"])
    found_df = table_df.iloc[rows_df.pop("_tile").astype(int)].reset_index(drop=True)
    parts = [rows_df[["pick", "feature"]], found_df, rows_df[["value", "quantile"]]]
    return pd.concat(parts, axis=1).sort_values(["pick", "feature"], ignore_index=True)


def top_k(
    values_df: pd.DataFrame, tiles_df: pd.DataFrame, samples_df: pd.DataFrame, *, k: int
) -> pd.DataFrame:
    """The k tiles with the highest value of each feature, at most one per donor unless there is only one.

    With fewer than k donors (two or more), a strip has one tile per donor.

    Parameters
    ----------
    values_df, tiles_df, samples_df : as in `greedy_cover`.
    k : tiles per feature

    Returns
    -------
    DataFrame
        One row per feature and tile, index 0..: feature, order (1 = highest), tile_id, sample_id, slide_id,
        donor, CARRIED_COLUMNS, value, quantile.
    """
    table_df = _described(values_df, tiles_df, samples_df)
    if k < 1:
        raise InputError(f"k is {k}: ask for at least one tile")
    strips = []
    for feature in values_df.columns:
        ranked_df = _ranked(values_df, table_df, feature).iloc[::-1]
        if ranked_df["donor"].nunique() > 1:
            ranked_df = ranked_df.drop_duplicates("donor")
        strips.append(ranked_df.head(k).assign(order=np.arange(1, min(k, len(ranked_df)) + 1)))
    return _stacked(strips)


def quantile_strip(
    values_df: pd.DataFrame, tiles_df: pd.DataFrame, samples_df: pd.DataFrame, *, n: int
) -> pd.DataFrame:
    """n tiles of each feature evenly spaced in its ranks, from the lowest value to the highest.

    At most one tile per donor unless there is only one donor; with fewer than n donors (two or more), a strip
    has one tile per donor. Tiles are assigned to the n target quantiles so that the summed distance in rank
    is least (linear assignment of donors to targets).

    Parameters
    ----------
    values_df, tiles_df, samples_df : as in `greedy_cover`.
    n : tiles per feature

    Returns
    -------
    DataFrame
        As `top_k`, with order 1 = lowest and target, the quantile a tile stands for.
    """
    table_df = _described(values_df, tiles_df, samples_df)
    if n < 1:
        raise InputError(f"n is {n}: ask for at least one tile")
    strips = []
    for feature in values_df.columns:
        ranked_df = _ranked(values_df, table_df, feature)
        one_donor = ranked_df["donor"].nunique() == 1
        units = np.arange(len(ranked_df)) if one_donor else pd.factorize(ranked_df["donor"])[0]
        n_shown = min(n, units.max() + 1)
        targets = np.linspace(0, 1, n_shown) if n_shown > 1 else np.array([1.0])
        fraction = np.arange(len(ranked_df)) / max(1, len(ranked_df) - 1)
        distance = np.abs(fraction[:, None] - targets)  # n_tiles x n_shown
        nearest_df = pd.DataFrame(distance).groupby(units).idxmin()  # units x n_shown, position of the tile
        cost = np.take_along_axis(distance, nearest_df.to_numpy(), axis=0)
        unit, target = linear_sum_assignment(cost)
        chosen = nearest_df.to_numpy()[unit, target]
        strip_df = ranked_df.iloc[chosen].assign(target=targets[target], _at=chosen).sort_values("_at")
        strips.append(strip_df.drop(columns="_at").assign(order=np.arange(1, n_shown + 1)))
    return _stacked(strips)


def _described(values_df: pd.DataFrame, tiles_df: pd.DataFrame, samples_df: pd.DataFrame) -> pd.DataFrame:
    """tile_id, sample_id, slide_id, donor, CARRIED_COLUMNS of each row of values_df, in its order."""
    if values_df.empty:
        raise InputError(f"there are no tile values to choose from: values_df has shape {values_df.shape}")
    finite = np.isfinite(values_df.to_numpy(np.float64))
    if not finite.all():
        bad = values_df.columns[np.flatnonzero(~finite.all(axis=0))]
        raise InputError(
            f"values_df has {int((~finite).sum())} values that are not finite, first in {list(bad[:3])}"
        )
    _check_known(values_df.index, tiles_df["tile_id"], "tile_id", "tiles_df")
    _check_known(tiles_df["sample_id"], samples_df["sample_id"], "sample_id", "samples_df")
    found_df = pd.DataFrame({"tile_id": values_df.index}).merge(
        tiles_df.drop(columns="donor", errors="ignore"), on="tile_id", how="left", validate="1:1"
    )
    found_df = found_df.merge(samples_df[["sample_id", "donor"]], on="sample_id", how="left", validate="m:1")
    if found_df["donor"].isna().any():
        nameless = found_df.loc[found_df["donor"].isna(), "sample_id"].unique()
        raise InputError(
            f"{len(nameless)} samples have no donor, first {list(nameless[:3])}: fill the column donor"
        )
    carried = [column for column in CARRIED_COLUMNS if column in found_df]
    return found_df[["tile_id", "sample_id", "slide_id", "donor", *carried]]


def _check_known(ids: pd.Index | pd.Series, known: pd.Index | pd.Series, what: str, where: str) -> None:
    missing = pd.Index(ids).unique().difference(pd.Index(known))
    if len(missing):
        raise InputError(f"{len(missing)} {what} are missing from {where}, first {list(missing[:3])}")


def _covers(values: np.ndarray, top_q: float) -> np.ndarray:
    """Which tile covers which feature, bool, n_tiles x n_features."""
    n_tiles = len(values)
    n_top = max(1, int(np.ceil(top_q * n_tiles - 1e-9)))
    threshold = np.sort(values, axis=0)[n_tiles - n_top]
    # Where most tiles are zero the quantile is zero too; a tile at the minimum never counts as the top.
    return (values >= threshold) & ((values > values.min(axis=0)) | (n_tiles == 1))


def _expression_rank(
    gene_expression_df: pd.DataFrame, features: pd.Index, sample_ids: pd.Series
) -> np.ndarray:
    """Rank of each tile's sample by each feature's gene, in (0, 1], n_tiles x n_features."""
    samples = pd.Index(sample_ids.unique())
    _check_known(features, gene_expression_df.index, "features", "gene_expression_df (its index)")
    _check_known(samples, gene_expression_df.columns, "sample_id", "gene_expression_df (its columns)")
    expression_df = gene_expression_df.loc[features, samples]
    if expression_df.isna().any(axis=None):
        raise InputError("gene_expression_df has missing values among the features and samples asked for")
    return expression_df.T.rank(pct=True).loc[sample_ids].to_numpy()


def _greedy(covers: np.ndarray, preference: np.ndarray, quantile: np.ndarray) -> list[int]:
    """Rows of `covers` (bool, n_tiles x n_features) chosen one by one until every column is covered."""
    uncovered = np.ones(covers.shape[1], dtype=bool)
    picks = []
    while uncovered.any():
        new = covers & uncovered
        gain = new.sum(axis=1)
        tied = np.flatnonzero(gain == gain.max())
        for score in (preference, quantile):
            tied_score = np.where(new[tied], score[tied], 0).sum(axis=1)
            tied = tied[np.isclose(tied_score, tied_score.max())]
        picks.append(int(tied[0]))
        uncovered &= ~covers[picks[-1]]
    return picks


def _drop_redundant(picks: list[int], covers: np.ndarray) -> list[int]:
    """The picks without those whose every feature another kept pick covers, later picks first to go."""
    kept = list(picks)
    for pick in reversed(picks):
        others = [i for i in kept if i != pick]
        if others and covers[others].any(axis=0).all():
            kept = others
    return kept


def _ranked(values_df: pd.DataFrame, table_df: pd.DataFrame, feature: str) -> pd.DataFrame:
    """The described tiles with one feature's value and quantile, sorted from low to high; ties by tile_id."""
    value = values_df[feature].to_numpy(np.float64)
    ranked_df = table_df.assign(
        feature=feature, value=value, quantile=pd.Series(value).rank(method="max", pct=True)
    )
    # Ties end with the lower tile_id on the high side: the head of the reversed frame is the first id.
    return ranked_df.sort_values(["value", "tile_id"], ascending=[True, False], ignore_index=True)


def _stacked(strips: list[pd.DataFrame]) -> pd.DataFrame:
    result_df = pd.concat(strips, ignore_index=True)
    return result_df[["feature", "order", *[c for c in result_df.columns if c not in ("feature", "order")]]]


def random_tiles(
    labelled_df: pd.DataFrame, n_tiles: int = 8, seed: int = 0, by: str = "tissue"
) -> dict[str, np.ndarray]:
    """A few random tiles of each tissue, for a first look: tissue -> uint8 (up to n_tiles, px, px, 3).

    `labelled_df` has columns file (path of a tile stack), stack_index, sample_id and tissue (or `by`).
    Samples take turns, so that a tissue with enough samples shows each of them once.
    """
    pictures = {}
    for tissue, of_tissue_df in labelled_df.groupby(by, sort=True):
        shuffled_df = of_tissue_df.sample(frac=1, random_state=seed)
        turn = shuffled_df.groupby("sample_id").cumcount()
        picked_df = shuffled_df.assign(turn=turn).sort_values("turn", kind="stable").head(n_tiles)
        pictures[tissue] = read_tiles(picked_df)
    return pictures


def top_pictures(values_df: pd.DataFrame, tiles_df: pd.DataFrame, *, k: int) -> dict[str, np.ndarray]:
    """Pixels of the `top_k` tiles of each feature; tiles_df also has donor, file and stack_index."""
    if not values_df.shape[1]:
        return {}
    top_df = top_k(values_df, tiles_df, tiles_df.drop_duplicates("sample_id"), k=k)
    by_feature = top_df.groupby("feature", sort=False)
    return {str(feature): read_tiles(strip_df) for feature, strip_df in by_feature}
