"""Training: a recipe's model through `model.fit`, into a run folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras

from kerascv_course.config import Recipe
from kerascv_course.core.errors import InputError
from kerascv_course.data import DataInfo, Splits
from kerascv_course.data.pipeline import evaluation_batches, steps_per_epoch, training_batches
from kerascv_course.tasks.base import Task
from kerascv_course.training.callbacks import Keeper, ProgressBar, Remainder, Snapshots, Validation, finish_commit
from kerascv_course.training.checkpoint import Progress, load_checkpoint
from kerascv_course.training.devices import ONE, Devices
from kerascv_course.training.distributed import telling_lost_processes
from kerascv_course.training.optimizers import build_optimizer
from kerascv_course.training.precision import training_copy
from kerascv_course.training.run_dir import Run
from kerascv_course.training.steps import StepLog

__all__ = ["Training", "prepare", "train"]

VALIDATION_BATCH = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """A compiled model with its optimiser built, and how its epochs are cut into periods.

    Attributes:
        model: from uint8 images to what the loss takes.
        built: the network as the task built it, which gets the model's weights when they are kept.
        task: what is learnt.
        epoch_steps: steps of an epoch.
        period_steps: steps from validation to validation; where the validations of an epoch do not divide its steps, the
            remainder is left to the next epoch.
        devices: what the model is spread over; `built` is this process's own.
    """

    model: keras.Model
    built: keras.Model
    task: Task
    epoch_steps: int
    period_steps: int
    devices: Devices = ONE


def seed_everything(recipe: Recipe) -> None:
    """Seed Python, NumPy and Keras, and ask for deterministic operations where the recipe wants them."""
    import tensorflow as tf

    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()


def prepare(recipe: Recipe, task: Task, splits: Splits, info: DataInfo, devices: Devices = ONE) -> Training:
    """Build and compile what the recipe describes; nothing is written.

    Raises:
        InputError: a batch is larger than the training split, or does not divide among the devices, or the network cannot be built for
            the data.
    """
    devices.check_batch(recipe.batch_size)
    epoch_steps = steps_per_epoch(splits.train, recipe.batch_size)
    period_steps = epoch_steps // recipe.validations_per_epoch
    if not period_steps:
        raise InputError(
            f"an epoch has at least one batch for each validation; {len(splits.train)} training images make {epoch_steps} batches "
            f"of {recipe.batch_size}: use a smaller --batch-size or fewer --validations-per-epoch"
        )
    seed_everything(recipe)
    built = task.build(recipe, splits, info)
    with devices.scope(), telling_lost_processes(None):
        model = training_copy(built, recipe, devices)
        optimizer = build_optimizer(recipe, epoch_steps)
        if recipe.optimizer.weight_decay and not recipe.optimizer.decay_norms:
            optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if v.name != "kernel"])
        model.compile(
            optimizer=optimizer,
            jit_compile=recipe.jit_compile == "on",
            **task.compile_arguments(recipe, splits, info),
        )
        model.optimizer.build(model.trainable_variables)
    return Training(model, built, task, epoch_steps, period_steps, devices)


def train(
    recipe: Recipe,
    training: Training,
    splits: Splits,
    info: DataInfo,
    run: Run,
    *,
    resume: bool = False,
    watchers: Sequence[keras.callbacks.Callback] = (),
) -> Progress:
    """Fit, keeping history and checkpoints in the run folder; ends with the best weights in ``best.keras``.

    Args:
        recipe: what to do.
        training: from `prepare`.
        splits: train is learnt from; validation chooses the checkpoint; test is not touched.
        info: of the data.
        run: the folder; of several processes only the first writes.
        resume: go on from the folder's ``last.npz``; where a run was stopped before its first, from the beginning.
        watchers: further callbacks, which must not change anything.

    Returns:
        The progress made, all of it.

    Raises:
        InputError: the checkpoint is damaged or does not belong to the recipe and data.
        TrainingDivergedError: the loss is not finite.
        WriteError: a checkpoint cannot be written.
        LostProcessError: another process of the training has ended.
    """
    devices = training.devices
    progress = Progress(info.fingerprint, recipe=recipe.name)
    if resume and (run / "last.npz").exists():
        progress = load_checkpoint(run / "last.npz", training.model, info.fingerprint, recipe.name)
        if devices.writes:
            finish_commit(run, progress)
        log.info("resumed after epoch %g", len(progress.history) / recipe.validations_per_epoch)
    if resume and devices.writes:  # not before the checkpoint is known to fit
        run.write_json("recipe.json", asdict(recipe))
    periods, done = recipe.epochs * recipe.validations_per_epoch, len(progress.history)
    stopped = bool(recipe.patience and done and progress.since_best >= recipe.patience)
    if done >= periods or stopped:
        return progress
    shared, rest = devices.share(splits.validation)
    part = devices.part if devices.processes > 1 else None
    writing = [
        Snapshots(run, lambda: training.task.snapshot(training.built, recipe, splits, info), recipe.snapshots),
        *watchers,
    ]
    with devices.fitting(), telling_lost_processes(run):
        training.model.fit(
            training_batches(
                splits.train,
                recipe,
                first_step=done * training.period_steps,
                relabel=training.task.relabel(info),
                classes=len(info.labels),
                order=training.task.order(recipe, splits),
                part=part,
            ),
            epochs=periods,
            initial_epoch=done,
            steps_per_epoch=training.period_steps,
            validation_data=evaluation_batches(shared, devices.multiple(VALIDATION_BATCH), part=part),
            callbacks=[
                *([Remainder(len(shared), rest)] if len(rest) else []),
                *([keras.callbacks.SwapEMAWeights()] if recipe.optimizer.ema else []),
                Validation(training.built, lambda built: training.task.validate(built, recipe, splits, info)),
                ProgressBar(training.period_steps),
                StepLog(recipe, progress, training.epoch_steps, training.period_steps),
                Keeper(run, recipe, progress, training.built, training.period_steps, writes=devices.writes),
                *(writing if devices.writes else []),
            ],
            shuffle=False,  # the stream is shuffled already
            verbose=0,
        )
    return progress
