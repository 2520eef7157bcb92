"""The graph every calculation of this package works on, the same for Keras models and ONNX files.

A reader (`keras_graph`, `onnx_graph`) turns its source into a `Graph`; counts, receptive fields and printers see nothing else.
All shapes are for a batch of one image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

__all__ = ["Graph", "GraphNode", "NodeKind", "Segment", "Tensor", "Window", "ordered", "segments"]

#: What a node does, as far as counting and receptive fields care.
NodeKind = Literal[
    "input",
    "conv",  # convolution, including grouped and depthwise
    "conv_transpose",
    "dense",  # product with a constant matrix over the last axis
    "matmul",  # product of two activations
    "pool",  # max or average over a window
    "global_pool",  # max or average over whole axes
    "resize",  # up- or downsampling without parameters
    "norm",  # batch normalization and similar layers
    "affine",  # arithmetic with a constant: scale, shift, bias
    "activation",  # elementwise, one input
    "merge",  # elementwise, several inputs
    "concat",
    "pad",
    "crop",
    "reshape",
    "transpose",
    "identity",  # no effect at inference: dropout, cast
    "move",  # rearranges or selects values without arithmetic, in a way that is not tracked
    "unknown",
]


@dataclass(frozen=True)
class Tensor:
    """An activation: its shape (batch axis first, 1), bytes per element, and whether the shape is known."""

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
    """The sliding window of a convolution or pooling layer; every field has one entry per tensor axis in `axes`.

    `padding` holds (before, after). For a transposed convolution it is what is cropped from the full output of size
    ``(n − 1)·stride + dilation·(kernel − 1) + 1``; a negative `after` is output padding.
    """

    axes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class GraphNode:
    """One layer or operator.

    Attributes:
        kind: what it does, whatever the source calls it.
        type: its type in the source, such as ``"Conv2D"`` or ``"Conv"``.
        name: its name in the source.
        inputs, outputs: keys into `Graph.tensors`; constants are not listed.
        trainable, frozen: parameters; a layer that is called again has none at its later calls.
        bias: how many of the parameters are biases.
        weight: size of the weight tensor, without biases, at every call.
        window: of convolutions and pooling.
        groups: number of channel groups of a convolution.
        channels: (in, out) of convolutions and dense layers.
        axes: the axes that global pooling, concatenation and normalization work on.
        pads: of padding (>= 0) and cropping (<= 0): change of each axis before and after.
        perm: order of the axes that a transposition makes.
        mode: "max", "average", "nearest", "linear", "constant", "reflect" …, depending on `kind`.
        coordinates: of resize: "half_pixel", "asymmetric", "align_corners".
    """

    kind: NodeKind
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

    def replace(self, **changes: object) -> GraphNode:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Graph:
    """Nodes in computing order, inputs first, and the tensors between them.

    Attributes:
        name: what the source calls the model.
        source: where it was read from, "keras" or "onnx".
        channels_last: axis order of the convolutions.
        tensors: the activations by their keys.
        outputs: keys of the model's outputs.
        file_bytes: size of the ONNX file; None for Keras models.
    """

    name: str
    source: Literal["keras", "onnx"]
    channels_last: bool
    nodes: tuple[GraphNode, ...]
    tensors: dict[str, Tensor]
    outputs: tuple[str, ...]
    file_bytes: int | None = None

    @cached_property
    def producer(self) -> dict[str, GraphNode]:
        """The node that computes each tensor."""
        return {key: node for node in self.nodes for key in node.outputs}

    @cached_property
    def consumers(self) -> dict[str, list[GraphNode]]:
        """The nodes that read each tensor."""
        table: dict[str, list[GraphNode]] = {key: [] for key in self.tensors}
        for node in self.nodes:
            for key in dict.fromkeys(node.inputs):
                table[key].append(node)
        return table

    def out(self, node: GraphNode) -> Tensor:
        """The first output of a node."""
        return self.tensors[node.outputs[0]]

    def inp(self, node: GraphNode) -> Tensor:
        """The first input of a node (of an input node: itself)."""
        return self.tensors[(node.inputs or node.outputs)[0]]

    def only_consumer(self, node: GraphNode) -> GraphNode | None:
        """The single reader of a node's single output, or None; being a model output counts as another reader."""
        readers = self.consumers[node.outputs[0]]
        alone = len(node.outputs) == 1 and len(readers) == 1 and node.outputs[0] not in self.outputs
        return readers[0] if alone else None

    def feeding(self, node: GraphNode) -> GraphNode | None:
        """The node that computes the first input, or None."""
        return self.producer.get(node.inputs[0]) if node.inputs else None

    def crops(self, node: GraphNode) -> list[GraphNode]:
        """The cropping layers right after a transposed convolution, which are its padding; empty for other nodes."""
        chain: list[GraphNode] = []
        after = self.only_consumer(node) if node.kind == "conv_transpose" else None
        while after is not None and after.kind == "crop":
            chain.append(after)
            after = self.only_consumer(after)
        return chain

    def channels_first_shape(self, node: GraphNode) -> tuple[int, ...]:
        """Output shape without the batch axis, channels first; global pooling keeps its reduced axes as 1."""
        if node.kind == "global_pool":
            kept = [n for axis, n in enumerate(self.inp(node).shape) if axis > 0 and axis not in node.axes]
            return (*kept, *(1 for _ in node.axes))
        shape = self.out(node).shape[1:]
        return (shape[-1], *shape[:-1]) if self.channels_last and len(shape) > 1 else shape


