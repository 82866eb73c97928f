"""The artefacts of one configuration: saved, loaded, and checked to be up to date.

Each artefact is declared once in `lib/artefacts.py` and has a sidecar `<file>.json`: the configuration it
depends on, fingerprints of its inputs, versions, seed, device and seconds. It is current while that record
holds, so a changed parameter makes stale whatever depends on it.
"""

import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import saved_figures, work_records
from lib.artefacts import (
    ARTEFACTS,
    GIVEN_FEATURES,
    NOTEBOOKS,
    SOURCE_FIELDS,
    WITHOUT_SLIDES,
    WORK_FOLDERS,
    Artefact,
    StaleArtefactError,
)
from lib.config import Config
from lib.paths import Paths
from lib.whole_files import fingerprint, folder_fingerprint, whole_file, write_json

VERSIONED = ("numpy", "pandas", "scipy", "torch", "torchvision", "openslide-python", "histocorr")


class Store(Paths):
    """The files of one configuration.

    Parameters
    ----------
    notebook : the notebook that saves figures and tables through this store, such as "05_correlate"
    root : the folder of data/ and figures/; None: HISTOCORR_ROOT, else the repository
    """

    def __init__(self, config: Config, notebook: str = "", root: str | Path | None = None) -> None:
        super().__init__(config, root)
        self.notebook = notebook
        self._order: dict[str, int] = {}  # of the figures and tables saved so far

    def artefact(self, name: str) -> Artefact:
        """The declaration of an artefact for this cohort."""
        given = GIVEN_FEATURES if self.config.features_file else {}
        return given.get(name) or ARTEFACTS[name]

    @property
    def notebooks(self) -> tuple[str, ...]:
        """The notebooks of this cohort, in order."""
        return WITHOUT_SLIDES if self.config.features_file else tuple(NOTEBOOKS)

    def made_by(self, notebook: str) -> list[str]:
        """The artefacts that a notebook makes for this configuration."""
        absent = {"source"} if self.config.source == "files" else set()  # inputs that the user brings
        absent |= set() if self.config.quantify_train else {"features_train"}
        return [name for name in ARTEFACTS if self.artefact(name).notebook == notebook and name not in absent]

    # -- artefacts --------------------------------------------------------------------------------------

    def save(self, name: str, value: Any, **facts: Any) -> None:
        """Write an artefact, then its sidecar; `facts` (device, seconds, …) are recorded there."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A kill between the two files leaves an artefact without sidecar: missing, never mismatched.
        self._sidecar(name).unlink(missing_ok=True)
        with whole_file(path) as temporary:
            _write(temporary, value)
        record = {
            "artefact": name,
            "made_by": self.artefact(name).notebook,
            "config": self._fields(name),
            "inputs": {i: self.fingerprint(i) for i in self._inputs(name)},
            "fingerprint": fingerprint(path),
            "bytes": path.stat().st_size,
            "seed": self.config.seed,
            "versions": _versions(),
            "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **facts,
        }
        write_json(self._sidecar(name), record)

    def load(self, name: str) -> Any:
        """Read an artefact that is current; StaleArtefactError names the notebook to run otherwise."""
        why = self.why_stale(name)
        if why:
            raise StaleArtefactError(name, self.artefact(name).notebook, why)
        path = self.path(name)
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        return path

    def cached(self, names: str | tuple[str, ...], make: Callable[[], Any], **facts: Any) -> Any:
        """Load what is current; otherwise call `make`, save what it returns, and return that.

        With several names `make` returns as many values.
        """
        several = isinstance(names, tuple)
        wanted = names if isinstance(names, tuple) else (names,)
        if not all(self.is_current(name) for name in wanted):
            started = time.perf_counter()
            made = make()
            seconds = round(time.perf_counter() - started, 2)
            for name, value in zip(wanted, made if several else (made,), strict=True):
                self.save(name, value, seconds=seconds, **facts)
        values = tuple(self.load(name) for name in wanted)
        return values if several else values[0]

    def facts(self, name: str) -> dict[str, Any]:
        """The sidecar of an artefact ({} when there is none)."""
        sidecar = self._sidecar(name)
        return json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}

    def samples_of(self, sample_ids: Sequence[str]) -> pd.DataFrame:
        """Rows of the samples table in this order, with n_tiles beside them where tiles were cut."""
        samples_df = self.load("samples").set_index("sample_id").loc[list(sample_ids)]
        if not self.config.features_file and "n_tiles" not in samples_df:
            samples_df = samples_df.join(self.load("tile_counts"))
        return samples_df.reset_index()

    def work_folder(self, name: str, artefact: str) -> Path:
        """Folder of resumable work towards `artefact`, emptied (and this printed) if it was started for other
        inputs or parameters. The number of epochs does not count: training continues from a shorter run.
        """
        folder = self.path(name)
        made_for = {field: value for field, value in self._fields(artefact).items() if field != "epochs"}
        made_for |= {i: self.fingerprint(i) for i in self._inputs(artefact)}
        why = work_records.why_unfinished(folder, made_for)
        if why:
            found = [path for path in folder.rglob("*") if path.is_file()]
            found = [path for path in found if path != work_records.record_path(folder)]
            if found:
                size = sum(path.stat().st_size for path in found) / 1e6
                print(f"Restarting {name} ({why}): deleting {len(found)} files of {folder} ({size:,.0f} MB)")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            work_records.write(folder, made_for)
        return folder

    def forget(self, notebook: str) -> None:
        """Remove what a notebook made, its resumable work included, so that it is done again."""
        for name in ARTEFACTS:
            if self.artefact(name).notebook == notebook:
                self._sidecar(name).unlink(missing_ok=True)
                self.path(name).unlink(missing_ok=True)
        for name, (_, owner) in WORK_FOLDERS.items():
            if owner == notebook:
                shutil.rmtree(self.path(name), ignore_errors=True)

    # -- staleness --------------------------------------------------------------------------------------

    def is_current(self, name: str) -> bool:
        """Whether the artefact exists and its record still holds, all the way up its inputs."""
        return self.why_stale(name) is None

    def why_stale(self, name: str) -> str | None:
        """None when current, else the reason in words."""
        path, record = self.path(name), self.facts(name)
        if not path.exists() or not record:
            return f"is missing ({path})"
        if path.stat().st_size != record["bytes"]:
            return f"was changed by hand ({path})"
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
        return fingerprint(path) if path.exists() else "missing"

    def with_network(self, architecture: str, null_network: str = "", weights: str | None = None) -> "Store":
        """The store of another network of this cohort, other parameters the same (None: weights too)."""
        values = self.config.model_dump() | {"architecture": architecture, "null_network": null_network}
        if weights is not None:
            values["weights"] = weights
        return Store(Config.checked(values), self.notebook, self.root)

    def networks(self, names: tuple[str, ...]) -> dict[str, tuple["Store", str]]:
        """Every network kept for this tiling: run name -> its store, and why it cannot be compared ("": it
        can).

        A network can be compared when all artefacts of `names` are current under this configuration. One
        whose record was lost in a kill is not listed: its notebook runs again.
        """
        found = {}
        for sidecar in sorted(self.path("tiles").parent.glob("*/network.pt.json")):
            made_with = json.loads(sidecar.read_text(encoding="utf-8"))["config"]
            of = (made_with[field] for field in ("architecture", "null_network", "weights"))
            store = self.with_network(*of)
            reasons = ((name, store.why_stale(name)) for name in names)
            why = next((f"{name!r} {reason}" for name, reason in reasons if reason), "")
            found[store.config.run_name] = (store, why)
        return found

    def finished_networks(self, notebook: str) -> dict[str, "Store"]:
        """Stores of the networks that have all a notebook reads; StaleArtefactError when there is none."""
        found = self.networks(NOTEBOOKS[notebook].of_networks)
        finished = {name: store for name, (store, why) in found.items() if not why}
        if not finished:
            why = "; ".join(f"{name}: {why}" for name, (_, why) in found.items()) or "no network was trained"
            raise StaleArtefactError("network", "02_train", f"is finished for no architecture ({why})")
        return finished

    def _inputs(self, name: str) -> tuple[str, ...]:
        absent = {"source"} if self.config.source == "files" else set()
        absent |= set() if self.config.weights_file else {"raw:weights"}
        return tuple(i for i in self.artefact(name).inputs if i not in absent)

    def _fields(self, name: str) -> dict[str, Any]:
        dumped = self.config.model_dump(mode="json")
        also = SOURCE_FIELDS.get(self.config.source, ()) if name == "source" else ()
        return {field: dumped[field] for field in sorted((*self.artefact(name).fields, *also))}

    def _sidecar(self, name: str) -> Path:
        path = self.path(name)
        return path.with_name(path.name + ".json")

    # -- figures and tables for people ------------------------------------------------------------------

    def save_figure(self, stem: str, figure: Any, caption: str, per_network: bool = True) -> Any:
        """Save a figure as PNG and PDF with its caption; returns the figure, for the notebook to show."""
        name = self.figure_name(stem, per_network)
        saved_figures.save_figure(self.figures, name, figure, **self._about(f"{name}.png", caption))
        return figure

    def save_table(
        self, stem: str, table_df: pd.DataFrame, caption: str, per_network: bool = True
    ) -> pd.DataFrame:
        """Save a table as csv with its caption; returns the table, for the notebook to show."""
        name = self.figure_name(stem, per_network)
        saved_figures.save_table(self.figures, name, table_df, **self._about(f"{name}.csv", caption))
        return table_df

    def saved_table(self, stem: str) -> pd.DataFrame | None:
        """A table for people that this network's run has saved; None when there is none."""
        path = self.figures / f"{self.figure_name(stem)}.csv"
        return pd.read_csv(path, index_col=0) if path.is_file() else None

    def _about(self, file_name: str, caption: str) -> dict[str, Any]:
        """The sidecar of a figure or table; the order is the one in which this store first saved them."""
        order = self._order.setdefault(file_name, len(self._order))
        suffix = " Synthetic data." if self.config.synthetic_data else ""
        return {"caption": caption + suffix, "notebook": self.notebook, "order": order}


def _write(path: Path, value: Any) -> None:
    if path.suffix == ".parquet":
        value.to_parquet(path, compression="zstd")
    elif path.suffix == ".npy":
        np.save(path, value, allow_pickle=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(value, indent=1, default=str), encoding="utf-8")
    else:  # a file made elsewhere (network weights): copied in
        shutil.copyfile(value, path)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
