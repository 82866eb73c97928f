"""Cutting many slides: bad slides, resuming after an interrupt or a kill, several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from slide_factory import glass, textured, write_slide

import lib
from lib.tiles import cut, cut_all
from lib.tiles.tiling import Tiling

SMALL = Tiling(tile_px=64, input_px=32, mask_mpp=4.0)
MORE_TISSUE = replace(SMALL, min_tissue=0.9)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[pd.DataFrame, dict[str, Path]]:
    """Four slides with tissue."""
    folder = tmp_path_factory.mktemp("slides")
    paths = {}
    for i, name in enumerate("dbca"):
        rgb = glass(500, 600)
        rgb[20:480, 30 : 330 + 60 * i] = textured(460, 300 + 60 * i, i)
        paths[name] = write_slide(folder / f"{name}.svs", rgb)
    return pd.DataFrame({"sample_id": [f"{n}1" for n in paths], "slide_id": list(paths)}), paths


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory) -> tuple[tuple[pd.DataFrame, pd.DataFrame], Path]:
    """The tables of an uninterrupted run in one process, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return cut_all.cut_slides(*cohort, folder, SMALL), folder


def assert_same(one: tuple, two: tuple, *folders: Path) -> None:
    """Both tables of two runs are equal, and so are the bytes of the files in their folders."""
    for a, b in zip(one, two, strict=True):
        pd.testing.assert_frame_equal(a, b)
    files = [{path.name: path.read_bytes() for path in folder.glob("[!.]*.[np]*")} for folder in folders]
    assert not folders or files[0] == files[1]


def test_tables_follow_the_order_of_the_samples(whole):
    (tiles_df, slides_df), folder = whole
    assert slides_df["slide_id"].tolist() == list("dbca")
    assert list(slides_df) == list(cut_all.SLIDE_COLUMNS)
    assert list(tiles_df) == list(cut.TILE_COLUMNS)
    assert (slides_df["state"] == "ok").all()
    assert list(dict.fromkeys(tiles_df["slide_id"])) == list("dbca")
    assert tiles_df["tile_id"].is_unique
    counted = slides_df["n_tiles"] + slides_df["n_dropped_tissue"] + slides_df["n_dropped_edge"]
    assert (counted == slides_df["n_grid"]).all()
    for slide_id, of_slide in tiles_df.groupby("slide_id"):
        stack = np.load(folder / f"{slide_id}.npy", mmap_mode="r")
        assert of_slide["stack_index"].tolist() == list(range(len(stack)))


def test_several_processes_give_the_same(cohort, whole, tmp_path):
    assert_same(whole[0], cut_all.cut_slides(*cohort, tmp_path, SMALL, n_workers=2), whole[1], tmp_path)


def test_bad_slides_are_recorded_and_the_rest_goes_on(cohort, tmp_path):
    _, good = cohort
    whole = good["a"].read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.svs").write_text("hello")
    write_slide(tmp_path / "no_mpp.svs", textured(300, 300, 0), mpp=None)
    write_slide(tmp_path / "blank.svs", glass(300, 300))
    write_slide(tmp_path / "narrow.svs", textured(900, 120, 0))
    bad = {
        "gone": ("failed", "does not exist"),
        "cut": ("failed", "download it again"),
        "text": ("failed", "not in a format"),
        "no_mpp": ("failed", "fill in column mpp"),
        "unlisted": ("failed", "no file"),
        "blank": ("empty", "no tissue was found"),
        "narrow": ("empty", "cut by an edge"),
    }
    names = [*good, *bad]
    paths = good | {name: tmp_path / f"{name}.svs" for name in bad if name != "unlisted"}
    all_df = pd.DataFrame({"sample_id": names, "slide_id": names})
    tiles_df, slides_df = cut_all.cut_slides(all_df, paths, tmp_path / "stacks", SMALL)
    slides_df = slides_df.set_index("slide_id")
    assert (slides_df.loc[list(good), "state"] == "ok").all()
    for name, (state, words) in bad.items():
        assert slides_df.loc[name, "state"] == state
        assert words in slides_df.loc[name, "reason"]
    assert set(tiles_df["slide_id"]) == set(good)
    assert (slides_df.loc[list(bad), "n_samples_without_tiles"] == 1).all()
    given = all_df.assign(mpp=np.where(all_df["slide_id"] == "no_mpp", 0.5, np.nan))
    _, again_df = cut_all.cut_slides(given, paths, tmp_path / "stacks", SMALL)
    assert again_df.set_index("slide_id")["state"]["no_mpp"] == "ok"


