"""Figures made of pictures: what is drawn where, and what happens without values, images or numbers."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_hex

from lib.figures import pictures


def a_slide():
    """A 200 x 100 px overview at 8 µm/px, tissue on its left, three tiles of 100 level-0 px at 4 µm/px."""
    mask = np.zeros((50, 100), bool)
    mask[5:45, 5:50] = True
    tiles_df = pd.DataFrame(
        {"tile_id": ["a", "b", "c"], "l0_x": [0, 100, 200], "l0_y": [40, 40, 40], "l0_size": 100}
    )
    return pictures.SlideView(np.full((100, 200, 3), 230, np.uint8), 8.0, mask, 4.0), tiles_df


def heat(values):
    """values of tiles a, b, c in order, or by name."""
    view, tiles_df = a_slide()
    values = values if isinstance(values, pd.Series) else pd.Series(values, index=list("abc"))
    title, label = "feature 5_3 on S1", "feature value"
    return pictures.slide_heatmap(view, tiles_df, values, title=title, label=label)


def patches(ax):
    return [c for c in ax.collections if isinstance(c, PatchCollection)]


def squares_of(ax):
    """Level-of-picture corner and value of each coloured square."""
    coloured = next(c for c in patches(ax) if c.get_array() is not None)
    corners = [tuple(path.vertices[0]) for path in coloured.get_paths()]
    return dict(zip(corners, coloured.get_array(), strict=True)), coloured


def test_heatmap_puts_each_value_on_its_tile():
    figure = heat(pd.Series({"c": 3.0, "a": 1.0, "b": 2.0}))
    values, coloured = squares_of(figure.axes[1])
    # 4 µm per level-0 px, 8 µm per picture px: half.
    assert values == {(0.0, 20.0): 1.0, (50.0, 20.0): 2.0, (100.0, 20.0): 3.0}
    assert coloured.get_clim() == (1.0, 3.0)
    assert coloured.cmap.name == "viridis"
    assert figure.get_suptitle() == "feature 5_3 on S1 (n = 3 tiles)"
    assert figure.axes[2].get_ylabel() == "feature value"
    assert any("µm" in text.get_text() for text in figure.axes[0].texts)


def test_heatmap_of_signed_values_is_symmetric_about_zero():
    _, coloured = squares_of(heat([-1.0, 0.5, 3.0]).axes[1])
    assert coloured.get_clim() == (-3.0, 3.0)
    assert coloured.cmap.name == pictures.SIGNED_MAP


def test_heatmap_leaves_tiles_without_a_value_open():
    figure = heat(pd.Series({"a": 1.0, "b": np.nan}))
    values, _ = squares_of(figure.axes[1])
    assert values == {(0.0, 20.0): 1.0}
    (outlined,) = [c for c in patches(figure.axes[1]) if c.get_array() is None]
    assert len(outlined.get_paths()) == 2, "tiles without a value are outlined"
    assert "(n = 1 tiles)" in figure.get_suptitle()
    assert "(n = 0 tiles)" in heat([np.nan] * 3).get_suptitle()


def test_grid_outlines_the_tiles_of_every_slide():
    view, tiles_df = a_slide()
    figure = pictures.tile_grid([view] * 5, [tiles_df] * 5, list("ABCDE"))
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == [f"{name}\n3 tiles" for name in "ABCDE"]
    (squares,) = patches(shown[4])
    assert [tuple(path.vertices[0]) for path in squares.get_paths()] == [(0, 20), (50, 20), (100, 20)]


def test_strip_shows_every_tile_with_its_caption():
    tiles = np.zeros((11, 8, 8, 3), np.uint8)
    figure = pictures.tile_strip(tiles, [f"S{i}\n{i} | 0\n1.{i}" for i in range(11)], heading="feature 5_3")
    texts = [ax.texts[0].get_text() for ax in figure.axes if ax.texts]
    assert texts == [f"S{i}\n{i} | 0\n1.{i}" for i in range(11)]
    with pytest.raises(ValueError, match="at least one tile"):
        pictures.tile_strip([], [])


def a_row(**changes):
    tile = np.zeros((8, 8, 3), np.uint8)
    row = {"tile": tile, "guided": tile, "synthetic": tile, "ihc": None, "symbol": "AMY2A"}
    row |= {"feature": "20_139", "tissue": "Pancreas", "r": -0.81, "r_within": 0.12, "low": -0.05}
    return row | {"high": 0.28, "q": np.nan, "finding": ""} | changes


def test_panel_says_the_numbers_and_labels_the_blank():
    figure = pictures.attribution_panel([a_row(), a_row(ihc=np.zeros((8, 8, 3), np.uint8), synthetic=None)])
    words = figure.axes[0].texts[0].get_text()
    assert words.split("\n") == [
        *("AMY2A", "feature 20_139", "gene highest in", "Pancreas", "r = -0.81", "within tissues 0.12"),
        "(-0.05 to 0.28)",
    ]
    assert not figure.axes[4].images
    assert "AMY2A" in figure.axes[4].texts[0].get_text()
    assert figure.axes[9].images
    assert figure.axes[8].texts[0].get_text() == "not computed"
    with pytest.raises(ValueError, match="at least one gene-feature pair"):
        pictures.attribution_panel([])


def test_long_ids_are_cut_in_the_middle():
    assert pictures._shortened("GTEX-11NSD-0526_12_3", 10) == "GTEX-…12_3"
    assert pictures._shortened("short", 10) == "short"


def test_no_figure_stays_open_and_edges_have_the_tissue_outline():
    before = plt.get_fignums()
    figure = heat([1.0, 2.0, 3.0])
    assert plt.get_fignums() == before
    lines = [c for c in figure.axes[0].collections if len(c.get_edgecolor())]
    assert to_hex(lines[0].get_edgecolor()[0]) == "#000000"


def test_stain_panel_shows_both_stains_and_outlines_nuclei():
    nuclei = np.zeros((20, 30), bool)
    nuclei[5:10, 5:10] = True
    row = {"title": "AMY2A.jpg", "image": np.full((20, 30, 3), 200, np.uint8), "nuclei": nuclei}
    row |= {"haematoxylin": np.random.default_rng(0).random((20, 30)), "dab": np.zeros((20, 30))}
    figure = pictures.stain_panel([row, row | {"nuclei": nuclei & False}])
    assert [ax.get_title() for ax in figure.axes[:4]] == ["image", "haematoxylin", "DAB", "nuclei"]
    assert figure.axes[0].texts[0].get_text() == "AMY2A.jpg"
    assert len(figure.axes[3].collections) == 1, "nuclei are outlined"
    assert not figure.axes[7].collections, "none where none were found"


def test_panel_says_what_was_found_and_why_an_image_is_missing():
    why = "no image: from noise the feature stayed at 0 in 96 steps"
    rows = [
        a_row(q=0.92, finding="not found within tissues", synthetic=None, synthetic_label=why),
        a_row(tile_label="GTEX-11NSD-0526_1_2\nThyroid"),
    ]
    figure = pictures.attribution_panel(rows)
    words = figure.axes[0].texts[0].get_text().split("\n")
    assert words[-2:] == ["q = 0.92", "not found within tissues"]
    assert " ".join(figure.axes[3].texts[0].get_text().split()) == why
    assert figure.axes[6].get_xlabel() == "GTEX-11NSD-0526_1_2\nThyroid"
