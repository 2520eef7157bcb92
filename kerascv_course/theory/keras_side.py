"""The same descents by Keras's own optimizers, and the same gradients by TensorFlow's tape, in float64.

Keras stores learning rates, penalties and Adam's β in float32 even if the weights are float64, which puts Adam's path off by 2e-6
after a few hundred steps. A callable rate, and β as a NumPy float64, keep their precision: agreement to 1e-12 becomes possible.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.lazy import keras
from kerascv_course.theory.descent import LeastSquares, check_finite, check_rate, check_steps
from kerascv_course.theory.unrolled import Hypergradient, Unrolled

__all__ = ["CHOICES", "import_keras", "keras_descend", "keras_optimizer", "tape_gradient"]

#: Name of a choice to Keras's class, its options, and a learning rate that suits ten rows of thirty standard normal inputs.
CHOICES: Mapping[str, tuple[str, Mapping[str, Any], float]] = MappingProxyType(
    {
        "sgd": ("SGD", {}, 0.02),
        "momentum": ("SGD", {"momentum": 0.9}, 0.005),
        "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}, 0.005),
        "clipnorm": ("SGD", {"clipnorm": 1.0}, 0.02),
        "clipvalue": ("SGD", {"clipvalue": 0.5}, 0.02),
        "adagrad": ("Adagrad", {}, 0.1),
        "rmsprop": ("RMSprop", {}, 0.001),
        "adadelta": ("Adadelta", {}, 1.0),
        "adam": ("Adam", {}, 0.003),
        "adamw": ("AdamW", {}, 0.003),
        "adamax": ("Adamax", {}, 0.01),
        "nadam": ("Nadam", {}, 0.003),
        "adafactor": ("Adafactor", {}, 0.01),
        "ftrl": ("Ftrl", {}, 0.1),
        "lamb": ("Lamb", {}, 0.003),
        "lion": ("Lion", {}, 0.0003),
    }
)

#: Options that Keras casts to float32 unless they are NumPy float64; others must be Python numbers.
CAST = ("beta_1", "beta_2", "weight_decay")


def import_keras() -> None:
    """Import TensorFlow without its notices. It takes seconds: call it after all other checks."""
    if "keras" not in sys.modules or "tensorflow" not in sys.modules:
        start_tensorflow()


def keras_optimizer(name: str, rate: float | None = None, **options: Any) -> Any:
    """A Keras optimizer with float64 rate and coefficients.

    Args:
        name: a choice such as ``"sgd"`` or ``"momentum"`` (see `CHOICES`), or a class of ``keras.optimizers`` such as ``"RMSprop"``.
        rate: learning rate; None: that of the choice.
        options: further arguments of the class.

    Raises:
        UnknownNameError: there is no such choice or class.
        InputError: a rate that is not positive, or missing for a class that is no choice; an option that Keras rejects.
    """
    if rate is not None:
        check_rate(rate)
    import_keras()
    class_name, given, usual = CHOICES.get(name, (name, {}, None))
    kind: Any = getattr(keras.optimizers, class_name, None)
    if not _is_optimizer(kind):
        raise UnknownNameError("optimizer", name, CHOICES)
    rate = usual if rate is None else rate
    if rate is None:
        raise InputError(f"keras.optimizers.{name} needs a learning rate; the choices with a default are {', '.join(CHOICES)}")
    exact = np.float64(check_rate(rate))
    chosen = {key: p.default for key, p in _arguments(kind).items() if key in CAST} | {**given, **options}
    chosen |= {key: np.float64(chosen[key]) for key in CAST if type(chosen.get(key)) is float}
    try:
        return kind(learning_rate=lambda: keras.ops.convert_to_tensor(exact, dtype="float64"), **chosen)
    except (TypeError, ValueError) as error:
        raise InputError(f"keras.optimizers.{class_name} refuses {options}: {error}") from None


def keras_descend(
    problem: LeastSquares, optimizer: Any, batches: np.ndarray, *, start: np.ndarray | None = None, penalty: float = 0.0
) -> np.ndarray:
    """Mini-batch descent of the kernel of ``Dense(1, use_bias=False)``, (d, 1), by a Keras optimizer and TensorFlow's tape.

    Args:
        problem: inputs and targets.
        optimizer: an unused Keras optimizer.
        batches: int (steps, b), from `draw_batches`.
        start: w₀, (d,); None: zeros.
        penalty: λ̃ of an L2 penalty λ̃‖w‖² on the loss, as ``keras.regularizers.L2(λ̃)`` adds it.

    Returns:
        float64 (steps + 1, d): the weights, including the start.

    Raises:
        DivergenceError: the weights diverged.
        InputError: an optimizer without float64, such as Muon.
    """
    check_steps(len(batches), problem.columns)
    import_keras()
    import tensorflow as tf

    begin = np.zeros(problem.columns) if start is None else np.asarray(start, np.float64)
    w = keras.Variable(begin[:, None], dtype="float64")
    optimizer.build([w])
    x, t = tf.constant(problem.inputs), tf.constant(problem.targets[:, None])
    regularizer = keras.regularizers.L2(penalty) if penalty else None
    if regularizer is not None:
        regularizer.l2 = tf.constant(penalty, tf.float64)  # Keras stores it in float32

    def run(rows: Any) -> Any:
        kept = tf.TensorArray(tf.float64, size=len(batches))
        for step in tf.range(len(batches)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((tf.gather(x, rows[step]) @ w.value - tf.gather(t, rows[step])) ** 2)
                if regularizer is not None:
                    loss += regularizer(w.value)
            optimizer.apply([tape.gradient(loss, w.value)], [w])
            kept = kept.write(step, tf.convert_to_tensor(w.value)[:, 0])
        return kept.stack()

    try:
        # one graph with a loop in it: thousands of steps in less than a second
        graph = tf.function(run).get_concrete_function(tf.TensorSpec(batches.shape, tf.int64))
        path = np.concatenate([begin[None], graph(tf.constant(batches, tf.int64)).numpy()])
    except TypeError:
        name = type(optimizer).__name__
        raise InputError(f"keras.optimizers.{name} does not compute in float64: choose another") from None
    check_finite(path, problem, float(optimizer.learning_rate))
    return path


def tape_gradient(run: Unrolled) -> Hypergradient:
    """Loss after t steps and its derivatives by the rate and the decay, by TensorFlow's tape through the unrolled run.

    Args:
        run: to differentiate.
    """
    import_keras()
    import tensorflow as tf

    rate, decay = tf.constant(run.rate, tf.float64), tf.constant(run.decay, tf.float64)
    x, t = tf.constant(run.problem.inputs), tf.constant(run.problem.targets)
    held = run.objective
    with tf.GradientTape() as outer:
        outer.watch([rate, decay])
        w = tf.constant(run.start)
        for _ in range(run.steps):
            with tf.GradientTape() as inner:
                inner.watch(w)
                penalized = tf.reduce_mean((tf.linalg.matvec(x, w) - t) ** 2) + decay * tf.reduce_sum(w**2)
            w = w - rate * inner.gradient(penalized, w)
        loss = tf.reduce_mean((tf.linalg.matvec(tf.constant(held.inputs), w) - tf.constant(held.targets)) ** 2)
    slopes = outer.gradient(loss, [rate, decay])
    return Hypergradient(float(loss), *(float(slope) for slope in slopes))


def _is_optimizer(kind: Any) -> bool:
    """Whether it is an optimizer class with a learning rate: not the base class, nor the wrapper for loss scaling."""
    return inspect.isclass(kind) and issubclass(kind, keras.optimizers.Optimizer) and "learning_rate" in _arguments(kind)


def _arguments(kind: Any) -> Mapping[str, Any]:
    return inspect.signature(kind.__init__).parameters
