"""Sums of features per sample: their tiles added up, resumption, and the tile count they carry."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_network import SMALL, quantified, random_tiles, small_network

from lib import work_records
from lib.features import sample_sums
from lib.features.quantification import Quantification
from lib.network import models
from lib.tiles import stored


@pytest.fixture(scope="module")
def small():
    return small_network()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two slides of several samples (one of a single tile, one on both slides), one that is a sample."""
    folder = tmp_path_factory.mktemp("stacks")
    rows = []
    for k, samples in enumerate((["a"] * 3 + ["b"] + ["ab"] * 2, ["ab", "c", "c", "c"], ["d"] * 5)):
        file = folder / f"slide_{k}.npy"
        np.save(file, random_tiles(len(samples), 32, seed=k))
        rows += [{"file": str(file), "stack_index": j, "sample_id": s} for j, s in enumerate(samples)]
    return pd.DataFrame(rows).assign(slide_id=lambda df: df["file"].str[-11:-4])


def run(model, tiles_df, out_dir, **options):
    how = Quantification(architecture=SMALL, **options)
    return sample_sums.quantify_samples(model, tiles_df, out_dir, how)


@pytest.fixture(scope="module")
def whole(small, cohort, tmp_path_factory):
    return run(small, cohort, tmp_path_factory.mktemp("whole"), batch_size=4)


def test_samples_are_their_tiles(small, cohort, whole):
    sums_df, n_tiles = whole
    assert n_tiles.to_dict() == {"a": 3, "b": 1, "ab": 3, "c": 3, "d": 5}
    assert sums_df.shape == (10_432, 5)
    assert (sums_df.dtypes == np.float64).all()
    assert sums_df.index.name == "feature"
    assert sums_df.index.tolist() == models.feature_names(SMALL)
    for sample_id, rows in cohort.groupby("sample_id"):
        tiles = np.stack([np.load(row.file)[row.stack_index] for row in rows.itertuples()])
        alone = quantified(small, SMALL, [tiles])
        scale = np.abs(alone) + np.abs(alone).mean()
        assert (np.abs(sums_df[sample_id] - alone) <= 1e-6 * scale).all()


def test_order_and_batch_size_do_not_matter(small, cohort, whole, tmp_path):
    shuffled = cohort.sample(frac=1, random_state=1)
    sums_df, n_tiles = run(small, shuffled, tmp_path / "same", batch_size=4)
    pd.testing.assert_frame_equal(sums_df[whole[0].columns], whole[0], rtol=0, atol=0)
    pd.testing.assert_series_equal(n_tiles[whole[1].index], whole[1])
    sums_df, _ = run(small, cohort, tmp_path / "ones", batch_size=1)
    scale = whole[0].abs() + whole[0].abs().mean()
    assert ((sums_df - whole[0]).abs() <= 1e-6 * scale).all(axis=None)


def counting(monkeypatch):
    """The slides whose tiles are read."""
    seen = []
    read = stored.StoredTiles.read_ahead

    def counted(tiles, batches, read_batch):
        stems = [Path(tiles.files[tiles.file_of_row[rows[0]]]).stem for rows in batches]
        seen.extend(dict.fromkeys(stems))
        yield from read(tiles, batches, read_batch)

    monkeypatch.setattr(stored.StoredTiles, "read_ahead", counted)
    return seen


