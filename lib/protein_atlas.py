"""Command to fetch stained images of a cohort's cards from the Human Protein Atlas: column 4 of Figs 4 to 6.

    python -m lib.protein_atlas fetch --cohort gtex

Of each gene in the tissue of its card one image (`lib.sources.protein_atlas.choose`), kept in the cohort's
`ihc_dir` with its record. What is there is not fetched again; images of the user's own take precedence.
"""

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from lib.config import Config
from lib.config_values import parse_setting
from lib.sources import download, protein_atlas
from lib.sources.http_session import Session
from lib.sources.protein_atlas_fetch import POLITE, Atlas, fetch_images
from lib.store import Store


def fetch(store: Store, pairs_df: pd.DataFrame, atlas: Atlas | None = None) -> str:
    """Fetch the images of pairs (gene, symbol, tile_tissue) that are missing; what there is now, in words.

    What goes wrong on the way is printed and leaves blanks: a run does not need these images.
    """
    atlas = atlas or Atlas(store.raw_path("ihc_dir"))
    wanted_df = wanted(store, pairs_df)
    try:
        records_df = fetch_images(wanted_df, atlas)
    except OSError as error:  # a full disk
        return f"no image was fetched from the Human Protein Atlas: {error}"
    pairs = wanted_df[["gene", "tissue"]].to_numpy()
    found = [protein_atlas.record_of(records_df, gene, tissue) for gene, tissue in pairs]
    for record in found:
        if record.get("missing"):
            print(f"no image of {record['symbol']} in {record['tissue']}: {record['missing']}")
    n_images = sum(bool(record.get("image")) for record in found)
    return f"{n_images} of {len(wanted_df)} images of the Human Protein Atlas are in {atlas.folder}"


def wanted(store: Store, pairs_df: pd.DataFrame) -> pd.DataFrame:
    """The images to fetch for pairs (gene, symbol, tile_tissue): the argument of `fetch_images`.

    Genes with an image of the user's own are left out. A gene named otherwise than by an Ensembl id is looked
    for by its symbol in the cohort's table of genes.
    """
    genes_df = store.load("genes") if store.is_current("genes") else pd.DataFrame({"symbol": []})
    ids = [protein_atlas.ensembl_id(gene) for gene in genes_df.index]
    by_symbol = {symbol: found for symbol, found in zip(genes_df["symbol"], ids, strict=True) if found}
    counterparts_df = store.reference("protein_atlas_tissues")
    rows = {}
    for gene, symbol, tissue in pairs_df[["gene", "symbol", "tile_tissue"]].astype(object).to_numpy():
        if store.ihc_path(symbol, gene):
            continue
        symbol = symbol if isinstance(symbol, str) else gene
        name, reason = protein_atlas.atlas_tissue(tissue, counterparts_df)
        rows[gene, tissue] = {
            "gene": gene,
            "symbol": symbol,
            "tissue": tissue,
            "ensembl": protein_atlas.ensembl_id(gene, symbol, by_symbol.get(symbol), by_symbol.get(gene)),
            "atlas_tissue": name,
            "reason": reason,
        }
    columns = ["gene", "symbol", "tissue", "ensembl", "atlas_tissue", "reason"]
    return pd.DataFrame(list(rows.values()), columns=columns)


def credits_of(store: Store, pairs_df: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Of each gene whose image is the Atlas's: the words below it, and the address of its page."""
    found = {}
    for gene, symbol, tissue in pairs_df[["gene", "symbol", "tile_tissue"]].astype(object).to_numpy():
        record = store.ihc_record(symbol, gene, tissue=tissue)
        if record.get("image"):
            found[gene] = protein_atlas.credit(record), record["page_url"]
    return found


def pairs_of(store: Store) -> pd.DataFrame:
    """The pairs of a cohort that have cards; before notebook 10 the strongest links, one of each gene.

    Raises StaleArtefactError where neither has been made (the notebook to run is named).
    """
    if store.is_current("cards"):
        return store.load("cards")
    links_df = store.load("links").drop_duplicates("gene").head(store.config.n_cards)
    return links_df.assign(tile_tissue=links_df["carried_by"].astype(object))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, 1 where images could not be fetched, 2 for errors."""
    options = _parser().parse_args(arguments)

    def work() -> int:
        settings = dict(parse_setting(text) for text in options.set)
        store = Store(Config.load(options.cohort, options.architecture, settings))
        session = Session(POLITE._replace(interval_s=options.interval))
        atlas = Atlas(store.raw_path("ihc_dir"), session, options.site.rstrip("/"))
        pairs_df = pairs_of(store)
        print(fetch(store, pairs_df, atlas))
        pairs = wanted(store, pairs_df)[["gene", "tissue"]].to_numpy()
        return int(not all(store.ihc_record(gene, tissue=tissue) for gene, tissue in pairs))

    return download.command(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib.protein_atlas", description="Stained images of the Human Protein Atlas."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fetch", help="an image of each card's gene in the tissue of the card")
    command.add_argument("--cohort", required=True, help="a cohort's name or TOML file")
    command.add_argument("--architecture", default="", help="default: the cohort's own")
    command.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    command.add_argument("--site", default=protein_atlas.SITE, help="default: %(default)s")
    command.add_argument("--interval", type=float, default=1.0, help="seconds between two requests")
    return parser


if __name__ == "__main__":
    sys.exit(main())
