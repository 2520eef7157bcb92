"""A network in numbers: one row per layer, and totals that are the sums of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerascv_course.analysis import counting
from kerascv_course.analysis.counting import Convention, Counts, inference_parameters, total
from kerascv_course.analysis.graph import Graph, GraphNode
from kerascv_course.analysis.keras_graph import read_keras
from kerascv_course.analysis.onnx_graph import read_onnx
from kerascv_course.analysis.receptive import Field, ReceptiveField, receptive_field, receptive_fields
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.keras_file import check_format, load_keras

__all__ = ["ExportComparison", "LayerSummary", "Summary", "compare", "summarize"]


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a network, for one image. None means not known.

    Attributes:
        index: row number, from 1.
        type: its type in the source: a Keras class, an ONNX operator, an activation.
        name: its name in the source.
        input_shapes: of every input, without the batch axis, in the source's axis order.
        output_shape: of the first output, without the batch axis, in the source's axis order.
        trainable, frozen: parameters; a layer that is called again has them in its first row only.
        neurons, connections, macs: counts of the layer, as `kerascv_course.analysis.counting` defines them.
        activation_bytes: memory of all outputs.
        kernel, stride, dilation: height before width; empty for layers without a window.
        padding: (before, after) per axis.
        groups: number of channel groups of a convolution.
        receptive_field: in input pixels; None if the network has no spatial axes or several inputs.
        kind: what the layer does, a `kerascv_course.analysis.graph.NodeKind`.
    """

    index: int
    type: str
    name: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...] | None
    trainable: int
    frozen: int
    neurons: int | None
    connections: int | None
    macs: int | None
    activation_bytes: int | None
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    receptive_field: ReceptiveField | None = None
    kind: str = ""

    @property
    def parameters(self) -> int:
        """Trainable and frozen parameters together."""
        return self.trainable + self.frozen


@dataclass(frozen=True)
class Summary:
    """A network in numbers. Every total is the sum over `rows`; None if an unknown layer leaves it open (see `unknown`).

    Attributes:
        name: of the model or file.
        source: where it was read from, "keras" or "onnx".
        rows: one per layer, inputs included.
        trainable, frozen: parameters (a batch norm has 2 trainable and 2 frozen ones per channel, in ONNX files too).
        neurons, connections, macs: totals of the network for one image.
        activation_bytes: memory of all activations of one image if none is freed.
        peak_bytes: largest sum of activations alive at the same time, computing in row order.
        inference_parameters: parameters with every batch norm folded as far as possible; equal for a Keras model and its ONNX
            file (see `kerascv_course.analysis.counting`).
        unknown: names of the rows whose operator is unknown.
        graph: what everything was computed from.
        fields: exact receptive field of every tensor of `graph`.
        spatial: the input's spatial axes.
    """

    name: str
    source: str
    rows: tuple[LayerSummary, ...]
    trainable: int
    frozen: int
    neurons: int | None
    connections: int | None
    macs: int | None
    activation_bytes: int | None
    peak_bytes: int | None
    inference_parameters: int | None
    unknown: tuple[str, ...]
    graph: Graph = field(repr=False, compare=False)
    fields: dict[str, Field] = field(repr=False, compare=False, default_factory=dict)
    spatial: tuple[int, ...] = ()

    @property
    def parameters(self) -> int:
        """Trainable and frozen parameters together, as Keras's ``count_params()``."""
        return self.trainable + self.frozen

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """The receptive field of the network's output."""
        return self.rows[-1].receptive_field

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters in float32."""
        return 4 * self.parameters

    def row(self, name: str) -> LayerSummary:
        """The row of a layer.

        Raises:
            UnknownNameError: no such layer; the nearest names are shown.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise UnknownNameError("layer", name, [row.name for row in self.rows])

    def count(self, convention: Convention) -> Counts:
        """Weights, neurons and connections under another convention."""
        return counting.count(self.graph, convention)

    def unit_field(self, name: str, position: Sequence[int]) -> tuple[tuple[int, int] | None, ...]:
        """The input pixels that one unit of a layer sees: (first, last) along each spatial axis, clipped to the image.

        A unit that sees nothing but padding has None along every axis.

        Args:
            name: name of the layer, as in `Summary.rows`.
            position: of the unit along the spatial axes, (row, column); ignored where all units see the same.

        Raises:
            UnknownNameError: no such layer.
            InputError: its receptive field is not known.
        """
        node = self.graph.nodes[self.row(name).index - 1]
        found = sorted((f for f in self.fields.get(node.outputs[0], ()) if f.source in self.spatial), key=lambda f: f.source)
        if not found or any(f.lost for f in found):
            raise InputError(f"the receptive field of {name!r} is not known")
        spans = tuple(f.spans[0 if len(f.spans) == 1 else i] for f, i in zip(found, position, strict=True))
        return spans if all(spans) else (None,) * len(spans)


