"""What each artefact was made from, and whether that still holds.

Each artefact is declared once in `lib/artefacts.py` and has a sidecar `<file>.json`: the configuration it
depends on, fingerprints of its inputs, of its content and of the code that made it, versions, seed, device
and seconds. It is current while that record holds, so a changed parameter makes stale whatever depends on it.
"""

from pathlib import Path
from typing import Any

from lib import code_versions
from lib.artefacts import (
    ARTEFACTS,
    GIVEN_FEATURES,
    NOTEBOOKS,
    SOURCE_FIELDS,
    WITHOUT_EXPRESSION,
    WITHOUT_SLIDES,
    Artefact,
)
from lib.config import ROOT
from lib.paths import Paths
from lib.whole_files import fingerprint, folder_fingerprint, folders_looked_at_once, read_record

_RECORDED = {"config", "inputs", "fingerprint", "bytes", "modified_ns", "folder", "code", "made_by"}


class Staleness(Paths):
    """The artefacts that a configuration has, and their records."""

    def artefact(self, name: str) -> Artefact:
        """The declaration of an artefact for this cohort."""
        given = GIVEN_FEATURES if self.config.features_file else {}
        return given.get(name) or ARTEFACTS[name]

    @property
    def notebooks(self) -> tuple[str, ...]:
        """The notebooks of this cohort, in order."""
        if self.config.features_file:
            return WITHOUT_SLIDES
        known = WITHOUT_EXPRESSION if self.config.slides_only else tuple(NOTEBOOKS)
        return tuple(n for n in known if self.config.classifies or n != "03_classify")

    def made_by(self, notebook: str) -> list[str]:
        """The artefacts that a notebook makes for this configuration."""
        absent = {"source"} if self.config.source == "files" else set()  # inputs that the user brings
        absent |= set() if self.config.quantify_train else {"features_train"}
        absent |= {"expression", "genes"} if self.config.slides_only else set()
        absent |= set() if self.config.gene_sets else {"gene_sets", "set_links"}
        return [name for name in ARTEFACTS if self.artefact(name).notebook == notebook and name not in absent]

    def facts(self, name: str) -> dict[str, Any]:
        """The sidecar of an artefact; {} when there is none, or none that can be read."""
        return read_sidecar(self._sidecar(name))

    def is_current(self, name: str) -> bool:
        """Whether the artefact exists and its record still holds, all the way up its inputs."""
        return self.why_stale(name) is None

    @folders_looked_at_once()
    def why_stale(self, name: str) -> str | None:
        """None when current, else the reason in words."""
        path, record = self.path(name), self.facts(name)
        if not path.exists() or not record:
            return f"is missing ({path})"
        status = path.stat()
        same = status.st_size == record["bytes"]
        if same and status.st_mtime_ns != record["modified_ns"]:  # copied, or changed
            same = fingerprint(path) == record["fingerprint"]
        if not same:
            return f"was changed by hand ({path})"
        if record["code"] != self._code(name):
            return f"was made by other code than {record['made_by']} has now"
        if record["folder"] != self._folder_fingerprint(name):
            return f"has files in {self.path(self.artefact(name).folder)} that are missing or new"
        for field, value in self._fields(name).items():
            if record["config"].get(field, value) != value:
                return f"was made with {field} = {record['config'][field]!r}, now {value!r}"
        for input_name in self._inputs(name):
            raw, now = input_name.startswith("raw:"), self.fingerprint(input_name)
            why = None if raw else self.why_stale(input_name)
            if why:
                return f"depends on {input_name!r}, which {why}"
            if raw and now == "missing":
                continue  # raw inputs may stay on another machine, or be deleted after use
            if record["inputs"].get(input_name) != now:
                return f"was made from another {input_name!r}"
        return None

    def fingerprint(self, name: str) -> str:
        """Fingerprint of an artefact (from its sidecar) or of a raw input ("raw:<field>"); "missing" where
        there is none (an empty folder counts as none).
        """
        if not name.startswith("raw:"):
            return self.facts(name).get("fingerprint", "missing")
        path = self.raw_path(name.removeprefix("raw:"))
        if path.is_dir():
            return folder_fingerprint(path) or "missing"
        return fingerprint(path) if path.is_file() else "missing"

    def _inputs(self, name: str) -> tuple[str, ...]:
        absent = {"source"} if self.config.source == "files" else set()
        absent |= set() if self.config.weights_file else {"raw:weights"}
        absent |= {"raw:expression_file"} if self.config.slides_only else set()
        absent |= set() if self.config.gene_sets else {"raw:gene_sets"}
        return tuple(i for i in self.artefact(name).inputs if i not in absent)

    def _fields(self, name: str) -> dict[str, Any]:
        dumped = self.config.model_dump(mode="json")
        also = SOURCE_FIELDS.get(self.config.source, ()) if name == "source" else ()
        return {field: dumped[field] for field in sorted((*self.artefact(name).fields, *also))}

    def _code(self, name: str) -> str:
        return code_versions.of_notebook(ROOT / "notebooks" / f"{self.artefact(name).notebook}.ipynb")

    def _folder_fingerprint(self, name: str) -> str:
        """Fingerprint of the names and sizes of the files that belong to an artefact; "" where none do."""
        folder = self.artefact(name).folder
        path = self.path(folder) if folder else None
        return (folder_fingerprint(path, dates=False) or "") if path and path.is_dir() else ""

    def _sidecar(self, name: str) -> Path:
        path = self.path(name)
        return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """A sidecar; {} where it is missing, unreadable, or lacks what every sidecar has."""
    record = read_record(path)
    complete = record.keys() >= _RECORDED and all(isinstance(record[k], dict) for k in ("config", "inputs"))
    return record if complete else {}
