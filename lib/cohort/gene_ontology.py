"""Gene Ontology: reading OBO and GAF files, ancestors over chosen relations, and the paper's gene filter.

The paper keeps genes annotated, directly or by inheritance, with 'developmental process' (GO:0032502) or
'transcription regulator activity' (GO:0140110) (Table 6, S3 Table). Inheritance that reproduces its list runs
over is_a, part_of and regulates; over is_a alone a fifth of the list is lost.

References: Ashburner et al. 2000, Nature Genetics 25:25; GO file formats at https://geneontology.org/docs
(OBO 1.2/1.4, GAF 2.1/2.2).
"""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import pandas as pd

RELATIONS = ("is_a", "part_of", "regulates")
# `regulates` stands for its two sub-relations as well: whoever positively regulates a process regulates it.
SUBRELATIONS = {"regulates": ("positively_regulates", "negatively_regulates")}
ROOTS = {"developmental": "GO:0032502", "transcription_regulator": "GO:0140110"}
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)  # what reading a gzip file that is not whole raises
ENSEMBL = re.compile(r"(ENS[A-Z]*G\d+)(?:\.\d+)?(?:_PAR_Y)?")


class Ontology(NamedTuple):
    """An OBO file. `terms_df`: index term, columns name, namespace, obsolete. `edges_df`: child, relation,
    parent. `alt_ids`: secondary id -> primary id. `release`: the file's data-version, e.g. `2022-07-01`.
    """

    terms_df: pd.DataFrame
    edges_df: pd.DataFrame
    alt_ids: dict[str, str]
    release: str


class Annotations(NamedTuple):
    """A GAF file. `pairs_df`: symbol, term (unique pairs, `NOT` qualifiers left out). `synonyms_df`: symbol,
    synonym (older symbols, Ensembl ids, the database's own ids). `release`: date of the file. `counts`: rows,
    rows_not.
    """

    pairs_df: pd.DataFrame
    synonyms_df: pd.DataFrame
    release: str
    counts: dict[str, int]


def read_obo(path: str | Path) -> Ontology:
    """Read an OBO file, plain or gzipped. Raises FileNotFoundError, or ValueError when it holds no [Term] or
    is cut off.
    """
    release, in_term, term = "", False, ""
    names: dict[str, str] = {}
    namespaces: dict[str, str] = {}
    obsolete: set[str] = set()
    alt_ids: dict[str, str] = {}
    edges: list[tuple[str, str, str]] = []
    with _open(path) as lines:
        for line in lines:
            if line.startswith("["):
                in_term = line.startswith("[Term]")
                continue
            key, _, value = line.rstrip().partition(": ")
            if not in_term:
                if key == "data-version":
                    release = value.removeprefix("releases/").strip()
            elif key == "id":
                term = value.partition(" !")[0].strip()
                names[term] = ""
            elif key == "name":
                names[term] = value
            elif key == "namespace":
                namespaces[term] = value
            elif key == "alt_id":
                alt_ids[value.partition(" !")[0].strip()] = term
            elif key == "is_obsolete" and value.startswith("true"):
                obsolete.add(term)
            elif key == "is_a":
                edges.append((term, "is_a", value.split()[0]))
            elif key == "relationship":
                relation, parent = value.split()[:2]
                edges.append((term, relation, parent))
    if not names:
        raise ValueError(
            f"{path}: no [Term] found, so this is not an OBO file. Give the go-basic.obo of a GO release."
        )
    terms_df = pd.DataFrame({"name": names, "namespace": namespaces}).rename_axis("term").fillna("")
    terms_df["obsolete"] = terms_df.index.isin(obsolete)
    edges_df = pd.DataFrame(edges, columns=["child", "relation", "parent"])
    return Ontology(terms_df, edges_df, alt_ids, release or "not stated in the file")


