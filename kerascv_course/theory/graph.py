"""The computation graph of a few steps of gradient descent on the penalised loss (report 004, 2.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.theory.claims import Claim

__all__ = ["ComputationGraph", "Edge", "Node", "computation_graph"]

_DIGITS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Node:
    """A value.

    Attributes:
        name: such as ``"w₁"``, ``"L̃₁"``, ``"∇L̃₁"``, ``"η"``.
        kind: what it is.
        step: 0 to t; of η and λ̃, which belong to no step, −1.
    """

    name: str
    kind: Literal["weights", "loss", "gradient", "hyper-parameter"]
    step: int


@dataclass(frozen=True)
class Edge:
    """What a value is computed from.

    Attributes:
        source: name of a node.
        target: name of the node that needs it.
    """

    source: str
    target: str


@dataclass(frozen=True)
class ComputationGraph:
    """Nodes and edges of w_{k+1} = w_k − η∇L̃(w_k), k below t."""

    steps: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def ancestors(self, name: str) -> frozenset[str]:
        """Everything that a value is computed from.

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
        """How many ways lead from one value to another: so many products the chain rule sums."""
        if source == target:
            return 1
        return sum(self.paths(source, edge.source) for edge in self.edges if edge.target == target)

    def kept(self) -> tuple[str, ...]:
        """The weights that back-propagation from the last loss to η needs again: every w_k."""
        used = self.ancestors(f"L̃{_sub(self.steps)}")
        return tuple(node.name for node in self.nodes if node.kind == "weights" and node.name in used)

    def to_dot(self) -> str:
        """The graph in Graphviz's language."""
        shapes = {"weights": "ellipse", "loss": "box", "gradient": "box", "hyper-parameter": "diamond"}
        lines = ["digraph descent {", "  rankdir=LR;"]
        lines += [f'  "{node.name}" [shape={shapes[node.kind]}];' for node in self.nodes]
        lines += [f'  "{edge.source}" -> "{edge.target}";' for edge in self.edges]
        return "\n".join([*lines, "}"]) + "\n"

    def claims(self) -> tuple[Claim, ...]:
        """What the last loss depends on."""
        end = f"L̃{_sub(self.steps)}"
        used = self.ancestors(end)
        where = "2.1.1"
        return (
            Claim(where, f"w that back-propagation from {end} needs: {', '.join(self.kept())}", len(self.kept()), "=", self.steps + 1),
            Claim(where, f"ways from η to {end}", self.paths("η", end), "=", 2**self.steps - 1),
            Claim(where, f"earlier losses whose value {end} needs (their gradients it does)", sum(
                node.kind == "loss" for node in self.nodes if node.name in used), "=", 0),
        )  # fmt: skip


def computation_graph(steps: int = 2) -> ComputationGraph:
    """The graph of some steps.

    Args:
        steps: t; the report asks for 2.

    Raises:
        InputError: fewer than 1 step, or more than 9, which nobody could read.
    """
    if not 1 <= steps <= 9:
        raise InputError(f"a graph of 1 to 9 steps can be read; received {steps}")
    nodes = [Node("η", "hyper-parameter", -1), Node("λ̃", "hyper-parameter", -1)]
    edges = []
    for k in range(steps + 1):
        w, loss, gradient = (f"{symbol}{_sub(k)}" for symbol in ("w", "L̃", "∇L̃"))
        nodes += [Node(w, "weights", k), Node(loss, "loss", k)]
        edges += [Edge(w, loss), Edge("λ̃", loss)]
        if k < steps:
            after = f"w{_sub(k + 1)}"
            nodes.append(Node(gradient, "gradient", k))
            edges += [Edge(w, gradient), Edge("λ̃", gradient), Edge(w, after), Edge(gradient, after), Edge("η", after)]
    return ComputationGraph(steps, tuple(nodes), tuple(edges))


def _sub(number: int) -> str:
    return str(number).translate(_DIGITS)
