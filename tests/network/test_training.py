"""The fit loop: against SGD written out, against itself interrupted and divided, and what can go wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torchvision.models.inception import InceptionOutputs
from tqdm.auto import tqdm
from training_factory import CLASSES, fit, same_weights, small_model, textured_tiles

from lib import train, work_records
from lib.config import ROOT, Config
from lib.network import batches, checkpoints, devices, models, training, training_step
from lib.network.recipe import Recipe
from lib.store import Store
from lib.tiles import stored


@pytest.fixture
def splits(tmp_path):
    return textured_tiles(tmp_path)


@pytest.fixture
def one_thread():
    """As many threads as SCRIPT uses: another number sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stored_images(tiles_df):
    images_t = torch.from_numpy(stored.read_tiles(tiles_df)).permute(0, 3, 1, 2).double() / 255
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images_t = (images_t - mean.double().view(3, 1, 1)) / sd.double().view(3, 1, 1)
    return images_t, torch.tensor(tiles_df["label"].to_numpy())


@pytest.mark.parametrize("class_weighting", [False, True])
def test_fit_equals_sgd_written_out(splits, tmp_path, class_weighting):
    train_df = splits[0].iloc[:-5]  # uneven classes
    model, plain = small_model(), small_model().double()
    history_df = fit(
        model, (train_df, splits[1]), tmp_path / "run", lr_step_epochs=2, class_weighting=class_weighting
    )
    images_t, labels_t = stored_images(train_df)
    n_of_class = np.bincount(labels_t)
    weight_t = torch.tensor(len(labels_t) / (3 * n_of_class)) if class_weighting else torch.ones(3).double()
    velocity = [torch.zeros_like(parameter) for parameter in plain.parameters()]
    order = batches.EpochOrder(len(train_df), 9, shuffle=True, seed=0)
    losses, n_correct = [], 0
    for epoch, lr in ((1, 0.05), (2, 0.05), (3, 0.005)):
        order.epoch, losses, n_correct = epoch, [], 0
        for rows in order:
            log_p = torch.log_softmax(plain(images_t[rows]), dim=1)
            chosen = log_p[torch.arange(len(rows)), labels_t[rows]]
            tile_losses = -(chosen * weight_t[labels_t[rows]])
            plain.zero_grad()
            tile_losses.mean().backward()
            losses += tile_losses.tolist()
            n_correct += int((log_p.argmax(1) == labels_t[rows]).sum())
            with torch.no_grad():
                for parameter, v in zip(plain.parameters(), velocity, strict=True):
                    v.mul_(0.9).add_(parameter.grad + 1e-4 * parameter)
                    parameter.sub_(lr * v)
    for parameter, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted.float(), rtol=1e-4, atol=1e-5)
    assert history_df["lr"].tolist() == pytest.approx([0.05, 0.05, 0.005])
    last = history_df.iloc[-1]
    assert last["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert last["train_accuracy"] == pytest.approx(n_correct / len(train_df))
    images_t, labels_t = stored_images(splits[1])
    logits_t = plain(images_t)
    loss = nn.functional.cross_entropy(logits_t, labels_t).item()
    assert last["validation_loss"] == pytest.approx(loss, rel=1e-4)
    right_t = logits_t.argmax(1) == labels_t
    assert last["validation_accuracy"] == pytest.approx(right_t.double().mean().item())


def test_textures_are_learned_and_the_best_epoch_is_kept(splits, tmp_path):
    history_df = fit(small_model(), splits, tmp_path / "run", epochs=12)
    accuracy = history_df["validation_accuracy"]
    assert accuracy.max() >= 0.9
    assert history_df["epoch"].tolist() == list(range(1, 13))
    assert (history_df[["tiles_per_s", "seconds"]] > 0).all(axis=None)
    assert set(history_df) == {
        *("epoch", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
        *("tiles_per_s", "seconds"),
    }
    best = torch.load(tmp_path / "run/best.pt", weights_only=True)
    assert best["epoch"] == 1 + int(np.argmax(accuracy))  # the first of equals
    assert best["class_names"] == CLASSES
    assert best["input_px"] == 12
    model = small_model(seed=9)
    model.load_state_dict(best["state_dict"])
    images_t, labels_t = stored_images(splits[1])
    found = (model.eval()(images_t.float()).argmax(1) == labels_t).double().mean().item()
    assert found == pytest.approx(accuracy.max())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"best.pt", "last.pt", "last.pt.json"}


def test_permuted_labels_are_not_learned(tmp_path):
    train_df, validation_df = textured_tiles(tmp_path, n_samples=18)
    null_df = train_df.assign(label=np.random.default_rng(0).permutation(train_df["label"]))
    history_df = fit(small_model(), (null_df, validation_df), tmp_path / "run", epochs=6)
    assert history_df["validation_accuracy"].iloc[-1] < 0.7


def test_ties_keep_the_earlier_epoch(tmp_path):
    model = small_model()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    made_for = dict.fromkeys(("architecture", "weights", "class_names", "input_px", "mean", "sd"), "any")
    history = []
    for epoch, accuracy in enumerate((0.2, 0.7, 0.7, 0.5), start=1):
        history.append({"epoch": epoch, "validation_accuracy": accuracy})
        assert checkpoints.Keeper(tmp_path, made_for).keep(model, optimiser, history)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == 2
    assert len(torch.load(tmp_path / "last.pt", weights_only=True)["history"]) == 4


def test_checkpoints_take_little_of_the_time(tmp_path, monkeypatch):
    """Between two of them nothing is written, and the best epoch since is in the next one."""
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    save = checkpoints._save
    monkeypatch.setattr(checkpoints, "_save", lambda *of: (clock.__setitem__(0, clock[0] + 1.0), save(*of)))
    model = small_model()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    made_for = dict.fromkeys(("architecture", "weights", "class_names", "input_px", "mean", "sd"), "any")
    keeper, history, written = checkpoints.Keeper(tmp_path, made_for), [], []
    weights = next(model.parameters())
    for epoch, accuracy in enumerate((0.2, 0.9, 0.5, 0.5, 0.5, 0.5, 0.6), start=1):
        clock[0] += 10.0
        with torch.no_grad():
            weights.fill_(epoch)
        history.append({"epoch": epoch, "validation_accuracy": accuracy})
        written.append(keeper.keep(model, optimiser, history, final=epoch == 7))
        if epoch == 4:
            assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == 1
    # The first took 2 s, so the next came after 40 s; the last one is always written.
    assert written == [True, False, False, False, True, False, True]
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["epoch"] == 2
    assert next(iter(best["state_dict"].values())).unique().tolist() == [2.0], "as it was in that epoch"
    assert len(torch.load(tmp_path / "last.pt", weights_only=True)["history"]) == 7


class Interrupted(nn.Module):
    """A model that stops with an error at its n-th training step."""

    def __init__(self, model, stop_at, error):
        super().__init__()
        self.inner, self.stop_at, self.error, self.n_steps = model, stop_at, error, 0

    def state_dict(self, *args, **kwargs):
        return self.inner.state_dict(*args, **kwargs)

    def load_state_dict(self, state, **kwargs):
        return self.inner.load_state_dict(state, **kwargs)

    def forward(self, images_t):
        self.n_steps += self.training
        if self.training and self.n_steps == self.stop_at:
            raise self.error
        return self.inner(images_t)


@pytest.mark.parametrize("stop_at", [2, 9, 16])  # in epochs 1, 2 and 3 of 6 steps each
def test_an_interrupted_run_ends_with_the_same_weights(splits, tmp_path, stop_at):
    settings = {"augment": ("flip", "rotate90"), "stain_jitter": 0.2, "epochs": 4}
    whole = small_model(dropout=0.5, norm=True)
    whole_df = fit(whole, splits, tmp_path / "whole", **settings)
    stopped = Interrupted(small_model(dropout=0.5, norm=True), stop_at, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, splits, tmp_path / "parts", **settings)
    torch.rand(100)  # whatever else drew from the generator meanwhile
    continued = small_model(dropout=0.5, norm=True, seed=5)
    assert not same_weights(whole, continued)
    if stop_at < 6:
        continued = small_model(dropout=0.5, norm=True)  # no epoch was finished: the caller seeds the weights
    continued_df = fit(continued, splits, tmp_path / "parts", **settings)
    assert same_weights(whole, continued)
    timeless = [name for name in whole_df if name not in ("tiles_per_s", "seconds")]
    pd.testing.assert_frame_equal(whole_df[timeless], continued_df[timeless], check_exact=True)
    bests = [torch.load(tmp_path / run / "best.pt", weights_only=True) for run in ("whole", "parts")]
    assert bests[0]["epoch"] == bests[1]["epoch"]
    assert same_weights(bests[0]["state_dict"], bests[1]["state_dict"])


SCRIPT = """
import sys, time
from pathlib import Path
import torch
from lib.network import devices
from training_factory import fit, small_model, textured_tiles
folder, name, slow = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "slow"
torch.set_num_threads(1)
model = small_model(dropout=0.5 if name == "killed" else 0.0)
if slow:
    model.register_forward_pre_hook(lambda *_: time.sleep(0.1))
with devices.process_group() as rank:
    if rank == 0:
        splits = textured_tiles(folder)
    if devices.rank_and_ranks()[1] > 1:
        torch.distributed.barrier()
    splits = splits if rank == 0 else textured_tiles(Path(sys.argv[4]))
    fit(model, splits, folder / name)
"""


def start(arguments, script, tmp_path, **options):
    (tmp_path / "script.py").write_text(script)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *arguments[0], str(tmp_path / "script.py"), *map(str, arguments[1])]
    return subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **options)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_weights(tmp_path, one_thread):
    process = start(([], [tmp_path, "killed", "slow"]), SCRIPT, tmp_path)
    last, record = tmp_path / "killed/last.pt", tmp_path / "killed/last.pt.json"
    deadline = time.monotonic() + 60
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.25)  # into the middle of epoch 2
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(torch.load(last, weights_only=True)["history"]) in (1, 2)
    splits = textured_tiles(tmp_path)
    whole, continued = small_model(dropout=0.5), small_model(dropout=0.5, seed=3)
    fit(continued, splits, tmp_path / "killed")
    fit(whole, splits, tmp_path / "whole")
    assert same_weights(whole, continued)


