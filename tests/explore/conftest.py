"""A small run to inspect: an untrained AlexNet, four tiles a slide, true slides; nothing of a store."""

import numpy as np
import pandas as pd
import pytest
import torch
from linked_cohort import lookup_of
from slide_factory import MPP, write_slide

from lib.explore import correlates, inspection
from lib.figures import style
from lib.network import models
from lib.statistics import expression_levels
from lib.visualize.feature_values import Network

ODD = "<b>A$b$&"  # a gene id such as a user's table may hold
PX, TILE_PX = 64, 128


def tiles_and_slides(folder, ids, rng):
    """Four tiles of each slide in a stack; the tiles table and the slide files."""
    tiles, slides = [], {}
    for slide in ids:
        picture = rng.integers(60, 255, (2 * TILE_PX, 2 * TILE_PX, 3), np.uint8)
        slides[slide] = write_slide(folder / f"{slide}.svs", picture)
        places = [(0, 0), (1, 0), (0, 1), (1, 1)]  # column, row
        cut = [picture[TILE_PX * r :, TILE_PX * c :][:PX, :PX] for c, r in places]
        np.save(folder / f"{slide}.npy", np.stack(cut))
        tiles += [
            {
                "tile_id": f"{slide}_{c}_{r}",
                "sample_id": slide,
                "slide_id": slide,
                "file": str(folder / f"{slide}.npy"),
                "stack_index": i,
                "l0_x": TILE_PX * c,
                "l0_y": TILE_PX * r,
            }
            for i, (c, r) in enumerate(places)
        ]
    return pd.DataFrame(tiles).assign(l0_size=TILE_PX, tissue_fraction=1.0), slides


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An Inspection of eight samples of seven donors, five genes, six features."""
    folder = tmp_path_factory.mktemp("inspected")
    rng = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(8)]
    donors = ["d0", "d0", "d1", "d2", "d3", "d4", "d5", "d6"]
    samples_df = pd.DataFrame(
        {"sample_id": ids, "slide_id": ids, "donor": donors, "tissue": ["Liver", "Lung"] * 4}, index=ids
    )
    tiles_df, slides = tiles_and_slides(folder, ids, rng)
    torch.manual_seed(0)
    network = Network(models.build("alexnet", 2, input_px=PX).eval(), "alexnet")
    features_df = pd.DataFrame(
        rng.normal(0, 1, (6, 8)), index=["0_0", "0_1", "0_2", "1_0", "1_1", "2_0"], columns=ids
    )
    log_df = pd.DataFrame(
        rng.normal(5, 1, (5, 8)), index=["ENSG1", "ENSG2", "ENSG3", "ENSG4", ODD], columns=ids
    )
    genes_df = expression_levels.highest_median(log_df, samples_df["tissue"])
    genes_df["symbol"] = ["ALB", "AFP", "SFTPB", "KRT1", ODD]
    _, links = lookup_of(log_df, features_df, samples_df)
    return inspection.Inspection(
        lookup=correlates.build(log_df, features_df, samples_df["tissue"], genes_df, links),
        genes_df=pd.DataFrame({"feature": ["1_1"], "statistic": [3.0], "q": [0.04]}, index=["ENSG2"]),
        start=("ENSG2", "1_1"),
        samples_df=samples_df,
        tiles_df=tiles_df,
        sample_tiles_df=inspection.one_tile_each(tiles_df),
        slide_files=slides,
        slide_mpp=pd.Series(MPP, index=ids),
        mask_mpp=8.0,
        colours=style.tissue_colours(samples_df["tissue"]),
        unit="TPM",
        network=lambda: network,
        folder=folder,
        n_steps=3,
        saved=folder / "saved",
        code="",
    )
