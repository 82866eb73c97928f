"""Cutting a slide into tiles, timed against reading level 0 and reducing it, on a drawn 20x Aperio slide."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from lib.benchmarks.timing import row, timed
from lib.simulated import aperio
from lib.simulated.slides import QUANTITIES, SlideSpec, draw
from lib.tiles import cut
from lib.tiles.tiling import Tiling

FIELD_UM = 632.6  # a drawn field is 1,280 px wide at 20x


def tiles_rows(quick: bool = False) -> list[dict]:
    """One row: seconds per 1,000 tiles of 512 px at 10x, rescaled to 224 px and stored, by one process.

    Parameters
    ----------
    quick : a small slide, to check that it runs

    Returns
    -------
    Rows of `timing.row`; the peer is OpenSlide's read_region and a resize.
    """
    n_fields, n_repeats = (2, 1) if quick else (8, 3)
    spec = SlideSpec("Liver", dict.fromkeys(QUANTITIES, 0.0), size_um=FIELD_UM, coverage=1.0)
    field = draw(spec, np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        aperio.write_svs(path, np.tile(field, (n_fields, n_fields, 1)))
        samples_df = pd.DataFrame({"sample_id": ["slide"], "slide_id": ["slide"]})
        n_tiles = 0

        def cut_tiles(reader: str) -> None:
            nonlocal n_tiles
            stack_path = Path(folder) / "slide.npy"
            n_tiles = len(cut.cut_slide(path, samples_df, stack_path, Tiling(reader=reader)).tiles_df)

        ours, peer = timed(lambda: cut_tiles("auto"), lambda: cut_tiles("openslide"), n_repeats=n_repeats)
    work = f"1,000 tiles of 512 px at 10x cut from a 20x slide, one process (timed on {n_tiles})"
    scale = 1000 / n_tiles
    return [row(work, ours * scale, "OpenSlide read_region and resize", peer * scale, "< 1", n_repeats)]