def read_gaf(path: str | Path) -> Annotations:
    """Read a GAF 2.x file, plain or gzipped. Raises FileNotFoundError, or ValueError when the columns are not
    GAF's or the file is cut off.
    """
    with _open(path) as lines:
        header = []
        for line in lines:
            if not line.startswith("!"):
                break
            header.append(line)
    columns = {1: "gene_id", 2: "symbol", 3: "qualifier", 4: "term", 10: "synonyms", 13: "date"}
    settings = {"sep": "\t", "header": None, "usecols": list(columns), "dtype": "category", "quoting": 3}
    with _open(path) as lines:
        try:
            gaf_df = pd.read_csv(lines, skiprows=len(header), **settings).rename(columns=columns)
        except (UnicodeDecodeError, *DAMAGED):
            raise
        except (ValueError, pd.errors.ParserError) as error:
            raise ValueError(f"{path}: not a GAF 2.x table (17 tab-separated columns): {error}") from error
    if not gaf_df["term"].cat.categories.astype(str).str.fullmatch(r"[A-Za-z]+:\d+").all():
        strange = gaf_df["term"].cat.categories.astype(str)
        strange = strange[~strange.str.fullmatch(r"[A-Za-z]+:\d+")]
        raise ValueError(
            f"{path}: column 5 holds {strange[0]!r}, not a GO id, so this is not a GAF 2.x table."
        )
    qualifiers = gaf_df["qualifier"].cat.categories
    negated = qualifiers[[("NOT" in str(q).upper().split("|")) for q in qualifiers]]
    is_not = gaf_df["qualifier"].isin(negated)
    pairs_df = gaf_df.loc[~is_not, ["symbol", "term"]].drop_duplicates().astype("str").reset_index(drop=True)
    # The symbol is the gene: UniProt's GAF has several proteins, so several object ids, for one gene.
    names_df = gaf_df[["symbol", "gene_id", "synonyms"]].drop_duplicates().astype("str").fillna("")
    synonyms = (names_df["gene_id"] + "|" + names_df["synonyms"]).str.split("|")
    synonyms_df = names_df[["symbol"]].assign(synonym=synonyms).explode("synonym")
    synonyms_df = synonyms_df[synonyms_df["synonym"].ne("")].drop_duplicates().reset_index(drop=True)
    counts = {"rows": len(gaf_df), "rows_not": int(is_not.sum())}
    release = _gaf_release(header, gaf_df["date"].cat.categories)
    return Annotations(pairs_df, synonyms_df, release, counts)


def ancestors(
    ontology: Ontology, terms: Iterable[str], relations: Sequence[str] = RELATIONS, include_self: bool = True
) -> set[str]:
    """All terms reached from `terms` by walking `relations` towards the root. Secondary ids are resolved."""
    start = {_primary(ontology, term) for term in terms}
    reached = _closure(_neighbours(ontology, relations, "child", "parent"), start)
    return reached if include_self else reached - start


def descendants(
    ontology: Ontology, root: str, relations: Sequence[str] = RELATIONS, include_self: bool = True
) -> set[str]:
    """All terms from which `root` is reached over `relations`: an annotation with any of them is inherited by
    root.
    """
    start = {_primary(ontology, root)}
    reached = _closure(_neighbours(ontology, relations, "parent", "child"), start)
    return reached if include_self else reached - start


def genes_with_ancestor(
    annotations: Annotations, ontology: Ontology, root: str, relations: Sequence[str] = RELATIONS
) -> pd.DataFrame:
    """Genes annotated with `root` or with a term below it.

    Returns
    -------
    DataFrame indexed by symbol: direct (annotated with root itself, bool), n_terms (annotated terms that
    count).
    """
    root = _primary(ontology, root)
    pairs_df = _current_terms(annotations.pairs_df, ontology)
    pairs_df = pairs_df[pairs_df["term"].isin(descendants(ontology, root, relations))]
    by_gene = pairs_df.assign(direct=pairs_df["term"].eq(root)).groupby("symbol")
    return by_gene.agg(direct=("direct", "any"), n_terms=("term", "nunique"))


