"""lib.gtex_tables: the portal's and a release's tables, well-formed and not."""

import gzip

import pandas as pd
import pytest
from gtex_factory import portal_rows, write_portal

from lib.gtex_tables import read_gene_models, read_portal, read_sample_attributes, read_subject_phenotypes


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


def test_bad_annotation_tables(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("SUBJID\tSEX\tAGE\nA\t3\t50-59\n")
    with pytest.raises(ValueError, match="SEX is 1"):
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
