"""
The demo cohort: slides and RNA-seq of invented donors, with the truth written beside them.

Every slide has five hidden morphological quantities that vary within its tissue and change the picture
(`lib.simulated.slides`). Some genes follow a quantity (*direct*), some are high in one tissue and follow
nothing within it (*marker*), some follow a technical covariate that also changes the stain (*covariate*),
the rest follow nothing (*null*). An analysis sees `slides/`, `samples.csv` and `expression.gct.gz`; `truth/`
is for scoring it.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri
from tqdm.auto import tqdm

from lib.simulated.aperio import read_stamp, write_svs
from lib.simulated.genes import (
    COVARIATES,
    KINDS,
    TYPICAL,
    gct_bytes,
    plan_genes,
    simulate_expression,
    standardised,
)
from lib.simulated.slides import INK, QUANTITIES, draw
from lib.simulated.tissues import HARD_PAIR, TISSUES

# Raise when drawing, histology or staining change their pictures: slides on disk are then drawn again.
DRAWING_VERSION = 1
HARD_SHIFT = 0.85  # half the distance, in sd, between the hard pair's means: about 80 % can be told apart
COLUMNS = ["sample_id", "slide_id", "donor", "tissue", "rin", "ischaemic_time_min", "age_bracket", "sex"]


class Demo(NamedTuple):
    """Where the parts of a generated cohort are, and how many slides were drawn now or found complete."""

    slides_dir: Path
    samples_csv: Path
    expression_gct: Path
    truth_dir: Path
    n_drawn: int
    n_kept: int


def generate(
    out_dir: Path,
    *,
    n_tissues: int = 8,
    slides_per_tissue: int = 30,
    n_genes: int = 3000,
    slide_um: float = 600.0,
    seed: int = 0,
    n_direct: int = 30,
    n_markers: int = 25,
    n_covariate: int = 60,
    duplicate_share: float = 0.06,
    n_suffix5: int = 0,
    quality: int = 80,
    n_workers: int = 2,
    progress: bool = True,
) -> Demo:
    """
    Write a demo cohort into `out_dir`; same parameters, same pixels and tables, whatever `n_workers`.

    Slides already drawn with the same parameters are kept, so an interrupted call is resumed by repeating it.

    Parameters
    ----------
    out_dir : Path
        Receives `slides/<slide_id>.svs`, `samples.csv`, `expression.gct.gz` (TPM, GCT 1.2),
        `truth/quantities.csv` and `truth/genes.csv`. `samples.csv` appears last.
    n_tissues : int
        The first so many of `lib.simulated.tissues.TISSUES`, at most 8; 8 includes the hard pair.
    slides_per_tissue : int
        Samples (one slide each) per tissue, at least 2. A donor gives a tissue at most once.
    n_genes : int
        All genes: `n_direct` per quantity, `n_markers` per tissue, `n_covariate`, the rest null.
    slide_um : float
        Side of a slide in micrometres, glass included.
    duplicate_share : float
        Share of samples with two RNA samples.
    n_suffix5 : int
        So many sample and slide ids end in 5 where their RNA ids end in 6, as in some published GTEx lists.
    quality : int
        JPEG quality of the slides.
    n_workers : int
        Threads that draw.

    Returns
    -------
    Demo

    Raises
    ------
    ValueError
        For sizes that cannot be met, with the values.
    """
    _check_sizes(
        n_tissues, slides_per_tissue, n_genes, n_direct, n_markers, n_covariate, n_suffix5, n_workers
    )
    out_dir = Path(out_dir)
    demo = Demo(
        out_dir / "slides", out_dir / "samples.csv", out_dir / "expression.gct.gz", out_dir / "truth", 0, 0
    )
    demo.slides_dir.mkdir(parents=True, exist_ok=True)
    demo.truth_dir.mkdir(exist_ok=True)
    tissues = list(TISSUES)[:n_tissues]
    plan_df = plan_samples(tissues, slides_per_tissue, seed=seed, n_suffix5=n_suffix5)
    genes_df = plan_genes(
        tissues,
        QUANTITIES,
        n_genes,
        seed=seed,
        n_direct=n_direct,
        n_markers=n_markers,
        n_covariate=n_covariate,
    )
    tpm_df = simulate_expression(plan_df, genes_df, seed=seed, duplicate_share=duplicate_share)
    n_drawn = _draw_slides(plan_df, demo.slides_dir, slide_um, seed, quality, n_workers, progress)
    _write(demo.expression_gct, gct_bytes(tpm_df, genes_df["symbol"]))
    truth = [
        "sample_id",
        "slide_id",
        "tissue",
        *QUANTITIES,
        "pen",
        "blur",
        "coverage",
        "likeness",
        "h_gain",
        "e_gain",
    ]
    _write(
        demo.truth_dir / "quantities.csv", plan_df[truth].to_csv(index=False, float_format="%.6g").encode()
    )
    public = [
        "symbol",
        "kind",
        "quantity",
        "covariate",
        "tissue",
        "effect",
        "r_planned",
        "tissue_differences",
    ]
    _write(demo.truth_dir / "genes.csv", genes_df[public].to_csv(float_format="%.6g").encode())
    _write(demo.samples_csv, plan_df[COLUMNS].to_csv(index=False).encode())
    return demo._replace(n_drawn=n_drawn, n_kept=len(plan_df) - n_drawn)


def read_truth(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    The planted truth of a cohort written by `generate`.

    Parameters
    ----------
    folder : Path
        The cohort's folder, or its `truth` folder.

    Returns
    -------
    quantities_df : DataFrame
        Index sample_id; slide_id, tissue, the five quantities, what else was done to the slide (pen, blur).
    genes_df : DataFrame
        Index gene; symbol, kind, quantity (of direct genes, else ""), covariate (of covariate genes), tissue
        (of markers), effect (log2 units per sd of the driver), r_planned, tissue_differences (bool).

    Raises
    ------
    FileNotFoundError, ValueError
        If a table is missing, lacks a column, repeats an id or holds an unknown kind, quantity or covariate.
    """
    folder = Path(folder) / "truth" if (Path(folder) / "truth").is_dir() else Path(folder)
    quantities_df = _read_table(
        folder / "quantities.csv", "sample_id", ["slide_id", "tissue", *QUANTITIES, "pen", "blur"]
    )
    genes_df = _read_table(
        folder / "genes.csv", "gene", ["symbol", "kind", "quantity", "covariate", "tissue", "effect"]
    )
    for column, allowed in (
        ("kind", KINDS),
        ("quantity", (*QUANTITIES, "")),
        ("covariate", (*COVARIATES, "")),
    ):
        unknown = sorted(set(genes_df[column]) - set(allowed))
        if unknown:
            raise ValueError(
                f"{folder / 'genes.csv'}: {column} {unknown[0]!r} is not one of {', '.join(allowed)}"
            )
    for kind, column in (("direct", "quantity"), ("covariate", "covariate"), ("marker", "tissue")):
        empty = genes_df.index[(genes_df["kind"] == kind) & (genes_df[column] == "")]
        if len(empty):
            raise ValueError(
                f"{folder / 'genes.csv'}: {kind} gene {empty[0]} has no {column} ({len(empty)} such)"
            )
    values = quantities_df[list(QUANTITIES)].to_numpy(float)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{folder / 'quantities.csv'}: {(~np.isfinite(values)).sum()} quantities are not numbers"
        )
    return quantities_df, genes_df


