"""What the rewrites of an ONNX graph share."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

__all__ = ["inputs_of", "prune"]


def prune(graph: onnx.GraphProto) -> None:
    """Take out nodes and constants whose results nobody reads any more."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(inputs_of(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [entry for entry in graph.initializer if entry.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    infos = [info for info in graph.value_info if info.name in needed]
    del graph.value_info[:]
    graph.value_info.extend(infos)


def inputs_of(node: onnx.NodeProto) -> Iterable[str]:
    """Tensors that a node reads, those of its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            for inner in graph.node:
                yield from inputs_of(inner)
            yield from (output.name for output in graph.output)
