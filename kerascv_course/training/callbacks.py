"""Callbacks of `model.fit`: checkpoints, logs of epochs and steps, and optional monitoring.

An "epoch" of `model.fit` is a period here, from one validation to the next: a whole epoch, or part of it if the recipe validates more
often.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerascv_course.config import Recipe, TrainedRecipe
from kerascv_course.core.errors import CourseError, InputError, shell_word
from kerascv_course.core.io import atomic_write
from kerascv_course.core.keras_file import save_model
from kerascv_course.core.progress import Wait
from kerascv_course.data import Split
from kerascv_course.training.checkpoint import Progress, finish_commit, save_checkpoint
from kerascv_course.training.devices import whole_batches
from kerascv_course.training.optimizers import learning_rates
from kerascv_course.training.precision import give_weights
from kerascv_course.training.run_dir import Run

__all__ = [
    "CheckpointCallback",
    "Counter",
    "Monitors",
    "Profiler",
    "Remainder",
    "StepLog",
    "TrainingDivergedError",
    "TrainingWait",
    "describe_evaluation",
    "describe_result",
    "describe_row",
    "step_losses",
]

Logs = dict[str, Any] | None

#: Validation metrics in the lines of the courses, by the name there; a task has one of them.
VALIDATION_METRICS = {"Acc": "val_accuracy", "R1": "val_R1"}

#: Steps between two lines in the log style cose474.
COSE474_EVERY = 100

#: First and last step to profile, counted from the start of training: the first steps trace, compile and allocate.
PROFILE_FROM, PROFILE_TO = 20, 30

log = logging.getLogger(__name__)


class TrainingDivergedError(CourseError):
    """The loss became NaN or infinite; earlier checkpoints are kept.

    Args:
        bad: the values that are not finite, such as ``"loss nan"``.
        epoch: finished epochs at that step, with fractions.
        step: the step, from 1.
        rate: its learning rate.
    """

    def __init__(self, bad: str, epoch: float, step: int, rate: float) -> None:
        super().__init__(
            f"training diverged: {bad} at step {step} (epoch {epoch:.4g}), learning rate {rate:g}; earlier checkpoints are kept. "
            "Start again with a lower --optimizer.learning-rate or a warm-up (--schedule.warmup-epochs)"
        )


class CheckpointCallback(keras.callbacks.Callback):
    """Saves history, best weights and checkpoint after each period, and stops early. Needs `StepLog` before it.

    The order of writing keeps the run consistent at every moment: (1) a better model goes to ``best.PERIOD.keras``; (2) ``last.npz``,
    which names the best period, is replaced: this commits; (3) the better model is renamed to ``best.keras``. `finish_commit` repeats
    the third step after a crash between (2) and (3), and undoes the first after one between (1) and (2).

    Args:
        run: the run folder.
        recipe: gives the metric to monitor and the patience.
        progress: progress of the training, updated in place.
        built: network that receives the trained weights and is saved.
        period_steps: steps per period.
        writes: whether this process writes the folder; the others only count, so that all stop at the same time.
    """

    def __init__(
        self, run: Run, recipe: TrainedRecipe, progress: Progress, built: keras.Model, period_steps: int, *, writes: bool = True
    ) -> None:
        super().__init__()
        self.writes = writes
        self.run, self.recipe, self.progress, self.built, self.period_steps = run, recipe, progress, built, period_steps
        self._steps_text: list[str] = []

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Save the period."""
        metrics = {key: float(value) for key, value in (logs or {}).items()}
        rate = float(self.progress.steps[-1, 3])  # of the last step; the optimizer's own is already the next step's
        epochs, step = (epoch + 1) / self.recipe.validations_per_epoch, (epoch + 1) * self.period_steps
        if bad := [f"{key} {value}" for key, value in metrics.items() if not math.isfinite(value)]:
            raise TrainingDivergedError(", ".join(bad), epochs, step, rate)
        row = {"epoch": epochs, "step": float(step), **metrics, "learning_rate": rate}
        row["seconds"] = round(time.perf_counter() - self._started, 3)
        progress, better = self.progress, self._is_better(row)
        progress.history.append(row)
        give_weights(self.model, self.built)
        if better:
            progress.best = len(progress.history) - 1
        if self.writes:
            if better:
                with atomic_write(self.run / f"best.{progress.best:06d}.keras") as path:
                    save_model(self.built, path)
            with atomic_write(self.run / "last.npz") as path:
                save_checkpoint(path, self.model, progress)
            finish_commit(self.run, progress, self._steps_text)
        log.info("%s%s", describe_row(row, self.recipe), "  best so far" if better and self.recipe.log_style == "full" else "")
        if self.recipe.patience and progress.since_best >= self.recipe.patience:
            self.model.stop_training = True

    def _is_better(self, row: dict[str, float]) -> bool:
        monitor, progress = self.recipe.monitor, self.progress
        if progress.best < 0 or monitor == "last":
            return True
        before = progress.history[progress.best][monitor]
        return row[monitor] < before if monitor == "val_loss" else row[monitor] > before


