"""How time, memory and files grow with the number of slides: cohorts of made-up slides of one tile each.

Each number is of a process of its own, with its children: the command as a user would type it. The slides
of a cohort are one file under many names. Where cutting all of them would take hours, the state that it
leaves is made up as well, for what comes after it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.benchmarks.timing import here
from lib.config import ROOT, Config
from lib.errors import InputError
from lib.simulated.aperio import write_svs
from lib.store import Store

SIZES, QUICK = (100, 1_000, 8_000, 25_713), (100,)  # slides; 25,713: all that GTEx has
N_GENES, N_TISSUES, SLIDES_PER_DONOR = 2_000, 40, 26  # of GTEx, but for the genes
MOST_CUT = 1_000  # slides that are really cut
LIST_NEW, LIST_DONE = "--list, nothing done", "--list, notebooks 00 to 04 done"
COHORT, CUT = "notebook 00", "notebook 01"
LIMITS = {LIST_NEW: (5.0, 8.0), LIST_DONE: (5.0, 8.0), COHORT: (300.0, 8.0)}  # seconds and GB at 25,713
TOML = """
expression_file = "expression.parquet"
architecture = "alexnet"
encoder = "random"
input_px = 64
tile_px = 64
min_tissue = 0.0
drop_tiles = []
store_tiles = false
device = "cpu"
"""
COLUMNS = ["stage", "n_slides", "seconds", "cpu_s", "gb", "files_per_slide"]
# Runs a command and prints its exit status, seconds and peak memory. A process counts what its parent held
# when it was started as its own peak, so this one is small.
WAITING = """
import os, sys, time
started = time.perf_counter()
process = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(process, 0)
print("\\n", status, time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


class Stage(NamedTuple):
    """What is measured of each cohort, in this order."""

    name: str
    arguments: tuple[str, ...]  # of run_all.py
    most: int = SIZES[-1]  # slides, beyond which it is not measured


STAGES = (
    Stage(LIST_NEW, ("--list",)),
    Stage(COHORT, ("--only", "00")),
    Stage(CUT, ("--only", "01"), MOST_CUT),
    Stage(LIST_DONE, ("--list",)),
)


def growth_table(sizes: Sequence[int] = SIZES, n_genes: int = N_GENES) -> pd.DataFrame:
    """Of each stage and size: seconds, cpu_s, gb (peak of the largest process), files_per_slide; where, when.

    `files_per_slide`: below data/derived, when the stage has ended. Stages that would take longer than
    minutes are left out of the larger cohorts.
    """
    rows = []
    for n_slides in sizes:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            store = _made_up_cohort(root, n_slides, n_genes)
            for stage in STAGES:
                if stage.name == LIST_DONE:
                    _make_up_work(store)
                if n_slides > stage.most:
                    continue
                seconds, cpu_s, gb = _measured([str(root / "growth.toml"), *stage.arguments], root)
                n_files = sum(len(files) for _, _, files in os.walk(store.derived))
                rows.append((stage.name, n_slides, seconds, cpu_s, gb, n_files / n_slides))
                print(
                    f"{stage.name}, {n_slides:,} slides: {seconds:.1f} s ({cpu_s:.1f} s of CPU), {gb:.2f} GB",
                    flush=True,
                )
    table_df = pd.DataFrame(rows, columns=COLUMNS)
    return table_df.assign(met=met(table_df), n_genes=n_genes, **here())


def met(table_df: pd.DataFrame) -> pd.Series:
    """Whether the largest cohort keeps to LIMITS: "yes", "no", or "" where none is set.

    Judged by seconds of CPU, which other work on the machine does not change (these stages have one process).
    """
    words, columns = [], (table_df[name] for name in ("stage", "n_slides", "cpu_s", "gb"))
    for stage, n_slides, cpu_s, gb in zip(*columns, strict=True):
        judged = stage in LIMITS and n_slides == SIZES[-1]
        good = judged and float(cpu_s) <= LIMITS[stage][0] and float(gb) <= LIMITS[stage][1]
        words.append(("yes" if good else "no") if judged else "")
    return pd.Series(words, index=table_df.index, name="met")


def _measured(arguments: list[str], root: Path) -> tuple[float, float, float]:
    """Of run_all.py for a cohort: seconds, those of all CPUs, and peak memory of the largest process (GB)."""
    command = [sys.executable, str(ROOT / "run_all.py"), "--cohort", *arguments]
    environment = os.environ | {"HISTOCORR_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    small = [sys.executable, "-S", "-c", WAITING, *command]
    with open(root / "said.txt", "w+b") as said:
        ran = subprocess.run(
            small, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=said, check=True
        )
        status, seconds, cpu_s, peak_kb = ran.stdout.split()[-4:]
        if int(status):
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {said.read()[-2000:].decode()}")
    return float(seconds), float(cpu_s), int(peak_kb) * 1024 / 1e9


def _made_up_cohort(root: Path, n_slides: int, n_genes: int) -> Store:
    """A cohort of files below a root: samples, expression and slides."""
    if n_slides < N_TISSUES:
        raise InputError(f"a cohort of {n_slides} slides is none of {N_TISSUES} tissues")
    rng, ids = np.random.default_rng(0), [f"S{i:05d}" for i in range(n_slides)]
    (root / "growth.toml").write_text(TOML)
    store = Store(Config.load(str(root / "growth.toml")), root=root)
    slides = store.raw_path("slides_dir")
    slides.mkdir(parents=True)
    donors = [f"D{i // SLIDES_PER_DONOR:04d}" for i in range(n_slides)]
    tissues = [f"Tissue {i % N_TISSUES:02d}" for i in range(n_slides)]
    samples_df = pd.DataFrame({"sample_id": ids, "slide_id": ids, "donor": donors, "tissue": tissues})
    samples_df.to_csv(store.raw_path("samples_file"), index=False)
    tpm = rng.gamma(1, 20, (n_genes, n_slides)).astype(np.float32)
    genes = pd.Index([f"G{i:05d}" for i in range(n_genes)], name="gene")
    pd.DataFrame(tpm, genes, ids).to_parquet(store.raw_path("expression_file"))
    colour = np.array([215, 120, 175]) + rng.normal(0, 18, (256, 256, 3))
    first = slides / f"{ids[0]}.svs"
    write_svs(first, colour.clip(0, 255).astype(np.uint8)[:200, :200])
    for name in ids[1:]:
        os.link(first, slides / f"{name}.svs")
    return store


def _make_up_work(store: Store) -> None:
    """The artefacts and work folders that notebooks 01 to 04 leave, with content that nobody reads."""
    samples_df = store.load("samples")
    for name, ending in {"stacks": ".parquet", "sums": ".npz"}.items():
        folder = store.path(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        first = folder / f"{samples_df['slide_id'].iloc[0]}{ending}"
        first.write_bytes(b"made up")
        for slide_id in samples_df["slide_id"].iloc[1:]:
            os.link(first, folder / f"{slide_id}{ending}")
    few_df = pd.DataFrame({"value": [0.0]})
    weights = store.root / "weights.pt"
    weights.write_bytes(b"made up")
    for notebook in ("01_tiles", "02_train", "03_classify", "04_features"):
        for name in store.made_by(notebook) if notebook in store.notebooks else ():
            store.save(name, weights if name == "network" else few_df)
