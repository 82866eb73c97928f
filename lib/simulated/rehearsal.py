"""
A rehearsal at the paper's size without slides: real GTEx sample ids and tissues, made-up values.

Samples, donors and tissues come from the portal's histology table, gene ids from GENCODE; expression and
features are drawn (`lib.simulated.rehearsal_values`) with planted truth, in the formats of the demo cohort.
What runs through is as large as the paper's cohort, so that a real run holds no surprise of time or memory.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.cohort.gtex_ids import match_tissue
from lib.network import models
from lib.simulated.genes import COVARIATES
from lib.simulated.rehearsal_samples import plan_samples, rna_samples
from lib.simulated.rehearsal_values import draw_features, draw_levels, plan_genes
from lib.simulated.slides import QUANTITIES
from lib.sources import gtex_fetch
from lib.sources.gtex_tables import read_portal

COLUMNS = ["sample_id", "slide_id", "donor", "tissue", "split", *COVARIATES, "age_bracket", "sex"]
GENES_FILE = "genes_gencode_v26.csv.gz"  # gene_id, gene_biotype, gene_name
GENE_BLOCK = 4096  # genes drawn and written at a time


def make(
    raw: Path,
    folders: Sequence[Path],
    *,
    tissues: Sequence[str] = (),
    architecture: str = "vgg16",
    features: str = "table1",
    portal_file: str = "GTExPortal.csv",
    n_samples: Sequence[int] = (1006, 330, 334),
    n_genes: int = 56_202,
    seed: int = 0,
) -> dict[str, object]:
    """
    Write `samples.csv`, `expression.parquet` (TPM), `features.parquet` and `truth/` into `raw`.

    Parameters
    ----------
    folders : sequence of Path
        Where GTEx's tables are looked for. The portal's histology table is fetched where none has it. Gene
        ids are the first of `GENES_FILE`; ids beyond its end (GENCODE 26 has 56,200, the paper 56,202) are
        invented, all of them where there is no such file: ENSG00000900001 on, a range no real gene uses.
    tissues : sequence of str
        The tissues to take, names as `gtex_samples.match_tissue` knows them; `()` is all of the table.
    architecture, features : str
        Whose features are made: a plain chain of convolutions (VGG, AlexNet), see `networks.feature_table`.
    n_samples : three ints
        Samples of train, validation, test. Features are made for the last two.
    seed : int
        The same seed gives the same files.

    Returns
    -------
    dict
        What was made, to be kept as json: n_samples, n_rna_samples, n_genes, n_invented_gene_ids, n_features,
        portal_file; `steps`, records of step, n_left, n_dropped, note (`overview.count_steps`); `dropped`,
        records of tissue, reason, n (`overview.left_out`).

    Raises
    ------
    RuntimeError, ValueError
        No portal table to be had; too few samples in it for `n_samples`; a network that is not a plain chain.
    """
    raw = Path(raw)
    (raw / "truth").mkdir(parents=True, exist_ok=True)
    portal_path = gtex_fetch.portal(portal_file, folders)
    portal_df = read_portal(portal_path)
    wanted = {match_tissue(name, portal_df["tissue"]) for name in tissues} or set(portal_df["tissue"])
    plan_df = plan_samples(portal_df, wanted, n_samples, seed)
    ids_df, n_invented = _gene_ids(gtex_fetch.find(GENES_FILE, folders), n_genes)
    genes_df = plan_genes(ids_df, sorted(plan_df["tissue"].unique()), seed)
    rna_df = rna_samples(plan_df, seed)
    seen_df = plan_df[plan_df["split"] != "train"]
    features_df = draw_features(models.feature_table(architecture, features), seen_df, seed)
    _replace(raw / "features.parquet", lambda path: features_df.to_parquet(path))
    _write_expression(raw / "expression.parquet", plan_df, genes_df, rna_df, seed)
    _write_truth(raw / "truth", plan_df, genes_df)
    _replace(raw / "samples.csv", lambda path: plan_df[COLUMNS].to_csv(path, index=False))
    made = {
        "n_samples": len(plan_df),
        "n_rna_samples": len(rna_df),
        "n_genes": len(genes_df),
        "n_invented_gene_ids": n_invented,
        "n_features": len(features_df),
        "portal_file": str(portal_path),
    }
    steps, dropped = _steps(portal_df, plan_df, wanted, made), _dropped(portal_df, plan_df, wanted)
    return made | {"steps": steps, "dropped": dropped}


def _steps(
    portal_df: pd.DataFrame, plan_df: pd.DataFrame, tissues: Collection[str], made: dict
) -> list[dict[str, object]]:
    """From the portal table to the samples, a count after each step; the last says what is made up."""
    n_all, n_wanted, n = len(portal_df), int(portal_df["tissue"].isin(list(tissues)).sum()), len(plan_df)
    values = f"{made['n_genes']:,} genes ({made['n_invented_gene_ids']:,} ids invented)"
    rows = [
        ("tissue samples in the portal table", n_all, 0, f"{portal_df['donor'].nunique():,} donors"),
        (f"in {len(tissues)} tissues", n_wanted, n_all - n_wanted, ""),
        ("taken", n, n_wanted - n, f"{plan_df['donor'].nunique():,} donors, none in two sets"),
        ("with made-up values", n, 0, f"{values}, {made['n_features']:,} features"),
    ]
    return [dict(zip(("step", "n_left", "n_dropped", "note"), row, strict=True)) for row in rows]


def _dropped(
    portal_df: pd.DataFrame, plan_df: pd.DataFrame, tissues: Collection[str]
) -> list[dict[str, object]]:
    """Samples of the portal table that were not taken, by tissue and reason, as `_steps` counts them."""
    gone_df = portal_df[~portal_df["sample_id"].isin(plan_df["sample_id"])]
    reasons = np.where(gone_df["tissue"].isin(list(tissues)), "not taken", f"not in {len(tissues)} tissues")
    return (
        gone_df.assign(reason=reasons)
        .groupby(["tissue", "reason"])
        .size()
        .reset_index(name="n")
        .to_dict("records")
    )


def _gene_ids(genes_csv: Path | None, n_genes: int) -> tuple[pd.DataFrame, int]:
    """Columns gene, symbol, biotype of `n_genes` genes, and how many of the ids are invented."""
    known_df = pd.DataFrame(columns=["gene", "symbol", "biotype"], dtype=object)
    if genes_csv is not None:
        names = {"gene_id": "gene", "gene_name": "symbol", "gene_biotype": "biotype"}
        table_df = pd.read_csv(genes_csv, dtype=str, keep_default_na=False)
        absent = [name for name in names if name not in table_df]
        if absent:
            raise ValueError(f"{genes_csv}: columns {absent} are missing; it has {list(table_df.columns)}.")
        known_df = table_df[list(names)].rename(columns=names).head(n_genes)
    n_invented = n_genes - len(known_df)
    numbers = range(1, n_invented + 1)
    invented_df = pd.DataFrame(
        {"gene": [f"ENSG{900000 + i:011d}.1" for i in numbers], "symbol": [f"SYN{i:05d}" for i in numbers]}
    ).assign(biotype="")
    return pd.concat([known_df, invented_df], ignore_index=True), n_invented


def _write_expression(
    path: Path, plan_df: pd.DataFrame, genes_df: pd.DataFrame, rna_df: pd.DataFrame, seed: int
) -> None:
    """TPM of genes x RNA samples, a block of genes at a time: memory does not grow with their number."""
    texts = [(name, pa.string()) for name in ("gene", "symbol", "biotype")]
    schema = pa.schema(texts + [(rna_id, pa.float32()) for rna_id in rna_df["rna_id"]])

    def write(partial: Path) -> None:
        with pq.ParquetWriter(partial, schema, compression="zstd", use_dictionary=False) as writer:
            for block_df, tpm in _expression_blocks(plan_df, genes_df, rna_df, seed):
                names = [block_df.index, block_df["symbol"], block_df["biotype"]]
                columns = [pa.array(list(column), pa.string()) for column in names]
                columns += [pa.array(column) for column in np.ascontiguousarray(tpm.T)]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    _replace(path, write)


def _expression_blocks(
    plan_df: pd.DataFrame, genes_df: pd.DataFrame, rna_df: pd.DataFrame, seed: int
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """
    Blocks of genes and their TPM, float32 [genes, RNA samples].

    Reads are counted (Poisson, 30 to 60 per TPM), so that low genes are tied and silent ones are 0. Columns
    are not scaled to a million.
    """
    rows, depth = rna_df["row"].to_numpy(), rna_df["depth"].to_numpy()
    for number, start in enumerate(range(0, len(genes_df), GENE_BLOCK)):
        rng = np.random.default_rng([seed, 4, number])
        block_df = genes_df.iloc[start : start + GENE_BLOCK]
        level = draw_levels(block_df, plan_df, rng)
        true_tpm = np.maximum(np.exp2(level) - 1, 0)
        yield block_df, (rng.poisson(true_tpm[:, rows] * depth) / depth).astype(np.float32)


def _write_truth(folder: Path, plan_df: pd.DataFrame, genes_df: pd.DataFrame) -> None:
    """The tables that `synthetic.read_truth` reads."""
    quantities_df = plan_df[["sample_id", "slide_id", "tissue", *QUANTITIES]].assign(pen="", blur=False)
    columns = ["symbol", "kind", "quantity", "covariate", "tissue", "effect", "r_planned"]
    _replace(
        folder / "quantities.csv", lambda path: quantities_df.to_csv(path, index=False, float_format="%.6g")
    )
    _replace(
        folder / "genes.csv",
        lambda path: genes_df[[*columns, "tissue_differences"]].to_csv(path, float_format="%.6g"),
    )


def _replace(path: Path, write) -> None:
    """Whole or not at all: `write` gets a name beside the final one, which is then taken."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)