def describe_row(row: Mapping[str, float], recipe: TrainedRecipe) -> str:
    """One log line of a period: epoch, losses, metrics, learning rate and time; or the line of a course's own program.

    A task without an accuracy has its R1 in that place.
    """
    if recipe.log_style == "csc413":
        metrics = "".join(f", Val {name}: {100 * row[key]:.1f}%" for name, key in VALIDATION_METRICS.items() if key in row)
        return f"Epoch [{row['epoch']:g}/{recipe.epochs}], Val Loss: {row['val_loss']:.4f}{metrics}"
    if recipe.log_style == "ntu":
        names = {"Train Acc": "accuracy", **{f"Val {name}": key for name, key in VALIDATION_METRICS.items()}}
        names |= {"Train Loss": "loss", "Val Loss": "val_loss"}
        metrics = " | ".join(f"{name}: {row[key]:.5f}" for name, key in names.items() if key in row)
        return f"[{row['epoch']:g}/{recipe.epochs}] {metrics}"
    hidden = ("epoch", "step", "learning_rate", "seconds")
    metrics = "  ".join(f"{key} {value:.4f}" for key, value in row.items() if key not in hidden)
    return f"epoch {row['epoch']:>4g}/{recipe.epochs}  {metrics}  lr {row['learning_rate']:.2e}  {row['seconds']:.1f} s"


def describe_result(test: Mapping[str, Any], recipe: Recipe) -> str:
    """Last log line of a run, from its test metrics, where a course's own program has one; else empty."""
    if not isinstance(recipe, TrainedRecipe) or recipe.log_style != "cose474":
        return ""
    name, value = _main_metric(test)
    return f"{name} of the model on the test images: {100 * value:.2f} %"


def describe_evaluation(test: Mapping[str, Any], recipe: Recipe) -> str:
    """Last line of ``python -m kerascv_course.evaluate``, where a course's own program has one; else empty."""
    if not isinstance(recipe, TrainedRecipe) or recipe.log_style != "ntu":
        return ""
    name, value = _main_metric(test)
    return f"{name} = {value:.4f}"


def _main_metric(test: Mapping[str, Any]) -> tuple[str, float]:
    """Accuracy, or R1 of a task without one."""
    return ("Accuracy", test["accuracy"]) if "accuracy" in test else ("R1", test["R1"])


