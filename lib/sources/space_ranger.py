"""Readers of what Space Ranger (10x Genomics) leaves: counts, positions of spots, scale, clusters.

A folder is `outs/` of a run (or `binned_outputs/square_008um` of Visium HD): filtered_feature_bc_matrix.h5 or
the folder of that name (also raw_...), and spatial/ with scalefactors_json.json and the positions in any form
(tissue_positions_list.csv without header, tissue_positions.csv with one, tissue_positions.parquet).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy import io, sparse

from lib.errors import InputError, MissingInputError
from lib.sources.spot_regions import grid_steps
from lib.statistics.spots import pitch

SPOT_PITCH_UM = 100.0  # centre to centre, Visium
SPOT_DIAMETER_UM = 65.0  # of the spots that spot_diameter_fullres counts (they capture 55 µm)
FACTORS = "scalefactors_json.json"
SAME_MPP = 0.1  # by which pitch and diameter may disagree
POSITIONS = ["barcode", "in_tissue", "array_row", "array_col", "pixel_y", "pixel_x"]
MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")


class Counts(NamedTuple):
    """Counts of one section: uint/int sparse [genes, barcodes], ids and symbols of genes, barcodes."""

    matrix: sparse.csc_array
    genes: list[str]
    symbols: list[str]
    barcodes: list[str]


def read_counts(folder: Path) -> Counts:
    """Counts of a Space Ranger folder, the filtered ones first; features that are no genes are left out.

    Raises
    ------
    MissingInputError : no matrix, with what is there. InputError : one that cannot be read.
    """
    for name in MATRICES:
        for path in (folder / f"{name}.h5", folder / name):
            if path.exists():
                try:
                    found = _read_h5(path) if path.suffix == ".h5" else _read_mtx(path)
                except (OSError, KeyError, ValueError, IndexError) as error:
                    raise InputError(f"{path}: no readable matrix of Space Ranger ({error})") from error
                if not found.genes:
                    raise InputError(f"{path} holds no 'Gene Expression' feature")
                return found
    raise MissingInputError(
        f"{folder} has neither {MATRICES[0]}.h5 nor the folder {MATRICES[0]}: it holds {_listed(folder)}; "
        "give the folder outs/ of a Space Ranger run"
    )


def _read_h5(path: Path) -> Counts:
    with h5py.File(path) as file:
        group: Any = file["matrix"]
        parts = tuple(group[name][:] for name in ("data", "indices", "indptr"))
        matrix = sparse.csc_array(parts, shape=tuple(int(n) for n in group["shape"][:]))
        features = {name: _text(group["features"][name][:]) for name in ("id", "name", "feature_type")}
        barcodes = _text(group["barcodes"][:])
    return _genes(matrix, features["id"], features["name"], features["feature_type"], barcodes)


def _read_mtx(folder: Path) -> Counts:
    def lines(stem: str) -> pd.DataFrame:
        path = next(path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file())
        return pd.read_csv(path, sep="\t", header=None, dtype=str)

    try:
        features, barcodes = lines("features.tsv"), lines("barcodes.tsv")
        matrix_path = next(p for p in (folder / "matrix.mtx", folder / "matrix.mtx.gz") if p.is_file())
    except StopIteration:
        wanted = "features.tsv, barcodes.tsv and matrix.mtx (each also .gz)"
        raise InputError(f"it must hold {wanted}; it holds {_listed(folder)}") from None
    matrix = sparse.csc_array(io.mmread(matrix_path))
    if matrix.shape != (len(features), len(barcodes)):
        raise InputError(f"matrix of {matrix.shape}, but {len(features)} features, {len(barcodes)} barcodes")
    kinds = features[2] if 2 in features else pd.Series("Gene Expression", features.index)
    return _genes(matrix, list(features[0]), list(features[1]), list(kinds), list(barcodes[0]))


def _genes(
    matrix: sparse.csc_array, ids: list[str], names: list[str], kinds: list[str], barcodes: list[str]
) -> Counts:
    if matrix.shape != (len(ids), len(barcodes)):
        raise InputError(f"matrix of {matrix.shape}, but {len(ids)} features and {len(barcodes)} barcodes")
    kept = np.flatnonzero(np.asarray(kinds) == "Gene Expression")
    return Counts(matrix[kept], [ids[k] for k in kept], [names[k] for k in kept], barcodes)


def read_positions(folder: Path) -> pd.DataFrame:
    """Columns POSITIONS of every spot (pixels of the full-resolution image), from any form of the file.

    Raises
    ------
    MissingInputError : no positions. InputError : columns or values that are none.
    """
    spatial = folder / "spatial"
    names = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
    path = next((spatial / name for name in names if (spatial / name).is_file()), None)
    if path is None:
        raise MissingInputError(f"{spatial} has none of {', '.join(names)}: it holds {_listed(spatial)}")
    try:
        if path.suffix == ".parquet":
            df = pd.read_parquet(path)
        else:
            has_header = path.read_text(encoding="utf-8").startswith("barcode")
            df = pd.read_csv(path, header=0 if has_header else None)
    except (OSError, ValueError) as error:  # pandas' and Arrow's errors of parsing are ValueErrors
        raise InputError(f"{path}: the positions cannot be read as columns {POSITIONS} ({error})") from error
    if df.shape[1] != len(POSITIONS):
        raise InputError(f"{path} has {df.shape[1]} columns, positions have {len(POSITIONS)}: {POSITIONS}")
    df = df.set_axis(POSITIONS, axis=1)
    numbers = df[POSITIONS[1:]].apply(pd.to_numeric, errors="coerce")
    if numbers.isna().any(axis=None):
        raise InputError(f"{path}: {int(numbers.isna().any(axis=1).sum())} rows are not numbers")
    return numbers.assign(barcode=df["barcode"].astype(str))[POSITIONS]


class Scale(NamedTuple):
    """µm per pixel of the full-resolution image, pitch of the spots in µm, bin of Visium HD in µm or 0."""

    mpp: float
    pitch_um: float
    bin_um: float


class Spots(NamedTuple):
    """What is read of one section: positions_df has columns POSITIONS (array positions only where known);
    image_px is the size of the full-resolution image as far as it is stated; counts_from says in words which
    values the counts are.
    """

    counts: Counts
    positions_df: pd.DataFrame
    scale: Scale
    image_px: tuple[int, int] | None
    counts_from: str


def read_section(folder: Path) -> Spots:
    """A whole section from a Space Ranger folder; errors as of the readers of its parts."""
    counts, positions_df = read_counts(folder), read_positions(folder)
    scale = read_scale(folder, positions_df)
    return Spots(counts, positions_df, scale, _image_px(folder), "Space Ranger")


def read_scale(folder: Path, positions_df: pd.DataFrame) -> Scale:
    """`scale_of` with the scale factors of a Space Ranger folder; MissingInputError where there are none."""
    return scale_of(_factors(folder), positions_df, str(folder))


def scale_of(factors: Mapping[str, float], positions_df: pd.DataFrame, where: str) -> Scale:
    """µm/px from the pitch of the spots, held against the scale factors; of Visium HD the one that Space
    Ranger states. The pitch is a linear fit of pixels on array positions or, where these are unknown, the
    median distance of the nearest spots.

    Raises
    ------
    InputError : spots that form no grid; a scale factor that disagrees, as where positions were scaled to the
    hires or lowres image. It names `where` they are from.
    """
    pixels_df = positions_df[["pixel_x", "pixel_y"]]
    if "array_col" in positions_df:
        try:
            steps, *_ = grid_steps(positions_df[["array_col", "array_row"]], pixels_df)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        column_px, row_px = np.hypot(*steps[0]), np.hypot(*steps[1])
        # a hexagonal array: two columns are a pitch, a row is sqrt(3) / 2 of one
        pitch_px, bin_px = (2 * column_px + row_px / (np.sqrt(3) / 2)) / 2, (column_px + row_px) / 2
    elif len(pixels_df) < 2:
        raise InputError(f"{where}: {len(pixels_df)} spots are too few to measure µm/px")
    else:
        pitch_px = bin_px = pitch(pixels_df.to_numpy(float))
    if not pitch_px:
        raise InputError(f"{where}: most spots lie on another one, so their pitch cannot be measured")
    if bin_um := factors.get("bin_size_um", 0.0):
        measured, pitch_um = bin_um / bin_px, bin_um
        stated = factors.get("microns_per_pixel", 0.0)
    else:
        measured, pitch_um = SPOT_PITCH_UM / pitch_px, SPOT_PITCH_UM
        diameter_px = factors.get("spot_diameter_fullres", 0.0)
        stated = SPOT_DIAMETER_UM / diameter_px if diameter_px else 0.0
    if stated and abs(measured / stated - 1) > SAME_MPP:
        hint = ""
        for image in ("hires", "lowres"):
            scale = factors.get(f"tissue_{image}_scalef", 0.0)
            if scale and abs(measured * scale / stated - 1) < SAME_MPP:
                hint = f"; positions seem to be pixels of the {image} image: divide them by {scale:g}"
        raise InputError(
            f"{where}: the spots' pitch gives {measured:.3f} µm/px, the scale factors {stated:.3f}{hint}. "
            "Positions must be pixels of the full-resolution image, as Space Ranger writes them"
        )
    return Scale(float(measured), float(pitch_um), float(bin_um))


def _factors(folder: Path) -> dict[str, float]:
    path = folder / "spatial" / FACTORS
    if not path.is_file():
        raise MissingInputError(f"{path} is missing; spatial/ holds {_listed(path.parent)}")
    try:
        return {name: float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a table of numbers ({error})") from error


def _image_px(folder: Path) -> tuple[int, int] | None:
    """Size of the image that Space Ranger was given, from the hires image beside the positions."""
    hires, scale = folder / "spatial/tissue_hires_image.png", _factors(folder).get("tissue_hires_scalef")
    if not hires.is_file() or not scale:
        return None
    with Image.open(hires) as picture:
        return round(picture.size[0] / scale), round(picture.size[1] / scale)


def check_image(image: Path, size: tuple[int, int], wanted: tuple[int, int] | None) -> None:
    """InputError where the image is of another size, in px, than the one that Space Ranger was given."""
    if wanted and any(abs(edge / of - 1) > 0.02 for edge, of in zip(size, wanted, strict=True)):
        raise InputError(
            f"{image} is {size[0]} x {size[1]} px, but the image that Space Ranger was given had about "
            f"{wanted[0]} x {wanted[1]}: give that one (not the hires image), unturned and uncropped"
        )


def read_clusters(path: Path) -> pd.Series:
    """Cluster of each barcode, str, from a csv of two columns (barcode, cluster) such as clusters.csv."""
    if not path.is_file():
        raise MissingInputError(f"{path}: no such table of clusters")
    df = pd.read_csv(path, dtype=str)
    if df.shape[1] < 2:
        raise InputError(f"{path} must have the columns barcode and cluster, it has {list(df.columns)}")
    return df.set_index(df.columns[0])[df.columns[1]]


def _text(values: np.ndarray) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _listed(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:8]) or "nothing"
