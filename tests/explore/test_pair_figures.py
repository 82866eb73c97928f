"""The figures of one gene and one feature, also of odd names, constants and features that did not rise."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.explore import inspection, pair_figures, pair_words
from lib.figures import style
from lib.tiles.stored import read_tiles

ODD = "<b>A$b$&"
N = 24
FACTS = pd.Series({"r": 0.5, "r_tissues": 0.25})


def pixels(figure):
    figure.set_dpi(60)
    return pair_figures.png(figure, dpi=60)


def a_run(y, x, tissues, symbol="ALB"):
    """As much of an Inspection as the figure of a pair needs: gene g, feature 0_0."""
    lookup = SimpleNamespace(
        log_df=pd.DataFrame([y], index=["g"]),
        features_df=pd.DataFrame([x], index=["0_0"]),
        genes_df=pd.DataFrame({"symbol": [symbol]}, index=["g"]),
    )
    samples_df, colours = pd.DataFrame({"tissue": tissues}), style.tissue_colours(tissues)
    return SimpleNamespace(lookup=lookup, samples_df=samples_df, colours=colours, unit="CPM")


def draw(*args, facts=FACTS, **how):
    return pair_figures.pair_figure(a_run(*args, **how), "g", "0_0", facts)


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    ids = [f"s{i}" for i in range(N)]
    tissues = pd.Series(np.array(["Liver", "Lung", "Skin"])[np.arange(N) % 3], index=ids)
    return pd.Series(rng.normal(5, 1, N), ids), pd.Series(rng.normal(0, 1, N), ids), tissues


def test_a_pair_has_every_sample_and_a_line_within_each_tissue(pair):
    y, x, tissues = pair
    figure = draw(*pair)
    scatter, of_gene, _ = figure.axes
    (points, lines) = scatter.collections
    np.testing.assert_allclose(points.get_offsets(), np.stack([x, y], axis=1))
    order = y.groupby(tissues).median().sort_values().index
    for name, (start, end) in zip(order, lines.get_segments(), strict=True):
        slope, level = np.polyfit(x[tissues == name], y[tissues == name], 1)
        assert start[1] == pytest.approx(slope * start[0] + level)
        assert end[1] == pytest.approx(slope * end[0] + level)
    assert [t.get_text() for t in of_gene.texts] == [f"{name} (8)" for name in order]
    assert "log₂(1 + CPM)" in scatter.get_ylabel()
    assert "n = 24 test samples" in figure.texts[0].get_text()


def test_a_pair_changes_with_the_gene_and_stays_for_the_same(pair):
    y, x, tissues = pair
    one = pixels(draw(*pair))
    assert pixels(draw(*pair)) == one
    assert pixels(draw(y[::-1].set_axis(y.index), x, tissues)) != one


def test_a_constant_gene_a_single_tissue_and_a_tissue_of_two(pair):
    y, x, tissues = pair
    assert pixels(draw(y * 0, x, tissues))
    figure = draw(y, x, pd.Series("Liver", index=y.index))
    assert len(figure.axes[0].collections[1].get_segments()) == 1
    few = draw(y[:5], x, tissues)
    assert len(few.axes[0].collections[1].get_segments()) == 0, "no line through two samples"
    figure = draw(*pair, facts=pd.Series({"r": 0.5, "r_tissues": np.nan}))
    assert "given the tissues undefined" in figure.texts[0].get_text()


def test_odd_names_are_shown_unchanged(pair):
    y, x, tissues = pair
    figure = draw(y, x, tissues.replace("Liver", ODD), symbol=ODD)
    assert pixels(figure)
    assert figure.texts[0].get_text().startswith(r"<b>A\$b\$& and feature 0_0")


def test_a_strip_has_the_tiles_of_its_samples(run):
    strip_df = inspection.strip_tiles(run, "0_1")
    figure = pair_figures.strip_figure(strip_df, "0_1")
    first = strip_df.iloc[0]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), read_tiles(strip_df)[0])
    assert figure.axes[0].texts[0].get_text() == f"{first.sample_id}\n{first.tissue}\n{first.value:.4g}"
    assert "lowest sample to its highest" in figure.get_suptitle()
    assert pixels(figure)


def test_a_strip_of_one_value_claims_no_order(run):
    features_df = run.lookup.features_df.copy()
    features_df.loc["0_1"] = 0.0
    flat = run._replace(lookup=run.lookup._replace(features_df=features_df))
    figure = pair_figures.strip_figure(inspection.strip_tiles(flat, "0_1"), "0_1")
    for words in (figure.get_suptitle(), pair_words.strip_html(flat, "0_1")):
        assert "the same value" in words
        assert "lowest" not in words


def test_a_synthetic_image_that_did_not_rise_is_not_shown(run):
    view = inspection.feature_view(run, "0_2")
    assert len(pair_figures.feature_figure(view, ODD).axes[-1].images) == 1
    figure = pair_figures.feature_figure(view._replace(objective=np.array([0.0, 0.0])), "0_2")
    assert not figure.axes[-1].images
    assert "did not rise" in figure.axes[-1].texts[0].get_text()
    assert pixels(figure)


def test_a_slide_is_named_with_its_tissue(run):
    values = inspection.slide_values(run, "0_0", "s3")
    figure = pair_figures.slide_figure(run, "0_0", "s3", values)
    assert "s3, Lung (n = 4 tiles)" in figure.get_suptitle()