def test_all_slides_bad_stops(tmp_path):
    samples_df = pd.DataFrame({"sample_id": ["x", "y"], "slide_id": ["x", "y"]})
    paths = {"x": tmp_path / "x.svs", "y": write_slide(tmp_path / "y.svs", glass(300, 300))}
    with pytest.raises(
        RuntimeError, match=r"none of 2 slides.*\n  x \(failed\).*does not exist.*\n  y \(empty\): no"
    ):
        cut_all.cut_slides(samples_df, paths, tmp_path / "stacks", SMALL)


def cut_names(monkeypatch) -> list[str]:
    """The slides that are cut after this call."""
    names, cut_slide = [], cut.cut_slide

    def watched(path, *args, **kwargs):
        names.append(Path(path).stem)
        return cut_slide(path, *args, **kwargs)

    monkeypatch.setattr(cut, "cut_slide", watched)
    return names


def test_only_what_changed_is_cut_again(cohort, tmp_path, monkeypatch):
    samples_df, paths = cohort
    out = tmp_path / "stacks"
    first = cut_all.cut_slides(samples_df, paths, out, SMALL)
    names = cut_names(monkeypatch)
    again = cut_all.cut_slides(samples_df, paths, out, SMALL)
    assert names == []
    assert_same(first, again)
    (out / "b.npy").unlink()
    (out / "c.parquet").write_bytes((out / "c.parquet").read_bytes()[:-200])  # torn
    cut_all.cut_slides(samples_df, paths, out, SMALL)
    assert names == ["b", "c"]
    cut_all.cut_slides(samples_df, paths, out, MORE_TISSUE)
    assert names[2:] == list("dbca")
    names.clear()
    cut_all.cut_slides(samples_df.assign(mpp=[np.nan, 0.5, np.nan, np.nan]), paths, out, MORE_TISSUE)
    assert names == ["b"]
    other = write_slide(tmp_path / "other.svs", textured(500, 600, 9))
    cut_all.cut_slides(samples_df[:1], paths | {"d": other}, out, MORE_TISSUE)
    assert names == ["b", "other"]


def test_ctrl_c_then_resume_gives_the_same_bytes(cohort, whole, tmp_path, monkeypatch):
    decode, calls = cut.scaled_jpeg._decode, []

    def stopping(*args):
        calls.append(0)
        if len(calls) == 30:  # in the middle of a later slide's stack
            raise KeyboardInterrupt
        return decode(*args)

    with monkeypatch.context() as patched:
        patched.setattr(cut.scaled_jpeg, "_decode", stopping)
        with pytest.raises(KeyboardInterrupt):
            cut_all.cut_slides(*cohort, tmp_path, SMALL)
    done = len(list(tmp_path.glob("[!.]*.parquet")))
    assert 0 < done < 4
    names = cut_names(monkeypatch)
    resumed = cut_all.cut_slides(*cohort, tmp_path, SMALL)
    assert len(names) == 4 - done
    assert_same(whole[0], resumed, whole[1], tmp_path)
    assert not list(tmp_path.glob(".*"))


