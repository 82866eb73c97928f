"""Every artefact and notebook of the analysis: where it lies, what it is made from, what makes it stale."""

from typing import NamedTuple


class Artefact(NamedTuple):
    """One declared file: where it lies, who makes it, and what makes it stale."""

    path: str  # below data/: {raw}, {derived}, {tiles} and {network} are filled in from the configuration
    notebook: str  # the notebook that makes it
    inputs: tuple[str, ...] = ()  # artefacts, or raw inputs as "raw:<config field>"
    fields: tuple[str, ...] = ()  # config fields it depends on, beyond those of its inputs


_SPLIT = ("split_by", "split_fractions", "split_file", "seed")

_RNA = ("id_rule", "duplicates", "protein_coding_only", "expression_rows", "expression_unit", "genes_file")

_TILING = ("tile_px", "tile_mpp", "input_px", "min_tissue", "mask_mpp", "reader")

_RECIPE = (
    *(
        "architecture",
        "weights",
        "initialisation",
        "null_network",
        "epochs",
        "batch_size",
        "learning_rate",
        "lr_step_epochs",
    ),
    *("lr_gamma", "momentum", "weight_decay", "augment", "class_weighting", "mixed_precision", "seed"),
)

_FEATURES = ("features", "p", "aggregate", "feature_precision")

_PAIRS = ("r_threshold", "e_threshold", "thresholds", "correlation")

_PERMUTING = ("n_permutations", "q_threshold", "e_threshold", "covariates", "correlation", "seed")

_CARDS = (
    *("show_pairs", "n_cards", "cover_top", "tiles_per_sample", "synthesis_steps", "synthesis_seeds"),
    *("n_permutations", "e_threshold", "correlation", "p", "seed"),
)

# The source of a GTEx cohort, and of the rehearsal, depends on these as well.
SOURCE_FIELDS = {
    "gtex": (
        *("gtex_release", "gtex_portal_file", "gtex_tissues", "gtex_max_slides", "gtex_min_slides"),
        *("covariates", "split_file", "expression_file", "genes_file"),
    ),
    "rehearsal": (
        *("rehearsal_samples", "rehearsal_genes", "gtex_portal_file", "gtex_tissues"),
        *("architecture", "features"),
    ),
}

_COHORT = ("source", "raw:samples_file", "raw:expression_file")

_BOTH_SIDES = ("expression", "samples", "features_test")

_TESTED = ("network", "tiles", "gene_medians", "pairs_significance", "pairs_conditional", *_BOTH_SIDES)

ARTEFACTS: dict[str, Artefact] = {
    # Inputs that this project makes or fetches itself (the demo cohort, her2st).
    "source": Artefact(
        "{raw}/source.json",
        "00_cohort",
        (),
        (
            *("source", "synthetic_slides_per_tissue", "synthetic_genes", "synthetic_slide_um"),
            *("synthetic_seed", "spot_region_um", "spot_splits"),
        ),
    ),
    "samples": Artefact(
        "{derived}/samples.parquet", "00_cohort", _COHORT, _SPLIT + ("id_rule", "covariates")
    ),
    "expression": Artefact("{derived}/expression.parquet", "00_cohort", ("samples", *_COHORT), _RNA),
    "genes": Artefact("{derived}/genes.parquet", "00_cohort", ("samples", *_COHORT), _RNA),
    "tiles": Artefact("{tiles}/tiles.parquet", "01_tiles", ("samples", "raw:slides_dir"), _TILING),
    "slides": Artefact("{tiles}/slides.parquet", "01_tiles", ("samples", "raw:slides_dir"), _TILING),
    "network": Artefact("{network}/network.pt", "02_train", ("samples", "tiles", "raw:weights"), _RECIPE),
    "history": Artefact(
        "{network}/history.parquet", "02_train", ("samples", "tiles", "raw:weights"), _RECIPE
    ),
    "tile_predictions": Artefact("{network}/tile_predictions.parquet", "03_classify", ("network", "tiles")),
    "predictions": Artefact("{network}/predictions.parquet", "03_classify", ("tile_predictions", "samples")),
    "accuracy": Artefact(
        "{network}/accuracy.parquet", "03_classify", ("predictions", "samples"), ("merged_tissues", "seed")
    ),
    "features_train": Artefact(  # only where `quantify_train` asks for it
        "{network}/features_train.parquet", "04_features", ("network", "samples", "tiles"), _FEATURES
    ),
    "features_validation": Artefact(
        "{network}/features_validation.parquet", "04_features", ("network", "samples", "tiles"), _FEATURES
    ),
    "features_test": Artefact(
        "{network}/features_test.parquet", "04_features", ("network", "samples", "tiles"), _FEATURES
    ),
    "tile_counts": Artefact("{network}/tile_counts.parquet", "04_features", ("network", "samples", "tiles")),
    "gene_medians": Artefact("{network}/gene_medians.parquet", "05_correlate", _BOTH_SIDES),
    "pairs": Artefact("{network}/pairs.parquet", "05_correlate", (*_BOTH_SIDES, "genes"), _PAIRS),
    "r_histogram": Artefact("{network}/r_histogram.parquet", "05_correlate", (*_BOTH_SIDES, "genes"), _PAIRS),
    "pairs_significance": Artefact(
        "{network}/pairs_significance.parquet", "06_significance", ("pairs", *_BOTH_SIDES), _PERMUTING
    ),
    "gene_significance": Artefact(
        "{network}/gene_significance.parquet", "06_significance", ("gene_medians", *_BOTH_SIDES), _PERMUTING
    ),
    "pairs_conditional": Artefact(
        "{network}/pairs_conditional.parquet",
        "07_conditional",
        ("pairs", *_BOTH_SIDES),
        ("alphas", "covariates"),
    ),
    "reproducibility": Artefact(
        "{network}/reproducibility.parquet",
        "08_reproducibility",
        ("features_validation", *_BOTH_SIDES),
        ("correlation",),
    ),
    "cards": Artefact("{network}/cards.parquet", "10_visualize", _TESTED, _CARDS),
    "card_shown": Artefact("{network}/card_shown.parquet", "10_visualize", _TESTED, _CARDS),
    "card_curves": Artefact("{network}/card_curves.parquet", "10_visualize", _TESTED, _CARDS),
    "card_pictures": Artefact("{network}/card_pictures.npy", "10_visualize", _TESTED, _CARDS),
    "ihc": Artefact("{network}/ihc.parquet", "10_visualize", ("cards", "raw:ihc_dir"), ("seed",)),
    "benchmark": Artefact("{derived}/benchmark.parquet", "12_benchmark"),
}

