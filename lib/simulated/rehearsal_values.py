"""
Expression and feature values with planted truth, for the rehearsal (`lib.simulated.rehearsal`).

Given its tissue, a gene follows a hidden quantity of the slide (direct), a technical covariate (covariate) or
nothing (marker, null). Features do the same, channel by channel of the convolutions; the layers after a
convolution are what ReLU and pooling make of its values. Genes and features vary more in some tissues than in
others, and in the same ones: what makes parametric partial-correlation tests reject too often.
"""

import numpy as np
import pandas as pd
from scipy.special import ndtr

from lib.simulated.genes import COVARIATES, standardised
from lib.simulated.slides import QUANTITIES

# Of all genes, one in so many is a marker of each tissue, direct for each quantity, driven by each covariate.
GENES_PER_MARKER, GENES_PER_DIRECT, GENES_PER_COVARIATE = 2250, 1800, 1800
# Baseline groups of the other genes, about as in GTEx: half of all genes are silent or hardly counted.
NULL_GROUPS = {"silent": 0.12, "rare": 0.28, "low": 0.25, "expressed": 0.35}
# Of a convolution's channels in the first and in the last layer: tissue markers, followers of a quantity or
# of a covariate; the rest know tissues weakly.
MARKER_SHARE, FOLLOWER_SHARE, DEAD_SHARE = (0.03, 0.50), (0.06, 0.03), 0.005
DONOR_SHARE = 0.1  # of a gene's variance within tissues


def plan_genes(ids_df: pd.DataFrame, tissues: list[str], seed: int) -> pd.DataFrame:
    """
    What each gene does.

    Parameters
    ----------
    ids_df : DataFrame
        gene, symbol, biotype; kinds are dealt to these rows at random.

    Returns
    -------
    DataFrame
        Index gene; symbol, biotype, kind, quantity, covariate, tissue, effect (log2 units per sd of the
        driver, or over the other tissues), r_planned (within tissues), tissue_differences, base (log2), sd.

    Raises
    ------
    ValueError
        Fewer genes than planted kinds need.
    """
    rng = np.random.default_rng([seed, 2])
    n = len(ids_df)
    shares = [("marker", "tissue", name, GENES_PER_MARKER) for name in tissues]
    shares += [("direct", "quantity", name, GENES_PER_DIRECT) for name in QUANTITIES]
    shares += [("covariate", "covariate", name, GENES_PER_COVARIATE) for name in COVARIATES]
    counts = [max(1, n // per) for *_, per in shares]
    if sum(counts) > n:
        raise ValueError(f"{n} genes are too few for {sum(counts)} planted ones in {len(tissues)} tissues")
    genes_df = ids_df.assign(kind="null", quantity="", covariate="", tissue="")
    order, start = rng.permutation(n), 0
    for (kind, column, name, _), count in zip(shares, counts, strict=True):
        rows = order[start : start + count]
        genes_df.loc[rows, "kind"], genes_df.loc[rows, column] = kind, name
        start += count
    kind = genes_df["kind"].to_numpy()
    group = rng.choice(list(NULL_GROUPS), n, p=list(NULL_GROUPS.values()))
    base, sd = _baseline(rng, group, n)
    driven = np.isin(kind, ["direct", "covariate"])
    r = np.where(driven, rng.uniform(0.75, 0.95, n), 0.0)
    effect = np.where(driven, rng.uniform(0.7, 1.2, n) * rng.choice([-1, 1], n), 0.0)
    effect = np.where(kind == "marker", rng.uniform(5.0, 11.0, n), effect)
    genes_df["effect"], genes_df["r_planned"] = effect, r
    genes_df["tissue_differences"] = (kind == "marker") | ((rng.random(n) < 0.6) & (group != "silent"))
    genes_df["base"] = np.select(
        [kind == "marker", driven], [rng.uniform(0.1, 1.5, n), rng.uniform(6.5, 10.5, n)], base
    )
    noise = np.abs(effect) * np.sqrt(1 / np.where(driven, r, 1) ** 2 - 1)
    genes_df["sd"] = np.select([kind == "marker", driven], [rng.uniform(0.3, 1.2, n), noise], sd)
    return genes_df.set_index("gene")


def _baseline(rng: np.random.Generator, group: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Log2 level and sd of genes that follow nothing."""
    base = np.select(
        [group == "silent", group == "rare", group == "low"],
        [0.0, rng.uniform(0.002, 0.05, n), rng.uniform(0.05, 1.0, n)],
        rng.gamma(3.5, 1.1, n).clip(0.5, 13),
    )
    return base, np.where(group == "silent", 0.0, np.minimum(rng.uniform(0.2, 0.9, n), 0.5 * base + 0.05))


def draw_levels(genes_df: pd.DataFrame, plan_df: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """log2(1 + TPM) of the tissue, float32 [genes, samples], before reads are counted."""
    tissues = sorted(plan_df["tissue"].unique())
    of_sample = np.searchsorted(tissues, plan_df["tissue"])
    n_genes = len(genes_df)
    profile = rng.normal(0, 1.2, (n_genes, len(tissues))).clip(-2.5, 2.5)
    profile *= (genes_df["tissue_differences"] & (genes_df["kind"] != "marker")).to_numpy()[:, None]
    own = genes_df["tissue"].to_numpy()[:, None] == np.array(tissues)[None, :]
    profile += own * genes_df["effect"].to_numpy()[:, None]
    level = (genes_df["base"].to_numpy()[:, None] + profile).astype(np.float32)[:, of_sample]
    sd = np.where(own.any(axis=1)[:, None] & ~own, 0.25, genes_df["sd"].to_numpy()[:, None])
    sd = sd.astype(np.float32)[:, of_sample] * plan_df["spread"].to_numpy(np.float32)
    donor = rng.standard_normal((n_genes, int(plan_df["donor_index"].max()) + 1), dtype=np.float32)
    noise = np.float32(np.sqrt(1 - DONOR_SHARE)) * rng.standard_normal(level.shape, dtype=np.float32)
    noise += np.float32(np.sqrt(DONOR_SHARE)) * donor[:, plan_df["donor_index"]]
    level += sd * noise
    driver = (genes_df["quantity"] + genes_df["covariate"]).to_numpy()
    for name, values in _drivers(plan_df).items():
        rows = driver == name
        level[rows] += np.outer(genes_df["effect"].to_numpy()[rows], values).astype(np.float32)
    return level


def _drivers(plan_df: pd.DataFrame) -> dict[str, np.ndarray]:
    """What genes and features can follow within tissues, each about standard normal, [samples]."""
    quantities = {name: plan_df[name].to_numpy(float) for name in QUANTITIES}
    return quantities | {name: standardised(plan_df, name) for name in COVARIATES}


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
            raise ValueError(
                f"layer {layer} is a {kind} of {n} channels after {len(latent)}: the rehearsal draws "
                "features of plain chains of convolutions only; take a VGG or AlexNet as architecture"
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
    drivers = np.stack(list(_drivers(plan_df).values()))
    rows = np.flatnonzero(kind == "follower")
    latent[rows] += rng.uniform(0.6, 1.3, (len(rows), 1)) * drivers[rng.integers(0, len(drivers), len(rows))]
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
