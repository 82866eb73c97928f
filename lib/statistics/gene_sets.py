"""Gene sets that follow a feature within tissues: the tests of links, for a set of genes at a time.

With u = z^2 / lambda, the squared statistic of a link, so that genes may follow the feature in either
direction, a set S of m genes is held against a feature by

    T = (mean of u in S - mean of u in B) / (sd of u in B) * sqrt(m)

where B are all genes, or BACKGROUND of them drawn at random. B is what makes the test competitive: a random
set in which some genes have a link is no finding (restandardisation: Efron and Tibshirani 2007, Ann Appl Stat
1:107). A set's p holds its largest T over the features against the largest under the same shuffles within
tissues that test the links. The genes of a sample stay together, so that correlation between them is
respected, which tests of lists (hypergeometric, Kolmogorov-Smirnov) ignore (Goeman and Buehlmann 2007,
Bioinformatics 23:980). Features are the leads of clumps. Variables are rows, samples are columns.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from tqdm.auto import tqdm

from lib.statistics import clumps, link_tests, sequential
from lib.statistics.block_products import full_precision
from lib.statistics.false_discovery import hierarchical_q
from lib.statistics.link_tests import Plan, Sides
from lib.statistics.permutations import Permutations
from lib.statistics.residuals import covariate_scales

SMALLEST, LARGEST = 10, 500  # genes of a set that were tested; beyond these a set says nothing of its own
BACKGROUND = 1000  # genes
BLOCK_VALUES = 8_000_000  # pairs of gene and feature under shuffles, in one product
TIE = 1e-6  # null maxima are kept in float32
MOST_NAMES = 20  # of genes, in one row of a table
FEWEST_SHUFFLES = 1000
TINY = 1e-12  # of a variance: no gene of B varies with the feature


class SetTests(NamedTuple):
    """What was tested, and the p of sets.

    sides : genes, and the lead features of clumps.
    names : of the sets. members : 0/1 matrix [n_sets, n_genes].
    observed : float64 [n_sets, n_features].
    null : p with the null maxima of every set.
    """

    sides: Sides
    names: pd.Index
    members: sparse.csr_array
    observed: np.ndarray
    null: sequential.SequentialP


def membership(sets: Mapping[str, Sequence[str]], genes: pd.Index) -> tuple[pd.Index, sparse.csr_array]:
    """Sets of SMALLEST to LARGEST of the genes: their names, and a 0/1 matrix [n_sets, n_genes]."""
    rows = {name: np.unique(genes.get_indexer(pd.Index(list(members)))) for name, members in sets.items()}
    rows = {name: at[at >= 0] for name, at in rows.items()}
    rows = {name: at for name, at in rows.items() if SMALLEST <= len(at) <= min(LARGEST, len(genes) - 1)}
    ends = np.cumsum([0, *(len(at) for at in rows.values())])
    columns = np.concatenate([*rows.values(), np.empty(0, np.int64)])
    shape = len(rows), len(genes)
    matrix = sparse.csr_array((np.ones(len(columns)), columns, ends), shape=shape)
    return pd.Index(list(rows), dtype=object, name="set"), matrix


def run(
    sets: Mapping[str, Sequence[str]],
    sides: Sides,
    permutations: Permutations,
    q_threshold: float,
    plan: Plan,
) -> SetTests:
    """Test every set that has enough genes with the leads of all clumps.

    Parameters
    ----------
    sets : names of genes of each set.
    sides, permutations : of the links (`link_tests.LinkTests.sides`); as many shuffles are used as two sets
        at the smallest p need to be called, and no fewer than FEWEST_SHUFFLES.
    """
    names, members = membership(sets, sides.genes)
    lead = clumps.find_clumps(sides.y, sides.features)["clump"]
    sides = _of_features(sides, np.flatnonzero(lead.to_numpy() == sides.features.to_numpy()))
    rng = np.random.default_rng(7)
    n_genes = len(sides.genes)
    background = np.sort(rng.choice(n_genes, min(BACKGROUND, n_genes), replace=False))
    observed = _observed(sides, members, background)
    n_needed = max(FEWEST_SHUFFLES, int(2 * len(names) / q_threshold))
    permutations = permutations._replace(order=permutations.order[:n_needed])
    null = _null(sides, members, background, permutations, observed.max(axis=1), plan)
    return SetTests(sides, names, members, observed, null)


def _of_features(sides: Sides, at: np.ndarray) -> Sides:
    """The same genes with some of the features."""
    v = sides.values
    rows_t = torch.from_numpy(at).to(v.y_t.device)
    values = v._replace(y_t=v.y_t[rows_t], b_t=None if v.b_t is None else v.b_t[rows_t])
    inflation = sides.inflation._replace(y=sides.inflation.y.take(at))
    return sides._replace(y=sides.y[at], features=sides.features[at], values=values, inflation=inflation)


def _observed(sides: Sides, members: sparse.csr_array, background: np.ndarray) -> np.ndarray:
    """T of every set with every feature, float64 [n_sets, n_features]."""
    size = np.diff(members.indptr)[:, None]
    of_set = np.zeros((len(size), len(sides.y)))
    total, squares = np.zeros((2, len(sides.y)))
    in_background = np.isin(np.arange(len(sides.x)), background)
    by_gene = members.tocsc()
    for genes in link_tests.blocks(sides, len(sides.x)):
        u = link_tests.statistic_of_block(sides, genes) ** 2
        of_set += by_gene[:, genes] @ u
        own = u[in_background[genes]]
        total += own.sum(axis=0)
        squares += (own * own).sum(axis=0)
    mean = total / len(background)
    deviation = np.sqrt(np.maximum(squares / len(background) - mean**2, TINY))
    return (of_set / size - mean) / deviation * np.sqrt(size)


def _null(
    sides: Sides, members: sparse.csr_array, background: np.ndarray, permutations: Permutations,
    best: np.ndarray, plan: Plan,
) -> sequential.SequentialP:  # fmt: skip
    bar = tqdm(total=len(best), unit="set", disable=not plan.progress, desc="gene sets tested")

    def maxima(start: int, stop: int, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bar.update(max(len(best) - len(sets) - bar.n, 0))
        bar.set_postfix(shuffles=stop)
        these = permutations._replace(order=permutations.order[start:stop])
        with full_precision():
            return _maxima(sides, members[sets], background, these), np.zeros(len(sets))

    n, h = len(permutations.order), plan.exceedances
    result = sequential.sequential_p(best - TIE * (1 + np.abs(best)), n, maxima, _never, h)
    bar.update(len(best) - bar.n)
    bar.close()
    return result


def _never(which: np.ndarray, genes: np.ndarray) -> np.ndarray:
    raise AssertionError("maxima are exact: none is too close to call")


def _maxima(
    sides: Sides, members: sparse.csr_array, background: np.ndarray, permutations: Permutations
) -> np.ndarray:
    """float32 [N, n_sets]: the largest T over the features under each shuffle.

    Products are float64, so that p depends on neither blocks, threads nor the device.
    """
    genes = np.union1d(members.indices, background)
    v, device = sides.values, sides.values.x_t.device
    genes_t = torch.from_numpy(genes.astype(np.int64)).to(device)
    means_t = _means(members[:, genes]).to(device)
    in_background_t = torch.from_numpy(np.isin(genes, background)).to(device)
    root_t = torch.from_numpy(np.sqrt(np.diff(members.indptr))).to(device)
    x_t, w_t = v.x_t[genes_t], v.weights(genes_t)
    order_t = torch.from_numpy(permutations.order.astype(np.int64)).to(device)
    scales_t = None
    if sides.basis.shape[1]:
        scales = covariate_scales(sides.x[genes], permutations, sides.basis)
        scales_t = torch.from_numpy(np.ascontiguousarray(scales.T)).to(device)
    found = np.empty((len(order_t), len(root_t)), np.float32)
    step = max(1, BLOCK_VALUES // (max(len(genes), len(root_t)) * len(sides.y)))
    for start in range(0, len(order_t), step):
        at = slice(start, start + step)
        moved_t = x_t[:, order_t[at]]  # [genes, shuffles, samples]
        u_t = (moved_t.flatten(0, 1) @ v.y_t.T).view(*moved_t.shape[:2], -1)
        if w_t is not None:
            u_t *= w_t[:, None]
        if scales_t is not None:
            u_t *= scales_t[:, at, None]
        u_t.square_()
        of_background_t = u_t[in_background_t]
        mean_t = of_background_t.mean(dim=0)
        deviation_t = of_background_t.square_().mean(dim=0).sub_(mean_t**2).clamp_min_(TINY).sqrt_()
        of_sets_t = torch.sparse.mm(means_t, u_t.flatten(1)).view(-1, *mean_t.shape)
        largest_t = of_sets_t.sub_(mean_t).div_(deviation_t).amax(dim=2)
        found[at] = (largest_t * root_t[:, None]).T.cpu().numpy()
    return found


def _means(members: sparse.csr_array) -> torch.Tensor:
    """A sparse matrix that takes the mean over the genes of each set."""
    at = sparse.coo_array(members / members.sum(axis=1)[:, None])
    places = torch.from_numpy(np.stack(at.coords).astype(np.int64))
    return torch.sparse_coo_tensor(
        places, torch.from_numpy(at.data), at.shape, check_invariants=True
    ).coalesce()


def table(
    tests: SetTests, sets: Mapping[str, Sequence[str]], links_df: pd.DataFrame, symbols: pd.Series
) -> pd.DataFrame:
    """Every set tested with the clump that follows it best, by p.

    Parameters
    ----------
    links_df : `link_table.describe`. symbols : index gene.

    Returns
    -------
    Index set: n_named (genes that the file names), n_genes (tested), and the columns of `set_links`.
    """
    s, f = np.arange(len(tests.names)), tests.observed.argmax(axis=1)
    df = _describe(tests, s, f, links_df, symbols)
    df.insert(1, "n_named", [len(set(sets[name])) for name in tests.names])
    df["n_shuffles"] = tests.null.n_permutations
    return df.sort_values(["p", "statistic"], ascending=[True, False], kind="stable").set_index("set")


def caption(sets_df: pd.DataFrame, n_named: int, q_threshold: float) -> str:
    """What was tested and found, in words."""
    found = int((sets_df["q"] <= q_threshold).sum())
    return (
        f"{found:,} of {len(sets_df):,} gene sets follow a feature (q <= {q_threshold:g}); of {n_named:,} "
        f"sets named, these have {SMALLEST} to {LARGEST} genes that were tested."
    )


def set_links(
    tests: SetTests, links_df: pd.DataFrame, symbols: pd.Series, q_threshold: float
) -> pd.DataFrame:
    """Sets and clumps that follow each other: q over sets, then over the clumps of a set, as of links.

    Returns
    -------
    DataFrame: set, n_genes (tested), feature (lead of the clump), statistic, p, q, mean_r (of the set's genes
    with the feature, within tissues), share_positive, n_linked (of its genes, linked to the clump), genes
    (symbols of up to MOST_NAMES of these, the strongest first).
    """
    q_sets, _ = hierarchical_q(tests.null.p, tests.null.p)
    found = np.flatnonzero(q_sets <= q_threshold)
    level = q_threshold * len(found) / max(len(q_sets), 1)
    s, f = np.nonzero(tests.observed[found] > 0)
    s = found[s]
    kept = _p_in_set(tests, s, f) <= level * (1 + 1e-12)
    df = _describe(tests, s[kept], f[kept], links_df, symbols)
    return df.sort_values(["p", "statistic"], ascending=[True, False], kind="stable").reset_index(drop=True)


def _describe(
    tests: SetTests, s: np.ndarray, f: np.ndarray, links_df: pd.DataFrame, symbols: pd.Series
) -> pd.DataFrame:
    p = _p_in_set(tests, s, f)
    q_sets, q = hierarchical_q(tests.null.p, p)
    features = tests.sides.features.to_numpy()[f]
    df = pd.DataFrame(
        {
            "set": tests.names.to_numpy()[s],
            "n_genes": np.diff(tests.members.indptr)[s],
            "feature": features,
            "statistic": tests.observed[s, f],
            "p": p,
            "q": np.maximum(q, q_sets[s]),
        }
    )
    leads_df = links_df[["gene", "clump", "statistic"]].astype({"gene": object, "clump": object})
    strongest_df = leads_df.sort_values("statistic", ascending=False).drop_duplicates(["gene", "clump"])
    of_clump = {clump: of_df["gene"].to_numpy() for clump, of_df in strongest_df.groupby("clump")}
    rows = [_genes_of(tests, *pair, of_clump.get(pair[2], np.empty(0, object)), symbols)
            for pair in zip(s, f, features, strict=True)]  # fmt: skip
    columns = ["mean_r", "share_positive", "n_linked", "genes"]
    return df.join(pd.DataFrame(rows, columns=columns, index=df.index))


def _genes_of(
    tests: SetTests, s: int, f: int, feature: str, linked: np.ndarray, symbols: pd.Series
) -> tuple[float, float, int, str]:
    """r of a set's genes with a feature, and those of the genes that are linked to its clump."""
    at = tests.members.indices[tests.members.indptr[s] : tests.members.indptr[s + 1]]
    r = tests.sides.x[at] @ tests.sides.y[f]
    names = [gene for gene in linked if gene in set(tests.sides.genes[at])]
    said = ", ".join(symbols.reindex(names[:MOST_NAMES]).fillna(pd.Series(names, names)).astype(str))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return float(r.mean()), float((r > 0).mean()), len(names), said + more


def _p_in_set(tests: SetTests, s: np.ndarray, f: np.ndarray) -> np.ndarray:
    """p of sets with features in the family of all clumps of their set, float64 [n_pairs]; as
    `link_tests.p_in_gene`.
    """
    null, observed = tests.null, tests.observed[s, f]
    reached = np.empty(len(s), np.int64)
    for one in np.unique(s):
        these = np.flatnonzero(s == one)
        maxima = np.sort(null.null_of(int(one)).astype(np.float64))
        least = observed[these] - TIE * (1 + np.abs(observed[these]))
        reached[these] = len(maxima) - np.searchsorted(maxima, least, side="left")
    used = null.n_permutations[s]
    stopped = null.p[s] * used == null.n_reached[s]
    return np.maximum(np.where(stopped, reached / used, (1 + reached) / (1 + used)), null.p[s])
