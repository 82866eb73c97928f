"""The driver's plan and its failures, without kernels: order of notebooks over several networks."""

import subprocess
import sys

import pytest

import run_all
from lib.config import ROOT
from lib.explore import notebook_runs


def planned(*arguments):
    return run_all.plan(run_all._parser().parse_args(["--cohort", "demo", *arguments]))


def labels(*arguments):
    return [step.label for step in planned(*arguments)]


def test_cohort_first_networks_in_turn_comparison_last():
    found = labels("--architectures", "alexnet,vgg11")
    assert found[:2] == ["00_cohort", "01_tiles"]
    for name in ("00_cohort", "01_tiles", "09_architectures"):
        assert found.count(name) == 1
    assert found.index("08_reproducibility alexnet") < found.index("02_train vgg11")
    assert found.index("09_architectures") > found.index("08_reproducibility vgg11")


def test_from_and_to():
    assert labels("--from", "03", "--to", "04") == ["03_classify alexnet", "04_features alexnet"]
    assert labels("--to", "01") == ["00_cohort", "01_tiles"]
    with pytest.raises(ValueError, match="no notebook starts with 'x9'"):
        labels("--to", "x9")


def test_null_networks_follow_their_network():
    steps = planned(
        "--architectures", "alexnet,vgg11", "--null-networks", "untrained,shuffled", "--only", "02"
    )
    assert [step.label.split()[1] for step in steps] == [
        *("alexnet", "alexnet__untrained", "alexnet__shuffled"),
        *("vgg11", "vgg11__untrained", "vgg11__shuffled"),
    ]
    assert steps[1].parameters["overrides"] == {"null_network": "untrained"}
    assert steps[1].store.config.null_network == "untrained"


def test_all_are_the_thirteen_once_their_input_is_large_enough():
    assert len(labels("--architectures", "all", "--only", "02")) == 13
    with pytest.raises(ValueError, match="input of 64 px is too small for inception_v3: its minimum is 75"):
        labels("--architectures", "all", "--set", "input_px=64")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--architectures", "vgg61"], "nearest: vgg19, vgg16"),
        (["--architectures", "timm:vit_tiny_patch16_42"], "timm:vit_tiny_patch16_224"),
        (["--null-networks", "random"], "untrained and shuffled, not 'random'"),
        (["--null-networks", "untrained", "--set", "null_network=shuffled"], "contradict"),
        (["--from", "42"], "no notebook starts with '42'"),
        (["--to", "42"], "no notebook starts with '42'"),
        (["--from", "05", "--to", "04"], "05 comes after --to 04"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(arguments, words):
    with pytest.raises(ValueError, match=words):
        planned(*arguments)


def test_other_encoders_are_known_by_name():
    steps = planned("--architectures", "timm:vit_tiny_patch16_224", "--only", "02")
    assert [step.label for step in steps] == ["02_train timm_vit_tiny_patch16_224"]


def test_an_encoder_that_cannot_train_at_this_input_is_refused_unless_it_is_not_trained():
    arguments = ("--architectures", "torchvision:inception_v3", "--only", "02")
    with pytest.raises(ValueError, match="no input of 128 px in training"):
        labels(*arguments)
    assert labels(*arguments, "--set", "null_network=untrained")


def test_weights_that_are_not_there_are_refused_before_anything_runs():
    with pytest.raises(FileNotFoundError, match=r"weights = 'runs/none.pt': there is no checkpoint at"):
        labels("--set", "weights=runs/none.pt")


def test_missing_input_files_are_named_with_the_command_that_makes_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"samples.csv is missing: make it with python -m lib\.simulated"
    ):
        labels("--cohort", "gtex-rehearsal")


def test_from_and_to_bound_the_run():
    assert labels("--from", "03", "--to", "04") == ["03_classify alexnet", "04_features alexnet"]
    assert labels("--architectures", "alexnet,vgg11", "--from", "08", "--to", "09") == [
        *("08_reproducibility alexnet", "08_reproducibility vgg11", "09_architectures")
    ]


def test_one_name_twice_runs_once():
    assert labels("--architectures", "alexnet,alexnet", "--only", "02") == ["02_train alexnet"]


def test_planning_needs_no_torch():
    code = "import sys, run_all; run_all.main(['--list', '--architectures', 'all']); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """run() over two networks with `execute` replaced: fails on the labels given, runs nothing else."""
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))

    def outcomes(*failures, exception=None):
        def execute(store, notebook, parameters):
            fails = run_all.Step(store, notebook, parameters).label in failures
            if fails and exception:
                raise exception
            return "cell 5: RuntimeError: broken" if fails else ""

        monkeypatch.setattr(notebook_runs, "execute", execute)
        done, code = run_all.run(planned("--architectures", "alexnet,vgg11"))
        return {outcome.label: outcome.state for outcome in done}, code

    return outcomes


def test_a_failing_network_does_not_take_the_others_along(failing):
    states, code = failing("04_features alexnet")
    assert code == 1
    assert states["03_classify alexnet"] == "ran"
    assert states["04_features alexnet"] == "failed"
    assert states["05_correlate alexnet"] == "not reached"
    assert states["08_reproducibility vgg11"] == "ran"
    assert states["09_architectures"] == "ran"


def test_nothing_is_compared_when_every_network_failed(failing):
    states, code = failing("02_train alexnet", "03_classify vgg11")
    assert code == 1
    assert states["09_architectures"] == "not reached"


def test_a_failing_cohort_notebook_ends_the_run(failing):
    states, code = failing("01_tiles")
    assert code == 1
    assert states["00_cohort"] == "ran"
    assert {state for label, state in states.items() if label > "01_tiles"} == {"not reached"}


def test_an_interruption_ends_the_run(failing):
    states, code = failing("04_features alexnet", exception=KeyboardInterrupt())
    assert code == 130
    assert states["02_train vgg11"] == "not reached"
    assert states["09_architectures"] == "not reached"
