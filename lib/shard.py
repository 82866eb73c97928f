"""Part of the slides on this machine: for a batch queue whose machines share a disk.

    python -m lib.shard tiles    --cohort gtex --shard 3/64
    python -m lib.shard features --cohort gtex --shard 3/64
    python -m lib.shard status   --cohort gtex --of 64

Tiling (notebook 01) and quantification (04) are work per slide that is not repeated. Each shard does its
slides; the notebook then finds them done, and does what no shard did. Shards may overlap, be repeated, or
run beside the notebook: files appear whole or not at all, and equal.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from lib import work_records
from lib.config import Config
from lib.config_values import parse_setting
from lib.errors import HistocorrError, InputError
from lib.store import Store


class Shard(NamedTuple):
    """The `number`-th of `of` equal parts of the slides, from 1."""

    number: int
    of: int

    def slides(self, slide_ids: Sequence[str]) -> list[str]:
        """Its slides: every `of`-th in the order of their ids, whatever the order given."""
        return sorted(set(slide_ids))[self.number - 1 :: self.of]


def parse(text: str) -> Shard:
    """The shard "3/64"; InputError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard takes a part of the slides such as 3/64, not {text!r}")
    return Shard(int(found[1]), int(found[2]))


def cut(store: Store, shard: Shard) -> int:
    """Cut the shard's slides; how many of them failed."""
    from lib.tiles import cut_all  # late: it imports OpenSlide

    samples_df = store.load("samples")
    samples_df = samples_df[samples_df["slide_id"].isin(shard.slides(samples_df["slide_id"].tolist()))]
    if samples_df.empty:
        print("no slide is in this shard")
        return 0
    config = store.config
    paths = store.slide_paths(samples_df)
    how = config.tiling, config.n_workers, config.slide_limit_s
    rows = cut_all.cut_each(samples_df, paths, store.path("stacks"), *how)
    for row in rows:
        if row["state"] == "failed":
            print(f"failed: {row['slide_id']}: {row['reason']}", file=sys.stderr)
    n_failed = sum(row["state"] == "failed" for row in rows)
    print(f"{len(rows) - n_failed} of {len(rows)} slides are cut, {sum(r['n_tiles'] for r in rows):,} tiles")
    return n_failed


def quantify(store: Store, shard: Shard) -> int:
    """Features of the shard's slides, of the sets that notebook 04 measures; 0."""
    from lib.features import sample_sums  # late: torch takes seconds
    from lib.network import models
    from lib.tiles.stored import labelled_tiles

    config = store.config
    samples_df, tiles_df = store.load("samples"), store.load("tiles")
    model, class_names = models.load(store.load("network"), config.architecture)
    labelled_df = labelled_tiles(tiles_df, samples_df, store.stack_files(tiles_df), class_names)
    wanted_df = labelled_df[labelled_df["split"].isin(list(config.measured_sets))]
    wanted_df = wanted_df[wanted_df["slide_id"].isin(shard.slides(wanted_df["slide_id"].tolist()))]
    if wanted_df.empty:
        print("no tile is in this shard")
        return 0
    sample_sums.quantify_samples(model, wanted_df, store.path("sums"), config.quantification)
    print(f"{wanted_df['slide_id'].nunique()} slides are measured, {len(wanted_df):,} tiles")
    return 0


def unfinished(store: Store, of: int) -> pd.DataFrame:
    """Slides that have no finished stack yet: slide_id, and the shard of `of` that would cut it."""
    slide_ids = store.load("samples")["slide_id"].tolist()
    shard_of = {i: number for number in range(1, of + 1) for i in Shard(number, of).slides(slide_ids)}
    rows = [
        (slide_id, shard_of[slide_id])
        for slide_id in sorted(set(slide_ids))
        if not work_records.record_path(store.path("stacks") / f"{slide_id}.parquet").is_file()
    ]
    return pd.DataFrame(rows, columns=["slide_id", "shard"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, 1 where slides failed or are missing, 2 for errors."""
    options = _parser().parse_args(arguments)
    settings = dict(parse_setting(text) for text in options.set)
    try:
        store = Store(Config.load(options.cohort, options.architecture, settings))
        if options.command == "status":
            missing_df = unfinished(store, options.of)
            for number, of_df in missing_df.groupby("shard"):
                first = ", ".join(of_df["slide_id"].head(3))
                print(f"shard {number}/{options.of}: {len(of_df)} slides are not cut ({first}, ...)")
            print(f"{len(missing_df)} slides are not cut")
            return int(len(missing_df) > 0)
        work = cut if options.command == "tiles" else quantify
        return int(work(store, parse(options.shard)) > 0)
    except HistocorrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.shard", description="Work on part of the slides.")
    commands = parser.add_subparsers(dest="command", required=True)
    words = {"tiles": "cut them (notebook 01)", "features": "measure them (04)", "status": "what is not cut"}
    for name, text in words.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--cohort", required=True, help="a cohort's name or TOML file")
        command.add_argument("--architecture", default="", help="default: the cohort's own")
        command.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
        if name == "status":
            command.add_argument("--of", type=int, default=1, help="number of shards")
        else:
            command.add_argument("--shard", required=True, metavar="I/N", help="such as 3/64")
    return parser


if __name__ == "__main__":
    sys.exit(main())
