"""gene_ontology: file formats, inheritance over relations, matching genes, Table 6 with real GO files."""

import gzip
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from real_data import MIRROR

import lib
from lib.cohort import gene_ontology

ROOT = Path(lib.__file__).parents[1]
GO = MIRROR / "go"
OBO, GAF = GO / "go_2022-07-01.obo.gz", GO / "goa_human_2022-09.gaf.gz"
needs_go = pytest.mark.skipif(not (OBO.is_file() and GAF.is_file()), reason=f"no GO files in {GO}")
IS_A, PART_OF = ("is_a",), ("is_a", "part_of")

TINY_OBO = """format-version: 1.2
data-version: releases/2024-01-17
ontology: go

[Term]
id: GO:0032502
alt_id: GO:0044767

[Term]
id: GO:0000010
is_a: GO:0032502 ! developmental process

[Term]
id: GO:0000011
relationship: part_of GO:0000010 ! a kind of development

[Term]
id: GO:0000012
is_a: GO:0000099 {source="x"} ! regulation
relationship: positively_regulates GO:0000011 ! a part of a kind

[Term]
id: GO:0000013
relationship: has_part GO:0032502 ! developmental process

[Term]
id: GO:0000014
is_a: GO:0032502
is_obsolete: true

[Term]
id: GO:0000099

[Term]
id: GO:0140110

[Typedef]
id: part_of
is_transitive: true
is_a: overlaps
"""


def gaf_row(symbol, term, qualifier="involved_in", synonyms="", object_id=None, date="20240102") -> str:
    fields = ["UniProtKB", object_id or f"P-{symbol}", symbol, qualifier, term, "PMID:1", "IDA", "", "P",
              f"protein {symbol}!", synonyms, "protein", "taxon:9606", date, "GOC", "", ""]  # fmt: skip
    return "\t".join(fields)


TINY_ROWS = [
    gaf_row("ROOTED", "GO:0032502"),
    gaf_row("SECONDARY", "GO:0044767"),
    gaf_row("KIND", "GO:0000010", synonyms="OLDKIND|SHARED|ENSG00000000001"),
    gaf_row("KIND", "GO:0032502", qualifier="NOT|involved_in"),
    gaf_row("PART", "GO:0000011", synonyms="SHARED"),
    gaf_row("REGULATOR", "GO:0000012"),
    gaf_row("HAS", "GO:0000013"),
    gaf_row("OBSOLETE", "GO:0000014"),
    gaf_row("UNKNOWN", "GO:9999999"),
    gaf_row("NOTGENE", "GO:0032502", qualifier="NOT|involved_in"),
    gaf_row("TF", "GO:0140110", qualifier="enables"),
    gaf_row("TF", "GO:0000010", object_id="P-TF-isoform", date="20240105"),
]


@pytest.fixture
def tiny(tmp_path) -> tuple[Path, Path]:
    obo, gaf = tmp_path / "tiny.obo", tmp_path / "tiny.gaf.gz"
    obo.write_text(TINY_OBO, encoding="utf-8")
    write_gaf(gaf, TINY_ROWS)
    return obo, gaf


def write_gaf(
    path: Path, rows: list[str], header: str = "!gaf-version: 2.2\n!date-generated: 2024-01-09T12:00\n"
):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(header + "\n".join(rows) + "\n")


def test_read_obo(tiny):
    ontology = gene_ontology.read_obo(tiny[0])
    assert ontology.release == "2024-01-17"
    assert len(ontology.terms) == 8
    assert "part_of" not in ontology.terms  # a [Typedef] is not a term
    assert ontology.alt_ids == {"GO:0044767": "GO:0032502"}
    assert ontology.obsolete == {"GO:0000014"}
    assert len(ontology.edges_df) == 6


def test_read_gaf(tiny):
    annotations = gene_ontology.read_gaf(tiny[1])
    assert annotations.release == "2024-01-09"
    pairs = set(annotations.pairs_df.itertuples(index=False, name=None))
    assert ("NOTGENE", "GO:0032502") not in pairs
    assert ("KIND", "GO:0032502") not in pairs
    assert len(pairs) == 10
    synonyms = annotations.synonyms_df.groupby("symbol")["synonym"].apply(set)
    assert synonyms["KIND"] == {"P-KIND", "OLDKIND", "SHARED", "ENSG00000000001"}
    assert synonyms["TF"] == {"P-TF", "P-TF-isoform"}


