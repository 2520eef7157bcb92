"""Networks counted on paper: outputs, weights, biases, neurons and connections of layers in a line of text; closed forms; triplets.

The text is a list of layers: ``conv5-32`` (5×5, 32 filters, size kept), with ``s2`` for a stride, ``p0`` for a padding and
``d2`` for a dilation (``conv4-32s2p2``); ``pool2`` (stride 2 unless ``s`` says otherwise); ``up2``; ``fc64``; ``fc=`` (as many
outputs as inputs).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kerascv_course.analysis.arithmetic import conv_output, same_padding
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.tables import text_table

if TYPE_CHECKING:
    from sympy import Poly

__all__ = [
    "NETWORKS",
    "BlockForm",
    "LayerCount",
    "NetworkForm",
    "PaperNetwork",
    "TripletCount",
    "closed_form",
    "count_layers",
    "count_triplets",
    "dense_parameters",
    "format_polynomial",
    "fully_connected_equivalent",
]

_RAISED = {1: "", 2: "²", 3: "³", 4: "⁴"}

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
        connections: uses of weights, including those on padding.
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
        """Outputs of all layers, without the input."""
        return sum(layer.neurons for layer in self.layers)

    @property
    def connections(self) -> int:
        """Uses of weights."""
        return sum(layer.connections for layer in self.layers)

    def __str__(self) -> str:
        head = ("layer", "output", "weights", "biases", "parameters", "neurons", "connections")
        rows: list[tuple[object, ...]] = [("input", _size(self.input), *[""] * 5)]
        rows += [
            (one.text, _size(one.output), one.weights, one.biases, one.parameters, one.neurons, one.connections)
            for one in self.layers
        ]
        biases = self.parameters - self.weights
        rows.append(("total", "", self.weights, biases, self.parameters, self.neurons, self.connections))
        return text_table(head, rows, align="llrrrrr")


@dataclass(frozen=True)
class TripletCount:
    """Number of triplets (anchor, positive, negative).

    Attributes:
        identities, images: of the dataset: identities, and images of each.
        ordered: with the order of anchor and positive.
        unordered: without it.
    """

    identities: int
    images: int
    ordered: int
    unordered: int

    def __str__(self) -> str:
        n, m = self.identities, self.images
        return (
            f"{n}·({m}·{m - 1})·{n - 1}·{m} = {self.ordered:,} ordered triplets "
            f"({self.unordered:,} without the order of anchor and positive)"
        )


def count_layers(network: str | Sequence[str], input_shape: Sequence[int], *, biases: bool = True) -> PaperNetwork:
    """Count a network on paper.

    Args:
        network: layers in the notation above, separated by blanks or commas, or a list of them.
        input_shape: (height, width, channels).
        biases: convolutions and dense layers have biases.

    Raises:
        InputError: a layer that is not in the notation, or does not fit its input.
    """
    if len(input_shape) != 3 or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise InputError(f"the input shape is height, width and channels, 1 or more each; received {tuple(input_shape)!r}")
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
    """The network with a dense layer in place of every convolution.

    Args:
        network, input_shape, biases: as for `count_layers`.
        same_outputs: each dense layer has all outputs of its convolution. False, as in report 004 (question 3.2): it has as many
            outputs as inputs, so the maps keep the channels of the image.

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
        InputError: fewer than two identities or two images.
    """
    if identities < 2 or images < 2:
        raise InputError(f"a triplet needs two identities and two images of one; received {identities} and {images}")
    ordered = identities * images * (images - 1) * (identities - 1) * images
    return TripletCount(identities, images, ordered, ordered // 2)


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]}" if shape[:2] == (1, 1) else "×".join(map(str, shape))


# --- closed forms: report 004, sections 4.3, 5 and 6 ---------------------------------------------------------------------

#: Order of the symbols in a printed product, and of the arguments of a polynomial.
SYMBOLS = ("k", "NIC", "NF", "NC")


@dataclass(frozen=True)
class BlockForm:
    """Closed forms of one block, a convolution and what follows it, as SymPy polynomials in `SYMBOLS`."""

    weights: Poly
    outputs: Poly
    connections: Poly


@dataclass(frozen=True)
class NetworkForm:
    """Closed forms of a network for images of `size`; the totals are the sums over the blocks.

    The report's convention: weights without biases, connections with padding positions counted, transposed convolutions counted on
    their input map, outputs of convolutions, poolings, up-samplings, batch norms (if `norms`) and ReLUs.
    """

    name: str
    size: int
    norms: bool
    blocks: tuple[BlockForm, ...]

    @property
    def weights(self) -> Poly:
        """Without biases and batch norm."""
        return sum((block.weights for block in self.blocks), polynomial("0"))

    @property
    def outputs(self) -> Poly:
        """Of all layers."""
        return sum((block.outputs for block in self.blocks), polynomial("0"))

    @property
    def connections(self) -> Poly:
        """Of the convolutions."""
        return sum((block.connections for block in self.blocks), polynomial("0"))

    def evaluate(self, *, k: int = 3, nic: int = 1, nf: int = 32, nc: int = 24) -> tuple[int, int, int]:
        """Weights, outputs and connections in numbers; the defaults are the assignment's."""
        if min(k, nic, nf, nc) < 1:
            raise InputError(f"k, NIC, NF and NC are 1 or more; received {k}, {nic}, {nf}, {nc}")
        weights, outputs, connections = (int(form(k, nic, nf, nc)) for form in (self.weights, self.outputs, self.connections))
        return weights, outputs, connections

    def __str__(self) -> str:
        forms: list[tuple[str, BlockForm | NetworkForm]] = [
            (str(number), block) for number, block in enumerate(self.blocks, start=1)
        ]
        rows = [
            (name, *(format_polynomial(form) for form in (block.weights, block.outputs, block.connections)))
            for name, block in [*forms, ("total", self)]
        ]
        head = f"{self.name}, {self.size}×{self.size}" + ("" if self.norms else ", batch norm outputs not counted")
        return f"{head}\n{text_table(('block', 'weights', 'outputs', 'connections'), rows, align='llll')}"


