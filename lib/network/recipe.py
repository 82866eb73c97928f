"""The parameters of a training run in one frozen, checked object; its defaults are the paper's values.

Imports nothing heavy: `lib.config` makes a recipe of a run's parameters.
"""

from dataclasses import asdict, dataclass
from typing import Any

from lib.errors import InputError

AUGMENTATIONS = ("flip", "rotate90")
INITIALISATIONS = ("torchvision", "vgg")
# The weights do not depend on these, except for rounding; more epochs continue a run.
NOT_RECORDED = ("epochs", "device", "loader_workers", "compile_network")
_LEAST = {"epochs": 0, "batch_size": 1, "lr_step_epochs": 1, "loader_workers": -1}
_LEAST |= dict.fromkeys(("learning_rate", "lr_gamma", "momentum", "weight_decay", "stain_jitter"), 0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a tissue classifier is trained: SGD with momentum and a learning rate that falls in steps.

    Attributes
    ----------
    architecture : one of `ARCHITECTURES`, "timm:<model>" or "torchvision:<model>"; "" for a network of one's
        own. It decides how pixels are normalised ("": ImageNet's mean and sd).
    weights : what training starts from: "" (random; the paper), "imagenet", or the path of a checkpoint
    initialisation : how random weights are drawn: "torchvision" (its default), or "vgg" (torchvision's
        scheme for VGG in every architecture; for small cohorts)
    epochs : passes over the training tiles; the paper: 90. 0 keeps the network untrained.
    batch_size : tiles per step, over all processes; the paper: 256 for AlexNet, 40 for the others
    learning_rate : of the first epoch; multiplied by `lr_gamma` every `lr_step_epochs` epochs; the paper:
        0.01, times 0.1 every 30
    momentum, weight_decay : of SGD; the paper: 0.9, 1e-4
    augment : any of "flip", "rotate90", drawn for each tile and epoch; none in the paper
    stain_jitter : how far the stains of each training tile are changed, 0 to 1 (`lib.network.stain_jitter`);
        Tellez et al. have 0.05 (light) and 0.2 (strong). 0, as in the paper: not at all
    class_weighting : weight each class by n / (n_classes n_class), so that the mean weight of a tile is 1
    mixed_precision : "" (float32) or "bf16"
    seed : of the random weights, tile order, orientations, stains and dropout
    device : "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1"
    compile_network : train through torch.compile
    loader_workers : threads that read tiles; -1: none beside a CPU, up to 2 for a GPU; more help where the
        files are slow to reach

    Raises
    ------
    ValueError
        A value out of range or not among the choices.

    References
    ----------
    Paper, "Training and validation of deep learning tissue classifiers".
    """

    architecture: str = ""
    weights: str = ""
    initialisation: str = "torchvision"
    epochs: int = 90
    batch_size: int = 40
    learning_rate: float = 0.01
    lr_step_epochs: int = 30
    lr_gamma: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augment: tuple[str, ...] = ()
    stain_jitter: float = 0.0
    class_weighting: bool = False
    mixed_precision: str = ""
    seed: int = 0
    device: str = "auto"
    compile_network: bool = False
    loader_workers: int = -1

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)!r}")
        if self.stain_jitter > 1:
            raise InputError(f"stain_jitter must be at most 1, not {self.stain_jitter!r}")
        chosen = (
            ("initialisation", [self.initialisation], INITIALISATIONS),
            ("mixed_precision", [self.mixed_precision], ("", "bf16")),
            ("augment", self.augment, AUGMENTATIONS),
        )
        for name, values, choices in chosen:
            unknown = [value for value in values if value not in choices]
            if unknown:
                raise InputError(f"{name} {unknown[0]!r} is unknown: choose from {choices}")

    def rate_in(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1."""
        return float(self.learning_rate * self.lr_gamma ** ((epoch - 1) // self.lr_step_epochs))

    def recorded(self) -> dict[str, Any]:
        """The parameters that the weights depend on, as JSON values: a run continues only under the same."""
        values = {name: value for name, value in asdict(self).items() if name not in NOT_RECORDED}
        values |= {"weights": self.weights or "none", "augment": sorted(set(self.augment))}
        if not self.stain_jitter:
            del values["stain_jitter"]  # runs from before there was one are the same
        return values | {"trained": self.epochs > 0}
