"""Mini-batch descent from zero on over-parameterised least squares (report 004, 1.1.1): which optimisers reach the minimum norm.

Every mini-batch gradient (2/b) X_Bᵀ(X_B w − t_B) is a combination of rows of X. Whatever adds multiples of gradients therefore stays in
the row space, where Xw = t has one solution: Xᵀ(XXᵀ)⁻¹t, that of least norm. Whatever scales each coordinate by itself leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.claims import Claim
from kerascv_course.theory.problem import LeastSquares, check_rate, draw_batches

__all__ = ["LEAVE", "STAY", "Descent", "LeastSquaresStudy", "measure_descent", "study_least_squares"]

#: Choices of `keras_side` that add multiples of gradients; a whole gradient may be scaled (clipnorm).
#: Each with its learning rate as a share of 1/max‖xᵢ‖², at which plain descent on any mini-batch converges.
STAY: Mapping[str, float] = MappingProxyType({"sgd": 1.0, "momentum": 0.25, "nesterov": 0.25, "clipnorm": 1.0})
#: Choices that scale, clip or take the sign of single coordinates.
LEAVE = ("clipvalue", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "adamax", "nadam", "adafactor", "ftrl", "lamb", "lion")

#: What counts as zero in float64 after thousands of steps.
ZERO = 1e-8


@dataclass(frozen=True, eq=False)
class Descent:
    """What a descent did, step by step; arrays are float64 (steps + 1,), the start included.

    Attributes:
        name: the optimiser.
        weights: the last ones, (d,).
        losses: (1/n)‖Xw − t‖² over all rows.
        distances: ‖w − w*‖ to the minimum-norm solution.
        outside: norm of the component of w that is orthogonal to the rows of X.
        norms: ‖w‖.
    """

    name: str
    weights: np.ndarray
    losses: np.ndarray
    distances: np.ndarray
    outside: np.ndarray
    norms: np.ndarray


@dataclass(frozen=True, eq=False)
class LeastSquaresStudy:
    """Descents of several optimisers on one problem and the same mini-batches.

    Attributes:
        problem: inputs and targets.
        minimum_norm: w*, (d,).
        batch_size: rows a step.
        seed: of the mini-batches.
        runs: one an optimiser.
        one_batch: the descent on one and the same mini-batch only (erratum E004-04).
    """

    problem: LeastSquares
    minimum_norm: np.ndarray
    batch_size: int
    seed: int
    runs: tuple[Descent, ...]
    one_batch: Descent | None

    def claims(self) -> tuple[Claim, ...]:
        """What stays in the row space, how far from w* it ends, and what leaves."""
        found = []
        steps = len(self.runs[0].losses) - 1
        for run in self.runs:
            share = run.outside[-1] / max(run.norms[-1], 1e-300)
            if run.name in STAY:
                found.append(Claim("1.1.1", f"{run.name}: part of w outside the row space", run.outside.max(), "<", ZERO))
                found.append(Claim("1.1.1", f"{run.name}: distance to Xᵀ(XXᵀ)⁻¹t, step {steps}", run.distances[-1], "<", ZERO))
            elif run.name in LEAVE:
                found.append(Claim("1.2.2", f"{run.name}: share of w outside the row space", share, ">", 1e-3))
        if self.one_batch is not None:
            text = f"one mini-batch of {self.batch_size} alone: its own loss"
            rows = draw_batches(self.problem.rows, self.batch_size, 1, self.seed)[0]
            own = float(np.mean(self.problem.residual(self.one_batch.weights)[rows] ** 2))
            found.append(Claim("1.1.1", text, own, "<", ZERO, erratum="E004-04"))
            text = "one mini-batch alone: the loss on all rows is not 0"
            found.append(Claim("1.1.1", text, self.one_batch.losses[-1], ">", 1e-3, erratum="E004-04"))
        return tuple(found)


def measure_descent(name: str, problem: LeastSquares, path: np.ndarray, minimum_norm: np.ndarray) -> Descent:
    """The figures of a path of weights, float64 (steps + 1, d)."""
    losses = np.mean((path @ problem.inputs.T - problem.targets) ** 2, axis=1)
    distances, outside, norms = (np.linalg.norm(v, axis=1) for v in (path - minimum_norm, problem.outside(path), path))
    return Descent(name, path[-1], losses, distances, outside, norms)


def study_least_squares(
    problem: LeastSquares,
    optimizers: Sequence[str] = (*STAY, *LEAVE),
    *,
    batch_size: int = 4,
    steps: int = 4000,
    rate: float | None = None,
    seed: int = 0,
) -> LeastSquaresStudy:
    """Run Keras's optimisers from zero on the same mini-batches.

    Args:
        problem: more columns than rows, rows linearly independent.
        optimizers: choices of `keras_side.CHOICES`, or names of classes in ``keras.optimizers``.
        batch_size: rows a step, 1 to all.
        steps: of each descent.
        rate: learning rate of all; None: each its own, see `STAY` and `keras_side.CHOICES`.
        seed: of the mini-batches.

    Raises:
        InputError: an optimiser is unknown, a rate is not above 0, the batch is larger than the data, no optimiser is named.
        DataError: the rows are linearly dependent.
        DivergenceError: a descent ran away.
    """
    from kerascv_course.theory.keras_side import keras_descend, keras_optimizer

    if not optimizers:
        raise InputError("name one optimiser or more; received none")
    if rate is not None:
        check_rate(rate)
    target = problem.minimum_norm()
    batches = draw_batches(problem.rows, batch_size, steps, seed)
    runs = []
    safe = 1 / float((problem.inputs**2).sum(axis=1).max())
    for name in optimizers:
        own = STAY[name] * safe if rate is None and name in STAY else rate
        path = keras_descend(problem, keras_optimizer(name, own), batches)
        runs.append(measure_descent(name, problem, path, target))
    one = None
    if batch_size < problem.rows:
        same = np.tile(batches[0], (steps, 1))
        path = keras_descend(problem, keras_optimizer("sgd", safe), same)
        one = measure_descent("one mini-batch", problem, path, target)
    return LeastSquaresStudy(problem, target, batch_size, seed, tuple(runs), one)
