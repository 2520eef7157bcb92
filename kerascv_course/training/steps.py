"""The loss of every training step: kept in the checkpoint, written as ``steps.csv``, and watched for the first that is not finite."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerascv_course.config import Recipe
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.training.checkpoint import STEP_COLUMNS, Progress
from kerascv_course.training.run_dir import Run

__all__ = [
    "StepLog",
    "TrainingDivergedError",
    "describe_divergence",
    "learning_rates",
    "read_steps",
    "step_losses",
    "write_steps",
]

#: Steps from one line of the log style cose474 to the next.
COSE474_EVERY = 100

log = logging.getLogger(__name__)


class TrainingDivergedError(CourseError):
    """The loss became NaN or infinite; the checkpoints are those of before."""


class StepLog(keras.callbacks.Callback):
    """Keeps loss and learning rate of each step in the progress, and stops at the first loss that is not finite.

    The work of a step is to note one number, which Keras may do in a thread of its own (``async_safe``), so that a GPU need not
    wait for it; everything else is done at the period's end. It stands before `Keeper`, which writes what it has kept.

    Args:
        recipe: says how the log is to look.
        progress: its ``steps`` are continued.
        epoch_steps: steps of an epoch.
        period_steps: steps from validation to validation.
    """

    async_safe = True

    def __init__(self, recipe: Recipe, progress: Progress, epoch_steps: int, period_steps: int) -> None:
        super().__init__()
        self.recipe, self.progress = recipe, progress
        self.epoch_steps, self.period_steps = epoch_steps, period_steps

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Learn how to tell the rate of a step."""
        self._rates = learning_rates(self.model.optimizer)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Make room for a period's running means."""
        self._means = np.full(self.period_steps, math.nan)
        self._period = epoch
        # of the steps that this epoch had in earlier periods, for the mean since the epoch's start
        self._parts = epoch % self.recipe.validations_per_epoch
        first = (epoch - self._parts) * self.period_steps
        earlier = self.progress.steps[self.progress.steps[:, 0] > first, 2]
        self._earlier = (float(earlier.sum()), len(earlier))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note Keras's running mean of the loss."""
        mean = self._means[batch] = (logs or {})["loss"]
        if not math.isfinite(mean):
            raise TrainingDivergedError(self._diverged(batch, mean))
        if self.recipe.log_style == "cose474":
            self._tell(batch, mean)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the period's steps to the progress."""
        steps = epoch * self.period_steps + np.arange(self.period_steps)
        epochs = (steps + 1) / self.period_steps / self.recipe.validations_per_epoch
        rows = np.stack([steps + 1, epochs, step_losses(self._means), self._rates(steps)], axis=1)
        self.progress.steps = np.concatenate([self.progress.steps, rows])

    def _diverged(self, batch: int, mean: float) -> str:
        step = self._period * self.period_steps + batch
        return describe_divergence(
            f"loss {mean}",
            (step + 1) / self.period_steps / self.recipe.validations_per_epoch,
            step + 1,
            float(self._rates([step])[0]),
        )

    def _tell(self, batch: int, mean: float) -> None:
        earlier, count = self._earlier
        number = self._parts * self.period_steps + batch + 1
        if number % COSE474_EVERY == 0:
            epoch = self._period // self.recipe.validations_per_epoch + 1
            since = (earlier + mean * (batch + 1)) / (count + batch + 1)
            log.info("Epoch [%d/%d], Step [%d/%d] Loss: %.4f", epoch, self.recipe.epochs, number, self.epoch_steps, since)


def describe_divergence(bad: str, epoch: float, step: int, rate: float) -> str:
    """The message of a `TrainingDivergedError`."""
    return (
        f"training diverged: {bad} at step {step} (epoch {epoch:.4g}), learning rate {rate:g}; the checkpoints of before are kept. "
        "Start anew with a lower --optimizer.learning-rate or a warm-up (--schedule.warmup-epochs)"
    )


def step_losses(means: np.ndarray) -> np.ndarray:
    """Losses of single steps from Keras's running means of equal batches: n·mean_n − (n−1)·mean_{n−1}.

    Keras sums in float32, so that a loss is known to about n·6e-8 of the mean: 4 digits after 1,000 steps.

    Args:
        means: float (steps,), the mean of steps 1 … n at place n − 1.
    """
    sums = means * np.arange(1, len(means) + 1)
    return np.diff(sums, prepend=0.0)


def learning_rates(optimizer: keras.optimizers.Optimizer) -> Callable[[Sequence[int] | np.ndarray], np.ndarray]:
    """How to tell an optimiser's learning rates, float64 (n,), at steps given by their numbers, of which 0 is the first.

    A schedule that is asked step by step costs as much as a step of a small network does; as one TensorFlow function it does not.
    """
    schedule = getattr(optimizer, "_learning_rate", None)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return lambda steps: np.full(len(steps), float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    if keras.backend.backend() != "tensorflow":
        return lambda steps: np.array([float(keras.ops.convert_to_numpy(schedule(int(step)))) for step in steps])

    import tensorflow as tf

    @tf.function
    def rates(steps: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda step: tf.cast(schedule(step), tf.float32), steps, fn_output_signature=tf.float32)

    traced = rates.get_concrete_function(tf.TensorSpec([None], tf.int64))
    return lambda steps: traced(tf.constant(steps, tf.int64)).numpy().astype(np.float64)


def write_steps(run: Run, steps: np.ndarray, *, text: list[str] | None = None) -> None:
    """Write ``steps.csv``, a row a training step: step, epoch, loss, learning_rate.

    Args:
        run: the folder.
        steps: float (steps, 4), the `STEP_COLUMNS`.
        text: lines written before, which are continued in place, so that a long run does not format them again and again.
    """
    lines = text if text is not None else []
    if not lines:
        lines.append(",".join(STEP_COLUMNS))
    lines += [f"{step:.0f},{epoch:.6g},{loss:.6g},{rate:.6g}" for step, epoch, loss, rate in steps[len(lines) - 1 :].tolist()]
    run.write_text("steps.csv", "\n".join(lines) + "\n")


def read_steps(path: Path) -> np.ndarray:
    """The rows of a ``steps.csv``, float (steps, 4).

    Raises:
        InputError: missing, damaged, or other columns than `STEP_COLUMNS`.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        if tuple(head) != STEP_COLUMNS:
            raise ValueError(f"its columns are {head}")
        return np.array(rows, float).reshape(len(rows), len(STEP_COLUMNS))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as the steps of a run: {error}") from None
