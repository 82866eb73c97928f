"""A finished run ready for inspection: its tables, and what its network says of a feature when asked.

What the network was asked for is kept in a folder and read from there the next time.
"""

import pprint
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib import work_records
from lib.config import ROOT
from lib.errors import InputError
from lib.explore import correlates
from lib.explore.feature_view import FeatureView, view_feature
from lib.figures import style
from lib.network import models
from lib.statistics import link_lookup, replication
from lib.statistics.correlation import on_scale
from lib.statistics.expression_levels import log2_expression
from lib.store import Store
from lib.tiles.stored import with_files
from lib.visualize import activation_maps, tile_choice
from lib.visualize.feature_values import Network, tile_values
from lib.whole_files import whole_file

STRIP_TILES = 7


class Inspection(NamedTuple):
    """Everything the panel asks of a finished run."""

    lookup: correlates.Lookup
    genes_df: pd.DataFrame  # index gene; feature, statistic, p, q of the test of links
    start: tuple[str, str]  # gene and feature to begin with
    samples_df: pd.DataFrame  # test samples with features; index sample_id
    tiles_df: pd.DataFrame  # their tiles, with file (of the tile stack)
    sample_tiles_df: pd.DataFrame  # of `one_tile_each`
    slide_files: dict[str, Path]
    slide_mpp: pd.Series  # slide_id -> µm/px of level 0
    mask_mpp: float  # µm/px of the tissue mask
    colours: dict[str, Any]
    unit: str
    network: Callable[[], Network]  # reads it at the first call
    folder: Path  # for what the network was asked for
    n_steps: int  # of synthetic images
    saved: Path  # folder for the figures that a person saves
    code: str  # Python that reads this run again
    ledger_df: pd.DataFrame | None = None  # the links in other samples, where notebook 08 has run


def load(store: Store) -> Inspection:
    """Read what notebooks 00 to 07 left for this configuration; StaleArtefactError names what is missing."""
    config = store.config
    features_df, genes_df = store.load("features_test"), store.load("gene_significance")
    all_df = store.load("samples").set_index("sample_id", drop=False)
    samples_df = all_df.loc[features_df.columns]
    lookup = correlates.build(
        log2_expression(store.load("expression")[features_df.columns]),
        features_df,
        samples_df["tissue"],
        store.load("gene_medians"),
        links_of(store),
        correlates.Settings(config.correlation, max(config.alphas)),
    )
    tiles_df = store.load("tiles")
    tiles_df = tiles_df[tiles_df["sample_id"].isin(samples_df.index)]
    tiles_df = with_files(tiles_df, store.tile_files(tiles_df))
    network_file = store.load("network")

    @cache
    def network() -> Network:
        model, _ = models.load(network_file, config.architecture)
        return Network(model.to(config.torch_device).eval(), config.architecture, config.p)

    return Inspection(
        lookup=lookup,
        genes_df=genes_df,
        start=correlates.default_pair(lookup, config.inspect_gene, genes_df),
        samples_df=samples_df.rename_axis(None),
        tiles_df=tiles_df,
        sample_tiles_df=one_tile_each(tiles_df),
        slide_files=store.slide_paths(samples_df),
        slide_mpp=store.load("slides").set_index("slide_id")["mpp"],
        mask_mpp=config.mask_mpp,
        colours=style.tissue_colours(all_df["tissue"], store.reference("gtex_tissues")),
        unit=config.value_unit,
        network=network,
        folder=store.work_folder("inspected", "features_test"),
        n_steps=config.synthesis_steps,
        saved=store.figures / "inspected",
        code=loading_code(store),
        ledger_df=store.load("ledger") if store.is_current("ledger") else None,
    )


def loading_code(store: Store) -> str:
    """Python that reads the run again as `run`, with every parameter that is not the default."""
    parameters = pprint.pformat(store.config.model_dump(mode="json", exclude_defaults=True), width=100)
    root = "" if store.root == ROOT else f", root={str(store.root)!r}"
    return (
        f'config = Config.checked({parameters})\nrun = inspection.load(Store(config, "11_inspect"{root}))\n'
    )


def links_of(store: Store) -> link_lookup.LinkLookup | None:
    """The test of links of this network, for any pair; None where nothing varies within tissues."""
    config, null_df, features_df = store.config, store.load("link_null"), store.load("features_test")
    log_df = log2_expression(store.load("expression").loc[null_df.index, features_df.columns])
    scaled = [on_scale(df, config.correlation) for df in (log_df, features_df)]
    given = store.samples_of(features_df.columns), config.covariates, config.covariate_slopes
    sides, _ = replication.sides_of(scaled[0], scaled[1], *given)
    return None if sides is None else link_lookup.build(sides, null_df, store.load("links"))


def one_tile_each(tiles_df: pd.DataFrame) -> pd.DataFrame:
    """The tile with most tissue of each sample on each of its slides with tiles; rows of tiles_df."""
    by_tissue_df = tiles_df.sort_values("tissue_fraction", ascending=False, kind="stable")
    return by_tissue_df.drop_duplicates(["sample_id", "slide_id"])


