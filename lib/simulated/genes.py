"""
Expression with planted truth: which genes follow what, and the TPM values that result.

log2(1 + TPM) of a gene is a base level plus, by kind, a hidden quantity (direct), one tissue (marker), a
technical covariate (covariate) or nothing (null); reads are then counted, so low genes are noisy and tied.
"""

import gzip
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.errors import InputError

KINDS = ("direct", "marker", "covariate", "null")
COVARIATES = ("ischaemic_time_min", "rin")
TYPICAL = {"ischaemic_time_min": (500.0, 240.0), "rin": (7.0, 0.9)}  # mean and sd of the technical covariates
DISPERSION = 0.005  # of the negative binomial read counts: a sd of 0.10 in log2 of high genes
READS_PER_TPM = (30, 60)
DUPLICATE_SHARE = 0.06  # of samples that have two RNA samples
DONOR_SHARE = 0.1  # of a gene's variance within tissues
# Expression levels of null genes, and their shares.
NULL_GROUPS = {"silent": 0.02, "constant": 0.01, "rare": 0.12, "low": 0.25, "expressed": 0.60}
ALPHABET = np.array(list("123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))

# Known markers of the tissues, with their GENCODE 26 ids (the part after ENSG00000).
MARKERS = {
    "Adipose - Subcutaneous": "FABP4:170323.8 ADIPOQ:181092.9 PLIN1:166819.11 LEP:174697.4 CIDEC:187288.10 "
    "LIPE:079435.9 GPD1:167588.12 CFD:197766.7 PPARG:132170.19",
    "Thyroid": "TG:042832.11 TPO:115705.20 TSHR:165409.16 PAX8:125618.16 NKX2-1:136352.17 FOXE1:178919.8 "
    "SLC26A4:091137.11 DIO1:211452.10 HHEX:152804.10 DUOX2:140279.12",
    "Skin - Sun Exposed (Lower leg)": "KRT10:186395.7 FLG:143631.10 KRT1:167768.4 KRT5:186081.11 "
    "LOR:203782.5 DSG1:134760.5 DSC1:134765.9 SPRR2E:203785.8 TP63:073282.12 "
    "KRTDAP:188508.10 CASP14:105141.5",
    "Muscle - Skeletal": "TTN:155657.26 NEB:183091.19 ACTA1:143632.14 CKM:104879.4 "
    "MYH7:092054.12 MYH2:125414.18 MYBPC1:196091.13 TNNT3:130595.17 ACTN3:248746.5 "
    "MYOG:122180.4 MYF6:111046.3",
    "Brain - Cerebellum": "NEUROD1:162992.3 ZIC1:152977.9 ZIC2:043355.11 PAX6:007372.21 CBLN1:102924.11 "
    "CBLN3:139899.10 GABRA6:145863.10 CALB1:104327.7 EN2:164778.4 PVALB:100362.12",
    "Liver": "ALB:163631.16 APOA2:158874.11 SERPINC1:117601.13 APOH:091583.10 FGB:171564.11 CYP2E1:130649.9 "
    "HP:257017.8 CPS1:021826.14 HNF4A:101076.16 NR1I3:143257.11 CPN1:120054.11",
    "Kidney - Cortex": "UMOD:169344.15 AQP2:167580.7 NPHS2:116218.12 SLC12A1:074803.17 SLC22A8:149452.15 "
    "SLC34A1:131183.10 KCNJ1:151704.15 CDH16:166589.12 HNF1B:275410.4 PAX2:075891.21",
    "Pancreas": "PRSS1:204983.13 CELA2A:142615.7 CEL:170835.14 CPA1:091704.9 PNLIP:175535.6 CTRB1:168925.10 "
    "GP2:169347.16 PTF1A:168267.6 RBPJL:124232.10 AMY2A:243480.7 INS:254647.6",
}


def standardised(plan_df: pd.DataFrame, covariate: str) -> np.ndarray:
    """A technical covariate in units of its typical sd, around its typical mean."""
    mean, sd = TYPICAL[covariate]
    return (plan_df[covariate].to_numpy(float) - mean) / sd


def add_covariates(plan_df: pd.DataFrame, donor_delay: np.ndarray, rng: np.random.Generator) -> None:
    """Add ischaemic time, mostly the donor's (standard normal per row), and RIN, which falls with it."""
    n = len(plan_df)
    delay = 0.8 * donor_delay + 0.6 * rng.standard_normal(n)
    mean, sd = TYPICAL["ischaemic_time_min"]
    plan_df["ischaemic_time_min"] = np.clip(mean + sd * delay, 30, 1440).round().astype(int)
    mean, sd = TYPICAL["rin"]
    plan_df["rin"] = np.clip(mean + sd * (-0.3 * delay + 0.95 * rng.standard_normal(n)), 4, 10).round(1)


class GeneCounts(NamedTuple):
    """
    How many genes of each kind: `direct` per quantity, `markers` per tissue, `covariate` in all; the rest of
    `total` are null. `null_groups`: shares of their levels; `null_differ`: share that differs between
    tissues.
    """

    total: int = 3000
    direct: int = 30
    markers: int = 25
    covariate: int = 60
    null_groups: Mapping[str, float] = NULL_GROUPS
    null_differ: float = 0.0


USUAL_GENES = GeneCounts()


def plan_genes(
    tissues: Sequence[str], quantities: Sequence[str], counts: GeneCounts, seed: int
) -> pd.DataFrame:
    """
    One row per gene (index gene): the truth, and base (log2), sd and per-tissue shifts the simulation needs.

    Invented genes are called SYN0001 and carry ids from ENSG00000900001 on, a range no real gene uses.

    Raises
    ------
    ValueError
        More planted genes than genes.
    """
    rng = np.random.default_rng([seed, 2])
    n_genes = counts.total
    n_null = n_genes - counts.direct * len(quantities) - counts.markers * len(tissues) - counts.covariate
    if n_null < 0:
        raise InputError(
            f"n_genes = {n_genes} is too few for {n_genes - n_null} planted genes in {len(tissues)} tissues"
        )
    blocks = [_driven(rng, "direct", "quantity", name, counts.direct) for name in quantities]
    shares = np.array_split(np.arange(counts.covariate), len(COVARIATES))
    blocks += [
        _driven(rng, "covariate", "covariate", name, len(share))
        for name, share in zip(COVARIATES, shares, strict=True)
    ]
    blocks += [_markers(rng, tissue, counts.markers) for tissue in tissues]
    blocks.append(_nulls(rng, n_null, counts.null_groups, counts.null_differ))
    genes_df = pd.concat(blocks, ignore_index=True).iloc[rng.permutation(n_genes)].reset_index(drop=True)
    genes_df[["quantity", "covariate", "tissue"]] = genes_df[["quantity", "covariate", "tissue"]].fillna("")
    invented = genes_df["symbol"].isna()
    number = np.arange(1, invented.sum() + 1)
    genes_df.loc[invented, "symbol"] = [f"SYN{i:04d}" for i in number]
    version = rng.integers(1, 20, len(number))
    genes_df.loc[invented, "gene"] = [
        f"ENSG{900000 + i:011d}.{v}" for i, v in zip(number, version, strict=True)
    ]
    shift = rng.normal(0, 1.2, (n_genes, len(tissues))) * genes_df["tissue_differences"].to_numpy()[:, None]
    shift = np.where((genes_df["kind"] == "marker").to_numpy()[:, None], 0.0, np.clip(shift, -2.5, 2.5))
    shift_df = pd.DataFrame(shift, columns=[f"shift {tissue}" for tissue in tissues])
    return genes_df.join(shift_df).sort_values("gene").set_index("gene")


def _driven(rng: np.random.Generator, kind: str, column: str, name: str, n: int) -> pd.DataFrame:
    """Genes that follow `name`: r with it within a tissue is planned as 0.80 to 0.95, of either sign."""
    effect = rng.uniform(0.7, 1.2, n)
    r = rng.uniform(0.80, 0.95, n)
    return pd.DataFrame(
        {
            "kind": kind,
            column: name,
            "effect": effect * rng.choice([-1, 1], n),
            "r_planned": r,
            "base": rng.uniform(6.5, 11.5, n),
            "sd": effect * np.sqrt(1 / r**2 - 1),
            "tissue_differences": np.arange(n) % 2 == 1,
        }
    )


def _markers(rng: np.random.Generator, tissue: str, n: int) -> pd.DataFrame:
    """Genes high in one tissue and low elsewhere; `effect` is the difference, `sd` their own tissue's."""
    real = [entry.split(":") for entry in MARKERS.get(tissue, "").split()][:n]
    base = rng.uniform(0.1, 1.5, n)
    return pd.DataFrame(
        {
            "gene": [f"ENSG00000{number}" for _, number in real] + [None] * (n - len(real)),
            "symbol": [symbol for symbol, _ in real] + [None] * (n - len(real)),
            "kind": "marker",
            "tissue": tissue,
            "effect": rng.uniform(7.0, 12.0, n),
            "r_planned": 0.0,
            "base": base,
            "sd": rng.uniform(0.3, 1.2, n),
            "tissue_differences": True,
        }
    )


def _nulls(rng: np.random.Generator, n: int, groups: Mapping[str, float], differs: float) -> pd.DataFrame:
    """Genes that follow nothing: silent, constant, hardly counted (many ties), low to high."""
    group = rng.choice(list(groups), n, p=list(groups.values()))
    base = np.select(
        [group == "silent", group == "constant", group == "rare", group == "low"],
        [0.0, 1.0, rng.uniform(0.005, 0.05, n), rng.uniform(0.05, 1.0, n)],
        rng.gamma(4.0, 1.3, n).clip(0.5, 12),
    )
    sd = np.where(
        np.isin(group, ["silent", "constant"]), 0.0, np.minimum(rng.uniform(0.15, 0.8, n), 0.5 * base + 0.05)
    )
    nulls_df = pd.DataFrame({"kind": "null", "effect": 0.0, "r_planned": 0.0, "base": base, "sd": sd})
    return nulls_df.assign(tissue_differences=(rng.random(n) < differs) & (sd > 0) if differs else False)


def simulate_expression(plan_df: pd.DataFrame, genes_df: pd.DataFrame, seed: int) -> pd.DataFrame:
    """
    TPM of every RNA sample: DataFrame (genes x RNA samples), columns sorted, like `GTEX-1ABCD-0126-SM-5A5LT`.
    """
    rng = np.random.default_rng([seed, 3])
    level = log2_levels(plan_df, genes_df, rng)
    rows = rna_rows(rng, len(plan_df), DUPLICATE_SHARE)
    depth = rng.uniform(*READS_PER_TPM, len(rows))
    tpm = counted_tpm(level[:, rows], genes_df, depth, rng)
    names = rna_names(plan_df["rna_stem"].iloc[rows], rng)
    return pd.DataFrame(tpm, index=genes_df.index, columns=names).sort_index(axis=1)


def rna_rows(rng: np.random.Generator, n: int, duplicate_share: float) -> np.ndarray:
    """Row of the sample of each RNA sample: each of `n` once, then a share of them again."""
    return np.concatenate([np.arange(n), np.sort(rng.permutation(n)[: round(duplicate_share * n)])])


def rna_names(stems: pd.Series, rng: np.random.Generator) -> list[str]:
    """Ids of RNA samples: the tissue sample's id and a code that no other has."""
    codes: dict[str, None] = {}
    while len(codes) < len(stems):
        codes["".join(rng.choice(ALPHABET, 5))] = None
    return [f"{stem}-SM-{code}" for stem, code in zip(stems, codes, strict=True)]


def counted_tpm(
    level: np.ndarray, genes_df: pd.DataFrame, depth: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """TPM (genes, RNA samples) from log2 levels, by counting reads at `depth` reads per TPM.

    Counts are negative binomial, so low genes are noisy and tied and high ones are not.
    """
    true_tpm = np.maximum(2**level - 1, 0)
    rate = true_tpm * rng.gamma(1 / DISPERSION, DISPERSION, true_tpm.shape)
    noisy = (genes_df["sd"].to_numpy() > 0)[:, None]
    return np.where(noisy, rng.poisson(rate * depth) / depth, true_tpm)


def drivers(plan_df: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """What genes and features can follow within tissues, each about standard normal (samples x drivers)."""
    return plan_df[list(quantities)].assign(**{name: standardised(plan_df, name) for name in COVARIATES})


def log2_levels(plan_df: pd.DataFrame, genes_df: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """log2(1 + TPM) of the tissue itself, (genes, samples), before counting reads.

    A sum of base, tissue shift, driver, donor and noise. A column `spread` of `plan_df` is a factor on the sd
    of all genes in that sample.
    """
    n_genes, n = len(genes_df), len(plan_df)
    drivers_df = drivers(plan_df, [name for name in genes_df["quantity"].unique() if name])
    driver = (genes_df["quantity"] + genes_df["covariate"]).to_numpy()
    signal = np.zeros((n_genes, n))
    for name in drivers_df:
        signal[driver == name] = drivers_df[name].to_numpy()
    marker = (genes_df["kind"] == "marker").to_numpy()
    own = marker[:, None] & (genes_df["tissue"].to_numpy()[:, None] == plan_df["tissue"].to_numpy()[None, :])
    shift = genes_df[[f"shift {tissue}" for tissue in plan_df["tissue"]]].to_numpy()
    signal = signal * np.where(marker, 0.0, genes_df["effect"].to_numpy())[:, None]
    signal = signal + own * genes_df["effect"].to_numpy()[:, None] + shift
    sd = np.where(marker[:, None] & ~own, 0.25, genes_df["sd"].to_numpy()[:, None])
    if "spread" in plan_df:
        sd = sd * plan_df["spread"].to_numpy()
    # A share of the variance is the donor's; counting noise (sd 0.10) comes later and is subtracted here.
    donor = rng.standard_normal((n_genes, plan_df["donor_index"].max() + 1))[:, plan_df["donor_index"]]
    spread = np.sqrt(np.maximum(sd**2 - 0.010, 0.25 * sd**2))
    noise = np.sqrt(DONOR_SHARE) * donor + np.sqrt(1 - DONOR_SHARE) * rng.standard_normal((n_genes, n))
    return genes_df["base"].to_numpy()[:, None] + signal + spread * noise


def gct_bytes(tpm_df: pd.DataFrame, symbols: pd.Series) -> bytes:
    """A gzipped GCT 1.2 file (genes x samples; Name, Description), the same bytes for the same table."""
    table_df = tpm_df.rename_axis("Name")
    table_df.insert(0, "Description", symbols.loc[table_df.index])
    text = f"#1.2\n{tpm_df.shape[0]}\t{tpm_df.shape[1]}\n" + table_df.to_csv(sep="\t", float_format="%.5g")
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="", compresslevel=4) as packed:
        packed.write(text.encode())
    return buffer.getvalue()
