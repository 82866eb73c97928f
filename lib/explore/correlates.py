"""What follows this gene, or this feature? The correlates of one name, computed when asked, not looked up.

A table of pairs over a threshold answers only for what passed it. Here every gene has all features as
correlates and every feature all genes: one product of a matrix and a vector each. Beside r stand the
correlation given all tissues, the pattern of conditional independence (METHOD section 8), and what shuffling
within tissues gave. Variables are rows, samples are columns.
"""

import difflib
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lib.statistics import correlation, pair_tests, partial_correlation, permutations

N_LETTERS = 38  # a to z, 0 to 9, "_", and all others together
LEFT = 1e-5  # a row with less of its length left within tissues does not vary there


class Side(NamedTuple):
    """All genes, or all features, ready for products."""

    names: pd.Index
    # float64 [n, n_samples], mean 0 and length 1; of ranks for Spearman; a constant row is 0
    unit: np.ndarray
    varies: np.ndarray  # bool [n], not constant
    left: np.ndarray  # float64 [n], length of the row of `unit` once tissue means are taken off
    r_tissue: np.ndarray  # float64 [n, n_tissues], correlation with the indicator of each tissue


class Lookup(NamedTuple):
    """Everything `features_of` and `genes_of` need; made by `build`."""

    genes: Side
    features: Side
    log_df: pd.DataFrame  # log2(1 + expression), never ranks
    features_df: pd.DataFrame  # f_lz, never ranks
    method: Literal["pearson", "spearman"]
    genes_df: pd.DataFrame  # index gene, in the order of `genes`: symbol, tissue, max_median_log2
    membership: np.ndarray  # float64 [n_samples, n_tissues], 1 where the sample is of the tissue
    tissue_of_gene: np.ndarray  # int [n_genes], column of `membership`
    alpha: float
    shuffles: permutations.Permutations | None  # None where no two samples share a tissue
    known_df: pd.DataFrame  # gene, feature, q_within_tissue of the pairs that were tested
    search_df: pd.DataFrame  # text (as suggested), kind, name; label, symbol, id, bare_id in lower case
    words: np.ndarray  # str [2, n_names], symbol and id of the rows of search_df
    letters: np.ndarray  # int16 [n_names, N_LETTERS], of the symbols


class Found(NamedTuple):
    """What a person meant."""

    kind: Literal["gene", "feature"]
    name: str


def build(
    log_df: pd.DataFrame,
    features_df: pd.DataFrame,
    tissues: pd.Series,
    genes_df: pd.DataFrame,
    *,
    significance_df: pd.DataFrame | None = None,
    method: Literal["pearson", "spearman"] = "pearson",
    alpha: float = 0.05,
    n_permutations: int = 1000,
    seed: int = 0,
) -> Lookup:
    """Standardise both sides once, so that every question afterwards is one product.

    Parameters
    ----------
    log_df, features_df : genes and features x samples, the same samples; log2(1 + expression), and f_lz.
    tissues : sample_id -> tissue.
    genes_df : index gene; symbol, tissue (of highest median), max_median_log2.
    significance_df : gene, feature, q_within_tissue of the pairs over the threshold, where there are any.
    method : of all that is computed. "spearman" takes ranks over the samples first, and everything from
        these, as notebooks 05 to 07 do (`correlation.on_scale`); `log_df`, `features_df` stay for figures.
    alpha : level of the patterns.
    n_permutations, seed : of the shuffles within tissues: those of the significance table give its p again.

    Raises
    ------
    ValueError : samples that differ or have no tissue, missing values, fewer than four samples.
    """
    features_df = correlation.same_slides(log_df, features_df)
    lacking = log_df.columns[tissues.reindex(log_df.columns).isna()]
    if len(lacking):
        raise ValueError(f"{len(lacking)} samples have no tissue, first {list(lacking[:3])}")
    of_sample = tissues.loc[log_df.columns]
    names = np.array(sorted(of_sample.unique()))
    membership = (of_sample.to_numpy()[:, None] == names).astype(float)
    genes_df = genes_df.loc[log_df.index, ["symbol", "tissue", "max_median_log2"]]
    samples_df = pd.DataFrame({"sample_id": log_df.columns, "tissue": of_sample.to_numpy()})
    movable = of_sample.duplicated().any()
    shuffles = permutations.draw("within_tissue", n_permutations, samples_df, seed) if movable else None
    columns = ["gene", "feature", "q_within_tissue"]
    known_df = pd.DataFrame(columns=columns) if significance_df is None else significance_df[columns]
    search_df = _searchable(genes_df, features_df.index)
    words = search_df[["symbol", "id"]].to_numpy(dtype="U").T
    return Lookup(
        _side(log_df, "gene", membership, method),
        _side(features_df, "feature", membership, method),
        log_df,
        features_df,
        method,
        genes_df,
        membership,
        np.searchsorted(names, genes_df["tissue"].to_numpy(dtype=object).astype(names.dtype)),
        alpha,
        shuffles,
        known_df,
        search_df,
        np.ascontiguousarray(words),
        _letters(words[0]),
    )


