"""Command to download GTEx's slides and tables: resumable, and sparing with the servers.

    python -m lib.gtex download --tissue Liver --max-slides 5
    python -m lib.gtex tables --release v7
    python -m lib.gtex go

The slides are those of the list that notebook 00 writes (`data/raw/gtex/slides_wanted.csv`) or, before that,
of the portal's histology table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.cohort.gtex_ids import match_tissue
from lib.config import Config
from lib.errors import InputError, MissingInputError
from lib.paths import Paths
from lib.sources import download, gtex_fetch
from lib.sources.gtex_cohort import WANTED
from lib.sources.gtex_samples import within_cap
from lib.sources.gtex_tables import TISSUE_SAMPLE, read_portal, read_text_table
from lib.sources.http_session import Settings

SLIDE_URL = "https://brd.nci.nih.gov/brd/imagedownload/"
SLIDE_BYTES = 300e6  # where the image service does not tell: a 20x slide of one or two pieces of tissue
PORTAL_NAME = "GTExPortal.csv"


def slide_files(
    sample_ids: Sequence[str], folder: str | Path, base_url: str = SLIDE_URL
) -> list[download.File]:
    """What to download: `<folder>/<sample id>.svs`, requested under its own id and, where the image service
    does not have that, under the id with a final 5. A file with a final 5 that is present counts as the
    sample's, unless that is another sample's id.
    """
    base = base_url if base_url.endswith("/") else base_url + "/"
    files, known = [], set(sample_ids)
    for sample_id in sample_ids:
        if not TISSUE_SAMPLE.fullmatch(sample_id):
            raise InputError(f"{sample_id!r} is not a GTEx tissue sample id such as 'GTEX-117YW-0126'")
        other = sample_id[:-1] + "5" if sample_id.endswith("6") else None
        urls = tuple(base + name for name in (sample_id, other) if name)
        path = Path(folder) / f"{sample_id}.svs"
        if other and other not in known and not path.exists() and path.with_stem(other).exists():
            path = path.with_stem(other)
        files.append(download.File(path, urls))
    return files


def check_slide(path: Path) -> None:
    """Raise ValueError unless OpenSlide opens and reads `path` and all image data lies inside the file."""
    import openslide
    import tifffile

    try:
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
            slide.read_region((max(0, width - 64), max(0, height - 64)), 0, (64, 64))
    except openslide.OpenSlideError as error:
        raise InputError(f"OpenSlide cannot read it ({error})") from error
    n_bytes = path.stat().st_size
    try:
        with tifffile.TiffFile(path) as tiff:
            ends = [
                offset + count
                for page in tiff.pages
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
    except tifffile.TiffFileError:  # a slide format that is not TIFF: OpenSlide's verdict counts
        return
    if max(ends, default=0) > n_bytes:
        raise InputError(f"image data ends at byte {max(ends)} but the file has {n_bytes}: it is truncated")


def how_to_fetch(raw: Path, folder: Path, n_missing: int) -> str:
    """The command that downloads a cohort's missing slides, and how much that is."""
    command = "python -m lib.gtex download"
    if raw != _paths().raw:
        command += f" --list {raw / WANTED}"
    if folder != _paths().raw_path("slides_dir"):
        command += f" --folder {folder}"
    return (
        f"download them (resumable, about {n_missing * SLIDE_BYTES / 1e9:,.0f} GB; --dry-run estimates size"
        f" and time): {command}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit code 1 when a file could not be downloaded, 2 when nothing could be started."""
    options = _parser().parse_args(arguments)
    settings = Settings(n_parallel=options.parallel, interval_s=options.interval)
    fetch = _fetch_tables if options.command in ("tables", "go") else _fetch_slides
    return download.command(lambda: fetch(options, settings))


def _fetch_slides(options: argparse.Namespace, settings: Settings) -> int:
    """The slides of the prepared list, or of the portal's table."""
    files = slide_files(_chosen_slides(options), options.folder, options.base_url)
    if not files:
        print("no slide was chosen: nothing to download")
        return 0
    if options.dry_run:
        print(download.estimate(files, settings, SLIDE_BYTES))
        return 0
    return download.summarise(download.fetch_all(files, check_slide, settings, SLIDE_BYTES), options.folder)


def _fetch_tables(options: argparse.Namespace, settings: Settings) -> int:
    """The portal's table, a release's tables and gene models, and the Gene Ontology; or the latter alone."""
    with_tables = options.command == "tables"
    folder = options.folder
    go = folder.parent / "go" if with_tables else folder
    wanted = [(folder, url) for url in gtex_fetch.RELEASES[options.release]] if with_tables else []
    wanted += [(go, url) for url in gtex_fetch.GO]
    files = [download.File(place / gtex_fetch.file_name(url), (url,)) for place, url in wanted]
    if options.dry_run:
        print(download.estimate(files, settings))
        return 0
    report_df = download.fetch_all(files, gtex_fetch.check_table, settings)
    if with_tables:
        portal_df = read_portal(gtex_fetch.portal(PORTAL_NAME, [folder]))
        print(f"{PORTAL_NAME}: {len(portal_df):,} tissue samples")
    return download.summarise(report_df, f"{folder} and {go}" if with_tables else go)


def _chosen_slides(options: argparse.Namespace) -> list[str]:
    """Sample ids to download: of the prepared list, else of the portal's table; by tissue and cap.

    Raises FileNotFoundError for a named list that is missing; ValueError where nothing says which slides of
    the portal are meant.
    """
    wanted = Path(options.list or _paths().raw / WANTED)
    if options.list and not wanted.is_file():
        raise MissingInputError(f"--list {wanted}: no such file; notebook 00 writes the list of a cohort")
    if wanted.is_file() and not options.portal:
        source, chosen_df = wanted, read_text_table(wanted, "a list with sample_id and tissue")
        if absent := [name for name in ("sample_id", "tissue") if name not in chosen_df]:
            raise InputError(f"{wanted}: columns {absent} are missing; it has {list(chosen_df)}")
    else:
        if not (options.portal or options.tissue or options.max_slides):
            raise InputError(
                f"{wanted} is missing (notebook 00 writes it: python run_all.py --cohort gtex --to 00), and"
                " all slides of the portal are terabytes: choose some by --list, --tissue, --max-slides, or"
                " all of a table by --portal TABLE"
            )
        if not options.portal:
            print(f"{wanted} is missing (notebook 00 writes it): choosing from the portal's table instead")
        source = Path(options.portal or gtex_fetch.portal(PORTAL_NAME, _paths().places.gtex))
        chosen_df = read_portal(source)
    n_listed = len(chosen_df)
    if options.tissue:
        tissues = {match_tissue(tissue, chosen_df["tissue"]) for tissue in options.tissue}
        chosen_df = chosen_df[chosen_df["tissue"].isin(tissues)]
    if options.max_slides is not None:
        chosen_df = chosen_df[within_cap(chosen_df, options.max_slides)]
    print(f"{len(chosen_df):,} of {n_listed:,} slides of {source}")
    return sorted(chosen_df["sample_id"])


def _paths() -> Paths:
    """Folders of the cohort gtex, the defaults of this command."""
    return Paths(Config(cohort="gtex"))


def _parser() -> argparse.ArgumentParser:
    raw = _paths().raw
    parser = argparse.ArgumentParser(
        prog="python -m lib.gtex", description="Download GTEx slides and tables."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    slides = commands.add_parser("download", help="slides of the prepared list, or of the portal's table")
    slides.add_argument("--tissue", action="append", default=[], help="tissue, may be repeated; default: all")
    slides.add_argument("--max-slides", type=_positive, help="at most this many slides per tissue")
    slides.add_argument("--list", help=f"default: {raw / WANTED}".replace("%", "%%"))
    slides.add_argument("--portal", help="choose from this histology table, not from the list")
    slides.add_argument("--base-url", default=SLIDE_URL, help="default: %(default)s")
    slides.add_argument("--folder", type=Path, default=raw / "slides", help="default: %(default)s")
    tables = commands.add_parser(
        "tables", help="portal's table, gene TPM, sample attributes, phenotypes, gene models, Gene Ontology"
    )
    tables.add_argument(
        "--release", choices=sorted(gtex_fetch.RELEASES), default="v7", help="the paper used v7"
    )
    tables.add_argument("--folder", type=Path, default=raw, help="default: %(default)s")
    go = commands.add_parser("go", help="Gene Ontology alone, for Table 6 of any cohort")
    go.add_argument("--folder", type=Path, default=raw.parent / "go", help="default: %(default)s")
    for command in (slides, tables, go):
        command.add_argument("--parallel", type=_positive, default=4, help="connections at a time, up to 16")
        command.add_argument("--interval", type=float, default=0.5, help="seconds between two requests")
        command.add_argument("--dry-run", action="store_true", help="estimate size and time, and stop")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
