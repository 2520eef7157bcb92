"""Callbacks for `model.fit`: keeping what was learnt, and telling how it goes.

One "epoch" of `model.fit` is here one period from validation to validation: the whole epoch, or a part of it where the recipe
validates more often.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
from tqdm import tqdm

from kerascv_course.config import Recipe
from kerascv_course.core.io import atomic_write
from kerascv_course.data import Split
from kerascv_course.training.checkpoint import Progress, save_checkpoint
from kerascv_course.training.devices import whole_batches, without_distribution
from kerascv_course.training.precision import give_weights
from kerascv_course.training.run_dir import Run
from kerascv_course.training.steps import TrainingDivergedError, describe_divergence, write_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Keeper", "ProgressBar", "Remainder", "Snapshots", "TrainingDivergedError", "Validation", "write_history"]

log = logging.getLogger(__name__)


class Keeper(keras.callbacks.Callback):
    """After each period: the history, the best weights, the checkpoint to resume from; and the early stop.

    The order of writing makes the run whole at every moment: (1) a better model goes to ``best.PERIOD.keras``; (2) ``last.npz``,
    which names the best period, replaces its predecessor: this commits; (3) the better model is renamed to ``best.keras``.
    `finish_commit` does the third step over after a crash between (2) and (3), and undoes the first after one between (1) and (2).

    Args:
        run: the folder.
        recipe: says what "better" is, and when to stop.
        progress: where training stands; it is continued in place.
        built: the network that gets the trained weights and is saved.
        period_steps: steps of a period.
        writes: whether this process writes the folder; the others keep count, so that all stop at the same time.
    """

    def __init__(
        self, run: Run, recipe: Recipe, progress: Progress, built: keras.Model, period_steps: int, *, writes: bool = True
    ) -> None:
        super().__init__()
        self.writes = writes
        self.run, self.recipe, self.progress, self.built, self.period_steps = run, recipe, progress, built, period_steps
        self._steps_text: list[str] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the period's clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the period."""
        figures = {key: float(value) for key, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        if not all(map(math.isfinite, figures.values())):
            bad = ", ".join(f"{key} {value}" for key, value in figures.items() if not math.isfinite(value))
            step = (epoch + 1) * self.period_steps
            raise TrainingDivergedError(describe_divergence(bad, self._epoch(epoch), step, rate))
        row = {"epoch": self._epoch(epoch), "step": float((epoch + 1) * self.period_steps), **figures}
        row |= {"learning_rate": rate, "seconds": round(time.perf_counter() - self._started, 3)}
        progress, better = self.progress, self._is_better(row)
        progress.history.append(row)
        give_weights(self.model, self.built)
        if better:
            progress.best = len(progress.history) - 1
        if self.writes:
            self._write(better)
        log.info("%s%s", describe_row(row, self.recipe), "  best so far" if better and self.recipe.log_style == "full" else "")
        if self.recipe.patience and progress.since_best >= self.recipe.patience:
            self.model.stop_training = True

    def _write(self, better: bool) -> None:
        if better:
            with atomic_write(self._staged_best()) as path:
                self.built.save(path)
        with atomic_write(self.run / "last.npz") as path:
            save_checkpoint(path, self.model, self.progress)
        finish_commit(self.run, self.progress, self._steps_text)

    def _epoch(self, period: int) -> float:
        return (period + 1) / self.recipe.validations_per_epoch

    def _staged_best(self) -> Any:
        return self.run / f"best.{self.progress.best:06d}.keras"

    def _is_better(self, row: dict[str, float]) -> bool:
        monitor, progress = self.recipe.monitor, self.progress
        if progress.best < 0 or monitor == "last":
            return True
        before = progress.history[progress.best][monitor]
        return row[monitor] < before if monitor == "val_loss" else row[monitor] > before


def finish_commit(run: Run, progress: Progress, steps_text: list[str] | None = None) -> None:
    """Bring ``best.keras``, ``history.csv`` and ``steps.csv`` in line with a committed progress (see `Keeper`, `write_steps`)."""
    for staged in sorted(run.path.glob("best.*.keras")):
        if staged.name == f"best.{progress.best:06d}.keras":
            staged.replace(run / "best.keras")
        else:
            staged.unlink()
    write_history(run, progress.history)
    write_steps(run, progress.steps, text=steps_text)


def write_history(run: Run, history: list[dict[str, float]]) -> None:
    """Write ``history.csv``, a row a validation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]) if history else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    run.write_text("history.csv", text.getvalue())


def describe_row(row: dict[str, float], recipe: Recipe) -> str:
    """One line of a period: epoch, losses and metrics, rate, time; or what a course's own program prints."""
    if recipe.log_style == "csc413":
        loss, accuracy = row["val_loss"], 100 * row["val_accuracy"]
        return f"Epoch [{row['epoch']:g}/{recipe.epochs}], Val Loss: {loss:.4f}, Val Acc: {accuracy:.1f}%"
    if recipe.log_style == "ntu":
        names = {"Train Acc": "accuracy", "Val Acc": "val_accuracy", "Train Loss": "loss", "Val Loss": "val_loss"}
        figures = " | ".join(f"{name}: {row[key]:.5f}" for name, key in names.items())
        return f"[{row['epoch']:g}/{recipe.epochs}] {figures}"
    hidden = ("epoch", "step", "learning_rate", "seconds")
    figures = "  ".join(f"{key} {value:.4f}" for key, value in row.items() if key not in hidden)
    return f"epoch {row['epoch']:>4g}/{recipe.epochs}  {figures}  rate {row['learning_rate']:.2e}  {row['seconds']:.1f} s"


class Validation(keras.callbacks.Callback):
    """After each period: figures of the validation split that Keras's metrics cannot give, for the callbacks that follow.

    Args:
        built: the network that gets the trained weights.
        measure: from it to figures, named without ``val_``.
    """

    def __init__(self, built: keras.Model, measure: Callable[[keras.Model], dict[str, float]]) -> None:
        super().__init__()
        self.built, self.measure = built, measure

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure."""
        give_weights(self.model, self.built)
        if logs is not None:
            with without_distribution():
                logs.update({f"val_{name}": value for name, value in self.measure(self.built).items()})


class Remainder(keras.callbacks.Callback):
    """At the end of an evaluation: the images that the devices cannot share equally, computed by each of them and counted once.

    All figures are means over images. It stands before what changes the weights at the end of an evaluation.

    Args:
        shared: how many images the others are.
        rest: those images, fewer than there are devices.
    """

    def __init__(self, shared: int, rest: Split) -> None:
        super().__init__()
        self.shared, self.rest = shared, rest

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Compute them."""
        with whole_batches():
            rest = self.model.test_on_batch(self.rest.images, self.rest.targets, return_dict=True)
        share = len(self.rest) / (self.shared + len(self.rest))
        self._figures = {name: (1 - share) * value + share * float(rest[name]) for name, value in (logs or {}).items()}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the figures of all images in the place of those that Keras has of the others."""
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in self._figures.items()})


class Snapshots(keras.callbacks.Callback):
    """After each period: a picture of how far the model has come, ``snapshots/validation_0001.png`` …

    Args:
        run: the folder.
        draw: makes the figure of the weights as they stand, or None where there is nothing to draw.
        every: periods from one picture to the next; 0: none.
    """

    def __init__(self, run: Run, draw: Callable[[], Figure | None], every: int) -> None:
        super().__init__()
        self.run, self.draw, self.every = run, draw, every

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw and write."""
        if self.every and (epoch + 1) % self.every == 0 and (figure := self.draw()) is not None:
            self.run.write_figure(f"snapshots/validation_{epoch + 1:04d}.png", figure, dpi=80)


class ProgressBar(keras.callbacks.Callback):
    """A bar within the period, where a person is watching; nothing where the output goes to a file."""

    async_safe = True  # see `StepLog`

    def __init__(self, period_steps: int) -> None:
        super().__init__()
        self.period_steps = period_steps

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Open the bar."""
        self._bar = tqdm(total=self.period_steps, leave=False, disable=None, unit="step", mininterval=0.2)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move it."""
        self._bar.update(batch + 1 - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Take it away, before the period's line is written."""
        self._bar.close()
