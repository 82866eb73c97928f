"""Gene sets: of GMT files, and of the terms of the Gene Ontology; as genes of an expression table.

GMT (MSigDB, Enrichr): a line per set, tab-separated: name, description, genes (symbols or Ensembl ids).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lib.cohort.gene_ontology import ENSEMBL, Annotations, Ontology, match_genes, read_gaf, read_obo
from lib.cohort.gzip_files import open_bytes
from lib.cohort.samples import first
from lib.errors import InputError

INHERITED = ("is_a", "part_of")  # what GO groups annotations over; regulating a process is not a part of it


def read_sets(files: Sequence[Path], medians_df: pd.DataFrame) -> dict[str, list[str]]:
    """Sets as ids of genes: of a GMT file (`of_genes`), or of an OBO and a GAF file (`go_sets`)."""
    if len(files) == 1:
        return of_genes(read_gmt(files[0]), medians_df)
    obo, gaf = files
    return go_sets(obo, gaf, medians_df)


def read_gmt(path: str | Path) -> dict[str, list[str]]:
    """Sets of a GMT file, plain or gzipped: name -> its genes as written, each once.

    Raises
    ------
    FileNotFoundError
    ValueError
        Not such a file: no tabs, no genes, two sets of one name.
    """
    with open_bytes(path, "give a .gmt file as gene_sets") as file:
        lines = file.read().decode("utf-8-sig", errors="replace").splitlines()
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        genes = list(dict.fromkeys(re.sub(r",\d.*$", "", gene) for gene in rest[1:] if gene))  # gene,weight
        if not name or not genes:
            raise InputError(
                f"{path}, line {number}: a GMT line is name, description and genes, separated by tabs; "
                f"got {line[:60]!r}"
            )
        if name in sets:
            raise InputError(f"{path}, line {number}: a second set {name!r}; names must differ")
        sets[name] = genes
    if not sets:
        raise InputError(f"{path}: no gene set in it")
    return sets


def of_genes(sets: Mapping[str, Sequence[str]], medians_df: pd.DataFrame) -> dict[str, list[str]]:
    """The sets with their genes as ids of an expression table; genes that it lacks are left out.

    Parameters
    ----------
    medians_df : index gene (id); symbol. A gene is found by its id, its id without version, or its symbol
        (of several genes of one symbol the first).

    Raises
    ------
    ValueError
        No gene of any set is in the table.
    """
    ids = pd.Series(medians_df.index.astype(str), medians_df.index.astype(str))
    stable = pd.Series(ids.to_numpy(), ids.str.replace(f"^{ENSEMBL}$", r"\1", regex=True))
    symbols = pd.Series(ids.to_numpy(), medians_df["symbol"].astype(str).to_numpy())
    named = pd.concat([ids, stable, symbols])
    named = named[~named.index.duplicated()]
    known = dict(zip(named.index.astype(str), named.astype(str), strict=True))
    found = {name: [_known(gene, known) for gene in genes] for name, genes in sets.items()}
    found = {name: list(dict.fromkeys(g for g in genes if g)) for name, genes in found.items()}
    if not any(found.values()):
        asked = pd.Series([gene for genes in sets.values() for gene in genes])
        raise InputError(
            f"none of the {asked.nunique():,} genes of the gene sets ({first(asked)}) is in the expression "
            f"table ({first(symbols.index)}): both need symbols or Ensembl ids of one species"
        )
    return found


def _known(gene: str, known: Mapping[str, str]) -> str:
    return known.get(gene) or known.get(re.sub(f"^{ENSEMBL}$", r"\1", gene), "")


def go_sets(obo: str | Path, gaf: str | Path, medians_df: pd.DataFrame) -> dict[str, list[str]]:
    """Terms of the Gene Ontology as sets of the genes annotated with them or with what is part of them.

    medians_df : index gene (id); symbol. Genes are matched by `gene_ontology.match_genes`.

    Returns name ("GO:0006914 autophagy") -> ids of genes.
    """
    return sets_of_terms(read_obo(obo), read_gaf(gaf), medians_df)


def sets_of_terms(
    ontology: Ontology, annotations: Annotations, medians_df: pd.DataFrame
) -> dict[str, list[str]]:
    """`go_sets` with files that have been read."""
    genes = medians_df.index.astype(str)
    matched_df = match_genes(genes.tolist(), annotations)
    by_symbol = match_genes(medians_df["symbol"].astype(str).tolist(), annotations)["symbol"]
    current = matched_df["symbol"].where(matched_df["symbol"] != "", by_symbol)
    genes_df = pd.DataFrame({"gene": genes, "symbol": current.to_numpy()})
    genes_df = genes_df[genes_df["symbol"] != ""].drop_duplicates("symbol")
    pairs_df = annotations.pairs_df.merge(genes_df, on="symbol")
    term = pairs_df["term"].map(lambda name: ontology.alt_ids.get(str(name), str(name)))
    pairs_df = pairs_df.assign(term=term)[~term.isin(list(ontology.obsolete))]
    edges_df = ontology.edges_df[ontology.edges_df["relation"].isin(INHERITED)]
    parents = {str(child): list(of_df["parent"]) for child, of_df in edges_df.groupby("child")}
    above: dict[str, frozenset[str]] = {}
    lists = {name: list(_ancestors(str(name), parents, above)) for name in pairs_df["term"].unique()}
    inherited_df = pairs_df.assign(term=pairs_df["term"].map(lists)).explode("term")[["term", "gene"]]
    by_term = inherited_df.drop_duplicates().sort_values(["term", "gene"]).groupby("term")["gene"].agg(list)
    return {
        f"{name} {ontology.names.get(str(name), '')}".strip(): members for name, members in by_term.items()
    }


def _ancestors(
    term: str, parents: Mapping[str, Sequence[str]], above: dict[str, frozenset[str]]
) -> frozenset[str]:
    """A term and all above it; `above` keeps what is known."""
    if term not in above:
        above[term] = frozenset()  # of a term that is its own ancestor, in a damaged file
        own = (_ancestors(parent, parents, above) for parent in parents.get(term, ()))
        above[term] = frozenset([term]).union(*own)
    return above[term]
