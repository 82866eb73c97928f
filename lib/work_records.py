"""What is finished of resumable work, and what it was made for: one record beside each result.

The record of a file is `<file>.json`, that of a folder `<folder>/record.json`. It is written after the
result, so a result without a record is unfinished.
"""

import json
from pathlib import Path
from typing import Any

from lib.whole_files import write_json


def record_path(result: str | Path) -> Path:
    """Where the record of a result lies."""
    result = Path(result)
    return result / "record.json" if result.is_dir() else result.with_name(result.name + ".json")


def write(result: str | Path, made_for: dict[str, Any], **outcome: Any) -> None:
    """Record that `result` is finished for the parameters and inputs `made_for` (JSON values)."""
    result = Path(result)
    n_bytes = None if result.is_dir() else result.stat().st_size
    write_json(record_path(result), {"made_for": made_for, "bytes": n_bytes, "outcome": outcome})


def read(result: str | Path) -> dict[str, Any]:
    """The record (`made_for`, `bytes`, `outcome`); {} where it is missing or unreadable."""
    try:
        record = json.loads(record_path(result).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and "made_for" in record else {}


def why_unfinished(result: str | Path, made_for: dict[str, Any]) -> str | None:
    """None where `result` is finished for `made_for`, else the reason in words."""
    result, record = Path(result), read(result)
    if not result.exists():
        return "is missing"
    if not record:
        return "has no record of what it was made for"
    if record["bytes"] is not None and record["bytes"] != result.stat().st_size:
        return f"was {record['bytes']:,} bytes when it was finished and is {result.stat().st_size:,}"
    return difference(record["made_for"], json.loads(json.dumps(made_for, default=str)))


def difference(made_for: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first entry in which two `made_for` differ, in words; None where they agree."""
    for key in [*now, *(key for key in made_for if key not in now)]:
        if made_for.get(key) != now.get(key):
            return f"was made with {key} = {made_for.get(key)!r}, now {now.get(key)!r}"
    return None


def remove(result: str | Path) -> None:
    """Forget that `result` is finished."""
    record_path(result).unlink(missing_ok=True)