def test_resumes_after_a_kill_between_and_within_slides(small, cohort, whole, tmp_path, monkeypatch):
    save = work_records.save_arrays

    def killed(path, made_for, arrays):
        if path.stem == "slide_1":
            raise KeyboardInterrupt
        save(path, made_for, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(work_records, "save_arrays", killed)
        with pytest.raises(KeyboardInterrupt):
            run(small, cohort, tmp_path, batch_size=4)
    assert [path.name for path in tmp_path.iterdir()] == ["slide_0.npz"]
    assert not any(m._forward_hooks for m in small.modules())
    seen = counting(monkeypatch)
    sums_df, n_tiles = run(small, cohort, tmp_path, batch_size=4)
    assert seen == ["slide_1", "slide_2"]
    pd.testing.assert_frame_equal(sums_df, whole[0], rtol=0, atol=0)
    pd.testing.assert_series_equal(n_tiles, whole[1])
    run(small, cohort, tmp_path, batch_size=4)
    assert seen == ["slide_1", "slide_2"], "a finished run is not run again"


def test_on_a_gpu_a_slide_is_written_during_the_next_one(small, cohort, whole, tmp_path, monkeypatch):
    """The order of a GPU, on the CPU: nothing that is done is lost, and the error is that of the slide."""
    on_cpu, empty, read = sample_sums.tile_quantifier, torch.empty, stored.StoredTiles.read_ahead

    def fails(tiles, batches, read_batch):
        for rows, tiles_t in zip(batches, read(tiles, batches, read_batch), strict=True):
            if "slide_2" in tiles.files[tiles.file_of_row[rows[0]]]:
                raise OSError("gone")
            yield tiles_t

    def as_gpu():
        return sample_sums.quantify_samples(
            small, cohort, tmp_path, Quantification(architecture=SMALL, device="cuda", batch_size=4)
        )

    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
    monkeypatch.setattr(
        sample_sums, "tile_quantifier", lambda model, how: on_cpu(model, replace(how, device="cpu"))
    )
    with monkeypatch.context() as patched:
        patched.setattr(stored.StoredTiles, "read_ahead", fails)
        with pytest.raises(OSError, match="gone"):
            as_gpu()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["slide_0.npz", "slide_1.npz"]
        (tmp_path / "slide_1.npz").unlink()
        patched.setattr(sample_sums, "_check_finite", lambda *_: 1 / 0)
        with pytest.raises(OSError, match="gone") as caught:
            as_gpu()
        assert caught.value.__notes__ == ["And: division by zero"]
    pd.testing.assert_frame_equal(as_gpu()[0], whole[0], rtol=0, atol=0)


def test_only_what_changed_is_run_again(small, cohort, tmp_path, monkeypatch):
    run(small, cohort, tmp_path)
    seen = counting(monkeypatch)
    (tmp_path / "slide_1.npz").write_bytes(b"PK\x03\x04 torn")
    run(small, cohort, tmp_path)
    assert seen == ["slide_1"]
    moved = cohort.assign(sample_id=cohort["sample_id"].replace("d", "e"))
    sums_df, _ = run(small, moved, tmp_path)
    assert seen == ["slide_1", "slide_2"]
    assert "e" in sums_df
    assert "d" not in sums_df
    seen.clear()
    squared, _ = run(small, cohort, tmp_path, p=2)
    assert seen == ["slide_0", "slide_1", "slide_2"]
    seen.clear()
    other, _ = run(small_network(seed=9), cohort, tmp_path, p=2)
    assert seen == ["slide_0", "slide_1", "slide_2"]
    assert not np.allclose(squared, other)


def test_other_pixels_are_run_again(small, cohort, tmp_path, monkeypatch):
    file = tmp_path / "slide.npy"
    np.save(file, random_tiles(2, 32, seed=20))
    tiles_df = pd.DataFrame({"file": str(file), "stack_index": [0, 1], "sample_id": "x", "slide_id": "s"})
    first, _ = run(small, tiles_df, tmp_path)
    np.save(file, random_tiles(2, 32, seed=21))
    second, _ = run(small, tiles_df, tmp_path)
    assert not np.allclose(first, second)


def test_bad_tables(small, cohort, tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        run(small, cohort.iloc[:0], tmp_path)
    with pytest.raises(ValueError, match="1 rows of the tiles frame name a tile of a sample a second time"):
        run(small, pd.concat([cohort, cohort.iloc[:1]]), tmp_path)
    with pytest.raises(ValueError, match=r"stack_index 99 .* holds 6 tiles"):
        run(small, cohort.replace({"stack_index": {4: 99}}), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy does not exist"):
        run(small, cohort.assign(file=str(tmp_path / "nowhere.npy")), tmp_path)


def test_not_finite_names_slide_and_layer(cohort, tmp_path):
    model = small_network()
    with torch.no_grad():
        model.features[2].bias[5] = torch.inf
    with pytest.raises(RuntimeError, match=r"slide_0 are not finite \(first: 2_5, conv1_2"):
        run(model, cohort, tmp_path)
    assert not list(tmp_path.iterdir())


def test_sums_are_added_up_where_there_is_float64():
    assert sample_sums._accumulator(torch.device("mps")).type == "cpu"
    assert sample_sums._accumulator(torch.device("cuda:1")) == torch.device("cuda:1")


# Sum, mean, and the tile count they carry


def test_aggregate():
    sums_df = pd.DataFrame({"a": [2.0, 4.0], "b": [9.0, 3.0]}, index=pd.Index(["0_0", "0_1"], name="feature"))
    n_tiles = pd.Series({"b": 3, "a": 2, "other": 7})
    mean_df = sample_sums.aggregate(sums_df, n_tiles)
    assert mean_df.to_dict("list") == {"a": [1.0, 2.0], "b": [3.0, 1.0]}
    pd.testing.assert_frame_equal(sample_sums.aggregate(sums_df, n_tiles, "sum"), sums_df)
    with pytest.raises(ValueError, match="must be 'mean' or 'sum'"):
        sample_sums.aggregate(sums_df, n_tiles, "median")
    with pytest.raises(ValueError, match=r"1 samples have no tile count .*\['b'\]"):
        sample_sums.aggregate(sums_df, n_tiles.drop("b"))
    with pytest.raises(ValueError, match="no tile count of 1 or more"):
        sample_sums.aggregate(sums_df, pd.Series({"a": 2, "b": 0}))


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_dropped_tiles_put_back_give_the_features_of_all_tiles(how):
    rng = np.random.default_rng(0)
    tiles = {"a": (rng.normal(size=(5, 3)), rng.normal(size=(2, 3))), "b": (rng.normal(size=(4, 3)), None)}
    of = {"mean": lambda x: x.mean(axis=0), "sum": lambda x: x.sum(axis=0)}[how]
    features_df = pd.DataFrame({name: of(kept) for name, (kept, _) in tiles.items()})
    dropped_df = pd.DataFrame({"a": of(tiles["a"][1])})
    counts_df = pd.DataFrame({"n_tiles": [5, 4], "n_dropped": [2, 0]}, index=["a", "b"])
    back_df = sample_sums.with_dropped(features_df, dropped_df, counts_df, how)
    np.testing.assert_allclose(back_df["a"], of(np.concatenate(tiles["a"])))
    np.testing.assert_array_equal(back_df["b"], features_df["b"])


def test_no_dropped_tiles_are_no_columns(small, tmp_path):
    none_df = pd.DataFrame(columns=["slide_id", "file", "stack_index", "sample_id"])
    how = Quantification(architecture=SMALL)
    found_df = sample_sums.dropped_features(small, none_df, tmp_path, how, "mean")
    assert found_df.shape == (len(models.feature_names(SMALL)), 0)


def test_r_with_tile_count_is_pearson_and_shows_the_sums_confound():
    rng = np.random.default_rng(4)
    n_tiles = pd.Series(rng.integers(20, 400, 60), index=[f"s{k}" for k in range(60)])
    mean_df = pd.DataFrame(rng.gamma(100, size=(30, 60)), columns=n_tiles.index).rename_axis("feature")
    mean_df.loc[3] = 0.0
    mean_df.loc[4] = 7.5 * (1 + 1e-8 * rng.normal(size=60))  # float noise only
    sums_df = mean_df * n_tiles
    r = sample_sums.r_with_tile_count(mean_df, n_tiles.sample(frac=1, random_state=0))
    assert list(r.index) == [k for k in range(30) if k not in (3, 4)]
    expected = [np.corrcoef(mean_df.loc[k], n_tiles)[0, 1] for k in r.index]
    np.testing.assert_allclose(r, expected, rtol=1e-10)
    assert r.abs().max() < 0.5
    assert sample_sums.r_with_tile_count(sums_df, n_tiles).min() > 0.9
    assert sample_sums.r_with_tile_count(mean_df, n_tiles * 0 + 5).empty
    assert sample_sums.r_with_tile_count(mean_df.iloc[:, :2], n_tiles).empty
