"""
A rehearsal at the paper's size without slides: real GTEx sample ids and tissues, made-up values.

Samples, donors and tissues come from the portal's histology table, gene ids from GENCODE; expression and
features are drawn (`lib.rehearsal_values`) with planted truth, in the formats of the demo cohort. What runs
through is as large as the paper's cohort, so that a real run holds no surprise of time or memory.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.gtex_tables import read_portal
from lib.planted import COVARIATES, TYPICAL
from lib.rehearsal_values import draw_features, draw_levels, plan_genes
from lib.staining import QUANTITIES

SETS = ("train", "validation", "test")
COLUMNS = ["sample_id", "slide_id", "donor", "tissue", "split", *COVARIATES, "age_bracket", "sex"]
DUPLICATE_SHARE = 108 / 1670  # the paper's: 1,778 RNA samples of 1,670 slides
GENE_BLOCK = 4096  # genes drawn and written at a time
SPREAD_LOG_SD = 0.5  # between tissues, of the factor by which everything in a tissue varies more or less


class Rehearsal(NamedTuple):
    """Where the parts are, and how much was made. `n_invented_ids`: genes beyond the gene table's ids."""

    samples_csv: Path
    expression_parquet: Path
    features_parquet: Path
    truth_dir: Path
    n_samples: int
    n_rna_samples: int
    n_genes: int
    n_invented_ids: int
    n_features: int


