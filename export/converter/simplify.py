"""Clean-up of a graph: what follows a convolution or matrix product goes into its weights, what has no effect goes away."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

__all__ = ["simplify"]

#: Operators whose weights (input 1) take up a factor and an offset for each output channel, and the axis of the channels in them.
_WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}


def simplify(graph: ir.Graph) -> None:
    """Fold batch normalization, factors, biases and padding into the nodes before or after them; remove what nothing uses.

    The names of outputs stay: a folded layer's tensor is the one of the last layer that was folded.
    """
    for node in list(graph):
        if node.graph is None:
            continue
        for fold in (_fold_normalization, _fold_scale, _fold_bias, _fold_pad, _keep_pad):
            if fold(graph, node):
                break
    model = ir.Model(graph, ir_version=10)
    for step in (common.IdentityEliminationPass(), common.CommonSubexpressionEliminationPass(), common.RemoveUnusedNodesPass()):
        step(model)
    _move_transpose_to_input(graph)
    for name in [name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()]:
        del graph.initializers[name]


def _array(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _only_reader(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _constant(graph: ir.Graph, like: ir.Value | None, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer; it takes the name of the weight that it replaces, unless others use that."""
    base = like.name if like is not None and like.name else name
    if like is not None and len(like.uses()) <= 1 and like.name in graph.initializers:
        graph.initializers.pop(like.name)  # type: ignore[arg-type]
    number, free = 0, base
    while free in graph.initializers:
        number += 1
        free = f"{base}_{number}"
    array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    value = ir.Value(
        name=free,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=free),
    )
    graph.register_initializer(value)
    return value


def _producer(value: ir.Value | None) -> ir.Node | None:
    """The convolution or matrix product that a value comes from, if nothing else reads it and its weights are constant."""
    node = None if value is None else value.producer()
    if node is None or value is None or node.op_type not in _WEIGHTED or not _only_reader(value):
        return None
    weights = _array(node.inputs[1])
    if weights is None or (node.op_type in ("Gemm", "MatMul") and weights.ndim != 2):
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and _array(node.inputs[2]) is None:
        return None
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return None
    return node


def _absorb(graph: ir.Graph, node: ir.Node, factor: np.ndarray | None, offset: np.ndarray | None, last: ir.Node) -> None:
    """Put ``· factor + offset`` (one value a channel) into a node's weights; its output takes the place of `last`'s."""
    axis = _WEIGHTED[node.op_type]
    weights = _array(node.inputs[1])
    assert weights is not None
    bias = _array(node.inputs[2]) if len(node.inputs) > 2 else None
    dtype = weights.dtype
    if factor is not None:
        shape = [1] * weights.ndim
        shape[axis] = -1
        scaled = (weights.astype(np.float64) * factor.reshape(shape)).astype(dtype)
        node.replace_input_with(1, _constant(graph, node.inputs[1], "weight", scaled))
    if bias is not None or offset is not None:
        total = np.zeros(weights.shape[axis]) if bias is None else bias.astype(np.float64).reshape(-1)
        total = total * (1 if factor is None else factor) + (0 if offset is None else offset)
        like = node.inputs[2] if len(node.inputs) > 2 else None
        value = _constant(graph, like, f"{(node.inputs[1].name or '').rpartition('/')[0]}/bias", total.astype(dtype))  # type: ignore[union-attr]
        if len(node.inputs) <= 2:
            node.resize_inputs(3)
        node.replace_input_with(2, value)
    _take_place(graph, node, last)


def _take_place(graph: ir.Graph, node: ir.Node, last: ir.Node) -> None:
    """Let a node give what `last`, which reads it, gave."""
    old, new = last.outputs[0], node.outputs[0]
    name = old.name
    new.type, new.shape = old.type or new.type, old.shape or new.shape  # an output of the graph must have them
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(last, safe=True)
    for value in last.inputs:
        if value is not None and value in graph.initializers.values() and not value.uses():
            graph.initializers.pop(value.name, None)  # type: ignore[arg-type]
    new.name, node.name = name, last.name if node.op_type == "MatMul" else node.name


