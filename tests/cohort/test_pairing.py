"""Pairing of samples with RNA, and of the real GTEx tables."""

import numpy as np
import pandas as pd
import pytest
from made_gct import GTEX
from table_factory import table

from lib.cohort.expression import rna_ids
from lib.cohort.pairing import pair_rna
from lib.cohort.samples import check_samples
from lib.cohort.splits import assign_splits
from lib.cohort.summary import donor_overlap, split_report

PORTAL, READS = GTEX / "GTExPortal.csv", GTEX / "GTEx_v8_gene_reads.acmg_59.gct.gz"


def test_gtex_pairing_step_by_step():
    ids = ["GTEX-1A-0526", "GTEX-1B-0525", "GTEX-1C-0326", "GTEX-1D-0825", "GTEX-1D-0826"]
    rna = [
        "GTEX-1A-0526-SM-1",
        "GTEX-1A-0526-SM-2",
        "GTEX-1B-0526-SM-3",
        "GTEX-1D-0826-SM-4",
        "GTEX-1C-0011-R11a-SM-5",
        "GTEX-9Z-0006-SM-6",
    ]
    pairing_df, counts_df = pair_rna(table(5, sample_id=ids), rna, "gtex")
    assert pairing_df.to_numpy().tolist() == [
        ["GTEX-1A-0526", "GTEX-1A-0526-SM-1"],
        ["GTEX-1A-0526", "GTEX-1A-0526-SM-2"],
        ["GTEX-1B-0525", "GTEX-1B-0526-SM-3"],
        ["GTEX-1D-0826", "GTEX-1D-0826-SM-4"],  # not to …0825, which also could be read as …0826
    ]
    assert counts_df["n"].tolist() == [5, 6, 1, 3, 1, 4, 2, 2]


def test_brain_rna_pairs_with_nothing():
    samples_df = table(2, sample_id=["GTEX-1C-0011", "GTEX-1A-0526"])
    pairing_df, _ = pair_rna(samples_df, ["GTEX-1C-0011-R11a-SM-5", "GTEX-1A-0526-SM-1"], "gtex")
    assert pairing_df["sample_id"].tolist() == ["GTEX-1A-0526"]


def test_pairing_refuses():
    with pytest.raises(
        ValueError, match=r"share no id.*'s0', 's1', 's2' \(4 in all\).*'x1', 'x2', 'x3' \(5 in all\)"
    ):
        pair_rna(table(4), ["x1", "x2", "x3", "x4", "x5"])
    with pytest.raises(ValueError, match="expression table: duplicated RNA id 's0'"):
        pair_rna(table(4), ["s0", "s0"])
    with pytest.raises(ValueError, match="2 samples claim the same RNA"):
        pair_rna(table(2, sample_id=["G-1-0526", "G-1-0526-x"]), ["G-1-0526-SM-1"], "gtex")
    with pytest.raises(ValueError, match="'exact' or 'gtex'"):
        pair_rna(table(4), ["s0"], "fuzzy")


@pytest.mark.skipif(not (PORTAL.exists() and READS.exists()), reason=f"no GTEx tables in {GTEX}")
def test_real_gtex_tables():
    portal_df = pd.read_csv(PORTAL, dtype=str, keep_default_na=False)
    columns = {"Tissue Sample ID": "sample_id", "Subject ID": "donor", "Tissue": "tissue"}
    portal_df = portal_df.rename(columns=columns)[list(columns.values())]
    samples_df = check_samples(portal_df.assign(slide_id=portal_df["sample_id"]))
    pairing_df, counts_df = pair_rna(samples_df, rna_ids(READS), "gtex")
    n = counts_df.set_index("step")["n"]
    assert (n["samples"], n["RNA samples"], n["samples with RNA"]) == (25713, 17382, 13797)
    paired_df = samples_df[samples_df["sample_id"].isin(pairing_df["sample_id"])]
    paired_df = paired_df.assign(split=assign_splits(paired_df))
    overlap = donor_overlap(paired_df).to_numpy()
    assert (overlap[~np.eye(3, dtype=bool)] == 0).all()
    report_df = split_report(paired_df)
    large = report_df[report_df["n_samples"] >= 20]
    assert (large["fraction_train"] - 0.6).abs().max() < 0.05
    assert (large["fraction_test"] - 0.2).abs().max() < 0.05