def match_genes(
    genes: Sequence[str], annotations: Annotations, ensembl_ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """Find each gene among the annotated ones: by Ensembl id, by symbol, by a synonym (old symbols: G6PC is
    G6PC1).

    Parameters
    ----------
    genes : symbols or Ensembl ids (versions ignored), in any mixture.
    ensembl_ids : Ensembl id of each of `genes`, where known; tried first, since symbols change and ids do
        not.

    Returns
    -------
    DataFrame with a row per gene: gene, symbol (current one, `""` when not found), matched_by ("ensembl",
    "symbol", "synonym", "ambiguous synonym", "not found"). A synonym that belongs to several genes is not
    guessed at.
    """
    if ensembl_ids is not None and len(ensembl_ids) != len(genes):
        raise ValueError(f"{len(genes)} genes but {len(ensembl_ids)} ensembl_ids; they must run in parallel.")
    symbols = set(annotations.synonyms_df["symbol"])
    by_synonym: dict[str, set[str]] = {}
    for symbol, synonym in annotations.synonyms_df.itertuples(index=False):
        by_synonym.setdefault(_without_version(synonym), set()).add(symbol)
    rows = []
    for gene, ensembl_id in zip(genes, genes if ensembl_ids is None else ensembl_ids, strict=True):
        stable = _without_version(str(ensembl_id))
        found = by_synonym.get(stable, set()) if ENSEMBL.fullmatch(stable) else set()
        how = "ensembl"
        if len(found) != 1 and gene in symbols:
            found, how = {gene}, "symbol"
        elif len(found) != 1:
            found, how = found or by_synonym.get(gene, set()), "synonym"
        if len(found) != 1:
            how = "ambiguous synonym" if found else "not found"
        rows.append((gene, next(iter(found)) if len(found) == 1 else "", how))
    return pd.DataFrame(rows, columns=["gene", "symbol", "matched_by"])


def go_filter(
    genes: Sequence[str],
    obo: str | Path,
    gaf: str | Path,
    roots: Mapping[str, str] = ROOTS,
    relations: Sequence[str] = RELATIONS,
    ensembl_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Mark developmental genes and transcription regulators (paper, Table 6 and S3 Table).

    Parameters
    ----------
    genes : symbols or Ensembl ids; one row comes out per entry, in the same order.
    obo, gaf : Gene Ontology and annotation file, plain or gzipped.
    roots : column name -> GO id.
    relations : what carries inheritance; `regulates` includes its positive and negative forms.
    ensembl_ids : Ensembl id of each gene, to follow renamed symbols.

    Returns
    -------
    DataFrame with columns gene, symbol, matched_by (see `match_genes`); for each root `<name>` (bool),
    `<name>_direct` (annotated with the root itself, bool; otherwise inherited) and `<name>_n_terms`
    (annotated terms that count); passes (any root); go_release and gaf_release (dates of the two files).
    `attrs["counts"]` holds the numbers of annotation rows read, with NOT, and of gene-term pairs with
    obsolete and with unknown terms.

    Raises
    ------
    ValueError when a root is not in the OBO, a relation is unknown, or the two files share no term.
    """
    ontology, annotations = read_obo(obo), read_gaf(gaf)
    counts = {**annotations.counts, **_term_counts(annotations.pairs_df, ontology)}
    if counts["pairs_unknown"] == counts["pairs"]:
        first = annotations.pairs_df["term"].head(3).tolist()
        raise ValueError(
            f"no term of {gaf} (first: {first}) occurs in {obo}; the two files do not belong together."
        )
    out_df = match_genes(list(genes), annotations, ensembl_ids)
    passes = np.zeros(len(out_df), dtype=bool)
    for name, root in roots.items():
        found_df = genes_with_ancestor(annotations, ontology, root, relations).reindex(out_df["symbol"])
        out_df[name] = found_df["n_terms"].notna().to_numpy()
        out_df[f"{name}_direct"] = found_df["direct"].eq(True).to_numpy(dtype=bool)
        out_df[f"{name}_n_terms"] = found_df["n_terms"].fillna(0).to_numpy(dtype=np.int32)
        passes |= out_df[name].to_numpy()
    out_df["passes"] = passes
    out_df["go_release"], out_df["gaf_release"] = ontology.release, annotations.release
    out_df.attrs["counts"] = counts
    return out_df


def _neighbours(ontology: Ontology, relations: Sequence[str], start: str, end: str) -> dict[str, list[str]]:
    wanted = {r for relation in relations for r in (relation, *SUBRELATIONS.get(relation, ()))}
    edges_df = ontology.edges_df
    available = set(edges_df["relation"]) | set(RELATIONS) | set(SUBRELATIONS["regulates"])
    if unknown := sorted(wanted - available):
        raise ValueError(f"relations {unknown} do not occur in the ontology; it has {sorted(available)}.")
    edges_df = edges_df[edges_df["relation"].isin(wanted)]
    neighbours: dict[str, list[str]] = {}
    for one, other in zip(edges_df[start], edges_df[end], strict=True):
        neighbours.setdefault(one, []).append(other)
    return neighbours


def _closure(neighbours: Mapping[str, list[str]], start: set[str]) -> set[str]:
    reached, waiting = set(start), list(start)
    while waiting:
        for term in neighbours.get(waiting.pop(), ()):
            if term not in reached:
                reached.add(term)
                waiting.append(term)
    return reached


def _primary(ontology: Ontology, term: str) -> str:
    term = ontology.alt_ids.get(term, term)
    if term not in ontology.terms_df.index:
        raise ValueError(
            f"{term} is not in the ontology (release {ontology.release}, {len(ontology.terms_df)} terms)."
        )
    if ontology.terms_df.at[term, "obsolete"]:
        raise ValueError(
            f"{term} is obsolete in the ontology (release {ontology.release}); give its replacement."
        )
    return term


def _current_terms(pairs_df: pd.DataFrame, ontology: Ontology) -> pd.DataFrame:
    """Gene-term pairs with secondary ids resolved, obsolete and unknown terms left out."""
    term = (
        pairs_df["term"].map(ontology.alt_ids).fillna(pairs_df["term"])
        if ontology.alt_ids
        else pairs_df["term"]
    )
    alive = ontology.terms_df.index[~ontology.terms_df["obsolete"]]
    return pairs_df.assign(term=term)[term.isin(alive)]


def _term_counts(pairs_df: pd.DataFrame, ontology: Ontology) -> dict[str, int]:
    obsolete = ontology.terms_df.index[ontology.terms_df["obsolete"]]
    known = pairs_df["term"].isin(ontology.terms_df.index) | pairs_df["term"].isin(list(ontology.alt_ids))
    n_obsolete = int(pairs_df["term"].isin(obsolete).sum())
    return {"pairs": len(pairs_df), "pairs_obsolete": n_obsolete, "pairs_unknown": int((~known).sum())}


def _gaf_release(header: Sequence[str], dates: Iterable[str]) -> str:
    for line in header:
        if found := re.match(
            r"!\s*(?:date-generated|generated|date)\s*:\s*(\d{4}-\d{2}-\d{2})", line, re.IGNORECASE
        ):
            return found.group(1)
    latest = max((str(date) for date in dates), default="")
    if re.fullmatch(r"\d{8}", latest):
        return f"{latest[:4]}-{latest[4:6]}-{latest[6:]}"
    return "not stated in the file"


def _without_version(gene: str) -> str:
    found = ENSEMBL.fullmatch(gene)
    return found.group(1) if found else gene


def _is_gzip(path: str | Path) -> bool:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file. Download it from https://geneontology.org or give its path."
        )
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def _open(path: str | Path) -> Iterator[TextIO]:
    """The lines of a text file, plain or gzipped. ValueError where it is cut off or no text."""
    zipped = _is_gzip(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8") if zipped else open(path, encoding="utf-8") as lines:
            yield lines
    except (UnicodeDecodeError, *DAMAGED) as error:
        raise ValueError(
            f"{path}: damaged or cut off ({error}). Delete it and fetch it again: python -m lib.gtex go"
        ) from error
