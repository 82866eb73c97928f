"""The readers of the portal's and a release's tables, on good and bad files."""

import gzip

import pandas as pd
import pytest
from gtex_factory import portal_rows, write_portal

from lib.sources.gtex_tables import (
    read_gene_models,
    read_portal,
    read_sample_attributes,
    read_subject_phenotypes,
)


@pytest.fixture
def portal_df(tmp_path) -> pd.DataFrame:
    return read_portal(write_portal(tmp_path / "portal.csv", portal_rows()))


def test_portal_with_other_names_and_order(tmp_path, portal_df):
    rows = [[r[1], r[7], r[0], r[6]] for r in portal_rows()]
    other = write_portal(
        tmp_path / "other.csv", rows, "tissueSiteDetail,pathology_notes,TISSUE.SAMPLE.ID,extra"
    )
    df = read_portal(other)
    for column in ("sample_id", "tissue", "donor", "pathology_notes"):
        assert df[column].tolist() == portal_df[column].tolist()
    assert set(df["sex"]) == {""}
    tabbed = tmp_path / "tabbed.txt"
    tabbed.write_text("\ufeffTissue Sample ID\tTissue\nGTEX-1AB0-0126\tLiver\n", encoding="utf-8")
    assert read_portal(tabbed)["donor"].tolist() == ["GTEX-1AB0"]


def test_bad_portal_tables(tmp_path):
    with pytest.raises(FileNotFoundError, match="histology table"):
        read_portal(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=r"no column for \['sample_id'\]; it has \['a', 'Tissue'\]"):
        read_portal(write_portal(tmp_path / "a.csv", [["1", "Liver"]], "a,Tissue"))
    rows = portal_rows()
    with pytest.raises(ValueError, match="1 occur more than once, first \\['GTEX-1AB0-0126'\\]"):
        read_portal(write_portal(tmp_path / "b.csv", [*rows, rows[0]]))
    rows[2][0] = "../evil"
    with pytest.raises(ValueError, match="1 are not like"):
        read_portal(write_portal(tmp_path / "c.csv", rows))


def test_a_packed_portal_table(tmp_path, portal_df):
    whole = gzip.compress((tmp_path / "portal.csv").read_bytes())
    for name in ("portal.csv.gz", "packed.csv"):
        (tmp_path / name).write_bytes(whole)
        pd.testing.assert_frame_equal(read_portal(tmp_path / name), portal_df)
        (tmp_path / name).write_bytes(whole[:100])
        with pytest.raises(ValueError, match=f"{tmp_path / name}: truncated gzip data"):
            read_portal(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Tissue Sample ID,Tissue\nGTEX-1AB0-0126,Liver\n".encode("utf-16"), "not UTF-8 text .*spreadsheet"),
        ("Tissue Sample ID,Tissue\nGTEX-1AB0-0126,5 \xb5m\n".encode("latin-1"), "not UTF-8 text .*byte"),
        (b"", "the file is empty; it should be the GTEx portal's"),
        (b"Tissue Sample ID,Tissue\nGTEX-1AB0-0126,Liver\na,b,c,d\n", "not a table"),
        (
            b"Tissue Sample ID,Tissue\nGTEX-1AB0-0126,Liver\nGTEX-1AB0-0226,\n",
            r"column 'Tissue' is empty for 1 samples, first \['GTEX-1AB0-0226'\]",
        ),
    ],
)
def test_a_portal_table_that_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'p.csv'}: {message}"):
        read_portal(tmp_path / "p.csv")


def test_the_site_detail_is_the_tissue(tmp_path):
    rows = [["GTEX-1AB0-0126", "Skin", "Skin - Sun Exposed (Lower leg)"]]
    for header in ("Tissue Sample ID,Tissue,Tissue Site Detail", "Tissue Sample ID,SMTS,SMTSD"):
        df = read_portal(write_portal(tmp_path / "p.csv", rows, header))
        assert df["tissue"].tolist() == ["Skin - Sun Exposed (Lower leg)"]


def test_missing_and_strange_numbers_of_attributes(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("SAMPID\tSMRIN\tSMTSISCH\na\t6.5\tNA\nb\t\t-40\n")
    df = read_sample_attributes(path)
    assert df["rin"].fillna(0).tolist() == [6.5, 0]
    assert df["ischaemic_time_min"].fillna(0).tolist() == [0, -40]
    path.write_text("SAMPID\tSMRIN\na\tgood\n")
    with pytest.raises(ValueError, match=r"x\.txt: column SMRIN: 1 cells are not numbers, first \['good'\]"):
        read_sample_attributes(path)


def test_bad_annotation_tables(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("SUBJID\tSEX\tAGE\nA\t3\t50-59\n")
    with pytest.raises(ValueError, match="SEX must be 1"):
        read_subject_phenotypes(path)
    with pytest.raises(ValueError, match=r"columns \['SAMPID'\] are missing"):
        read_sample_attributes(path)


def test_gene_models(tmp_path):
    lines = (
        '#!genome-build GRCh38\nchr1\tHAVANA\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG01.2"; gene_type "lincRNA";'
        ' gene_name "A;1";\nchr1\tHAVANA\texon\t1\t9\t.\t+\t.\tgene_id "ENSG01.2"; gene_name "A;1";\n'
        'chr2\tX\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG02.5"; gene_biotype "protein_coding";\n'
    )
    plain, zipped = tmp_path / "a.gtf", tmp_path / "a.gtf.gz"
    plain.write_text(lines)
    zipped.write_bytes(gzip.compress(lines.encode()))
    for path in (plain, zipped):
        assert read_gene_models(path).to_numpy().tolist() == [
            ["ENSG01.2", "A;1", "lincRNA"],
            ["ENSG02.5", "", "protein_coding"],
        ]
    plain.write_text("gene_id,gene_name\n")
    with pytest.raises(ValueError, match="not a GTF of genes"):
        read_gene_models(plain)
    with pytest.raises(FileNotFoundError, match="GENCODE"):
        read_gene_models(tmp_path / "absent.gtf")
