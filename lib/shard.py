"""Part of the slides on this machine: for a batch queue whose machines share a disk.

    python -m lib.shard tiles    --cohort gtex --shard 3/64
    python -m lib.shard features --cohort gtex --shard 3/64
    python -m lib.shard submit   --cohort gtex --step tiles --of 64
    python -m lib.shard status   --cohort gtex --step tiles --of 64

Tiling (notebook 01) and quantification (04) are work per slide that is not repeated. Each shard does its
slides; the notebook then finds them done, and does what no shard did. `submit` makes jobs of the shards that
have something left. Shards may overlap, be repeated, or run beside the notebook: files appear whole or not
at all, and equal.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from lib import checked_values, shard_jobs, slide_parts
from lib.cohort import sample_slides
from lib.config import Config
from lib.config_values import parse_setting
from lib.errors import HistocorrError
from lib.slide_parts import Shard, parse
from lib.slurm import Jobs
from lib.store import Store

FOLDERS = {"tiles": "stacks", "features": "sums"}  # of each step's work
DONE = {"tiles": "cut", "features": "measured"}


def cut(store: Store, shard: Shard) -> int:
    """Cut the shard's slides; how many of them failed."""
    from lib import slide_work  # late: it imports torch and OpenSlide

    slide_ids = shard.slides(sample_slides.slide_ids(store.load("samples")))
    if not slide_ids:
        print("no slide is in this shard")
        return 0
    rows = slide_work.cut(store, slide_ids)
    for row in rows:
        if row["state"] == "failed":
            print(f"failed: {row['slide_id']}: {row['reason']}", file=sys.stderr)
    n_failed = sum(row["state"] == "failed" for row in rows)
    print(f"{len(rows) - n_failed} of {len(rows)} slides are cut, {sum(r['n_tiles'] for r in rows):,} tiles")
    return n_failed


def quantify(store: Store, shard: Shard) -> int:
    """Features of the shard's slides, of the sets that notebook 04 measures; 0."""
    from lib import slide_work

    work = slide_work.to_measure(store)
    mine = work.of(shard.slides(work.slide_ids))
    if not mine.slide_ids:
        print("no tile is in this shard")
        return 0
    slide_work.measure(store, mine)
    n_tiles = sum(map(len, mine.tiles_df.values()))
    print(f"{len(mine.slide_ids)} slides are measured, {n_tiles:,} tiles")
    return 0


def unfinished(store: Store, step: str, of: int) -> pd.DataFrame:
    """Slides that are not cut, or not measured: slide_id, and the shard of `of` that would do it."""
    if step == "tiles":
        slide_ids = sample_slides.slide_ids(store.load("samples"))
        undone = slide_parts.uncut(slide_ids, store.path("stacks"))
    else:
        from lib import slide_work

        work = slide_work.to_measure(store)
        slide_ids = work.slide_ids
        undone = sorted({i for ids in work.unfinished(store).values() for i in ids})
    return slide_parts.by_shard(undone, slide_ids, of)


def status(store: Store, step: str, of: int) -> int:
    """Print what is not done, by shard; 1 where there is something."""
    undone_df = unfinished(store, step, of)
    print(*slide_parts.in_words(undone_df, of, DONE[step]), sep="\n", end="\n" if len(undone_df) else "")
    print(f"{len(undone_df)} slides are not {DONE[step]}")
    return int(len(undone_df) > 0)


