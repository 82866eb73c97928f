"""Another cohort seen by this cohort's network: its features, and whether the links found here hold there.

The other cohort's slides go through the same network at the same resolution (its own folders keep them, under
the network's name); nothing is trained and every sample is tested. Genes are matched by id, or by symbol
where that matches more of them.
"""

import json
import shlex
from typing import Any, NamedTuple

import pandas as pd

from lib.cohort.expression import without_version
from lib.config import Config
from lib.errors import InputError, StaleArtefactError
from lib.statistics import link_tests, replication, spots
from lib.statistics.correlation import on_scale
from lib.statistics.expression_levels import log2_expression
from lib.statistics.meta_analysis import sections
from lib.store import Store

# What a feature's value depends on, beside the network.
MEASURING = ("architecture", "tile_px", "tile_mpp", "input_px", "features", "p", "aggregate")
MEASURING += ("feature_precision", "correlation")


class Elsewhere(NamedTuple):
    """Both sides of another cohort, for the links found here.

    units : of the whole cohort under its name and, where samples are spots, of each section.
    notes : what was matched and what could not be, in words.
    """

    units: dict[str, link_tests.Sides]
    notes: list[str]


def overrides(store: Store) -> dict[str, Any]:
    """Parameters with which another cohort is run so that its features are those of this network.

    ValueError where this cohort's features come from a file: no network can be applied elsewhere.
    """
    if store.config.features_file:
        raise InputError(
            "features_file: these features were computed elsewhere, so no network here can compute them for "
            "another cohort"
        )
    dumped = store.config.model_dump(mode="json")
    network = {"encoder": str(store.path("network")), "weights": "", "null_network": "", "test_on": "all"}
    return {name: dumped[name] for name in MEASURING} | network | {"quantify_train": False}


def store_of(store: Store, other: str) -> Store:
    """The other cohort (a name, or the path of its TOML file) under this cohort's network."""
    config = Config.load(other, overrides=overrides(store))
    if config.cohort == store.config.cohort:
        raise InputError(f"{other!r} is this cohort itself: name another one to replicate in")
    if config.encoder_normalisation and not config.encoder_digest:
        raise InputError(
            f"cohort {other!r} states encoder_normalisation, which is of its own encoder: leave it out there"
        )
    if config.slides_only or config.features_file:
        raise InputError(f"cohort {other!r} needs slides and an expression table to replicate links in")
    return Store(config, store.notebook, store.root)


def command(store: Store, other: str) -> list[str]:
    """Arguments of run_all.py that make the other cohort's features."""
    # of text, numbers and truth values JSON and TOML are the same
    settings = [f"{name}={json.dumps(value)}" for name, value in overrides(store).items()]
    return ["--cohort", other, "--to", "04", "--set", *settings]


def missing(store: Store, other: str) -> str:
    """Why the other cohort's features cannot be read yet; "" when they can."""
    of_other = store_of(store, other)
    for name in ("samples", "expression", "genes", "features_test", "features_validation"):
        if why := of_other.why_stale(name):
            return f"{name!r} of cohort {other!r} {why}"
    return ""


def elsewhere(store: Store, other: str, links_df: pd.DataFrame, genes_df: pd.DataFrame) -> Elsewhere:
    """Both sides of the other cohort's samples, reduced to the genes and features of the links.

    Parameters
    ----------
    links_df : gene, feature. genes_df : index gene, symbol; of this cohort.

    Raises
    ------
    StaleArtefactError : the other cohort's features are not there; the message gives the command.
    ValueError : no gene of the links is known there.
    """
    if why := missing(store, other):
        words = f"{why}; python run_all.py {shlex.join(command(store, other))}"
        raise StaleArtefactError("features_test", "04_features", words)
    of_other = store_of(store, other)
    config = of_other.config
    features_df = pd.concat([of_other.load(f"features_{name}") for name in ("test", "validation")], axis=1)
    genes = pd.Index(links_df["gene"].unique()).astype(str)
    names, how = matched(genes, genes_df["symbol"], of_other.load("genes"))
    wanted = features_df.index.intersection(pd.Index(links_df["feature"].unique()).astype(str), sort=False)
    log_df = log2_expression(of_other.load("expression").loc[names.to_numpy(), features_df.columns])
    log_df = on_scale(log_df.set_axis(names.index), config.correlation)
    sides_df = on_scale(features_df.loc[wanted], config.correlation)
    samples_df = of_other.samples_of(features_df.columns)
    given = config.covariates, config.covariate_slopes
    sides, note = replication.sides_of(log_df, sides_df, samples_df, *given)
    out = ", ".join(config.covariates) or "none named"
    notes = [f"{config.cohort}: {how}; {note}; covariates out: {out}"]
    units = {config.cohort: sides} if sides is not None else {}
    if spots.are_spots(samples_df):
        by_section, said = sections(log_df, sides_df, samples_df, *given)
        notes += [f"{config.cohort}: {text}" for text in said]
        if len(by_section) > 1:
            units |= {f"{config.cohort}: {section}": of for section, of in by_section.items()}
    return Elsewhere(units, notes)


def matched(genes: pd.Index, symbols: pd.Series, other_df: pd.DataFrame) -> tuple[pd.Series, str]:
    """The other cohort's name of each gene that it has, and in words how many and by what.

    Parameters
    ----------
    genes : ids here. symbols : of these, index gene. other_df : index gene; symbol, of the other cohort.

    Returns
    -------
    Series, index gene here, values gene there; ids match with or without Ensembl's version.

    Raises
    ------
    ValueError : not one gene matches; says so where case alone differs, as between species.
    """
    symbol_of = symbols.reindex(genes).fillna("").astype(str)
    ways = {
        "id": (without_version(genes).tolist(), without_version(other_df.index).tolist()),
        "symbol": (symbol_of.tolist(), other_df["symbol"].fillna("").astype(str).tolist()),
    }
    found = {}
    for way, (here, there) in ways.items():
        known = dict(zip(reversed(there), reversed(other_df.index.tolist()), strict=True))
        known.pop("", None)
        pairs = zip(genes, here, strict=True)
        found[way] = pd.Series({gene: known[name] for gene, name in pairs if name in known}, dtype=object)
    way = max(found, key=lambda name: len(found[name]))
    names = found[way].drop_duplicates()
    if names.empty:
        folded = {name.casefold() for name in ways["symbol"][1]} - {""}
        alike = sum(name.casefold() in folded for name in symbol_of)
        hint = f" ({alike} symbols match when case is ignored: another species?)" if alike else ""
        raise InputError(f"none of {len(genes)} genes is known in the other cohort, by id or symbol{hint}")
    return names, f"{len(names):,} of {len(genes):,} genes matched by {way}"
