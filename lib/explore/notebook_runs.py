"""Notebooks run headlessly: executed copies with their pages, and whether these are up to date."""

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from lib import code_versions, cohort_lock, saved_figures
from lib.artefacts import NOTEBOOKS
from lib.config import ROOT
from lib.store import Store
from lib.whole_files import (
    fingerprint,
    folders_looked_at_once,
    read_json,
    read_record,
    write_json,
    write_record,
)


def execute(store: Store, notebook: str, parameters: dict[str, Any]) -> str:
    """Run one notebook through papermill and keep its executed copy and HTML page; "" or what went wrong.

    When it succeeds, figures and tables that only an earlier run of it saved are removed.
    """
    import papermill  # late, as the pages below: planning a run should not take seconds
    from papermill.exceptions import PapermillExecutionError

    from lib.explore import notebook_pages

    executed, record_path = store.executed_path(notebook), _record_path(store, notebook)
    executed.parent.mkdir(parents=True, exist_ok=True)
    record_path.touch()
    start_by_disk = record_path.stat().st_mtime  # by the clock of the disk that the figures are on
    record_path.unlink()
    started, problem = time.perf_counter(), ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            papermill.execute_notebook(
                _source(notebook),
                executed,
                parameters=parameters,
                cwd=ROOT / "notebooks",
                kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
                stderr_file=sys.stderr,
                extra_arguments=["--IPKernelApp.log_level=50"],  # its notes on transport are not for users
            )
    except PapermillExecutionError as error:
        problem = f"cell {error.cell_index + 1}: {error.ename}: {error.evalue}\n  executed copy: {executed}"
    notebook_pages.tidy_executed(executed)
    notebook_pages.export_html(executed)
    if not problem:
        saved_figures.remove_stale(store.figures, notebook, store.config.run_name, since=start_by_disk)
        keep_record(store, notebook)
        seconds = seconds_taken(store) | {executed.stem: round(time.perf_counter() - started, 1)}
        write_json(store.notebook_times_path, seconds)
    return problem


def run_elsewhere(store: Store) -> str:
    """Features of the cohorts to replicate in, made with this network by runs of their own; "" or a problem.

    These runs have their own cohort's lock, progress and records, and are resumed like any other.
    """
    if not store.config.replicate_in:
        return ""
    from lib import replicas  # late: it imports torch

    for other in store.config.replicate_in:
        if why := replicas.missing(store, other):
            print(f"features of cohort {other} with this network: {why}", flush=True)
            environment = {name: value for name, value in os.environ.items() if name != cohort_lock.TOKEN}
            command = [sys.executable, str(ROOT / "run_all.py"), *replicas.command(store, other)]
            if code := subprocess.run(command, env=environment, check=False).returncode:
                return f"the run of cohort {other} ended with exit code {code} (its messages are above)"
    return ""


def question(notebook: str) -> str:
    """The question that is a notebook's title."""
    first_cell = json.loads(_source(notebook).read_text(encoding="utf-8"))["cells"][0]
    return "".join(first_cell["source"]).splitlines()[0].removeprefix("# ")


def seconds_taken(store: Store) -> dict[str, float]:
    """Seconds of the last run of each executed copy, by its stem."""
    seconds = read_json(store.notebook_times_path)
    return {name: value for name, value in seconds.items() if isinstance(value, (int, float))}


@folders_looked_at_once()
def why_rerun(store: Store, notebook: str) -> str | None:
    """None when a notebook's artefacts and executed copy are up to date, else the reason in words."""
    for name in store.made_by(notebook):
        why = store.why_stale(name)
        if why:
            return f"{name!r} {why}"
    record_path = _record_path(store, notebook)
    before, now = read_record(record_path), _record(store, notebook)
    if not store.executed_path(notebook).is_file() or not before:
        return "has not run to its end"
    changed = [key for key in now if before.get(key) != now[key]]
    return f"its {' and '.join(changed)} changed" if changed else None


def keep_record(store: Store, notebook: str) -> None:
    """Record what the executed copy of a notebook was made from."""
    write_record(_record_path(store, notebook), _record(store, notebook))


def _record(store: Store, notebook: str) -> dict[str, Any]:
    """What an executed copy depends on: the notebook, the artefacts it reads, the fields it shows."""
    declared, dumped = NOTEBOOKS[notebook], store.config.model_dump(mode="json")
    record: dict[str, Any] = {
        "code": code_versions.of_notebook(_source(notebook), code_versions.SHOWING),
        "source": fingerprint(_source(notebook)),
        "reads": {name: store.fingerprint(name) for name in declared.reads},
        "fields": {field: dumped[field] for field in declared.fields},
    }
    go_files = store.found_go_files() if "go_obo_file" in declared.fields else None
    if go_files and not store.config.synthetic_data:  # Table 6 is made once they exist
        record["go"] = [path.name for path in go_files]
    if "replicate_in" in declared.fields and store.config.replicate_in:
        from lib import replicas  # late: it imports torch, which planning does not need

        others = {name: replicas.store_of(store, name) for name in store.config.replicate_in}
        record["elsewhere"] = {name: other.fingerprint("features_test") for name, other in others.items()}
    if declared.of_networks:
        record["networks"] = {
            name: why or [other.fingerprint(artefact) for artefact in declared.of_networks]
            for name, (other, why) in store.networks(declared.of_networks).items()
        }
    return record


def _record_path(store: Store, notebook: str) -> Path:
    return store.executed_path(notebook).with_suffix(".ipynb.json")


def _source(notebook: str) -> Path:
    return ROOT / "notebooks" / f"{notebook}.ipynb"
