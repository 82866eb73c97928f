"""What is finished of resumable work, and what it was made for: a record of each result.

Of arrays (`.npz`) and tables (`.parquet`) it lies inside the file, so that a slide leaves few files;
otherwise it is `<file>.json`, or `<folder>/record.json`. A file's record is written after the file, or with
it, so a file without a record is unfinished; a folder's says what the work in it is for.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.whole_files import (
    checksum,
    read_record,
    sealed,
    text_fingerprint,
    unsealed,
    whole_file,
    write_record,
)

INSIDE = (".npz", ".parquet")
NAME = "work_record.json"  # of a record inside: the member of an archive, the key of a table's metadata


def save_arrays(
    result: Path, made_for: dict[str, Any], arrays: Mapping[str, np.ndarray], **outcome: Any
) -> None:
    """Write arrays to an `.npz` file with their record in it."""
    with whole_file(result) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(zipfile.ZipInfo(NAME), _text(made_for, outcome))  # ZipInfo: without the time


def save_table(result: Path, made_for: dict[str, Any], table_df: pd.DataFrame, **outcome: Any) -> None:
    """Write a table, without its index, to a `.parquet` file with its record in it."""
    import pyarrow as pa  # late, as below: networks are trained and read where there is no pyarrow
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(table_df, preserve_index=False)
    table = table.replace_schema_metadata({NAME: _text(made_for, outcome, content=_content(table))})
    with whole_file(result) as temporary:
        pq.write_table(table, temporary)


def _text(made_for: dict[str, Any], outcome: dict[str, Any], content: str = "") -> str:
    return json.dumps(sealed({"made_for": made_for, "outcome": outcome, "content": content}))


def _content(table: Any) -> str:
    """Fingerprint of names, types and values of an Arrow table."""
    from pyarrow import csv

    values = io.BytesIO()
    csv.write_csv(table, values)
    return text_fingerprint(f"{table.schema.remove_metadata()}\n{values.getvalue().decode()}")


def record_path(result: str | Path) -> Path:
    """Path of the record of a result that does not hold it."""
    result = Path(result)
    return result / "record.json" if result.is_dir() else result.with_name(result.name + ".json")


def write(result: str | Path, made_for: dict[str, Any], **outcome: Any) -> None:
    """Record that `result` is finished for the parameters and inputs `made_for` (JSON values).

    Not for results that hold their record: `save_arrays`, `save_table`.
    """
    result = Path(result)
    if result.suffix in INSIDE:
        raise ValueError(f"{result} holds its record: use save_arrays or save_table")
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
    """The record (`made_for`, `outcome` and checksums); {} where it is missing or unreadable."""
    result = Path(result)
    record = _read_inside(result) if result.suffix in INSIDE else read_record(record_path(result))
    complete = record.keys() >= {"made_for", "outcome"}
    typed = complete and isinstance(record["made_for"], dict) and isinstance(record["outcome"], dict)
    return record if typed else {}


def _read_inside(result: Path) -> dict[str, Any]:
    try:
        if result.suffix == ".npz":
            with zipfile.ZipFile(result) as archive:
                text = archive.read(NAME)
        else:
            import pyarrow.parquet as pq

            text = (pq.read_schema(result).metadata or {})[NAME.encode()]
        return unsealed(json.loads(text))
    except Exception:  # of damaged files anything may be raised
        return {}


def _is_whole_inside(result: Path, content: str) -> bool:
    """Whether a file that holds its record agrees with its checksums: an archive's own, or a table's."""
    try:
        if result.suffix == ".npz":
            with zipfile.ZipFile(result) as archive:
                return archive.testzip() is None
        import pyarrow.parquet as pq

        return _content(pq.read_table(result, use_threads=False)) == content
    except Exception:  # as above
        return False


def why_unfinished(result: str | Path, made_for: dict[str, Any]) -> str | None:
    """None where `result` is finished for `made_for`, else the reason in words."""
    result, record = Path(result), read(result)
    if not result.exists():
        return "is missing"
    if not record:
        return "has no record of what it was made for"
    if record.get("bytes") is not None and record["bytes"] != result.stat().st_size:
        return f"had {record['bytes']:,} bytes when it was finished and has {result.stat().st_size:,}"
    if result.suffix in INSIDE:
        whole = _is_whole_inside(result, record["content"])
    else:
        whole = record.get("crc32") is None or record["crc32"] == checksum(result)
    if not whole:
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
    """Remove the record, or the result that holds it, so that `result` counts as unfinished."""
    result = Path(result)
    (result if result.suffix in INSIDE else record_path(result)).unlink(missing_ok=True)
