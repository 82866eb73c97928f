"""Where every file of a configuration lies; nobody else builds paths below data/ and figures/."""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lib.artefacts import ARTEFACTS, NOTEBOOKS, WORK_FOLDERS
from lib.cohort import sample_slides
from lib.config import ROOT, Config
from lib.errors import InputError, MissingInputError
from lib.network import encoder_files
from lib.sources import mirror, protein_atlas

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
SLIDE_SUFFIXES = (".svs", ".ome.tif", ".ome.tiff", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms")
GENE_ONTOLOGY = "go"  # as gene_sets: not a GMT file, but the terms of the Gene Ontology
SLIDE_SUFFIXES += (".vmu", ".svslide", ".dcm", ".jpg", ".jpeg", ".png")


class Paths:
    """The paths of one configuration.

    Parameters
    ----------
    root : the folder of data/ and figures/; None: HISTOCORR_ROOT, else the repository
    """

    def __init__(self, config: Config, root: str | Path | None = None) -> None:
        self.config = config
        self.root = Path(root or os.environ.get("HISTOCORR_ROOT") or ROOT).resolve()
        self.raw = self.root / "data" / "raw" / config.cohort
        self.derived = self.root / "data" / "derived" / config.cohort
        self.figures = self.root / "figures" / config.cohort

    def path(self, name: str) -> Path:
        """Path of an artefact or work folder."""
        template = ARTEFACTS[name].path if name in ARTEFACTS else WORK_FOLDERS[name][0]
        c = self.config
        tiles = self.derived / f"{c.tile_px}px_{c.tile_mpp:g}mpp_{c.input_px}px"
        return Path(
            template.format(raw=self.raw, derived=self.derived, tiles=tiles, network=tiles / c.run_name)
        )

    def raw_path(self, field: str) -> Path:
        """Path of a raw input named by a config field: from data/raw/<cohort>, a checkpoint from the
        repository, or absolute.
        """
        if field == "weights":
            from lib.network import weight_sources  # late: it imports requests

            return weight_sources.local_file(self.config.weights, ROOT) or ROOT / self.config.weights
        if field == "gene_sets" and self.config.gene_sets == GENE_ONTOLOGY:
            found = self.go_files()
            return found[1] if found else self.root / "data" / "raw" / "go" / "goa_human.gaf.gz"
        return self.raw / getattr(self.config, field)

    def export_path(self, what: str) -> Path:
        """File for other tools, such as "features" (`lib.export`): beside the artefacts of the network."""
        return self.path("network").with_name(f"{what}.h5ad")

    def repository_path(self, name: str) -> Path:
        """A path of the configuration that starts at the repository's root, or is absolute."""
        return ROOT / name

    @property
    def weights(self) -> str | None:
        """Initial weights of the network: None (random), "imagenet", or the path of a checkpoint, which is
        fetched from its hub at first use.

        Raises FileNotFoundError when there is no such checkpoint, RuntimeError when its hub is out of reach.
        """
        if self.config.weights.startswith(encoder_files.HUB):
            from lib.network import weight_sources

            return str(weight_sources.fetched(self.config.weights))
        if not self.config.weights_file:
            return self.config.weights or None
        path = self.raw_path("weights")
        if not path.is_file():
            raise MissingInputError(
                f"weights = {self.config.weights!r}: there is no checkpoint at {path}; give 'imagenet', or a "
                "path from the repository's root or absolute"
            )
        return str(path)

    @property
    def split_rules(self) -> dict[str, Any]:
        """How samples are assigned to sets: the arguments of `splits.assign_splits`."""
        config = self.config
        return {
            "fractions": config.split_fractions,
            "split_by": config.split_by,
            "seed": config.seed,
            "split_file": self.repository_path(config.split_file) if config.split_file else None,
            "rule": config.id_rule,
            "unknown": "ignore" if config.source == "gtex" else "error",  # listed slides without RNA
        }

    def require_inputs(self) -> None:
        """Raise FileNotFoundError for a table that the cohort needs and lacks, saying how to get it."""
        fields = [f for f in ("samples_file", "expression_file", "features_file") if getattr(self.config, f)]
        missing = [path for path in map(self.raw_path, fields) if not path.is_file()]
        if missing:
            command = self.config.inputs_command.format(raw=self.raw)
            how = f"make it with {command}" if command else "data/README.md describes the files of a cohort"
            raise MissingInputError(f"{missing[0]} is missing: {how}")

    @property
    def places(self) -> mirror.Places:
        """Folders that the source of this cohort reads and downloads to, beside `raw`."""
        shared = self.root / "data" / "raw"
        configured = self.config.go_obo_file or self.config.go_gaf_file
        return mirror.Places(
            upstream=self.raw / "upstream",
            gtex=mirror.search_folders(shared / "gtex", "gtex"),
            go=None if configured or self.found_go_files() else shared / "go",
        )

    def go_files(self) -> tuple[Path, Path] | None:
        """The Gene Ontology and its human annotation: as configured, else as found; None when there is none.

        Raises ValueError when only one of the two is configured.
        """
        named = (self.config.go_obo_file, self.config.go_gaf_file)
        if all(named):
            return self.repository_path(named[0]), self.repository_path(named[1])
        if any(named):
            raise InputError(f"go_obo_file = {named[0]!r}, go_gaf_file = {named[1]!r}: give both or none")
        return self.found_go_files()

    def gene_set_files(self) -> tuple[Path, ...]:
        """What `gene_sets` names: a GMT file, or the Gene Ontology and its annotation.

        Raises FileNotFoundError when they are not there.
        """
        if self.config.gene_sets != GENE_ONTOLOGY:
            path = self.raw_path("gene_sets")
            if not path.is_file():
                raise MissingInputError(f"gene_sets = {self.config.gene_sets!r}: there is no file {path}")
            return (path,)
        found = self.go_files()
        if not found:
            raise MissingInputError('gene_sets = "go": no Gene Ontology files; fetch: python -m lib.gtex go')
        return found

    def found_go_files(self) -> tuple[Path, Path] | None:
        """The two Gene Ontology files of data/raw/go, else of the mirror (the last by name), or None."""
        for folder in mirror.search_folders(self.root / "data" / "raw" / "go", "go"):
            # whole names only: partial and rejected downloads have another ending
            obo = sorted(path for end in ("", ".gz") for path in folder.glob(f"go[-_.]*obo{end}"))
            gaf = sorted(path for end in ("", ".gz") for path in folder.glob(f"goa_human*.gaf{end}"))
            if obo and gaf:
                return obo[-1], gaf[-1]
        return None

    def slide_path(self, slide_id: str, claimed: Collection[str] = ()) -> Path:
        """The slide's file; the expected .svs path when there is none. Of many slides use `slide_paths`."""
        return self._slide_path(slide_id, claimed, self._slide_files())

    def picture_path(self, slide_id: str) -> Path:
        """The file of the slide that stands for a sample: of several the first one that has a file."""
        paths = [self.slide_path(i) for i in sample_slides.slides_of(slide_id)]
        return next((path for path in paths if path.is_file()), paths[0])

    def slide_paths(self, samples_df: pd.DataFrame) -> dict[str, Path]:
        """Slide id -> file, for every slide of the samples table.

        A file is a slide's if its name without a known suffix (in any case) is the id, or its whole name. Of
        several the first of SLIDE_SUFFIXES counts. Unicode forms of a name are one name. A slide file of GTEx
        may end in 5 where the id ends in 6 (notebooks/README.md, section 1): that file is taken when none has
        the exact name and its own id is not another slide's. Raises ValueError for an id that is not a file
        name.
        """
        slide_ids, files = sample_slides.slide_ids(samples_df), self._slide_files()
        return {slide_id: self._slide_path(slide_id, slide_ids, files) for slide_id in slide_ids}

    def _slide_path(self, slide_id: str, claimed: Collection[str], files: dict[str, Path]) -> Path:
        if Path(slide_id).name != slide_id or slide_id in {"", ".", ".."}:
            raise InputError(f"slide id {slide_id!r} cannot be a file name: rename it in the samples table")
        names, other = [slide_id], slide_id[:-1] + "5"
        if self.config.id_rule == "gtex" and slide_id.endswith("6") and other not in claimed:
            names.append(other)
        found = (files.get(unicodedata.normalize("NFC", name)) for name in names)
        expected = self.raw_path("slides_dir") / f"{slide_id}.svs"
        return next((path for path in found if path is not None), expected)

    def _slide_files(self) -> dict[str, Path]:
        """Slide files of the folder by their names with and without suffix, in Unicode's composed form."""
        folder = self.raw_path("slides_dir")
        found: dict[str, Path] = {}
        names = os.listdir(folder) if folder.is_dir() else []
        for suffix in SLIDE_SUFFIXES:
            for name in sorted(name for name in names if name.lower().endswith(suffix)):
                path = folder / name
                if not path.exists():  # a broken link
                    continue
                for key in {name, name[: -len(suffix)]}:
                    found.setdefault(unicodedata.normalize("NFC", key), path)
        return found

    def missing_slides(self, samples_df: pd.DataFrame) -> list[str]:
        """Slides of the samples table that have no file."""
        return [slide_id for slide_id, path in self.slide_paths(samples_df).items() if not path.is_file()]

    def stored_slides(self, samples_df: pd.DataFrame) -> set[str]:
        """Slides whose tiles are kept in stacks: with `store_tiles` all, without it those trained on."""
        if self.config.store_tiles:
            return set(sample_slides.slide_ids(samples_df))
        trained_on = ("train", "validation") if self.config.classifies else ()
        return set(sample_slides.slide_ids(samples_df[samples_df["split"].isin(trained_on)]))

    def ihc_path(self, *names: Any, tissue: str = "") -> Path | None:
        """The immunohistochemistry image of a gene, by any of its names (symbol, id), or None.

        An image of the user's own (`<gene>.*`), else the one of the Human Protein Atlas in this tissue, if it
        was fetched. Case is ignored. An Ensembl id matches any version of it, the same version first. Missing
        names (NaN) are skipped.
        """
        if own := self._own_ihc(*names):
            return own
        image = self.ihc_record(*names, tissue=tissue).get("image", "")
        path = self.raw_path("ihc_dir") / image
        return path if image and Path(image).name == image and path.is_file() else None

    def ihc_record(self, *names: Any, tissue: str) -> dict[str, str]:
        """What is recorded of the Atlas's image of a gene in a tissue (`protein_atlas.COLUMNS`), also why
        there is none; {} where it was not asked for, or an image of the user's own takes its place.
        """
        if self._own_ihc(*names):
            return {}
        records_df = protein_atlas.read_records(self.raw_path("ihc_dir"))
        found = (protein_atlas.record_of(records_df, name, tissue) for name in names if isinstance(name, str))
        return next(filter(None, found), {})

    def _own_ihc(self, *names: Any) -> Path | None:
        known = [name.casefold() for name in names if isinstance(name, str) and name]
        images = [path for path in self._ihc_files() if path.suffix.lower() in IMAGE_SUFFIXES]
        for form in (str, _without_version):
            wanted = {form(name) for name in known}
            for path in images:
                if form(path.stem.casefold()) in wanted:
                    return path
        return None

    def unused_ihc(self, used: Iterable[Path | None]) -> list[str]:
        """Names of the files in `ihc_dir` that are not among those used: of genes not shown, or misspelt."""
        fetched = {protein_atlas.RECORDS}
        fetched.update(protein_atlas.read_records(self.raw_path("ihc_dir"))["image"])
        return [path.name for path in self._ihc_files() if path not in set(used) and path.name not in fetched]

    def _ihc_files(self) -> list[Path]:
        folder = self.raw_path("ihc_dir")
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path for path in found if path.is_file() and not path.name.startswith(".")]

    def reference(self, name: str) -> pd.DataFrame:
        """A table of the paper or of the field: data/reference/<name>.csv."""
        return pd.read_csv(ROOT / "data" / "reference" / f"{name}.csv")

    def reference_if_there(self, name: str) -> pd.DataFrame | None:
        """`reference`, or None where the table has not been made yet."""
        path = ROOT / "data" / "reference" / f"{name}.csv"
        return pd.read_csv(path) if path.is_file() else None

    def executed_path(self, notebook: str) -> Path:
        """Executed copy of a notebook for this cohort (and network)."""
        name = self.figure_name(notebook, NOTEBOOKS[notebook].per_network)
        return self.figures / "notebooks" / f"{name}.ipynb"

    @property
    def notebook_times_path(self) -> Path:
        """How long each notebook last took here, in seconds (json)."""
        return self.figures / "notebooks" / "seconds.json"

    def figure_name(self, stem: str, per_network: bool = True) -> str:
        """File stem of a figure or table: `<stem>__<network>`, or `<stem>` for what belongs to the cohort."""
        return f"{stem}__{self.config.run_name}" if per_network else stem


def _without_version(name: str) -> str:
    """ensg00000110245.7 as ensg00000110245; other names unchanged. In lower case."""
    return re.sub(r"^(ens\w+)\.\d+$", r"\1", name)
