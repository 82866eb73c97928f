"""The look: one theme, fixed colours, n and units on axes, nothing left open."""

import inspect

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from lib.config import ROOT
from lib.figures import pictures, plots


def test_every_figure_is_drawn_under_the_theme():
    for module in (plots, pictures):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            returns = inspect.signature(function).return_annotation
            if function.__module__ == module.__name__ and returns is plt.Figure:
                assert hasattr(function, "__wrapped__"), f"{module.__name__}.{name} lacks @themed"


def test_tissues_keep_their_colour_whatever_is_shown():
    known_df = pd.read_csv(ROOT / "data/reference/gtex_tissues.csv")
    all_colours = plots.tissue_colours(known_df["tissue"], known_df)
    assert plots.tissue_colours(["Liver", "Lung"], known_df)["Liver"] == all_colours["Liver"]
    assert all_colours["Adipose - Subcutaneous"] == "#FF6600", "as published by GTEx"
    mine = plots.tissue_colours(["b", "a", "Liver"], known_df)
    assert mine["Liver"] == all_colours["Liver"]
    assert len({str(colour) for colour in mine.values()}) == 3


def test_scatter_of_pairs_says_r_given_tissue_where_it_is_known():
    samples = list("stuv")
    log_df = pd.DataFrame([[0.0, 1, 2, 3]], index=["a"], columns=samples)
    features_df = pd.DataFrame([[0.0, 2, 1, 3]], index=["0_1"], columns=samples)
    pair = {"gene": "a", "symbol": "A", "feature": "0_1", "r": 0.8}
    pairs = [pair | {"r_partial": 0.31}, pair | {"r_partial": np.nan}, pair]
    figure = plots.pair_scatter(log_df, features_df, pairs, pd.Series("x", index=samples), {"x": "red"})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["A\nr = 0.80, given tissue 0.31", "A\nr = 0.80", "A\nr = 0.80"]


def test_colours_come_from_all_samples_in_every_notebook():
    """From the test samples alone, a tissue missing among them would move the colours of the others."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            found += [line for line in cell.source.splitlines() if "tissue_colours(" in line]
    assert len(found) >= 2
    assert all('tissue_colours(store.load("samples")["tissue"], ' in line for line in found), found


@pytest.fixture
def curves():
    steps = [0, 10, 20]
    rows = [
        (i, f"1_{i // 2}", i % 2, step, value * (i + 1))
        for i in range(4)
        for step, value in zip(steps, (0, 2, 6), strict=True)
    ]
    curves_df = pd.DataFrame(rows, columns=["image", "feature", "seed", "step", "objective"])
    return curves_df, pd.DataFrame({"1_0": [-1.0, 3.0], "1_1": [0.0, 12.0]})


def test_synthesis_curves_are_measured_in_the_range_of_real_tiles(curves):
    before = plt.get_fignums()
    figure = plots.synthesis_curves(*curves)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(lines[0].get_ydata(), (np.array([0, 2, 6]) + 1) / 4)
    np.testing.assert_allclose(lines[3].get_ydata(), np.array([0, 8, 24]) / 12)
    assert figure.axes[0].get_title() == "4 images of 2 features"
    assert plt.get_fignums() == before


def test_a_feature_with_one_value_on_all_tiles_can_be_drawn(curves):
    curves_df, values_df = curves
    figure = plots.synthesis_curves(curves_df, values_df.assign(**{"1_0": 0.0}))
    assert np.isfinite(figure.axes[0].lines[0].get_ydata()).all()


def test_a_donor_in_several_sets_has_a_colour_of_its_own():
    samples_df = pd.DataFrame(
        {
            "donor": list("aabbc"),
            "tissue": ["Liver", "Lung", "Liver", "Liver", "Lung"],
            "split": ["train", "train", "train", "test", "validation"],
        }
    )
    above = plots.tissues_per_donor(samples_df).axes[0]
    assert [text.get_text() for text in above.get_legend().get_texts()][-1] == "several sets"
    shades = [bar.get_facecolor()[:3] for bar in above.patches]
    assert shades[-1] == plots.plt.matplotlib.colors.to_rgb(plots.ACCENT), "b, in train and test, stands last"
    tidy = plots.tissues_per_donor(samples_df[samples_df["donor"] != "b"]).axes[0]
    assert "several sets" not in [text.get_text() for text in tidy.get_legend().get_texts()]
