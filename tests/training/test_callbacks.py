"""Logs of steps and periods, divergence, and monitoring."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import keras
import numpy as np
import pytest

from kerascv_course.config import Optimizer, Schedule
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.experiment import Experiment, Options
from kerascv_course.training.callbacks import (
    CheckpointCallback,
    Monitors,
    TrainingDivergedError,
    describe_evaluation,
    describe_result,
    describe_row,
    step_losses,
)
from kerascv_course.training.checkpoint import Progress, finish_commit
from kerascv_course.training.run_dir import Run


@pytest.fixture(scope="module")
def plain(tiny_recipe):
    """No export, and 71 steps per epoch, 35 per validation."""
    return dataclasses.replace(
        tiny_recipe,
        export=dataclasses.replace(tiny_recipe.export, enabled=False),
        augmentation=type(tiny_recipe.augmentation)(),
        epochs=2,
        batch_size=16,
    )


def read_steps(run):
    return np.loadtxt(run / "steps.csv", delimiter=",", skiprows=1, ndmin=2).reshape(-1, 4)


def test_step_losses_from_running_means():
    losses = np.random.default_rng(0).uniform(0, 3, 500)
    means = np.cumsum(losses) / np.arange(1, 501)
    np.testing.assert_allclose(step_losses(means), losses, atol=1e-12)
    np.testing.assert_allclose(step_losses(means.astype(np.float32)), losses, atol=2e-4)


def test_step_log_of_a_run(plain, tmp_path, caplog, monkeypatch):
    """steps.csv has the loss of every step, and the cose474 lines have the mean since the start of the epoch."""
    monkeypatch.setattr("kerascv_course.training.callbacks.COSE474_EVERY", 20)
    batches = []
    original = CheckpointCallback.on_epoch_begin

    def counting(self, epoch, logs=None):
        original(self, epoch, logs)
        batches.append(epoch)

    monkeypatch.setattr(CheckpointCallback, "on_epoch_begin", counting)
    with caplog.at_level("INFO", logger="kerascv_course"):
        run = Experiment(dataclasses.replace(plain, log_style="cose474"), tmp_path / "run").run().folder
    assert batches == [0, 1, 2, 3]
    steps = read_steps(run)
    assert steps[:, 0].tolist() == list(range(1, 141)) and steps[-1, 1] == 2.0
    history = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    losses = [float(row[history[0].index("loss")]) for row in history[1:]]
    np.testing.assert_allclose(steps[:, 2].reshape(4, 35).mean(axis=1), losses, rtol=1e-4)
    assert np.all(np.diff(steps[:, 3]) <= 0) and steps[0, 3] == 3e-3  # the cosine falls
    rates = [float(row[history[0].index("learning_rate")]) for row in history[1:]]
    assert (
        rates == pytest.approx(steps[34::35, 3].tolist(), rel=1e-4) and rates[-1] > 0
    )  # the last step taken, not the next one

    told = [line for line in caplog.messages if line.startswith("Epoch [")]
    since = [steps[start : start + n, 2].mean() for start in (0, 70) for n in (20, 40, 60)]
    expected = [
        f"Epoch [{epoch}/2], Step [{n}/71] Loss: {mean:.4f}"
        for (epoch, n), mean in zip([(e, n) for e in (1, 2) for n in (20, 40, 60)], since, strict=True)
    ]
    assert [line.rsplit(" ", 1)[0] for line in told] == [line.rsplit(" ", 1)[0] for line in expected]
    for line, other in zip(told, expected, strict=True):
        assert float(line.rsplit(" ", 1)[1]) == pytest.approx(float(other.rsplit(" ", 1)[1]), abs=2e-4)
    accuracy = run.read_json("metrics.json")["test"]["accuracy"]
    assert caplog.messages[-1] == f"Accuracy of the model on the test images: {100 * accuracy:.2f} %"
    page = (run / "report.html").read_text()
    assert "Loss per training step, averaged over ten steps" in page


def test_describe_row_in_the_ntu_style(plain):
    row = {
        "epoch": 3.0,
        "accuracy": 0.98415,
        "val_accuracy": 0.8986,
        "loss": 0.05,
        "val_loss": 0.5,
        "learning_rate": 1,
        "seconds": 1,
    }
    text = describe_row(row, dataclasses.replace(plain, log_style="ntu", epochs=50))
    assert text == "[3/50] Train Acc: 0.98415 | Val Acc: 0.89860 | Train Loss: 0.05000 | Val Loss: 0.50000"


def test_describe_row_labels_the_learning_rate(plain):
    text = describe_row({"epoch": 2.0, "step": 142.0, "loss": 0.5, "learning_rate": 3e-4, "seconds": 1.23}, plain)
    assert text == "epoch    2/2  loss 0.5000  lr 3.00e-04  1.2 s"


@pytest.mark.parametrize(
    ("style", "row", "last"),
    [
        ("csc413", "Epoch [3/50], Val Loss: 0.5000, Val R1: 31.0%", ""),
        ("ntu", "[3/50] Val R1: 0.31000 | Train Loss: 0.05000 | Val Loss: 0.50000", ""),
        ("cose474", None, "R1 of the model on the test images: 31.00 %"),
        ("full", None, ""),
    ],
)
def test_log_styles_of_a_task_without_an_accuracy(identity_recipe, style, row, last):
    recipe = dataclasses.replace(identity_recipe, log_style=style, epochs=50)
    values = {"epoch": 3.0, "loss": 0.05, "val_loss": 0.5, "val_R1": 0.31, "learning_rate": 1, "seconds": 1}
    assert row is None or describe_row(values, recipe) == row
    assert describe_result({"R1": 0.31, "mAP": 0.2}, recipe) == last
    assert describe_evaluation({"R1": 0.31, "mAP": 0.2}, recipe) == ("R1 = 0.3100" if style == "ntu" else "")


def test_divergence_error_names_the_step(plain, tmp_path):
    diverging = dataclasses.replace(plain, optimizer=Optimizer("sgd", learning_rate=1e30), schedule=Schedule())
    with pytest.raises(
        TrainingDivergedError, match=r"loss (nan|inf) at step [23] \(epoch 0\.0[24]\d*\), learning rate 1e\+30.*kept"
    ):
        Experiment(diverging, tmp_path / "run").run()
    assert not (tmp_path / "run" / "last.npz").exists()


def test_divergence_keeps_the_checkpoint(plain, tmp_path):
    """The rate rises by 1e30 at epoch 1: the first epoch's checkpoint stays."""
    rising = dataclasses.replace(
        plain, optimizer=Optimizer("sgd", learning_rate=1e-2), schedule=Schedule("step", milestones=(1.0,), factor=1e32)
    )
    with pytest.raises(TrainingDivergedError, match=r"at step 7[2-5] \(epoch 1\.0\d+\), learning rate 1e\+30"):
        Experiment(rising, tmp_path / "run").run()
    with np.load(tmp_path / "run" / "last.npz") as archive:
        assert len(json.loads(str(archive["progress"]))["history"]) == 2 and len(archive["steps"]) == 70
    assert len(read_steps(Run(tmp_path / "run"))) == 70


