"""Multiply-accumulates, connections and neurons of a node, with the conventions that courses and tools differ in as switches.

What is counted:

* **MACs**: products of an activation with a weight (or with another activation), for convolutions, dense layers and matrix
  products. Convolution: k²·H·W·Cin·Cout of its *output* map, divided by the groups; transposed convolution: the same with its
  *input* map. fvcore counts the same; torchinfo adds biases, which nothing is multiplied with. Batch norm, activations and
  poolings count nothing: folded into a convolution or not, a network has one number.
* **Connections**: weights times the places they are used at, that is the MACs of layers with weights. LeCun et al. 1998 count
  biases as connections too (``biases``); products with padding zeros are left out by ``exact_borders``.
* **Neurons**: outputs of the layers that compute new units: convolutions, dense layers, poolings and up-sampling (the count of
  CSC413 assignment 2, question 3.2). Its question 4.3 counts batch norms and ReLUs as well (``norms``, ``activations``).

All counts are for one image and are exact integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kerascv_course.analysis.graph import Graph, Node

__all__ = ["REPORT_004", "Convention", "Counts", "connections", "count", "macs", "neurons", "output_elements", "weights"]

_UNITS = ("conv", "conv_transpose", "dense", "matmul", "pool", "global_pool", "resize")
_WEIGHTED = ("conv", "conv_transpose", "dense")


@dataclass(frozen=True)
class Convention:
    """What to count.

    Attributes:
        biases: biases are weights, and one connection each for every output that they are added to.
        norms: outputs of normalisations are neurons.
        activations: outputs of activation functions are neurons.
        exact_borders: products with the zeros of the padding are no connections.
    """

    biases: bool = False
    norms: bool = False
    activations: bool = False
    exact_borders: bool = False


#: The convention of report 004, section 4.3: no biases; the outputs of convolution, pooling, batch norm and ReLU all count.
REPORT_004 = Convention(norms=True, activations=True)


@dataclass(frozen=True)
class Counts:
    """Totals under one convention; None where an operator that we do not know leaves the total open."""

    convention: Convention
    weights: int
    neurons: int | None
    connections: int | None


def macs(graph: Graph, node: Node) -> int | None:
    """Multiply-accumulates for one image; None for an unknown operator."""
    if node.kind == "unknown":
        return None
    if node.kind == "matmul":
        return graph.out(node).elements * graph.inp(node).shape[-1]
    return _products(graph, node)


def weights(node: Node, convention: Convention = Convention()) -> int:
    """Weights of a convolution or dense layer (at its first use), with or without the biases."""
    if node.kind not in _WEIGHTED or not node.parameters:
        return node.bias if convention.biases else 0
    return node.weight + (node.bias if convention.biases else 0)


def neurons(graph: Graph, node: Node, convention: Convention = Convention()) -> int | None:
    """Outputs that count as neurons, for one image; None for an unknown operator."""
    if node.kind == "unknown":
        return None
    counted = (
        node.kind in _UNITS
        or (convention.norms and node.kind == "norm")
        or (convention.activations and node.kind == "activation")
    )
    return output_elements(graph, node) if counted else 0


def connections(graph: Graph, node: Node, convention: Convention = Convention()) -> int | None:
    """Uses of weights, for one image; None for an unknown operator."""
    if node.kind == "unknown":
        return None
    if node.kind not in _WEIGHTED:
        return output_elements(graph, node) if convention.biases and node.bias else 0
    products = _inside(graph, node) if convention.exact_borders and node.window else _products(graph, node)
    return products + (output_elements(graph, node) if convention.biases and node.bias else 0)


def count(graph: Graph, convention: Convention = Convention()) -> Counts:
    """Weights, neurons and connections of a whole network under a convention."""
    return Counts(
        convention,
        sum(weights(node, convention) for node in graph.nodes),
        total(neurons(graph, node, convention) for node in graph.nodes),
        total(connections(graph, node, convention) for node in graph.nodes),
    )


def total(values: Iterable[int | None]) -> int | None:
    """The sum, or None where one part is not known."""
    found = list(values)
    return None if any(v is None for v in found) else sum(v for v in found if v is not None)


def output_elements(graph: Graph, node: Node) -> int:
    """Outputs of a node; of a transposed convolution those that a crop right after it leaves (the crop is its padding)."""
    return graph.tensors[_cropped(graph, node)[-1].outputs[0]].elements


def _cropped(graph: Graph, node: Node) -> list[Node]:
    chain = [node]
    if node.kind == "conv_transpose":
        after = graph.only_consumer(node)
        while after is not None and after.kind == "crop":
            chain.append(after)
            after = graph.only_consumer(after)
    return chain


def _products(graph: Graph, node: Node) -> int:
    if node.channels is None or node.kind not in _WEIGHTED:
        return 0
    if node.kind == "dense":
        return graph.out(node).elements * node.channels[0]
    assert node.window is not None
    kernel = math.prod(node.window.kernel)
    if node.kind == "conv_transpose":
        return graph.inp(node).elements * kernel * node.channels[1] // node.groups
    return graph.out(node).elements * kernel * node.channels[0] // node.groups


def _inside(graph: Graph, node: Node) -> int:
    """Products with values that lie on the map, not with padding (or, transposed, that land on the map)."""
    assert node.window is not None and node.channels is not None
    w = node.window
    taps = 1
    source, out = graph.inp(node).shape, graph.out(node).shape
    first, last = _zero_padding(graph, node, len(source))
    chain = _cropped(graph, node)[1:]
    for axis, k, s, (before, _), d in zip(w.axes, w.kernel, w.stride, w.padding, w.dilation, strict=True):
        if node.kind == "conv":
            low, high = first[axis], source[axis] - last[axis]
            taps *= sum(low <= o * s - before + t * d < high for o in range(out[axis]) for t in range(k))
        else:
            cut = sum(-step.pads[axis][0] for step in chain)
            size = graph.out(chain[-1]).shape[axis] if chain else out[axis]
            taps *= sum(0 <= i * s + t * d - before - cut < size for i in range(source[axis]) for t in range(k))
    return taps * node.channels[0] * node.channels[1] // node.groups


def _zero_padding(graph: Graph, node: Node, rank: int) -> tuple[list[int], list[int]]:
    """Zeros that padding layers before a convolution have put around its input."""
    first, last = [0] * rank, [0] * rank
    feed = graph.feeding(node)
    while feed is not None and feed.kind == "pad" and feed.mode == "constant":
        first = [a + before for a, (before, _) in zip(first, feed.pads, strict=True)]
        last = [a + after for a, (_, after) in zip(last, feed.pads, strict=True)]
        feed = graph.feeding(feed)
    return first, last