SCRIPT = """
import json, sys
from pathlib import Path
import pandas as pd
from lib.tiles import cut_all
from lib.tiles.tiling import Tiling

if __name__ == "__main__":
    paths = json.loads(sys.argv[1])
    df = pd.DataFrame({"sample_id": [f"{n}1" for n in paths], "slide_id": list(paths)})
    cut_all.cut_slides(df, paths, Path(sys.argv[2]), Tiling(**json.loads(sys.argv[3])), n_workers=2)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="lists child processes through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_kill_then_resume_gives_the_same_bytes(cohort, tmp_path, how):
    # Each slide many times, so that something is left to do when the first is finished.
    paths = {f"{name}{i}": path for i in range(12) for name, path in cohort[1].items()}
    samples_df = pd.DataFrame({"sample_id": [f"{n}1" for n in paths], "slide_id": list(paths)})
    whole = cut_all.cut_slides(samples_df, paths, tmp_path / "whole", SMALL)
    script, out = tmp_path / "script.py", tmp_path / "killed"
    script.write_text(SCRIPT)
    argv = [json.dumps({k: str(v) for k, v in paths.items()}), str(out), json.dumps(asdict(SMALL))]
    env = os.environ | {"PYTHONPATH": str(Path(lib.__file__).parents[1])}
    # A test run in the background of a shell ignores Ctrl-C, and its children would inherit that.
    heeding = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    run = subprocess.Popen(
        [sys.executable, script, *argv], env=env, stderr=subprocess.PIPE, preexec_fn=heeding
    )
    finished = lambda: list(out.glob("[!.]*.parquet"))  # noqa: E731  (hidden: still being written)
    while run.poll() is None and not finished():
        time.sleep(0.005)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.send_signal(how)
    run.communicate(timeout=60)
    assert run.returncode != 0
    assert 0 < len(finished()) < len(paths)
    deadline = time.time() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children), "workers outlive the run"
    resumed = cut_all.cut_slides(samples_df, paths, out, SMALL)
    assert_same(whole, resumed, tmp_path / "whole", out)


def test_worker_processes_give_up_as_well(cohort, tmp_path):
    with pytest.raises(RuntimeError, match=r"took longer than slide_limit_s = 0.0001 s"):
        cut_all.cut_slides(*cohort, tmp_path, SMALL, 2, 1e-4)


def test_a_slide_that_takes_too_long_is_recorded_and_the_others_are_cut(cohort, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(cut, "cut_slide", slow_b)
    tiles_df, slides_df = cut_all.cut_slides(*cohort, tmp_path, SMALL, 1, 1.5)
    failed_df = slides_df[slides_df["state"] == "failed"]
    assert failed_df["slide_id"].tolist() == ["b"]
    assert "took longer than slide_limit_s = 1.5 s" in failed_df["reason"].iloc[0]
    (expected_df, _), _ = whole
    pd.testing.assert_frame_equal(
        tiles_df, expected_df[expected_df["slide_id"] != "b"].reset_index(drop=True)
    )
    monkeypatch.undo()
    assert_same(cut_all.cut_slides(*cohort, tmp_path, SMALL, 1, 600), whole[0], tmp_path, whole[1])


def test_in_a_thread_as_well_and_nothing_is_raised_later(cohort, whole, tmp_path, monkeypatch):
    """As on the workers of dask, whose tasks are not in the main thread."""
    monkeypatch.setattr(cut, "cut_slide", slow_b)

    def work():
        _, slides_df = cut_all.cut_slides(*cohort, tmp_path, SMALL, 1, 1.5)
        monkeypatch.undo()
        again = cut_all.cut_slides(*cohort, tmp_path, SMALL, 1, 600)
        with cut_all._at_most(0.2):
            pass
        for _ in range(40):
            time.sleep(0.01)
        return slides_df, again

    with ThreadPoolExecutor(1) as threads:
        slides_df, again = threads.submit(work).result()
    failed_df = slides_df[slides_df["state"] == "failed"]
    assert failed_df["slide_id"].tolist() == ["b"]
    assert "took longer than slide_limit_s = 1.5 s" in failed_df["reason"].iloc[0]
    assert_same(again, whole[0], tmp_path, whole[1])


def test_a_limit_reached_at_the_last_moment_is_not_raised_later():
    """Blocks that end about when their time is up: they end, or are given up, and nothing comes after."""
    given_up = 0

    def work():
        nonlocal given_up
        for k in range(110):
            try:
                with cut_all._at_most(0.02):
                    deadline = time.perf_counter() + 0.02 + (k % 11 - 5) * 2e-3
                    while time.perf_counter() < deadline:
                        pass
            except cut_all._TookTooLong:
                given_up += 1
            start = time.perf_counter()
            sum(range(20_000))
            assert time.perf_counter() - start < 5

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()
    assert 0 < given_up < 110


def slow_b(path, *rest):
    if Path(path).stem == "b":
        try:
            for _ in range(6000):
                time.sleep(0.1)
        except Exception as error:
            raise cut.SlideError(str(error)) from error
    return CUT_SLIDE(path, *rest)


CUT_SLIDE = cut.cut_slide