def test_checkpoint_without_steps_still_loads(plain, tmp_path):
    """Older versions did not save them: later steps follow."""
    run = Experiment(dataclasses.replace(plain, epochs=1, schedule=Schedule()), tmp_path / "run").run().folder
    with np.load(run / "last.npz") as archive:
        arrays = dict(archive)
    progress = json.loads(str(arrays["progress"]))
    del arrays["steps"], progress["recipe"]
    np.savez(run / "last.npz", **{**arrays, "progress": np.array(json.dumps(progress))})
    Experiment(dataclasses.replace(plain, schedule=Schedule()), run.path, Options(resume=True)).run()
    assert read_steps(run)[:, 0].tolist() == list(range(71, 141))


def test_finish_commit_extends_steps_csv(plain, tmp_path):
    run = Run.create(tmp_path / "run", plain)
    steps = np.stack([np.arange(1, 6), np.arange(1, 6) / 5, np.linspace(2, 1, 5), np.full(5, 0.05)], axis=1)
    text: list[str] = []
    for count in (0, 2, 5):
        finish_commit(run, Progress("", steps=steps[:count]), text)
        np.testing.assert_allclose(read_steps(run), steps[:count], rtol=1e-6)
    finish_commit(run, Progress("", steps=steps))
    assert (run / "steps.csv").read_text().splitlines() == text


def test_monitors_do_not_change_the_training(tiny_recipe, tmp_path, caplog):
    pytest.importorskip("tensorboard")
    recipe = dataclasses.replace(
        tiny_recipe, export=dataclasses.replace(tiny_recipe.export, enabled=False), epochs=1, batch_size=16
    )
    with caplog.at_level("INFO", logger="kerascv_course"):
        watched = (
            Experiment(recipe, tmp_path / "watched", Options(monitors=Monitors(tensorboard=True, profile=True))).run().folder
        )
    alone = Experiment(recipe, tmp_path / "alone").run().folder
    assert len(list(watched.path.glob("tensorboard/*/events.out.tfevents.*"))) == 2  # train and validation
    assert len(list(watched.path.glob("profile/**/*.xplane.pb"))) == 1
    assert "profile of steps 20 to 30" in caplog.text
    assert not (alone / "tensorboard").exists() and not (alone / "profile").exists()
    assert (watched / "steps.csv").read_bytes() == (alone / "steps.csv").read_bytes()
    for value, other in zip(
        *(keras.saving.load_model(r / "best.keras", compile=False).get_weights() for r in (watched, alone)), strict=True
    ):
        np.testing.assert_array_equal(value, other)


def test_monitors_refuse_what_cannot_be_recorded(monkeypatch):
    Monitors().check()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(CourseError, match=r"needs the package tensorboard.*'kerascv_course\[tensorboard\]'"):
            Monitors(tensorboard=True).check()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match="--profile needs the Keras backend tensorflow; received jax"):
        Monitors(profile=True).check()
