"""Permutation schemes: which slides may take each other's place, and N rearrangements drawn.

The paper shuffles the slides freely. A gene and a feature that both mark a tissue then always reach the
smallest p, even when they have nothing to do with each other within any tissue. Shuffling only among
slides that are exchangeable (of one tissue, or of donors that gave the same tissues) tests what is left
once the tissue is known.
"""

import contextlib
import itertools
import math
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

SCHEMES = ("free", "within_tissue", "within_donor_block", "donor_signs")
FEW_DONORS = 20  # with fewer, signs of donors say little
FEW_ORDERS = 99  # with fewer rearrangements no p reaches 0.01


class Permutations(NamedTuple):
    """N rearrangements of the expression side, the same for every pair.

    order : int32 [N, n_slides]; slide s receives the expression of slide order[i, s].
    signs : float32 [N, n_slides] or None; the residual is multiplied by it (scheme `donor_signs` only): the
        donor's sign times sqrt(n / (n - 1)), n the slides of the tissue.
    groups : int32 [n_slides]; slides of one group can take each other's place, and rows are centred within
        groups.
    sample_ids : the slides, in order.
    n_possible : number of distinct rearrangements, the identity among them.
    exhaustive : order holds every rearrangement but the identity once, because fewer are possible than
        were asked for.
    n_fixed_slides : slides that never move and so contribute nothing.
    notes : sentences for the reader.
    """

    order: np.ndarray
    signs: np.ndarray | None
    groups: np.ndarray
    sample_ids: list[str]
    scheme: str
    seed: int
    n_possible: int
    exhaustive: bool
    n_fixed_slides: int
    notes: tuple[str, ...]


