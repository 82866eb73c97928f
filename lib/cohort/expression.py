"""Expression tables: GCT, csv, tsv, parquet, h5ad in; duplicates; CPM; gene names and filters.

Genes are rows, RNA samples are columns, values float32 TPM, CPM or counts, never logged in a file. Text
tables are read by `lib.cohort.gct`. METHOD section 1.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.cohort import gct, gct_header
from lib.cohort.gct_header import column_role, read_header, refuse_duplicates, wanted_samples

# -------------------------------------------------------------------------------------------- reading


def read_expression(
    path: str | Path, columns: Sequence[str] | None = None, *, on_header_mismatch: str = "error"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read genes x RNA samples from .gct, .csv, .tsv, .txt (each also .gz), .parquet or .h5ad.

    In csv and tsv the first column is the gene id; columns called symbol, Description, gene_name, biotype and
    the like describe the gene; all others are RNA samples.

    Parameters
    ----------
    columns : RNA ids wanted, in this order; None is all (`rna_ids` lists them without reading values).
    on_header_mismatch : a GCT whose second line promises another size than the file has: `"error"` (a
        truncated download is the usual reason) or `"report"`, which accepts it and leaves both numbers in
        `attrs["found"]`.

    Returns
    -------
    expression_df : float32, index "gene", columns RNA ids; `attrs["found"]` holds counts for
    `describe_expression`.
    genes_df : index "gene", columns symbol, biotype (text, empty where unknown).

    Raises
    ------
    FileNotFoundError
    ValueError
        Unknown format; truncated or corrupt gzip; header that lies; duplicated gene or RNA ids; ragged rows;
        unknown `columns`; missing, negative or non-numeric values (first gene and sample, and how many).
    RuntimeError
        .h5ad without the anndata package.
    """
    path, kind = _kind(path)
    if kind == "parquet":
        expression_df, genes_df = _read_parquet(path, columns)
    elif kind == "h5ad":
        expression_df, genes_df = _read_h5ad(path, columns)
    else:
        return gct.read_table(path, columns, on_header_mismatch=on_header_mismatch)
    check_expression(expression_df, source=str(path))
    expression_df.attrs["found"] = {"genes": len(expression_df), "RNA samples": expression_df.shape[1]}
    return expression_df, genes_df


def _kind(path: str | Path) -> tuple[Path, str]:
    path = Path(path)
    kind = gct_header.table_kind(path)
    if kind not in (*gct_header.TEXT_KINDS, "parquet", "h5ad"):
        raise ValueError(f"{path}: expression is .gct, .csv, .tsv, .txt (each also .gz), .parquet or .h5ad.")
    if not path.is_file():
        raise FileNotFoundError(f"No expression table at {path}. Check expression_file in the cohort's TOML.")
    return path, kind


def rna_ids(path: str | Path) -> list[str]:
    """RNA ids of an expression table, from its head alone. Errors as in `read_expression`."""
    path, kind = _kind(path)
    if kind == "parquet":
        names = pq.read_schema(path).names
        return [n for n in names if n not in ("gene", "__index_level_0__") and column_role(n) is None]
    if kind == "h5ad":
        return [str(i) for i in _anndata().read_h5ad(path, backed="r").obs_names]
    return read_header(path).samples


# --------------------------------------------------------------------------------- parquet and h5ad


