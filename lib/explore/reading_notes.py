"""What changes how everything in a report is to be read, in words for its first screen."""

import pandas as pd

from lib.statistics import effective_size, spots
from lib.store import Store

FEW_SAMPLES = 30  # tested: strong links alone can be found
FEW_VALIDATION = 10  # samples: q of 0.05 needs r near 1
DEPTH = "log_counts"  # of a spot; written by the sources of spots


def reading_notes(store: Store) -> list[str]:
    """Notes on the samples tested and on what was not taken out; empty where nothing needs saying."""
    config = store.config
    if config.slides_only:
        return [
            "There is no expression table: features were measured (notebooks 00 to 04); correlations, "
            "tests, links and cards are left out."
        ]
    if not store.is_current("samples"):
        return []
    samples_df = store.load("samples")
    tested_df = samples_df[samples_df["split"].isin(config.test_sets)]
    if tested_df.empty:
        return []
    notes = _of_samples(tested_df)
    n_validation = int((samples_df["split"] == "validation").sum())
    if not n_validation:
        notes.append(
            "There are no validation samples: no link could be held against samples that no test has used."
        )
    elif n_validation < FEW_VALIDATION:
        notes.append(
            f"Only {n_validation} validation samples: on so few hardly any link can replicate, true or not."
        )
    return notes + _of_covariates(tested_df, config.covariates)


def _of_samples(tested_df: pd.DataFrame) -> list[str]:
    if spots.are_spots(tested_df):
        return [f"{note[0].upper()}{note[1:]}." for note in spots.notes(tested_df)[1:]]
    notes = []
    if len(tested_df) < FEW_SAMPLES:
        notes.append(f"Only {len(tested_df)} samples were tested: weak and moderate links cannot be found.")
    if tested_df["tissue"].nunique() == 1:
        notes.append("All samples tested are of one tissue: nothing is said of differences between tissues.")
    n_donors = tested_df["donor"].nunique() if "donor" in tested_df else 0
    if 0 < n_donors < effective_size.LEAST_DONORS:
        said = effective_size.donor_notes(tested_df.reset_index(drop=True))
        notes += [f"{note[0].upper()}{note[1:]}." for note in said]
    return notes


def _of_covariates(tested_df: pd.DataFrame, covariates: tuple[str, ...]) -> list[str]:
    if spots.are_spots(tested_df):
        if DEPTH in tested_df and DEPTH not in covariates:
            return [
                f"The depth of a spot ({DEPTH}) is not taken out: genes and image may both follow how much "
                "of the tissue was captured."
            ]
        return []
    if covariates:
        return []
    return [
        "No covariate is taken out: whatever differs between samples of a tissue (age, batch, delay of "
        "fixation) can make a link. Name what is known of them as covariates in the cohort's file."
    ]
