"""Gene sets of the demo cohort: some whose genes follow a hidden quantity of the slide, and some that do not.

planted: two in three of its genes follow one quantity, the others nothing. covariate: how the sample was
handled, which the stain shows until covariates are taken out. marker: of one tissue. shuffled: any genes.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from lib.simulated.slides import QUANTITIES
from lib.whole_files import whole_file, write_bytes

N_OF_DRIVER, N_OTHERS = 24, 12  # genes of a planted set
N_SHUFFLED = 30
SHUFFLED_SIZES = (25, 60)


def plan_sets(genes_df: pd.DataFrame, seed: int) -> dict[str, tuple[str, str, list[str]]]:
    """Name -> (kind, quantity or "", symbols) of each set.

    genes_df : index gene; symbol, kind, quantity, covariate, tissue (`genes.plan_genes`).
    """
    rng = np.random.default_rng([seed, 5])
    symbols = genes_df["symbol"]
    null = symbols[genes_df["kind"] == "null"].to_numpy()

    def mixed(own: pd.Series) -> list[str]:
        chosen = rng.choice(own.to_numpy(), min(N_OF_DRIVER, len(own)), replace=False)
        others = rng.choice(null, min(N_OTHERS, len(null)), replace=False)
        return sorted([*chosen, *others])

    sets = {}
    for quantity in QUANTITIES:
        own = symbols[genes_df["quantity"] == quantity]
        sets[f"FOLLOWS_{quantity.upper()}"] = "planted", quantity, mixed(own)
    for column, kind, prefix in (("covariate", "covariate", "HANDLING"), ("tissue", "marker", "MARKERS")):
        for name in sorted(set(genes_df[column]) - {""}):
            word = "_".join("".join(c if c.isalnum() else " " for c in name).upper().split())
            sets[f"{prefix}_{word}"] = kind, "", mixed(symbols[genes_df[column] == name])
    for number in range(1, N_SHUFFLED + 1):
        size = min(int(rng.integers(*SHUFFLED_SIZES)), len(symbols))
        drawn = rng.choice(symbols.to_numpy(), size, replace=False)
        sets[f"SHUFFLED_{number:02d}"] = "shuffled", "", sorted(drawn)
    return {name: of for name, of in sets.items() if of[2]}


def write_sets(raw: Path, genes_df: pd.DataFrame, seed: int) -> None:
    """Write `gene_sets.gmt`, and `truth/gene_sets.csv`: set, kind, quantity."""
    sets = plan_sets(genes_df, seed)
    lines = ["\t".join([name, "simulated", *symbols]) for name, (_, _, symbols) in sets.items()]
    write_bytes(raw / "gene_sets.gmt", ("\n".join(lines) + "\n").encode())
    rows = [(name, kind, quantity) for name, (kind, quantity, _) in sets.items()]
    with whole_file(raw / "truth" / "gene_sets.csv") as temporary:
        pd.DataFrame(rows, columns=["set", "kind", "quantity"]).to_csv(temporary, index=False)


def read_sets(raw: Path) -> pd.DataFrame | None:
    """The truth of the sets: index set; kind, quantity ("" where it follows none). None: there is none."""
    path = raw / "truth" / "gene_sets.csv"
    return pd.read_csv(path, keep_default_na=False, index_col="set") if path.is_file() else None


def score_sets(
    sets_df: pd.DataFrame, truth_df: pd.DataFrame, r_df: pd.DataFrame, q_threshold: float
) -> dict[str, tuple[float, str]]:
    """Lines of `scorecard.summary` on gene sets.

    sets_df : `gene_sets.table`. truth_df : `read_sets`. r_df : features x quantities, r within tissues.
    """
    df = sets_df.join(truth_df, how="inner")
    found = df["q"] <= q_threshold
    planted, shuffled = df["kind"] == "planted", df["kind"] == "shuffled"
    best = r_df.columns[r_df.abs().to_numpy().argmax(axis=1)]
    followed = df["feature"].astype(str).map(dict(zip(r_df.index, best, strict=True)))
    right = found & planted & (followed == df["quantity"])
    shares = {
        "planted gene sets found (recall)": (found & planted, planted),
        "planted gene sets found by a feature of the right quantity": (right, planted),
        "gene sets found that are planted (precision)": (found & planted, found),
        "shuffled gene sets found (false positives)": (found & shuffled, shuffled),
    }
    return {
        name: (these.sum() / max(of.sum(), 1), f"{these.sum()} of {of.sum()}")
        for name, (these, of) in shares.items()
    }
