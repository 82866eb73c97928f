"""A cohort of Visium sections: folders of Space Ranger, or .h5ad files, and images become samples.

A sample is a spot (or a bin of Visium HD): a square of the image with its own counts. A section is a slide.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from lib.cohort.expression_units import scale_counts
from lib.errors import InputError, MissingInputError
from lib.sources import h5ad_section, space_ranger
from lib.sources.linked_slides import link
from lib.sources.mirror import Places
from lib.sources.spot_regions import spot_samples
from lib.sources.visium_section import Section
from lib.whole_files import whole_file

LEAST_SPOTS_OF_GENE = 3  # a gene seen in fewer spots of the cohort is left out
MOST_SPOTS = 20_000  # of a section; of more (Visium HD) so many are drawn at random
STRIPS = (0.6, 0.8)  # of the longer axis: where the validation and test strips of a split section begin


class _Made(NamedTuple):
    """What one section gives: rows of the samples table, counts of its genes, symbols, and its report."""

    rows_df: pd.DataFrame
    counts_df: pd.DataFrame
    symbols: dict[str, str]
    report: dict[str, Any]


class VisiumCohort(NamedTuple):
    """Sections by name; region_um : edge of the square of tissue for a spot (0: the pitch of the spots)."""

    sections: Mapping[str, Section]
    region_um: float = 0.0
    seed: int = 0

    def make_inputs(self, raw: Path, places: Places) -> dict[str, Any]:
        """Write samples.csv, expression.parquet, genes.csv, slides/ and import_report.csv to `raw`; returns
        the report as records under "sections".

        Raises
        ------
        MissingInputError, InputError : a folder or an image that is missing, does not fit the other, or
        cannot be read; sections that share no gene; names of sections that cannot be file names.
        """
        if not self.sections:
            raise InputError(
                "source = 'visium' needs visium_sections, for example visium_sections.A1 = { folder = "
                "'A1/outs', image = 'A1.tif' }"
            )
        (raw / "slides").mkdir(parents=True, exist_ok=True)
        made = [self._section(name, raw) for name in tqdm(self.sections, unit="section", desc="visium")]
        rows_df = _with_split(pd.concat([one.rows_df for one in made], ignore_index=True))
        expression_df, n_rare = _joined(made)
        symbols = {gene: symbol for one in made for gene, symbol in one.symbols.items()}
        genes_df = pd.DataFrame({"gene": expression_df.index, "symbol": expression_df.index.map(symbols)})
        report_df = pd.DataFrame([one.report for one in made]).assign(genes_left_out=n_rare)
        with whole_file(raw / "samples.csv") as temporary:
            rows_df.to_csv(temporary, index=False)
        with whole_file(raw / "genes.csv") as temporary:
            genes_df.to_csv(temporary, index=False)
        with whole_file(raw / "import_report.csv") as temporary:
            report_df.to_csv(temporary, index=False)
        with whole_file(raw / "expression.parquet") as temporary:
            expression_df.to_parquet(temporary, compression="zstd")
        return {"sections": report_df.to_dict("records")}

    def _section(self, name: str, raw: Path) -> _Made:
        if "/" in name or "\\" in name or name.startswith("."):
            raise InputError(f"section {name!r} of visium_sections: give a name without slashes")
        section = self.sections[name]
        image = raw / section.image
        spots = _read(name, section, raw)
        if not image.is_file():
            raise MissingInputError(f"section {name}: there is no image at {image}")
        counts, scale = spots.counts, spots.scale
        width, height = _size(image)
        space_ranger.check_image(image, (width, height), spots.image_px)
        used_df, report = self._used(spots.positions_df, counts)
        used_df = used_df.assign(
            sample_id=name + "_" + used_df["barcode"], donor=section.donor or name, tissue="tissue"
        )
        if section.clusters:
            used_df["tissue"] = used_df["barcode"].map(_clusters(section, raw))
            report["dropped_no_cluster"] = int(used_df["tissue"].isna().sum())
            used_df = used_df[used_df["tissue"].notna()]
        edge_um = self.region_um or scale.pitch_um
        places_df = used_df.drop(columns=["barcode", "in_tissue", "column"])
        rows_df = spot_samples(places_df, name, scale.mpp, edge_um, width, height)
        if rows_df.empty:
            raise InputError(
                f"section {name}: none of {len(spots.positions_df):,} spots is under tissue, has counts and "
                f"lies on the image ({width} x {height} px)"
            )
        if section.split:
            rows_df.insert(4, "split", section.split)
        link(image, raw / "slides" / f"{name}{_suffix(image)}")
        column = used_df.set_index("sample_id")["column"].loc[rows_df["sample_id"]].to_numpy(int)
        dense = counts.matrix[:, column].toarray().astype(np.float32)
        counts_df = pd.DataFrame(dense, pd.Index(counts.genes, name="gene"), rows_df["sample_id"].tolist())
        report |= {"dropped_off_image": len(used_df) - len(rows_df), "n_samples": len(rows_df)}
        report |= {"genes": len(counts.genes), "mpp": scale.mpp, "pitch_um": scale.pitch_um}
        report |= {"counts_from": spots.counts_from}
        symbols = dict(zip(counts.genes, counts.symbols, strict=True))
        return _Made(rows_df, counts_df, symbols, {"section": name, "region_um": edge_um} | report)

    def _used(
        self, positions_df: pd.DataFrame, counts: space_ranger.Counts
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Spots under tissue with counts, with n_counts, log_counts and their column of the matrix."""
        known = {barcode: k for k, barcode in enumerate(counts.barcodes)}
        totals = np.asarray(counts.matrix.sum(axis=0)).ravel()
        tissue_df = positions_df[positions_df["in_tissue"] == 1]
        column = tissue_df["barcode"].map(known)
        n_counts = column.map(lambda k: totals[int(k)] if pd.notna(k) else 0)
        used_df = tissue_df.assign(column=column, n_counts=n_counts.astype(int))[n_counts > 0]
        report = {"n_spots": len(positions_df), "dropped_no_tissue": len(positions_df) - len(tissue_df)}
        report |= {"dropped_no_counts": len(tissue_df) - len(used_df), "dropped_over_cap": 0}
        if len(used_df) > MOST_SPOTS:
            report["dropped_over_cap"] = len(used_df) - MOST_SPOTS
            used_df = used_df.sample(MOST_SPOTS, random_state=self.seed).sort_index()
        return used_df.assign(log_counts=np.log10(used_df["n_counts"]).round(4)), report


