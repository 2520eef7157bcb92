"""Linear least squares, L(w) = (1/n)‖Xw − t‖² (report 004, 1.1), mini-batches, and textbook optimizers.

An optimizer's update returns what is added to the weights, so that weight decay can be applied beside it (see `decay`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kerascv_course.core.errors import DataError, InputError

__all__ = [
    "Adagrad",
    "Adam",
    "Adamax",
    "DivergenceError",
    "GradientDescent",
    "LeastSquares",
    "Method",
    "RMSProp",
    "check_finite",
    "check_rate",
    "check_steps",
    "descend",
    "draw_batches",
    "random_problem",
    "read_problem",
]

#: A loss beyond this has diverged.
HOPELESS = 1e30
#: Largest number of values in the inputs, and in the weights of all steps together.
LARGEST = 20_000_000


class DivergenceError(InputError):
    """A descent whose weights or loss diverged."""


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Inputs and targets of a linear regression without bias, in float64.

    Attributes:
        inputs: X, float64 (n, d), read-only.
        targets: t, float64 (n,), read-only.

    Raises:
        DataError: shapes that do not match, no rows, or values that are not finite.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        x, t = (np.array(values, np.float64) for values in (self.inputs, self.targets))
        if x.ndim != 2 or t.shape != x.shape[:1] or not x.size:
            raise DataError(
                f"inputs must be (rows, columns) and targets (rows,), one or more of each; received {x.shape} and {t.shape}"
            )
        if not (np.isfinite(x).all() and np.isfinite(t).all()):
            raise DataError("inputs and targets must be finite; received NaN or infinity")
        for name, values in (("inputs", x), ("targets", t)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def rows(self) -> int:
        """n."""
        return int(self.inputs.shape[0])

    @property
    def columns(self) -> int:
        """d."""
        return int(self.inputs.shape[1])

    def residual(self, w: np.ndarray) -> np.ndarray:
        """a = Xw − t, (n,)."""
        residual: np.ndarray = self.inputs @ w - self.targets
        return residual

    def loss(self, w: np.ndarray) -> float:
        """(1/n)‖Xw − t‖²."""
        return float(np.mean(self.residual(w) ** 2))

    def gradient(self, w: np.ndarray, batch: np.ndarray | None = None) -> np.ndarray:
        """(2/b) X_Bᵀ(X_B w − t_B), (d,); of all rows if no batch of row indices is given."""
        x, t = (self.inputs, self.targets) if batch is None else (self.inputs[batch], self.targets[batch])
        gradient: np.ndarray = 2 / len(t) * (x.T @ (x @ w - t))
        return gradient

    @cached_property
    def _svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.linalg.svd(self.inputs, full_matrices=False)

    @property
    def rank(self) -> int:
        """Rank of X, by NumPy's tolerance: singular values below eps · max(n, d) of the largest are zero."""
        _, values, _ = self._svd
        return int((values > values[0] * max(self.inputs.shape) * np.finfo(np.float64).eps).sum()) if values[0] else 0

    @property
    def largest_rate(self) -> float:
        """Full-batch gradient descent converges below this rate: 2 over the largest eigenvalue of the Hessian (2/n)XᵀX."""
        return float(self.rows / self._svd[1][0] ** 2) if self._svd[1][0] else math.inf

    def minimum_norm(self) -> np.ndarray:
        """w* = Xᵀ(XXᵀ)⁻¹t, the minimum-norm solution of Xw = t, (d,); by the pseudo-inverse of X.

        Raises:
            DataError: X does not have full row rank, so XXᵀ has no inverse.
        """
        if self.rank < self.rows:
            raise DataError(
                f"Xᵀ(XXᵀ)⁻¹t needs rows that are linearly independent; the {self.rows} rows of {self.columns} columns have rank "
                f"{self.rank}: drop dependent rows, or use more columns than rows"
            )
        solution: np.ndarray = np.linalg.pinv(self.inputs) @ self.targets
        return solution

    def outside(self, w: np.ndarray) -> np.ndarray:
        """The part of w that is orthogonal to every row of X: w − V Vᵀ w; takes (…, d)."""
        basis = self._svd[2][: self.rank]
        outside: np.ndarray = w - (w @ basis.T) @ basis
        return outside


def check_rate(rate: float, name: str = "the learning rate") -> float:
    """Return a learning rate after checking it.

    Raises:
        InputError: it is not positive and finite.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"{name} must be above 0 and finite; received {rate:g}")
    return float(rate)


def check_steps(steps: int, width: int) -> None:
    """Check the length of a descent.

    Args:
        steps: of the descent.
        width: values stored per step.

    Raises:
        InputError: fewer than 1 step, or more values than fit in memory.
    """
    if steps < 1:
        raise InputError(f"a descent needs 1 step or more; received {steps}")
    if steps * width > LARGEST:
        raise InputError(f"a descent stores at most {LARGEST:,} values; received {steps:,} steps of {width:,}: use fewer steps")


def check_finite(path: np.ndarray, problem: LeastSquares, rate: float) -> None:
    """Check that a descent, (steps + 1, d), did not diverge.

    Raises:
        DivergenceError: it did; the message gives the step, and the rate below which full-batch descent converges.
    """
    with np.errstate(all="ignore"):
        losses = np.mean((path @ problem.inputs.T - problem.targets) ** 2, axis=1)
    if (bad := np.flatnonzero(~(losses < HOPELESS))).size:
        raise DivergenceError(
            f"the descent diverged: the loss passed {HOPELESS:.0e} at step {bad[0]} at rate {rate:g}; plain gradient descent "
            f"on all rows needs a rate below {problem.largest_rate:.3g} here, mini-batches a smaller one: reduce the rate"
        )


def random_problem(rows: int = 10, columns: int = 30, *, rank: int | None = None, seed: int = 0) -> LeastSquares:
    """Random least squares with standard normal inputs and targets.

    Args:
        rows: n.
        columns: d; over-parameterized if larger than n.
        rank: of X, for rank-deficient data; None: full.
        seed: for NumPy's generator.

    Raises:
        InputError: sizes below 1 or too large, or a rank above rows or columns.
    """
    full = min(rows, columns)
    if full < 1:
        raise InputError(f"rows and columns must be 1 or more; received {rows} and {columns}")
    if rows * columns > LARGEST:
        raise InputError(f"inputs have at most {LARGEST:,} values; received {rows:,} rows of {columns:,} columns")
    if rank is not None and not 1 <= rank <= full:
        raise InputError(f"the rank of {rows} rows and {columns} columns must be 1 to {full}; received {rank}")
    rng = np.random.default_rng(seed)
    inputs, targets = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    if rank is not None and rank < full:
        inputs = rng.normal(size=(rows, rank)) @ inputs[:rank]
    return LeastSquares(inputs, targets)


def read_problem(path: Path) -> LeastSquares:
    """Read a CSV file of numbers without a header: one row per line, the target last.

    Raises:
        DataError: the file is missing, is not such a table, or has values that are not finite.
    """
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as numbers separated by commas, the target last: {error}") from None
    if table.shape[1] < 2 or not len(table):
        raise DataError(
            f"{path} needs one or more inputs and a target per line; received {len(table)} lines of {table.shape[1]} numbers"
        )
    return LeastSquares(table[:, :-1], table[:, -1])


def draw_batches(rows: int, size: int, steps: int, seed: int) -> np.ndarray:
    """Row indices of each step's mini-batch, int (steps, size): drawn independently, without repetition within a batch.

    Raises:
        InputError: a size or number of steps below 1, or a batch larger than the data.
    """
    check_steps(steps, rows)
    if not 1 <= size <= rows:
        raise InputError(f"a mini-batch takes 1 to {rows} rows (all); received {size}")
    if size == rows:
        return np.tile(np.arange(rows), (steps, 1))
    return np.argsort(np.random.default_rng(seed).random((steps, rows)), axis=1)[:, :size]


class Method(Protocol):
    """An optimizer with its settings."""

    @property
    def rate(self) -> float:
        """The learning rate."""

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """The update to add to the weights, and the new state; the state before step 1 is None."""


@dataclass(frozen=True)
class GradientDescent:
    """w ← w − ηg; with momentum v ← μv − ηg, w ← w + v (Polyak), or w + μv − ηg (Nesterov, as Keras and PyTorch write it)."""

    rate: float
    momentum: float = 0.0
    nesterov: bool = False

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        velocity = self.momentum * (0.0 if state is None else state) - self.rate * gradient
        return (self.momentum * velocity - self.rate * gradient if self.nesterov else velocity), velocity


@dataclass(frozen=True)
class Adagrad:
    """s ← s + g², w ← w − ηg/(√s + ε) (Duchi et al. 2011).

    Attributes:
        rate: η.
        epsilon: ε.
        start: s before the first step; 0 in the paper, 0.1 in Keras.
        inside: ε is added under the root, as in Keras: η g/√(s + ε).
    """

    rate: float
    epsilon: float = 1e-7
    start: float = 0.0
    inside: bool = False

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        total = (self.start if state is None else state) + gradient**2
        return -self.rate * gradient / _root(total, self.epsilon, self.inside), total


@dataclass(frozen=True)
class RMSProp:
    """v ← βv + (1 − β)g², w ← w − ηg/(√v + ε) (Tieleman and Hinton 2012; report 004, 1.2.1).

    Attributes:
        rate: η.
        beta: β; Keras calls it rho.
        epsilon: ε.
        inside: ε is added under the root, as in Keras: η g/√(v + ε).
    """

    rate: float
    beta: float = 0.9
    epsilon: float = 1e-7
    inside: bool = False

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        mean = self.beta * (0.0 if state is None else state) + (1 - self.beta) * gradient**2
        return -self.rate * gradient / _root(mean, self.epsilon, self.inside), mean


@dataclass(frozen=True)
class Adam:
    """Algorithm 1 of Kingma and Ba (2015): m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ), w ← w − η m̂/(√v̂ + ε).

    Attributes:
        rate: η.
        beta_1: decay rate of the mean m.
        beta_2: decay rate of the mean square v.
        epsilon: ε; 1e-8 in the paper, 1e-7 in Keras.
        hat: ε is added before √v is corrected, as at the end of the paper's section 2 and in Keras: η √(1 − β₂ᵗ)/(1 − β₁ᵗ) m/(√v + ε).
    """

    rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    hat: bool = False

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        m, v = (0.0, 0.0) if state is None else state
        m = self.beta_1 * m + (1 - self.beta_1) * gradient
        v = self.beta_2 * v + (1 - self.beta_2) * gradient**2
        rate, correction = self.rate / (1 - self.beta_1**step), np.sqrt(1 - self.beta_2**step)
        if self.hat:
            return -rate * correction * m / (np.sqrt(v) + self.epsilon), (m, v)
        return -rate * m / (np.sqrt(v) / correction + self.epsilon), (m, v)


@dataclass(frozen=True)
class Adamax:
    """Algorithm 2 of Kingma and Ba (2015): u ← max(β₂u, |g|), w ← w − η/(1 − β₁ᵗ) m/(u + ε).

    Attributes:
        rate: η.
        beta_1: decay rate of the mean m.
        beta_2: decay rate of the maximum u.
        epsilon: ε; 1e-7 in Keras; not in the paper, where a first gradient of exactly zero divides by zero.
    """

    rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        m, u = (0.0, np.zeros_like(gradient)) if state is None else state
        m = self.beta_1 * m + (1 - self.beta_1) * gradient
        u = np.maximum(self.beta_2 * u, np.abs(gradient))
        return -self.rate / (1 - self.beta_1**step) * m / (u + self.epsilon), (m, u)


def descend(
    gradient: Callable[[np.ndarray, int], np.ndarray], method: Method, start: np.ndarray, steps: int, *, decay: float = 0.0
) -> np.ndarray:
    """Run a descent and return its weights, float64 (steps + 1, d), including the start.

    Args:
        gradient: function of the weights and the step number, from 1.
        method: the optimizer.
        start: w₀, (d,).
        steps: number of updates.
        decay: λ of decoupled weight decay: w ← (1 − λ)w + update, the gradient taken before.

    Raises:
        InputError: a rate that is not positive, fewer than 1 step, or a decay outside [0, 1).
    """
    check_rate(method.rate)
    check_steps(steps, len(start))
    if not 0 <= decay < 1:
        raise InputError(f"the weight decay must be 0 or more and below 1; received {decay:g}")
    path = np.empty((steps + 1, len(start)))
    path[0] = start
    state: Any = None
    # divergence is reported by `check_finite`, with its step
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, steps + 1):
            update, state = method.update(gradient(path[step - 1], step), state, step)
            path[step] = (1 - decay) * path[step - 1] + update
    return path


def _root(squares: np.ndarray, epsilon: float, inside: bool) -> np.ndarray:
    return np.sqrt(squares + epsilon) if inside else np.sqrt(squares) + epsilon
