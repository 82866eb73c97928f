"""Run the numbered notebooks headlessly for one cohort: `python run_all.py --help`."""

import argparse
import json
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

# Matplotlib and tqdm are imported in the kernels; these settings reach them by inheritance.
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
# tqdm draws widgets in a kernel, which leave nothing behind in a headless run. It falls back to text where it
# sees a variable of this prefix (tqdm.autonotebook), and that text streams to this terminal.
os.environ.setdefault("SPYDER_TEXT_PROGRESS", "1")

from lib.artefacts import NOTEBOOKS
from lib.config import COHORTS_DIR, ROOT, Config, parse_setting
from lib.network import architectures
from lib.simulated import scorecard
from lib.store import Store
from lib.whole_files import write_json

# Seconds on a 2-core machine for the demo cohort, shown until this cohort has a measured time of its own.
FIRST_GUESS_S = {"00": 120, "01": 60, "02": 240, "03": 20, "04": 40, "05": 30, "06": 60, "07": 30, "08": 30}
FIRST_GUESS_S |= {"09": 20, "10": 120, "11": 60, "12": 30}


class Step(NamedTuple):
    """One notebook for one configuration."""

    notebook: str
    store: Store
    parameters: dict  # the notebook's parameters cell

    @property
    def source(self) -> Path:
        return ROOT / "notebooks" / f"{self.notebook}.ipynb"

    @property
    def label(self) -> str:
        run = f" {self.store.config.run_name}" if NOTEBOOKS[self.notebook].per_network else ""
        return f"{self.notebook}{run}"


class Outcome(NamedTuple):
    """What became of a step."""

    label: str
    state: str  # ran, up to date, failed, not reached
    seconds: float
    detail: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        steps = plan(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.list:
        width = max(len(step.label) for step in steps)
        for step in steps:
            print(f"{step.label:{width}s} {step.store.why_rerun(step.notebook, step.source) or 'up to date'}")
        return 0
    outcomes, code = run(steps, force=options.force)
    _print_table(outcomes)
    if code == 0:
        from lib.explore import report

        own = Config.load(steps[0].parameters["cohort"]).run_name
        tested = {step.store.config.run_name for step in steps if step.notebook == "06_significance"}
        for name, store in {step.store.config.run_name: step.store for step in steps}.items():
            code = max(code, _print_scorecard(store, name in tested & {own}))
        index = report.build(steps[0].store)
        print(f"\nReport: {index}")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    known = ", ".join(sorted(path.stem for path in COHORTS_DIR.glob("*.toml")))
    parser.add_argument("--cohort", default="demo", help=f"a cohort's name ({known}) or a TOML file")
    parser.add_argument(
        "--architectures", default="", help="comma-separated, or all; default: the cohort's own"
    )
    parser.add_argument(
        "--null-networks",
        default="",
        metavar="KINDS",
        help="after each network its null networks: untrained, shuffled, or both with a comma",
    )
    parser.add_argument("--from", dest="first", default="", metavar="NN", help="start at this notebook")
    parser.add_argument("--to", dest="last", default="", metavar="NN", help="stop after this notebook")
    parser.add_argument("--only", default="", metavar="NN", help="run this notebook alone")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="parameters"
    )
    parser.add_argument("--force", action="store_true", help="do again what is up to date")
    parser.add_argument("--list", action="store_true", help="say what would run and why, and stop")
    return parser


def plan(options: argparse.Namespace) -> list[Step]:
    """The steps to take, every configuration validated before any kernel starts.

    What belongs to the cohort and comes before the networks runs once, first; what compares the networks
    runs once, when all of them are done.
    """
    overrides = dict(parse_setting(text) for text in options.set)
    cohort = str(Path(options.cohort).resolve()) if options.cohort.endswith(".toml") else options.cohort
    networks: list[tuple[Store, dict]] = []
    config = Config.load(cohort, overrides=overrides)
    for name in _architectures(options, config):
        for null_network in _null_networks(options, overrides):
            settings = overrides | null_network
            store = Store(Config.load(cohort, name, settings))
            if store.config.weights_file and not store.is_current("network"):
                _ = store.weights  # FileNotFoundError now rather than in notebook 02
            networks.append((store, {"cohort": cohort, "architecture": name, "overrides": settings}))
    chosen = _choose(options, Store(config))
    if config.features_file and len(networks) > 1:
        raise ValueError(
            f"{config.cohort} has the features of one network (features_file): ask for no others"
        )
    first = next(name for name, notebook in NOTEBOOKS.items() if notebook.per_network)
    of_cohort = [name for name in chosen if not NOTEBOOKS[name].per_network]
    of_network = [name for name in chosen if NOTEBOOKS[name].per_network]
    steps = [Step(name, *networks[0]) for name in of_cohort if name < first]
    steps += [Step(name, *network) for network in networks for name in of_network]
    return steps + [Step(name, *networks[0]) for name in of_cohort if name > first]