# What a cohort that brings its features instead of slides (`features_file`) has: these artefacts, made by
# notebook 00, in place of notebook 04's; and these notebooks.
_GIVEN = ("source", "samples", "raw:features_file")

GIVEN_FEATURES = {
    name: Artefact(ARTEFACTS[name].path, "00_cohort", _GIVEN)
    for name in ("features_validation", "features_test")
}

WITHOUT_SLIDES = ("00_cohort", "05_correlate", "06_significance", "07_conditional", "08_reproducibility")

# Folders of resumable work; each of their files carries its own record. `--force` empties them.
WORK_FOLDERS = {
    "stacks": ("{tiles}/stacks", "01_tiles"),
    "training": ("{network}/training", "02_train"),
    "sums": ("{network}/sums", "04_features"),
    "inspected": ("{network}/inspected", "11_inspect"),
}


class Notebook(NamedTuple):
    """One notebook of the run: what it reads, and the config fields it shows beyond its artefacts'."""

    question: str
    reads: tuple[str, ...]
    per_network: bool = True
    fields: tuple[str, ...] = ()
    of_networks: tuple[str, ...] = ()  # what it reads of every network of the cohort


NOTEBOOKS: dict[str, Notebook] = {
    "00_cohort": Notebook("Which samples, and what do we know of them?", ("samples", "expression"), False),
    "01_tiles": Notebook(
        "What is tissue, and which tiles does it give?", ("samples", "tiles", "slides"), False
    ),
    "02_train": Notebook("Can a network learn to tell the tissues apart?", ("network", "history")),
    "03_classify": Notebook("How often is it right, on tiles and on slides?", ("predictions", "accuracy")),
    "04_features": Notebook(
        "What does every channel of every layer measure?", ("features_test", "tile_counts")
    ),
    "05_correlate": Notebook(
        "Which genes follow which features?",
        ("pairs", "r_histogram", "gene_medians"),
        True,
        ("best_feature_r", "go_obo_file", "go_gaf_file"),
    ),
    "06_significance": Notebook(
        "Which of these pairs can be believed?",
        ("pairs_significance", "gene_significance", "accuracy", "features_validation", "features_train"),
        True,
        ("least_precision", "least_recall"),
    ),
    "07_conditional": Notebook(
        "Is a correlation direct, or does it run through the tissue?",
        ("pairs_conditional", "pairs_significance"),
    ),
    "08_reproducibility": Notebook("Do the correlations return on other slides?", ("reproducibility",)),
    "09_architectures": Notebook(
        "Which network learns features that genes follow?",
        (),
        False,
        ("thresholds", "q_threshold"),
        (
            *("accuracy", "predictions", "pairs", "pairs_significance", "gene_significance"),
            "reproducibility",
        ),
    ),
    "10_visualize": Notebook("What do the features see?", ("cards", "card_pictures", "ihc")),
    "11_inspect": Notebook(
        "What does this gene, or this feature, follow?",
        ("pairs_significance", "gene_significance", "network", "tiles"),
        True,
        ("inspect_gene", "synthesis_steps", "alphas"),
    ),
    "12_benchmark": Notebook("How fast is it, and against what?", ("benchmark",), False),
}


class StaleArtefactError(RuntimeError):
    """An artefact is missing or no longer fits the configuration; says which, whose, and why."""

    def __init__(self, artefact: str, notebook: str, why: str) -> None:
        super().__init__(
            f"{artefact!r} {why}. Run notebook {notebook} (python run_all.py --only {notebook[:2]})"
        )
        self.artefact, self.notebook, self.why = artefact, notebook, why
