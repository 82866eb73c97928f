"""The her2st cohort: a spot of spatial transcriptomics is a sample, a square of a slide with its own counts.

`Her2stCohort.make_inputs` leaves slides, samples.csv and expression.parquet in the cohort's folder. The steps
are general: `grid_mpp` measures µm/px from the spot pitch, `write_pyramid` turns a picture into a slide, and
`spot_samples` gives the region of each spot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from tqdm.auto import tqdm

from lib.cohort.expression_units import scale_counts
from lib.errors import InputError, MissingInputError
from lib.sources import pinned_files
from lib.sources.mirror import Places
from lib.sources.spot_regions import grid_steps, spot_samples
from lib.whole_files import whole_file

SPOT_PITCH_UM = 200.0  # centre to centre on the arrays of Ståhl et al. 2016, Science 353:78
CLUSTERS_CSV = Path(__file__).resolve().parents[2] / "data" / "reference" / "her2st_clusters.csv"
TILE_PX, JPEG_QUALITY = 256, 90
SMALLEST_LEVEL_PX = 512


class Grid(NamedTuple):
    """How the spots of a section are placed on its picture: pixel = origin + x * step_x + y * step_y."""

    mpp: float  # µm per pixel, mean of both axes
    pitch_x_px: float  # length of a step along array x
    pitch_y_px: float
    rotation_deg: float  # of array x against picture x
    residual_px: float  # median distance of a spot from its fitted place
    n_spots: int
    n_outliers: int  # spots left out of the fit


def grid_mpp(spots_df: pd.DataFrame) -> Grid:
    """µm/px from the known distance between spots: `spot_regions.grid_steps`.

    Parameters
    ----------
    spots_df : columns x, y (array position, in steps of one pitch) and pixel_x, pixel_y (level-0 px).

    Raises
    ------
    ValueError
        Fewer than 4 spots, all on one line, or positions that are not a grid (axes that differ by more than
        10 %, or spots typically further than a third of the pitch from their place).
    """
    steps, distance, used = grid_steps(spots_df[["x", "y"]], spots_df[["pixel_x", "pixel_y"]])
    pitch_x, pitch_y = np.hypot(*steps[0]), np.hypot(*steps[1])
    pitch, residual = (pitch_x + pitch_y) / 2, float(np.median(distance))
    if not 0.9 < pitch_x / max(pitch_y, 1e-9) < 1.1 or residual > pitch / 3:
        raise InputError(
            f"the spots do not form a square grid ({pitch_x:.1f} px along x, {pitch_y:.1f} px along y,"
            f" typically {residual:.1f} px off): check that x, y are array positions and pixel_x, pixel_y"
            " level-0 pixels"
        )
    rotation = float(np.degrees(np.arctan2(steps[0, 1], steps[0, 0])))
    n_outliers = int((~used).sum())
    return Grid(
        SPOT_PITCH_UM / pitch, float(pitch_x), float(pitch_y), rotation, residual, len(used), n_outliers
    )


def write_pyramid(image: np.ndarray, path: str | Path, mpp: float) -> None:
    """Write an RGB picture as a tiled pyramidal TIFF from which OpenSlide reads the µm/px.

    Parameters
    ----------
    image : uint8, (height, width, 3).
    mpp : µm per pixel of level 0; kept in the resolution tags (OpenSlide: openslide.mpp-x, mpp-y).

    Notes
    -----
    Levels halve until both edges are under 512 px.
    """
    level, level_mpp = Image.fromarray(image), mpp
    with whole_file(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=False) as tiff:
        while True:
            tiff.write(
                np.asarray(level),
                photometric="rgb",  # of the input; stored as YCbCr
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY, "outcolorspace": "ycbcr"},
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


@dataclass(frozen=True)
class Her2stCohort:
    """A cohort of spots from HER2-positive breast cancer sections.

    Parameters
    ----------
    region_um : edge of the square around a spot's centre that is its sample, µm.
    splits : set name -> sections, written as the column split; empty leaves the split to later.
    """

    region_um: float = 155.0
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def make_inputs(self, raw: Path, places: Places) -> dict[str, Any]:
        """Fetch the publisher's files and write the inputs of the cohort to its folder `raw`; the report of
        `import_her2st` as records under "sections".
        """
        report_df = import_her2st(pinned_files.fetch("her2st", places.upstream), raw, self)
        return {"sections": report_df.to_dict("records")}


def import_her2st(source_dir: str | Path, out_dir: str | Path, cohort: Her2stCohort) -> pd.DataFrame:
    """Cohort of spots from HER2-positive breast cancer sections (Andersson et al. 2021, Nat Commun 12:6012).

    Parameters
    ----------
    source_dir : files of github almaan/her2st, as `pinned_files` fetches and checks them (data/ST-cnts,
        data/ST-imgs, data/ST-spotfiles, res/ST-cluster); every section with a picture is imported.
    out_dir : receives slides/<section>.tiff, samples.csv, expression.parquet, import_report.csv.

    Returns
    -------
    DataFrame
        One row per section: n_spots, dropped by reason (no counts, no label, off the slide), n_samples,
        genes, mpp, pitch_x_px, pitch_y_px, rotation_deg, residual_px, n_outliers; also import_report.csv.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing; a cluster has no annotation; splits that do not fit; spots that form no grid.

    Notes
    -----
    Genes are the union over sections; a gene absent from a section's table counts 0 there (`genes_filled`).
    Counts become counts per ten thousand of the spot's total (CP10K). Genes that are 0 everywhere are kept.
    The same cluster number means something else in each patient (`CLUSTERS_CSV`).
    """
    source_dir, out_dir = Path(source_dir), Path(out_dir)
    pictures = {path.parent.name: path for path in sorted(source_dir.glob("data/ST-imgs/*/*/*.jp*g"))}
    if not pictures:
        raise MissingInputError(f"no section pictures in {source_dir / 'data/ST-imgs'}: fetch the data first")
    split_of = _split_of(cohort.splits, list(pictures))
    clusters_df = pd.read_csv(CLUSTERS_CSV, comment="#", dtype=str).set_index(["patient", "cluster"])
    (out_dir / "slides").mkdir(parents=True, exist_ok=True)
    samples, counts, reports = [], [], []
    for section, picture in tqdm(pictures.items(), unit="section", desc="her2st"):
        spots_df, counts_df, report = _section(source_dir, section, clusters_df)
        grid = grid_mpp(spots_df)
        image = _read_picture(picture)
        height, width = image.shape[:2]
        labelled_df = spots_df[spots_df["tissue"].notna() & spots_df["sample_id"].isin(counts_df.columns)]
        labelled_df = labelled_df.drop(columns=["x", "y"])
        rows_df = spot_samples(labelled_df, section, grid.mpp, cohort.region_um, width, height)
        if split_of:
            rows_df.insert(4, "split", split_of[section])
        write_pyramid(image, out_dir / "slides" / f"{section}.tiff", grid.mpp)
        samples.append(rows_df)
        counts.append(counts_df[rows_df["sample_id"].tolist()])
        report |= {"dropped_off_slide": len(labelled_df) - len(rows_df), "n_samples": len(rows_df)}
        reports.append(report | grid._asdict())
    joined_df = pd.concat(counts, axis=1, join="outer").sort_index()
    report_df = pd.DataFrame(reports).drop(columns="n_spots").rename(columns={"n_listed": "n_spots"})
    report_df["genes_filled"] = len(joined_df) - report_df["genes"]
    scaled_df = scale_counts(joined_df.fillna(0), "CP10K")
    with whole_file(out_dir / "samples.csv") as temporary:
        pd.concat(samples).to_csv(temporary, index=False)
    with whole_file(out_dir / "import_report.csv") as temporary:
        report_df.to_csv(temporary, index=False)
    with whole_file(out_dir / "expression.parquet") as temporary:
        scaled_df.to_parquet(temporary, compression="zstd")
    return report_df


def _split_of(splits: Mapping[str, Sequence[str]], sections: list[str]) -> dict[str, str]:
    if not splits:
        return {}
    named = [s for members in splits.values() for s in members]
    twice = sorted({s for s in named if named.count(s) > 1})
    absent = sorted(set(sections) - set(named))
    if twice or absent:
        raise InputError(
            f"spot_splits must name each of {sections} once: {twice} are named twice, {absent} not at all"
        )
    return {s: name for name, members in splits.items() for s in members}


def _section(
    source_dir: Path, section: str, clusters_df: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Spots under tissue with their annotation, counts (genes x sample_id), numbers of spots dropped."""
    spots_df = pd.read_csv(source_dir / f"data/ST-spotfiles/{section}_selection.tsv", sep="\t")
    counts_df = pd.read_csv(source_dir / f"data/ST-cnts/{section}.tsv.gz", sep="\t", index_col=0)
    labels_path = source_dir / f"res/ST-cluster/lbl/{section}-cluster-annotation.tsv.gz"
    labels_df = pd.read_csv(labels_path, sep="\t")
    if "selected" in spots_df:
        spots_df = spots_df[spots_df["selected"] == 1]
    spots_df = spots_df[["x", "y", "pixel_x", "pixel_y"]].reset_index(drop=True)
    key, patient = _spot_keys(spots_df), section.rstrip("0123456789")
    cluster = key.map(labels_df["label"].astype(str).set_axis(_spot_keys(labels_df)))
    annotations_df = clusters_df.xs(patient, level="patient")
    if unknown := sorted(set(cluster.dropna()) - set(annotations_df.index)):
        raise InputError(
            f"section {section}: clusters {unknown} of patient {patient} have no annotation in {CLUSTERS_CSV}"
        )
    totals = counts_df.sum(axis=1)
    has_counts = key.map(totals).fillna(0) > 0
    spots_df = spots_df.assign(
        sample_id=section + "_" + key,
        donor=patient,
        tissue=cluster.map(annotations_df["coarse"]),
        cluster=patient + ":" + cluster,
        annotation=cluster.map(annotations_df["annotation"]),
        n_counts=key.map(totals).fillna(0).astype(int),
        log_counts=np.log10(key.map(totals).where(lambda n: n > 0)).round(4),
    )
    counts_df = counts_df[totals > 0].T.rename_axis("gene").rename_axis(None, axis=1)
    report = {
        "section": section,
        "n_listed": len(spots_df),
        "dropped_no_counts": int((~has_counts).sum()),
        "dropped_no_label": int((has_counts & cluster.isna()).sum()),
        "genes": len(counts_df),
    }
    return spots_df, counts_df.add_prefix(f"{section}_", axis=1), report


def _spot_keys(spots_df: pd.DataFrame) -> pd.Series:
    """Array positions as the counts name them: 10x13."""
    return spots_df["x"].astype(str) + "x" + spots_df["y"].astype(str)


def _read_picture(path: Path) -> np.ndarray:
    """JPEG to uint8 (height, width, 3), without Pillow's limit on the size of pictures."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit
