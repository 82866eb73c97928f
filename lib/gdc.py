"""Command to download a manifest of the Genomic Data Commons: resumable, and checked by its md5 sums.

    python -m lib.gdc download --manifest gdc_manifest.txt --folder data/raw/mine/gdc

Each file lies in a folder of its own, named by its UUID, as gdc-client leaves it. Files of controlled access
need gdc-client and its token.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib.cohort import table_files
from lib.cohort.samples import id_problem
from lib.errors import InputError, MissingInputError
from lib.sources import download
from lib.sources.http_session import Settings

DATA_URL = "https://api.gdc.cancer.gov/data/"


def read_manifest(path: Path) -> pd.DataFrame:
    """Columns id (UUID), filename, md5, size, as text; InputError where a name could leave the folder."""
    if not path.is_file():
        raise MissingInputError(f"no manifest at {path}: download one from the cart of the GDC portal")
    table_df = table_files.read_text(path)
    if lacking := [name for name in ("id", "filename", "md5", "size") if name not in table_df]:
        raise InputError(f"{path} lacks columns {lacking}: it is no manifest of the GDC")
    for column in ("id", "filename"):
        for text in table_df[column]:
            if problem := id_problem(text):
                raise InputError(f"{path}: {column} {text!r} {problem}")
    return table_df


def files_of(manifest_df: pd.DataFrame, folder: Path, base_url: str = DATA_URL) -> list[download.File]:
    """What to download: `<folder>/<UUID>/<file name>`."""
    base = base_url.rstrip("/") + "/"
    names = zip(manifest_df["id"], manifest_df["filename"], strict=True)
    return [download.File(folder / uuid / name, (base + uuid,)) for uuid, name in names]


def checker(manifest_df: pd.DataFrame, folder: Path) -> download.Check:
    """Raises ValueError unless a complete file has the size and the md5 sum of the manifest."""
    wanted = {
        folder / uuid: (int(size), md5)
        for uuid, size, md5 in manifest_df[["id", "size", "md5"]].itertuples(index=False)
    }

    def check(path: Path) -> None:
        size, md5 = wanted[path.parent]  # by its folder: a partial file has another name
        if path.stat().st_size != size:
            raise ValueError(f"has {path.stat().st_size:,} bytes, the manifest says {size:,}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise ValueError(f"has md5 {found}, the manifest says {md5}")

    return check


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, 1 when files failed, 2 for errors."""
    options = _parser().parse_args(arguments)

    def fetch() -> int:
        manifest_df = read_manifest(options.manifest)
        files = files_of(manifest_df, options.folder, options.base_url)
        settings = Settings(n_parallel=options.parallel)
        report_df = download.fetch_all(files, checker(manifest_df, options.folder), settings)
        return download.summarise(report_df, options.folder)

    return download.command(fetch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.gdc", description="Download from the GDC.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("download", help="the files of a manifest")
    command.add_argument("--manifest", type=Path, required=True, help="as downloaded from the portal's cart")
    command.add_argument("--folder", type=Path, required=True, help="such as data/raw/mine/gdc")
    command.add_argument("--base-url", default=DATA_URL, help="default: %(default)s")
    command.add_argument("--parallel", type=int, default=4, help="connections at a time, up to 16")
    return parser


if __name__ == "__main__":
    sys.exit(main())
