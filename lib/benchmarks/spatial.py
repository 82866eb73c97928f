"""Timing of the effective size of spots: what its rings of distance cost beyond one pass over all pairs."""

import numpy as np
import pandas as pd
import torch

from lib.benchmarks.timing import row, timed
from lib.statistics import block_products, effective_size, spatial_lags

PITCH_UM = 100.0
N_LAGS = 4
BLOCK = 1024  # genes at a time


def spatial_rows(
    n_genes: int = 6_000, n_features: int = 9_920, edge: int = 30, n_repeats: int = 2
) -> list[dict[str, object]]:
    """lambda of all pairs for four rings of one section of edge x edge spots, against one all-pairs pass.

    The pass is the library's own: float32 product, threshold and histogram.
    """
    rng = np.random.default_rng(0)
    n = edge * edge
    column, line = np.divmod(np.arange(n), edge)
    samples_df = pd.DataFrame(
        {"slide_id": "s", "mpp": 1.0, "l0_x": column * PITCH_UM, "l0_y": line * PITCH_UM}
    )
    samples_df = samples_df.assign(l0_width=PITCH_UM, l0_height=PITCH_UM)
    classes = spatial_lags.lag_classes(samples_df)
    some = classes._replace(pairs=classes.pairs[:N_LAGS], names=classes.names[:N_LAGS])
    x, y = (rng.standard_normal((k, n)) for k in (n_genes, n_features))
    for rows in (x, y):
        rows -= rows.mean(axis=1, keepdims=True)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    groups, leverage = np.zeros(n, int), np.full(n, 1 / n)
    x32, y32 = x.astype(np.float32), y.astype(np.float32)
    starts = np.arange(0, n_features, 320)

    def one_pass() -> None:
        block_products.all_pairs(x32, y32, starts, 0.7, progress=False)

    def rings() -> None:
        inflation = effective_size.inflation(x, y, groups, some, leverage)
        for start in range(0, n_genes, BLOCK):
            inflation.of_block(slice(start, start + BLOCK))

    def rings_of_links() -> None:
        r_t = torch.empty(BLOCK, n_features)  # whatever it holds takes as long
        inflation = effective_size.inflation(x, y, groups, some, leverage)
        for start in range(0, n_genes, BLOCK):
            inflation.of_block(slice(start, start + BLOCK), r_t[: min(BLOCK, n_genes - start)])

    alone_s, of_links_s, pass_s = timed(rings, rings_of_links, one_pass, n_repeats=n_repeats)
    work = f"effective size, {N_LAGS} rings: {n_genes * n_features / 1e6:,.0f} M pairs, {n} spots"
    peer = "one pass over all pairs"
    return [
        row(f"{work}; as links take it, r at hand", of_links_s, peer, pass_s, "<= 3", n_repeats),
        row(f"{work}; alone", alone_s, peer, pass_s, "<= 3", n_repeats),
    ]
