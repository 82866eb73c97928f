"""A small picture of a slide with its tissue, for figures."""

from pathlib import Path

import numpy as np

from lib.figures.pictures import SlideView
from lib.tiles.slides import open_slide, overview, reduced
from lib.tiles.tissue_mask import tissue_mask


def slide_view(path: str | Path, mpp: float, mask_mpp: float, max_px: int = 1200) -> SlideView:
    """Read a slide whose level 0 has `mpp` µm/px; its longer edge becomes about `max_px`.

    The mask is the one by which tiles were kept, of `mask_mpp` µm/px, whatever the size of the picture.
    """
    slide = open_slide(path)
    image, image_mpp = overview(slide, mpp, max_px)
    mask = tissue_mask(reduced(slide, mask_mpp / mpp), mask_mpp)
    rows, columns = (
        (np.arange(n) * (m / n)).astype(int) for n, m in zip(image.shape[:2], mask.shape, strict=True)
    )
    return SlideView(image, image_mpp, mask[np.ix_(rows, columns)], mpp)
