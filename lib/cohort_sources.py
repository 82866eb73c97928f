"""What makes or fetches the inputs of a cohort that are not the user's own files."""

from lib.config import ROOT, Config
from lib.simulated.demo_cohort import DemoCohort, GeneCounts
from lib.sources.gdc import GdcCohort
from lib.sources.gtex_cohort import GtexCohort
from lib.sources.her2st import Her2stCohort
from lib.sources.visium import VisiumCohort


def source_of(config: Config) -> DemoCohort | GdcCohort | GtexCohort | Her2stCohort | VisiumCohort | None:
    """The source of a cohort, whose `make_inputs` writes them; None for the user's own files."""
    if config.source == "synthetic":
        return DemoCohort(
            n_tissues=config.synthetic_tissues,
            slides_per_tissue=config.synthetic_slides_per_tissue,
            genes=GeneCounts(config.synthetic_genes),
            slide_um=config.synthetic_slide_um,
            seed=config.synthetic_seed,
            n_workers=config.n_workers,
        )
    if config.source == "her2st":
        edge_um = config.spot_region_um or Her2stCohort.region_um
        return Her2stCohort(edge_um, {**config.spot_splits})
    if config.source == "visium":
        return VisiumCohort(config.visium_sections, config.spot_region_um, config.seed)
    if config.source == "gdc":
        return GdcCohort(config.gdc_folder, config.gdc_slides, config.gdc_sample_types)
    if config.source == "gtex":
        return GtexCohort(
            tissues=config.gtex_tissues,
            max_slides=config.gtex_max_slides,
            min_slides=config.gtex_min_slides,
            covariates=config.covariates,
            release=config.gtex_release,
            portal_file=config.gtex_portal_file,
            expression_file=config.expression_file,
            genes_file=config.genes_file,
            split_file=ROOT / config.split_file if config.split_file else "",
        )
    return None
