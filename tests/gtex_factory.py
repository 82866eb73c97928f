"""Small tables as the GTEx portal and its releases have them, for tests."""

from pathlib import Path

import pytest

from lib.sources import mirror

HEADER = (
    '"Tissue Sample ID","Tissue","Subject ID","Sex","Age Bracket","Hardy Scale","Pathology Categories",'
    '"Pathology Notes"'
)
TISSUES = [
    "Liver", "Brain - Cerebellum", "Skin - Sun Exposed (Lower leg)", "Skin - Not Sun Exposed (Suprapubic)",
    "Small Intestine - Terminal Ileum", "Adipose - Visceral (Omentum)", "Adipose - Subcutaneous",
]  # fmt: skip

GTEX = mirror.folder("gtex") or Path("none")  # GTEx's real tables
needs_gtex = pytest.mark.skipif(not GTEX.is_dir(), reason="DATA_MIRROR has no gtex")


def portal_rows(n_donors=4) -> list[list[str]]:
    """Three tissues of each donor."""
    notes = 'says "6 pieces", ok'
    return [
        [f"GTEX-1AB{d}-{t + 1:02d}26", tissue, f"GTEX-1AB{d}", "male", "50-59", "", categories, notes]
        for d in range(n_donors)
        for t, (tissue, categories) in enumerate(zip(TISSUES, ("fibrosis, steatosis", "", "")))  # noqa: B905
    ]


def write_portal(path: Path, rows: list[list[str]], header: str = HEADER) -> Path:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def rna(sample: str, end="SM-5A5LT") -> str:
    return f"{sample}-{end}"
