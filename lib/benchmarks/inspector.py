"""Time from a person's action to the pair shown in the panel of notebook 11, at full size."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from lib.benchmarks.statistics import QUICK, Cohort, Size, made_up
from lib.benchmarks.timing import row, timed
from lib.explore import correlates, inspection, panel
from lib.figures import style
from lib.statistics import link_lookup, link_table, link_tests, permutations
from lib.visualize.feature_values import Network

N_TESTED = 500  # genes with a p in the panel
TARGET_S = 0.3  # up to here an answer seems immediate
TILES_PER_SLIDE, QUICK_TILES = 347, 5  # in the paper: 116,000 of 334 test slides
STACK_TILES, EDGE_PX = 50, 224


def _links(cohort: Cohort) -> link_lookup.LinkLookup:
    """The test of the first N_TESTED genes, with few shuffles: a question costs the same with many."""
    log_df, plan = cohort.log_df.iloc[:N_TESTED], link_tests.Plan(exceedances=1, overall=1, progress=False)
    shuffles = permutations.draw("within_tissue", 200, cohort.samples_df, 0)
    tests = link_tests.run(log_df, cohort.features_df, cohort.samples_df, shuffles, None, plan)
    links_df = pd.DataFrame(columns=["gene", "feature", "p", "q", "q_covariates"])
    return link_lookup.build(tests.sides, link_table.null_table(tests), links_df)


def inspector_rows(quick: bool = False, n_repeats: int = 9) -> list[dict]:
    """Two rows: seconds until a typed gene is shown, and until a feature chosen from the table is shown.

    Both include the tables, the figure as PNG and the strip of tiles; the browser's work is not measured.

    Parameters
    ----------
    quick : a small cohort, to check that it runs

    Returns
    -------
    Rows of `timing.row`, compared with TARGET_S.
    """
    size = QUICK if quick else Size()
    with tempfile.TemporaryDirectory() as folder:
        run = simulated_run(size, QUICK_TILES if quick else TILES_PER_SLIDE, Path(folder))
        shown = panel.Panel(run)
        genes = itertools.cycle(run.lookup.log_df.index[:50:7])
        features = itertools.cycle(run.lookup.features_df.index[:50:7])
        find_s, choose_s = timed(
            lambda: shown._find(next(genes)),
            lambda: shown._choose_feature(next(features)),
            n_repeats=1 if quick else n_repeats,
        )
        if shown.message.value:
            raise RuntimeError(f"the panel shows an error instead of a pair: {shown.message.value}")
    sizes = f"{size.n_genes:,} genes x {size.n_features:,} features x {size.n_slides} slides"
    sizes += f", {len(run.tiles_df):,} tiles"
    peer, n = "immediate (0.3 s)", 1 if quick else n_repeats
    return [
        row(f"inspector, {what}: {sizes}", seconds, peer, TARGET_S, f"{TARGET_S} s", n)
        for what, seconds in (("find a gene", find_s), ("choose a feature", choose_s))
    ]


def simulated_run(size: Size, tiles_per_slide: int, folder: Path) -> inspection.Inspection:
    """An Inspection of simulated tables; all slides share one stack of noise, written to `folder`."""
    cohort: Cohort = made_up(size)
    ids = cohort.samples_df["sample_id"].to_numpy()
    samples_df = cohort.samples_df.assign(slide_id=ids, donor=ids).set_index("sample_id", drop=False)
    rng = np.random.default_rng(0)
    stack = folder / "stack.npy"
    np.save(stack, rng.integers(0, 256, (STACK_TILES, EDGE_PX, EDGE_PX, 3), dtype=np.uint8))
    tiles_df = pd.DataFrame({"sample_id": np.repeat(ids, tiles_per_slide)})
    number = np.tile(np.arange(tiles_per_slide), len(ids))
    tiles_df = tiles_df.assign(
        slide_id=tiles_df["sample_id"],
        tile_id=tiles_df["sample_id"] + "_" + number.astype(str),
        file=str(stack),
        stack_index=number % STACK_TILES,
        tissue_fraction=rng.random(len(tiles_df)),
    )
    lookup = correlates.build(
        cohort.log_df,
        cohort.features_df,
        samples_df["tissue"],
        cohort.genes_table.assign(symbol=cohort.genes_table.index),
        _links(cohort),
    )

    def no_network() -> Network:
        raise RuntimeError("the timed work needs no network")

    return inspection.Inspection(
        lookup=lookup,
        genes_df=pd.DataFrame(columns=["q"]),
        start=(cohort.log_df.index[1], cohort.features_df.index[1]),
        samples_df=samples_df.rename_axis(None),
        tiles_df=tiles_df,
        sample_tiles_df=inspection.one_tile_each(tiles_df),
        slide_files={},
        slide_mpp=pd.Series(dtype=float),
        mask_mpp=8.0,
        colours=style.tissue_colours(samples_df["tissue"]),
        unit="TPM",
        network=no_network,
        folder=folder,
        n_steps=64,
        saved=folder,
        code="",
    )
