"""What exporting does to the number of parameters, exactly.

At inference a batch norm is one scale and one shift per channel, and right behind a convolution or dense layer it can be
multiplied into the weights. Of a batch norm over C channels, which Keras counts as 4C (2C trainable, 2C moving statistics), a
file may keep

* 4C: the operator itself,
* 2C: a multiplication and an addition,
* C: the layer before had no bias; its weights are rescaled, and the shifts become its bias,
* 0: the layer before had a bias, which takes the shifts up.

Which of them depends on the converter, and even on the values: an addition of zeros is dropped, so a fresh network can lose
biases. Two functions make this exact, for networks whose values are neither zeros nor ones:

* `exported_parameters` says what a file of ours stores: C behind a convolution without groups and bias that nothing else reads,
  2C everywhere else (the rule of tf2onnx);
* `inference_parameters` counts any file and any model in one normal form, folded as far as it goes: C or 0 behind a convolution
  or dense layer (a crop in between does not matter), 2C elsewhere. A Keras model and its ONNX file agree on it to the integer,
  whatever the converter did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kerascv_course.analysis.graph import Graph, Node

if TYPE_CHECKING:
    from kerascv_course.analysis.summary import Summary

__all__ = ["Comparison", "compare", "exported_parameters", "inference_parameters"]


def exported_parameters(graph: Graph) -> int:
    """Parameters that our export of a Keras model stores: each batch norm is C numbers or 2C, all else is as it is."""
    number = 0
    for node in graph.nodes:
        if node.kind != "norm" or node.mode != "batch" or not node.parameters:
            number += node.parameters
            continue
        feed = graph.feeding(node)
        plain = feed is not None and feed.kind == "conv" and feed.groups == 1 and not feed.bias
        folded = feed is not None and plain and graph.only_consumer(feed) is node
        number += _channels(node) * (1 if folded else 2)
    return number


def inference_parameters(graph: Graph) -> int:
    """Parameters left when every batch norm is folded as far as it goes; all others as they are."""
    absorbed: set[int] = set()
    number = 0
    for node in graph.nodes:
        if id(node) in absorbed:
            continue
        if node.kind in ("conv", "conv_transpose", "dense") and node.parameters:
            chain = _foldable(graph, node)
            absorbed.update(id(n) for n in chain)
            shift = node.bias or (node.parameters > node.weight) or any(n.kind != "crop" for n in chain)
            number += node.weight + (_channels(node) if shift else 0)
        elif node.kind == "norm" and node.mode == "batch" and node.parameters:
            number += 2 * _channels(node)
        else:
            number += node.parameters
    return number


def _channels(node: Node) -> int:
    assert node.channels is not None
    return node.channels[1]


def _foldable(graph: Graph, node: Node) -> list[Node]:
    """Batch norms, scales, shifts and crops that follow a layer one after the other, each the only reader of the one before."""
    chain: list[Node] = []
    after = graph.only_consumer(node)
    while after is not None:
        scale = after.kind == "affine" and after.parameters in (0, _channels(node)) and after.parameters
        if not (scale or (after.kind == "norm" and after.mode == "batch") or after.kind == "crop"):
            break
        chain.append(after)
        after = graph.only_consumer(after)
    return chain


@dataclass(frozen=True)
class Comparison:
    """A Keras model beside its own ONNX file.

    Attributes:
        keras_parameters, onnx_parameters: as each of them stores them.
        keras_inference, onnx_inference: in the common normal form; equal where the file holds the model.
        batch_norms, batch_norm_channels: of the Keras model: Σ 1 and Σ C.
        kept, scaled: channels of batch norms that the file keeps as such (4 numbers a channel), and numbers in separate scales
            and shifts.
        macs, connections, neurons: (Keras, ONNX).
    """

    keras_parameters: int
    onnx_parameters: int
    keras_inference: int | None
    onnx_inference: int | None
    batch_norms: int
    batch_norm_channels: int
    kept: int
    scaled: int
    macs: tuple[int | None, int | None]
    connections: tuple[int | None, int | None]
    neurons: tuple[int | None, int | None]

    @property
    def agrees(self) -> bool:
        """Whether all that must be equal is equal, and known."""
        pairs = ((self.keras_inference, self.onnx_inference), self.macs, self.connections, self.neurons)
        return all(a is not None and a == b for a, b in pairs)

    def __str__(self) -> str:
        c = 4 * self.batch_norm_channels
        lines = [
            f"parameters: Keras {self.keras_parameters:,}, ONNX {self.onnx_parameters:,}",
            f"  {self.batch_norms} batch norms hold {c:,} in Keras; the file keeps {4 * self.kept:,} of them as batch norms "
            f"and {self.scaled:,} as separate scales and shifts; the rest is folded into weights and biases",
            f"  folded as far as it goes: Keras {self.keras_inference:,}, ONNX {self.onnx_inference:,}",
        ]
        for name, (a, b) in (("MACs", self.macs), ("connections", self.connections), ("neurons", self.neurons)):
            lines.append(f"{name}: Keras {_text(a)}, ONNX {_text(b)}")
        return "\n".join([*lines, "they agree" if self.agrees else "THEY DIFFER"])


def _text(number: int | None) -> str:
    return "—" if number is None else f"{number:,}"


def compare(keras: Summary, onnx: Summary) -> Comparison:
    """Set a Keras model beside its own ONNX file.

    Export networks whose values have been perturbed: converters drop additions of zeros and products with ones.
    """
    norms = [n for n in keras.graph.nodes if n.kind == "norm" and n.mode == "batch"]
    return Comparison(
        keras.parameters,
        onnx.parameters,
        keras.inference_parameters,
        onnx.inference_parameters,
        len(norms),
        sum(_channels(n) for n in norms if n.parameters),
        sum(_channels(n) for n in onnx.graph.nodes if n.kind == "norm" and n.mode == "batch" and n.parameters),
        sum(n.parameters for n in onnx.graph.nodes if n.kind == "affine" and not n.bias),
        (keras.macs, onnx.macs),
        (keras.connections, onnx.connections),
        (keras.neurons, onnx.neurons),
    )
