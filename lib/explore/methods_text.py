"""The methods paragraphs of a run, with its own numbers, ready to paste into a manuscript.

Only what was made and is current is told; every number is read from the artefacts or the configuration.
"""

from typing import Any

import pandas as pd

from lib.cohort import sample_slides
from lib.statistics import replication, replication_ledger, sample_dependence, spots
from lib.store import Store
from lib.tiles.tile_quality import kept

CITED = "Badea and Stănescu (2020), PLoS ONE 15:e0242858"
SETS = {"train": "training", "validation": "validation", "test": "test"}
REASONS = {"pen": "ink", "fold": "folds", "bleed": "bled stain", "blur": "blur"}  # of tiles left out


def paragraphs(store: Store) -> list[str]:
    """Cohort and tiles, network and features, tests, results, software: those that this run has."""
    made = [_cohort(store), _features(store), _tests(store), _results(store), _software(store)]
    return [text for text in made if text]


def accuracy_on_test(store: Store) -> list[Any]:
    """Rows (level, n, accuracy, low, high) on the test samples; where samples share slides (spots) or have
    several, the level "slide" is "sample".
    """
    accuracy_df = store.load("accuracy")
    test_df = accuracy_df[accuracy_df["split"] == "test"]
    samples_df = store.load("samples")
    if samples_df["slide_id"].duplicated().any() or sample_slides.pools_slides(samples_df):
        test_df = test_df.assign(level=test_df["level"].replace("slide", "sample"))
    return list(test_df.itertuples())


def _cohort(store: Store) -> str:
    if not store.is_current("samples"):
        return ""
    config, samples_df = store.config, store.load("samples")
    sets = samples_df["split"].value_counts()
    stratum, donors = spots.stratum_name(samples_df), samples_df["donor"].nunique()
    sizes = ", ".join(f"{sets[name]:,} {words}" for name, words in SETS.items() if name in sets)
    by = "section" if stratum == "section" else "a published list" if config.split_file else config.split_by
    said = [
        f"{'Simulated samples' if config.synthetic_data else 'Samples'} ({len(samples_df):,}; "
        f"{counted(len(sample_slides.slide_ids(samples_df)), 'slide')} of {counted(donors, 'donor')}, "
        f"{counted(samples_df['tissue'].nunique(), 'tissue')}) were divided by {by} ({sizes})."
    ]
    if config.features_file or not store.is_current("tiles"):
        return said[0]
    tiles_df = store.load("tiles")
    dropped_df = kept(tiles_df, dropped=True)
    each = "the region of each spot" if stratum == "section" else "each slide"
    said.append(
        f"From {each}, tiles {config.tile_um:.0f} µm wide ({config.tile_px} px at {config.tile_mpp:g} µm per "
        f"pixel) were cut without overlap and rescaled to {config.input_px} px; "
        f"{len(tiles_df) - len(dropped_df):,} tiles with at least {config.min_tissue:.0%} tissue were used."
    )
    if len(dropped_df):
        reasons = listed([REASONS[name] for name in config.drop_tiles], "or")
        were = "was" if len(dropped_df) == 1 else "were"
        further = counted(len(dropped_df), "further tile")
        said.append(f"{further} with {reasons} {were} left out.")
    return " ".join(said)


def _features(store: Store) -> str:
    config = store.config
    if not store.is_current("features_test"):
        return ""
    n_features = len(store.load("features_test"))
    if config.features_file:
        return f"{n_features:,} features of each sample had been computed elsewhere."
    said = [_network(store)]
    if store.is_current("accuracy"):
        rows = accuracy_on_test(store)
        reached = [f"{row.accuracy:.1%} of {counted(row.n, row.level)}" for row in rows]
        said.append(f"On the test samples {listed(reached, 'and')} were classified correctly.")
    power = "" if config.p == 1 else f"^{config.p:g}"
    over_tiles = "averaged" if config.aggregate == "mean" else "summed"
    pools = store.is_current("samples") and sample_slides.pools_slides(store.load("samples"))
    pooled = ", those of all its slides together" if pools else ""
    said.append(
        f"Each channel of each layer is a feature ({n_features:,} in all): the sum of its activations{power} "
        f"over all positions of a tile, {over_tiles} over the tiles of a sample{pooled} ({CITED})."
    )
    return " ".join(said)


def _network(store: Store) -> str:
    config, recipe = store.config, store.config.recipe
    if config.network_kind == "as it is":
        return f"The network {config.network_name} was used as it is, without training on these samples."
    if config.network_kind == "untrained":
        return f"The network {config.network_name} with random weights was used, without training."
    labels = " with permuted labels" if config.network_kind == "shuffled" else ""
    start = {"": "random weights", "imagenet": "ImageNet weights"}.get(config.weights, "given weights")
    falls = ""
    if recipe.epochs > recipe.lr_step_epochs:
        falls = f", multiplied by {recipe.lr_gamma:g} every {recipe.lr_step_epochs} epochs"
    varied = "the stains of its tiles were varied at random (HED jitter, "
    varied = f"; {varied}{recipe.stain_jitter:g})" if recipe.stain_jitter else ""
    rate = f"learning rate {recipe.learning_rate:g}{falls}"
    return (
        f"The network {config.network_name} was trained from {start} to classify the tissue of a tile"
        f"{labels} for {counted(recipe.epochs, 'epoch')} by stochastic gradient descent (batches of "
        f"{recipe.batch_size}, {rate}, momentum {recipe.momentum:g}, weight decay "
        f"{recipe.weight_decay:g}){varied}; the epoch of best validation accuracy was kept."
    )


