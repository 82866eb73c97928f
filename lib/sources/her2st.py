"""Spot-level cohorts: an ST or Visium spot is a sample, a square region of a slide with its own counts.

`import_her2st` makes a cohort's raw folder (slides, samples.csv, expression.parquet) from upstream's files.
The steps are general: `grid_mpp` measures µm/px from the spot pitch, `write_pyramid` makes a picture a slide,
and `spot_samples` names the region of each spot. `within_section_shuffle_test` asks what is left within
sections.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from tqdm.auto import tqdm

from lib.cohort.expression import counts_per_million

SPOT_PITCH_UM = 200.0  # centre to centre on the arrays of Ståhl et al. 2016, Science 353:78
CLUSTERS_CSV = Path(__file__).resolve().parents[2] / "data" / "reference" / "her2st_clusters.csv"
TILE_PX = 256
SMALLEST_LEVEL_PX = 512


class Grid(NamedTuple):
    """How the spots of a section lie on its picture: pixel = origin + x * step_x + y * step_y."""

    mpp: float  # µm per pixel, mean of both axes
    pitch_x_px: float  # length of a step along array x
    pitch_y_px: float
    rotation_deg: float  # of array x against picture x
    residual_px: float  # median distance of a spot from its fitted place
    n_spots: int
    n_outliers: int  # spots left out of the fit


# ----------------------------------------------------------------------------------------- the general part


def grid_mpp(spots_df: pd.DataFrame, pitch_um: float = SPOT_PITCH_UM) -> Grid:
    """µm/px from the known distance between spots: an affine fit of pixel on array positions.

    Spots further from their fitted place than 4 robust standard deviations are left out and the fit repeated,
    so a few wrong positions do not move it.

    Parameters
    ----------
    spots_df : columns x, y (array position, in steps of one pitch) and pixel_x, pixel_y (level-0 px).
    pitch_um : distance of neighbours along array x and y.

    Raises
    ------
    ValueError
        Fewer than 4 spots, all on one line, or positions that are no grid (axes that differ by more than 10
        %, or spots typically further than a third of the pitch from their place).
    """
    array = spots_df[["x", "y"]].to_numpy(float)
    pixel = spots_df[["pixel_x", "pixel_y"]].to_numpy(float)
    design = np.column_stack([array, np.ones(len(array))])
    if len(array) < 4 or np.linalg.matrix_rank(design - design.mean(axis=0) * [1, 1, 0]) < 3:
        raise ValueError(f"{len(array)} spots, too few or on one line: µm/px needs 4 in two directions.")
    used = np.ones(len(array), dtype=bool)
    for _ in range(20):
        steps = np.linalg.lstsq(design[used], pixel[used], rcond=None)[
            0
        ]  # rows: step along x, along y, origin
        distance = np.hypot(*(pixel - design @ steps).T)
        limit = max(4 * 1.4826 * float(np.median(distance)), 1e-6)
        if np.array_equal(distance <= limit, used):
            break
        used = distance <= limit
    pitch_x, pitch_y = np.hypot(*steps[0]), np.hypot(*steps[1])
    pitch, residual = (pitch_x + pitch_y) / 2, float(np.median(distance))
    if not 0.9 < pitch_x / max(pitch_y, 1e-9) < 1.1 or residual > pitch / 3:
        raise ValueError(
            f"The spots form no square grid: {pitch_x:.1f} px along x, {pitch_y:.1f} px along y, typically "
            f"{residual:.1f} px off. Are x, y array positions and pixel_x, pixel_y full-size pixels?"
        )
    rotation = float(np.degrees(np.arctan2(steps[0, 1], steps[0, 0])))
    n_outliers = int((~used).sum())
    return Grid(pitch_um / pitch, float(pitch_x), float(pitch_y), rotation, residual, len(array), n_outliers)


def spot_samples(
    spots_df: pd.DataFrame, slide_id: str, mpp: float, region_um: float, l0_width: int, l0_height: int
) -> pd.DataFrame:
    """Rows of a samples table for the spots of one slide: a square region centred on each.

    Parameters
    ----------
    spots_df : columns sample_id, pixel_x, pixel_y (centre, level-0 px), donor, tissue; further columns are
    kept.
    mpp : µm per level-0 px. region_um : edge of the square; at least a tile, so that each spot holds one.
    l0_width, l0_height : size of the slide in px.

    Returns
    -------
    DataFrame
        sample_id, slide_id, donor, tissue, mpp, l0_x, l0_y, l0_width, l0_height (int px), then the further
        columns. Spots whose square leaves the slide are not in it: compare the lengths.

    Raises
    ------
    ValueError
        A region under one pixel.
    """
    edge = round(region_um / mpp)
    if edge < 1:
        raise ValueError(f"region_um {region_um} is under one pixel of {mpp:.3f} µm on slide {slide_id}.")
    further = [c for c in spots_df if c not in ("sample_id", "donor", "tissue", "pixel_x", "pixel_y")]
    rows_df = pd.DataFrame({"sample_id": spots_df["sample_id"].to_numpy()})
    rows_df["slide_id"] = slide_id
    rows_df["donor"] = spots_df["donor"].to_numpy()
    rows_df["tissue"] = spots_df["tissue"].to_numpy()
    rows_df["mpp"] = round(mpp, 5)
    rows_df["l0_x"] = np.rint(spots_df["pixel_x"].to_numpy(float) - edge / 2).astype(int)
    rows_df["l0_y"] = np.rint(spots_df["pixel_y"].to_numpy(float) - edge / 2).astype(int)
    rows_df["l0_width"] = rows_df["l0_height"] = edge
    for column in further:
        rows_df[column] = spots_df[column].to_numpy()
    inside = (rows_df["l0_x"] >= 0) & (rows_df["l0_y"] >= 0)
    inside &= (rows_df["l0_x"] + edge <= l0_width) & (rows_df["l0_y"] + edge <= l0_height)
    return rows_df[inside].reset_index(drop=True)


def write_pyramid(image: np.ndarray, path: str | Path, mpp: float, quality: int = 90) -> None:
    """Write an RGB picture as a tiled pyramidal TIFF that OpenSlide opens and knows the µm/px of.

    Parameters
    ----------
    image : uint8, (height, width, 3).
    mpp : µm per pixel of level 0; kept in the resolution tags (OpenSlide: openslide.mpp-x, mpp-y).
    quality : of the JPEG tiles, 1 to 100.

    Notes
    -----
    Levels halve until both edges are under 512 px. Written under another name, then renamed.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    level, level_mpp = Image.fromarray(image), mpp
    with tifffile.TiffWriter(partial, bigtiff=False) as tiff:
        while True:
            tiff.write(
                np.asarray(level),
                photometric="rgb",  # of what is handed in; stored as YCbCr
                compression="jpeg",
                compressionargs={"level": quality, "outcolorspace": "ycbcr"},
                subsampling=(2, 2),
                tile=(TILE_PX, TILE_PX),
                subfiletype=0 if level_mpp == mpp else 1,
                resolution=(1e4 / level_mpp, 1e4 / level_mpp),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )
            if max(level.size) < SMALLEST_LEVEL_PX:
                break
            level, level_mpp = level.reduce(2), level_mpp * 2
    os.replace(partial, path)


