"""Whether a precision below float32 gives the features of this network on these tiles.

bfloat16 keeps 8 bits and rounds after every layer: sixteen layers bear that, ninety may not.
"""

from dataclasses import replace

import numpy as np
from torch import nn

from lib.errors import InputError
from lib.features.quantification import Quantification
from lib.features.quantify import tile_quantifier
from lib.network import models

# Largest difference between a feature and the same in float32, as a share of the root mean square of its
# layer. float32 on two devices differs by the order of summation, TF32 and bfloat16 keep 11 and 8 bits.
TOLERANCE = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 1e-1}
N_TILES = 8


def require_precise(model: nn.Module, tiles: np.ndarray, how: Quantification) -> None:
    """InputError where some tiles, uint8 [B, H, W, 3], have features too far from those in float32."""
    if how.precision == "float32":
        return
    difference, layer = largest_difference(model, tiles, replace(how, precision="float32"), how)
    if difference > TOLERANCE[how.precision]:
        better = "'float32'" if how.precision == "tf32" else "'tf32' or 'float32'"
        raise InputError(
            f"feature_precision = {how.precision!r} is too coarse for this {how.architecture}: in layer "
            f"{layer} features of the first {len(tiles)} tiles differ from those in float32 by up to "
            f"{difference:.2g} of the layer's root mean square ({TOLERANCE[how.precision]:g} is allowed): "
            f"set feature_precision to {better}"
        )


def largest_difference(
    model: nn.Module, tiles: np.ndarray, exact: Quantification, how: Quantification
) -> tuple[float, int]:
    """Largest difference between two ways of quantification, and its layer.

    Of any feature and tile, as a share of the root mean square of that layer under `exact`.
    """
    values = []
    for way in (exact, how):
        with tile_quantifier(model, way) as quantify_batch:
            values.append(quantify_batch(tiles).double().cpu().numpy())
    layers = models.feature_table(how.architecture, how.features)["layer"].to_numpy()
    largest, worst = 0.0, int(layers[0])
    for layer in np.unique(layers):
        theirs, ours = (value[:, layers == layer] for value in values)
        rms = np.sqrt((theirs**2).mean())
        most = np.abs(ours - theirs).max()
        difference = 0.0 if most == 0 else float(most / rms) if rms > 0 and np.isfinite(most) else np.inf
        if difference > largest:
            largest, worst = difference, int(layer)
    return largest, worst
