"""A Visium section in an .h5ad file, as scanpy and squidpy write it: counts, positions, scale, clusters.

Positions are obsm["spatial"] (x, y in pixels of the full-resolution image); the scale is that of
uns["spatial"][<library>]["scalefactors"]. Counts are layers["counts"], X or raw.X, whichever holds whole
numbers; logarithms that uns["log1p"] declares are taken back to the counts they were made of.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from lib.cohort import h5ad_reading
from lib.cohort.samples import first
from lib.cohort.table_checks import refuse_duplicates
from lib.errors import InputError
from lib.sources import space_ranger

KEEP_COUNTS = "keep the counts, adata.layers['counts'] = adata.X.copy(), before normalize_total and log1p"
HOW_TO_SCALE = "adata.uns['spatial'] = {'section': {'scalefactors': {'spot_diameter_fullres': 65 / mpp}}}"
# How far a restored count may be from a whole number: float32 logarithms err by far less.
NEAR, NEAR_RELATIVE = 0.02, 1e-5


def read_section(path: Path) -> space_ranger.Spots:
    """A whole section; features that are no genes are left out.

    Raises
    ------
    MissingInputError : no file. InputError : no .h5ad of a current anndata; no counts, positions or scale;
    more than one section; names that occur twice; positions and scale that disagree.
    """
    with h5ad_reading.opened(path) as file:
        barcodes = h5ad_reading.require_unique(file, path)
        factors, image_px = _scalefactors(file, path)
        positions_df = _positions(file, path, barcodes)
        matrix, var_df, counts_from = _counts(file, path, barcodes)
    genes = h5ad_reading.genes_of(var_df)
    refuse_duplicates(genes.ids, "gene", str(path))
    kinds = var_df["feature_types"].astype(str) if "feature_types" in var_df else None
    kept = np.arange(len(var_df)) if kinds is None else np.flatnonzero(kinds == "Gene Expression")
    if not len(kept):
        raise InputError(f"{path} holds no 'Gene Expression' feature")
    counts = space_ranger.Counts(
        sparse.csc_array(matrix[:, kept].T),
        [genes.ids[k] for k in kept],
        [genes.symbols[k] or genes.ids[k] for k in kept],
        barcodes,
    )
    scale = space_ranger.scale_of(factors, positions_df, str(path))
    return space_ranger.Spots(counts, positions_df, scale, image_px, counts_from)


def read_clusters(path: Path, column: str) -> pd.Series:
    """A column of obs as text, by barcode; missing values stay missing."""
    with h5ad_reading.opened(path) as file:
        obs_df = h5ad_reading.read_frame(file["obs"])
    if column not in obs_df:
        raise InputError(f"{path}: clusters = {column!r} is no column of obs: {first(obs_df.columns, 12)}")
    values = obs_df[column].astype(object)
    return values.where(values.isna(), values.astype(str))


# --------------------------------------------------------------------------------- positions and their scale


def _scalefactors(file: h5py.File, path: Path) -> tuple[dict[str, float], tuple[int, int] | None]:
    """The scale factors of the one section, and the size of the full-resolution image where it is known."""
    spatial: Any = file.get("uns/spatial", {})
    libraries = [n for n, of in spatial.items() if isinstance(of, h5py.Group) and "scalefactors" in of]
    if len(libraries) > 1:
        raise InputError(
            f"{path} holds {len(libraries)} sections, {first(libraries)}: write one file for each"
        )
    group = spatial[libraries[0]]["scalefactors"] if libraries else {}
    values = {name: h5ad_reading.read_scalar(group, name) for name in group}
    factors = {name: float(np.ravel(value)[0]) for name, value in values.items() if _is_number(value)}
    if not factors.get("spot_diameter_fullres", 0) > 0:
        raise InputError(
            f"{path}: uns['spatial'] states no spot_diameter_fullres among the scalefactors of a section, so "
            f"µm/px is unknown; write it again with {HOW_TO_SCALE}"
        )
    library, scale = spatial[libraries[0]], factors.get("tissue_hires_scalef", 0.0)
    if "images" not in library or "hires" not in library["images"] or not scale > 0:
        return factors, None
    height, width = library["images/hires"].shape[:2]
    return factors, (round(width / scale), round(height / scale))


def _is_number(value: Any) -> bool:
    return np.size(value) == 1 and np.asarray(value).dtype.kind in "biuf"


def _positions(file: h5py.File, path: Path, barcodes: list[str]) -> pd.DataFrame:
    """Columns of space_ranger.POSITIONS; the array positions only where obs has them."""
    if "obsm/spatial" not in file:
        held: Any = file.get("obsm", {})
        raise InputError(
            f"{path} has no obsm['spatial'] (obsm holds {first(held) or 'nothing'}): the spots' x and y "
            "are needed, in pixels of the full-resolution image"
        )
    xy = np.asarray(h5ad_reading.read_values(file["obsm/spatial"]))
    if xy.shape != (len(barcodes), 2) or xy.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: obsm['spatial'] is {xy.shape} of {xy.dtype}; x and y of {len(barcodes)} spots are "
            f"numbers of ({len(barcodes)}, 2)"
        )
    if not np.isfinite(xy).all():
        n_bad = int((~np.isfinite(xy)).any(axis=1).sum())
        raise InputError(f"{path}: {n_bad} positions in obsm['spatial'] are missing; leave these spots out")
    obs_df = h5ad_reading.read_frame(file["obs"])
    df = pd.DataFrame({"barcode": barcodes, "in_tissue": 1, "pixel_x": xy[:, 0], "pixel_y": xy[:, 1]})
    wanted = [name for name in ("in_tissue", "array_row", "array_col") if name in obs_df]
    if not {"array_row", "array_col"} <= set(wanted):  # only both are a place
        wanted = [name for name in wanted if name == "in_tissue"]
    for name in wanted:
        df[name] = pd.to_numeric(pd.Series(obs_df[name].astype(object).to_numpy()), errors="coerce")
        if df[name].isna().any():
            raise InputError(f"{path}: {int(df[name].isna().sum())} values of obs[{name!r}] are no numbers")
    return df


# --------------------------------------------------------------------------------------------------- counts


def _counts(file: h5py.File, path: Path, barcodes: list[str]) -> tuple[sparse.csr_array, pd.DataFrame, str]:
    """Counts [spots, genes], their var table, and which values of the file they are."""
    base, said, logged = h5ad_reading.log_base(file), [], None
    for values in h5ad_reading.read_all_values(file):
        matrix = sparse.csr_array(values.matrix)
        matrix.eliminate_zeros()
        problem = _why_no_counts(matrix, values.var_df.index, barcodes)
        if not problem:
            return matrix, values.var_df, values.found_in
        said.append(f"{values.found_in} {problem}")
        if values.found_in.startswith("layers"):
            raise InputError(f"{path}: {said[0]}; the layer must hold counts: {KEEP_COUNTS}")
        if values.found_in == "X":
            logged = values._replace(matrix=matrix)
    if logged is not None and base is not None:
        counts = restored_counts(logged.matrix, base)
        if counts is not None:
            return counts, logged.var_df, "X, restored from its logarithms (uns['log1p'])"
        said.append("no whole counts give the logarithms that uns['log1p'] declares")
    raise InputError(f"{path}: no counts of the spots: {'; '.join(said) or 'it has no X'}; {KEEP_COUNTS}")


def _why_no_counts(matrix: sparse.csr_array, genes: pd.Index, barcodes: list[str]) -> str:
    """Why a matrix cannot hold counts, with the first such value; "" where it can."""
    bad = ~(np.isfinite(matrix.data) & (matrix.data >= 0) & (np.mod(matrix.data, 1) == 0))
    if not bad.any():
        return ""
    at = int(bad.argmax())
    row = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
    value, gene = matrix.data[at], genes[matrix.indices[at]]
    return (
        f"has {int(bad.sum()):,} values that are no counts, first {value:g} of gene {gene} in {barcodes[row]}"
    )


def restored_counts(matrix: Any, base: float) -> sparse.csr_array | None:
    """Counts [spots, genes] whose normalised values' log(1 + x) to `base` these are, or None.

    A spot's counts were multiplied by one factor, and the smallest count of a spot is all but surely 1. So
    the exponentials over their smallest one are the counts if they are whole numbers, which values that were
    scaled, corrected or not counts are not.
    """
    if not (np.isfinite(matrix.data) & (matrix.data > 0)).all():
        return None
    values = np.expm1(matrix.data.astype(np.float64) * np.log(base))
    spot = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    smallest = np.full(matrix.shape[0], np.inf)
    np.minimum.at(smallest, spot, values)
    counts = values / smallest[spot]
    whole = np.rint(counts)
    if not (np.abs(counts - whole) <= NEAR + NEAR_RELATIVE * whole).all():
        return None
    return sparse.csr_array((whole, matrix.indices, matrix.indptr), shape=matrix.shape)