def test_gaf_without_a_date_is_dated_by_its_latest_row(tmp_path):
    path = tmp_path / "no_date.gaf.gz"
    write_gaf(path, TINY_ROWS, header="!gaf-version: 2.1\n")
    assert gene_ontology.read_gaf(path).release == "2024-01-05"


def test_plain_and_gzipped_are_the_same(tiny, tmp_path):
    zipped = tmp_path / "zipped.obo"  # the content decides, not the name
    zipped.write_bytes(gzip.compress(TINY_OBO.encode()))
    plain = tmp_path / "plain.gaf"
    plain.write_bytes(gzip.decompress(tiny[1].read_bytes()))
    pd.testing.assert_frame_equal(
        gene_ontology.go_filter(["KIND"], *tiny), gene_ontology.go_filter(["KIND"], zipped, plain)
    )


@pytest.mark.parametrize(
    ("relations", "developmental"),
    [
        (IS_A, {"ROOTED", "SECONDARY", "KIND", "TF"}),
        (PART_OF, {"ROOTED", "SECONDARY", "KIND", "TF", "PART"}),
        (gene_ontology.RELATIONS, {"ROOTED", "SECONDARY", "KIND", "TF", "PART", "REGULATOR"}),
        ((*PART_OF, "negatively_regulates"), {"ROOTED", "SECONDARY", "KIND", "TF", "PART"}),
        (("has_part",), {"ROOTED", "SECONDARY", "HAS"}),
    ],
)
def test_annotations_are_inherited_over_the_relations(tiny, monkeypatch, relations, developmental):
    monkeypatch.setattr(gene_ontology, "RELATIONS", relations)
    genes = sorted({row.split("\t")[2] for row in TINY_ROWS})
    df = gene_ontology.go_filter(genes, *tiny)
    assert set(df.loc[df["developmental"], "gene"]) == developmental


def test_go_filter_columns(tiny):
    genes = ["TF", "ROOTED", "KIND", "ABSENT", "OBSOLETE", "UNKNOWN", "TF"]
    df = gene_ontology.go_filter(genes, *tiny)
    assert df["gene"].tolist() == genes
    assert df["developmental"].tolist() == [True, True, True, False, False, False, True]
    assert df["developmental_direct"].tolist() == [False, True, False, False, False, False, False]
    assert df["transcription_regulator"].tolist() == [True, False, False, False, False, False, True]
    assert df["transcription_regulator_direct"].tolist() == [True, False, False, False, False, False, True]
    assert df["passes"].tolist() == [True, True, True, False, False, False, True]
    assert df["matched_by"].tolist() == ["symbol"] * 3 + ["not found"] + ["symbol"] * 3
    assert df.loc[0, "developmental_n_terms"] == 1
    assert set(df["go_release"]) == {"2024-01-17"}
    assert set(df["gaf_release"]) == {"2024-01-09"}
    assert df["passes"].dtype == bool


def test_old_symbols_and_ids(tiny):
    annotations = gene_ontology.read_gaf(tiny[1])
    matches = {
        "OLDKIND": ("KIND", "synonym"),
        "SHARED": ("", "ambiguous synonym"),
        "ENSG00000000001.7": ("KIND", "ensembl"),
        "PART": ("PART", "symbol"),
        "P-TF": ("TF", "synonym"),
        "ENSG00000000009": ("", "not found"),
    }
    df = gene_ontology.match_genes(list(matches), annotations).set_index("gene")
    assert dict(zip(df.index, df.itertuples(index=False, name=None), strict=True)) == matches


def test_descendants_equal_powers_of_the_adjacency_matrix():
    rng = np.random.default_rng(0)
    n = 40
    adjacency = rng.random((n, n)) < 0.03  # with cycles: a broken file must not hang
    names = [f"GO:{i:07d}" for i in range(n)]
    edges = [(names[i], "is_a", names[j]) for i, j in zip(*np.nonzero(adjacency), strict=True)]
    edges_df = pd.DataFrame(edges, columns=["child", "relation", "parent"])
    ontology = gene_ontology.Ontology(set(names), set(), {}, edges_df, {}, "")
    reach = np.linalg.matrix_power((adjacency + np.eye(n)).astype(object), n) > 0
    for j, name in enumerate(names):
        assert gene_ontology.descendants(ontology, name) == {names[i] for i in np.nonzero(reach[:, j])[0]}


