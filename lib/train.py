"""The command of `lib.network.training`: a cohort's run, on one GPU or several, or a table of labelled tiles.

    torchrun --nproc-per-node 4 -m lib.train --cohort gtex --set mixed_precision=bf16
    torchrun --nproc-per-node 4 -m lib.train --tiles tiles.parquet --architecture vgg16 --run-dir runs/a

With `--cohort` it does what notebook 02 does, in the same folder with the same recipe, so that the notebook
finds the run finished and goes on from there.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist

from lib.network import batches, checkpoints, models, training, training_step
from lib.tiles import stored


def main(arguments: Sequence[str] | None = None) -> None:
    """Train: `python -m lib.train --help`."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    cohort, settings = options.pop("cohort", None), options.pop("set", None)
    if cohort is not None:
        surplus = sorted(set(options) - {"architecture", "restart"})
        if surplus:
            name = surplus[0].replace("_", "-")
            parser.error(f"--{name} goes with --tiles; with --cohort give parameters as --set key=value")
        train_cohort(cohort, options.get("architecture", ""), settings or [], options.get("restart", False))
        return
    missing = [name for name in ("architecture", "run_dir") if name not in options]
    if missing or settings:
        parser.error("--tiles takes --architecture and --run-dir, and no --set")
    train_tiles(**options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lib.train",
        description="Train a tissue classifier.",
        argument_default=argparse.SUPPRESS,  # so that what was given can be told from what was not
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--cohort", help="a cohort's name or TOML file: trains the run of notebook 02")
    source.add_argument("--tiles", help="parquet: file, stack_index, sample_id, tissue, split")
    parser.add_argument("--architecture", help="with --cohort, default: the cohort's own")
    parser.add_argument(
        "--set", nargs="+", action="extend", metavar="KEY=VALUE", help="with --cohort: parameters"
    )
    parser.add_argument("--restart", action="store_true", help="throw away what the folder of the run holds")
    tiles = parser.add_argument_group("with --tiles")
    tiles.add_argument("--run-dir")
    tiles.add_argument("--weights", help="imagenet, or the path of a checkpoint; default: random")
    tiles.add_argument("--initialisation", choices=["torchvision", "vgg"], help="default: torchvision's")
    tiles.add_argument("--batch-size", type=int, help="default: 256 for AlexNet, 40 for the others")
    for name, value in {"epochs": 90, "lr-step-epochs": 30, "seed": 0}.items():
        tiles.add_argument(f"--{name}", type=int, help=f"default: {value}")
    for name, value in {"lr": 0.01, "momentum": 0.9, "weight-decay": 1e-4, "lr-gamma": 0.1}.items():
        tiles.add_argument(f"--{name}", type=float, help=f"default: {value}")
    tiles.add_argument("--n-workers", type=int)
    tiles.add_argument("--device")
    tiles.add_argument("--mixed-precision", choices=["bf16"])
    tiles.add_argument("--augment", nargs="*", choices=batches.AUGMENTATIONS)
    tiles.add_argument("--shuffle-labels", action="store_true", help="permute over samples: a null network")
    for name in ("compile", "class-weighting"):
        tiles.add_argument(f"--{name}", action="store_true")
    return parser


def train_cohort(cohort: str, architecture: str, settings: Sequence[str], restart: bool = False) -> None:
    """Train the run of notebook 02: its tables, its network, its recipe, its folder.

    Raises
    ------
    ValueError
        Bad parameters; the null network "untrained", which is not trained.
    StaleArtefactError
        Samples or tiles are missing or out of date (the notebook to run is named).
    """
    from lib.config import Config, parse_setting  # late: --tiles needs none of what these import
    from lib.store import Store

    config = Config.load(cohort, architecture, dict(parse_setting(text) for text in settings))
    if config.null_network == "untrained":
        raise ValueError("null_network = 'untrained' is not trained: run notebook 02 (run_all.py --only 02)")
    store = Store(config)
    with training_step.process_group() as rank:
        samples_df, tiles_df = store.load("samples"), store.load("tiles")
        class_names = sorted(samples_df.loc[samples_df["split"] == "train", "tissue"].unique())
        labelled_df = stored.labelled_tiles(tiles_df, samples_df, store.stack_files(tiles_df), class_names)
        sets = training.training_sets(labelled_df, config.null_network, config.seed)
        if rank == 0:
            checkpoints.drop_longer(store.work_folder("training", "network"), config.epochs)
        if dist.is_initialized():
            dist.barrier()
        start = {"weights": store.weights, "keep_head": False, "input_px": config.input_px}
        network = (config.architecture, len(class_names), config.seed, config.initialisation)
        model = _network(*network, **start)
        where = {"run_dir": store.path("training"), "restart": restart}
        training.fit(model, *sets, class_names=class_names, **where, **config.recipe)


def train_tiles(
    tiles: str,
    architecture: str,
    *,
    initialisation: str = "torchvision",
    shuffle_labels: bool = False,
    **options: Any,
) -> None:
    """Train from a table of labelled tiles; `options` are those of `training.fit`.

    ValueError when the table lacks a column.
    """
    tiles_df = pd.read_parquet(tiles)
    lacking = [c for c in ("file", "stack_index", "sample_id", "tissue", "split") if c not in tiles_df]
    if lacking:
        raise ValueError(
            f"{tiles} has no column {lacking}; it has {list(tiles_df)}. A cohort's own tiles are trained "
            "with --cohort <name> in place of --tiles"
        )
    class_names = sorted(tiles_df.loc[tiles_df["split"] == "train", "tissue"].unique())
    tiles_df["label"] = pd.Index(class_names).get_indexer(tiles_df["tissue"])
    seed = options.setdefault("seed", 0)
    sets = training.training_sets(tiles_df, "shuffled" if shuffle_labels else "", seed)
    options.setdefault("batch_size", 256 if architecture == "alexnet" else 40)
    with training_step.process_group():
        start = {"weights": options.get("weights"), "input_px": stored.StoredTiles(sets[0]).input_px}
        model = _network(architecture, len(class_names), seed, initialisation, **start)
        training.fit(model, *sets, class_names=class_names, architecture=architecture, **options)


def _network(
    architecture: str, n_classes: int, seed: int, initialisation: str, **start: Any
) -> torch.nn.Module:
    """A network with seeded weights; `start` are the options of `networks.build`."""
    torch.manual_seed(seed)
    model = models.build(architecture, n_classes, **start)
    if initialisation == "vgg" and not start["weights"]:
        models.initialise_like_vgg(model)
    return model


if __name__ == "__main__":
    main()
