"""A resumed run ends with the same bits as an uninterrupted one."""

from __future__ import annotations

import dataclasses
import errno
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.io import WriteError
from kerascv_course.core.schema import to_json
from kerascv_course.experiment import Experiment, Interrupted, Options
from kerascv_course.training import callbacks
from kerascv_course.training.callbacks import CheckpointCallback
from kerascv_course.training.run_dir import Run

TRAINED = ("recipe.json", "last.npz")


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    return dataclasses.replace(tiny_recipe, export=dataclasses.replace(tiny_recipe.export, enabled=False))


@pytest.fixture(scope="module", autouse=True)
def no_drawings():
    """The plots of a run are tested elsewhere, and take longer than its training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "plot", lambda _: None)
        yield


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    return Experiment(recipe, tmp_path_factory.mktemp("runs") / "whole").run().folder


def variables(run: Run) -> dict[str, np.ndarray]:
    with np.load(run / "last.npz") as archive:
        return {name: archive[name] for name in archive.files if name != "progress"}


def figures(run: Run) -> list[dict[str, float]]:
    with np.load(run / "last.npz") as archive:
        history = json.loads(str(archive["progress"]))["history"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def assert_same(run: Run, other: Run) -> None:
    assert figures(run) == figures(other)
    ours, theirs = variables(run), variables(other)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])
    best, other_best = (keras.saving.load_model(r / "best.keras", compile=False).get_weights() for r in (run, other))
    for value, other_value in zip(best, other_best, strict=True):
        np.testing.assert_array_equal(value, other_value)
    assert not list(run.path.glob("best.*.keras")) and not list(run.path.glob(".partial*"))
    assert len((run / "history.csv").read_text().splitlines()) == len(figures(run)) + 1


def stop(monkeypatch, method, when, error):
    """Raise an error in a CheckpointCallback method, once, when the condition on (callback, batch or epoch) holds."""
    original = getattr(CheckpointCallback, method)

    def stopping(self, number, logs=None):
        if when(self, number):
            raise error
        return original(self, number, logs)

    monkeypatch.setattr(CheckpointCallback, method, stopping)


def test_resume_after_ctrl_c(recipe, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop(
            patch,
            "on_train_batch_end",
            lambda callback, batch: len(callback.progress.history) == 3 and batch == 1,
            KeyboardInterrupt,
        )
        with pytest.raises(Interrupted, match=r"all completed validations are kept.*--resume"):
            Experiment(recipe, tmp_path / "run").run()
    assert len(figures(Run(tmp_path / "run"))) == 3
    assert_same(Experiment(recipe, tmp_path / "run", Options(resume=True)).run().folder, uninterrupted)


KILLED = """
import os, signal, sys
from pathlib import Path
from kerascv_course.experiment import Experiment, Options
from kerascv_course.core.schema import from_json
from kerascv_course.config import read_recipe
from kerascv_course.training.callbacks import CheckpointCallback

def die(self, batch, logs=None):
    if len(self.progress.history) == 2 and batch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

