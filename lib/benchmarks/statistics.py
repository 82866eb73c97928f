"""Timings of the statistics at the paper's size: correlation, permutations, partial correlations, memory.

Simulated tables of that size stand in for a cohort, so that no data are needed.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats

from lib.benchmarks.timing import row, timed
from lib.statistics import (
    block_products,
    conditional_independence,
    correlation,
    expression_levels,
    link_tests,
    pair_tests,
    permutations,
    reproducibility,
)

N_TISSUES = 39


class Size(NamedTuple):
    """Size of the benchmark: the paper's, except n_max_permutations, which scales the limit alike."""

    n_genes: int = 56_202
    n_features: int = 9_920
    n_slides: int = 334
    n_pairs: int = 27_671
    n_permutations: int = 1_000
    n_max_genes: int = 6_000  # genes of the max statistic, about those at E_T = 7
    n_max_permutations: int = 200
    n_repeats: int = 2
    n_peer_calls: int = 2_000  # of alternatives that are too slow to run completely


QUICK = Size(2_000, 600, 120, 2_000, 100, 300, 20, 2)


class Cohort(NamedTuple):
    """Simulated tables: markers of tissues among noise, so that some pairs pass R_T."""

    log_df: pd.DataFrame
    features_df: pd.DataFrame
    genes_table: pd.DataFrame
    samples_df: pd.DataFrame
    pairs_df: pd.DataFrame


def made_up(size: Size, seed: int = 0) -> Cohort:
    """One in fifty genes and one in five features mark a tissue; n_pairs pairs of markers are tested."""
    rng = np.random.default_rng(seed)
    tissue = np.arange(size.n_slides) % N_TISSUES
    ids = [f"s{i}" for i in range(size.n_slides)]
    samples_df = pd.DataFrame({"sample_id": ids, "tissue": [f"t{t:02d}" for t in tissue]})
    frames = []
    for n, share in ((size.n_genes, 50), (size.n_features, 5)):
        rows = rng.standard_normal((n, size.n_slides), dtype=np.float32)
        markers = np.arange(0, n, share)
        rows[markers] += 8 * (tissue == rng.integers(0, N_TISSUES, len(markers))[:, None])
        frames.append(rows)
    genes, features = (
        [f"g{i}" for i in range(size.n_genes)],
        [f"{i // 320}_{i % 320}" for i in range(size.n_features)],
    )
    log_df = pd.DataFrame(frames[0], index=genes, columns=ids)
    features_df = pd.DataFrame(frames[1].astype(np.float64), index=features, columns=ids)
    table = expression_levels.highest_median(log_df, samples_df.set_index("sample_id")["tissue"])
    pairs_df = pd.DataFrame({
        "gene": rng.choice(genes[::50][:995], size.n_pairs),
        "feature": rng.choice(features[::5][:1947], size.n_pairs),
    })  # fmt: skip
    pairs_df["tissue"] = table["tissue"].loc[pairs_df["gene"]].to_numpy()
    pairs_df["r"] = correlation.r_of_pairs(log_df, features_df, pairs_df)
    return Cohort(log_df, features_df, table, samples_df, pairs_df)


