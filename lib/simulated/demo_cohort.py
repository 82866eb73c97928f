"""
The demo cohort: slides and RNA-seq of invented donors, with the truth written beside them.

Every slide has five hidden morphological quantities that vary within its tissue and change the picture
(`lib.simulated.slides`). Some genes follow a quantity (*direct*), some are high in one tissue and follow
nothing within it (*marker*), some follow a technical covariate that also changes the stain (*covariate*),
the rest follow nothing (*null*). An analysis reads `slides/`, `samples.csv` and `expression.gct.gz`; `truth/`
is for scoring it.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri
from tqdm.auto import tqdm

from lib.simulated.aperio import JPEG_QUALITY, read_stamp, write_svs
from lib.simulated.genes import (
    ALPHABET,
    COVARIATES,
    KINDS,
    GeneCounts,
    add_covariates,
    gct_bytes,
    plan_genes,
    simulate_expression,
    standardised,
)
from lib.simulated.slides import INK, QUANTITIES, SlideSpec, draw
from lib.simulated.tissues import HARD_PAIR, TISSUES
from lib.sources.gtex_tables import require_unique
from lib.sources.mirror import Places
from lib.whole_files import whole_file, write_bytes

# Raise when the drawing of a slide changes: slides on disk are then drawn again.
DRAWING_VERSION = 1
HARD_SHIFT = 0.85  # half the distance, in sd, between the hard pair's means: about 80 % can be told apart
COLUMNS = ["sample_id", "slide_id", "donor", "tissue", "rin", "ischaemic_time_min", "age_bracket", "sex"]
LOOK = ("likeness", "coverage", "pen", "blur", "h_gain", "e_gain")  # of a slide, beside its quantities
GENE_TRUTH = ["symbol", "kind", "quantity", "covariate", "tissue", "effect", "r_planned"]


@dataclass(frozen=True)
class DemoCohort:
    """
    The sizes of a demo cohort; the same sizes give the same pixels and tables.

    Parameters
    ----------
    n_tissues : int
        The first so many of `lib.simulated.tissues.TISSUES`, at most 8; 8 includes the hard pair.
    slides_per_tissue : int
        Samples (one slide each) per tissue, at least 2. A donor gives a tissue at most once.
    n_genes : int
        All genes: `n_direct` per quantity, `n_markers` per tissue, `n_covariate`, the rest null.
    slide_um : float
        Side of a slide in micrometres, glass included.
    n_workers : int
        Threads that draw; the files do not depend on their number.

    Raises
    ------
    ValueError
        For sizes that cannot be met, with the values.
    """

    n_tissues: int = 8
    slides_per_tissue: int = 30
    n_genes: int = 3000
    slide_um: float = 600.0
    seed: int = 0
    n_direct: int = 30
    n_markers: int = 25
    n_covariate: int = 60
    n_workers: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.n_tissues <= len(TISSUES):
            raise ValueError(
                f"n_tissues = {self.n_tissues}: give 1 to {len(TISSUES)}, the tissues drawn here"
            )
        if self.slides_per_tissue < 2:
            raise ValueError(
                f"slides_per_tissue = {self.slides_per_tissue}: variation within a tissue needs 2"
            )
        if self.n_workers < 1:
            raise ValueError(f"n_workers = {self.n_workers}: give at least 1")

    def make_inputs(self, raw: Path, places: Places | None = None) -> dict[str, Any]:
        """
        Write the cohort to its folder `raw`.

        Writes `slides/<slide_id>.svs`, `expression.gct.gz` (TPM, GCT 1.2), `truth/quantities.csv`,
        `truth/genes.csv` and, last, `samples.csv`. Slides already drawn with the same parameters are kept, so
        an interrupted call is resumed by repeating it.

        Returns
        -------
        dict
            n_drawn and n_kept: slides drawn by this call, and slides found complete.
        """
        raw = Path(raw)
        (raw / "slides").mkdir(parents=True, exist_ok=True)
        tissues = list(TISSUES)[: self.n_tissues]
        plan_df = plan_samples(tissues, self.slides_per_tissue, seed=self.seed)
        counts = GeneCounts(self.n_genes, self.n_direct, self.n_markers, self.n_covariate)
        genes_df = plan_genes(tissues, QUANTITIES, counts, self.seed)
        tpm_df = simulate_expression(plan_df, genes_df, self.seed)
        n_drawn = _draw_slides(plan_df, raw / "slides", self)
        write_bytes(raw / "expression.gct.gz", gct_bytes(tpm_df, genes_df["symbol"]))
        write_truth(raw, plan_df, genes_df, ["pen", "blur", "coverage", "likeness", "h_gain", "e_gain"])
        with whole_file(raw / "samples.csv") as temporary:
            plan_df[COLUMNS].to_csv(temporary, index=False)
        return {"n_drawn": n_drawn, "n_kept": len(plan_df) - n_drawn}


def write_truth(raw: Path, plan_df: pd.DataFrame, genes_df: pd.DataFrame, further: list[str]) -> None:
    """Write the tables that `read_truth` reads; `further`: columns of `plan_df` beside the quantities."""
    (raw / "truth").mkdir(parents=True, exist_ok=True)
    with whole_file(raw / "truth" / "quantities.csv") as temporary:
        columns = ["sample_id", "slide_id", "tissue", *QUANTITIES, *further]
        plan_df[columns].to_csv(temporary, index=False, float_format="%.6g")
    with whole_file(raw / "truth" / "genes.csv") as temporary:
        genes_df[[*GENE_TRUTH, "tissue_differences"]].to_csv(temporary, float_format="%.6g")


def read_truth(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    The planted truth of a simulated cohort.

    Parameters
    ----------
    folder : Path
        The cohort's folder, or its `truth` folder.

    Returns
    -------
    quantities_df : DataFrame
        Index sample_id; slide_id, tissue, the five quantities, pen and blur (what else was done to a slide).
    genes_df : DataFrame
        Index gene; symbol, kind, quantity (of direct genes, else ""), covariate (of covariate genes), tissue
        (of markers), effect (log2 units per sd of the driver), r_planned, tissue_differences (bool).

    Raises
    ------
    FileNotFoundError, ValueError
        If a table is missing, lacks a column, repeats an id or holds an unknown kind, quantity or covariate.
    """
    folder = Path(folder) / "truth" if (Path(folder) / "truth").is_dir() else Path(folder)
    path = folder / "genes.csv"
    columns = ["slide_id", "tissue", *QUANTITIES, "pen", "blur"]
    quantities_df = _read_table(folder / "quantities.csv", "sample_id", columns)
    genes_df = _read_table(path, "gene", GENE_TRUTH)
    known = {"kind": KINDS, "quantity": (*QUANTITIES, ""), "covariate": (*COVARIATES, "")}
    for column, allowed in known.items():
        if unknown := sorted(set(genes_df[column]) - set(allowed)):
            raise ValueError(f"{path}: {column} {unknown[0]!r} is not one of {', '.join(allowed)}")
    for kind, column in (("direct", "quantity"), ("covariate", "covariate"), ("marker", "tissue")):
        empty = genes_df.index[(genes_df["kind"] == kind) & (genes_df[column] == "")]
        if len(empty):
            raise ValueError(f"{path}: {kind} gene {empty[0]} has no {column} ({len(empty)} such)")
    values = quantities_df[list(QUANTITIES)].to_numpy(float)
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{folder / 'quantities.csv'}: {n_bad} quantities are not numbers")
    return quantities_df, genes_df


