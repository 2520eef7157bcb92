"""The same descents by Keras's own optimisers, and the same gradients by TensorFlow's tape, in float64.

Keras keeps learning rates and penalties in float32, and rounds Adam's β to it, even where the weights are float64: Adam's path is then
off by 2e-6 after some hundred steps. A rate that is a callable, and β as a NumPy float64, keep their digits. That is what makes
agreement to 1e-12 possible here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.lazy import keras
from kerascv_course.theory.problem import LeastSquares, check_finite, check_rate, check_steps

if TYPE_CHECKING:
    from kerascv_course.theory.hypergradient import Hypergradient, Unrolled

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

#: Options that Keras casts by way of float32, unless they are NumPy's float64; others it takes as Python's numbers alone.
CAST = ("beta_1", "beta_2", "weight_decay")


def import_keras() -> None:
    """TensorFlow takes seconds to import: only when everything else is known to be right, and without its notices."""
    if "keras" not in sys.modules or "tensorflow" not in sys.modules:
        start_tensorflow()


def keras_optimizer(name: str, rate: float | None = None, **options: Any) -> Any:
    """A Keras optimiser whose rate and coefficients are float64.

    Args:
        name: a choice such as ``"sgd"`` or ``"momentum"`` (see `CHOICES`), or a class of ``keras.optimizers`` such as ``"RMSprop"``.
        rate: learning rate; None: that of the choice.
        options: further arguments of the class.

    Raises:
        UnknownNameError: there is no such choice or class.
        InputError: the rate is not above 0, or is missing for a class that is no choice; Keras refuses an option.
    """
    if rate is not None:
        check_rate(rate)
    import_keras()
    class_name, given, usual = CHOICES.get(name, (name, {}, None))
    kind: Any = getattr(keras.optimizers, class_name, None)
    if not _is_optimizer(kind):
        raise UnknownNameError("optimiser", name, CHOICES)
    rate = usual if rate is None else rate
    if rate is None:
        raise InputError(
            f"keras.optimizers.{name} needs a learning rate; the choices that bring their own are {', '.join(CHOICES)}"
        )
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
    """Mini-batch descent of the kernel of ``Dense(1, use_bias=False)``, (d, 1), by a Keras optimiser and TensorFlow's tape.

    Args:
        problem: inputs and targets.
        optimizer: any Keras optimiser that was not used before.
        batches: int (steps, b), from `draw_batches`.
        start: w₀, (d,); None: zeros.
        penalty: λ̃ of an L2 penalty λ̃‖w‖² on the loss, which is what ``keras.regularizers.L2(λ̃)`` adds.

    Returns:
        float64 (steps + 1, d): the weights, the start included.

    Raises:
        DivergenceError: the weights ran away.
        InputError: an optimiser that Keras has in float32 only, such as Muon.
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
        regularizer.l2 = tf.constant(penalty, tf.float64)  # Keras keeps it in float32

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
        raise InputError(
            f"keras.optimizers.{name} does not compute in float64, which proofs are checked in: choose another"
        ) from None
    check_finite(path, problem, float(optimizer.learning_rate))
    return path


def tape_gradient(run: Unrolled) -> Hypergradient:
    """Loss after t steps and its derivatives by the rate and the decay, by TensorFlow's tape through the unrolled run.

    Args:
        run: what is differentiated.
    """
    import_keras()
    import tensorflow as tf

    from kerascv_course.theory.hypergradient import Hypergradient

    rate, decay = tf.constant(run.rate, tf.float64), tf.constant(run.decay, tf.float64)
    x, t = tf.constant(run.problem.inputs), tf.constant(run.problem.targets)
    held = run.objective
    with tf.GradientTape() as outer:
        outer.watch([rate, decay])
        w = tf.constant(run.start)
        for _ in range(run.steps):
            with tf.GradientTape() as inner:
                inner.watch(w)
                penalised = tf.reduce_mean((tf.linalg.matvec(x, w) - t) ** 2) + decay * tf.reduce_sum(w**2)
            w = w - rate * inner.gradient(penalised, w)
        loss = tf.reduce_mean((tf.linalg.matvec(tf.constant(held.inputs), w) - tf.constant(held.targets)) ** 2)
    slopes = outer.gradient(loss, [rate, decay])
    return Hypergradient(float(loss), *(float(slope) for slope in slopes))


def _is_optimizer(kind: Any) -> bool:
    """A class of optimisers that can be made from a learning rate; not the base class, nor the wrapper for loss scaling."""
    return inspect.isclass(kind) and issubclass(kind, keras.optimizers.Optimizer) and "learning_rate" in _arguments(kind)


def _arguments(kind: Any) -> Mapping[str, Any]:
    return inspect.signature(kind.__init__).parameters
