"""The graph that every calculation of this package reads: one form for a Keras model and for an ONNX file.

A reader (`keras_graph`, `onnx_graph`) turns its source into a `Graph`; counts, receptive fields and printers see nothing else.
Shapes stand for a batch of one image. Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

__all__ = ["Graph", "Kind", "Node", "Tensor", "Window"]

#: What a node does, as far as counting and receptive fields care.
Kind = Literal[
    "input",
    "conv",  # convolution, grouped and depthwise too
    "conv_transpose",
    "dense",  # matrix product with a constant matrix, over the last axis
    "matmul",  # matrix product of two activations
    "pool",  # max or average over a window
    "global_pool",  # max or average over whole axes
    "resize",  # up- or down-sampling without parameters
    "norm",  # batch normalisation and its kin
    "affine",  # arithmetic with a constant: scale, shift, bias
    "activation",  # elementwise, one input
    "merge",  # elementwise, several inputs
    "concat",
    "pad",
    "crop",
    "reshape",
    "transpose",
    "identity",  # dropout, cast: nothing at inference
    "move",  # rearranges or selects values without arithmetic, in a way that is not followed
    "unknown",  # nothing is claimed of it
]


@dataclass(frozen=True)
class Tensor:
    """An activation: its shape for one image (batch axis first, 1) and the bytes of one element; `known` is the shape's."""

    shape: tuple[int, ...]
    itemsize: int = 4
    known: bool = True

    @property
    def elements(self) -> int:
        """Number of values for one image."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes for one image."""
        return self.elements * self.itemsize


@dataclass(frozen=True)
class Window:
    """The sliding window of a convolution or a pooling, one entry for each of the tensor axes in `axes`.

    `padding` holds (before, after). For a transposed convolution it is what is cut from the full output of size
    ``(n − 1)·stride + dilation·(kernel − 1) + 1``; a negative `after` is output padding.
    """

    axes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One layer or operator.

    Attributes:
        kind: what it does.
        type: what its source calls it, such as ``"Conv2D"`` or ``"Conv"``.
        name: its name in the source.
        inputs, outputs: keys into `Graph.tensors`; constants are not among them.
        trainable, frozen: parameters; of a layer that is used again, at its first use only.
        bias: how many of them are biases.
        weight: how many weights its product reads, without biases, at each use.
        window: of convolutions and poolings.
        groups: of convolutions.
        channels: (in, out) of convolutions and dense layers.
        axes: of global pooling, concatenation and normalisation: the axes it works over.
        pads: of padding (>= 0) and cropping (<= 0): what each axis gains before and after.
        perm: of transposition.
        mode: "max", "average", "nearest", "linear", "constant", "reflect" …, by kind.
        coordinates: of resize: "half_pixel", "asymmetric", "align_corners".
    """

    kind: Kind
    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    trainable: int = 0
    frozen: int = 0
    bias: int = 0
    weight: int = 0
    window: Window | None = None
    groups: int = 1
    channels: tuple[int, int] | None = None
    axes: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()
    perm: tuple[int, ...] = ()
    mode: str = ""
    coordinates: str = "half_pixel"

    @property
    def parameters(self) -> int:
        """Trainable and frozen parameters together."""
        return self.trainable + self.frozen

    def replace(self, **changes: object) -> Node:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be computed, and the tensors between them.

    Attributes:
        name: of the model.
        source: "keras" or "onnx".
        channels_last: where convolutions keep the channels.
        nodes: inputs first.
        tensors: by key.
        outputs: keys of the model's outputs.
    """

    name: str
    source: Literal["keras", "onnx"]
    channels_last: bool
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    outputs: tuple[str, ...]
    file_bytes: int | None = None
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def producer(self) -> dict[str, Node]:
        """The node that makes each tensor."""
        return {key: node for node in self.nodes for key in node.outputs}

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor."""
        table: dict[str, list[Node]] = {key: [] for key in self.tensors}
        for node in self.nodes:
            for key in dict.fromkeys(node.inputs):
                table[key].append(node)
        return table

    def out(self, node: Node) -> Tensor:
        """The first output of a node."""
        return self.tensors[node.outputs[0]]

    def inp(self, node: Node) -> Tensor:
        """The first input of a node (for an input node: itself)."""
        return self.tensors[(node.inputs or node.outputs)[0]]

    def only_consumer(self, node: Node) -> Node | None:
        """The node that alone reads the only output, or None; an output of the model counts as a reader."""
        readers = self.consumers[node.outputs[0]]
        alone = len(node.outputs) == 1 and len(readers) == 1 and node.outputs[0] not in self.outputs
        return readers[0] if alone else None

    def feeding(self, node: Node) -> Node | None:
        """The node that makes the first input, or None."""
        return self.producer.get(node.inputs[0]) if node.inputs else None


def ordered(nodes: Iterable[Node], outputs: Iterable[str]) -> tuple[Node, ...]:
    """Nodes in computing order, branch after branch, as a person would write the network down.

    Depth-first from the outputs. The branches of a concatenation come in its own order; those of a sum come longest first, so
    that a shortcut's projection stands after the main path. Nodes that no output needs come last.
    """
    nodes = list(nodes)
    producer = {key: node for node in nodes for key in node.outputs}
    depth: dict[int, int] = {}
    for node in nodes:  # the readers deliver a computing order already
        depth[id(node)] = 1 + max((depth.get(id(producer[k]), 0) for k in node.inputs if k in producer), default=0)

    done: dict[int, Node] = {}

    def parents(node: Node) -> Iterator[Node]:
        found = list(dict.fromkeys(id(producer[k]) for k in node.inputs if k in producer))
        table = {id(producer[k]): producer[k] for k in node.inputs if k in producer}
        if node.kind == "merge":
            found.sort(key=lambda key: -depth[key])
        return iter([table[key] for key in found])

    def visit(root: Node) -> None:
        stack = [(root, parents(root))]
        entered = {id(root)}
        while stack:
            node, rest = stack[-1]
            for parent in rest:
                if id(parent) not in done and id(parent) not in entered:
                    entered.add(id(parent))
                    stack.append((parent, parents(parent)))
                    break
            else:
                done[id(node)] = node
                stack.pop()

    for node in nodes:
        if node.kind == "input":
            done[id(node)] = node
    for key in outputs:
        if key in producer and id(producer[key]) not in done:
            visit(producer[key])
    for node in nodes:
        if id(node) not in done:
            visit(node)
    return tuple(done.values())
