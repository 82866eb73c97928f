"""Runs that are killed, doubled, starved of disk, or find their files, inputs or code changed.

After each: no artefact that loads is wrong, a rerun completes, and its result is that of the undisturbed run.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from campaign import runs
from campaign.conftest import LONG, tally, tries
from conftest import run_command

from lib.config import ROOT
from lib.errors import HistocorrError
from lib.tiles.stored import StoredTiles, with_files

pytestmark = pytest.mark.slow


long_only = pytest.mark.skipif(not LONG, reason="in the long form only: make campaign")


def completes(root, undisturbed, *arguments, to="04"):
    done = run_command(root, "--cohort", root / "mine.toml", "--to", to, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs.wrong(root, undisturbed) == []
    assert all(runs.store_of(root).is_current(name) for name in runs.TABLES[: None if to == "04" else 5])
    assert runs.same_stacks(root, undisturbed)
    return done.stdout


def kill(process, tree):
    """SIGKILL to the driver, and to its kernels as well or not."""
    kernels = psutil.Process(process.pid).children(recursive=True) if tree else []
    process.kill()
    for kernel in kernels:
        if kernel.is_running():
            kernel.kill()
    process.communicate()


def test_killed_at_random_moments(raw_only, undisturbed):
    rng = np.random.default_rng(int(os.environ.get("CAMPAIGN_SEED", "0")))
    for k in range(tries(1, 36)):
        process = runs.start(raw_only, "--to", "04", "--wait")
        try:
            process.wait(timeout=rng.uniform(3, 14))
        except subprocess.TimeoutExpired:
            kill(process, tree=bool(k % 2))
        wrong = runs.wrong(raw_only, undisturbed)
        tally("killed", "wrong" if wrong else "survived")
        assert wrong == []
        if k and process.returncode == 0:  # it got to its end: begin again
            shutil.rmtree(raw_only / "data/derived")
    completes(raw_only, undisturbed, "--wait")
    leftovers = [
        p for p in (raw_only / "data/derived").rglob(".*.tmp*") if p.stat().st_mtime > time.time() - 5
    ]
    assert leftovers == []


@long_only
def test_interrupted_says_how_to_continue(raw_only, undisturbed):
    process = runs.start(raw_only, "--to", "04")
    assert process.stdout is not None
    begun = process.stdout.readline()
    while not begun.startswith("[1/"):
        begun = process.stdout.readline()
    time.sleep(float(np.random.default_rng(0).uniform(0, 10)))
    process.send_signal(signal.SIGINT)
    printed = process.communicate()[0]
    assert process.returncode == 130, printed
    assert "interrupted; run the same command again to continue" in printed
    assert "Traceback" not in printed
    assert runs.wrong(raw_only, undisturbed) == []


@pytest.mark.parametrize("offset", [2.0, *np.linspace(0, 6, tries(0, 10))])
def test_two_runs_at_once(raw_only, undisturbed, offset):
    one = runs.start(raw_only, "--to", "01")
    time.sleep(offset)
    other = runs.start(raw_only, "--to", "01")
    printed = [process.communicate()[0] for process in (one, other)]
    assert sorted(process.returncode for process in (one, other)) == [0, 3], printed
    refused = printed[0] if one.returncode == 3 else printed[1]
    assert "is in use by run_all.py (process" in refused
    same = runs.same_stacks(raw_only, undisturbed)
    tally("two runs at once", "survived" if same else "lost")
    assert same
    assert runs.store_of(raw_only).load("slides")["state"].tolist() == ["ok"] * 12


@long_only
def test_a_second_run_can_wait(raw_only):
    one = runs.start(raw_only, "--to", "00")
    time.sleep(1)
    other = runs.start(raw_only, "--to", "00", "--wait")
    printed = [process.communicate()[0] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), printed
    assert "up to date" in printed[1]


def flipped(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk that fails in silence


def read_everything(root):
    """Load every artefact and read every tile; what is wrong with either raises or is reported."""
    store, problems = runs.store_of(root), []
    for name in (*runs.TABLES, "network"):
        try:
            store.load(name)
        except HistocorrError as error:
            problems.append(str(error))
    try:
        tiles_df = store.load("tiles")
        tiles = StoredTiles(with_files(tiles_df, store.tile_files(tiles_df)))
        tiles.read(np.arange(len(tiles)))
    except HistocorrError as error:
        problems.append(str(error))
    return problems


def test_every_flipped_bit_is_noticed_or_harmless(disturbed, undisturbed, monkeypatch):
    """In each kind of file that a run leaves below data/derived; the file's date does not tell."""
    from lib import whole_files

    rng = np.random.default_rng(int(os.environ.get("CAMPAIGN_SEED", "0")))
    derived = disturbed / "data/derived/mine"
    files = [p for p in sorted(derived.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    of_kind: dict[tuple, list] = {}
    for path in files:
        alike = path.parent.name in ("stacks", "sums")
        of_kind.setdefault((path.parent.name, path.suffix if alike else path.name), []).append(path)
    chosen = [
        path for alike in of_kind.values() for path in alike[: tries(1, 3)] for _ in range(tries(1, 20))
    ]
    noticed = 0
    for path in chosen:
        original, status = path.read_bytes(), path.stat()
        flipped(path, rng)
        monkeypatch.setattr(whole_files, "_hashes", {})  # as a fresh process has it
        problems = read_everything(disturbed)
        wrong = runs.wrong(disturbed, undisturbed)
        tally("flipped bit", "wrong" if wrong else "noticed" if problems else "without effect")
        assert wrong == [], path
        assert (
            problems
            or path.suffix == ".json"
            or "training" in path.parts
            or "stacks" in path.parts
            or ("sums" in path.parts)
        ), f"{path} is damaged and nobody noticed"
        noticed += bool(problems)
        shutil.rmtree(derived)  # undo what the discovery removed
        shutil.copytree(undisturbed / "data/derived/mine", derived)
        assert path.read_bytes() == original
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert noticed >= len(runs.TABLES)


@pytest.mark.parametrize("seed", range(tries(2, 12)))
def test_damage_everywhere_at_once_is_mended_by_reruns(disturbed, undisturbed, seed):
    """Each reading names what is damaged below what is whole, and the next run mends that; a table below a
    damaged one may look up to date again once that is mended, until somebody reads it.
    """
    rng = np.random.default_rng(seed)
    derived = disturbed / "data/derived/mine"
    files = [p for p in sorted(derived.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    for i in rng.choice(len(files), len(files) // 3, replace=False):
        flipped(files[i], rng)
    assert read_everything(disturbed)
    for _ in range(8):
        done = run_command(disturbed, "--cohort", disturbed / "mine.toml", "--to", "04")
        assert "Traceback" not in done.stderr.split("failed in")[0]
        assert runs.wrong(disturbed, undisturbed) == []
        if done.returncode == 0 and not read_everything(disturbed):
            break
    completes(disturbed, undisturbed)


def test_deleted_stacks_are_cut_again_and_nothing_else(disturbed, undisturbed):
    stack = next(runs.store_of(disturbed).path("stacks").glob("S03.npy"))
    others = {p: p.stat().st_mtime_ns for p in stack.parent.glob("S0[124].npy")}
    stack.unlink()
    listed = run_command(disturbed, "--cohort", disturbed / "mine.toml", "--list")
    assert "'tiles' has files in" in listed.stdout
    printed = completes(disturbed, undisturbed)
    assert "01_tiles                   ran" in printed or "01_tiles             ran" in printed
    assert "02_train alexnet     up to date" in printed
    assert {p: p.stat().st_mtime_ns for p in others} == others


@contextmanager
def small_disk(folder, size):
    """A file system of its own below a folder; skipped where only root may mount."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_nothing_half_is_left(raw_only, undisturbed):
    derived = raw_only / "data/derived"
    with small_disk(derived, "500k"):
        done = run_command(raw_only, "--cohort", raw_only / "mine.toml", "--to", "01")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "the disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        assert runs.wrong(raw_only, undisturbed) == []
        assert not list(derived.rglob(".*.tmp*"))
        subprocess.run(["mount", "-o", "remount,size=2g", str(derived)], check=True)
        completes(raw_only, undisturbed, to="01")
        subprocess.run(["mount", "-o", "remount,ro", str(derived)], check=True)
        command = ("--cohort", raw_only / "mine.toml", "--to", "01")
        done = run_command(raw_only, *command, "--list")
        assert done.returncode == 0, done.stderr
        done = run_command(raw_only, *command, "--force")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "the disk is read-only" in done.stderr
        assert "Traceback" not in done.stderr


def test_damaged_and_odd_slides_are_listed_with_their_reasons(raw_only, undisturbed):
    folder, rng = raw_only / "data/raw/mine/slides", np.random.default_rng(2)
    good = (folder / "S00.svs").read_bytes()
    (folder / "S01.svs").write_bytes(good[: len(good) // 3])
    (folder / "S02.svs").write_bytes(rng.bytes(4000))
    (folder / "S03.svs").write_bytes(b"")
    for name in ("S04", "S05", "S06"):
        (folder / f"{name}.svs").unlink()
    (folder / "S04.svs").symlink_to(folder / "nowhere.svs")
    (folder / "S05.svs").symlink_to(folder / "S05.svs")
    os.mkfifo(folder / "S06.svs")
    (folder / "stranger.svs").write_bytes(good)
    (folder / "notes.txt").write_text("x")
    command = ("--cohort", raw_only / "mine.toml", "--to", "01")
    assert run_command(raw_only, *command, "--list").returncode == 0
    done = run_command(raw_only, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.split("6 of 12 slides could not be cut and are not used:")[1]
    for name, words in {
        "S01": "",
        "S02": "format",
        "S03": "empty file",
        "S04": "",
        "S05": "",
        "S06": "",
    }.items():
        line = next(line for line in table.splitlines() if line.startswith(f"  {name}: "))
        assert words in line
        assert len(line) > len(f"  {name}: ") + 10, "the reason is there"
    listed = (raw_only / "figures/mine/slides_failed.csv").read_text()
    assert listed.count("failed") == 6


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """A copy of the program, whose code may be changed."""
    folder = tmp_path_factory.mktemp("program")
    for name in ("lib", "notebooks", "data/cohorts", "data/reference"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "run_all.py", folder)
    return folder


def test_changed_code_is_noticed_and_can_be_accepted(disturbed, program):
    def run(*arguments):
        environment = os.environ | {"HISTOCORR_ROOT": str(disturbed), "PYTHONPATH": str(program)}
        command = [os.sys.executable, "run_all.py", "--cohort", str(disturbed / "mine.toml"), *arguments]
        return subprocess.run(
            command, cwd=program, env=environment, capture_output=True, text=True, check=False
        )

    def stale():
        lines = run("--to", "04", "--list").stdout.splitlines()
        return [line.split()[0][:2] for line in lines if "up to date" not in line]

    assert stale() == [], run("--to", "04", "--list").stdout
    path = program / "lib/network/voting.py"
    text = path.read_text()
    path.write_text(text.replace('"""', '"""Another docstring. ', 1) + "\n\n# a comment\n")
    assert stale() == [], "comments and docstrings do not count"
    path.write_text(text + "\n\ndef added() -> int:\n    return 1\n")
    assert stale() == ["03"], "notebook 03 alone reaches the votes"
    assert "was made by other code than 03_classify has now" in run("--to", "04", "--list").stdout
    done = run("--to", "04", "--accept-code")
    assert done.returncode == 0, done.stderr
    assert "records now say that the code of today made them" in done.stdout
    assert " ran " not in done.stdout
    assert stale() == []