def feature_view(
    inspection: Inspection,
    feature: str,
    *,
    compute: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> FeatureView | None:
    """The view of a feature: read where it was made before, else made and kept; None if not to be computed.

    on_step : as for `feature_view.view_feature`
    """
    path = inspection.folder / f"feature_{feature}.npz"
    made_for = {"n_steps": inspection.n_steps, "holds": list(FeatureView._fields)}
    if work_records.why_unfinished(path, made_for) is None:
        with np.load(path) as arrays:
            return FeatureView(**{name: arrays[name] for name in FeatureView._fields})
    if not compute:
        return None
    view = view_feature(
        inspection.network(),
        feature,
        inspection.lookup.features_df.loc[[feature]].iloc[0],
        inspection.tiles_df,
        inspection.samples_df,
        n_steps=inspection.n_steps,
        on_step=on_step,
    )
    work_records.save_arrays(path, made_for, view._asdict())
    return view


def slide_values(
    inspection: Inspection,
    feature: str,
    slide_id: str,
    *,
    compute: bool = True,
    known: np.ndarray | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> pd.Series | None:
    """The feature on each tile of a slide, index tile_id: at once where known, else computed and kept.

    Known are slides mapped before, and spots: a sample of one tile has its value in the feature table. None
    for what would have to be computed, if it is not to be. known : the values, where the caller has them.
    """
    of_slide_df = inspection.tiles_df[inspection.tiles_df["slide_id"] == slide_id]
    if of_slide_df.empty:
        raise InputError(f"slide {slide_id!r} has no tiles among the test samples")
    index = pd.Index(of_slide_df["tile_id"])
    if not of_slide_df["sample_id"].duplicated().any() and len(of_slide_df) > 1:
        of_sample = inspection.lookup.features_df.loc[feature, list(of_slide_df["sample_id"])]
        return pd.Series(of_sample.to_numpy(float), index=index)
    path = inspection.folder / f"map_{feature}_{slide_id}.npy"
    made_for = {"n_tiles": len(of_slide_df)}
    if work_records.why_unfinished(path, made_for) is None:
        return pd.Series(np.load(path), index=index)
    if not compute:
        return None
    on_tile = None if on_step is None else lambda done: on_step(done, len(of_slide_df))
    if known is None:
        values_df = tile_values(inspection.network(), [feature], of_slide_df, progress=False, on_step=on_tile)
        known = values_df[feature].to_numpy()
    values = np.asarray(known, np.float64)
    with whole_file(path) as temporary:
        np.save(temporary, values)
    work_records.write(path, made_for)
    return pd.Series(values, index=index, name=feature)


def slide_maps(
    inspection: Inspection,
    feature: str,
    slide_id: str,
    *,
    compute: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> np.ndarray | None:
    """Activation of the feature at every position of the tiles of a slide, float32 [n_tiles, h, w].

    Read where it was computed before, else computed and kept. None for what would have to be computed, if it
    is not to be, and for features without positions.
    """
    of_slide_df = inspection.tiles_df[inspection.tiles_df["slide_id"] == slide_id]
    path = inspection.folder / f"activation_{feature}_{slide_id}.npy"
    made_for = {"n_tiles": len(of_slide_df)}
    if work_records.why_unfinished(path, made_for) is None:
        return np.load(path)
    if not compute or of_slide_df.empty:
        return None
    on_tile = None if on_step is None else lambda done: on_step(done, len(of_slide_df))
    try:
        maps = activation_maps.maps_of_tiles(inspection.network(), feature, of_slide_df, on_step=on_tile)
    except activation_maps.NoPositions:
        return None
    with whole_file(path) as temporary:
        np.save(temporary, maps)
    work_records.write(path, made_for)
    return maps


def slides_by_value(inspection: Inspection, feature: str) -> pd.Series:
    """Slide id -> mean value of its test samples, highest first; slides without tiles left out.

    Each slide of a sample of several has the value of the sample.
    """
    one_df = inspection.sample_tiles_df
    values = inspection.lookup.features_df.loc[feature, list(one_df["sample_id"])]
    return values.groupby(one_df["slide_id"].to_numpy()).mean().sort_values(ascending=False, kind="stable")


def strip_tiles(inspection: Inspection, feature: str) -> pd.DataFrame:
    """One tile of each of STRIP_TILES samples from the lowest value of the feature to the highest.

    The tile with most tissue stands for its sample; the network is not needed. Columns tile_id, sample_id,
    slide_id, file, stack_index, value (of the sample, not of the tile), tissue.
    """
    one_df = inspection.sample_tiles_df.drop_duplicates("sample_id")  # the first has most tissue
    values = inspection.lookup.features_df.loc[feature, list(one_df["sample_id"])].to_numpy(float)
    values_df = pd.DataFrame({feature: values}, index=pd.Index(one_df["tile_id"], name="tile_id"))
    samples_df = inspection.samples_df.assign(donor=inspection.samples_df["donor"].fillna("unknown"))
    strip_df = tile_choice.quantile_strip(values_df, one_df, samples_df, n=STRIP_TILES)
    return strip_df.assign(tissue=inspection.samples_df["tissue"].loc[strip_df["sample_id"]].to_numpy())
