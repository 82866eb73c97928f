"""The answer of each notebook in one sentence, with the run's own numbers."""

from collections.abc import Callable

from lib.cohort.splits import SPLITS
from lib.explore.methods_text import REASONS, accuracy_on_test, counted, elsewhere, listed
from lib.statistics import replication, spots
from lib.statistics.plain_correlates import STRONG
from lib.store import Store
from lib.tiles.tile_quality import kept


def answer(store: Store) -> str:
    """What the store's notebook found, from the artefacts that it has made."""
    return f"Answer: {ANSWERS[store.notebook](store)}"


def _cohort(store: Store) -> str:
    samples_df = store.load("samples")
    sets = samples_df["split"].value_counts()
    said = ", ".join(f"{sets[name]:,} for {_USES[name]}" for name in SPLITS if name in sets)
    words = (
        f"{counted(len(samples_df), 'sample')} of {counted(samples_df['donor'].nunique(), 'donor')} and "
        f"{counted(samples_df['tissue'].nunique(), 'tissue')}: {said}"
    )
    if store.config.slides_only:
        return f"{words}; no expression, so that the run ends with features."
    return f"{words}; {counted(len(store.load('expression')), 'gene')}."


_USES = {"train": "training", "validation": "validation", "test": "testing"}


def _tiles(store: Store) -> str:
    tiles_df, slides_df = store.load("tiles"), store.load("slides")
    used_df, n_failed = kept(tiles_df), int((slides_df["state"] == "failed").sum())
    words = f"{counted(len(used_df), 'tile')} of {counted(used_df['slide_id'].nunique(), 'slide')} are used"
    if n_dropped := len(tiles_df) - len(used_df):
        reasons = listed([REASONS[name] for name in store.config.drop_tiles], "or")
        words += f", {n_dropped:,} left out for {reasons}"
    return f"{words}; {counted(n_failed, 'slide')} could not be cut." if n_failed else f"{words}."


def _train(store: Store) -> str:
    config, history_df = store.config, store.load("history")
    if history_df.empty:
        return f"{config.network_name} is used without training ({config.network_kind})."
    known_df = history_df.dropna(subset="validation_accuracy")
    words = f"{config.network_name} was trained for {counted(len(history_df), 'epoch')}"
    if known_df.empty:
        return f"{words}; there are no validation tiles."
    best = known_df.loc[known_df["validation_accuracy"].idxmax()]
    return (
        f"{words}; its best accuracy on the validation tiles is {best['validation_accuracy']:.1%} (epoch "
        f"{best['epoch']:.0f})."
    )


def _classify(store: Store) -> str:
    rows = accuracy_on_test(store)
    said = " and ".join(f"{row.accuracy:.1%} on {counted(row.n, f'test {row.level}')}" for row in rows)
    if not rows:
        return "there are no test samples to classify."
    return f"the accuracy is {said}; chance is {1 / rows[0].n_classes:.1%}."


def _features(store: Store) -> str:
    features_df = store.load("features_test")
    words = f"{counted(len(features_df), 'feature')} of {counted(features_df.shape[1], 'test sample')}"
    strong = (store.load("plain_correlates")["r_most_like"].abs() >= STRONG).sum()
    plain = "stain, sharpness or number of nuclei"
    return f"{words}; {strong:,} of them may be no more than {plain} (|r| >= {STRONG})."


def _correlate(store: Store) -> str:
    config, pairs_df = store.config, store.load("pairs")
    expressed_df = pairs_df[pairs_df["max_median_log2"] >= config.e_threshold]
    n_pairs = int(store.load("r_histogram")["count"].sum())
    return (
        f"of {n_pairs:,} pairs of gene and feature, {counted(len(expressed_df), 'marker pair')} of "
        f"{counted(expressed_df['gene'].nunique(), 'gene')} have |r| >= {config.r_threshold:g} over all "
        "samples."
    )


