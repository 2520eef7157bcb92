"""One answer for a network: a row for every layer, and totals that are the sums of the rows.

`summarize` takes a Keras model, an ONNX file, a ``.keras`` file or a run folder. Printing is apart, in
`kerascv_course.analysis.printing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerascv_course.analysis import counting
from kerascv_course.analysis.counting import Convention, Counts, total
from kerascv_course.analysis.folding import inference_parameters
from kerascv_course.analysis.graph import Graph, Node
from kerascv_course.analysis.receptive import Field, ReceptiveField, receptive_fields, report
from kerascv_course.core.errors import InputError
from kerascv_course.core.keras_file import load_keras

__all__ = ["Row", "Summary", "read_graph", "summarize", "summarize_graph"]


@dataclass(frozen=True)
class Row:
    """One layer of a network, counted for one image.

    Attributes:
        index: place in the table, from 1.
        type: what its source calls it: a Keras class, an ONNX operator, an activation.
        name: its name in the source.
        input_shapes: of every input, without the batch axis, in the source's own axis order.
        output_shape: of the first output, likewise; None: not known.
        trainable, frozen: parameters; a layer that is used again has them in its first row only.
        neurons, connections: see `kerascv_course.analysis.counting`; None: the operator is not known.
        macs: multiply-accumulates; None: the operator is not known.
        activation_bytes: memory of all outputs; None: not known.
        kernel, stride, dilation: in positions, height before width; empty where the layer has no window.
        padding: (before, after) per axis.
        groups: of a convolution.
        receptive_field: in input pixels; None where the network has no spatial axes or several inputs.
        kind: the analyser's own class of the operator.
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
    """A network in numbers. Every total is the sum over `rows`; None where a row is not known (`unknown` names it).

    Attributes:
        name: of the model or file.
        source: "keras" or "onnx".
        rows: one for each layer, inputs included.
        trainable, frozen: parameters (batch norm: 2 trainable and 2 frozen per channel; ONNX tells them apart by their role).
        neurons, connections, macs: for one image.
        activation_bytes: memory of all activations for one image, none of them freed.
        peak_bytes: the largest sum of activations that must exist at one time, computing in the order of the rows.
        inference_parameters: what is left when every batch norm is folded as far as it goes; equal for a Keras model and its
            ONNX file. See `kerascv_course.analysis.folding`.
        unknown: names of the rows whose operator is not known.
        graph: what all this was computed from; lets other conventions be counted.
    """

    name: str
    source: str
    rows: tuple[Row, ...]
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
        """Trainable and frozen parameters together; what Keras's ``count_params()`` says."""
        return self.trainable + self.frozen

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """The field of the network's output."""
        return self.rows[-1].receptive_field

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters as float32."""
        return 4 * self.parameters

    def row(self, name: str) -> Row:
        """The row of a layer.

        Raises:
            InputError: no row has this name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise InputError(f"no layer is called {name!r}; there are {', '.join(r.name for r in self.rows[:8])}, …")

    def count(self, convention: Convention) -> Counts:
        """Weights, neurons and connections under another convention."""
        return counting.count(self.graph, convention)

    def unit_field(self, name: str, position: Sequence[int]) -> tuple[tuple[int, int] | None, ...]:
        """First and last input pixel, along each spatial axis, that one unit of a layer sees; clipped to the image.

        A unit that sees padding only has None along every axis.

        Args:
            name: of the layer.
            position: of the unit along the spatial axes, (row, column); ignored where all units see the same.

        Raises:
            InputError: no such layer, or a field that is not known.
        """
        node = self.graph.nodes[self.row(name).index - 1]
        field = self.fields.get(node.outputs[0], ())
        found = sorted((f for f in field if f.source in self.spatial), key=lambda f: f.source)
        if not found or any(f.lost for f in found):
            raise InputError(f"the receptive field of {name!r} is not known")
        spans = tuple(f.spans[0 if len(f.spans) == 1 else i] for f, i in zip(found, position, strict=True))
        return spans if all(spans) else (None,) * len(spans)


def summarize(model: Any, input_shape: Sequence[int] | None = None) -> Summary:
    """Analyse a network.

    Args:
        model: a built Keras model (Functional or Sequential); or the path of an ``.onnx`` file, of a ``.keras`` file, or of a
            run folder (its ``best.keras``, else its ``model.onnx``).
        input_shape: the input without its batch axis, in the model's own axis order; needed where the model leaves axes open.

    Returns:
        A `Summary`; ONNX files never import TensorFlow.

    Raises:
        InputError: no such file, not a model, open axes without `input_shape`, a model without a graph.
    """
    return summarize_graph(read_graph(model, input_shape))


def read_graph(model: Any, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph of whatever `summarize` takes."""
    if not isinstance(model, str | Path):
        from kerascv_course.analysis.keras_graph import read_keras

        return read_keras(model, input_shape)
    path = _in_run(Path(model))
    if path.suffix == ".keras":
        from kerascv_course.analysis.keras_graph import read_keras

        return read_keras(load_keras(path), input_shape)
    if path.suffix != ".onnx" and not path.is_file():
        raise InputError(f"no such file: {path}" if not path.exists() else f"{path} is neither a model file nor a run folder")
    if path.suffix in (".h5", ".hdf5", ".pt", ".pth", ".pb", ".pkl", ".safetensors", ".npz"):
        raise InputError(f"an .onnx or .keras file is analysed; received {path}: save the model in one of these formats")
    from kerascv_course.analysis.onnx_graph import read_onnx

    try:
        return read_onnx(path, input_shape)
    except (ArithmeticError, LookupError, TypeError, AttributeError) as error:  # a graph that no converter writes
        raise InputError(f"{path} cannot be analysed: its graph does not hold together ({error})") from error


def _in_run(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("best.keras", "model.onnx"):
        if (path / name).is_file():
            return path / name
    raise InputError(f"a run folder holds best.keras or model.onnx; {path} has neither")


def summarize_graph(graph: Graph) -> Summary:
    """The summary of a graph that has been read already."""
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


def _row(graph: Graph, node: Node, index: int, fields: dict[str, Field], spatial: tuple[int, ...]) -> Row:
    tensors = [graph.tensors[k] for k in node.outputs]
    known = all(t.known for t in tensors)
    found = fields.get(node.outputs[0])
    window = node.window
    return Row(
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
        activation_bytes=sum(t.nbytes for t in tensors) if known else None,
        kernel=window.kernel if window else (),
        stride=window.stride if window else (),
        padding=window.padding if window else (),
        dilation=window.dilation if window else (),
        groups=node.groups,
        receptive_field=report(found, spatial) if found and spatial else None,
        kind=node.kind,
    )


def _peak(graph: Graph) -> int | None:
    """The most bytes alive at once: a tensor lives from its making to its last reading; outputs live to the end."""
    if not all(t.known for t in graph.tensors.values()):
        return None
    last = {key: len(graph.nodes) for key in graph.outputs}
    for at, node in enumerate(graph.nodes):
        for key in node.inputs:
            last[key] = max(last.get(key, 0), at)
    alive: dict[str, int] = {}
    peak = 0
    for at, node in enumerate(graph.nodes):
        alive |= {key: graph.tensors[key].nbytes for key in node.outputs}
        peak = max(peak, sum(alive.values()))
        alive = {key: size for key, size in alive.items() if last.get(key, at) > at}
    return peak
