"""The inspector without Jupyter, on a small made-up run: figures, widgets, oddities, errors that are told."""

import threading
import time
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from slide_factory import MPP, write_slide
from small_network import quantified

from lib.config import Config
from lib.explore import correlates, feature_view, pair_figures, panel
from lib.figures import style
from lib.network import models
from lib.statistics import correlation

ODD = "<b>A$b$&"  # what a user's ids may hold
N = 24


def figure_pixels(figure):
    figure.set_dpi(60)
    return pair_figures.png(figure, dpi=60)


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    ids = [f"s{i}" for i in range(N)]
    tissues = pd.Series(np.array(["Liver", "Lung", "Skin"])[np.arange(N) % 3], index=ids)
    y = pd.Series(rng.normal(5, 1, N), index=ids)
    return y, pd.Series(rng.normal(0, 1, N), index=ids), tissues, style.tissue_colours(tissues)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An Inspection with an untrained AlexNet, four tiles a slide, and true slides; nothing of a store."""
    folder = tmp_path_factory.mktemp("inspected")
    rng = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(8)]
    samples_df = pd.DataFrame(
        {
            "sample_id": ids,
            "slide_id": ids,
            "donor": ["d0", "d0", "d1", "d2", "d3", "d4", "d5", "d6"],
            "tissue": ["Liver", "Lung"] * 4,
        },
        index=ids,
    )
    places = [(slide, i % 2, i // 2, i) for slide in ids for i in range(4)]
    tiles_df = pd.DataFrame(places, columns=["slide_id", "column", "row", "stack_index"])
    tiles_df["sample_id"] = tiles_df["slide_id"]
    tiles_df["tile_id"] = [f"{t.sample_id}_{t.column}_{t.row}" for t in tiles_df.itertuples()]
    tiles_df["l0_x"], tiles_df["l0_y"] = tiles_df["column"] * 128, tiles_df["row"] * 128
    tiles_df["l0_size"], tiles_df["tissue_fraction"] = 128, 1.0
    stacks, slides = {}, {}
    for slide in ids:
        picture = rng.integers(60, 255, (256, 256, 3), np.uint8)
        slides[slide] = write_slide(folder / f"{slide}.svs", picture)
        tiles = [picture[128 * r : 128 * r + 64, 128 * c : 128 * c + 64] for r in (0, 1) for c in (0, 1)]
        stacks[slide] = folder / f"{slide}.npy"
        np.save(stacks[slide], np.stack(tiles))
    torch.manual_seed(0)
    model = models.build("alexnet", 2, input_px=64)
    facts = {"architecture": "alexnet", "class_names": ["Liver", "Lung"], "input_px": 64}
    torch.save(facts | {"state_dict": model.state_dict()}, folder / "network.pt")
    features_df = pd.DataFrame(
        rng.normal(0, 1, (6, 8)), index=["0_0", "0_1", "0_2", "1_0", "1_1", "2_0"], columns=ids
    )
    log_df = pd.DataFrame(
        rng.normal(5, 1, (5, 8)), index=["ENSG1", "ENSG2", "ENSG3", "ENSG4", ODD], columns=ids
    )
    genes_df = correlation.highest_median(log_df, samples_df["tissue"])
    genes_df["symbol"] = ["ALB", "AFP", "SFTPB", "KRT1", ODD]
    table = correlates.build(log_df, features_df, samples_df["tissue"], genes_df, n_permutations=30)
    best_df = pd.DataFrame({"feature": ["1_1"], "statistic": [3.0], "q": [0.04]}, index=["ENSG2"])
    return pair_figures.Inspection(
        lookup=table,
        genes_df=best_df,
        start=("ENSG2", "1_1"),
        samples_df=samples_df,
        tiles_df=tiles_df,
        sample_tiles_df=pair_figures.one_tile_each(tiles_df),
        stack_files=stacks,
        slide_files=slides,
        slide_mpp=pd.Series(MPP, index=ids),
        colours=style.tissue_colours(samples_df["tissue"]),
        unit="TPM",
        architecture="alexnet",
        network_file=folder / "network.pt",
        device="cpu",
        folder=folder,
        n_steps=3,
    )


# -- figures ----------------------------------------------------------------------------------------------


def test_render_draws_every_sample_and_a_line_within_each_tissue(pair):
    y, x, tissues, colours = pair
    figure = pair_figures.render(y, x, tissues, colours, gene="ALB", feature="8_40", unit="CPM")
    scatter, of_gene, _ = figure.axes
    (points, lines) = scatter.collections
    np.testing.assert_allclose(points.get_offsets(), np.stack([x, y], axis=1))
    assert len(lines.get_segments()) == 3
    for name, (start, end) in zip(
        y.groupby(tissues).median().sort_values().index, lines.get_segments(), strict=True
    ):
        slope, level = np.polyfit(x[tissues == name], y[tissues == name], 1)
        assert start[1] == pytest.approx(slope * start[0] + level)
        assert end[1] == pytest.approx(slope * end[0] + level)
    assert [t.get_text() for t in of_gene.texts] == [
        f"{name} (8)" for name in y.groupby(tissues).median().sort_values().index
    ]
    assert "log₂(1 + CPM)" in scatter.get_ylabel()
    assert "n = 24 test samples" in figure.texts[0].get_text()


def test_render_changes_with_the_gene_and_stays_for_the_same(pair):
    y, x, tissues, colours = pair
    names = {"gene": "g", "feature": "0_0"}
    one = figure_pixels(pair_figures.render(y, x, tissues, colours, **names))
    assert figure_pixels(pair_figures.render(y, x, tissues, colours, **names)) == one
    assert figure_pixels(pair_figures.render(y[::-1].set_axis(y.index), x, tissues, colours, **names)) != one


def test_render_a_constant_gene_a_single_tissue_and_a_tissue_of_two(pair):
    y, x, tissues, colours = pair
    flat = pair_figures.render(y * 0, x, tissues, colours, gene="g", feature="0_0")
    assert figure_pixels(flat)
    one = pd.Series("Liver", index=y.index)
    figure = pair_figures.render(y, x, one, colours, gene="g", feature="0_0")
    assert len(figure.axes[0].collections[1].get_segments()) == 1
    few = pair_figures.render(y[:5], x, tissues, colours, gene="g", feature="0_0")
    assert len(few.axes[0].collections[1].get_segments()) == 0, "no line through two samples"
    undefined = {"r": 0.5, "r_tissues": np.nan}
    figure = pair_figures.render(y, x, tissues, colours, gene="g", feature="0_0", facts=undefined)
    assert "given the tissues not defined" in figure.texts[0].get_text()


def test_render_shows_odd_names_as_they_are(pair):
    y, x, tissues, _ = pair
    tissues = tissues.replace("Liver", ODD)
    figure = pair_figures.render(y, x, tissues, style.tissue_colours(tissues), gene=ODD, feature="0_0")
    assert figure_pixels(figure)
    assert figure.texts[0].get_text().startswith(r"<b>A\$b\$& and feature 0_0")


def test_strip_runs_from_the_lowest_sample_to_the_highest(run):
    strip_df = pair_figures.strip_tiles(run, "0_1")
    values = run.lookup.features_df.loc["0_1"]
    assert strip_df["value"].is_monotonic_increasing
    np.testing.assert_allclose(strip_df["value"], values[strip_df["sample_id"]])
    assert not strip_df["donor"].duplicated().any()
    tiles = feature_view.pictures_of(strip_df, run.stack_files)
    stack = np.load(run.stack_files[strip_df["slide_id"].iloc[0]])
    np.testing.assert_array_equal(tiles[0], stack[strip_df["stack_index"].iloc[0]])
    assert figure_pixels(pair_figures.render_strip(strip_df, tiles, "0_1"))


def test_a_missing_or_short_stack_is_named(run, tmp_path):
    strip_df = pair_figures.strip_tiles(run, "0_1")
    slide = strip_df["slide_id"].iloc[0]
    with pytest.raises(FileNotFoundError, match=rf"nowhere.npy for slide {slide}: run notebook 01"):
        feature_view.pictures_of(strip_df, run.stack_files | {slide: tmp_path / "nowhere.npy"})
    np.save(tmp_path / "short.npy", np.zeros((0, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"short\.npy holds 0 tiles"):
        feature_view.pictures_of(strip_df, run.stack_files | {slide: tmp_path / "short.npy"})


# -- through the network ------------------------------------------------------------------------------------


def test_closeup_finds_the_top_tiles_and_raises_the_feature(run):
    steps = []
    model = pair_figures.model_of(run.network_file, "alexnet", "cpu")
    arguments = (run.lookup.features_df.loc["1_1"], run.tiles_df, run.samples_df, run.stack_files)
    made = feature_view.look(
        model, "alexnet", "1_1", *arguments, n_samples=8, n_steps=12, on_step=lambda *s: steps.append(s)
    )
    everything_df = feature_view.attribution.tile_values(
        model, "alexnet", ["1_1"], run.tiles_df, run.stack_files, progress=False
    )
    donor = run.samples_df["donor"]
    tried = run.tiles_df["sample_id"].isin(
        run.lookup.features_df.loc["1_1"].sort_values(ascending=False).groupby(donor).head(1).index
    )
    best = everything_df["1_1"][tried.to_numpy()].max()
    assert made.values[0] == pytest.approx(best)
    assert (np.diff(made.values) <= 0).all()
    assert made.tiles.shape == made.gradients.shape == (4, 64, 64, 3)
    assert str(made.method) == "guided backpropagation"
    assert made.objective[1] > made.objective[0]
    done, n_all = zip(*steps, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == n_all[0] == 28 + 4 + 12, "seven donors' tiles, four gradients, twelve steps"
    assert figure_pixels(pair_figures.render_closeup(made, ODD))


def test_closeup_is_kept_and_read_again(run, monkeypatch):
    made = pair_figures.look_closely(run, "0_2")
    monkeypatch.setattr(feature_view, "look", lambda *_, **__: pytest.fail("computed twice"))
    again = pair_figures.look_closely(run, "0_2")
    for one, other in zip(made, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert feature_view.kept(run.folder, "0_2", 99) is None, "another number of steps is another image"


def test_slide_values_are_those_of_its_tiles_and_kept(run, monkeypatch):
    assert pair_figures.slide_values(run, "0_0", "s3", compute=False) is None
    values = pair_figures.slide_values(run, "0_0", "s3")
    model = pair_figures.model_of(run.network_file, "alexnet", "cpu")
    (first,) = feature_view.attribution.feature_sums(
        model,
        "alexnet",
        ["0_0"],
        feature_view.attribution._normalised("alexnet", torch.from_numpy(np.load(run.stack_files["s3"])[:1])),
    )
    assert values["s3_0_0"] == pytest.approx(first.item(), rel=1e-5)
    pd.testing.assert_series_equal(
        pair_figures.slide_values(run, "0_0", "s3", compute=False), values, check_names=False
    )
    figure = pair_figures.render_heatmap(run, "0_0", "s3", values)
    assert "s3, Lung" in figure._suptitle.get_text()


def test_the_exponent_of_the_features_is_that_of_maps_and_closeups(run, tmp_path):
    squared = run._replace(p=2.0, folder=tmp_path)
    model = pair_figures.model_of(run.network_file, "alexnet", "cpu")
    stack = np.load(run.stack_files["s2"])
    table = models.feature_table("alexnet")["feature"].tolist()
    sums = [quantified(model, "alexnet", [tile[None]], p=2) for tile in stack]
    expected = np.array(sums)[:, table.index("1_1")]
    np.testing.assert_allclose(pair_figures.slide_values(squared, "1_1", "s2"), expected, rtol=1e-4)
    once, twice = pair_figures.look_closely(run, "1_1"), pair_figures.look_closely(squared, "1_1")
    assert twice.values[0] != pytest.approx(once.values[0])
    assert twice.objective[0] != pytest.approx(once.objective[0])
    assert not np.array_equal(once.synthetic, twice.synthetic)


def test_a_synthetic_image_that_did_not_rise_is_not_shown(run):
    made = pair_figures.look_closely(run, "0_2")
    figure = pair_figures.render_closeup(made, "0_2")
    assert len(figure.axes[-1].images) == 1
    figure = pair_figures.render_closeup(made._replace(objective=np.array([0.0, 0.0])), "0_2")
    assert not figure.axes[-1].images
    assert "did not rise" in figure.axes[-1].texts[0].get_text()
    assert figure_pixels(figure)


def test_a_strip_of_one_value_claims_no_order(run):
    features_df = run.lookup.features_df.copy()
    features_df.loc["0_1"] = 0.0
    flat = run._replace(lookup=run.lookup._replace(features_df=features_df))
    strip_df = pair_figures.strip_tiles(flat, "0_1")
    tiles = feature_view.pictures_of(strip_df, flat.stack_files)
    assert "stand in no order" in pair_figures.render_strip(strip_df, tiles, "0_1").get_suptitle()
    words = panel.strip_html(flat, "0_1")
    assert "stand in no order" in words
    assert "lowest" not in words


def test_spots_need_no_network(run):
    """A slide whose samples have one tile each: the table of features has its map."""
    tiles_df = run.tiles_df.groupby("sample_id").head(1).assign(slide_id="section")
    spots = run._replace(tiles_df=tiles_df, network_file=None)
    values = pair_figures.slide_values(spots, "0_0", "section")
    np.testing.assert_allclose(values, run.lookup.features_df.loc["0_0", tiles_df["sample_id"]])


def test_a_feature_is_shown_without_reading_the_table_of_tiles(run):
    """That table is long, and what is shown of a feature at once needs one tile of a sample."""
    alone = run._replace(tiles_df=None)
    values = run.lookup.features_df.loc["0_0"].drop("s4")
    fewer = alone._replace(sample_tiles_df=run.sample_tiles_df[run.sample_tiles_df["sample_id"] != "s4"])
    by_slide = pair_figures.slides_by_value(fewer, "0_0")
    assert by_slide.index.tolist() == values.sort_values(ascending=False).index.tolist()
    np.testing.assert_allclose(by_slide, values[by_slide.index])
    one_slide = alone._replace(sample_tiles_df=run.sample_tiles_df.assign(slide_id="section"))
    assert pair_figures.slides_by_value(one_slide, "0_0")["section"] == pytest.approx(
        run.lookup.features_df.loc["0_0"].mean()
    )
    assert pair_figures.strip_tiles(alone, "0_0")["sample_id"].nunique() == pair_figures.STRIP_TILES
    assert pair_figures.slides_by_value(none_of(run), "0_0").empty


def none_of(run):
    return run._replace(tiles_df=run.tiles_df.iloc[:0], sample_tiles_df=run.sample_tiles_df.iloc[:0])


def test_one_tile_of_each_sample_is_that_with_most_tissue(run):
    shuffled_df = run.tiles_df.assign(tissue_fraction=[0.5, 0.9, 0.9, 0.6] * 8).sample(frac=1, random_state=1)
    one_df = pair_figures.one_tile_each(shuffled_df.sort_index())
    assert sorted(one_df["tile_id"]) == [f"s{i}_1_0" for i in range(8)], "the first of two alike"


def test_pairs_by_name_give_the_same_q(run):
    known_df = pd.DataFrame(
        {"gene": ["ENSG2", "ENSG1"], "feature": ["1_1", "0_0"], "q_within_tissue": [0.2, 0.3]}
    )
    asked = run.lookup._replace(known_df=pair_figures.by_name(known_df))
    found = correlates.features_of(asked, "ENSG2")["q_within_tissue"]
    assert found["1_1"] == 0.2
    assert found.drop("1_1").isna().all()
    assert correlates.features_of(asked, "ENSG3")["q_within_tissue"].isna().all(), "no category of this name"
    assert correlates.genes_of(asked, "0_0")["q_within_tissue"]["ENSG1"] == 0.3


def test_samples_without_tiles(run):
    none = none_of(run)
    with pytest.raises(ValueError, match="none of the 8 samples"):
        pair_figures.look_closely(none, "2_0")
    with pytest.raises(ValueError, match="slide 's0' has no tiles"):
        pair_figures.slide_values(none, "0_0", "s0")


class FinishedRun:
    """What `inspector.load` asks of a store, from tables."""

    def __init__(self, tables, stacks, folder):
        self.tables, self.stacks, self.folder = tables, stacks, folder
        self.config = Config(cohort="mine", n_permutations=20)

    def load(self, name):
        return self.tables[name]

    def reference(self, name):
        return pd.DataFrame({"tissue": ["Lung"], "color": ["#123456"]})

    def stack_files(self, tiles_df):
        return self.stacks

    def slide_paths(self, samples_df):
        return {}

    def work_folder(self, name, artefact):
        return self.folder


def test_tissues_have_the_colours_of_all_samples(run, tmp_path):
    """As in the report: a tissue without a test sample moves no other tissue's colour."""
    elsewhere_df = run.samples_df.iloc[:2].assign(sample_id=["x", "y"], tissue=["Adrenal", "Lung"])
    samples_df = pd.concat([run.samples_df, elsewhere_df], ignore_index=True)
    pairs_df = pd.DataFrame({"gene": ["ENSG2"], "feature": ["1_1"], "q_within_tissue": [0.2]})
    tables = {
        "features_test": run.lookup.features_df,
        "gene_significance": run.genes_df,
        "expression": 2 ** run.lookup.log_df.clip(lower=0) - 1,
        "samples": samples_df,
        "gene_medians": run.lookup.genes_df,
        "pairs_significance": pairs_df,
        "tiles": run.tiles_df,
        "slides": pd.DataFrame({"slide_id": ["s0"], "mpp": [MPP]}),
        "network": run.network_file,
    }
    store = FinishedRun(tables, run.stack_files, tmp_path)
    found = pair_figures.load(store)
    assert found.colours == style.tissue_colours(samples_df["tissue"], store.reference("gtex_tissues"))
    assert found.colours["Liver"] != style.tissue_colours(run.samples_df["tissue"])["Liver"]
    assert found.samples_df["sample_id"].tolist() == run.samples_df["sample_id"].tolist()
    assert found.sample_tiles_df["sample_id"].is_unique
    assert found.start == ("ENSG2", "1_1")
    assert not panel.Panel(found).message.value


