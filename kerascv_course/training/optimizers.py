"""Optimisers and learning-rate schedules of a recipe, as Keras's own."""

from __future__ import annotations

from typing import Any

import keras

from kerascv_course.config import Recipe, Schedule
from kerascv_course.training.muon import Muon

__all__ = ["build_optimizer", "build_schedule"]


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from zero to a peak, then another schedule.

    Args:
        schedule: what comes after, counting its steps from the peak on.
        peak: learning rate at the end of the rise.
        steps: of the rise.
    """

    def __init__(self, schedule: Any, peak: float, steps: int) -> None:
        super().__init__()
        self.schedule, self.peak, self.steps = schedule, peak, steps

    def __call__(self, step: Any) -> Any:
        """The rate of a step."""
        step = keras.ops.cast(step, "float32")
        return keras.ops.where(
            step < self.steps, self.peak * step / self.steps, self.schedule(keras.ops.maximum(step - self.steps, 0.0))
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"schedule": self.schedule, "peak": self.peak, "steps": self.steps}


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
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.name == "linear":
        fall = keras.optimizers.schedules.PolynomialDecay
        if not warmup:
            return fall(learning_rate, max(steps, 1), end_learning_rate=0.0)
        return WarmUp(fall(learning_rate, max(steps - warmup, 1), end_learning_rate=0.0), learning_rate, warmup)
    if schedule.name == "cosine":
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
    if config.ema:
        options |= {"use_ema": True, "ema_momentum": config.ema}
    if config.name == "muon":
        return Muon(
            momentum=config.momentum,
            nesterov=config.nesterov,
            norm_factor=(config.norm_rate or config.learning_rate) / config.learning_rate,
            head_factor=(config.head_rate or config.learning_rate) / config.learning_rate,
            **options,
        )
    if config.name == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **options)
    if config.name == "rmsprop":
        return keras.optimizers.RMSprop(momentum=config.momentum, **options)
    if config.name == "adamw":
        return keras.optimizers.AdamW(**{**options, "weight_decay": config.weight_decay})
    return {"adam": keras.optimizers.Adam, "adamax": keras.optimizers.Adamax}[config.name](**options)