# ------------------------------------------------------------------------------------------------- her2st


def import_her2st(
    source_dir: str | Path,
    out_dir: str | Path,
    *,
    sections: Sequence[str] | None = None,
    region_um: float = 155.0,
    splits: Mapping[str, Sequence[str]] | None = None,
    clusters_csv: str | Path = CLUSTERS_CSV,
    quality: int = 90,
    progress: bool = True,
) -> pd.DataFrame:
    """Cohort of spots from HER2-positive breast cancer sections (Andersson et al. 2021, Nat Commun 12:6012).

    Parameters
    ----------
    source_dir : laid out as github almaan/her2st (data/ST-cnts, data/ST-imgs, data/ST-spotfiles,
    res/ST-cluster).
    out_dir : receives slides/<section>.tiff, samples.csv, expression.parquet, import_report.csv.
    sections : for example ["B4", "C2"]; None is every section that has a picture.
    region_um : edge of the square around a spot's centre that is its sample.
    splits : set name -> sections, written as the column split; None or empty leaves the split to later.
    clusters_csv : patient, cluster, annotation, coarse. A cluster number means something else in each
    patient.

    Returns
    -------
    DataFrame
        One row per section: n_spots, dropped by reason (no counts, no label, off the slide), n_samples,
        genes, mpp, pitch_x_px, pitch_y_px, rotation_deg, residual_px, n_outliers; also import_report.csv.

    Raises
    ------
    FileNotFoundError, ValueError
        A file or section is missing; a table lacks a column; a cluster without meaning; splits that do not
        fit.

    Notes
    -----
    Genes are the union over sections; a gene absent from a section's table counts 0 there (`genes_filled`).
    Counts become counts per million of the spot's total. Genes that are 0 everywhere are kept.
    """
    source_dir, out_dir = Path(source_dir), Path(out_dir)
    pictures = _pictures(source_dir, sections)
    split_of = _split_of(splits, list(pictures))
    clusters_df = pd.read_csv(clusters_csv, comment="#", dtype=str).set_index(["patient", "cluster"])
    (out_dir / "slides").mkdir(parents=True, exist_ok=True)
    samples, counts, reports = [], [], []
    for section, picture in tqdm(pictures.items(), unit="section", desc="her2st", disable=not progress):
        spots_df, counts_df, report = _section(source_dir, section, clusters_df)
        grid = grid_mpp(spots_df)
        image = _read_picture(picture)
        height, width = image.shape[:2]
        labelled_df = spots_df[spots_df["tissue"].notna() & spots_df["sample_id"].isin(counts_df.columns)]
        labelled_df = labelled_df.drop(columns=["x", "y"])
        rows_df = spot_samples(labelled_df, section, grid.mpp, region_um, width, height)
        if split_of:
            rows_df.insert(4, "split", split_of[section])
        write_pyramid(image, out_dir / "slides" / f"{section}.tiff", grid.mpp, quality)
        samples.append(rows_df)
        counts.append(counts_df[rows_df["sample_id"].tolist()])
        report |= {"dropped_off_slide": len(labelled_df) - len(rows_df), "n_samples": len(rows_df)}
        reports.append(report | grid._asdict())
    joined_df = pd.concat(counts, axis=1, join="outer").sort_index()
    report_df = pd.DataFrame(reports).drop(columns="n_spots").rename(columns={"n_listed": "n_spots"})
    report_df["genes_filled"] = len(joined_df) - report_df["genes"]
    cpm_df = counts_per_million(joined_df.fillna(0))
    _replace(out_dir / "samples.csv", lambda path: pd.concat(samples).to_csv(path, index=False))
    _replace(out_dir / "import_report.csv", lambda path: report_df.to_csv(path, index=False))
    _replace(out_dir / "expression.parquet", lambda path: cpm_df.to_parquet(path, compression="zstd"))
    return report_df


