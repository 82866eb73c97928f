"""Feature tables computed elsewhere (features x samples), read and checked in place of slides and network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.cohort import table_files
from lib.cohort.samples import MISSING_WORDS
from lib.errors import InputError, MissingInputError
from lib.network import models


def read_features(path: Path, architecture: str, features: str = "table1") -> pd.DataFrame:
    """Read a table of features x samples.

    Parameters
    ----------
    path : .parquet with the index `feature`, or .csv (also .gz) whose first column is the feature
    architecture, features : the network that made it (`models.feature_names`)

    Returns
    -------
    DataFrame
        float64, index feature in the network's order, columns sample_id.

    Raises
    ------
    FileNotFoundError, ValueError
        No file; another file type; features that are not the network's; a sample twice; values that are
        missing, infinite or not numbers.
    """
    if not path.is_file():
        raise MissingInputError(
            f"there is no feature table at {path}: check features_file in the cohort's TOML"
        )
    if path.suffix == ".parquet":
        features_df = table_files.read_parquet(path)
    elif path.name.endswith((".csv", ".csv.gz")):
        features_df = _numbers(table_files.read_text(path, index=True), path)
    else:
        raise InputError(f"{path}: a feature table must be .parquet or .csv (also .gz)")
    features_df.columns = [table_files.composed(str(column)) for column in features_df.columns]
    if not features_df.columns.is_unique:
        twice = features_df.columns[features_df.columns.duplicated()]
        raise InputError(f"{path}: {len(twice)} samples occur twice, first {list(twice[:3])}")
    index, wanted = features_df.index.astype(str), pd.Index(models.feature_names(architecture, features))
    absent, foreign = wanted.difference(index, sort=False), index.difference(wanted, sort=False)
    if len(absent) or len(foreign) or not index.is_unique:
        raise InputError(
            f"{path} is not of {architecture}: of its {len(wanted):,} features {len(absent):,} are missing "
            f"(first {list(absent[:3])}), {len(foreign):,} are unknown (first {list(foreign[:3])}) and "
            f"{int(index.duplicated().sum()):,} repeated; set architecture to the network that made it"
        )
    text = [name for name, kind in features_df.dtypes.items() if kind.kind not in "fiu"]
    if text:
        raise InputError(f"{path}: {len(text)} samples have values that are not numbers, first {text[0]!r}")
    features_df = features_df.set_axis(index.rename("feature")).loc[wanted].astype(np.float64)
    bad = ~np.isfinite(features_df.to_numpy())
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{path}: feature {features_df.index[row]!r} is missing or infinite in sample "
            f"{features_df.columns[column]!r} ({int(bad.sum()):,} such values): drop the sample or compute "
            "its features again"
        )
    return features_df.rename_axis("feature")


def _numbers(table_df: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A table of text as numbers: its first column are the features; words for missing values become NaN."""
    features = table_df.iloc[:, 0]
    cells = table_df.iloc[:, 1:].to_numpy(object)
    numbers = pd.to_numeric(cells.ravel(), errors="coerce").reshape(cells.shape)
    words = [(at, str(cells[tuple(at)])) for at in np.argwhere(np.isnan(numbers))]
    words = [(at, word) for at, word in words if word.lower() not in MISSING_WORDS]
    if words:
        (row, column), word = words[0]
        raise InputError(
            f"{path}: {len(words)} values are not numbers, first {word!r} of feature {features[row]!r} in "
            f"sample {table_df.columns[column + 1]!r}"
        )
    return pd.DataFrame(numbers, index=features, columns=table_df.columns[1:])


def by_set(
    features_df: pd.DataFrame, samples_df: pd.DataFrame, test_sets: Sequence[str] = ("test",)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The validation and the test samples' columns, in the order of the samples table.

    test_sets : sets whose samples are tested (`Config.test_sets`).

    Raises ValueError where a set has no sample in the table.
    """
    tables = []
    for name, sets in {"validation": ["validation"], "test": test_sets}.items():
        ids = samples_df.loc[samples_df["split"].isin(sets), "sample_id"]
        present = [i for i in ids if i in features_df.columns]
        if not present:
            raise InputError(
                f"the feature table has none of the {len(ids)} {name} samples (first {list(ids[:3])}): its "
                f"columns (first {list(features_df.columns[:3])}) must be ids of the samples table"
            )
        tables.append(features_df[present])
    return tables[0], tables[1]