def submit(store: Store, options: argparse.Namespace) -> int:
    """Submit the shards that have something left; 1 where, after waiting for them, something still is."""
    step, of, where = options.step, options.of, shard_jobs.queue()
    numbers = sorted(unfinished(store, step, of)["shard"].unique())
    if not numbers:
        print(f"all slides are {DONE[step]}")
        return 0
    given = {field: value for field, value in vars(options).items() if field in Jobs.model_fields}
    given = {field: value for field, value in given.items() if value is not None}
    usual = store.config.slurm if step == "features" else store.config.slurm.without_gpus
    jobs = checked_values.checked(Jobs, usual.model_dump() | given, "the command line")
    slide_parts.announce(store.path(FOLDERS[step]), [Shard(number, of) for number in numbers])
    name = f"{store.config.cohort}-{step}"
    executor = shard_jobs.executor(jobs, name, store.derived / "jobs", where)
    commands = [_command(options, jobs, f"{number}/{of}") for number in numbers]
    if where == "slurm":
        submitted = shard_jobs.submit(executor, commands)
        print(f"{len(numbers)} shards are submitted: jobs {', '.join(job.job_id for job in submitted)}")
        if not options.wait:
            print(
                f"what is left: python -m lib.shard status --cohort {options.cohort} --step {step} --of {of}"
            )
            return 0
        endings = (shard_jobs.ending(job, where) for job in submitted)
    else:
        n = max(1, min(jobs.jobs, (os.cpu_count() or 1) // jobs.cpus))
        print(f"no Slurm here (sbatch): {len(numbers)} shards on this machine, {n} at a time")
        endings = shard_jobs.at_once(executor, commands, n)
    bar = tqdm(endings, total=len(numbers), unit="shard", desc=step)
    wrong = {number: ending for number, ending in zip(numbers, bar, strict=True) if ending}
    for number, ending in wrong.items():
        print(f"shard {number}/{of}: {ending}", file=sys.stderr)
    return max(int(bool(wrong)), status(store, step, of))


def _command(options: argparse.Namespace, jobs: Jobs, shard: str) -> list[str]:
    """The command line of one shard, for any folder."""
    cohort = str(Path(options.cohort).resolve()) if options.cohort.endswith(".toml") else options.cohort
    command = [sys.executable, "-m", "lib.shard", options.step, "--cohort", cohort, "--shard", shard]
    command += ["--architecture", options.architecture] if options.architecture else []
    return [*command, "--set", f"n_workers={jobs.cpus}", *options.set]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, 1 where slides failed or are missing, 2 for errors."""
    options = _parser().parse_args(arguments)
    settings = dict(parse_setting(text) for text in options.set)
    try:
        store = Store(Config.load(options.cohort, options.architecture, settings))
        if options.command == "status":
            of = options.of or slide_parts.divided(store.path(FOLDERS[options.step])) or 1
            return status(store, options.step, of)
        if options.command == "submit":
            return submit(store, options)
        shard, work = parse(options.shard), {"tiles": cut, "features": quantify}[options.command]
        with slide_parts.at_work(store.path(FOLDERS[options.command]), shard) as notes:
            print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
            return int(work(store, shard) > 0)
    except HistocorrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.shard", description="Work on part of the slides.")
    commands = parser.add_subparsers(dest="command", required=True)
    words = {"tiles": "cut them (notebook 01)", "features": "measure them (04)"}
    words |= {"submit": "make jobs of the shards that have something left", "status": "what is not done"}
    for name, text in words.items():
        add = commands.add_parser(name, help=text).add_argument
        add("--cohort", required=True, help="a cohort's name or TOML file")
        add("--architecture", default="", help="default: the cohort's own")
        add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
        if name in FOLDERS:
            add("--shard", required=True, metavar="I/N", help="such as 3/64")
            continue
        add("--step", choices=list(FOLDERS), default="tiles", help="of which work (default: tiles)")
        number = "number of shards" if name == "submit" else "number of shards (default: as they were last)"
        add("--of", type=_positive, required=name == "submit", metavar="N", help=number)
        if name == "submit":
            add("--wait", action="store_true", help="until they have ended (without Slurm always)")
            for field, kind in (("partition", str), ("account", str), ("cpus", int), ("gpus", int)):
                add(f"--{field}", type=kind, help="of a job; default: the cohort's slurm table")
            add("--memory-gb", type=float, help="of a job")
            add("--minutes", type=int, help="longest time of a job")
            add("--jobs", type=int, help="at a time")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number of shards such as 64, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
