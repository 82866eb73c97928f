"""All figures share one theme and fixed colours, say what they show, and leave nothing open."""

import importlib
import inspect

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from lib.config import ROOT
from lib.figures import cohort_plots, correlation_plots, network_plots, style


def test_every_figure_is_drawn_under_the_theme():
    n_figures = 0
    for path in sorted((ROOT / "lib/figures").glob("*.py")):
        module = importlib.import_module(f"lib.figures.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            returns = inspect.signature(function).return_annotation
            if function.__module__ == module.__name__ and returns is plt.Figure:
                assert hasattr(function, "__wrapped__"), f"{module.__name__}.{name} lacks @themed"
                n_figures += 1
    assert n_figures > 15


def test_a_tissue_has_the_same_colour_in_every_figure():
    known_df = pd.read_csv(ROOT / "data/reference/gtex_tissues.csv")
    all_colours = style.tissue_colours(known_df["tissue"], known_df)
    assert style.tissue_colours(["Liver", "Lung"], known_df)["Liver"] == all_colours["Liver"]
    assert all_colours["Adipose - Subcutaneous"] == "#FF6600", "as published by GTEx"
    mine = style.tissue_colours(["b", "a", "Liver"], known_df)
    assert mine["Liver"] == all_colours["Liver"]
    assert len({str(colour) for colour in mine.values()}) == 3


def test_scatter_of_pairs_prints_r_given_tissue_where_known():
    samples = list("stuv")
    log_df = pd.DataFrame([[0.0, 1, 2, 3]], index=["a"], columns=samples)
    features_df = pd.DataFrame([[0.0, 2, 1, 3]], index=["0_1"], columns=samples)
    pair = {"gene": "a", "symbol": "A", "feature": "0_1", "r": 0.8}
    pairs = [pair | {"r_partial": 0.31}, pair | {"r_partial": np.nan}, pair]
    tissues = pd.Series("x", index=samples)
    figure = correlation_plots.pair_scatter(log_df, features_df, pairs, tissues, {"x": "red"})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["A\nr = 0.80, given tissue 0.31", "A\nr = 0.80", "A\nr = 0.80"]


def test_notebooks_choose_colours_from_all_samples():
    """From the test samples alone, a missing tissue would change the colours of the others."""
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


def test_synthesis_curves_are_scaled_to_the_range_of_real_tiles(curves):
    before = plt.get_fignums()
    figure = network_plots.synthesis_curves(*curves)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(lines[0].get_ydata(), (np.array([0, 2, 6]) + 1) / 4)
    np.testing.assert_allclose(lines[3].get_ydata(), np.array([0, 8, 24]) / 12)
    assert figure.axes[0].get_title() == "4 images of 2 features"
    assert plt.get_fignums() == before


def test_synthesis_curves_of_a_feature_constant_on_all_tiles(curves):
    curves_df, values_df = curves
    figure = network_plots.synthesis_curves(curves_df, values_df.assign(**{"1_0": 0.0}))
    assert np.isfinite(figure.axes[0].lines[0].get_ydata()).all()


def test_a_donor_in_several_sets_has_a_colour_of_its_own():
    samples_df = pd.DataFrame({
        "donor": list("aabbc"), "tissue": ["Liver", "Lung", "Liver", "Liver", "Lung"],
        "split": ["train", "train", "train", "test", "validation"],
    })  # fmt: skip
    above = cohort_plots.tissues_per_donor(samples_df).axes[0]
    assert [text.get_text() for text in above.get_legend().get_texts()][-1] == "several sets"
    shades = [bar.get_facecolor()[:3] for bar in above.patches]
    assert shades[-1] == to_rgb(style.ACCENT), "b, in train and test, comes last"
    tidy = cohort_plots.tissues_per_donor(samples_df[samples_df["donor"] != "b"]).axes[0]
    assert "several sets" not in [text.get_text() for text in tidy.get_legend().get_texts()]
