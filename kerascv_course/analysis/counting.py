"""Multiply-accumulates, connections, neurons and parameters; where courses and tools count differently, a switch decides.

* **MACs**: products of an activation with a weight or with another activation, in convolutions, dense layers and matrix products.
  Convolution: k²·H·W·Cin·Cout of its *output* map, divided by the groups; transposed convolution: the same with its *input* map.
  fvcore counts the same way; torchinfo adds the biases. Batch norm, activations and pooling count nothing, so that folding a
  batch norm does not change the number.
* **Connections**: weights times the number of places they are applied at, i.e. the MACs of layers with weights. LeCun et al. 1998
  count biases as connections too (``biases``); ``exact_borders`` leaves out products with padding zeros.
* **Neurons**: outputs of layers that compute new units: convolutions, dense layers, pooling and upsampling (as in CSC413
  assignment 2, question 3.2). Its question 4.3 counts batch norms and ReLUs as well (``norms``, ``activations``).

All counts are exact integers for one image; None wherever an unknown operator leaves them open.

Exporting changes the number of parameters. At inference a batch norm is one scale and one shift per channel. Of a batch norm over C
channels, which has 4C parameters in Keras (2C trainable, 2C moving statistics), a file may keep

* 4C: the operator itself,
* 2C: a multiplication and an addition,
* C: the layer before has no bias; its weights are rescaled and the shifts become its bias,
* 0: the layer before has a bias, which absorbs the shifts.

Which one depends on the converter and even on the values (an addition of zeros is dropped), so the two functions below are exact
for networks whose values are neither zeros nor ones: `exported_parameters` and `inference_parameters`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kerascv_course.analysis.graph import Graph, GraphNode

__all__ = [
    "REPORT_004",
    "Convention",
    "Counts",
    "connections",
    "count",
    "exported_parameters",
    "inference_parameters",
    "macs",
    "neurons",
    "total",
]

_UNITS = ("conv", "conv_transpose", "dense", "matmul", "pool", "global_pool", "resize")
_WEIGHTED = ("conv", "conv_transpose", "dense")


@dataclass(frozen=True)
class Convention:
    """What to count.

    Attributes:
        biases: biases are weights, and one connection for each output that they are added to.
        norms: outputs of normalization layers are neurons.
        activations: outputs of activation functions are neurons.
        exact_borders: products with padding zeros are not connections.
    """

    biases: bool = False
    norms: bool = False
    activations: bool = False
    exact_borders: bool = False


#: The convention of report 004, section 4.3: no biases; outputs of convolution, pooling, batch norm and ReLU are all neurons.
REPORT_004 = Convention(norms=True, activations=True)


@dataclass(frozen=True)
class Counts:
    """Totals of a network under one convention."""

    convention: Convention
    weights: int
    neurons: int | None
    connections: int | None


def macs(graph: Graph, node: GraphNode) -> int | None:
    """Multiply-accumulates of a node."""
    if node.kind == "unknown":
        return None
    if node.kind == "matmul":
        return graph.out(node).elements * graph.inp(node).shape[-1]
    return _products(graph, node)


def neurons(graph: Graph, node: GraphNode, convention: Convention = Convention()) -> int | None:
    """Outputs of a node that count as neurons."""
    if node.kind == "unknown":
        return None
    counted = (
        node.kind in _UNITS
        or (convention.norms and node.kind == "norm")
        or (convention.activations and node.kind == "activation")
    )
    return _output_elements(graph, node) if counted else 0


def connections(graph: Graph, node: GraphNode, convention: Convention = Convention()) -> int | None:
    """Uses of a node's weights."""
    if node.kind == "unknown":
        return None
    biases = _output_elements(graph, node) if convention.biases and node.bias else 0
    exact = convention.exact_borders and node.kind in _WEIGHTED and node.window is not None
    return biases + (_products_inside(graph, node) if exact else _products(graph, node))


def count(graph: Graph, convention: Convention = Convention()) -> Counts:
    """Weights, neurons and connections of a whole network."""
    weights = sum(node.weight for node in graph.nodes if node.kind in _WEIGHTED and node.parameters)
    biases = sum(node.bias for node in graph.nodes) if convention.biases else 0
    return Counts(
        convention,
        weights + biases,
        total(neurons(graph, node, convention) for node in graph.nodes),
        total(connections(graph, node, convention) for node in graph.nodes),
    )


def total(values: Iterable[int | None]) -> int | None:
    """The sum, or None if one of the values is None."""
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def _output_elements(graph: Graph, node: GraphNode) -> int:
    """Outputs of a node; of a transposed convolution those that the crop right after it leaves."""
    return graph.out([node, *graph.crops(node)][-1]).elements


