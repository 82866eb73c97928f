"""Small tables as the GTEx portal and its releases have them, for tests."""

from pathlib import Path

HEADER = (
    '"Tissue Sample ID","Tissue","Subject ID","Sex","Age Bracket","Hardy Scale","Pathology Categories",'
    '"Pathology Notes"'
)
TISSUES = [
    "Liver", "Brain - Cerebellum", "Skin - Sun Exposed (Lower leg)", "Skin - Not Sun Exposed (Suprapubic)",
    "Small Intestine - Terminal Ileum", "Adipose - Visceral (Omentum)", "Adipose - Subcutaneous",
]  # fmt: skip


def portal_rows(n_donors=4) -> list[list[str]]:
    rows = []
    for d in range(n_donors):
        for t, tissue in enumerate(TISSUES[:3]):
            donor = f"GTEX-1AB{d}"
            categories = "fibrosis, steatosis" if t == 0 else ""
            rows.append(
                [
                    f"{donor}-{t + 1:02d}26",
                    tissue,
                    donor,
                    "male",
                    "50-59",
                    "",
                    categories,
                    'says "6 pieces", ok',
                ]
            )
    return rows


def write_portal(path: Path, rows: list[list[str]], header: str = HEADER) -> Path:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def rna(sample: str, end="SM-5A5LT") -> str:
    return f"{sample}-{end}"
