"""What is finished of resumable work, and what it was made for: one record beside each result.

The record of a file is `<file>.json`, that of a folder `<folder>/record.json`. A file's record is written
after the file, so a file without a record is unfinished; a folder's says what the work in it is for.
"""

import json
import re
from pathlib import Path
from typing import Any

from lib.whole_files import checksum, read_record, write_record


def record_path(result: str | Path) -> Path:
    """Path of the record of a result."""
    result = Path(result)
    return result / "record.json" if result.is_dir() else result.with_name(result.name + ".json")


def write(result: str | Path, made_for: dict[str, Any], **outcome: Any) -> None:
    """Record that `result` is finished for the parameters and inputs `made_for` (JSON values)."""
    result = Path(result)
    content = {"bytes": None, "crc32": None}
    if not result.is_dir():
        content = {"bytes": result.stat().st_size, "crc32": checksum(result)}
    write_record(record_path(result), {"made_for": made_for, **content, "outcome": outcome})


def announce(result: str | Path, made_for: dict[str, Any], **outcome: Any) -> None:
    """Record `result` before it is in place; whoever reads checks its content against the outcome."""
    write_record(
        record_path(result), {"made_for": made_for, "bytes": None, "crc32": None, "outcome": outcome}
    )


def read(result: str | Path) -> dict[str, Any]:
    """The record (`made_for`, `bytes`, `crc32`, `outcome`); {} where it is missing or unreadable."""
    record = read_record(record_path(result))
    complete = record.keys() >= {"made_for", "bytes", "outcome"}
    typed = complete and isinstance(record["made_for"], dict) and isinstance(record["outcome"], dict)
    return record if typed else {}


def why_unfinished(result: str | Path, made_for: dict[str, Any]) -> str | None:
    """None where `result` is finished for `made_for`, else the reason in words."""
    result, record = Path(result), read(result)
    if not result.exists():
        return "is missing"
    if not record:
        return "has no record of what it was made for"
    if record["bytes"] is not None and record["bytes"] != result.stat().st_size:
        return f"had {record['bytes']:,} bytes when it was finished and has {result.stat().st_size:,}"
    if record.get("crc32") is not None and record["crc32"] != checksum(result):
        return "holds other bytes than were written: damaged, or edited"
    return difference(record["made_for"], json.loads(json.dumps(made_for, default=str)))


def difference(made_for: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first entry in which two `made_for` differ, in words; None where they agree."""
    for key in [*now, *(key for key in made_for if key not in now)]:
        before, wanted = made_for.get(key), now.get(key)
        if before != wanted:
            if _is_fingerprint(before) or _is_fingerprint(wanted):
                return f"was made from another {key!r}"
            return f"was made with {key} = {before!r}, now {wanted!r}"
    return None


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"([\w.]+:)?[0-9a-f]{64}", value) is not None


def remove(result: str | Path) -> None:
    """Remove the record, so that `result` counts as unfinished."""
    record_path(result).unlink(missing_ok=True)
