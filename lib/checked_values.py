"""Values of a TOML file or a command line, checked by a pydantic model, with what is wrong in words."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lib.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; InputError where it is not UTF-8 text or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error


def checked(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """The values as a `model`; the InputError has one readable line for each that is wrong."""
    try:
        return model(**values)
    except ValidationError as error:
        lines = [_explained(dict(e), model.model_fields) for e in error.errors()]
        raise InputError(f"{where}:\n" + "\n".join(lines)) from error


def _explained(error: dict[str, Any], known: Iterable[str]) -> str:
    """A line for one of pydantic's errors; an unknown parameter gets the nearest of those known."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
        return f"  unknown parameter {key!r}" + (f": did you mean {near[0]!r}?" if near else "")
    if error["type"] == "missing":
        return f"  {key} is missing"
    if not key:  # raised by a check of several parameters together
        return f"  {error['msg'].removeprefix('Value error, ')}"
    return f"  {key} = {error['input']!r}: {error['msg']}"