def generate(
    out_dir: Path,
    portal_csv: Path,
    genes_csv: Path,
    feature_table: pd.DataFrame,
    tissues: Sequence[str],
    *,
    n_samples: Sequence[int] = (1006, 330, 334),
    n_genes: int = 56_202,
    seed: int = 0,
) -> Rehearsal:
    """
    Write `samples.csv`, `expression.parquet` (TPM), `features.parquet` and `truth/` into `out_dir`.

    Parameters
    ----------
    portal_csv : Path
        The GTEx portal's histology table (`gtex_tables.read_portal`).
    genes_csv : Path
        Gene table with gene_id, gene_biotype, gene_name, whose first `n_genes` ids are taken; ids beyond its
        end (GENCODE 26 has 56,200, the paper 56,202) are invented, all of them where there is no such file:
        ENSG00000900001 on, a range no real gene uses.
    feature_table : DataFrame
        `networks.feature_table` of a plain chain of convolutions (VGG, AlexNet).
    tissues : sequence of str
        GTEx names of the tissues to take.
    n_samples : three ints
        Samples of train, validation, test. Features are made for the last two.
    seed : int
        The same seed gives the same files.

    Returns
    -------
    Rehearsal

    Raises
    ------
    FileNotFoundError, ValueError
        No portal table; too few samples in it for `n_samples`; a network that is not a plain chain.
    """
    out_dir = Path(out_dir)
    truth_dir = out_dir / "truth"
    truth_dir.mkdir(parents=True, exist_ok=True)
    plan_df = plan_samples(read_portal(portal_csv), tissues, n_samples, seed)
    ids_df, n_invented = _gene_ids(genes_csv, n_genes)
    genes_df = plan_genes(ids_df, sorted(plan_df["tissue"].unique()), seed)
    rna_df = _rna_samples(plan_df, seed)
    _write_expression(out_dir / "expression.parquet", plan_df, genes_df, rna_df, seed)
    seen_df = plan_df[plan_df["split"] != "train"]
    features_df = draw_features(feature_table, seen_df, seed)
    _replace(out_dir / "features.parquet", lambda path: features_df.to_parquet(path))
    _write_truth(truth_dir, plan_df, genes_df)
    _replace(out_dir / "samples.csv", lambda path: plan_df[COLUMNS].to_csv(path, index=False))
    return Rehearsal(
        *(out_dir / name for name in ("samples.csv", "expression.parquet", "features.parquet")), truth_dir,
        len(plan_df), len(rna_df), len(genes_df), n_invented, len(features_df),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------- samples


def plan_samples(
    portal_df: pd.DataFrame, tissues: Sequence[str], n_samples: Sequence[int], seed: int
) -> pd.DataFrame:
    """
    Real tissue samples in three sets of whole donors, tissues as even as the portal's counts allow.

    Returns
    -------
    DataFrame
        One row per sample, sorted by id: sample_id, slide_id, donor, tissue, split, sex, age_bracket (real);
        ischaemic_time_min, rin, the five `QUANTITIES` (standard normal), donor_index and spread (factor on
        every sd in the sample's tissue), made up.
    """
    rng = np.random.default_rng([seed, 1])
    listed_df = portal_df[portal_df["tissue"].isin(list(tissues))].sort_values("sample_id")
    donors = listed_df["donor"].unique()
    shares = np.cumsum(n_samples) / np.sum(n_samples)
    place = (rng.permutation(len(donors)) + 0.5) / max(len(donors), 1)
    set_of = dict(zip(donors, np.searchsorted(shares, place), strict=True))
    sets = listed_df["donor"].map(set_of)
    parts = []
    for number, (name, n) in enumerate(zip(SETS, n_samples, strict=True)):
        of_set_df = listed_df[sets == number].sample(frac=1, random_state=rng.integers(2**32))
        quotas = even_quotas(of_set_df["tissue"].value_counts().sort_index(), n, f"the {name} set")
        rank = of_set_df.groupby("tissue").cumcount()
        parts.append(of_set_df[rank < of_set_df["tissue"].map(quotas)].assign(split=name))
    plan_df = pd.concat(parts).sort_values("sample_id").reset_index(drop=True)
    plan_df["slide_id"] = plan_df["sample_id"]
    _add_hidden(plan_df, rng)
    return plan_df


def even_quotas(available: pd.Series, total: int, what: str) -> pd.Series:
    """
    How many of each tissue to take: equal numbers, or all of a tissue that has fewer, summing to `total`.

    Raises ValueError when there are fewer than `total`, naming both numbers.
    """
    if available.sum() < total:
        raise ValueError(
            f"{what} wants {total:,} samples, and the portal table has {int(available.sum()):,} of its "
            f"donors in {len(available)} tissues: ask for fewer (rehearsal_samples) or give the whole table"
        )
    level = next(k for k in range(total + 1) if available.clip(upper=k).sum() >= total)
    quotas = available.clip(upper=level)
    too_many = int(quotas.sum()) - total
    at_level = quotas.index[quotas == level][:too_many]
    quotas.loc[at_level] -= 1
    return quotas


def _add_hidden(plan_df: pd.DataFrame, rng: np.random.Generator) -> None:
    """Technical covariates and hidden quantities; ischaemic time is mostly the donor's, RIN falls with it."""
    n = len(plan_df)
    plan_df["donor_index"], donors = pd.factorize(plan_df["donor"])
    donor = rng.standard_normal(len(donors))[plan_df["donor_index"]]
    delay = 0.8 * donor + 0.6 * rng.standard_normal(n)
    mean, sd = TYPICAL["ischaemic_time_min"]
    plan_df["ischaemic_time_min"] = np.clip(mean + sd * delay, 30, 1440).round().astype(int)
    mean, sd = TYPICAL["rin"]
    plan_df["rin"] = np.clip(mean + sd * (-0.3 * delay + 0.95 * rng.standard_normal(n)), 4, 10).round(1)
    for quantity in QUANTITIES:
        plan_df[quantity] = rng.standard_normal(n)
    tissue, tissues = pd.factorize(plan_df["tissue"], sort=True)
    plan_df["spread"] = np.exp(SPREAD_LOG_SD * rng.standard_normal(len(tissues)))[tissue]


def _rna_samples(plan_df: pd.DataFrame, seed: int) -> pd.DataFrame:
    """RNA samples (rna_id, row of the sample in `plan_df`, depth in reads per TPM), one or two per sample."""
    rng = np.random.default_rng([seed, 3])
    n = len(plan_df)
    again = rng.permutation(n)[: round(DUPLICATE_SHARE * n)]
    rows = np.sort(np.concatenate([np.arange(n), again]))
    alphabet = np.array(list("123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    codes = ["".join(code) for code in rng.choice(alphabet, (len(rows), 4))]
    second = np.r_[False, rows[1:] == rows[:-1]]  # first and second of one sample never share a code
    ids = [
        f"{plan_df['sample_id'].iloc[row]}-SM-{'2' if twice else '1'}{code}"
        for row, twice, code in zip(rows, second, codes, strict=True)
    ]
    return pd.DataFrame({"rna_id": ids, "row": rows, "depth": rng.uniform(30, 60, len(rows))})


# --------------------------------------------------------------------------------- genes and files


def _gene_ids(genes_csv: Path, n_genes: int) -> tuple[pd.DataFrame, int]:
    """Columns gene, symbol, biotype of `n_genes` genes, and how many of the ids are invented."""
    known_df = pd.DataFrame(columns=["gene", "symbol", "biotype"], dtype=object)
    if Path(genes_csv).is_file():
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
