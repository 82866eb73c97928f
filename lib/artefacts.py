"""Every artefact and notebook of the analysis: where it lies, what it is made from, what makes it stale."""

from typing import NamedTuple


class Artefact(NamedTuple):
    """One declared file: where it lies, who makes it, and what makes it stale."""

    path: str  # {raw}, {derived}, {tiles} and {network} stand for folders of the configuration
    notebook: str  # the notebook that makes it
    inputs: tuple[str, ...] = ()  # artefacts, or raw inputs as "raw:<config field>"
    fields: tuple[str, ...] = ()  # config fields it depends on, beyond those of its inputs
    folder: str = ""  # work folder whose files belong to it and are read with it


def _made(
    path: str, notebook: str, names: str, inputs: str = "", fields: str = "", folder: str = ""
) -> dict[str, Artefact]:
    """Artefacts with the same inputs and fields; each name takes the place of * in the path."""
    each = Artefact(path, notebook, tuple(inputs.split()), tuple(fields.split()), folder)
    return {name: each._replace(path=path.replace("*", name)) for name in names.split()}


_SOURCE = (
    "source synthetic_tissues synthetic_slides_per_tissue synthetic_genes synthetic_slide_um synthetic_seed "
    "spot_region_um spot_splits visium_sections gdc_folder gdc_slides gdc_sample_types"
)
_COHORT = "source raw:samples_file raw:expression_file"
_SPLIT = "split_by split_fractions split_file seed"
_GIVEN = "covariates categorical_covariates"
_RNA = "id_rule duplicates protein_coding_only expression_rows expression_unit genes_file"
_TILING = "tile_px tile_mpp input_px min_tissue mask_mpp reader"
_QUALITY = "drop_tiles max_pen max_fold max_bleed min_focus"
_RECIPE = (
    "architecture weights encoder_digest encoder_normalisation initialisation null_network epochs batch_size "
    "learning_rate lr_step_epochs lr_gamma momentum weight_decay augment stain_jitter class_weighting "
    "mixed_precision seed"
)
_FEATURES = "features p aggregate feature_precision test_on"
_SETS = "features_train features_validation features_test"  # train only with `quantify_train`
_BOTH_SIDES = "expression samples features_test"
_BOTH_SETS = f"features_validation {_BOTH_SIDES}"
_PAIRS = "r_threshold e_threshold thresholds correlation"
_PERMUTING = "n_permutations q_threshold e_threshold covariates correlation seed"
_LINKS = (
    "link_permutations link_exceedances covariate_slopes q_threshold e_threshold covariates correlation seed"
)
_TESTED = f"network tiles gene_medians pairs pairs_significance links link_null {_BOTH_SIDES}"
_CARDS = (
    "show_pairs n_cards cover_top tiles_per_sample synthesis_steps synthesis_seeds e_threshold correlation p "
    "seed"
)

# The source of a GTEx cohort depends on these as well.
SOURCE_FIELDS = {
    "gtex": (
        *("gtex_release", "gtex_portal_file", "gtex_tissues", "gtex_max_slides", "gtex_min_slides"),
        *("covariates", "split_file", "expression_file", "genes_file"),
    ),
}

_OF_COHORT, _OF_TILING, _OF_NETWORK = "{derived}/*.parquet", "{tiles}/*.parquet", "{network}/*.parquet"

