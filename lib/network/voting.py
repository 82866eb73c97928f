"""The tissue of each slide by majority vote of its tiles, and the slides that were misclassified."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib.errors import InputError


def slide_votes(
    probabilities: np.ndarray,
    sample_ids: Sequence[str],
    class_names: Sequence[str],
    tissues: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Tissue of each sample by majority vote of its tiles; ties go to the higher mean softmax.

    Parameters
    ----------
    probabilities : (n_tiles, n_classes) softmax of each tile
    sample_ids : sample of each tile
    class_names : tissues in column order; a complete tie goes to the first of them
    tissues : true tissue of each sample_id, where known

    Returns
    -------
    DataFrame, index sample_id in order of appearance: tissue (missing if not given), predicted, n_tiles,
    vote_fraction (of tiles for `predicted`), mean_softmax (of `predicted`), known (tissue is among
    class_names), correct, and truth_fraction (of tiles for the true tissue; missing where not known).

    Raises
    ------
    ValueError
        Shapes that do not match, no tiles, values that are not finite, samples missing from `tissues`.

    References
    ----------
    notebooks/README.md, section 4.
    """
    scores = np.asarray(probabilities, np.float64)
    if scores.ndim != 2 or not len(scores) or scores.shape != (len(sample_ids), len(class_names)):
        raise InputError(
            f"probabilities of shape {scores.shape} do not fit {len(sample_ids)} tiles and "
            f"{len(class_names)} classes"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"{int((~np.isfinite(scores)).sum())} probabilities are not finite")
    codes, samples = pd.factorize(pd.Series(list(sample_ids), dtype="str"))
    votes, sums = np.zeros((2, len(samples), len(class_names)))
    np.add.at(votes, (codes, scores.argmax(axis=1)), 1)
    np.add.at(sums, codes, scores)
    n_tiles = np.bincount(codes)
    means = sums / n_tiles[:, None]
    tied = votes == votes.max(axis=1, keepdims=True)
    winner = np.where(tied, means, -1.0).argmax(axis=1)
    rows, truth = np.arange(len(samples)), _tissues_of(list(samples), tissues)
    place = pd.Index(class_names).get_indexer(pd.Index(truth))
    columns = {
        "tissue": pd.Series(truth, dtype="str"),
        "predicted": pd.Series(np.asarray(class_names, dtype=object)[winner], dtype="str"),
        "n_tiles": n_tiles,
        "vote_fraction": votes[rows, winner] / n_tiles,
        "mean_softmax": means[rows, winner],
        "known": place >= 0,
        "correct": place == winner,
        "truth_fraction": np.where(place >= 0, votes[rows, place] / n_tiles, np.nan),
    }
    return pd.DataFrame(columns).set_index(pd.Index(samples, name="sample_id"))


def _tissues_of(samples: Sequence[str], tissues: Mapping[str, str] | None) -> list[str | None]:
    if tissues is None:
        return [None] * len(samples)
    missing = [sample for sample in samples if sample not in tissues]
    if missing:
        raise InputError(f"{len(missing)} samples have no true tissue in the table, first {missing[:3]}")
    return [tissues[sample] for sample in samples]


def most_misclassified(votes_df: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The slides misclassified most often and most confidently: index sample_id, worst first.

    Parameters
    ----------
    votes_df : `slide_votes` with true tissues, of one network or of several concatenated
    n : slides at most

    Returns
    -------
    DataFrame: tissue, predicted (most frequent wrong tissue), times_wrong, times_judged, truth_fraction
    (mean fraction of tiles that voted for the true tissue), mean_softmax (of the wrong tissue), n_tiles.
    Sorted by times_wrong, truth_fraction, mean_softmax, then sample_id. Samples of tissues unknown to the
    network are left out.
    """
    judged = votes_df.loc[votes_df["known"]]
    by_sample = judged.loc[~judged["correct"].astype(bool)].groupby(level="sample_id", sort=True)
    worst_df = by_sample.agg(
        tissue=("tissue", "first"),
        predicted=("predicted", lambda names: names.mode().iloc[0]),
        times_wrong=("predicted", "size"),
        truth_fraction=("truth_fraction", "mean"),
        mean_softmax=("mean_softmax", "mean"),
        n_tiles=("n_tiles", "first"),
    )
    times_judged = judged.groupby(level="sample_id").size().reindex(worst_df.index)
    worst_df.insert(3, "times_judged", times_judged.astype("int64"))
    keys = ["times_wrong", "truth_fraction", "mean_softmax"]
    return worst_df.sort_values(keys, ascending=[False, True, False], kind="stable").head(n)


def misclassified_captions(worst_df: pd.DataFrame) -> list[str]:
    """Four lines for each slide of `most_misclassified`: sample, true tissue, predicted tissue, how often."""
    several = bool((worst_df["times_judged"] > 1).any()) if len(worst_df) else False
    captions = []
    for sample_id, row in worst_df.iterrows():
        how = f"{row['truth_fraction']:.0%} of {row['n_tiles']} tiles correct"
        if several:
            how = f"wrong in {row['times_wrong']} of {row['times_judged']} networks"
        captions.append(f"{sample_id}\n{row['tissue']}\npredicted: {row['predicted']}\n{how}")
    return captions