def _read_table(path: Path, key: str, needed: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: it is written with the other files of a simulated cohort"
        )
    table_df = pd.read_csv(
        path, keep_default_na=False, na_values={name: [""] for name in (*QUANTITIES, "effect")}
    )
    if missing := [name for name in [key, *needed] if name not in table_df]:
        raise ValueError(f"{path}: columns {missing} are missing; it has {list(table_df.columns)}")
    require_unique(table_df[key], f"{path}: {key}")
    return table_df.set_index(key)


def plan_samples(tissues: list[str], slides_per_tissue: int, *, seed: int) -> pd.DataFrame:
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
    plan_df["sample_id"] = plan_df["slide_id"] = plan_df["rna_stem"]
    rng.permutation(n)  # unused; the numbers drawn after it stay those of earlier cohorts
    add_covariates(plan_df, plan_df["donor_delay"].to_numpy(), rng)
    limit = ndtr(2.2)
    for quantity in QUANTITIES:
        plan_df[quantity] = ndtri(rng.uniform(1 - limit, limit, n))
    if slides_per_tissue > 2:
        by_tissue = plan_df.groupby("tissue")[list(QUANTITIES)]
        plan_df[list(QUANTITIES)] = by_tissue.transform(lambda z: (z - z.mean()) / z.std(ddof=0))
    _add_slide_looks(plan_df, rng)
    return plan_df


def _donors(rng: np.random.Generator, n_donors: int) -> pd.DataFrame:
    names: list[str] = []
    while len(names) < n_donors:
        name = "GTEX-1" + "".join(rng.choice(ALPHABET, 4))
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


def _draw_slides(plan_df: pd.DataFrame, folder: Path, cohort: DemoCohort) -> int:
    """Draw the slides that are missing or differ, in threads (NumPy releases the lock); return how many."""
    jobs = []
    for index, row in enumerate(plan_df.to_dict("records")):
        quantities = {name: row[name] for name in QUANTITIES}
        look = {name: row[name] for name in LOOK}
        spec = SlideSpec(row["tissue"], quantities, size_um=cohort.slide_um, **look)
        recipe = [DRAWING_VERSION, cohort.seed, index, JPEG_QUALITY, asdict(spec)]
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=repr).encode()).hexdigest()
        stamp = f"synthetic seed {cohort.seed} index {index} {digest[:20]}"
        path = folder / f"{row['slide_id']}.svs"
        if read_stamp(path) != stamp:
            # A generator of seed and place alone: order and number of threads do not matter.
            jobs.append((path, spec, np.random.default_rng([cohort.seed, 4, index]), stamp))
    bar = tqdm(total=len(jobs), unit="slide", desc="drawing", disable=not jobs)
    pool = ThreadPoolExecutor(cohort.n_workers)
    try:
        for future in as_completed([pool.submit(_draw_one, *job) for job in jobs]):
            future.result()
            bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    return len(jobs)


def _draw_one(path: Path, spec: SlideSpec, rng: np.random.Generator, stamp: str) -> None:
    write_svs(path, draw(spec, rng), stamp)