@pytest.mark.slow
def test_two_processes_end_like_one(tmp_path):
    (tmp_path / "second").mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start((launcher, [tmp_path, "two", "fast", tmp_path / "second"]), SCRIPT, tmp_path)
    assert process.wait(timeout=120) == 0
    model = small_model()
    history_df = fit(model, textured_tiles(tmp_path), tmp_path / "one")
    last = torch.load(tmp_path / "two/last.pt", weights_only=True)
    assert len(last["history"]) == 3
    for name, value in model.state_dict().items():
        torch.testing.assert_close(last["state_dict"][name], value, rtol=1e-4, atol=1e-5)
    for column in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
        np.testing.assert_allclose([row[column] for row in last["history"]], history_df[column], rtol=1e-4)


def test_batch_norm_over_cpu_processes_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "rank_and_ranks", lambda: (0, 2))
    with pytest.raises(ValueError, match="batch norm is not synchronised"):
        training_step.prepare(small_model(norm=True), Recipe(device="cpu"), 3)


def test_more_epochs_extend_a_run(splits, tmp_path):
    whole, extended = small_model(), small_model()
    fit(whole, splits, tmp_path / "whole", epochs=4)
    fit(extended, splits, tmp_path / "parts", epochs=2)
    assert not same_weights(whole, extended)
    history_df = fit(extended, splits, tmp_path / "parts", epochs=4)
    assert len(history_df) == 4
    assert same_weights(whole, extended)
    with pytest.raises(ValueError, match="4 finished epochs, more than the 2"):
        fit(extended, splits, tmp_path / "parts", epochs=2)