def ordered(nodes: Iterable[GraphNode], outputs: Iterable[str]) -> tuple[GraphNode, ...]:
    """Nodes in computing order, branch after branch, the way people write networks down.

    Depth-first from the outputs. The branches of a concatenation keep their order; those of a sum are sorted longest first, so
    that a projection shortcut follows the main path. Nodes that no output needs are last.

    Args:
        nodes: in any computing order.
        outputs: keys of the model's outputs.
    """
    nodes = list(nodes)
    producer = {key: at for at, node in enumerate(nodes) for key in node.outputs}
    parents = [list(dict.fromkeys(producer[key] for key in node.inputs if key in producer)) for node in nodes]
    depth = [0] * len(nodes)
    for at, above in enumerate(parents):
        depth[at] = 1 + max((depth[parent] for parent in above), default=0)
        if nodes[at].kind == "merge":
            above.sort(key=lambda parent: -depth[parent])

    done = {at: None for at, node in enumerate(nodes) if node.kind == "input"}
    for root in [*(producer[key] for key in outputs if key in producer), *range(len(nodes))]:
        stack, entered = [root], {root}
        while stack:
            at = stack[-1]
            waiting = next((parent for parent in parents[at] if parent not in done and parent not in entered), None)
            if waiting is None:
                done[stack.pop()] = None
            else:
                stack.append(waiting)
                entered.add(waiting)
    return tuple(nodes[at] for at in done)


@dataclass(frozen=True)
class Segment:
    """One layer, or the layers of one block.

    Attributes:
        kind: "layer", "residual", "inception", "dense" (one branch is the input, as in DenseNet) or "branches".
        nodes: in computing order; those of a residual block include the activation after the sum.
        identity: of a residual block: the shortcut is the input itself.
    """

    kind: Literal["layer", "residual", "inception", "dense", "branches"]
    nodes: tuple[GraphNode, ...]
    identity: bool = False


def segments(graph: Graph) -> list[Segment]:
    """A network as a chain of layers and blocks, found from the graph alone; layer names are not used.

    Between two tensors that each carry all information, a network is one layer or a block of branches. A block that ends in a
    sum is residual; one that ends in a concatenation is an inception block, or a DenseNet layer if one branch is its input.
    """
    chain: list[Segment] = []
    for nodes in _runs(graph):
        last = nodes[-1]
        entry = nodes[0].inputs[0] if nodes[0].inputs else ""
        if len(nodes) == 1:
            after_sum = bool(chain) and chain[-1].kind == "residual" and chain[-1].nodes[-1].kind == "merge"
            if after_sum and last.kind == "activation":
                chain[-1] = Segment("residual", (*chain[-1].nodes, last), chain[-1].identity)
            else:
                chain.append(Segment("layer", nodes))
        elif last.kind == "merge" and len(last.inputs) == 2:
            chain.append(Segment("residual", nodes, entry in last.inputs))
        elif last.kind == "concat":
            chain.append(Segment("dense" if entry in last.inputs else "inception", nodes))
        else:
            chain.append(Segment("branches", nodes))
    return chain


def _runs(graph: Graph) -> Iterator[tuple[GraphNode, ...]]:
    """Runs of nodes between the places where a single tensor carries all information."""
    last = {key: at for at, node in enumerate(graph.nodes) for key in node.inputs}
    run: list[GraphNode] = []
    alive: set[str] = set()
    for at, node in enumerate(graph.nodes):
        run.append(node)
        alive = {key for key in alive | set(node.outputs) if last.get(key, -1) > at}
        if len(alive) <= 1 and alive <= set(node.outputs):
            yield tuple(run)
            run = []
    if run:
        yield tuple(run)
