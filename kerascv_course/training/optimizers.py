"""Optimisers and learning-rate schedules of a recipe, as Keras's own."""

from __future__ import annotations

from typing import Any

import keras

from kerascv_course.recipe import Recipe, Schedule

__all__ = ["build_optimizer", "build_schedule"]


def build_schedule(schedule: Schedule, learning_rate: float, steps_per_epoch: int, steps: int) -> Any:
    """The learning rate as a number or a Keras schedule over steps.

    Args:
        schedule: the recipe's.
        learning_rate: peak rate.
        steps_per_epoch: steps that an epoch has.
        steps: steps of the whole training.
    """
    if schedule.name == "constant":
        return learning_rate
    if schedule.name == "cosine":
        warmup = round(schedule.warmup_epochs * steps_per_epoch)
        if not warmup:
            return keras.optimizers.schedules.CosineDecay(learning_rate, max(steps, 1))
        return keras.optimizers.schedules.CosineDecay(
            0.0, max(steps - warmup, 1), warmup_target=learning_rate, warmup_steps=warmup
        )
    boundaries = [round(epoch * steps_per_epoch) for epoch in schedule.milestones]
    values = [learning_rate * schedule.factor**i for i in range(len(boundaries) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


def build_optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The recipe's optimiser with its schedule."""
    config = recipe.optimizer
    rate = build_schedule(recipe.schedule, config.learning_rate, steps_per_epoch, recipe.epochs * steps_per_epoch)
    options: dict[str, Any] = {"learning_rate": rate, "weight_decay": config.weight_decay or None}
    if config.name == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **options)
    if config.name == "rmsprop":
        return keras.optimizers.RMSprop(momentum=config.momentum, **options)
    if config.name == "adamw":
        return keras.optimizers.AdamW(**{**options, "weight_decay": config.weight_decay})
    return {"adam": keras.optimizers.Adam, "adamax": keras.optimizers.Adamax}[config.name](**options)