ARTEFACTS: dict[str, Artefact] = {
    # Inputs that this project makes or fetches itself (the demo cohort, her2st, GTEx).
    **_made("{raw}/*.json", "00_cohort", "source", fields=_SOURCE),
    **_made(_OF_COHORT, "00_cohort", "samples", _COHORT, f"{_SPLIT} id_rule {_GIVEN}"),
    **_made(_OF_COHORT, "00_cohort", "expression genes", f"samples {_COHORT}", _RNA),
    **_made(
        _OF_TILING, "01_tiles", "tiles", "samples raw:slides_dir", f"{_TILING} {_QUALITY}", folder="stacks"
    ),
    **_made(_OF_TILING, "01_tiles", "slides", "samples raw:slides_dir", _TILING),
    **_made("{network}/*.pt", "02_train", "network", "samples tiles raw:weights", _RECIPE),
    **_made(_OF_NETWORK, "02_train", "history", "samples tiles raw:weights", _RECIPE),
    **_made(_OF_NETWORK, "03_classify", "tile_predictions", "network tiles"),
    **_made(_OF_NETWORK, "03_classify", "predictions", "tile_predictions samples"),
    **_made(_OF_NETWORK, "03_classify", "accuracy", "predictions samples", "merged_tissues seed"),
    **_made(_OF_NETWORK, "04_features", _SETS, "network samples tiles", _FEATURES),
    **_made(_OF_NETWORK, "04_features", "tile_counts", "network samples tiles"),
    **_made(_OF_NETWORK, "04_features", "plain_correlates", "features_test tile_counts samples"),
    **_made(_OF_NETWORK, "04_features", "features_dropped", "network samples tiles", _FEATURES),
    **_made(_OF_NETWORK, "05_correlate", "gene_medians", _BOTH_SIDES),
    **_made(_OF_NETWORK, "05_correlate", "pairs r_histogram", f"{_BOTH_SIDES} genes", _PAIRS),
    **_made(
        _OF_NETWORK,
        "06_significance",
        "links link_null link_tissues gene_significance",
        f"gene_medians {_BOTH_SETS}",
        _LINKS,
    ),
    **_made(
        _OF_NETWORK,
        "06_significance",
        "gene_sets set_links",
        f"links gene_medians {_BOTH_SIDES} raw:gene_sets",
        f"{_LINKS} gene_sets go_obo_file go_gaf_file",
    ),
    **_made(_OF_NETWORK, "06_significance", "pairs_significance", f"pairs links {_BOTH_SIDES}", _PERMUTING),
    **_made(_OF_NETWORK, "07_conditional", "pairs_conditional", f"pairs {_BOTH_SIDES}", "alphas covariates"),
    **_made(_OF_NETWORK, "08_reproducibility", "reproducibility", _BOTH_SETS, f"{_GIVEN} correlation"),
    **_made(
        _OF_NETWORK,
        "08_reproducibility",
        "sections_left_out",
        f"gene_medians {_BOTH_SETS}",
        f"{_GIVEN} {_LINKS}",
    ),
    **_made(
        _OF_NETWORK,
        "08_reproducibility",
        "ledger",
        f"links gene_medians {_BOTH_SETS}",
        f"{_GIVEN} {_LINKS} replicate_in",
    ),
    **_made(_OF_NETWORK, "10_visualize", "cards card_shown card_curves", _TESTED, _CARDS),
    **_made("{network}/*.npy", "10_visualize", "card_pictures", _TESTED, _CARDS),
    **_made(_OF_NETWORK, "10_visualize", "ihc", "cards raw:ihc_dir", "seed"),
    **_made(_OF_COHORT, "12_benchmark", "benchmark"),
}

# A cohort with given features instead of slides (`features_file`): notebook 00 makes these in place of
# notebook 04, and only these notebooks run.
GIVEN_FEATURES = _made(
    _OF_NETWORK,
    "00_cohort",
    "features_validation features_test",
    "source samples raw:features_file",
    "test_on",
)
WITHOUT_EXPRESSION = ("00_cohort", "01_tiles", "02_train", "03_classify", "04_features")
WITHOUT_SLIDES = ("00_cohort", "05_correlate", "06_significance", "07_conditional", "08_reproducibility")

# Folders of resumable work with the notebook that owns them; `--force` deletes them.
WORK_FOLDERS = {
    "stacks": ("{tiles}/stacks", "01_tiles"),
    "training": ("{network}/training", "02_train"),
    "sums": ("{network}/sums", "04_features"),
    "sums_dropped": ("{network}/sums_dropped", "04_features"),
    "inspected": ("{network}/inspected", "11_inspect"),
}


class Notebook(NamedTuple):
    """One notebook of the run: what it reads, and the config fields it shows beyond its artefacts'."""

    reads: tuple[str, ...]
    per_network: bool = True
    fields: tuple[str, ...] = ()
    of_networks: tuple[str, ...] = ()  # what it reads of every network of the cohort


NOTEBOOKS: dict[str, Notebook] = {
    "00_cohort": Notebook(("samples", "expression"), per_network=False),
    "01_tiles": Notebook(("samples", "tiles", "slides"), per_network=False),
    "02_train": Notebook(("network", "history")),
    "03_classify": Notebook(("predictions", "accuracy")),
    "04_features": Notebook(("features_test", "tile_counts", "features_dropped", "plain_correlates")),
    "05_correlate": Notebook(
        ("pairs", "r_histogram", "gene_medians"), fields=("best_feature_r", "go_obo_file", "go_gaf_file")
    ),
    "06_significance": Notebook(
        (
            "pairs_significance",
            "gene_significance",
            "links",
            "accuracy",
            "features_validation",
            "features_train",
        ),
        fields=("least_precision", "least_recall"),
    ),
    "07_conditional": Notebook(("pairs_conditional", "pairs_significance")),
    "08_reproducibility": Notebook(
        (
            *("reproducibility", "sections_left_out", "ledger", "links", "link_null", "gene_significance"),
            "features_dropped",
        ),
        fields=("covariate_slopes", "replicate_in"),
    ),
    "09_architectures": Notebook(
        (),
        per_network=False,
        fields=("thresholds", "q_threshold"),
        of_networks=(
            *("accuracy", "predictions", "pairs", "links", "gene_significance", "reproducibility"),
            *("sections_left_out", "features_test"),
        ),
    ),
    "10_visualize": Notebook(("cards", "card_pictures", "ihc"), fields=("fetch_ihc",)),
    "11_inspect": Notebook(
        ("links", "link_null", "gene_significance", "network", "tiles"),
        fields=("inspect_gene", "synthesis_steps", "alphas"),
    ),
    "12_benchmark": Notebook(("benchmark",), per_network=False),
}
