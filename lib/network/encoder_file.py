"""What one file of data/encoders may say, checked: how a pretrained network is built, filled and fed."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Part = Literal["class", "registers", "patches", "embedding"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class EncoderFile(BaseModel):
    """What a file in data/encoders says. Immutable; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: str = ""  # one line for people: name, authors, year
    url: str = ""  # where the facts below are published, and the weights
    licence: str = ""  # of the weights
    architecture: str  # "timm:<model>" or "torchvision:<model>"
    arguments: dict[str, Any] = {}  # of its constructor; classes (`mlp_layer`, `act_layer`) by name
    # "imagenet" (timm's or torchvision's own), "hub:<owner>/<repository>/<file>", "package:<module>/<file>",
    # or a path from the repository's root, or absolute; "": the user's own, given by encoder_weights.
    weights: str = ""
    # Only tensors whose name begins so are taken, without it ("teacher.backbone.").
    key_prefix: str = ""
    # Names of the tensors: timm's or torchvision's own; transformers' Dinov2; or by their order in the file.
    keys: Literal["own", "transformers dinov2", "by order"] = "own"
    mean: tuple[Fraction, Fraction, Fraction]  # of pixels in 0 to 1
    sd: tuple[Fraction, Fraction, Fraction]
    input_px: Annotated[int, Field(ge=8)] = 224
    mpp: float | None = None  # µm/px it was trained at; none: not on slides
    # Which tokens of a transformer count, each a layer of its own, and the embedding before the last layer.
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = ("class", "registers", "patches", "embedding")
    # Regular expressions on the names of modules: those that match whole are layers. None: all.
    layers: tuple[str, ...] = ()

    @field_validator("architecture")
    @classmethod
    def _of_a_library(cls, name: str) -> str:
        if not re.fullmatch(r"(timm|torchvision):.+", name):
            raise ValueError("write timm:<model> or torchvision:<model>")
        return name

    @field_validator("sd")
    @classmethod
    def _positive(cls, sd: tuple[float, ...]) -> tuple[float, ...]:
        if min(sd) <= 0:
            raise ValueError("every sd is above 0")
        return sd

    @field_validator("layers")
    @classmethod
    def _expressions(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in layers:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
        return layers