def _pictures(source_dir: Path, sections: Sequence[str] | None) -> dict[str, Path]:
    """Section -> its JPEG, in alphabetical order."""
    found: dict[str, Path] = {}
    for path in sorted(source_dir.glob("data/ST-imgs/*/*/*.jp*g")):
        section = path.parent.name
        if section in found:
            raise ValueError(
                f"Section {section} has two pictures, {found[section].name} and {path.name}; keep one."
            )
        found[section] = path
    if not found:
        raise FileNotFoundError(
            f"No section pictures under {source_dir / 'data/ST-imgs'}: fetch the data set first."
        )
    absent = [s for s in sections or () if s not in found]
    if absent:
        raise FileNotFoundError(
            f"Sections {absent} have no picture in {source_dir}; there are {list(found)}."
        )
    return {s: found[s] for s in (sections or found)}


def _split_of(splits: Mapping[str, Sequence[str]] | None, sections: list[str]) -> dict[str, str]:
    if not splits:
        return {}
    named = [s for members in splits.values() for s in members]
    twice = sorted({s for s in named if named.count(s) > 1})
    if twice or set(sections) - set(named):
        raise ValueError(
            f"splits must name every section once: {sections}. Twice: {twice}; not named: "
            f"{sorted(set(sections) - set(named))}."
        )
    return {s: name for name, members in splits.items() for s in members}


