"""Small textured tiles, a small network and a short training run, for tests and the processes they start."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from lib.network import training
from lib.network.recipe import Recipe

CLASSES = ["Colon", "Liver", "Lung"]


def textured_tiles(folder, n_samples=9, n_tiles=8, px=12, seed=0):
    """Stripes whose direction is the tissue, one stack per sample; the last third of samples validates."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:px, :px]
    rows = []
    for sample in range(n_samples):
        label = sample % 3
        wave = np.sin(1.5 * (x, y, x + y)[label] + rng.uniform(0, 6, (n_tiles, 1, 1)))
        stack = 128 + 60 * wave[..., None] + rng.normal(0, 25, (n_tiles, px, px, 3))
        file = str(folder / f"slide_{sample}.npy")
        np.save(file, stack.clip(0, 255).astype(np.uint8))
        split = "validation" if sample >= 2 * n_samples // 3 else "train"
        rows += [(file, index, label, f"sample_{sample}", CLASSES[label], split) for index in range(n_tiles)]
    frame = pd.DataFrame(rows, columns=["file", "stack_index", "label", "sample_id", "tissue", "split"])
    return frame[frame["split"] == "train"], frame[frame["split"] == "validation"]


def small_model(dropout=0.0, seed=0, n_classes=3, norm=False):
    torch.manual_seed(seed)
    first = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(inplace=True),
    ]
    last = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(32, n_classes)]
    return nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True), *last)


def fit(model, splits, run_dir, class_names=CLASSES, **changes):
    """`training.fit` for three epochs on the CPU, or as `changes` to the recipe say."""
    settings = {"epochs": 3, "batch_size": 9, "learning_rate": 0.05, "device": "cpu"}
    recipe = Recipe(**settings | changes)
    return training.fit(model, *splits, class_names=class_names, run_dir=run_dir, recipe=recipe)


def same_weights(*networks):
    """Whether networks, or state dicts, hold the same tensors under the same names."""
    first, *others = (x if isinstance(x, dict) else x.state_dict() for x in networks)
    return all(
        list(other) == list(first) and all(torch.equal(other[name], value) for name, value in first.items())
        for other in others
    )