def draw(
    scheme: Literal["free", "within_tissue", "within_donor_block", "donor_signs"],
    n_permutations: int,
    samples_df: pd.DataFrame,
    seed: int,
) -> Permutations:
    """Draw the rearrangements of a scheme.

    Parameters
    ----------
    scheme :
        `free`: any slide with any other (the paper's).
        `within_tissue`: slides of one tissue. Exact if slides are independent given their tissue, which
        neighbouring spots of one slide are not.
        `within_donor_block`: all slides of a donor change place with those of another donor that gave the
        same tissues (whole-block exchange; Winkler et al. 2015). Exact with donor effects, but donors of a
        unique set stay where they are. `donor_signs`: the tissue residuals of a donor change sign together
        (wild cluster bootstrap; Cameron, Gelbach and Miller 2008). Holds with donor effects and any sets
        of tissues, approximately: it needs some twenty donors.
    samples_df : sample_id, tissue, and donor for the last two; one row per slide, in the order of the
        analysis. Where there is a slide_id, `notes` say if several samples share one.

    Raises
    ------
    ValueError : unknown scheme, missing column or value, a sample_id given twice, no slide that can move.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}: one of {', '.join(SCHEMES)}")
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1, got {n_permutations}")
    _check_columns(
        samples_df, ["sample_id", "tissue", "donor"] if "donor" in scheme else ["sample_id", "tissue"]
    )
    n = len(samples_df)
    if n < 4:
        raise ValueError(f"{n} slides: a permutation test needs at least 4")
    units, groups = _exchangeable(
        scheme, samples_df
    )  # units[k] = [n_units, size]: rows of one k change place
    signed = scheme == "donor_signs"
    n_possible = 2 ** len(units[0]) if signed else math.prod(math.factorial(len(u)) for u in units)
    sizes = np.bincount(groups)
    n_fixed = 0 if scheme == "free" else int((sizes[groups] == 1).sum())
    notes = _notes(scheme, samples_df, n_fixed, n_possible, n_permutations)
    if n_possible < 2 or n_fixed == n:
        raise ValueError(
            f"scheme {scheme!r} can move none of the {n} slides: no two can take each other's place. "
            "Use another scheme or more slides per tissue"
        )
    exhaustive = n_possible - 1 <= n_permutations
    rng = np.random.default_rng(seed)
    if signed:
        donors = units[0]
        flips = _all_signs(len(donors)) if exhaustive else rng.choice([-1, 1], (n_permutations, len(donors)))
        # centring takes one degree of freedom of each tissue; without the factor the null would be too narrow
        factor = np.sqrt(sizes / np.maximum(sizes - 1, 1))[groups]
        signs = (flips[:, pd.factorize(samples_df["donor"])[0]] * factor).astype(np.float32)
        order = np.broadcast_to(np.arange(n, dtype=np.int32), signs.shape).copy()
    else:
        signs = None
        order = _enumerate(units, n) if exhaustive else _drawn(units, n, n_permutations, rng)
    return Permutations(
        order,
        signs,
        groups,
        samples_df["sample_id"].tolist(),
        scheme,
        seed,
        n_possible,
        exhaustive,
        n_fixed,
        notes,
    )


def believable(samples_df: pd.DataFrame) -> tuple[str, ...]:
    """Schemes within tissues that a link must pass all of, to be believed of these samples.

    `within_tissue` alone where every donor gives one of them, or donors are too few for more. Else also
    `donor_signs`: shuffling takes a donor's tissues for independent, and finds too much where they resemble
    each other; signs keep donors together, but find too much in rows of few large values. Each is sound where
    the other is not.

    Parameters
    ----------
    samples_df : tissue and, where known, donor.
    """
    donors = samples_df["donor"] if "donor" in samples_df else pd.Series(dtype=object)
    several = donors.duplicated().any() and donors.nunique() >= FEW_DONORS
    return ("within_tissue", "donor_signs") if several else ("within_tissue",)


def draw_side_by_side(n_permutations: int, samples_df: pd.DataFrame, seed: int) -> dict[str, Permutations]:
    """Every scheme worth comparing on these samples, by name: `free`, those of `believable`, and, where
    donors give several slides and enough can change place as wholes (FEW_ORDERS), `within_donor_block`.
    """
    drawn = {s: draw(s, n_permutations, samples_df, seed) for s in ("free", *believable(samples_df))}
    if "donor" in samples_df and samples_df["donor"].duplicated().any():
        with contextlib.suppress(ValueError):  # no two donors gave the same tissues
            drawn["within_donor_block"] = draw("within_donor_block", n_permutations, samples_df, seed)
            if len(drawn["within_donor_block"].order) < min(FEW_ORDERS, n_permutations):
                del drawn["within_donor_block"]
    return drawn


def _check_columns(samples_df: pd.DataFrame, columns: list[str]) -> None:
    lacking = [c for c in columns if c not in samples_df]
    if lacking:
        raise ValueError(f"the samples table lacks the columns {lacking}")
    for c in columns:
        if samples_df[c].isna().any():
            first = samples_df.loc[samples_df[c].isna(), "sample_id"].tolist()[:3]
            raise ValueError(f"{int(samples_df[c].isna().sum())} samples have no {c}, first {first}")
    twice = samples_df["sample_id"].duplicated()
    if twice.any():
        first = samples_df.loc[twice, "sample_id"].unique().tolist()[:3]
        raise ValueError(
            f"{int(twice.sum())} of {len(samples_df)} rows of the samples table repeat a sample_id, first "
            f"{first}: keep one row per slide"
        )


def _exchangeable(scheme: str, samples_df: pd.DataFrame) -> tuple[list[np.ndarray], np.ndarray]:
    """Sets of units that change place (each an array [n_units, slides per unit]) and the group of every
    slide.
    """
    n = len(samples_df)
    tissue = pd.factorize(samples_df["tissue"], sort=True)[0]
    if scheme == "free":
        return [np.arange(n)[:, None]], np.zeros(n, np.int32)
    if scheme == "within_tissue":
        return [np.flatnonzero(tissue == t)[:, None] for t in range(tissue.max() + 1)], tissue.astype(
            np.int32
        )
    donor = pd.factorize(samples_df["donor"])[0]
    if scheme == "donor_signs":
        return [np.arange(donor.max() + 1)[:, None]], tissue.astype(np.int32)
    by_set: dict[tuple[int, ...], list[np.ndarray]] = {}
    for d in range(donor.max() + 1):
        slides = np.flatnonzero(donor == d)
        slides = slides[
            np.argsort(tissue[slides], kind="stable")
        ]  # slot k of one donor matches slot k of another
        by_set.setdefault(tuple(tissue[slides]), []).append(slides)
    units = [np.stack(donors) for donors in by_set.values()]
    groups, next_group = np.empty(n, np.int32), 0
    for unit in units:
        groups[unit] = next_group + np.arange(unit.shape[1])
        next_group += unit.shape[1]
    return units, groups


def _notes(
    scheme: str, samples_df: pd.DataFrame, n_fixed: int, n_possible: int, asked: int
) -> tuple[str, ...]:
    notes = []
    if n_fixed and scheme == "within_donor_block":
        notes.append(
            f"{n_fixed} of {len(samples_df)} slides are of donors whose set of tissues no other donor "
            "shares: they stay where "
            "they are and contribute nothing"
        )
    elif n_fixed:
        counts = samples_df["tissue"].value_counts()
        alone = sorted(counts.index[counts == 1])
        notes.append(
            f"{len(alone)} tissues have one slide and contribute nothing: {', '.join(map(str, alone[:5]))}"
        )
    if scheme == "donor_signs" and samples_df["donor"].nunique() < FEW_DONORS:
        notes.append(f"{samples_df['donor'].nunique()} donors are few for donor_signs: its p are rough")
    if scheme == "within_tissue" and "slide_id" in samples_df and samples_df["slide_id"].duplicated().any():
        notes.append(
            "several samples lie on one slide: neighbours resemble each other, which shuffling them does not "
            "know, so these p are too small; trust what returns on other slides"
        )
    elif scheme == "within_tissue" and "donor" in samples_df and samples_df["donor"].duplicated().any():
        n_donors = samples_df["donor"].nunique()
        notes.append(
            f"{len(samples_df)} slides are of {n_donors} donors: where a donor's tissues resemble each other "
            "these p are too small"
            + ("; donor_signs keeps donors together" if n_donors >= FEW_DONORS else "")
        )
    if n_possible - 1 <= asked:
        notes.append(
            f"{asked:,} rearrangements were asked for, {n_possible:,} are possible: all of them are used "
            "once, and no p is below "
            f"{1 / n_possible:.3g}"
        )
    return tuple(notes)


def _drawn(units: list[np.ndarray], n: int, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    order = np.tile(np.arange(n, dtype=np.int32), (n_permutations, 1))
    for unit in units:
        if len(unit) > 1:
            chosen = rng.permuted(np.tile(np.arange(len(unit)), (n_permutations, 1)), axis=1)
            order[:, unit.ravel()] = unit[chosen].reshape(n_permutations, -1)
    return order


def _enumerate(units: list[np.ndarray], n: int) -> np.ndarray:
    """Every rearrangement but the first, which is the identity."""
    rows = []
    for chosen in itertools.product(*(itertools.permutations(range(len(u))) for u in units)):
        order = np.arange(n, dtype=np.int32)
        for unit, c in zip(units, chosen, strict=True):
            order[unit.ravel()] = unit[list(c)].ravel()
        rows.append(order)
    return np.stack(rows[1:])


def _all_signs(n_donors: int) -> np.ndarray:
    return np.array(list(itertools.product([1, -1], repeat=n_donors)))[1:]
