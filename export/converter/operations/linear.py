"""Matrix products, attention, and normalizations that use the values of one example."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from export.converter.graph import GraphConstant, GraphTensor, Operand, channels_first
from export.converter.native import Converter, operation
from export.converter.operations.elementwise import cast
from export.converter.operations.shapes import reshape
from export.converter.trace import NotConvertible, Size, Step

__all__ = ["dense"]


def dense(c: Converter, x: Operand, kernel: GraphConstant, bias: GraphConstant | None = None) -> GraphTensor:
    """``x · kernel + bias`` over the last axis of x; kernel (inputs, outputs)."""
    dtype = c.graph.result.dtype
    x = c.graph.as_tensor(cast(c, x, dtype))
    shape = c.graph.result.shape
    if x.rank > 2 and x.axes == channels_first(x.rank) and x.flattened is None:  # a convolution of one pixel
        array = kernel.array.T.reshape(kernel.shape[1], kernel.shape[0], *[1] * (x.rank - 2))
        inputs: list[Any] = [x, GraphConstant(np.ascontiguousarray(array), kernel.name), *([] if bias is None else [bias])]
        if x.rank <= 5:
            return c.graph.node("Conv", inputs, axes=x.axes, kernel_shape=[1] * (x.rank - 2))
    if x.flattened is not None:
        *space, channels = x.flattened
        array = np.moveaxis(kernel.array.reshape(*space, channels, -1), -2, 0).reshape(kernel.shape)
        kernel = GraphConstant(np.ascontiguousarray(array), kernel.name)
        x = GraphTensor(x.shape, x.dtype, x.value, x.axes)
    x = c.graph.as_tensor(c.graph.plain(x))
    if x.rank == 2 and bias is not None and dtype in ("float32", "float16", "bfloat16", "float64"):
        return c.graph.node("Gemm", [x, kernel, bias])
    y = c.graph.node("MatMul", [x, kernel], shape=shape)
    return y if bias is None else c.graph.node("Add", [y, bias], shape=shape)


@operation("Matmul", "Dot")
def _matmul(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    dtype = c.graph.result.dtype
    x1, x2 = cast(c, x1, dtype), cast(c, x2, dtype)
    if isinstance(x2, GraphConstant) and x2.rank == 2 and x1.rank >= 2:
        return dense(c, x1, x2)
    if step.kind == "Dot" and x1.rank > 2:
        raise NotConvertible("dot of tensors of three or more axes: use matmul or tensordot")
    return c.graph.node("MatMul", [c.graph.plain(x1), c.graph.plain(x2)])


@operation("Tensordot")
def _tensordot(c: Converter, step: Step, x1: Operand, x2: Operand) -> Any:
    axes = step.axes
    if isinstance(axes, int):
        left, right = list(range(x1.rank - axes, x1.rank)), list(range(axes))
    else:
        left, right = ([a % x.rank for a in np.atleast_1d(part)] for part, x in zip(axes, (x1, x2), strict=True))
    letters = "abcdefghijklmnopqrstuvwxyz"
    first = list(letters[: x1.rank])
    second = list(letters[x1.rank : x1.rank + x2.rank])
    for a, b in zip(left, right, strict=True):
        second[b] = first[a]
    rest = [s for i, s in enumerate(first) if i not in left] + [s for i, s in enumerate(second) if i not in right]
    return _einsum_node(c, f"{''.join(first)},{''.join(second)}->{''.join(rest)}", [x1, x2])


@operation("Einsum")
def _einsum(c: Converter, step: Step, *operands: Operand, **kwargs: Any) -> Any:
    return _einsum_node(c, step.subscripts.replace(" ", ""), list(operands))


def _einsum_node(c: Converter, subscripts: str, operands: list[Operand]) -> GraphTensor:
    dtype = c.graph.result.dtype
    operands = [cast(c, x, dtype) for x in operands]
    plain = len(operands) == 2 and "..." not in subscripts and "->" in subscripts
    if plain and isinstance(operands[1], GraphConstant):
        result = _as_dense(c, subscripts, operands[0], operands[1])
        if result is not None:
            return result
    shape = c.graph.result.shape
    if "->" in subscripts and "." not in subscripts:  # Keras states wrong shapes for some
        inputs, output = subscripts.split("->")
        letters = "".join(inputs.split(","))
        sizes = dict(zip(letters, (size for x in operands for size in x.shape), strict=True))
        shape = tuple(sizes[letter] for letter in output)
    return c.graph.node("Einsum", [c.graph.plain(x) for x in operands], shape=shape, equation=subscripts)


def _as_dense(c: Converter, subscripts: str, x: Operand, kernel: GraphConstant) -> GraphTensor | None:
    """An einsum with a weight as a matrix product, where it contracts the last axes and keeps the order of the others."""
    inputs, output = subscripts.split("->")
    left, right = inputs.split(",")
    summed = [s for s in left if s in right and s not in output]
    kept = [s for s in left if s not in summed]
    new = [s for s in right if s not in summed]
    fits = left == "".join(kept + summed) and output == "".join(kept + new) and summed and not set(kept) & set(new)
    if not fits or not kept or len(set(left)) != len(left) or any(s in left for s in new):
        return None
    order = [right.index(s) for s in summed + new]
    sizes = [kernel.shape[i] for i in order]
    rows, columns = math.prod(sizes[: len(summed)]), math.prod(sizes[len(summed) :])
    matrix = GraphConstant(np.ascontiguousarray(kernel.array.transpose(order).reshape(rows, columns)), kernel.name)
    x = c.graph.as_tensor(x)
    head = x.shape[: len(kept)]
    flat = x if len(summed) == 1 else reshape(c, x, (*head, rows))
    if flat.flattened is None:
        flat = c.graph.as_tensor(c.graph.plain(flat))
    y = c.graph.node("MatMul", [c.graph.plain(flat), matrix], shape=(*head, columns))
    return y if len(new) == 1 else reshape(c, y, (*head, *sizes[len(summed) :]))


@operation("DotProductAttention")
def _attention(c: Converter, step: Step, query: Operand, key: Operand, value: Operand, *rest: Any, **named: Any) -> Any:
    options = {**dict(zip(("bias", "mask", "scale"), rest, strict=False)), **named}
    bias, mask, scale = (options.get(name) for name in ("bias", "mask", "scale"))
    if step.attn_logits_soft_cap is not None:
        raise NotConvertible("attention with a soft cap")
    ops, causal, dtype = keras.ops, step.is_causal, c.graph.result.dtype
    extra = [item for item in (bias, mask) if item is not None]

    def compute(query: Any, key: Any, value: Any, *extra: Any) -> Any:  # all (batch, length, heads, depth)
        left = list(extra)
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        heads, groups = query.shape[2], key.shape[2]
        if heads != groups:
            key, value = (ops.repeat(x, heads // groups, axis=2) for x in (key, value))
        query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * factor
        if bias is not None:
            scores = scores + left.pop(0)
        if mask is not None:
            scores = ops.where(left.pop(0), scores, -1e9)
        if causal:
            allowed = np.tri(query.shape[2], key.shape[2], dtype=bool)
            scores = ops.where(allowed, scores, -1e9)
        return ops.transpose(ops.matmul(ops.softmax(scores), value), (0, 2, 1, 3))

    return c.call(compute, *(cast(c, x, dtype) for x in (query, key, value)), *extra)


@operation("LayerNorm", "RMSNorm")
def _layer_norm(c: Converter, step: Step, x: Operand, gamma: Any = None, beta: Any = None, scale: Any = None) -> Any:
    kind, dtype = step.kind, c.graph.result.dtype
    gamma = scale if gamma is None else gamma
    x = cast(c, x, dtype)
    axes = sorted(int(a) % x.rank for a in np.atleast_1d(step.axis))
    epsilon = float(step.epsilon if step.epsilon is not None else keras.config.epsilon())
    rms = kind == "RMSNorm" or step.rms_scaling
    sizes = [x.shape[a] for a in axes]
    last = axes == list(range(x.rank - len(axes), x.rank))
    if not rms and last and c.graph.opset >= 17 and not any(isinstance(size, Size) for size in sizes):
        # onnxruntime takes the variance from the mean of squares, which rounding spoils where the mean is large
        x = c.call(lambda x: x - keras.ops.mean(x, axis=axes, keepdims=True), x)
        weight = _as_shape(gamma, sizes, 1.0)
        inputs = [c.graph.plain(x), weight, *([] if beta is None else [_as_shape(beta, sizes, 0.0)])]
        return c.graph.node("LayerNormalization", inputs, axis=axes[0] - x.rank, epsilon=epsilon)
    shape = [x.shape[a] if a in axes else 1 for a in range(x.rank)]
    scales = [None if part is None else part.array.reshape(shape) for part in (gamma, beta)]

    def compute(x: Any) -> Any:
        ops = keras.ops
        if not rms:
            x = x - ops.mean(x, axis=axes, keepdims=True)
        y = x / ops.sqrt(ops.mean(x * x, axis=axes, keepdims=True) + epsilon)
        y = y if scales[0] is None else y * scales[0]
        return y if scales[1] is None else y + scales[1]

    return c.call(compute, x)


def _as_shape(part: Any, shape: Any, default: float) -> GraphConstant:
    if part is None:
        return GraphConstant(np.full(shape, default, np.float32))
    return GraphConstant(part.array.reshape(shape), part.name)


@operation("Det")
def _det(c: Converter, step: Step, x: Operand) -> Any:
    return c.graph.node("Det", [c.graph.plain(cast(c, x, c.graph.result.dtype))])
