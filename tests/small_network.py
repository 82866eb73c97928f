"""A small network, random tiles, and the features of tiles in memory, for tests."""

import numpy as np
import torch

from lib.features.quantification import Quantification
from lib.features.quantify import tile_quantifier
from lib.network import models

SMALL = "vgg16_avg1fc"


def small_network(seed: int = 0) -> torch.nn.Module:
    """SMALL for three classes with random weights, in eval mode."""
    torch.manual_seed(seed)
    return models.build(SMALL, 3).eval()


def random_tiles(n: int, input_px: int, seed: int = 0) -> np.ndarray:
    """uint8 [n, input_px, input_px, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (n, input_px, input_px, 3), dtype=np.uint8)


def quantified(model: torch.nn.Module, architecture: str, batches, **options) -> np.ndarray:
    """Sums of every feature over the tiles of all batches (uint8 [B, H, W, 3]), float64 [n_features]."""
    how = Quantification(architecture=architecture, **options)
    with tile_quantifier(model, how) as quantify_batch:
        return sum(quantify_batch(tiles).double().sum(0).cpu().numpy() for tiles in batches)