class StepLog(keras.callbacks.Callback):
    """Records loss and learning rate of each step, and stops at the first loss that is not finite.

    A step only stores one number, which Keras may do in another thread (``async_safe``) so that a GPU need not wait; the rest happens
    at the end of the period. Must precede `CheckpointCallback`, which saves the record.

    Args:
        recipe: gives the log style.
        progress: its ``steps`` are extended.
        epoch_steps: steps per epoch.
        period_steps: steps per period.
    """

    async_safe = True

    def __init__(self, recipe: TrainedRecipe, progress: Progress, epoch_steps: int, period_steps: int) -> None:
        super().__init__()
        self.recipe, self.progress = recipe, progress
        self.epoch_steps, self.period_steps = epoch_steps, period_steps

    def on_train_begin(self, logs: Logs = None) -> None:
        """Prepare the learning rates."""
        self._rates = learning_rates(self.model.optimizer)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Reset the running means."""
        self._means = np.full(self.period_steps, math.nan)
        self._period = epoch
        # steps of this epoch in earlier periods, for the mean since the start of the epoch
        self._parts = epoch % self.recipe.validations_per_epoch
        first = (epoch - self._parts) * self.period_steps
        earlier = self.progress.steps[self.progress.steps[:, 0] > first, 2]
        self._earlier = (float(earlier.sum()), len(earlier))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Store Keras's running mean of the loss."""
        mean = self._means[batch] = (logs or {})["loss"]
        if not math.isfinite(mean):
            step = self._period * self.period_steps + batch
            epoch = (step + 1) / self.period_steps / self.recipe.validations_per_epoch
            raise TrainingDivergedError(f"loss {mean}", epoch, step + 1, float(self._rates([step])[0]))
        number = self._parts * self.period_steps + batch + 1
        if self.recipe.log_style == "cose474" and number % COSE474_EVERY == 0:
            earlier, count = self._earlier
            epoch = self._period // self.recipe.validations_per_epoch + 1
            since = (earlier + mean * (batch + 1)) / (count + batch + 1)
            log.info("Epoch [%d/%d], Step [%d/%d] Loss: %.4f", epoch, self.recipe.epochs, number, self.epoch_steps, since)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Add the period's steps to the progress."""
        steps = epoch * self.period_steps + np.arange(self.period_steps)
        epochs = (steps + 1) / self.period_steps / self.recipe.validations_per_epoch
        rows = np.stack([steps + 1, epochs, step_losses(self._means), self._rates(steps)], axis=1)
        self.progress.steps = np.concatenate([self.progress.steps, rows])


def step_losses(means: np.ndarray) -> np.ndarray:
    """Losses of single steps from Keras's running means of equal batches: n·mean_n − (n−1)·mean_{n−1}.

    Keras sums in float32, which limits a loss to about n·6e-8 of the mean: 4 digits after 1,000 steps.

    Args:
        means: float (steps,), the mean of steps 1 … n at index n − 1.
    """
    return np.diff(means * np.arange(1, len(means) + 1), prepend=0.0)


class Remainder(keras.callbacks.Callback):
    """Includes the validation images that do not divide among the devices: every device computes them, and they count once.

    All metrics are means over images. Must precede callbacks that change the weights at the end of an evaluation.

    Args:
        shared: number of the other images.
        rest: these images, fewer than there are devices.
    """

    def __init__(self, shared: int, rest: Split) -> None:
        super().__init__()
        self.shared, self.rest = shared, rest

    def on_test_end(self, logs: Logs = None) -> None:
        """Compute."""
        with whole_batches():
            rest = self.model.test_on_batch(np.asarray(self.rest.images), self.rest.targets, return_dict=True)
        share = len(self.rest) / (self.shared + len(self.rest))
        self._metrics = {name: (1 - share) * value + share * float(rest[name]) for name, value in (logs or {}).items()}

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Replace Keras's metrics of the other images by those of all images."""
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in self._metrics.items()})


