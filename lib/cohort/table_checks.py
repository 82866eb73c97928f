"""Checks that every expression table passes, in any format: ids, wanted samples, values, promised size."""

from collections.abc import Iterable, Sequence

import numpy as np

from lib.cohort.samples import first

SYMBOL_COLUMNS = ("description", "symbol", "gene_name", "gene_symbol")
BIOTYPE_COLUMNS = ("biotype", "gene_biotype", "gene_type")


def column_role(name: str) -> str | None:
    """What a column says about the gene: "symbol" or "biotype"; None for any other column."""
    lower = name.lower()
    return "symbol" if lower in SYMBOL_COLUMNS else "biotype" if lower in BIOTYPE_COLUMNS else None


def refuse_duplicates(ids: Iterable[str], what: str, source: str) -> None:
    """Raise ValueError where ids repeat, naming the first and how many there are."""
    seen: set[str] = set()
    repeated = dict.fromkeys(i for i in ids if i in seen or seen.add(i))
    if repeated:
        raise ValueError(f"{source}: duplicated {what} {first(repeated)}; keep one of each")


def wanted_samples(samples: Sequence[str], wanted: Sequence[str] | None, source: str) -> list[str]:
    """RNA ids to read, in the order asked for; all of `samples` for None.

    Raises
    ------
    ValueError
        Ids that repeat or are missing from the table; an empty choice.
    """
    if wanted is None:
        return list(samples)
    wanted = [str(w) for w in wanted]
    refuse_duplicates(wanted, "wanted RNA id", source)
    known = set(samples)
    missing = [w for w in wanted if w not in known]
    if missing or not wanted:
        raise ValueError(
            f"{source}: {len(missing)} of {len(wanted)} wanted RNA ids are missing: {first(missing)}; "
            f"the table has {first(samples)}"
        )
    return wanted


class BadValues:
    """Invalid cells of an expression table, counted by kind, with the first cell of each kind."""

    def __init__(self) -> None:
        self.kinds: dict[str, tuple[int, str, str, str]] = {}  # count, gene, sample and text of the first

    def add(self, kind: str, gene: str, sample: str, text: str, n: int = 1) -> None:
        """Count `n` cells of a kind; the first ones added are those named."""
        n_before, gene, sample, text = self.kinds.get(kind, (0, gene, sample, text))
        self.kinds[kind] = (n_before + n, gene, sample, text)

    def add_all(self, other: "BadValues") -> None:
        """Add the counts of a later part of the table."""
        for kind, (n, gene, sample, text) in other.kinds.items():
            self.add(kind, gene, sample, text, n)

    def add_array(self, values: np.ndarray, genes: Sequence[str], samples: Sequence[str]) -> None:
        """Count the missing, negative and infinite values of a genes x samples array."""
        masks = {"missing": np.isnan(values), "negative": values < 0, "infinite": np.isposinf(values)}
        for kind, bad in masks.items():
            if bad.any():
                row, column = (int(i) for i in np.argwhere(bad)[0])
                self.add(kind, genes[row], samples[column], str(values[row, column]), int(bad.sum()))

    def refuse(self, source: str) -> None:
        """Raise ValueError naming everything counted, if anything was."""
        if self.kinds:
            found = [
                f"{n} {kind} value(s), first {text!r} at gene {gene}, sample {sample}"
                for kind, (n, gene, sample, text) in self.kinds.items()
            ]
            raise ValueError(
                f"{source}: {'; '.join(found)}; correct the table or leave those genes or samples out"
            )


def check_promised_size(
    source: str, size: tuple[int, int], promised: tuple[int, int] | None, on_mismatch: str
) -> dict[str, int]:
    """Compare the size of a table (genes, samples) with the size its header promises, if it does.

    Returns
    -------
    dict
        The counts: genes, RNA samples, genes promised, RNA samples promised.

    Raises
    ------
    ValueError
        No genes; another size than promised, unless `on_mismatch` is "report".
    """
    if on_mismatch not in ("error", "report"):
        raise ValueError(f"on_header_mismatch = {on_mismatch!r}; choose 'error' or 'report'")
    found = {"genes": size[0], "RNA samples": size[1]}
    if size[0] == 0:
        raise ValueError(f"{source}: no gene rows below the header; download it again")
    if promised is None:
        return found
    if size != promised and on_mismatch == "error":
        raise ValueError(
            f"{source}: the header promises {promised[0]:,} genes x {promised[1]:,} samples, the file has "
            f"{size[0]:,} x {size[1]:,}; it may be truncated: download it again, or, if it is meant to be "
            "an extract, set expression_rows = 'report'"
        )
    return found | {"genes promised": promised[0], "RNA samples promised": promised[1]}
