"""Training with `model.fit`, into a run folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from kerascv_course.core.images import bounded_batch
from kerascv_course.core.progress import Wait
from kerascv_course.core.schema import to_json
from kerascv_course.data import Dataset, check_batch
from kerascv_course.data.pipeline import evaluation_batches, reading, steps_per_epoch, training_batches
from kerascv_course.training.callbacks import CheckpointCallback, Remainder, StepLog, TrainingWait
from kerascv_course.training.checkpoint import Progress, finish_commit, load_checkpoint
from kerascv_course.training.devices import ONE, Devices, without_distribution
from kerascv_course.training.distributed import report_lost_processes
from kerascv_course.training.optimizers import build_optimizer
from kerascv_course.training.precision import give_weights, training_copy
from kerascv_course.training.resume import is_trained
from kerascv_course.training.run_dir import Run

if TYPE_CHECKING:
    from kerascv_course.config import TrainedRecipe
    from kerascv_course.tasks.base import TrainedTask

__all__ = ["Training", "prepare", "train"]

VALIDATION_BATCH = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """A compiled model, its optimizer built, and all that `train` needs.

    Attributes:
        task: with its recipe.
        data: with the task's targets.
        model: the model that is trained, from uint8 images to what the loss takes.
        built: the network as the task built it; it receives the trained weights whenever they are saved.
        epoch_steps: steps per epoch.
        period_steps: steps from validation to validation; steps that do not divide evenly are left to the next epoch.
        devices: devices that the model is spread over; `built` is this process's own.
    """

    task: TrainedTask[TrainedRecipe]
    data: Dataset
    model: keras.Model
    built: keras.Model
    epoch_steps: int
    period_steps: int
    devices: Devices = ONE


def prepare(task: TrainedTask[TrainedRecipe], data: Dataset, devices: Devices = ONE) -> Training:
    """Build and compile the model of a recipe; nothing is written. Sets the global random seeds.

    Raises:
        InputError: a batch is larger than the training split or does not divide among the devices, or the network cannot be built
            for the data.
    """
    recipe = task.recipe
    devices.check_batch(recipe.batch_size)
    check_batch(recipe, len(data.train))
    epoch_steps = steps_per_epoch(data.train, recipe.batch_size)
    period_steps = epoch_steps // recipe.validations_per_epoch
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    built = task.build(data)
    with devices.scope(), report_lost_processes(None):
        model = training_copy(built, recipe, devices)
        optimizer = build_optimizer(recipe, epoch_steps)
        if recipe.optimizer.weight_decay and not recipe.optimizer.decay_norms:
            optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if v.name != "kernel"])
        model.compile(optimizer=optimizer, jit_compile=recipe.jit_compile == "on", **task.compile_arguments(data))
        model.optimizer.build(model.trainable_variables)
    return Training(task, data, model, built, epoch_steps, period_steps, devices)


def train(training: Training, run: Run, *, resume: bool = False, monitors: Sequence[keras.callbacks.Callback] = ()) -> Progress:
    """Fit, with history and checkpoints in the run folder; the best weights end in ``best.keras``.

    The validation split selects the checkpoint; the test split is not used.

    Args:
        training: from `prepare`.
        run: the folder; with several processes only the first writes.
        resume: continue from the folder's ``last.npz``, or from the beginning if there is none yet.
        monitors: further callbacks, which must not change anything.

    Returns:
        The progress, earlier epochs included.

    Raises:
        InputError: the checkpoint is damaged or does not belong to the recipe and data.
        TrainingDivergedError: the loss is not finite.
        WriteError: a checkpoint cannot be written.
        LostProcessError: another process of the training has ended.
    """
    recipe, devices = training.task.recipe, training.devices
    progress = _restore(training, run) if resume else Progress(training.data.info.fingerprint, recipe=recipe.name)
    if is_trained(recipe, progress):
        return progress
    periods, done = recipe.epochs * recipe.validations_per_epoch, len(progress.history)
    shared, rest = devices.share(training.data.validation)
    part = devices.part if devices.processes > 1 else None
    callbacks, batch = _callbacks(training, run, progress), bounded_batch(VALIDATION_BATCH, shared.images.shape)
    if len(rest):
        callbacks.insert(0, Remainder(len(shared), rest))
    with devices.fitting(), report_lost_processes(run), reading(), Wait("training") as wait:
        shown = TrainingWait(wait, recipe, training.period_steps, len(shared), devices.multiple(batch))
        shown.start(done)
        training.model.fit(
            training_batches(
                training.data.train,
                recipe,
                first_step=done * training.period_steps,
                relabel=training.task.relabel(training.data.info),
                classes=len(training.data.info.labels),
                order=training.task.order(training.data),
                part=part,
            ),
            epochs=periods,
            initial_epoch=done,
            steps_per_epoch=training.period_steps,
            validation_data=evaluation_batches(shared, devices.multiple(batch), part=part),
            callbacks=[shown, *callbacks, *(monitors if devices.writes else ())],
            shuffle=False,  # the stream is shuffled already
            verbose=0,
        )
    return progress


def _restore(training: Training, run: Run) -> Progress:
    """Load the last checkpoint, if there is one, and record the recipe that the run continues with."""
    recipe, data, writes = training.task.recipe, training.data, training.devices.writes
    progress = Progress(data.info.fingerprint, recipe=recipe.name)
    if (run / "last.npz").exists():
        progress = load_checkpoint(run / "last.npz", training.model, data.info.fingerprint, recipe.name)
        if writes:
            finish_commit(run, progress)
        log.info("resumed after epoch %g", len(progress.history) / recipe.validations_per_epoch)
    if writes:  # not before the checkpoint is known to match
        run.write_text("recipe.json", to_json(recipe))
    return progress


def _callbacks(training: Training, run: Run, progress: Progress) -> list[keras.callbacks.Callback]:
    """The callbacks in the order in which Keras must call them."""
    task, data, model, built = training.task, training.data, training.model, training.built
    recipe, steps, writes = task.recipe, training.period_steps, training.devices.writes

    def validate(_: int, logs: dict[str, float]) -> None:
        """Add the task's own metrics to Keras's."""
        give_weights(model, built)
        with without_distribution():
            for name, value in task.validate(built, data).items():
                logs[f"val_{name}"] = value

    def draw_snapshot(period: int, _: dict[str, float]) -> None:
        if (
            writes
            and recipe.snapshots
            and (period + 1) % recipe.snapshots == 0
            and (figure := task.snapshot(built, data)) is not None
        ):
            run.write_figure(f"snapshots/validation_{period + 1:04d}.png", figure, dpi=80)

    return [
        *([keras.callbacks.SwapEMAWeights()] if recipe.optimizer.ema else []),
        keras.callbacks.LambdaCallback(on_epoch_end=validate),
        StepLog(recipe, progress, training.epoch_steps, steps),
        CheckpointCallback(run, recipe, progress, built, steps, writes=writes),
        keras.callbacks.LambdaCallback(on_epoch_end=draw_snapshot),
    ]