# -- the panel ----------------------------------------------------------------------------------------------


@pytest.fixture
def shown(run):
    return panel.Panel(run)


def text_of(shown):
    return shown.words.value


def finished_work(shown):
    shown.work.join(60)
    assert not shown.work.is_alive()


def test_panel_begins_with_the_pair_it_is_given(run, shown):
    assert (shown.gene, shown.feature) == run.start
    assert shown.features.table.chosen == "1_1"
    assert shown.genes.table.chosen == "ENSG2"
    assert bytes(shown.pair_image.value).startswith(b"\x89PNG")
    assert "AFP" in text_of(shown)
    assert "q 0.04 within tissues" in text_of(shown)
    r = correlates.features_of(run.lookup, "ENSG2").loc["1_1", "r"]
    assert f"<b>{r:.3f}</b>" in text_of(shown)
    assert shown.strip.value.count("<img") == 7
    assert shown.back.disabled


def test_a_row_leads_on_and_back_returns(shown):
    first = (shown.gene, shown.feature)
    picture = shown.pair_image.value
    feature = next(f for f in shown.features.table.ids if f != shown.feature)
    shown.features.table.chosen = feature
    assert (shown.gene, shown.feature) == (first[0], feature)
    assert shown.pair_image.value != picture
    assert feature in shown.genes.table.heading
    gene = next(g for g in shown.genes.table.ids if g != shown.gene)
    shown.genes.table.chosen = gene
    assert (shown.gene, shown.feature) == (gene, feature)
    assert shown.features.table.chosen == feature
    shown.back.click()
    shown.back.click()
    assert (shown.gene, shown.feature) == first
    assert shown.pair_image.value == picture
    assert shown.back.disabled


