"""Networks with random weights, and tiles of noise, for the tests of what features see."""

import numpy as np
import torch

from lib.network import models
from lib.visualize.feature_values import Network, feature_sums


def built(architecture, seed=0, p=1.0):
    """A network with random weights, biases and batch-norm statistics, without its large classifier."""
    with torch.device("meta"):
        model = models.build(architecture, 4)
    for head in ("classifier", "fc"):
        if hasattr(model, head):
            setattr(model, head, torch.nn.Identity())
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    for name, value_t in model.state_dict().items():
        if value_t.dim() > 1:
            value_t.normal_(0, (2 / value_t[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "weight")):
            value_t.uniform_(0.7, 1.4, generator=generator)
        elif value_t.is_floating_point():
            value_t.normal_(0, 0.1, generator=generator)
    return Network(model, architecture, p)


def random_tile(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def values_of(network, features, tiles):
    """Features of tiles (uint8 n x H x W x 3), n x n_features."""
    with torch.no_grad():
        return feature_sums(network, features, network.normalised(torch.from_numpy(tiles))).numpy()


def most_active(network, layer, tile):
    """The feature of a layer with the highest value on a tile, so that it is not dead."""
    channels = models.feature_table(network.architecture).query("layer == @layer")["feature"].tolist()
    return channels[int(values_of(network, channels, tile[None]).argmax())]


def n_hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
