"""What a cohort is made of: samples per tissue and set, donors, overlap between sets (S1 Table)."""

import numpy as np
import pandas as pd

from lib.cohort import SPLITS


def slides_per_tissue(samples_df: pd.DataFrame, tiles_df: pd.DataFrame | None = None) -> pd.DataFrame:
    """S1 Table: samples and, with `tiles_df`, tiles per tissue and set.

    Returns
    -------
    DataFrame
        Index `tissue` (sorted, then "total"); columns n_samples, n_slides, n_donors, n_train, n_validation,
        n_test (samples), and n_tiles, n_tiles_train, n_tiles_validation, n_tiles_test. A slide or donor with
        several tissues counts in each of their rows and once in the total.
    """
    per_tissue = samples_df.groupby("tissue")
    table_df = per_tissue.agg(
        n_samples=("sample_id", "size"), n_slides=("slide_id", "nunique"), n_donors=("donor", "nunique")
    )
    per_set = pd.crosstab(samples_df["tissue"], samples_df["split"]).reindex(
        columns=list(SPLITS), fill_value=0
    )
    table_df = table_df.join(per_set.add_prefix("n_"))
    if tiles_df is not None:
        n_tiles = samples_df["sample_id"].map(tiles_df["sample_id"].value_counts()).fillna(0)
        tiles = n_tiles.groupby([samples_df["tissue"], samples_df["split"]]).sum().unstack(fill_value=0)
        tiles = tiles.reindex(columns=list(SPLITS), fill_value=0).add_prefix("n_tiles_")
        table_df = table_df.join(tiles.assign(n_tiles=tiles.sum(axis=1))[["n_tiles", *tiles.columns]])
    total = table_df.sum()
    total[["n_slides", "n_donors"]] = samples_df["slide_id"].nunique(), samples_df["donor"].nunique()
    table_df.loc["total"] = total
    return table_df.astype(int)


def split_report(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Fractions achieved per tissue, and a remark where a tissue is not in every set.

    Returns
    -------
    DataFrame
        Index `tissue` and last "total"; the columns of `slides_per_tissue`, then fraction_train,
        fraction_validation, fraction_test and remark (text, empty when all is well).
    """
    report_df = slides_per_tissue(samples_df)
    for name in SPLITS:
        report_df[f"fraction_{name}"] = report_df[f"n_{name}"] / report_df["n_samples"]
    lacks = report_df.apply(lambda row: ", ".join(s for s in SPLITS if row[f"n_{s}"] == 0), axis=1)
    one_slide = np.where(report_df["n_slides"] == 1, "one slide: ", "")
    return report_df.assign(remark=np.where(lacks == "", "", one_slide + "none in " + lacks))


def donor_overlap(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Donors shared between sets: 3 x 3 counts, diagonal = donors of the set; elsewhere zero = no leak."""
    donors = {name: set(samples_df.loc[samples_df["split"] == name, "donor"]) for name in SPLITS}
    counts = [[len(donors[a] & donors[b]) for b in SPLITS] for a in SPLITS]
    return pd.DataFrame(counts, index=pd.Index(SPLITS, name="split"), columns=list(SPLITS))


def tissues_per_donor(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Donors x tissues, number of samples (int), the fullest row and column first."""
    table_df = pd.crosstab(samples_df["donor"], samples_df["tissue"])
    columns = table_df.gt(0).sum().sort_values(ascending=False, kind="stable").index
    rows = table_df.gt(0).sum(axis=1).sort_values(ascending=False, kind="stable").index
    return table_df.loc[rows, columns]