def _significance(store: Store) -> str:
    config, links_df, genes_df = store.config, store.load("links"), store.load("gene_significance")
    within = f"within {spots.stratum_name(store.load('samples'))}s"
    out = f", {' and '.join(config.covariates)} taken out" if config.covariates else ""
    tested = counted(len(genes_df), "gene")
    if links_df.empty:
        return f"no link {within} for any of {tested} at q <= {config.q_threshold:g}{out}."
    n_clumps = links_df["clump"].nunique()
    words = (
        f"{counted(len(links_df), 'link')} {within} with features of {counted(n_clumps, 'clump')}, for "
        f"{links_df['gene'].nunique():,} of {tested} at q <= {config.q_threshold:g}{out}"
    )
    if config.gene_sets and store.is_current("gene_sets"):
        sets_df = store.load("gene_sets")
        n_found = int((sets_df["q"] <= config.q_threshold).sum())
        words += f"; {n_found:,} of {counted(len(sets_df), 'gene set')} follow a feature"
    strongest_df = links_df.drop_duplicates("gene")
    if "same_sign" in strongest_df:
        known_df = strongest_df.dropna(subset="same_sign")
        n_same = int((known_df["same_sign"] == 1).sum())
        words += f"; of {len(known_df):,} genes' strongest, {n_same:,} have the same sign on the validation "
        words += "samples"
    return f"{words}."


def _conditional(store: Store) -> str:
    pairs_df, alpha = store.load("pairs_conditional"), max(store.config.alphas)
    if pairs_df.empty:
        return "there is no marker pair."
    share = (pairs_df[f"pattern_{alpha:g}"] == "g-t-f").mean()
    return (
        f"{share:.0%} of {counted(len(pairs_df), 'marker pair')} are connected through the tissue only "
        f"(g-t-f, alpha {alpha:g})."
    )


def _reproducibility(store: Store) -> str:
    links_df, found_df = store.load("links"), store.load("reproducibility")
    r = found_df.loc["reproducibility_r", "raw"]
    words = f"over all pairs, r on validation and on test samples correlate at {r:.2f}"
    shares_df = replication.summarise(links_df, store.config.q_threshold)
    n, share = shares_df.loc["strongest link of each gene", ["links", "replicated"]].to_numpy(float)
    if n:
        words += f"; of {n:,.0f} genes' strongest links {share:.0%} replicate"
    for unit, row in elsewhere(store).iterrows():
        words += f"; in {unit}, {row['replicated']:.0%} of {row['links']:,.0f}"
    return f"{words}."


def _architectures(store: Store) -> str:
    found = {
        other.config.run_name: other.load("links")["gene"].nunique()
        for other, why in store.networks(("links",)).values()
        if not why
    }
    if not found:
        return "no network is finished."
    said = ", ".join(f"{name} {n:,}" for name, n in sorted(found.items(), key=lambda item: -item[1]))
    return f"genes with a link, by network: {said}."


def _visualize(store: Store) -> str:
    cards_df = store.load("cards")
    if cards_df.empty:
        return "there is neither a link nor a marker pair to show."
    found = int((cards_df["finding"] == "found within tissues").sum())
    tiles = int(cards_df["has_map"].sum())
    return (
        f"{counted(len(cards_df), 'pair')} are shown, {found:,} of them links; {tiles:,} have a gradient on "
        "their tile."
    )


def _inspect(store: Store) -> str:
    genes_df = store.load("gene_significance")
    best = genes_df.sort_values(["q", "p", "statistic"], ascending=[True, True, False]).iloc[0]
    return f"the strongest gene is {best['symbol']}, with feature {best['feature']} (q {best['q']:.2g})."


def _benchmark(store: Store) -> str:
    judged_df = store.load("benchmark")
    judged_df = judged_df[judged_df["met"].isin(["yes", "no"])]
    missed_df = judged_df[judged_df["met"] == "no"]
    words = (
        f"{len(judged_df) - len(missed_df):,} of {counted(len(judged_df), 'target')} are met on this machine"
    )
    return f"{words}; not: {'; '.join(missed_df['work'])}." if len(missed_df) else f"{words}."


ANSWERS: dict[str, Callable[[Store], str]] = {
    "00_cohort": _cohort,
    "01_tiles": _tiles,
    "02_train": _train,
    "03_classify": _classify,
    "04_features": _features,
    "05_correlate": _correlate,
    "06_significance": _significance,
    "07_conditional": _conditional,
    "08_reproducibility": _reproducibility,
    "09_architectures": _architectures,
    "10_visualize": _visualize,
    "11_inspect": _inspect,
    "12_benchmark": _benchmark,
}