def asked(shown, text, what="find"):
    """What the browser sends at Enter ("find") or at each letter ("typed"); returns the names offered."""
    sent = []
    with mock.patch.object(shown.search, "send", sent.append):
        shown.search._handle_custom_msg({what: text, "question": 0.5}, [])
    (answer,) = sent
    assert answer["question"] == 0.5, "by it the browser tells the last answer from earlier ones"
    return answer["suggestions"]


def test_search_by_text_and_by_suggestion(shown):
    offered = asked(shown, "krt", "typed")
    assert offered[0] == "KRT1 · ENSG4"
    assert asked(shown, offered[0]) == []
    assert shown.gene == "ENSG4"
    asked(shown, "alb")
    assert shown.gene == "ENSG1"
    asked(shown, "0_2")
    assert shown.feature == "0_2"
    assert shown.genes.table.ids[0] == shown.gene, "with the gene that follows it most closely"


def test_an_unknown_name_is_told_with_its_neighbours(shown):
    before = (shown.gene, shown.feature, shown.pair_image.value)
    assert asked(shown, "SFTBP")[0] == "SFTPB · ENSG3"
    assert 'role="alert"' in shown.message.value
    assert "SFTPB · ENSG3" in shown.message.value
    assert (shown.gene, shown.feature, shown.pair_image.value) == before


