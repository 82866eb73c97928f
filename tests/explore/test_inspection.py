"""What is asked of a run, with and without its network, and what of it is kept."""

import numpy as np
import pandas as pd
import pytest
from small_network import quantified

from lib.config import Config
from lib.explore import correlates, feature_view, inspection, panel
from lib.figures import style
from lib.network import models
from lib.visualize.feature_values import tile_values


def test_strip_runs_from_the_lowest_sample_to_the_highest(run):
    strip_df = inspection.strip_tiles(run, "0_1")
    values = run.lookup.features_df.loc["0_1"]
    assert strip_df["value"].is_monotonic_increasing
    np.testing.assert_allclose(strip_df["value"], values[strip_df["sample_id"]])
    assert not strip_df["donor"].duplicated().any()
    assert strip_df["tissue"].tolist() == run.samples_df["tissue"][strip_df["sample_id"]].tolist()


def test_a_view_finds_the_top_tiles_and_raises_the_feature(run):
    steps = []
    values = run.lookup.features_df.loc["1_1"]
    view = feature_view.view_feature(
        *(run.network(), "1_1", values, run.tiles_df, run.samples_df),
        n_steps=12,
        on_step=lambda *step: steps.append(step),
    )
    all_df = tile_values(run.network(), ["1_1"], run.tiles_df, progress=False)
    tried = values.sort_values(ascending=False).groupby(run.samples_df["donor"]).head(1).index
    assert view.values[0] == pytest.approx(
        all_df["1_1"][run.tiles_df["sample_id"].isin(tried).to_numpy()].max()
    )
    assert (np.diff(view.values) <= 0).all()
    assert view.tiles.shape == view.gradients.shape == (4, 64, 64, 3)
    assert str(view.method) == "guided backpropagation"
    assert view.objective[1] > view.objective[0]
    done, n_all = zip(*steps, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == n_all[0] == 28 + 4 + 12, "seven donors' tiles, four gradients, twelve steps"


def test_a_view_is_kept_and_read_again(run, monkeypatch):
    view = inspection.feature_view(run, "0_2")
    monkeypatch.setattr(inspection, "view_feature", lambda *_, **__: pytest.fail("computed twice"))
    for one, other in zip(view, inspection.feature_view(run, "0_2"), strict=True):
        np.testing.assert_array_equal(one, other)
    longer = run._replace(n_steps=99)
    assert inspection.feature_view(longer, "0_2", compute=False) is None, "another image"


def test_slide_values_are_those_of_its_tiles_and_kept(run, monkeypatch):
    assert inspection.slide_values(run, "0_0", "s3", compute=False) is None
    values = inspection.slide_values(run, "0_0", "s3")
    tiles_df = run.tiles_df[run.tiles_df["slide_id"] == "s3"]
    expected_df = tile_values(run.network(), ["0_0"], tiles_df.iloc[::-1], progress=False)
    np.testing.assert_allclose(values, expected_df["0_0"][values.index], rtol=1e-5)
    monkeypatch.setattr(inspection, "tile_values", lambda *_, **__: pytest.fail("computed twice"))
    kept = inspection.slide_values(run, "0_0", "s3", compute=False)
    pd.testing.assert_series_equal(kept, values, check_names=False)


def test_maps_of_a_slide_sum_to_its_values_and_are_kept(run, monkeypatch):
    assert inspection.slide_maps(run, "0_1", "s3", compute=False) is None
    steps = []
    maps = inspection.slide_maps(run, "0_1", "s3", on_step=lambda done, n: steps.append((done, n)))
    assert maps.ndim == 3
    assert steps[-1] == (len(maps), len(maps))
    values = inspection.slide_values(run, "0_1", "s3")
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), values, rtol=1e-4)
    monkeypatch.setattr(inspection.activation_maps, "maps_of_tiles", lambda *_, **__: pytest.fail("twice"))
    np.testing.assert_array_equal(inspection.slide_maps(run, "0_1", "s3", compute=False), maps)


def test_the_exponent_of_the_features_is_that_of_maps_and_views(run, tmp_path):
    network = run.network()._replace(p=2.0)
    squared = run._replace(network=lambda: network, folder=tmp_path)
    stack = np.load(run.tiles_df.set_index("slide_id")["file"]["s2"].iloc[0])
    table = models.feature_table("alexnet")["feature"].tolist()
    sums = [quantified(network.model, "alexnet", [tile[None]], p=2) for tile in stack]
    expected = np.array(sums)[:, table.index("1_1")]
    np.testing.assert_allclose(inspection.slide_values(squared, "1_1", "s2"), expected, rtol=1e-4)
    once, twice = inspection.feature_view(run, "1_1"), inspection.feature_view(squared, "1_1")
    assert twice.values[0] != pytest.approx(once.values[0])
    assert twice.objective[0] != pytest.approx(once.objective[0])
    assert not np.array_equal(once.synthetic, twice.synthetic)