def _read_table(path: Path, key: str, needed: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: it is written by lib.simulated.demo_cohort.generate with the demo cohort"
        )
    table_df = pd.read_csv(
        path, keep_default_na=False, na_values={name: [""] for name in (*QUANTITIES, "effect")}
    )
    missing = [name for name in [key, *needed] if name not in table_df]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(table_df)}")
    repeated = table_df[key][table_df[key].duplicated()]
    if len(repeated):
        raise ValueError(
            f"{path}: {key} {repeated.iloc[0]!r} occurs more than once ({len(repeated)} repeats)"
        )
    return table_df.set_index(key)


def _check_sizes(
    n_tissues, slides_per_tissue, n_genes, n_direct, n_markers, n_covariate, n_suffix5, n_workers
) -> None:
    planted = n_direct * len(QUANTITIES) + n_markers * n_tissues + n_covariate
    if not 1 <= n_tissues <= len(TISSUES):
        raise ValueError(
            f"n_tissues = {n_tissues}: {len(TISSUES)} kinds can be drawn, give 1 to {len(TISSUES)}"
        )
    if slides_per_tissue < 2:
        raise ValueError(
            f"slides_per_tissue = {slides_per_tissue}: at least 2 are needed to vary within a tissue"
        )
    if n_genes < planted:
        raise ValueError(
            f"n_genes = {n_genes} is too few for {planted} planted genes (n_direct, n_markers, n_covariate)"
        )
    if not 0 <= n_suffix5 <= n_tissues * slides_per_tissue:
        raise ValueError(f"n_suffix5 = {n_suffix5}: there are {n_tissues * slides_per_tissue} samples")
    if n_workers < 1:
        raise ValueError(f"n_workers = {n_workers}: give at least 1")


