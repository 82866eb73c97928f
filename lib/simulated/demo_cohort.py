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

from lib.errors import InputError
from lib.simulated import planted_sets
from lib.simulated.aperio import JPEG_QUALITY, read_stamp, write_svs
from lib.simulated.genes import (
    ALPHABET,
    COVARIATES,
    KINDS,
    USUAL_GENES,
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
    genes : GeneCounts
        How many genes of each kind.
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
    genes: GeneCounts = USUAL_GENES
    slide_um: float = 600.0
    seed: int = 0
    n_workers: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.n_tissues <= len(TISSUES):
            raise InputError(f"n_tissues = {self.n_tissues}: choose 1 to {len(TISSUES)}")
        if self.slides_per_tissue < 2:
            raise InputError(f"slides_per_tissue = {self.slides_per_tissue}: choose at least 2")

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
        genes_df = plan_genes(tissues, QUANTITIES, self.genes, self.seed)
        tpm_df = simulate_expression(plan_df, genes_df, self.seed)
        n_drawn = _draw_slides(plan_df, raw / "slides", self)
        write_bytes(raw / "expression.gct.gz", gct_bytes(tpm_df, genes_df["symbol"]))
        write_truth(raw, plan_df, genes_df, ["pen", "blur", "coverage", "likeness", "h_gain", "e_gain"])
        planted_sets.write_sets(raw, genes_df, self.seed)
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


def read_truth(raw: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    The planted truth of a simulated cohort, from its folder.

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
        If a table is missing, repeats an id, or holds an unknown or missing kind, driver or quantity.
    """
    numbers = {name: [""] for name in (*QUANTITIES, "effect")}  # texts may be empty
    tables = []
    for name, key in (("quantities.csv", "sample_id"), ("genes.csv", "gene")):
        path = Path(raw) / "truth" / name
        table_df = pd.read_csv(path, keep_default_na=False, na_values=numbers)
        require_unique(table_df[key], f"{path}: {key}")
        tables.append(table_df.set_index(key))
    quantities_df, genes_df = tables
    kind = genes_df["kind"]
    bad = ~kind.isin(KINDS)
    for driven, column, known in (("direct", "quantity", QUANTITIES), ("covariate", "covariate", COVARIATES)):
        bad |= genes_df[column].isin(known) != (kind == driven)
    bad |= (genes_df["tissue"] != "") != (kind == "marker")
    if bad.any():
        first = genes_df.loc[bad, ["kind", "quantity", "covariate", "tissue"]].iloc[0]
        raise InputError(
            f"{path}: {bad.sum()} genes without a valid driver, first {first.name}: {first.to_dict()}"
        )
    if n_gaps := int(quantities_df[list(QUANTITIES)].isna().sum().sum()):
        raise InputError(f"{Path(raw) / 'truth' / 'quantities.csv'}: {n_gaps} quantities are missing")
    return quantities_df, genes_df


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