def summarize(model: Any, input_shape: Sequence[int] | None = None) -> Summary:
    """Analyze a network.

    Args:
        model: a built Keras model (Functional or Sequential), or the path of an ``.onnx`` file, a ``.keras`` file or a run folder
            (its ``best.keras``, else its ``model.onnx``). ONNX files are read without TensorFlow.
        input_shape: the input without its batch axis, in the model's own axis order; required if the model has open axes.

    Raises:
        InputError: no such file, not a model, open axes without `input_shape`, a model without a graph.
    """
    graph = _read_graph(model, input_shape)
    try:
        return _summarize(graph)
    except (ArithmeticError, LookupError, TypeError, AttributeError, ValueError) as error:  # a graph that no converter writes
        if not isinstance(model, str | Path):
            raise
        raise InputError(f"{model} cannot be analyzed: its graph is inconsistent ({error})") from error


def _summarize(graph: Graph) -> Summary:
    fields, spatial = receptive_fields(graph)
    rows = tuple(_row(graph, node, i, fields, spatial) for i, node in enumerate(graph.nodes, start=1))
    return Summary(
        name=graph.name,
        source=graph.source,
        rows=rows,
        trainable=sum(r.trainable for r in rows),
        frozen=sum(r.frozen for r in rows),
        neurons=total(r.neurons for r in rows),
        connections=total(r.connections for r in rows),
        macs=total(r.macs for r in rows),
        activation_bytes=total(r.activation_bytes for r in rows),
        peak_bytes=_peak(graph),
        inference_parameters=inference_parameters(graph),
        unknown=tuple(r.name for r in rows if r.kind == "unknown"),
        graph=graph,
        fields=fields,
        spatial=spatial,
    )


