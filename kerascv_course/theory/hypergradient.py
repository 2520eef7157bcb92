"""Hypergradients in every mode, the best learning rate, convexity, and measured memory (report 004, 2.1.2 and 2.2)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.descent import LeastSquares, random_problem
from kerascv_course.theory.keras_side import tape_gradient
from kerascv_course.theory.pages import Claim
from kerascv_course.theory.unrolled import (
    Hypergradient,
    Unrolled,
    checkpointed,
    finite_differences,
    forward_mode,
    one_step,
    reverse_mode,
)

__all__ = [
    "HypergradientStudy",
    "LossCurve",
    "MemoryStudy",
    "OptimalRate",
    "loss_curve",
    "measure_memory",
    "optimal_rate",
    "study_hypergradients",
]


@dataclass(frozen=True)
class OptimalRate:
    """The best learning rate of one step (report 004, 2.2.3).

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
        InputError: the gradient at the start is zero.
    """
    n, a = problem.rows, problem.residual(start)
    down = problem.inputs.T @ a
    moved = problem.inputs @ down
    if not down.any():
        raise InputError("the gradient at the start is zero: every learning rate gives the same loss")
    rate = n / 2 * float(down @ down) / float(moved @ moved)
    after = a - 2 * rate / n * moved
    return OptimalRate(rate, float(a @ a) / n, float(after @ after) / n, 8 / n**3 * float(moved @ moved))


@dataclass(frozen=True, eq=False)
class LossCurve:
    """L(w_t) and its derivatives against the rate; arrays are float64 (rates,).

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
    """Second-order forward mode at many rates at once.

    Args:
        problem: rows of training and loss.
        start: w₀, (d,).
        rates: η, (rates,).
        steps: t.
        decay: λ̃.
    """
    hessian = 2 / problem.rows * problem.inputs.T @ problem.inputs
    penalized = hessian + 2 * decay * np.eye(problem.columns)
    eta = np.asarray(rates, np.float64)[:, None]
    w = np.tile(np.asarray(start, np.float64), (len(eta), 1))
    first, second = np.zeros_like(w), np.zeros_like(w)
    shift = 2 / problem.rows * problem.inputs.T @ problem.targets
    for _ in range(steps):
        bent = first @ penalized
        second = second - 2 * bent - eta * (second @ penalized)
        first = first - (w @ penalized - shift) - eta * bent
        w = w - eta * (w @ penalized - shift)
    gradient = w @ hessian - shift
    residuals = w @ problem.inputs.T - problem.targets
    slopes = (gradient * first).sum(axis=1)
    curvatures = (gradient * second).sum(axis=1) + ((first @ hessian) * first).sum(axis=1)
    return LossCurve(steps, decay, eta[:, 0], np.mean(residuals**2, axis=1), slopes, curvatures)


