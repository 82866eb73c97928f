"""Run the numbered notebooks headlessly for one cohort: `python run_all.py --help`."""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

# Matplotlib and tqdm are imported in the kernels, which inherit these settings.
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
# In a kernel tqdm draws widgets, which leave nothing behind in a headless run. With a variable of this prefix
# it falls back to text (tqdm.autonotebook), and that text streams to this terminal.
os.environ.setdefault("SPYDER_TEXT_PROGRESS", "1")

from lib import code_versions, cohort_lock
from lib.artefacts import NOTEBOOKS
from lib.config import COHORTS_DIR, ROOT, Config
from lib.config_values import parse_setting
from lib.errors import BusyError, HistocorrError, InputError
from lib.explore import notebook_runs
from lib.network import architectures
from lib.store import Store
from lib.whole_files import folders_looked_at_once

# Seconds on a 2-core machine for the demo cohort, shown until this cohort has a measured time of its own.
FIRST_GUESS_S = {"00": 120, "01": 60, "02": 240, "03": 20, "04": 40, "05": 30, "06": 60, "07": 30, "08": 30}
FIRST_GUESS_S |= {"09": 20, "10": 120, "11": 60, "12": 30}
INTERRUPTED = "interrupted; run the same command again to continue"
SHOWN_SLIDES = 20  # failed ones, at the end of a run


class Step(NamedTuple):
    """One notebook for one configuration."""

    store: Store
    notebook: str
    parameters: dict  # the notebook's parameters cell

    @property
    def network(self) -> str:
        """Run name of the step's network; "" for a notebook of the whole cohort."""
        return self.store.config.run_name if NOTEBOOKS[self.notebook].per_network else ""

    @property
    def label(self) -> str:
        return f"{self.notebook} {self.network}".rstrip()


class Outcome(NamedTuple):
    """How a step ended."""

    label: str
    state: str  # ran, up to date, left out, failed, not reached
    seconds: float = 0.0
    problem: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        steps = plan(options)
        if options.list:
            _print_plan(steps)
            return 0
        if options.check:
            return _check(steps)
    except BrokenPipeError:  # whoever reads the list has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (HistocorrError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    store = steps[0].store
    try:
        with cohort_lock.holding(store.derived, "run_all.py", wait_s=-1 if options.wait else 1):
            os.environ.update(cohort_lock.for_children(store.derived))  # the kernels work under this lock
            if options.accept_code:
                n_records = code_versions.restamp(store.derived, ROOT / "notebooks")
                n_records += code_versions.restamp(store.figures, ROOT / "notebooks")
                print(f"{n_records} records now say that the code of today made them")
            outcomes, code = run(steps, force=options.force)
            _print_table(outcomes)
            _print_failed_slides(store)
            if code == 0:
                from lib.explore import report

                code = _print_scorecards(steps)
                print(f"\nReport: {report.build(store)}")
    except (HistocorrError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, BusyError) else 2
    except KeyboardInterrupt:  # between two notebooks
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    known = ", ".join(sorted(path.stem for path in COHORTS_DIR.glob("*.toml")))
    add = parser.add_argument
    add("--cohort", default="demo", help=f"name of a cohort ({known}) or a TOML file")
    add("--architectures", default="", help="comma-separated, or all; default: the cohort's own")
    kinds = "run the null networks of each network after it: untrained, shuffled, or both with a comma"
    add("--null-networks", default="", metavar="KINDS", help=kinds)
    add("--from", dest="first", default="", metavar="NN", help="start at this notebook")
    add("--to", dest="last", default="", metavar="NN", help="stop after this notebook")
    add("--only", default="", metavar="NN", help="run this notebook alone")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change parameters")
    elsewhere = "another cohort (name or TOML file) in which to look for the links found here; repeatable"
    add("--replicate", action="append", default=[], metavar="COHORT", help=elsewhere)
    add("--check", action="store_true", help="look for all that a run would refuse, without running anything")
    add("--force", action="store_true", help="rerun what is up to date")
    add("--wait", action="store_true", help="wait while another run works on the cohort")
    accept = "declare what is there to be made by the code of today: after a change that alters no result"
    add("--accept-code", action="store_true", help=accept)
    add("--list", action="store_true", help="list the notebooks, which would run and why, and stop")
    return parser


