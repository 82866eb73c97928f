"""GTEx's ids and tissue names, and the samples table with a count of every step."""

import numpy as np
import pandas as pd
import pytest
from gtex_factory import GTEX, TISSUES, needs_gtex, portal_rows, rna, write_portal

from lib.cohort import expression
from lib.cohort.gtex_ids import match_sample_ids, match_tissue
from lib.cohort.pairing import pair_rna
from lib.config import ROOT
from lib.sources.gtex_samples import SampleChoice, pathology_indicators, samples_table
from lib.sources.gtex_tables import read_portal, read_sample_attributes, read_subject_phenotypes

PORTAL, GCT = GTEX / "GTExPortal.csv", GTEX / "GTEx_v8_gene_reads.acmg_59.gct.gz"
SUBJECTS = GTEX / "GTEx_Analysis_v8_Annotations_SubjectPhenotypesDS.txt"
REFERENCE = ROOT / "data" / "reference"


@pytest.fixture
def portal_df(tmp_path) -> pd.DataFrame:
    return read_portal(write_portal(tmp_path / "portal.csv", portal_rows()))


@pytest.fixture(scope="module")
def real_df():
    return read_portal(PORTAL)


def chosen(portal_df, rna_ids=None, listed=None, **choice):
    """The samples table of this choice; of RNA of all samples if none is given."""
    rna_ids = [rna(s) for s in portal_df["sample_id"]] if rna_ids is None else rna_ids
    return samples_table(portal_df, rna_ids, choice=SampleChoice(**choice), listed=listed)


