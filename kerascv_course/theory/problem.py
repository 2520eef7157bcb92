"""Linear least squares, L(w) = (1/n)‖Xw − t‖² (report 004, section 1.1), and which rows a mini-batch takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kerascv_course.core.errors import DataError, InputError

__all__ = [
    "DivergenceError",
    "LeastSquares",
    "check_finite",
    "check_rate",
    "check_steps",
    "draw_batches",
    "random_problem",
    "read_problem",
]

#: A loss beyond this never comes back.
HOPELESS = 1e30
#: Numbers in the inputs, and in the weights of all steps together.
LARGEST = 20_000_000


class DivergenceError(InputError):
    """A descent whose weights or loss ran away."""


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Inputs and targets of a linear regression without a bias; everything is float64.

    Attributes:
        inputs: X, float64 (n, d), read-only.
        targets: t, float64 (n,), read-only.

    Raises:
        DataError: shapes that do not fit, no rows, or values that are not finite.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        x, t = (np.array(values, np.float64) for values in (self.inputs, self.targets))
        if x.ndim != 2 or t.shape != x.shape[:1] or not x.size:
            raise DataError(
                f"inputs are (rows, columns) and targets (rows,), one or more of each; received {x.shape} and {t.shape}"
            )
        if not (np.isfinite(x).all() and np.isfinite(t).all()):
            raise DataError("inputs and targets are finite numbers; received NaN or infinity")
        for name, values in (("inputs", x), ("targets", t)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def rows(self) -> int:
        """n."""
        return self.inputs.shape[0]

    @property
    def columns(self) -> int:
        """d."""
        return self.inputs.shape[1]

    def residual(self, w: np.ndarray) -> np.ndarray:
        """a = Xw − t, (n,)."""
        return self.inputs @ w - self.targets

    def loss(self, w: np.ndarray) -> float:
        """(1/n)‖Xw − t‖²."""
        return float(np.mean(self.residual(w) ** 2))

    def gradient(self, w: np.ndarray, batch: np.ndarray | None = None) -> np.ndarray:
        """(2/b) X_Bᵀ(X_B w − t_B), (d,); of all rows where no batch of row numbers is given."""
        x, t = (self.inputs, self.targets) if batch is None else (self.inputs[batch], self.targets[batch])
        return 2 / len(t) * (x.T @ (x @ w - t))

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
        """w* = Xᵀ(XXᵀ)⁻¹t, the solution of Xw = t with the least norm, (d,); computed from the pseudo-inverse of X.

        Raises:
            DataError: X has not full row rank, so that XXᵀ has no inverse.
        """
        if self.rank < self.rows:
            raise DataError(
                f"Xᵀ(XXᵀ)⁻¹t needs rows that are linearly independent; the {self.rows} rows of {self.columns} columns have rank "
                f"{self.rank}: leave out rows that follow from others, or give more columns than rows"
            )
        return np.linalg.pinv(self.inputs) @ self.targets

    def outside(self, w: np.ndarray) -> np.ndarray:
        """The part of w that is orthogonal to every row of X: w − V Vᵀ w; takes (…, d)."""
        basis = self._svd[2][: self.rank]
        return w - (w @ basis.T) @ basis


def check_rate(rate: float, name: str = "the learning rate") -> float:
    """A rate as it has to be.

    Raises:
        InputError: it is not above 0 and finite.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"{name} must be above 0 and finite; received {rate:g}")
    return float(rate)


def check_steps(steps: int, width: int) -> None:
    """How long a descent may be.

    Args:
        steps: of the descent.
        width: numbers that are kept of each step.

    Raises:
        InputError: fewer than 1 step, or more than memory is meant for.
    """
    if steps < 1:
        raise InputError(f"a descent takes 1 step or more; received {steps}")
    if steps * width > LARGEST:
        raise InputError(
            f"at most {LARGEST:,} numbers are kept of a descent; received {steps:,} steps of {width:,}: give fewer steps"
        )


def check_finite(path: np.ndarray, problem: LeastSquares, rate: float) -> None:
    """That a descent, (steps + 1, d), did not run away.

    Raises:
        DivergenceError: it did; the message names the step, and the rate below which full batches converge.
    """
    with np.errstate(all="ignore"):
        losses = np.mean((path @ problem.inputs.T - problem.targets) ** 2, axis=1)
    if (bad := np.flatnonzero(~(losses < HOPELESS))).size:
        raise DivergenceError(
            f"the descent diverged: the loss passed {HOPELESS:.0e} at step {bad[0]} at rate {rate:g}; plain gradient descent "
            f"on all rows needs a rate below {problem.largest_rate:.3g} here, mini-batches less: give a smaller rate"
        )


def random_problem(rows: int = 10, columns: int = 30, *, rank: int | None = None, seed: int = 0) -> LeastSquares:
    """Standard normal inputs and targets.

    Args:
        rows: n.
        columns: d; over-parameterised where it is larger than n.
        rank: of X, for data that are rank-deficient; None: full.
        seed: of NumPy's generator.

    Raises:
        InputError: numbers below 1, or a rank above rows or columns.
    """
    full = min(rows, columns)
    if full < 1:
        raise InputError(f"rows and columns are 1 or more; received {rows} and {columns}")
    if rows * columns > LARGEST:
        raise InputError(f"at most {LARGEST:,} inputs are drawn; received {rows:,} rows of {columns:,} columns")
    if rank is not None and not 1 <= rank <= full:
        raise InputError(f"the rank of {rows} rows and {columns} columns is 1 to {full}; received {rank}")
    rng = np.random.default_rng(seed)
    inputs, targets = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    if rank is not None and rank < full:
        inputs = rng.normal(size=(rows, rank)) @ inputs[:rank]
    return LeastSquares(inputs, targets)


def read_problem(path: Path) -> LeastSquares:
    """Data from a CSV file of numbers, without a heading: a row a line, the target last.

    Raises:
        DataError: the file is missing, is no such table, or holds values that are not finite.
    """
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as numbers parted by commas, the target last: {error}") from None
    if table.shape[1] < 2 or not len(table):
        raise DataError(
            f"{path} needs one or more inputs and a target a line; received {len(table)} lines of {table.shape[1]} numbers"
        )
    return LeastSquares(table[:, :-1], table[:, -1])


def draw_batches(rows: int, size: int, steps: int, seed: int) -> np.ndarray:
    """Row numbers of each step's mini-batch, int (steps, size): drawn anew every step, none twice in one batch.

    Raises:
        InputError: a size or number of steps below 1, or a batch larger than the data.
    """
    check_steps(steps, rows)
    if not 1 <= size <= rows:
        raise InputError(f"a mini-batch takes 1 to {rows} rows, as many as there are; received {size}")
    if size == rows:
        return np.tile(np.arange(rows), (steps, 1))
    return np.argsort(np.random.default_rng(seed).random((steps, rows)), axis=1)[:, :size]
