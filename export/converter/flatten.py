"""Flattening of a channels-last picture before a dense layer, without moving the picture's values.

Keras flattens (height, width, channels). In ONNX, whose convolutions put channels first, that takes a Transpose of every picture.
It is equal to flatten (channels, height, width) and to reorder the rows of the dense layer's kernel once and for all.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from export.converter.graph import inputs_of, prune

__all__ = ["fold_flattening"]


def fold_flattening(model: onnx.ModelProto) -> onnx.ModelProto:
    """Reorder the kernels of dense layers that read a transposed and flattened picture, and flatten it as it is.

    Args:
        model: an ONNX model; it is left as it is.

    Returns:
        A new model, or the given one where there is nothing to fold.
    """
    producers = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    readers = Counter(name for node in model.graph.node for name in inputs_of(node))
    readers.update(output.name for output in model.graph.output)
    kernels = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    shapes = _shapes(model)
    flattens: dict[int, str] = {}
    for dense in model.graph.node:
        kernel = kernels.get(dense.input[1]) if dense.op_type in ("MatMul", "Gemm") else None
        transposed = any(attribute.name.startswith("trans") and attribute.i for attribute in dense.attribute)
        reshape = producers.get(dense.input[0])
        if kernel is None or transposed or reshape is None or model.graph.node[reshape].op_type != "Reshape":
            continue
        transpose = producers.get(model.graph.node[reshape].input[0])
        if transpose is None or not _to_channels_last(model.graph.node[transpose]):
            continue
        picture = model.graph.node[transpose].input[0]
        alone = all(readers[name] == 1 for name in (*model.graph.node[transpose].output, dense.input[0], kernel.name))
        rows = int(np.prod(shapes.get(picture, [0, 0])[1:]))
        if alone and len(shapes.get(dense.input[0], [])) == 2 and rows == kernel.dims[0]:
            flattens[reshape] = picture
            kernels[kernel.name] = _channels_first(kernel, shapes[picture][1:])
    if not flattens:
        return model
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    for tensor in folded.graph.initializer:
        tensor.CopyFrom(kernels.get(tensor.name, tensor))
    for index, picture in flattens.items():
        reshape = folded.graph.node[index]
        reshape.CopyFrom(onnx.helper.make_node("Flatten", [picture], list(reshape.output), name=reshape.name, axis=1))
    prune(folded.graph)
    return folded


def _to_channels_last(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 2, 3, 1]


def _channels_first(kernel: onnx.TensorProto, shape: list[int]) -> onnx.TensorProto:
    """A kernel's rows, which stand in the order of (height, width, channels), in that of (channels, height, width), the `shape`."""
    channels, height, width = shape
    values = numpy_helper.to_array(kernel)
    moved = values.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(values.shape)
    return numpy_helper.from_array(np.ascontiguousarray(moved), kernel.name)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shape of each tensor inside the graph, 0 where a size is not known."""
    inferred = onnx.shape_inference.infer_shapes(model)
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info}
