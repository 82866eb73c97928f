"""Tables that describe a cohort: samples per tissue and set, donors, covariates, slide files (S1 Table)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.cohort import sample_slides
from lib.cohort.samples import SPLITS, first
from lib.errors import InputError

NO_RNA = "no RNA in the expression table"
FEW_VALUES = 12  # distinct whole numbers that may be the codes of a category
# Covariates that notebook 04 measures on a sample's tiles, so the samples table need not have them.
OF_TILES = ("n_tiles", "focus", "haematoxylin", "eosin", "nuclear_density", "tissue_fraction")


def slides_per_tissue(samples_df: pd.DataFrame, tiles_df: pd.DataFrame | None = None) -> pd.DataFrame:
    """S1 Table: samples and, with `tiles_df`, tiles per tissue and set.

    Returns
    -------
    DataFrame
        Index `tissue` (sorted, then "total"); columns n_samples, n_slides, n_donors, n_train, n_validation,
        n_test (samples), and n_tiles, n_tiles_train, n_tiles_validation, n_tiles_test. A slide or donor with
        several tissues counts in each of their rows and once in the total.
    """
    by_tissue, slides_df = samples_df.groupby("tissue"), sample_slides.by_slide(samples_df)
    table_df = by_tissue.agg(n_samples=("sample_id", "size"), n_donors=("donor", "nunique"))
    table_df.insert(1, "n_slides", slides_df.groupby("tissue")["slide_id"].nunique())
    sets = pd.crosstab(samples_df["tissue"], samples_df["split"]).reindex(columns=list(SPLITS), fill_value=0)
    table_df = table_df.join(sets.add_prefix("n_"))
    if tiles_df is not None:
        counts = tiles_df["sample_id"].value_counts().reindex(samples_df["sample_id"], fill_value=0)
        tiles = samples_df.assign(n_tiles=counts.to_numpy()).pivot_table(
            index="tissue", columns="split", values="n_tiles", aggfunc="sum", fill_value=0
        )
        tiles = tiles.reindex(columns=list(SPLITS), fill_value=0).add_prefix("n_tiles_")
        table_df = table_df.assign(n_tiles=tiles.sum(axis=1)).join(tiles)
    total = table_df.sum()
    total[["n_slides", "n_donors"]] = slides_df["slide_id"].nunique(), samples_df["donor"].nunique()
    table_df.loc["total"] = total
    return table_df.astype(int)


def count_steps(counts_df: pd.DataFrame, earlier: Sequence[Mapping[str, object]] = ()) -> pd.DataFrame:
    """All steps from the inputs to the samples in one table.

    Parameters
    ----------
    counts_df : columns step, n (`pairing.pair_rna`).
    earlier : records of the steps before, with step, n_left, n_dropped, note (`gtex_cohort.prepare`).

    Returns
    -------
    DataFrame
        Index `step`; columns n and, if there are earlier steps, dropped, note.
    """
    if not len(earlier):
        return counts_df.set_index("step")
    earlier_df = pd.DataFrame(earlier, columns=["step", "n_left", "n_dropped", "note"])
    earlier_df.columns = ["step", "n", "dropped", "note"]
    return pd.concat([earlier_df, counts_df.assign(dropped=0, note="")]).set_index("step")


def left_out(
    listed_df: pd.DataFrame, kept_df: pd.DataFrame, earlier: Sequence[Mapping[str, object]] = ()
) -> pd.DataFrame:
    """Samples listed for each tissue, how many were left out for which reason, and how many are kept.

    Parameters
    ----------
    listed_df, kept_df : the samples table before and after pairing with RNA.
    earlier : records of samples left out before, with tissue, reason, n (`gtex_cohort.prepare`).

    Returns
    -------
    DataFrame
        Index `tissue` (sorted, then "total"); columns known, one per reason, kept.
    """
    without_rna_df = listed_df[~listed_df["sample_id"].isin(kept_df["sample_id"])]
    counts_df = without_rna_df.groupby("tissue").size().rename("n").reset_index().assign(reason=NO_RNA)
    reasons_df = pd.concat([pd.DataFrame(earlier, columns=["tissue", "reason", "n"]), counts_df])
    table_df = reasons_df.pivot_table(index="tissue", columns="reason", values="n", aggfunc="sum")
    kept = kept_df["tissue"].value_counts()
    table_df = table_df.reindex(table_df.index.union(kept.index)).assign(kept=kept).fillna(0).sort_index()
    table_df.insert(0, "known", table_df.sum(axis=1))
    table_df.loc["total"] = table_df.sum()
    return table_df.rename_axis(index="tissue", columns=None).astype(int)


def split_report(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Fraction of each tissue's samples in each set, and a remark where a set has none.

    Returns
    -------
    DataFrame
        Index `tissue`, last "total"; the columns of `slides_per_tissue`, fraction_train, fraction_validation,
        fraction_test and remark (text, "" where every set has samples).
    """
    report_df = slides_per_tissue(samples_df)
    for name in SPLITS:
        report_df[f"fraction_{name}"] = report_df[f"n_{name}"] / report_df["n_samples"]
    lacks = report_df.apply(lambda row: ", ".join(s for s in SPLITS if row[f"n_{s}"] == 0), axis=1)
    one_slide = np.where(report_df["n_slides"] == 1, "one slide: ", "")
    return report_df.assign(remark=np.where(lacks == "", "", one_slide + "none in " + lacks))