def test_a_finished_run_is_not_done_again(splits, tmp_path):
    first_df = fit(small_model(), splits, tmp_path / "run")
    stopped = Interrupted(small_model(), 1, AssertionError("trained again"))
    pd.testing.assert_frame_equal(first_df, fit(stopped, splits, tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"learning_rate": 0.04}, "last.pt was made with learning_rate = 0.05, now 0.04"),
        ({"seed": 1}, "seed = 0, now 1"),
        ({"augment": ("flip",)}, "augment"),
        ({"stain_jitter": 0.05}, "stain_jitter = None, now 0.05"),
        ({"class_names": ["Colon", "Liver", "Skin"]}, "class_names"),
        ({"mixed_precision": "bf16"}, "mixed_precision"),
        ({"architecture": "vgg16"}, "architecture"),
        ({"weights": "imagenet"}, "weights = 'none', now 'imagenet'"),
    ],
)
def test_another_recipe_in_the_folder_is_refused_or_replaced(splits, tmp_path, changes, field):
    fit(small_model(), splits, tmp_path, epochs=1)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=field):
        fit(small_model(), splits, tmp_path, epochs=1, **changes)
    assert (tmp_path / "last.pt").read_bytes() == before
    again, fresh = small_model(), small_model()
    checkpoints.discard(tmp_path, "--restart")
    fit(again, splits, tmp_path, epochs=1, **changes)
    fit(fresh, splits, tmp_path / "fresh", epochs=1, **changes)
    assert same_weights(again, fresh)


