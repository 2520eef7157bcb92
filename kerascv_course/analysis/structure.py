"""The block structure of a network, found from its graph alone: no layer names are looked at.

Between two places where a single tensor carries everything, a network is either one layer or a block of branches. A block that
ends in a sum is a residual block; one that ends in a concatenation is an inception block, or a dense layer in the sense of
DenseNet where one branch is the block's own input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kerascv_course.analysis.graph import Graph, Node

__all__ = ["Segment", "segments"]


@dataclass(frozen=True)
class Segment:
    """One layer, or the layers of one block.

    Attributes:
        kind: "layer", "residual", "inception", "dense" (one branch is the input) or "branches".
        nodes: in computing order; of a residual block the activation after the sum is the last.
        identity: of a residual block: its shortcut is the input itself.
    """

    kind: Literal["layer", "residual", "inception", "dense", "branches"]
    nodes: tuple[Node, ...]
    identity: bool = False


def segments(graph: Graph) -> list[Segment]:
    """A network as a chain of layers and blocks, inputs first."""
    found = list(_cut(graph))
    chain: list[Segment] = []
    for nodes in found:
        after_sum = chain and chain[-1].kind == "residual" and chain[-1].nodes[-1].kind == "merge"
        if len(nodes) == 1:
            if after_sum and nodes[0].kind == "activation":
                chain[-1] = Segment("residual", (*chain[-1].nodes, *nodes), chain[-1].identity)
            else:
                chain.append(Segment("layer", nodes))
            continue
        last = nodes[-1]
        entry = nodes[0].inputs[0] if nodes[0].inputs else ""
        if last.kind == "merge" and len(last.inputs) == 2:
            chain.append(Segment("residual", nodes, entry in last.inputs))
        elif last.kind == "concat":
            chain.append(Segment("dense" if entry in last.inputs else "inception", nodes))
        else:
            chain.append(Segment("branches", nodes))
    return chain


def _cut(graph: Graph) -> Iterator[tuple[Node, ...]]:
    """Runs of nodes between the places where one tensor carries everything."""
    last = {key: at for at, node in enumerate(graph.nodes) for key in node.inputs}
    run: list[Node] = []
    alive: set[str] = set()
    for at, node in enumerate(graph.nodes):
        run.append(node)
        alive = {key for key in alive | set(node.outputs) if last.get(key, -1) > at}
        if len(alive) <= 1 and alive <= set(node.outputs):
            yield tuple(run)
            run = []
    if run:
        yield tuple(run)
