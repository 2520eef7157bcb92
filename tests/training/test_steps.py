"""The log of the training steps, and how a training ends that cannot go on."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerascv_course.config import Optimizer, Schedule
from kerascv_course.core.errors import InputError
from kerascv_course.experiment import Experiment, Options
from kerascv_course.training.callbacks import Keeper, describe_row
from kerascv_course.training.memory import OutOfMemoryError, is_out_of_memory, telling_out_of_memory
from kerascv_course.training.optimizers import build_optimizer
from kerascv_course.training.run_dir import Run
from kerascv_course.training.steps import TrainingDivergedError, learning_rates, read_steps, step_losses, write_steps


@pytest.fixture(scope="module")
def plain(tiny_recipe):
    """No export, and 53 steps an epoch of which each validation has 26."""
    return dataclasses.replace(
        tiny_recipe,
        export=dataclasses.replace(tiny_recipe.export, enabled=False),
        augmentation=type(tiny_recipe.augmentation)(),
        epochs=2,
        batch_size=16,
    )


def test_losses_of_steps_come_from_running_means():
    losses = np.random.default_rng(0).uniform(0, 3, 500)
    means = np.cumsum(losses) / np.arange(1, 501)
    np.testing.assert_allclose(step_losses(means), losses, atol=1e-12)
    np.testing.assert_allclose(step_losses(means.astype(np.float32)), losses, atol=2e-4)


@pytest.mark.parametrize(
    "schedule",
    [Schedule(), Schedule("cosine", warmup_epochs=0.2), Schedule("step", milestones=(0.5, 1.0))],
    ids=lambda s: s.name,
)
def test_rates_are_the_optimisers_own(plain, schedule):
    optimizer = build_optimizer(dataclasses.replace(plain, schedule=schedule), steps_per_epoch=10)
    point = keras.Variable(np.zeros(1, np.float32))
    seen = []
    for _ in range(20):
        seen.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
        optimizer.apply([point.value], [point])
    np.testing.assert_allclose(learning_rates(optimizer)(np.arange(20)), seen, rtol=1e-6)


def test_the_log_of_a_run(plain, tmp_path, caplog, monkeypatch):
    """Every step stands in steps.csv with its own loss, and cose474's lines have the mean since the epoch began."""
    monkeypatch.setattr("kerascv_course.training.steps.COSE474_EVERY", 20)
    batches = []
    original = Keeper.on_epoch_begin

    def counting(self, epoch, logs=None):
        original(self, epoch, logs)
        batches.append(epoch)

    monkeypatch.setattr(Keeper, "on_epoch_begin", counting)
    with caplog.at_level("INFO", logger="kerascv_course"):
        run = Experiment(dataclasses.replace(plain, log_style="cose474"), tmp_path / "run").run().folder
    assert batches == [0, 1, 2, 3]
    steps = read_steps(run / "steps.csv")
    assert steps[:, 0].tolist() == list(range(1, 141)) and steps[-1, 1] == 2.0
    history = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    losses = [float(row[history[0].index("loss")]) for row in history[1:]]
    np.testing.assert_allclose(steps[:, 2].reshape(4, 35).mean(axis=1), losses, rtol=1e-4)
    assert np.all(np.diff(steps[:, 3]) <= 0) and steps[0, 3] == 3e-3  # the cosine falls

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


def test_the_template_of_ntu(plain):
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


def test_lines_written_before_are_kept(plain, tmp_path):
    run = Run.create(tmp_path / "run", plain)
    steps = np.stack([np.arange(1, 6), np.arange(1, 6) / 5, np.linspace(2, 1, 5), np.full(5, 0.05)], axis=1)
    text: list[str] = []
    for count in (0, 2, 5):
        write_steps(run, steps[:count], text=text)
        np.testing.assert_allclose(read_steps(run / "steps.csv"), steps[:count], rtol=1e-6)
    write_steps(run, steps)
    assert (run / "steps.csv").read_text().splitlines() == text
    (run / "steps.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(InputError, match=r"steps\.csv cannot be read as the steps of a run: its columns are"):
        read_steps(run / "steps.csv")


def test_the_first_loss_that_is_not_finite_is_named(plain, tmp_path):
    diverging = dataclasses.replace(plain, optimizer=Optimizer("sgd", learning_rate=1e30), schedule=Schedule())
    with pytest.raises(
        TrainingDivergedError, match=r"loss (nan|inf) at step [23] \(epoch 0\.0[24]\d*\), learning rate 1e\+30.*kept"
    ):
        Experiment(diverging, tmp_path / "run").run()
    assert not (tmp_path / "run" / "last.npz").exists()


def test_a_loss_that_becomes_infinite_keeps_the_checkpoint(plain, tmp_path):
    """The rate rises by 1e30 at epoch 1: the first epoch's checkpoint stays."""
    rising = dataclasses.replace(
        plain, optimizer=Optimizer("sgd", learning_rate=1e-2), schedule=Schedule("step", milestones=(1.0,), factor=1e32)
    )
    with pytest.raises(TrainingDivergedError, match=r"at step 7[2-5] \(epoch 1\.0\d+\), learning rate 1e\+30"):
        Experiment(rising, tmp_path / "run").run()
    with np.load(tmp_path / "run" / "last.npz") as archive:
        assert len(json.loads(str(archive["progress"]))["history"]) == 2 and len(archive["steps"]) == 70
    assert len(read_steps(tmp_path / "run" / "steps.csv")) == 70


def test_out_of_memory_names_the_batch_and_what_to_try(plain, tmp_path, monkeypatch):
    def allocate(self, epoch, logs=None):
        # what TensorFlow says when it cannot allocate a petabyte, after ten seconds of waiting for memory to become free
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16777216,16777216]")

    monkeypatch.setattr(Keeper, "on_epoch_begin", allocate)
    with pytest.raises(OutOfMemoryError, match=r"lenet5 in batches of 16 images of 32×32.*smaller --batch-size, such as 8"):
        Experiment(plain, tmp_path / "run").run()
    assert OutOfMemoryError.exit_code == 1 and not (tmp_path / "run" / "best.keras").exists()


def test_what_is_out_of_memory(plain, tmp_path):
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    )
    with pytest.raises(RuntimeError, match="something else"), telling_out_of_memory(plain, tmp_path):
        raise RuntimeError("something else")
    (tmp_path / "last.npz").write_text("")
    with (
        pytest.raises(OutOfMemoryError, match=r"MemoryError.*Every finished validation is kept in"),
        telling_out_of_memory(plain, tmp_path),
    ):
        raise MemoryError


def test_a_checkpoint_without_steps_still_loads(plain, tmp_path):
    """Of a version that did not keep them: later steps follow."""
    run = Experiment(dataclasses.replace(plain, epochs=1, schedule=Schedule()), tmp_path / "run").run().folder
    with np.load(run / "last.npz") as archive:
        arrays = dict(archive)
    progress = json.loads(str(arrays["progress"]))
    del arrays["steps"], progress["recipe"]
    np.savez(run / "last.npz", **{**arrays, "progress": np.array(json.dumps(progress))})
    Experiment(dataclasses.replace(plain, schedule=Schedule()), run.path, Options(resume=True)).run()
    assert read_steps(run / "steps.csv")[:, 0].tolist() == list(range(71, 141))