def _fold_normalization(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type != "BatchNormalization":
        return False
    before = _producer(node.inputs[0])
    parts = [_array(value) for value in node.inputs[1:]]
    if before is None or any(part is None for part in parts) or (before.op_type == "Gemm" and not _is_matrix(before)):
        return False
    scale, offset, mean, variance = (part.astype(np.float64) for part in parts if part is not None)
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    if before.op_type == "MatMul":
        return False
    _absorb(graph, before, factor, offset - mean * factor, node)
    return True


def _is_matrix(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)


def _per_channel(node: ir.Node, constant: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """A constant as one value a channel of a node's output, where it is that."""
    if constant.size == 1:
        return np.full(channels, constant.reshape(()), np.float64)
    axis = 1 if node.op_type.startswith("Conv") else rank - 1
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if len(shape) != rank or shape[axis] != channels or constant.size != channels:
        return None
    return constant.astype(np.float64).reshape(-1)


def _with_constant(node: ir.Node) -> tuple[ir.Node, np.ndarray] | None:
    """The convolution or product that an addition or multiplication with a constant follows, and the constant a channel."""
    for place in (0, 1):
        constant = _array(node.inputs[1 - place])
        before = _producer(node.inputs[place])
        if constant is None or before is None:
            continue
        weights = _array(before.inputs[1])
        assert weights is not None
        rank = weights.ndim if before.op_type != "MatMul" else max(2, constant.ndim)
        values = _per_channel(before, constant, weights.shape[_WEIGHTED[before.op_type]], rank)
        if values is not None and str(constant.dtype) == str(weights.dtype):
            return before, values
    return None


def _fold_scale(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type != "Mul" or (found := _with_constant(node)) is None:
        return False
    before, factor = found
    if before.op_type == "MatMul":
        return False
    _absorb(graph, before, factor, None, node)
    return True


def _fold_bias(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type != "Add" or (found := _with_constant(node)) is None:
        return False
    before, offset = found
    if before.op_type == "MatMul":
        return False
    _absorb(graph, before, None, offset, node)
    return True


def _fold_pad(graph: ir.Graph, node: ir.Node) -> bool:
    """Padding with zeros before a convolution goes into its pads."""
    if node.op_type != "Conv" or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    source = node.inputs[0]
    pad = None if source is None else source.producer()
    if source is None or pad is None or pad.op_type != "Pad" or not _only_reader(source):
        return False
    mode = pad.attributes.get_string("mode", "constant")
    amounts = _array(pad.inputs[1])
    fill = _array(pad.inputs[2]) if len(pad.inputs) > 2 else np.float32(0)
    if mode != "constant" or amounts is None or fill is None or np.any(fill) or len(pad.inputs) > 3:
        return False
    half = len(amounts) // 2
    before, after = amounts[:half], amounts[half:]
    if any(before[:2]) or any(after[:2]) or (amounts < 0).any():
        return False
    own = node.attributes.get_ints("pads", [0] * (2 * (half - 2)))
    total = [int(a) + int(b) for a, b in zip([*before[2:], *after[2:]], own, strict=True)]
    node.attributes["pads"] = ir.AttrInt64s("pads", total)
    node.replace_input_with(0, pad.inputs[0])
    graph.remove(pad, safe=True)
    return True


def _keep_pad(graph: ir.Graph, node: ir.Node) -> bool:
    """Keep onnxruntime from fusing padding with zeros into a MaxPool, which pads with −∞: where all values are negative, the maximum
    is the padding's 0. It does so only where the padding is exactly 0.
    """
    source = node.inputs[0] if node.op_type == "MaxPool" else None
    pad = None if source is None else source.producer()
    if pad is None or pad.op_type != "Pad" or pad.attributes.get_string("mode", "constant") != "constant":
        return False
    fill = _array(pad.inputs[2]) if len(pad.inputs) > 2 else np.float32(0)
    if fill is None or np.any(fill):
        return False
    if len(pad.inputs) < 3:
        pad.resize_inputs(3)
    pad.replace_input_with(2, _constant(graph, None, f"{pad.name}/zero", np.asarray(TINY, np.float32)))
    return True


#: Next to zero: the smallest normal number of float32.
TINY = 1.1754944e-38

#: Operators of one image and constants that work on each value.
_PER_VALUE = {"Cast", "Mul", "Add", "Sub", "Div"}


def _move_transpose_to_input(graph: ir.Graph) -> None:
    """Put the Transpose of an image before the arithmetic of its preprocessing: it then moves uint8 in the place of float32."""
    for image in graph.inputs:
        chain: list[ir.Node] = []
        value = image
        while len(value.uses()) == 1 and not value.is_graph_output():
            node = next(iter(value.uses())).node
            others = [source for source in node.inputs if source is not value]
            if node.op_type == "Transpose":
                if chain and _constants_turn(chain):
                    _reorder(graph, image, chain, node)
                break
            if node.op_type not in _PER_VALUE or any(_array(other) is None for other in others):
                break
            chain.append(node)
            value = node.outputs[0]


def _constants_turn(chain: list[ir.Node]) -> bool:
    arrays = [_array(value) for node in chain for value in node.inputs if value is not None and value.const_value is not None]
    return all(array is not None and (array.size == 1 or array.ndim == 1) for array in arrays)


def _reorder(graph: ir.Graph, image: ir.Value, chain: list[ir.Node], transpose: ir.Node) -> None:
    order = transpose.attributes["perm"].as_ints()
    last, turned = chain[-1].outputs[0], transpose.outputs[0]
    name = last.name
    turned.replace_all_uses_with(last, replace_graph_outputs=True)
    transpose.replace_input_with(0, image)
    chain[0].replace_input_with(list(chain[0].inputs).index(image), turned)
    graph.remove(transpose)
    graph.insert_before(chain[0], transpose)
    last.name = name
    for node in chain:
        for place, value in enumerate(node.inputs):
            array = _array(value)
            if value is not None and array is not None and array.ndim == 1 and array.size > 1:
                shape = [1] * len(order)
                shape[order.index(len(order) - 1)] = -1
                node.replace_input_with(place, _constant(graph, value, "constant", array.reshape(shape)))
