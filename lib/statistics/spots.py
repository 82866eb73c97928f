"""Samples that are spots of a section: where they lie, and what links are tested within."""

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

LEAST_ON_SECTION = 10  # samples on a slide: fewer are regions that somebody chose, not an array of spots
FEW_SPOTS = 30  # of a section, to estimate how alike its neighbours are
REGION = ("slide_id", "l0_x", "l0_y", "l0_width", "l0_height", "mpp")


def are_spots(samples_df: pd.DataFrame) -> bool:
    """Whether the samples are spots: regions of slides, typically ten or more on each, one donor a slide."""
    if not set(REGION) <= set(samples_df) or samples_df[list(REGION)].isna().any(axis=None):
        return False
    slides = samples_df.groupby("slide_id")
    if slides.size().median() < LEAST_ON_SECTION:
        return False
    return "donor" not in samples_df or bool((slides["donor"].nunique() <= 1).all())


def strata(samples_df: pd.DataFrame) -> pd.Series:
    """What links are tested within: the tissue of each sample; of spots the section.

    Sections differ in stain and depth, and what tells tissues apart on a section (often clusters of the
    expression itself) is for the cohort to name as a covariate where links must hold beyond it.
    """
    return samples_df["slide_id" if are_spots(samples_df) else "tissue"]


def stratum_name(samples_df: pd.DataFrame) -> str:
    """ "section" or "tissue"."""
    return "section" if are_spots(samples_df) else "tissue"


def centres_um(samples_df: pd.DataFrame) -> np.ndarray:
    """float64 [n_samples, 2], centre of each region in µm on its slide."""
    corner = samples_df[["l0_x", "l0_y"]].to_numpy(float)
    size = samples_df[["l0_width", "l0_height"]].to_numpy(float)
    return (corner + size / 2) * samples_df[["mpp"]].to_numpy(float)


def pitch(centres: np.ndarray) -> float:
    """Median distance of a spot to its nearest neighbour, in the unit of centres [n >= 2, 2]."""
    return float(np.median(KDTree(centres).query(centres, k=2)[0][:, 1]))


def notes(samples_df: pd.DataFrame) -> list[str]:
    """What these spots allow to be tested, in words."""
    centres, sections = centres_um(samples_df), samples_df["slide_id"]
    sizes = sections.value_counts()
    said = [
        f"{len(sections):,} spots of {len(sizes)} sections: links are tested within sections, at the "
        "effective size that the autocorrelation of gene and feature leaves"
    ]
    if few := {str(name): int(n) for name, n in sizes.items() if n < FEW_SPOTS}:
        said.append(
            f"sections with fewer than {FEW_SPOTS} spots: {few}; too few to tell how alike neighbours are, "
            "so that p can be too small: leave them out, or trust what replicates on others"
        )
    for name in sizes.sort_index().index:
        xy = centres[(sections == name).to_numpy()]
        if len(xy) > 2 and np.linalg.matrix_rank(xy - xy.mean(axis=0), tol=1e-6 * np.ptp(xy)) < 2:
            said.append(f"all spots of section {name} lie on one line: neighbours across it are unknown")
    if len(sizes) == 1:
        said.append("one section: nothing can be said of others; a second one would allow the spatial null")
    elif "donor" in samples_df and (n_donors := samples_df["donor"].nunique()) < len(sizes):
        said.append(
            f"{len(sizes)} sections of {n_donors} donor{'s' * (n_donors > 1)}: links that hold in all "
            f"sections hold for {'these donors' if n_donors > 1 else 'this donor'}"
        )
    return said
