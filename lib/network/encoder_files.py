"""Encoders as files: their names, where they lie, and what they say (`lib.network.encoder_file`).

`data/encoders/<name>.toml` is the architecture `encoder:<name>`; a file elsewhere is `encoder:<path>.toml`.
The layers of such an encoder, and which tokens count, are chosen in `lib.network.token_layers`.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import MissingInputError

if TYPE_CHECKING:
    from lib.network.encoder_file import EncoderFile

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data" / "encoders"
PREFIX = "encoder:"  # of the architecture's name
HUB, PACKAGE = "hub:", "package:"  # of weights that are not a path


def is_file(architecture: str) -> bool:
    """Whether an architecture's name stands for an encoder file."""
    return architecture.startswith(PREFIX)


def known() -> list[str]:
    """Names of the encoders in data/encoders."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def names_file(encoder: str) -> bool:
    """Whether a value of the parameter `encoder` is an encoder file: a name in data/encoders, or a path."""
    return encoder.endswith(".toml") or encoder in known()


def label(architecture: str) -> str:
    """An architecture's name for people: of an encoder file, its own."""
    name = architecture.removeprefix(PREFIX)
    return Path(name).stem if is_file(architecture) else name


def path_of(architecture: str) -> Path:
    """The file of `encoder:<name>` or `encoder:<path>.toml`; MissingInputError naming those there are."""
    name = architecture.removeprefix(PREFIX)
    path = ROOT / name if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise MissingInputError(
            f"no encoder {name!r}: {path} does not exist; encoders here: {', '.join(known()) or 'none'}"
        )
    return path


def read(architecture: str) -> "EncoderFile":
    """The file of an encoder, checked.

    Raises
    ------
    MissingInputError
        There is no such file.
    InputError
        Not TOML, or a value that is unknown, missing or not among the choices: one line for each.
    """
    from lib.checked_values import checked, read_toml  # late: networks are used without pydantic too
    from lib.network.encoder_file import EncoderFile

    path = path_of(architecture)
    return checked(EncoderFile, read_toml(path), str(path))


def scale_note(architecture: str, mpp: float) -> str:
    """What to know where tiles are shown at another µm/px than the encoder was trained at; "" otherwise."""
    trained_mpp = read(architecture).mpp if is_file(architecture) else None
    if trained_mpp is None or 0.8 < mpp / trained_mpp < 1.25:
        return ""
    return (
        f"{architecture.removeprefix(PREFIX)} was trained at {trained_mpp:g} µm/px; it sees these tiles at "
        f"{mpp:.3g} µm/px (tile_px * tile_mpp / input_px)"
    )


def digest(architecture: str) -> str:
    """sha256 (12 hex digits) of an encoder's file: what was made with another content is stale."""
    return hashlib.sha256(path_of(architecture).read_bytes()).hexdigest()[:12]