class TrainingWait(keras.callbacks.Callback):
    """Shows the time left of all epochs, validations included.

    Units are images; one that is trained on counts as `TRAINED`, since the backward pass takes about twice the time of the forward one.

    Args:
        wait: what is shown.
        recipe: gives the number of periods.
        period_steps: steps per period.
        validation: number of validation images.
        batch_size: of the validation.
    """

    async_safe = True  # see `StepLog`

    TRAINED = 3

    def __init__(self, wait: Wait, recipe: TrainedRecipe, period_steps: int, validation: int, batch_size: int) -> None:
        super().__init__()
        self.wait, self.recipe, self.period_steps = wait, recipe, period_steps
        self.validation, self.batch_size = validation, batch_size
        self._period = 0
        self._step = self.TRAINED * recipe.batch_size
        self._size = period_steps * self._step + validation

    def start(self, done: int) -> None:
        """Before the training: so many periods were done before."""
        periods = self.recipe.epochs * self.recipe.validations_per_epoch
        self._period = done
        self.wait.begin(periods * self._size, done * self._size)
        self._describe(0)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """A period begins."""
        self._period = epoch
        self._describe(0)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """A step is done."""
        self.wait.to(self._period * self._size + (batch + 1) * self._step)
        self._describe(batch + 1)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Some validation images are done."""
        images = min((batch + 1) * self.batch_size, self.validation)
        self.wait.to(self._period * self._size + self.period_steps * self._step + images)
        self.wait.note = f"{images:,} of {self.validation:,} validation images"

    def _describe(self, step: int) -> None:
        recipe, all_steps = self.recipe, self.period_steps * self.recipe.validations_per_epoch
        epoch, part = divmod(self._period, recipe.validations_per_epoch)
        self.wait.what = f"training, epoch {epoch + 1} of {recipe.epochs}"
        self.wait.note = f"step {part * self.period_steps + step:,} of {all_steps:,}"


class Counter(keras.callbacks.Callback):
    """Counts the images of a prediction.

    Args:
        wait: what is shown.
        images: number of images.
        batch_size: images a batch; the last may be smaller.
    """

    def __init__(self, wait: Wait, images: int, batch_size: int) -> None:
        super().__init__()
        self.wait, self.images, self.batch_size = wait, images, batch_size

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        """A batch is done."""
        self.wait.advance(min(self.batch_size, self.images - batch * self.batch_size))


# --- Optional monitoring ---


@dataclass(frozen=True)
class Monitors:
    """Records beside the run's own files, which do not change the training.

    Attributes:
        tensorboard: metrics of every validation and the graph, in ``tensorboard/`` of the run.
        profile: TensorFlow's profile of a few steps, in ``profile/`` of the run.
    """

    tensorboard: bool = False
    profile: bool = False

    def check(self) -> None:
        """Refuse what cannot be recorded, before training.

        Raises:
            CourseError: ``tensorboard`` is not installed.
            InputError: a profile is requested with a Keras backend other than TensorFlow.
        """
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise CourseError(
                "--tensorboard needs the package tensorboard, which is not installed: pip install 'kerascv_course[tensorboard]', or "
                "pip install tensorboard"
            )
        if self.profile and keras.backend.backend() != "tensorflow":
            raise InputError(f"--profile needs the Keras backend tensorflow; received {keras.backend.backend()}: omit it")

    def callbacks(self, run: Run) -> list[keras.callbacks.Callback]:
        """The callbacks that record into the run folder."""
        callbacks: list[keras.callbacks.Callback] = []
        if self.tensorboard:
            callbacks.append(keras.callbacks.TensorBoard(str(run / "tensorboard"), update_freq="epoch"))
            log.info("TensorBoard: tensorboard --logdir %s", shell_word(run / "tensorboard"))
        if self.profile:
            callbacks.append(Profiler(run / "profile"))
        return callbacks


class Profiler(keras.callbacks.Callback):
    """Records a few steps with the TensorFlow profiler.

    Args:
        folder: for the profile.
        first: first step to record; 1 is the first of the training.
        last: last step to record; a shorter training is recorded to its end.
    """

    def __init__(self, folder: Path, first: int = PROFILE_FROM, last: int = PROFILE_TO) -> None:
        super().__init__()
        self.folder, self.first, self.last = folder, first, last
        self._step, self._recording = 0, False

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Start before the first step."""
        self._step += 1
        if self._step == self.first:
            tf.profiler.experimental.start(os.fspath(self.folder))
            self._recording = True

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Write after the last step."""
        if self._step == self.last:
            self.on_train_end()

    def on_train_end(self, logs: Logs = None) -> None:
        """Write what is recorded."""
        if self._recording:
            tf.profiler.experimental.stop()
            self._recording = False
            text = "profile of steps %d to %d: tensorboard --logdir %s (with the package tensorboard-plugin-profile)"
            log.info(text, self.first, self._step, shell_word(self.folder))
