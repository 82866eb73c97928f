"""Tile predictions, slide votes, merged tissues, accuracies with donor intervals, confusion (Tables 2, 3)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from lib.network import batches, models, training_step

# Groups of histologically similar tissues the paper merges (39 tissues to 33), by their GTEx SMTSD names.
MERGED_GTEX: dict[str, tuple[str, ...]] = {
    "Artery": ("Artery - Aorta", "Artery - Coronary", "Artery - Tibial"),
    "Colon": ("Colon - Sigmoid", "Colon - Transverse"),
    "Esophagus - Junction or Muscularis": (
        "Esophagus - Gastroesophageal Junction",
        "Esophagus - Muscularis",
    ),
    "Heart": ("Heart - Atrial Appendage", "Heart - Left Ventricle"),
    "Skin": ("Skin - Not Sun Exposed (Suprapubic)", "Skin - Sun Exposed (Lower leg)"),
}
_TILE_COLUMNS = ("sample_id", "tile_id", "stack_index")


def predict_tiles(
    model: nn.Module,
    tiles_df: pd.DataFrame,
    *,
    architecture: str,
    class_names: Sequence[str],
    batch_size: int = 256,
    device: str = "auto",
    mixed_precision: str | None = None,
    channels_last: bool = True,
    n_workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Class probabilities of stored tiles, the model in eval mode (and put back in its mode afterwards).

    Parameters
    ----------
    tiles_df : columns file, stack_index, sample_id and, if present, tile_id
    class_names : tissues in the order of the model's outputs
    architecture : what the model is, which says how pixels are normalised, as in training ("": ImageNet's
        mean and sd)
    mixed_precision : None (float32) or "bf16"

    Returns
    -------
    DataFrame in the order and with the index of `tiles_df`: its columns sample_id, tile_id, stack_index,
    and one float32 softmax column per class.

    Raises
    ------
    ValueError
        Another number of outputs than classes; a class named like one of the tile columns.
    RuntimeError
        A probability that is not finite (the tile is named); memory exhausted.
    """
    taken = sorted(set(class_names) & set(_TILE_COLUMNS))
    if taken or len(set(class_names)) != len(class_names):
        raise ValueError(f"class names must differ from each other and from {_TILE_COLUMNS}: {taken}")
    mean, sd = models.normalisation(architecture)
    device_t = training_step.choose_device(device)
    workers = batches.default_workers(device_t) if n_workers is None else n_workers
    loader = batches.tile_loader(tiles_df, batch_size, n_workers=workers, pin_memory=device_t.type == "cuda")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(device=device_t, memory_format=layout)
    was_training, parts = model.training, []
    model.eval()
    bar = tqdm(total=len(tiles_df), unit="tile", disable=not progress)
    remedy = f"Try {max(1, batch_size // 2)} (inference_batch of a run, batch_size of predict_tiles)"
    explained = training_step.out_of_memory_explained(batch_size, loader.dataset.input_px, device_t, remedy)
    try:
        with bar, explained, torch.inference_mode():
            for batch in loader:
                tiles_t = batch.tiles_t.to(device_t, non_blocking=True)
                images_t = models.normalise(tiles_t, mean, sd).contiguous(memory_format=layout)
                with torch.autocast(device_t.type, torch.bfloat16, enabled=mixed_precision == "bf16"):
                    logits_t = model(images_t)
                if logits_t.shape[1] != len(class_names):
                    raise ValueError(
                        f"the model has {logits_t.shape[1]} outputs and {len(class_names)} classes are named:"
                        " give the class_names of its checkpoint"
                    )
                parts.append(F.softmax(logits_t.float(), dim=1))
                bar.update(len(tiles_t))
    finally:
        model.train(was_training)
    probabilities = torch.cat(parts).cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        tile = tiles_df.iloc[bad[0]]
        raise RuntimeError(
            f"{len(bad)} tiles have probabilities that are not finite, first tile {tile['stack_index']} of "
            f"{tile['file']}: the weights may have diverged, train with a lower lr"
        )
    columns = [name for name in _TILE_COLUMNS if name in tiles_df]
    scores_df = pd.DataFrame(probabilities, index=tiles_df.index, columns=list(class_names))
    return pd.concat([tiles_df[columns], scores_df], axis=1)