def plan_samples(
    tissues: list[str], slides_per_tissue: int, *, seed: int, n_suffix5: int = 0
) -> pd.DataFrame:
    """
    One row per sample: ids, covariates, hidden quantities, and how its slide is to be drawn.

    Quantities are normal, cut at +-2.2, independent of each other, and standardised within each tissue.
    """
    rng = np.random.default_rng([seed, 1])
    n = len(tissues) * slides_per_tissue
    n_donors = max(slides_per_tissue, round(n / 3.4))
    donors_df = _donors(rng, n_donors)
    chosen = np.concatenate(
        [np.sort(rng.choice(n_donors, slides_per_tissue, replace=False)) for _ in tissues]
    )
    plan_df = donors_df.iloc[chosen].reset_index(drop=True)
    plan_df["tissue"] = np.repeat(tissues, slides_per_tissue)
    code = {tissue: f"{2 * i + 1:02d}26" for i, tissue in enumerate(tissues)}
    plan_df["rna_stem"] = plan_df["donor"] + "-" + plan_df["tissue"].map(code)
    five = np.zeros(n, bool)
    five[rng.permutation(n)[:n_suffix5]] = True
    plan_df["sample_id"] = plan_df["rna_stem"].where(~five, plan_df["rna_stem"].str[:-1] + "5")
    plan_df["slide_id"] = plan_df["sample_id"]
    _add_covariates(plan_df, rng)
    limit = ndtr(2.2)
    for quantity in QUANTITIES:
        plan_df[quantity] = ndtri(rng.uniform(1 - limit, limit, n))
    if slides_per_tissue > 2:
        by_tissue = plan_df.groupby("tissue")[list(QUANTITIES)]
        plan_df[list(QUANTITIES)] = by_tissue.transform(lambda z: (z - z.mean()) / z.std(ddof=0))
    _add_slide_looks(plan_df, rng)
    return plan_df