def _read_graph(model: Any, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph of anything `summarize` takes."""
    if not isinstance(model, str | Path):
        return read_keras(model, input_shape)
    path = Path(model)
    if path.is_dir():
        path = next((path / name for name in ("best.keras", "model.onnx") if (path / name).is_file()), path)
    if path.is_dir():
        check_format(path)
        raise InputError(f"{path} is not a run folder: it has neither best.keras nor model.onnx")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    if path.suffix == ".keras":
        return read_keras(load_keras(path), input_shape)
    if path.suffix in (".h5", ".hdf5", ".pt", ".pth", ".pb", ".pkl", ".safetensors", ".npz"):
        raise InputError(
            f"only .onnx and .keras files can be analyzed; received {path}: save the model in one of these formats"
        )
    try:
        return read_onnx(path, input_shape)
    except (ArithmeticError, LookupError, TypeError, AttributeError) as error:  # a graph that no converter writes
        raise InputError(f"{path} cannot be analyzed: its graph is inconsistent ({error})") from error


def _row(graph: Graph, node: GraphNode, index: int, fields: dict[str, Field], spatial: tuple[int, ...]) -> LayerSummary:
    tensors = [graph.tensors[k] for k in node.outputs]
    found = fields.get(node.outputs[0])
    window = node.window
    return LayerSummary(
        index=index,
        type=node.type,
        name=node.name,
        input_shapes=tuple(graph.tensors[k].shape[1:] for k in node.inputs),
        output_shape=tensors[0].shape[1:] if tensors[0].known else None,
        trainable=node.trainable,
        frozen=node.frozen,
        neurons=counting.neurons(graph, node),
        connections=counting.connections(graph, node),
        macs=counting.macs(graph, node),
        activation_bytes=sum(t.nbytes for t in tensors) if all(t.known for t in tensors) else None,
        kernel=window.kernel if window else (),
        stride=window.stride if window else (),
        padding=window.padding if window else (),
        dilation=window.dilation if window else (),
        groups=node.groups,
        receptive_field=receptive_field(found, spatial) if found and spatial else None,
        kind=node.kind,
    )


def _peak(graph: Graph) -> int | None:
    """Most bytes alive at once: a tensor lives until its last reader has run; outputs live to the end."""
    if not all(t.known for t in graph.tensors.values()):
        return None
    last = {key: at for at, node in enumerate(graph.nodes) for key in node.inputs} | dict.fromkeys(
        graph.outputs, len(graph.nodes)
    )
    alive: dict[str, int] = {}
    peak = 0
    for at, node in enumerate(graph.nodes):
        alive |= {key: graph.tensors[key].nbytes for key in node.outputs}
        peak = max(peak, sum(alive.values()))
        alive = {key: size for key, size in alive.items() if last.get(key, at) > at}
    return peak


@dataclass(frozen=True)
class ExportComparison:
    """A Keras model compared with its ONNX file.

    Attributes:
        keras_parameters, onnx_parameters: as each of them stores them.
        keras_inference, onnx_inference: `Summary.inference_parameters`, equal if the file holds the model.
        batch_norms, batch_norm_channels: number of the Keras model's batch norms, and of their channels.
        kept: channels of batch norms that the file keeps as such (4 numbers each).
        scaled: numbers in separate scales and shifts of the file.
        macs, connections, neurons: totals for one image, (Keras, ONNX).
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
        """Everything that has to be equal is known and equal."""
        pairs = ((self.keras_inference, self.onnx_inference), self.macs, self.connections, self.neurons)
        return all(a is not None and a == b for a, b in pairs)

    def __str__(self) -> str:
        lines = [
            f"parameters: Keras {self.keras_parameters:,}, ONNX {self.onnx_parameters:,}",
            f"  {self.batch_norms} batch norms have {4 * self.batch_norm_channels:,} in Keras; the file keeps {4 * self.kept:,} of "
            f"them as batch norms and {self.scaled:,} as separate scales and shifts; the rest is folded into weights and biases",
            f"  folded as far as possible: Keras {self.keras_inference:,}, ONNX {self.onnx_inference:,}",
        ]
        for name, pair in (("MACs", self.macs), ("connections", self.connections), ("neurons", self.neurons)):
            keras, onnx = ("—" if number is None else f"{number:,}" for number in pair)
            lines.append(f"{name}: Keras {keras}, ONNX {onnx}")
        return "\n".join([*lines, "they agree" if self.agrees else "THEY DIFFER"])


def compare(keras: Summary, onnx: Summary) -> ExportComparison:
    """Compare a Keras model with its ONNX file.

    The model's values must be neither zeros nor ones: converters drop additions of zeros and products with ones.
    """
    norms = [n for n in keras.graph.nodes if n.kind == "norm" and n.mode == "batch"]
    kept = [n for n in onnx.graph.nodes if n.kind == "norm" and n.mode == "batch"]
    return ExportComparison(
        keras.parameters,
        onnx.parameters,
        keras.inference_parameters,
        onnx.inference_parameters,
        len(norms),
        sum(n.channels[1] for n in norms if n.parameters and n.channels),
        sum(n.channels[1] for n in kept if n.parameters and n.channels),
        sum(n.parameters for n in onnx.graph.nodes if n.kind == "affine" and not n.bias),
        (keras.macs, onnx.macs),
        (keras.connections, onnx.connections),
        (keras.neurons, onnx.neurons),
    )
