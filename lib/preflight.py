"""Everything a run would refuse, found before anything runs: `python run_all.py --cohort mine --check`.

Files are opened, ids joined, units and covariates tested, slides read at their µm/px, and time and disk of
each stage estimated. All problems are reported together; nothing is written.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.cohort import expression, expression_units, gene_set_files, sample_slides, summary
from lib.cohort.pairing import pair_rna
from lib.cohort.samples import SPLITS, first, read_samples
from lib.cohort.splits import assign_splits
from lib.errors import HistocorrError, InputError
from lib.features import from_file
from lib.statistics import gene_sets, link_tests, permutations, residuals
from lib.store import Store
from lib.tiles import cut_all, grid, slides

SECONDS = 30.0  # for opening slides; of a larger cohort as many are opened as this allows
FEW_TEST = 3  # test samples of a tissue below which nothing can be tested in it
TILES_PER_CORE_S = 177  # measured (data/README.md); a scanned slide may take longer
COUNTED = {"donors": "donor", "tissues": "tissue"}
N_PROBED = 8  # tiles of the network's trial


class Finding(NamedTuple):
    """One line of the report."""

    kind: str  # "ok", "note", "problem"
    text: str


def check(store: Store) -> list[Finding]:
    """All findings about one configuration, in the order of the stages."""
    found: list[Finding] = []
    state: dict[str, pd.DataFrame] = {}
    stages: list[Callable[[Store, dict[str, pd.DataFrame]], Iterator[Finding]]] = [_tables, _sets]
    stages += [] if store.config.slides_only else [_expression]
    stages += [_features] if store.config.features_file else [_slides, _network]
    for stage in [*stages, _machine]:
        try:
            found += stage(store, state)
        except KeyError:  # an earlier stage has said why this one cannot be looked at
            continue
        except (HistocorrError, OSError, RuntimeError) as error:
            found.append(Finding("problem", str(error)))
    return found


def print_report(store: Store) -> int:
    """Print the findings about one configuration, problems repeated at the end; 1 where there are any."""
    found = check(store)
    problems = [finding.text for finding in found if finding.kind == "problem"]
    print(f"{store.config.cohort}, {store.config.run_name}:")
    print(*(f"{finding.kind:8s} {finding.text}" for finding in found), sep="\n")
    print(f"\n{len(problems)} problems" if problems else "\nno problems: this cohort can run")
    print(*(f"  {i}. {text}" for i, text in enumerate(problems, 1)), sep="\n")
    return int(bool(problems))


def missing_slides(store: Store) -> str:
    """Why notebook 01 cannot start for want of slides, and what fetches them; "" when it can."""
    if not store.is_current("samples") or (store.is_current("tiles") and store.is_current("slides")):
        return ""  # the notebook reports the first; in the second case the slides have been cut already
    samples_df = store.load("samples")
    paths = store.slide_paths(samples_df)
    missing, n_slides = store.missing_slides(samples_df), len(paths)
    *others, strangers = summary.slide_files(paths).iloc[2:].itertuples()
    for row in others:
        print(f"{row.what}: {row.n} ({row.examples})")
    if strangers.n:
        print(f"{strangers.n} slide files belong to no sample and are not used: {strangers.examples}")
    if not missing:
        return ""
    text = f"{len(missing):,} of {n_slides:,} slide files are missing, first {store.slide_path(missing[0])}"
    if store.config.missing_slides == "go_on" and len(missing) < n_slides:
        print(f"{text}; these slides are skipped")
        if said := _pools_in_part(samples_df, paths):
            print(said)
        return ""
    if store.config.source == "gtex":
        from lib import gtex

        text += "\n  " + gtex.how_to_fetch(store.raw, store.raw_path("slides_dir"), len(missing))
    if len(missing) < n_slides:
        text += "\n  to continue with the slides that are here: --set missing_slides=go_on"
    return text


def _tables(store: Store, state: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    """The samples table and its pairs."""
    config = store.config
    made = config.source != "files"
    if made and not store.raw_path("samples_file").is_file():
        yield Finding("note", f"notebook 00 makes the inputs of source = {config.source!r}: not there yet")
        return
    store.require_inputs()
    listed_df = read_samples(store.raw_path("samples_file"), config.categorical_covariates)
    n_of = {"slides": len(sample_slides.slide_ids(listed_df))}
    n_of |= {what: listed_df[column].nunique() for what, column in COUNTED.items()}
    counts = ", ".join(f"{n:,} {what}" for what, n in n_of.items())
    yield Finding("ok", f"{len(listed_df):,} samples: {counts}")
    if config.slides_only:
        yield Finding(
            "note", "no expression_file: the run ends with the features of the slides (notebook 04)"
        )
        state["paired"] = listed_df
        return
    rna = expression.rna_ids(store.raw_path("expression_file"))
    pairing_df, _ = pair_rna(listed_df, rna, rule=config.id_rule)
    n_paired = pairing_df["sample_id"].nunique()
    ids = f"sample ids look like {first(listed_df['sample_id'], 2)}, RNA ids like {first(rna, 2)}"
    lost = listed_df.loc[~listed_df["sample_id"].isin(pairing_df["sample_id"]), "sample_id"]
    kind = "ok" if lost.empty else "note"
    without = f"; without RNA: {first(lost)}" if len(lost) else ""
    yield Finding(kind, f"{n_paired:,} samples have RNA under id_rule = {config.id_rule!r}: {ids}{without}")
    state["pairing"] = pairing_df
    state["paired"] = listed_df[listed_df["sample_id"].isin(pairing_df["sample_id"])].reset_index(drop=True)


def _sets(store: Store, state: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    """Training, validation and test samples; donors; covariates; what can be tested."""
    config, paired_df = store.config, state["paired"]
    sets = assign_splits(paired_df, **store.split_rules)
    state["samples"] = paired_df.assign(split=sets.to_numpy())
    samples_df = summary.in_sets(paired_df, sets, config.classifies)
    counts = samples_df["split"].value_counts().reindex(SPLITS, fill_value=0)
    yield Finding("ok", ", ".join(f"{counts[name]:,} {name}" for name in SPLITS) + " samples")
    table_df = pd.crosstab(samples_df["tissue"], samples_df["split"]).reindex(columns=SPLITS, fill_value=0)
    for name in SPLITS:
        if len(without := table_df.index[table_df[name] == 0]):
            yield Finding("note", f"{len(without)} tissues have no {name} sample: {first(without)}")
    tested_df = samples_df[samples_df["split"].isin(config.test_sets)]
    few = table_df.index[table_df[list(config.test_sets)].sum(axis=1).between(1, FEW_TEST - 1)]
    if len(few):
        yield Finding("note", f"{len(few)} tissues have fewer than {FEW_TEST} samples to test: {first(few)}")
    if config.covariates:
        summary.covariate_report(samples_df, config.covariates)
        if given := [name for name in config.covariates if name in samples_df]:
            plan_df = residuals.slope_plan(
                residuals.covariate_table(tested_df, given), tested_df, config.covariate_slopes
            )
            left = plan_df.loc["all", "degrees_of_freedom"]
            yield Finding("ok", f"covariates {', '.join(given)} leave {left} degrees of freedom")
    shuffles = permutations.draw("within_tissue", min(config.link_permutations, 1000), tested_df, config.seed)
    for line in link_tests.notes(shuffles, tested_df).splitlines():
        yield Finding("note", line)


def _expression(store: Store, state: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    """The values: read whole, and whether they are in the unit they are said to be in."""
    config, wanted = store.config, list(state["pairing"]["rna_id"])
    values_df, genes_df = expression.read_expression(
        store.raw_path("expression_file"), columns=wanted, on_header_mismatch=config.expression_rows
    )
    expression_units.in_unit(values_df, config.expression_unit)
    if config.genes_file:
        table_df = expression.read_gene_table(store.raw_path("genes_file"))
        genes_df = expression.annotate_genes(genes_df, table_df)
    if config.protein_coding_only:
        expression.protein_coding(genes_df)
    if config.gene_sets:
        sets = gene_set_files.read_sets(store.gene_set_files(), genes_df)
        usable = sum(gene_sets.SMALLEST <= len(genes) <= gene_sets.LARGEST for genes in sets.values())
        words = (
            f"{usable:,} of {len(sets):,} gene sets have {gene_sets.SMALLEST} to {gene_sets.LARGEST} genes"
        )
        yield Finding("ok" if usable else "note", f"{words} of the table")
    largest = np.log2(1 + values_df.to_numpy().max(axis=1))
    n_high = int((largest >= config.e_threshold).sum())
    text = (
        f"{len(values_df):,} genes in {config.expression_unit}; {n_high:,} reach E_T = {config.e_threshold:g}"
    )
    if n_high:
        yield Finding("ok", f"{text} in some sample")
    else:
        yield Finding("problem", f"{text}: lower e_threshold")


def _features(store: Store, state: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    """Features that were computed elsewhere."""
    config = store.config
    path = store.raw_path("features_file")
    features_df = from_file.read_features(path, config.architecture, config.features)
    sides = from_file.by_set(features_df, state["samples"], config.test_sets)
    n_validation, n_test = (side.shape[1] for side in sides)
    yield Finding(
        "ok", f"{len(features_df):,} features of {n_test:,} test and {n_validation:,} validation samples"
    )


def _slides(store: Store, state: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    """Slides: there, readable, of a resolution that can be right."""
    config, samples_df = store.config, state["samples"]
    paths = store.slide_paths(samples_df)
    missing = [slide_id for slide_id, path in paths.items() if not path.is_file()]
    go_on = config.missing_slides == "go_on" and len(missing) < len(paths)
    if missing:
        text = f"{len(missing):,} of {len(paths):,} slides have no file: {first(missing)}"
        there = sorted(path.name for path in store.raw_path("slides_dir").glob("[!.]*"))
        text += f"; {store.raw_path('slides_dir')} holds {first(there)}" if there else "; the folder is empty"
        yield Finding("note" if go_on else "problem", text)
    if said := _pools_in_part(samples_df, paths):
        yield Finding("note", said)
    present = [slide_id for slide_id, path in paths.items() if path.is_file()]
    rows, bad = _looked_at(present, paths, samples_df)
    for text in bad[:20]:
        yield Finding("note", text)
    if len(bad) > 20:
        yield Finding("note", f"and {len(bad) - 20} more slides that cannot be used")
    if not rows:
        raise InputError(f"none of {len(paths):,} slides can be read")
    cut_all.refuse_odd_resolutions(rows, config.tiling)
    mpp = [row["mpp"] for row in rows]
    yield Finding(
        "ok", f"{len(rows):,} of {len(present):,} slides were opened: {min(mpp):g} to {max(mpp):g} µm/px"
    )
    regions = samples_df.reindex(columns=["l0_width", "l0_height"]).dropna()
    if len(regions):
        area = float((regions["l0_width"] * regions["l0_height"]).sum()) * float(np.median(mpp)) ** 2 / 1e6
    else:
        area = float(np.mean([row["mm2"] for row in rows])) * len(present) / 2  # half of a slide is glass
    n_tiles = max(1, round(area / (config.tile_um / 1000) ** 2))
    state["tiles"] = pd.DataFrame({"n": [n_tiles]})
    seconds = n_tiles / TILES_PER_CORE_S / config.n_workers
    stored = len(store.stored_slides(samples_df)) / max(1, len(sample_slides.slide_ids(samples_df)))
    size = n_tiles * config.input_px**2 * 3 * stored
    yield Finding("ok", f"01 tiles: at most about {n_tiles:,} tiles, {_size(size)}, {_time(seconds)}")
    free = shutil.disk_usage(_existing(store.derived)).free
    if size > free:
        yield Finding(
            "problem", f"tiles need about {_size(size)}, {_size(free)} are free below {store.derived}"
        )


def _pools_in_part(samples_df: pd.DataFrame, paths: dict[str, Path]) -> str:
    """Which samples of several slides lack the file of some; "" where none does."""
    in_part_df = sample_slides.lacking(samples_df, [i for i, path in paths.items() if path.is_file()])
    shown = "; ".join(f"{i}: {row.lacking}" for i, row in in_part_df.head(3).iterrows())
    words = f"{len(in_part_df)} samples of several slides lack some, and keep the rest"
    return f"{words}: {shown}" if shown else ""


def _looked_at(
    present: list[str], paths: dict[str, Path], samples_df: pd.DataFrame
) -> tuple[list[dict], list[str]]:
    """Resolution and area of slides, in random order as far as the time goes; and what is wrong with some."""
    rows_df = sample_slides.by_slide(samples_df)
    of_slide = {str(i): df for i, df in rows_df.groupby("slide_id", sort=False)}
    deadline = time.monotonic() + SECONDS

    def look(slide_id: str) -> dict:
        if time.monotonic() > deadline:
            return {}
        try:
            with slides.open_slide(paths[slide_id]) as slide:
                mpp = slides.slide_mpp(slide, grid.one_mpp(of_slide[slide_id])).mpp
                width, height = slide.dimensions
        except (HistocorrError, OSError) as error:
            return {"problem": str(error)}
        return {"slide_id": slide_id, "mpp": mpp, "mm2": width * height * mpp**2 / 1e6, "n_grid": 1}

    order = np.random.default_rng(0).permutation(len(present))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looked_at = list(pool.map(look, [present[i] for i in order]))
    rows = [row for row in looked_at if "mpp" in row]
    return rows, [row["problem"] for row in looked_at if "problem" in row]


def _network(store: Store, state: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    """The encoder, tried on a few tiles, and the time that training and quantification will take."""
    from lib.network import encoder_files, models, training  # torch takes seconds
    from lib.network.devices import choose_device
    from lib.network.weights import read_weights, require_normalisation

    config = store.config
    device = choose_device(config.torch_device)
    models.check_input_px(config.architecture, config.input_px, config.null_network != "untrained")
    if config.weights_file:
        path = store.weights or ""
        read_weights(path)
        if not config.classifies and not config.encoder_normalisation:
            require_normalisation(path)
    n_classes = state["samples"].loc[state["samples"]["split"] == "train", "tissue"].nunique()
    weights = store.weights if config.weights_file else None
    model = training.initial_network(config.recipe, max(n_classes, 2), config.input_px, weights)
    model = model.eval().to(device)
    import torch

    tiles_t = torch.zeros(N_PROBED, 3, config.input_px, config.input_px, device=device)
    with torch.inference_mode():
        for _ in range(3):  # the last one counts: the first ones warm up
            started = time.perf_counter()
            model(tiles_t)
            if device.type == "cuda":
                torch.cuda.synchronize()
            per_tile = (time.perf_counter() - started) / N_PROBED
    if note := encoder_files.scale_note(config.architecture, config.tile_um / config.input_px):
        yield Finding("note", note)
    yield Finding(
        "ok", f"{config.run_name} takes {config.input_px} px on {device}: {1 / per_tile:,.0f} tiles/s"
    )
    n_tiles = int(state["tiles"]["n"].iloc[0])
    shares = state["samples"]["split"].value_counts(normalize=True)
    epochs = config.recipe.epochs
    training_s = 3 * per_tile * n_tiles * shares.get("train", 0) * epochs
    measured_s = per_tile * n_tiles
    yield Finding(
        "ok", f"02 train: about {_time(training_s)} for {epochs} epochs (forward and backward pass)"
    )
    yield Finding("ok", f"03 and 04: about {_time(2 * measured_s)}")


def _machine(store: Store, state: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    """Disk and memory, whether results can be written, and who else works on the cohort."""
    folder = _existing(store.derived)
    if not os.access(folder, os.W_OK):
        yield Finding("problem", f"{folder} cannot be written: give permission, or set HISTOCORR_ROOT")
    free = f"{_size(shutil.disk_usage(folder).free)} free below {folder}"
    yield Finding("ok", f"{free}, {_size(_memory())} of memory, {os.cpu_count()} cores")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else 0.0


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes > 1e8 else f"{n_bytes / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds > 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"
