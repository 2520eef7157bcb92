"""Gradient descent unrolled and differentiated by the learning rate and the decay (report 004, section 2.1).

w_{k+1} = w_k − η ∇L̃(w_k) with L̃(w) = L(w) + λ̃‖w‖² and L(w) = (1/n)‖Xw − t‖²; L(w_t), on training or held-out rows, is
differentiated. Reverse mode keeps every w_k; reverse mode with checkpoints keeps √t of them and recomputes the rest; forward mode
carries dw/dη and dw/dλ̃ along and keeps nothing; for one step there is a closed form. `computation_graph` shows the dependencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.theory.descent import HOPELESS, DivergenceError, LeastSquares, check_rate
from kerascv_course.theory.pages import Claim

__all__ = [
    "ComputationGraph",
    "Hypergradient",
    "Unrolled",
    "checkpointed",
    "computation_graph",
    "finite_differences",
    "forward_mode",
    "one_step",
    "reverse_mode",
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
        """The larger difference of the two derivatives, relative to the other's size if that is above 1."""
        pairs = ((self.rate, other.rate), (self.decay, other.decay))
        return max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)


@dataclass(frozen=True, eq=False)
class Unrolled:
    """A run of gradient descent to differentiate.

    Attributes:
        problem: training data.
        start: w₀, float64 (d,).
        steps: t.
        rate: η.
        decay: λ̃ of the penalty λ̃‖w‖².
        held_out: rows for the loss; None: the training rows.

    Raises:
        InputError: a start or held-out rows of another width, fewer than 1 step, a rate that is not positive, a negative decay.
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
            raise InputError(f"the start has one weight per column, shape ({self.problem.columns},); received {start.shape}")
        if self.steps < 1:
            raise InputError(f"an unrolled run needs 1 step or more; received {self.steps}")
        check_rate(self.rate)
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise InputError(f"the decay must be 0 or more and finite; received {self.decay:g}")
        if self.held_out is not None and self.held_out.columns != self.problem.columns:
            raise InputError(f"held-out rows must have {self.problem.columns} columns; received {self.held_out.columns}")
        object.__setattr__(self, "start", start)

    @property
    def objective(self) -> LeastSquares:
        """The rows of the loss."""
        return self.problem if self.held_out is None else self.held_out

    def slope(self, w: np.ndarray) -> np.ndarray:
        """∇L̃(w)."""
        return self.problem.gradient(w) + 2 * self.decay * w

    def curve(self, v: np.ndarray) -> np.ndarray:
        """The Hessian of L̃ times a vector, without the matrix: (2/n) Xᵀ(Xv) + 2λ̃v."""
        x = self.problem.inputs
        product: np.ndarray = 2 / self.problem.rows * (x.T @ (x @ v)) + 2 * self.decay * v
        return product

    def weights(self, start: np.ndarray, steps: int, first: int = 0) -> Iterator[np.ndarray]:
        """The weights before each of `steps` steps, and after the last.

        Raises:
            DivergenceError: the weights diverged; the message gives the step.
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
        for w in self.weights(self.start, self.steps):  # noqa: B007 only the last one is used
            pass
        return w


def finite_differences(run: Unrolled, *, step: float = 1e-5) -> Hypergradient:
    """Central differences; the decay's is one-sided, of second order, if the decay is smaller than the step.

    Args:
        run: to differentiate.
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
    """Back-propagation through the run, with every w_k kept: O(t) memory, one pass for any number of hyperparameters."""
    kept = list(run.weights(run.start, run.steps))
    adjoint = run.objective.gradient(kept[-1])
    loss = run.objective.loss(kept.pop())
    rate = decay = 0.0
    # read backwards by index: reversing the list would double the measured memory
    for k in range(len(kept) - 1, -1, -1):
        adjoint, by_rate, by_decay = _back(run, kept[k], adjoint)
        rate, decay = rate + by_rate, decay + by_decay
    return Hypergradient(loss, rate, decay)


def checkpointed(run: Unrolled, every: int | None = None) -> Hypergradient:
    """Back-propagation that keeps every k-th w_k and recomputes those between, segment by segment.

    Args:
        run: to differentiate.
        every: steps between checkpoints; None: √t, which minimizes checkpoints plus one segment (2√t).

    Raises:
        InputError: fewer than 1 step between checkpoints.
    """
    if every is None:
        every = max(1, math.isqrt(run.steps))
    if every < 1:
        raise InputError(f"checkpoints are 1 or more steps apart; received {every}")
    checkpoints: list[np.ndarray] = []
    for k, w in enumerate(run.weights(run.start, run.steps)):
        if k % every == 0 and k < run.steps:
            checkpoints.append(w)
    adjoint, loss = run.objective.gradient(w), run.objective.loss(w)
    rate = decay = 0.0
    for number in range(len(checkpoints) - 1, -1, -1):
        first = number * every
        segment = list(run.weights(checkpoints.pop(), min(every, run.steps - first) - 1, first))
        while segment:
            adjoint, by_rate, by_decay = _back(run, segment.pop(), adjoint)
            rate, decay = rate + by_rate, decay + by_decay
    return Hypergradient(loss, rate, decay)


def _back(run: Unrolled, w: np.ndarray, adjoint: np.ndarray) -> tuple[np.ndarray, float, float]:
    """One step backwards: the adjoint of w_k from that of w_{k+1} = w_k − η∇L̃(w_k), and the step's terms of the derivatives."""
    by_rate, by_decay = -float(adjoint @ run.slope(w)), -2 * run.rate * float(adjoint @ w)
    return adjoint - run.rate * run.curve(adjoint), by_rate, by_decay


