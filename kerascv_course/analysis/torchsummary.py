"""The table of the torchsummary package, made from any summary, to compare with reports written with PyTorch.

PyTorch's table lists modules in the order of their calls, which Keras and ONNX graphs do not record. Layers are mapped by kind:

    Conv2D → Conv2d, with its padding layer      Conv2DTranspose → ConvTranspose2d, with its cropping layer
    BatchNormalization → BatchNorm2d, BatchNorm1d after a dense layer; 2C parameters (moving statistics are not counted)
    ReLU → ReLU    MaxPooling2D → MaxPool2d    AveragePooling2D → AvgPool2d    global pooling → AdaptiveAvgPool2d, C×1×1
    UpSampling2D → Upsample    Dense → Linear    Flatten, Dropout unchanged; sums and concatenations have no row

A `TorchStyle` adds the container rows of a report's own modules; blocks are found by their structure
(`kerascv_course.analysis.graph.segments`). A MB is 2²⁰ bytes and a number 4 bytes; the forward/backward pass is twice the sum of
all rows' outputs, container rows included, as in torchsummary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from kerascv_course.analysis.graph import Graph, GraphNode, Segment, segments
from kerascv_course.analysis.summary import Summary

__all__ = ["STYLES", "TorchRow", "TorchStyle", "TorchTotals", "torch_rows", "torch_summary", "torch_totals"]

MB = 2**20
_ACTIVATIONS = {
    "relu": "ReLU", "relu6": "ReLU6", "leaky_relu": "LeakyReLU", "leakyrelu": "LeakyReLU", "prelu": "PReLU", "elu": "ELU",
    "selu": "SELU", "silu": "SiLU", "swish": "SiLU", "gelu": "GELU", "sigmoid": "Sigmoid", "hard_sigmoid": "Hardsigmoid",
    "hardsigmoid": "Hardsigmoid", "tanh": "Tanh", "softmax": "Softmax", "softplus": "Softplus", "hardswish": "Hardswish",
    "hard_silu": "Hardswish", "log_softmax": "LogSoftmax", "logsoftmax": "LogSoftmax",
}  # fmt: skip


@dataclass(frozen=True)
class TorchStyle:
    """How a report's PyTorch code is split into modules. An empty name means no row.

    Attributes:
        residual: name of the container row after a residual block.
        inception: name of the container row after an inception block.
        unit: name of the container row after a convolution, batch norm and ReLU inside an inception block, whose ReLU is functional,
            without a row.
        identity: a shortcut without projection is an Identity module, before the last ReLU.
        stem_identity: an Identity module follows the first activation, instead of a pooling layer.
        global_pool: name of global pooling.
        flatten, dropout: these layers have rows.
        concat: name of a concatenation outside inception blocks.
        model: name of the row of the whole model, at the end.
    """

    residual: str = ""
    inception: str = ""
    unit: str = ""
    identity: bool = False
    stem_identity: bool = False
    global_pool: str = "AdaptiveAvgPool2d"
    flatten: bool = True
    dropout: bool = True
    concat: str = ""
    model: str = ""


#: Styles of the reports' tables by model name; other networks are printed without containers.
STYLES: dict[str, TorchStyle] = {
    "resnet18_reid": TorchStyle(residual="ResBlock", identity=True, global_pool="AvgPool2d"),
    "mynet": TorchStyle(inception="Inception", unit="BasicConv2d", global_pool="AvgPool2d", flatten=False, dropout=False),
    "resnet18_cifar": TorchStyle(residual="BasicBlock", stem_identity=True, flatten=False, model="ResNet"),
    "unet_colorizer": TorchStyle(concat="Concat"),
    "resnet50_cose474": TorchStyle(residual="ResidualBlock", global_pool="AvgPool2d"),
}


@dataclass(frozen=True)
class TorchRow:
    """One row: index from 1, module type, output shape (channels first, no batch axis), parameters, and trainable ones."""

    index: int
    type: str
    shape: tuple[int, ...]
    parameters: int
    trainable: int


def torch_rows(summary: Summary, style: TorchStyle | None = None) -> tuple[TorchRow, ...]:
    """The rows of the table.

    Args:
        summary: of a Keras model or an ONNX file (which has no rows for folded batch norms).
        style: None: that of `STYLES` for the model's name, else no containers.
    """
    chosen = style or STYLES.get(summary.name, TorchStyle())
    writer = _Writer(summary.graph, chosen)
    parts = list(writer.walk(segments(summary.graph)))
    return tuple(TorchRow(i, *part) for i, part in enumerate(parts, start=1))


Part = tuple[str, tuple[int, ...], int, int]


class _Writer:
    def __init__(self, graph: Graph, style: TorchStyle) -> None:
        self.graph = graph
        self.style = style

    def walk(self, chain: list[Segment]) -> Iterator[Part]:
        last: GraphNode | None = None
        stem = self.style.stem_identity
        for segment in chain:
            if segment.kind == "residual" and (self.style.residual or self.style.identity):
                yield from self._residual(segment)
            elif segment.kind == "inception" and self.style.inception:
                yield from self._inception(segment)
            else:
                for node in segment.nodes:
                    yield from self._layer(node)
                    if stem and node.kind == "activation":
                        yield "Identity", self._shape(node), 0, 0
                        stem = False
            last = segment.nodes[-1]
        if self.style.model and last is not None:
            yield self.style.model, self._shape(last), 0, 0

    def _residual(self, segment: Segment) -> Iterator[Part]:
        end = segment.nodes[-1]
        for node in segment.nodes:
            if node is end and end.kind == "activation" and self.style.identity and segment.identity:
                yield "Identity", self._shape(end), 0, 0
            yield from self._layer(node)
        if self.style.residual:
            yield self.style.residual, self._shape(end), 0, 0

    def _inception(self, segment: Segment) -> Iterator[Part]:
        for node in segment.nodes:
            if node.kind == "activation" and self.style.unit:
                yield self.style.unit, self._shape(node), 0, 0
            else:
                yield from self._layer(node)
        yield self.style.inception, self._shape(segment.nodes[-1]), 0, 0

    def _layer(self, node: GraphNode) -> Iterator[Part]:
        name = self._name(node)
        if name:
            frozen = 0 if node.kind == "norm" and node.mode == "batch" else node.frozen
            if node.kind == "norm" and node.mode == "batch" and node.parameters and not node.trainable:
                frozen = node.frozen // 2
            yield name, self._shape(node), node.trainable + frozen, node.trainable

    def _name(self, node: GraphNode) -> str:
        rank = len(self.graph.inp(node).shape) - 2
        style, mode = self.style, node.mode
        names = {
            "conv": f"Conv{rank}d",
            "conv_transpose": f"ConvTranspose{rank}d",
            "dense": "Linear",
            "norm": {"batch": f"BatchNorm{max(rank, 1)}d", "group": "GroupNorm"}.get(mode, "LayerNorm"),
            "activation": _ACTIVATIONS.get(mode, node.type),
            "pool": f"{'Max' if mode == 'max' else 'Avg'}Pool{rank}d",
            "global_pool": style.global_pool if mode != "max" else "AdaptiveMaxPool2d",
            "resize": "Upsample",
            "reshape": "Flatten" if node.type == "Flatten" and style.flatten else "",
            "identity": "Dropout" if "Dropout" in node.type and style.dropout else "",
            "concat": style.concat,
            "unknown": node.type,
        }
        return names.get(node.kind, "")

    def _shape(self, node: GraphNode) -> tuple[int, ...]:
        return self.graph.channels_first_shape([node, *self.graph.crops(node)][-1])


@dataclass(frozen=True)
class TorchTotals:
    """The numbers below the table: parameters, and sizes in MB for one float32 image.

    Attributes:
        parameters, trainable: sums over the rows.
        input_mb, passes_mb, parameters_mb: of the input, of all outputs forward and backward, of the parameters.
    """

    parameters: int
    trainable: int
    input_mb: float
    passes_mb: float
    parameters_mb: float

    @property
    def total_mb(self) -> float:
        """Sum of the three sizes."""
        return self.input_mb + self.passes_mb + self.parameters_mb


def torch_totals(summary: Summary, style: TorchStyle | None = None) -> TorchTotals:
    """The totals of `torch_rows`."""
    rows = torch_rows(summary, style)
    parameters = sum(r.parameters for r in rows)
    inputs = sum(summary.graph.tensors[k].elements for n in summary.graph.nodes if n.kind == "input" for k in n.outputs)
    return TorchTotals(
        parameters,
        sum(r.trainable for r in rows),
        4 * inputs / MB,
        2 * 4 * sum(math.prod(r.shape) for r in rows) / MB,
        4 * parameters / MB,
    )


def torch_summary(summary: Summary, style: TorchStyle | None = None) -> str:
    """The table as text: rows, totals, and sizes in MB."""
    rows, totals = torch_rows(summary, style), torch_totals(summary, style)
    thin, thick = "-" * 64, "=" * 64
    lines = [thin, f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}", thick]
    lines += [f"{f'{r.type}-{r.index}':>20}  {[-1, *r.shape]!s:>25} {r.parameters:>15,}" for r in rows]
    lines += [
        thick,
        f"Total params: {totals.parameters:,}",
        f"Trainable params: {totals.trainable:,}",
        f"Non-trainable params: {totals.parameters - totals.trainable:,}",
        thin,
        f"Input size (MB): {totals.input_mb:.2f}",
        f"Forward/backward pass size (MB): {totals.passes_mb:.2f}",
        f"Params size (MB): {totals.parameters_mb:.2f}",
        f"Estimated Total Size (MB): {totals.total_mb:.2f}",
        thin,
    ]
    return "\n".join(lines)
