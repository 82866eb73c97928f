"""Expression tables: parquet; calculations by hand; gene tables. See test_gct.py and test_h5ad_reading.py."""

import numpy as np
import pandas as pd
import pytest
from made_gct import GTEX, needs_gtex

from lib.cohort import expression


def test_parquet_roundtrip(tmp_path):
    values_df = pd.DataFrame({"s1": [1.0, 2.0], "s2": [3.0, 4.0]}, index=pd.Index(["g1", "g2"], name="gene"))
    values_df.to_parquet(tmp_path / "x.parquet")
    expression_df, genes_df = expression.read_expression(tmp_path / "x.parquet", columns=["s2"])
    assert expression_df["s2"].tolist() == [3, 4]
    assert genes_df["symbol"].tolist() == ["g1", "g2"]
    assert expression.rna_ids(tmp_path / "x.parquet") == ["s1", "s2"]


def test_bad_values_in_parquet(tmp_path):
    path, genes = tmp_path / "x.parquet", pd.Index(["g1", "g2", "g3"], name="gene")
    pd.DataFrame({"s": [-1.0, np.nan, 0], "t": [np.inf, np.nan, 1]}, genes).to_parquet(path)
    said = "2 missing value.*gene g2, sample s; 1 negative .*gene g1, sample s; 1 too large .* sample t"
    with pytest.raises(ValueError, match=said):
        expression.read_expression(path)
    pd.DataFrame({"s": ["1", "2", "3"]}, genes).to_parquet(path)
    with pytest.raises(ValueError, match=r"sample column\(s\) 's' do not hold numbers"):
        expression.read_expression(path)


def test_missing_file_and_unknown_format(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.gct: no such .* expression_file"):
        expression.read_expression(tmp_path / "none.gct")
    with pytest.raises(ValueError, match=r"x\.xlsx: not an expression table; give \.gct"):
        expression.read_expression(tmp_path / "x.xlsx")


# ------------------------------------------------------------------------------------------ real files


@needs_gtex
def test_real_tpm_and_gene_table():
    path = GTEX / "gtex_tpm_heart_brain_liver_180samples.gct.gz"
    expression_df, genes_df = expression.read_expression(path)
    assert expression_df.shape == (261, 180)
    table_df = expression.read_gene_table(GTEX / "genes_gencode_v26.csv.gz")
    assert len(table_df) == 56_200
    named_df = expression.annotate_genes(genes_df, table_df)
    assert (named_df["biotype"] != "").mean() > 0.95
    assert (named_df["symbol"] == genes_df["symbol"]).all()
    coding = expression.protein_coding(named_df)
    assert 0 < len(coding) <= 261
    assert (named_df.loc[coding, "biotype"] == "protein_coding").all()
    assert len(expression.protein_coding(table_df)) > 19_000
    found = expression.describe_expression(expression_df, genes_df).set_index("what")["n"]
    assert found["versioned Ensembl ids"] == 261


# ------------------------------------------------------------------------------------- values and samples


def duplicated():
    genes, rna = pd.Index(["g1", "g2"], name="gene"), ["r1", "r2", "r3"]
    expression_df = pd.DataFrame([[1.0, 7.0, 5.0], [0.0, 3.0, 2.0]], genes, rna)
    return expression_df, pd.DataFrame({"sample_id": ["A", "A", "B"], "rna_id": rna})


def test_replicates_are_averaged_on_the_log_scale():
    combined_df = expression.combine_duplicates(*duplicated())
    assert combined_df.columns.tolist() == ["A", "B"]
    # log2(1 + 1) = 1, log2(1 + 7) = 3, mean 2, back: 3; and (0 + 2) / 2 = 1 -> 1
    np.testing.assert_allclose(combined_df.to_numpy(), [[3, 5], [1, 2]], rtol=1e-6)
    assert combined_df.to_numpy().dtype == np.float32


def test_first_replicate_and_errors():
    assert expression.combine_duplicates(*duplicated(), how="first")["A"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="samples with several RNA samples: 'A'"):
        expression.combine_duplicates(*duplicated(), how="error")
    with pytest.raises(ValueError, match="choose 'mean'"):
        expression.combine_duplicates(*duplicated(), how="median")
    expression_df, pairing_df = duplicated()
    with pytest.raises(ValueError, match="paired RNA ids are missing from the expression table: 'r3'"):
        expression.combine_duplicates(expression_df[["r1", "r2"]], pairing_df)
    assert expression_df.to_numpy()[0].tolist() == [1, 7, 5]  # the input is not changed


def test_gene_names(tmp_path):
    path = tmp_path / "genes.csv"
    path.write_text(
        "gene_id,gene_biotype,gene_name\nENSG00000000001.5,protein_coding,AAA\nENSG00000000002.1,lncRNA,BBB\n"
    )
    table_df = expression.read_gene_table(path)
    genes_df = pd.DataFrame(
        {"symbol": ["ENSG00000000001.9", "kept", "x"], "biotype": ""},
        index=pd.Index(["ENSG00000000001.9", "ENSG00000000002.1", "other"], name="gene"),
    )
    named_df = expression.annotate_genes(genes_df, table_df)
    assert named_df["symbol"].tolist() == ["AAA", "kept", "x"]
    assert named_df["biotype"].tolist() == ["protein_coding", "lncRNA", ""]
    assert expression.protein_coding(named_df).tolist() == ["ENSG00000000001.9"]
    with pytest.raises(ValueError, match="genes_file"):
        expression.protein_coding(genes_df)
    path.write_text("gene_id,length\na,1\n")
    with pytest.raises(ValueError, match="needs gene_id and gene_name"):
        expression.read_gene_table(path)
