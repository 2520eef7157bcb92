"""An L2 penalty against weight decay (report 004, 2.3): the same under plain gradient descent only.

Penalty λ̃‖w‖²: its gradient 2λ̃w goes through the optimizer. Decay λ: w ← (1 − λ)w beside the optimizer's update. Under w ← w − ηg both
give (1 − 2ηλ̃)w − η∇L(w) if λ = 2ηλ̃. Momentum spreads the penalty's gradient over later steps; RMSProp and Adam divide it by the size
of the gradients.

Keras: ``kernel_regularizer=L2(λ̃)`` adds λ̃‖w‖² to the loss; an optimizer's ``weight_decay`` is multiplied by the rate, so that
λ = η · weight_decay, and SGD with ``weight_decay=2λ̃`` is SGD with ``L2(λ̃)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.descent import (
    Adam,
    GradientDescent,
    LeastSquares,
    Method,
    RMSProp,
    check_finite,
    descend,
    draw_batches,
    random_problem,
)
from kerascv_course.theory.keras_side import keras_descend, keras_optimizer
from kerascv_course.theory.pages import Claim

__all__ = ["EQUAL", "DecayStudy", "Pair", "equivalent_penalty", "study_decay"]

EQUAL = "gradient descent"


@dataclass(frozen=True, eq=False)
class Pair:
    """Paths of one optimizer with the penalty and with the decay.

    Attributes:
        name: of the optimizer.
        penalized: path under the penalty, float64 (steps + 1, d).
        decayed: path under the decay.
    """

    name: str
    penalized: np.ndarray
    decayed: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """‖w_penalty − w_decay‖ at every step, float64 (steps + 1,)."""
        distances: np.ndarray = np.linalg.norm(self.penalized - self.decayed, axis=1)
        return distances


@dataclass(frozen=True, eq=False)
class DecayStudy:
    """Penalty and decay under several optimizers.

    Attributes:
        problem: what is trained on.
        rate: η.
        decay: λ.
        penalty: λ̃ = λ/(2η).
        pairs: one per optimizer.
        keras: text to the largest difference between Keras's path and ours; empty if not requested.
    """

    problem: LeastSquares
    rate: float
    decay: float
    penalty: float
    pairs: tuple[Pair, ...]
    keras: dict[str, float]

    def claims(self) -> tuple[Claim, ...]:
        """Equal under gradient descent, different under the others."""
        found = []
        for pair in self.pairs:
            last = len(pair.penalized) - 1
            if pair.name == EQUAL:
                text = f"{pair.name}: largest difference in {last} steps"
                found.append(Claim("2.3.2", text, pair.differences.max(), "<", 1e-10))
            else:
                where = "2.3.3"
                found.append(Claim(where, f"{pair.name}: difference after {last} steps", pair.differences[-1], ">", 1e-3))
        found += [Claim("2.3.2", text, difference, "<", 1e-10) for text, difference in self.keras.items()]
        return tuple(found)


def equivalent_penalty(decay: float, rate: float) -> float:
    """λ̃ = λ/(2η): the penalty equivalent to the decay λ under plain gradient descent at rate η.

    Raises:
        InputError: a rate that is not positive, or a decay outside [0, 1).
    """
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"the learning rate must be above 0 and finite; received {rate:g}")
    if not 0 <= decay < 1:
        raise InputError(f"the weight decay must be 0 or more and below 1; received {decay:g}")
    return decay / (2 * rate)


def study_decay(  # noqa: PLR0913
    *, rate: float = 0.05, decay: float = 0.01, steps: int = 200, rows: int = 20, columns: int = 8, batch_size: int | None = None,
    seed: int = 0, keras: bool = True,
) -> DecayStudy:  # fmt: skip
    """Run penalty and decay under gradient descent, momentum, RMSProp and Adam from the same start.

    Args:
        rate: η of gradient descent; momentum and the adaptive methods take a tenth and a fifth of it, with λ̃ = λ/(2η) of their own η.
        decay: λ.
        steps: of each.
        rows: n.
        columns: d.
        batch_size: rows per step; None: all. The equality holds for mini-batches as well.
        seed: of data, start and mini-batches.
        keras: run Keras's SGD and Adam as well (imports TensorFlow).

    Raises:
        InputError: a value out of range, a batch larger than the data.
        DivergenceError: a run diverged; the message gives the step.
    """
    penalty = equivalent_penalty(decay, rate)
    problem = random_problem(rows, columns, seed=seed)
    start = np.random.default_rng(seed + 1).normal(size=columns)
    batches = draw_batches(rows, rows if batch_size is None else batch_size, steps, seed)
    methods: dict[str, Method] = {
        EQUAL: GradientDescent(rate),
        "momentum 0.9": GradientDescent(rate / 10, momentum=0.9),
        "RMSProp": RMSProp(rate / 5),
        "Adam": Adam(rate / 5),
    }
    pairs = []
    for name, method in methods.items():
        own = equivalent_penalty(decay, method.rate)
        both = [_run(problem, batches, method, start, *given) for given in ((own, 0.0), (0.0, decay))]
        pairs.append(Pair(name, *both))
    beside = _keras(problem, batches, start, rate, decay, methods["Adam"], pairs) if keras else {}
    return DecayStudy(problem, rate, decay, penalty, tuple(pairs), beside)


def _run(
    problem: LeastSquares, batches: np.ndarray, method: Method, start: np.ndarray, penalty: float, decay: float
) -> np.ndarray:
    path = descend(lambda w, k: problem.gradient(w, batches[k - 1]) + 2 * penalty * w, method, start, len(batches), decay=decay)
    check_finite(path, problem, method.rate)
    return path


def _keras(
    problem: LeastSquares, batches: np.ndarray, start: np.ndarray, rate: float, decay: float, adam: Method, pairs: list[Pair]
) -> dict[str, float]:
    plain = next(pair for pair in pairs if pair.name == EQUAL)
    penalty = equivalent_penalty(decay, rate)
    by_penalty = keras_descend(problem, keras_optimizer("SGD", rate), batches, start=start, penalty=penalty)
    by_decay = keras_descend(problem, keras_optimizer("SGD", rate, weight_decay=decay / rate), batches, start=start)
    other = keras_descend(problem, keras_optimizer("Adam", adam.rate, weight_decay=decay / adam.rate), batches, start=start)
    keras_adam = _run(problem, batches, Adam(adam.rate, hat=True), start, 0.0, decay)
    return {
        "Keras's SGD with L2(λ̃) and the penalty, largest difference": float(np.abs(by_penalty - plain.penalized).max()),
        "Keras's SGD with weight_decay = λ/η and the decay": float(np.abs(by_decay - plain.decayed).max()),
        "Keras's SGD: L2(λ̃) and weight_decay = 2λ̃": float(np.abs(by_penalty - by_decay).max()),
        "Keras's Adam with weight_decay = λ/η and the decay": float(np.abs(other - keras_adam).max()),
    }