def test_other_tiles_or_another_model_are_another_recipe(splits, tmp_path):
    fit(small_model(), splits, tmp_path, epochs=1)
    with pytest.raises(ValueError, match="train_tiles"):
        fit(small_model(), (splits[0].iloc[1:], splits[1]), tmp_path, epochs=1)
    with pytest.raises(ValueError, match="network"):
        fit(small_model(norm=True), splits, tmp_path, epochs=1)


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "last.pt.json"])
def test_a_damaged_run_is_not_continued(splits, tmp_path, capsys, name):
    fit(small_model(), splits, tmp_path / "whole", epochs=2)
    fit(small_model(), splits, tmp_path / "run", epochs=1)
    path = tmp_path / "run" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(b"{" if name.endswith("json") else content)
    fit(small_model(), splits, tmp_path / "run", epochs=2)
    assert "Restarting run (" in capsys.readouterr().out
    states = [torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "run")]
    assert all(torch.equal(states[0]["state_dict"][k], v) for k, v in states[1]["state_dict"].items())


@pytest.mark.parametrize("n_moved", [0, 1])
def test_a_run_killed_while_its_checkpoints_are_put_in_place_continues(
    splits, tmp_path, monkeypatch, capsys, n_moved
):
    fit(small_model(), splits, tmp_path, epochs=1)
    replace, moved = os.replace, []

    def killed(source, target):
        if str(target).endswith(".pt"):
            if len(moved) >= n_moved:
                raise KeyboardInterrupt
            moved.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(small_model(), splits, tmp_path, epochs=2)
    monkeypatch.undo()
    fit(small_model(), splits, tmp_path, epochs=2)
    assert "Restarting" not in capsys.readouterr().out


def test_a_moved_folder_of_tiles_is_the_same_recipe(splits, tmp_path):
    moved_df = splits[0].assign(file=[f"/elsewhere/{Path(file).name}" for file in splits[0]["file"]])
    assert checkpoints.fingerprint(moved_df) == checkpoints.fingerprint(splits[0])
    relabelled_df = splits[0].assign(label=splits[0]["label"].to_numpy()[::-1])
    assert checkpoints.fingerprint(relabelled_df) != checkpoints.fingerprint(splits[0])


def test_reading_threads_do_not_change_the_weights(splits, tmp_path):
    found = [small_model(dropout=0.3), small_model(dropout=0.3)]
    for model, n_workers in zip(found, (0, 2), strict=True):
        fit(model, splits, tmp_path / str(n_workers), epochs=2, loader_workers=n_workers)
    assert same_weights(*found)


