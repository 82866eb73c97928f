"""Gene Ontology: reading OBO and GAF files, inherited annotations, and the paper's gene filter.

The paper keeps genes annotated, directly or by inheritance, with 'developmental process' (GO:0032502) or
'transcription regulator activity' (GO:0140110) (Table 6, S3 Table). Inheritance over is_a, part_of and
regulates reproduces its list; is_a alone loses a fifth of it.

References: Ashburner et al. 2000, Nature Genetics 25:25; file formats at https://geneontology.org/docs
(OBO 1.2/1.4, GAF 2.1/2.2).
"""

import io
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.cohort.gzip_files import open_bytes
from lib.cohort.samples import first
from lib.errors import InputError

RELATIONS = ("is_a", "part_of", "regulates", "positively_regulates", "negatively_regulates")
ROOTS = {"developmental": "GO:0032502", "transcription_regulator": "GO:0140110"}
REMEDY = "delete it and download it again: python -m lib.gtex go"
UNDATED = "not stated in the file"
ENSEMBL = r"(ENS[A-Z]*G\d+)(?:\.\d+)?(?:_PAR_Y)?"


class Ontology(NamedTuple):
    """Content of an OBO file."""

    terms: set[str]  # ids, obsolete ones included
    obsolete: set[str]
    alt_ids: dict[str, str]  # secondary id -> primary id
    edges_df: pd.DataFrame  # columns child, relation, parent
    names: dict[str, str]  # id -> name of the term
    release: str  # data-version, for example 2022-07-01


class Annotations(NamedTuple):
    """Content of a GAF file."""

    pairs_df: pd.DataFrame  # columns symbol, term: unique pairs, without `NOT` qualifiers
    synonyms_df: pd.DataFrame  # columns symbol, synonym: older symbols, Ensembl ids, ids of the database
    release: str  # date of the file


def read_obo(path: str | Path) -> Ontology:
    """Read an OBO file, plain or gzipped.

    Raises
    ------
    FileNotFoundError
    ValueError
        Truncated or corrupt file; no [Term] in it.
    """
    with open_bytes(path, REMEDY) as file:
        text = "\n" + file.read().decode("utf-8", errors="replace")
    header, *stanzas = text.split("\n[")
    terms: set[str] = set()
    obsolete: set[str] = set()
    alt_ids: dict[str, str] = {}
    names: dict[str, str] = {}
    edges: list[tuple[str, str, str]] = []
    for stanza in stanzas:
        kind, *lines = stanza.splitlines()
        if kind != "Term]":
            continue
        term = ""
        for line in lines:
            key, _, value = line.partition(": ")
            words = value.split()
            if key == "id":
                term = words[0]
                terms.add(term)
            elif key == "name":
                names[term] = line.removeprefix("name: ").strip()
            elif key == "alt_id":
                alt_ids[words[0]] = term
            elif key == "is_obsolete" and words[0] == "true":
                obsolete.add(term)
            elif key == "is_a":
                edges.append((term, "is_a", words[0]))
            elif key == "relationship":
                edges.append((term, words[0], words[1]))
    if not terms:
        raise InputError(f"{path}: no [Term] found, so not an OBO file; give go-basic.obo of a GO release")
    edges_df = pd.DataFrame(edges, columns=["child", "relation", "parent"])
    return Ontology(terms, obsolete, alt_ids, edges_df, names, _obo_release(header))


