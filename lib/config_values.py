"""Values of a configuration: read from the command line, and what is wrong with one, in words."""

import difflib
import tomllib
from collections.abc import Iterable
from typing import Any


def parse_setting(text: str) -> tuple[str, Any]:
    """Split `key=value` of the command line; the value is read as TOML, or else is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set takes key=value, got {text!r}")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def explained(error: dict[str, Any], known: Iterable[str]) -> str:
    """A line for one of pydantic's errors; an unknown parameter gets the nearest of those known."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
        return f"  unknown parameter {key!r}" + (f": did you mean {near[0]!r}?" if near else "")
    if not key:  # raised by a check of several parameters together
        return f"  {error['msg'].removeprefix('Value error, ')}"
    return f"  {key} = {error['input']!r}: {error['msg']}"
