"""Command to make a rehearsal of GTEx at the paper's size without slides, with planted truth.

    python -m lib.simulated.rehearsal data/raw/gtex-rehearsal

It writes an ordinary cohort of files: samples, donors and tissues of the portal's histology table, gene ids
of GENCODE, and simulated expression and features. Its run shows the time and memory that a real one needs.
Genes and features vary more in some tissues than in others, and in the same ones: this is what makes
parametric partial-correlation tests anti-conservative.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import ndtr

from lib.cohort.expression import read_gene_table
from lib.cohort.gtex_ids import match_tissue
from lib.errors import InputError
from lib.network import models
from lib.simulated.demo_cohort import write_truth
from lib.simulated.genes import (
    COVARIATES,
    READS_PER_TPM,
    GeneCounts,
    add_covariates,
    counted_tpm,
    drivers,
    log2_levels,
    plan_genes,
    rna_names,
    rna_rows,
)
from lib.simulated.slides import QUANTITIES
from lib.sources import gtex_fetch, mirror
from lib.sources.gtex_tables import read_portal
from lib.whole_files import whole_file

TISSUES_CSV = mirror.REPOSITORY / "data" / "reference" / "gtex_tissues.csv"
PORTAL_FILE, GENES_FILE = "GTExPortal.csv", "genes_gencode_v26.csv.gz"
N_SAMPLES, N_GENES = (1006, 330, 334), 56_202  # the paper's: train, validation, test
SETS = ("train", "validation", "test")
COLUMNS = ["sample_id", "slide_id", "donor", "tissue", "split", *COVARIATES, "age_bracket", "sex"]
DUPLICATE_SHARE = 108 / 1670  # the paper's: 1,778 RNA samples of 1,670 slides
SPREAD_LOG_SD = 0.5  # between tissues, of a factor on all variation within a tissue
# Of all genes, one in so many is a marker of each tissue, direct for each quantity, driven by each covariate.
GENES_PER_MARKER, GENES_PER_DIRECT, GENES_PER_COVARIATE = 2250, 1800, 1800
# Null genes about as in GTEx: nearly half are silent or hardly counted, and most differ between tissues.
NULL_GROUPS, NULL_DIFFER = {"silent": 0.12, "rare": 0.28, "low": 0.25, "expressed": 0.35}, 0.6
# Of a convolution's channels in the first and in the last layer: tissue markers, followers of a quantity or
# covariate; the others differ weakly between tissues.
MARKER_SHARE, FOLLOWER_SHARE, DEAD_SHARE = (0.03, 0.50), (0.06, 0.03), 0.005
GENE_BLOCK = 1024  # genes simulated and written at a time


def write_cohort(
    raw: Path,
    folders: Sequence[Path],
    *,
    n_samples: Sequence[int] = N_SAMPLES,
    n_genes: int = N_GENES,
    architecture: str = "vgg16",
    seed: int = 0,
) -> str:
    """
    Write `samples.csv`, `expression.parquet` (TPM), `features.parquet` and `truth/` to `raw`.

    Parameters
    ----------
    folders : sequence of Path
        Where GTEx's tables are looked for; the portal's is downloaded into the first if missing.
    n_samples : three ints
        Samples of train, validation and test; features are simulated for the last two.
    n_genes : int
        Gene ids are the first of `GENES_FILE`; those beyond its end (GENCODE 26 has 56,200) are invented.
    architecture : str
        Whose features are simulated: a plain chain of convolutions (VGG, AlexNet).

    Returns
    -------
    str
        What was written, in one line.

    Raises
    ------
    RuntimeError, ValueError
        No portal table, or too few samples in it; too few genes; a network that is not a plain chain.
    """
    portal_df = read_portal(gtex_fetch.portal(PORTAL_FILE, folders))
    plan_df = plan_samples(portal_df, paper_tissues(portal_df), n_samples, np.random.default_rng([seed, 1]))
    counts = GeneCounts(
        total=n_genes,
        direct=max(1, n_genes // GENES_PER_DIRECT),
        markers=max(1, n_genes // GENES_PER_MARKER),
        covariate=len(COVARIATES) * max(1, n_genes // GENES_PER_COVARIATE),
        null_groups=NULL_GROUPS,
        null_differ=NULL_DIFFER,
    )
    genes_df = plan_genes(sorted(plan_df["tissue"].unique()), QUANTITIES, counts, seed)
    genes_df, n_known = with_known_ids(genes_df, gtex_fetch.find(GENES_FILE, folders))
    features_df = draw_features(
        models.feature_table(architecture), plan_df[plan_df["split"] != "train"], seed
    )
    raw.mkdir(parents=True, exist_ok=True)
    with whole_file(raw / "features.parquet") as temporary:
        features_df.to_parquet(temporary)
    n_rna = _write_expression(raw / "expression.parquet", plan_df, genes_df, seed)
    write_truth(raw, plan_df.assign(pen="", blur=False), genes_df, ["pen", "blur"])
    with whole_file(raw / "samples.csv") as temporary:
        plan_df[COLUMNS].to_csv(temporary, index=False)
    return (
        f"{raw}: {len(plan_df):,} of the portal's {len(portal_df):,} tissue samples, {n_rna:,} RNA samples,"
        f" {n_genes:,} genes ({n_genes - n_known:,} ids invented), {len(features_df):,} features"
    )


def paper_tissues(portal_df: pd.DataFrame) -> list[str]:
    """The paper's 39 tissues as the portal's table spells them."""
    names = pd.read_csv(TISSUES_CSV).query("in_paper")["tissue"]
    return [match_tissue(name, portal_df["tissue"]) for name in names]


def plan_samples(
    portal_df: pd.DataFrame, tissues: Sequence[str], n_samples: Sequence[int], rng: np.random.Generator
) -> pd.DataFrame:
    """
    Real tissue samples in three sets of whole donors: of each tissue equal numbers, or all it has.

    Returns
    -------
    DataFrame
        One row per sample, sorted by id: sample_id, slide_id, donor, tissue, split, sex, age_bracket (real);
        ischaemic_time_min, rin, the five `QUANTITIES` (standard normal), donor_index and spread (factor on
        every sd in the sample's tissue), simulated.

    Raises
    ------
    ValueError
        Too few samples for a set, naming both numbers.
    """
    listed_df = portal_df[portal_df["tissue"].isin(tissues)].sort_values("sample_id")
    donors = listed_df["donor"].unique()
    shares = np.cumsum(n_samples) / np.sum(n_samples)
    place = (rng.permutation(len(donors)) + 0.5) / max(len(donors), 1)
    set_of = dict(zip(donors, np.searchsorted(shares, place), strict=True))
    sets = listed_df["donor"].map(set_of)
    parts = []
    for number, (name, n) in enumerate(zip(SETS, n_samples, strict=True)):
        of_set_df = listed_df[sets == number].sample(frac=1, random_state=rng.integers(2**32))
        if len(of_set_df) < n:
            raise InputError(
                f"the {name} set needs {n:,} samples, but its donors gave {len(of_set_df):,}: ask for fewer"
                " (--samples), or give the whole portal table"
            )
        # one sample of each tissue in turn
        turn = of_set_df.groupby("tissue").cumcount().sort_values(kind="stable")
        parts.append(of_set_df.loc[turn.index[:n]].assign(split=name))
    plan_df = pd.concat(parts).sort_values("sample_id").reset_index(drop=True)
    plan_df["slide_id"] = plan_df["sample_id"]
    plan_df["donor_index"], donors = pd.factorize(plan_df["donor"])
    add_covariates(plan_df, rng.standard_normal(len(donors))[plan_df["donor_index"]], rng)
    for quantity in QUANTITIES:
        plan_df[quantity] = rng.standard_normal(len(plan_df))
    tissue, names = pd.factorize(plan_df["tissue"], sort=True)
    plan_df["spread"] = np.exp(SPREAD_LOG_SD * rng.standard_normal(len(names)))[tissue]
    return plan_df


def with_known_ids(genes_df: pd.DataFrame, genes_csv: Path | None) -> tuple[pd.DataFrame, int]:
    """The genes under the ids, symbols and biotypes of a gene table, as far as it goes; how many it has."""
    named_df = genes_df.reset_index().assign(biotype="")
    if genes_csv is None:
        return named_df.set_index("gene"), 0
    known_df = read_gene_table(genes_csv).head(len(named_df)).reset_index()
    for column in known_df:
        named_df.loc[: len(known_df) - 1, column] = known_df[column]
    return named_df.set_index("gene"), len(known_df)


def _write_expression(path: Path, plan_df: pd.DataFrame, genes_df: pd.DataFrame, seed: int) -> int:
    """TPM of genes x RNA samples, a block of genes at a time: memory does not grow with their number.

    Columns are not scaled to a million. Returns the number of RNA samples.
    """
    rng = np.random.default_rng([seed, 3])
    rows = np.sort(rna_rows(rng, len(plan_df), DUPLICATE_SHARE))
    depth = rng.uniform(*READS_PER_TPM, len(rows))
    texts = ["symbol", "biotype"]
    fields = [(name, pa.string()) for name in ("gene", *texts)]
    fields += [(name, pa.float32()) for name in rna_names(plan_df["sample_id"].iloc[rows], rng)]
    schema = pa.schema(fields)
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=False) as writer,
    ):
        for number, start in enumerate(range(0, len(genes_df), GENE_BLOCK)):
            block_df = genes_df.iloc[start : start + GENE_BLOCK]
            rng = np.random.default_rng([seed, 4, number])
            tpm = counted_tpm(log2_levels(plan_df, block_df, rng)[:, rows], block_df, depth, rng)
            columns = [pa.array(list(block_df.index), pa.string())]
            columns += [pa.array(block_df[name].tolist(), pa.string()) for name in texts]
            columns += [pa.array(column) for column in np.ascontiguousarray(tpm.T, np.float32)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return len(rows)


# ------------------------------------------------------------------------------------------------ features


def draw_features(feature_table: pd.DataFrame, plan_df: pd.DataFrame, seed: int) -> pd.DataFrame:
    """
    Feature values per position, float64, features (index feature) x samples (columns sample_id).

    A convolution's channel is a mean L over positions; the layers after it are E[max(0, x)] of x ~ N(L, 1)
    (ReLU), the same at L + 1 (a maximum of four), or L standardised (batch norm).

    Raises
    ------
    ValueError
        A layer that does not follow the convolution before it channel by channel.
    """
    layers = list(feature_table.groupby("layer", sort=True))
    parts, latent, dead = [], np.empty((0, len(plan_df))), np.empty(0, bool)
    for place, (layer, table_df) in enumerate(layers):
        kind, n = str(table_df["layer_kind"].iloc[0]).lower(), len(table_df)
        if "conv" in kind:
            rng = np.random.default_rng([seed, 5, place])
            latent, dead = _channels(rng, n, place / max(len(layers) - 1, 1), plan_df)
        elif n != len(latent) or not any(word in kind for word in ("relu", "pool", "norm")):
            raise InputError(
                f"layer {layer} is a {kind} of {n} channels after {len(latent)}, and the rehearsal simulates"
                " plain chains of convolutions only: choose a VGG or AlexNet as architecture"
            )
        parts.append(_after(kind, latent, dead))
    return pd.DataFrame(
        np.concatenate(parts), index=pd.Index(feature_table["feature"], name="feature"),
        columns=pd.Index(plan_df["sample_id"].tolist(), dtype=object),
    )  # fmt: skip


def _channels(
    rng: np.random.Generator, n: int, depth: float, plan_df: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """L of `n` channels, [n, samples], at `depth` 0 (first layer) to 1 (last); which are dead after ReLU."""
    tissues = sorted(plan_df["tissue"].unique())
    of_sample = np.searchsorted(tissues, plan_df["tissue"])
    marker, follower = (a + depth * (b - a) for a, b in (MARKER_SHARE, FOLLOWER_SHARE))
    kind = rng.choice(["marker", "follower", "plain"], n, p=[marker, follower, 1 - marker - follower])
    profile = rng.normal(0, 0.4, (n, len(tissues)))
    profile[kind == "follower"] *= rng.random(((kind == "follower").sum(), 1)) < 0.5
    rows = np.flatnonzero(kind == "marker")
    sign = np.where(rng.random(len(rows)) < 0.85, 1, -1)
    profile[rows, rng.integers(0, len(tissues), len(rows))] += sign * rng.uniform(1.0, 6.0, len(rows))
    sd = rng.uniform(0.3, 0.7, (n, 1)) * plan_df["spread"].to_numpy()
    latent = profile[:, of_sample] + sd * rng.standard_normal((n, len(of_sample)))
    followed = drivers(plan_df, QUANTITIES).to_numpy().T
    rows = np.flatnonzero(kind == "follower")
    latent[rows] += (
        rng.uniform(0.6, 1.3, (len(rows), 1)) * followed[rng.integers(0, len(followed), len(rows))]
    )
    return latent, rng.random(n) < DEAD_SHARE


def _after(kind: str, latent: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """Values of a layer of this kind whose convolution has the means `latent`."""
    if "conv" in kind:
        return latent
    if "norm" in kind:
        return (latent - latent.mean(axis=1, keepdims=True)) / latent.std(axis=1, keepdims=True)
    mean = latent + 1 if "pool" in kind else latent
    values = mean * ndtr(mean) + np.exp(-(mean**2) / 2) / np.sqrt(2 * np.pi)
    values[dead] = 0
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit code 2 when the cohort could not be made."""
    parser = argparse.ArgumentParser(prog="python -m lib.simulated.rehearsal", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the cohort is written")
    parser.add_argument("--tables", type=Path, help="folder of GTEx's tables; default: gtex beside FOLDER")
    parser.add_argument("--samples", type=int, nargs=3, default=N_SAMPLES, metavar=("TRAIN", "VAL", "TEST"))
    parser.add_argument("--genes", type=int, default=N_GENES)
    parser.add_argument("--architecture", default="vgg16", help="whose features: a VGG or alexnet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folders = mirror.search_folders(options.tables or options.folder.absolute().parent / "gtex", "gtex")
    sizes = {"n_samples": options.samples, "n_genes": options.genes, "seed": options.seed}
    try:
        print(write_cohort(options.folder, folders, architecture=options.architecture, **sizes))
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
