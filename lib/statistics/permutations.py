"""Permutation schemes: which slides are exchangeable, and N rearrangements drawn at random.

The paper shuffles the slides freely. A gene and a feature that both mark a tissue then always reach the
smallest p, even when nothing links them within any tissue. Shuffling only among exchangeable slides (of one
tissue, or of donors that gave the same tissues) tests what remains once the tissue is known.
"""

import contextlib
import itertools
import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.statistics import spots
from lib.statistics.table_rows import MIN_SLIDES, check_columns, check_none

SCHEMES = ("free", "within_tissue", "within_donor_block")
FEW_ORDERS = 99  # with fewer rearrangements no p reaches 0.01


class Permutations(NamedTuple):
    """N rearrangements of the expression side, the same for every pair.

    order : int32 [N, n_slides]; slide s receives the expression of slide order[i, s].
    groups : int32 [n_slides]; slides of one group are exchangeable, and rows are centred within groups.
    sample_ids : the slides, in order.
    notes : remarks on what the scheme can do with these samples.

    Where no more rearrangements are possible than were asked for, each but the identity is there once.
    """

    order: np.ndarray
    groups: np.ndarray
    sample_ids: list[str]
    scheme: str
    notes: tuple[str, ...]


def draw(scheme: str, n_permutations: int, samples_df: pd.DataFrame, seed: int) -> Permutations:
    """Draw the rearrangements of a scheme.

    Parameters
    ----------
    scheme : what is exchanged (one of SCHEMES).
        `free`: any slides (the paper's).
        `within_tissue`: slides of one tissue; spots of one section (`spots.strata`). Exact if slides are
        independent given their tissue; where they are not (one donor, neighbouring spots), `effective_size`
        corrects the statistic held against these shuffles.
        `within_donor_block`: all slides of a donor with those of another donor that gave the same tissues
        (whole-block exchange; Winkler et al. 2015). Exact with donor effects, but donors with a unique set
        of tissues stay in place.
    samples_df : sample_id, tissue, and donor for the last; one row for each slide, in the order of the
        analysis. Where there is a slide_id, `notes` say if several samples share one.

    Raises
    ------
    ValueError : unknown scheme, missing column or value, a sample_id twice, no slide that can move.
    """
    if scheme not in SCHEMES:
        raise InputError(f"unknown scheme {scheme!r}: one of {', '.join(SCHEMES)}")
    if n_permutations < 1:
        raise InputError(f"n_permutations must be at least 1, got {n_permutations}")
    columns = ["sample_id", "tissue", "donor"] if "donor" in scheme else ["sample_id", "tissue"]
    _check_columns(samples_df, columns)
    n = len(samples_df)
    if n < MIN_SLIDES:
        raise InputError(f"{n} slides: a permutation test needs at least {MIN_SLIDES}")
    units, groups = _exchangeable(scheme, samples_df)
    n_possible = math.prod(math.factorial(len(u)) for u in units)
    sizes = np.bincount(groups)
    n_fixed = 0 if scheme == "free" else int((sizes[groups] == 1).sum())
    if n_possible < 2 or n_fixed == n:
        raise InputError(
            f"scheme {scheme!r} can move none of the {n} slides because no two are exchangeable: use another "
            "scheme or more slides per tissue"
        )
    exhaustive = n_possible - 1 <= n_permutations
    rng = np.random.default_rng(seed)
    order = _all_orders(units, n, rng) if exhaustive else _random_orders(units, n, n_permutations, rng)
    notes = _notes(scheme, samples_df, n_fixed, n_possible, n_permutations)
    return Permutations(order, groups, samples_df["sample_id"].tolist(), scheme, notes)