def test_any_error_in_a_callback_reaches_the_person(shown, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("<i>what went wrong</i>")

    monkeypatch.setattr(panel.pair_figures, "render", broken)
    shown.features.table.chosen = next(f for f in shown.features.table.ids if f != shown.feature)
    assert "ZeroDivisionError" in shown.message.value
    assert "&lt;i&gt;what went wrong&lt;/i&gt;" in shown.message.value
    monkeypatch.undo()
    shown.features.table.chosen = next(f for f in shown.features.table.ids if f != shown.feature)
    assert shown.message.value == ""


def test_headings_sort_over_all_rows(shown):
    shown.features.table._handle_custom_msg({"sort": "r"}, [])
    r = shown.features.table_df["r"].abs().sort_values(ascending=False)
    assert shown.features.table.ids == r.index.tolist()
    assert (shown.features.table.by, shown.features.table.reverse) == ("r", False)
    shown.features.table._handle_custom_msg({"sort": "r"}, [])
    assert shown.features.table.ids == r.index.tolist()[::-1]
    shown.features.table._handle_custom_msg({"sort": "name"}, [])
    assert shown.features.table.ids == sorted(r.index)


def test_the_current_partner_is_listed_wherever_it_ranks(run, monkeypatch):
    monkeypatch.setattr(panel, "N_ROWS", 2)
    last = correlates.features_of(run.lookup, "ENSG2").index[-1]
    shown = panel.Panel(run._replace(start=("ENSG2", last)))
    assert shown.features.table.ids[-1] == last
    assert shown.features.table.rows[-1][0] == "6"
    assert len(shown.features.table.ids) == 3


def test_odd_ids_are_escaped_wherever_html_is_made(run):
    samples_df = run.samples_df.assign(tissue=run.samples_df["tissue"].replace("Liver", ODD))
    genes_df = run.lookup.genes_df.assign(tissue=run.lookup.genes_df["tissue"].replace("Liver", ODD))
    odd = run._replace(
        samples_df=samples_df,
        colours=style.tissue_colours(samples_df["tissue"]),
        lookup=run.lookup._replace(genes_df=genes_df),
        start=(ODD, "0_0"),
    )
    shown = panel.Panel(odd)
    asked(shown, "<script>")
    for made in (shown.words.value, shown.strip.value, shown.message.value):
        assert "<b>A" not in made
        assert "<script>" not in made
    assert "&lt;b&gt;A$b$&amp;" in shown.words.value
    assert "&lt;script&gt;" in shown.message.value


def test_missing_stacks_leave_the_tables(run, tmp_path):
    gone = {slide: tmp_path / f"{slide}.npy" for slide in run.stack_files}
    shown = panel.Panel(run._replace(stack_files=gone))
    assert "No tiles to show: no tile stack at" in shown.strip.value
    assert shown.features.table.ids


def test_closeup_and_map_on_demand(run, shown):
    shown.features.table.chosen = "2_0"
    assert shown.closeup_image.layout.display == "none"
    shown.closer.click()
    finished_work(shown)
    assert shown.message.value == ""
    assert bytes(shown.closeup_image.value).startswith(b"\x89PNG")
    assert shown.closeup_image.layout.display == ""
    assert feature_view.kept(run.folder, "2_0", 3) is not None
    assert shown.map_image.layout.display == "none"
    shown.map.click()
    finished_work(shown)
    assert shown.message.value == ""
    assert bytes(shown.map_image.value).startswith(b"\x89PNG")


def test_work_is_cancelled_between_steps(run, shown, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def slow(_, feature, on_step):
        for k in range(1000):
            on_step(k, 1000)
            began.set()
            go_on.wait(0.05)
        pytest.fail("was not stopped")

    monkeypatch.setattr(panel.pair_figures, "look_closely", slow)
    shown.closer.click()
    assert began.wait(10)
    assert shown.closer.disabled
    assert shown.progress.max == 1000
    shown.closer.click()
    assert "already" in shown.message.value
    shown.cancel.click()
    go_on.set()
    finished_work(shown)
    assert shown.doing.value == "cancelled"
    assert not shown.closer.disabled


def test_an_error_in_the_work_reaches_the_person(shown, monkeypatch):
    def broken(*_):
        time.sleep(0.01)
        raise RuntimeError("the gradient of 1_1 (seed 0) is zero")

    monkeypatch.setattr(panel.pair_figures, "look_closely", broken)
    shown.closer.click()
    finished_work(shown)
    assert "the gradient of 1_1" in shown.message.value
    assert not shown.closer.disabled


def test_late_work_does_not_overwrite_another_feature(shown, monkeypatch):
    ready = threading.Event()
    made = feature_view.Closeup(
        np.array(["t"]), np.ones(1), *(np.zeros((1, 8, 8, 3), np.uint8),) * 2,
        np.array("guided backpropagation"), np.zeros((8, 8, 3), np.uint8), np.array([0.0, 1.0]),
    )  # fmt: skip
    monkeypatch.setattr(panel.pair_figures, "look_closely", lambda *_: ready.wait(10) and made)
    shown.features.table.chosen = "0_1"
    shown.closer.click()
    shown.features.table.chosen = "1_0"
    ready.set()
    finished_work(shown)
    assert shown.closeup_image.layout.display == "none"
