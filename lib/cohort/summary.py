"""What a cohort is made of: samples per tissue and set, donors, covariates, slides on disk (S1 Table)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.cohort.samples import SPLITS, first

NO_RNA = "no RNA in the expression table"
TILE_COUNT = "n_tiles"  # a covariate that the samples table need not have: notebook 04 counts


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


def count_steps(counts_df: pd.DataFrame, earlier: Sequence[Mapping[str, object]] = ()) -> pd.DataFrame:
    """One table of all steps from the inputs to the samples.

    Parameters
    ----------
    counts_df : columns step, n (`pairing.pair_rna`).
    earlier : records of the steps before it, with step, n_left, n_dropped, note (`gtex_source.prepare`).

    Returns
    -------
    DataFrame
        Index `step`; columns n, dropped, note.
    """
    columns = {"n_left": "n", "n_dropped": "dropped"}
    earlier_df = pd.DataFrame(earlier, columns=["step", "n_left", "n_dropped", "note"]).rename(
        columns=columns
    )
    steps_df = pd.concat([earlier_df, counts_df.assign(dropped=0, note="")]) if len(earlier) else counts_df
    return steps_df.set_index("step")


def left_out(
    listed_df: pd.DataFrame, kept_df: pd.DataFrame, earlier: Sequence[Mapping[str, object]] = ()
) -> pd.DataFrame:
    """Samples known of each tissue, how many were left out for which reason, and how many are kept.

    Parameters
    ----------
    listed_df, kept_df : the samples table before and after the join with RNA.
    earlier : records of what was left out before it, with tissue, reason, n (`gtex_source.prepare`).

    Returns
    -------
    DataFrame
        Index `tissue` (sorted, then "total"); columns known, one per reason, kept.
    """
    gone_df = listed_df[~listed_df["sample_id"].isin(kept_df["sample_id"])]
    now_df = gone_df.groupby("tissue").size().reset_index(name="n").assign(reason=NO_RNA)
    reasons_df = pd.concat([pd.DataFrame(earlier, columns=["tissue", "reason", "n"]), now_df])
    table_df = reasons_df.pivot_table(index="tissue", columns="reason", values="n", aggfunc="sum")
    kept = kept_df["tissue"].value_counts()
    table_df = table_df.reindex(table_df.index.union(kept.index)).rename_axis("tissue").fillna(0)
    table_df["kept"] = kept.reindex(table_df.index).fillna(0)
    table_df = table_df.sort_index()
    table_df.insert(0, "known", table_df.sum(axis=1))
    table_df.loc["total"] = table_df.sum()
    return table_df.rename_axis(columns=None).astype(int)


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


def covariate_report(samples_df: pd.DataFrame, covariates: Sequence[str]) -> pd.DataFrame:
    """The covariates that the statistics will condition on, checked before hours are spent.

    Returns
    -------
    DataFrame
        Index `covariate`; kind (number, category), n_values (distinct), lowest, median, highest (numbers
        only), categories (the most frequent, with counts).

    Raises
    ------
    ValueError
        A covariate is neither a column of the table nor TILE_COUNT, or has no value in some samples.
    """
    if absent := [name for name in covariates if name not in samples_df and name != TILE_COUNT]:
        raise ValueError(
            f"covariates {absent} are not columns of the samples table: {', '.join(samples_df.columns)}."
            " Add them to the table, or name others in `covariates`."
        )
    rows = {}
    for name in covariates:
        if name == TILE_COUNT and name not in samples_df:
            rows[name] = {"kind": "number", "categories": "counted in notebook 04"}
            continue
        column = samples_df[name].replace("", np.nan)
        lacks = samples_df["sample_id"][column.isna()]
        if len(lacks):
            raise ValueError(
                f"covariate {name!r} has no value in {len(lacks)} of {len(column)} samples: {first(lacks)}."
                " Fill them in, drop the samples, or leave the covariate out."
            )
        counts = column.value_counts()
        row = {"kind": "category", "n_values": len(counts)}
        if pd.api.types.is_numeric_dtype(column):
            row |= {"kind": "number", "lowest": column.min(), "median": column.median()}
            row |= {"highest": column.max()}
        else:
            row["categories"] = ", ".join(f"{value} {n}" for value, n in counts.head(5).items())
        rows[name] = row
    columns = ["kind", "n_values", "lowest", "median", "highest", "categories"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("covariate")


def slide_files(slide_paths: Mapping[str, Path]) -> pd.DataFrame:
    """How many slides have their file, and which files in the same folders are not used.

    Returns
    -------
    DataFrame
        Columns what, n, examples (the first three). Files that end in 5 where their slide ends in 6 (GTEx),
        and second files of a slide, have a row where there are some; the last row is files of no sample.
    """
    missing = [slide_id for slide_id, path in slide_paths.items() if not path.is_file()]
    renamed = [path.name for slide_id, path in slide_paths.items() if path.stem != slide_id]
    known = {path.name for path in slide_paths.values()}
    suffixes = {path.suffix for path in slide_paths.values()}
    folders = sorted({path.parent for path in slide_paths.values()})
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    unused = [path for path in files if path.suffix in suffixes and path.name not in known]
    fives = [path for path in unused if re.fullmatch(r"[^-]+-[^-]+-\d{3}5", path.stem)]
    second = [path.name for path in fives if path.stem[:-1] + "6" in slide_paths]
    strange = [path.name for path in unused if path.name not in second]
    rows = [
        ("slides of the samples", len(slide_paths), ""),
        ("of these, without a file", len(missing), first(missing)),
        ("of these, with a file that ends in 5 for 6", len(renamed), first(renamed)),
        ("second files of a slide, ending in 5 for 6 (not used)", len(second), first(second)),
        ("slide files of no sample (not used)", len(strange), first(strange)),
    ]
    rows = [row for i, row in enumerate(rows) if row[1] or i not in (2, 3)]
    return pd.DataFrame(rows, columns=["what", "n", "examples"])