def _read(name: str, section: Section, raw: Path) -> space_ranger.Spots:
    if section.h5ad:
        return h5ad_section.read_section(raw / section.h5ad)
    folder = raw / section.folder
    if not folder.is_dir():
        raise MissingInputError(f"section {name}: {folder} is no folder; give outs/ of its Space Ranger run")
    return space_ranger.read_section(folder)


def _clusters(section: Section, raw: Path) -> pd.Series:
    """Cluster of each barcode: a csv or, of an .h5ad, a column of its obs."""
    if section.h5ad and not section.clusters.endswith(".csv"):
        return h5ad_section.read_clusters(raw / section.h5ad, section.clusters)
    return space_ranger.read_clusters(raw / section.clusters)


def _joined(made: list[_Made]) -> tuple[pd.DataFrame, int]:
    """Counts per ten thousand of the genes that all sections know, and how many were too rarely seen."""
    shared = made[0].counts_df.index
    for one in made[1:]:
        shared = shared.intersection(one.counts_df.index, sort=False)
    if shared.empty:
        raise InputError(
            "the sections share no gene id: were they aligned to references of different species?"
        )
    scaled = [scale_counts(one.counts_df, "CP10K") for one in made]  # by all counts of a spot
    joined_df = pd.concat([df.loc[shared] for df in scaled], axis=1)
    seen = (joined_df.to_numpy() > 0).sum(axis=1)
    return joined_df[seen >= LEAST_SPOTS_OF_GENE], int((seen < LEAST_SPOTS_OF_GENE).sum())


def _with_split(rows_df: pd.DataFrame) -> pd.DataFrame:
    """Rows with a set each where whole sections cannot fill the three: strips across the longer axis.

    Sections that name theirs keep it; with three or more that name none, the split is the cohort's own.
    """
    named = rows_df.get("split", pd.Series("", rows_df.index)).fillna("") != ""
    if named.all():
        return rows_df
    if named.any():
        lacking = rows_df.loc[~named, "slide_id"].unique()
        raise InputError(f"visium_sections: {', '.join(lacking)} name no split, others do: name all or none")
    if rows_df["slide_id"].nunique() >= 3:
        return rows_df.drop(columns="split", errors="ignore")
    split = pd.Series("train", rows_df.index)
    for _, of_section_df in rows_df.groupby("slide_id"):
        axis = max(("l0_x", "l0_y"), key=lambda name: np.ptp(of_section_df[name].to_numpy()))
        rank = of_section_df[axis].rank(pct=True, method="first")
        split.loc[of_section_df.index] = np.select(
            [rank > STRIPS[1], rank > STRIPS[0]], ["test", "validation"], "train"
        )
    rows_df = rows_df.drop(columns="split", errors="ignore")
    rows_df.insert(4, "split", split)
    return rows_df


def _size(image: Path) -> tuple[int, int]:
    """Width and height in px of a slide or a plain image, without reading its pixels."""
    try:
        with openslide.OpenSlide(str(image)) as slide:
            return slide.dimensions
    except openslide.OpenSlideError:
        pass
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(image) as picture:
            return picture.size
    except OSError as error:
        raise InputError(f"{image} is neither a slide nor an image that can be read ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _suffix(image: Path) -> str:
    name = image.name.lower()
    return next((suffix for suffix in (".ome.tif", ".ome.tiff") if name.endswith(suffix)), image.suffix)