def in_sets(samples_df: pd.DataFrame, splits: pd.Series, classifies: bool) -> pd.DataFrame:
    """The samples with their sets in column split.

    classifies : whether a classifier is to be trained (`Config.classifies`).

    Raises InputError where one cannot be, because the training samples are of one tissue.
    """
    samples_df = samples_df.assign(split=splits.to_numpy())
    tissues = samples_df.loc[samples_df["split"] == "train", "tissue"].unique()
    if classifies and len(tissues) < 2:
        raise InputError(
            f"the {len(samples_df):,} samples have {len(tissues)} tissues to train on ({first(tissues)}), "
            "and a classifier of one class learns nothing. Either set encoder = 'imagenet', or a "
            "checkpoint, to take features from a network as it is; or name two or more classes in column "
            "tissue of the samples"
        )
    return samples_df


def donor_overlap(samples_df: pd.DataFrame) -> pd.DataFrame:
    """Donors shared between sets: 3 x 3 counts, donors of each set on the diagonal, else 0 if no leak."""
    donors = {name: set(samples_df.loc[samples_df["split"] == name, "donor"]) for name in SPLITS}
    counts = [[len(donors[a] & donors[b]) for b in SPLITS] for a in SPLITS]
    return pd.DataFrame(counts, index=pd.Index(SPLITS, name="split"), columns=list(SPLITS))


def covariate_report(samples_df: pd.DataFrame, covariates: Sequence[str]) -> pd.DataFrame:
    """Check and describe the covariates of the statistics, before the long steps start.

    Returns
    -------
    DataFrame
        Index `covariate`; kind (number, category), n_values (distinct), lowest, median, highest (numbers
        only), categories (the five most frequent, with counts; how to say that whole numbers are codes).

    Raises
    ------
    ValueError
        A covariate that is neither a column of the table nor of OF_TILES, or that some samples lack.
    """
    if missing := [name for name in covariates if name not in samples_df and name not in OF_TILES]:
        raise InputError(
            f"covariates {first(missing)} are not columns of the samples table; "
            f"add them, or choose from {', '.join([*samples_df.columns, *OF_TILES])}"
        )
    rows = {}
    for name in covariates:
        if name not in samples_df:
            rows[name] = {"kind": "number", "categories": "measured in notebook 04"}
            continue
        column = samples_df[name].replace("", np.nan)
        lacks = samples_df["sample_id"][column.isna()]
        if len(lacks):
            raise InputError(
                f"covariate {name!r} has no value in {len(lacks)} of {len(column)} samples: {first(lacks)}; "
                "fill them in, drop the samples, or leave the covariate out"
            )
        counts = column.value_counts()
        rows[name] = {"kind": "category", "n_values": len(counts)}
        if pd.api.types.is_numeric_dtype(column):
            lowest, median, highest = column.min(), column.median(), column.max()
            rows[name] |= {"kind": "number", "lowest": lowest, "median": median, "highest": highest}
            if 2 < len(counts) <= FEW_VALUES and (column % 1 == 0).all():
                rows[name]["categories"] = "if these are codes: categorical_covariates"
        else:
            rows[name]["categories"] = ", ".join(f"{value} {n}" for value, n in counts.head(5).items())
    columns = ["kind", "n_values", "lowest", "median", "highest", "categories"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("covariate")


def slide_files(slide_paths: Mapping[str, Path]) -> pd.DataFrame:
    """How many slides have a file, and which files in the same folders are not used.

    Returns
    -------
    DataFrame
        Columns what, n, examples (the first three). GTEx files whose name ends in 5 where the slide's ends in
        6, and second files of a slide, have a row only if there are any; the last row is files of no sample.
    """
    missing = [slide_id for slide_id, path in slide_paths.items() if not path.is_file()]
    renamed = [path.name for slide_id, path in slide_paths.items() if path.stem != slide_id]
    used = {path.name for path in slide_paths.values()}
    suffixes = {path.suffix for path in slide_paths.values()}
    folders = sorted({path.parent for path in slide_paths.values()})
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    unused = [path for path in files if path.suffix in suffixes and path.name not in used]
    fives = [path for path in unused if re.fullmatch(r"[^-]+-[^-]+-\d{3}5", path.stem)]
    second = [path.name for path in fives if path.stem[:-1] + "6" in slide_paths]
    others = [path.name for path in unused if path.name not in second]
    rows = {"slides of the samples": list(slide_paths), "of these, without a file": missing}
    if renamed:
        rows["of these, with a file that ends in 5 for 6"] = renamed
    if second:
        rows["second files of a slide, ending in 5 for 6 (not used)"] = second
    rows["slide files of no sample (not used)"] = others
    files_df = pd.DataFrame([(what, len(names), first(names)) for what, names in rows.items()])
    files_df.columns = ["what", "n", "examples"]
    files_df.loc[0, "examples"] = ""
    return files_df
