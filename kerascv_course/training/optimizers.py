"""Optimizers and learning-rate schedules of a recipe: Keras's own, and Muon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerascv_course.config import Schedule, TrainedRecipe

__all__ = ["Muon", "build_optimizer", "build_schedule", "learning_rates", "orthogonalize"]


def build_optimizer(recipe: TrainedRecipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The recipe's optimizer with its schedule."""
    config = recipe.optimizer
    rate = build_schedule(recipe.schedule, config.learning_rate, steps_per_epoch, recipe.epochs * steps_per_epoch)
    options: dict[str, Any] = {"learning_rate": rate, "weight_decay": config.weight_decay or None}
    if config.ema:
        options |= {"use_ema": True, "ema_momentum": config.ema}
    match config.name:
        case "muon":
            return Muon(
                momentum=config.momentum,
                nesterov=config.nesterov,
                norm_factor=(config.norm_rate or config.learning_rate) / config.learning_rate,
                head_factor=(config.head_rate or config.learning_rate) / config.learning_rate,
                **options,
            )
        case "sgd":
            return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **options)
        case "rmsprop":
            return keras.optimizers.RMSprop(momentum=config.momentum, **options)
        case "adamw":  # its default decay is not 0
            return keras.optimizers.AdamW(**{**options, "weight_decay": config.weight_decay})
        case "adamax":
            return keras.optimizers.Adamax(**options)
        case _:
            return keras.optimizers.Adam(**options)


def build_schedule(schedule: Schedule, learning_rate: float, steps_per_epoch: int, steps: int) -> Any:
    """The learning rate as a number or a Keras schedule over steps.

    Args:
        schedule: the recipe's.
        learning_rate: peak learning rate.
        steps_per_epoch: steps per epoch.
        steps: steps of the whole training.
    """
    schedules = keras.optimizers.schedules
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    rest = max(steps - warmup, 1)
    match schedule.name:
        case "constant":
            return learning_rate
        case "linear":
            fall = schedules.PolynomialDecay(learning_rate, rest, end_learning_rate=0.0)
            return WarmUp(fall, learning_rate, warmup) if warmup else fall
        case "cosine":
            if warmup:
                return schedules.CosineDecay(0.0, rest, warmup_target=learning_rate, warmup_steps=warmup)
            return schedules.CosineDecay(learning_rate, rest)
        case _:
            boundaries = [round(epoch * steps_per_epoch) for epoch in schedule.milestones]
            values = [learning_rate * schedule.factor**i for i in range(len(boundaries) + 1)]
            return schedules.PiecewiseConstantDecay(boundaries, values)


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from zero to a peak, then another schedule.

    Args:
        schedule: the schedule after the rise, which counts its steps from the peak.
        peak: learning rate at the end of the rise.
        steps: length of the rise.
    """

    def __init__(self, schedule: Any, peak: float, steps: int) -> None:
        super().__init__()
        self.schedule, self.peak, self.steps = schedule, peak, steps

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step."""
        step = ops.cast(step, "float32")
        return ops.where(step < self.steps, self.peak * step / self.steps, self.schedule(ops.maximum(step - self.steps, 0.0)))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"schedule": self.schedule, "peak": self.peak, "steps": self.steps}


def learning_rates(optimizer: keras.optimizers.Optimizer) -> Callable[[Sequence[int] | np.ndarray], np.ndarray]:
    """A function from step numbers, of which 0 is the first, to an optimizer's learning rates, float64 (n,).

    Evaluating a schedule step by step would cost as much as a step of a small network; as one TensorFlow function it does not.
    """
    schedule = getattr(optimizer, "_learning_rate", None)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return lambda steps: np.full(len(steps), float(ops.convert_to_numpy(optimizer.learning_rate)))
    if keras.backend.backend() != "tensorflow":
        return lambda steps: np.array([float(ops.convert_to_numpy(schedule(int(step)))) for step in steps])

    def rates(steps: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda step: tf.cast(schedule(step), tf.float32), steps, fn_output_signature=tf.float32)

    traced = tf.function(rates).get_concrete_function(tf.TensorSpec([None], tf.int64))
    return lambda steps: traced(tf.constant(steps, tf.int64)).numpy().astype(np.float64)


# --- Muon ---

#: Coefficients of the quintic iteration that moves every singular value to about 1 (0.7 to 1.2) in a few steps.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrix: Any, steps: int = 3) -> Any:
    """Approximately the nearest matrix with orthogonal rows or columns: U·Vᵀ of U·S·Vᵀ, with singular values of 0.7 to 1.2.

    Args:
        matrix: float (rows, columns).
        steps: Newton–Schulz iterations of three matrix products each.
    """
    a, b, c = QUINTIC
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else ops.transpose(matrix)
    x = x / (ops.norm(x) + 1e-7)
    for _ in range(steps):
        gram = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return x if wide else ops.transpose(x)


class Muon(keras.optimizers.SGD):
    """Orthogonalized momentum steps for convolution kernels, SGD with momentum for all other variables.

    Jordan et al.: "Muon: An optimizer for hidden layers in neural networks", 2024, applied to convolutions as in airbench94_muon;
    `keras.optimizers.Muon` accepts dense kernels only. A kernel (height, width, in, out) is a matrix (height·width·in, out). Before
    each step it is scaled to the norm √out, so that the learning rate alone sets the angle of the step; it needs no weight decay.

    Args:
        learning_rate: of convolution kernels, a number or a schedule; the other rates are multiples of it.
        momentum: of convolution kernels.
        sgd_momentum: of all other variables.
        norm_factor: learning rate of one-dimensional variables (batch norm, biases), in multiples of `learning_rate`.
        head_factor: the same for dense kernels.
        steps: of `orthogonalize`.
        **kwargs: of `keras.optimizers.SGD`: ``nesterov`` for all variables (default True), ``weight_decay`` for all but convolution
            kernels …
    """

    def __init__(
        self,
        learning_rate: Any = 0.24,
        momentum: float = 0.6,
        sgd_momentum: float = 0.85,
        norm_factor: float = 1.0,
        head_factor: float = 1.0,
        steps: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=sgd_momentum, **{"nesterov": True, **kwargs})
        self.kernel_momentum, self.steps = momentum, steps
        self.norm_factor, self.head_factor = norm_factor, head_factor

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        if len(variable.shape) != 4:
            factor = self.norm_factor if len(variable.shape) == 1 else self.head_factor
            super().update_step(gradient, variable, learning_rate * factor)
            return
        gradient, rate = ops.cast(gradient, variable.dtype), ops.cast(learning_rate, variable.dtype)
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, self.kernel_momentum * momentum + gradient)
        update = gradient + self.kernel_momentum * momentum if self.nesterov else ops.convert_to_tensor(momentum)
        out = variable.shape[-1]
        step = ops.reshape(orthogonalize(ops.reshape(update, (-1, out)), self.steps), variable.shape)
        scaled = variable * (out**0.5 / (ops.norm(ops.reshape(variable, (-1,))) + 1e-7))
        self.assign(variable, scaled - rate * step)

    def _use_weight_decay(self, variable: Any) -> bool:
        return len(variable.shape) != 4 and super()._use_weight_decay(variable)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        own = {
            "momentum": self.kernel_momentum,
            "sgd_momentum": self.momentum,
            "norm_factor": self.norm_factor,
            "head_factor": self.head_factor,
            "steps": self.steps,
        }
        return {**super().get_config(), **own}