def _architectures(options: argparse.Namespace, config: Config) -> list[str]:
    """The networks asked for, each known and taking the cohort's input; ValueError otherwise."""
    if options.architectures == "all":
        names = list(architectures.ARCHITECTURES)
    else:
        names = [name.strip() for name in options.architectures.split(",") if name.strip()]
    for name in names or [config.architecture]:
        if name.startswith(("timm:", "torchvision:")):
            from lib.network import models  # takes seconds, and only these need it

            models.check_input_px(name, config.input_px, config.null_network != "untrained")
        else:
            architectures.check_name(name)
            architectures.check_px(name, config.input_px, architectures.MINIMUM_PX[name])
    return list(dict.fromkeys(names)) or [config.architecture]


def _null_networks(options: argparse.Namespace, overrides: dict) -> list[dict]:
    """Settings of each network wanted of an architecture: as it is, then its null networks."""
    kinds = list(dict.fromkeys(kind.strip() for kind in options.null_networks.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in ("untrained", "shuffled")]
    if unknown:
        raise ValueError(f"--null-networks takes untrained and shuffled, not {unknown[0]!r}")
    if kinds and "null_network" in overrides:
        raise ValueError("--null-networks and --set null_network say the same thing twice: give one of them")
    return [{}, *({"null_network": kind} for kind in kinds)]


def _choose(options: argparse.Namespace, store: Store) -> list[str]:
    known = store.notebooks
    for text in (options.first, options.last, options.only):
        if text and not any(name.startswith(text) for name in known):
            why = " (features_file stands for slides)" if store.config.features_file else ""
            raise ValueError(f"no notebook starts with {text!r}: {', '.join(known)}{why}")
    if options.only:
        return [name for name in known if name.startswith(options.only)]
    first = next((name for name in known if name.startswith(options.first)), "")
    last = next((name for name in reversed(known) if name.startswith(options.last)), "")
    if first > last:
        raise ValueError(f"--from {options.first} comes after --to {options.last}: nothing would run")
    return [name for name in known if first <= name <= last]


def run(steps: list[Step], force: bool = False) -> tuple[list[Outcome], int]:
    """Take the steps in order; the outcomes and the exit code.

    A failure ends the run of its network and of what depends on all (the cohort's notebooks); other networks
    are still taken, and those that got to their end are compared. An interruption ends everything.
    """
    outcomes: list[Outcome] = []
    failed: set[str] = set()  # run names of networks that failed
    cohort_failed, code = False, 0
    names = {step.store.config.run_name for step in steps if NOTEBOOKS[step.notebook].per_network}
    for number, step in enumerate(steps, 1):
        name = step.store.config.run_name if NOTEBOOKS[step.notebook].per_network else ""
        if cohort_failed or name in failed or (not name and failed and failed >= names):
            outcomes.append(Outcome(step.label, "not reached", 0.0))
            continue
        why = "forced" if force else step.store.why_rerun(step.notebook, step.source)
        if why is None:
            outcomes.append(Outcome(step.label, "up to date", 0.0))
            continue
        print(f"[{number}/{len(steps)}] {step.label}: {why}; about {_spoken(_estimate(step))}", flush=True)
        if force:
            step.store.forget(step.notebook)
        started = time.perf_counter()
        try:
            problem = _missing_slides(step.store) if step.notebook == "01_tiles" else ""
            problem = problem or execute(step)
        except KeyboardInterrupt:
            problem = "interrupted; run the same command again to go on from here"
        seconds = time.perf_counter() - started
        outcomes.append(Outcome(step.label, "failed" if problem else "ran", seconds, problem))
        if problem.startswith("interrupted"):
            outcomes += [Outcome(rest.label, "not reached", 0.0) for rest in steps[number:]]
            return outcomes, 130
        if problem:
            code = 1
            failed.add(name) if name else None
            cohort_failed = not name
            if name and len(names) > 1:
                print(f"{step.label} failed: the rest of {name} is left out, the others go on", flush=True)
    return outcomes, code


def _missing_slides(store: Store) -> str:
    """Why notebook 01 cannot start for want of slides, with what fetches them; "" when it can."""
    from lib.cohort import summary

    if not store.is_current("samples") or (store.is_current("tiles") and store.is_current("slides")):
        return ""  # the notebook says so itself; or the slides have been cut already
    samples_df = store.load("samples")
    missing, n_slides = store.missing_slides(samples_df), samples_df["slide_id"].nunique()
    *others_df, strangers = summary.slide_files(store.slide_paths(samples_df)).iloc[2:].itertuples()
    for row in others_df:
        print(f"{row.what}: {row.n} ({row.examples})")
    if strangers.n:
        print(f"{strangers.n} slide files belong to no sample and are not used: {strangers.examples}")
    if not missing:
        return ""
    text = f"{len(missing):,} of {n_slides:,} slides have no file, first {store.slide_path(missing[0])}"
    if store.config.missing_slides == "go_on" and len(missing) < n_slides:
        print(f"{text}; they are left out")
        return ""
    if store.config.source == "gtex":
        from lib import gtex

        text += "\n  " + gtex.how_to_fetch(store.raw, store.raw_path("slides_dir"), len(missing))
    if len(missing) < n_slides:
        text += "\n  to go on with the slides that are here: --set missing_slides=go_on"
    return text


def execute(step: Step) -> str:
    """Run one notebook through papermill and keep its executed copy and HTML page; "" or what went wrong.

    Figures and tables that an earlier run of it left, and this one has not saved again, are removed.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from lib.explore import notebook_pages, report

    executed = step.store.executed_path(step.notebook)
    record_path = executed.with_suffix(".ipynb.json")
    executed.parent.mkdir(parents=True, exist_ok=True)
    record_path.touch()
    begun = record_path.stat().st_mtime  # by the clock of the disk that the figures are on
    record_path.unlink()
    started = time.perf_counter()
    problem = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            papermill.execute_notebook(
                step.source,
                executed,
                parameters=step.parameters,
                cwd=ROOT / "notebooks",
                kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
                stderr_file=sys.stderr,
                extra_arguments=["--IPKernelApp.log_level=50"],  # its notes on transport are not for users
            )
    except PapermillExecutionError as error:
        text = f"{error.ename}: {error.evalue}"
        problem = f"cell {error.cell_index + 1}: {text}\n  executed copy: {executed}"
    notebook_pages.tidy_executed(executed)
    notebook_pages.export_html(executed)
    if not problem:
        report.forget_unwritten(step.store, step.notebook, begun)
        write_json(record_path, step.store.notebook_record(step.notebook, step.source))
        times = _times(step.store) | {step.label: round(time.perf_counter() - started, 1)}
        write_json(step.store.notebook_times_path, times)
    return problem


def _times(store: Store) -> dict[str, float]:
    path = store.notebook_times_path
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _estimate(step: Step) -> float:
    """Seconds the notebook took last time here, or on the demo cohort."""
    return _times(step.store).get(step.label) or FIRST_GUESS_S.get(step.notebook[:2], 60)


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _print_table(outcomes: list[Outcome]) -> None:
    width = max(len(outcome.label) for outcome in outcomes)
    print(f"\n{'notebook':{width}s}  {'state':11s}  seconds")
    for outcome in outcomes:
        print(f"{outcome.label:{width}s}  {outcome.state:11s}  {outcome.seconds:7.1f}")
    for outcome in outcomes:
        if outcome.detail:
            detail = re.sub(r"\x1b\[[0-9;]*m", "", outcome.detail)
            print(f"\n{outcome.label} failed in {detail}", file=sys.stderr)


def _print_scorecard(store: Store, own: bool) -> int:
    """Print a drawn cohort's scorecard; 1 where it misses what the cohort asks for, else 0.

    It asks of its own network only, not of others that a person compares with it.
    """
    config = store.config
    card_df = store.saved_table("scorecard") if config.synthetic_data else None
    if card_df is None:
        return 0
    print(f"\nAgainst the planted truth, {config.run_name}:")
    for measure, row in card_df.iterrows():
        print(f"  {measure:45s} {row['value']:6.1%}  ({row['detail']})")
    if not own:
        return 0
    missed = scorecard.missed(card_df, config.least_precision, config.least_recall)
    for sentence in missed:
        print(f"missed: {sentence}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
