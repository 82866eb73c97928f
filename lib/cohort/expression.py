"""Expression tables: reading any format, RNA replicates, gene names and biotypes.

Genes are rows, RNA samples are columns, values are TPM, CPM or counts as float32, never logarithms
(notebooks/README.md, section 1). Text tables are read by `lib.cohort.gct`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from lib.cohort import gct, h5ad_reading, table_checks, table_files
from lib.cohort.gct import GeneValues, table_kind
from lib.cohort.samples import first
from lib.cohort.table_checks import column_role, refuse_duplicates, wanted_samples
from lib.errors import InputError, MissingInputError

TEXT_KINDS = ("gct", "csv", "tsv", "txt")
GENE_COLUMNS = ("gene", "__index_level_0__")  # of a parquet file; the second is an index without a name
BATCH_ROWS, BLOCK_COLUMNS = 8192, 1024  # of a parquet file, read at a time

# -------------------------------------------------------------------------------------------- reading


def read_expression(
    path: str | Path, columns: Sequence[str] | None = None, *, on_header_mismatch: str = "error"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read genes x RNA samples from .gct, .csv, .tsv, .txt (each also .gz), .parquet or .h5ad.

    In csv and tsv the first column is the gene id; columns called symbol, Description, gene_name, biotype and
    the like describe the gene; all others are RNA samples.

    Parameters
    ----------
    columns : RNA ids wanted, in this order; None for all (`rna_ids` lists them without reading values).
    on_header_mismatch : what to do with a GCT whose second line promises another size than the file has:
        `"error"` (a truncated download is the usual reason) or `"report"`, which accepts the file and leaves
        both sizes in `attrs["found"]`.

    Returns
    -------
    expression_df : float32, index "gene", columns RNA ids; `attrs["found"]` holds counts for
        `describe_expression`.
    genes_df : index "gene"; columns symbol (the gene id where unknown) and biotype ("" where unknown).

    Raises
    ------
    FileNotFoundError
    ValueError
        Unknown format; truncated or corrupt gzip data; another size than promised; duplicated gene or RNA
        ids; rows of unequal length; unknown `columns`; missing, negative or non-numeric values (the first
        gene and sample, and how many).
    """
    path, kind = _kind(path)
    if kind in TEXT_KINDS:
        table, samples, found = gct.read_table(path, columns, on_header_mismatch)
    else:
        table, samples, found = (_read_parquet if kind == "parquet" else _read_h5ad)(path, columns)
        if not table_checks.all_valid(table.values):
            kinds = table_checks.kinds_of(table.values)
            table_checks.refuse_invalid(kinds, table.values, table.genes, samples, str(path))
    samples = [table_files.composed(sample) for sample in samples]
    refuse_duplicates(samples, "RNA id", str(path))
    table_checks.check_gene_ids(table.genes, str(path))
    genes = pd.Index(table.genes, name="gene", dtype=object)
    expression_df = pd.DataFrame(table.values, genes, pd.Index(samples, dtype=object), copy=False)
    expression_df.attrs["found"] = found
    return expression_df, _genes_frame(genes, table.symbols, table.biotypes)


def rna_ids(path: str | Path) -> list[str]:
    """RNA ids of an expression table, read without its values; errors as in `read_expression`."""
    path, kind = _kind(path)
    if kind == "parquet":
        with table_files.parquet_explained(path):
            return _sample_columns(pq.read_schema(path))
    if kind == "h5ad":
        with h5ad_reading.opened(path) as file:
            return h5ad_reading.read_names(file["obs"])
    return gct.read_header(path).samples


def _kind(path: str | Path) -> tuple[Path, str]:
    path = Path(path)
    kind = table_kind(path)
    if kind not in (*TEXT_KINDS, "parquet", "h5ad"):
        raise InputError(
            f"{path}: not an expression table; give .gct, .csv, .tsv, .txt (each also .gz), .parquet or .h5ad"
        )
    if not path.is_file():
        raise MissingInputError(f"{path}: no such expression table; check expression_file of the cohort")
    return path, kind


def _sample_columns(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if name not in GENE_COLUMNS and column_role(name) is None]


