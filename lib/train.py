"""The command that trains a cohort's network as notebook 02 does, on one GPU or several.

    torchrun --nproc-per-node 4 -m lib.train --cohort gtex --set mixed_precision=bf16

It uses the notebook's folder and recipe, so the notebook then finds the run finished and goes on with it.
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext

from lib import cohort_lock
from lib.config import Config
from lib.config_values import parse_setting
from lib.network import checkpoints, devices, training
from lib.store import Store
from lib.tiles.stored import labelled_tiles


def main(arguments: Sequence[str] | None = None) -> None:
    """Train: `python -m lib.train --help`."""
    parser = argparse.ArgumentParser(prog="lib.train", description="Train a cohort's tissue classifier.")
    parser.add_argument("--cohort", required=True, help="a cohort's name or TOML file")
    parser.add_argument("--architecture", default="", help="default: the cohort's own")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="parameters"
    )
    parser.add_argument(
        "--restart", action="store_true", help="discard the run in the folder, if there is one"
    )
    options = parser.parse_args(arguments)
    settings = dict(parse_setting(text) for text in options.set)
    train(Config.load(options.cohort, options.architecture, settings), options.restart)


def train(config: Config, restart: bool = False) -> None:
    """Train the network of a configuration, in every process that torchrun started.

    Raises StaleArtefactError where samples or tiles are missing or stale (the notebook to run is named).
    """
    store, recipe = Store(config), config.recipe
    with devices.process_group() as rank:
        samples_df, tiles_df = store.load("samples"), store.load("tiles")
        class_names = sorted(samples_df.loc[samples_df["split"] == "train", "tissue"].unique())
        labelled_df = labelled_tiles(tiles_df, samples_df, store.tile_files(tiles_df), class_names)
        train_df, validation_df = training.training_sets(labelled_df, config.null_network, config.seed)
        run_dir = store.path("training")
        lock = cohort_lock.holding(store.derived, "lib.train") if rank == 0 else nullcontext()
        with lock:
            if rank == 0:  # the others wait in `fit` before they read the folder
                store.work_folder("training", "network")
                checkpoints.discard_longer(run_dir, recipe.epochs)
                if restart:
                    checkpoints.discard(run_dir, "--restart")
            model = training.initial_network(recipe, len(class_names), config.input_px, store.weights)
            how = {"class_names": class_names, "run_dir": run_dir, "recipe": recipe}
            training.fit(model, train_df, validation_df, **how)


if __name__ == "__main__":
    main()
