"""Layers on paper: output maps, weights, biases, neurons and connections of a small network, written as one line of text.

The text is a list of layers: ``conv5-32`` (5×5, 32 filters, size kept), with ``s2`` for a stride, ``p0`` for a padding and
``d2`` for a dilation (``conv4-32s2p2``); ``pool2`` (stride 2 unless ``s`` says otherwise); ``up2``; ``fc64``; ``fc=`` (as many
outputs as inputs).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kerascv_course.analysis.arithmetic import conv_output, same_padding
from kerascv_course.core.errors import InputError

__all__ = [
    "LayerCount",
    "PaperNetwork",
    "TripletCount",
    "count_layers",
    "count_triplets",
    "dense_parameters",
    "fully_connected_equivalent",
]

_LAYER = re.compile(
    r"(?P<conv>conv(?P<k>\d+)-(?P<f>\d+))(?P<options>([spd]\d+)*)"
    r"|(?P<pool>pool(?P<pk>\d+)?)(?P<poptions>([sp]\d+)*)|up(?P<up>\d+)|fc(?P<fc>\d+|=)"
)


@dataclass(frozen=True)
class LayerCount:
    """One layer on paper.

    Attributes:
        text: as it was written.
        output: (height, width, channels) of its output; (1, 1, n) of a dense layer.
        weights, biases: its parameters; poolings have none.
        neurons: its outputs.
        connections: uses of weights, padding positions counted.
    """

    text: str
    output: tuple[int, int, int]
    weights: int
    biases: int
    neurons: int
    connections: int

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases


@dataclass(frozen=True)
class PaperNetwork:
    """A network on paper; the totals are the sums of its layers."""

    input: tuple[int, int, int]
    layers: tuple[LayerCount, ...]

    @property
    def weights(self) -> int:
        """Without biases."""
        return sum(layer.weights for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def neurons(self) -> int:
        """Outputs of all layers; the input is none of them."""
        return sum(layer.neurons for layer in self.layers)

    @property
    def connections(self) -> int:
        """Uses of weights."""
        return sum(layer.connections for layer in self.layers)

    def __str__(self) -> str:
        head = ("layer", "output", "weights", "biases", "parameters", "neurons", "connections")
        rows = [("input", _size(self.input), "", "", "", "", "")]
        rows += [
            (
                n.text,
                _size(n.output),
                f"{n.weights:,}",
                f"{n.biases:,}",
                f"{n.parameters:,}",
                f"{n.neurons:,}",
                f"{n.connections:,}",
            )
            for n in self.layers
        ]
        biases = self.parameters - self.weights
        total = (f"{self.weights:,}", f"{biases:,}", f"{self.parameters:,}", f"{self.neurons:,}", f"{self.connections:,}")
        rows.append(("total", "", *total))
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))] for r in (head, *rows)
        ]
        return "\n".join("  ".join(line).rstrip() for line in lines)


@dataclass(frozen=True)
class TripletCount:
    """How many (anchor, positive, negative) there are.

    Attributes:
        identities, images: the data set: images of each identity.
        ordered: anchor and positive of one identity are different images and their order matters.
        unordered: without regard to their order.
    """

    identities: int
    images: int
    ordered: int
    unordered: int

    def __str__(self) -> str:
        n, m = self.identities, self.images
        return (
            f"{n}·({m}·{m - 1})·{n - 1}·{m} = {self.ordered:,} ordered triplets "
            f"({self.unordered:,} if anchor and positive are not told apart)"
        )


def count_layers(network: str | Sequence[str], input_shape: Sequence[int], *, biases: bool = True) -> PaperNetwork:
    """Count a network on paper.

    Args:
        network: layers in the notation above, parted by blanks or commas, or a list of them.
        input_shape: (height, width, channels).
        biases: convolutions and dense layers have biases.

    Raises:
        InputError: a layer that is not in the notation, or one that does not fit its map.
    """
    if len(input_shape) != 3 or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise InputError(f"the input is height, width and channels, 1 or more each; received {tuple(input_shape)!r}")
    words = re.split(r"[\s,]+", network.strip()) if isinstance(network, str) else list(network)
    height, width, channels = input_shape
    layers = []
    for word in words:
        layer = _count(word, (height, width, channels), biases)
        height, width, channels = layer.output
        layers.append(layer)
    return PaperNetwork((input_shape[0], input_shape[1], input_shape[2]), tuple(layers))


def _count(word: str, shape: tuple[int, int, int], biases: bool) -> LayerCount:
    match = _LAYER.fullmatch(word.lower())
    if match is None:
        raise InputError(f"layers are written conv5-32, conv4-32s2p2, pool2, up2, fc64 or fc=; received {word!r}")
    height, width, channels = shape
    found = {o[0]: int(o[1:]) for o in re.findall(r"[spd]\d+", match["options"] or match["poptions"] or "")}
    if match["conv"]:
        kernel, filters = int(match["k"]), int(match["f"])
        stride, dilation = found.get("s", 1), found.get("d", 1)
        out = []
        for n in (height, width):
            padding = found["p"] if "p" in found else same_padding(kernel, stride, dilation, n)
            out.append(conv_output(n, kernel, stride, padding, dilation).output)
        places = math.prod(out)
        weights = kernel * kernel * channels * filters
        return LayerCount(
            word, (out[0], out[1], filters), weights, filters if biases else 0, places * filters, places * weights
        )
    if match["pool"]:
        kernel = int(match["pk"] or 2)
        out = [conv_output(n, kernel, found.get("s", kernel), found.get("p", 0)).output for n in (height, width)]
        return LayerCount(word, (out[0], out[1], channels), 0, 0, math.prod(out) * channels, 0)
    if match["up"]:
        factor = int(match["up"])
        return LayerCount(word, (height * factor, width * factor, channels), 0, 0, math.prod(shape) * factor**2, 0)
    inputs = math.prod(shape)
    keeps = match["fc"] == "="
    outputs = inputs if keeps else int(match["fc"])
    output = shape if keeps else (1, 1, outputs)
    return LayerCount(word, output, inputs * outputs, outputs if biases else 0, outputs, inputs * outputs)


def dense_parameters(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Parameters of a dense layer: inputs·outputs, and outputs more with a bias."""
    return inputs * outputs + (outputs if bias else 0)