def slide_votes(
    probabilities: np.ndarray,
    sample_ids: Sequence[str],
    class_names: Sequence[str],
    tissues: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Tissue of each sample by majority vote of its tiles, ties to the higher mean softmax (METHOD 4).

    Parameters
    ----------
    probabilities : (n_tiles, n_classes) softmax of each tile
    sample_ids : sample of each tile
    class_names : tissues in column order; a full tie goes to the first of them
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
    """
    scores = np.asarray(probabilities, np.float64)
    if scores.ndim != 2 or not len(scores) or scores.shape != (len(sample_ids), len(class_names)):
        raise ValueError(
            f"probabilities of shape {scores.shape} do not fit {len(sample_ids)} tiles, {len(class_names)} "
            "classes"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} probabilities are not finite")
    codes, samples = pd.factorize(pd.Series(list(sample_ids), dtype="str"))
    votes, sums = np.zeros((2, len(samples), len(class_names)))
    np.add.at(votes, (codes, scores.argmax(axis=1)), 1)
    np.add.at(sums, codes, scores)
    n_tiles = np.bincount(codes)
    means = sums / n_tiles[:, None]
    tied = votes == votes.max(axis=1, keepdims=True)
    winner = np.where(tied, means, -1.0).argmax(axis=1)
    rows = np.arange(len(samples))
    names = np.asarray(class_names, dtype=object)
    votes_df = pd.DataFrame(index=pd.Index(samples, name="sample_id"))
    votes_df["tissue"] = _tissues_of(samples, tissues)
    votes_df["predicted"] = pd.Series(names[winner], index=votes_df.index, dtype="str")
    votes_df["n_tiles"] = n_tiles
    votes_df["vote_fraction"] = votes[rows, winner] / n_tiles
    votes_df["mean_softmax"] = means[rows, winner]
    truth = pd.Index(names).get_indexer(votes_df["tissue"])
    votes_df["known"] = truth >= 0
    votes_df["correct"] = truth == winner
    votes_df["truth_fraction"] = np.where(truth >= 0, votes[rows, truth] / n_tiles, np.nan)
    return votes_df


def _tissues_of(samples: pd.Index, tissues: Mapping[str, str] | None) -> pd.Series:
    if tissues is None:
        return pd.Series(None, index=samples, dtype="str")
    missing = [sample for sample in samples if sample not in tissues]
    if missing:
        raise ValueError(f"{len(missing)} samples have no true tissue in the table, first {missing[:3]}")
    return pd.Series([tissues[sample] for sample in samples], index=samples, dtype="str")


def normalise_tissue(label: str) -> str:
    """A tissue name without what spellings differ in: kind of dash, spaces, case."""
    return re.sub(r"\s*[-\u2010-\u2015\u2212]\s*", "-", " ".join(str(label).split())).casefold()


def _without_brackets(name: str) -> str:
    """A normalised name without a final "(...)": the paper leaves out GTEx's "(Lower leg)"."""
    return re.sub(r"\s*\([^)]*\)$", "", name)


def merged_groups(own: Mapping[str, Sequence[str]], tissues: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The paper's groups with those of a cohort, whose every member must name one of `tissues`.

    Raises
    ------
    ValueError
        A member of the cohort's own groups that names no tissue (the nearest are given), or could be several.
    """
    names = {str(tissue): normalise_tissue(tissue) for tissue in tissues}
    for group, members in own.items():
        for member in members:
            if not _named_by(member, names):
                near = get_close_matches(str(member), names, n=3, cutoff=0.4) or sorted(names)[:3]
                raise ValueError(
                    f"merged_tissues: {member!r} of {group!r} names no tissue of the samples, or several; "
                    f"nearest: {near}"
                )
    return MERGED_GTEX | {group: tuple(members) for group, members in own.items()}


def merge_tissues(
    labels: Iterable[str],
    groups: Mapping[str, Sequence[str]] = MERGED_GTEX,
    tissues: Iterable[str] | None = None,
) -> np.ndarray:
    """Labels with each tissue of a group replaced by the group's name, others as they are; array of str.

    A member names the tissue that is spelt as it is, but for dashes, spaces and case; where there is none,
    the one that is so but for a final "(...)", if there is a single one. A member that names none is ignored.

    Parameters
    ----------
    tissues : the names among which a member is looked for; default: the labels

    Raises
    ------
    ValueError
        A tissue in two groups.
    """
    labels = [str(label) for label in labels]
    names = {str(name): normalise_tissue(name) for name in (labels if tissues is None else tissues)}
    group_of: dict[str, str] = {}
    for group, members in groups.items():
        for tissue in (tissue for member in members for tissue in _named_by(member, names)):
            if group_of.setdefault(tissue, group) != group:
                raise ValueError(f"{tissue!r} is in two groups: {group_of[tissue]!r} and {group!r}")
    return np.array([group_of.get(label, label) for label in labels], dtype=object)


def _named_by(member: str, names: Mapping[str, str]) -> list[str]:
    """The tissues that a group's member names; `names` has the normalised name of each."""
    member = normalise_tissue(member)
    same = [tissue for tissue, name in names.items() if name == member]
    if same:
        return same
    stem = _without_brackets(member)
    loose = [tissue for tissue, name in names.items() if _without_brackets(name) == stem]
    return loose if len({names[tissue] for tissue in loose}) == 1 else []


def accuracy_table(
    predictions: Mapping[str, pd.DataFrame],
    *,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy and macro accuracy per level and split, with 95 % intervals over donors (Tables 2 and 3).

    A donor's samples are not independent, so the bootstrap draws whole donors, with replacement.

    Parameters
    ----------
    predictions : per level ("tile", "slide") a frame with columns split, donor, tissue (true), predicted
    class_names : tissues the network was trained on; others are counted in n_unknown and left out
    groups : merge tissues on both sides first, e.g. `MERGED_GTEX`

    Returns
    -------
    DataFrame, one row per level and split: level, split, n_classes, n, correct, accuracy, low, high,
    macro_accuracy (mean recall of the tissues present), macro_low, macro_high, n_donors, n_unknown. With a
    single donor there is no interval: low and high are missing.

    Raises
    ------
    ValueError
        A column or a true tissue is missing.
    """
    rows = []
    for level, frame in predictions.items():
        frame = _merged(frame, class_names, groups, level)
        for split, part in frame.groupby("split", sort=False):
            known = part[part["known"]]
            if len(known):
                shown = {"level": level, "split": split, "n_classes": frame.attrs["n_classes"]}
                overall = _with_intervals(known, n_bootstrap, seed)[0]
                rows.append(shown | overall | {"n_unknown": len(part) - len(known)})
    return pd.DataFrame(rows)


def recall_table(
    frame: pd.DataFrame,
    *,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Recall of each tissue in each split, with 95 % intervals over donors.

    Parameters
    ----------
    As `accuracy_table`; `frame` is one of its levels.

    Returns
    -------
    DataFrame, one row per split and tissue: split, tissue, n, correct, recall, low, high, n_donors. An
    interval over a single donor is missing.
    """
    frame = _merged(frame, class_names, groups, "predictions")
    parts = []
    for split, part in frame[frame["known"]].groupby("split", sort=False):
        recalls_df = _with_intervals(part, n_bootstrap, seed)[1]
        recalls_df.insert(0, "split", split)
        parts.append(recalls_df)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _merged(
    frame: pd.DataFrame,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None,
    level: str,
) -> pd.DataFrame:
    """Split, donor, tissue, predicted, known and correct, after merging; attrs["n_classes"]."""
    lacking = [name for name in ("split", "donor", "tissue", "predicted") if name not in frame]
    if lacking or frame["tissue"].isna().any():
        raise ValueError(
            f"the {level} frame lacks {lacking or 'the true tissue of some rows'}: join samples first"
        )
    known = frame["tissue"].isin(list(class_names)).to_numpy()
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in ("split", "donor")}
    truth, predicted = (frame[name].to_numpy() for name in ("tissue", "predicted"))
    if groups is not None:
        tissues = {*map(str, class_names), *truth, *predicted}
        truth, predicted = (merge_tissues(labels, groups, tissues) for labels in (truth, predicted))
        class_names = sorted(set(merge_tissues(class_names, groups, tissues)))
    merged = pd.DataFrame(columns | {"tissue": truth, "predicted": predicted, "known": known})
    merged["correct"] = merged["tissue"] == merged["predicted"]
    merged.attrs["n_classes"] = len(class_names)
    return merged


def _with_intervals(known: pd.DataFrame, n_bootstrap: int, seed: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """Overall figures and recall per tissue of one split, with percentile intervals over resampled donors."""
    donor, donors = pd.factorize(known["donor"])
    tissue, tissues = pd.factorize(known["tissue"], sort=True)
    counts, right = np.zeros((2, len(donors), len(tissues)))
    np.add.at(counts, (donor, tissue), 1)
    np.add.at(right, (donor, tissue), known["correct"].to_numpy(float))
    # A resample of donors is how often each was drawn: (n_bootstrap, n_donors).
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(donors), np.full(len(donors), 1 / len(donors)), size=n_bootstrap).astype(
        float
    )
    drawn_n, drawn_right = drawn @ counts, drawn @ right
    with np.errstate(invalid="ignore"):
        recalls = np.where(drawn_n > 0, drawn_right / drawn_n, np.nan)
    n, correct = int(counts.sum()), int(right.sum())
    recall = right.sum(axis=0) / counts.sum(axis=0)
    low, high = _percentiles(drawn_right.sum(axis=1) / drawn_n.sum(axis=1), len(donors))
    macro_low, macro_high = _percentiles(np.nanmean(recalls, axis=1), len(donors))
    overall = {"n": n, "correct": correct, "accuracy": correct / n, "low": low, "high": high}
    overall |= {"macro_accuracy": float(recall.mean()), "macro_low": macro_low, "macro_high": macro_high}
    n_donors = (counts > 0).sum(axis=0)
    intervals = [_percentiles(recalls[:, place], n_donors[place]) for place in range(len(tissues))]
    recalls_df = pd.DataFrame({"tissue": tissues, "n": counts.sum(axis=0).astype(int)})
    recalls_df["correct"], recalls_df["recall"] = right.sum(axis=0).astype(int), recall
    recalls_df[["low", "high"]] = np.array(intervals)
    recalls_df["n_donors"] = n_donors
    return overall | {"n_donors": len(donors)}, recalls_df


def _percentiles(values: np.ndarray, n_donors: int) -> tuple[float, float]:
    if n_donors < 2:
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def confusion(predicted: Sequence[str], truth: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Counts, int64: rows are true tissues, columns predicted, both in the order of `classes` (S4 Table).

    Raises
    ------
    ValueError
        Sequences of different length; a label that is not among `classes`.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} predictions for {len(truth)} true tissues")
    order = pd.Index(classes)
    rows, columns = order.get_indexer(pd.Index(truth)), order.get_indexer(pd.Index(predicted))
    for codes, labels, what in ((rows, truth, "true"), (columns, predicted, "predicted")):
        stray = sorted({str(label) for label, code in zip(labels, codes, strict=True) if code < 0})
        if stray:
            raise ValueError(
                f"{what} tissues that are not among the classes: {stray[:5]}; drop or merge them"
            )
    counts = np.zeros((len(order), len(order)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return pd.DataFrame(
        counts, index=pd.Index(order, name="tissue"), columns=pd.Index(order, name="predicted")
    )


def majority_baseline(train_tissues: Sequence[str], truth: Sequence[str]) -> tuple[str, float]:
    """The most frequent training tissue (ties: first by name), and the accuracy of always answering it."""
    if not len(train_tissues) or not len(truth):
        raise ValueError(
            "the majority baseline needs training tissues and true tissues; one of them is empty"
        )
    counts = pd.Series(list(train_tissues)).value_counts()
    tissue = min(counts.index[counts == counts.max()])
    return str(tissue), float(np.mean(np.asarray(truth) == tissue))


def most_wrong(votes_df: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The slides most often wrong: index sample_id, worst first.

    Parameters
    ----------
    votes_df : `slide_votes` with true tissues, of one network or of several concatenated
    n : slides at most

    Returns
    -------
    DataFrame: tissue, predicted (most frequent wrong answer), times_wrong, times_judged, truth_fraction
    (mean share of tiles that voted for the true tissue), mean_softmax (of the wrong answers), n_tiles.
    Sorted by times_wrong, truth_fraction, mean_softmax, then sample_id. Samples of tissues the network does
    not know are left out.
    """
    judged = votes_df[votes_df["known"]]
    wrong = judged[~judged["correct"].astype(bool)]
    of_sample = wrong.groupby(level="sample_id", sort=True)
    worst_df = of_sample.agg(
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


def wrong_captions(worst_df: pd.DataFrame) -> list[str]:
    """Four lines for each slide of `most_wrong`: sample, true tissue, what it was called, how often."""
    several = bool((worst_df["times_judged"] > 1).any()) if len(worst_df) else False
    captions = []
    for sample_id, row in worst_df.iterrows():
        how = (
            f"{row['times_wrong']} of {row['times_judged']} wrong"
            if several
            else (f"{row['truth_fraction']:.0%} of {row['n_tiles']} tiles right")
        )
        captions.append(f"{sample_id}\n{row['tissue']}\ncalled {row['predicted']}\n{how}")
    return captions
