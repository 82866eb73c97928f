"""Notebook 10 on a finished small cohort: what it wrote; no pair gives a sentence, not an error."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from atlas_factory import antibody, page, patient, tissue
from conftest import SMALL
from local_server import serving
from notebook_cells import run_cells
from PIL import Image
from stain_factory import painted

from lib import protein_atlas as command
from lib.config import Config
from lib.config_values import parse_setting
from lib.explore import report_pairs
from lib.sources import protein_atlas
from lib.sources.http_session import Session
from lib.sources.protein_atlas_fetch import POLITE, Atlas
from lib.store import Store
from lib.visualize import attribution, pair_choice

pytestmark = pytest.mark.slow
OVERRIDES = dict(parse_setting(text) for text in SMALL)


@pytest.fixture
def store(finished):
    root, _ = finished
    return Store(Config.load("demo", overrides=OVERRIDES), root=root)


def test_cards_are_links_and_marker_pairs_with_their_numbers(store):
    cards_df, shown_df, pictures = (store.load(n) for n in ("cards", "card_shown", "card_pictures"))
    assert 1 <= len(cards_df) <= 3
    assert cards_df["gene"].is_unique
    assert cards_df["feature"].is_unique
    assert len(shown_df) == len(pictures)
    links_df, markers_df = (
        store.load(name).astype({"gene": object, "feature": object}).set_index(["gene", "feature"])
        for name in ("links", "pairs")
    )
    for pair in cards_df.itertuples():
        key = (pair.gene, pair.feature)
        if key in links_df.index:
            row = links_df.loc[key]
            called = row["q"] if np.isnan(row["q_covariates"]) else row["q_covariates"]
            assert (pair.q, pair.p) == pytest.approx((called, row["p"]))
            assert (pair.r_within, pair.low) == pytest.approx((row["r_within"], row["low"]))
            assert pair.tile_tissue == pair.carried_by == row["carried_by"]
        else:
            row = markers_df.loc[key]
        assert pair.r == pytest.approx(row["r"])
    tiles_df = store.load("tiles").set_index("tile_id")
    for row in shown_df[shown_df["kind"] == "tile"].itertuples():
        tile = tiles_df.loc[row.tile_id]
        stack = np.load(store.tile_files(tiles_df)[tile["slide_id"]], mmap_mode="r")
        np.testing.assert_array_equal(pictures[row.Index], stack[tile["stack_index"]])


def test_cards_say_what_was_found_and_their_tiles_whose_they_are(store):
    cards_df, shown_df = store.load("cards"), store.load("card_shown")
    links = {(pair.gene, pair.feature) for pair in store.load("links").itertuples()}
    found = [(pair.gene, pair.feature) in links for pair in cards_df.itertuples()]
    assert cards_df["finding"].str.startswith("found within tissues").tolist() == found
    assert pd.Series(found).is_monotonic_decreasing, "links come first"
    of_sample = store.load("samples").set_index("sample_id")["tissue"]
    tiles_df = shown_df[shown_df["kind"].isin(["tile", "low to high"])]
    assert tiles_df["tissue"].tolist() == of_sample.loc[tiles_df["sample_id"]].tolist()
    shown = report_pairs.payload(store)
    for card, pair in zip(shown["cards"], cards_df.itertuples(), strict=True):
        (tile,) = tiles_df[(tiles_df["card"] == pair.Index) & (tiles_df["kind"] == "tile")].itertuples()
        assert card["tile_label"] == f"{tile.tile_id}, {tile.tissue}, {store.config.tile_um:.0f} µm wide"
        assert card["finding"] == pair.finding
        assert bool(card["strip"]) == (card["strip_note"] == "")
        assert bool(card["synthetic"]) == (card["synthetic_note"] == "")


def test_captions_say_how_many_how_wide_and_how_to_read_the_colours(store):
    captions = {}
    for stem in (
        "fig4_6_pairs_1",
        "gradient_methods",
        "randomisation",
        "tiles_highest_1",
        "synthetic_images",
    ):
        path = store.figures / f"{store.figure_name(stem)}.png.json"
        captions[stem] = json.loads(path.read_text(encoding="utf-8"))["caption"]
    for stem, caption in captions.items():
        assert f"{store.config.tile_um:.0f} µm" in caption, stem
        assert re.search(r"\d", caption.replace("µm", "")), stem
    for stem in ("fig4_6_pairs_1", "gradient_methods", "randomisation"):
        assert attribution.COLOURS_IN_WORDS in captions[stem], stem


def test_figures_of_the_notebook_are_there(store):
    for stem in (
        "fig4_6_pairs_1",
        "synthesis_curves",
        "gradient_methods",
        "randomisation",
        "slide_heatmap_1",
    ):
        for suffix in (".png", ".pdf"):
            assert (store.figures / f"{store.figure_name(stem)}{suffix}").stat().st_size > 5000


@pytest.fixture
def run_notebook(store, monkeypatch):
    """A function that runs the cells of the notebook in this process and returns the stems it saved."""
    monkeypatch.setenv("HISTOCORR_ROOT", str(store.root))
    monkeypatch.setattr(Store, "cached", lambda self, names, make, **facts: make())
    saved = []
    for save in ("save_figure", "save_table"):
        monkeypatch.setattr(Store, save, lambda self, stem, *rest: saved.append(stem))

    def run(**overrides) -> list[str]:
        saved.clear()
        run_cells("10_visualize", OVERRIDES | overrides)
        return saved

    return run


def test_no_pair_is_reported_and_nothing_fails(run_notebook, monkeypatch, capsys):
    """As if no pair had passed."""
    monkeypatch.setattr(
        pair_choice, "best_pairs", lambda links_df, *rest, **how: links_df[["gene", "feature"]].head(0)
    )
    assert run_notebook() == []
    printed = capsys.readouterr().out
    assert "there is neither a link nor a marker pair" in printed
    assert "no immunohistochemistry image" in printed


def test_stained_images_are_fetched_when_asked_and_without_a_network_there_is_a_message(
    run_notebook, store, monkeypatch, tmp_path, capsys
):
    first = store.load("cards").iloc[0]
    gene = protein_atlas.ensembl_id(first["gene"])
    name, _ = protein_atlas.atlas_tissue(first["tile_tissue"], store.reference("protein_atlas_tissues"))
    captions = []
    monkeypatch.setattr(Store, "save_figure", lambda self, stem, figure, caption: captions.append(caption))
    with serving(folder=tmp_path / "site") as site:
        (tmp_path / "site").mkdir()
        stained = antibody("HPA1", tissue(name or "Liver", patient(1, f"{site.base}/a.jpg")))
        (tmp_path / "site" / f"{gene}.xml").write_text(page(gene, stained))
        Image.fromarray(painted(256, dab_on="nuclei")[0]).save(tmp_path / "site/a.jpg", quality=95)
        quick = {"session": Session(POLITE._replace(interval_s=0.0, backoff_s=0.01)), "site": site.base}
        monkeypatch.setattr(command, "Atlas", lambda folder: Atlas(folder, **quick))
        assert "ihc_stains" not in run_notebook(ihc_dir=str(tmp_path / "unasked"))
        assert not (tmp_path / "unasked").exists(), "fetched only when asked"
        captions.clear()
        run_notebook(ihc_dir=str(tmp_path / "ihc"), fetch_ihc=True)
        assert f"1 of {len(store.load('cards'))} images of the Human Protein Atlas" in capsys.readouterr().out
        assert any(f"{first['symbol']}: https://v25.proteinatlas.org/{gene}." in text for text in captions)
        assert any(text == "1 immunohistochemistry images, by stain." for text in captions)
    captions.clear()
    run_notebook(ihc_dir=str(tmp_path / "empty"), fetch_ihc=True)
    assert "more images were not asked for: try again later" in capsys.readouterr().out
    assert any("(Figs 4 to 6)" in text for text in captions)


def test_maps_are_compared_on_the_first_pair_that_has_one(run_notebook, monkeypatch, capsys):
    """A tile on which the feature has no gradient cannot be checked: the next pair's, or a sentence."""
    checked, guided = [], attribution.guided_or_plain
    monkeypatch.setattr(
        attribution, "all_maps", lambda network, feature, tile: checked.append(feature) or {"a": 0 * tile}
    )
    made = []

    def without_gradient(network, feature, tile):
        made.append(feature)
        gradient, method = guided(network, feature, tile)
        return gradient * (len(made) > n_dead), method

    monkeypatch.setattr(attribution, "guided_or_plain", without_gradient)
    n_dead = 1
    assert {"gradient_methods", "randomisation"} <= set(run_notebook())
    assert checked == made[1:2]
    n_dead, made[:] = 99, []
    assert not {"gradient_methods", "randomisation"} & set(run_notebook())
    assert "the gradient of every pair is zero" in capsys.readouterr().out
