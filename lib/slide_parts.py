"""Parts of a cohort's slides, as `lib.shard` divides them: which slides they are, and what is not done."""

import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lib import cohort_lock
from lib.errors import InputError

SHOWN = 3  # slides named of a part


class Shard(NamedTuple):
    """The `number`-th of `of` equal parts of the slides, from 1."""

    number: int
    of: int

    def slides(self, slide_ids: Iterable[str]) -> list[str]:
        """Its slides: every `of`-th in the order of their ids, whatever the order given."""
        return sorted(set(slide_ids))[self.number - 1 :: self.of]

    def meets(self, other: "Shard") -> bool:
        """Whether the two have slides in common, if there are enough of them."""
        return (self.number - other.number) % math.gcd(self.of, other.of) == 0


def parse(text: str) -> Shard:
    """The shard "3/64"; InputError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard takes a part of the slides such as 3/64, not {text!r}")
    return Shard(int(found[1]), int(found[2]))


def uncut(slide_ids: Iterable[str], stacks_dir: Path) -> list[str]:
    """The slides that are not cut, in the order of their ids."""
    tables = ((slide_id, stacks_dir / f"{slide_id}.parquet") for slide_id in sorted(set(slide_ids)))
    return [slide_id for slide_id, path in tables if not path.is_file()]


def by_shard(undone: Collection[str], slide_ids: Sequence[str], of: int) -> pd.DataFrame:
    """The slides of `undone` and the shard of `of` that does each: columns slide_id, shard."""
    shard_of = {i: number for number in range(1, of + 1) for i in Shard(number, of).slides(slide_ids)}
    return pd.DataFrame([(i, shard_of[i]) for i in undone], columns=["slide_id", "shard"])


def in_words(undone_df: pd.DataFrame, of: int, what: str) -> list[str]:
    """A line for each shard that has something left: "shard 3/64: 2 slides are not cut (S02, S05)"."""
    lines = []
    for number, of_df in undone_df.groupby("shard"):
        names = ", ".join(of_df["slide_id"].head(SHOWN)) + (", ..." if len(of_df) > SHOWN else "")
        slides = "1 slide is" if len(of_df) == 1 else f"{len(of_df)} slides are"
        lines.append(f"shard {number}/{of}: {slides} not {what} ({names})")
    return lines


def announce(work_dir: Path, shards: Iterable[Shard]) -> None:
    """Leave a sign that the work of a folder is divided into these shards, for who finds it unfinished."""
    for shard in shards:
        _sign(work_dir, shard).mkdir(parents=True, exist_ok=True)
        os.utime(_sign(work_dir, shard))


def divided(work_dir: Path) -> int:
    """Into how many shards the work of a folder was last divided; 0 where it was not."""
    signs = [(path.stat().st_mtime_ns, shard.of) for shard, path in _signs(work_dir).items()]
    return max(signs, default=(0, 0))[1]


@contextmanager
def at_work(work_dir: Path, shard: Shard) -> Iterator[list[str]]:
    """While a shard is at work others see it; gives a line for each other that is and shares slides with it.

    That is no error: files appear whole, and equal. But what two do at the same time is done twice.
    """
    announce(work_dir, [shard])
    sharing = {other: path for other, path in _signs(work_dir).items() if shard.meets(other)}
    found = {other: cohort_lock.held_by(path) for other, path in sharing.items()}
    lines = [
        f"shard {other.number}/{other.of} is at work on some of the same slides ({who}): use one number of "
        "shards for all"
        for other, who in found.items()
        if who
    ]
    with ExitStack() as stack:
        if not found[shard]:
            name = f"shard {shard.number}/{shard.of}"
            stack.enter_context(cohort_lock.holding(_sign(work_dir, shard), name))
        yield lines


def _sign(work_dir: Path, shard: Shard) -> Path:
    return work_dir.with_name(f"{work_dir.name}_shards") / f"{shard.number}-{shard.of}"


def _signs(work_dir: Path) -> dict[Shard, Path]:
    """The shards that have been announced, each with its folder."""
    paths = work_dir.with_name(f"{work_dir.name}_shards").glob("*-*")
    return {parse(path.name.replace("-", "/")): path for path in sorted(paths)}
