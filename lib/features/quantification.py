"""The parameters of quantification in one frozen, checked object; imports nothing heavy."""

from dataclasses import dataclass

from lib.errors import InputError

PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Quantification:
    """How features are computed from tiles.

    Attributes
    ----------
    architecture, features : the network and which of its layers count, as in `models.feature_table`
    p : power of the activations, > 0; the paper's is 1. Y^p for whole p; for other p sign(Y) |Y|^p, which is
        Y^p wherever a layer is non-negative and keeps the sign where it is not.
    precision : "float32" is full float32, also on GPUs that would use TF32; "tf32" lets them (no change on a
        CPU); "bfloat16" runs the network under autocast. Sums over positions are float32 in all three.
    batch_size : tiles per forward pass
    device : "cpu", "cuda", "cuda:1", "mps"

    Raises
    ------
    ValueError
        A value out of range or not among the choices.
    """

    architecture: str
    features: str = "table1"
    p: float = 1.0
    precision: str = "float32"
    batch_size: int = 64
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise InputError(f"p must be positive (the paper's is 1), not {self.p}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {self.batch_size}")
