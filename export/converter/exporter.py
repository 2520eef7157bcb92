"""Export of a Keras model: its graph converted, simplified, and written as an ONNX model with named inputs, outputs and sizes."""

from __future__ import annotations

from typing import Any

import keras
import onnx
import onnx_ir as ir

# The registries are filled by importing these.
from export.converter import layers as _layers  # noqa: F401
from export.converter import preprocessing as _preprocessing  # noqa: F401
from export.converter import recurrent as _recurrent  # noqa: F401
from export.converter.graph import GraphConstant, GraphTensor, GraphWriter, natural, onnx_type
from export.converter.native import ONE_SIZE, Converter
from export.converter.operations import (  # noqa: F401
    composed,
    elementwise,
    functions,
    gathering,
    images,
    linear,
    reductions,
    resizing,
    shapes,
)
from export.converter.simplify import simplify
from export.converter.trace import NotConvertible, Size, clean_up

__all__ = ["MAX_OPSET", "MIN_OPSET", "NotConvertible", "build"]

#: Operator sets that can be written.
MIN_OPSET, MAX_OPSET = 15, 23

#: ONNX's format version by the first operator set that came with it.
IR_VERSIONS = {15: 8, 19: 9, 21: 10, 23: 11}

#: Sizes that open dimensions take in the trials: of the batch, and of an image's height and width. These are such that quotients by
#: powers of two, whichever way they are rounded, and remainders of each divisor up to 64 are told from each other.
BATCHES = (2, 3, 5, 7, 11)
HEIGHTS, WIDTHS = (257, 378, 465, 512, 575), (226, 319, 448, 513, 583)


def build(model: keras.Model, inputs: Any, opset: int, *, channels_first: bool = False) -> onnx.ModelProto:
    """The ONNX model of a Keras model.

    Args:
        model: functional, Sequential, or any model with `inputs` known.
        inputs: names of the inputs, in the model's order.
        opset: of the file.
        channels_first: images are fed as (batch, channels, height, width).

    Returns:
        Outputs are called after the keys of the model's output where that is a dict, else ``output`` or ``output_0`` …

    Raises:
        NotConvertible: a layer that has no converter; the first line says where, the second what.
    """
    open_image = any(size is None for tensor in model.inputs for size in tensor.shape[1:])
    trials = len(HEIGHTS) if open_image else 2
    graph = GraphWriter(model.name, opset)
    tensors = [
        _input(graph, name, tensor, trials, channels_first=channels_first)
        for name, tensor in zip(inputs, model.inputs, strict=True)
    ]
    converter = Converter(graph, trials, model.name)
    structure = keras.tree.pack_sequence_as(model._inputs_struct, tensors) if hasattr(model, "_inputs_struct") else tensors[0]
    with clean_up(model):
        try:
            result = converter.call(_call(model), structure)
        except NotConvertible as error:
            if "\n" in str(error):
                raise
            raise NotConvertible(f"{model.name} ({type(model).__name__})\n{error}") from error
        except (ValueError, ArithmeticError, LookupError) as error:
            if not open_image:
                raise
            text = str(error).strip().split("\n")[0][:300]
            raise NotConvertible(f"{model.name} ({type(model).__name__})\n{text}{ONE_SIZE}") from error
    _outputs(graph, result, {size: name for tensor in tensors for size, name in _open_sizes(tensor)})
    simplify(graph.ir)
    _short_names(graph.ir)
    version = max(number for first, number in IR_VERSIONS.items() if first <= opset)
    converter.forget_weights()
    return _serialized(ir.Model(graph.ir, ir_version=version, producer_name="kerascv_course"))


def _serialized(model: ir.Model) -> onnx.ModelProto:
    """The model as protobuf; its weights are given up one by one, so that no two copies of all of them are in memory."""
    weights = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    proto = ir.to_proto(model)
    for value in weights:
        tensor, value.const_value = value.const_value, None
        assert tensor is not None
        written = proto.graph.initializer.add(name=value.name, dims=tensor.shape.numpy(), data_type=tensor.dtype)
        data = tensor.tobytes()
        del tensor
        written.raw_data = data
    return proto


def _call(model: keras.Model) -> Any:
    def call(x: Any) -> Any:
        return (
            model.call(x, training=False)
            if not isinstance(model, keras.Sequential)
            else model._functional.call(x, training=False)
        )

    call.__self__ = model  # type: ignore[attr-defined]
    return call


def _input(graph: GraphWriter, name: str, tensor: Any, trials: int, *, channels_first: bool) -> GraphTensor:
    rank = len(tensor.shape)
    if tensor.dtype == "string":
        raise NotConvertible(
            f"{name} (InputLayer)\nstrings: turn them into numbers before the model, whose input they then are"
        )
    rows = {0: BATCHES, 1: HEIGHTS, 2: WIDTHS}
    words = {0: "batch", 1: "height", 2: "width"}
    shape = [
        Size(rows.get(i, tuple(n + 11 * i for n in HEIGHTS))[:trials]) if n is None else n for i, n in enumerate(tensor.shape)
    ]
    dims = [words.get(i, f"axis_{i}") if n is None else n for i, n in enumerate(tensor.shape)]
    axes = natural(rank)
    if channels_first and rank == 4:
        axes = (0, 3, 1, 2)
        dims = [dims[axis] for axis in axes]
    return graph.input(name, tuple(shape), tensor.dtype, axes=axes, dims=dims)


def _open_sizes(tensor: GraphTensor) -> list[tuple[Size, str]]:
    return [
        (size, name) for size, name in zip(tensor.shape, ("batch", "height", "width"), strict=False) if isinstance(size, Size)
    ]


def _outputs(graph: GraphWriter, result: Any, names: dict[Size, str]) -> None:
    """Make the tensors outputs of the file, in Keras's order of axes."""
    flat = keras.tree.flatten(result)
    if isinstance(result, dict):
        keys = list(result)
        flat = [result[key] for key in keys]
    else:
        keys = [f"output_{i}" for i in range(len(flat))] if len(flat) > 1 else ["output"]
    for key, item in zip(keys, flat, strict=True):
        tensor = graph.as_tensor(item) if isinstance(item, GraphConstant) else item
        plain = graph.as_tensor(graph.plain(tensor))
        value = plain.value
        if value.producer() is None or value.is_graph_output():
            value = graph.node("Identity", [value], shape=tensor.shape, dtype=tensor.dtype).value
        for other in [*graph.ir.initializers.values(), *(v for node in graph.ir for v in node.outputs)]:
            if other is not value and other.name == key:
                other.name = f"{key}/value"
        value.name = key
        value.shape = ir.Shape([names.get(size) if isinstance(size, Size) else size for size in tensor.shape])
        value.type = ir.TensorType(onnx_type(tensor.dtype))
        graph.ir.outputs.append(value)


def _short_names(graph: ir.Graph) -> None:
    """A layer's only node is called after the layer; of several, the one with the layer's weights."""
    by_layer: dict[str, list[ir.Node]] = {}
    for node in graph:
        layer, _, _ = (node.name or "").rpartition("/")
        by_layer.setdefault(layer, []).append(node)
    taken = {node.name for node in graph}
    for layer, nodes in by_layer.items():
        main = nodes if len(nodes) == 1 else [node for node in nodes if node.op_type in MAIN]
        if layer and len(main) == 1 and layer not in taken:
            main[0].name = layer


#: Operators that a layer is called after.
MAIN = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LSTM", "GRU", "RNN", "LayerNormalization", "Resize")