def _products(graph: Graph, node: GraphNode) -> int:
    if node.channels is None or node.kind not in _WEIGHTED:
        return 0
    if node.kind == "dense":
        return graph.out(node).elements * node.channels[0]
    assert node.window is not None
    kernel = math.prod(node.window.kernel)
    if node.kind == "conv_transpose":
        return graph.inp(node).elements * kernel * node.channels[1] // node.groups
    return graph.out(node).elements * kernel * node.channels[0] // node.groups


def _products_inside(graph: Graph, node: GraphNode) -> int:
    """Products with values on the map, not with padding (of a transposed convolution: those that land on the map)."""
    assert node.window is not None and node.channels is not None
    w = node.window
    taps = 1
    source, out = graph.inp(node).shape, graph.out(node).shape
    zeros = _zero_padding(graph, node, len(source))
    crops = graph.crops(node)
    for axis, k, s, (before, _), d in zip(w.axes, w.kernel, w.stride, w.padding, w.dilation, strict=True):
        if node.kind == "conv":
            low, high = zeros[axis][0], source[axis] - zeros[axis][1]
            taps *= sum(low <= o * s - before + t * d < high for o in range(out[axis]) for t in range(k))
        else:
            cut = sum(-crop.pads[axis][0] for crop in crops)
            size = graph.out(crops[-1]).shape[axis] if crops else out[axis]
            taps *= sum(0 <= i * s + t * d - before - cut < size for i in range(source[axis]) for t in range(k))
    return taps * node.channels[0] * node.channels[1] // node.groups


def _zero_padding(graph: Graph, node: GraphNode, rank: int) -> list[tuple[int, int]]:
    """(before, after): zeros that padding layers before a convolution have added along each axis of its input."""
    zeros = [(0, 0)] * rank
    feed = graph.feeding(node)
    while feed is not None and feed.kind == "pad" and feed.mode == "constant":
        zeros = [(a + before, b + after) for (a, b), (before, after) in zip(zeros, feed.pads, strict=True)]
        feed = graph.feeding(feed)
    return zeros


# --- parameters of an exported file -----------------------------------------------------------------------------------


def exported_parameters(graph: Graph) -> int:
    """Parameters that our export of a Keras model stores.

    A batch norm over C channels goes into the convolution or dense layer right before it if nothing else reads that: C numbers
    where it has no bias, none where it has one. Everywhere else it stays with 4C numbers, as do all other parameters.
    """
    number = 0
    for node in graph.nodes:
        if node.kind != "norm" or node.mode != "batch" or not node.parameters:
            number += node.parameters
            continue
        feed = graph.feeding(node)
        folded = feed is not None and feed.kind in _WEIGHTED and graph.only_consumer(feed) is node
        number += _channels(node) * (4 if feed is None or not folded else 0 if feed.bias else 1)
    return number


def inference_parameters(graph: Graph) -> int:
    """Parameters left when every batch norm is folded as far as possible: a normal form of any model or file.

    A batch norm over C channels becomes C numbers or none behind a convolution or dense layer (a crop in between does not
    matter), and 2C elsewhere. A Keras model and its ONNX file agree on this number exactly, whatever the converter did.
    """
    absorbed: set[int] = set()
    number = 0
    for node in graph.nodes:
        if id(node) in absorbed:
            continue
        if node.kind in _WEIGHTED and node.parameters:
            chain = _foldable(graph, node)
            absorbed.update(id(n) for n in chain)
            shift = node.bias or node.parameters > node.weight or any(n.kind != "crop" for n in chain)
            number += node.weight + (_channels(node) if shift else 0)
        elif node.kind == "norm" and node.mode == "batch" and node.parameters:
            number += 2 * _channels(node)
        else:
            number += node.parameters
    return number


def _channels(node: GraphNode) -> int:
    assert node.channels is not None
    return node.channels[1]


def _foldable(graph: Graph, node: GraphNode) -> list[GraphNode]:
    """Batch norms, scales, shifts and crops that follow a layer one after another, each the only reader of the one before."""
    chain: list[GraphNode] = []
    after = graph.only_consumer(node)
    while after is not None:
        scale = after.kind == "affine" and after.parameters and after.parameters == _channels(node)
        if not (scale or (after.kind == "norm" and after.mode == "batch") or after.kind == "crop"):
            break
        chain.append(after)
        after = graph.only_consumer(after)
    return chain
