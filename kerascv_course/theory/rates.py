"""The loss after t steps of gradient descent against the learning rate (report 004, 2.2.2 and 2.2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.problem import LeastSquares

__all__ = ["LossCurve", "OptimalRate", "loss_curve", "optimal_rate"]


@dataclass(frozen=True)
class OptimalRate:
    """The best rate of one step (report 004, 2.2.3).

    Attributes:
        rate: η* = (n/2)‖Xᵀa‖²/‖XXᵀa‖².
        before: L(w₀).
        after: L(w₁) at η*.
        curvature: d²L(w₁)/dη² = (8/n³)‖XXᵀa‖², the same at every η (2.2.2: L(w₁) is convex in η).
    """

    rate: float
    before: float
    after: float
    curvature: float


def optimal_rate(problem: LeastSquares, start: np.ndarray) -> OptimalRate:
    """η* of one step of gradient descent without decay.

    Raises:
        InputError: the gradient at the start is zero, where every rate gives the same.
    """
    n, a = problem.rows, problem.residual(start)
    down = problem.inputs.T @ a
    moved = problem.inputs @ down
    if not down.any():
        raise InputError("the gradient at the start is zero: every rate gives the same loss, and none is best")
    rate = n / 2 * float(down @ down) / float(moved @ moved)
    after = a - 2 * rate / n * moved
    return OptimalRate(rate, float(a @ a) / n, float(after @ after) / n, 8 / n**3 * float(moved @ moved))


@dataclass(frozen=True, eq=False)
class LossCurve:
    """L(w_t) against the rate, with its derivatives by the rate; arrays are float64 (rates,).

    Attributes:
        steps: t.
        decay: λ̃.
        rates: η.
        losses: L(w_t).
        slopes: dL/dη.
        curvatures: d²L/dη².
    """

    steps: int
    decay: float
    rates: np.ndarray
    losses: np.ndarray
    slopes: np.ndarray
    curvatures: np.ndarray


def loss_curve(problem: LeastSquares, start: np.ndarray, rates: np.ndarray, steps: int, *, decay: float = 0.0) -> LossCurve:
    """Forward mode of second order at many rates at once.

    Args:
        problem: what is trained and measured on.
        start: w₀, (d,).
        rates: η, (rates,).
        steps: t.
        decay: λ̃.
    """
    hessian = 2 / problem.rows * problem.inputs.T @ problem.inputs
    penalised = hessian + 2 * decay * np.eye(problem.columns)
    eta = np.asarray(rates, np.float64)[:, None]
    w = np.tile(np.asarray(start, np.float64), (len(eta), 1))
    first, second = np.zeros_like(w), np.zeros_like(w)
    shift = 2 / problem.rows * problem.inputs.T @ problem.targets
    for _ in range(steps):
        bent = first @ penalised
        second = second - 2 * bent - eta * (second @ penalised)
        first = first - (w @ penalised - shift) - eta * bent
        w = w - eta * (w @ penalised - shift)
    gradient = w @ hessian - shift
    residuals = w @ problem.inputs.T - problem.targets
    slopes = (gradient * first).sum(axis=1)
    curvatures = (gradient * second).sum(axis=1) + ((first @ hessian) * first).sum(axis=1)
    return LossCurve(steps, decay, eta[:, 0], np.mean(residuals**2, axis=1), slopes, curvatures)
