"""Mini-batch descent from zero on over-parameterized least squares (report 004, 1.1.1): which optimizers reach the minimum norm.

Every mini-batch gradient (2/b) X_Bᵀ(X_B w − t_B) is a combination of rows of X. Optimizers that add multiples of gradients
therefore stay in the row space, where Xw = t has one solution, the minimum-norm one: Xᵀ(XXᵀ)⁻¹t. Optimizers that scale coordinates
independently leave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.descent import LeastSquares, check_rate, draw_batches
from kerascv_course.theory.keras_side import keras_descend, keras_optimizer
from kerascv_course.theory.pages import Claim

__all__ = ["LEAVE", "STAY", "Descent", "LeastSquaresStudy", "measure_descent", "study_least_squares"]

#: Choices of `keras_side` that add multiples of gradients (clipnorm scales whole gradients), with their learning rate as a multiple
#: of 1/max‖xᵢ‖², at which plain descent on any mini-batch converges.
STAY: Mapping[str, float] = MappingProxyType({"sgd": 1.0, "momentum": 0.25, "nesterov": 0.25, "clipnorm": 1.0})
#: Choices that scale, clip or take the sign of single coordinates.
LEAVE = ("clipvalue", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "adamax", "nadam", "adafactor", "ftrl", "lamb", "lion")

#: Bound for zero in float64 after thousands of steps.
ZERO = 1e-8


@dataclass(frozen=True, eq=False)
class Descent:
    """Metrics of a descent; arrays are float64 (steps + 1,), including the start.

    Attributes:
        name: the optimizer.
        weights: final w, (d,).
        losses: (1/n)‖Xw − t‖² over all rows.
        distances: ‖w − w*‖ to the minimum-norm solution.
        outside: norm of the component of w orthogonal to the rows of X.
        norms: ‖w‖.
    """

    name: str
    weights: np.ndarray
    losses: np.ndarray
    distances: np.ndarray
    outside: np.ndarray
    norms: np.ndarray

    @property
    def stays(self) -> bool | None:
        """Whether the optimizer is known to stay in the row space, or to leave it; None for others."""
        return True if self.name in STAY else False if self.name in LEAVE else None


@dataclass(frozen=True, eq=False)
class LeastSquaresStudy:
    """Descents of several optimizers on one problem and the same mini-batches.

    Attributes:
        problem: inputs and targets.
        minimum_norm: w*, (d,).
        batch_size: rows per step.
        seed: of the mini-batches.
        runs: one per optimizer.
        one_batch: descent on a single fixed mini-batch (erratum E004-04); None if the batch is all rows.
    """

    problem: LeastSquares
    minimum_norm: np.ndarray
    batch_size: int
    seed: int
    runs: tuple[Descent, ...]
    one_batch: Descent | None

    def claims(self) -> tuple[Claim, ...]:
        """Which optimizers stay in the row space and reach w*, and which leave it."""
        found = []
        steps = len(self.runs[0].losses) - 1
        for run in self.runs:
            share = run.outside[-1] / max(run.norms[-1], 1e-300)
            if run.name in STAY:
                found.append(Claim("1.1.1", f"{run.name}: component of w outside the row space", run.outside.max(), "<", ZERO))
                found.append(Claim("1.1.1", f"{run.name}: distance to Xᵀ(XXᵀ)⁻¹t, step {steps}", run.distances[-1], "<", ZERO))
            elif run.name in LEAVE:
                found.append(Claim("1.2.2", f"{run.name}: fraction of w outside the row space", share, ">", 1e-3))
        if self.one_batch is not None:
            text = f"one mini-batch of {self.batch_size} alone: its own loss"
            rows = draw_batches(self.problem.rows, self.batch_size, 1, self.seed)[0]
            own = float(np.mean(self.problem.residual(self.one_batch.weights)[rows] ** 2))
            found.append(Claim("1.1.1", text, own, "<", ZERO, erratum="E004-04"))
            text = "one mini-batch alone: the loss on all rows is not 0"
            found.append(Claim("1.1.1", text, self.one_batch.losses[-1], ">", 1e-3, erratum="E004-04"))
        return tuple(found)


def measure_descent(name: str, problem: LeastSquares, path: np.ndarray, minimum_norm: np.ndarray) -> Descent:
    """Metrics of a path of weights, float64 (steps + 1, d)."""
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
    """Run Keras's optimizers from zero on the same mini-batches.

    Args:
        problem: more columns than rows, rows linearly independent.
        optimizers: choices of `keras_side.CHOICES`, or names of classes in ``keras.optimizers``.
        batch_size: rows per step, 1 to all.
        steps: of each descent.
        rate: learning rate of all; None: those of `STAY` and `keras_side.CHOICES`.
        seed: of the mini-batches.

    Raises:
        InputError: an unknown or no optimizer, a rate that is not positive, a batch larger than the data.
        DataError: the rows are linearly dependent.
        DivergenceError: a descent diverged.
    """
    if not optimizers:
        raise InputError("give one optimizer or more; received none")
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