def _read_parquet(path: Path, columns: Sequence[str] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    with pq.ParquetFile(path) as file:
        schema, n_rows = file.schema_arrow, file.metadata.num_rows
        described = [n for n in schema.names if n in ("gene", "__index_level_0__") or column_role(n)]
        wanted = wanted_samples([n for n in schema.names if n not in described], columns, str(path))
        text = [n for n in wanted if not _is_number(schema.field(n).type)]
        if text:
            raise ValueError(f"{path}: {len(text)} sample column(s) are not numbers, first {text[0]!r}.")
        gene_column = next((n for n in ("gene", "__index_level_0__") if n in described), None)
        if gene_column is None:
            raise ValueError(f"{path}: no gene ids; give them as the index or a column called 'gene'.")
        names: dict[str, list[str]] = {name: [] for name in described}
        values, start = np.empty((n_rows, len(wanted)), np.float32), 0
        for batch in file.iter_batches(
            batch_size=8192, columns=[*described, *wanted]
        ):  # never twice in memory
            for name in described:
                names[name] += ["" if v is None else str(v) for v in batch.column(name).to_pylist()]
            for i, name in enumerate(wanted):
                values[start : start + len(batch), i] = batch.column(name).to_numpy(zero_copy_only=False)
            start += len(batch)
    genes = pd.Index(names[gene_column], name="gene", dtype=object)
    by_role = {column_role(name): column for name, column in names.items()}
    blank = [""] * n_rows
    expression_df = pd.DataFrame(values, genes, pd.Index(wanted, dtype=object), copy=False)
    return expression_df, gct.genes_frame(genes, by_role.get("symbol", blank), by_role.get("biotype", blank))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _read_h5ad(path: Path, columns: Sequence[str] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    data = _anndata().read_h5ad(path)
    wanted = wanted_samples([str(i) for i in data.obs_names], columns, str(path))
    data = data[wanted]
    values = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    genes = pd.Index(data.var_names.astype(str), name="gene", dtype=object)
    text = {column_role(n): data.var[n].astype(str) for n in data.var.columns if column_role(n)}
    blank = [""] * len(genes)
    genes_df = gct.genes_frame(genes, list(text.get("symbol", blank)), list(text.get("biotype", blank)))
    columns_index = pd.Index(wanted, dtype=object)
    expression_df = pd.DataFrame(np.asarray(values.T, dtype=np.float32), genes, columns_index, copy=False)
    return expression_df, genes_df


def _anndata():
    try:
        import anndata
    except ImportError as error:
        raise RuntimeError("Reading .h5ad needs anndata: pip install anndata. Or save as parquet.") from error
    return anndata


# --------------------------------------------------------------------------------------------- checks


def check_expression(expression_df: pd.DataFrame, source: str = "expression table") -> None:
    """Refuse duplicated ids, missing, negative and infinite values, naming the first of each and how many.

    Raises
    ------
    ValueError
    """
    refuse_duplicates(expression_df.index, "gene id", source)
    refuse_duplicates(expression_df.columns, "RNA id", source)
    problems, values = gct.Problems(), expression_df.to_numpy()
    for start in range(0, len(values), 4096):  # the masks stay small
        block = values[start : start + 4096]
        masks = {"missing": np.isnan(block), "negative": block < 0, "infinite": np.isposinf(block)}
        for kind, bad in masks.items():
            if bad.any():
                row, column = np.argwhere(bad)[0]
                gene, rna_id = expression_df.index[start + row], expression_df.columns[column]
                problems.add(kind, str(gene), str(rna_id), str(block[row, column]), int(bad.sum()))
    problems.refuse(source)


def describe_expression(expression_df: pd.DataFrame, genes_df: pd.DataFrame) -> pd.DataFrame:
    """What was read, for the notebook to print.

    Returns
    -------
    DataFrame
        Columns what, n: size, the header's promise, versioned Ensembl ids, symbols that several genes share,
        genes without any expression, and the range of the column sums (1,000,000 for TPM of all genes).
    """
    values = expression_df.to_numpy()
    sums = values.sum(axis=0, dtype=np.float64)
    found = {f"{key} (file)": n for key, n in expression_df.attrs.get("found", {}).items()}
    found |= {
        "genes kept": len(expression_df),
        "RNA samples kept": expression_df.shape[1],
        **gct.gene_counts(expression_df.index, genes_df["symbol"].to_numpy()),
        "genes zero in every sample": int((values.max(axis=1) == 0).sum()),
        "smallest column sum": round(float(sums.min())),
        "largest column sum": round(float(sums.max())),
    }
    return pd.DataFrame({"what": list(found), "n": list(found.values())})


# --------------------------------------------------------------------------------- values and samples


def combine_duplicates(
    expression_df: pd.DataFrame, pairing_df: pd.DataFrame, how: str = "mean"
) -> pd.DataFrame:
    """Genes x RNA samples to genes x samples (METHOD section 1).

    Parameters
    ----------
    expression_df : TPM or CPM, columns RNA ids.
    pairing_df : columns sample_id, rna_id (`pairing.pair_rna`).
    how : several RNA samples of one sample: `"mean"` of log2(1+TPM), taken back to TPM; `"first"` in the
        order of `pairing_df`; `"error"`.

    Returns
    -------
    DataFrame
        float32, columns sample_id in order of first appearance.

    Raises
    ------
    ValueError
        Unknown `how`; RNA ids the table lacks; duplicates under `"error"`.
    """
    if how not in ("mean", "first", "error"):
        raise ValueError(f"duplicates = {how!r}: choose 'mean', 'first' or 'error'.")
    absent = pairing_df["rna_id"][~pairing_df["rna_id"].isin(expression_df.columns)]
    if len(absent):
        raise ValueError(f"{len(absent)} paired RNA ids are not in the expression table: {list(absent[:3])}.")
    several = pairing_df[pairing_df["sample_id"].duplicated(keep=False)]
    if how == "error" and len(several):
        names = list(several["sample_id"].unique())
        raise ValueError(
            f"{len(names)} samples have several RNA samples: {names[:3]}. Set duplicates = 'mean'."
        )
    first_df = pairing_df.drop_duplicates("sample_id")
    values = expression_df[first_df["rna_id"].tolist()].to_numpy(np.float32, copy=True)
    if how == "mean":
        column_of = {sample_id: i for i, sample_id in enumerate(first_df["sample_id"])}
        for sample_id, rna in several.groupby("sample_id", sort=False)["rna_id"]:
            logged = np.log1p(expression_df[rna.tolist()].to_numpy(np.float64))
            values[:, column_of[sample_id]] = np.expm1(logged.mean(axis=1))
    columns = pd.Index(first_df["sample_id"].tolist(), dtype=object)
    return pd.DataFrame(values, index=expression_df.index, columns=columns, copy=False)


def counts_per_million(counts_df: pd.DataFrame) -> pd.DataFrame:
    """Counts (genes x samples) scaled so that every sample sums to 1,000,000; float32.

    Raises
    ------
    ValueError
        A sample without any count.
    """
    totals = counts_df.sum(axis=0).astype(np.float64)
    empty = totals.index[totals <= 0]
    if len(empty):
        raise ValueError(f"{len(empty)} sample(s) have no counts at all: {list(empty[:3])}. Drop them first.")
    values = counts_df.to_numpy(np.float64) * (1e6 / totals.to_numpy())
    return pd.DataFrame(values.astype(np.float32), index=counts_df.index, columns=counts_df.columns)


def read_gene_table(path: str | Path) -> pd.DataFrame:
    """Gene names and biotypes (csv or tsv, also .gz), for example GENCODE: gene_id, gene_biotype, gene_name.

    Returns
    -------
    DataFrame
        Index "gene" (as written, versions kept), columns symbol, biotype.

    Raises
    ------
    FileNotFoundError, ValueError
        No file; no gene, symbol or biotype column; duplicated gene ids.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No gene table at {path}. Check genes_file in the cohort's TOML.")
    separator = "," if path.name.lower().removesuffix(".gz").endswith(".csv") else "\t"
    table_df = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    roles = {column_role(c): c for c in table_df if column_role(c)}
    gene = next((c for c in table_df if c.lower() in ("gene", "gene_id", "ensembl", "name")), None)
    if gene is None or len(roles) < 2:
        raise ValueError(
            f"{path}: needs gene_id, gene_name (or symbol) and gene_biotype; it has {list(table_df.columns)}."
        )
    genes = pd.Index(table_df[gene], name="gene", dtype=object)
    refuse_duplicates(genes, "gene id", str(path))
    return gct.genes_frame(genes, list(table_df[roles["symbol"]]), list(table_df[roles["biotype"]]))


def annotate_genes(genes_df: pd.DataFrame, table_df: pd.DataFrame) -> pd.DataFrame:
    """Fill symbol and biotype from a gene table: by exact id, else by the id without its version.

    Returns
    -------
    DataFrame
        `genes_df` with both columns; a symbol already given (other than the gene id itself) is kept.
    """
    by_stem = table_df[~_stem(table_df.index).duplicated()]
    by_stem = by_stem.set_axis(_stem(by_stem.index))
    filled_df = genes_df.copy()
    for column in ("symbol", "biotype"):
        by_id = pd.Series(genes_df.index.map(table_df[column]), index=genes_df.index, dtype=object)
        by_id_stem = pd.Series(_stem(genes_df.index).map(by_stem[column]), index=genes_df.index, dtype=object)
        known = by_id.fillna(by_id_stem)
        lacks = genes_df[column].isin(["", "nan"]) | (genes_df[column] == genes_df.index)
        filled_df[column] = genes_df[column].where(~lacks | known.isna(), known)
    return filled_df


def _stem(genes: pd.Index) -> pd.Index:
    return genes.str.replace(r"^(ENS[A-Z]*G\d+)\.\d+", r"\1", regex=True)


def protein_coding(genes_df: pd.DataFrame) -> pd.Index:
    """Gene ids whose biotype is protein_coding.

    Raises
    ------
    ValueError
        No gene has a biotype: a gene table is needed first.
    """
    if not (genes_df["biotype"] != "").any():
        raise ValueError(
            "No gene has a biotype. Give genes_file (a GENCODE csv) or set protein_coding_only = false."
        )
    return genes_df.index[genes_df["biotype"] == "protein_coding"]