def read_gaf(path: str | Path) -> Annotations:
    """Read a GAF 2.x file, plain or gzipped.

    Raises
    ------
    FileNotFoundError
    ValueError
        Truncated or corrupt file; columns that are not those of GAF.
    """
    with open_bytes(path, REMEDY) as file:
        content = file.read()
    header = list(takewhile(lambda line: line.startswith(b"!"), io.BytesIO(content)))
    columns = {1: "gene_id", 2: "symbol", 3: "qualifier", 4: "term", 10: "synonyms", 13: "date"}
    try:
        gaf_df = pd.read_csv(
            io.BytesIO(content), skiprows=len(header), sep="\t", header=None, quoting=3,
            usecols=list(columns), dtype="category",
        ).rename(columns=columns)  # fmt: skip
    except ValueError as error:
        raise InputError(f"{path}: not a GAF 2.x table of 17 tab-separated columns: {error}") from error
    terms = gaf_df["term"].cat.categories.astype(str)
    strange = terms[~terms.str.fullmatch(r"[A-Za-z]+:\d+")]
    if len(strange):
        raise InputError(f"{path}: not a GAF 2.x table: column 5 holds {first(strange)}, not GO ids")
    qualifiers = gaf_df["qualifier"].cat.categories
    negated = [q for q in qualifiers if "NOT" in str(q).upper().split("|")]
    positive_df = gaf_df.loc[~gaf_df["qualifier"].isin(negated), ["symbol", "term"]]
    pairs_df = positive_df.drop_duplicates().astype("str").reset_index(drop=True)
    # The symbol is the gene: UniProt's GAF has several proteins, so several object ids, for one gene.
    names_df = gaf_df[["symbol", "gene_id", "synonyms"]].drop_duplicates().astype("str").fillna("")
    synonyms = (names_df["gene_id"] + "|" + names_df["synonyms"]).str.split("|")
    synonyms_df = names_df[["symbol"]].assign(synonym=synonyms).explode("synonym")
    synonyms_df = synonyms_df[synonyms_df["synonym"].ne("")].drop_duplicates().reset_index(drop=True)
    release = _gaf_release(b"".join(header).decode("utf-8", errors="replace"), gaf_df["date"].cat.categories)
    return Annotations(pairs_df, synonyms_df, release)


def _obo_release(header: str) -> str:
    found = re.search(r"^data-version: (?:releases/)?(\S+)", header, re.MULTILINE)
    return found[1] if found else UNDATED


def _gaf_release(header: str, dates: Iterable[str]) -> str:
    pattern = r"^!\s*(?:date-generated|generated|date)\s*:\s*(\d{4}-\d{2}-\d{2})"
    if found := re.search(pattern, header, re.MULTILINE | re.IGNORECASE):
        return found[1]
    latest = max((str(date) for date in dates), default="")
    return f"{latest[:4]}-{latest[4:6]}-{latest[6:]}" if re.fullmatch(r"\d{8}", latest) else UNDATED


def descendants(ontology: Ontology, root: str) -> set[str]:
    """The terms whose annotations `root` inherits over RELATIONS, itself included.

    Raises
    ------
    ValueError
        `root` is missing from the ontology or obsolete.
    """
    root = ontology.alt_ids.get(root, root)
    fault = "obsolete in" if root in ontology.obsolete else "missing from"
    if root in ontology.obsolete or root not in ontology.terms:
        raise InputError(f"{root} is {fault} the Gene Ontology of {ontology.release}; name another term")
    edges_df = ontology.edges_df[ontology.edges_df["relation"].isin(RELATIONS)]
    children = edges_df.groupby("parent")["child"].agg(list).to_dict()
    reached, waiting = {root}, [root]
    while waiting:
        new = set(children.get(waiting.pop(), ())) - reached
        reached |= new
        waiting += new
    return reached