def plan(options: argparse.Namespace) -> list[Step]:
    """The steps to take, every configuration validated before any kernel starts.

    Notebooks of the cohort that come before the networks run once, first; those that compare the networks run
    once, after all of them.
    """
    overrides = dict(parse_setting(text) for text in options.set)
    if options.replicate:
        overrides["replicate_in"] = [_cohort(name) for name in options.replicate]
    cohort = _cohort(options.cohort)
    config = Config.load(cohort, overrides=overrides)
    networks: list[tuple[Store, dict]] = []
    for name in _architectures(options, config):
        for null_network in _null_networks(options, overrides):
            settings = overrides | null_network
            store = Store(Config.load(cohort, name, settings))
            if store.config.weights and not options.list and not store.is_current("network"):
                _ = store.weights  # missing, or out of reach: said here rather than in notebook 02
            if store.config.replicate_in:
                from lib import replicas  # it imports torch, and only this needs it

                for other in store.config.replicate_in:
                    _ = replicas.store_of(store, other)  # raises where it cannot serve
            networks.append((store, {"cohort": cohort, "architecture": name, "overrides": settings}))
    chosen = _choose(options, Store(config))
    if "00_cohort" in chosen and config.source == "files" and not Store(config).is_current("samples"):
        Store(config).require_inputs()
    if config.features_file and len(networks) > 1:
        raise InputError(
            f"{config.cohort} has features of one network only (features_file): ask for no other networks"
        )
    first = next(name for name, notebook in NOTEBOOKS.items() if notebook.per_network)
    of_cohort = [name for name in chosen if not NOTEBOOKS[name].per_network]
    of_network = [name for name in chosen if NOTEBOOKS[name].per_network]
    order = [(networks[0], name) for name in of_cohort if name < first]
    order += [(network, name) for network in networks for name in of_network]
    order += [(networks[0], name) for name in of_cohort if name > first]
    return [Step(store, name, parameters) for (store, parameters), name in order]


def _cohort(name: str) -> str:
    """A cohort's name, or the whole path of its file, which the kernels find from any folder."""
    return str(Path(name).resolve()) if name.endswith(".toml") else name


def _architectures(options: argparse.Namespace, config: Config) -> list[str]:
    """The architectures asked for, each known and fit for the cohort's input; ValueError otherwise."""
    if options.architectures == "all":
        names = list(architectures.ARCHITECTURES)
    else:
        names = _listed(options.architectures)
    for name in names or [config.architecture]:
        if name.startswith(("timm:", "torchvision:", "encoder:")):
            from lib.network import models  # takes seconds, and only these need it

            models.check_input_px(name, config.input_px, config.null_network != "untrained")
        else:
            architectures.check_name(name)
            architectures.check_px(name, config.input_px, architectures.MINIMUM_PX[name])
    return names or [config.architecture]