def test_spots_need_no_network(run):
    """A slide whose samples have one tile each: its map is in the table of features."""
    tiles_df = run.tiles_df.groupby("sample_id").head(1).assign(slide_id="section")
    spots = run._replace(tiles_df=tiles_df, network=None)
    values = inspection.slide_values(spots, "0_0", "section")
    np.testing.assert_allclose(values, run.lookup.features_df.loc["0_0", tiles_df["sample_id"]])


def test_a_feature_is_shown_without_reading_the_table_of_tiles(run):
    """That table is long, and what is shown of a feature at once needs one tile of a sample."""
    alone = run._replace(tiles_df=None)
    values = run.lookup.features_df.loc["0_0"].drop("s4")
    fewer = alone._replace(sample_tiles_df=run.sample_tiles_df[run.sample_tiles_df["sample_id"] != "s4"])
    by_slide = inspection.slides_by_value(fewer, "0_0")
    assert by_slide.index.tolist() == values.sort_values(ascending=False).index.tolist()
    np.testing.assert_allclose(by_slide, values[by_slide.index])
    one_slide = alone._replace(sample_tiles_df=run.sample_tiles_df.assign(slide_id="section"))
    mean = run.lookup.features_df.loc["0_0"].mean()
    assert inspection.slides_by_value(one_slide, "0_0")["section"] == pytest.approx(mean)
    assert inspection.strip_tiles(alone, "0_0")["sample_id"].nunique() == inspection.STRIP_TILES


def test_samples_without_tiles(run):
    none = run._replace(tiles_df=run.tiles_df.iloc[:0], sample_tiles_df=run.sample_tiles_df.iloc[:0])
    with pytest.raises(ValueError, match="none of the 8 samples"):
        inspection.feature_view(none, "2_0")
    with pytest.raises(ValueError, match="slide 's0' has no tiles"):
        inspection.slide_values(none, "0_0", "s0")
    assert inspection.slides_by_value(none, "0_0").empty


def test_one_tile_of_each_sample_is_that_with_most_tissue(run):
    shuffled_df = run.tiles_df.assign(tissue_fraction=[0.5, 0.9, 0.9, 0.6] * 8).sample(frac=1, random_state=1)
    one_df = inspection.one_tile_each(shuffled_df.sort_index())
    assert sorted(one_df["tile_id"]) == [f"s{i}_1_0" for i in range(8)], "the first of two alike"


class FinishedRun:
    """What `inspection.load` asks of a store, from tables."""

    def __init__(self, tables, stacks, folder):
        self.tables, self.stacks, self.folder = tables, stacks, folder
        self.config = Config(cohort="mine", q_threshold=0.5)
        self.root = self.figures = folder

    def load(self, name):
        return self.tables[name]

    def is_current(self, name):
        return name in self.tables

    def reference(self, name):
        return pd.DataFrame({"tissue": ["Lung"], "color": ["#123456"]})

    def samples_of(self, sample_ids):
        return self.tables["samples"].set_index("sample_id", drop=False).loc[list(sample_ids)]

    def tile_files(self, tiles_df):
        return self.stacks

    def slide_paths(self, samples_df):
        return {}

    def work_folder(self, name, artefact):
        return self.folder


def test_tissues_have_the_colours_of_all_samples(run, tmp_path):
    """As in the report: a tissue without a test sample does not change the colour of another tissue."""
    elsewhere_df = run.samples_df.iloc[:2].assign(sample_id=["x", "y"], tissue=["Adrenal", "Lung"])
    samples_df = pd.concat([run.samples_df, elsewhere_df], ignore_index=True)
    null_df = pd.DataFrame({"p": [0.1], "n_reached": [1], "maxima": [np.ones(19, "f4")]}, index=["ENSG2"])
    columns = {"p": 0.1, "q": 0.1, "q_covariates": np.nan, "clump": "1_1", "carried_by": "Liver"}
    links_df = pd.DataFrame({"gene": ["ENSG2"], "feature": ["1_1"], **columns})
    tables = {
        "features_test": run.lookup.features_df,
        "gene_significance": run.genes_df,
        "expression": 2 ** run.lookup.log_df.clip(lower=0) - 1,
        "samples": samples_df,
        "gene_medians": run.lookup.genes_df,
        "link_null": null_df,
        "links": links_df,
        "tiles": run.tiles_df,
        "slides": pd.DataFrame({"slide_id": ["s0"], "mpp": [0.5]}),
        "network": tmp_path / "network.pt",
    }
    store = FinishedRun(tables, dict(run.tiles_df[["slide_id", "file"]].to_numpy()), tmp_path)
    found = inspection.load(store)
    assert found.colours == style.tissue_colours(samples_df["tissue"], store.reference("gtex_tissues"))
    assert found.colours["Liver"] != style.tissue_colours(run.samples_df["tissue"])["Liver"]
    assert found.samples_df["sample_id"].tolist() == run.samples_df["sample_id"].tolist()
    assert found.sample_tiles_df["sample_id"].is_unique
    assert found.start == ("ENSG2", "1_1")
    assert not panel.Panel(found).message.value, "and the network was not read"
    assert correlates.features_of(found.lookup, "ENSG2")["q_link"]["1_1"] == 0.1, "as in the table"
