"""The gradient of a small network's trained loss by the learning rate, by TensorFlow's tape through the training (report 004, 2.1.3).

Two inputs, a hidden layer of tanh, one logit: 32 points between −1 and 1, of class +1 where the signs of their coordinates agree
and −1 elsewhere. Full-batch gradient descent at many rates at once, each with weights of its own from one start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.claims import Claim
from kerascv_course.theory.problem import check_rate

__all__ = ["NetworkStudy", "study_network"]

POINTS, HIDDEN = 32, 16
CALM, WILD = 1.0, 32.0
#: Changes of η in finite differences, relative to η.
SHIFT = 1e-6
#: Steps that fit into memory with all their values.
LONGEST = 200


@dataclass(frozen=True, eq=False)
class NetworkStudy:
    """The trained loss against the rate; arrays are float64 (rates,).

    Attributes:
        rates: η.
        losses: t to the mean cross-entropy after t steps.
        slopes: t to its derivative by η.
        differences: for a calm rate and a wild one, after the most steps: (η, t, derivative, finite difference).
    """

    rates: np.ndarray
    losses: dict[int, np.ndarray]
    slopes: dict[int, np.ndarray]
    differences: tuple[tuple[float, int, float, float], ...]

    def claims(self) -> tuple[Claim, ...]:
        """The tape is right, and where training is wild, of no use."""
        (calm, t, slope, moved), (wild, _, steep, guess) = self.differences
        off = abs(moved - slope) / max(1.0, abs(slope))
        found = [
            Claim("2.1.3", f"network, η = {calm:g}, t = {t}: finite difference, off the tape by the share", off, "<", 1e-6)
        ]
        if t >= 50:
            off = abs(guess - steep) / abs(steep)
            found += [
                Claim("2.1.3", f"network, η = {wild:g}, t = {t}: |dL/dη|", abs(steep), ">", 1e6),
                Claim("2.1.3", f"network, η = {wild:g}, t = {t}: finite difference, off the tape by the share", off, ">", 0.9),
            ]
        return tuple(found)


def study_network(*, points: int = 240, times: Sequence[int] = (5, 20, 50), seed: int = 0) -> NetworkStudy:
    """Train at rates from 0.03 to 100 and differentiate through the training.

    Args:
        points: rates, evenly spaced in their logarithm.
        times: the t at which the loss is taken.
        seed: of the points and the first weights.

    Raises:
        InputError: fewer than 2 rates, no t, or one that is not within 1 to 200.
    """
    if points < 2:
        raise InputError(f"the curves need 2 rates or more; received {points}")
    if not times or min(times) < 1 or max(times) > LONGEST:
        raise InputError(f"the numbers of steps are 1 to {LONGEST}; received {' '.join(map(str, times)) or 'none'}")
    rates = np.logspace(-1.5, 2, points)
    losses, slopes = _train(rates, times, seed)
    last = max(times)
    beside = np.array([[rate * (1 - SHIFT), rate, rate * (1 + SHIFT)] for rate in (CALM, WILD)])
    near, exact = (values[last].reshape(2, 3) for values in _train(beside.ravel(), (last,), seed))
    differences = tuple(
        (rate, last, float(exact[i, 1]), float((near[i, 2] - near[i, 0]) / (2 * SHIFT * rate)))
        for i, rate in enumerate((CALM, WILD))
    )
    return NetworkStudy(rates, losses, slopes, differences)


def _train(rates: np.ndarray, times: Sequence[int], seed: int) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Losses after some steps and their derivatives by the rates, each (rates,)."""
    from kerascv_course.theory.keras_side import import_keras

    for rate in rates:
        check_rate(float(rate))
    import_keras()
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-1, 1, (POINTS, 2))
    classes = tf.constant(np.sign(inputs[:, :1] * inputs[:, 1:])[None])
    x, eta = tf.constant(inputs[None]), tf.constant(rates[:, None, None])
    starts = (
        rng.normal(size=(2, HIDDEN)),
        np.zeros((1, HIDDEN)),
        rng.normal(size=(HIDDEN, 1)) / np.sqrt(HIDDEN),
        np.zeros((1, 1)),
    )
    weights = [tf.tile(tf.constant(start[None]), [len(rates), 1, 1]) for start in starts]

    def loss(hidden: Any, offset: Any, out: Any, bias: Any) -> Any:
        logits = tf.tanh(x @ hidden + offset) @ out + bias
        return tf.reduce_mean(tf.nn.softplus(-classes * logits), axis=(1, 2))

    losses = {}
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(eta)
        for step in range(1, max(times) + 1):
            with tf.GradientTape() as inner:
                inner.watch(weights)
                # every rate has weights of its own: the gradient of the sum is that of each
                total = tf.reduce_sum(loss(*weights))
            weights = [w - eta * g for w, g in zip(weights, inner.gradient(total, weights), strict=True)]
            if step in times:
                losses[step] = loss(*weights)
    slopes = {step: outer.gradient(value, eta).numpy()[:, 0, 0] for step, value in losses.items()}
    return {step: value.numpy() for step, value in losses.items()}, slopes