@dataclass(frozen=True)
class _Block:
    """Channels of a convolution, and the maps it is applied to and ends in as fractions of the image's side."""

    inputs: str
    outputs: str
    applied: int  # connections are counted on a map of side size/applied
    conv: int | None  # the convolution's own output, where something resamples it
    final: int  # side of the block's output: size/final
    normed: bool = True


#: The blocks of each network: report 004 sections 4 and 5; the third from section 6 of the assignment.
NETWORKS: dict[str, tuple[_Block, ...]] = {
    "pool_upsample_net": (
        _Block("NIC", "NF", applied=1, conv=1, final=2),
        _Block("NF", "2*NF", applied=2, conv=2, final=4),
        _Block("2*NF", "NF", applied=4, conv=4, final=2),
        _Block("NF", "NC", applied=2, conv=2, final=1),
        _Block("NC", "NC", applied=1, conv=None, final=1, normed=False),
    ),
    "conv_transpose_net": (
        _Block("NIC", "NF", applied=2, conv=None, final=2),
        _Block("NF", "2*NF", applied=4, conv=None, final=4),
        _Block("2*NF", "NF", applied=4, conv=None, final=2),
        _Block("NF", "NC", applied=2, conv=None, final=1),
        _Block("NC", "NC", applied=1, conv=None, final=1, normed=False),
    ),
    "unet_colorizer": (
        _Block("NIC", "NF", applied=2, conv=None, final=2),
        _Block("NF", "2*NF", applied=4, conv=None, final=4),
        _Block("2*NF", "NF", applied=4, conv=None, final=2),
        _Block("NF + NF", "NC", applied=2, conv=None, final=1),
        _Block("NC + NIC", "NC", applied=1, conv=None, final=1, normed=False),
    ),
}


def closed_form(name: str, size: int = 32, *, norms: bool = True) -> NetworkForm:
    """Weights, outputs and connections of a colorization network as polynomials in k, NIC, NF and NC.

    Args:
        name: ``pool_upsample_net``, ``conv_transpose_net`` or ``unet_colorizer``.
        size: height and width of the image, a multiple of 4.
        norms: count outputs of batch norms (as the report does; the handout does not).

    Raises:
        UnknownNameError: another name.
        InputError: a size that is not a multiple of 4.
    """
    if name not in NETWORKS:
        raise UnknownNameError("network with closed forms", name, NETWORKS)
    if size < 4 or size % 4:
        raise InputError(f"the image's side must be a multiple of 4, as it is halved twice; received {size}")
    blocks = []
    for block in NETWORKS[name]:
        weights = polynomial(f"k**2*({block.inputs})*({block.outputs})")
        layers = 1 + block.normed * (1 + norms)  # the last map of the block, once more for ReLU and for batch norm
        units = (size // block.final) ** 2 * layers + ((size // block.conv) ** 2 if block.conv else 0)
        blocks.append(BlockForm(weights, polynomial(block.outputs) * units, weights * (size // block.applied) ** 2))
    return NetworkForm(name, size, norms, tuple(blocks))


def polynomial(expression: str) -> Poly:
    """A polynomial in `SYMBOLS`."""
    from sympy import Poly, symbols

    return Poly(expression, *symbols(SYMBOLS))


def format_polynomial(form: Poly) -> str:
    """A polynomial with the common power of k factored out, such as ``k²(NIC·NF + 4·NF²)``."""
    terms = sorted(form.terms(), key=lambda term: term[0][1:], reverse=True)
    common = min(powers[0] for powers, _ in terms) if len(terms) > 1 else 0
    products = []
    for (k, *others), coefficient in terms:
        factors = [f"{name}{_RAISED[power]}" for name, power in zip(SYMBOLS, (k - common, *others), strict=True) if power]
        products.append("·".join(factors if factors and coefficient == 1 else [str(coefficient), *factors]))
    text = " + ".join(products)
    return f"k{_RAISED[common]}({text})" if common else text