# -------------------------------------------------------------------------------------- real tables
@needs_gtex
def test_real_tables_join_with_the_known_counts(real_df):
    portal_df, rna_ids = real_df, expression.rna_ids(GCT)
    assert (len(portal_df), portal_df["tissue"].nunique(), portal_df["donor"].nunique()) == (25713, 40, 980)
    assert len(rna_ids) == 17382
    table = samples_table(portal_df, rna_ids, subjects_df=read_subject_phenotypes(SUBJECTS))
    steps = table.steps_df.set_index("step")["n_left"].to_dict()
    assert steps == {
        "tissue samples in the portal table": 25713,
        "RNA samples in the expression table": 17382,
        "RNA samples whose tissue sample has a slide": 13797,
        "of these, matched by reading a final 5 as 6": 0,
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
def test_real_cohort_of_the_papers_size(real_df):
    paper = pd.read_csv(REFERENCE / "gtex_tissues.csv").query("in_paper")["tissue"].tolist()
    table = chosen(real_df, expression.rna_ids(GCT), tissues=paper, max_slides=46)
    assert table.samples_df["tissue"].nunique() == 39
    assert table.samples_df["tissue"].value_counts().max() == 46
    assert 1600 < len(table.samples_df) < 1794


@needs_gtex
def test_real_duplicates_are_kept_together(real_df):
    table = chosen(real_df, expression.rna_ids(GTEX / "gtex_tpm_heart_brain_liver_180samples.gct.gz"))
    assert (len(table.samples_df), table.samples_df["n_rna"].sum()) == (126, 127)
    twice = table.samples_df[table.samples_df["n_rna"] == 2].iloc[0]
    assert all(name.startswith(twice["sample_id"] + "-") for name in twice["rna_ids"].split("|"))


@needs_gtex
def test_portal_and_phenotypes_agree(real_df):
    portal_df = real_df.drop_duplicates("donor").set_index("donor")
    subjects_df = read_subject_phenotypes(SUBJECTS).set_index("donor")
    both = portal_df.index.intersection(subjects_df.index)
    assert len(both) > 950
    for column in ("sex", "age_bracket"):
        assert (portal_df.loc[both, column] == subjects_df.loc[both, column]).all()
    stated = subjects_df.loc[both, "hardy_scale"].ne("") & portal_df.loc[both, "hardy_scale"].ne("")
    assert stated.sum() > 900
    assert (portal_df.loc[both, "hardy_scale"] == subjects_df.loc[both, "hardy_scale"])[stated].all()


# ----------------------------------------------------------------------------------------- the join
def test_steps_duplicates_and_endings(portal_df):
    portal_df["sample_id"] = portal_df["sample_id"].replace("GTEX-1AB2-0126", "GTEX-1AB2-0125")
    rna_ids = [
        rna("GTEX-1AB0-0126"), rna("GTEX-1AB0-0126", "SM-9WYT2"), rna("GTEX-1AB1-0126"),
        rna("GTEX-1AB2-0126"), rna("GTEX-1AB0-0226"), rna("GTEX-1AB0-0011-R11a"), rna("GTEX-1AB0-0005"),
        rna("GTEX-9ZZZ-0126"),
    ]  # fmt: skip
    table = samples_table(portal_df, rna_ids)
    samples_df = table.samples_df.set_index("sample_id")
    assert samples_df.loc["GTEX-1AB0-0126", "rna_ids"] == "|".join(rna_ids[:2])
    assert samples_df["n_rna"].to_dict() == {
        "GTEX-1AB0-0126": 2, "GTEX-1AB1-0126": 1, "GTEX-1AB2-0125": 1, "GTEX-1AB0-0226": 1
    }  # fmt: skip
    assert (samples_df["slide_id"] == samples_df.index).all()
    assert samples_df.loc["GTEX-1AB0-0126", "pathology_notes"] == 'says "6 pieces", ok'
    outcomes = table.rna_df.set_index("rna_id")["outcome"]
    assert outcomes[rna("GTEX-1AB0-0011-R11a")] == "brain region, no slide of its own"
    assert outcomes[rna("GTEX-1AB0-0005")] == "blood or cell line, no slide"
    assert outcomes[rna("GTEX-9ZZZ-0126")] == "tissue sample not in table"
    steps = table.steps_df.set_index("step")
    with_slide = steps.loc["RNA samples whose tissue sample has a slide"]
    assert with_slide[["n_left", "n_dropped"]].tolist() == [5, 3]
    assert steps.loc["of these, matched by reading a final 5 as 6", "n_left"] == 1
    assert steps.loc["slides with RNA", "note"].startswith("1 with several")
    assert list(table.samples_df.columns[:4]) == ["sample_id", "slide_id", "tissue", "donor"]


def test_preparing_and_pairing_agree_on_endings(portal_df):
    """Ids of samples are read with a 6, ids of RNA are not; the later join finds the same."""
    portal_df["sample_id"] = portal_df["sample_id"].replace("GTEX-1AB2-0126", "GTEX-1AB2-0125")
    rna_ids = [
        *(rna("GTEX-1AB0-0125"), rna("GTEX-1AB1-0126"), rna("GTEX-1AB1-0125", "SM-4")),
        *(rna("GTEX-1AB2-0126"), rna("GTEX-1AB2-0126", "SM-2"), rna("GTEX-1AB3-0126-R11a")),
    ]
    table = samples_table(portal_df, rna_ids)
    assert table.samples_df["sample_id"].tolist() == ["GTEX-1AB1-0126", "GTEX-1AB2-0125"]
    pairing_df, counts_df = pair_rna(table.samples_df, rna_ids, "gtex")
    paired_df = table.rna_df[table.rna_df["outcome"].eq("paired")]
    both = (dict(df[["rna_id", "sample_id"]].to_numpy()) for df in (paired_df, pairing_df))
    assert next(both) == next(both)
    n, steps = counts_df.set_index("step")["n"], table.steps_df.set_index("step")["n_left"]
    assert n["RNA samples paired"] == steps["RNA samples whose tissue sample has a slide"] == 3
    mapped = n["sample ids read with ending 6 instead of 5"]
    assert mapped == steps["of these, matched by reading a final 5 as 6"] == 1


def test_an_id_that_exists_is_never_mapped():
    df = match_sample_ids(
        ["GTEX-A-0125", "GTEX-A-0126", "GTEX-B-0225", "GTEX-C-0125-SM-1"],
        known=["GTEX-A-0125", "GTEX-A-0126", "GTEX-B-0226"],
    )
    assert df["sample_id"].tolist() == ["GTEX-A-0125", "GTEX-A-0126", "GTEX-B-0226", ""]
    assert df["ends_mapped"].tolist() == [False, False, True, False]


def test_caps_are_nested_and_do_not_depend_on_the_order(portal_df):
    one = set(chosen(portal_df, max_slides=1).samples_df["sample_id"])
    two = set(chosen(portal_df, max_slides=2).samples_df["sample_id"])
    assert (len(one), len(two)) == (3, 6)
    assert one < two
    assert set(chosen(portal_df[::-1], max_slides=2).samples_df["sample_id"]) == two
    by_tissue = chosen(portal_df, max_slides={"brain—cerebellum": 1}).samples_df
    assert by_tissue["tissue"].value_counts().to_dict() == {TISSUES[0]: 4, TISSUES[1]: 1, TISSUES[2]: 4}


def test_tissue_filter_and_minimum(portal_df):
    rna_ids = [rna(s) for s in portal_df["sample_id"]][:-1]  # one skin slide less
    table = chosen(portal_df, rna_ids, tissues=["Liver", "Skin—Sun Exposed"], min_slides=4)
    assert set(table.samples_df["tissue"]) == {"Liver"}
    assert table.steps_df["n_left"].tolist()[-2:] == [7, 4]
    with pytest.raises(ValueError, match="no slide is left"):
        chosen(portal_df, rna_ids, min_slides=100)


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
    table = samples_table(
        portal_df, rna_ids, read_sample_attributes(attributes), read_subject_phenotypes(subjects)
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
        samples_table(portal_df, [rna("GTEX-1AB2-0126")], read_sample_attributes(attributes))


def test_pathology_indicators(portal_df):
    df = pathology_indicators(portal_df, min_samples=4)
    assert list(df.columns) == ["pathology_fibrosis", "pathology_steatosis"]
    assert (df["pathology_fibrosis"] == portal_df["tissue"].eq("Liver")).all()
    assert pathology_indicators(portal_df, min_samples=5).shape == (len(portal_df), 0)


# ------------------------------------------------------------------------------------- tissue names
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
    assert match_tissue(name, TISSUES) == tissue


def test_match_tissue_refuses():
    with pytest.raises(ValueError, match="nearest: \\['Liver'"):
        match_tissue("Livre", TISSUES)
    with pytest.raises(ValueError, match="is ambiguous"):
        match_tissue("skin", ["Skin (a)", "Skin (b)"])


def test_every_tissue_of_table6_is_understood():
    vocabulary = pd.read_csv(REFERENCE / "gtex_tissues.csv")["tissue"]
    for row in pd.read_csv(REFERENCE / "paper_table6.csv").itertuples():
        names = [match_tissue(name, vocabulary) for name in row.paper_tissue.split("; ")]
        assert "; ".join(names) == row.tissue


def test_empty_join_shows_both_sides(portal_df):
    with pytest.raises(ValueError, match=r"TCGA-AA-0001.*\(4\).*GTEX-1AB0-0126.*\(12\)"):
        chosen(portal_df, [f"TCGA-AA-000{i}" for i in range(1, 5)])


# ------------------------------------------------------------------------- why a sample is left out
def test_every_sample_of_the_portal_is_kept_or_has_a_reason(portal_df):
    rna_ids = [rna(s) for s in portal_df["sample_id"]][:-1]
    caps = {"Liver": 1, "others": 3}
    table = chosen(portal_df, rna_ids, tissues=["liver", "Brain—Cerebellum"], max_slides=caps)
    assert table.samples_df["tissue"].value_counts().to_dict() == {TISSUES[1]: 3, "Liver": 1}
    reasons = table.dropped_df["reason"].value_counts().to_dict()
    assert reasons == {
        "not in 2 chosen tissues": 3,
        "not within the cap per tissue": 4,
        "no RNA in the expression table": 1,
    }
    both = [*table.samples_df["sample_id"], *table.dropped_df["sample_id"]]
    assert sorted(both) == sorted(portal_df["sample_id"])


def test_published_list_overrides_the_caps(portal_df):
    listed = ["GTEX-1AB0-0125", "GTEX-1AB1-0126", "GTEX-1AB1-0226", "GTEX-9ZZZ-0126"]
    table = chosen(portal_df, listed=listed, max_slides=1, min_slides=100)
    assert sorted(table.samples_df["sample_id"]) == ["GTEX-1AB0-0126", "GTEX-1AB1-0126", "GTEX-1AB1-0226"]
    note = table.steps_df.set_index("step").loc["slides in the published list", "note"]
    assert note.startswith("1 of 4 listed ids have no slide with RNA (first GTEX-9ZZZ-0126)")
    assert note.endswith("; 1 ids matched by reading their final 5 as 6")


def test_a_published_list_of_other_samples_shows_both_sides(portal_df):
    listed = [f"GTEX-9ZZ{i}-0126" for i in range(4)]
    with pytest.raises(ValueError, match=r"none of the 4 ids .*GTEX-9ZZ0-0126.*GTEX-1AB0-0126.*\(12\)"):
        chosen(portal_df, listed=listed)


def test_a_covariate_without_any_value_is_named(portal_df):
    with pytest.raises(
        ValueError, match=r"none of 12 samples has a value of the covariates \['hardy_scale'\]"
    ):
        chosen(portal_df.assign(hardy_scale=""), covariates=["age_years", "hardy_scale"])


def test_samples_without_a_required_covariate_are_left_out(portal_df):
    portal_df.loc[portal_df["donor"] == "GTEX-1AB2", "age_bracket"] = ""
    table = chosen(portal_df, covariates=["age_years", "sex"])
    assert set(table.samples_df["age_years"]) == {55.0}
    assert "GTEX-1AB2" not in set(table.samples_df["donor"])
    last = table.steps_df.iloc[-1]
    assert (last["step"], last["n_dropped"]) == ("slides with all covariates", 3)
    assert last["note"] == "3 without age_years"
    with pytest.raises(ValueError, match=r"covariates \['rin'\] are missing from the samples"):
        chosen(portal_df, covariates=["rin"])