def _listed(text: str) -> list[str]:
    """Names separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _null_networks(options: argparse.Namespace, overrides: dict) -> list[dict]:
    """Settings of each network wanted of an architecture: the network itself, then its null networks."""
    kinds = _listed(options.null_networks)
    unknown = [kind for kind in kinds if kind not in ("untrained", "shuffled")]
    if unknown:
        raise InputError(f"--null-networks takes untrained and shuffled, not {unknown[0]!r}")
    if kinds and "null_network" in overrides:
        raise InputError("--null-networks and --set null_network contradict each other: give one of them")
    return [{}, *({"null_network": kind} for kind in kinds)]


def _choose(options: argparse.Namespace, store: Store) -> list[str]:
    """The notebooks between --from and --to, or the one of --only."""
    known = store.notebooks
    for text in (options.first, options.last, options.only):
        if text and not any(name.startswith(text) for name in known):
            why = " (features_file takes the place of slides)" if store.config.features_file else ""
            why = " (without an expression_file)" if store.config.slides_only else why
            raise InputError(f"no notebook starts with {text!r}: {', '.join(known)}{why}")
    if options.only:
        return [name for name in known if name.startswith(options.only)]
    first = next((name for name in known if name.startswith(options.first)), "")
    last = next((name for name in reversed(known) if name.startswith(options.last)), "")
    if first > last:
        raise InputError(f"--from {options.first} comes after --to {options.last}: nothing would run")
    return [name for name in known if first <= name <= last]


def run(steps: list[Step], force: bool = False) -> tuple[list[Outcome], int]:
    """Take the steps in order; the outcomes and the exit code.

    A failure ends the run of its network, and a failure in a notebook of the cohort ends the whole run. Other
    networks still run, and those that finish are compared. An interruption ends everything.
    """
    outcomes: list[Outcome] = []
    failed: set[str] = set()  # networks; "" is the cohort
    networks = {step.network for step in steps} - {""}
    for number, step in enumerate(steps, 1):
        nothing_to_compare = not step.network and bool(networks) and failed >= networks
        if "" in failed or step.network in failed or nothing_to_compare:
            outcomes.append(Outcome(step.label, "not reached"))
            continue
        if reason := step.store.left_out(step.notebook):
            outcomes.append(Outcome(step.label, "left out"))
            print(f"[{number}/{len(steps)}] {step.label}: left out ({reason})", flush=True)
            continue
        why = "forced" if force else notebook_runs.why_rerun(step.store, step.notebook)
        if why is None:
            outcomes.append(Outcome(step.label, "up to date"))
            continue
        print(f"[{number}/{len(steps)}] {step.label}: {why}; about {_duration(_estimate(step))}", flush=True)
        if force:
            step.store.forget(step.notebook)
        started = time.perf_counter()
        try:
            problem = _before(step) or notebook_runs.execute(*step)
        except (HistocorrError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        except KeyboardInterrupt:
            problem = INTERRUPTED
        state, seconds = "failed" if problem else "ran", time.perf_counter() - started
        outcomes.append(Outcome(step.label, state, seconds, problem))
        if problem.startswith("interrupted"):
            return outcomes + [Outcome(rest.label, "not reached") for rest in steps[number:]], 130
        if problem:
            failed.add(step.network)
            if step.network and len(networks) > 1:
                print(f"{step.label} failed: skipping the rest of this network, not the others", flush=True)
    return outcomes, 1 if failed else 0


def _before(step: Step) -> str:
    """What a notebook needs from outside its folders, looked for or made; "" or why it cannot start."""
    if step.notebook == "01_tiles":
        from lib import preflight  # takes a second, and most runs do not need it

        return preflight.missing_slides(step.store)
    return notebook_runs.run_elsewhere(step.store) if step.notebook == "08_reproducibility" else ""


def _estimate(step: Step) -> float:
    """Seconds the notebook took last time here, or on the demo cohort."""
    measured = notebook_runs.seconds_taken(step.store).get(step.store.executed_path(step.notebook).stem)
    return measured or FIRST_GUESS_S.get(step.notebook[:2], 60)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@folders_looked_at_once()
def _print_plan(steps: list[Step]) -> None:
    width = max(len(step.label) for step in steps)
    for step in steps:
        left_out = step.store.left_out(step.notebook)
        why = f"left out: {left_out}" if left_out else notebook_runs.why_rerun(step.store, step.notebook)
        print(f"{step.label:{width}s} {why or 'up to date'}")


def _check(steps: list[Step]) -> int:
    """Print what the run of each network would meet; 1 where something would stop it."""
    from lib import preflight

    stores = {step.store.config.run_name: step.store for step in steps}
    return max(preflight.print_report(store) for store in stores.values())


def _print_table(outcomes: list[Outcome]) -> None:
    width = max(len(outcome.label) for outcome in outcomes)
    print(f"\n{'notebook':{width}s}  {'state':11s}  seconds")
    for outcome in outcomes:
        print(f"{outcome.label:{width}s}  {outcome.state:11s}  {outcome.seconds:7.1f}")
    for outcome in outcomes:
        if outcome.problem:
            problem = re.sub(r"\x1b\[[0-9;]*m", "", outcome.problem)
            print(f"\n{outcome.label} failed in {problem}", file=sys.stderr)


def _print_failed_slides(store: Store) -> None:
    """The slides that gave no tiles, each with its whole reason; none of them is used."""
    if store.config.features_file or not store.is_current("slides"):
        return
    slides_df = store.load("slides")
    failed_df = slides_df[slides_df["state"] == "failed"]
    if len(failed_df):
        print(f"\n{len(failed_df)} of {len(slides_df)} slides could not be cut and are not used:")
        for row in failed_df.head(SHOWN_SLIDES).itertuples():
            print(f"  {row.slide_id}: {row.reason}")
        if len(failed_df) > SHOWN_SLIDES:
            print(f"  and {len(failed_df) - SHOWN_SLIDES} more: {store.figures / 'slides_failed.csv'}")


def _print_scorecards(steps: list[Step]) -> int:
    """Print each network's scorecard of a simulated cohort; 1 where one misses the cohort's targets, else 0.

    The targets apply to the cohort's own network, and only when its notebook 06 was part of the run.
    """
    from lib.simulated import scorecard  # imports torch, which planning does not need

    own = Config.load(steps[0].parameters["cohort"]).run_name
    tested = {step.network for step in steps if step.notebook == "06_significance"}
    code = 0
    for name, store in {step.store.config.run_name: step.store for step in steps}.items():
        config = store.config
        card_df = store.saved_table("scorecard") if config.synthetic_data else None
        if card_df is None:
            continue
        print(f"\nScorecard against the planted truth, {name}:")
        for measure, row in card_df.iterrows():
            print(f"  {measure:45s} {row['value']:6.1%}  ({row['detail']})")
        if name == own and name in tested:
            missed = scorecard.missed(card_df, config.least_precision, config.least_recall)
            for sentence in missed:
                print(f"target missed: {sentence}", file=sys.stderr)
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
