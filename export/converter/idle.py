"""Takes nodes out of a graph of open sizes that never change anything there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from export.converter.graph import prune

__all__ = ["drop_idle_nodes"]

#: Heights and widths that the graph is run with: small and large, odd and even, with every remainder of 4.
_TRIALS = ((1, 2), (5, 7), (8, 11), (16, 4), (21, 33))

#: Operators that give their first input back where they do not change its shape.
_KEEPING = {"Slice", "Pad"}


def drop_idle_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out every Slice and Pad that leaves its tensor whole, whatever the size of the picture.

    Where sizes are open, tf2onnx puts a Slice and a Pad behind each transposed convolution, and some forty nodes that compute
    their bounds, to make its output the size that TensorFlow states. ONNX computes that size already. The graph is run on
    pictures of several sizes; a node whose result has its input's shape for all of them is idle (a Slice must step by 1, for one
    that steps back keeps the shape as well).

    Args:
        model: one uint8 or float32 image input (batch, height, width, channels), height and width open; it is left as it is.

    Returns:
        A new model, or the given one where there is nothing to take out.
    """
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type in _KEEPING and _steps_by_one(node, constants)]
    idle = _idle(model, found) if found else set()
    if not idle:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    instead: dict[str, str] = {}
    kept = []
    for node in result.graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
        if node.output[0] in idle and node.output[0] not in outputs:
            instead[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del result.graph.node[:]
    result.graph.node.extend(kept)
    prune(result.graph)
    return result


def _steps_by_one(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    if node.op_type != "Slice" or len(node.input) < 5 or not node.input[4]:
        return True
    return node.input[4] in constants and bool((constants[node.input[4]] == 1).all())


def _idle(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> set[str]:
    """Outputs of the nodes that keep their input's shape in every trial."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    # Shapes alone are compared: the tensors themselves may be large
    names = {}
    for node in nodes:
        for tensor in (node.input[0], node.output[0]):
            names[tensor] = f"shape of {tensor}"
    for tensor, shape in names.items():
        probe.graph.node.append(onnx.helper.make_node("Shape", [tensor], [shape]))
        probe.graph.output.append(onnx.helper.make_tensor_value_info(shape, onnx.TensorProto.INT64, [None]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    kind = np.uint8 if image.type == "tensor(uint8)" else np.float32
    idle = {node.output[0] for node in nodes}
    for height, width in _TRIALS:
        sizes = {"height": height, "width": width}
        pixels = np.zeros((1, *(sizes.get(size, size) for size in image.shape[1:])), kind)
        shapes = dict(zip(names, session.run(list(names.values()), {image.name: pixels}), strict=True))
        idle -= {node.output[0] for node in nodes if shapes[node.input[0]].tolist() != shapes[node.output[0]].tolist()}
    return idle
