"""Folders that public data come from: the mirror named by DATA_MIRROR, and where downloads go.

A mirror is a folder that holds `<dataset>/<file>`, for example `gtex/GTExPortal.csv`. No other module reads
the variable.
"""

import os
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]


def folder(dataset: str = "") -> Path | None:
    """The mirror, or its folder of one dataset; None where DATA_MIRROR is unset or empty.

    A relative DATA_MIRROR starts at the repository, not at the current directory. The folder need not exist.
    """
    named = os.environ.get("DATA_MIRROR", "")
    return REPOSITORY / named / dataset if named else None


def search_folders(local: Path, dataset: str) -> tuple[Path, ...]:
    """Where files of a dataset are looked for, in order: the local folder, then the mirror's."""
    mirrored = folder(dataset)
    return (local, mirrored) if mirrored else (local,)


class Places(NamedTuple):
    """Folders that the source of a cohort reads and downloads to, beside the cohort's own."""

    upstream: Path  # files of a public data set, laid out as their publisher has them
    gtex: tuple[Path, ...]  # GTEx's tables: looked for in this order, downloaded into the first
    go: Path | None  # the Gene Ontology is downloaded here; None: it is present, or the user names its files