def test_the_compiler_changes_no_names_and_hardly_values(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain, compiled = small_model(), small_model()
    fit(plain, splits, tmp_path / "a")
    fit(compiled, splits, tmp_path / "b", compile_network=True)
    state = torch.load(tmp_path / "b/last.pt", weights_only=True)["state_dict"]
    assert list(state) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(state[name], compiled.state_dict()[name])


def test_bf16_keeps_float32_weights_and_learns(splits, tmp_path):
    model = small_model()
    history_df = fit(model, splits, tmp_path, epochs=12, mixed_precision="bf16")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert history_df["validation_accuracy"].max() >= 0.9


def test_auxiliary_head_counts_with_four_tenths(splits):
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side = small_model(seed=1), small_model(seed=2)

        def forward(self, images_t):
            if not self.training:
                return self.main(images_t)
            return InceptionOutputs(self.main(images_t), self.side(images_t))

    model = TwoHeads()
    trainer = training_step.prepare(model, Recipe(learning_rate=0.0, device="cpu"), 3)
    images_t, labels_t = stored_images(splits[0].iloc[:10])
    loss = nn.CrossEntropyLoss()
    wanted = loss(model.main(images_t.float()), labels_t) + 0.4 * loss(model.side(images_t.float()), labels_t)
    tiles_t = torch.from_numpy(stored.read_tiles(splits[0].iloc[:10]))
    found, n_correct = training_step.training_step(trainer, tiles_t, labels_t)
    assert found.item() / 10 == pytest.approx(wanted.item(), rel=1e-5)
    assert int(n_correct) == int((model.main(images_t.float()).argmax(1) == labels_t).sum())
    loader = batches.TileLoader(splits[0].iloc[:10], 10, trainer.device)
    validation_loss, _ = training_step.evaluate(trainer, loader, 1, tqdm(disable=True))
    assert validation_loss == pytest.approx(loss(model.main(images_t.float()), labels_t).item(), rel=1e-5)


def test_learning_rate_equals_torch_step_schedule():
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 30, 0.1)
    for epoch in range(1, 91):
        wanted = optimiser.param_groups[0]["lr"]
        assert Recipe().rate_in(epoch) == pytest.approx(wanted, rel=1e-12)
        optimiser.step()
        schedule.step()


def test_labels_are_permuted_among_whole_samples(splits):
    train_df = splits[0]
    null_df = training.permute_labels(train_df, seed=1)
    assert (null_df.groupby("sample_id")["label"].nunique() == 1).all()
    first, second = (frame.groupby("sample_id")["label"].first() for frame in (train_df, null_df))
    assert sorted(first) == sorted(second)
    assert first.tolist() != second.tolist()
    assert [CLASSES[label] for label in null_df["label"]] == null_df["tissue"].tolist()
    same = null_df.columns.drop(["label", "tissue"])
    pd.testing.assert_frame_equal(null_df[same], train_df[same])
    pd.testing.assert_frame_equal(null_df, training.permute_labels(train_df, seed=1))
    assert not null_df.equals(training.permute_labels(train_df, seed=2))
    with pytest.raises(ValueError, match=r"1 samples have tiles of two labels, first \['sample_0'\]"):
        training.permute_labels(train_df.assign(label=[2, *train_df["label"][1:]]), seed=1)


def test_validation_labels_are_permuted_too(splits):
    labelled_df = pd.concat(splits)
    labelled_df = pd.concat([labelled_df, splits[1].iloc[:1].assign(label=-1, sample_id="stranger")])
    train_df, validation_df = training.training_sets(labelled_df)
    pd.testing.assert_frame_equal(train_df, splits[0])
    pd.testing.assert_frame_equal(validation_df, splits[1])
    null_train_df, null_validation_df = training.training_sets(labelled_df, "shuffled", seed=2)
    pd.testing.assert_frame_equal(null_train_df, training.permute_labels(splits[0], 2))
    pd.testing.assert_frame_equal(null_validation_df, training.permute_labels(splits[1], 2))
    assert not null_validation_df["label"].equals(splits[1]["label"])


def test_a_longer_run_is_discarded_and_a_shorter_one_kept(splits, tmp_path, capsys):
    run_dir = tmp_path / "training"
    fit(small_model(), splits, run_dir, epochs=2)
    checkpoints.discard_longer(run_dir, 2)
    checkpoints.discard_longer(tmp_path / "nowhere", 2)
    assert (run_dir / "last.pt").exists()
    assert capsys.readouterr().out == ""
    checkpoints.discard_longer(run_dir, 1)
    said = r"Restarting training \(it has 2 finished epochs, more than 1\): deleting 3 files \(0 MB\)"
    assert re.fullmatch(said, capsys.readouterr().out.strip())
    fresh, again = small_model(), small_model()
    fit(again, splits, run_dir, epochs=1)
    fit(fresh, splits, tmp_path / "fresh", epochs=1)
    assert same_weights(again, fresh)


def test_class_missing_from_training_is_named(splits, tmp_path):
    train_df, validation_df = splits
    with pytest.raises(ValueError, match=r"1 of 3 classes have no training tiles, \['Liver'\]"):
        fit(small_model(), (train_df[train_df["label"] != 1], validation_df), tmp_path)
    two_df = train_df[train_df["label"] < 2]
    with pytest.raises(ValueError, match=r"8 validation tiles belong to no class, of \['Lung'\]"):
        fit(small_model(n_classes=2), (two_df, validation_df), tmp_path, CLASSES[:2])
    odd_df = train_df.assign(label=np.where(train_df["sample_id"] == "sample_0", -1, train_df["label"]))
    with pytest.raises(ValueError, match=r"8 training tiles belong to no class, of \['Colon'\]"):
        fit(small_model(), (odd_df, validation_df), tmp_path)