@needs_go
@pytest.mark.parametrize(("whole", "read"), [(OBO, gene_ontology.read_obo), (GAF, gene_ontology.read_gaf)])
def test_truncated_file(whole, read, tmp_path):
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=rf"{path}: truncated gzip data .*python -m lib\.gtex go"):
        read(path)


def test_bad_input(tiny, tmp_path):
    obo, gaf = tiny
    page = tmp_path / "page.html"
    page.write_text("<html>\nnot found\n</html>\n")
    foreign, empty = tmp_path / "foreign.gaf.gz", tmp_path / "empty.gaf.gz"
    write_gaf(foreign, [gaf_row("A", "GO:7777777")])
    write_gaf(empty, [])
    for files, error, said in [
        ((tmp_path / "absent.obo", gaf), FileNotFoundError, r"absent\.obo: no such file; .*lib\.gtex go"),
        ((obo, tmp_path / "absent.gaf"), FileNotFoundError, r"absent\.gaf: no such file"),
        ((page, gaf), ValueError, r"page\.html: no \[Term\]"),
        ((obo, page), ValueError, r"page\.html: not a GAF"),
        ((obo, obo), ValueError, r"tiny\.obo: not a GAF"),
        ((obo, empty), ValueError, r"empty\.gaf\.gz: not a GAF"),
        ((obo, foreign), ValueError, "share no GO term; the first has 'GO:7777777'"),
    ]:
        with pytest.raises(error, match=said):
            gene_ontology.go_filter(["A"], *files)
    ontology = gene_ontology.read_obo(obo)
    with pytest.raises(ValueError, match=r"GO:0000000 is missing from the Gene Ontology of 2024-01-17"):
        gene_ontology.descendants(ontology, "GO:0000000")
    with pytest.raises(ValueError, match="GO:0000014 is obsolete in"):
        gene_ontology.descendants(ontology, "GO:0000014")


# ------------------------------------------------------------------------------------------ real files


@pytest.fixture(scope="module")
def real():
    return gene_ontology.read_obo(OBO), gene_ontology.read_gaf(GAF)


@needs_go
@pytest.mark.parametrize(
    ("relations", "n_passing"), [(IS_A, 144), (PART_OF, 166), (gene_ontology.RELATIONS, 179)]
)
def test_table6_with_real_files(real, monkeypatch, relations, n_passing):
    monkeypatch.setattr(gene_ontology, "RELATIONS", relations)
    genes = pd.read_csv(ROOT / "data" / "reference" / "paper_table6.csv")["gene"].tolist()
    df = gene_ontology.mark_genes(genes, *real)
    assert df["passes"].sum() == n_passing
    assert df.set_index("gene").loc["G6PC", "matched_by"] == "not found"
    assert set(df["go_release"]) == {"2022-07-01"}
    assert set(df["gaf_release"]) == {"2022-09-12"}


@needs_go
def test_an_ensembl_id_finds_a_renamed_gene(real):
    match_df = gene_ontology.match_genes(["ENSG00000131482.9", "G6PC"], real[1])
    assert match_df["symbol"].tolist() == ["G6PC1", ""]


@needs_go
def test_known_transcription_regulators():
    started = time.process_time()
    genes = ["NKX2-1", "PAX8", "FOXE1", "POU1F1", "ZIC1", "NEUROD1", "HMGB1", "TG", "ALB", "INS"]
    df = gene_ontology.go_filter(genes, OBO, GAF).set_index("gene")
    assert df.loc[["NKX2-1", "PAX8", "FOXE1", "POU1F1", "ZIC1", "NEUROD1"], "transcription_regulator"].all()
    assert not df.loc[["TG", "ALB", "INS"], "transcription_regulator"].any()
    assert time.process_time() - started < 10  # CPU seconds; 2 to 4 measured