@dataclass(frozen=True, eq=False)
class HypergradientStudy:
    """Derivatives by every method, the best rate, and loss curves.

    Attributes:
        run: that was differentiated.
        ways: name of a method to its result for the run.
        single: the same for the run's first step.
        best: η* of one step.
        textbook: η* of X = diag(1, 2), t = (1, 1), w₀ = 0: 5/17, 1 → 9/34.
        curves: L(w_t) against η, for several t without decay.
        bent: one with decay, where L(w_t) is not convex.
        shifts: relative changes of η in finite differences.
        errors: difference of dL/dη from reverse mode for each shift, relative as in `Hypergradient.difference`.
    """

    run: Unrolled
    ways: dict[str, Hypergradient]
    single: dict[str, Hypergradient]
    best: OptimalRate
    textbook: OptimalRate
    curves: tuple[LossCurve, ...]
    bent: LossCurve
    shifts: np.ndarray
    errors: np.ndarray

    def claims(self) -> tuple[Claim, ...]:
        """Agreement of the methods, the best rate, convexity."""
        found = []
        reference = self.ways["finite differences"]
        for name, result in self.ways.items():
            if name != "finite differences":
                text = f"t = {self.run.steps}, {name}: difference from finite differences"
                found.append(Claim("2.1.2", text, result.difference(reference), "<", 1e-6))
        exact = self.single["closed form"]
        for name, result in self.single.items():
            if name != "closed form":
                text = f"t = 1, {name}: difference from the closed form"
                found.append(Claim("2.2.1", text, result.difference(exact), "<", 1e-6))
        one = self.curves[0]
        found.append(Claim("2.2.2", "t = 1: minimum d²L/dη² over the rates, (8/n³)‖XXᵀa‖²", one.curvatures.min(), "=",
                           self.best.curvature, 1e-9 * self.best.curvature))  # fmt: skip
        for curve in self.curves[1:]:
            text = f"t = {curve.steps}, no decay: minimum d²L/dη², still convex"
            # where the loss is flat, its curvature is rounding error
            found.append(Claim("2.2.2", text, curve.curvatures.min(), ">", -1e-12 * curve.curvatures.max()))
        text = f"t = {self.bent.steps}, λ̃ = {self.bent.decay:g}: minimum d²L/dη², not convex"
        found.append(Claim("2.2.2", text, self.bent.curvatures.min(), "<", 0))
        at = replace(self.run, steps=1, rate=self.best.rate, decay=0.0, held_out=None)
        found.append(Claim("2.2.3", "dL/dη at η*", one_step(at).rate, "=", 0, 1e-12 * self.best.curvature * self.best.rate))
        for name, value, right in (
            ("η*", self.textbook.rate, 5 / 17),
            ("loss before", self.textbook.before, 1.0),
            ("loss after", self.textbook.after, 9 / 34),
        ):
            found.append(Claim("2.2.3", f"X = diag(1, 2), t = (1, 1), w₀ = 0: {name}", value, "=", right, 1e-15))
        return tuple(found)


def study_hypergradients(  # noqa: PLR0913
    *, rows: int = 12, columns: int = 8, steps: int = 100, rate: float | None = None, decay: float = 0.01, seed: int = 0,
    tape: bool = True, times: Sequence[int] = (1, 2, 5, 20),
) -> HypergradientStudy:  # fmt: skip
    """Differentiate a run on random data by every method.

    Args:
        rows: n, for training and as many held out.
        columns: d.
        steps: t.
        rate: η; None: 0.3 of the largest stable rate.
        decay: λ̃.
        seed: of the data and of w₀.
        tape: use TensorFlow's GradientTape as well (imports TensorFlow).
        times: the t of the curves, increasing from 1.

    Raises:
        InputError: a value out of range.
        DivergenceError: the run diverged.
    """
    problem, held = random_problem(rows, columns, seed=seed), random_problem(rows, columns, seed=seed + 1)
    start = np.random.default_rng(seed + 2).normal(size=columns)
    rate = 0.3 * problem.largest_rate if rate is None else rate
    run = Unrolled(problem, start, steps, rate, decay, held)
    single = replace(run, steps=1)
    ways = {"finite differences": finite_differences(run)}
    ones = {"closed form": one_step(single), "finite differences": finite_differences(single)}
    for name, way in (
        ("reverse mode", reverse_mode),
        ("reverse mode, checkpoints", checkpointed),
        ("forward mode", forward_mode),
    ):
        ways[name], ones[name] = way(run), way(single)
    if tape:
        ways["TensorFlow's tape"], ones["TensorFlow's tape"] = tape_gradient(run), tape_gradient(single)
    best = optimal_rate(problem, start)
    textbook = optimal_rate(LeastSquares(np.diag([1.0, 2.0]), np.ones(2)), np.zeros(2))
    curves = tuple(
        loss_curve(problem, start, np.linspace(0, (2 * best.rate if t == 1 else problem.largest_rate), 201), t) for t in times
    )
    shifts, exact = np.logspace(-12, -1, 45), ways["reverse mode"].rate
    slopes = [finite_differences(run, step=float(step)).rate for step in shifts]
    errors = np.abs(np.array(slopes) - exact) / max(1.0, abs(exact))
    return HypergradientStudy(run, ways, ones, best, textbook, curves, _not_convex(), shifts, errors)