def test_empty_splits_and_bad_options_are_refused(splits, tmp_path):
    train_df, validation_df = splits
    with pytest.raises(ValueError, match="validation split has no tiles"):
        fit(small_model(), (train_df, validation_df.iloc[:0]), tmp_path)
    for changes, text in (
        ({"epochs": -1}, "epochs must be at least 0, not -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0, not nan"),
        ({"mixed_precision": "fp8"}, r"mixed_precision 'fp8' is unknown: choose from \('', 'bf16'\)"),
        ({"stain_jitter": 1.5}, "stain_jitter must be at most 1, not 1.5"),
        ({"stain_jitter": -0.1}, "stain_jitter must be at least 0, not -0.1"),
        ({"augment": ("flip", "colour")}, "augment 'colour' is unknown: choose from .*rotate90"),
        ({"batch_size": 0}, "batch_size"),
        ({"architecture": "vgg61"}, "vgg16"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(small_model(), splits, tmp_path, **changes)
    with pytest.raises(ValueError, match="4 outputs, but there are 3 classes"):
        fit(small_model(n_classes=4), splits, tmp_path / "outputs")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu_is_said(splits, tmp_path):
    with pytest.raises(ValueError, match="sees no GPU"):
        fit(small_model(), splits, tmp_path, device="cuda")


class Diverging(Interrupted):
    def forward(self, images_t):
        self.n_steps += self.training
        logits_t = self.inner(images_t)
        return logits_t * float("inf") if self.training and self.n_steps == self.stop_at else logits_t


def test_non_finite_loss_says_where_and_keeps_the_checkpoint(splits, tmp_path):
    model = Diverging(small_model(), 6 + 4, None)
    with pytest.raises(RuntimeError, match=r"loss is nan in epoch 2, training batch 4 of 6; .*learning rate"):
        fit(model, splits, tmp_path)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert len(last["history"]) == 1
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    whole, continued = small_model(), small_model()
    fit(whole, splits, tmp_path / "whole")
    fit(continued, splits, tmp_path)
    assert same_weights(whole, continued)


def test_weights_that_diverge_at_the_end_of_an_epoch_are_not_kept(splits, tmp_path):
    model = small_model()
    model.register_forward_hook(lambda module, inputs, output: output if module.training else output * np.nan)
    with pytest.raises(RuntimeError, match="loss is nan in epoch 1, validation batch 1 of 3"):
        fit(model, splits, tmp_path)
    assert not (tmp_path / "last.pt").exists()
    assert not (tmp_path / "best.pt").exists()


def test_losses_checked_late_still_name_their_batch():
    losses = [torch.tensor(value) for value in (1.0, 2.0, float("inf"), 4.0, float("nan"))]
    training_step._require_finite(losses[:2], 0, 9, "epoch 1, training")
    with pytest.raises(RuntimeError, match="loss is inf in epoch 1, training batch 3 of 9"):
        training_step._require_finite(losses, 2, 9, "epoch 1, training")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB")])
def test_out_of_memory_says_batch_size_and_remedy(splits, tmp_path, error):
    said = r"out of memory on cpu with 9 tiles of 12 px at a time .*: try batch_size 4,"
    with pytest.raises(RuntimeError, match=said) as caught:
        fit(Interrupted(small_model(), 2, error), splits, tmp_path)
    assert caught.value.__cause__ is error


def test_real_exhausted_memory_is_recognised_and_other_errors_pass_unchanged(splits, tmp_path):
    model = small_model()
    model.register_forward_hook(lambda module, inputs, output: output + torch.empty(1 << 50))
    with pytest.raises(RuntimeError, match="out of memory on cpu with 9 tiles"):
        fit(model, splits, tmp_path)
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        fit(Interrupted(small_model(), 2, RuntimeError("shapes do not fit")), splits, tmp_path)


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """A cohort file with samples and tiles, as notebooks 00 and 01 leave them."""
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    (tmp_path / "mine.toml").write_text(
        'architecture = "vgg16_avg1fc"\nepochs = 1\nbatch_size = 4\ninput_px = 32\nlearning_rate = 1e-4\n'
        'device = "cpu"\n'
    )
    raw = tmp_path / "data/raw/mine"
    raw.mkdir(parents=True)
    for name in ("samples.csv", "expression.gct.gz"):
        (raw / name).write_text("made up")
    cohort = str(tmp_path / "mine.toml")
    store = Store(Config.load(cohort))
    stacks = store.path("stacks")
    stacks.mkdir(parents=True)
    tiles_df = pd.concat(textured_tiles(stacks, n_samples=6, n_tiles=2, px=32))
    tiles_df["slide_id"] = tiles_df["file"].map(lambda file: Path(file).stem)
    tiles_df["tile_id"] = tiles_df["slide_id"] + "_" + tiles_df["stack_index"].astype(str)
    samples_df = tiles_df[["sample_id", "tissue", "split", "slide_id"]].drop_duplicates()
    store.save("samples", samples_df.assign(donor=samples_df["sample_id"]))
    store.save("tiles", tiles_df[["tile_id", "sample_id", "slide_id", "stack_index"]])
    return cohort


def test_the_command_trains_and_restarts(cohort, capsys):
    options = ["--cohort", cohort, "--architecture", "torchvision:squeezenet1_1"]
    options += ["--set", "augment=['flip']", "null_network=shuffled", "initialisation=vgg"]
    train.main(options)
    settings = {"augment": ["flip"], "null_network": "shuffled"}
    run_dir = Store(Config.load(cohort, options[3], settings)).path("training")
    assert work_records.read(run_dir / "last.pt")["made_for"]["augment"] == ["flip"]
    first, class_names = models.load(run_dir / "best.pt", options[3])
    assert class_names == CLASSES
    torch.rand(100)  # the command seeds the first weights itself
    train.main([*options, "--restart"])
    assert "Restarting training (--restart): deleting 3 files" in capsys.readouterr().out
    assert same_weights(first, models.load(run_dir / "best.pt", options[3])[0])


@pytest.mark.slow
def test_two_processes_train_the_run_that_notebook_02_continues_with(cohort, tmp_path):
    store = Store(Config.load(cohort))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(ROOT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    notebook = [sys.executable, str(ROOT / "run_all.py"), "--cohort", cohort, "--only", "02"]
    contents = []
    for command in ([*launcher, "-m", "lib.train", "--cohort", cohort], notebook):
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        contents.append((store.path("training") / "best.pt").read_bytes())
    assert contents[0] == contents[1] == store.load("network").read_bytes()
    assert len(store.load("history")) == 1


def test_without_epochs_the_network_is_kept_untrained(splits, tmp_path):
    model = small_model(dropout=0.5)
    before = deepcopy(model)
    history_df = fit(model, splits, tmp_path / "null", epochs=0)
    checkpoint = torch.load(tmp_path / "null/best.pt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert same_weights(checkpoint["state_dict"], before)
    model.eval()
    images_t, labels_t = stored_images(splits[1])
    right = (model(images_t.float()).argmax(1) == labels_t).double().mean().item()
    assert history_df["epoch"].tolist() == [0]
    assert history_df.loc[0, "validation_accuracy"] == pytest.approx(right)
    pd.testing.assert_frame_equal(history_df, fit(model, splits, tmp_path / "null", epochs=0))
    with pytest.raises(ValueError, match="trained = False, now True"):
        fit(model, splits, tmp_path / "null")


def test_the_normalisation_of_given_weights_stays_with_the_trained_network(splits, tmp_path):
    """A checkpoint that states mean and sd is trained and used with these, not its architecture's."""
    model = small_model()
    mean, sd = (0.7, 0.58, 0.7), (0.21, 0.23, 0.18)
    models.set_normalisation(model, mean, sd)
    fit(model, splits, tmp_path / "a", epochs=1)
    kept = torch.load(tmp_path / "a/best.pt", weights_only=True)
    assert (tuple(kept["mean"]), tuple(kept["sd"])) == (mean, sd)
    plain = small_model()
    fit(plain, splits, tmp_path / "b", epochs=1)
    assert not same_weights(model, plain), "the pixels were normalised otherwise"
