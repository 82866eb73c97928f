"""Samples of several slides, from the slides to the report: their tiles are pooled."""

import shutil

import numpy as np
import pandas as pd
import pytest
import small_cohort
from conftest import run_command
from slide_factory import glass, textured

from lib import slide_work
from lib.config import Config
from lib.explore import inspection
from lib.features import sample_sums
from lib.store import Store

pytestmark = pytest.mark.slow

POOLS = {"S00": ["S00a", "S00b"], "S05": ["S05a", "S05b", "S05c"], "S07": ["S07a", "gone"]}


def draw_slide(folder, name, seed, height, width):
    image = glass(height + 64, width + 64)
    image[32:-32, 32:-32] = textured(height, width, seed=seed, colour=(205, 120, 150))
    small_cohort.write_slide(folder / f"{name}.svs", image)


def pooled_cohort(root, **settings):
    """Twelve samples: one of two slides, one of three, and one of two of which one has no file."""
    path = small_cohort.make(root, **settings)
    raw = root / "data/raw/mine"
    for seed, (sample, slides) in enumerate(POOLS.items()):
        (raw / f"slides/{sample}.svs").unlink()
        for i, name in enumerate(name for name in slides if name != "gone"):
            draw_slide(raw / "slides", name, 40 + 10 * seed + i, 256 + 128 * i, 384 - 64 * i)
    samples_df = pd.read_csv(raw / "samples.csv")
    of_sample = samples_df["sample_id"].map({i: ";".join(slides) for i, slides in POOLS.items()})
    sets = ["test"] * len(samples_df)
    for name, places in {"train": (1, 2, 9), "validation": (3, 4, 6, 8)}.items():
        for i in places:
            sets[i] = name
    samples_df.assign(slide_id=of_sample.fillna(samples_df["slide_id"]), split=sets).to_csv(
        raw / "samples.csv", index=False
    )
    return path


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    """The store of a run of such a cohort, and what it printed."""
    root = tmp_path_factory.mktemp("pooled")
    small = {"link_permutations": 200, "n_cards": 2, "synthesis_steps": 2, "epochs": 1}
    path = pooled_cohort(root, **small)
    done = run_command(root, "--cohort", path, "--to", "11")
    assert done.returncode == 0, done.stdout + done.stderr
    yield Store(Config.load(str(path)), root=root), done.stdout
    shutil.rmtree(root)  # 1 GB


@pytest.fixture(scope="module")
def apart(pooled, tmp_path_factory):
    """The same slides, each a sample of its own, measured by the same network."""
    store, _ = pooled
    samples_df = store.load("samples").set_index("sample_id")
    slides = {i: cell.split(";") for i, cell in samples_df["slide_id"].items()}
    work = slide_work.to_measure(store)
    folder = tmp_path_factory.mktemp("apart")
    measured_df = work.tiles_df["sums"]
    alone_df = measured_df.assign(sample_id=measured_df["slide_id"])
    sums_df, n_tiles = sample_sums.quantify_samples(work.model, alone_df, folder, store.config.quantification)
    return slides, sums_df / n_tiles, n_tiles


def test_a_sample_is_the_mean_over_all_its_tiles(pooled, apart):
    """Oracle: the slides' features, computed apart, weighted by their numbers of tiles."""
    store, _ = pooled
    slides, means_df, n_tiles = apart
    features_df = store.load("features_test")
    counts_df = store.load("tile_counts")
    assert set(POOLS) <= set(features_df.columns)
    for sample_id in features_df.columns:
        own = [i for i in slides[sample_id] if i != "gone"]
        weights = n_tiles[own] / n_tiles[own].sum()
        expected = means_df[own].to_numpy() @ weights.to_numpy()
        np.testing.assert_allclose(features_df[sample_id], expected, rtol=1e-5, atol=1e-7)
        assert counts_df.loc[sample_id, "n_tiles"] == n_tiles[own].sum()
    two = means_df[["S00a", "S00b"]]
    unweighted = two.mean(axis=1)
    assert n_tiles["S00a"] != n_tiles["S00b"]
    assert not np.allclose(features_df["S00"], unweighted, rtol=1e-5), "the slides differ in size"


def test_tiles_are_cut_for_each_slide_and_have_one_name_each(pooled):
    store, _ = pooled
    tiles_df = store.load("tiles")
    assert tiles_df["tile_id"].is_unique
    of_df = tiles_df[tiles_df["sample_id"] == "S05"]
    assert set(of_df["slide_id"]) == set(POOLS["S05"])
    names = of_df["slide_id"] + "_" + of_df["column"].astype(str) + "_" + of_df["row"].astype(str)
    assert of_df["tile_id"].tolist() == names.tolist()
    alone_df = tiles_df[tiles_df["sample_id"] == "S01"]
    assert alone_df["tile_id"].str.match(r"S01_\d+_\d+$").all()
    for slide_id, rows_df in tiles_df.groupby("slide_id"):
        assert len(np.load(store.path("stacks") / f"{slide_id}.npy")) == len(rows_df)


def test_a_sample_keeps_its_other_slides_and_the_missing_one_is_named(pooled):
    store, printed = pooled
    assert "1 samples of several slides lack some, and keep the rest: S07: gone" in printed
    tiles_df, slides_df = store.load("tiles"), store.load("slides").set_index("slide_id")
    assert set(tiles_df.loc[tiles_df["sample_id"] == "S07", "slide_id"]) == {"S07a"}
    assert slides_df.loc["gone", "state"] == "failed"
    assert "does not exist" in slides_df.loc["gone", "reason"]
    table_df = pd.read_csv(store.figures / "samples_in_part.csv", index_col=0)
    assert table_df["lacking"].to_dict() == {"S07": "gone"}
    checked = run_command(store.root, "--cohort", store.root / "mine.toml", "--check")
    assert "1 samples of several slides lack some, and keep the rest: S07: gone" in checked.stdout


def test_a_sample_has_one_vote(pooled):
    store, _ = pooled
    votes_df, tile_df = store.load("predictions"), store.load("tile_predictions")
    assert votes_df.index.is_unique
    probabilities = tile_df.set_index("sample_id")[["Liver", "Lung"]]
    for sample_id in ("S00", "S05"):
        counts = probabilities.loc[sample_id].idxmax(axis=1).value_counts()
        assert votes_df.loc[sample_id, "n_tiles"] == counts.sum()
        if counts.nunique() == len(counts):
            assert votes_df.loc[sample_id, "predicted"] == counts.index[0]


def test_every_slide_has_its_map(pooled):
    store, _ = pooled
    run = inspection.load(store)
    feature = run.lookup.features_df.index[0]
    slides = inspection.slides_by_value(run, feature)
    assert set(POOLS["S05"]) <= set(slides.index)
    assert "gone" not in slides.index
    assert slides[POOLS["S05"]].nunique() == 1, "the value of a slide is that of its sample"
    for slide_id in POOLS["S05"]:
        values = inspection.slide_values(run, feature, slide_id)
        assert values is not None
        assert len(values) == (run.tiles_df["slide_id"] == slide_id).sum()
    assert inspection.strip_tiles(run, feature)["sample_id"].is_unique


def test_the_report_counts_slides_and_samples(pooled):
    store, _ = pooled
    page = (store.figures / "index.html").read_text()
    assert "(12; 16 slides of 12 donors" in page
    assert "over the tiles of a sample, those of all its slides together" in page
