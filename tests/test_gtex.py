"""lib.gtex and lib.gtex_tables: ids, tables, the samples table with its counts, the command line."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lib
from lib import gtex

MIRROR = Path(os.environ.get("DATA_MIRROR", Path(lib.__file__).parents[2] / "shared" / "data")) / "gtex"
PORTAL, GCT = MIRROR / "GTExPortal.csv", MIRROR / "GTEx_v8_gene_reads.acmg_59.gct.gz"
SUBJECTS = MIRROR / "GTEx_Analysis_v8_Annotations_SubjectPhenotypesDS.txt"
needs_gtex = pytest.mark.skipif(
    not (PORTAL.is_file() and GCT.is_file()), reason=f"no GTEx tables in {MIRROR}"
)

HEADER = (
    '"Tissue Sample ID","Tissue","Subject ID","Sex","Age Bracket","Hardy Scale","Pathology Categories",'
    '"Pathology Notes"'
)
TISSUES = [
    "Liver", "Brain - Cerebellum", "Skin - Sun Exposed (Lower leg)", "Skin - Not Sun Exposed (Suprapubic)",
    "Small Intestine - Terminal Ileum", "Adipose - Visceral (Omentum)", "Adipose - Subcutaneous",
]  # fmt: skip


def portal_rows(n_donors=4) -> list[list[str]]:
    rows = []
    for d in range(n_donors):
        for t, tissue in enumerate(TISSUES[:3]):
            donor = f"GTEX-1AB{d}"
            categories = "fibrosis, steatosis" if t == 0 else ""
            rows.append(
                [
                    f"{donor}-{t + 1:02d}26",
                    tissue,
                    donor,
                    "male",
                    "50-59",
                    "",
                    categories,
                    'says "6 pieces", ok',
                ]
            )
    return rows


@pytest.fixture
def portal_df(tmp_path) -> pd.DataFrame:
    return gtex.read_portal(write_portal(tmp_path / "portal.csv", portal_rows()))


def write_portal(path: Path, rows: list[list[str]], header: str = HEADER) -> Path:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def rna(sample: str, end="SM-5A5LT") -> str:
    return f"{sample}-{end}"


# ------------------------------------------------------------------------------------------- real tables
@needs_gtex
def test_real_tables_join_with_the_known_counts():
    portal_df, rna_ids = gtex.read_portal(PORTAL), gtex.read_rna_ids(GCT)
    assert (len(portal_df), portal_df["tissue"].nunique(), portal_df["donor"].nunique()) == (25713, 40, 980)
    assert len(rna_ids) == 17382
    table = gtex.samples_table(portal_df, rna_ids, subjects_df=gtex.read_subject_phenotypes(SUBJECTS))
    steps = table.steps_df.set_index("step")["n_left"].to_dict()
    assert steps == {
        "tissue samples in the portal table": 25713,
        "RNA samples in the expression table": 17382,
        "RNA samples whose tissue sample has a slide": 13797,
        "of these, ids read with 6 for their final 5": 0,
        "slides with RNA": 13797,
    }
    assert table.rna_df["outcome"].value_counts().to_dict() == {
        "paired": 13797,
        "brain region, no slide of its own": 2146,
        "blood or cell line, no slide": 1433,
        "tissue sample not in table": 6,
    }
    assert len(table.samples_df) == 13797
    # an independent join: plain string slicing against a set
    known = set(portal_df["sample_id"])
    assert sum("-".join(r.split("-")[:3]) in known for r in rna_ids) == 13797
    assert table.samples_df["sex"].isin(["male", "female"]).all()


@needs_gtex
def test_real_cohort_of_the_papers_size():
    portal_df, rna_ids = gtex.read_portal(PORTAL), gtex.read_rna_ids(GCT)
    reference_df = pd.read_csv(Path(lib.__file__).parents[1] / "data" / "reference" / "gtex_tissues.csv")
    paper = reference_df.loc[reference_df["in_paper"], "tissue"].tolist()
    table = gtex.samples_table(portal_df, rna_ids, tissues=paper, max_slides_per_tissue=46)
    assert table.samples_df["tissue"].nunique() == 39
    assert table.samples_df["tissue"].value_counts().max() == 46
    assert 1600 < len(table.samples_df) < 1794


@needs_gtex
def test_real_duplicates_are_kept_together():
    gct = MIRROR / "gtex_tpm_heart_brain_liver_180samples.gct.gz"
    table = gtex.samples_table(gtex.read_portal(PORTAL), gtex.read_rna_ids(gct))
    assert (len(table.samples_df), table.samples_df["n_rna"].sum()) == (126, 127)
    twice = table.samples_df[table.samples_df["n_rna"] == 2].iloc[0]
    assert all(name.startswith(twice["sample_id"] + "-") for name in twice["rna_ids"].split("|"))


@needs_gtex
def test_portal_and_phenotypes_agree():
    portal_df = gtex.read_portal(PORTAL).drop_duplicates("donor").set_index("donor")
    subjects_df = gtex.read_subject_phenotypes(SUBJECTS).set_index("donor")
    both = portal_df.index.intersection(subjects_df.index)
    assert len(both) > 950
    for column in ("sex", "age_bracket"):
        assert (portal_df.loc[both, column] == subjects_df.loc[both, column]).all()
    stated = subjects_df.loc[both, "hardy_scale"].ne("") & portal_df.loc[both, "hardy_scale"].ne("")
    assert stated.sum() > 900
    assert (portal_df.loc[both, "hardy_scale"] == subjects_df.loc[both, "hardy_scale"])[stated].all()


# -------------------------------------------------------------------------------------------- the join
def test_steps_duplicates_and_endings(portal_df):
    rna_ids = [
        rna("GTEX-1AB0-0126"), rna("GTEX-1AB0-0126", "SM-XXXXX"), rna("GTEX-1AB1-0126"),
        rna("GTEX-1AB2-0125"), rna("GTEX-1AB0-0226"), rna("GTEX-1AB0-0011-R11a"), rna("GTEX-1AB0-0005"),
        rna("GTEX-9ZZZ-0126"),
    ]  # fmt: skip
    table = gtex.samples_table(portal_df, rna_ids)
    samples_df = table.samples_df.set_index("sample_id")
    assert samples_df.loc["GTEX-1AB0-0126", "rna_ids"] == "|".join(rna_ids[:2])
    assert samples_df["n_rna"].to_dict() == {
        "GTEX-1AB0-0126": 2, "GTEX-1AB1-0126": 1, "GTEX-1AB2-0126": 1, "GTEX-1AB0-0226": 1
    }  # fmt: skip
    assert (samples_df["slide_id"] == samples_df.index).all()
    assert samples_df.loc["GTEX-1AB0-0126", "pathology_notes"] == 'says "6 pieces", ok'
    outcomes = table.rna_df.set_index("rna_id")["outcome"]
    assert outcomes[rna("GTEX-1AB0-0011-R11a")] == "brain region, no slide of its own"
    assert outcomes[rna("GTEX-1AB0-0005")] == "blood or cell line, no slide"
    assert outcomes[rna("GTEX-9ZZZ-0126")] == "tissue sample not in table"
    steps = table.steps_df.set_index("step")
    assert steps.loc["RNA samples whose tissue sample has a slide", ["n_left", "n_dropped"]].tolist() == [
        5,
        3,
    ]
    assert steps.loc["of these, ids read with 6 for their final 5", "n_left"] == 1
    assert steps.loc["slides with RNA", "note"].startswith("1 with several")
    assert list(table.samples_df.columns[:4]) == ["sample_id", "slide_id", "tissue", "donor"]


def test_an_id_that_exists_is_never_mapped():
    df = gtex.match_sample_ids(
        ["GTEX-A-0125", "GTEX-A-0126", "GTEX-B-0225", "GTEX-C-0125-SM-1"],
        known=["GTEX-A-0125", "GTEX-A-0126", "GTEX-B-0226"],
    )
    assert df["sample_id"].tolist() == ["GTEX-A-0125", "GTEX-A-0126", "GTEX-B-0226", ""]
    assert df["ends_mapped"].tolist() == [False, False, True, False]


def test_caps_are_nested_and_steady(portal_df):
    rna_ids = [rna(s) for s in portal_df["sample_id"]]
    one = set(gtex.samples_table(portal_df, rna_ids, max_slides_per_tissue=1).samples_df["sample_id"])
    two = set(gtex.samples_table(portal_df, rna_ids, max_slides_per_tissue=2).samples_df["sample_id"])
    assert len(one) == 3
    assert len(two) == 6
    assert one < two
    backwards = gtex.samples_table(portal_df[::-1], rna_ids[::-1], max_slides_per_tissue=2).samples_df
    assert set(backwards["sample_id"]) == two
    seeds = [
        frozenset(
            gtex.samples_table(portal_df, rna_ids, max_slides_per_tissue=1, seed=s).samples_df["sample_id"]
        )
        for s in range(8)
    ]
    assert len(set(seeds)) > 1
    by_tissue = gtex.samples_table(
        portal_df, rna_ids, max_slides_per_tissue={"brain—cerebellum": 1}
    ).samples_df
    assert by_tissue["tissue"].value_counts().to_dict() == {TISSUES[0]: 4, TISSUES[1]: 1, TISSUES[2]: 4}


def test_tissue_filter_and_minimum(portal_df):
    rna_ids = [rna(s) for s in portal_df["sample_id"]][:-1]  # one skin slide less
    table = gtex.samples_table(
        portal_df, rna_ids, tissues=["Liver", "Skin—Sun Exposed"], min_slides_per_tissue=4
    )
    assert set(table.samples_df["tissue"]) == {"Liver"}
    assert table.steps_df["n_left"].tolist()[-2:] == [7, 4]
    with pytest.raises(ValueError, match="no slide is left"):
        gtex.samples_table(portal_df, rna_ids, min_slides_per_tissue=100)


def test_covariates(portal_df, tmp_path):
    attributes = tmp_path / "attributes.txt"
    attributes.write_text(
        "SAMPID\tSMATSSCR\tSMRIN\tSMTSD\tSMTSISCH\tSMUNUSED\n"
        f"{rna('GTEX-1AB0-0126')}\t1\t6.0\tLiver\t100\tx\n"
        f"{rna('GTEX-1AB0-0126', 'SM-2')}\t\t8.0\tLiver\t300\tx\n"
        f"{rna('GTEX-1AB1-0126')}\t2\t\tLiver\t-40\tx\n"
    )
    subjects = tmp_path / "subjects.txt"
    subjects.write_text("SUBJID\tSEX\tAGE\tDTHHRDY\nGTEX-1AB0\t2\t60-69\t0\nGTEX-1AB1\t1\t20-29\t\n")
    rna_ids = [rna("GTEX-1AB0-0126"), rna("GTEX-1AB0-0126", "SM-2"), rna("GTEX-1AB1-0126")]
    portal_df.loc[portal_df["donor"] == "GTEX-1AB0", "sex"] = ""
    table = gtex.samples_table(
        portal_df, rna_ids, gtex.read_sample_attributes(attributes), gtex.read_subject_phenotypes(subjects)
    )
    df = table.samples_df.set_index("sample_id")
    assert df["rin"].tolist()[0] == 7.0
    assert np.isnan(df.loc["GTEX-1AB1-0126", "rin"])
    assert df["ischaemic_time_min"].tolist() == [200.0, -40.0]  # before death counts as negative in GTEx
    assert df["autolysis_score"].tolist() == [1.0, 2.0]
    assert df["sex"].tolist() == ["female", "male"]  # filled from the phenotypes; the portal's word stands
    assert df["hardy_scale"].tolist() == ["Ventilator case", ""]
    assert df["age_bracket"].tolist() == ["50-59", "50-59"]
    with pytest.raises(ValueError, match="no RNA sample occurs in the sample attributes"):
        gtex.samples_table(portal_df, [rna("GTEX-1AB2-0126")], gtex.read_sample_attributes(attributes))


def test_pathology_indicators(portal_df):
    df = gtex.pathology_indicators(portal_df, min_samples=4)
    assert list(df.columns) == ["pathology_fibrosis", "pathology_steatosis"]
    assert (df["pathology_fibrosis"] == portal_df["tissue"].eq("Liver")).all()
    assert gtex.pathology_indicators(portal_df, min_samples=5).shape == (len(portal_df), 0)


# ------------------------------------------------------------------------------------------- tissue names
@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("Liver", "Liver"),
        ("liver", "Liver"),
        ("Brain—Cerebellum", "Brain - Cerebellum"),
        ("Brain – Cerebellum", "Brain - Cerebellum"),
        ("Brain_Cerebellum", "Brain - Cerebellum"),
        ("Skin—Sun Exposed", "Skin - Sun Exposed (Lower leg)"),
        ("Skin—Not Sun Exposed", "Skin - Not Sun Exposed (Suprapubic)"),
        ("Skin_Sun_Exposed_Lower_leg", "Skin - Sun Exposed (Lower leg)"),
        ("Adipose—Visceral (Omentum)", "Adipose - Visceral (Omentum)"),
        ("Adipose - Visceral", "Adipose - Visceral (Omentum)"),
    ],
)
def test_match_tissue(name, tissue):
    assert gtex.match_tissue(name, TISSUES) == tissue


def test_match_tissue_refuses():
    with pytest.raises(ValueError, match="nearest: \\['Liver'"):
        gtex.match_tissue("Livre", TISSUES)
    with pytest.raises(ValueError, match="can mean"):
        gtex.match_tissue("skin", ["Skin (a)", "Skin (b)"])


def test_every_tissue_of_table6_is_understood():
    reference = Path(lib.__file__).parents[1] / "data" / "reference"
    vocabulary = pd.read_csv(reference / "gtex_tissues.csv")["tissue"]
    for row in pd.read_csv(reference / "paper_table6.csv").itertuples():
        names = [gtex.match_tissue(name, vocabulary) for name in row.paper_tissue.split("; ")]
        assert "; ".join(names) == row.tissue


# --------------------------------------------------------------------------------------------- bad tables
def test_portal_with_other_names_and_order(tmp_path, portal_df):
    rows = [[r[1], r[7], r[0], r[6]] for r in portal_rows()]
    other = write_portal(
        tmp_path / "other.csv", rows, "tissueSiteDetail,pathology_notes,TISSUE.SAMPLE.ID,extra"
    )
    df = gtex.read_portal(other)
    for column in ("sample_id", "tissue", "donor", "pathology_notes"):
        assert df[column].tolist() == portal_df[column].tolist()
    assert set(df["sex"]) == {""}
    tabbed = tmp_path / "tabbed.txt"
    tabbed.write_text("\ufeffTissue Sample ID\tTissue\nGTEX-1AB0-0126\tLiver\n", encoding="utf-8")
    assert gtex.read_portal(tabbed)["donor"].tolist() == ["GTEX-1AB0"]


def test_bad_portal_tables(tmp_path):
    with pytest.raises(FileNotFoundError, match="histology table"):
        gtex.read_portal(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=r"no column for \['sample_id'\]; it has \['a', 'Tissue'\]"):
        gtex.read_portal(write_portal(tmp_path / "a.csv", [["1", "Liver"]], "a,Tissue"))
    rows = portal_rows()
    with pytest.raises(ValueError, match="1 occur more than once, first \\['GTEX-1AB0-0126'\\]"):
        gtex.read_portal(write_portal(tmp_path / "b.csv", [*rows, rows[0]]))
    rows[2][0] = "../evil"
    with pytest.raises(ValueError, match="1 are not like"):
        gtex.read_portal(write_portal(tmp_path / "c.csv", rows))


def test_bad_annotation_tables(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("SUBJID\tSEX\tAGE\nA\t3\t50-59\n")
    with pytest.raises(ValueError, match="SEX is 1"):
        gtex.read_subject_phenotypes(path)
    with pytest.raises(ValueError, match=r"columns \['SAMPID'\] are missing"):
        gtex.read_sample_attributes(path)


def test_rna_ids_from_plain_and_zipped_gct(tmp_path):
    text = "#1.2\n2\t3\nName\tDescription\tA\tB\tC\ng1\tG1\t1\t2\t3\n"
    plain, zipped = tmp_path / "a.gct", tmp_path / "a.gct.gz"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    assert gtex.read_rna_ids(plain) == gtex.read_rna_ids(zipped) == ["A", "B", "C"]
    plain.write_text(text.replace("\tC", "\tA"))
    with pytest.raises(ValueError, match="first \\['A'\\]"):
        gtex.read_rna_ids(plain)
    plain.write_text("gene,A,B\ng1,1,2\n")
    with pytest.raises(ValueError, match="not a GCT"):
        gtex.read_rna_ids(plain)
    with pytest.raises(FileNotFoundError, match="gene TPM"):
        gtex.read_rna_ids(tmp_path / "absent.gct")


def test_empty_join_shows_both_sides(portal_df):
    with pytest.raises(ValueError, match=r"TCGA-AA-0001.*\(4\).*GTEX-1AB0-0126.*\(12\)"):
        gtex.samples_table(portal_df, [f"TCGA-AA-000{i}" for i in range(1, 5)])


# -------------------------------------------------------------------------------------------- slide files
def test_slide_files():
    file = gtex.slide_files(["GTEX-117YW-0126"], "slides", "http://x/image")[0]
    assert file.path == Path("slides/GTEX-117YW-0126.svs")
    assert file.urls == ("http://x/image/GTEX-117YW-0126", "http://x/image/GTEX-117YW-0125")
    assert len(gtex.slide_files(["GTEX-117YW-0124"], "slides")[0].urls) == 1
    with pytest.raises(ValueError, match=r"'\.\./x' is not a GTEx"):
        gtex.slide_files(["../x"], "slides")


def test_find_slides(tmp_path):
    for name in ("GTEX-1AB0-0125", "GTEX-1AB1-0126", "GTEX-9ZZZ-0126"):
        (tmp_path / f"{name}.svs").write_bytes(b"")
    known = ["GTEX-1AB0-0126", "GTEX-1AB1-0126"]
    df = gtex.find_slides(tmp_path, known)
    assert df["sample_id"].tolist() == ["GTEX-1AB0-0126", "GTEX-1AB1-0126", ""]
    assert df["ends_mapped"].tolist() == [True, False, False]
    (tmp_path / "GTEX-1AB0-0126.svs").write_bytes(b"")
    with pytest.raises(ValueError, match="2 files share samples"):
        gtex.find_slides(tmp_path, known)


# ------------------------------------------------------------------------------------------- command line
def test_command_line_errors(tmp_path, capsys):
    portal = str(write_portal(tmp_path / "portal.csv", portal_rows()))
    assert gtex.main(["download", "--tissue", "Livre", "--portal", portal]) == 2
    assert "nearest: ['Liver'" in capsys.readouterr().err
    assert gtex.main(["download", "--portal", str(tmp_path / "absent.csv")]) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gtex.main(["download", "--max-slides", "0"])
    nowhere = ["--base-url", "http://127.0.0.1:9", "--folder", str(tmp_path / "s"), "--interval", "0"]
    assert (
        gtex.main(["download", "--tissue", "liver", "--max-slides", "2", "--portal", portal, *nowhere]) == 2
    )
    assert "No server could be reached" in capsys.readouterr().err