def _not_convex() -> LossCurve:
    """One weight, L = (w − 1)², w₀ = 2, λ̃ = 1: w₂ = (1 + 3(1 − 4η)²)/2 passes the best w twice, on the way to 1/2 and back."""
    return loss_curve(LeastSquares(np.ones((1, 1)), np.ones(1)), np.full(1, 2.0), np.linspace(0, 0.5, 201), 2, decay=1.0)


# --- memory (2.1.2) ---

PASS = "forward pass alone"
#: Name of a method to what is measured; the first is the forward pass alone.
WAYS: dict[str, Callable[[Unrolled], np.ndarray | Hypergradient]] = {
    PASS: Unrolled.end,
    "forward mode": forward_mode,
    "reverse mode, √t checkpoints": checkpointed,
    "reverse mode": reverse_mode,
}


@dataclass(frozen=True, eq=False)
class MemoryStudy:
    """Peak memory of the methods.

    Attributes:
        steps: the measured t.
        columns: d; a weight vector has 8·d bytes.
        peaks: name of a method to its peak memory beyond data and start, bytes, for each t.
    """

    steps: tuple[int, ...]
    columns: int
    peaks: dict[str, tuple[int, ...]]

    def vectors(self, way: str) -> np.ndarray:
        """Peaks in weight vectors, float64 (times,)."""
        return np.array(self.peaks[way]) / (8 * self.columns)

    def claims(self) -> tuple[Claim, ...]:
        """Growth of each method from the first t to the last."""
        first, last = self.steps[0], self.steps[-1]
        found = []
        for way in self.peaks:
            growth = self.vectors(way)[-1] - self.vectors(way)[0]
            text = f"{way}: additional weight vectors at t = {last} against t = {first}"
            erratum = "E004-07" if way == PASS else ""
            if way == "reverse mode":
                found.append(Claim("2.1.2", text, growth, "=", last - first, 0.05 * (last - first)))
            elif way in (PASS, "forward mode"):
                found.append(Claim("2.1.2", text, growth, "<", 2, erratum=erratum))
            else:
                found.append(Claim("2.1.2", text, growth, "=", 2 * (last**0.5 - first**0.5), 0.2 * last**0.5))
        return tuple(found)


def measure_memory(
    times: Sequence[int] = (16, 64, 144, 256, 400, 625, 900), *, columns: int = 4_000, rows: int = 2, seed: int = 0
) -> MemoryStudy:
    """Peak memory allocated by Python and NumPy (tracemalloc) while each method differentiates a run of t steps.

    Args:
        times: the t, increasing.
        columns: d, large enough for the weights to dominate.
        rows: n.
        seed: of the data.

    Raises:
        InputError: no t, one below 1, or not increasing; fewer than 1,000 columns.
    """
    times = tuple(times)
    if not times or times[0] < 1 or any(a >= b for a, b in pairwise(times)):
        raise InputError(f"the numbers of steps must be 1 or more and increase; received {' '.join(map(str, times)) or 'none'}")
    if columns < 1000:
        raise InputError(f"memory is measured with 1,000 columns or more, so that the weights dominate; received {columns}")
    problem = random_problem(rows, columns, seed=seed)
    start = np.zeros(columns)
    rate = 0.3 * problem.largest_rate
    peaks: dict[str, tuple[int, ...]] = {}
    for way, differentiate in WAYS.items():
        peaks[way] = tuple(_peak(differentiate, Unrolled(problem, start, t, rate, 0.01)) for t in times)
    return MemoryStudy(times, columns, peaks)


def _peak(differentiate: Callable[[Unrolled], np.ndarray | Hypergradient], run: Unrolled) -> int:
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        differentiate(run)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if ours:
            tracemalloc.stop()