def draw_schemes(n_permutations: int, samples_df: pd.DataFrame, seed: int) -> dict[str, Permutations]:
    """All schemes worth comparing on these samples, by name: `free`, `within_tissue` and, where donors gave
    several slides and at least FEW_ORDERS exchanges of whole donors are possible, `within_donor_block`.
    """
    drawn = {s: draw(s, n_permutations, samples_df, seed) for s in ("free", "within_tissue")}
    if "donor" in samples_df and samples_df["donor"].duplicated().any():
        with contextlib.suppress(ValueError):  # no two donors gave the same tissues
            blocks = draw("within_donor_block", n_permutations, samples_df, seed)
            if len(blocks.order) >= min(FEW_ORDERS, n_permutations):
                drawn["within_donor_block"] = blocks
    return drawn


def _check_columns(samples_df: pd.DataFrame, columns: list[str]) -> None:
    check_columns(samples_df, columns, "samples table")
    for c in columns:
        check_none(samples_df.loc[samples_df[c].isna(), "sample_id"], f"samples have no {c}")
    twice = samples_df.loc[samples_df["sample_id"].duplicated(), "sample_id"]
    check_none(twice, f"of {len(samples_df)} rows of the samples table repeat a sample_id (keep one)")


def _exchangeable(scheme: str, samples_df: pd.DataFrame) -> tuple[list[np.ndarray], np.ndarray]:
    """Sets of exchangeable units (each an array of slides [n_units, slides per unit]), and slides' groups."""
    n = len(samples_df)
    if scheme == "free":
        return [np.arange(n)[:, None]], np.zeros(n, np.int32)
    of = spots.strata(samples_df) if scheme == "within_tissue" else samples_df["tissue"]
    tissue = pd.factorize(of, sort=True)[0].astype(np.int32)
    if scheme == "within_tissue":
        return [np.flatnonzero(tissue == t)[:, None] for t in range(tissue.max() + 1)], tissue
    donor = pd.factorize(samples_df["donor"])[0]
    by_set: dict[tuple[int, ...], list[np.ndarray]] = {}
    for d in range(donor.max() + 1):
        slides = np.flatnonzero(donor == d)
        slides = slides[np.argsort(tissue[slides], kind="stable")]  # the k-th slides of two donors match
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
    notes, n = [], len(samples_df)
    if n_fixed and scheme == "within_donor_block":
        notes.append(
            f"{n_fixed} of {n} slides stay in place and contribute nothing: no other donor gave the same "
            "set of tissues"
        )
    elif n_fixed:
        counts = spots.strata(samples_df).value_counts()
        alone = ", ".join(sorted(map(str, counts.index[counts == 1]))[:5])
        notes.append(
            f"{int((counts == 1).sum())} {spots.stratum_name(samples_df)}s have one sample and contribute "
            f"nothing: {alone}"
        )
    shared = "slide_id" in samples_df and samples_df["slide_id"].duplicated().any()
    if scheme == "within_tissue" and shared and not spots.are_spots(samples_df):
        notes.append(
            "several samples lie on one slide: neighbours resemble each other, which this shuffle ignores, "
            "so its p are too small; trust only pairs that replicate on other slides"
        )
    if n_possible - 1 <= asked:
        notes.append(
            f"{asked:,} rearrangements were asked for, {n_possible:,} are possible: each is used once, and "
            f"no p is below {1 / n_possible:.3g}"
        )
    return tuple(notes)


def _random_orders(
    units: list[np.ndarray], n: int, n_permutations: int, rng: np.random.Generator
) -> np.ndarray:
    order = np.tile(np.arange(n, dtype=np.int32), (n_permutations, 1))
    for unit in units:
        if len(unit) > 1:
            chosen = rng.permuted(np.tile(np.arange(len(unit)), (n_permutations, 1)), axis=1)
            order[:, unit.ravel()] = unit[chosen].reshape(n_permutations, -1)
    return order


def _all_orders(units: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """Every rearrangement but the identity, in random order: tests that stop early use the first ones."""
    rows = []
    for chosen in itertools.product(*(itertools.permutations(range(len(u))) for u in units)):
        order = np.arange(n, dtype=np.int32)
        for unit, c in zip(units, chosen, strict=True):
            order[unit.ravel()] = unit[list(c)].ravel()
        rows.append(order)
    return rng.permutation(np.stack(rows[1:]))  # the first is the identity