def fully_connected_equivalent(
    network: str, input_shape: Sequence[int], *, same_outputs: bool = False, biases: bool = False
) -> PaperNetwork:
    """The network in which a dense layer stands for every convolution.

    Args:
        network, input_shape, biases: as for `count_layers`.
        same_outputs: the dense layer has all outputs of its convolution. False, the reading of report 004 (question 3.2): it
            has as many outputs as inputs, so the maps keep the channels of the image.

    Raises:
        InputError: as for `count_layers`.
    """
    conv = count_layers(network, input_shape, biases=biases)
    if not same_outputs:
        words = ["fc=" if layer.text.lower().startswith("conv") else layer.text for layer in conv.layers]
        return count_layers(words, input_shape, biases=biases)
    layers = []
    shape = conv.input
    for layer in conv.layers:
        if layer.text.lower().startswith("conv"):
            inputs, outputs = math.prod(shape), math.prod(layer.output)
            bias = outputs if biases else 0
            layers.append(LayerCount(f"fc{outputs}", layer.output, inputs * outputs, bias, outputs, inputs * outputs))
        else:
            layers.append(layer)
        shape = layer.output
    return PaperNetwork(conv.input, tuple(layers))


def count_triplets(identities: int, images: int) -> TripletCount:
    """Triplets of a set with the same number of images for every identity.

    n identities of m images give n·m·(m−1) ordered pairs of an anchor and a positive, and (n−1)·m negatives for each.

    Raises:
        InputError: fewer than two identities or two images: there is no triplet then.
    """
    if identities < 2 or images < 2:
        raise InputError(f"a triplet needs two identities and two images of one; received {identities} and {images}")
    ordered = identities * images * (images - 1) * (identities - 1) * images
    return TripletCount(identities, images, ordered, ordered // 2)


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]}" if shape[:2] == (1, 1) else "×".join(map(str, shape))
