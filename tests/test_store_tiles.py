"""Tiles that are not stored (`store_tiles = false`): every notebook, the same results, fewer bytes."""

import hashlib
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, run_small

from lib.config import Config
from lib.config_values import parse_setting
from lib.errors import MissingInputError
from lib.slide_work import measure, to_measure
from lib.store import Store
from lib.tiles import stored

pytestmark = pytest.mark.slow
SAME = ("tiles", "slides", "tile_predictions", "features_validation", "features_test", "features_train")
SAME += (
    "features_dropped",
    "plain_correlates",
    "links",
    "gene_significance",
    "pairs",
    "cards",
    "card_curves",
)


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """A root where the small cohort ran without storing the tiles of test slides."""
    root = tmp_path_factory.mktemp("without")
    done = run_small(root, settings=["store_tiles=false"])
    assert done.returncode == 0, done.stdout + done.stderr
    yield root
    shutil.rmtree(root)  # 1 GB


def store_of(root, **settings):
    values = dict(parse_setting(text) for text in SMALL)
    return Store(Config.load("demo", overrides=values | settings), root=root)


def n_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_results_are_the_same_and_take_less_room(finished, without):
    whole = store_of(finished[0])
    store = store_of(without, store_tiles=False)
    for name in SAME:
        pd.testing.assert_frame_equal(store.load(name), whole.load(name), check_exact=True)
    pictures = store.load("card_pictures")
    np.testing.assert_array_equal(pictures, whole.load("card_pictures"))
    samples_df, folder = store.load("samples"), store.path("stacks")
    tiled = set(store.load("tiles")["slide_id"])
    trained_on = set(samples_df.loc[samples_df["split"] != "test", "slide_id"])
    assert {path.stem for path in folder.glob("*.npy")} == tiled & trained_on
    assert {path.stem for path in whole.path("stacks").glob("*.npy")} == tiled
    not_stored = store.load("tiles")
    n_tiles = int((~not_stored["slide_id"].isin(trained_on)).sum())
    saved = n_bytes(whole.path("stacks")) - n_bytes(folder)
    print(f"{n_bytes(whole.path('stacks')):,} bytes with all tiles, {n_bytes(folder):,} without")
    assert saved >= n_tiles * store.config.input_px**2 * 3
    assert (without / "figures/demo/index.html").is_file(), "the report is made, too"


def test_the_parameter_makes_nothing_stale(without):
    """Either way round: what is done without stored tiles is not done again with them."""
    listed = run_small(without, "--list").stdout
    assert re.findall(r"up to date", listed)
    assert not [line for line in listed.splitlines() if line[:2].isdigit() and "up to date" not in line]


def test_a_run_that_finds_all_measured_needs_no_slide_and_another_names_it(without, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(without / "data", root / "data")
    store = store_of(root, store_tiles=False)
    shutil.rmtree(store.raw_path("slides_dir"))  # as on a machine that has none
    work, sums = to_measure(store), store.path("sums")
    before = {path.name: path.stat().st_mtime_ns for path in sums.glob("*.npz")}
    measure(store, work)
    assert {path.name: path.stat().st_mtime_ns for path in sums.glob("*.npz")} == before
    slide_id = work.tiles_df["sums"].query("split == 'test'")["slide_id"].iloc[0]
    (sums / f"{slide_id}.npz").unlink()
    with pytest.raises(MissingInputError, match=rf"not stored .* files are gone: {slide_id}\.svs"):
        measure(store, work)


def test_tiles_of_the_table_are_those_of_the_stacks(finished, without):
    """Every tile of the cohort, from either place; by SHA-256, which the code does not use."""
    found = []
    for store in (store_of(finished[0]), store_of(without, store_tiles=False)):
        tiles_df = store.load("tiles")
        pixels = stored.read_tiles(stored.with_files(tiles_df, store.tile_files(tiles_df), dropped=None))
        found.append(json.dumps([hashlib.sha256(tile.tobytes()).hexdigest() for tile in pixels]))
    assert found[0] == found[1]
