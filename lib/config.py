"""Every parameter of a run in one frozen, validated model; a cohort is a TOML file of these parameters.

Defaults are the paper's values where the paper fixes them (Badea & Stanescu 2020, Methods).
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lib import checked_values, config_values
from lib.errors import InputError, MissingInputError
from lib.features.quantification import Quantification
from lib.network import encoder_files
from lib.network.recipe import Recipe
from lib.slurm import Jobs
from lib.sources.visium_section import Section
from lib.tiles.tile_quality import Limits
from lib.tiles.tiling import Tiling

ROOT = Path(__file__).resolve().parent.parent
COHORTS_DIR = ROOT / "data" / "cohorts"

Fraction = Annotated[float, Field(ge=0, le=1)]
Colour = tuple[Fraction, Fraction, Fraction]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]

# R_T, E_T of the paper's Table 5, in its order.
PAPER_THRESHOLDS = ((0.8, 10.0), (0.75, 10.0), (0.7, 10.0), (0.75, 8.0), (0.8, 7.0), (0.75, 7.0), (0.7, 7.0))


class Config(BaseModel):
    """All parameters of one cohort and one architecture. Immutable; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # -- cohort (notebook 00) ---------------------------------------------------------------------------
    cohort: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # name; also the folder under raw/, derived/
    title: str = ""  # one line for people
    synthetic_data: bool = False  # simulated, not real; every figure and page says so
    paper_cohort: bool = False  # GTEx as in the paper: numbers are comparable
    # What makes the inputs in data/raw/<cohort>; files: the user.
    source: Literal["files", "synthetic", "her2st", "visium", "gtex", "gdc"] = "files"
    # For a cohort of files: the command that makes them, shown if they are missing ({raw}: their folder).
    inputs_command: str = ""
    samples_file: str = "samples.csv"  # relative to data/raw/<cohort>, or absolute
    # .gct(.gz), .parquet, .csv/.tsv(.gz), .h5ad; "": slides only, and the run ends with their features
    expression_file: str = "expression.gct.gz"
    slides_dir: str = "slides"
    missing_slides: Literal["go_on", "stop"] = "go_on"  # stop: fail before notebook 01
    genes_file: str = ""  # optional gene table (gene, symbol, biotype)
    expression_unit: Literal["TPM", "CPM", "CP10K", "counts"] = "TPM"  # of the file; counts become CPM
    expression_rows: Literal["error", "report"] = "error"  # rows that differ from the GCT header
    id_rule: Literal["exact", "gtex"] = "exact"  # how RNA finds its slide (notebooks/README.md, section 1)
    duplicates: Literal["mean", "first", "error"] = "mean"  # several RNA samples of one slide
    protein_coding_only: bool = False
    # Technical covariates: columns of the samples table, or measured on its tiles (n_tiles, focus, eosin).
    covariates: tuple[str, ...] = ()
    categorical_covariates: tuple[str, ...] = ()  # codes (batch, centre) that are names, not numbers
    covariate_slopes: Literal["per group", "common"] = "per group"  # a tissue's own where it has the samples
    split_by: str = "donor"  # or slide (the paper), sample, or a column of whole donors (a centre)
    split_fractions: tuple[Fraction, Fraction, Fraction] = (0.6, 0.2, 0.2)  # train, validation, test
    split_file: str = ""  # published list (sample id, dataset); takes precedence over split_by
    merged_tissues: dict[str, tuple[str, ...]] = {}  # of the merged accuracy, beside the paper's five groups

    # -- demo cohort (source = "synthetic") -------------------------------------------------------------
    synthetic_tissues: Annotated[int, Field(ge=1, le=8)] = 8
    synthetic_slides_per_tissue: PositiveInt = 30
    synthetic_genes: PositiveInt = 3000
    synthetic_slide_um: PositiveFloat = 640.0
    synthetic_seed: int = 0

    # -- GTEx (source = "gtex") -------------------------------------------------------------------------
    gtex_release: Literal["v7", "v8", "v10"] = "v7"  # expression, attributes, phenotypes; the paper used v7
    gtex_portal_file: str = "GTExPortal.csv"  # the portal's histology table
    gtex_tissues: tuple[str, ...] = ()  # tissues to keep (SMTSD, or with the paper's dashes); none named: all
    # Cap per tissue: 0 for none, a number for all, or a table of tissues and "others".
    gtex_max_slides: Annotated[int, Field(ge=0)] | dict[str, PositiveInt] = 0
    gtex_min_slides: PositiveInt = 1  # tissues with fewer slides are left out

    # -- Genomic Data Commons, TCGA (source = "gdc") ----------------------------------------------------
    gdc_folder: str = "gdc"  # where gdc-client put the files, and the sample sheet; from data/raw/<cohort>
    # Kinds of slide, the preferred first: DX (diagnostic), TS, BS (frozen).
    gdc_slides: Annotated[tuple[Literal["DX", "TS", "BS", "MS"], ...], Field(min_length=1)] = ("DX",)
    gdc_sample_types: tuple[str, ...] = ("Primary Tumor",)  # of the sample sheet; none named: all

    # -- spots (source = "her2st" or "visium") ----------------------------------------------------------
    # Edge of the square of tissue that stands for a spot; 0: 155 in her2st, of Visium the pitch of the spots.
    spot_region_um: Annotated[float, Field(ge=0)] = 0.0
    visium_sections: dict[str, Section] = {}  # name -> folder or h5ad, image, donor, clusters, split
    spot_splits: dict[Literal["train", "validation", "test"], tuple[str, ...]] = {}  # set -> sections

    # -- tiles (notebook 01) ----------------------------------------------------------------------------
    tile_px: PositiveInt = 512  # edge of a tile at tile_mpp
    tile_mpp: PositiveFloat = 0.9884  # µm/px: the paper's "10x"
    input_px: PositiveInt = 224  # edge of the network's input, to which a tile is rescaled
    min_tissue: Fraction = 0.5  # tiles with less tissue are dropped
    mask_mpp: PositiveFloat = 8.0  # µm/px of the tissue mask
    slide_limit_s: Annotated[float, Field(ge=0)] = 3600.0  # longest time to cut one slide; 0: none
    store_tiles: bool = True  # false: only those trained on; others are read from the slides again
    drop_tiles: tuple[Literal["pen", "fold", "bleed", "blur"], ...] = ("pen", "fold", "bleed", "blur")
    max_pen: Fraction = 0.05  # limits of drop_tiles: share of a tile under ink or glue
    max_fold: Fraction = 0.5  # share of a tile where tissue lies double
    max_bleed: Fraction = 0.3  # share of a tile where stain lies on glass, without tissue
    min_focus: Annotated[float, Field(ge=0)] = 0.13
    reader: Literal["auto", "openslide", "jpeg"] = "auto"  # jpeg: libjpeg's scaled decoding of Aperio slides

    # -- network and training (notebooks 02, 03) --------------------------------------------------------
    architecture: str = "vgg16"
    # Where features come from: the network trained here; or one as it is, with which all samples can be
    # tested: the name of a file in data/encoders ("uni"), "imagenet", "random" weights, or a checkpoint (path
    # from the repository, or absolute).
    encoder: Annotated[str, Field(min_length=1)] = config_values.TRAINED_HERE
    # Weights of an encoder file where they are not what it says: a path, "hub:..." or "package:...".
    encoder_weights: str = ""
    encoder_digest: str = ""  # of the encoder's file; set by it
    # Mean and sd of the pixels (0 to 1) that the encoder was trained with, where its checkpoint lacks them.
    encoder_normalisation: tuple[Colour, Colour] | None = None
    weights: str = ""  # initial: "" random; "imagenet"; or a checkpoint, from the repository or absolute
    # Of random weights; vgg: as in the VGG paper, for small cohorts.
    initialisation: Literal["torchvision", "vgg"] = "torchvision"
    # untrained: keeps the initial weights; shuffled: trained on permuted labels.
    null_network: Literal["", "untrained", "shuffled"] = ""
    epochs: PositiveInt = 90
    batch_size: Annotated[int, Field(ge=0)] = 0  # 0: the paper's, 256 for AlexNet and 40 for the others
    learning_rate: PositiveFloat = 0.01
    lr_step_epochs: PositiveInt = 30  # after each so many epochs the rate is multiplied by lr_gamma
    lr_gamma: PositiveFloat = 0.1
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    augment: tuple[Literal["flip", "rotate90"], ...] = ()  # none in the paper
    stain_jitter: Fraction = 0.0  # how far the stains of training tiles are changed at random; 0.05: lightly
    class_weighting: bool = False
    mixed_precision: Literal["", "bf16"] = ""
    compile_network: bool = False
    loader_workers: Annotated[int, Field(ge=-1)] = -1  # threads that read tiles; -1: 0 on a CPU, else up to 2

    # -- features (notebook 04) -------------------------------------------------------------------------
    features: Literal["table1", "unskipped"] = "table1"  # which layers of ResNet34 are counted
    p: PositiveFloat = 1.0  # exponent in f = sum over x, y of Y^p
    aggregate: Literal["mean", "sum"] = "mean"  # over a slide's tiles; the paper sums
    # Which samples are tested; all: those of the training set too, where the encoder was not trained on them.
    test_on: Literal["test", "all"] = "test"
    quantify_train: bool = False  # training slides too: for the scorecard, slides that no test used
    # Of the forward pass; tf32 and bfloat16 are faster on a GPU but less exact.
    feature_precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    features_file: str = ""  # features computed elsewhere: notebooks 01 to 04 are skipped

    # -- correlation (notebook 05) ----------------------------------------------------------------------
    r_threshold: Fraction = 0.7  # R_T: pairs with |r| at or above it are kept
    e_threshold: float = 7.0  # E_T: on a gene's highest median over tissues of log2(1 + expression)
    thresholds: Annotated[tuple[tuple[Fraction, float], ...], Field(min_length=1)] = PAPER_THRESHOLDS
    best_feature_r: Fraction = 0.75  # Table 6 and S2 Table
    correlation: Literal["pearson", "spearman"] = "pearson"
    # Gene Ontology files (Table 6, gene_sets); empty: those in data/raw/go or DATA_MIRROR/go, if any.
    go_obo_file: str = ""
    go_gaf_file: str = ""

    # -- significance, conditional independence (notebooks 06 to 08) ------------------------------------
    n_permutations: PositiveInt = 1000  # of each marker pair, as in the paper
    # A gene without a link stops after so many shuffles that reach it; one with a link goes on to the cap.
    link_exceedances: PositiveInt = 10
    link_permutations: PositiveInt = 10_000
    q_threshold: Fraction = 0.05
    gene_sets: str = ""  # tested like genes: a GMT file, or "go" for the terms of the Gene Ontology
    alphas: tuple[Fraction, ...] = (0.01, 0.05)
    # Other cohorts (names, TOML files) in which the links found here are looked for: `--replicate`.
    replicate_in: tuple[str, ...] = ()
    # Targets for the scorecard of a simulated cohort, over all pairs: the run fails below them. 0: no target.
    least_precision: Fraction = 0.0
    least_recall: Fraction = 0.0

    # -- visualisation (notebook 10) --------------------------------------------------------------------
    show_pairs: tuple[str, ...] = ()  # "GENE:FEATURE", such as "AMY2A:20_139"; empty: the best within tissues
    n_cards: PositiveInt = 24  # pairs chosen if show_pairs is empty, those found within tissues first
    cover_top: Annotated[float, Field(gt=0, le=1)] = 0.01  # share of tiles that are a feature's top tiles
    tiles_per_sample: PositiveInt = 64  # at most, drawn at random, when choosing tiles to show
    synthesis_steps: PositiveInt = 96  # of gradient ascent for a synthetic image
    synthesis_seeds: PositiveInt = 2  # synthetic images per feature
    ihc_dir: str = "ihc"  # immunohistochemistry images <gene>.*, relative to data/raw/<cohort>, or absolute
    fetch_ihc: bool = False  # those that are missing are fetched from the Human Protein Atlas

    # -- inspector (notebook 11) ------------------------------------------------------------------------
    inspect_gene: str = ""  # gene (symbol or id) or feature shown first; empty: the most significant

    # -- machines ---------------------------------------------------------------------------------------
    seed: int = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    n_workers: PositiveInt = 2
    inference_batch: PositiveInt = 64  # tiles per forward pass when predicting and quantifying
    # Where notebooks 01 and 04 work: "local", a dask scheduler ("tcp://host:8786"), or "slurm" with its jobs.
    cluster: str = "local"
    slurm: Jobs = Jobs()

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        return config_values.completed(values)

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        config_values.require_consistent(self)
        return self

    @classmethod
    def load(cls, cohort: str, architecture: str = "", overrides: dict[str, Any] | None = None) -> "Config":
        """Read a cohort by name (data/cohorts/<name>.toml) or by the path of a TOML file.

        `architecture` and `overrides` take precedence over the file, the file over the defaults. Raises
        FileNotFoundError (naming the known cohorts) or ValueError (naming key, value and what is allowed).
        """
        path = Path(cohort) if cohort.endswith(".toml") else COHORTS_DIR / f"{cohort}.toml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in COHORTS_DIR.glob("*.toml")))
            raise MissingInputError(f"no cohort {cohort!r}: {path} does not exist; cohorts here: {known}")
        values = {"cohort": path.stem} | checked_values.read_toml(path) | (overrides or {})
        if architecture:
            values |= {"architecture": architecture} | config_values.encoder_of(architecture, values)
        config = cls.checked(values, where=str(path))
        _ = config.test_sets  # raises where they cannot be tested
        return config

    @classmethod
    def checked(cls, values: dict[str, Any], where: str = "configuration") -> "Config":
        """Validate; the ValueError has one readable line for each wrong parameter."""
        return checked_values.checked(cls, values, where)

    @property
    def torch_device(self) -> str:
        """The device, with "auto" resolved: a GPU where there is one."""
        if self.device != "auto":
            return self.device
        import torch  # late: reading a configuration should not take seconds

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def value_unit(self) -> str:
        """Unit of the expression values that are correlated: counts are made CPM when they are read."""
        return "CPM" if self.expression_unit == "counts" else self.expression_unit

    @property
    def tile_um(self) -> float:
        """Width of a tile, µm."""
        return self.tile_px * self.tile_mpp

    @property
    def slides_only(self) -> bool:
        """Whether there is no expression to correlate features with: notebooks 00 to 04 are all there is."""
        return not self.expression_file

    @property
    def classifies(self) -> bool:
        """Whether a network is trained to tell tissues apart, rather than used as it is or replaced."""
        return self.encoder == config_values.TRAINED_HERE and not self.features_file

    @property
    def test_sets(self) -> tuple[str, ...]:
        """The sets whose samples are tested; those of validation always stay apart, for replication.

        ValueError for `test_on` = "all" with a network trained on some of the samples.
        """
        if self.test_on == "test":
            return ("test",)
        if self.null_network != "untrained" and not self.features_file:
            raise InputError(
                'test_on = "all" tests the training samples too: that needs an encoder which was not trained '
                'on them. Set encoder = "imagenet" or a checkpoint, or features_file'
            )
        if self.quantify_train:
            raise InputError('test_on = "all" tests the training samples: set quantify_train = false')
        return ("train", "test")

    @property
    def measured_sets(self) -> tuple[str, ...]:
        """The sets whose features notebook 04 computes."""
        return tuple({"validation", *self.test_sets} | ({"train"} if self.quantify_train else set()))

    @property
    def lowest_e_threshold(self) -> float:
        """The lowest E_T of any table: genes below it are not needed."""
        return min(self.e_threshold, *(e for _, e in self.thresholds))

    @property
    def tiling(self) -> Tiling:
        """How slides are cut into tiles."""
        return Tiling(**self.model_dump(include={field.name for field in fields(Tiling)}))

    @property
    def tile_limits(self) -> Limits:
        """What a tile that counts may have at most, or at least."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})

    @property
    def recipe(self) -> Recipe:
        """How the network is trained; the null network "untrained" has no epochs."""
        values: dict[str, Any] = self.model_dump(include={field.name for field in fields(Recipe)})
        values["batch_size"] = self.batch_size or (256 if self.architecture == "alexnet" else 40)
        values["epochs"] = 0 if self.null_network == "untrained" else self.epochs
        return Recipe(**values)

    @property
    def quantification(self) -> Quantification:
        """How features are computed from tiles."""
        return Quantification(
            architecture=self.architecture,
            features=self.features,
            p=self.p,
            precision=self.feature_precision,
            batch_size=self.inference_batch,
            device=self.torch_device,
        )

    @property
    def run_name(self) -> str:
        """Folder of one network: architecture, then initial weights and kind of null network, if any."""
        name = config_values.architecture_name(self.architecture)
        kind = self.null_network
        if kind == "untrained" and self.weights:
            kind = "as_it_is"
        return "__".join(part for part in (name, self._weights_name, kind) if part)

    @property
    def network_name(self) -> str:
        """The network's name in tables: the architecture, with its initial weights if any."""
        name = encoder_files.label(self.architecture)
        return f"{name} ({self._weights_name})" if self._weights_name else name

    @property
    def network_kind(self) -> str:
        """How the network was made: "trained"; "as it is" (weights from elsewhere, not trained here);
        or, as a null network, "untrained" (random weights) or "shuffled" (trained on permuted labels).
        """
        if self.null_network == "untrained" and self.weights:
            return "as it is"
        return self.null_network or "trained"

    @property
    def weights_file(self) -> bool:
        """Whether `weights` is a file on this machine: a checkpoint, or in a Python package."""
        return self.weights not in ("", "imagenet") and not self.weights.startswith(encoder_files.HUB)

    @property
    def _weights_name(self) -> str:
        """ "imagenet", or the name of a checkpoint's file, safe for a folder; "" of an encoder file."""
        if self.encoder_digest and not self.encoder_weights:
            return ""
        return config_values.weights_name(self.weights) if self.weights_file else self.weights
