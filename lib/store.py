"""Every path, file format, provenance record and staleness check; nobody else builds paths into data/.

An artefact is declared once in ARTEFACTS and written to a temporary name, then renamed, with a sidecar
`<file>.json` holding the configuration it depends on, the fingerprints of its inputs, versions, seed, device
and seconds. It is current while that record holds, so a changed parameter makes stale what depends on it.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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
from lib.config import ROOT, Config
from lib.sources import mirror
from lib.whole_files import fingerprint, write_json

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".dcm")
VERSIONED = ("numpy", "pandas", "scipy", "torch", "torchvision", "openslide-python", "histocorr")


class Store:
    """The files of one configuration. `root` is the repository, or the folder named by HISTOCORR_ROOT."""

    def __init__(self, config: Config, root: str | Path | None = None) -> None:
        self.config = config
        self.root = Path(root or os.environ.get("HISTOCORR_ROOT") or ROOT).resolve()
        self.raw = self.root / "data" / "raw" / config.cohort
        self.derived = self.root / "data" / "derived" / config.cohort
        self.figures = self.root / "figures" / config.cohort

    def artefact(self, name: str) -> Artefact:
        """The declaration of an artefact, as it is for this cohort."""
        given = GIVEN_FEATURES if self.config.features_file else {}
        return given.get(name) or ARTEFACTS[name]

    @property
    def notebooks(self) -> tuple[str, ...]:
        """The notebooks of this cohort, in order."""
        return WITHOUT_SLIDES if self.config.features_file else tuple(NOTEBOOKS)

    # -- paths ------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Path of an artefact or work folder for this configuration."""
        template = ARTEFACTS[name].path if name in ARTEFACTS else WORK_FOLDERS[name][0]
        c = self.config
        tiles = self.derived / f"{c.tile_px}px_{c.tile_mpp:g}mpp_{c.input_px}px"
        return Path(
            template.format(raw=self.raw, derived=self.derived, tiles=tiles, network=tiles / c.run_name)
        )

    def raw_path(self, field: str) -> Path:
        """Path of a raw input named by a config field, relative to data/raw/<cohort> (a checkpoint: to the
        repository) or absolute.
        """
        if field == "weights":
            return self.repository_path(self.config.weights)
        return self.raw / getattr(self.config, field)

    @property
    def weights(self) -> str | None:
        """What a network begins with: None (random), "imagenet", or the path of a checkpoint.

        Raises FileNotFoundError when there is no such checkpoint.
        """
        if not self.config.weights_file:
            return self.config.weights or None
        path = self.raw_path("weights")
        if not path.is_file():
            raise FileNotFoundError(
                f"weights = {self.config.weights!r}: there is no checkpoint at {path}. Give 'imagenet', or a "
                "path from the repository's root or absolute"
            )
        return str(path)

    @property
    def gtex_folders(self) -> tuple[Path, ...]:
        """Where GTEx's tables are looked for: data/raw/gtex (fetched ones land there), then the mirror's."""
        return mirror.search_folders(self.root / "data" / "raw" / "gtex", "gtex")

    @property
    def gtex_places(self) -> dict[str, Any]:
        """Arguments of gtex_source.prepare: where GTEx's tables are looked for, and where the Gene Ontology
        is fetched to (None: it is here, or configured).
        """
        configured = self.config.go_obo_file or self.config.go_gaf_file
        go_folder = None if configured or self._found_go_files() else self.root / "data" / "raw" / "go"
        return {"folders": self.gtex_folders, "go_folder": go_folder}

    def go_files(self) -> tuple[Path, Path] | None:
        """The Gene Ontology and its human annotation: as configured, else from data/raw/go, else from the
        mirror (the newest by name); None when there is none.

        Raises ValueError when only one of the two is configured.
        """
        named = (self.config.go_obo_file, self.config.go_gaf_file)
        if all(named):
            return self.repository_path(named[0]), self.repository_path(named[1])
        if any(named):
            raise ValueError(f"go_obo_file = {named[0]!r}, go_gaf_file = {named[1]!r}: give both or none")
        return self._found_go_files()

    def _found_go_files(self) -> tuple[Path, Path] | None:
        for folder in mirror.search_folders(self.root / "data" / "raw" / "go", "go"):
            # whole names only: partial and unusable downloads have another ending
            obo = sorted(path for end in ("", ".gz") for path in folder.glob(f"go[-_.]*obo{end}"))
            gaf = sorted(path for end in ("", ".gz") for path in folder.glob(f"goa_human*.gaf{end}"))
            if obo and gaf:
                return obo[-1], gaf[-1]
        return None

    @property
    def upstream(self) -> Path:
        """Where fetched files of a real data set are kept as their publisher lays them out."""
        return self.raw / "upstream"

    def work_folder(self, name: str, artefact: str) -> Path:
        """Folder of resumable work towards `artefact`; emptied when begun for other inputs or parameters,
        which is said in a line. The number of epochs does not count: training goes on from a shorter run.
        """
        folder = self.path(name)
        begun_path = folder / "begun.json"
        now = {
            "config": {field: value for field, value in self._fields(artefact).items() if field != "epochs"},
            "inputs": {i: self.fingerprint(i) for i in self._inputs(artefact)},
        }
        begun = json.loads(begun_path.read_text(encoding="utf-8")) if begun_path.is_file() else {}
        begun.get("config", {}).pop("epochs", None)  # of a folder from before this was left out
        if begun != now:
            found = [path for path in folder.rglob("*") if path.is_file() and path != begun_path]
            if found:
                size = sum(path.stat().st_size for path in found) / 1e6
                print(
                    f"{name} begins anew ({_difference(begun, now)}): {len(found)} files of {folder} are "
                    f"thrown away, {size:,.0f} MB"
                )
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(begun_path, now)
        return folder

    def repository_path(self, name: str) -> Path:
        """A path of the configuration that is meant from the repository's root (or absolute)."""
        return ROOT / name

    def reference(self, name: str) -> pd.DataFrame:
        """A table of the paper or of the field: data/reference/<name>.csv."""
        return pd.read_csv(ROOT / "data" / "reference" / f"{name}.csv")

    def reference_if_there(self, name: str) -> pd.DataFrame | None:
        """`reference`, or None where the table has not been made yet."""
        path = ROOT / "data" / "reference" / f"{name}.csv"
        return pd.read_csv(path) if path.is_file() else None

    def slide_path(self, slide_id: str, claimed: Collection[str] = ()) -> Path:
        """The slide's file, whichever known suffix it has; the expected .svs path when there is none.

        Slide files of GTEx may end in 5 where the id ends in 6 (METHOD section 1): such a file is the slide's
        where none has its exact name and its id is not `claimed` by another slide.
        """
        folder = self.raw_path("slides_dir")
        if Path(slide_id).name != slide_id or slide_id in {"", ".", ".."}:
            raise ValueError(f"slide id {slide_id!r} cannot be a file name: rename it in the samples table")
        names = [slide_id]
        if self.config.id_rule == "gtex" and slide_id.endswith("6"):
            names += {slide_id[:-1] + "5"} - set(claimed)
        for name in names:
            for suffix in SLIDE_SUFFIXES:
                if (folder / f"{name}{suffix}").exists():
                    return folder / f"{name}{suffix}"
        return folder / f"{slide_id}.svs"

    def ihc_path(self, *names: Any) -> Path | None:
        """The immunohistochemistry image of a gene, named by its symbol or id; None when there is none.

        Upper and lower case are alike. An Ensembl id fits whatever its version, the same version first. Names
        that are missing (NaN) are passed over.
        """
        known = [name.casefold() for name in names if isinstance(name, str) and name]
        images = [path for path in self._ihc_files() if path.suffix.lower() in IMAGE_SUFFIXES]
        for shorten in (str, _unversioned):
            wanted = {shorten(name) for name in known}
            fits = [path for path in images if shorten(path.stem.casefold()) in wanted]
            if fits:
                return fits[0]
        return None

    def unused_ihc(self, used: Iterable[Path | None]) -> list[str]:
        """Names of the files in `ihc_dir` that are not among those used: of genes not shown, or misspelt."""
        return [path.name for path in self._ihc_files() if path not in set(used)]

    def _ihc_files(self) -> list[Path]:
        folder = self.raw_path("ihc_dir")
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path for path in found if path.is_file() and not path.name.startswith(".")]

    def slide_paths(self, samples_df: pd.DataFrame) -> dict[str, Path]:
        """Slide id -> file, for every slide of the samples table."""
        slide_ids = samples_df["slide_id"].unique()
        return {slide_id: self.slide_path(slide_id, set(slide_ids)) for slide_id in slide_ids}

    def missing_slides(self, samples_df: pd.DataFrame) -> list[str]:
        """Slides of the samples table that have no file."""
        return [slide_id for slide_id, path in self.slide_paths(samples_df).items() if not path.is_file()]

    def stack_files(self, tiles_df: pd.DataFrame) -> dict[str, Path]:
        """Slide id -> file of its tile stack, for every slide that has tiles."""
        return {
            slide_id: self.path("stacks") / f"{slide_id}.npy" for slide_id in tiles_df["slide_id"].unique()
        }

    # -- saving and loading -----------------------------------------------------------------------------

    def save(self, name: str, value: Any, **facts: Any) -> None:
        """Write an artefact whole, then its sidecar. `facts` (device, seconds, …) are recorded beside it."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sidecar(name).unlink(
            missing_ok=True
        )  # a kill between the two files must not leave them unequal
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        _write(temporary, path.suffix, value)
        os.replace(temporary, path)
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
        wanted = names if several else (names,)
        if all(self.is_current(name) for name in wanted):
            values = tuple(self.load(name) for name in wanted)
        else:
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
        for inputs_name in self._inputs(name):
            if not inputs_name.startswith("raw:"):
                why = self.why_stale(inputs_name)
                if why:
                    return f"depends on {inputs_name!r}, which {why}"
            now = self.fingerprint(inputs_name)
            if now == "missing" and inputs_name.startswith("raw:"):
                continue  # raw inputs may stay on another machine, or be deleted once they are used
            if record["inputs"].get(inputs_name) != now:
                return f"was made from another {inputs_name!r}"
        return None

    def fingerprint(self, name: str) -> str:
        """Content fingerprint of an artefact (from its sidecar) or of a raw input ("raw:<field>"); "missing"
        where there is none (an empty folder counts as none).
        """
        if not name.startswith("raw:"):
            return self.facts(name).get("fingerprint", "missing")
        path = self.raw_path(name.removeprefix("raw:"))
        if path.is_dir():
            listing = sorted((p.name, p.stat().st_size) for p in path.iterdir() if not p.name.startswith("."))
            return hashlib.sha256(json.dumps(listing).encode()).hexdigest() if listing else "missing"
        return fingerprint(path) if path.exists() else "missing"

    def with_network(self, architecture: str, null_network: str = "", weights: str | None = None) -> "Store":
        """The store of another network of this cohort, other parameters the same (None: weights too)."""
        values = self.config.model_dump() | {"architecture": architecture, "null_network": null_network}
        if weights is not None:
            values["weights"] = weights
        return Store(Config.checked(values), self.root)

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

    def forget(self, notebook: str) -> None:
        """Remove what a notebook made, its resumable work included, so that it is done again."""
        for name in ARTEFACTS:
            if self.artefact(name).notebook == notebook:
                self._sidecar(name).unlink(missing_ok=True)
                self.path(name).unlink(missing_ok=True)
        for name, (_, owner) in WORK_FOLDERS.items():
            if owner == notebook:
                shutil.rmtree(self.path(name), ignore_errors=True)

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

    # -- figures, tables, executed notebooks ------------------------------------------------------------

    def figure_name(self, stem: str, per_network: bool = True) -> str:
        """File stem of a figure or table: `<stem>__<network>`, or `<stem>` for what belongs to the cohort."""
        return f"{stem}__{self.config.run_name}" if per_network else stem

    def save_figure(self, stem: str, figure: Any, caption: str, per_network: bool = True) -> Any:
        """Write a figure as PNG and PDF with its caption beside it; returns the figure, for the notebook."""
        self.figures.mkdir(parents=True, exist_ok=True)
        name = self.figure_name(stem, per_network)
        for suffix in (".png", ".pdf"):
            temporary = self.figures / f".{name}{suffix}.tmp"
            metadata = {"CreationDate": None} if suffix == ".pdf" else None
            # Sharp on a screen at the width of a journal's column; for print there is the PDF.
            figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=metadata)
            os.replace(temporary, self.figures / f"{name}{suffix}")
        write_json(self.figures / f"{name}.png.json", {"caption": self._caption(caption)})
        return figure

    def save_table(
        self, stem: str, table_df: pd.DataFrame, caption: str, per_network: bool = True
    ) -> pd.DataFrame:
        """Write a table for people as csv with its caption beside it; returns the table, for the notebook."""
        self.figures.mkdir(parents=True, exist_ok=True)
        name = self.figure_name(stem, per_network)
        temporary = self.figures / f".{name}.csv.tmp"
        table_df.to_csv(temporary)
        os.replace(temporary, self.figures / f"{name}.csv")
        write_json(self.figures / f"{name}.csv.json", {"caption": self._caption(caption)})
        return table_df

    def _caption(self, text: str) -> str:
        return f"{text} Synthetic data." if self.config.synthetic_data else text

    def saved_table(self, stem: str) -> pd.DataFrame | None:
        """A table for people that this network's run has saved; None when there is none."""
        path = self.figures / f"{self.figure_name(stem)}.csv"
        return pd.read_csv(path, index_col=0) if path.is_file() else None

    def executed_path(self, notebook: str) -> Path:
        """Executed copy of a notebook for this cohort (and network)."""
        name = self.figure_name(notebook, NOTEBOOKS[notebook].per_network)
        return self.figures / "notebooks" / f"{name}.ipynb"

    @property
    def notebook_times_path(self) -> Path:
        """How long each notebook took here last time, in seconds (json)."""
        return self.figures / "notebooks" / "seconds.json"

    def notebook_record(self, notebook: str, source: Path) -> dict[str, Any]:
        """What an executed copy depends on: the notebook, the artefacts it reads, the fields it shows."""
        dumped = self.config.model_dump(mode="json")
        record = {
            "source": fingerprint(source),
            "reads": {name: self.fingerprint(name) for name in NOTEBOOKS[notebook].reads},
            "fields": {field: dumped[field] for field in NOTEBOOKS[notebook].fields},
        }
        found = self._found_go_files() if "go_obo_file" in record["fields"] else None
        if found and not self.config.synthetic_data:  # Table 6 is made once they are here
            record["go"] = [path.name for path in found]
        of_networks = NOTEBOOKS[notebook].of_networks
        if of_networks:
            record["networks"] = {
                name: why or [store.fingerprint(artefact) for artefact in of_networks]
                for name, (store, why) in self.networks(of_networks).items()
            }
        return record

    def why_rerun(self, notebook: str, source: Path) -> str | None:
        """None when a notebook's artefacts and executed copy are up to date, else the reason in words."""
        absent = {"source"} if self.config.source == "files" else set()  # inputs that the user brings
        absent |= set() if self.config.quantify_train else {"features_train"}
        for name in ARTEFACTS:
            if self.artefact(name).notebook == notebook and name not in absent:
                why = self.why_stale(name)
                if why:
                    return f"{name!r} {why}"
        executed = self.executed_path(notebook)
        record_path = executed.with_suffix(".ipynb.json")
        if not executed.is_file() or not record_path.is_file():
            return "never ran to its end here"
        record = json.loads(record_path.read_text(encoding="utf-8"))
        now = self.notebook_record(notebook, source)
        changed = [key for key in now if record.get(key) != now[key]]
        return f"its {' and '.join(changed)} changed" if changed else None


def _difference(begun: dict[str, Any], now: dict[str, Any]) -> str:
    """The first parameter or input in which a folder's record differs from what is wanted now, in words."""
    if not begun:
        return "without a record of what it was begun for"
    config = begun["config"]
    for field, value in now["config"].items():
        if config.get(field) != value:
            return f"{field} was {config.get(field)!r}, is {value!r}"
    changed = [name for name, value in now["inputs"].items() if begun["inputs"].get(name) != value]
    return f"another {changed[0]!r}" if changed else "its record is of another kind"


def _unversioned(name: str) -> str:
    """ensg00000110245.7 as ensg00000110245; other names as they are. In lower case."""
    return re.sub(r"^(ens\w+)\.\d+$", r"\1", name)


def _write(path: Path, suffix: str, value: Any) -> None:
    if suffix == ".parquet":
        value.to_parquet(path, compression="zstd")
    elif suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, value, allow_pickle=False)
    elif suffix == ".json":
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