def _read_parquet(path: Path, columns: Sequence[str] | None) -> tuple[GeneValues, list[str], dict[str, int]]:
    with table_files.parquet_explained(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema, n_genes = file.schema_arrow, file.metadata.num_rows
        in_file = _sample_columns(schema)
        samples = wanted_samples(in_file, columns, str(path))
        types = {name: schema.field(name).type for name in samples}
        text = [n for n, t in types.items() if not (pa.types.is_floating(t) or pa.types.is_integer(t))]
        if text:
            raise InputError(f"{path}: sample column(s) {first(text)} do not hold numbers")
        described = [name for name in schema.names if name not in in_file]
        gene_column = next((name for name in GENE_COLUMNS if name in described), None)
        if gene_column is None:
            raise InputError(f"{path}: no gene ids; give them as the index or as a column called 'gene'")
        names: dict[str, list[str]] = {name: [] for name in described}
        for batch in file.iter_batches(BATCH_ROWS, columns=described):
            for name in described:
                names[name] += ["" if v is None else str(v) for v in batch.column(name).to_pylist()]
        values = np.empty((n_genes, len(samples)), np.float32)
        for left in range(0, len(samples), BLOCK_COLUMNS):  # each open column holds a page
            block, start = samples[left : left + BLOCK_COLUMNS], 0
            for batch in file.iter_batches(BATCH_ROWS, columns=block):  # not twice in memory
                for i, name in enumerate(block, start=left):
                    values[start : start + len(batch), i] = batch.column(name).to_numpy(zero_copy_only=False)
                start += len(batch)
    found = {"genes": n_genes, "RNA samples": len(in_file)}
    return GeneValues(values, names[gene_column], *_described(names, n_genes)), samples, found


def _read_h5ad(path: Path, columns: Sequence[str] | None) -> tuple[GeneValues, list[str], dict[str, int]]:
    with h5ad_reading.opened(path) as file:
        names = h5ad_reading.require_unique(file, path)
        found = {"genes": len(h5ad_reading.read_names(file["var"])), "RNA samples": len(names)}
        samples = wanted_samples(names, columns, str(path))
        # logarithms are never taken for values: beside them the layer of counts is read
        wanted = "X" if h5ad_reading.log_base(file) is None else "layers['counts']"
        read = next((v for v in h5ad_reading.read_all_values(file) if v.found_in == wanted), None)
    if read is None and wanted == "X":
        raise InputError(f"{path}: it has no values (X)")
    if read is None:
        raise InputError(
            f"{path}: its values are logarithms (uns['log1p']); save counts, CPM or TPM, or keep counts as "
            "layers['counts']"
        )
    place = {name: k for k, name in enumerate(names)}
    part: Any = read.matrix[[place[sample] for sample in samples]]
    values = (part.toarray() if sparse.issparse(part) else part).T.astype(np.float32)
    genes = h5ad_reading.genes_of(read.var_df)
    return GeneValues(values, genes.ids, genes.symbols, genes.biotypes), samples, found


def _described(columns: dict[str, list[str]], n_genes: int) -> tuple[list[str], list[str]]:
    """Symbols and biotypes among the columns that describe genes; "" where there are none."""
    by_role = {column_role(name): column for name, column in columns.items()}
    return by_role.get("symbol") or [""] * n_genes, by_role.get("biotype") or [""] * n_genes


def describe_expression(expression_df: pd.DataFrame, genes_df: pd.DataFrame) -> pd.DataFrame:
    """Summary of an expression table for the notebook.

    Returns
    -------
    DataFrame
        Columns what, n: size of the file and the size its header promises, versioned Ensembl ids, symbols
        shared by several genes, genes that are zero in every sample, and the range of the column sums
        (1,000,000 for TPM of all genes).
    """
    values, symbols = expression_df.to_numpy(), genes_df["symbol"]
    sums = values.sum(axis=0, dtype=np.float64)
    counts = {f"{key} (file)": n for key, n in expression_df.attrs.get("found", {}).items()}
    counts |= {
        "genes kept": len(expression_df),
        "RNA samples kept": expression_df.shape[1],
        "versioned Ensembl ids": int(expression_df.index.str.match(r"ENS[A-Z]*G\d+\.\d+").sum()),
        "symbols shared by several genes": int(symbols[symbols.duplicated()].nunique()),
        "genes with such a symbol": int(symbols.duplicated(keep=False).sum()),
        "genes zero in every sample": int((values.max(axis=1) == 0).sum()),
        "smallest column sum": round(float(sums.min())),
        "largest column sum": round(float(sums.max())),
    }
    return pd.DataFrame({"what": list(counts), "n": list(counts.values())})


# --------------------------------------------------------------------------------- values and samples


def combine_duplicates(
    expression_df: pd.DataFrame, pairing_df: pd.DataFrame, how: str = "mean"
) -> pd.DataFrame:
    """Combine the RNA samples of each sample: genes x RNA samples to genes x samples.

    Parameters
    ----------
    expression_df : TPM or CPM, columns RNA ids.
    pairing_df : columns sample_id, rna_id (`pairing.pair_rna`).
    how : what to do with several RNA samples of one sample: `"mean"` of log2(1 + TPM), converted back to TPM;
        `"first"` in the order of `pairing_df`; `"error"`.

    Returns
    -------
    DataFrame
        float32, columns sample_id in order of first appearance.

    Raises
    ------
    ValueError
        Unknown `how`; RNA ids missing from the table; several RNA samples of one sample under `"error"`.
    """
    if how not in ("mean", "first", "error"):
        raise InputError(f"duplicates = {how!r}; choose 'mean', 'first' or 'error'")
    missing = pairing_df["rna_id"][~pairing_df["rna_id"].isin(expression_df.columns)]
    if len(missing):
        raise InputError(f"paired RNA ids are missing from the expression table: {first(missing)}")
    several = pairing_df[pairing_df["sample_id"].duplicated(keep=False)]
    if how == "error" and len(several):
        ids = first(several["sample_id"].unique())
        raise InputError(f"samples with several RNA samples: {ids}; set duplicates = 'mean' or 'first'")
    first_df = pairing_df.drop_duplicates("sample_id")
    values = expression_df[first_df["rna_id"].tolist()].to_numpy(np.float32, copy=True)
    if how == "mean":
        column_of = {sample_id: i for i, sample_id in enumerate(first_df["sample_id"])}
        for sample_id, rna in several.groupby("sample_id", sort=False)["rna_id"]:
            logged = np.log1p(expression_df[rna.tolist()].to_numpy(np.float64))
            values[:, column_of[sample_id]] = np.expm1(logged.mean(axis=1))
    columns = pd.Index(first_df["sample_id"].tolist(), dtype=object)
    return pd.DataFrame(values, index=expression_df.index, columns=columns, copy=False)


def read_gene_table(path: str | Path) -> pd.DataFrame:
    """Read gene names and biotypes (csv or tsv, also .gz), e.g. GENCODE's gene_id, gene_biotype, gene_name;
    biotypes are empty where the table has none.

    Returns
    -------
    DataFrame
        Index "gene" (as written, with version), columns symbol (the gene id where empty), biotype.

    Raises
    ------
    FileNotFoundError
    ValueError
        No gene or symbol column; duplicated gene ids.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such gene table; check genes_file of the cohort")
    table_df = table_files.read_text(path)
    columns = [str(column) for column in table_df]
    column_of = {column_role(c): c for c in columns}
    gene = next((c for c in columns if c.lower() in ("gene", "gene_id", "ensembl", "name")), None)
    if gene is None or "symbol" not in column_of:
        raise InputError(f"{path}: needs gene_id and gene_name (or symbol); it has {columns}")
    genes = pd.Index(table_df[gene], name="gene", dtype=object)
    refuse_duplicates(genes, "gene id", str(path))
    symbols, none = table_df[column_of["symbol"]].tolist(), [""] * len(genes)
    biotypes = table_df[column_of["biotype"]].tolist() if "biotype" in column_of else none
    return _genes_frame(genes, symbols, biotypes)


def _genes_frame(genes: pd.Index, symbols: list[str], biotypes: list[str]) -> pd.DataFrame:
    symbols = [symbol or gene for symbol, gene in zip(symbols, genes, strict=True)]
    return pd.DataFrame({"symbol": symbols, "biotype": biotypes}, index=genes, dtype=object)


def annotate_genes(genes_df: pd.DataFrame, table_df: pd.DataFrame) -> pd.DataFrame:
    """Fill symbol and biotype from a gene table: by exact id, else by the id without its version.

    Returns
    -------
    DataFrame
        `genes_df` with both columns; a symbol that is given (and is not the gene id itself) is kept.
    """
    by_stem = table_df.set_axis(without_version(table_df.index))
    by_stem = by_stem[~by_stem.index.duplicated()]
    filled_df = genes_df.copy()
    for column in ("symbol", "biotype"):
        by_id = table_df[column].reindex(genes_df.index)
        by_id_stem = by_stem[column].reindex(without_version(genes_df.index)).set_axis(genes_df.index)
        known = by_id.fillna(by_id_stem)
        lacks = genes_df[column].isin(["", "nan"]) | (genes_df[column] == genes_df.index)
        filled_df[column] = genes_df[column].where(~lacks | known.isna(), known)
    return filled_df


def without_version(genes: pd.Index) -> pd.Index:
    """Ensembl ids without their version; other names unchanged."""
    return genes.str.replace(r"^(ENS[A-Z]*G\d+)\.\d+", r"\1", regex=True)


def protein_coding(genes_df: pd.DataFrame) -> pd.Index:
    """Gene ids whose biotype is protein_coding.

    Raises
    ------
    ValueError
        No gene has a biotype, so a gene table is needed first.
    """
    if not (genes_df["biotype"] != "").any():
        raise InputError(
            "no gene has a biotype; give genes_file (a GENCODE csv) or set protein_coding_only = false"
        )
    return genes_df.index[genes_df["biotype"] == "protein_coding"]
