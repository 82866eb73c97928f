"""gene_set_files: GMT files, ids of genes, and the terms of the Gene Ontology."""

import gzip

import pandas as pd
import pytest
from real_data import MIRROR

from lib.cohort import gene_ontology, gene_set_files
from lib.errors import InputError

OBO, GAF = (MIRROR / "go" / name for name in ("go_2022-07-01.obo.gz", "goa_human_2022-09.gaf.gz"))
needs_go = pytest.mark.skipif(not (OBO.is_file() and GAF.is_file()), reason=f"no GO files in {MIRROR}/go")
MEDIANS_DF = pd.DataFrame(
    {"symbol": ["KRT5", "TG", "ALB", "TG"]},
    index=["ENSG00000186081.11", "ENSG00000042832.11", "ALB", "ENSG00000999999.1"],
)


def test_gmt_plain_and_gzipped(tmp_path):
    text = "\ufeffA\thttp://x\tKRT5\tTG\tKRT5\t\r\n\nB set\tna\tALB,1.0\tENSG00000042832\n"
    (tmp_path / "s.gmt").write_text(text, encoding="utf-8")
    (tmp_path / "s.gmt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("s.gmt", "s.gmt.gz"):
        sets = gene_set_files.read_sets((tmp_path / name,), MEDIANS_DF)
        assert gene_set_files.read_gmt(tmp_path / name) == {
            "A": ["KRT5", "TG"],
            "B set": ["ALB", "ENSG00000042832"],
        }
        # the first gene of a symbol; any version of an id
        assert sets == {
            "A": ["ENSG00000186081.11", "ENSG00000042832.11"],
            "B set": ["ALB", "ENSG00000042832.11"],
        }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no gene set"),
        ("A KRT5 TG\n", "line 1.*separated by tabs"),
        ("A\tna\n", "line 1"),
        ("A\tna\tTG\nA\tna\tALB\n", "line 2: a second set 'A'"),
        ("\tna\tTG\n", "line 1"),
    ],
)
def test_gmt_that_is_none(tmp_path, text, match):
    (tmp_path / "s.gmt").write_text(text)
    with pytest.raises(InputError, match=match):
        gene_set_files.read_gmt(tmp_path / "s.gmt")


def test_sets_of_another_species_are_refused():
    with pytest.raises(InputError, match="none of the 2 genes"):
        gene_set_files.of_genes({"A": ["Krt5", "Tg"]}, MEDIANS_DF)
    with pytest.raises(FileNotFoundError):
        gene_set_files.read_gmt("/nowhere/s.gmt")


def test_terms_inherit_over_is_a_and_part_of_alone():
    edges = [("GO:2", "is_a", "GO:1"), ("GO:3", "part_of", "GO:2"), ("GO:4", "regulates", "GO:1")]
    edges_df = pd.DataFrame([*edges, ("GO:1", "is_a", "GO:2")], columns=["child", "relation", "parent"])
    names = {"GO:1": "root", "GO:3": "leaf"}
    terms = {"GO:1", "GO:2", "GO:3", "GO:4", "GO:9"}
    ontology = gene_ontology.Ontology(terms, {"GO:9"}, {"GO:33": "GO:3"}, edges_df, names, "")
    pairs = [("TG", "GO:33"), ("ALB", "GO:4"), ("KRT5", "GO:9"), ("ABSENT", "GO:1")]
    pairs_df = pd.DataFrame(pairs, columns=["symbol", "term"])
    synonyms_df = pd.DataFrame(
        [("TG", "THYG"), ("ALB", "x"), ("KRT5", "K5"), ("ABSENT", "y")], columns=["symbol", "synonym"]
    )
    annotations = gene_ontology.Annotations(pairs_df, synonyms_df, "")
    medians_df = pd.DataFrame({"symbol": ["THYG", "ALB", "KRT5"]}, index=["ENSG1", "ENSG2", "ENSG3"])
    assert gene_set_files.sets_of_terms(ontology, annotations, medians_df) == {
        "GO:1 root": ["ENSG1"],
        "GO:2": ["ENSG1"],
        "GO:3 leaf": ["ENSG1"],
        "GO:4": ["ENSG2"],
    }


@needs_go
def test_autophagy_in_the_real_ontology():
    """Its genes are those of all terms below it, found by walking down instead of up."""
    ontology, annotations = gene_ontology.read_obo(OBO), gene_ontology.read_gaf(GAF)
    symbols = sorted(annotations.pairs_df["symbol"].unique())
    medians_df = pd.DataFrame({"symbol": symbols}, index=symbols)
    sets = gene_set_files.sets_of_terms(ontology, annotations, medians_df)
    edges_df = ontology.edges_df[ontology.edges_df["relation"].isin(["is_a", "part_of"])]
    children = edges_df.groupby("parent")["child"].agg(set).to_dict()
    below, waiting = {"GO:0006914"}, {"GO:0006914"}
    while waiting:
        new = children.get(waiting.pop(), set()) - below
        below |= new
        waiting |= new
    primary = annotations.pairs_df["term"].map(lambda term: ontology.alt_ids.get(term, term))
    expected = set(annotations.pairs_df.loc[primary.isin(below), "symbol"])
    assert set(sets["GO:0006914 autophagy"]) == expected
    assert len(expected) == 300
    assert sum(10 <= len(genes) <= 500 for genes in sets.values()) > 8000
