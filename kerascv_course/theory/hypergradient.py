"""How the loss after t steps of gradient descent changes with the learning rate and the decay (report 004, section 2).

w_{k+1} = w_k − η ∇L̃(w_k) with L̃(w) = L(w) + λ̃‖w‖² and L(w) = (1/n)‖Xw − t‖²; what is differentiated is L(w_t), on the same or on
held-out rows. Four ways: reverse mode keeps every w_k; reverse mode with checkpoints keeps √t of them and computes the rest again;
forward mode carries dw/dη and dw/dλ̃ along and keeps nothing; for one step there is a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.claims import Claim
from kerascv_course.theory.problem import HOPELESS, DivergenceError, LeastSquares, check_rate, random_problem
from kerascv_course.theory.rates import LossCurve, OptimalRate, loss_curve, optimal_rate

__all__ = [
    "Hypergradient",
    "HypergradientStudy",
    "Unrolled",
    "checkpointed",
    "finite_differences",
    "forward_mode",
    "one_step",
    "reverse_mode",
    "study_hypergradients",
]


@dataclass(frozen=True)
class Hypergradient:
    """L(w_t) and its derivatives.

    Attributes:
        loss: L(w_t).
        rate: dL(w_t)/dη.
        decay: dL(w_t)/dλ̃.
    """

    loss: float
    rate: float
    decay: float

    def difference(self, other: Hypergradient) -> float:
        """The larger of the two derivatives' differences, relative to the other's size where that is above 1."""
        pairs = ((self.rate, other.rate), (self.decay, other.decay))
        return max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)


@dataclass(frozen=True, eq=False)
class Unrolled:
    """A run of gradient descent that is differentiated.

    Attributes:
        problem: what is trained on.
        start: w₀, float64 (d,).
        steps: t.
        rate: η.
        decay: λ̃ of the penalty λ̃‖w‖².
        held_out: what the loss is measured on; None: the problem itself.

    Raises:
        InputError: a start of another width, fewer than 1 step, a rate that is not above 0, a decay below 0, rows of another width.
    """

    problem: LeastSquares
    start: np.ndarray
    steps: int
    rate: float
    decay: float = 0.0
    held_out: LeastSquares | None = None

    def __post_init__(self) -> None:
        start = np.array(self.start, np.float64)
        if start.shape != (self.problem.columns,):
            raise InputError(f"the start has one weight a column, shape ({self.problem.columns},); received {start.shape}")
        if self.steps < 1:
            raise InputError(f"an unrolled run has 1 step or more; received {self.steps}")
        check_rate(self.rate)
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise InputError(f"the decay must be 0 or more and finite; received {self.decay:g}")
        if self.held_out is not None and self.held_out.columns != self.problem.columns:
            raise InputError(f"held-out rows have {self.problem.columns} columns; received {self.held_out.columns}")
        object.__setattr__(self, "start", start)

    @property
    def objective(self) -> LeastSquares:
        """What the loss is measured on."""
        return self.problem if self.held_out is None else self.held_out

    def slope(self, w: np.ndarray) -> np.ndarray:
        """∇L̃(w)."""
        return self.problem.gradient(w) + 2 * self.decay * w

    def curve(self, v: np.ndarray) -> np.ndarray:
        """The Hessian of L̃ times a vector, without the matrix: (2/n) Xᵀ(Xv) + 2λ̃v."""
        x = self.problem.inputs
        return 2 / self.problem.rows * (x.T @ (x @ v)) + 2 * self.decay * v

    def weights(self, start: np.ndarray, steps: int, first: int = 0) -> Iterator[np.ndarray]:
        """The weights before each of some steps, and after the last.

        Raises:
            DivergenceError: the loss ran away; the message names the step.
        """
        w = start
        yield w
        for step in range(first + 1, first + steps + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                w = w - self.rate * self.slope(w)
                size = float(w @ w)
            if not size < HOPELESS:
                bound = 1 / (1 / self.problem.largest_rate + self.decay)
                raise DivergenceError(
                    f"the run diverged: ‖w‖² passed {HOPELESS:.0e} at step {step} of {self.steps} at rate {self.rate:g}; with "
                    f"decay {self.decay:g} gradient descent needs a rate below {bound:.3g} here"
                )
            yield w

    def end(self) -> np.ndarray:
        """w_t."""
        for w in self.weights(self.start, self.steps):  # noqa: B007 the last one is wanted
            pass
        return w


def finite_differences(run: Unrolled, *, step: float = 1e-5) -> Hypergradient:
    """Central differences; the decay's is one-sided, of second order, where the decay is smaller than the step.

    Args:
        run: what is differentiated.
        step: of the decay, and of the rate relative to its size.
    """

    def loss(rate: float = run.rate, decay: float = run.decay) -> float:
        changed = replace(run, rate=rate, decay=decay)
        return changed.objective.loss(changed.end())

    h = step * run.rate
    rate = (loss(rate=run.rate + h) - loss(rate=run.rate - h)) / (2 * h)
    if run.decay >= step:
        decay = (loss(decay=run.decay + step) - loss(decay=run.decay - step)) / (2 * step)
    else:
        near, middle, far = (loss(decay=run.decay + k * step) for k in (0, 1, 2))
        decay = (-3 * near + 4 * middle - far) / (2 * step)
    return Hypergradient(loss(), rate, decay)


def reverse_mode(run: Unrolled) -> Hypergradient:
    """Back-propagation through the run, with every w_k kept: O(t) memory, one pass for any number of hyper-parameters."""
    kept = list(run.weights(run.start, run.steps))
    adjoint = run.objective.gradient(kept[-1])
    loss = run.objective.loss(kept.pop())
    rate = decay = 0.0
    # the list itself is read backwards: reversing it would double what is measured
    for k in range(len(kept) - 1, -1, -1):
        adjoint, by_rate, by_decay = _back(run, kept[k], adjoint)
        rate, decay = rate + by_rate, decay + by_decay
    return Hypergradient(loss, rate, decay)


def checkpointed(run: Unrolled, every: int | None = None) -> Hypergradient:
    """Back-propagation that keeps a w_k now and then and computes those between again, a stretch at a time.

    Args:
        run: what is differentiated.
        every: steps between checkpoints; None: √t, at which checkpoints and one stretch together are fewest, 2√t.

    Raises:
        InputError: fewer than 1 step between checkpoints.
    """
    if every is None:
        every = max(1, math.isqrt(run.steps))
    if every < 1:
        raise InputError(f"there are 1 or more steps between checkpoints; received {every}")
    checkpoints: list[np.ndarray] = []
    for k, w in enumerate(run.weights(run.start, run.steps)):
        if k % every == 0 and k < run.steps:
            checkpoints.append(w)
    adjoint, loss = run.objective.gradient(w), run.objective.loss(w)
    rate = decay = 0.0
    for number in range(len(checkpoints) - 1, -1, -1):
        first = number * every
        stretch = list(run.weights(checkpoints.pop(), min(every, run.steps - first) - 1, first))
        while stretch:
            adjoint, by_rate, by_decay = _back(run, stretch.pop(), adjoint)
            rate, decay = rate + by_rate, decay + by_decay
    return Hypergradient(loss, rate, decay)


def _back(run: Unrolled, w: np.ndarray, adjoint: np.ndarray) -> tuple[np.ndarray, float, float]:
    """One step backwards: the adjoint of w_k from that of w_{k+1} = w_k − η∇L̃(w_k), and what the step adds to the derivatives."""
    by_rate, by_decay = -float(adjoint @ run.slope(w)), -2 * run.rate * float(adjoint @ w)
    return adjoint - run.rate * run.curve(adjoint), by_rate, by_decay


def forward_mode(run: Unrolled) -> Hypergradient:
    """Tangents dw/dη and dw/dλ̃ carried along: memory does not grow with t, but every hyper-parameter costs a tangent."""
    by_rate, by_decay = np.zeros_like(run.start), np.zeros_like(run.start)
    weights = run.weights(run.start, run.steps)
    w = next(weights)
    for after in weights:
        by_rate = by_rate - run.slope(w) - run.rate * run.curve(by_rate)
        by_decay = by_decay - 2 * run.rate * w - run.rate * run.curve(by_decay)
        w = after
    gradient = run.objective.gradient(w)
    return Hypergradient(run.objective.loss(w), float(gradient @ by_rate), float(gradient @ by_decay))


def one_step(run: Unrolled) -> Hypergradient:
    """The closed form for t = 1: L(w₁) with w₁ = (1 − 2ηλ̃)w₀ − (2η/n)Xᵀa, a = Xw₀ − t (report 004, 2.2.1 for λ̃ = 0).

    On the training rows without decay, L(w₁) = (1/n)‖a − (2η/n)XXᵀa‖² and its derivative is
    −(4/n²) aᵀXXᵀ(a − (2η/n)XXᵀa).

    Raises:
        InputError: the run has more than one step.
    """
    if run.steps != 1:
        raise InputError(f"the closed form is that of 1 step; received {run.steps}")
    x, n, a = run.problem.inputs, run.problem.rows, run.problem.residual(run.start)
    held = run.objective
    down = 2 / n * (x.T @ a) + 2 * run.decay * run.start
    moved = held.inputs @ down
    b = held.residual(run.start) - run.rate * moved
    by_decay = -2 * run.rate * (held.inputs @ run.start)
    return Hypergradient(float(b @ b) / held.rows, -2 / held.rows * float(b @ moved), 2 / held.rows * float(b @ by_decay))


@dataclass(frozen=True, eq=False)
class HypergradientStudy:
    """Derivatives in every way, the best rate, and curves.

    Attributes:
        run: what was differentiated.
        ways: name of a way to its result for the run.
        single: the same for the run's first step alone.
        best: η* of one step.
        textbook: η* of X = diag(1, 2), t = (1, 1), w₀ = 0: 5/17, 1 → 9/34.
        curves: L(w_t) against η, for several t without decay.
        bent: one with a decay, where L(w_t) is convex no more.
        shifts: relative changes of η in finite differences.
        errors: difference of each of them from reverse mode, relative as in `Hypergradient.difference`; of the rate only.
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
        """Agreement of the ways, the best rate, convexity."""
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
        found.append(Claim("2.2.2", "t = 1: least d²L/dη² over the rates, (8/n³)‖XXᵀa‖²", one.curvatures.min(), "=",
                           self.best.curvature, 1e-9 * self.best.curvature))  # fmt: skip
        for curve in self.curves[1:]:
            text = f"t = {curve.steps}, no decay: least d²L/dη², still convex"
            # where the loss is flat to the last digit, its bend is rounding
            found.append(Claim("2.2.2", text, curve.curvatures.min(), ">", -1e-12 * curve.curvatures.max()))
        text = f"t = {self.bent.steps}, λ̃ = {self.bent.decay:g}: least d²L/dη², not convex"
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


def study_hypergradients(
    *, rows: int = 12, columns: int = 8, steps: int = 100, rate: float | None = None, decay: float = 0.01, seed: int = 0,
    tape: bool = True, times: Sequence[int] = (1, 2, 5, 20),
) -> HypergradientStudy:  # fmt: skip
    """Differentiate a run on random data in every way.

    Args:
        rows: n, for training and as many held out.
        columns: d.
        steps: t.
        rate: η; None: 0.3 of the largest at which gradient descent converges.
        decay: λ̃.
        seed: of the data and of w₀.
        tape: TensorFlow's GradientTape too (imports TensorFlow).
        times: the t of the curves, rising, the first of them 1.

    Raises:
        InputError: a number that is out of its range.
        DivergenceError: the run ran away.
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
        from kerascv_course.theory.keras_side import tape_gradient

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
    """One weight, L = (w − 1)², w₀ = 2, λ̃ = 1: w₂ = (1 + 3(1 − 4η)²)/2 passes the best w twice, on its way to 1/2 and back."""
    return loss_curve(LeastSquares(np.ones((1, 1)), np.ones(1)), np.full(1, 2.0), np.linspace(0, 0.5, 201), 2, decay=1.0)
