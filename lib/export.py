"""Command that writes the features and the expression of a run as .h5ad files, for scanpy and squidpy.

    python -m lib.export --cohort mine

`features.h5ad` (samples x features) and `expression.h5ad` (samples x genes) lie beside the artefacts of the
network. The samples table is obs; spots have their places in obsm["spatial"].
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import cohort_lock
from lib.cohort import h5ad_writing
from lib.cohort.h5ad_writing import Annotated
from lib.cohort.samples import REGION
from lib.config import Config
from lib.config_values import parse_setting
from lib.errors import HistocorrError, StaleArtefactError
from lib.statistics import correlation, expression_levels
from lib.store import Store


def export(store: Store) -> dict[Path, tuple[int, int]]:
    """Write both files, or the features alone where there is no expression; the shape of each.

    Raises StaleArtefactError where samples, features or expression are missing or stale (the notebook to run
    is named). What later notebooks add is left out where they have not run, and said.
    """
    needed = ["samples", *_sets(store)]
    needed += [] if store.config.slides_only else ["expression", "genes"]
    for name in needed:
        if why := store.why_stale(name):
            raise StaleArtefactError(name, store.artefact(name).notebook, why)
    links_df = _if_made(store, "links")
    made = {"features": of_features(store, links_df)}
    if not store.config.slides_only:
        made["expression"] = of_expression(store, links_df)
    with cohort_lock.holding(store.derived, "lib.export"):
        for what, data in made.items():
            h5ad_writing.write(store.export_path(what), data)
    return {store.export_path(what): data.x.shape for what, data in made.items()}


def of_features(store: Store, links_df: pd.DataFrame | None) -> Annotated:
    """Every sample that has features: float32 samples x features; var has layer, channel and, of linked
    features, the clump and the number of genes.
    """
    features_df = pd.concat([store.load(name) for name in _sets(store)], axis=1)
    layer, channel = correlation.feature_layers(features_df.index)
    var_df = pd.DataFrame({"layer": layer, "channel": channel}, index=features_df.index.rename("feature"))
    if links_df is not None:
        text_df = links_df[["feature", "clump"]].astype(str)
        leads = pd.Series(text_df["clump"].unique(), text_df["clump"].unique())  # a lead is of its own clump
        clump_of = pd.concat([text_df.drop_duplicates("feature").set_index("feature")["clump"], leads])
        var_df["clump"] = clump_of[~clump_of.index.duplicated()].reindex(var_df.index)
        var_df["n_links"] = _counted(text_df["feature"], var_df.index)
    return _annotated(store, features_df, var_df, "features_test", {"aggregate": store.config.aggregate})


def _sets(store: Store) -> list[str]:
    """The artefacts that hold features of this configuration."""
    measured = store.config.quantify_train and not store.config.features_file
    return [*(["features_train"] if measured else []), "features_validation", "features_test"]


def of_expression(store: Store, links_df: pd.DataFrame | None) -> Annotated:
    """Every sample: float32 samples x genes, not logged, with layers["log2"] = log2(1 + x); var has id,
    symbol, biotype and, from later notebooks, the tissue of highest median, that median, q and the number of
    links.
    """
    expression_df, var_df = store.load("expression"), store.load("genes").rename_axis("gene")
    var_df = var_df.reindex(expression_df.index)
    var_df.insert(0, "gene_ids", var_df.index.to_numpy())
    medians_df = _if_made(store, "gene_medians")
    if medians_df is not None:
        var_df = var_df.join(medians_df[["tissue", "max_median_log2"]])
    tests_df = _if_made(store, "gene_significance")
    if tests_df is not None:
        var_df = var_df.join(tests_df["q"])
    if links_df is not None:
        var_df["n_links"] = _counted(links_df["gene"].astype(str), var_df.index)
    data = _annotated(store, expression_df, var_df, "expression", {"unit": store.config.value_unit})
    log_df = expression_levels.log2_expression(expression_df[data.obs_df.index.tolist()])
    return data._replace(layers={"log2": log_df.to_numpy().T})


def _annotated(
    store: Store, values_df: pd.DataFrame, var_df: pd.DataFrame, artefact: str, facts: dict[str, str]
) -> Annotated:
    """A table of variables x samples the way round that AnnData has it, with what is known of both."""
    obs_df = store.load("samples").set_index("sample_id")
    obs_df = obs_df[obs_df.index.isin(values_df.columns)]
    x = values_df[obs_df.index.tolist()].to_numpy(np.float32).T
    config = store.config
    uns: dict[str, Any] = {"cohort": config.cohort, "network": config.network_name, **facts}
    uns["parameters"] = h5ad_writing.flat(config.model_dump(mode="json"))
    uns["versions"] = store.facts(artefact)["versions"]
    return Annotated(x, obs_df, var_df, {}, _places(obs_df), uns)


def _places(obs_df: pd.DataFrame) -> dict[str, np.ndarray]:
    """Centres of the samples' regions, x and y in level-0 px of their slide, where all have one."""
    if not set(REGION) <= set(obs_df) or obs_df[list(REGION)].isna().any(axis=None):
        return {}
    corner, size = (obs_df[list(names)].to_numpy(float) for names in (REGION[:2], REGION[2:]))
    return {"spatial": corner + size / 2}


def _counted(names: pd.Series, index: pd.Index) -> pd.Series:
    return names.value_counts().reindex(index, fill_value=0).astype(int)


def _if_made(store: Store, artefact: str) -> pd.DataFrame | None:
    """An artefact of a later notebook, or None, which is said."""
    if store.artefact(artefact).notebook not in store.notebooks:
        return None
    try:
        return store.load(artefact)
    except StaleArtefactError as error:
        print(f"left out: {error}")
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, or 2 for errors."""
    parser = argparse.ArgumentParser(prog="python -m lib.export", description="Write a run as .h5ad files.")
    parser.add_argument("--cohort", required=True, help="a cohort's name or TOML file")
    parser.add_argument("--architecture", default="", help="default: the cohort's own")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    try:
        settings = dict(parse_setting(text) for text in options.set)
        made = export(Store(Config.load(options.cohort, options.architecture, settings)))
    except HistocorrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, (n_obs, n_vars) in made.items():
        what = "genes" if path.stem == "expression" else path.stem
        print(f"{path}: {n_obs:,} samples x {n_vars:,} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