def all_pairs_rows(cohort: Cohort, size: Size) -> list[dict[str, object]]:
    """`correlate`, and its loop alone, against the bare product and straightforward implementations."""
    x, _ = correlation.standardise(cohort.log_df, "gene")
    y, _ = correlation.standardise(cohort.features_df, "feature")
    x_t, y_t = torch.from_numpy(x), torch.from_numpy(y)
    starts, _ = block_products.layer_runs(correlation.feature_layers(cohort.features_df.index)[0])
    out_t = torch.empty(1024, len(y))

    def product():
        for i in range(0, len(x), 1024):
            torch.mm(x_t[i : i + 1024], y_t.T, out=out_t[: min(1024, len(x) - i)])

    def loop():
        block_products.all_pairs(x, y, starts, 0.7, progress=False)

    def whole():
        correlation.correlate(
            cohort.log_df, cohort.features_df, genes_table=cohort.genes_table, progress=False
        )

    def plain():
        for i in range(0, len(x), 1024):
            r_t = torch.mm(x_t[i : i + 1024], y_t.T, out=out_t[: min(1024, len(x) - i)])
            torch.histc(r_t, block_products.N_BINS, -1, 1)
            (r_t.abs() >= 0.7).nonzero()

    part = max(1, len(x) // 50)

    def corrcoef():
        log, features = cohort.log_df.iloc[:part].to_numpy(float), cohort.features_df.to_numpy()
        for i in range(0, part, 256):
            r = np.corrcoef(log[i : i + 256], features)[: len(log[i : i + 256]), len(log[i : i + 256]) :]
            np.histogram(r, block_products.N_BINS, (-1, 1))
            np.nonzero(np.abs(r) >= 0.7)

    product_s, loop_s, whole_s, plain_s = timed(product, loop, whole, plain, n_repeats=size.n_repeats)
    (corrcoef_s,) = timed(corrcoef, n_repeats=1)
    all_pairs = f"{len(x) * len(y) / 1e6:,.0f} M pairs, {x.shape[1]} slides"
    work, n = f"all pairs, threshold, histogram: {all_pairs}", size.n_repeats
    return [
        row(work, loop_s, "bare float32 product", product_s, "<= 1.3", n),
        row(f"correlate, whole call: {all_pairs}", whole_s, "bare float32 product", product_s, "", n),
        row(work, loop_s, "torch, plain passes", plain_s, "< 1", n),
        row(work, loop_s, "numpy.corrcoef (1/50 of it)", corrcoef_s * len(x) / part, "< 1", 1),
    ]  # fmt: skip


def pair_rows(cohort: Cohort, size: Size) -> list[dict[str, object]]:
    """p of given pairs with the paper's number of permutations, and the three partial correlations."""
    log_df, features_df, _, samples_df, pairs_df = cohort
    rows = []
    x, y = (
        log_df.loc[pairs_df["gene"].iloc[0]].to_numpy(float),
        features_df.loc[pairs_df["feature"].iloc[0]].to_numpy(),
    )
    n_calls, rng = size.n_peer_calls, np.random.default_rng(0)
    for scheme in ("free", "within_tissue"):
        perms = permutations.draw(scheme, size.n_permutations, samples_df, 0)

        def ours(perms=perms):
            pair_tests.pair_p(log_df, features_df, pairs_df, perms, progress=False)

        def scipy_calls():
            for _ in range(n_calls):
                stats.pearsonr(rng.permutation(x), y)

        ours_s, scipy_s = timed(ours, scipy_calls, n_repeats=size.n_repeats)
        whole_s = scipy_s / n_calls * len(pairs_df) * size.n_permutations
        work = f"p of {len(pairs_df):,} pairs, {size.n_permutations:,} permutations, {scheme}"
        rows.append(
            row(
                work,
                ours_s,
                f"scipy.stats.pearsonr (scaled from {n_calls:,} calls)",
                whole_s,
                "20 s",
                size.n_repeats,
            )
        )

    def partials():
        conditional_independence.pairs_conditional(log_df, features_df, pairs_df, samples_df)

    peer, peer_call, n_calls_peer = _partial_peer(x, y, (samples_df["tissue"] == "t00").to_numpy(float))
    ours_s, peer_s = timed(partials, peer_call, n_repeats=size.n_repeats)
    work = f"three partial correlations with tests and intervals, {len(pairs_df):,} pairs"
    name = f"{peer} (scaled from {n_calls_peer} pairs)"
    return [*rows, row(work, ours_s, name, peer_s / n_calls_peer * len(pairs_df), "1 s", size.n_repeats)]


def _partial_peer(x: np.ndarray, y: np.ndarray, t: np.ndarray) -> tuple[str, Callable[[], None], int]:
    """pingouin, or scipy on residuals where pingouin is not installed: three calls for each pair."""
    df = pd.DataFrame({"g": x, "f": y, "t": t})
    triples = (("g", "f", "t"), ("f", "t", "g"), ("g", "t", "f"))
    try:
        import pingouin
    except ImportError:

        def call():
            for _ in range(20):
                for a, b, given in triples:
                    z = np.column_stack([np.ones(len(df)), df[given]])
                    stats.pearsonr(*(df[v] - z @ np.linalg.lstsq(z, df[v])[0] for v in (a, b)))

        return "numpy.linalg.lstsq and scipy.stats.pearsonr", call, 20

    def call():
        for _ in range(20):
            for a, b, given in triples:
                pingouin.partial_corr(df, a, b, given)

    return "pingouin.partial_corr", call, 20


ALL_SHUFFLES = link_tests.Plan(exceedances=10**9, progress=False)


def every_shuffle(
    cohort: Cohort, genes: pd.DataFrame, perms: permutations.Permutations, device: str = "cpu"
) -> link_tests.LinkTests:
    """All shuffles for every gene, each sample of a donor of its own."""
    samples_df = cohort.samples_df.drop(columns="donor", errors="ignore")
    plan = replace(ALL_SHUFFLES, device=device)
    return link_tests.run(genes, cohort.features_df, samples_df, perms, None, plan)


def max_statistic_rows(cohort: Cohort, size: Size, device: str = "cpu") -> list[dict[str, object]]:
    """Family-wise p within tissues against its bare products, and a plain torch pass.

    Both times are proportional to the number of permutations, so fewer than 1,000 give the ratio.
    """
    genes, perms, products = max_statistic(cohort, size, device)
    n, target = size.n_repeats, "<= 1.25"
    product_s, z_s, plain_s = timed(
        products, lambda: every_shuffle(cohort, genes, perms, device),
        lambda: products(lambda r_t: r_t.abs().amax(dim=1), gather=True), n_repeats=n,
    )  # fmt: skip
    work, bare = max_work(cohort, size), "its bare products"
    return [
        row(work, z_s, bare, product_s, target, n, device),
        row(work, z_s, "plain torch: abs, amax", plain_s, "< 1", n, device),
    ]


def max_work(cohort: Cohort, size: Size) -> str:
    """Name of the work."""
    sizes = f"{min(size.n_max_genes, len(cohort.log_df)):,} genes x {len(cohort.features_df):,} features"
    return f"max statistic within tissues, {sizes}, {size.n_max_permutations:,} permutations, z"


def max_statistic(
    cohort: Cohort, size: Size, device: str, dtype: torch.dtype = torch.float32
) -> tuple[pd.DataFrame, permutations.Permutations, Callable[..., None]]:
    """Genes and shuffles of the max statistic, and its products, with something done to each block."""
    genes = cohort.log_df.iloc[: size.n_max_genes]
    perms = permutations.draw("within_tissue", size.n_max_permutations, cohort.samples_df, 0)
    tables = genes, cohort.features_df
    x_t, y_t = (torch.from_numpy(df.to_numpy(np.float32, copy=True)).to(device, dtype) for df in tables)
    order = torch.from_numpy(perms.order.astype(np.int64)).to(device)
    block = 1024 if device == "cpu" else 16_384
    out_t = torch.empty(block, len(y_t), dtype=dtype, device=device)

    def products(use=lambda r_t: None, gather=False):
        for i in range(len(order)):
            moved_t = x_t[:, order[i]] if gather else x_t
            for g in range(0, len(x_t), block):
                use(torch.mm(moved_t[g : g + block], y_t.T, out=out_t[: min(block, len(x_t) - g)]))
        if device != "cpu":
            torch.cuda.synchronize(device)

    return genes, perms, products


def reproducibility_rows(cohort: Cohort, size: Size) -> list[dict[str, object]]:
    """S3 Fig over all pairs against its two bare products."""
    x_t = torch.from_numpy(cohort.log_df.to_numpy(copy=True))
    y_t = torch.from_numpy(cohort.features_df.to_numpy(np.float32, copy=True))
    out_t = torch.empty(1024, len(y_t))

    def products():
        for i in range(0, len(x_t), 1024):
            for _ in range(2):
                torch.mm(x_t[i : i + 1024], y_t.T, out=out_t[: min(1024, len(x_t) - i)])

    one = (cohort.log_df, cohort.features_df)
    product_s, ours_s = timed(
        products, lambda: reproducibility.compare(one, one, progress=False), n_repeats=1
    )
    return [
        row(
            "validation against test over all pairs, with density",
            ours_s,
            "two bare products",
            product_s,
            "",
            1,
        )
    ]


def memory_rows(cohort: Cohort, size: Size) -> list[dict[str, object]]:
    """Peak memory beyond the inputs, GB in the columns of seconds; Linux only, else no row."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists() or not os.access(clear, os.W_OK):
        return []
    perms = permutations.draw("within_tissue", size.n_max_permutations, cohort.samples_df, 0)
    genes = cohort.log_df.iloc[: size.n_max_genes]
    # with covariates the table of rearrangements x genes dominates; few slides and features are enough
    few_df = cohort.samples_df.head(2 * N_TISSUES)
    few = cohort.log_df[few_df["sample_id"]], cohort.features_df.iloc[:10][few_df["sample_id"]]
    few_perms = permutations.draw("within_tissue", size.n_permutations, few_df, 0)
    covariates = np.random.default_rng(0).normal(size=(len(few_df), 2))
    covariates_df = pd.DataFrame(covariates, few_df["sample_id"]).add_prefix("c")
    every = f"the max statistic of {size.n_genes:,} genes with covariates"
    calls = {
        "correlate": lambda: correlation.correlate(
            cohort.log_df, cohort.features_df, genes_table=cohort.genes_table, progress=False
        ),
        f"the max statistic of {len(genes):,} genes": lambda: every_shuffle(cohort, genes, perms),
        f"{every}, {size.n_permutations:,} permutations, {len(few_df)} slides": lambda: link_tests.run(
            *few, few_df.drop(columns="donor", errors="ignore"), few_perms, covariates_df, ALL_SHUFFLES
        ),
    }
    rows = []
    for name, call in calls.items():
        clear.write_text("5")  # resets the high-water mark
        before = _status_gb(status, "VmRSS")
        call()
        peak = max(_status_gb(status, "VmHWM") - before, 1e-3)
        dense = size.n_genes * size.n_features * 4 / 1e9
        work = f"peak memory of {name} beyond its inputs, GB"
        rows.append(row(work, peak, "dense float32 matrix, GB", dense, "1.5 GB", 1))
    return rows


def _status_gb(status: Path, key: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e9


def statistics_rows(size: Size = Size()) -> list[dict[str, object]]:  # noqa: B008
    """All rows of the statistics on the CPU."""
    cohort = made_up(size)
    parts = (memory_rows, all_pairs_rows, pair_rows, max_statistic_rows, reproducibility_rows)
    return [r for part in parts for r in part(cohort, size)]