def _donors(rng: np.random.Generator, n_donors: int) -> pd.DataFrame:
    letters = np.array(list("123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    names: list[str] = []
    while len(names) < n_donors:
        name = "GTEX-1" + "".join(rng.choice(letters, 4))
        if name not in names:
            names.append(name)
    brackets = ["20-29", "30-39", "40-49", "50-59", "60-69", "70-79"]
    return pd.DataFrame(
        {
            "donor": sorted(names),
            "age_bracket": rng.choice(brackets, n_donors, p=[0.08, 0.08, 0.16, 0.32, 0.32, 0.04]),
            "sex": rng.choice(["male", "female"], n_donors, p=[0.66, 0.34]),
            "donor_index": np.arange(n_donors),
            "donor_delay": rng.standard_normal(n_donors),
        }
    )


def _add_covariates(plan_df: pd.DataFrame, rng: np.random.Generator) -> None:
    """Ischaemic time, mostly the donor's, and RIN, which falls with it."""
    n = len(plan_df)
    delay = 0.8 * plan_df["donor_delay"].to_numpy() + 0.6 * rng.standard_normal(n)
    mean, sd = TYPICAL["ischaemic_time_min"]
    plan_df["ischaemic_time_min"] = np.clip(mean + sd * delay, 30, 1440).round().astype(int)
    mean, sd = TYPICAL["rin"]
    plan_df["rin"] = np.clip(mean + sd * (-0.3 * delay + 0.95 * rng.standard_normal(n)), 4, 10).round(1)


def _add_slide_looks(plan_df: pd.DataFrame, rng: np.random.Generator) -> None:
    """Stain factors, outline, pen, blur. Ischaemic time fades haematoxylin and strengthens eosin a little."""
    n = len(plan_df)
    delay, quality = (standardised(plan_df, name) for name in COVARIATES)
    plan_df["h_gain"] = np.exp(-0.11 * delay + 0.05 * quality + rng.normal(0, 0.03, n))
    plan_df["e_gain"] = np.exp(0.05 * delay + rng.normal(0, 0.035, n))
    plan_df["coverage"] = rng.uniform(0.62, 0.80, n)
    side = plan_df["tissue"].map(dict(zip(HARD_PAIR, (-HARD_SHIFT, HARD_SHIFT), strict=True)))
    plan_df["likeness"] = np.where(side.notna(), np.clip(side + rng.standard_normal(n), -2.2, 2.2), 0.0)
    order = rng.permutation(n)
    n_pen, n_blur = (max(1, round(share * n)) if n >= 8 else 0 for share in (0.04, 0.03))
    plan_df["pen"] = ""
    plan_df.loc[order[:n_pen], "pen"] = rng.choice(list(INK), n_pen)
    plan_df["blur"] = False
    plan_df.loc[order[n_pen : n_pen + n_blur], "blur"] = True


def _draw_slides(
    plan_df: pd.DataFrame,
    folder: Path,
    slide_um: float,
    seed: int,
    quality: int,
    n_workers: int,
    progress: bool,
) -> int:
    """Draw the slides that are missing or differ; return how many. Threads do, as NumPy releases the lock."""
    jobs = []
    for index, row in enumerate(plan_df.to_dict("records")):
        look = {name: row[name] for name in ("likeness", "coverage", "pen", "blur", "h_gain", "e_gain")}
        job = {
            "tissue": row["tissue"],
            "quantities": {name: row[name] for name in QUANTITIES},
            **look,
            "size_um": slide_um,
        }
        recipe = json.dumps([DRAWING_VERSION, seed, index, quality, job], sort_keys=True, default=repr)
        stamp = f"synthetic seed {seed} index {index} {hashlib.sha256(recipe.encode()).hexdigest()[:20]}"
        path = folder / f"{row['slide_id']}.svs"
        if read_stamp(path) != stamp:
            jobs.append((path, stamp, index, job))
    bar = tqdm(total=len(jobs), unit="slide", desc="drawing", disable=not progress or not jobs)
    pool = ThreadPoolExecutor(n_workers)
    try:
        for future in as_completed([pool.submit(_draw_one, seed, quality, *job) for job in jobs]):
            future.result()
            bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    return len(jobs)


def _draw_one(seed: int, quality: int, path: Path, stamp: str, index: int, job: dict) -> None:
    """One slide; its generator hangs on the seed and its place only: order and workers do not matter."""
    write_svs(path, draw(rng=np.random.default_rng([seed, 4, index]), **job), quality=quality, stamp=stamp)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")  # no id: a killed run leaves at most one
    temporary.write_bytes(content)
    os.replace(temporary, path)