CheckpointCallback.on_train_batch_end = die
Experiment(read_recipe(sys.argv[1], what="recipe"), Path(sys.argv[2])).run()
"""


def test_resume_after_kill_9(recipe, uninterrupted, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, to_json(recipe), tmp_path / "run"], capture_output=True, timeout=300)
    assert killed.returncode == -9
    assert len(figures(Run(tmp_path / "run"))) == 2
    assert_same(Experiment(recipe, tmp_path / "run", Options(resume=True)).run().folder, uninterrupted)


@pytest.mark.parametrize("moment", ["atomic_write", "save_checkpoint", "finish_commit"])
def test_resume_after_a_stop_at_any_moment_of_saving(recipe, uninterrupted, tmp_path, monkeypatch, moment):
    """Before the better model is staged, between staging and commit, and between commit and renaming."""
    calls = {"count": 0}
    original = getattr(callbacks, moment)

    def stopping(*arguments):
        calls["count"] += 1
        if calls["count"] == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, moment, stopping)
        with pytest.raises(Interrupted):
            Experiment(recipe, tmp_path / "run").run()
    assert_same(Experiment(recipe, tmp_path / "run", Options(resume=True)).run().folder, uninterrupted)


def test_resume_before_the_first_checkpoint(recipe, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop(patch, "on_train_batch_end", lambda *_: True, KeyboardInterrupt)
        with pytest.raises(Interrupted, match=r"there is no finished validation yet. Resume with: .* --resume '.*/my run'"):
            Experiment(recipe, tmp_path / "my run").run()
    assert_same(Experiment(recipe, tmp_path / "my run", Options(resume=True)).run().folder, uninterrupted)


def test_resume_with_more_epochs(recipe, tmp_path):
    """ "250 + 1" epochs: with a rate that does not depend on the number of epochs, two plus one equal three."""
    constant = dataclasses.replace(recipe, schedule=type(recipe.schedule)())
    three = Experiment(constant, tmp_path / "three").run().folder
    two = Experiment(dataclasses.replace(constant, epochs=2), tmp_path / "two").run().folder
    assert_same(Experiment(constant, two.path, Options(resume=True)).run().folder, three)
    assert two.recipe().epochs == 3


def test_train_only_does_not_use_the_test_split(recipe, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "evaluate", lambda _: pytest.fail("the test split was used"))
        trained = Experiment(recipe, tmp_path / "run", Options(train_only=True)).run()
    assert trained.sample is None and {"epoch", "val_accuracy", "val_loss"} <= trained.headline.keys()
    assert not (trained.folder / "metrics.json").exists() and not (trained.folder / "report.html").exists()
    whole = Experiment(recipe, tmp_path / "run", Options(resume=True)).run()
    assert_same(whole.folder, uninterrupted)
    assert whole.folder.read_json("metrics.json")["test"] == uninterrupted.read_json("metrics.json")["test"]


def test_full_disk_keeps_the_previous_checkpoint(recipe, uninterrupted, tmp_path, monkeypatch):
    calls = {"count": 0}
    original = np.savez

    def full(file, **arrays):
        calls["count"] += 1
        if calls["count"] == 3:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(WriteError, match="the disk is full; its previous content is unchanged"):
            Experiment(recipe, tmp_path / "run").run()
    assert len(figures(Run(tmp_path / "run"))) == 2
    assert_same(Experiment(recipe, tmp_path / "run", Options(resume=True)).run().folder, uninterrupted)


def test_resume_refuses_other_runs(recipe, uninterrupted, tmp_path):
    with pytest.raises(InputError, match="only epochs and patience may change; received another seed"):
        Experiment(dataclasses.replace(recipe, seed=5), uninterrupted.path, Options(resume=True)).run()
    with pytest.raises(InputError, match="is not a run folder"):
        Experiment(recipe, tmp_path, Options(resume=True)).run()

    def copy(name):
        run = Run.create(tmp_path / name, recipe)
        (run / "last.npz").write_bytes((uninterrupted / "last.npz").read_bytes())
        return run

    cut = copy("cut")
    (cut / "last.npz").write_bytes((cut / "last.npz").read_bytes()[:5000])
    with pytest.raises(InputError, match="is damaged or not ours"):
        Experiment(recipe, cut.path, Options(resume=True)).run()

    with np.load(uninterrupted / "last.npz") as archive:
        arrays = dict(archive)
    for change, message in (
        (
            {"format": 2, "of the future": 1},
            "has format 2, of a newer version than this one, which reads up to format 1: resume with",
        ),
        ({"fingerprint": "sha256:0"}, "was made with other data.*give the run's own data with --data-dir"),
        (
            {"recipe": "tdt4265-base"},
            "belongs to the recipe tdt4265-base; received it for lenet5-digits: resume with the run's own",
        ),
        ({"history": 3}, "is damaged or not ours: .*history"),
    ):
        other = copy(next(iter(change)))
        progress = {**json.loads(str(arrays["progress"])), **change}
        np.savez(other / "last.npz", **{**arrays, "progress": np.array(json.dumps(progress))})
        before = {path.name: path.read_bytes() for path in other.path.iterdir() if path.name != "log.txt"}
        with pytest.raises(InputError, match=message):
            Experiment(dataclasses.replace(recipe, epochs=9), other.path, Options(resume=True)).run()
        assert {path.name: path.read_bytes() for path in other.path.iterdir() if path.name != "log.txt"} == before
    other = copy("network")
    np.savez(other / "last.npz", **{**arrays, "variable_00000": np.zeros(3)})
    with pytest.raises(InputError, match="belongs to another network or optimizer"):
        Experiment(recipe, other.path, Options(resume=True)).run()


def test_early_stop_restores_the_best_weights(recipe, tmp_path, monkeypatch):
    """After the second validation all are worse: the run stops after `patience` of them and keeps the second."""
    losses = iter([1.0, 0.5, 0.6, 0.7, 0.1, 0.1])
    original = CheckpointCallback.on_epoch_end
    kept = []

    def scripted(self, epoch, logs=None):
        original(self, epoch, {**logs, "val_loss": next(losses)})
        kept.append(self.model.get_weights())

    monkeypatch.setattr(CheckpointCallback, "on_epoch_end", scripted)
    run = Experiment(dataclasses.replace(recipe, patience=2), tmp_path / "run").run().folder
    assert len(figures(run)) == 4
    assert run.read_json("metrics.json")["best_epoch"] == 1.0
    for value, other in zip(keras.saving.load_model(run / "best.keras", compile=False).get_weights(), kept[1], strict=True):
        np.testing.assert_array_equal(value, other)


def test_loss_that_is_not_finite_stops_the_run(recipe, tmp_path, monkeypatch):
    original = CheckpointCallback.on_epoch_end
    monkeypatch.setattr(
        CheckpointCallback,
        "on_epoch_end",
        lambda self, epoch, logs=None: original(self, epoch, {**logs, "loss": float("nan")} if epoch == 2 else logs),
    )
    with pytest.raises(callbacks.TrainingDivergedError, match=r"loss nan at step 12 \(epoch 1\.5\), learning rate .* are kept"):
        Experiment(recipe, tmp_path / "run").run()
    assert len(figures(Run(tmp_path / "run"))) == 2


def test_resume_with_fewer_epochs_than_are_trained_changes_nothing(recipe, uninterrupted):
    before = {path.name: path.read_bytes() for path in uninterrupted.path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=r"whole has 3, received --epochs 1: use --epochs 3 or more"):
        Experiment(dataclasses.replace(recipe, epochs=1), uninterrupted.path, Options(resume=True)).run()
    assert {path.name: path.read_bytes() for path in uninterrupted.path.iterdir() if path.is_file()} == before


def test_resume_with_as_many_epochs_as_are_trained_ends_there(recipe, tmp_path):
    run = Experiment(dataclasses.replace(recipe, epochs=1), tmp_path / "run", Options(train_only=True)).run().folder
    (run / "recipe.json").write_text(to_json(recipe))
    with pytest.raises(InputError, match=r"has 1, received --epochs 0|must be an integer"):
        Experiment(dataclasses.replace(recipe, epochs=0), run.path, Options(resume=True))
    ended = Experiment(dataclasses.replace(recipe, epochs=1), run.path, Options(resume=True)).run()
    assert len(figures(run)) == 2 and ended.metrics and run.recipe().epochs == 1


def test_resume_of_a_complete_run_changes_nothing(recipe, tmp_path, monkeypatch, caplog):
    run = Experiment(dataclasses.replace(recipe, epochs=1), tmp_path / "run").run().folder
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    with monkeypatch.context() as patch, caplog.at_level("INFO", logger="kerascv_course"):
        patch.setattr(Experiment, "evaluate", lambda _: pytest.fail("the test split was used"))
        again = Experiment(dataclasses.replace(recipe, epochs=1), run.path, Options(resume=True)).run()
    assert again.complete and again.headline == run.read_json("metrics.json")["headline"]
    assert "is complete: trained, evaluated; nothing is changed. It has 1 epoch; a larger --epochs" in caplog.text
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_resume_of_a_run_that_stopped_early_names_the_patience(recipe, tmp_path, monkeypatch, caplog):
    losses = iter([1.0, 0.5, 0.6, 0.7])
    original = CheckpointCallback.on_epoch_end
    monkeypatch.setattr(
        CheckpointCallback,
        "on_epoch_end",
        lambda self, epoch, logs=None: original(self, epoch, {**logs, "val_loss": next(losses)}),
    )
    patient = dataclasses.replace(recipe, patience=2)
    run = Experiment(patient, tmp_path / "run").run().folder
    with caplog.at_level("INFO", logger="kerascv_course"):
        assert Experiment(dataclasses.replace(patient, epochs=9), run.path, Options(resume=True)).run().complete
    assert "stopped after 2 epochs because 2 validations brought no improvement; a larger --patience" in caplog.text
    assert "--epochs 6 --patience 4" in (run / "report.html").read_text()


def test_evaluations_and_commands_of_a_resumed_run_are_counted_and_shown(recipe, tmp_path):
    run = Experiment(dataclasses.replace(recipe, epochs=1), tmp_path / "run").run().folder
    page = (run / "report.html").read_text()
    assert run.read_json("metrics.json")["test_evaluations"] == 1 and len(run.commands()) == 1
    assert "The test split was evaluated once, with these weights" in page and "<th>command</th>" in page
    assert f"--resume {run.path} --epochs 2</pre>" in page
    Experiment(dataclasses.replace(recipe, epochs=2), run.path, Options(resume=True)).run()
    page = (run / "report.html").read_text()
    assert run.read_json("metrics.json")["test_evaluations"] == 2 and len(run.commands()) == 2
    assert run.read_json("environment.json")["resumes"][0].keys() == {"started", "command", "commit"}
    assert "The test split was evaluated 2 times" in page and "<th>commands</th>" in page and "; resumed 20" in page
