"""The work of notebooks 01 and 04 that is done slide by slide: for some of the slides, or elsewhere."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from lib.cohort import sample_slides
from lib.features import sample_sums
from lib.network import models
from lib.store import Store
from lib.tiles import cut_all
from lib.tiles.stored import labelled_tiles


class Measurement(NamedTuple):
    """Tiles whose features are to be summed, with the network that sees them."""

    model: Any  # in eval mode
    tiles_df: dict[str, pd.DataFrame]  # by work folder: the tiles that count, and those left out

    @property
    def slide_ids(self) -> list[str]:
        """Its slides, in the order of their ids."""
        return sorted({i for df in self.tiles_df.values() for i in df["slide_id"].unique()})

    def of(self, slide_ids: Iterable[str]) -> "Measurement":
        """The same, of some slides."""
        wanted = set(slide_ids)
        return self._replace(tiles_df={k: df[df["slide_id"].isin(wanted)] for k, df in self.tiles_df.items()})

    def unfinished(self, store: Store) -> dict[str, list[str]]:
        """By work folder: the slides that are not measured."""
        how = store.config.quantification
        return {
            name: sample_sums.unfinished(self.model, tiles_df, store.path(name), how)
            for name, tiles_df in self.tiles_df.items()
        }


def cut(store: Store, slide_ids: Iterable[str]) -> list[dict[str, Any]]:
    """Cut some slides; their rows of the table of slides. What is cut is not cut again."""
    samples_df = sample_slides.by_slide(store.load("samples"))
    samples_df = samples_df[samples_df["slide_id"].isin(set(slide_ids))]
    config = store.config
    how = config.tiling, config.n_workers, config.slide_limit_s, store.stored_slides(samples_df)
    return cut_all.cut_each(samples_df, store.slide_paths(samples_df), store.path("stacks"), *how)


def to_measure(store: Store) -> Measurement:
    """The tiles that notebook 04 measures: of its sets, and of the test samples also those left out."""
    config, samples_df, tiles_df = store.config, store.load("samples"), store.load("tiles")
    model, class_names = models.load(store.load("network"), config.architecture)
    files = store.tile_files(tiles_df)
    kept_df = labelled_tiles(tiles_df, samples_df, files, class_names)
    kept_df = kept_df[kept_df["split"].isin(list(config.measured_sets))]
    dropped_df = labelled_tiles(tiles_df, samples_df, files, class_names, dropped=True)
    tested = kept_df.loc[kept_df["split"].isin(list(config.test_sets)), "sample_id"]
    dropped_df = dropped_df[dropped_df["sample_id"].isin(tested)]
    return Measurement(model, {"sums": kept_df, "sums_dropped": dropped_df})


def measure(store: Store, work: Measurement) -> None:
    """Features of the tiles, slide by slide. What is measured is not measured again."""
    for name, tiles_df in work.tiles_df.items():
        if len(tiles_df):
            sample_sums.quantify_samples(work.model, tiles_df, store.path(name), store.config.quantification)