def match_genes(genes: Sequence[str], annotations: Annotations) -> pd.DataFrame:
    """Find each gene among the annotated ones: by Ensembl id, by symbol, by a synonym such as an old symbol.

    Parameters
    ----------
    genes : symbols or Ensembl ids (versions ignored), in any mixture.

    Returns
    -------
    DataFrame
        A row per gene: gene, symbol (the current one, "" where not found), matched_by ("ensembl", "symbol",
        "synonym", "ambiguous synonym", "not found"). A synonym of several genes matches none of them.
    """
    stable = pd.Series(genes, dtype="str").str.replace(f"^{ENSEMBL}$", r"\1", regex=True)
    names_df = annotations.synonyms_df
    names_df = names_df.assign(synonym=names_df["synonym"].str.replace(f"^{ENSEMBL}$", r"\1", regex=True))
    names_df = names_df[names_df["synonym"].isin([*genes, *stable])]
    by_synonym = names_df.groupby("synonym")["symbol"].agg(set).to_dict()
    symbols = set(annotations.synonyms_df["symbol"])
    rows = []
    for gene, stable_id in zip(genes, stable, strict=True):
        is_ensembl = re.fullmatch(ENSEMBL, stable_id)
        found, how = by_synonym.get(stable_id, set()) if is_ensembl else set(), "ensembl"
        if len(found) != 1 and gene in symbols:
            found, how = {gene}, "symbol"
        elif len(found) != 1:
            found, how = found or by_synonym.get(gene, set()), "synonym"
        if len(found) != 1:
            how = "ambiguous synonym" if found else "not found"
        rows.append((gene, next(iter(found)) if len(found) == 1 else "", how))
    return pd.DataFrame(rows, columns=["gene", "symbol", "matched_by"])


def go_filter(genes: Sequence[str], obo: str | Path, gaf: str | Path) -> pd.DataFrame:
    """Mark developmental genes and transcription regulators (paper, Table 6 and S3 Table).

    Parameters
    ----------
    genes : symbols or Ensembl ids; one row per entry is returned, in the same order.
    obo, gaf : ontology and annotation file, plain or gzipped.

    Returns
    -------
    DataFrame
        Columns gene, symbol, matched_by (see `match_genes`); for each of ROOTS `<name>` (bool),
        `<name>_direct` (bool: annotated with the root itself, not only by inheritance) and `<name>_n_terms`
        (int32: annotated terms that count); passes (bool: any root); go_release, gaf_release (dates of the
        two files).

    Raises
    ------
    FileNotFoundError
    ValueError
        A damaged file; a root missing from the ontology; two files that share no term.
    """
    ontology, annotations = read_obo(obo), read_gaf(gaf)
    if not annotations.pairs_df["term"].isin([*ontology.terms, *ontology.alt_ids]).any():
        terms = first(annotations.pairs_df["term"])
        raise InputError(
            f"{gaf} and {obo} share no GO term; the first has {terms}; give files of one release"
        )
    return mark_genes(genes, ontology, annotations)


def mark_genes(genes: Sequence[str], ontology: Ontology, annotations: Annotations) -> pd.DataFrame:
    """`go_filter` with files that have been read."""
    pairs_df = annotations.pairs_df
    pairs_df = pairs_df.assign(
        term=pairs_df["term"].map(lambda term: ontology.alt_ids.get(str(term), str(term)))
    )
    pairs_df = pairs_df[~pairs_df["term"].isin(list(ontology.obsolete))]
    marked_df = match_genes(list(genes), annotations)
    for name, root in ROOTS.items():
        inherited_df = pairs_df[pairs_df["term"].isin(list(descendants(ontology, root)))]
        by_gene = inherited_df.assign(direct=inherited_df["term"].eq(root)).groupby("symbol")
        found_df = by_gene.agg(direct=("direct", "any"), n_terms=("term", "nunique"))
        found_df = found_df.reindex(marked_df["symbol"])
        marked_df[name] = found_df["n_terms"].notna().to_numpy()
        marked_df[f"{name}_direct"] = found_df["direct"].eq(True).to_numpy(dtype=bool)
        marked_df[f"{name}_n_terms"] = found_df["n_terms"].fillna(0).to_numpy(dtype=np.int32)
    marked_df["passes"] = marked_df[list(ROOTS)].any(axis=1).to_numpy(dtype=bool)
    marked_df["go_release"], marked_df["gaf_release"] = ontology.release, annotations.release
    return marked_df
