"""Search for a gene or a feature by what a person types."""

import difflib
import heapq
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

LEAST_LIKENESS = 0.5  # of a name spelt like the text, as difflib measures it


class Names(NamedTuple):
    """All names that can be found; made by `index_names`."""

    table_df: pd.DataFrame  # text (as suggested), kind, name; label, symbol, id, bare_id in lower case
    words: np.ndarray  # str [2, n_names], symbol and id of the rows of table_df


class Found(NamedTuple):
    """What a text names."""

    kind: Literal["gene", "feature"]
    name: str


def index_names(symbols: pd.Series, features: pd.Index) -> Names:
    """Names of genes (gene -> symbol) and features, ready to be searched."""
    ids = symbols.index.astype(str)
    symbol = symbols.astype(str).to_numpy()
    named = symbol != ids.to_numpy()
    genes = pd.DataFrame({
        "text": np.where(named, symbol + " · " + ids, ids),
        "kind": "gene",
        "name": ids,
        "symbol": np.strings.lower(symbol.astype("U")),
        "id": np.strings.lower(ids.to_numpy(dtype="U")),
    })  # fmt: skip
    # GTEx ids end in a version, ENSG00000110245.7, which people leave out.
    genes["bare_id"] = genes["id"].str.replace(r"^(ens\w+)\.\d+$", r"\1", regex=True)
    of_features = dict.fromkeys(("text", "name", "symbol", "id", "bare_id"), features.astype(str).to_numpy())
    table_df = pd.concat([genes, pd.DataFrame(of_features | {"kind": "feature"})], ignore_index=True)
    table_df["label"] = table_df["text"].str.lower()
    return Names(table_df, np.ascontiguousarray(table_df[["symbol", "id"]].to_numpy(dtype="U").T))


def find(names: Names, text: str) -> Found:
    """The gene (by symbol or id, with or without its version) or feature that `text` names, in any case.

    LookupError, naming the nearest, for what is unknown or names several genes.
    """
    wanted = text.strip().lower()
    search_df = names.table_df
    for key in ("label", "id", "bare_id", "symbol"):
        hits_df = search_df[search_df[key] == wanted] if wanted else search_df.iloc[:0]
        if len(hits_df) == 1:
            return Found(hits_df["kind"].iloc[0], hits_df["name"].iloc[0])
        if len(hits_df):
            ids = ", ".join(hits_df["name"].iloc[:5])
            raise LookupError(f"{text.strip()!r} is the symbol of {len(hits_df)} genes, {ids}: give an id")
    near = ", ".join(suggest(names, text, 5))
    raise LookupError(f"there is no gene or feature {text.strip()!r}; nearest: {near or 'none'}")


def suggest(names: Names, text: str, n: int) -> list[str]:
    """Up to n names for a text: those that begin with it, then contain it, then are spelt like it."""
    wanted = text.strip().lower()
    if not wanted:
        return []
    words = names.words
    begins = np.strings.startswith(words, wanted).any(axis=0)
    picked = np.flatnonzero(begins)
    length = np.strings.str_len(words[0, picked])
    picked = list(picked[np.argsort(length, kind="stable")[:n]])  # the whole word before longer ones
    if len(picked) < n:
        holds = (np.strings.find(words, wanted) >= 0).any(axis=0)
        picked += list(np.flatnonzero(holds & ~begins)[: n - len(picked)])
    if len(picked) < n:
        picked += [k for k in _alike(words[0].tolist(), wanted, n) if k not in picked]
    return names.table_df["text"].iloc[picked[:n]].tolist()


def _alike(words: list[str], wanted: str, n: int) -> list[int]:
    """Positions of the n words spelt most like the one wanted; of equally close ones the first."""
    matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
    found = []
    for k, word in enumerate(words):
        matcher.set_seq1(word)
        bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)  # cheapest first
        if all(bound() >= LEAST_LIKENESS for bound in bounds):
            found.append((-matcher.ratio(), k))
    return [k for _, k in heapq.nsmallest(n, found)]