def _tests(store: Store) -> str:
    if not store.is_current("gene_significance") or not store.is_current("samples"):
        return ""
    config, genes_df = store.config, store.load("gene_significance")
    tested_df = store.samples_of(list(store.load("features_test").columns))
    groups = pd.Series(pd.factorize(spots.strata(tested_df))[0])
    stratum, alone = spots.stratum_name(tested_df), groups.nunique() == 1
    within = "" if alone else f" within {stratum}s"
    said = [
        f"Expression was taken as log2(1 + {config.value_unit}); the {len(genes_df):,} genes whose highest "
        f"median over tissues is at least {config.e_threshold:g} were tested against all features on "
        f"{len(tested_df):,} samples."
    ]
    if config.covariates:
        slopes = (
            ""
            if alone or config.covariate_slopes == "common"
            else f", with slopes of its own for each {stratum} that has the samples"
        )
        said.append(
            f"{listed(config.covariates, 'and')} {_was(config.covariates)} regressed out of both{slopes}."
        )
    said.append(
        f"A gene's largest statistic over all features was held against its largest under up to "
        f"{config.link_permutations:,} random rearrangements of the samples{within} (Westfall and Young "
        f"1993), stopped after {config.link_exceedances} exceedances (Besag and Clifford 1991)."
    )
    classes = sample_dependence.classes_of(tested_df, groups.to_numpy())
    if classes.pairs:
        what = "autocorrelated neighbouring spots" if stratum == "section" else "several samples of one donor"
        said.append(
            f"For {what} the statistic was divided by the square root of its variance inflation (effective "
            "sample size; Clifford, Richardson and Hémon 1989, Dutilleul 1993)."
        )
        if classes.uneven:
            said.append(
                "It takes into account that spots are not equally variable, by their variance over all genes "
                "and features and by studentising (DiCiccio and Romano 2017)."
            )
    said.append(
        f"Genes were called at a false discovery rate of {config.q_threshold:g} (Benjamini and Hochberg "
        "1995), and the links of a gene at that rate among its features, averaged over the genes found."
    )
    if config.gene_sets and store.is_current("gene_sets"):
        n_sets = counted(len(store.load("gene_sets")), "gene set")
        said.append(
            f"{n_sets} were tested in the same way, by the mean squared statistic of their genes beside that "
            "of all genes (Efron and Tibshirani 2007)."
        )
    return " ".join(said)


def _results(store: Store) -> str:
    if not store.is_current("links") or not store.is_current("gene_significance"):
        return ""
    config, links_df = store.config, store.load("links")
    n_genes = len(store.load("gene_significance"))
    leads = int(links_df["clump_lead"].sum())
    if links_df.empty:
        return f"None of {n_genes:,} genes had a link."
    said = [
        f"{counted(links_df['gene'].nunique(), 'gene')} of {n_genes:,} had a link; there were "
        f"{counted(len(links_df), 'link')}, {leads:,} counting near-copies of a feature once."
    ]
    shares_df = replication.summarise(links_df, config.q_threshold)
    n, share = shares_df.loc["strongest link of each gene", ["links", "replicated"]].to_numpy(float)
    if n:
        said.append(
            f"Of the genes' strongest links, {share:.0%} of {n:,.0f} had the same sign and were significant "
            "on the validation samples, which no test had used."
        )
    for unit, row in elsewhere(store).iterrows():
        said.append(
            f"In cohort {unit}, {row['replicated']:.0%} of {row['links']:,.0f} replicated so "
            f"({row['same_sign']:.0%} had the same sign)."
        )
    if config.gene_sets and store.is_current("gene_sets"):
        found = int((store.load("gene_sets")["q"] <= config.q_threshold).sum())
        said.append(f"{counted(found, 'gene set')} followed a feature.")
    if config.synthetic_data:
        said.append("All of this was simulated.")
    return " ".join(said)


def elsewhere(store: Store) -> pd.DataFrame:
    """Shares of the genes' strongest links that hold in other cohorts (`replication_ledger.shares`)."""
    if not store.is_current("ledger"):
        return pd.DataFrame()
    return replication_ledger.shares(store.load("ledger"), store.config.q_threshold)


def _software(store: Store) -> str:
    versions = store.facts("samples").get("versions", {})
    if not versions:
        return ""
    names = listed([f"{name} {number}" for name, number in versions.items()], "and")
    return f"Software: {names}; seed {store.config.seed}."


def counted(n: int, what: str) -> str:
    """1 gene, 2 genes."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _was(names: tuple[str, ...]) -> str:
    return "was" if len(names) == 1 else "were"


def listed(names: list[str] | tuple[str, ...], last: str) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, end = names
    return f"{', '.join(first)} {last} {end}" if first else end
