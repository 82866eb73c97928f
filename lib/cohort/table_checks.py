"""Checks of expression tables in any format: duplicated ids, wanted samples, invalid values."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from lib.cohort.samples import first
from lib.errors import InputError

SYMBOL_COLUMNS = ("description", "symbol", "gene_name", "gene_symbol")
BIOTYPE_COLUMNS = ("biotype", "gene_biotype", "gene_type")
GENE_ID_COLUMNS = ("gene", "gene_id", "geneid", "name", "ensembl_id", "ensembl")
_MONTH = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec"
# What spreadsheets make of MARCH1: 1-Mar, Mar-01, 2023-03-01 00:00:00.
DATE = re.compile(rf"\d{{1,2}}-({_MONTH})|({_MONTH})-\d{{1,2}}|\d{{4}}-\d\d-\d\d( 00:00:00)?", re.IGNORECASE)
LARGEST = float(np.finfo(np.float32).max)
VALID, MISSING, NON_NUMERIC, NEGATIVE, TOO_LARGE = range(5)  # what a value is
KINDS = ("valid", "missing", "non-numeric", "negative", "too large")


def column_role(name: str) -> str | None:
    """What a column says about the gene: "symbol" or "biotype"; None for any other column."""
    lower = name.lower()
    return "symbol" if lower in SYMBOL_COLUMNS else "biotype" if lower in BIOTYPE_COLUMNS else None


def refuse_duplicates(ids: Iterable[str], what: str, source: str) -> None:
    """Raise ValueError where ids repeat, naming the first and how many there are."""
    seen: set[str] = set()
    repeated = dict.fromkeys(i for i in ids if i in seen or seen.add(i))
    if repeated:
        raise InputError(f"{source}: duplicated {what} {first(repeated)}; keep one of each")


def check_gene_ids(genes: Sequence[str], source: str) -> None:
    """InputError for gene ids that are empty, repeated, row numbers, or dates that a spreadsheet made."""
    empty = sum(not gene for gene in genes)
    if empty:
        raise InputError(f"{source}: {empty} rows have no gene id; name those genes or leave them out")
    if len(genes) > 1 and all(gene.isdecimal() and len(gene) < 7 for gene in genes) and _counts(genes):
        raise InputError(
            f"{source}: the gene ids are row numbers ({first(genes)}); call the column of gene ids 'gene', "
            "or write the table without row numbers"
        )
    dates = [gene for gene in genes if DATE.fullmatch(gene)]
    if dates:
        raise InputError(
            f"{source}: {len(dates)} gene ids are dates, which a spreadsheet made of symbols such as MARCH1: "
            f"{first(dates)}; export the table again with ids, or correct them"
        )
    refuse_duplicates(genes, "gene id", source)


def _counts(genes: Sequence[str]) -> bool:
    """Whether ids count the rows, from 0 or 1."""
    start = int(genes[0])
    return start in (0, 1) and [int(gene) for gene in genes] == list(range(start, start + len(genes)))


def wanted_samples(samples: Sequence[str], wanted: Sequence[str] | None, source: str) -> list[str]:
    """RNA ids to read, in the order asked for (None: all); ValueError for missing, repeated or no ids."""
    if wanted is None:
        return list(samples)
    wanted = [str(w) for w in wanted]
    refuse_duplicates(wanted, "wanted RNA id", source)
    known = set(samples)
    missing = [w for w in wanted if w not in known]
    if missing or not wanted:
        raise InputError(
            f"{source}: {len(missing)} of {len(wanted)} wanted RNA ids are missing: {first(missing)}; "
            f"the table has {first(samples)}"
        )
    return wanted


def all_valid(values: np.ndarray) -> bool:
    """Whether all values are numbers from 0 to the largest float32; false for NaN."""
    return not values.size or bool(values.min() >= 0 and values.max() <= LARGEST)


def kinds_of(values: np.ndarray) -> np.ndarray:
    """Index into KINDS of each number, int8."""
    kinds = np.zeros(values.shape, np.int8)
    kinds[np.isnan(values)], kinds[values < 0], kinds[values > LARGEST] = MISSING, NEGATIVE, TOO_LARGE
    return kinds


def refuse_invalid(
    kinds: np.ndarray, cells: np.ndarray, genes: Sequence[str], samples: Sequence[str], source: str
) -> None:
    """Raise ValueError unless all genes x samples `kinds` are VALID, naming the first and how many of each.

    Parameters
    ----------
    cells : the values as written, text or numbers, genes x samples.
    """
    found = []
    for kind in np.unique(kinds[kinds != VALID]):
        where = np.argwhere(kinds == kind)
        row, column = where[0]
        at = f"{str(cells[row, column])!r} at gene {genes[row]}, sample {samples[column]}"
        found.append(f"{len(where)} {KINDS[kind]} value(s), first {at}")
    if found:
        remedy = "correct the table or leave those genes or samples out"
        raise InputError(f"{source}, genes {genes[0]} to {genes[-1]}: {'; '.join(found)}; {remedy}")