def _section(
    source_dir: Path, section: str, clusters_df: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Spots under tissue and what is known of them, counts (genes x sample_id), how many lack something."""
    spots_df = _table(
        source_dir / f"data/ST-spotfiles/{section}_selection.tsv", ["x", "y", "pixel_x", "pixel_y"]
    )
    if "selected" in spots_df:
        spots_df = spots_df[spots_df["selected"] == 1]
    spots_df = spots_df[["x", "y", "pixel_x", "pixel_y"]].reset_index(drop=True)
    key = spots_df["x"].astype(str) + "x" + spots_df["y"].astype(str)
    counts_df = pd.read_csv(_there(source_dir / f"data/ST-cnts/{section}.tsv.gz"), sep="\t", index_col=0)
    _refuse_repeats(counts_df.index, counts_df.columns, key, section)
    labels_df = _table(
        source_dir / f"res/ST-cluster/lbl/{section}-cluster-annotation.tsv.gz", ["x", "y", "label"]
    )
    label = (
        labels_df["label"].astype(str).set_axis(labels_df["x"].astype(str) + "x" + labels_df["y"].astype(str))
    )
    patient = re.match(r"[A-Za-z]+", section)[0]
    number = key.map(label)
    meaning_df = clusters_df.loc[clusters_df.index.get_level_values("patient") == patient].droplevel(
        "patient"
    )
    unknown = sorted(set(number.dropna()) - set(meaning_df.index))
    if unknown:
        raise ValueError(
            f"Section {section}: clusters {unknown} of patient {patient} have no meaning in the table."
        )
    totals = counts_df.sum(axis=1)
    has_counts = key.map(totals).fillna(0) > 0
    spots_df = spots_df.assign(
        sample_id=section + "_" + key,
        donor=patient,
        tissue=number.map(meaning_df["coarse"]),
        cluster=patient + ":" + number,
        annotation=number.map(meaning_df["annotation"]),
        n_counts=key.map(totals).fillna(0).astype(int),
    )
    counts_df = (
        counts_df[totals > 0]
        .T.rename_axis("gene")
        .rename_axis(None, axis=1)
        .add_prefix(f"{section}_", axis=1)
    )
    report = {
        "section": section,
        "n_listed": len(spots_df),
        "dropped_no_counts": int((~has_counts).sum()),
        "dropped_no_label": int((has_counts & number.isna()).sum()),
        "genes": len(counts_df),
    }
    return spots_df, counts_df, report


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch the data set again.")
    return path


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    table_df = pd.read_csv(_there(path), sep="\t")
    absent = [c for c in columns if c not in table_df]
    if absent:
        raise ValueError(f"{path}: no column(s) {absent}; it has {list(table_df.columns)}.")
    return table_df


def _refuse_repeats(spots: pd.Index, genes: pd.Index, key: pd.Series, section: str) -> None:
    for what, ids in (("spot in the counts", spots), ("gene", genes), ("spot position", pd.Index(key))):
        if ids.has_duplicates:
            repeated = list(ids[ids.duplicated()].unique())
            raise ValueError(
                f"Section {section}: {len(repeated)} duplicated {what}(s), first {repeated[:3]}."
            )


def _read_picture(path: Path) -> np.ndarray:
    """JPEG to uint8 (height, width, 3). Pillow's limit on huge pictures does not apply to slides."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path}: not a readable JPEG ({error}). Fetch it again.") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


# ------------------------------------------------------------------------------------- what is left within
