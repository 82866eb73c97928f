"""The artefacts of one configuration: saved, loaded, and made where they are not up to date.

What makes an artefact stale: `lib.staleness`. Who writes holds the cohort's lock (`lib.cohort_lock`).
"""

import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import cohort_lock, config_values, saved_figures, slide_parts, work_records
from lib.artefacts import (
    ARTEFACTS,
    NOTEBOOKS,
    WORK_FOLDERS,
)
from lib.cohort import sample_slides
from lib.config import Config
from lib.errors import HistocorrError, InputError, StaleArtefactError
from lib.staleness import Staleness, read_sidecar
from lib.tiles import stored
from lib.whole_files import fingerprint, whole_file, write_record

TRIES = 3  # of work whose inputs change meanwhile
VERSIONED = ("numpy", "pandas", "scipy", "torch", "torchvision", "openslide-python", "histocorr")


class Store(Staleness):
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
        self._seen: dict[str, str] = {}  # fingerprints of inputs when they were last read here

    def left_out(self, notebook: str) -> str:
        """Why a notebook has nothing to say about this cohort; "" where it has, or where nobody knows yet."""
        if notebook == "07_conditional" and self.n_tissues == 1:
            return "one tissue: no correlation can be explained by it"
        return ""

    @property
    def n_tissues(self) -> int:
        """Tissues of the samples; 0 until notebook 00 has read them."""
        try:
            return self.load("samples")["tissue"].nunique()
        except StaleArtefactError:
            return 0

    # -- artefacts --------------------------------------------------------------------------------------

    def save(self, name: str, value: Any, **facts: Any) -> None:
        """Write an artefact, then its sidecar; `facts` (device, seconds, …) are recorded there.

        Inputs are recorded as they were when this store last read them: one that changed since then leaves
        the artefact stale.
        """
        with self._lock():
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            # A kill between the two files leaves an artefact without sidecar: missing, never mismatched.
            self._sidecar(name).unlink(missing_ok=True)
            with whole_file(path) as temporary:
                _write(temporary, value)
            status = path.stat()
            record = {
                "artefact": name,
                "made_by": self.artefact(name).notebook,
                "config": self._fields(name),
                "inputs": {i: self._seen.get(i) or self.fingerprint(i) for i in self._inputs(name)},
                "fingerprint": fingerprint(path),
                "bytes": status.st_size,
                "modified_ns": status.st_mtime_ns,
                "folder": self._folder_fingerprint(name),
                "code": self._code(name),
                "seed": self.config.seed,
                "versions": _versions(),
                "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                **facts,
            }
            write_record(self._sidecar(name), record)

    def load(self, name: str) -> Any:
        """Read an artefact that is current and holds what was written.

        StaleArtefactError names the notebook to run otherwise. Content that changed behind the back of its
        record (a damaged disk, an edit) loses the record, so that the next run makes it again.
        """
        why, path = self.why_stale(name), self.path(name)
        if not why and fingerprint(path) != self.facts(name)["fingerprint"]:
            why = f"holds other bytes than were written: damaged, or edited ({path})"
            self._sidecar(name).unlink(missing_ok=True)
        if why:
            raise StaleArtefactError(name, self.artefact(name).notebook, why + self._left_by_shards(name))
        self._seen[name] = self.facts(name)["fingerprint"]
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        return path

    def _left_by_shards(self, name: str) -> str:
        """Which slides no shard has cut yet, to follow why the tiles cannot be loaded; "" without shards."""
        of = slide_parts.divided(self.path("stacks")) if self.artefact(name).folder == "stacks" else 0
        if not of or not self.is_current("samples"):
            return ""
        slide_ids = sample_slides.slide_ids(self.load("samples"))
        undone_df = slide_parts.by_shard(slide_parts.uncut(slide_ids, self.path("stacks")), slide_ids, of)
        lines = slide_parts.in_words(undone_df, of, "cut")
        command = f"python -m lib.shard tiles --cohort {self.config.cohort} --shard I/{of}"
        return f"; {'; '.join(lines)}: let that shard end, or cut them ({command})" if lines else ""

    def cached(self, names: str | tuple[str, ...], make: Callable[[], Any], **facts: Any) -> Any:
        """Load what is current; otherwise call `make`, save what it returns, and return that.

        With several names `make` returns as many values. Where files are added to a folder that `make` reads
        while it works, `make` is called again, so it must be quick to repeat what is done.

        Raises
        ------
        InputError
            A file that the artefacts are made from changed while this notebook worked.
        """
        several = isinstance(names, tuple)
        wanted = names if isinstance(names, tuple) else (names,)
        if not all(self.is_current(name) for name in wanted):
            with self._lock():
                started = time.perf_counter()
                made = self._made_from_steady_inputs(wanted, make)
                seconds = round(time.perf_counter() - started, 2)
                for name, value in zip(wanted, made if several else (made,), strict=True):
                    self.save(name, value, seconds=seconds, **facts)
        values = tuple(self.load(name) for name in wanted)
        return values if several else values[0]

    def _made_from_steady_inputs(self, names: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """What `make` returns, made from raw inputs that did not change meanwhile."""
        raw = [i for i in dict.fromkeys(i for name in names for i in self._inputs(name)) if i[:4] == "raw:"]
        for _ in range(TRIES):
            for i in raw:
                if self.raw_path(i.removeprefix("raw:")).is_dir():
                    self._seen[i] = self.fingerprint(i)  # read anew by `make`
                else:
                    self._seen.setdefault(i, self.fingerprint(i))
            made = make()
            changed = [i for i in raw if self.fingerprint(i) != self._seen[i]]
            paths = [self.raw_path(i.removeprefix("raw:")) for i in changed]
            if not changed:
                return made
            if not all(path.is_dir() for path in paths):
                break
            print(f"{paths[0]} changed meanwhile: looking again")
        first = paths[0]
        raise InputError(
            f"{first} changed while it was read: let its download or editing finish, then run "
            f"{self.notebook or 'the notebook'} again (finished work is kept)"
        )

    def to_read(self, field: str) -> Path:
        """The raw input that is about to be read: from now on a change of it leaves what is made stale."""
        self._seen[f"raw:{field}"] = self.fingerprint(f"raw:{field}")
        return self.raw_path(field)

    def samples_of(self, sample_ids: Sequence[str]) -> pd.DataFrame:
        """Rows of the samples table in this order, with what was measured on their tiles where any were cut
        (`tile_counts`); columns of the table itself take precedence.
        """
        samples_df = self.load("samples").set_index("sample_id").loc[list(sample_ids)]
        if not self.config.features_file:
            measured_df = self.load("tile_counts")
            samples_df = samples_df.join(measured_df.drop(columns=samples_df.columns, errors="ignore"))
        return samples_df.reset_index()

    def tile_files(self, tiles_df: pd.DataFrame) -> dict[str, str]:
        """Slide id -> where its tiles are (`stored.place`), for every slide that has tiles."""
        folder, slide_ids = self.path("stacks"), tiles_df["slide_id"].unique()
        stacks = {slide_id: folder / f"{slide_id}.npy" for slide_id in slide_ids}
        if all(path.is_file() for path in stacks.values()):
            return {slide_id: str(path) for slide_id, path in stacks.items()}
        slides = self.slide_paths(self.load("samples"))
        return {slide_id: stored.place(path, slides[slide_id]) for slide_id, path in stacks.items()}

    def work_folder(self, name: str, artefact: str) -> Path:
        """Folder of resumable work towards `artefact`, emptied (and this printed) if it was started for other
        inputs or parameters. The number of epochs does not count: training continues from a shorter run.
        """
        folder = self.path(name)
        made_for = {field: value for field, value in self._fields(artefact).items() if field != "epochs"}
        made_for |= {i: self.fingerprint(i) for i in self._inputs(artefact)}
        made_for["code"] = self._code(artefact)
        why = work_records.why_unfinished(folder, made_for)
        if not why:
            return folder
        with self._lock():
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
        with self._lock():
            for name in ARTEFACTS:
                if self.artefact(name).notebook == notebook:
                    self._sidecar(name).unlink(missing_ok=True)
                    self.path(name).unlink(missing_ok=True)
            for name, (_, owner) in WORK_FOLDERS.items():
                if owner == notebook:
                    shutil.rmtree(self.path(name), ignore_errors=True)

    def with_network(self, architecture: str, null_network: str = "", weights: str | None = None) -> "Store":
        """The store of another network of this cohort, other parameters the same (None: weights too)."""
        values = self.config.model_dump()
        if weights is not None or self.config.encoder_digest:  # weights of an encoder file are its own
            values["weights"] = weights or ""
        values = config_values.with_network(values, architecture) | {"null_network": null_network}
        return Store(Config.checked(values), self.notebook, self.root)

    def networks(self, names: tuple[str, ...]) -> dict[str, tuple["Store", str]]:
        """Every network kept for this tiling: run name -> its store, and why it cannot be compared ("": it
        can).

        A network can be compared when all artefacts of `names` are current under this configuration. One
        whose record was lost in a kill is not listed, since its notebook runs again; nor is one whose encoder
        file is gone.
        """
        found = {}
        for sidecar in sorted(self.path("tiles").parent.glob("*/network.pt.json")):
            made_with = read_sidecar(sidecar).get("config", {})
            if not {"architecture", "null_network", "weights"} <= made_with.keys():
                continue
            of = (made_with[field] for field in ("architecture", "null_network", "weights"))
            try:
                store = self.with_network(*of)
            except HistocorrError:  # its encoder file is gone, or no longer one
                continue
            made = [name for name in names if store.artefact(name).notebook in store.notebooks]
            reasons = ((name, store.why_stale(name)) for name in made)
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

    def _lock(self) -> AbstractContextManager[None]:
        what = f"notebook {self.notebook}" if self.notebook else "a run"
        return cohort_lock.holding(self.derived, what)

    # -- figures and tables for people ------------------------------------------------------------------

    def save_figure(self, stem: str, figure: Any, caption: str, per_network: bool = True) -> Any:
        """Save a figure as PNG and PDF with its caption; returns the figure, for the notebook to show."""
        name = self.figure_name(stem, per_network)
        with self._lock():
            saved_figures.save_figure(self.figures, name, figure, **self._about(f"{name}.png", caption))
        return figure

    def save_table(
        self, stem: str, table_df: pd.DataFrame, caption: str, per_network: bool = True
    ) -> pd.DataFrame:
        """Save a table as csv with its caption; returns the table, for the notebook to show."""
        name = self.figure_name(stem, per_network)
        with self._lock():
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
        # Measured values hardly repeat: without a dictionary a wide table is written in half the time.
        texts = [str(name) for name, kind in value.dtypes.items() if getattr(kind, "kind", "O") != "f"]
        value.to_parquet(path, compression="zstd", use_dictionary=texts or False)
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
