"""
A rehearsal at the paper's size without slides: real GTEx sample ids and tissues, made-up values.

Samples, donors and tissues come from the portal's histology table, gene ids from GENCODE; expression and
features are drawn (`lib.rehearsal_values`) with planted truth, in the formats of the demo cohort. What runs
through is as large as the paper's cohort, so that a real run holds no surprise of time or memory.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib import gtex_fetch, networks
from lib.gtex_samples import match_tissue
from lib.gtex_tables import read_portal
from lib.planted import COVARIATES, TYPICAL
from lib.rehearsal_values import draw_features, draw_levels, plan_genes
from lib.staining import QUANTITIES

SETS = ("train", "validation", "test")
COLUMNS = ["sample_id", "slide_id", "donor", "tissue", "split", *COVARIATES, "age_bracket", "sex"]
DUPLICATE_SHARE = 108 / 1670  # the paper's: 1,778 RNA samples of 1,670 slides
GENES_FILE = "genes_gencode_v26.csv.gz"  # gene_id, gene_biotype, gene_name
GENE_BLOCK = 4096  # genes drawn and written at a time
SPREAD_LOG_SD = 0.5  # between tissues, of the factor by which everything in a tissue varies more or less


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
) -> dict[str, int | str]:
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
        n_donors, n_tissues, portal_file.

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
    rna_df = _rna_samples(plan_df, seed)
    seen_df = plan_df[plan_df["split"] != "train"]
    features_df = draw_features(networks.feature_table(architecture, features), seen_df, seed)
    _replace(raw / "features.parquet", lambda path: features_df.to_parquet(path))
    _write_expression(raw / "expression.parquet", plan_df, genes_df, rna_df, seed)
    _write_truth(raw / "truth", plan_df, genes_df)
    _replace(raw / "samples.csv", lambda path: plan_df[COLUMNS].to_csv(path, index=False))
    return {
        "n_samples": len(plan_df),
        "n_rna_samples": len(rna_df),
        "n_genes": len(genes_df),
        "n_invented_gene_ids": n_invented,
        "n_features": len(features_df),
        "n_donors": plan_df["donor"].nunique(),
        "n_tissues": plan_df["tissue"].nunique(),
        "portal_file": str(portal_path),
    }


# ----------------------------------------------------------------------------------------- samples


def plan_samples(
    portal_df: pd.DataFrame, tissues: Collection[str], n_samples: Sequence[int], seed: int
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