def _side(df: pd.DataFrame, what: str, membership: np.ndarray, method: str) -> Side:
    unit = _units(df, what, method)
    tissue_df = pd.DataFrame(membership.T)
    indicator, varies = correlation.standardise(tissue_df, "tissue", dtype="float64")
    r_tissue = np.zeros((len(df), len(tissue_df)))
    r_tissue[:, varies] = unit @ indicator.T
    left = np.empty(len(df))
    for start in range(0, len(df), 4096):
        rows = slice(start, start + 4096)
        left[rows] = np.linalg.norm(_within(unit[rows], membership), axis=1)
    return Side(df.index, unit, unit.any(axis=1), left, r_tissue)


def _units(df: pd.DataFrame, what: str, method: str) -> np.ndarray:
    rows, varying = correlation.standardise(df, what, method, "float64")
    if varying.all():
        return rows
    unit = np.zeros(df.shape)
    unit[varying] = rows
    return unit


def _within(rows: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """Rows [..., n_samples] less the mean of each tissue."""
    return rows - (rows @ (membership / membership.sum(axis=0))) @ membership.T


# -- correlates -------------------------------------------------------------------------------------------


def features_of(lookup: Lookup, gene: str) -> pd.DataFrame:
    """All features that vary as correlates of one gene, strongest given the tissues first.

    Returns
    -------
    DataFrame, index feature
        r; r_tissues: the partial correlation given all tissues (NaN where nothing varies within them);
        p_tissues: of its Fisher z test; q_within_tissue: of the hierarchical procedure, for tested pairs;
        pattern, at the level of the lookup, given the gene's own tissue.

    Raises
    ------
    KeyError, ValueError : an unknown name; a gene that is the same in all samples.
    """
    i = _place(lookup.genes, gene, "gene")
    r_gt = lookup.genes.r_tissue[i, lookup.tissue_of_gene[i]]
    r_ft = lookup.features.r_tissue[:, lookup.tissue_of_gene[i]]
    return _correlates(lookup, lookup.genes, i, lookup.features, "gene", r_gt, r_ft)


def genes_of(lookup: Lookup, feature: str) -> pd.DataFrame:
    """All genes that vary as correlates of one feature; index gene, columns as `features_of`."""
    i = _place(lookup.features, feature, "feature")
    r_gt = lookup.genes.r_tissue[np.arange(len(lookup.genes.names)), lookup.tissue_of_gene]
    r_ft = lookup.features.r_tissue[i, lookup.tissue_of_gene]
    return _correlates(lookup, lookup.features, i, lookup.genes, "feature", r_gt, r_ft)


def _place(side: Side, name: str, what: str) -> int:
    if name not in side.names:
        raise KeyError(f"there is no {what} {name!r} in this cohort")
    i = side.names.get_loc(name)
    if not side.varies[i]:
        n = side.unit.shape[1]
        raise ValueError(f"{what} {name!r} has one value in all {n} test samples, so nothing can follow it")
    return i


def _correlates(
    lookup: Lookup, one: Side, i: int, other: Side, what: str, r_gt: np.ndarray | float, r_ft: np.ndarray
) -> pd.DataFrame:
    n, n_tissues = lookup.membership.shape
    residual = _within(one.unit[i], lookup.membership)
    # One reading of the large matrix for both products.
    r, covariance = np.clip(np.stack([one.unit[i], residual]) @ other.unit.T, -1, 1)
    varies = (other.left > LEFT) & (one.left[i] > LEFT) & (n - n_tissues > 2)
    r_tissues = np.divide(covariance, other.left * one.left[i], out=np.full(len(r), np.nan), where=varies)
    r_tissues = np.clip(r_tissues, -1, 1)
    p = np.full(len(r), np.nan)
    if varies.any():
        p[varies] = partial_correlation.ci_test(r_tissues[varies], n, n_tissues - 1)
    index = other.names.rename("feature" if what == "gene" else "gene")
    table_df = pd.DataFrame({"r": r, "r_tissues": r_tissues, "p_tissues": p}, index=index)
    known_df = lookup.known_df[lookup.known_df[what] == one.names[i]]
    q = np.full(len(r), np.nan)
    q[[other.names.get_loc(name) for name in known_df[table_df.index.name]]] = known_df["q_within_tissue"]
    table_df["q_within_tissue"] = q
    enough = n_tissues > 1 and n > 4
    table_df["pattern"] = partial_correlation.patterns(r, r_gt, r_ft, n, lookup.alpha) if enough else "none"
    return ordered(table_df[other.varies], "r_tissues")


def ordered(table_df: pd.DataFrame, by: str, reverse: bool = False) -> pd.DataFrame:
    """Sort correlates: r by size, strongest first; p, q and words upwards; unknown values always last."""
    if by == table_df.index.name:
        key = table_df.index.to_series(index=range(len(table_df)))
    else:
        key = table_df[by].reset_index(drop=True)
    if by.startswith("r"):
        key = -key.abs()
    return table_df.iloc[key.sort_values(ascending=not reverse, kind="stable", na_position="last").index]


def within_tissue_p(lookup: Lookup, genes: list[str], features: list[str]) -> np.ndarray:
    """Two-sided p of shuffling within tissues, of pairs that share a gene or a feature.

    How often |c*| >= |c|, c the covariance of what gene and feature leave within tissues
    (`significance.pair_p`): the test of `r_tissues`. The shuffles, and so the p, are those of the table of
    significant pairs. Pairs [n]; float64 [n], NaN where no two samples share a tissue.
    """
    if lookup.shuffles is None or not genes:
        return np.full(len(genes), np.nan)
    pairs_df = pd.DataFrame({"gene": genes, "feature": features})
    # Ranks of the rows that are asked about only.
    sides = ((lookup.log_df, genes), (lookup.features_df, features))
    tables = [correlation.on_scale(df.loc[pd.unique(np.array(n))], lookup.method) for df, n in sides]
    shuffles = lookup.shuffles
    if len(set(features)) == 1:
        # To shuffle the one feature backwards is to shuffle each gene forwards, and takes one product.
        tables = tables[::-1]
        pairs_df = pairs_df.rename(columns={"gene": "feature", "feature": "gene"})
        shuffles = shuffles._replace(order=np.argsort(shuffles.order, axis=1))
    return pair_tests.pair_p(*tables, pairs_df, shuffles, alternative="two_sided", progress=False)


# -- search -----------------------------------------------------------------------------------------------


def find(lookup: Lookup, text: str) -> Found:
    """The gene (by symbol or id, with or without its version) or feature that `text` names, in any case.

    LookupError, naming the nearest, for what is unknown or names several genes.
    """
    wanted = text.strip().lower()
    search_df = lookup.search_df
    for key in ("label", "id", "bare_id", "symbol"):
        hits_df = search_df[search_df[key] == wanted] if wanted else search_df.iloc[:0]
        if len(hits_df) == 1:
            return Found(hits_df["kind"].iloc[0], hits_df["name"].iloc[0])
        if len(hits_df):
            ids = ", ".join(hits_df["name"].iloc[:5])
            raise LookupError(f"{text.strip()!r} names {len(hits_df)} genes: {ids}. Give the id")
    near = ", ".join(suggest(lookup, text, 5))
    raise LookupError(f"there is no gene or feature {text.strip()!r} here. Nearest: {near or 'none'}")


def suggest(lookup: Lookup, text: str, n: int = 12) -> list[str]:
    """Up to n names for what was typed so far: those that begin with it, then contain it, then are spelt
    like it.
    """
    wanted = text.strip().lower()
    if not wanted:
        return []
    words = lookup.words
    begins = np.strings.startswith(words, wanted).any(axis=0)
    picked = np.flatnonzero(begins)
    length = np.strings.str_len(words[0, picked])
    picked = list(picked[np.argsort(length, kind="stable")[:n]])  # the whole word before longer ones
    if len(picked) < n:
        holds = (np.strings.find(words, wanted) >= 0).any(axis=0)
        picked += list(np.flatnonzero(holds & ~begins)[: n - len(picked)])
    if len(picked) < n:
        picked += [k for k in _alike(lookup, wanted, n) if k not in picked]
    return lookup.search_df["text"].iloc[picked[:n]].tolist()


def _alike(lookup: Lookup, wanted: str, n: int) -> list[int]:
    """Places of the words spelt most like the one wanted, the best first."""
    # Letters in common first, of all words at once; their order then, for the nearest of these only.
    distance = np.abs(lookup.letters - _letters(np.array([wanted]))).sum(axis=1)
    nearest = np.argsort(distance, kind="stable")[:200]
    matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
    likeness = []
    for k in nearest:
        matcher.set_seq1(str(lookup.words[0, k]))
        likeness.append(matcher.ratio())
    best = np.argsort(-np.array(likeness), kind="stable")[:n]
    return [int(nearest[b]) for b in best if likeness[b] >= 0.5]


def _letters(words: np.ndarray) -> np.ndarray:
    """How often each letter stands in each word, int16 [n_words, N_LETTERS]."""
    codes = np.ascontiguousarray(words).view(np.uint32).reshape(len(words), -1)
    kind = np.full(max(int(codes.max(initial=0)), 128) + 1, N_LETTERS - 1)
    kind[[ord(c) for c in "abcdefghijklmnopqrstuvwxyz0123456789_"]] = np.arange(N_LETTERS - 1)
    counts = np.zeros((len(words), N_LETTERS), np.int16)
    row, place = np.nonzero(codes)
    np.add.at(counts, (row, kind[codes[row, place]]), 1)
    return counts


def _searchable(genes_df: pd.DataFrame, features: pd.Index) -> pd.DataFrame:
    ids = genes_df.index.astype(str)
    symbols = genes_df["symbol"].astype(str).to_numpy()
    named = symbols != ids.to_numpy()
    genes = pd.DataFrame({
        "text": np.where(named, symbols + " · " + ids, ids),
        "kind": "gene",
        "name": ids,
        "symbol": np.strings.lower(symbols.astype("U")),
        "id": np.strings.lower(ids.to_numpy(dtype="U")),
    })  # fmt: skip
    # GTEx ids end in a version, ENSG00000110245.7, which people leave out.
    genes["bare_id"] = genes["id"].str.replace(r"^(ens\w+)\.\d+$", r"\1", regex=True)
    called = features.astype(str).to_numpy()
    columns = {"text": called, "kind": "feature", "name": called, "symbol": called, "id": called}
    search_df = pd.concat([genes, pd.DataFrame(columns | {"bare_id": called})], ignore_index=True)
    search_df["label"] = search_df["text"].str.lower()
    return search_df


def default_pair(
    lookup: Lookup, gene: str = "", gene_significance_df: pd.DataFrame | None = None
) -> tuple[str, str]:
    """The pair to begin with: of the name asked for, or of the gene that most surely follows a feature.

    gene_significance_df : index gene; feature, statistic, q (notebook 06), where there is one.
    """
    if gene:
        found = find(lookup, gene)
        if found.kind == "gene":
            return found.name, str(features_of(lookup, found.name).index[0])
        return str(genes_of(lookup, found.name).index[0]), found.name
    if gene_significance_df is not None and len(gene_significance_df):
        best_df = gene_significance_df.sort_values(["q", "statistic"], ascending=[True, False])
        return str(best_df.index[0]), str(best_df["feature"].iloc[0])
    varying_df = lookup.genes_df[lookup.genes.varies]
    gene = str(varying_df["max_median_log2"].idxmax())
    return gene, str(features_of(lookup, gene).index[0])