def forward_mode(run: Unrolled) -> Hypergradient:
    """Tangents dw/dη and dw/dλ̃ carried along: constant memory in t, one tangent per hyperparameter."""
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
        raise InputError(f"the closed form is for 1 step; received {run.steps}")
    x, n, a = run.problem.inputs, run.problem.rows, run.problem.residual(run.start)
    held = run.objective
    down = 2 / n * (x.T @ a) + 2 * run.decay * run.start
    moved = held.inputs @ down
    b = held.residual(run.start) - run.rate * moved
    by_decay = -2 * run.rate * (held.inputs @ run.start)
    return Hypergradient(float(b @ b) / held.rows, -2 / held.rows * float(b @ moved), 2 / held.rows * float(b @ by_decay))


_DIGITS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class ComputationNode:
    """A value of the computation graph.

    Attributes:
        name: such as ``"w₁"``, ``"L̃₁"``, ``"∇L̃₁"``, ``"η"``.
        kind: of value.
        step: 0 to t; −1 for η and λ̃.
    """

    name: str
    kind: Literal["weights", "loss", "gradient", "hyperparameter"]
    step: int


@dataclass(frozen=True)
class ComputationEdge:
    """A dependency of the computation graph.

    Attributes:
        source: name of a node.
        target: name of the node computed from it.
    """

    source: str
    target: str


@dataclass(frozen=True)
class ComputationGraph:
    """Nodes and edges of w_{k+1} = w_k − η∇L̃(w_k), k below t."""

    steps: int
    nodes: tuple[ComputationNode, ...]
    edges: tuple[ComputationEdge, ...]

    def ancestors(self, name: str) -> frozenset[str]:
        """Everything a value depends on.

        Raises:
            UnknownNameError: there is no such node.
        """
        if name not in (known := [node.name for node in self.nodes]):
            raise UnknownNameError("node", name, known)
        found: set[str] = set()
        todo = [name]
        while todo:
            child = todo.pop()
            for edge in self.edges:
                if edge.target == child and edge.source not in found:
                    found.add(edge.source)
                    todo.append(edge.source)
        return frozenset(found)

    def paths(self, source: str, target: str) -> int:
        """Number of paths from one value to another: of the products that the chain rule sums."""
        if source == target:
            return 1
        return sum(self.paths(source, edge.source) for edge in self.edges if edge.target == target)

    def kept(self) -> tuple[str, ...]:
        """The weights that back-propagation from the last loss to η needs: every w_k."""
        used = self.ancestors(f"L̃{_sub(self.steps)}")
        return tuple(node.name for node in self.nodes if node.kind == "weights" and node.name in used)

    def to_dot(self) -> str:
        """The graph in Graphviz's DOT language."""
        shapes = {"weights": "ellipse", "loss": "box", "gradient": "box", "hyperparameter": "diamond"}
        lines = ["digraph descent {", "  rankdir=LR;"]
        lines += [f'  "{node.name}" [shape={shapes[node.kind]}];' for node in self.nodes]
        lines += [f'  "{edge.source}" -> "{edge.target}";' for edge in self.edges]
        return "\n".join([*lines, "}"]) + "\n"

    def claims(self) -> tuple[Claim, ...]:
        """Dependencies of the last loss."""
        end = f"L̃{_sub(self.steps)}"
        used = self.ancestors(end)
        where = "2.1.1"
        return (
            Claim(where, f"w that back-propagation from {end} needs: {', '.join(self.kept())}", len(self.kept()), "=", self.steps + 1),
            Claim(where, f"paths from η to {end}", self.paths("η", end), "=", 2**self.steps - 1),
            Claim(where, f"earlier losses that {end} depends on (it depends on their gradients)", sum(
                node.kind == "loss" for node in self.nodes if node.name in used), "=", 0),
        )  # fmt: skip


def computation_graph(steps: int = 2) -> ComputationGraph:
    """The computation graph of w_{k+1} = w_k − η∇L̃(w_k).

    Args:
        steps: t; the report asks for 2.

    Raises:
        InputError: not 1 to 9 steps; larger graphs are unreadable.
    """
    if not 1 <= steps <= 9:
        raise InputError(f"the graph needs 1 to 9 steps; received {steps}")
    nodes = [ComputationNode("η", "hyperparameter", -1), ComputationNode("λ̃", "hyperparameter", -1)]
    edges = []
    for k in range(steps + 1):
        w, loss, gradient = (f"{symbol}{_sub(k)}" for symbol in ("w", "L̃", "∇L̃"))
        nodes += [ComputationNode(w, "weights", k), ComputationNode(loss, "loss", k)]
        edges += [ComputationEdge(w, loss), ComputationEdge("λ̃", loss)]
        if k < steps:
            after = f"w{_sub(k + 1)}"
            nodes.append(ComputationNode(gradient, "gradient", k))
            pairs = ((w, gradient), ("λ̃", gradient), (w, after), (gradient, after), ("η", after))
            edges += [ComputationEdge(*pair) for pair in pairs]
    return ComputationGraph(steps, tuple(nodes), tuple(edges))


def _sub(number: int) -> str:
    return str(number).translate(_DIGITS)
