"""The table that the torchsummary package prints, from any summary: for readers of reports made with PyTorch.

PyTorch's table lists modules as they are called, which a Keras or ONNX graph does not record. The mapping is by kind of layer:

    Conv2D → Conv2d, with its padding layer      Conv2DTranspose → ConvTranspose2d, with its cropping layer
    BatchNormalization → BatchNorm2d, BatchNorm1d behind a dense layer; 2C parameters (moving statistics do not count)
    ReLU → ReLU    MaxPooling2D → MaxPool2d    AveragePooling2D → AvgPool2d    global pooling → AdaptiveAvgPool2d, C×1×1
    UpSampling2D → Upsample    Dense → Linear    Flatten, Dropout the same; sums and concatenations have no row

Container rows, and modules that PyTorch calls or leaves out for reasons of its own, are a `TorchStyle`: blocks are found by
their structure (`kerascv_course.analysis.structure`), the style says what they are called. Sizes in MB are 4 bytes a number
over 2²⁰; the forward/backward pass is twice the sum of all rows' outputs, container rows included, as that package has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from kerascv_course.analysis.graph import Graph, Node
from kerascv_course.analysis.structure import Segment, segments
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
    """How one report's PyTorch code is cut into modules.

    Attributes:
        residual: name of the container row after a residual block; empty: none.
        inception: likewise after an inception block.
        unit: likewise after a convolution, batch norm and ReLU inside an inception block, whose ReLU is a function without a
            row.
        identity: a shortcut without a projection is a module of its own, before the last ReLU.
        stem_identity: an Identity stands after the first activation, where a pooling was taken out.
        global_pool: name of global pooling.
        flatten, dropout: these layers have rows.
        concat: name of the row of a concatenation outside inception blocks; empty: none.
        model: name of the row of the whole model at the end; empty: none.
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


#: By model name: the styles of the reports' own tables. Any other network is printed without containers.
STYLES: dict[str, TorchStyle] = {
    "resnet18_reid": TorchStyle(residual="ResBlock", identity=True, global_pool="AvgPool2d"),
    "mynet": TorchStyle(inception="Inception", unit="BasicConv2d", global_pool="AvgPool2d", flatten=False, dropout=False),
    "resnet18_cifar": TorchStyle(residual="BasicBlock", stem_identity=True, flatten=False, model="ResNet"),
    "unet_colorizer": TorchStyle(concat="Concat"),
    "resnet50_cose474": TorchStyle(residual="ResidualBlock", global_pool="AvgPool2d"),
}


@dataclass(frozen=True)
class TorchRow:
    """One row: index from 1, module type, output shape (channels first, without batch), parameters, the trainable of them."""

    index: int
    type: str
    shape: tuple[int, ...]
    parameters: int
    trainable: int


def torch_rows(summary: Summary, style: TorchStyle | None = None) -> tuple[TorchRow, ...]:
    """The rows of the table.

    Args:
        summary: of a Keras model or an ONNX file (where batch norms are folded, their rows are gone).
        style: None: the one in `STYLES` under the model's name, else no containers.
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
        last: Node | None = None
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

    def _layer(self, node: Node) -> Iterator[Part]:
        name = self._name(node)
        if name:
            frozen = 0 if node.kind == "norm" and node.mode == "batch" else node.frozen
            if node.kind == "norm" and node.mode == "batch" and node.parameters and not node.trainable:
                frozen = node.frozen // 2
            yield name, self._shape(node), node.trainable + frozen, node.trainable

    def _name(self, node: Node) -> str:
        rank = len(self.graph.inp(node).shape) - 2
        if node.kind == "conv":
            return f"Conv{rank}d"
        if node.kind == "conv_transpose":
            return f"ConvTranspose{rank}d"
        if node.kind == "dense":
            return "Linear"
        if node.kind == "norm":
            return {"batch": f"BatchNorm{max(rank, 1)}d", "group": "GroupNorm"}.get(node.mode, "LayerNorm")
        if node.kind == "activation":
            return _ACTIVATIONS.get(node.mode, node.type)
        if node.kind == "pool":
            return f"{'Max' if node.mode == 'max' else 'Avg'}Pool{rank}d"
        if node.kind == "global_pool":
            return self.style.global_pool if node.mode != "max" else "AdaptiveMaxPool2d"
        if node.kind == "resize":
            return "Upsample"
        if node.kind == "reshape" and node.type == "Flatten" and self.style.flatten:
            return "Flatten"
        if node.kind == "identity" and "Dropout" in node.type and self.style.dropout:
            return "Dropout"
        if node.kind == "concat":
            return self.style.concat
        return node.type if node.kind == "unknown" else ""

    def _shape(self, node: Node) -> tuple[int, ...]:
        graph = self.graph
        if node.kind == "global_pool":
            keep = [n for a, n in enumerate(graph.inp(node).shape) if a not in node.axes and a > 0]
            return (*keep, *(1 for _ in node.axes))
        end = node
        if node.kind == "conv_transpose":
            after = graph.only_consumer(end)
            while after is not None and after.kind == "crop":
                end, after = after, graph.only_consumer(after)
        shape = graph.out(end).shape[1:]
        return (shape[-1], *shape[:-1]) if graph.channels_last and len(shape) > 1 else shape


@dataclass(frozen=True)
class TorchTotals:
    """The numbers below the table: parameters, the trainable of them, and sizes in MB (2²⁰ bytes) of one float32 image: of the
    input, of all rows' outputs twice (forward and backward), and of the parameters."""

    parameters: int
    trainable: int
    input_mb: float
    passes_mb: float
    parameters_mb: float

    @property
    def total_mb(self) -> float:
        """All three sizes."""
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
    """The whole table as text: rows, totals, and the four sizes in MB."""
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
