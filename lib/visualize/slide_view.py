"""A small picture of a slide with its tissue, for figures."""

from pathlib import Path

from lib.figures.pictures import SlideView
from lib.tiles.slides import open_slide, overview
from lib.tiles.tissue_mask import tissue_mask


def slide_view(path: str | Path, mpp: float, max_px: int = 1200) -> SlideView:
    """Read a slide whose level 0 has `mpp` µm/px; its longer edge becomes about `max_px`."""
    image, image_mpp = overview(open_slide(path), mpp, max_px)
    return SlideView(image, image_mpp, tissue_mask(image, image_mpp), mpp)
