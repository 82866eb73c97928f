"""Training and quantification in tiles per second, each beside a bare loop on data already on the device.

`networks_rows` makes rows for `lib.benchmarks.run`, `lib.benchmarks.gpu` those of a GPU. Seconds are per
1,000 tiles. Tiles and weights are random: speed does not depend on the content of a tile.
"""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from isal import isal_zlib
from torch import nn
from tqdm.auto import tqdm

from lib.benchmarks.timing import row, timed
from lib.features import precision_check, quantify, sample_sums
from lib.features.quantification import Quantification
from lib.network import devices, models, training_step
from lib.network.batches import TileLoader
from lib.network.recipe import Recipe
from lib.tiles import stack_files

TOO_COARSE = {("inception_v3", "bfloat16")}  # which `precision_check` is to refuse


class Size(NamedTuple):
    """How much is measured; the defaults are those of a GPU and the paper's networks."""

    quantified: tuple[str, ...] = ("vgg16", "vgg16_avg1fc")
    trained: tuple[str, ...] = ("vgg16", "vgg16_avg1fc")
    input_px: int = 224
    n_classes: int = 39
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    n_tiles: int = 4096  # per timing, at least eight batches
    n_repeats: int = 3


class Case(NamedTuple):
    """One measurement."""

    architecture: str
    batch_size: int
    precision: str
    size: Size
    device: str  # "cpu", or a GPU as torch names it

    @property
    def n_batches(self) -> int:
        """At least three batches on a CPU and eight on a GPU, of any size."""
        return max(3 if self.size.n_tiles < 1000 else 8, self.size.n_tiles // self.batch_size)


# Two cores need about three seconds for eight tiles of VGG16: the rows of the CPU are fewer and shorter.
ON_CPU = Size(
    quantified=("alexnet", "vgg16", "resnet34", "inception_v3"),
    trained=("alexnet", "vgg16_avg1fc"),
    batch_sizes=(16,),
    precisions=("float32",),
    n_tiles=48,
    n_repeats=2,
)
QUICK = Size(("alexnet", "resnet34"), ("alexnet",), 64, 8, (8,), ("float32",), 32, 2)


def networks_rows(quick: bool = False, size: Size | None = None) -> list[dict]:
    """Quantification and training on the CPU.

    Parameters
    ----------
    quick : small inputs, to check that it runs
    size : another amount of work

    Returns
    -------
    Rows with `timing.COLUMNS`, tiles_per_s and n_tiles.
    """
    size = size or (QUICK if quick else ON_CPU)
    works = (quantification_row, size.quantified), (training_row, size.trained)
    return [
        measure(Case(name, batch_size, precision, size, "cpu"))
        for measure, names in works
        for name in names
        for precision in size.precisions
        for batch_size in size.batch_sizes
    ]


def quantification_row(case: Case) -> dict:
    """f_lz of every channel, from uint8 tiles in memory, against a bare forward pass of the same batches.

    Excluded are reading tile stacks and adding up per sample, as `sample_sums.quantify_samples` does.
    """
    model = _network(case.architecture, case.size).eval()
    tiles = _random_tiles(case.batch_size, case.size.input_px)
    how = Quantification(architecture=case.architecture, precision=case.precision, device=case.device)
    with quantify.tile_quantifier(model, how) as quantify_batch:

        def ours() -> None:
            _run_batches(lambda: quantify_batch(tiles), case)

        seconds = timed(ours, _bare_passes(case), n_repeats=case.size.n_repeats)
    return _row(case, "quantification", "bare forward pass, data on the device", "<= 1.10", seconds)


def _bare_passes(case: Case) -> Callable[[], None]:
    """Forward passes of a network of its own, without hooks, over one batch that is on the device."""
    model = devices.move(_network(case.architecture, case.size).eval(), torch.device(case.device))
    tiles_t = torch.from_numpy(_random_tiles(case.batch_size, case.size.input_px)).to(case.device)
    images_t = models.normalise(tiles_t, *models.normalisation(case.architecture))

    def bare() -> None:
        with torch.inference_mode(), quantify.at_precision(case.device, case.precision):
            _run_batches(lambda: model(images_t), case)

    return bare


def slides_row(case: Case, n_tiles: int = 160) -> dict:
    """Notebook 04's work, from stored tiles to files of sums, against a bare forward pass of as many batches.

    A slide has `n_tiles` tiles. What a run takes that finds all slides done, above all the fingerprint of the
    network, is taken off: it does not grow with the slides.
    """
    model = _network(case.architecture, case.size).eval()
    n = case.n_batches * case.batch_size
    how = Quantification(
        architecture=case.architecture,
        precision=case.precision,
        batch_size=case.batch_size,
        device=case.device,
    )
    with tempfile.TemporaryDirectory() as folder:
        tiles_df = stored_tiles(Path(folder), n, case.size)
        slides = np.arange(n) // n_tiles
        tiles_df = tiles_df.assign(sample_id=slides.astype(str), slide_id=slides.astype(str))
        fresh = itertools.count()

        def ours() -> None:
            sample_sums.quantify_samples(model, tiles_df, Path(folder) / f"run{next(fresh)}", how)

        def found() -> None:
            sample_sums.quantify_samples(model, tiles_df, Path(folder) / "run0", how)

        ours_s, found_s, bare_s = timed(ours, found, _bare_passes(case), n_repeats=case.size.n_repeats)
    seconds = ours_s - found_s, bare_s
    work = f"quantification of slides of {n_tiles} stored tiles"
    return _row(case, work, "bare forward pass, data on the device", "", seconds)


def training_row(case: Case) -> dict:
    """A training epoch from stored tiles against the same step on one batch held on the device.

    "float32" is that of training: on a GPU torch then uses TF32 in convolutions.
    """
    n_tiles = case.n_batches * case.batch_size
    half = "bf16" if case.precision == "bfloat16" else ""
    recipe = Recipe(
        architecture=case.architecture, learning_rate=1e-4, mixed_precision=half, device=case.device
    )
    trainer = training_step.prepare(_network(case.architecture, case.size), recipe, case.size.n_classes)
    with tempfile.TemporaryDirectory() as folder:
        tiles_df = stored_tiles(Path(folder), n_tiles, case.size)
        loader = TileLoader(tiles_df, case.batch_size, trainer.device, shuffle=True)
        batch = next(iter(loader))
        tiles_t, labels_t = batch.tiles_t.to(trainer.device), batch.labels_t.to(trainer.device)

        def epoch() -> None:
            training_step.train_epoch(trainer, loader, 1, tqdm(disable=True))

        def bare() -> None:
            trainer.stepped.train()
            _run_batches(lambda: training_step.training_step(trainer, tiles_t, labels_t)[0], case)

        seconds = timed(epoch, bare, n_repeats=case.size.n_repeats)
    return _row(case, "training epoch", "same step, one batch on the device", "<= 1.08", seconds)


def agreement_row(architecture: str, precision: str, size: Size, device: str) -> dict:
    """Largest difference of the features of eight tiles from the CPU's in float32, beside the tolerance.

    Differences are fractions of the root mean square of the layer; the columns of seconds hold them.
    """
    tiles = _random_tiles(8, size.input_px)
    exact = Quantification(architecture=architecture)
    how = replace(exact, precision=precision, device=device)
    largest, layer = precision_check.largest_difference(
        _network(architecture, size).eval(), tiles, exact, how
    )
    tolerance = precision_check.TOLERANCE[precision]
    work = f"{architecture}, {size.input_px} px, {precision}: features against the CPU's, share of layer rms"
    refused = (architecture, precision) in TOO_COARSE and largest > tolerance
    work += f" (layer {layer})" + ("; refused" if refused else "")
    return row(work, largest, "tolerance", tolerance, "" if refused else "<= 1", 1, device)


def _row(case: Case, work: str, limit: str, target: str, seconds: Sequence[float]) -> dict:
    n_tiles, size = case.n_batches * case.batch_size, case.size
    ours_s, bare_s = (1000 * s / n_tiles for s in seconds)
    text = f"{work}, {case.architecture}, {size.input_px} px, batch {case.batch_size}, {case.precision}, "
    found = row(text + "s per 1,000 tiles", ours_s, limit, bare_s, target, size.n_repeats, case.device)
    return found | {"tiles_per_s": 1000 / ours_s, "n_tiles": n_tiles}


def _network(architecture: str, size: Size) -> nn.Module:
    torch.manual_seed(0)
    return models.build(architecture, size.n_classes, input_px=size.input_px)


def _random_tiles(n: int, input_px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, input_px, input_px, 3), dtype=np.uint8)


def stored_tiles(folder: Path, n_tiles: int, size: Size) -> pd.DataFrame:
    """Labelled tiles in stacks of 64, in the format of notebook 01."""
    parts = []
    for k, start in enumerate(range(0, n_tiles, 64)):
        n = min(64, n_tiles - start)
        tiles = _random_tiles(n, size.input_px)
        np.save(folder / f"{k}.npy", tiles)
        with open(folder / f"{k}.npy", "ab") as stack:
            stack.write(stack_files.checksum_block([isal_zlib.crc32(tile.data) for tile in tiles]))
        parts.append(pd.DataFrame({"file": str(folder / f"{k}.npy"), "stack_index": np.arange(n)}))
    tiles_df = pd.concat(parts, ignore_index=True)
    return tiles_df.assign(label=np.arange(n_tiles) % size.n_classes)


def _run_batches(step: Callable[[], torch.Tensor], case: Case) -> None:
    """A step for each batch; then wait for a GPU, which works asynchronously, by reading from the result."""
    for number in range(case.n_batches):
        result_t = step()
        if case.device != "cpu" and number == case.n_batches - 1:
            result_t.flatten()[0].item()
